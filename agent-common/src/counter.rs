//! The per-CPU counters of the kernel program.

macro_rules! counters {
    ($($(#[$doc:meta])* $variant:ident = $group:ident $label:literal,)*) => {
        /// Index into the per-CPU counter array.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        #[repr(u32)]
        pub enum Counter {
            $($(#[$doc])* $variant,)*
        }

        impl Counter {
            /// Every counter, in the order of its index.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// What is counted, and for which family of counts.
            #[must_use]
            pub const fn group(self) -> Group {
                match self { $(Self::$variant => Group::$group,)* }
            }

            /// The value of the metric's label, or the counter's own name where its group has none.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }
        }
    };
}

/// Families of counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Group {
    /// Packets that passed a hook, by what was done with them. Each packet counts in one.
    Packets,
    /// Records that could not be delivered, by reason.
    Lost,
    /// Totals of their own.
    Total,
}

counters! {
    /// Not IP, or not TCP.
    NotTcp = Packets "not_tcp",
    /// An IP fragment other than the first: it has no TCP header.
    Fragment = Packets "fragment",
    /// Headers that are cut off, contradict themselves or nest deeper than is followed.
    Malformed = Packets "malformed",
    /// Neither port is watched.
    Unwatched = Packets "unwatched_port",
    /// TCP with nothing to look at: no payload and no change of state that matters.
    Empty = Packets "empty",
    /// Payload of a flow that is known to be no WebSocket.
    Ignored = Packets "ignored",
    /// Payload that was looked at and copied nothing.
    Undecided = Packets "undecided",
    /// Followed, and another hook accounts for this direction.
    NotOwner = Packets "not_owner",
    /// Nothing but payload of a frame, or bytes that were seen before.
    Passed = Packets "passed",
    /// Its frames were walked.
    Walked = Packets "walked",
    /// Set aside until what comes before it has been walked.
    SetAside = Packets "set_aside",
    /// Copied to the ring buffer, at least in part.
    Sampled = Packets "sampled",
    /// Should have been copied, and could not be at all.
    Missed = Packets "missed",
    /// The agent's heartbeat is stale: nothing was looked at.
    Inert = Packets "inert",

    /// The ring buffer was full.
    LostRingFull = Lost "ring_full",
    /// The packet's bytes could not be read.
    LostCopy = Lost "copy_failed",

    /// Records written to the ring buffer.
    Samples = Total "samples",
    /// Bytes in these records besides their headers.
    SampleBytes = Total "sample_bytes",
    /// Connections that began with a TLS ClientHello.
    Tls = Total "tls",
    /// WebSockets that could not be followed because the map of flows was full.
    FlowsFull = Total "flows_full",
    /// WebSockets that are copied whole because there was no tally for them.
    TalliesUsedUp = Total "tallies_used_up",
    /// Segments that were set aside and have been walked since.
    Drained = Total "drained",
    /// Times that a direction's place was lost.
    PlaceLost = Total "place_lost",
    /// Times that a direction was walked again which had been copied whole.
    Resumed = Total "resumed",
}

/// Number of counters.
pub const COUNTERS: u32 = Counter::ALL.len() as u32;
