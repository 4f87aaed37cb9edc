//! What the observer has counted about itself.

/// What the observer has counted about itself.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Stats {
    /// Segments handed in.
    pub segments: u64,
    /// WebSockets open now.
    pub active: u64,
    /// Connections of any kind that take memory now.
    pub tracked: u64,
    /// Bytes that are held back now, while it is waited for others: what
    /// [`super::Config::max_buffered`] bounds.
    pub held: u64,
    /// [`crate::proto::event::EventKind::Gap`]s.
    pub gaps: u64,
    /// Gaps after which frames were recognised again.
    pub resyncs: u64,
    /// Frames that were in the gaps, as far as can be told: at least one each.
    pub frames_lost: u64,
    /// Connections that began with a TLS ClientHello.
    pub unreadable_tls: u64,
    /// Overlapping segments whose bytes differed; the first were taken.
    pub conflicts: u64,
    /// Walks that were never handed over, as their numbers say: the detail of their frames.
    pub walks_lost: u64,
    /// How often each limit of [`super::Config`] was exceeded.
    pub exceeded: Exceeded,
}

/// How often a limit was exceeded.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Exceeded {
    /// [`super::Config::max_connections`].
    pub connections: u64,
    /// [`super::Config::max_candidates`].
    pub candidates: u64,
    /// [`super::Config::max_buffered_per_direction`].
    pub buffered_per_direction: u64,
    /// [`super::Config::max_buffered`].
    pub buffered: u64,
    /// [`super::Config::max_head`].
    pub head: u64,
    /// [`super::Config::max_pings`].
    pub pings: u64,
    /// Messages that were not inflated, or not to their end, because of [`super::Config::max_inflated`] or
    /// [`super::Config::max_inflate_ratio`]: their own, or that of one that they refer to.
    pub inflated: u64,
    /// [`super::Config::max_inflaters`]: messages that found none, and with context takeover none after
    /// them in their direction.
    pub inflaters: u64,
    /// Places at which frames were sought, given up because too many others of the direction looked
    /// better; and searches that used up [`super::Config::max_searched`].
    pub search: u64,
}
