//! TCP sequence numbers (RFC 9293, section 3.4): arithmetic modulo 2^32.

/// A TCP sequence number.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct SeqNumber(pub u32);

impl SeqNumber {
    /// Signed distance from `earlier` to `self`; right where they are less than 2^31 apart.
    #[must_use]
    pub fn distance_from(self, earlier: Self) -> i32 {
        self.0.wrapping_sub(earlier.0).cast_signed()
    }
}

impl std::ops::Add<u32> for SeqNumber {
    type Output = Self;

    fn add(self, bytes: u32) -> Self {
        Self(self.0.wrapping_add(bytes))
    }
}
