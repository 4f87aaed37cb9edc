//! The program's maps and read-only globals. `wstap_common::globals` says what each is for.

use aya_ebpf::{
    Global,
    bindings::{BPF_F_MMAPABLE, bpf_spin_lock},
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, ProgramArray, Queue, RingBuf},
    macros::btf_map,
};
use wstap_common::{
    counter::{COUNTERS as COUNTERS_LEN, Counter},
    flow::{Cursor, CursorKey, FlowKey, FlowState, Vantage, Verdict, Walked},
    globals::{HINTS as HINTS_LEN, PORT_WORDS, SLOTS as SLOTS_LEN},
    record::RecordHeader,
    tally::Tally,
};

use crate::{
    flow::Passage,
    head::Scratch,
    walk::{ENTRIES_LEN, SLOT_BYTES, WINDOW, Walk},
};

/// Sized by the agent at load.
#[btf_map]
pub static RECORDS: RingBuf<(), { 1 << 20 }> = RingBuf::new();

#[btf_map]
pub static COUNTERS: PerCpuArray<u64, { COUNTERS_LEN as usize }> = PerCpuArray::new();

/// Sized by the agent at load.
#[btf_map]
pub static CANDIDATES: LruHashMap<FlowKey, FlowState, 65_536> = LruHashMap::new();

/// How often a candidate has come or what is made of one has changed. What has been kept of `CANDIDATES` is void
/// then.
#[btf_map]
pub static CHANGES: Array<u64, 1> = Array::new();

/// The candidate at hand: one that is new, or is to be followed.
#[btf_map]
pub static CANDIDATE: PerCpuArray<FlowState, 1> = PerCpuArray::new();

/// Sized by the agent at load.
#[btf_map]
pub static FLOWS: HashMap<FlowKey, Flow, 65_536> = HashMap::new();

/// [`wstap_common::flow::Followed`] as the kernel wants it: with the type of its lock.
#[repr(C)]
pub struct Flow {
    pub lock: bpf_spin_lock,
    pub epoch: u32,
    pub last_seen: u64,
    pub isn: u32,
    pub tally: u32,
    pub flags: u32,
    pub closed_at: [u32; 2],
    pub muted: u32,
    pub directions: [Walked; 2],
}

const _: () = assert!(size_of::<Flow>() == size_of::<wstap_common::flow::Followed>());

/// By [`FlowKey::hint`]: 1 if a flow of this hint is followed, or was.
#[btf_map]
pub static HINTS: Array<u8, { HINTS_LEN as usize }> = Array::new();

/// What becomes an element of `FLOWS`: too large for the stack.
#[btf_map]
pub static NEW_FLOW: PerCpuArray<wstap_common::flow::Followed, 1> = PerCpuArray::new();

/// Sized by the agent at load.
#[btf_map]
pub static TALLIES: Array<Tally, 1024, { BPF_F_MMAPABLE as usize }> = Array::new();

/// Pairs of `TALLIES` that are no flow's. Filled by the agent.
#[btf_map]
pub static FREE_TALLIES: Queue<u32, 512> = Queue::new();

/// Segments that wait for one that is missing.
#[btf_map]
pub static SLOTS: Array<Slot, { SLOTS_LEN as usize }> = Array::new();

/// Those of `SLOTS` that are empty. Filled by the agent.
#[btf_map]
pub static FREE_SLOTS: Queue<u32, { SLOTS_LEN as usize }> = Queue::new();

/// Whose the slots are.
#[btf_map]
pub static SLOT_OWNERS: Array<u64, { SLOTS_LEN as usize }> = Array::new();

/// A segment that waits: the record that it would be, and room behind it for a window.
#[repr(C)]
pub struct Slot {
    /// The next slot of its direction, 0 if there is none.
    pub link: u64,
    pub header: RecordHeader,
    pub bytes: [u8; SLOT_BYTES as usize + WINDOW as usize],
}

#[btf_map]
pub static CURSORS: LruHashMap<CursorKey, Cursor, 16_384> = LruHashMap::new();

/// The walk at hand.
#[btf_map]
pub static WALK: PerCpuArray<Walk, 1> = PerCpuArray::new();

/// The record of the walk at hand.
#[btf_map]
pub static ENTRIES: PerCpuArray<[u8; ENTRIES_LEN], 1> = PerCpuArray::new();

#[btf_map]
pub static VERDICTS: LruHashMap<FlowKey, Verdict, 16_384> = LruHashMap::new();

#[btf_map]
pub static PORTS: Array<u64, { PORT_WORDS as usize }> = Array::new();

#[btf_map]
pub static HEARTBEAT: Array<u64, 1> = Array::new();

/// The body of all programs, which the agent puts here.
#[btf_map]
pub static BODY: ProgramArray<1> = ProgramArray::new();

/// Where the packet at hand is seen, if that is in another network namespace.
#[btf_map]
pub static VANTAGE: PerCpuArray<Vantage, 1> = PerCpuArray::new();

/// The segment at hand.
#[btf_map]
pub static PASSAGE: PerCpuArray<Passage, 1> = PerCpuArray::new();

/// The header of the records of the segment at hand.
#[btf_map]
pub static HEADER: PerCpuArray<RecordHeader, 1> = PerCpuArray::new();

/// Where a head is searched.
#[btf_map]
pub static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

#[unsafe(no_mangle)]
pub static SNAP_LENGTH: Global<u32> = Global::new(256 * 1024);

#[unsafe(no_mangle)]
pub static PORT_FILTER: Global<u32> = Global::new(0);

#[unsafe(no_mangle)]
pub static HEARTBEAT_TIMEOUT: Global<u64> = Global::new(0);

#[unsafe(no_mangle)]
pub static WAKEUP_BYTES: Global<u32> = Global::new(0);

#[unsafe(no_mangle)]
pub static CROWDED_BYTES: Global<u32> = Global::new(512 * 1024);

#[unsafe(no_mangle)]
pub static WALKS: Global<u32> = Global::new(1);

#[unsafe(no_mangle)]
pub static EACH_FRAME: Global<u32> = Global::new(0);

#[unsafe(no_mangle)]
pub static PREVIEW: Global<u32> = Global::new(0);

/// Adds `n` to a counter of this CPU.
#[inline(always)]
pub fn count(counter: Counter, n: u64) {
    count_at(counter as u32, n);
}

/// As [`count`], of a counter by its number.
#[inline(always)]
pub fn count_at(counter: u32, n: u64) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter) {
        // SAFETY: the pointer is to this CPU's own slot, and TC programs are not preempted by
        // others of the same CPU that count.
        unsafe { *value += n };
    }
}
