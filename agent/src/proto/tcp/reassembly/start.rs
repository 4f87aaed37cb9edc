//! Where a stream begins, and whether a sequence number fits what is known of it.

use super::{NEAR, REACH, Stream};
use crate::proto::{segment::Segment, seq::SeqNumber};

/// How the start of the stream is known.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(in crate::proto::tcp) enum Start {
    /// It is not.
    #[default]
    Unknown,
    /// A segment without payload was seen in the middle of the connection. It may have been a
    /// keep-alive probe, which lies one byte before the next one sent.
    Tentative,
    /// A segment with payload, in the middle of the connection.
    Midstream,
    /// A SYN|ACK of the other side acknowledged it.
    Acknowledged,
    /// The SYN itself.
    Syn,
}

impl Stream {
    /// Offset 0 is at `seq`.
    pub(in crate::proto::tcp) fn begin(&mut self, seq: SeqNumber, start: Start) {
        let at = (1 << 32) | u64::from(seq.0);
        (self.origin, self.next, self.highest) = (at, at, at);
        self.start = start;
        self.oddities.begin(seq);
        if let Some(ack) = self.ack {
            let acked = self.position(ack);
            self.acked = if acked.abs_diff(at) <= REACH {
                acked
            } else {
                0
            };
        }
    }

    /// Moves offset 0 to `seq`, which is near, if nothing was delivered yet.
    pub(in crate::proto::tcp) fn move_start(&mut self, seq: SeqNumber, start: Start) {
        if !self.started() {
            self.origin = self.position(seq);
            self.next = self.origin;
            self.highest = self.highest.max(self.origin);
            self.start = start;
        }
    }

    /// The stream begins at `seq`, says a SYN|ACK of the other side.
    pub(in crate::proto::tcp) fn learn_start(&mut self, seq: SeqNumber) {
        match self.start {
            Start::Unknown => self.begin(seq, Start::Acknowledged),
            Start::Tentative | Start::Midstream if self.begins_at(seq) => {
                self.start = Start::Acknowledged;
            }
            Start::Tentative | Start::Midstream if self.may_begin_at(seq) => {
                self.move_start(seq, Start::Acknowledged);
            }
            _ => {}
        }
    }

    /// What comes next is an answer, and begins behind what was acknowledged.
    pub(in crate::proto::tcp) fn expect_answer(&mut self) {
        self.answer = self.ack;
    }

    /// Where the answer begins that comes next.
    pub(in crate::proto::tcp) fn expected_answer(&self) -> Option<SeqNumber> {
        self.answer
    }

    /// Whether anything was delivered.
    fn started(&self) -> bool {
        self.next != self.origin || self.done
    }

    /// Whether offset 0 is known to be at `seq`.
    pub(in crate::proto::tcp) fn begins_at(&self, seq: SeqNumber) -> bool {
        self.start != Start::Unknown && self.origin as u32 == seq.0
    }

    /// Whether the stream, of which no SYN was seen, may have begun at `seq`.
    pub(in crate::proto::tcp) fn may_begin_at(&self, seq: SeqNumber) -> bool {
        let at = self.position(seq);
        at <= self.origin && self.origin - at <= NEAR
    }

    /// Whether the start of the stream is known.
    pub(in crate::proto::tcp) fn start_known(&self) -> bool {
        matches!(self.start, Start::Acknowledged | Start::Syn)
    }

    /// Whether a SYN|ACK that acknowledges `ack` can be the answer to this direction's SYN.
    pub(in crate::proto::tcp) fn explains(&self, ack: SeqNumber) -> bool {
        let at = self.position(ack);
        match self.start {
            Start::Unknown => true,
            Start::Syn => (self.origin..=self.highest.min(self.origin + NEAR)).contains(&at),
            _ => at.abs_diff(self.origin) <= NEAR,
        }
    }

    /// Whether a SYN whose first byte would be `seq` fits what the other side has acknowledged.
    pub(in crate::proto::tcp) fn acknowledged_soon_after(&self, seq: SeqNumber) -> bool {
        self.ack
            .is_none_or(|ack| u64::from(ack.0.wrapping_sub(seq.0)) <= NEAR)
    }

    /// Whether `seq` is near anything that is known of the sender's position.
    pub(in crate::proto::tcp) fn is_near(&self, seq: SeqNumber) -> bool {
        let near = |other: u32| seq.distance_from(SeqNumber(other)).unsigned_abs() <= NEAR as u32;
        let positions = [self.next, self.highest];
        self.ack.is_some_and(|ack| near(ack.0))
            || (self.start != Start::Unknown && positions.iter().any(|&at| near(at as u32)))
    }

    /// Whether anything is known of the sender's position.
    pub(in crate::proto::tcp) fn is_placed(&self) -> bool {
        self.start != Start::Unknown || self.ack.is_some()
    }

    /// Sets the start where it is unknown, and corrects it where it was a guess.
    ///
    /// Without a SYN the first segment sets it, and of several that were reordered at that moment
    /// those that lie before the first one come too late, unless nothing was delivered yet.
    pub(in crate::proto::tcp) fn anchor(&mut self, seq: SeqNumber, segment: &Segment<'_>) {
        let is_empty = segment.len == 0 && !segment.flags.fin();
        let at = self.position(seq);
        let distance = at.abs_diff(self.origin);
        match self.start {
            Start::Unknown if is_empty => self.begin(seq, Start::Tentative),
            Start::Unknown => {
                let missing = |start: &SeqNumber| {
                    seq.distance_from(*start) > 0
                        && u64::from(seq.0.wrapping_sub(start.0)) <= NEAR
                        && !begins_answer(segment)
                };
                let start = self.answer.filter(missing).unwrap_or(seq);
                self.begin(start, Start::Midstream);
            }
            Start::Tentative if is_empty => {
                if at > self.origin && distance <= NEAR {
                    self.begin_at(at, Start::Tentative);
                }
            }
            // What gave the start was a keep-alive probe, came before data that it had been sent
            // behind, or was forged.
            Start::Tentative if at == self.origin + 1 || distance > NEAR || at < self.origin => {
                self.begin_at(at, Start::Midstream);
            }
            Start::Tentative => self.start = Start::Midstream,
            Start::Midstream if !is_empty && at < self.origin && distance <= NEAR => {
                self.move_start(seq, Start::Midstream);
            }
            Start::Midstream | Start::Acknowledged | Start::Syn => {}
        }
    }

    fn begin_at(&mut self, at: u64, start: Start) {
        (self.origin, self.next, self.highest) = (at, at, at);
        self.start = start;
        self.oddities.begin(SeqNumber(at as u32));
    }
}

/// Whether a segment may be the first of an answer: of what else is missing before it nobody says
/// anything.
fn begins_answer(segment: &Segment<'_>) -> bool {
    const BEGINNING: &[u8] = b"HTTP/";
    let bytes = segment
        .windows
        .first()
        .map_or(&[][..], |window| window.bytes);
    let len = bytes.len().min(BEGINNING.len());
    bytes.get(..len) == BEGINNING.get(..len)
}
