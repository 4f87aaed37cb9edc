//! How much bytes speak for frames: likelihood ratios, as binary logarithms.
//!
//! Each sum compares two accounts of the same bytes: frames as peers send them, and random bytes.
//! The shares that the first account gives to what it knows (opcodes, lengths, ends) add up to one
//! at each step, so that random bytes reach a sum of n bits with a probability of at most 2^-n,
//! however long they go on (Ville's inequality). What this means for a search is up to
//! [`super::search`].
//!
//! Payload is not always random, so evidence that structured bytes give for nothing is not counted
//! or only up to a limit: zeros, a header that came before in the same chain, text where all is text,
//! a header that goes on with the text before it. What is common all around is [`super::census`]'s.

use super::ping::{Payload, Pings};
use crate::proto::frame::{CloseCode, Header, Opcode, unmask};

/// A bit, in the unit in which evidence is counted.
pub(super) const BIT: i32 = 8;

/// Bytes of text that are looked at. The search holds so many of each text frame.
pub(super) const TEXT_SAMPLE: usize = 16;

/// A known mask bit.
pub(super) const MASK_BIT: i32 = BIT;

/// A frame that does not end with a segment, where one in four is expected to.
const NOT_ALIGNED: i32 = -3;

/// Something that peers do in one frame of fifty or less.
const UNUSUAL: i32 = -5 * BIT;

/// A length of eight bytes would prove more than this if zeros were not so common.
const LONGEST: i32 = 20 * BIT;

/// What is known before a header is read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Expected {
    /// A message is under way, or none is.
    pub within_message: Option<bool>,
    /// The other side has sent its close frame.
    pub close: bool,
}

/// Of a plausible header: its first byte and the size of its length field.
pub(super) fn of_header(header: &Header, expected: Expected) -> i32 {
    // The logarithm of 256 times the share of frames that begin so.
    let first = match (header.opcode, expected.within_message) {
        (Opcode::Close, _) if expected.close => return 7 * BIT + of_length(header),
        (Opcode::Close, _) => 19,
        (Opcode::Ping, _) => 27,
        (Opcode::Pong, _) => 29,
        (Opcode::Continuation, Some(true)) => 55,
        (Opcode::Continuation, _) => 19,
        _ => match (header.fin, header.rsv & Header::RSV1 != 0) {
            (true, false) => 50,
            (true, true) => 35,
            (false, false) => 23,
            (false, true) => 11,
        },
    };
    first - i32::from(expected.close) * BIT + of_length(header)
}

fn of_length(header: &Header) -> i32 {
    match header.len {
        0..=125 => -6,
        126..=0xffff => 42,
        _ => LONGEST,
    }
}

/// Of where a frame ends: at the end of a segment, the `nth` since its header (from 1), or not.
pub(super) fn of_end(header: &Header, nth: Option<u32>) -> i32 {
    let Some(nth) = nth else { return NOT_ALIGNED };
    let exact = match header.len {
        0..=125 => 7,
        _ => 16,
    };
    // One in four ends so; and the further ends there were, the less it means to meet one.
    let chances = nth.max(1).ilog2() * 2 + u32::from(!nth.max(1).is_power_of_two()) * 2;
    (exact - 2 - chances.min(16).cast_signed()).max(0) * BIT
}

/// Of the beginning of a text frame's payload, unmasked: at most [`TEXT_SAMPLE`] bytes.
///
/// Masked text under a wrong key becomes the difference of two texts: UTF-8, too, but full of
/// control characters.
pub(super) fn of_text(sample: &[u8]) -> i32 {
    if is_text(sample) {
        // Random bytes are printable UTF-8 with some 0.46 to the power of their number.
        BIT * i32::try_from(sample.len()).unwrap_or(0)
    } else {
        UNUSUAL
    }
}

fn is_text(sample: &[u8]) -> bool {
    let whole = match std::str::from_utf8(sample) {
        Ok(_) => true,
        // A character may be cut off.
        Err(error) => error.error_len().is_none(),
    };
    let printable = |byte: &u8| matches!(byte, b'\t' | b'\n' | b'\r' | b' '..=0x7e | 0x80..);
    whole && sample.iter().all(printable)
}

/// Bytes before a header that are looked at for text.
const AROUND: usize = 12;

/// Whether the two bytes at `at` go on with the text that is before them. Behind a whole character a
/// header's first byte is no text, so a header is none behind the text of another frame; but the
/// second byte of a Cyrillic letter and a space look like one.
pub(super) fn is_within_text(bytes: &[u8], at: usize) -> bool {
    let from = at.saturating_sub(AROUND);
    let Some(around) = bytes.get(from..at.saturating_add(2).min(bytes.len())) else {
        return false;
    };
    if at - from < 4 {
        return false;
    }
    // A character may be cut off at the beginning.
    let whole = around
        .iter()
        .take(3)
        .take_while(|byte| **byte & 0xc0 == 0x80);
    let whole = whole.count();
    around.get(whole..).is_some_and(is_text)
}

/// Of a control frame's whole payload, still masked. `pings` are those of the other direction.
pub(super) fn of_control(header: &Header, payload: &[u8], pings: &Pings) -> i32 {
    let mut payload = payload.to_vec();
    if let Some(mask) = header.mask {
        unmask(&mut payload, mask, 0);
    }
    match header.opcode {
        Opcode::Close => of_close(&payload),
        Opcode::Pong if pings.awaits(Payload::new(header.len, Some(&payload))) => {
            // Any of some pings may be the one.
            let bytes = i32::try_from(payload.len()).unwrap_or(0).min(4);
            (bytes * 8 - 8).max(0) * BIT
        }
        _ => 0,
    }
}

fn of_close(body: &[u8]) -> i32 {
    let Some((code, reason)) = body.split_first_chunk::<2>() else {
        return if body.is_empty() { 0 } else { UNUSUAL };
    };
    let code = match CloseCode(u16::from_be_bytes(*code)) {
        CloseCode(1000) => 15 * BIT,
        CloseCode(1001) => 13 * BIT,
        code if code.is_valid_on_wire() => 3 * BIT,
        _ => UNUSUAL,
    };
    let sample = reason.get(..TEXT_SAMPLE).unwrap_or(reason);
    code + of_text(sample)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An unmasked header with this first byte.
    pub(in super::super) fn header(first: u8, len: u64) -> Header {
        Header {
            fin: first & 0x80 != 0,
            rsv: (first >> 4) & 7,
            opcode: Opcode::from_bits(first),
            mask: None,
            len,
            minimal: true,
        }
    }

    #[test]
    fn shares_of_first_bytes_add_up_to_one() {
        let plausible = [
            0x81, 0x82, 0xc1, 0xc2, 0x01, 0x02, 0x41, 0x42, 0x00, 0x80, 0x88, 0x89, 0x8a,
        ];
        for within_message in [None, Some(false), Some(true)] {
            for close in [false, true] {
                let expected = Expected {
                    within_message,
                    close,
                };
                let possible = |first: &&u8| match within_message {
                    Some(true) => **first & 0x0f == 0 || **first & 8 != 0,
                    Some(false) => **first & 0x0f != 0,
                    None => true,
                };
                let sum: f64 = (plausible.iter().filter(possible))
                    .map(|first| {
                        let bits = of_header(&header(*first, 5), expected) + 6;
                        2f64.powf(f64::from(bits) / f64::from(BIT)) / 256.0
                    })
                    .sum();
                assert!(sum < 1.05, "{expected:?}: {sum}");
            }
        }
    }

    #[test]
    fn text_is_told_from_the_difference_of_texts() {
        assert!(of_text(b"{\"type\":\"tick\"}\n") > 10 * BIT);
        assert!(of_text("Grüße, 你好, при".as_bytes()) > 10 * BIT);
        assert!(of_text(&"日本".as_bytes()[..4]) > 0);
        let difference: Vec<u8> = (b"some text".iter().zip(b"more text"))
            .map(|(a, b)| a ^ b)
            .collect();
        assert!(of_text(&difference) < 0);
        assert!(of_text(&[0xff, 0xfe]) < 0);
    }

    #[test]
    fn a_header_behind_a_whole_text_is_not_within_it() {
        let within = |bytes: &[u8]| {
            let at = bytes.iter().position(|byte| *byte == 0x81);
            is_within_text(bytes, at.unwrap_or(0))
        };
        assert!(within("что нас ждёт".as_bytes()));
        assert!(!within(b"{\"a\":12345}\x81\x20{\"b\""));
        assert!(!within("да, конец\u{0}".as_bytes()));
        // Too little to tell.
        assert!(!within(b"\xd1\x81 a"));
    }

    #[test]
    fn the_more_ends_the_less_one_means() {
        let short = header(0x82, 100);
        let long = header(0x82, 10_000);
        assert_eq!(of_end(&short, Some(1)), 5 * BIT);
        assert_eq!(of_end(&short, Some(2)), 3 * BIT);
        assert_eq!(of_end(&short, Some(3)), BIT);
        assert_eq!(of_end(&short, Some(u32::MAX)), 0);
        assert_eq!(of_end(&long, Some(1)), 14 * BIT);
        assert!(of_end(&long, None) < 0);
    }
}
