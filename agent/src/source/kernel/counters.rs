//! The kernel program's counters, summed over the processors.

use aya::maps::{MapData, PerCpuArray};
use wstap_common::{counter::COUNTERS, globals};

use super::{KernelError, program::in_map};

/// Reads the counters.
pub struct Counters {
    map: PerCpuArray<MapData, u64>,
}

impl Counters {
    pub(super) fn new(map: PerCpuArray<MapData, u64>) -> Self {
        Self { map }
    }

    /// Reads them, one system call each; indexed by [`wstap_common::counter::Counter`].
    ///
    /// # Errors
    ///
    /// The map could not be read.
    pub fn read(&self) -> Result<[u64; COUNTERS as usize], KernelError> {
        let mut counts = [0; COUNTERS as usize];
        for (index, count) in (0..).zip(&mut counts) {
            let values = self
                .map
                .get(&index, 0)
                .map_err(in_map(globals::COUNTERS_MAP))?;
            *count = values.iter().fold(0u64, |sum, n| sum.saturating_add(*n));
        }
        Ok(counts)
    }
}
