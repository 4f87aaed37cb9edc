//! Huffman codes (RFC 1951, section 3.2.2).

use std::sync::LazyLock;

use super::bits::Bits;

/// Bits of the longest code.
const MAX_LENGTH: usize = 15;
/// Codes up to this length are found at once; few are longer.
const FAST_LENGTH: u32 = 9;
const FAST: usize = 1 << FAST_LENGTH;

/// Symbols of the largest alphabet, that of literals and lengths.
pub(super) const SYMBOLS: usize = 288;

/// The code of one alphabet.
#[derive(Clone, Debug)]
pub(super) struct Code {
    /// By the next bits: the symbol and, in the lowest four bits, the length of its code. 0 where the
    /// code is longer, or there is none.
    fast: [u16; FAST],
    /// How many codes there are of each length.
    counts: [u16; MAX_LENGTH + 1],
    /// Symbols by their codes' length, then in order.
    symbols: [u16; SYMBOLS],
}

/// What the next bits are.
pub(super) enum Found {
    /// A symbol, and the length of its code.
    Symbol(u16, u32),
    /// The beginning of a code.
    Part,
    /// No code.
    Nothing,
}

/// Both codes of a block.
#[derive(Debug, Default)]
pub(super) struct Codes {
    pub literals: Code,
    pub distances: Code,
}

/// The codes of blocks that bring none (RFC 1951, section 3.2.6).
pub(super) static FIXED: LazyLock<Codes> = LazyLock::new(|| {
    let mut lengths = [8; SYMBOLS];
    lengths[144..256].fill(9);
    lengths[256..280].fill(7);
    let mut codes = Codes::default();
    codes.literals.assign(&lengths, true);
    codes.distances.assign(&[5; 32], true);
    codes
});

impl Default for Code {
    fn default() -> Self {
        Self {
            fast: [0; FAST],
            counts: [0; MAX_LENGTH + 1],
            symbols: [0; SYMBOLS],
        }
    }
}

impl Code {
    /// Makes it the code whose lengths, by symbol, are `lengths`: at most [`SYMBOLS`], each at most
    /// 15, 0 for symbols without a code. Whether that is a code: no more of them than fit, and none
    /// left over, but that where there are no two symbols there may be one code of one bit, or none.
    /// Unless it must be `complete`.
    pub fn assign(&mut self, lengths: &[u8], complete: bool) -> bool {
        *self = Self::default();
        for length in lengths {
            self.counts[usize::from(length & 0xf)] += 1;
        }
        self.counts[0] = 0;
        let mut left: i32 = 1;
        let mut offsets = [0u16; MAX_LENGTH + 2];
        for (length, count) in self.counts.iter().enumerate().skip(1) {
            left = 2 * left - i32::from(*count);
            if left < 0 {
                return false;
            }
            offsets[length + 1] = offsets[length] + count;
        }
        let short = self.counts[2..].iter().all(|count| *count == 0);
        if left > 0 && (complete || !short) {
            return false;
        }
        for (symbol, length) in lengths
            .iter()
            .enumerate()
            .filter(|(_, length)| **length > 0)
        {
            let offset = &mut offsets[usize::from(length & 0xf)];
            if let Some(slot) = self.symbols.get_mut(usize::from(*offset)) {
                *slot = symbol as u16;
            }
            *offset += 1;
        }
        self.fill_fast();
        true
    }

    fn fill_fast(&mut self) {
        let mut symbols = self.symbols.iter();
        let mut code = 0u32;
        for length in 1..=FAST_LENGTH {
            for symbol in symbols.by_ref().take(self.counts[length as usize].into()) {
                // Codes come with their highest bit first.
                let reversed = code.reverse_bits() >> (32 - length);
                let entry = symbol << 4 | length as u16;
                for slot in (self.fast.iter_mut().skip(reversed as usize)).step_by(1 << length) {
                    *slot = entry;
                }
                code += 1;
            }
            code <<= 1;
        }
    }

    /// The symbol whose code comes next.
    #[inline]
    pub fn find(&self, bits: Bits) -> Found {
        let entry = self.fast[bits.value() as usize % FAST];
        let length = u32::from(entry & 0xf);
        if length == 0 {
            self.find_long(bits)
        } else if length <= bits.len() {
            Found::Symbol(entry >> 4, length)
        } else {
            Found::Part
        }
    }

    /// The same, a bit at a time: codes of one length are consecutive numbers.
    fn find_long(&self, bits: Bits) -> Found {
        let (mut code, mut first, mut index) = (0, 0, 0);
        for (length, count) in (0u32..).zip(self.counts).skip(1) {
            if length > bits.len() {
                return Found::Part;
            }
            code |= (bits.value() >> (length - 1) & 1) as u32;
            let count = u32::from(count);
            if code < first + count {
                let symbol = self.symbols.get((index + code - first) as usize);
                return symbol.map_or(Found::Nothing, |symbol| Found::Symbol(*symbol, length));
            }
            index += count;
            first = (first + count) << 1;
            code <<= 1;
        }
        Found::Nothing
    }
}
