//! Numbers that look random and are the same for the same seed.

use std::ops::RangeInclusive;

/// The generator that is known as SplitMix64.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A sequence of its own for each seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number of a range.
    pub fn within(&mut self, range: RangeInclusive<u64>) -> u64 {
        let (low, high) = range.into_inner();
        low + self.bits() % (high - low + 1)
    }

    /// As [`Self::within`], of a length.
    pub fn len(&mut self, range: RangeInclusive<usize>) -> usize {
        let (low, high) = range.into_inner();
        self.within(low as u64..=high as u64) as usize
    }

    /// True so many times of a thousand.
    pub fn of_thousand(&mut self, n: u64) -> bool {
        self.bits() % 1000 < n
    }

    /// One of several.
    pub fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.len(0..=of.len() - 1)]
    }

    /// A length up to one of several.
    pub fn up_to(&mut self, least: usize, most: &[usize]) -> usize {
        let most = self.one(most);
        self.len(least..=most)
    }

    /// Bytes: printable ones, so that they are UTF-8 as well.
    pub fn text(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| b' ' + (self.bits() % 95) as u8).collect()
    }
}
