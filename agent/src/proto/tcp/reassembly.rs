//! One direction of a connection: puts its bytes in order.
//!
//! Owns the positions of the stream, what is held back until missing bytes come, and the counters
//! of the direction. Why something that blocks the stream is given up is decided by the owner of
//! both directions.
//!
//! A *position* is the sequence number unwrapped to 64 bits: its low half is the sequence number.
//! The first one known gets the high half 1, so that a start that turns out to lie earlier is still
//! a positive number.

mod start;

pub(super) use start::Start;

use super::{
    Shared, StreamEvent,
    held::{Carrier, Held},
    oddities::Oddities,
    parts::{Parts, slice},
};
use crate::proto::{packed::Packer, segment::Segment, seq::SeqNumber, time::Timestamp};

/// Bytes further away than this, ahead or behind, do not belong to the connection: no window is
/// larger than 1 GiB (RFC 7323, section 2.3).
const REACH: u64 = 1 << 30;

/// How far a SYN may lie before, or the sequence number of a reset on either side of, the place
/// where it would be expected.
pub(super) const NEAR: u64 = 1 << 20;

/// Holds back what acknowledges more than was delivered of the other direction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gate(Option<SeqNumber>);

impl Gate {
    /// Lets everything pass.
    pub(super) const OPEN: Self = Self(None);

    /// Whether a segment that acknowledges `ack` may pass. What lies out of reach is no
    /// acknowledgement of this connection, and waiting for it would be in vain.
    fn is_open(self, ack: Option<SeqNumber>) -> bool {
        let (Some(delivered), Some(ack)) = (self.0, ack) else {
            return true;
        };
        let ahead = i64::from(ack.distance_from(delivered));
        ahead <= 0 || ahead.unsigned_abs() > REACH
    }
}

/// Where a stream delivers to.
pub(super) struct Output<'a> {
    pub(super) side: usize,
    pub(super) shared: &'a mut Shared,
    pub(super) deliver: &'a mut dyn FnMut(StreamEvent<'_>),
}

/// What is first in line.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Head {
    /// Nothing is held back.
    Empty,
    /// The next bytes, or the FIN, are there, and came at this time.
    Present { ts: Timestamp },
    /// The bytes up to `end` are missing, as is known since `noticed`. What is behind them came at
    /// `ts`.
    Hole {
        end: u64,
        noticed: Timestamp,
        ts: Timestamp,
    },
}

/// A FIN that was seen.
#[derive(Clone, Copy, Debug)]
struct Fin {
    at: u64,
    ts: Timestamp,
    ack: Option<SeqNumber>,
}

/// One direction.
#[derive(Debug, Default)]
pub(super) struct Stream {
    pub(super) start: Start,
    /// Whether any segment was seen.
    pub(super) seen: bool,
    /// The FIN was delivered.
    pub(super) done: bool,
    pub(super) oddities: Oddities,
    /// Position of offset 0.
    origin: u64,
    /// Position of the next byte to be delivered.
    next: u64,
    /// Behind the highest byte or FIN seen.
    highest: u64,
    /// The highest acknowledgement of the other side, as a number and (once there is a start) as a
    /// position.
    ack: Option<SeqNumber>,
    acked: u64,
    fin: Option<Fin>,
    /// Where an answer is expected to begin.
    answer: Option<SeqNumber>,
    /// From `next` on.
    held: Held,
    /// Segments out of reach that continue one another: where they begin and end.
    stray: Option<(SeqNumber, SeqNumber)>,
}

impl Stream {
    /// Whether nothing is under way: neither bytes nor ends wait for others.
    pub(super) fn is_quiet(&self) -> bool {
        self.held.is_empty() && self.fin.is_none() && self.stray.is_none() && !self.done
    }

    /// Writes or reads a stream that is quiet.
    pub(super) fn pack(&mut self, p: &mut Packer) {
        let Self {
            start,
            seen,
            done: _,
            oddities,
            origin,
            next,
            highest,
            ack,
            acked,
            fin: _,
            answer,
            held: _,
            stray: _,
        } = self;
        let mut number = *start as u8;
        p.byte(&mut number);
        *start = match number {
            1 => Start::Tentative,
            2 => Start::Midstream,
            3 => Start::Acknowledged,
            4 => Start::Syn,
            _ => Start::Unknown,
        };
        p.flag(seen);
        // All but the first are near where the stream is.
        p.number(next);
        let known = *next as u32;
        oddities.pack(known, p);
        p.near(origin, *next);
        p.near(highest, *next);
        // Where there is no acknowledgement, there is no position of one.
        p.option(ack, |p, ack| {
            p.near_short(&mut ack.0, known);
            p.near(acked, *next);
        });
        p.option(answer, |p, answer| p.near_short(&mut answer.0, known));
    }

    /// The position of `seq`: the one nearest to the next byte.
    fn position(&self, seq: SeqNumber) -> u64 {
        let ahead = seq.distance_from(SeqNumber(self.next as u32));
        self.next.wrapping_add_signed(i64::from(ahead))
    }

    /// Sequence number of the next byte to be delivered.
    pub(super) fn next_seq(&self) -> Option<SeqNumber> {
        (self.start != Start::Unknown).then_some(SeqNumber(self.next as u32))
    }

    /// Sequence number at a stream offset.
    pub(super) fn seq_at(&self, offset: u64) -> Option<SeqNumber> {
        let at = self.origin.wrapping_add(offset);
        (self.start != Start::Unknown).then_some(SeqNumber(at as u32))
    }

    /// The stream offset at which a sequence number is, the one nearest to the next byte.
    pub(super) fn offset_of(&self, seq: SeqNumber) -> Option<u64> {
        let offset = self.position(seq).checked_sub(self.origin);
        offset.filter(|_| self.start != Start::Unknown)
    }

    /// Makes the other direction wait for this one. There is nothing to wait for in a direction
    /// that was not seen, or is over.
    pub(super) fn gate(&self) -> Gate {
        Gate(self.next_seq().filter(|_| !self.done))
    }

    /// What the held-back pieces are charged.
    pub(super) fn buffered(&self) -> usize {
        self.held.charged()
    }

    /// Whether anything waits to be delivered.
    pub(super) fn is_waiting(&self) -> bool {
        !self.held.is_empty() || (self.fin.is_some() && !self.done)
    }

    /// Whether the receiver has acknowledged everything up to `end`; `None` if no acknowledgement
    /// was ever seen.
    pub(super) fn is_acked(&self, end: u64) -> Option<bool> {
        self.ack.map(|_| self.acked >= end)
    }

    /// The other side acknowledges `ack`.
    ///
    /// Where segments out of reach were acknowledged, so much was lost that the place is no longer
    /// known (or a forged segment would have been ignored by the receiver): the stream goes on
    /// behind them.
    pub(super) fn acknowledge(&mut self, ack: SeqNumber, ts: Timestamp, out: &mut Output<'_>) {
        if self.start == Start::Unknown {
            self.ack = Some(ack);
            return;
        }
        let at = self.position(ack);
        if at.abs_diff(self.next) <= REACH {
            if self.ack.is_none() || at > self.acked {
                (self.ack, self.acked) = (Some(ack), at);
            }
        } else if let Some((begin, end)) = self.stray
            && ack.distance_from(begin) > 0
            && ack.distance_from(end) <= 0
            && !self.done
        {
            while self.give_up(out) {
                self.deliver_ready(Gate::OPEN, out);
            }
            if !self.done {
                let lost = u64::from(end.0.wrapping_sub(self.next as u32));
                self.deliver_missing(self.next + lost, ts, true, out);
                self.highest = self.highest.max(self.next);
                self.stray = None;
                (self.ack, self.acked) = (Some(ack), self.position(ack));
            }
        }
    }

    /// Takes in a segment that is no reset; `seq` is that of its first payload byte. What it brings
    /// is delivered at once where it is next and `gate` lets it pass, else held back.
    pub(super) fn accept(
        &mut self,
        seq: SeqNumber,
        segment: &Segment<'_>,
        causal_order: bool,
        gate: Gate,
        out: &mut Output<'_>,
    ) {
        let flags = segment.flags;
        let is_empty = segment.len == 0 && !flags.fin();
        if is_empty {
            self.oddities.note_empty(segment);
        }
        let mut is_probe = segment.len <= 1 && !flags.fin() && !flags.syn();
        if is_probe && self.start != Start::Unknown {
            is_probe = self.oddities.note_probe(seq);
            if self.is_before_highest(seq) {
                return;
            }
        }
        self.anchor(seq, segment);
        if is_empty {
            return;
        }
        if !is_probe {
            self.oddities.note(seq, segment);
        }

        let begin = self.position(seq);
        let end = begin.saturating_add(u64::from(segment.len));
        if begin.abs_diff(self.next) > REACH || end.saturating_sub(self.next) > REACH {
            self.stray = match self.stray {
                Some((first, behind)) if behind == seq => Some((first, seq + segment.len)),
                _ => Some((seq, seq + segment.len)),
            };
            return;
        }
        self.stray = None;

        let carrier = Carrier {
            begin,
            end,
            ts: segment.ts,
            ack: segment.ack.filter(|_| causal_order),
        };
        if flags.fin() {
            self.note_fin(end, carrier);
        }
        if !self.held.is_empty() {
            self.held.compare(segment, self.next, carrier, out.shared);
        }
        let (limit, behind) = match self.fin {
            Some(fin) if fin.at <= end => (fin.at, fin.at + 1),
            _ => (end, end),
        };
        self.highest = self.highest.max(behind);
        for part in Parts::new(segment) {
            let part_begin = begin + u64::from(part.begin);
            let part_end = limit.min(begin + u64::from(part.end));
            let mut at = part_begin;
            while let Some((from, to)) = self.held.next_unseen(at.max(self.next), part_end) {
                let bytes = part
                    .bytes
                    .and_then(|b| slice(b, from - part_begin, to - part_begin));
                self.place(from, to, bytes, carrier, gate, out);
                at = to;
            }
        }
    }

    /// Whether `seq` is one before the highest number sent: where a keep-alive probe lies
    /// (RFC 9293, section 3.8.4).
    fn is_before_highest(&self, seq: SeqNumber) -> bool {
        self.start != Start::Unknown && seq.0.wrapping_add(1) == self.highest as u32
    }

    /// Remembers a FIN, unless it is an old one. Of several the first in line counts, as it would
    /// with the receiver.
    fn note_fin(&mut self, at: u64, carrier: Carrier) {
        let is_new = at >= self.next && !self.done && self.fin.is_none_or(|fin| at < fin.at);
        if is_new {
            self.fin = Some(Fin {
                at,
                ts: carrier.ts,
                ack: carrier.ack,
            });
        }
    }

    /// Delivers a range that was not seen before, or holds it back.
    fn place(
        &mut self,
        from: u64,
        to: u64,
        bytes: Option<&[u8]>,
        carrier: Carrier,
        gate: Gate,
        out: &mut Output<'_>,
    ) {
        self.deliver_ready(gate, out);
        let edges = (from == carrier.begin, to == carrier.end);
        if from == self.next && gate.is_open(carrier.ack) {
            match bytes {
                Some(bytes) => self.deliver_bytes(bytes, carrier.ts, edges, out),
                None => self.deliver_missing(to, carrier.ts, false, out),
            }
            return;
        }
        if self.done {
            return;
        }
        let fin = self.fin.map(|fin| fin.ts);
        self.held
            .insert((from, to), bytes, carrier, fin, out.shared);
    }

    /// What is first in line.
    pub(super) fn head(&self) -> Head {
        let piece = self.held.first();
        let piece = piece.map(|(at, piece)| (at, piece.ts, piece.noticed));
        let fin = self.fin.filter(|_| !self.done);
        let fin = fin.map(|fin| (fin.at, fin.ts, fin.ts));
        let first = match (piece, fin) {
            (Some(piece), Some(fin)) if fin.0 <= piece.0 => Some(fin),
            (Some(piece), _) => Some(piece),
            (None, fin) => fin,
        };
        match first {
            None => Head::Empty,
            Some((at, ts, _)) if at <= self.next => Head::Present { ts },
            Some((end, ts, noticed)) => Head::Hole { end, noticed, ts },
        }
    }

    /// Delivers what is next and may pass; says whether there was anything.
    pub(super) fn deliver_ready(&mut self, gate: Gate, out: &mut Output<'_>) -> bool {
        let before = (self.next, self.done);
        loop {
            if let Some(fin) = self.fin
                && !self.done
                && fin.at == self.next
            {
                if gate.is_open(fin.ack) {
                    self.done = true;
                    self.discard(out.shared);
                    let (side, ts) = (out.side, fin.ts);
                    (out.deliver)(StreamEvent::Fin { side, ts });
                }
                break;
            }
            match self.held.first() {
                Some((at, piece)) if at == self.next && gate.is_open(piece.ack) => {}
                _ => break,
            }
            let Some(piece) = self.held.pop(self.next, out.shared) else {
                break;
            };
            // A FIN may have come behind bytes that, it says, do not exist.
            let end = self.fin.map_or(piece.end, |fin| fin.at.min(piece.end));
            let bytes = piece.bytes.as_deref();
            match bytes.and_then(|bytes| slice(bytes, 0, end - self.next)) {
                Some(bytes) => {
                    let ends_segment = piece.ends_segment && end == piece.end;
                    let edges = (piece.starts_segment, ends_segment);
                    self.deliver_bytes(bytes, piece.ts, edges, out);
                }
                None => self.deliver_missing(end, piece.ts, false, out),
            }
        }
        before != (self.next, self.done)
    }

    /// Gives up what the stream waits for first: the missing bytes, or those of the other direction
    /// that should come before. False if it waits for nothing.
    ///
    /// True means that there is less to wait for: one acknowledgement less that holds something
    /// back, or one hole less. Nothing brings these back but another segment, so whoever calls this
    /// until it is false comes to an end.
    pub(super) fn give_up(&mut self, out: &mut Output<'_>) -> bool {
        match self.head() {
            Head::Empty => return false,
            Head::Present { .. } => {
                let waited = match &mut self.fin {
                    Some(fin) if fin.at == self.next => fin.ack.take().is_some(),
                    _ => self.held.release_first(),
                };
                // It was free to pass; what does not even then would never.
                if !waited && !self.deliver_ready(Gate::OPEN, out) {
                    self.discard(out.shared);
                    self.fin = None;
                }
            }
            Head::Hole { end, ts, .. } => {
                self.deliver_missing(end, ts, true, out);
            }
        }
        true
    }

    /// Drops what is held back.
    pub(super) fn discard(&mut self, shared: &mut Shared) {
        self.held.clear(shared);
    }

    fn deliver_bytes(
        &mut self,
        bytes: &[u8],
        ts: Timestamp,
        (starts_segment, ends_segment): (bool, bool),
        out: &mut Output<'_>,
    ) {
        let (side, offset) = (out.side, self.next - self.origin);
        self.next += bytes.len() as u64;
        (out.deliver)(StreamEvent::Bytes {
            side,
            ts,
            offset,
            bytes,
            starts_segment,
            ends_segment,
        });
    }

    fn deliver_missing(&mut self, to: u64, ts: Timestamp, lost: bool, out: &mut Output<'_>) {
        let (side, offset) = (out.side, self.next - self.origin);
        let len = to.saturating_sub(self.next);
        if len > 0 {
            self.next = to;
            (out.deliver)(StreamEvent::Missing {
                side,
                ts,
                offset,
                len,
                lost,
            });
        }
    }

    /// The next byte is that of `seq`, which is not behind.
    pub(super) fn jump(&mut self, seq: SeqNumber) {
        if self.start == Start::Unknown {
            self.begin(seq, Start::Midstream);
            return;
        }
        self.next += u64::from(seq.0.wrapping_sub(self.next as u32));
        self.highest = self.next;
        self.stray = None;
        self.fin = self.fin.filter(|fin| fin.at >= self.next);
        self.forget_acknowledgement();
    }

    /// Nothing is known of what the other side has received.
    pub(super) fn forget_acknowledgement(&mut self) {
        (self.ack, self.acked) = (None, 0);
    }

    /// The first `len` bytes were on the wire with the SYN, and were not kept.
    pub(super) fn skip(&mut self, len: u64, ts: Timestamp, out: &mut Output<'_>) {
        self.deliver_missing(self.next.saturating_add(len), ts, false, out);
        self.highest = self.highest.max(self.next);
    }
}
