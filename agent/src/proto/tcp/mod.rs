//! A TCP connection: what its segments carry, in order, in both directions.

use std::time::Duration;

use super::{event::TcpCounts, segment::Segment, seq::SeqNumber, time::Timestamp};

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
    },
    /// Payload bytes that were on the wire and are not available.
    Missing {
        /// Who sent them.
        side: usize,
        /// Time of the segment that carried them; of lost ones, of what made them be given up.
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
    /// Bytes that all directions of all connections together may hold back.
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
    /// Overlapping segments whose bytes differed.
    pub conflicts: u64,
    /// How often [`Limits::buffered_per_direction`] was exceeded.
    pub exceeded_per_direction: u64,
    /// How often [`Limits::buffered_total`] was exceeded.
    pub exceeded_total: u64,
}

/// Both directions of a TCP connection.
#[derive(Debug, Default)]
pub struct TcpFlow {}

impl TcpFlow {
    /// A connection of which nothing was seen.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in a segment sent by `side`.
    pub fn handle_segment(
        &mut self,
        _side: usize,
        _segment: &Segment<'_>,
        _limits: &Limits,
        _shared: &mut Shared,
        _deliver: &mut dyn FnMut(StreamEvent<'_>),
    ) {
    }

    /// Lets time pass: patience may have run out.
    pub fn handle_timeout(
        &mut self,
        _now: Timestamp,
        _limits: &Limits,
        _shared: &mut Shared,
        _deliver: &mut dyn FnMut(StreamEvent<'_>),
    ) {
    }

    /// When [`Self::handle_timeout`] has something to do at the earliest; `None` if nothing is
    /// held back.
    #[must_use]
    pub fn poll_timeout(&self, _limits: &Limits) -> Option<Timestamp> {
        None
    }

    /// Gives up all that is missing and delivers what is held back.
    pub fn flush(
        &mut self,
        _limits: &Limits,
        _shared: &mut Shared,
        _deliver: &mut dyn FnMut(StreamEvent<'_>),
    ) {
    }

    /// Drops what is held back. This or [`Self::flush`] must come before the flow is dropped, so
    /// that [`Shared::buffered`] stays right.
    pub fn discard(&mut self, _shared: &mut Shared) {}

    /// What was out of the ordinary in what `side` sent.
    #[must_use]
    pub fn counts(&self, _side: usize) -> TcpCounts {
        TcpCounts::default()
    }

    /// Whether the SYN of `side` was seen: the start of its stream is known.
    #[must_use]
    pub fn saw_syn(&self, _side: usize) -> bool {
        false
    }

    /// Whether any segment of `side` was seen.
    #[must_use]
    pub fn seen(&self, _side: usize) -> bool {
        false
    }

    /// Sequence number of the next byte of `side` to be delivered.
    #[must_use]
    pub fn next_seq(&self, _side: usize) -> Option<SeqNumber> {
        None
    }

    /// Sequence number of a stream offset of `side`.
    #[must_use]
    pub fn seq_at(&self, _side: usize, _offset: u64) -> Option<SeqNumber> {
        None
    }

    /// Whether it is over: both FINs were reached, or it was reset.
    #[must_use]
    pub fn finished(&self) -> bool {
        false
    }
}
