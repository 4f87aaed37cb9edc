//! Which headers are worth a guess, and what they have in common with other bytes.

use crate::proto::frame::{Header, MAX_CONTROL_PAYLOAD};

/// A longer payload than this is not believed of a frame that is only guessed.
const MAX_GUESSED_PAYLOAD: u64 = 1 << 30;

/// First bytes with which a chain can begin: a search asks for each byte.
pub(super) const CAN_BEGIN: [bool; 256] = {
    let mut table = [false; 256];
    let mut first = 1;
    while first < 256 {
        table[first] = is_plausible_start(first as u8);
        first += 1;
    }
    table
};

const fn is_plausible_start(first: u8) -> bool {
    match first {
        // Text and binary; first or only frames of a message, compressed or not.
        0x01 | 0x02 | 0x41 | 0x42 | 0x81 | 0x82 | 0xc1 | 0xc2 => true,
        // Continuations, and control frames, which are never fragmented.
        0x00 | 0x80 | 0x88..=0x8a => true,
        _ => false,
    }
}

/// Whether a peer that keeps to the RFC could have sent it.
pub(super) fn is_plausible(header: &Header) -> bool {
    is_plausible_start(first_byte(header))
        && header.minimal
        && header.len <= MAX_GUESSED_PAYLOAD
        && (!header.opcode.is_control() || header.len <= MAX_CONTROL_PAYLOAD)
}

/// Whether padding and length-prefixed protocols look like it, too: a first byte of zero, or the
/// same byte twice.
pub(super) fn is_hollow(header: &Header) -> bool {
    let first = first_byte(header);
    let second = (u8::from(header.mask.is_some()) << 7) | u8::try_from(header.len).unwrap_or(0);
    first == 0 || first == second
}

/// A header's first byte.
pub(super) fn first_byte(header: &Header) -> u8 {
    (u8::from(header.fin) << 7) | (header.rsv << 4) | header.opcode.bits()
}

/// A header's second byte.
pub(super) fn second_byte(header: &Header) -> u8 {
    let length = match header.len {
        0..=125 => header.len as u8,
        126..=0xffff => 126,
        _ => 127,
    };
    u8::from(header.mask.is_some()) << 7 | length
}

/// Whether two keys have two bytes in common, as random ones have once in 10^4.
pub(super) fn are_alike(one: Option<[u8; 4]>, other: [u8; 4]) -> bool {
    one.is_some_and(|one| one.iter().zip(other).filter(|(a, b)| *a == b).count() >= 2)
}
