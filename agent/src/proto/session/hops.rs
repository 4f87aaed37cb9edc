//! Which connections a proxy has joined. It passes a client's request on with the client's key, over a
//! TCP connection of its own, and answers when it is answered: so of two handshakes with one key the
//! one that lies within the other is the next hop's.

use std::collections::{BTreeMap, VecDeque};

use crate::proto::{event::Hop, time::Timestamp};

/// Handshakes that are remembered. From the answer to a proxy's request to the proxy's own answer it
/// is milliseconds.
const REMEMBERED: usize = 4096;

/// The last handshake that was answered with each key.
#[derive(Debug, Default)]
pub struct Hops {
    /// A tree: a hash table in which one comes for each that goes doubles for what has gone.
    answered: BTreeMap<String, (Timestamp, Hop)>,
    order: VecDeque<String>,
}

/// A handshake that was answered.
#[derive(Debug)]
pub struct Answered {
    /// `Sec-WebSocket-Key`.
    pub key: String,
    /// When its request began.
    pub began: Timestamp,
    /// Between whom.
    pub hop: Hop,
}

impl Hops {
    /// The hop behind `own`, which was asked for with `key` at `began` and is answered now.
    #[must_use]
    pub fn behind(&self, own: &Hop, key: &str, began: Timestamp) -> Option<Hop> {
        let (inner, hop) = self.answered.get(key)?;
        // Many a test client has but one key: what had been asked for before is another attempt, and
        // what the same server was asked for.
        let within = *inner >= began && hop.id != own.id && hop.server != own.server;
        within.then_some(*hop)
    }

    /// Remembers a handshake.
    pub fn remember(&mut self, answered: Answered) {
        let Answered { key, began, hop } = answered;
        if let Some(known) = self.answered.get_mut(&key) {
            *known = (began, hop);
            return;
        }
        if self.order.len() >= REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.answered.remove(&oldest);
        }
        self.order.push_back(key.clone());
        self.answered.insert(key, (began, hop));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::flow::ConnId;

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
            hop: hop(n, 9000),
        }
    }

    #[test]
    fn the_oldest_is_forgotten() {
        let mut hops = Hops::default();
        for n in 0..=REMEMBERED as u64 {
            hops.remember(answered(n, &n.to_string()));
        }
        let behind = |key: &str| hops.behind(&hop(u64::MAX, 80), key, Timestamp(0));
        assert_eq!(behind("0"), None);
        assert_eq!(behind("1").map(|hop| hop.id), Some(ConnId(1)));
        assert_eq!(
            (hops.answered.len(), hops.order.len()),
            (REMEMBERED, REMEMBERED)
        );
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
}
