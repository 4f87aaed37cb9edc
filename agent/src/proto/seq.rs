//! TCP sequence numbers (RFC 9293, section 3.4): arithmetic modulo 2^32.

/// A TCP sequence number.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_distances_wrap() {
        let last = SeqNumber(u32::MAX);
        assert_eq!(last + 3, SeqNumber(2));
        assert_eq!((last + 3).distance_from(last), 3);
        assert_eq!(last.distance_from(last + 3), -3);
        assert_eq!(last.distance_from(last), 0);
    }

    #[test]
    fn distances_are_right_up_to_half_the_space() {
        let seq = SeqNumber(0x9000_0000);
        assert_eq!((seq + 0x7fff_ffff).distance_from(seq), i32::MAX);
        assert_eq!((seq + 0x8000_0000).distance_from(seq), i32::MIN);
    }
}
