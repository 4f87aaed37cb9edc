//! What the peers' messages are made of.

/// Numbers that look random (splitmix64).
pub struct Random(pub u64);

impl Random {
    /// The next of them.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One that is smaller than `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Text that is valid in text and binary messages alike.
    pub fn letters(&mut self, len: u64) -> Vec<u8> {
        let first = self.below(26) as u8;
        (0..len)
            .map(|i| b'a' + (first + (i % 26) as u8) % 26)
            .collect()
    }
}
