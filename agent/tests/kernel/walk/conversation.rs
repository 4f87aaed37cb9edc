//! Both byte streams of a connection, and who sends what when: a handshake and frames, by the rules
//! and against them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha1::{Digest as _, Sha1};

use super::random::Random;

/// Index of an end, and of what it sends.
pub const CLIENT: usize = 0;
/// As [`CLIENT`].
pub const SERVER: usize = 1;

/// The path that is asked for where nothing is missing, not even for a time.
pub const PATH: &str = "/walk";
/// As [`PATH`], and as long, where something may be.
const WAITING_PATH: &str = "/wait";
/// What everybody listens at.
const PORT: u16 = 8080;
/// A connection of more bytes in one direction is none for small segments.
const SHORT: usize = 3000;
/// Beyond, no more is said in a connection.
const LONG: usize = 300_000;

/// Bytes that one end sends at once.
#[derive(Clone, Debug)]
pub struct Turn {
    /// Who.
    pub side: usize,
    /// Up to where in its stream.
    pub end: usize,
    /// It depends on all that came before.
    pub answers: bool,
}

/// How a connection ends at the level of TCP.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    /// Not at all.
    Open,
    /// This side first, then the other.
    Fin(usize),
    /// By a reset of this side.
    Reset(usize),
}

/// One connection.
#[derive(Clone, Debug)]
pub struct Conversation {
    /// Client and server.
    pub ends: [SocketAddr; 2],
    /// What each sends.
    pub streams: [Vec<u8>; 2],
    /// In what order.
    pub turns: Vec<Turn>,
    /// Its end.
    pub end: End,
    /// It began before anybody looked.
    pub midstream: bool,
    /// Where in each stream its frames begin.
    pub opened: [usize; 2],
    /// Stretches of each stream that lie within a payload.
    pub payloads: [Vec<(usize, usize)>; 2],
}

impl Conversation {
    /// The `n`th of a run; the generator decides what it is like.
    pub fn new(n: u16, random: &mut Random) -> Self {
        let v6 = random.of_thousand(250);
        let host = |last: u8| -> IpAddr {
            if v6 {
                Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, last.into()).into()
            } else {
                Ipv4Addr::new(10, 99, 0, last).into()
            }
        };
        let mut this = Self {
            ends: [
                SocketAddr::new(host(1), 1024 + n),
                SocketAddr::new(host(2), PORT),
            ],
            streams: [Vec::new(), Vec::new()],
            turns: Vec::new(),
            end: End::Open,
            midstream: random.of_thousand(70),
            opened: [0; 2],
            payloads: [Vec::new(), Vec::new()],
        };
        let compresses = random.of_thousand(250);
        if !this.midstream {
            this.shake_hands(n, compresses, random);
        }
        this.opened = [0, 1].map(|side| this.streams[side].len());
        this.talk(compresses, random);
        this
    }

    /// A handshake, a text each way and an ending by the book.
    pub fn plain(n: u16) -> Self {
        let mut this = Self::opened(n);
        this.each_says(&[
            (CLIENT, 0x81, b"Hello", None),
            (SERVER, 0x81, b"World", None),
            (CLIENT, 0x88, b"\x03\xe8", None),
            (SERVER, 0x88, b"\x03\xe8", None),
        ]);
        this
    }

    /// A handshake and a text each way, and nothing more. The ends are these.
    pub fn between(n: u16, ends: [SocketAddr; 2]) -> Self {
        let mut this = Self::opened(n);
        this.ends = ends;
        this.each_says(&[
            (CLIENT, 0x81, b"Hello", None),
            (SERVER, 0x81, b"World", None),
        ]);
        this.end = End::Open;
        this
    }

    /// A handshake, and each ends within the payload of a frame with this first byte.
    pub fn cut_off(n: u16, first: u8) -> Self {
        let mut this = Self::opened(n);
        this.each_says(&[
            (CLIENT, 0x81, b"Hello", None),
            (CLIENT, first, &[b'x'; 100], Some(1000)),
            (SERVER, first, &[b'x'; 100], Some(1000)),
        ]);
        this
    }

    /// A handshake, and of a frame of the server that says that it is enormous no more than the beginning.
    pub fn enormous(n: u16) -> Self {
        let mut this = Self::opened(n);
        this.each_says(&[(SERVER, 0x82, &[b'x'; 5000], Some(1 << 32))]);
        this.end = End::Fin(CLIENT);
        this
    }

    /// A handshake, `frames` of the server, and a reset.
    pub fn reset(n: u16, frames: usize) -> Self {
        let mut this = Self::opened(n);
        this.each_says(&vec![(SERVER, 0x82, &[b'x'; 20][..], None); frames]);
        this.end = End::Reset(SERVER);
        this
    }

    /// Something may be missing for a time: shows in the path that is asked for.
    pub fn may_wait(&mut self) {
        let requests = &mut self.streams[CLIENT][..self.opened[CLIENT]];
        let path = format!("{PATH} ");
        let found = (requests.windows(path.len())).position(|at| at == path.as_bytes());
        if let Some(at) = found {
            requests[at..][..PATH.len()].copy_from_slice(WAITING_PATH.as_bytes());
        }
    }

    fn each_says(&mut self, frames: &[(usize, u8, &[u8], Option<u64>)]) {
        let mut random = Random::new(0);
        for &(side, first, payload, declared) in frames {
            let mut bytes = Vec::new();
            let mut frame = Frame::new(side, first, payload.to_vec());
            frame.declared = declared;
            frame.write(&mut bytes, &mut random);
            self.say(side, &bytes, true);
        }
    }

    /// A handshake, and an end.
    fn opened(n: u16) -> Self {
        let mut this = Self {
            ends: [
                SocketAddr::new(Ipv4Addr::new(10, 99, 0, 3).into(), 1024 + n),
                SocketAddr::new(Ipv4Addr::new(10, 99, 0, 2).into(), PORT),
            ],
            streams: [Vec::new(), Vec::new()],
            turns: Vec::new(),
            end: End::Fin(SERVER),
            midstream: false,
            opened: [0; 2],
            payloads: [Vec::new(), Vec::new()],
        };
        let (request, response) = handshake(n, "/plain", false);
        this.say(CLIENT, request.as_bytes(), true);
        this.say(SERVER, response.as_bytes(), true);
        this.opened = [0, 1].map(|side| this.streams[side].len());
        this
    }

    fn say(&mut self, side: usize, bytes: &[u8], answers: bool) {
        self.streams[side].extend_from_slice(bytes);
        let end = self.streams[side].len();
        self.turns.push(Turn { side, end, answers });
    }

    fn shake_hands(&mut self, n: u16, compresses: bool, random: &mut Random) {
        while random.of_thousand(200) {
            let request = format!(
                "GET /{} HTTP/1.1\r\nHost: walk.example\r\n\r\n",
                random.len(0..=99)
            );
            self.say(CLIENT, request.as_bytes(), true);
            let len = random.len(0..=3000);
            let body = String::from_utf8(random.text(len)).expect("printable characters");
            let response = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            self.say(SERVER, response.as_bytes(), true);
        }
        let (request, response) = handshake(n, PATH, compresses);
        self.say(CLIENT, request.as_bytes(), true);
        self.say(SERVER, response.as_bytes(), true);
    }

    fn talk(&mut self, compresses: bool, random: &mut Random) {
        let mut talkers = [0, 1].map(|side| Talker::new(side, compresses));
        // Rates of their own: most connections are quiet, some break rules all the time.
        let odd = random.one(&[0, 0, 0, 5, 50, 300]);
        let style = random.one(&[
            Style::Small,
            Style::Small,
            Style::Mixed,
            Style::Mixed,
            Style::Large,
        ]);
        let turns = random.up_to(1, &[4, 20, 60]);
        let begins = self.midstream.then_some(CLIENT);
        if !self.midstream && random.of_thousand(200) {
            // With the answer in one segment, where that is not cut.
            let side = SERVER;
            let frames = random.len(1..=5);
            self.frames(&mut talkers[side], frames, odd, style, random);
            let end = self.streams[side].len();
            if let Some(turn) = self.turns.last_mut() {
                turn.end = end;
            }
        }
        for turn in 0..turns {
            if self.streams.iter().any(|stream| stream.len() > LONG) {
                break;
            }
            let side = begins
                .filter(|_| turn == 0)
                .unwrap_or_else(|| random.len(0..=1));
            let frames = match style {
                Style::Small => random.up_to(1, &[1, 5, 400]),
                Style::Mixed => random.len(1..=4),
                Style::Large => 1,
            };
            self.frames(&mut talkers[side], frames, odd, style, random);
            let end = self.streams[side].len();
            self.turns.push(Turn {
                side,
                end,
                answers: turn == 0,
            });
        }
        if random.of_thousand(60) {
            self.never_filled(random);
        }
        self.finish(&mut talkers, random);
    }

    fn frames(
        &mut self,
        talker: &mut Talker,
        n: usize,
        odd: u64,
        style: Style,
        random: &mut Random,
    ) {
        let side = talker.side;
        for _ in 0..n {
            let frame = talker.frame(odd, style, random);
            let stream = &mut self.streams[side];
            let payload = frame.write(stream, random);
            self.payloads[side].push((payload, stream.len()));
        }
    }

    /// A frame that says that it is enormous, and of which little comes.
    fn never_filled(&mut self, random: &mut Random) {
        let side = random.len(0..=1);
        let len = random.one(&[
            1 << 31,
            (1 << 31) + 7,
            1 << 32,
            1 << 40,
            (1 << 63) - 1,
            1 << 63,
            u64::MAX,
        ]);
        let some = random.len(0..=200_000);
        let mut frame = Frame::new(side, 0x82, random.text(some));
        frame.declared = Some(len);
        let payload = frame.write(&mut self.streams[side], random);
        let end = self.streams[side].len();
        self.payloads[side].push((payload, end));
        self.turns.push(Turn {
            side,
            end,
            answers: false,
        });
    }

    fn finish(&mut self, talkers: &mut [Talker; 2], random: &mut Random) {
        let first = random.len(0..=1);
        let kind = random.len(0..=9);
        let closes = match kind {
            0..=4 => 2,
            5 => 1,
            _ => 0,
        };
        for side in [first, 1 - first].into_iter().take(closes) {
            let mut payload = match random.len(0..=9) {
                0 => Vec::new(),
                1 => vec![3],
                2 => random
                    .one(&[1004u16, 1005, 999, 5000, 0])
                    .to_be_bytes()
                    .to_vec(),
                _ => random
                    .one(&[1000u16, 1001, 1011, 3000, 4999])
                    .to_be_bytes()
                    .to_vec(),
            };
            if payload.len() == 2 {
                let len = random.up_to(0, &[0, 10, 123]);
                payload.extend(random.text(len));
            }
            let frame = Frame::new(side, 0x88, payload);
            frame.write(&mut self.streams[side], random);
            if random.of_thousand(100) {
                // After the close frame nobody may say anything.
                self.frames(&mut talkers[side], 1, 0, Style::Mixed, random);
            }
            let end = self.streams[side].len();
            self.turns.push(Turn {
                side,
                end,
                answers: true,
            });
        }
        self.end = match random.len(0..=9) {
            0..=5 => End::Fin(random.len(0..=1)),
            6 | 7 => End::Reset(random.len(0..=1)),
            _ => End::Open,
        };
    }

    /// The stream is too long to be sent in tiny segments.
    pub fn is_long(&self) -> bool {
        self.streams.iter().any(|stream| stream.len() > SHORT)
    }
}

/// Request and response; the key is of this connection alone.
fn handshake(n: u16, path: &str, compresses: bool) -> (String, String) {
    let mut key = *b"walked, or whole";
    key[..2].copy_from_slice(&n.to_be_bytes());
    let key = STANDARD.encode(key);
    let accept = Sha1::digest(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11"));
    let accept = STANDARD.encode(accept);
    let extension = if compresses {
        "Sec-WebSocket-Extensions: permessage-deflate\r\n"
    } else {
        ""
    };
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: walk.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n{extension}\r\n"
    );
    let response = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{extension}\r\n"
    );
    (request, response)
}

/// What sizes frames have.
#[derive(Clone, Copy, Debug)]
enum Style {
    Small,
    Mixed,
    Large,
}

/// A frame as it is to be sent.
#[derive(Debug)]
struct Frame {
    first: u8,
    masked: bool,
    payload: Vec<u8>,
    /// A length other than the payload's.
    declared: Option<u64>,
    /// The least that its length takes: 0, 2 or 8 bytes.
    extended: usize,
}

impl Frame {
    fn new(side: usize, first: u8, payload: Vec<u8>) -> Self {
        Self {
            first,
            masked: side == CLIENT,
            payload,
            declared: None,
            extended: 0,
        }
    }

    /// Writes it; where its payload begins.
    fn write(&self, to: &mut Vec<u8>, random: &mut Random) -> usize {
        let len = self.declared.unwrap_or(self.payload.len() as u64);
        let mask = if self.masked { 0x80 } else { 0 };
        to.push(self.first);
        if len > 0xffff || self.extended == 8 {
            to.push(mask | 127);
            to.extend(len.to_be_bytes());
        } else if len > 125 || self.extended == 2 {
            to.push(mask | 126);
            to.extend((len as u16).to_be_bytes());
        } else {
            to.push(mask | len as u8);
        }
        let mut key = [0; 4];
        if self.masked {
            key = (random.bits() as u32).to_be_bytes();
            to.extend(key);
        }
        let at = to.len();
        to.extend(
            self.payload
                .iter()
                .zip(key.iter().cycle())
                .map(|(byte, key)| byte ^ key),
        );
        at
    }
}

/// One end, and the message that it is in.
#[derive(Debug)]
struct Talker {
    side: usize,
    compresses: bool,
    within: bool,
}

impl Talker {
    fn new(side: usize, compresses: bool) -> Self {
        Self {
            side,
            compresses,
            within: false,
        }
    }

    fn frame(&mut self, odd: u64, style: Style, random: &mut Random) -> Frame {
        let mut frame = if random.of_thousand(80) {
            let len = random.up_to(0, &[0, 4, 125]);
            Frame::new(self.side, random.one(&[0x89, 0x8a]), random.text(len))
        } else {
            self.data(style, random)
        };
        if random.of_thousand(odd) {
            match random.len(0..=9) {
                0 => frame.first |= random.one(&[0x40, 0x20, 0x10, 0x70]),
                1 => frame.first = frame.first & 0xf0 | random.one(&[3, 4, 7, 11, 12, 15]),
                2 => frame.masked = !frame.masked,
                3 => frame.extended = 2,
                4 => frame.extended = 8,
                5 => frame = Frame::new(self.side, random.one(&[0x09, 0x0a]), random.text(3)),
                6 => {
                    let len = random.len(126..=3000);
                    frame =
                        Frame::new(self.side, random.one(&[0x89, 0x8a, 0x8b]), random.text(len));
                }
                7 => frame.first &= 0xf0,
                8 => frame.first = frame.first & 0xf0 | 2,
                _ => frame.first ^= 0x80,
            }
            // Of the data frames the last word on whether a message is under way.
            let opcode = frame.first & 0x0f;
            if opcode == 1 || opcode == 2 || (opcode == 0 && self.within) {
                self.within = frame.first & 0x80 == 0;
            }
        }
        frame
    }

    fn data(&mut self, style: Style, random: &mut Random) -> Frame {
        let len = match style {
            Style::Small => random.up_to(0, &[0, 16, 64, 125]),
            Style::Mixed => match random.len(0..=9) {
                0..=4 => random.len(0..=125),
                5 | 6 => random.len(126..=2000),
                7 => random.one(&[125, 126, 127, 128, 1000, 1024]),
                8 => random.len(2000..=20_000),
                _ => random.one(&[0xfffe, 0xffff, 0x1_0000, 0x1_0001]),
            },
            Style::Large => random.len(10_000..=150_000),
        };
        let fin = !random.of_thousand(150);
        let mut first = if self.within { 0 } else { random.one(&[1, 2]) };
        if fin {
            first |= 0x80;
        }
        if self.compresses && !self.within && random.of_thousand(600) {
            first |= 0x40;
        }
        self.within = !fin;
        Frame::new(self.side, first, random.text(len))
    }
}
