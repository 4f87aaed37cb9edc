//! What is common in the bytes that are searched, and so proves little.

use super::evidence::BIT;

/// How often the first bytes of headers occur in what is searched, by the place in four bytes: a
/// masking key comes again every four.
///
/// Evidence is reckoned against random bytes, where each occurs once in 256. Where one is more common
/// it proves less by as much.
#[derive(Debug, Default)]
pub(super) struct Census {
    /// The last kind is of all bytes that are none.
    counts: [[u32; 4]; KINDS + 1],
    bytes: u64,
}

/// First bytes that are plausible.
const KINDS: usize = 13;

/// The kind of each byte: each that is searched is counted.
const KIND: [u8; 256] = {
    let plausible: [u8; KINDS] = [
        0x00, 0x01, 0x02, 0x41, 0x42, 0x80, 0x81, 0x82, 0x88, 0x89, 0x8a, 0xc1, 0xc2,
    ];
    let mut table = [KINDS as u8; 256];
    let mut kind = 0;
    while kind < KINDS {
        table[plausible[kind] as usize] = kind as u8;
        kind += 1;
    }
    table
};

impl Census {
    /// Takes in what is searched next.
    pub fn add(&mut self, bytes: &[u8]) {
        let phase = (self.bytes & 3) as usize;
        for (at, first) in bytes.iter().enumerate() {
            let counts = &mut self.counts[usize::from(KIND[usize::from(*first)])];
            let count = &mut counts[phase.wrapping_add(at) & 3];
            *count = count.saturating_add(1);
        }
        self.bytes = self.bytes.saturating_add(bytes.len() as u64);
    }

    /// How much more common than in random bytes `first` is at `phase`, `own` left out: as evidence.
    pub fn excess(&self, first: u8, phase: u64, own: usize) -> i32 {
        let kind = usize::from(KIND[usize::from(first)]);
        if kind == KINDS {
            return 0;
        }
        let count = self.counts[kind][(phase & 3) as usize];
        let count = u64::from(count).saturating_sub(own as u64);
        // In a few bytes one too many is chance.
        let expected = self.bytes / 1024 + 2;
        let times = (count / expected).max(1);
        times.ilog2().cast_signed() * BIT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_common_proves_less() {
        let mut census = Census::default();
        census.add(&[0x82, 0xff, 0xff, 0xff].repeat(4096));
        assert!(census.excess(0x82, 0, 0) > 6 * BIT);
        assert_eq!(census.excess(0x82, 1, 0), 0);
        assert_eq!(census.excess(0x81, 0, 0), 0);
        // Its own headers are no reason to doubt it.
        assert_eq!(census.excess(0x82, 0, 4096), 0);
    }
}
