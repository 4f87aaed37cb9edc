//! What the observer tells a source.

use crate::proto::flow::FlowKey;
#[cfg(doc)]
use crate::proto::segment::Segment;

/// What a source should do about a flow. A capture file does nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Verdict {
    /// Which.
    pub flow: FlowKey,
    /// [`Segment::epoch`] of the incarnation that is meant.
    pub epoch: u32,
    /// What.
    pub decision: Decision,
    /// The tally of either of its directions, 0 if it has none.
    pub tally: u32,
}

/// A decision on a flow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Decision {
    /// It is a WebSocket: follow it.
    Follow,
    /// It is none, or another account of one that is followed: copy nothing of it.
    Ignore,
    /// The upgrade was refused: copy nothing until the next is asked for.
    Rejected,
    /// The WebSocket is over, or was given up: copy nothing more of it.
    Ended,
    /// The WebSocket was silent for too long: forget it. Should it speak again, it is news.
    Idle,
}
