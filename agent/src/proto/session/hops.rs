//! Which connections a proxy has joined. It passes a client's request on with the client's key, over a
//! TCP connection of its own, and answers when it is answered: so of two handshakes with one key the
//! one that lies within the other is the next hop's.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    sync::Arc,
};

use crate::proto::{event::Hop, flow::ConnId, time::Timestamp};

/// Handshakes of either kind that are remembered, answered and not. From the answer to a proxy's request
/// to the proxy's own answer it is milliseconds.
const REMEMBERED: usize = 4096;

/// A request that [`Hops`] knows of.
pub type Ticket = u64;

/// Requests that wait for their answers, and the last handshake that was answered with each key.
#[derive(Debug, Default)]
pub struct Hops {
    /// By ticket, the oldest first.
    asked: BTreeMap<Ticket, Asked>,
    /// The same by key.
    tickets: BTreeSet<(Arc<str>, Ticket)>,
    last_ticket: Ticket,
    /// A tree: a hash table in which one comes for each that goes doubles for what has gone.
    answered: BTreeMap<String, Answered>,
    order: VecDeque<String>,
    /// The last connection number that was given to a connection before its handshake.
    last_reserved: u64,
}

/// A request that waits for its answer.
#[derive(Debug)]
struct Asked {
    key: Arc<str>,
    began: Timestamp,
    hop: Hop,
    /// Whether `hop` has its number yet.
    is_numbered: bool,
    next: Option<Hop>,
}

/// What has become of a request until it was decided.
#[derive(Clone, Copy, Debug, Default)]
pub struct Waited {
    /// The number that the connection was given.
    pub id: Option<ConnId>,
    /// Where the request was passed on.
    pub next: Option<Hop>,
}

/// A handshake that was answered.
#[derive(Clone, Debug)]
pub struct Answered {
    /// `Sec-WebSocket-Key`.
    pub key: String,
    /// When its request began.
    pub began: Timestamp,
    /// When its answer was complete.
    pub ended: Timestamp,
    /// Between whom.
    pub hop: Hop,
}

impl Hops {
    /// A request with `key` began at `began`, between the ends of `hop`, whose number counts where
    /// `is_numbered`.
    pub fn ask(&mut self, key: &str, began: Timestamp, hop: Hop, is_numbered: bool) -> Ticket {
        if self.asked.len() >= REMEMBERED
            && let Some((oldest, asked)) = self.asked.pop_first()
        {
            self.tickets.remove(&(asked.key, oldest));
        }
        self.last_ticket += 1;
        let key: Arc<str> = key.into();
        self.tickets.insert((Arc::clone(&key), self.last_ticket));
        let asked = Asked {
            key,
            began,
            hop,
            is_numbered,
            next: None,
        };
        self.asked.insert(self.last_ticket, asked);
        self.last_ticket
    }

    /// One of those between whom the request is, who was at `from`, is at `to` really.
    pub fn translate(&mut self, ticket: Ticket, from: SocketAddr, to: SocketAddr) {
        if let Some(asked) = self.asked.get_mut(&ticket) {
            for end in [&mut asked.hop.client, &mut asked.hop.server] {
                if *end == from {
                    *end = to;
                }
            }
        }
    }

    /// The request waits no longer.
    pub fn take(&mut self, ticket: Ticket) -> Waited {
        let Some(asked) = self.asked.remove(&ticket) else {
            return Waited::default();
        };
        self.tickets.remove(&(asked.key, ticket));
        Waited {
            id: asked.is_numbered.then_some(asked.hop.id),
            next: asked.next,
        }
    }

    /// The hop before `own`, which was asked for with `key` at `began` and is answered at `ended`: the
    /// one that was asked for last of those that wait. It is told of `own`, and has a number from now on.
    pub fn before(
        &mut self,
        own: &Hop,
        key: &str,
        [began, ended]: [Timestamp; 2],
        next_id: impl FnOnce() -> ConnId,
    ) -> Option<Hop> {
        let key: Arc<str> = key.into();
        let tickets = (Arc::clone(&key), 0)..=(Arc::clone(&key), Ticket::MAX);
        for (_, ticket) in self.tickets.range(tickets).rev() {
            let Some(asked) = self.asked.get_mut(ticket) else {
                continue;
            };
            if asked.next.is_some() || asked.began > began || !are_two(&asked.hop, own) {
                continue;
            }
            if !asked.is_numbered {
                asked.hop.id = next_id();
                asked.is_numbered = true;
                self.last_reserved = asked.hop.id.0;
            }
            asked.next = Some(*own);
            return Some(asked.hop);
        }
        // Where the proxy's answer was read before that to the proxy.
        let outer = self.answered.get(&*key)?;
        let within = outer.began <= began && ended <= outer.ended && are_two(&outer.hop, own);
        within.then_some(outer.hop)
    }

    /// The hop behind `own`, which was asked for with `key` at `began` and is answered now.
    #[must_use]
    pub fn behind(&self, own: &Hop, key: &str, began: Timestamp) -> Option<Hop> {
        let inner = self.answered.get(key)?;
        // Many a test client has but one key: what had been asked for before is another attempt.
        let within = inner.began >= began && are_two(&inner.hop, own);
        within.then_some(inner.hop)
    }

    /// Remembers a handshake.
    pub fn remember(&mut self, answered: Answered) {
        if let Some(known) = self.answered.get_mut(&answered.key) {
            *known = answered;
            return;
        }
        if self.order.len() >= REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.answered.remove(&oldest);
        }
        self.order.push_back(answered.key.clone());
        self.answered.insert(answered.key.clone(), answered);
    }

    /// The last connection number that was given to one whose handshake waits.
    #[must_use]
    pub fn last_reserved(&self) -> u64 {
        self.last_reserved
    }
}

/// Whether these can be two hops: what the same server was asked for is another attempt.
fn are_two(a: &Hop, b: &Hop) -> bool {
    a.server != b.server && a.id != b.id
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(id: u64, port: u16) -> Hop {
        Hop {
            id: ConnId(id),
            client: ([192, 0, 2, 1], 40_000).into(),
            server: ([192, 0, 2, 2], port).into(),
        }
    }

    fn answered(n: u64, key: &str) -> Answered {
        Answered {
            key: key.into(),
            began: Timestamp(n),
            ended: Timestamp(n + 5),
            hop: hop(n, 9000),
        }
    }

    fn no_number() -> ConnId {
        panic!("it has one")
    }

    #[test]
    fn the_oldest_is_forgotten() {
        let mut hops = Hops::default();
        for n in 0..=REMEMBERED as u64 {
            hops.remember(answered(n, &n.to_string()));
            hops.ask(&n.to_string(), Timestamp(n), hop(n, 80), true);
        }
        let behind = |key: &str| hops.behind(&hop(u64::MAX, 80), key, Timestamp(0));
        assert_eq!(behind("0"), None);
        assert_eq!(behind("1").map(|hop| hop.id), Some(ConnId(1)));
        assert_eq!(
            (hops.answered.len(), hops.order.len()),
            (REMEMBERED, REMEMBERED)
        );
        assert_eq!(
            (hops.asked.len(), hops.tickets.len()),
            (REMEMBERED, REMEMBERED)
        );
        let own = hop(u64::MAX, 9001);
        let at = [Timestamp(u64::MAX); 2];
        let mut before = |key: &str| hops.before(&own, key, at, no_number);
        assert_eq!(before("0"), None);
        assert_eq!(before("1").map(|hop| hop.id), Some(ConnId(1)));
    }

    #[test]
    fn a_key_that_is_used_again_takes_one_place() {
        let mut hops = Hops::default();
        for n in 0..10 {
            hops.remember(answered(n, "same"));
        }
        assert_eq!((hops.answered.len(), hops.order.len()), (1, 1));
        let behind = |own: Hop, began| hops.behind(&own, "same", Timestamp(began));
        assert_eq!(behind(hop(11, 80), 8), Some(hop(9, 9000)));
        assert_eq!(behind(hop(11, 80), 10), None, "asked for before");
        assert_eq!(behind(hop(11, 9000), 8), None, "of the same server");
        assert_eq!(behind(hop(9, 80), 8), None, "itself");
    }

    #[test]
    fn who_waits_is_told_and_has_a_number() {
        let mut hops = Hops::default();
        let outer = hops.ask("key", Timestamp(1), hop(0, 80), false);
        let middle = hops.ask("key", Timestamp(2), hop(7, 81), true);
        let later = hops.ask("key", Timestamp(9), hop(8, 82), true);
        let inner = hop(3, 83);
        let own = hops.before(&inner, "key", [4, 5].map(Timestamp), no_number);
        assert_eq!(own, Some(hop(7, 81)), "the last of those before");
        let own = hops.before(&hop(7, 81), "key", [2, 6].map(Timestamp), || ConnId(9));
        assert_eq!(own, Some(hop(9, 80)));
        assert_eq!(hops.last_reserved(), 9);
        let again = hops.before(&inner, "key", [4, 5].map(Timestamp), no_number);
        assert_eq!(again, None, "all that were there have their next hops");
        let waited = hops.take(middle);
        assert_eq!((waited.id, waited.next), (Some(ConnId(7)), Some(inner)));
        let waited = hops.take(outer);
        assert_eq!(
            (waited.id, waited.next),
            (Some(ConnId(9)), Some(hop(7, 81)))
        );
        assert_eq!(hops.take(outer).next, None);
        assert_eq!(hops.take(later).next, None);
        assert!(hops.asked.is_empty() && hops.tickets.is_empty());
    }

    #[test]
    fn an_answer_may_be_read_late() {
        let mut hops = Hops::default();
        hops.remember(answered(10, "key"));
        let mut before = |at: [u64; 2]| {
            let own = hop(20, 80);
            hops.before(&own, "key", at.map(Timestamp), no_number)
        };
        assert_eq!(before([9, 12]), None, "asked for before");
        assert_eq!(before([11, 14]), Some(hop(10, 9000)));
        assert_eq!(before([11, 16]), None, "answered later");
    }
}
