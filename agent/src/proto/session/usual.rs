//! Headers that were common in a direction: what is known of its frames before one is lost.

use crate::proto::{
    frame::{Header, MAX_CONTROL_PAYLOAD},
    packed::Packer,
};

use super::plausible::{first_byte, is_hollow};

/// Kinds of headers that are remembered. Messages of fixed size have a few.
const KINDS: usize = 4;

/// Frames that make a header a common one.
const COMMON: u8 = 3;

/// The short unmasked headers of which there were most lately (Misra and Gries).
///
/// A short unmasked header is the same two bytes each time, so a chain of them proves nothing by what
/// they say: a record that repeats looks the same. One that was common before does, see
/// [`super::search`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usual([(u8, u8, u8); KINDS]);

impl Usual {
    /// Counts the header of a frame.
    pub fn add(&mut self, header: &Header) {
        let Some((first, len)) = key(header) else {
            return;
        };
        let mut free = None;
        for kind in &mut self.0 {
            if kind.2 > 0 && (kind.0, kind.1) == (first, len) {
                kind.2 = kind.2.saturating_add(1);
                return;
            }
            if kind.2 == 0 {
                free = Some(kind);
            }
        }
        match free {
            Some(kind) => *kind = (first, len, 1),
            None => self.0.iter_mut().for_each(|kind| kind.2 -= 1),
        }
    }

    /// Writes or reads them.
    pub fn pack(&mut self, p: &mut Packer) {
        let mut kinds = self
            .0
            .map(|(first, len, n)| u32::from_be_bytes([0, first, len, n]));
        p.sparse_short(&mut kinds);
        self.0 = kinds.map(|kind| {
            let [_, first, len, n] = kind.to_be_bytes();
            (first, len, n)
        });
    }

    /// Whether none was common.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|kind| kind.2 < COMMON)
    }

    /// Whether `header` was common.
    pub fn has(&self, header: &Header) -> bool {
        key(header).is_some_and(|(first, len)| {
            let mut kinds = self.0.iter();
            kinds.any(|kind| kind.2 >= COMMON && (kind.0, kind.1) == (first, len))
        })
    }
}

/// A header's two bytes, where that is all there is of it and it is no control frame's.
fn key(header: &Header) -> Option<(u8, u8)> {
    let short = header.mask.is_none() && header.len <= MAX_CONTROL_PAYLOAD;
    (short && !header.opcode.is_control() && !is_hollow(header))
        .then_some((first_byte(header), header.len as u8))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::session::evidence::tests::header;

    #[test]
    fn what_came_often_is_common() {
        let mut usual = Usual::default();
        for _ in 0..2 {
            usual.add(&header(0x82, 100));
        }
        assert!(!usual.has(&header(0x82, 100)));
        usual.add(&header(0x82, 100));
        assert!(usual.has(&header(0x82, 100)));
        assert!(!usual.has(&header(0x81, 100)) && !usual.has(&header(0x82, 99)));
        // Others that come more often take its place.
        for n in 0..40 {
            usual.add(&header(0x81, n % 5));
        }
        assert!(!usual.has(&header(0x82, 100)));
    }

    #[test]
    fn a_header_that_says_more_or_is_rare_is_not_kept() {
        let mut usual = Usual::default();
        let masked = Header {
            mask: Some([1, 2, 3, 4]),
            ..header(0x82, 100)
        };
        for odd in [masked, header(0x82, 126), header(0x89, 4), header(0, 4)] {
            for _ in 0..9 {
                usual.add(&odd);
            }
            assert!(!usual.has(&odd));
        }
    }
}
