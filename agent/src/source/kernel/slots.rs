//! The slots in which segments wait for one that is missing: those of flows that are gone are given
//! back.
//!
//! The kernel program takes slots from the queue of free ones and gives them back by itself, as long as
//! the flow is there whose segments they hold.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use aya::{
    Ebpf,
    maps::{Array, MapData, Queue},
};
use wstap_common::globals;

use super::{
    KernelError,
    program::{in_map, take},
};

/// Between two looks. A slot that is nobody's is given back at the second look: no run of the kernel
/// program takes so long.
const INTERVAL: Duration = Duration::from_secs(1);

/// The slots, and whose they are.
pub(super) struct Slots {
    owners: Array<MapData, u64>,
    free: Queue<MapData, u32>,
    /// Slots that were nobody's at the last look, with what they had for an owner.
    suspects: HashMap<u32, u64>,
    next_look: Instant,
}

impl Slots {
    /// Takes the maps out of the object, and gives all slots away.
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        let name = globals::FREE_SLOTS_MAP;
        let mut free: Queue<_, u32> = take(ebpf, name)?;
        for slot in 1..globals::SLOTS {
            free.push(slot, 0).map_err(in_map(name))?;
        }
        Ok(Self {
            owners: take(ebpf, globals::SLOT_OWNERS_MAP)?,
            free,
            suspects: HashMap::new(),
            next_look: Instant::now(),
        })
    }

    /// Gives back, now and then, what is nobody's. `is_alive` says whether there is a flow with this pair
    /// of tallies and this epoch.
    pub(super) fn reclaim(&mut self, is_alive: impl Fn(u32, u32) -> bool) {
        let now = Instant::now();
        if now < self.next_look {
            return;
        }
        self.next_look = now + INTERVAL;
        let before = std::mem::take(&mut self.suspects);
        for slot in 1..globals::SLOTS {
            let owner = self.owners.get(&slot, 0).unwrap_or(0);
            if owner == 0 || is_alive((owner >> 32) as u32, owner as u32) {
                continue;
            }
            if before.get(&slot) != Some(&owner) {
                self.suspects.insert(slot, owner);
                continue;
            }
            let given = self.owners.set(slot, 0, 0);
            if let Err(error) = given.and_then(|()| self.free.push(slot, 0)) {
                log::warn!("giving a slot back to the kernel program: {error}");
            }
        }
    }
}
