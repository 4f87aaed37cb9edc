//! The kernel program's counters, summed over the processors.

use aya::maps::{MapData, PerCpuArray};
use wstap_common::{
    counter::{COUNTERS, Counter},
    globals,
};

use super::{KernelError, program::in_map};

/// Reads the counters.
pub struct Counters {
    map: PerCpuArray<MapData, u64>,
}

/// The counters at one time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Counts([u64; COUNTERS as usize]);

impl Default for Counts {
    fn default() -> Self {
        Self([0; COUNTERS as usize])
    }
}

impl Counts {
    /// The value of one.
    #[must_use]
    pub fn value(&self, counter: Counter) -> u64 {
        self.0[counter as usize]
    }
}

impl Counters {
    pub(super) fn new(map: PerCpuArray<MapData, u64>) -> Self {
        Self { map }
    }

    /// Reads them: one system call each.
    ///
    /// # Errors
    ///
    /// The map could not be read.
    pub fn read(&self) -> Result<Counts, KernelError> {
        let mut counts = Counts::default();
        for (index, count) in (0..).zip(&mut counts.0) {
            let values = self
                .map
                .get(&index, 0)
                .map_err(in_map(globals::COUNTERS_MAP))?;
            *count = values
                .iter()
                .fold(0, |sum, value| sum.saturating_add(*value));
        }
        Ok(counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_has_its_place() {
        let mut counts = Counts::default();
        for (value, slot) in (0..).zip(&mut counts.0) {
            *slot = value;
        }
        for (value, counter) in (0..).zip(Counter::ALL) {
            assert_eq!(counts.value(*counter), value);
        }
    }
}
