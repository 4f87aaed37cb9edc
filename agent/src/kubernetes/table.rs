//! Addresses and who has them.

use std::{
    collections::{HashMap, VecDeque, hash_map},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::sink::peer::Peer;

/// How long an address keeps the name of who is gone: what ends now may be told a moment later.
const RETENTION: Duration = Duration::from_secs(10);

/// Objects of one kind by their uid, and by their addresses. At most as many as it was told.
#[derive(Debug)]
pub(super) struct Table {
    limit: usize,
    objects: HashMap<Box<str>, Object>,
    addresses: HashMap<IpAddr, Holder>,
    /// Addresses of those that are gone, oldest first.
    gone: VecDeque<(Instant, IpAddr)>,
    /// Counts lists.
    round: u32,
    exceeded: u64,
}

#[derive(Debug)]
struct Object {
    addresses: Box<[IpAddr]>,
    peer: Arc<Peer>,
    /// The list behind which it was last seen, or on which.
    round: u32,
}

#[derive(Debug)]
struct Holder {
    peer: Arc<Peer>,
    /// When it was found to be gone.
    gone: Option<Instant>,
}

impl Table {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            objects: HashMap::new(),
            addresses: HashMap::new(),
            gone: VecDeque::new(),
            round: 0,
            exceeded: 0,
        }
    }

    /// Who has an address, or had it until a moment ago.
    pub(super) fn find(&self, address: IpAddr, now: Instant) -> Option<&Arc<Peer>> {
        let holder = self.addresses.get(&address)?;
        let is_over = |gone| now.saturating_duration_since(gone) >= RETENTION;
        (!holder.gone.is_some_and(is_over)).then_some(&holder.peer)
    }

    /// How many objects it has.
    pub(super) fn len(&self) -> usize {
        self.objects.len()
    }

    /// How often there was no room.
    pub(super) fn exceeded(&self) -> u64 {
        self.exceeded
    }

    /// A new list begins.
    pub(super) fn begin(&mut self) {
        self.round = self.round.wrapping_add(1);
    }

    /// The list is over: what was not in it is gone.
    pub(super) fn end(&mut self, now: Instant) {
        let round = self.round;
        let missing = self
            .objects
            .iter()
            .filter(|(_, object)| object.round != round);
        let missing: Vec<Box<str>> = missing.map(|(uid, _)| uid.clone()).collect();
        for uid in missing {
            self.remove(&uid, now);
        }
    }

    /// Takes an object as it is now. True if an address has a name that it had not.
    pub(super) fn insert(
        &mut self,
        uid: &str,
        addresses: Vec<IpAddr>,
        peer: Peer,
        now: Instant,
    ) -> bool {
        self.expire(now);
        if addresses.is_empty() {
            self.remove(uid, now);
            return false;
        }
        let round = self.round;
        let is_full = self.objects.len() >= self.limit;
        let peer = match self.objects.get_mut(uid) {
            // The same to whoever has asked before, though an address may have come or gone.
            Some(object) if same(&object.peer, &peer) => {
                object.round = round;
                if *object.addresses == *addresses {
                    return false;
                }
                let before = std::mem::take(&mut object.addresses);
                let peer = Arc::clone(&object.peer);
                let lost = before.iter().filter(|before| !addresses.contains(before));
                self.retire(&peer, lost, now);
                peer
            }
            Some(_) => {
                self.remove(uid, now);
                Arc::new(peer)
            }
            None if is_full => {
                self.exceeded += 1;
                return false;
            }
            None => Arc::new(peer),
        };
        let mut named = false;
        for address in &addresses {
            match self.addresses.entry(*address) {
                // Whoever was started later has it: the end of the other is still to be told.
                hash_map::Entry::Occupied(held)
                    if held.get().gone.is_none() && held.get().peer.since > peer.since => {}
                entry => {
                    entry.insert_entry(Holder {
                        peer: Arc::clone(&peer),
                        gone: None,
                    });
                    named = true;
                }
            }
        }
        let object = Object {
            addresses: addresses.into(),
            peer,
            round,
        };
        self.objects.insert(uid.into(), object);
        named
    }

    /// An object is gone.
    pub(super) fn remove(&mut self, uid: &str, now: Instant) {
        if let Some(object) = self.objects.remove(uid) {
            object.peer.leave();
            self.retire(&object.peer, object.addresses.iter(), now);
        }
    }

    /// Addresses are no longer those of `peer`.
    fn retire<'a>(
        &mut self,
        peer: &Arc<Peer>,
        addresses: impl Iterator<Item = &'a IpAddr>,
        now: Instant,
    ) {
        for address in addresses {
            let Some(holder) = self.addresses.get_mut(address) else {
                continue;
            };
            // It may have been handed on.
            if Arc::ptr_eq(&holder.peer, peer) && holder.gone.is_none() {
                holder.gone = Some(now);
                self.gone.push_back((now, *address));
            }
        }
        // Of those that are gone no more are kept than of those that are there.
        while self.gone.len() > self.limit {
            self.forget_oldest();
        }
    }

    /// Forgets who has been gone for long.
    fn expire(&mut self, now: Instant) {
        let is_over = |since: Instant| now.saturating_duration_since(since) >= RETENTION;
        while self.gone.front().is_some_and(|(since, _)| is_over(*since)) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((since, address)) = self.gone.pop_front()
            && let hash_map::Entry::Occupied(held) = self.addresses.entry(address)
            && held.get().gone == Some(since)
        {
            held.remove();
        }
    }
}

fn same(a: &Peer, b: &Peer) -> bool {
    (&a.namespace, &a.name, &a.workload, a.since) == (&b.namespace, &b.name, &b.workload, b.since)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{proto::time::Timestamp, sink::peer::PeerKind};

    fn pod(name: &str, since: u64) -> Peer {
        let since = Timestamp(since * 1_000_000_000);
        Peer::new(PeerKind::Pod, "n", name, "", since)
    }

    fn at(text: &str) -> Vec<IpAddr> {
        text.split(' ').map(|text| text.parse().unwrap()).collect()
    }

    fn name(table: &Table, address: &str, now: Instant) -> Option<String> {
        let peer = table.find(address.parse().unwrap(), now)?;
        Some(peer.name.to_string())
    }

    #[test]
    fn every_address_of_a_pod_is_its_own_until_it_is_gone_and_a_moment_longer() {
        let (mut table, now) = (Table::new(10), Instant::now());
        assert!(table.insert("1", at("10.0.0.1 fd00::1"), pod("a", 1), now));
        assert!(!table.insert("1", at("10.0.0.1 fd00::1"), pod("a", 1), now));
        for address in ["10.0.0.1", "fd00::1"] {
            assert_eq!(name(&table, address, now).as_deref(), Some("a"));
        }
        table.remove("1", now);
        assert_eq!(table.len(), 0);
        let peer = table.find("10.0.0.1".parse().unwrap(), now).unwrap();
        assert!(peer.is_gone());
        assert_eq!(name(&table, "10.0.0.1", now + RETENTION), None);
        table.insert("2", at("10.0.0.2"), pod("b", 1), now + RETENTION);
        assert_eq!(table.addresses.len(), 1);
    }

    #[test]
    fn an_address_belongs_to_the_newest() {
        let (mut table, now) = (Table::new(10), Instant::now());
        table.insert("2", at("10.0.0.1"), pod("young", 2), now);
        // The list is in no order of time.
        assert!(!table.insert("1", at("10.0.0.1"), pod("old", 1), now));
        assert_eq!(name(&table, "10.0.0.1", now).as_deref(), Some("young"));
        table.remove("1", now);
        assert_eq!(name(&table, "10.0.0.1", now).as_deref(), Some("young"));
        // Of one that is gone anybody takes it.
        table.remove("2", now);
        table.insert("3", at("10.0.0.1"), pod("other", 0), now);
        assert_eq!(name(&table, "10.0.0.1", now).as_deref(), Some("other"));
        table.expire(now + RETENTION);
        assert_eq!(
            name(&table, "10.0.0.1", now + RETENTION).as_deref(),
            Some("other")
        );
    }

    #[test]
    fn a_pod_that_is_over_gives_its_address_back() {
        let (mut table, now) = (Table::new(10), Instant::now());
        table.insert("1", at("10.0.0.1"), pod("job", 1), now);
        table.insert("1", Vec::new(), pod("job", 1), now);
        assert_eq!(
            (table.len(), name(&table, "10.0.0.1", now + RETENTION)),
            (0, None)
        );
    }

    #[test]
    fn a_pod_stays_the_same_when_an_address_comes_or_goes() {
        let (mut table, now) = (Table::new(10), Instant::now());
        table.insert("1", at("10.0.0.1"), pod("a", 1), now);
        let peer = Arc::clone(table.find(at("10.0.0.1")[0], now).unwrap());
        assert!(table.insert("1", at("10.0.0.1 fd00::1"), pod("a", 1), now));
        table.insert("1", at("fd00::1"), pod("a", 1), now);
        assert!(Arc::ptr_eq(
            &peer,
            table.find(at("fd00::1")[0], now).unwrap()
        ));
        assert!(!peer.is_gone());
        assert_eq!(name(&table, "10.0.0.1", now + RETENTION), None);
    }

    #[test]
    fn what_a_new_list_does_not_have_is_gone() {
        let (mut table, now) = (Table::new(10), Instant::now());
        table.begin();
        table.insert("1", at("10.0.0.1"), pod("a", 1), now);
        table.insert("2", at("10.0.0.2"), pod("b", 1), now);
        table.end(now);
        table.begin();
        table.insert("2", at("10.0.0.2"), pod("b", 1), now);
        table.end(now);
        assert_eq!(table.len(), 1);
        let later = now + RETENTION;
        assert_eq!(name(&table, "10.0.0.1", later), None);
        assert_eq!(name(&table, "10.0.0.2", later).as_deref(), Some("b"));
    }

    #[test]
    fn there_is_room_for_so_many() {
        let (mut table, now) = (Table::new(2), Instant::now());
        for n in 1..=5u8 {
            let address = format!("10.0.0.{n}");
            table.insert(&n.to_string(), at(&address), pod("a", 1), now);
        }
        assert_eq!((table.len(), table.exceeded()), (2, 3));
        for round in 0..10u8 {
            table.remove(&round.to_string(), now);
            let address = format!("10.0.1.{round}");
            table.insert(&(round + 1).to_string(), at(&address), pod("a", 1), now);
        }
        assert!(table.addresses.len() <= 4, "{}", table.addresses.len());
    }
}
