//! One TCP connection, made of blocks of bytes that the two ends send by turns, cut into segments.
//!
//! Layout: blocks of one byte (bit 7: from the server; the others say how it is cut) and a run.

use std::collections::VecDeque;

use wstap::proto::{
    event::Event,
    observer::Config,
    segment::{Segment, TcpFlags, Window},
    seq::SeqNumber,
    time::Timestamp,
};

use crate::{input::Input, judge::Judge};

/// FIN.
pub const FIN: u8 = 0x01;
/// SYN.
pub const SYN: u8 = 0x02;
/// ACK.
pub const ACK: u8 = 0x10;

/// RFC 6455, section 1.2.
pub const REQUEST: &[u8] = b"GET /chat HTTP/1.1\r\nHost: server.example.com\r\n\
    Upgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: http://example.com\r\n\
    Sec-WebSocket-Protocol: chat, superchat\r\n\
    Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\
    Sec-WebSocket-Version: 13\r\n\r\n";

/// The answer to [`REQUEST`], without an extension.
pub const RESPONSE: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
    Sec-WebSocket-Protocol: chat\r\n\r\n";

/// The answer to [`REQUEST`], with permessage-deflate.
pub const DEFLATING: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
    Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n";

/// All segments pass at the same time: what is measured in time is the same however one cuts.
const NOW: Timestamp = Timestamp(1_000_000_000);

/// How the blocks become segments.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum How {
    /// One segment each.
    Whole,
    /// Several, of any size.
    Cut,
    /// The same out of order, and some of them twice.
    Shuffled,
}

/// A TCP connection that is observed.
pub struct Conversation {
    judge: Judge,
    next: [SeqNumber; 2],
}

impl Conversation {
    /// A connection with its SYNs.
    pub fn new(config: Config, how: How) -> Self {
        let judge = match how {
            How::Whole => Judge::new(config, true),
            How::Cut | How::Shuffled => Judge::again(config),
        };
        let mut conversation = Self {
            judge,
            next: [SeqNumber(u32::MAX - 100), SeqNumber(7)],
        };
        conversation.segment(0, SYN, &[]);
        conversation.segment(1, SYN | ACK, &[]);
        conversation.segment(0, ACK, &[]);
        conversation
    }

    /// `side` (0 the client, 1 the server) sends `bytes` in segments of the sizes that `cut` gives.
    pub fn send(&mut self, side: usize, bytes: &[u8], mut cut: impl FnMut() -> usize) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (segment, after) = rest.split_at(cut().clamp(1, rest.len()));
            self.segment(side, ACK, segment);
            rest = after;
        }
    }

    /// As [`Self::send`], in an order that `pick` gives: one of the next few segments, and now and
    /// then one again.
    fn shuffle(&mut self, side: usize, bytes: &[u8], mut pick: impl FnMut() -> u32) {
        let first = self.next[side];
        let mut waiting = VecDeque::new();
        let mut at = 0;
        while at < bytes.len() || !waiting.is_empty() {
            while at < bytes.len() && waiting.len() < 8 {
                let end = bytes.len().min(at + size(pick()));
                waiting.push_back((at, end));
                at = end;
            }
            let picked = pick();
            let place = picked as usize % waiting.len();
            let taken = if picked >> 30 == 0 {
                waiting.get(place).copied()
            } else {
                waiting.remove(place)
            };
            let Some((from, to)) = taken else { return };
            self.next[side] = first + from as u32;
            self.segment(side, ACK, &bytes[from..to]);
        }
        self.next[side] = first + bytes.len() as u32;
    }

    /// Both sides finish. All events.
    pub fn end(mut self) -> Vec<Event> {
        self.segment(0, FIN | ACK, &[]);
        self.segment(1, FIN | ACK, &[]);
        self.judge.finish(NOW)
    }

    fn segment(&mut self, side: usize, flags: u8, bytes: &[u8]) {
        let ends = [([192, 0, 2, 7], 40_000).into(), ([192, 0, 2, 1], 80).into()];
        let window = [Window { offset: 0, bytes }];
        self.judge.observer.handle_segment(&Segment {
            ts: NOW,
            source: ends[side],
            destination: ends[1 - side],
            seq: self.next[side],
            ack: (flags & ACK != 0).then_some(self.next[1 - side]),
            flags: TcpFlags(flags),
            window: 1000,
            len: bytes.len() as u32,
            behind: 0,
            windows: if bytes.is_empty() { &[] } else { &window },
            interface: None,
            scope: 0,
            epoch: 0,
        });
        let more = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
        self.next[side] = self.next[side] + (bytes.len() as u32 + more);
        self.judge.look();
    }
}

/// Plays the blocks of `input`.
pub fn play(conversation: &mut Conversation, mut input: Input<'_>, how: How) {
    // A plain generator.
    let mut state = 0u32;
    while !input.is_empty() {
        let head = input.u8();
        let (side, bytes) = (usize::from(head >> 7), input.run());
        state = state.wrapping_add(u32::from(head & 0x7f));
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state
        };
        match how {
            How::Whole => conversation.send(side, bytes, || usize::MAX),
            How::Cut => conversation.send(side, bytes, || size(next())),
            How::Shuffled => conversation.shuffle(side, bytes, next),
        }
    }
}

/// A size of a segment: mostly a small one, so that headers are cut.
fn size(random: u32) -> usize {
    let rest = (random >> 16) as usize;
    1 + match random >> 30 {
        0 => 0,
        1 => rest % 7,
        2 => rest % 60,
        _ => rest % 1500,
    }
}
