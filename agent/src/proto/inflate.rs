//! Inflating what permessage-deflate compressed (RFC 7692, section 7.2.2), as its bytes come.
//!
//! Owns the state of one direction's decompressor. What may be inflated, and how much, is decided
//! by who feeds it.
//!
//! The streams (RFC 1951) are read by hand, because of the window. A library takes its size for
//! memory to work in: how far beyond it a sender may refer before that is noticed, if ever, depends
//! on how much the library is given at once. Here it is what the ends agreed on, to the byte, and
//! however the bytes are cut.

mod bits;
mod blocks;
mod codes;
mod window;

use blocks::{Blocks, Pause};

/// What a sender takes off the end of each message (RFC 7692, section 7.2.1): an empty stored
/// block but for its header.
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];

/// Streams that one message may consist of. A sender that ends its blocks with BFINAL (RFC 7692,
/// section 7.2.3.4) makes one or two.
const MAX_STREAMS: u32 = 16;

/// A decompressor.
#[derive(Debug)]
pub struct Inflater {
    blocks: Blocks,
    /// A block with BFINAL set is over, and nothing has come since.
    ended: bool,
    streams: u32,
}

/// What came of bytes that were fed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Inflated {
    /// All that they say was handed out.
    All,
    /// No more was wanted of it, or it is made to cost.
    Stopped,
    /// They are no deflate, or refer to what is not in the window.
    Invalid,
}

impl Inflater {
    /// A decompressor at the beginning of a stream whose window has 2^`window_bits` bytes, 8 to 15.
    #[must_use]
    pub fn new(window_bits: u8) -> Self {
        Self {
            blocks: Blocks::new(window_bits),
            ended: false,
            streams: 0,
        }
    }

    /// Inflates `input`, and hands out what comes of it in pieces, until `out` says that it wants
    /// no more.
    ///
    /// A block with BFINAL set ends a stream; what follows it begins another, with an empty window.
    pub fn feed(&mut self, input: &[u8], out: &mut dyn FnMut(&[u8]) -> bool) -> Inflated {
        let mut rest = input;
        loop {
            if self.ended {
                if !self.blocks.begin_next(rest) {
                    return Inflated::All;
                }
                self.ended = false;
                self.streams += 1;
                if self.streams >= MAX_STREAMS {
                    return Inflated::Stopped;
                }
            }
            match self.blocks.read(&mut rest, out) {
                Pause::Hungry => return Inflated::All,
                Pause::End => self.ended = true,
                Pause::Stopped => return Inflated::Stopped,
                Pause::Invalid => return Inflated::Invalid,
            }
        }
    }

    /// A message is over: puts back what its sender took off. It must end where a block does, and
    /// nothing comes of the empty block.
    pub fn finish(&mut self) -> Inflated {
        self.streams = 0;
        if self.ended {
            return Inflated::All;
        }
        match self.feed(&TAIL, &mut |_| false) {
            Inflated::All if self.blocks.is_between() => Inflated::All,
            _ => Inflated::Invalid,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write as _;

    use flate2::{Compress, Compression, FlushCompress, FlushDecompress, write::DeflateEncoder};
    use proptest::prelude::*;

    use super::*;

    /// A sender's end: keeps its window from message to message unless it is made anew.
    pub(crate) struct Deflater(Compress);

    impl Deflater {
        pub(crate) fn new() -> Self {
            Self(Compress::new(Compression::default(), false))
        }

        /// The payload of a message.
        pub(crate) fn message(&mut self, text: &[u8]) -> Vec<u8> {
            let mut bytes = self.flushed(text);
            assert!(bytes.ends_with(&TAIL));
            bytes.truncate(bytes.len() - TAIL.len());
            bytes
        }

        /// Blocks up to a flush, with its empty block whole.
        pub(crate) fn flushed(&mut self, text: &[u8]) -> Vec<u8> {
            let mut bytes = Vec::with_capacity(text.len() + 1000);
            let flush = FlushCompress::Sync;
            self.0.compress_vec(text, &mut bytes, flush).unwrap();
            bytes
        }
    }

    /// Inflates a message that comes in pieces of these sizes, again and again.
    fn in_pieces(window_bits: u8, payload: &[u8], sizes: &[usize]) -> (Inflated, Vec<u8>) {
        let mut inflater = Inflater::new(window_bits);
        let mut text = Vec::new();
        let mut out = |bytes: &[u8]| {
            text.extend_from_slice(bytes);
            true
        };
        let mut fed = Inflated::All;
        let mut sizes = sizes.iter().copied().cycle();
        let mut rest = payload;
        while !rest.is_empty() && fed == Inflated::All {
            let n = sizes.next().unwrap_or(1).clamp(1, rest.len());
            let (piece, later) = rest.split_at(n);
            fed = inflater.feed(piece, &mut out);
            rest = later;
        }
        if fed == Inflated::All {
            fed = inflater.finish();
        }
        (fed, text)
    }

    fn inflate(payload: &[u8]) -> (Inflated, Vec<u8>) {
        in_pieces(15, payload, &[usize::MAX])
    }

    fn hello(payload: &[u8]) {
        let (fed, text) = inflate(payload);
        assert_eq!(fed, Inflated::All, "{payload:02x?}");
        assert_eq!(text, b"Hello", "{payload:02x?}");
    }

    #[test]
    fn the_examples_of_the_rfc() {
        // RFC 7692, section 7.2.3: one block; stored; with BFINAL set; two blocks.
        hello(&[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]);
        hello(&[
            0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00,
        ]);
        hello(&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00]);
        hello(&[
            0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00,
        ]);
        // Section 7.2.3.6: an empty message.
        assert_eq!(inflate(&[0x00]), (Inflated::All, vec![]));
        // A final block without the octet that makes the tail a block.
        hello(&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]);
    }

    #[test]
    fn the_window_stays_from_message_to_message() {
        // RFC 7692, section 7.2.3.2.
        let mut inflater = Inflater::new(15);
        for payload in [
            &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00][..],
            &[0xf2, 0x00, 0x11, 0x00, 0x00],
        ] {
            let mut text = Vec::new();
            let mut out = |bytes: &[u8]| {
                text.extend_from_slice(bytes);
                true
            };
            assert_eq!(inflater.feed(payload, &mut out), Inflated::All);
            assert_eq!(inflater.finish(), Inflated::All);
            assert_eq!(text, b"Hello");
        }
    }

    #[test]
    fn what_is_cut_off_is_found() {
        let whole = Deflater::new().message(b"a message that is cut off somewhere");
        assert_eq!(inflate(&whole).0, Inflated::All);
        // The first byte alone may be an empty block.
        for len in 2..whole.len() {
            assert_eq!(inflate(&whole[..len]).0, Inflated::Invalid, "{len}");
        }
        let not_stripped = Deflater::new().flushed(b"x");
        assert_eq!(inflate(&not_stripped).0, Inflated::Invalid);
    }

    #[test]
    fn nonsense_is_invalid() {
        for (what, payload) in [
            ("a reserved block type", &[0x07][..]),
            ("a stored block whose lengths differ", &[0, 1, 0, 1, 0, 9]),
            ("a fixed block with length symbol 286", &[0x1b, 0x03]),
            ("31 distances", &[0x04, 0x1e, 0, 0, 0]),
            ("287 literals and lengths", &[0xf4, 0x00, 0, 0, 0]),
            ("no code for code lengths", &[0x04, 0, 0, 0, 0, 0]),
        ] {
            assert_eq!(inflate(payload).0, Inflated::Invalid, "{what}");
        }
    }

    #[test]
    fn a_reference_beyond_the_window_is_invalid() {
        let noise: Vec<u8> = (0..32768u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 23) as u8)
            .collect();
        for bits in 8..=15u8 {
            for (distance, fed) in [
                (1usize << bits, Inflated::All),
                ((1 << bits) + 1, Inflated::Invalid),
            ] {
                // There is no way to say more.
                if distance > noise.len() {
                    continue;
                }
                // As many bytes as the distance, stored, and then a reference to the first.
                let len = (distance as u16).to_le_bytes();
                let mut payload = vec![0];
                payload.extend(len);
                payload.extend(len.map(|byte| !byte));
                payload.extend(&noise[..distance]);
                payload.extend(reference(distance));
                for sizes in [&[usize::MAX][..], &[1], &[7, 300]] {
                    let (inflated, text) = in_pieces(bits, &payload, sizes);
                    assert_eq!(inflated, fed, "{bits} {distance}");
                    assert_eq!(text[..distance], noise[..distance]);
                    assert_eq!(
                        text.len() - distance,
                        if fed == Inflated::All { 3 } else { 0 }
                    );
                }
            }
        }
    }

    /// A fixed block of three bytes from so far back, and the octet that begins the tail.
    fn reference(distance: usize) -> Vec<u8> {
        let mut bits = Vec::new();
        let mut push = |value: usize, len: u32, reversed: bool| {
            for i in 0..len {
                let at = if reversed { len - 1 - i } else { i };
                bits.push(value >> at & 1);
            }
        };
        push(0b010, 3, false);
        // Symbol 257, which is a length of 3.
        push(1, 7, true);
        // RFC 1951, section 3.2.5: two symbols for each power of two.
        let (symbol, more) = match distance - 1 {
            d @ 0..4 => (d, 0),
            d => {
                let log = d.ilog2();
                (2 * log as usize + (d >> (log - 1) & 1), log - 1)
            }
        };
        push(symbol, 5, true);
        push((distance - 1) & ((1 << more) - 1), more, false);
        push(0, 7 + 3, false);
        bits.chunks(8)
            .map(|byte| {
                let byte = byte.iter().enumerate();
                byte.fold(0, |sum, (i, bit)| sum | (*bit as u8) << i)
            })
            .collect()
    }

    #[test]
    fn it_stops_when_told() {
        let bomb = Deflater::new().message(&vec![0; 50 << 20]);
        assert!(bomb.len() < 60_000, "{}", bomb.len());
        let mut seen = 0;
        let fed = Inflater::new(15).feed(&bomb, &mut |bytes| {
            seen += bytes.len();
            seen < 100_000
        });
        assert_eq!(fed, Inflated::Stopped);
        assert!(seen < 100_000 + (1 << 15));
    }

    #[test]
    fn streams_within_a_message_are_bounded() {
        let empty = [0x03, 0x00];
        let (fed, _) = inflate(&empty.repeat(MAX_STREAMS as usize));
        assert_eq!(fed, Inflated::All);
        let (fed, _) = inflate(&empty.repeat(MAX_STREAMS as usize + 1));
        assert_eq!(fed, Inflated::Stopped);
    }

    #[test]
    fn final_blocks_carry_on() {
        let mut payload = Vec::new();
        for part in ["Hel", "lo"] {
            let mut encoder = DeflateEncoder::new(&mut payload, Compression::best());
            encoder.write_all(part.as_bytes()).unwrap();
            encoder.finish().unwrap();
        }
        hello(&payload);
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same(
            payload in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..300),
                (prop::collection::vec(any::<u8>(), 0..300), 0usize..400, any::<u8>()).prop_map(
                    |(text, at, with)| {
                        let mut bytes = Deflater::new().message(&text.repeat(40));
                        if let Some(byte) = bytes.get_mut(at) {
                            *byte = with;
                        }
                        bytes
                    }
                ),
                // Much comes of little before the fault.
                (1usize..200_000, any::<[u8; 6]>()).prop_map(|(len, end)| {
                    let mut bytes = Deflater::new().flushed(&vec![7; len]);
                    bytes.extend(end);
                    bytes
                }),
            ],
            cuts in prop::collection::vec(1usize..50, 1..6),
            window_bits in 8u8..16,
        ) {
            let whole = in_pieces(window_bits, &payload, &[usize::MAX]);
            prop_assert_eq!(in_pieces(window_bits, &payload, &cuts), whole);
        }

        #[test]
        fn what_a_library_makes_is_read_as_it_was(
            text in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..2000),
                (prop::collection::vec(0u8..4, 1..40), 1usize..4000).prop_map(|(part, n)| part.repeat(n)),
                prop::collection::vec((any::<u8>(), 1usize..600), 0..200).prop_map(|runs| {
                    runs.iter().flat_map(|(byte, n)| vec![*byte; *n]).collect()
                }),
            ],
            level in 0u32..10,
            cuts in prop::collection::vec(1usize..5000, 1..6),
        ) {
            let payload = Deflater(Compress::new(Compression::new(level), false)).message(&text);
            let (fed, inflated) = in_pieces(15, &payload, &cuts);
            prop_assert_eq!(fed, Inflated::All);
            prop_assert!(inflated == text);
        }

        #[test]
        fn what_a_library_reads_is_read_the_same(
            text in prop::collection::vec(0u8..20, 0..3000),
            spoil in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let mut payload = Deflater::new().flushed(&text);
            for (at, with) in spoil {
                let at = at.index(payload.len());
                payload[at] = with;
            }
            let mut text = Vec::with_capacity(1 << 21);
            let mut library = flate2::Decompress::new(false);
            let status = library.decompress_vec(&payload, &mut text, FlushDecompress::Sync);
            let mut ours = Vec::new();
            let mut inflater = Inflater::new(15);
            let fed = inflater.feed(&payload, &mut |bytes| {
                ours.extend_from_slice(bytes);
                true
            });
            // What refers to bytes before the first is read as zeros by the library.
            if fed == Inflated::Invalid {
                // The library stops behind a last block, and we do not.
                let ended = matches!(status, Ok(flate2::Status::StreamEnd));
                prop_assert!(text.starts_with(&ours) || (ended && ours.starts_with(&text)));
            } else if status.is_err() {
                // What begins no code the library may tell before as many bits have come as a code
                // can have.
                prop_assert_eq!(inflater.feed(&[0; 8], &mut |_| true), Inflated::Invalid);
            } else if library.total_in() == payload.len() as u64 {
                prop_assert!(ours == text);
            }
        }
    }
}
