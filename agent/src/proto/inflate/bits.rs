//! Bits of a deflate stream, least significant first (RFC 1951, section 3.1.1).

/// Bits that were taken from the input and not used yet.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bits {
    /// The next bit is the lowest. Those that are not there are zero.
    value: u64,
    /// How many there are: at most 63.
    len: u32,
}

impl Bits {
    /// Takes as many whole bytes from the front of `input` as there is room for: at least 56 bits are
    /// there then, or nothing is left of `input`.
    #[inline]
    pub fn refill(&mut self, input: &mut &[u8]) {
        if self.len >= 56 {
            return;
        }
        if let Some(next) = input.first_chunk::<8>() {
            let bytes = (63 - self.len) / 8;
            self.value |= u64::from_le_bytes(*next) << self.len;
            self.len += 8 * bytes;
            self.value &= (1 << self.len) - 1;
            *input = input.get(bytes as usize..).unwrap_or_default();
            return;
        }
        while self.len < 56
            && let Some((byte, rest)) = input.split_first()
        {
            self.value |= u64::from(*byte) << self.len;
            self.len += 8;
            *input = rest;
        }
    }

    /// How many there are.
    #[inline]
    pub fn len(self) -> u32 {
        self.len
    }

    /// All of them, and zeros.
    #[inline]
    pub fn value(self) -> u64 {
        self.value
    }

    /// Takes `n` of them, at most 32, or none if there are fewer.
    #[inline]
    pub fn take(&mut self, n: u32) -> Option<u32> {
        if self.len < n {
            return None;
        }
        let taken = self.value & ((1 << n) - 1);
        self.skip(n);
        Some(taken as u32)
    }

    /// Drops `n` of them, at most as many as there are.
    #[inline]
    pub fn skip(&mut self, n: u32) {
        self.value >>= n;
        self.len = self.len.saturating_sub(n);
    }

    /// Drops what is left of a byte that was begun.
    pub fn align(&mut self) {
        self.skip(self.len % 8);
    }
}
