//! The core's front: segments in, events and verdicts out.

use std::time::Duration;

use super::{event::Event, flow::FlowKey, segment::Segment, time::Timestamp};

/// Limits and wishes. Each limit has a counter in [`Stats`].
#[derive(Clone, Debug)]
pub struct Config {
    /// WebSockets followed at the same time; beyond, the one that was silent longest is evicted.
    pub max_connections: usize,
    /// TCP connections that are not, or not yet, known to be WebSockets; beyond, the one that was
    /// silent longest is forgotten.
    pub max_candidates: usize,
    /// A connection that is silent for so long counts as ended.
    pub idle_timeout: Duration,
    /// Payload bytes to keep of each frame for [`super::event::Frame::payload`]; 0 for none.
    pub preview: usize,
    /// Bytes that one direction may hold back while it waits for missing ones.
    pub max_buffered_per_direction: usize,
    /// Bytes that all directions together may hold back.
    pub max_buffered: usize,
    /// Bytes of an HTTP head; a longer one is no handshake.
    pub max_head: usize,
    /// How long missing bytes are waited for once their receiver has acknowledged them, or where
    /// no acknowledgements are seen.
    pub gap_patience: Duration,
    /// Pings in flight that are remembered in each direction.
    pub max_pings: usize,
    /// Whether the bytes of one direction wait for those of the other that their sender had
    /// acknowledged: for sources that may have lost the order between the directions.
    pub causal_order: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_connections: 100_000,
            max_candidates: 65_536,
            idle_timeout: Duration::from_secs(3600),
            preview: 0,
            max_buffered_per_direction: 4 << 20,
            max_buffered: 256 << 20,
            max_head: 64 << 10,
            gap_patience: Duration::from_secs(1),
            max_pings: 64,
            causal_order: false,
        }
    }
}

/// What the observer has counted about itself.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Stats {
    /// Segments handed in.
    pub segments: u64,
    /// WebSockets open now.
    pub active: u64,
    /// Connections of any kind that take memory now.
    pub tracked: u64,
    /// [`super::event::EventKind::Gap`]s.
    pub gaps: u64,
    /// Gaps after which frames were recognised again.
    pub resyncs: u64,
    /// Frames that were in the gaps, as far as can be told: at least one each.
    pub frames_lost: u64,
    /// Connections that began with a TLS ClientHello.
    pub unreadable_tls: u64,
    /// Overlapping segments whose bytes differed; the first were taken.
    pub conflicts: u64,
    /// How often each limit of [`Config`] was exceeded.
    pub exceeded: Exceeded,
}

/// How often a limit was exceeded.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Exceeded {
    /// [`Config::max_connections`].
    pub connections: u64,
    /// [`Config::max_candidates`].
    pub candidates: u64,
    /// [`Config::max_buffered_per_direction`].
    pub buffered_per_direction: u64,
    /// [`Config::max_buffered`].
    pub buffered: u64,
    /// [`Config::max_head`].
    pub head: u64,
    /// [`Config::max_pings`].
    pub pings: u64,
}

/// What a source should do about a flow. A capture file does nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Verdict {
    /// Which.
    pub flow: FlowKey,
    /// [`Segment::epoch`] of the incarnation that is meant.
    pub epoch: u32,
    /// What.
    pub decision: Decision,
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
    /// The WebSocket is over, or was given up: forget it.
    Ended,
}

/// Follows TCP connections and says what the WebSockets among them do.
#[derive(Debug)]
pub struct Observer {
    config: Config,
    stats: Stats,
}

impl Observer {
    /// An observer that has seen nothing.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            stats: Stats::default(),
        }
    }

    /// Takes in a segment.
    pub fn handle_segment(&mut self, _segment: &Segment<'_>) {
        self.stats.segments += u64::from(self.config.max_pings > 0);
    }

    /// Lets time pass where no segment does it: idle connections end, patience runs out.
    pub fn handle_timeout(&mut self, _now: Timestamp) {}

    /// Ends the observation: what is held back is given up, every open connection ends as `eof`.
    pub fn finish(&mut self, _now: Timestamp) {}

    /// The next event, in order.
    pub fn poll_event(&mut self) -> Option<Event> {
        None
    }

    /// The next verdict.
    pub fn poll_verdict(&mut self) -> Option<Verdict> {
        None
    }

    /// What was counted so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
    }
}
