//! The program's maps and read-only globals. `wstap_common::globals` says what each is for.

use aya_ebpf::{
    Global,
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
    macros::btf_map,
};
use wstap_common::{
    counter::{COUNTERS as COUNTERS_LEN, Counter},
    flow::{FlowKey, FlowState, Verdict},
    globals::PORT_WORDS,
    record::RecordHeader,
};

use crate::{flow::Passage, head::SCAN};

/// Sized by the agent at load.
#[btf_map]
pub static RECORDS: RingBuf<(), { 1 << 20 }> = RingBuf::new();

#[btf_map]
pub static COUNTERS: PerCpuArray<u64, { COUNTERS_LEN as usize }> = PerCpuArray::new();

/// Sized by the agent at load.
#[btf_map]
pub static CANDIDATES: LruHashMap<FlowKey, FlowState, 65_536> = LruHashMap::new();

/// Sized by the agent at load.
#[btf_map]
pub static FLOWS: HashMap<FlowKey, FlowState, 65_536> = HashMap::new();

#[btf_map]
pub static VERDICTS: LruHashMap<FlowKey, Verdict, 16_384> = LruHashMap::new();

#[btf_map]
pub static PORTS: Array<u64, { PORT_WORDS as usize }> = Array::new();

#[btf_map]
pub static HEARTBEAT: Array<u64, 1> = Array::new();

/// The segment at hand.
#[btf_map]
pub static PASSAGE: PerCpuArray<Passage, 1> = PerCpuArray::new();

/// The header of the records of the segment at hand.
#[btf_map]
pub static HEADER: PerCpuArray<RecordHeader, 1> = PerCpuArray::new();

/// Where the head of a request is searched.
#[btf_map]
pub static SCRATCH: PerCpuArray<[u8; SCAN], 1> = PerCpuArray::new();

#[unsafe(no_mangle)]
pub static SNAP_LENGTH: Global<u32> = Global::new(256 * 1024);

#[unsafe(no_mangle)]
pub static PORT_FILTER: Global<u32> = Global::new(0);

#[unsafe(no_mangle)]
pub static HEARTBEAT_TIMEOUT: Global<u64> = Global::new(0);

#[unsafe(no_mangle)]
pub static WAKEUP_BYTES: Global<u32> = Global::new(0);

/// Adds `n` to a counter of this CPU.
#[inline(always)]
pub fn count(counter: Counter, n: u64) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: the pointer is to this CPU's own slot, and TC programs are not preempted by
        // others of the same CPU that count.
        unsafe { *value += n };
    }
}
