//! Inflating what permessage-deflate compressed (RFC 7692, section 7.2.2), as its bytes come.
//!
//! Owns the state of one direction's decompressor. What may be inflated, and how much, is decided
//! by who feeds it.

use flate2::{Decompress, FlushDecompress, Status};

/// What a sender takes off the end of each message (RFC 7692, section 7.2.1): an empty stored
/// block but for its header.
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];

/// An empty stored block with BFINAL set: only between two blocks it ends a stream.
const FINAL: [u8; 5] = [0x01, 0x00, 0x00, 0xff, 0xff];

/// The longest window there is; a stream for a shorter one is read with it as well.
const WINDOW: usize = 1 << 15;

/// Streams that one message may consist of. A sender that ends its blocks with BFINAL (RFC 7692,
/// section 7.2.3.4) makes one or two; each costs as much as some thousand bytes.
const MAX_STREAMS: u32 = 16;

/// A decompressor.
#[derive(Debug)]
pub struct Inflater {
    raw: Decompress,
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
    /// They are no deflate.
    Invalid,
}

impl Inflater {
    /// A decompressor at the beginning of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self {
            raw: Decompress::new(false),
            ended: false,
            streams: 0,
        }
    }

    /// Inflates `input`, and hands out what comes of it in pieces, until `out` says that it wants
    /// no more. `room` is memory to work in.
    ///
    /// A block with BFINAL set ends a stream; what follows it begins another, with an empty window.
    pub fn feed(
        &mut self,
        input: &[u8],
        room: &mut Vec<u8>,
        out: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Inflated {
        room.resize(WINDOW, 0);
        let mut rest = input;
        loop {
            if self.ended {
                if rest.is_empty() {
                    return Inflated::All;
                }
                self.streams += 1;
                if self.streams >= MAX_STREAMS {
                    return Inflated::Stopped;
                }
                self.raw.reset(false);
                self.ended = false;
            }
            // The decompressor writes into a window of its own first, up to the end of that, and
            // where it fails it keeps what did not fit behind: with as much room as is left in its
            // window everything before the fault comes out, however the bytes are cut.
            let (taken, written) = (self.raw.total_in(), self.raw.total_out());
            let left = WINDOW - (written % WINDOW as u64) as usize;
            let space = room.get_mut(..left).unwrap_or_default();
            let status = self.raw.decompress(rest, space, FlushDecompress::None);
            let taken = (self.raw.total_in() - taken) as usize;
            let written = (self.raw.total_out() - written) as usize;
            rest = rest.get(taken..).unwrap_or_default();
            if written > 0 && !out(room.get(..written).unwrap_or_default()) {
                return Inflated::Stopped;
            }
            match status {
                Err(_) => return Inflated::Invalid,
                Ok(Status::StreamEnd) => self.ended = true,
                Ok(Status::Ok | Status::BufError) if rest.is_empty() && written < left => {
                    return Inflated::All;
                }
                Ok(Status::Ok | Status::BufError) if taken == 0 && written == 0 => {
                    return Inflated::Invalid;
                }
                Ok(Status::Ok | Status::BufError) => {}
            }
        }
    }

    /// A message is over: puts back what its sender took off. Where nothing of it is needed any
    /// more, which is what `last` says, it must end where a block does.
    pub fn finish(
        &mut self,
        last: bool,
        room: &mut Vec<u8>,
        out: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Inflated {
        self.streams = 0;
        if self.ended {
            return Inflated::All;
        }
        match self.feed(&TAIL, room, out) {
            Inflated::All if last && !self.ended => {
                let mut more = false;
                let fed = self.feed(&FINAL, room, &mut |_| {
                    more = true;
                    false
                });
                match fed {
                    Inflated::All if self.ended && !more => Inflated::All,
                    _ => Inflated::Invalid,
                }
            }
            fed => fed,
        }
    }
}

impl Default for Inflater {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write as _;

    use flate2::{Compress, Compression, FlushCompress, write::DeflateEncoder};
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

    fn inflate(payload: &[u8], last: bool) -> (Inflated, Vec<u8>) {
        let mut inflater = Inflater::new();
        let mut text = Vec::new();
        let mut out = |bytes: &[u8]| {
            text.extend_from_slice(bytes);
            true
        };
        let mut room = Vec::new();
        let mut fed = inflater.feed(payload, &mut room, &mut out);
        if fed == Inflated::All {
            fed = inflater.finish(last, &mut room, &mut out);
        }
        (fed, text)
    }

    fn hello(payload: &[u8]) {
        for last in [false, true] {
            let (fed, text) = inflate(payload, last);
            assert_eq!(fed, Inflated::All, "{payload:02x?}");
            assert_eq!(text, b"Hello", "{payload:02x?}");
        }
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
        assert_eq!(inflate(&[0x00], true), (Inflated::All, vec![]));
        // A final block without the octet that makes the tail a block.
        hello(&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]);
    }

    #[test]
    fn the_window_stays_from_message_to_message() {
        // RFC 7692, section 7.2.3.2.
        let mut inflater = Inflater::new();
        let mut room = Vec::new();
        for payload in [
            &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00][..],
            &[0xf2, 0x00, 0x11, 0x00, 0x00],
        ] {
            let mut text = Vec::new();
            let mut out = |bytes: &[u8]| {
                text.extend_from_slice(bytes);
                true
            };
            assert_eq!(inflater.feed(payload, &mut room, &mut out), Inflated::All);
            assert_eq!(inflater.finish(false, &mut room, &mut out), Inflated::All);
            assert_eq!(text, b"Hello");
        }
    }

    #[test]
    fn what_is_cut_off_is_found_where_it_can_be() {
        let whole = Deflater::new().message(b"a message that is cut off somewhere");
        assert_eq!(inflate(&whole, true).0, Inflated::All);
        assert_eq!(
            inflate(&whole[..whole.len() / 2], true).0,
            Inflated::Invalid
        );
        let not_stripped = Deflater::new().flushed(b"x");
        assert_eq!(inflate(&not_stripped, true).0, Inflated::Invalid);
    }

    #[test]
    fn nonsense_is_invalid() {
        // A reserved block type; a stored block whose lengths differ.
        assert_eq!(inflate(&[0x07], false).0, Inflated::Invalid);
        assert_eq!(inflate(&[0, 1, 0, 1, 0, 9], false).0, Inflated::Invalid);
    }

    #[test]
    fn it_stops_when_told() {
        let bomb = Deflater::new().message(&vec![0; 50 << 20]);
        assert!(bomb.len() < 60_000, "{}", bomb.len());
        let mut seen = 0;
        let fed = Inflater::new().feed(&bomb, &mut Vec::new(), &mut |bytes| {
            seen += bytes.len();
            seen < 100_000
        });
        assert_eq!(fed, Inflated::Stopped);
        assert!(seen < 100_000 + WINDOW);
    }

    #[test]
    fn streams_within_a_message_are_bounded() {
        let empty = [0x03, 0x00];
        let (fed, _) = inflate(&empty.repeat(MAX_STREAMS as usize), false);
        assert_eq!(fed, Inflated::All);
        let (fed, _) = inflate(&empty.repeat(MAX_STREAMS as usize + 1), false);
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
            last in any::<bool>(),
        ) {
            let whole = inflate(&payload, last);
            let mut inflater = Inflater::new();
            let mut text = Vec::new();
            let mut out = |bytes: &[u8]| {
                text.extend_from_slice(bytes);
                true
            };
            let mut room = Vec::new();
            let mut fed = Inflated::All;
            let mut sizes = cuts.iter().copied().cycle();
            let mut rest = &payload[..];
            while !rest.is_empty() && fed == Inflated::All {
                let n = sizes.next().unwrap_or(1).min(rest.len());
                fed = inflater.feed(&rest[..n], &mut room, &mut out);
                rest = &rest[n..];
            }
            if fed == Inflated::All {
                fed = inflater.finish(last, &mut room, &mut out);
            }
            prop_assert_eq!((fed, text), whole);
        }
    }
}
