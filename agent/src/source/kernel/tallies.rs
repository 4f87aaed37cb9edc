//! The tallies of followed flows: reading them, and who has which.
//!
//! A pair of tallies is a flow's from when the kernel program takes it from the queue of free ones,
//! and writes the flow's epoch into it, until the agent gives it back: once the flow is gone from
//! the map of flows. Only then its epoch becomes 0.

use std::{
    collections::{HashMap, HashSet},
    os::fd::AsFd as _,
    sync::Arc,
};

use aya::{
    Ebpf,
    maps::{Array, Map, MapData, Queue},
};
use wstap_common::{globals, mapping::MappedTallies, tally};

use super::{
    KernelError,
    clock::ClockFace,
    program::{in_map, take},
};
use crate::proto::{
    event::TcpCounts,
    seq::SeqNumber,
    time::Timestamp,
    walk::{self, Counts, LastFrame},
};

/// Pairs that are handed to the kernel program in one go. A hundred thousand would take longer than
/// anybody wants to wait for it.
const FILLED_AT_ONCE: u32 = 512;
/// Pairs that are handed over before they are needed: as many WebSockets may open between two looks.
const AHEAD: u32 = 8192;

/// The tallies, as the observer looks them up.
#[derive(Debug)]
pub struct Tallies {
    mapped: Arc<MappedTallies>,
    clock: ClockFace,
}

impl walk::Tallies for Tallies {
    fn read(&self, tally: u32, epoch: u32) -> Option<walk::Tally> {
        let tally = self.mapped.read(tally)?;
        (tally.epoch == epoch).then(|| converted(&tally, &self.clock))
    }

    fn last_seen(&self, tally: u32, epoch: u32) -> Option<Timestamp> {
        let seen = self.mapped.last_seen(tally);
        let is_meant = seen > 0 && self.mapped.epoch(tally) == epoch;
        is_meant.then(|| self.clock.timestamp(seen))
    }
}

fn converted(tally: &tally::Tally, clock: &ClockFace) -> walk::Tally {
    let [continuation, text, binary, close, ping, pong, reserved, _] = tally.bytes;
    let ends_message = tally.last & tally::LAST_ENDS_MESSAGE != 0;
    walk::Tally {
        last_seen: clock.timestamp(tally.last_seen),
        counts: Counts {
            frames: tally.frames,
            bytes: [continuation, text, binary, close, ping, pong, reserved],
            frame_sizes: tally.frame_sizes,
            messages: tally.messages,
            message_sizes: tally.message_sizes,
            message_bytes: tally.message_bytes,
            frame_bytes: 0,
        },
        ahead: tally.ahead(),
        next: SeqNumber(tally.next.wrapping_add(tally.rest as u32)),
        last: LastFrame {
            kind: tally::frame_kind((tally.last & 0xf) as u8),
            size: tally.last_size,
            message: ends_message.then(|| {
                let kind = (tally.last >> tally::LAST_MESSAGE_SHIFT) as usize;
                (kind % tally::MESSAGE_KINDS, tally.last_message_size)
            }),
        },
        tcp: TcpCounts {
            retransmitted: tally.retransmitted.into(),
            out_of_order: tally.out_of_order.into(),
            keepalive_probes: tally.keepalive_probes.into(),
            zero_windows: tally.zero_windows.into(),
        },
    }
}

/// The pairs, and who has them.
pub(super) struct Pairs {
    mapped: Arc<MappedTallies>,
    map: Array<MapData, tally::Tally>,
    free: Queue<MapData, u32>,
    /// The next that was never handed over.
    fresh: u32,
    /// Pairs that were nobody's at the last sweep, with their epochs.
    suspects: HashMap<u32, u32>,
}

impl Pairs {
    /// Takes the maps out of the object, and gives the first pairs away.
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        let name = globals::TALLIES_MAP;
        let missing = KernelError::Mismatch(name);
        let map = ebpf.take_map(name).ok_or(missing)?;
        let Map::Array(data) = &map else {
            return Err(KernelError::Mismatch(name));
        };
        let elements = data.info().map_err(in_map(name))?.max_entries();
        let mapped = MappedTallies::new(data.fd().as_fd(), elements)
            .map_err(|cause| KernelError::MapMemory { name, cause })?;
        let mut pairs = Self {
            mapped: Arc::new(mapped),
            map: Array::try_from(map).map_err(in_map(name))?,
            free: take(ebpf, globals::FREE_TALLIES_MAP)?,
            fresh: 1,
            suspects: HashMap::new(),
        };
        pairs.fill();
        Ok(pairs)
    }

    /// The tallies, for the observer.
    pub(super) fn tallies(&self, clock: ClockFace) -> Tallies {
        Tallies {
            mapped: Arc::clone(&self.mapped),
            clock,
        }
    }

    fn len(&self) -> u32 {
        self.mapped.elements() / 2
    }

    /// Gives away more of the pairs that never were, if there are any and they may be needed soon.
    pub(super) fn fill(&mut self) {
        // They are taken in the order in which they were given. One of those that are looked at may
        // have been taken and given back; not all of them.
        let ahead = self.fresh.saturating_sub(AHEAD).max(1)..self.fresh;
        let is_free = |pair| self.mapped.epoch(tally::element(pair, 0)) == 0;
        if self.fresh > AHEAD && ahead.step_by(FILLED_AT_ONCE as usize).all(is_free) {
            return;
        }
        let end = self.len().min(self.fresh.saturating_add(FILLED_AT_ONCE));
        for pair in self.fresh..end {
            self.push(pair);
        }
        self.fresh = self.fresh.max(end);
    }

    fn push(&mut self, pair: u32) {
        if let Err(error) = self.free.push(pair, 0) {
            log::warn!("giving a tally back to the kernel program: {error}");
        }
    }

    /// Takes a pair back from a flow that is gone, if it still is that flow's. `tally` is the number of
    /// either element.
    pub(super) fn release(&mut self, tally: u32, epoch: u32) {
        let pair = tally / 2;
        let first = tally::element(pair, 0);
        if pair == 0 || epoch == 0 || self.mapped.epoch(first) != epoch {
            return;
        }
        let empty = tally::Tally::from_words(&[0; _]);
        for sender in 0..2 {
            if let Err(error) = self.map.set(tally::element(pair, sender), empty, 0) {
                log::warn!("clearing a tally: {error}");
                return;
            }
        }
        self.push(pair);
    }

    /// Whether this pair is of a flow with this epoch.
    pub(super) fn are_of(&self, pair: u32, epoch: u32) -> bool {
        self.mapped.epoch(tally::element(pair, 0)) == epoch
    }

    /// Takes those back that are nobody's, now and at the sweep before: the agent has never heard of
    /// their flows. `owned` are those of the flows that are followed.
    pub(super) fn sweep(&mut self, owned: &HashSet<u32>) {
        let mut suspects = HashMap::new();
        for pair in 1..self.len() {
            let epoch = self.mapped.epoch(tally::element(pair, 0));
            if epoch != 0 && !owned.contains(&pair) {
                suspects.insert(pair, epoch);
            }
        }
        for (pair, epoch) in std::mem::take(&mut self.suspects) {
            if suspects.get(&pair) == Some(&epoch) {
                suspects.remove(&pair);
                self.release(tally::element(pair, 0), epoch);
            }
        }
        self.suspects = suspects;
    }
}
