//! Pings that wait for their pongs (RFC 6455, sections 5.5.2 and 5.5.3).

use std::{
    collections::VecDeque,
    hash::{DefaultHasher, Hasher},
    time::Duration,
};

use crate::proto::{packed::Packer, time::Timestamp};

/// What identifies a ping: its payload, or its length where that was not captured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Payload {
    len: u64,
    /// Payloads are compared by hash: 125 bytes a ping in flight would add up.
    hash: Option<u64>,
}

impl Payload {
    /// Of a frame with a payload of `len` bytes; `bytes` are all of them, if they were captured.
    pub fn new(len: u64, bytes: Option<&[u8]>) -> Self {
        let hash = bytes.map(|bytes| {
            let mut hasher = DefaultHasher::new();
            hasher.write(bytes);
            hasher.finish()
        });
        Self { len, hash }
    }

    fn matches(self, other: Self) -> bool {
        self.len == other.len
            && match (self.hash, other.hash) {
                (Some(a), Some(b)) => a == b,
                _ => true,
            }
    }
}

/// The pings of one direction that no pong has answered yet.
#[derive(Debug, Default)]
pub(super) struct Pings {
    in_flight: VecDeque<(Timestamp, Payload)>,
    forgotten: u64,
}

impl Pings {
    /// Remembers a ping. Whether an earlier one had to be forgotten, because `max` are remembered.
    pub fn sent(&mut self, ts: Timestamp, payload: Payload, max: usize) -> bool {
        self.in_flight.push_back((ts, payload));
        if self.in_flight.len() <= max {
            return false;
        }
        self.in_flight.pop_front();
        self.forgotten += 1;
        true
    }

    /// Whether a pong with this payload would answer one.
    pub fn awaits(&self, payload: Payload) -> bool {
        self.in_flight.iter().any(|(_, sent)| sent.matches(payload))
    }

    /// A pong came from the other side: the time since its ping, if it answers one. An endpoint may
    /// leave earlier pings unanswered.
    pub fn answered(&mut self, ts: Timestamp, payload: Payload) -> Option<Duration> {
        let at = (self.in_flight.iter()).position(|(_, sent)| sent.matches(payload))?;
        let (sent, _) = self.in_flight.remove(at)?;
        Some(ts.saturating_since(sent))
    }

    /// Whether none is in flight.
    pub fn is_quiet(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Writes or reads what is known where none is in flight.
    pub fn pack(&mut self, p: &mut Packer) {
        p.number(&mut self.forgotten);
    }

    /// Pings that no pong answered so far.
    pub fn unanswered(&self) -> u64 {
        self.in_flight.len() as u64 + self.forgotten
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pongs_answer_by_payload() {
        let payload = |bytes: &[u8]| Payload::new(bytes.len() as u64, Some(bytes));
        let mut pings = Pings::default();
        for (ts, bytes) in [(1, b"a"), (2, b"b"), (3, b"b"), (4, b"c")] {
            assert!(!pings.sent(Timestamp(ts), payload(bytes), 4));
        }
        let rtt = |nanos| Some(Duration::from_nanos(nanos));
        assert_eq!(pings.answered(Timestamp(12), payload(b"b")), rtt(10));
        assert_eq!(pings.answered(Timestamp(13), payload(b"x")), None);
        assert_eq!(pings.answered(Timestamp(13), payload(b"b")), rtt(10));
        // Not captured: the length decides, oldest first.
        assert_eq!(
            pings.answered(Timestamp(11), Payload::new(1, None)),
            rtt(10)
        );
        assert_eq!(pings.answered(Timestamp(11), Payload::new(2, None)), None);
        assert_eq!(pings.unanswered(), 1);
    }

    #[test]
    fn only_so_many_are_remembered() {
        let mut pings = Pings::default();
        for ts in 0..5 {
            let forgot = pings.sent(Timestamp(ts), Payload::new(0, Some(b"")), 2);
            assert_eq!(forgot, ts >= 2);
        }
        assert_eq!(pings.unanswered(), 5);
        assert!(
            pings
                .answered(Timestamp(9), Payload::new(0, Some(b"")))
                .is_some()
        );
        assert_eq!(pings.unanswered(), 4);
    }
}
