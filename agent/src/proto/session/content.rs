//! What the messages of one direction say, as far as that is checked: their inflated length, and
//! whether text is UTF-8.
//!
//! Owns the direction's decompressor and its limits. Bytes are looked at as they go by; none are
//! kept but for a preview.

use super::Context;
use crate::proto::{
    deflate::{DeflateParameters, Unit},
    event::Preview,
    flow::Direction,
    frame::{Header, Opcode, unmask},
    inflate::{Inflated, Inflater},
    observer::Config,
    packed::Packer,
    utf8::{Invalid, Validator},
};

/// Inflated bytes of a message from which on the ratio counts. A short message that repeats itself
/// is no attack, however small it is on the wire.
const RATIO_COUNTS_FROM: u64 = 64 << 10;

/// Bytes that are unmasked at a time: as many as stay in the first cache.
const CHUNK: usize = 8 << 10;

/// The content of one direction.
#[derive(Debug)]
pub(super) struct Content {
    deflate: Option<Deflate>,
    inflater: Option<Box<Inflater>>,
    window: Window,
    /// The message under way, where its beginning was seen.
    message: Option<Message>,
    reading: Reading,
    /// Of the open frame: it is compressed.
    compressed: bool,
    /// Of the open frame: what inflating it yields, up to the preview.
    inflated: Vec<u8>,
    /// Of the open frame: there is more than the preview.
    more: bool,
    faults: Faults,
}

/// How a direction is compressed.
#[derive(Clone, Copy, Debug)]
struct Deflate {
    unit: Unit,
    takeover: bool,
    window_bits: u8,
}

/// What is known of the bytes to which compressed ones may refer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Window {
    Known,
    /// Some are missing, or make no sense.
    Lost,
    /// A limit was exceeded.
    GivenUp,
}

/// A message under way.
#[derive(Debug)]
struct Message {
    /// RSV1 of its first frame said so.
    compressed: bool,
    /// It is text of which every byte so far was seen, and valid.
    text: bool,
    validator: Validator,
    /// Every byte that had to be inflated was.
    whole: bool,
    /// Something of it was inflated.
    any: bool,
    inflated: u64,
    /// Payload bytes of its frames, as declared.
    declared: u64,
    /// Payload bytes of the unit of compression so far.
    fed: u64,
}

/// What is done with the payload of the open frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Reading {
    Nothing,
    Text,
    Deflate,
    /// It was inflated up to where bytes are missing, invalid, or too many.
    Cut,
}

/// What is wrong with a payload.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Faults {
    /// It is not UTF-8 from this byte of its message on.
    pub utf8: Option<u64>,
    /// It cannot be inflated. What of it could be came before.
    pub deflate: bool,
}

/// The message that a data frame belongs to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Part {
    /// A new one.
    Begins,
    /// The one under way.
    Continues,
    /// One whose beginning was not seen, or none.
    Unknown,
}

impl Content {
    /// A direction of which nothing was seen.
    pub fn new(deflate: Option<DeflateParameters>, direction: Direction) -> Self {
        Self {
            deflate: deflate.map(|parameters| Deflate {
                unit: parameters.unit,
                takeover: parameters.context_takeover(direction),
                window_bits: parameters.max_window_bits(direction),
            }),
            inflater: None,
            window: Window::Known,
            message: None,
            reading: Reading::Nothing,
            compressed: false,
            inflated: Vec::new(),
            more: false,
            faults: Faults::default(),
        }
    }

    /// Whether no frame and no message is under way, and nothing to refer to is kept.
    pub fn is_quiet(&self) -> bool {
        let faults = self.faults.deflate || self.faults.utf8.is_some();
        self.message.is_none() && self.inflater.is_none() && !faults
    }

    /// Writes or reads what is known of a direction that is quiet.
    pub fn pack(&mut self, p: &mut Packer) {
        let mut window = self.window as u8;
        p.byte(&mut window);
        let windows = [Window::Known, Window::Lost, Window::GivenUp];
        self.window = windows
            .get(usize::from(window))
            .copied()
            .unwrap_or(Window::Lost);
    }

    /// The direction is known from its beginning after all.
    pub fn begin(&mut self) {
        self.window = Window::Known;
    }

    /// Frames are missing.
    pub fn lose(&mut self, cx: &mut Context<'_>) {
        self.message = None;
        self.reading = Reading::Nothing;
        self.lose_window(Window::Lost, cx);
    }

    /// Gives back what counts for a limit.
    pub fn release(&mut self, cx: &mut Context<'_>) {
        if self.inflater.take().is_some() {
            *cx.inflaters = cx.inflaters.saturating_sub(1);
        }
    }

    /// A frame begins. `rsv1` says whether its RSV1 is set and stands for compression.
    pub fn begin_frame(&mut self, header: &Header, part: Part, rsv1: bool, cx: &mut Context<'_>) {
        self.reading = Reading::Nothing;
        self.compressed = false;
        self.inflated = Vec::new();
        self.more = false;
        if header.opcode.is_control() {
            return;
        }
        let unit = self.deflate.map_or(Unit::Message, |deflate| deflate.unit);
        if part == Part::Begins {
            if unit == Unit::Message && self.message.as_ref().is_some_and(|m| m.compressed) {
                // Broken off: what its sender's window holds is not known.
                self.lose_window(Window::Lost, cx);
            }
            self.message = Some(Message {
                compressed: rsv1,
                text: header.opcode == Opcode::Text,
                validator: Validator::new(),
                whole: true,
                any: false,
                inflated: 0,
                declared: 0,
                fed: 0,
            });
        } else if part == Part::Unknown {
            self.message = None;
        }
        let Some(message) = &mut self.message else {
            if rsv1 && unit == Unit::Frame {
                self.lose_window(Window::Lost, cx);
            }
            return;
        };
        message.declared = message.declared.saturating_add(header.payload_len());
        self.compressed = match unit {
            Unit::Message => message.compressed,
            Unit::Frame => {
                message.fed = 0;
                rsv1
            }
        };
        if header.rsv & !if rsv1 { Header::RSV1 } else { 0 } != 0 {
            // What the other bits stand for is not known, and neither is what the payload says.
            self.skip_message();
            if self.compressed {
                self.lose_window(Window::Lost, cx);
            }
        } else if !self.compressed {
            message.inflated = message.inflated.saturating_add(header.payload_len());
            if message.text {
                self.reading = Reading::Text;
            }
        } else if message.whole && self.can_inflate(cx) {
            self.reading = Reading::Deflate;
        } else {
            self.skip_message();
        }
    }

    /// Whether there is a decompressor, and it can make something of what comes.
    fn can_inflate(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(deflate) = self.deflate.filter(|_| cx.config.inflate) else {
            return false;
        };
        match self.window {
            Window::Known => {}
            Window::Lost => return false,
            Window::GivenUp => {
                cx.stats.exceeded.inflated += 1;
                return false;
            }
        }
        if self.inflater.is_none() {
            if *cx.inflaters >= cx.config.max_inflaters {
                cx.stats.exceeded.inflaters += 1;
                if deflate.takeover {
                    self.window = Window::Lost;
                }
                return false;
            }
            *cx.inflaters += 1;
            self.inflater = Some(Box::new(Inflater::new(deflate.window_bits)));
        }
        true
    }

    /// Whether the payload of the open frame is of interest.
    pub fn is_reading(&self) -> bool {
        matches!(self.reading, Reading::Text | Reading::Deflate)
    }

    /// Takes in payload of the open frame, masked as it came; `offset` is its position.
    pub fn feed(&mut self, bytes: &[u8], header: &Header, offset: u64, cx: &mut Context<'_>) {
        let Some(mask) = header.mask else {
            return self.take(bytes, cx);
        };
        let mut plain = std::mem::take(cx.plain);
        let mut at = offset;
        for piece in bytes.chunks(CHUNK) {
            if !self.is_reading() {
                break;
            }
            plain.clear();
            plain.extend_from_slice(piece);
            unmask(&mut plain, mask, at);
            self.take(&plain, cx);
            at += piece.len() as u64;
        }
        *cx.plain = plain;
    }

    fn take(&mut self, bytes: &[u8], cx: &mut Context<'_>) {
        let Some(message) = &mut self.message else {
            return;
        };
        if self.reading == Reading::Deflate {
            message.fed = message.fed.saturating_add(bytes.len() as u64);
            self.inflate(Some(bytes), cx);
        } else if !message.check(bytes, &mut self.faults) {
            self.reading = Reading::Nothing;
        }
    }

    /// Payload of the open frame is not available.
    pub fn skip(&mut self, cx: &mut Context<'_>) {
        match self.reading {
            Reading::Nothing | Reading::Cut => {}
            Reading::Text => {
                self.reading = Reading::Nothing;
                if let Some(message) = &mut self.message {
                    message.text = false;
                }
            }
            Reading::Deflate => {
                self.give_up(Window::Lost, cx);
            }
        }
    }

    /// The payload of the open frame is over.
    pub fn end_frame(&mut self, header: &Header, cx: &mut Context<'_>) {
        if header.opcode.is_control() {
            return;
        }
        if let (Reading::Deflate, Some(deflate)) = (self.reading, self.deflate)
            && (header.fin || deflate.unit == Unit::Frame)
        {
            if self
                .message
                .as_ref()
                .is_some_and(|message| message.fed == 0)
            {
                // Even of an empty message one byte is left (RFC 7692, section 7.2.3.6).
                self.faults.deflate = true;
                self.skip_message();
            } else {
                self.inflate(None, cx);
            }
            if !deflate.takeover {
                self.release(cx);
            }
        }
        if let (true, Some(message)) = (header.fin, &mut self.message)
            && std::mem::take(&mut message.text)
            && let Err(Invalid(at)) = message.validator.finish()
        {
            self.faults.utf8 = Some(at);
        }
    }

    /// The message is over. Yields its length when inflated, where it was.
    pub fn end_message(&mut self) -> Option<u64> {
        let message = self.message.take()?;
        (message.whole && message.any).then_some(message.inflated)
    }

    /// What is wrong with the payload so far, once.
    pub fn take_faults(&mut self) -> Option<Faults> {
        let found = self.faults.deflate || self.faults.utf8.is_some();
        found.then(|| std::mem::take(&mut self.faults))
    }

    /// Whether the preview of the open frame is what inflating it yields; if so, whether it is all
    /// there although the frame goes on.
    pub fn preview_is_ready(&self) -> Option<bool> {
        (self.reading == Reading::Deflate).then_some(self.more)
    }

    /// The inflated preview of the open frame, if there is one. `complete` says that its payload is.
    pub fn preview(&mut self, complete: bool) -> Option<Preview> {
        match self.reading {
            Reading::Deflate => {}
            Reading::Cut if !self.inflated.is_empty() => {}
            _ => return None,
        }
        Some(Preview {
            bytes: std::mem::take(&mut self.inflated),
            truncated: self.more || !complete || self.reading == Reading::Cut,
            compressed: false,
        })
    }

    /// Whether the open frame is compressed.
    pub fn is_compressed(&self) -> bool {
        self.compressed
    }

    /// Inflates bytes, or what is behind the last.
    fn inflate(&mut self, bytes: Option<&[u8]>, cx: &mut Context<'_>) {
        let (Some(inflater), Some(message)) = (&mut self.inflater, &mut self.message) else {
            return;
        };
        message.any = true;
        let allowed = message.allowed(cx.config);
        let preview = cx.config.preview;
        let (shown, more, faults) = (&mut self.inflated, &mut self.more, &mut self.faults);
        let mut out = |bytes: &[u8]| {
            let left = allowed.saturating_sub(message.inflated);
            let left = usize::try_from(left).unwrap_or(usize::MAX);
            let within = bytes.get(..left).unwrap_or(bytes);
            message.inflated += within.len() as u64;
            let room = preview.saturating_sub(shown.len());
            *more |= within.len() > room;
            shown.extend_from_slice(within.get(..room).unwrap_or(within));
            message.check(within, faults);
            within.len() == bytes.len()
        };
        let inflated = match bytes {
            Some(bytes) => inflater.feed(bytes, &mut out),
            None => inflater.finish(),
        };
        match inflated {
            Inflated::All => {}
            Inflated::Stopped => {
                cx.stats.exceeded.inflated += 1;
                self.give_up(Window::GivenUp, cx);
            }
            Inflated::Invalid => {
                self.faults.deflate = true;
                self.give_up(Window::Lost, cx);
            }
        }
    }

    /// What comes of the message under way is not looked at any more, and neither is what may refer
    /// to it. What was inflated so far stays: the frame may have been shown with it already, had its
    /// bytes come in smaller pieces.
    fn give_up(&mut self, window: Window, cx: &mut Context<'_>) {
        self.skip_message();
        self.reading = Reading::Cut;
        self.lose_window(window, cx);
    }

    fn skip_message(&mut self) {
        self.reading = Reading::Nothing;
        if let Some(message) = &mut self.message {
            message.whole = false;
            message.text = false;
        }
    }

    fn lose_window(&mut self, window: Window, cx: &mut Context<'_>) {
        self.release(cx);
        if self.deflate.is_some_and(|deflate| deflate.takeover) {
            self.window = window;
        }
    }
}

impl Message {
    /// How far it may be inflated. It depends on lengths alone, so that it is the same however the
    /// bytes are cut.
    fn allowed(&self, config: &Config) -> u64 {
        let by_ratio = self.declared.saturating_mul(config.max_inflate_ratio);
        config.max_inflated.min(by_ratio.max(RATIO_COUNTS_FROM))
    }

    /// Checks text. Yields whether there is more to check.
    fn check(&mut self, bytes: &[u8], faults: &mut Faults) -> bool {
        if !self.text {
            return false;
        }
        if let Err(Invalid(at)) = self.validator.feed(bytes) {
            faults.utf8 = Some(at);
            self.text = false;
        }
        self.text
    }
}
