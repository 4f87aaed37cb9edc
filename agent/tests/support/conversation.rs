//! A WebSocket connection by the book, as a capture file: for tests that need one to read.

use std::{fs, net::SocketAddr, path::PathBuf};

use etherparse::TcpHeader;
use tempfile::TempDir;

use crate::pcap::{Magic, Order, Pcap, ethernet, ip, tcp};

/// 2026-03-01T09:05:07Z, in nanoseconds.
const START: u64 = 1_772_355_907_000_000_000;

/// The handshake of RFC 6455, section 1.2.
const REQUEST: &str = "GET /chat?room=1 HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Origin: http://example.com\r\nSec-WebSocket-Protocol: chat, superchat\r\n\
    Sec-WebSocket-Version: 13\r\n\r\n";
const RESPONSE: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
    Sec-WebSocket-Protocol: chat\r\n\r\n";

/// Both directions of a TCP connection, written to a capture a millisecond a segment.
pub struct Conversation {
    pub pcap: Pcap,
    now: u64,
    ends: [SocketAddr; 2],
    next: [u32; 2],
}

pub const CLIENT: usize = 0;
pub const SERVER: usize = 1;

impl Conversation {
    pub fn new() -> Self {
        let mut conversation = Self {
            pcap: Pcap::new(Order::Little, Magic::Nanoseconds, 1),
            now: START,
            ends: [
                "192.0.2.1:40000".parse().unwrap(),
                "192.0.2.2:80".parse().unwrap(),
            ],
            next: [1000, u32::MAX - 100],
        };
        conversation.segment(CLIENT, b"", |header| {
            (header.syn, header.ack) = (true, false);
        });
        conversation.segment(SERVER, b"", |header| header.syn = true);
        conversation.segment(CLIENT, b"", |_| {});
        conversation
    }

    pub fn open() -> Self {
        let mut conversation = Self::new();
        conversation.send(CLIENT, REQUEST.as_bytes());
        conversation.send(SERVER, RESPONSE.as_bytes());
        conversation
    }

    /// The conversation that most tests read: two messages, a ping and its pong, a clean end.
    pub fn whole() -> Self {
        let mut conversation = Self::open();
        conversation.send(CLIENT, &masked(0x81, "Hello, \u{4e16}\u{1b}[2J".as_bytes()));
        conversation.send(SERVER, &[&[0x82, 126, 1, 0][..], &[0xee; 256]].concat());
        conversation.send(SERVER, b"\x89\x02hb");
        conversation.send(CLIENT, &masked(0x8a, b"hb"));
        conversation.send(SERVER, b"\x88\x05\x03\xe9bye");
        conversation.send(CLIENT, &masked(0x88, b"\x03\xe9"));
        conversation.segment(SERVER, b"", |header| header.fin = true);
        conversation.segment(CLIENT, b"", |header| header.fin = true);
        conversation.segment(SERVER, b"", |_| {});
        conversation
    }

    pub fn send(&mut self, from: usize, payload: &[u8]) {
        self.segment(from, payload, |header| header.psh = true);
    }

    pub fn segment(&mut self, from: usize, payload: &[u8], flags: impl Fn(&mut TcpHeader)) {
        let (source, destination) = (self.ends[from], self.ends[1 - from]);
        let seq = self.next[from];
        let mut header = TcpHeader::new(source.port(), destination.port(), seq, 0x2000);
        header.ack = true;
        header.acknowledgment_number = self.next[1 - from];
        flags(&mut header);
        let len = payload.len() as u32 + u32::from(header.syn) + u32::from(header.fin);
        self.next[from] = seq.wrapping_add(len);
        let packet = ip(source.ip(), destination.ip(), &tcp(&header, payload));
        self.pcap.packet(self.now, &ethernet(&packet));
        self.now += 1_000_000;
    }

    pub fn write(&self) -> Capture {
        Capture::of(&self.pcap.bytes())
    }
}

/// A frame as a client sends it, of at most 125 bytes.
pub fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x12, 0x34, 0x56, 0x78];
    let mut frame = vec![first, 0x80 | payload.len() as u8];
    frame.extend(mask);
    frame.extend(
        payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, key)| byte ^ key),
    );
    frame
}

/// A file that goes when the test is over.
pub struct Capture {
    _dir: TempDir,
    path: PathBuf,
}

impl Capture {
    pub fn of(bytes: &[u8]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.pcap");
        fs::write(&path, bytes).unwrap();
        Self { _dir: dir, path }
    }

    pub fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }
}
