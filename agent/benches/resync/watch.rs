//! A connection of which an observer sees some segments, and what it made of them.

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use wstap::proto::{
    event::EventKind,
    flow::Direction,
    observer::{Config, Observer},
    segment::{Segment, TcpFlags, Window},
    seq::SeqNumber,
    time::Timestamp,
};

use crate::traffic::{Content, Head, Shape, Size, Stream, Writes};

/// RFC 6455, section 1.2.
const REQUEST: &[u8] = b"GET /chat HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n";

/// RFC 6455, section 1.2.
const RESPONSE: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
    Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n";

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const CLIENT: usize = 0;
const SERVER: usize = 1;

/// What the observer is not shown.
#[derive(Clone, Copy, Debug)]
pub struct Loss {
    /// Segments in a row, the first of them with a header in it.
    pub segments: usize,
    /// The other direction is seen.
    pub both: bool,
    /// Nothing before the first segment that is seen, nor the handshake.
    pub midstream: bool,
}

/// How far a search goes on before it counts as failed.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    pub frames: u64,
    pub bytes: u64,
}

/// What came of a loss.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    pub synced: bool,
    /// Frames behind the loss that were never reported.
    pub lost: u64,
    /// Frames that had begun behind the loss when it was known where they are.
    pub waited: u64,
    /// Something was taken for a frame that is none.
    pub wrong: bool,
}

/// Two peers, and an observer.
pub struct Watch {
    shape: Shape,
    stream: Stream,
    observer: Observer,
    next: [SeqNumber; 2],
    now: Timestamp,
    /// Frames sent: when their header was complete, unless a byte of it was not seen.
    sent: VecDeque<(Option<Timestamp>, Head)>,
    pub searched: u64,
}

impl Watch {
    /// With the handshake seen, or without.
    pub fn new(shape: Shape, seed: u64, handshake: bool) -> Self {
        let mut watch = Self {
            shape,
            stream: Stream::new(shape, seed),
            observer: Observer::new(Config {
                // What a search costs is measured, and it ends with what is waited for.
                max_searched: u64::MAX,
                ..Config::default()
            }),
            next: [SeqNumber(seed as u32), SeqNumber((seed >> 16) as u32)],
            now: Timestamp(1_000_000_000),
            sent: VecDeque::new(),
            searched: 0,
        };
        if handshake {
            watch.handshake();
        }
        watch
    }

    fn handshake(&mut self) {
        self.send(CLIENT, SYN, &[]);
        self.send(SERVER, SYN | ACK, &[]);
        self.send(CLIENT, ACK, &[]);
        self.send(CLIENT, ACK, REQUEST);
        self.send(SERVER, ACK, RESPONSE);
        while self.observer.poll_event().is_some() {}
        while self.observer.poll_verdict().is_some() {}
    }

    /// Loses a header, and goes on until the observer knows again where frames are, or for as long
    /// as `patience` has it.
    pub fn lose(&mut self, loss: Loss, patience: Patience) -> Outcome {
        let mut outcome = Outcome::default();
        if !loss.midstream {
            self.go_on(&mut outcome);
        }
        let mut behind = self.reach_header(loss, &mut outcome);
        if !loss.midstream {
            for _ in 1..loss.segments {
                behind = self.skip();
            }
        }
        let (mut frames, mut bytes, mut first) = (0, 0, true);
        while frames < patience.frames || bytes < patience.bytes {
            let (segment, _) = self.stream.segment();
            bytes += segment.len() as u64;
            if loss.both {
                self.answer();
            }
            self.deliver(&segment);
            let ts = self.now;
            if std::mem::take(&mut first) && !loss.midstream {
                self.give_up();
            }
            for (header, head) in self.stream.heads() {
                let seen = header.start >= behind;
                frames += u64::from(seen);
                self.sent.push_back((seen.then_some(ts), head));
            }
            let (synced, wrong, lost) = self.check();
            if synced || wrong {
                self.searched += bytes;
                outcome.synced = synced && !wrong;
                outcome.wrong |= wrong;
                outcome.lost = lost;
                outcome.waited = frames;
                return outcome;
            }
        }
        self.searched += bytes;
        outcome.lost = frames;
        outcome.waited = frames;
        outcome
    }

    /// Goes on up to a segment in which a header begins, and keeps that from the observer. The
    /// position behind.
    fn reach_header(&mut self, loss: Loss, outcome: &mut Outcome) -> u64 {
        loop {
            let (segment, at) = self.stream.segment();
            let behind = at + segment.len() as u64;
            let begins = self.stream.begins_header(segment.len());
            let shown = !begins && !loss.midstream;
            if shown {
                self.deliver(&segment);
            } else {
                self.pass(segment.len());
            }
            for (_, head) in self.stream.heads() {
                self.sent.push_back((shown.then_some(self.now), head));
            }
            if begins {
                return behind;
            }
            outcome.wrong |= self.check().1;
        }
    }

    /// Shows a segment: in bulk, what is lost is never the first.
    fn go_on(&mut self, outcome: &mut Outcome) {
        let (segment, _) = self.stream.segment();
        self.deliver(&segment);
        let now = self.now;
        let heads = self.stream.heads().map(|(_, head)| (Some(now), head));
        self.sent.extend(heads);
        outcome.wrong |= self.check().1;
    }

    fn skip(&mut self) -> u64 {
        let (segment, at) = self.stream.segment();
        self.pass(segment.len());
        for (_, head) in self.stream.heads() {
            self.sent.push_back((None, head));
        }
        at + segment.len() as u64
    }

    /// Holds what the observer says against what was sent. Whether it is in sync again, whether it
    /// is wrong, and how many frames that it was shown it has left out.
    fn check(&mut self) -> (bool, bool, u64) {
        let direction = if self.shape.masked {
            Direction::ClientToServer
        } else {
            Direction::ServerToClient
        };
        let (mut synced, mut wrong, mut lost) = (false, false, 0);
        while let Some(event) = self.observer.poll_event() {
            match &event.kind {
                EventKind::Gap(gap) => synced |= gap.resynced && gap.direction == direction,
                EventKind::Frame(frame) if frame.direction == direction => {
                    synced = true;
                    let head = Head {
                        opcode: frame.opcode,
                        rsv: frame.rsv,
                        mask: frame.mask,
                        len: frame.len,
                    };
                    let found = (self.sent.iter())
                        .position(|(ts, sent)| *ts == Some(event.ts) && *sent == head);
                    match found {
                        Some(n) => {
                            let left_out = self.sent.drain(..=n).take(n);
                            lost += left_out.filter(|(ts, _)| ts.is_some()).count() as u64;
                        }
                        None => wrong = true,
                    }
                }
                _ => {}
            }
        }
        while self.observer.poll_verdict().is_some() {}
        (synced, wrong, lost)
    }

    /// The other side says something, or asks for a pong.
    fn answer(&mut self) {
        let masked = !self.shape.masked;
        let (first, payload) = match self.stream.take_ping() {
            Some(ping) => (0x89, ping),
            None => (0x82, b"received".to_vec()),
        };
        let mut frame = vec![first, payload.len() as u8 | if masked { 0x80 } else { 0 }];
        if masked {
            let key = (self.now.0 as u32).wrapping_mul(0x9e37_79b1).to_be_bytes();
            frame.extend(key);
            frame.extend(
                payload
                    .iter()
                    .zip(key.iter().cycle())
                    .map(|(byte, key)| byte ^ key),
            );
        } else {
            frame.extend(payload);
        }
        let other = if masked { CLIENT } else { SERVER };
        self.send(other, ACK, &frame);
    }

    fn deliver(&mut self, segment: &[u8]) {
        self.send(self.own(), ACK, segment);
    }

    fn pass(&mut self, len: usize) {
        let own = self.own();
        self.next[own] = self.next[own] + len as u32;
    }

    fn own(&self) -> usize {
        if self.shape.masked { CLIENT } else { SERVER }
    }

    /// What is missing has come to its receiver, and is not waited for any longer.
    fn give_up(&mut self) {
        self.send(1 - self.own(), ACK, &[]);
        self.now = self.now.saturating_add(Duration::from_secs(5));
        self.observer.handle_timeout(self.now);
    }

    fn send(&mut self, side: usize, flags: u8, bytes: &[u8]) {
        let client: SocketAddr = ([192, 0, 2, 7], 40_000).into();
        let server: SocketAddr = ([192, 0, 2, 1], 80).into();
        let (source, destination) = match side {
            CLIENT => (client, server),
            _ => (server, client),
        };
        if !bytes.is_empty() {
            self.now = self.now.saturating_add(Duration::from_micros(10));
        }
        let windows = [Window { offset: 0, bytes }];
        self.observer.handle_segment(&Segment {
            ts: self.now,
            source,
            destination,
            seq: self.next[side],
            ack: (flags & ACK != 0).then_some(self.next[1 - side]),
            flags: TcpFlags(flags),
            window: 1000,
            len: bytes.len() as u32,
            behind: 0,
            windows: if bytes.is_empty() { &[] } else { &windows },
            interface: None,
            scope: 0,
            epoch: 0,
        });
        self.next[side] = self.next[side] + bytes.len() as u32 + u32::from(flags & SYN != 0);
    }
}

/// A connection out of sync, that stays so.
pub struct Silent {
    watch: Watch,
    most: u64,
    syncs: u64,
}

impl Silent {
    /// The direction in which frames are `masked`, or the other one.
    pub fn new(masked: bool) -> Self {
        let shape = Shape {
            name: "",
            masked,
            content: Content::Random,
            size: Size::Natural,
            writes: Writes::Each,
            pings: false,
        };
        let mut watch = Watch::new(shape, 1, true);
        watch.pass(1000);
        watch.deliver(&[0xff; 16]);
        watch.give_up();
        Self {
            watch,
            most: 0,
            syncs: 0,
        }
    }

    /// Shows `bytes` to the search; where that is over, begins one anew.
    pub fn deliver(&mut self, bytes: &[u8]) {
        self.watch.deliver(bytes);
        let mut over = false;
        while let Some(event) = self.watch.observer.poll_event() {
            over |= matches!(&event.kind, EventKind::Gap(_));
        }
        while self.watch.observer.poll_verdict().is_some() {}
        if over {
            *self = Self {
                most: self.most,
                syncs: self.syncs + 1,
                ..Self::new(self.watch.shape.masked)
            };
        }
        self.most = self.most.max(self.watch.observer.stats().held);
    }

    /// How often something was taken for frames.
    pub fn syncs(&self) -> u64 {
        self.syncs
    }

    /// The most memory that was held.
    pub fn held(&self) -> u64 {
        self.most
    }
}
