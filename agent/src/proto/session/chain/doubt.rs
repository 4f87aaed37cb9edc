//! Which of a chain's first frames are credible: what looks like a header may lead to one that is.

use super::{Chain, ChainFrame};
use crate::proto::{
    frame::{Header, MAX_CONTROL_PAYLOAD},
    session::evidence::{self, BIT},
};

/// What the first frames of a chain have to prove by themselves: what looks like a header may lead to
/// one that is, and a chain that is true otherwise begins with it. Once in 5 x 10^5.
const CREDIBLE: i32 = 19 * BIT;

/// What short ones have to prove beyond that as long as none of them is like a later one: counters go on
/// with what looks like the next header (`81 02 00 00 82 02 00 00`). With a segment frames of any kind may
/// begin.
const ODD: i32 = 8 * BIT;

/// A first byte that is found again later: one of thirteen that are plausible.
const ALIKE: i32 = 4 * BIT;

/// That a frame is all there is of a segment: of large frames few end in a segment as short.
const FITS: i32 = 4 * BIT;

impl Chain {
    /// Leaves out the first frames as long as random bytes may have led to the next one: of all the
    /// places at which a chain might have begun, some are as far before a true header as the length
    /// says that is there by chance.
    pub fn leave_out_doubtful(&mut self) {
        let (mut sum, mut doubtful) = (0, 0);
        let mut alone = self.starts_segment;
        let mut odd = !self.starts_segment;
        for (n, frame) in self.frames.iter().enumerate() {
            let later = self.frames.get(n + 1..).unwrap_or_default();
            // One that comes again is right if the later ones are.
            let again = n > 0 && frame.repeated;
            if later.is_empty() || again && (self.starts_segment || frame.header.mask.is_none()) {
                break;
            }
            sum += frame.proof + frame.content.max(0);
            let landing = match frame.header.len {
                0..=125 => 7 * BIT,
                _ => 16 * BIT,
            };
            alone &= frame.fits;
            let fits = if alone { FITS } else { 0 };
            let landing = (landing - self.places).max(0);
            // What is found again under much the same key is found in the same payload.
            let keyed = |later: &&ChainFrame| {
                self.starts_segment || later.header.mask.is_none() || !later.repeated
            };
            let kinship = frame.kinship(later.iter().filter(keyed));
            odd &= kinship <= ALIKE && frame.header.len <= MAX_CONTROL_PAYLOAD;
            let credible = if odd { CREDIBLE + ODD } else { CREDIBLE };
            if sum + landing + fits + kinship < credible {
                doubtful = n + 1;
            }
            if alone {
                // One that leads to another by chance does not end with a segment, too.
                sum += evidence::of_end(&frame.header, Some(1));
            }
            if sum >= credible {
                break;
            }
        }
        self.frames.drain(..doubtful);
    }
}

impl ChainFrame {
    /// What it proves that a frame like this one comes again later in the chain.
    fn kinship<'a>(&self, later: impl Iterator<Item = &'a Self>) -> i32 {
        let of = |header: &Header| {
            let length = match header.len {
                0..=125 => 0,
                126..=0xffff => 1,
                _ => 2,
            };
            (header.fin, header.rsv, header.opcode, length)
        };
        let (mut alike, mut same) = (false, false);
        for frame in later {
            let kin = of(&frame.header) == of(&self.header);
            alike |= kin;
            same |= kin && frame.header.len == self.header.len;
        }
        match (alike, same, self.header.len) {
            (true, true, 0..=125) => ALIKE + 5 * BIT,
            (true, true, _) => ALIKE + 8 * BIT,
            (true, false, _) => ALIKE,
            (false, ..) => 0,
        }
    }
}
