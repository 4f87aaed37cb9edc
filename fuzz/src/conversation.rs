//! One TCP connection, made of blocks of bytes that the two ends send by turns, cut into segments.
//!
//! Layout: blocks of one byte (bit 7: from the server; the others say how it is cut) and a run.

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

/// A TCP connection that is observed.
pub struct Conversation {
    judge: Judge,
    next: [SeqNumber; 2],
}

impl Conversation {
    /// A connection with its SYNs.
    pub fn new(config: Config) -> Self {
        let mut conversation = Self {
            judge: Judge::new(config, true),
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

/// Plays the blocks of `input`: each in one piece, or cut.
pub fn play(conversation: &mut Conversation, mut input: Input<'_>, cut: bool) {
    // A plain generator of sizes: mostly small ones, so that headers are cut.
    let mut state = 0u32;
    while !input.is_empty() {
        let head = input.u8();
        let bytes = input.run();
        state = state.wrapping_add(u32::from(head & 0x7f));
        conversation.send(usize::from(head >> 7), bytes, || {
            if !cut {
                return usize::MAX;
            }
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            match state >> 30 {
                0 => 1,
                1 => 1 + (state >> 16) as usize % 7,
                2 => 1 + (state >> 16) as usize % 60,
                _ => 1 + (state >> 16) as usize % 1500,
            }
        });
    }
}
