//! What the observer is told beforehand.

use std::time::Duration;

/// Limits and wishes. Each limit has a counter in [`super::Stats`].
#[derive(Clone, Debug)]
pub struct Config {
    /// WebSockets followed at the same time; beyond, the one that was silent longest is evicted.
    pub max_connections: usize,
    /// TCP connections that are not, or not yet, known to be WebSockets; beyond, the one that was
    /// silent longest is forgotten.
    pub max_candidates: usize,
    /// A connection that is silent for so long counts as ended.
    pub idle_timeout: Duration,
    /// Payload bytes to keep of each frame for [`crate::proto::event::Frame::payload`]; 0 for none.
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
    /// Whether compressed messages are inflated.
    pub inflate: bool,
    /// Bytes of one message, inflated; a longer one is not inflated further.
    pub max_inflated: u64,
    /// Inflated bytes for each on the wire that one message may have, once it is no short one.
    pub max_inflate_ratio: u64,
    /// Directions of connections that may have a decompressor at the same time.
    pub max_inflaters: usize,
    /// Bytes of one direction in which frames are sought where it is not known where they begin, beyond as
    /// many as went by in frames.
    pub max_searched: u64,
    /// Events that somebody listens to.
    pub interest: Interest,
    /// Whether the bytes of one direction wait for those of the other that their sender had
    /// acknowledged: for sources that may have lost the order between the directions.
    pub causal_order: bool,
}

/// The kinds of events of which there is one a frame or more: what nobody listens to need not be
/// made. What they lead to (violations, round trips, sums) is found all the same, and all other kinds
/// are always reported.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Interest {
    /// [`crate::proto::event::EventKind::Frame`].
    pub frames: bool,
    /// [`crate::proto::event::EventKind::Progress`].
    pub progress: bool,
    /// [`crate::proto::event::EventKind::Message`].
    pub messages: bool,
}

impl Default for Interest {
    fn default() -> Self {
        Self {
            frames: true,
            progress: true,
            messages: true,
        }
    }
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
            inflate: false,
            max_inflated: 16 << 20,
            max_inflate_ratio: 100,
            max_inflaters: 4096,
            max_searched: 16 << 20,
            interest: Interest::default(),
            causal_order: false,
        }
    }
}
