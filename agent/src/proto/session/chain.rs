//! Chains of plausible frame headers: how frames are recognised where nothing says where one begins.
//!
//! Each header says where the next one is to be, so bytes that are no frames contradict themselves
//! soon. How much a chain proves is counted in bits, the binary logarithm of how unlikely random
//! bytes are to look like that:
//!
//! - a random byte pair is a plausible header some 5 % of the time, with the mask bit known half as
//!   often: [`FIRST`] and [`NEXT`] bits;
//! - a frame that ends exactly where a segment does: its length had one value in 128, [`ALIGNED`];
//! - text that is UTF-8: eight random bytes are in fewer than one case in a hundred, [`TEXT`].
//!
//! Headers that are common in other protocols and in padding (zeros, a byte repeated) prove nothing,
//! and neither does a masked one that was there before, key and all.

use std::time::Duration;

use crate::proto::{
    frame::{Header, HeaderDecoder, MAX_CONTROL_PAYLOAD, Opcode, unmask},
    message::Messages,
    time::Timestamp,
};

/// Bits that the first header of a chain is worth.
const FIRST: u32 = 4;
/// Bits that a further header is worth, or the first where the mask bit is known beforehand.
const NEXT: u32 = 5;
/// Bits that a frame is worth that ends with a segment.
const ALIGNED: u32 = 6;
/// Bits that a known mask and a beginning at a segment's start are worth when the search is for any
/// byte: there are some thousand times fewer of these.
const ALIGNED_START: u32 = 10;
/// Bits that text is worth.
const TEXT: u32 = 5;
/// Bytes of text that are looked at.
const TEXT_SAMPLE: usize = 8;

/// Frames that a chain may have without proving enough.
const MAX_FRAMES: usize = 24;
/// Headers in a row that may prove nothing.
const MAX_HOLLOW: usize = 4;
/// A longer payload than this is not believed of a frame that is only guessed.
const MAX_GUESSED_PAYLOAD: u64 = 1 << 30;

/// Bytes in order, and what else a chain needs to know of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece<'a> {
    /// When they came.
    pub ts: Timestamp,
    /// The bytes.
    pub bytes: &'a [u8],
    /// They begin a segment.
    pub starts_segment: bool,
    /// How long it had been quiet before them.
    pub quiet: Duration,
    /// Number of the piece, over both directions.
    pub order: u64,
}

/// A frame of a chain, with what is needed to report it later.
#[derive(Debug)]
pub(super) struct ChainFrame {
    pub header: Header,
    /// When the header was complete.
    pub ts: Timestamp,
    /// How long it had been quiet before the header.
    pub quiet: Duration,
    /// [`Piece::order`] of the header's end.
    pub order: u64,
    /// When the last payload byte so far went by.
    pub last: Timestamp,
    /// The beginning of the payload, still masked.
    pub payload: Vec<u8>,
    /// Payload bytes that went by.
    pub seen: u64,
    wanted: usize,
    intact: bool,
    judged: bool,
    /// The payload spoke for the frame.
    pub credible_text: bool,
}

/// Where a chain is.
#[derive(Clone, Copy, Debug)]
enum Place {
    Header {
        decoder: HeaderDecoder,
        quiet: Duration,
        aligned: bool,
    },
    Payload {
        left: u64,
    },
}

/// What is asked of a chain.
#[derive(Clone, Copy, Debug)]
pub(super) struct Demand {
    /// Bits that are enough.
    pub bits: u32,
    /// With this mask bit, so many bits are enough.
    pub paired: Option<(bool, u32)>,
    /// Payload bytes to keep of each frame.
    pub preview: usize,
}

/// What became of a chain.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fed {
    /// It needs more bytes.
    Alive,
    /// It contradicts itself.
    Dead,
    /// It proves enough. Its last header ends at this position in the piece.
    Proven(usize),
}

/// A chain of headers, each where the one before said that it would be.
#[derive(Debug)]
pub(super) struct Chain {
    frames: Vec<ChainFrame>,
    place: Place,
    masked: Option<bool>,
    mask_known: bool,
    /// Whether a message is under way, once that is known.
    within_message: Option<bool>,
    bits: u32,
    hollow: usize,
    /// It begins with a segment.
    pub starts_segment: bool,
    /// Bytes that were missing from where the search for it began to where it begins.
    pub missing_before: u64,
}

impl Chain {
    /// A chain that begins with the next byte. `masked` is the mask bit where that is known.
    pub fn new(masked: Option<bool>, starts_segment: bool) -> Self {
        Self {
            frames: Vec::new(),
            place: Place::Header {
                decoder: HeaderDecoder::new(),
                quiet: Duration::ZERO,
                aligned: false,
            },
            masked,
            mask_known: masked.is_some(),
            within_message: None,
            bits: 0,
            hollow: 0,
            starts_segment,
            missing_before: 0,
        }
    }

    /// Whether a header can begin with these two bytes, and would prove something.
    pub fn can_begin(first: u8, second: Option<u8>, masked: bool) -> bool {
        let plausible = is_plausible_start(first) && first != 0;
        plausible && second.is_none_or(|second| (second & 0x80 != 0) == masked && second != first)
    }

    /// The mask bit of its frames.
    pub fn masked(&self) -> Option<bool> {
        self.masked
    }

    /// What it proves so far.
    pub fn bits(&self) -> u32 {
        self.bits
    }

    /// Its frames so far; the payload of the last one may still go on.
    pub fn frames(&self) -> &[ChainFrame] {
        &self.frames
    }

    /// Its frames, and the header behind them as far as it came.
    pub fn into_frames(self) -> (Vec<ChainFrame>, Option<HeaderDecoder>) {
        let decoder = match self.place {
            Place::Header { decoder, .. } => Some(decoder),
            Place::Payload { .. } => None,
        };
        (self.frames, decoder)
    }

    /// From now on the mask bit counts as known beforehand.
    pub fn trust_mask(&mut self) {
        if !self.mask_known && self.bits > 0 {
            self.bits += NEXT - FIRST;
            if self.starts_segment {
                self.bits += ALIGNED_START;
            }
        }
        self.mask_known = true;
    }

    /// Memory held.
    pub fn held(&self) -> usize {
        let frames = self.frames.capacity() * size_of::<ChainFrame>();
        let payloads: usize = self.frames.iter().map(|f| f.payload.capacity()).sum();
        size_of::<Self>() + frames + payloads
    }

    /// Takes in the bytes of `piece` from position `from` on.
    pub fn feed(&mut self, piece: &Piece<'_>, from: usize, demand: &Demand) -> Fed {
        let mut at = from;
        loop {
            let rest = piece.bytes.get(at..).unwrap_or_default();
            if rest.is_empty() {
                return Fed::Alive;
            }
            match &mut self.place {
                Place::Payload { left } => {
                    let n = rest.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= n as u64;
                    at += n;
                    let over = *left == 0;
                    if let Some(frame) = self.frames.last_mut() {
                        self.bits += frame.take(&rest[..n], piece.ts, over);
                    }
                    if over {
                        self.place = Place::header();
                    }
                }
                Place::Header {
                    decoder,
                    quiet,
                    aligned,
                } => {
                    if decoder.is_empty() {
                        *quiet = if at == 0 { piece.quiet } else { Duration::ZERO };
                        *aligned = at == 0 && piece.starts_segment;
                    }
                    let (taken, header) = decoder.decode(rest);
                    at += taken;
                    let Some(header) = header else {
                        return Fed::Alive;
                    };
                    let (quiet, aligned) = (*quiet, *aligned);
                    if !self.admit(header, quiet, aligned, piece, demand) {
                        return Fed::Dead;
                    }
                    if self.satisfies(demand) {
                        return Fed::Proven(at);
                    }
                }
            }
        }
    }

    /// Takes in bytes that are missing. Whether the chain lives on.
    pub fn feed_missing(&mut self, len: u64, ts: Timestamp) -> bool {
        match &mut self.place {
            Place::Payload { left } if len <= *left => {
                *left -= len;
                let over = *left == 0;
                if let Some(frame) = self.frames.last_mut() {
                    frame.skip(len, ts);
                }
                if over {
                    self.place = Place::header();
                }
                true
            }
            _ => false,
        }
    }

    fn satisfies(&self, demand: &Demand) -> bool {
        self.bits >= demand.bits
            || demand
                .paired
                .is_some_and(|(masked, bits)| self.masked == Some(masked) && self.bits >= bits)
    }

    fn admit(
        &mut self,
        header: Header,
        quiet: Duration,
        aligned: bool,
        piece: &Piece<'_>,
        demand: &Demand,
    ) -> bool {
        let masked = header.mask.is_some();
        if !is_plausible(&header)
            || self.masked.is_some_and(|known| known != masked)
            || self.frames.len() >= MAX_FRAMES
        {
            return false;
        }
        if !header.opcode.is_control() {
            let begins = Messages::begins(&header);
            if self.within_message.is_some_and(|within| within == begins) {
                return false;
            }
            self.within_message = Some(!header.fin);
        }
        self.masked = Some(masked);
        // Payload of one byte throughout repeats every four bytes under its key: one header that is
        // found in it is found again and again. A client that keeps to the RFC chooses a new key for
        // each frame (section 5.3); others are told by where their segments begin.
        let repeated = masked && !aligned && self.frames.iter().any(|f| f.header == header);
        if repeated || is_hollow(&header) {
            self.hollow += 1;
            if self.hollow > MAX_HOLLOW {
                return false;
            }
        } else {
            self.hollow = 0;
            self.bits += match (self.frames.is_empty(), self.mask_known) {
                (true, false) => FIRST,
                (true, true) if self.starts_segment => NEXT + ALIGNED_START,
                (true, true) => NEXT,
                (false, _) if aligned => NEXT + ALIGNED,
                (false, _) => NEXT,
            };
        }
        let sample = if header.opcode == Opcode::Text && header.rsv == 0 {
            TEXT_SAMPLE
        } else {
            0
        };
        let kept = if header.opcode.is_control() {
            MAX_CONTROL_PAYLOAD as usize
        } else {
            demand.preview.max(sample)
        };
        let left = header.payload_len();
        self.frames.push(ChainFrame {
            header,
            ts: piece.ts,
            quiet,
            order: piece.order,
            last: piece.ts,
            payload: Vec::new(),
            seen: 0,
            wanted: kept.min(usize::try_from(left).unwrap_or(usize::MAX)),
            intact: true,
            judged: sample == 0 || left == 0,
            credible_text: false,
        });
        self.place = if left == 0 {
            Place::header()
        } else {
            Place::Payload { left }
        };
        true
    }
}

impl Place {
    fn header() -> Self {
        Self::Header {
            decoder: HeaderDecoder::new(),
            quiet: Duration::ZERO,
            aligned: false,
        }
    }
}

impl ChainFrame {
    /// Takes in payload. Yields the bits that it is worth.
    fn take(&mut self, bytes: &[u8], ts: Timestamp, over: bool) -> u32 {
        self.last = ts;
        self.seen += bytes.len() as u64;
        if self.intact {
            let room = self.wanted.saturating_sub(self.payload.len());
            self.payload
                .extend_from_slice(&bytes[..room.min(bytes.len())]);
        }
        if self.judged || !(over || self.payload.len() >= TEXT_SAMPLE) {
            return 0;
        }
        self.judged = true;
        let mut sample = [0; TEXT_SAMPLE];
        let n = self.payload.len().min(TEXT_SAMPLE);
        let sample = &mut sample[..n];
        sample.copy_from_slice(&self.payload[..n]);
        if let Some(mask) = self.header.mask {
            unmask(sample, mask, 0);
        }
        let cut_off = |error: std::str::Utf8Error| error.error_len().is_none();
        if !self.intact || !std::str::from_utf8(sample).map_or_else(cut_off, |_| true) {
            return 0;
        }
        self.credible_text = n == TEXT_SAMPLE;
        TEXT * n as u32 / TEXT_SAMPLE as u32
    }

    fn skip(&mut self, len: u64, ts: Timestamp) {
        self.last = ts;
        self.seen += len;
        if self.payload.len() < self.wanted {
            self.intact = false;
        }
    }
}

fn is_plausible_start(first: u8) -> bool {
    let (fin, rsv) = (first & 0x80 != 0, (first >> 4) & 7);
    match Opcode::from_bits(first) {
        Opcode::Text | Opcode::Binary => rsv & !Header::RSV1 == 0,
        Opcode::Continuation => rsv == 0,
        Opcode::Close | Opcode::Ping | Opcode::Pong => fin && rsv == 0,
        Opcode::Reserved(_) => false,
    }
}

/// Whether a peer that keeps to the RFC could have sent it.
fn is_plausible(header: &Header) -> bool {
    let first = (u8::from(header.fin) << 7) | (header.rsv << 4) | header.opcode.bits();
    is_plausible_start(first)
        && header.minimal
        && header.len <= MAX_GUESSED_PAYLOAD
        && (!header.opcode.is_control() || header.len <= MAX_CONTROL_PAYLOAD)
}

/// Whether padding and length-prefixed protocols look like it, too: a first byte of zero, or the
/// same byte twice.
fn is_hollow(header: &Header) -> bool {
    let first = (u8::from(header.fin) << 7) | (header.rsv << 4) | header.opcode.bits();
    let second = (u8::from(header.mask.is_some()) << 7) | u8::try_from(header.len).unwrap_or(0);
    first == 0 || first == second
}
