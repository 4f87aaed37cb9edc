//! What one side sends: frames of a shape, cut into segments, and where their headers are.

use std::{collections::VecDeque, ops::Range};

use flate2::{Compress, Compression, FlushCompress};
use wstap::proto::frame::{Opcode, unmask};

/// Random numbers that are the same each time (Marsaglia, xorshift).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        // Seeds that are near each other must not begin alike.
        Self((seed ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n.max(1)
    }

    pub fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }

    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }
}

/// What payload is like.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Content {
    Random,
    Json,
    /// The same text each time.
    SameJson,
    Cyrillic,
    /// Little-endian counters of 32 bits that go on from frame to frame.
    Counters,
    Zeros,
    /// Tags, varints and short strings.
    Protobuf,
    /// Records of 100 bytes, in which at the same places is always what looks like a header.
    Records,
    /// JSON under permessage-deflate, with context takeover.
    Deflated,
}

/// How large frames are.
#[derive(Clone, Copy, Debug)]
pub enum Size {
    Of(usize),
    /// Each of these as often.
    Any(&'static [usize]),
    /// As many small ones as large ones, by powers of two.
    Between(usize, usize),
    /// Whatever the text takes.
    Natural,
}

/// How what is written becomes segments.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Writes {
    /// A frame a write, and the line is free: a frame begins with a segment.
    Each,
    /// There is always more to send: segments are full, whatever is in them.
    Bulk,
}

/// Traffic of one direction.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub name: &'static str,
    pub masked: bool,
    pub content: Content,
    pub size: Size,
    pub writes: Writes,
    /// The other side pings now and then.
    pub pings: bool,
}

/// What a frame's header says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Head {
    pub opcode: Opcode,
    pub rsv: u8,
    pub mask: Option<[u8; 4]>,
    pub len: u64,
}

/// Payload bytes of a segment.
pub const SEGMENT: usize = 1448;

/// A direction's bytes.
pub struct Stream {
    shape: Shape,
    random: Random,
    pending: Vec<u8>,
    taken: usize,
    /// Position of the next segment in the stream.
    position: u64,
    /// Headers in what is pending: where they are in the stream.
    heads: VecDeque<(Range<u64>, Head)>,
    counter: u32,
    until_ping: u64,
    ping: Option<Vec<u8>>,
    deflate: Compress,
}

impl Stream {
    pub fn new(shape: Shape, seed: u64) -> Self {
        Self {
            shape,
            random: Random::new(seed),
            pending: Vec::new(),
            taken: 0,
            position: 0,
            heads: VecDeque::new(),
            counter: seed as u32,
            until_ping: 5,
            ping: None,
            deflate: Compress::new(Compression::fast(), false),
        }
    }

    /// The next segment, and the position in the stream at which it begins.
    pub fn segment(&mut self) -> (Vec<u8>, u64) {
        while self.pending.len() - self.taken
            < match self.shape.writes {
                Writes::Each => 1,
                Writes::Bulk => SEGMENT,
            }
        {
            self.pending.drain(..self.taken);
            self.taken = 0;
            self.frame();
        }
        let len = (self.pending.len() - self.taken).min(SEGMENT);
        let segment = self.pending[self.taken..self.taken + len].to_vec();
        let at = self.position;
        self.taken += len;
        self.position += len as u64;
        (segment, at)
    }

    /// Headers whose last byte is before the next segment.
    pub fn heads(&mut self) -> impl Iterator<Item = (Range<u64>, Head)> {
        let n = (self.heads.iter()).take_while(|(at, _)| at.end <= self.position);
        let n = n.count();
        self.heads.drain(..n)
    }

    /// Whether a header begins in the last segment, which had `len` bytes.
    pub fn begins_header(&self, len: usize) -> bool {
        let segment = self.position - len as u64..self.position;
        (self.heads.iter()).any(|(at, _)| segment.contains(&at.start))
    }

    /// The ping that is answered by what comes next.
    pub fn take_ping(&mut self) -> Option<Vec<u8>> {
        self.ping.take()
    }

    fn frame(&mut self) {
        if self.shape.pings {
            self.until_ping -= 1;
            if self.until_ping == 0 {
                self.until_ping = 3 + self.random.below(8);
                let mut payload = vec![0; self.random.below(9) as usize];
                self.random.fill(&mut payload);
                self.put(0x8a, &payload);
                self.ping = Some(payload);
                return;
            }
        }
        let size = match self.shape.size {
            Size::Of(size) => size,
            Size::Any(sizes) => self.random.of(sizes),
            Size::Between(low, high) => {
                let octaves = (high / low).ilog2();
                let low = low << self.random.below(u64::from(octaves));
                low + self.random.below(low as u64) as usize
            }
            Size::Natural => 0,
        };
        let mut payload = Vec::with_capacity(size + 64);
        loop {
            self.append(&mut payload, size);
            if payload.len() >= size {
                break;
            }
        }
        let text = matches!(
            self.shape.content,
            Content::Cyrillic | Content::Json | Content::SameJson
        );
        if size > 0 && text {
            payload.truncate(size);
            while std::str::from_utf8(&payload).is_err() {
                payload.pop();
            }
        } else if size > 0 && self.shape.content != Content::Deflated {
            payload.truncate(size);
        }
        let first = match self.shape.content {
            Content::Cyrillic | Content::Json | Content::SameJson => 0x81,
            Content::Deflated => 0xc1,
            _ => 0x82,
        };
        self.put(first, &payload);
    }

    /// Adds to a payload that is to have `size` bytes.
    fn append(&mut self, payload: &mut Vec<u8>, size: usize) {
        let random = &mut self.random;
        match self.shape.content {
            Content::Random => {
                payload.resize(size, 0);
                random.fill(payload);
            }
            Content::Zeros => payload.resize(size, 0),
            Content::Counters => {
                while payload.len() < size {
                    payload.extend(self.counter.to_le_bytes());
                    self.counter = self.counter.wrapping_add(1);
                }
            }
            Content::Records => {
                payload.extend(self.counter.to_le_bytes());
                self.counter = self.counter.wrapping_add(1);
                payload.extend((100.0 + random.below(10_000) as f64 / 100.0).to_le_bytes());
                payload.resize(payload.len() + 28, 0);
                payload.extend([0x82, 0x64, 7, 0, 1, 0, 0, 0]);
                payload.extend(b"EURUSD  XFRA    ");
                payload.extend([0x82, 0x64, 0x81, 0x7d, 0x82, 0x29, 0x81, 0x64]);
                payload.extend((random.below(500) as u32).to_le_bytes());
                payload.resize(payload.len() + 24, 0x20);
            }
            Content::SameJson => payload.extend(
                br#"{"type":"tick","symbol":"EURUSD","bid":1.08123,"ask":1.08127,"venue":"XFRA"}"#,
            ),
            Content::Json => payload.extend(json(random).bytes()),
            Content::Cyrillic => {
                let n = 4 + random.below(12);
                for _ in 0..n {
                    payload.extend(random.of(WORDS).bytes());
                    payload.extend(random.of(&[" ", " ", " ", " ", ", ", ". ", "\n"]).bytes());
                }
            }
            Content::Protobuf => {
                let n = 3 + random.below(5) as u8;
                for field in 1..=n {
                    if field % 3 == 0 {
                        let text =
                            random.of(&["state", "eu-west-1", "ok", "sensor/12", "degraded"]);
                        payload.extend([field << 3 | 2, text.len() as u8]);
                        payload.extend(text.bytes());
                    } else {
                        payload.push(field << 3);
                        let bits = random.below(35);
                        varint(payload, random.below(1 << bits));
                    }
                }
            }
            Content::Deflated => {
                let mut text = String::new();
                while text.is_empty() || text.len() < 3 * size {
                    text += &json(random);
                }
                let mut out = Vec::with_capacity(text.len() + 64);
                // The memory is enough, so it succeeds.
                let _ = (self.deflate).compress_vec(text.as_bytes(), &mut out, FlushCompress::Sync);
                // RFC 7692, section 7.2.1.
                out.truncate(out.len().saturating_sub(4));
                payload.extend(out);
                payload.resize(payload.len().max(size), 0);
            }
        }
    }

    fn put(&mut self, first: u8, payload: &[u8]) {
        let start = self.position + (self.pending.len() - self.taken) as u64;
        let begins = self.pending.len();
        let len = payload.len();
        let mask = self
            .shape
            .masked
            .then(|| (self.random.next() as u32).to_be_bytes());
        let bit = u8::from(self.shape.masked) << 7;
        self.pending.push(first);
        match len {
            0..=125 => self.pending.push(bit | len as u8),
            126..=0xffff => {
                self.pending.push(bit | 126);
                self.pending.extend((len as u16).to_be_bytes());
            }
            _ => {
                self.pending.push(bit | 127);
                self.pending.extend((len as u64).to_be_bytes());
            }
        }
        self.pending.extend(mask.into_iter().flatten());
        let header = (self.pending.len() - begins) as u64;
        let from = self.pending.len();
        self.pending.extend(payload);
        if let Some(mask) = mask {
            unmask(&mut self.pending[from..], mask, 0);
        }
        let head = Head {
            opcode: Opcode::from_bits(first),
            rsv: (first >> 4) & 7,
            mask,
            len: len as u64,
        };
        self.heads.push_back((start..start + header, head));
    }
}

fn json(random: &mut Random) -> String {
    let kind = random.of(&["tick", "trade", "book", "heartbeat", "status"]);
    let mut text = format!(
        r#"{{"type":"{kind}","seq":{},"price":{}.{:02}"#,
        random.below(1 << 30),
        random.below(5000),
        random.below(100)
    );
    for _ in 0..random.below(4) {
        let key = random.of(&["venue", "side", "user", "room", "note"]);
        let value = random.of(&["XFRA", "buy", "sell", "anna", "general", "see you at noon"]);
        text += &format!(r#","{key}":"{value}""#);
    }
    text + "}"
}

fn varint(bytes: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        bytes.push(n as u8 | 0x80);
        n >>= 7;
    }
    bytes.push(n as u8);
}

/// The most common words of Russian, and some that end in letters whose last byte looks like the
/// first of a header.
const WORDS: &[&str] = &[
    "и",
    "в",
    "не",
    "он",
    "на",
    "я",
    "что",
    "тот",
    "быть",
    "с",
    "а",
    "весь",
    "это",
    "как",
    "она",
    "по",
    "но",
    "они",
    "к",
    "у",
    "ты",
    "из",
    "мы",
    "за",
    "вы",
    "так",
    "же",
    "от",
    "сказать",
    "этот",
    "который",
    "мочь",
    "человек",
    "о",
    "один",
    "ещё",
    "бы",
    "такой",
    "только",
    "себя",
    "своё",
    "какой",
    "когда",
    "уже",
    "для",
    "вот",
    "кто",
    "да",
    "говорить",
    "год",
    "знать",
    "мой",
    "до",
    "или",
    "если",
    "время",
    "рука",
    "нет",
    "самый",
    "ни",
    "стать",
    "большой",
    "даже",
    "другой",
    "наш",
    "свой",
    "ну",
    "под",
    "где",
    "дело",
    "есть",
    "сам",
    "раз",
    "чтобы",
    "два",
    "там",
    "чем",
    "глаз",
    "жизнь",
    "первый",
    "день",
    "тут",
    "ничто",
    "потом",
    "очень",
    "хотеть",
    "ли",
    "при",
    "голова",
    "надо",
    "без",
    "видеть",
    "идти",
    "теперь",
    "тоже",
    "стоять",
    "друг",
    "дом",
    "сейчас",
    "можно",
    "после",
    "слово",
    "здесь",
    "думать",
    "место",
    "спросить",
    "через",
    "лицо",
    "вопрос",
    "нас",
    "вас",
    "час",
    "лес",
    "ответ",
    "свет",
    "совет",
    "лет",
    "мир",
    "вечер",
    "разговор",
    "ваш",
    "врач",
    "товарищ",
    "борщ",
];
