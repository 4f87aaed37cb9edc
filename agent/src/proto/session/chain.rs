//! Chains of plausible frame headers: how frames are recognised where nothing says where one begins.
//!
//! Each header says where the next one is to be, so bytes that are no frames contradict themselves
//! soon. How much a chain proves is counted in bits, by [`super::evidence`].
//!
//! Headers that are common in other protocols and in padding (zeros, a byte repeated) prove nothing,
//! and neither does one that was there before if it is short, or masked with the same key.

mod doubt;
mod frame;

pub(super) use frame::ChainFrame;

use std::time::Duration;

use super::{
    census::Census,
    evidence::{self, BIT, Expected, TEXT_SAMPLE},
    paths::Paths,
    ping::Pings,
    plausible::{CAN_BEGIN, are_alike, first_byte, is_hollow, is_plausible, second_byte},
    usual::Usual,
};
use crate::proto::{
    frame::{Header, HeaderDecoder, MAX_CONTROL_PAYLOAD, Opcode, unmask},
    message::Messages,
    time::Timestamp,
};

/// Text that is not masked proves at most so much in a chain: what is around may be all text.
const PLAIN_TEXT: i32 = 8 * BIT;

/// Payload bytes of a full segment on most links.
const USUAL_SEGMENT: u64 = 1448;

/// Frames that a chain may have without proving enough. Headers that differ prove enough in a tenth of
/// these, so it consists of repetitions: one that begins behind it may do better. It bounds what a chain
/// holds and what one more header costs, which is compared with all before.
const MAX_FRAMES: usize = 128;
/// Headers in a row that may prove nothing: peers do not send as many empty or odd frames, padding has
/// nothing else.
const MAX_HOLLOW: usize = 4;

/// Bytes in order, and what else a chain needs to know of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece<'a> {
    /// When they came.
    pub ts: Timestamp,
    /// The bytes.
    pub bytes: &'a [u8],
    /// They begin a segment.
    pub starts_segment: bool,
    /// They end one.
    pub ends_segment: bool,
    /// How long it had been quiet before them.
    pub quiet: Duration,
    /// Number of the piece, over both directions.
    pub order: u64,
    /// Bytes before it that were searched.
    pub position: u64,
}

/// Where a chain is.
#[derive(Clone, Copy, Debug)]
enum Place {
    Header {
        decoder: HeaderDecoder,
        quiet: Duration,
        /// The frame before it ended in bytes that are missing: whether a segment ended there, the
        /// n-th since its header, shows when this one begins.
        unseen_end: Option<u32>,
    },
    Payload {
        left: u64,
        /// Segments that have ended in it.
        ends: u32,
    },
}

/// What is asked of a chain, and what is known beside it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Demand<'a> {
    /// So much is enough, if it is enough for the chain itself.
    pub bits: i32,
    /// With this mask bit, so much is enough.
    pub paired: Option<(bool, i32)>,
    /// Payload bytes to keep of each frame.
    pub preview: usize,
    /// The other side has sent its close frame.
    pub expects_close: bool,
    /// The other side's pings.
    pub pings: &'a Pings,
    /// How often first bytes of headers occur wherever it may be.
    pub census: Option<&'a Census>,
    /// Headers that were common in the direction.
    pub usual: Usual,
}

/// What became of a chain.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fed {
    /// It needs more bytes.
    Alive,
    /// It contradicts itself, or enough others go the same way.
    Dead,
    /// It proves enough. It was read up to this position in the piece.
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
    bits: i32,
    /// What [`PLAIN_TEXT`] leaves to be counted.
    plain_text: i32,
    hollow: usize,
    /// What it has to prove at least.
    pub needed: i32,
    /// The binary logarithm of the number of places at which it might have begun, as evidence.
    pub places: i32,
    /// It begins with a segment.
    pub starts_segment: bool,
    /// Headers that were common in the direction before, as far as they count.
    pub usual: u32,
    /// Bytes that were missing from where the search for it began to where it begins.
    pub missing_before: u64,
    /// Bytes and segments' ends from where it begins.
    span: (u64, u32),
    /// Memory that payload takes.
    payloads: usize,
    /// The header that is being read would be part of a text without it.
    in_text: bool,
    /// Where it begins.
    phase: u64,
}

impl Chain {
    /// A chain that begins with the next byte. `masked` is the mask bit where that is known.
    pub fn new(masked: Option<bool>, starts_segment: bool) -> Self {
        Self {
            frames: Vec::new(),
            place: Place::header(),
            masked,
            mask_known: masked.is_some(),
            within_message: None,
            bits: 0,
            plain_text: PLAIN_TEXT,
            hollow: 0,
            needed: 0,
            places: 0,
            starts_segment,
            usual: 0,
            missing_before: 0,
            span: (0, 0),
            payloads: 0,
            in_text: false,
            phase: 0,
        }
    }

    /// Whether a header can begin with these two bytes, and would prove something.
    pub fn can_begin(first: u8, second: Option<u8>, masked: Option<bool>) -> bool {
        let is_masked = |second: u8| second & 0x80 != 0;
        CAN_BEGIN[usize::from(first)]
            && second.is_none_or(|second| {
                second != first && masked.is_none_or(|masked| masked == is_masked(second))
            })
    }

    /// The mask bit of its frames.
    pub fn masked(&self) -> Option<bool> {
        self.masked
    }

    /// What it proves so far.
    pub fn bits(&self) -> i32 {
        self.bits
    }

    /// Its frames so far; the payload of the last one may still go on.
    pub fn frames(&self) -> &[ChainFrame] {
        &self.frames
    }

    /// Bytes and segments' ends from where it begins.
    pub fn span(&self) -> (u64, u32) {
        self.span
    }

    /// Whether the last byte was within no header.
    pub fn is_behind_header(&self) -> bool {
        match &self.place {
            Place::Header { decoder, .. } => decoder.is_empty(),
            Place::Payload { .. } => true,
        }
    }

    /// Where its last header begins, in what was searched.
    pub fn last_header(&self) -> u64 {
        self.phase
    }

    /// Whether the last byte was the last of a frame.
    pub fn is_between_frames(&self) -> bool {
        matches!(&self.place, Place::Header { decoder, .. } if decoder.is_empty())
            && !self.frames.is_empty()
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
            self.bits += evidence::MASK_BIT;
        }
        self.mask_known = true;
    }

    /// Memory held.
    pub fn held(&self) -> usize {
        size_of::<Self>() + self.frames.capacity() * size_of::<ChainFrame>() + self.payloads
    }

    /// Takes in the bytes of `piece` from position `from` on.
    pub fn feed(&mut self, piece: &Piece<'_>, from: usize, demand: &Demand<'_>) -> Fed {
        self.feed_among(piece, from, demand, &mut Paths::default())
    }

    /// The same, beside others in whose `paths` it may end.
    pub fn feed_among(
        &mut self,
        piece: &Piece<'_>,
        from: usize,
        demand: &Demand<'_>,
        paths: &mut Paths,
    ) -> Fed {
        let len = piece.bytes.len();
        self.span.0 += len.saturating_sub(from) as u64;
        self.span.1 += u32::from(piece.ends_segment);
        let mut at = from;
        loop {
            let rest = piece.bytes.get(at..).unwrap_or_default();
            if rest.is_empty() {
                return Fed::Alive;
            }
            match &mut self.place {
                Place::Payload { left, .. } => {
                    let mut n = rest.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    // No further than to where it can be judged: of several chains the one that
                    // proves enough first is taken.
                    if let Some(frame) = self.frames.last()
                        && let Some(judged_at) = frame.judged_at
                        && let Some(missing) = judged_at.checked_sub(frame.payload.len())
                        && frame.intact
                        && missing > 0
                    {
                        n = n.min(missing);
                    }
                    *left -= n as u64;
                    let over = *left == 0;
                    at += n;
                    if let Some(frame) = self.frames.last_mut() {
                        let before = frame.payload.capacity();
                        frame.take(&rest[..n], piece.ts);
                        self.payloads += frame.payload.capacity() - before;
                    }
                    self.judge(demand);
                    let at_end = at == len && piece.ends_segment;
                    if over {
                        self.end_frame(at_end);
                    } else if at_end && let Place::Payload { ends, .. } = &mut self.place {
                        *ends = ends.saturating_add(1);
                    }
                }
                Place::Header {
                    decoder,
                    quiet,
                    unseen_end,
                } => {
                    if decoder.is_empty() {
                        *quiet = if at == 0 { piece.quiet } else { Duration::ZERO };
                    }
                    if let Some(nth) = unseen_end.take() {
                        let aligned = at == 0 && piece.starts_segment;
                        let nth = aligned.then_some(nth);
                        self.bits += evidence_of_end(&self.frames, nth);
                    }
                    let start = decoder.is_empty().then_some(at);
                    if start.is_some() {
                        self.in_text = evidence::is_within_text(piece.bytes, at);
                        self.phase = piece.position.wrapping_add(at as u64);
                    }
                    let (taken, header) = decoder.decode(rest);
                    at += taken;
                    let Some(header) = header else {
                        return Fed::Alive;
                    };
                    let quiet = *quiet;
                    if !self.admit(header, quiet, piece, demand)
                        || start.is_some_and(|start| !paths.take(start))
                    {
                        return Fed::Dead;
                    }
                    if header.len > MAX_CONTROL_PAYLOAD {
                        // The last two bytes of the length, with the same key and the same content
                        // behind them, look like a header of their own: `81 fe 01 f0` has `01 f0`.
                        let behind = 2 + if header.mask.is_some() { 4 } else { 0 };
                        paths.close(at.wrapping_sub(behind));
                    }
                    if header.payload_len() == 0 {
                        self.judge(demand);
                        self.end_frame(at == len && piece.ends_segment);
                    }
                }
            }
            if self.satisfies(demand) {
                return Fed::Proven(at);
            }
        }
    }

    /// Takes in bytes that are missing. Whether the chain lives on.
    pub fn feed_missing(&mut self, len: u64, ts: Timestamp) -> bool {
        self.span.0 += len;
        match &mut self.place {
            Place::Payload { left, ends } if len <= *left => {
                *left -= len;
                // Where segments end among them is not known, but how many at least.
                let passed = u32::try_from(len / USUAL_SEGMENT).unwrap_or(u32::MAX);
                *ends = ends.saturating_add(passed);
                let (over, nth) = (*left == 0, ends.saturating_add(1));
                if let Some(frame) = self.frames.last_mut() {
                    frame.skip(len, ts);
                }
                if over {
                    self.place = Place::Header {
                        decoder: HeaderDecoder::new(),
                        quiet: Duration::ZERO,
                        unseen_end: Some(nth),
                    };
                }
                true
            }
            _ => false,
        }
    }

    fn satisfies(&self, demand: &Demand<'_>) -> bool {
        if self.bits
            < demand
                .bits
                .min(demand.paired.map_or(i32::MAX, |(_, bits)| bits))
        {
            return false;
        }
        if self.bits < self.needed {
            return false;
        }
        let common = demand.census.map_or(0, |census| self.is_common(census));
        let enough = |bits: i32| self.bits - common >= bits.max(self.needed);
        enough(demand.bits)
            || demand
                .paired
                .is_some_and(|(masked, bits)| self.masked == Some(masked) && enough(bits))
    }

    /// How much less its headers prove because their first bytes are more common than in random
    /// bytes, those of its own headers left out.
    fn is_common(&self, census: &Census) -> i32 {
        let key = |frame: &ChainFrame| (first_byte(&frame.header), frame.phase & 3);
        let mut sum = 0;
        for frame in self.frames.iter().filter(|frame| frame.proof > 0) {
            let own = self.frames.iter().filter(|other| key(other) == key(frame));
            let excess = census.excess(first_byte(&frame.header), frame.phase, own.count());
            sum += excess.min(frame.proof);
        }
        sum
    }

    fn admit(
        &mut self,
        header: Header,
        quiet: Duration,
        piece: &Piece<'_>,
        demand: &Demand<'_>,
    ) -> bool {
        let masked = header.mask.is_some();
        if !is_plausible(&header)
            || self.masked.is_some_and(|known| known != masked)
            || self.frames.len() >= MAX_FRAMES
        {
            return false;
        }
        let expected = Expected {
            within_message: self.within_message,
            close: demand.expects_close,
        };
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
        // each frame (section 5.3); others are told by where their segments end.
        // Counters and the like under a key make keys that have bytes in common, with each other or with
        // the header before them.
        let repeated = match header.mask {
            Some(mask) => {
                mask[2] == first_byte(&header)
                    || mask[3] == second_byte(&header)
                    || (self.frames.iter()).any(|frame| are_alike(frame.header.mask, mask))
            }
            None => {
                self.in_text
                    || header.len <= MAX_CONTROL_PAYLOAD
                        && self.frames.iter().any(|frame| frame.header == header)
            }
        };
        let mut proof = 0;
        if is_hollow(&header) {
            self.hollow += 1;
            if self.hollow > MAX_HOLLOW {
                return false;
            }
        } else {
            self.hollow = 0;
            if !repeated {
                proof = evidence::of_header(&header, expected);
                if self.mask_known || !self.frames.is_empty() {
                    proof += evidence::MASK_BIT;
                }
            }
        }
        self.bits += proof;
        self.usual += u32::from(demand.usual.has(&header));
        let is_text = header.opcode == Opcode::Text && header.rsv == 0;
        let left = header.payload_len();
        let len = usize::try_from(left).unwrap_or(usize::MAX);
        let (kept, judged_at) = match (header.opcode.is_control(), is_text) {
            (true, _) => (MAX_CONTROL_PAYLOAD as usize, Some(len)),
            (false, true) => (demand.preview.max(TEXT_SAMPLE), Some(len.min(TEXT_SAMPLE))),
            (false, false) => (demand.preview, None),
        };
        self.frames.push(ChainFrame {
            header,
            ts: piece.ts,
            quiet,
            order: piece.order,
            last: piece.ts,
            payload: Vec::new(),
            seen: 0,
            wanted: kept.min(len),
            judged_at,
            repeated,
            proof,
            phase: self.phase,
            content: 0,
            fits: false,
            intact: true,
        });
        self.place = Place::Payload { left, ends: 0 };
        true
    }

    /// Counts what the last frame's content proves, once there is enough of it.
    fn judge(&mut self, demand: &Demand<'_>) {
        let Some(frame) = self.frames.last_mut() else {
            return;
        };
        let Some(sample) = (frame.judged_at).and_then(|n| frame.payload.get(..n)) else {
            return;
        };
        frame.judged_at = None;
        if frame.repeated && !frame.header.opcode.is_control() {
            return;
        }
        if frame.header.opcode.is_control() {
            frame.content = evidence::of_control(&frame.header, sample, demand.pings);
            self.bits += frame.content;
            return;
        }
        let mut text = sample.to_vec();
        if let Some(mask) = frame.header.mask {
            unmask(&mut text, mask, 0);
        }
        frame.content = evidence::of_text(&text);
        let counted = match frame.header.mask {
            Some(_) => frame.content,
            None => frame.content.min(self.plain_text),
        };
        self.plain_text -= counted.max(0);
        self.bits += counted;
    }

    /// The last frame is over, at the end of a segment or not.
    fn end_frame(&mut self, at_end: bool) {
        let ends = match self.place {
            Place::Payload { ends, .. } => ends,
            Place::Header { .. } => 0,
        };
        let nth = at_end.then(|| ends.saturating_add(1));
        self.bits += evidence_of_end(&self.frames, nth);
        if let Some(frame) = self.frames.last_mut() {
            frame.fits = nth == Some(1);
        }
        self.place = Place::header();
    }
}

impl Place {
    fn header() -> Self {
        Self::Header {
            decoder: HeaderDecoder::new(),
            quiet: Duration::ZERO,
            unseen_end: None,
        }
    }
}

/// Of the end of the last frame.
fn evidence_of_end(frames: &[ChainFrame], nth: Option<u32>) -> i32 {
    let frame = frames.last();
    let frame = frame.filter(|frame| !is_hollow(&frame.header));
    frame.map_or(0, |frame| {
        let bits = evidence::of_end(&frame.header, nth);
        if frame.repeated { bits.max(0) } else { bits }
    })
}
