//! A TCP connection: what its segments carry, in order, in both directions (RFC 9293).
//!
//! Owns the order of bytes and ends, the memory that out-of-order segments take, and the question
//! which segments belong to one incarnation of a connection. Which connection a segment belongs to
//! is found out before, and what the bytes mean after it.

use std::time::Duration;

use self::reassembly::{Gate, Head, Output, Start, Stream};
use super::{event::TcpCounts, packed::Packer, segment::Segment, seq::SeqNumber, time::Timestamp};

mod held;
mod oddities;
mod parts;
mod reassembly;

/// What a TCP connection yields. `side` is 0 or 1: the index of the sender in
/// [`super::flow::FlowKey::ends`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum StreamEvent<'a> {
    /// Payload, in order.
    Bytes {
        /// Who sent it.
        side: usize,
        /// Time of the segment that carried it: its own arrival, even if it was held back.
        ts: Timestamp,
        /// Position of the first byte in the stream.
        offset: u64,
        /// The bytes, at least one.
        bytes: &'a [u8],
        /// The first byte is the first payload byte of a segment on the wire.
        starts_segment: bool,
        /// The last byte is the last payload byte of a segment on the wire.
        ends_segment: bool,
    },
    /// Payload bytes that were on the wire and are not available.
    Missing {
        /// Who sent them.
        side: usize,
        /// Time of the segment that carried them; of lost ones, of the one that showed the loss.
        ts: Timestamp,
        /// Position of the first byte in the stream.
        offset: u64,
        /// How many, at least one.
        len: u64,
        /// Never seen, as opposed to seen and not captured.
        lost: bool,
    },
    /// The sender is done: a FIN was reached in order.
    Fin {
        /// Who.
        side: usize,
        /// Time of the FIN.
        ts: Timestamp,
    },
    /// A reset that is credible.
    Reset {
        /// Who sent it.
        side: usize,
        /// Time of the RST.
        ts: Timestamp,
    },
    /// A new incarnation of the connection begins: whatever was before is over. Comes before
    /// anything of the new one.
    Restart {
        /// Who sent the SYN.
        side: usize,
        /// Time of the SYN.
        ts: Timestamp,
    },
}

/// Bounds of what is held back.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes that one direction may hold back.
    pub buffered_per_direction: usize,
    /// Bytes that all directions of all connections together may hold back, [`Shared::elsewhere`]
    /// included.
    pub buffered_total: usize,
    /// How long missing bytes are waited for once their receiver has acknowledged them.
    pub gap_patience: Duration,
    /// Whether bytes wait for those of the other direction that their sender had acknowledged.
    pub causal_order: bool,
}

/// What all connections share: the sum of what they hold back, and counters.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shared {
    /// Bytes held back by all connections together.
    pub buffered: usize,
    /// Bytes that others hold and that count for [`Limits::buffered_total`].
    pub elsewhere: usize,
    /// Overlapping segments whose bytes differed.
    pub conflicts: u64,
    /// How often [`Limits::buffered_per_direction`] was exceeded.
    pub exceeded_per_direction: u64,
    /// How often [`Limits::buffered_total`] was exceeded.
    pub exceeded_total: u64,
}

/// Both directions of a TCP connection.
///
/// What a single forged or stray segment says is not enough to end what is observed:
/// - A reset counts if its number is near what its sender has sent or the other side has
///   acknowledged; before there is such a number, if it acknowledges the other side's SYN or has no
///   acknowledgement at all.
/// - A SYN with another initial sequence number is the next incarnation at once where the present
///   one is over. Elsewhere it is only remembered, until the other side acknowledges it: exactly it
///   with a SYN|ACK, or with a later segment its first bytes, where that cannot mean the present
///   incarnation.
/// - A SYN|ACK that does not fit is remembered likewise, until the other side goes on at the number
///   that it acknowledges and acknowledges it in turn.
///
/// Payload of a SYN that was only remembered is not kept: [`StreamEvent::Missing`].
#[derive(Debug, Default)]
pub struct TcpFlow {
    streams: [Stream; 2],
    /// A SYN of what may be the next incarnation.
    pending: Option<PendingSyn>,
    reset: bool,
}

/// A SYN or SYN|ACK that awaits confirmation.
#[derive(Clone, Copy, Debug)]
struct PendingSyn {
    side: usize,
    /// Sequence number behind the SYN.
    start: SeqNumber,
    /// Payload that came with it.
    len: u32,
    ts: Timestamp,
    ack: Option<SeqNumber>,
}

/// How far behind a SYN the segments may lie that confirm it, where the first ones were not seen.
const CONFIRMED_WITHIN: u32 = 64 << 10;

impl PendingSyn {
    /// Whether `segment`, of the other side, can only come from one that has received this.
    fn is_confirmed_by(&self, segment: &Segment<'_>, sender: &Stream) -> bool {
        let Some(ack) = segment.ack else {
            return false;
        };
        let acked = ack.0.wrapping_sub(self.start.0);
        match self.ack {
            None if segment.flags.syn() => acked <= self.len,
            None => acked <= CONFIRMED_WITHIN && !sender.is_near(ack),
            Some(own) => {
                !segment.flags.syn()
                    && acked <= CONFIRMED_WITHIN
                    && segment.seq.0.wrapping_sub(own.0) <= CONFIRMED_WITHIN
            }
        }
    }
}

impl TcpFlow {
    /// A connection of which nothing was seen.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in a segment sent by `side`. `limits.gap_patience` runs by the segments' times.
    pub fn handle_segment(
        &mut self,
        side: usize,
        segment: &Segment<'_>,
        limits: &Limits,
        shared: &mut Shared,
        deliver: &mut dyn FnMut(StreamEvent<'_>),
    ) {
        let side = side & 1;
        if segment.flags.rst() {
            self.handle_reset(side, segment, shared, deliver);
            return;
        }
        self.confirm_pending(side, segment, shared, deliver);
        let mut first = segment.seq;
        if segment.flags.syn() {
            first = first + 1;
            if !self.accept_syn(side, segment, shared, deliver) {
                self.streams[side].seen = true;
                return;
            }
        }
        self.streams[side].seen = true;
        if self.reset {
            return;
        }
        let (_, peer) = self.pair(side);
        if let Some(ack) = segment.ack {
            let mut out = Output {
                side: 1 - side,
                shared,
                deliver,
            };
            peer.acknowledge(ack, segment.ts, &mut out);
            peer.oddities.acknowledge(ack, segment.window);
        }
        let gate = self.gate(side, limits);
        let mut out = Output {
            side,
            shared,
            deliver,
        };
        self.streams[side].accept(first, segment, limits.causal_order, gate, &mut out);
        self.settle(segment.ts, side, limits, shared, deliver);
    }

    /// Lets time pass: patience may have run out.
    pub fn handle_timeout(
        &mut self,
        now: Timestamp,
        limits: &Limits,
        shared: &mut Shared,
        deliver: &mut dyn FnMut(StreamEvent<'_>),
    ) {
        self.settle(now, 0, limits, shared, deliver);
    }

    /// When [`Self::handle_timeout`] has something to do at the earliest; `None` if nothing is
    /// held back, or what is missing was not acknowledged and may still come.
    #[must_use]
    pub fn poll_timeout(&self, limits: &Limits) -> Option<Timestamp> {
        self.next_expiry(limits).map(|(at, _)| at)
    }

    /// Gives up all that is missing and delivers what is held back.
    pub fn flush(
        &mut self,
        limits: &Limits,
        shared: &mut Shared,
        deliver: &mut dyn FnMut(StreamEvent<'_>),
    ) {
        let causal_order = limits.causal_order;
        self.give_up_all(causal_order, shared, deliver);
    }

    /// As [`Self::flush`], of what `side` has sent.
    pub fn flush_side(
        &mut self,
        side: usize,
        limits: &Limits,
        shared: &mut Shared,
        deliver: &mut dyn FnMut(StreamEvent<'_>),
    ) {
        let side = side & 1;
        loop {
            self.deliver_ready(limits.causal_order, shared, deliver);
            let is_empty = matches!(self.streams[side].head(), Head::Empty);
            if is_empty || !self.give_up(side, shared, deliver) {
                return;
            }
        }
    }

    /// Drops what is held back. This or [`Self::flush`] must come before the flow is dropped, so
    /// that [`Shared::buffered`] stays right.
    pub fn discard(&mut self, shared: &mut Shared) {
        for stream in &mut self.streams {
            stream.discard(shared);
        }
    }

    /// What was out of the ordinary in what `side` sent, since the last [`StreamEvent::Restart`].
    #[must_use]
    pub fn counts(&self, side: usize) -> TcpCounts {
        self.streams[side & 1].oddities.counts
    }

    /// Whether the start of the stream of `side` is known: its SYN was seen, or the SYN|ACK that
    /// answers it.
    #[must_use]
    pub fn saw_syn(&self, side: usize) -> bool {
        self.streams[side & 1].start_known()
    }

    /// Whether any segment of `side` was seen.
    #[must_use]
    pub fn seen(&self, side: usize) -> bool {
        self.streams[side & 1].seen
    }

    /// Sequence number of the next byte of `side` to be delivered.
    #[must_use]
    pub fn next_seq(&self, side: usize) -> Option<SeqNumber> {
        self.streams[side & 1].next_seq()
    }

    /// Sequence number of a stream offset of `side`, delivered or still to come.
    #[must_use]
    pub fn seq_at(&self, side: usize, offset: u64) -> Option<SeqNumber> {
        self.streams[side & 1].seq_at(offset)
    }

    /// The stream offset of `side` at which a sequence number is, unless it is before the stream.
    #[must_use]
    pub fn offset_of(&self, side: usize, seq: SeqNumber) -> Option<u64> {
        self.streams[side & 1].offset_of(seq)
    }

    /// Goes on at `seq` in the stream of `side`: what comes before was followed elsewhere, or is not
    /// waited for. What is held back is dropped.
    pub fn jump(&mut self, side: usize, seq: SeqNumber, shared: &mut Shared) {
        let stream = &mut self.streams[side & 1];
        stream.discard(shared);
        stream.jump(seq);
    }

    /// `side` has asked, and waits for an answer: that begins behind what it has acknowledged, even if
    /// the beginning does not come first.
    pub fn expect_answer(&mut self, side: usize) {
        self.streams[1 - (side & 1)].expect_answer();
    }

    /// Where the answer begins that `side` waits for.
    #[must_use]
    pub fn answer_to(&self, side: usize) -> Option<SeqNumber> {
        self.streams[1 - (side & 1)].expected_answer()
    }

    /// The other side of `side` is followed elsewhere, and its acknowledgements with it: none is
    /// waited for.
    pub fn forget_acknowledgement(&mut self, side: usize) {
        self.streams[side & 1].forget_acknowledgement();
    }

    /// Whether nothing is under way in either direction.
    #[must_use]
    pub(super) fn is_quiet(&self) -> bool {
        self.streams.iter().all(Stream::is_quiet) && self.pending.is_none() && !self.reset
    }

    /// Writes or reads a connection that is quiet.
    pub(super) fn pack(&mut self, p: &mut Packer) {
        for stream in &mut self.streams {
            stream.pack(p);
        }
    }

    /// Whether it is over: both FINs were reached, or it was reset.
    #[must_use]
    pub fn finished(&self) -> bool {
        self.reset || self.streams.iter().all(|stream| stream.done)
    }

    fn pair(&mut self, side: usize) -> (&mut Stream, &mut Stream) {
        let [a, b] = &mut self.streams;
        if side == 0 { (a, b) } else { (b, a) }
    }

    /// What holds back the segments of `side`.
    fn gate(&self, side: usize, limits: &Limits) -> Gate {
        if limits.causal_order {
            self.streams[1 - side].gate()
        } else {
            Gate::OPEN
        }
    }

    /// Delivers what has become ready, and gives up what has waited too long or takes too much
    /// memory; `side` is the one that may have grown.
    fn settle(
        &mut self,
        now: Timestamp,
        side: usize,
        limits: &Limits,
        shared: &mut Shared,
        deliver: &mut dyn FnMut(StreamEvent<'_>),
    ) {
        let mut exceeds = [false; 2];
        loop {
            self.deliver_ready(limits.causal_order, shared, deliver);
            if !self.streams.iter().any(Stream::is_waiting) {
                return;
            }
            let exceeds_own = self.streams[side].buffered() > limits.buffered_per_direction;
            let total = shared.buffered.saturating_add(shared.elsewhere);
            let exceeds_total = total > limits.buffered_total;
            let blocked = if exceeds_own || (exceeds_total && self.streams[side].buffered() > 0) {
                if exceeds_own && !std::mem::replace(&mut exceeds[0], true) {
                    shared.exceeded_per_direction = shared.exceeded_per_direction.saturating_add(1);
                }
                if exceeds_total && !std::mem::replace(&mut exceeds[1], true) {
                    shared.exceeded_total = shared.exceeded_total.saturating_add(1);
                }
                Some(side)
            } else {
                let expired = self.next_expiry(limits);
                expired.filter(|&(at, _)| now >= at).map(|(_, side)| side)
            };
            let Some(side) = blocked else { return };
            if !self.give_up(side, shared, deliver) {
                return;
            }
        }
    }

    /// Gives up what `side` waits for first. Whether there was anything.
    fn give_up(
        &mut self,
        side: usize,
        shared: &mut Shared,
        deliver: &mut dyn FnMut(StreamEvent<'_>),
    ) -> bool {
        let mut out = Output {
            side,
            shared,
            deliver,
        };
        self.streams[side].give_up(&mut out)
    }

    /// Which side's patience runs out first, and when.
    ///
    /// Missing bytes: some time after they were noticed, once they are acknowledged (they were
    /// received, and not seen here), or much later where no acknowledgement was ever seen. Bytes of
    /// the other direction that should come first: some time after the segment that acknowledges
    /// them. At the same time the missing bytes come first, as they may be what the other side
    /// waits for.
    fn next_expiry(&self, limits: &Limits) -> Option<(Timestamp, usize)> {
        let expiry = |side: usize| {
            let stream = &self.streams[side];
            match stream.head() {
                Head::Empty => None,
                Head::Present { ts } => Some((ts.saturating_add(limits.gap_patience), true, side)),
                Head::Hole { end, noticed, .. } => {
                    let patience = match stream.is_acked(end) {
                        Some(true) => limits.gap_patience,
                        Some(false) => return None,
                        None => limits.gap_patience.saturating_mul(5),
                    };
                    Some((noticed.saturating_add(patience), false, side))
                }
            }
        };
        let first = expiry(0).into_iter().chain(expiry(1)).min();
        first.map(|(at, _, side)| (at, side))
    }

    /// Delivers what is next in both directions, each as far as the other lets it.
    fn deliver_ready(
        &mut self,
        causal_order: bool,
        shared: &mut Shared,
        deliver: &mut dyn FnMut(StreamEvent<'_>),
    ) {
        loop {
            let mut progress = false;
            for side in 0..2 {
                let (own, peer) = self.pair(side);
                if own.is_waiting() {
                    let gate = if causal_order {
                        peer.gate()
                    } else {
                        Gate::OPEN
                    };
                    let mut out = Output {
                        side,
                        shared,
                        deliver,
                    };
                    progress |= own.deliver_ready(gate, &mut out);
                }
            }
            if !progress {
                return;
            }
        }
    }

    fn give_up_all(
        &mut self,
        causal_order: bool,
        shared: &mut Shared,
        deliver: &mut dyn FnMut(StreamEvent<'_>),
    ) {
        loop {
            self.deliver_ready(causal_order, shared, deliver);
            // What is missing goes first, so that what waits for it keeps its place.
            let since = |side: usize| match self.streams[side].head() {
                Head::Empty => None,
                Head::Present { ts } => Some((true, ts, side)),
                Head::Hole { noticed, .. } => Some((false, noticed, side)),
            };
            let Some((_, _, side)) = since(0).into_iter().chain(since(1)).min() else {
                return;
            };
            if !self.give_up(side, shared, deliver) {
                return;
            }
        }
    }

    fn handle_reset(
        &mut self,
        side: usize,
        segment: &Segment<'_>,
        shared: &mut Shared,
        deliver: &mut dyn FnMut(StreamEvent<'_>),
    ) {
        let (own, peer) = self.pair(side);
        own.seen = true;
        let answers_syn = || match segment.ack {
            Some(ack) => peer.start == Start::Unknown || peer.explains(ack),
            None => true,
        };
        let is_credible = own.is_near(segment.seq) || (!own.is_placed() && answers_syn());
        if is_credible && !self.reset {
            self.give_up_all(true, shared, deliver);
            self.reset = true;
            let ts = segment.ts;
            deliver(StreamEvent::Reset { side, ts });
        }
    }

    /// Begins the next incarnation where `segment` confirms its SYN.
    fn confirm_pending(
        &mut self,
        side: usize,
        segment: &Segment<'_>,
        shared: &mut Shared,
        deliver: &mut dyn FnMut(StreamEvent<'_>),
    ) {
        let Some(pending) = self.pending else { return };
        let sender = &self.streams[pending.side];
        if pending.side == side || !pending.is_confirmed_by(segment, sender) {
            return;
        }
        self.restart(pending.side, pending.ts, shared, deliver);
        let (peer, own) = self.pair(side);
        own.seen = true;
        own.begin(pending.start, Start::Syn);
        if let Some(ack) = pending.ack {
            peer.begin(ack, Start::Acknowledged);
        }
        let acked = segment
            .ack
            .map_or(0, |ack| ack.0.wrapping_sub(pending.start.0));
        let side = pending.side;
        let mut out = Output {
            side,
            shared,
            deliver,
        };
        own.skip(u64::from(acked.min(pending.len)), pending.ts, &mut out);
    }

    /// Takes in a SYN; false if it is not one of this incarnation, nor begins the next one.
    fn accept_syn(
        &mut self,
        side: usize,
        segment: &Segment<'_>,
        shared: &mut Shared,
        deliver: &mut dyn FnMut(StreamEvent<'_>),
    ) -> bool {
        let start = segment.seq + 1;
        if self.is_over(side) && !self.streams[side].begins_at(start) {
            self.restart(side, segment.ts, shared, deliver);
        }
        let (own, peer) = self.pair(side);
        let answers = segment.ack.is_none_or(|ack| peer.explains(ack));
        match own.start {
            _ if own.begins_at(start) => own.start = Start::Syn,
            Start::Unknown if answers && own.acknowledged_soon_after(start) => {
                own.begin(start, Start::Syn);
            }
            // It was overtaken by what it begins.
            Start::Tentative | Start::Midstream | Start::Acknowledged
                if answers && own.may_begin_at(start) =>
            {
                own.move_start(start, Start::Syn);
            }
            _ => {
                let pending = PendingSyn {
                    side,
                    start,
                    len: segment.len,
                    ts: segment.ts,
                    ack: segment.ack,
                };
                let is_known = |known: &PendingSyn| (known.side, known.start) == (side, start);
                if !self.pending.as_ref().is_some_and(is_known) {
                    self.pending = Some(pending);
                }
                return false;
            }
        }
        if let Some(ack) = segment.ack {
            peer.learn_start(ack);
        }
        true
    }

    /// Whether nothing more is expected: it is finished, or the one side that can be seen is.
    fn is_over(&self, side: usize) -> bool {
        self.finished() || (self.streams[side].done && !self.streams[1 - side].seen)
    }

    fn restart(
        &mut self,
        side: usize,
        ts: Timestamp,
        shared: &mut Shared,
        deliver: &mut dyn FnMut(StreamEvent<'_>),
    ) {
        self.give_up_all(true, shared, deliver);
        *self = Self::default();
        deliver(StreamEvent::Restart { side, ts });
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
