//! What was inflated last: that to which a distance may refer, and no more.

/// The last bytes that came out, in a ring, and which of them have not been handed out yet.
#[derive(Debug)]
pub(super) struct Window {
    /// Grows up to `size`.
    bytes: Vec<u8>,
    size: usize,
    /// Where the next byte goes.
    at: usize,
    /// Up to where they were handed out.
    shown: usize,
}

/// Takes what comes out. Whether it wants more.
pub(super) type Out<'a> = dyn FnMut(&[u8]) -> bool + 'a;

impl Window {
    /// An empty one of 2^`bits` bytes.
    pub fn new(bits: u8) -> Self {
        Self {
            bytes: Vec::new(),
            size: 1 << bits.clamp(8, 15),
            at: 0,
            shown: 0,
        }
    }

    /// Forgets all of it.
    pub fn clear(&mut self) {
        (self.at, self.shown) = (0, 0);
        self.bytes.clear();
    }

    /// Whether there are bytes as far back as `distance`.
    #[inline]
    pub fn reaches(&self, distance: usize) -> bool {
        distance <= self.bytes.len()
    }

    /// Adds a byte. Whether more is wanted.
    #[inline]
    pub fn put(&mut self, byte: u8, out: &mut Out<'_>) -> bool {
        if let Some(slot) = self.bytes.get_mut(self.at) {
            *slot = byte;
        } else {
            self.grow(1);
            self.bytes.push(byte);
        }
        self.advance(1, out)
    }

    /// Adds bytes. Whether more is wanted.
    pub fn extend(&mut self, mut bytes: &[u8], out: &mut Out<'_>) -> bool {
        while !bytes.is_empty() {
            let n = bytes.len().min(self.size - self.at);
            let (now, later) = bytes.split_at(n);
            if let Some(slots) = self.bytes.get_mut(self.at..self.at + n) {
                slots.copy_from_slice(now);
            } else {
                self.grow(n);
                self.bytes.extend_from_slice(now);
            }
            bytes = later;
            if !self.advance(n, out) {
                return false;
            }
        }
        true
    }

    /// Adds `length` bytes from as far back as `distance`, which it [`Self::reaches`]. Whether more is
    /// wanted.
    #[inline]
    pub fn copy(&mut self, mut distance: usize, mut length: usize, out: &mut Out<'_>) -> bool {
        while length > 0 {
            let len = self.bytes.len();
            let from = if distance <= self.at {
                self.at - distance
            } else {
                (self.at + len).saturating_sub(distance)
            };
            let n = (length.min(distance))
                .min(self.size - self.at)
                .min(len - from);
            if self.at == len {
                self.grow(n);
                self.bytes.extend_from_within(from..from + n);
            } else {
                self.bytes.copy_within(from..from + n, self.at);
            }
            length -= n;
            if !self.advance(n, out) {
                return false;
            }
            // What was copied repeats itself from twice as far back.
            if n == distance && 2 * distance <= self.bytes.len() {
                distance *= 2;
            }
        }
        true
    }

    /// Hands out what was not yet. Whether more is wanted.
    pub fn show(&mut self, out: &mut Out<'_>) -> bool {
        let bytes = self.bytes.get(self.shown..self.at).unwrap_or_default();
        self.shown = self.at;
        bytes.is_empty() || out(bytes)
    }

    #[inline]
    fn advance(&mut self, n: usize, out: &mut Out<'_>) -> bool {
        self.at += n;
        if self.at < self.size {
            return true;
        }
        let wanted = self.show(out);
        (self.at, self.shown) = (0, 0);
        wanted
    }

    /// Makes room for `n` bytes more, never for more than the window's size.
    #[inline]
    fn grow(&mut self, n: usize) {
        let (len, capacity) = (self.bytes.len(), self.bytes.capacity());
        if len + n > capacity {
            let wanted = (2 * capacity).max(len + n).max(256).min(self.size);
            self.bytes.reserve_exact(wanted - len);
        }
    }
}
