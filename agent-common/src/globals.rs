//! Names and meanings of the program's read-only globals, which the agent sets before it loads the
//! object. The verifier sees them as constants and removes what they switch off.

/// `u32`: payload bytes of one segment that are copied at most. A larger segment is copied up to
/// here; the record says how long it was.
pub const SNAP_LENGTH: &str = "SNAP_LENGTH";

/// `u32`: 1 if only the ports whose bit is set in the map [`PORTS_MAP`] are watched, 0 for all.
pub const PORT_FILTER: &str = "PORT_FILTER";

/// `u64`: nanoseconds after which the program goes inert when the agent's heartbeat has not moved
/// on. 0 where the attachment goes away with the agent by itself (TCX).
pub const HEARTBEAT_TIMEOUT: &str = "HEARTBEAT_TIMEOUT";

/// `u32`: available bytes in the ring buffer from which a record wakes the reader; below it the
/// reader's own timer finds the records. 0 wakes for every record that finds the reader asleep.
pub const WAKEUP_BYTES: &str = "WAKEUP_BYTES";

/// `u32`: available bytes in the ring buffer beyond which segments of followed flows are not copied whole
/// but lost: the rest is kept for handshakes, walks and endings.
pub const CROWDED_BYTES: &str = "CROWDED_BYTES";

/// `u32`: 1 if followed flows are walked from header to header, 0 if they are copied whole.
pub const WALKS: &str = "WALKS";

/// `u32`: 1 if every frame has an entry in a record, 0 if data frames are only counted.
pub const EACH_FRAME: &str = "EACH_FRAME";

/// `u32`: payload bytes of each data frame that are copied with its header where it has an entry, at
/// most [`MAX_PREVIEW`].
pub const PREVIEW: &str = "PREVIEW";
/// Largest [`PREVIEW`]: as much as a control frame has.
pub const MAX_PREVIEW: u32 = 125;
/// Frames of a direction that have an entry in any case, the first ones. So payload that is wrong
/// from the beginning shows.
pub const DETAILED: u32 = 16;

/// Ring buffer of [`crate::record`]s.
pub const RECORDS_MAP: &str = "RECORDS";
/// Per-CPU array of `u64`, indexed by [`crate::counter::Counter`].
pub const COUNTERS_MAP: &str = "COUNTERS";
/// LRU hash, [`crate::flow::FlowKey`] to [`crate::flow::FlowState`]: flows not known to be
/// WebSockets, with what has been decided about them.
pub const CANDIDATES_MAP: &str = "CANDIDATES";
/// Hash, [`crate::flow::FlowKey`] to [`crate::flow::FlowState`]: flows that are followed. The
/// agent deletes; nobody evicts.
pub const FLOWS_MAP: &str = "FLOWS";
/// LRU hash, [`crate::flow::FlowKey`] to [`crate::flow::Verdict`]: written by the agent, read by
/// the program for flows that wait for a decision.
pub const VERDICTS_MAP: &str = "VERDICTS";
/// Memory-mapped array of [`crate::tally::Tally`], two for each flow.
pub const TALLIES_MAP: &str = "TALLIES";
/// Queue of `u32`: pairs of tallies that are no flow's. The agent fills it.
pub const FREE_TALLIES_MAP: &str = "FREE_TALLIES";
/// Queue of `u32`: slots that are empty. The agent fills it with 1 to [`SLOTS`] less 1.
pub const FREE_SLOTS_MAP: &str = "FREE_SLOTS";
/// Array of `u64`, for each slot: whose segment waits in it, as [`slot_owner`] puts it; 0 where none
/// does.
pub const SLOT_OWNERS_MAP: &str = "SLOT_OWNERS";
/// LRU hash, [`crate::flow::CursorKey`] to [`crate::flow::Cursor`]: written by the agent, read by
/// the program for directions that are copied whole.
pub const CURSORS_MAP: &str = "CURSORS";
/// Array of 1024 `u64`: bit `port % 64` of element `port / 64` is set for a watched port.
pub const PORTS_MAP: &str = "PORTS";
/// Array of one `u64`: `CLOCK_MONOTONIC` nanoseconds of the agent's last sign of life.
pub const HEARTBEAT_MAP: &str = "HEARTBEAT";

/// Elements of the map [`PORTS_MAP`].
pub const PORT_WORDS: u32 = 65536 / 64;

/// Segments that may wait for one that is missing, in all, and one that is not used.
pub const SLOTS: u32 = 128;

/// A flow as [`SLOT_OWNERS_MAP`] names it: by its pair of tallies, and its epoch.
#[inline(always)]
#[must_use]
pub const fn slot_owner(pair: u32, epoch: u32) -> u64 {
    (pair as u64) << 32 | epoch as u64
}

/// Array of `u8`, indexed by [`crate::flow::FlowKey::hint`]: not 0 if a flow of this hint may be among
/// those that are followed. What it says is never relied upon.
pub const HINTS_MAP: &str = "HINTS";
/// Elements of the map [`HINTS_MAP`].
pub const HINTS: u32 = 1 << 14;

/// Program array of one element: [`BODY`].
pub const BODY_MAP: &str = "BODY";
/// The program that all others go on with.
pub const BODY: &str = "wstap_body";

/// Per-CPU array of one [`crate::flow::Vantage`]: where the packet at hand is seen, if that is in another
/// network namespace than the agent's.
pub const VANTAGE_MAP: &str = "VANTAGE";
/// Program array of four elements, [`INNER_PROGRAMS`] in their order.
pub const INNER_MAP: &str = "INNER";

/// Of the object that is loaded for an interface in another network namespace: array of one
/// [`crate::flow::Vantage`], that interface.
pub const HERE_MAP: &str = "HERE";

/// The programs that those of an interface in another network namespace go on with, as [`PROGRAMS`].
pub const INNER_PROGRAMS: [[&str; 2]; 2] = [
    ["inner_eth_in", "inner_eth_out"],
    ["inner_ip_in", "inner_ip_out"],
];

/// Where a program of [`INNER_PROGRAMS`] is in the map [`INNER_MAP`].
#[inline(always)]
#[must_use]
pub const fn inner(link: usize, direction: usize) -> u32 {
    (link * 2 + direction) as u32
}

/// The programs of the object: link layer and direction, as `PROGRAMS[link][direction]` with link 0
/// for Ethernet framing (`lo` too) and 1 for devices whose packets begin with the IP header;
/// direction 0 for ingress and 1 for egress. Names fit the kernel's 15 characters.
pub const PROGRAMS: [[&str; 2]; 2] = [
    ["wstap_eth_in", "wstap_eth_out"],
    ["wstap_ip_in", "wstap_ip_out"],
];
