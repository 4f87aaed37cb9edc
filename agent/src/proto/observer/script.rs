//! Conversations for tests: what a client and a server send, as segments that an observer is shown.

use std::{fmt::Write as _, net::SocketAddr, time::Duration};

use crate::proto::{
    event::{Event, EventKind},
    flow::{Direction, Role},
    frame::unmask,
    observer::{Config, Decision, Observer},
    segment::{Segment, TcpFlags, Window},
    seq::SeqNumber,
    time::Timestamp,
    walk::Sample,
};

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;

/// The masking key of the examples in RFC 6455, section 5.7.
pub(crate) const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// RFC 6455, section 1.2.
pub(crate) const REQUEST: &str = "GET /chat HTTP/1.1\r\nHost: server.example.com\r\n\
    Upgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: http://example.com\r\n\
    Sec-WebSocket-Protocol: chat, superchat\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// RFC 6455, section 1.2.
pub(crate) const RESPONSE: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
    Sec-WebSocket-Protocol: chat\r\n\r\n";

/// A frame as a peer sends it: its first byte, masked or not.
pub(crate) fn frame(first: u8, mask: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(first, mask, payload.len() as u64);
    let at = bytes.len();
    bytes.extend_from_slice(payload);
    if let Some(mask) = mask {
        unmask(&mut bytes[at..], mask, 0);
    }
    bytes
}

/// A frame's header, with the length as short as it can be.
pub(crate) fn header(first: u8, mask: Option<[u8; 4]>, len: u64) -> Vec<u8> {
    let bit = if mask.is_some() { 0x80 } else { 0 };
    let mut bytes = vec![first];
    match len {
        0..=125 => bytes.push(bit | len as u8),
        126..=0xffff => {
            bytes.push(bit | 126);
            bytes.extend_from_slice(&(len as u16).to_be_bytes());
        }
        _ => {
            bytes.push(bit | 127);
            bytes.extend_from_slice(&len.to_be_bytes());
        }
    }
    bytes.extend(mask.into_iter().flatten());
    bytes
}

/// A client's frame.
pub(crate) fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    frame(first, Some(KEY), payload)
}

/// A server's frame.
pub(crate) fn plain(first: u8, payload: &[u8]) -> Vec<u8> {
    frame(first, None, payload)
}

/// Payload of a close frame.
pub(crate) fn close_body(code: u16, reason: &str) -> Vec<u8> {
    [&code.to_be_bytes(), reason.as_bytes()].concat()
}

/// One TCP connection, shown to an observer. Each segment comes a millisecond after the one before.
pub(crate) struct Script {
    pub observer: Observer,
    pub client: SocketAddr,
    pub server: SocketAddr,
    pub scope: u32,
    pub epoch: u32,
    /// Next sequence numbers of client and server.
    pub next: [SeqNumber; 2],
    pub now: Timestamp,
    /// Captured bytes of each segment.
    pub snap: usize,
    /// What accompanies each segment.
    pub sample: Sample,
}

impl Script {
    pub fn new(config: Config) -> Self {
        Self {
            observer: Observer::new(config),
            client: ([192, 0, 2, 7], 40_000).into(),
            server: ([192, 0, 2, 1], 80).into(),
            scope: 0,
            epoch: 0,
            next: [SeqNumber(u32::MAX - 100), SeqNumber(7)],
            now: Timestamp(1_000_000_000),
            snap: usize::MAX,
            sample: Sample::default(),
        }
    }

    /// A connection whose handshakes, TCP's and WebSocket's, were seen. Their events are gone.
    pub fn accepted(config: Config) -> Self {
        let mut script = Self::new(config);
        script.connect();
        script.client(REQUEST.as_bytes());
        script.server(RESPONSE.as_bytes());
        assert_eq!(script.lines(), ["handshake accepted 101 /chat"]);
        script
    }

    /// The same with these extensions offered and agreed on.
    pub fn agreed(config: Config, offered: &str, response: &str) -> Self {
        let with = |head: &str, extensions: &str| {
            let line = format!("\r\nSec-WebSocket-Extensions: {extensions}\r\n\r\n");
            head.replace("\r\n\r\n", &line)
        };
        let mut script = Self::new(config);
        script.connect();
        script.client(with(REQUEST, offered).as_bytes());
        script.server(with(RESPONSE, response).as_bytes());
        assert_eq!(script.lines(), ["handshake accepted 101 /chat"]);
        script
    }

    /// The same with permessage-deflate, without parameters.
    pub fn with_deflate(config: Config) -> Self {
        Self::agreed(config, "permessage-deflate", "permessage-deflate")
    }

    /// SYN, SYN|ACK, ACK.
    pub fn connect(&mut self) {
        self.segment(Role::Client, SYN, &[]);
        self.segment(Role::Server, SYN | ACK, &[]);
        self.segment(Role::Client, ACK, &[]);
    }

    pub fn client(&mut self, bytes: &[u8]) {
        self.segment(Role::Client, ACK, bytes);
    }

    pub fn server(&mut self, bytes: &[u8]) {
        self.segment(Role::Server, ACK, bytes);
    }

    pub fn fin(&mut self, role: Role) {
        self.segment(role, FIN | ACK, &[]);
    }

    pub fn rst(&mut self, role: Role) {
        self.segment(role, RST | ACK, &[]);
    }

    /// `role` sends bytes that nobody sees.
    pub fn lose(&mut self, role: Role, len: usize) {
        let next = &mut self.next[usize::from(role == Role::Server)];
        *next = *next + len as u32;
    }

    /// Both sides acknowledge all, and it is waited for so long that what is missing is given up.
    pub fn give_up(&mut self) {
        self.client(&[]);
        self.server(&[]);
        self.wait(Duration::from_secs(10));
        self.observer.handle_timeout(self.now);
    }

    pub fn wait(&mut self, duration: Duration) {
        self.now = self.now.saturating_add(duration);
    }

    /// `role` sends a segment.
    pub fn segment(&mut self, role: Role, flags: u8, bytes: &[u8]) {
        let own = usize::from(role == Role::Server);
        let seq = self.next[own];
        self.segment_at(role, flags, seq, bytes);
        self.next[own] =
            seq + (bytes.len() as u32) + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
    }

    /// `role` sends a segment with a sequence number of its own.
    pub fn segment_at(&mut self, role: Role, flags: u8, seq: SeqNumber, bytes: &[u8]) {
        let own = usize::from(role == Role::Server);
        let (source, destination) = match role {
            Role::Client => (self.client, self.server),
            Role::Server => (self.server, self.client),
        };
        self.now = self.now.saturating_add(Duration::from_millis(1));
        let captured = &bytes[..bytes.len().min(self.snap)];
        let windows = [Window {
            offset: 0,
            bytes: captured,
        }];
        let segment = Segment {
            ts: self.now,
            source,
            destination,
            seq,
            ack: (flags & ACK != 0).then_some(self.next[1 - own]),
            flags: TcpFlags(flags),
            window: 1000,
            len: bytes.len() as u32,
            behind: 0,
            windows: if captured.is_empty() { &[] } else { &windows },
            interface: Some(3),
            scope: self.scope,
            epoch: self.epoch,
        };
        self.observer.handle_sample(&segment, self.sample);
    }

    /// Ends the observation.
    pub fn finish(&mut self) {
        self.observer.finish(self.now);
    }

    /// Both sides finish.
    pub fn shut(&mut self) {
        self.fin(Role::Client);
        self.fin(Role::Server);
    }

    pub fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.observer.poll_event()).collect()
    }

    pub fn decisions(&mut self) -> Vec<Decision> {
        std::iter::from_fn(|| self.observer.poll_verdict())
            .map(|verdict| verdict.decision)
            .collect()
    }

    /// The events but for progress, a line each.
    pub fn lines(&mut self) -> Vec<String> {
        self.events().iter().filter_map(line).collect()
    }
}

/// An event in few words, but for progress.
pub(crate) fn line(event: &Event) -> Option<String> {
    let dir = |direction: Direction| match direction {
        Direction::ClientToServer => "c2s",
        Direction::ServerToClient => "s2c",
    };
    let connection = &event.connection;
    let mut out = String::new();
    let _ = match &event.kind {
        EventKind::Progress(_) | EventKind::Counted(_) => return None,
        EventKind::Handshake(handshake) => {
            out += "handshake ";
            out += connection.outcome.as_str();
            if let Some(status) = handshake.status {
                let _ = write!(out, " {status}");
            }
            if let Some(path) = &connection.path {
                let _ = write!(out, " {path}");
            }
            Ok(())
        }
        EventKind::Frame(frame) => {
            let _ = write!(
                out,
                "{} {} {} {}",
                dir(frame.direction),
                frame.index,
                frame.opcode.as_str(),
                frame.len
            );
            if !frame.fin {
                out += " -";
            }
            if frame.rsv != 0 {
                let _ = write!(out, " rsv{}", frame.rsv);
            }
            if let Some(body) = &frame.close {
                let code = body.code.map_or(0, |code| code.0);
                let _ = write!(out, " {code} {:?}", body.reason);
            }
            if let Some(rtt) = frame.rtt {
                let _ = write!(out, " rtt {rtt:?}");
            }
            if let Some(payload) = &frame.payload {
                let _ = write!(out, " {:?}", String::from_utf8_lossy(&payload.bytes));
                if payload.truncated {
                    out += "...";
                }
            }
            Ok(())
        }
        EventKind::Message(message) => write!(
            out,
            "message {} {} {} in {}{}{}",
            dir(message.direction),
            message.opcode.as_str(),
            message.len,
            message.frames,
            if message.compressed {
                " compressed"
            } else {
                ""
            },
            message
                .inflated_len
                .map_or(String::new(), |len| format!(" inflated {len}")),
        ),
        EventKind::Close(close) => write!(
            out,
            "close {} by {} {} {:?} after {:?}",
            close.kind.as_str(),
            close.initiator.map_or("nobody", Role::as_str),
            close.code.map_or(0, |code| code.0),
            close.reason.as_deref().unwrap_or_default(),
            close.silence.unwrap_or_default(),
        ),
        EventKind::Violation(violation) => write!(
            out,
            "violation {} {} {:?} {}",
            dir(violation.direction),
            violation.rule.as_str(),
            violation.detail,
            violation.count,
        ),
        EventKind::Gap(gap) => write!(
            out,
            "gap {} {} {}",
            dir(gap.direction),
            gap.bytes,
            if gap.resynced { "resynced" } else { "open" },
        ),
    };
    Some(out)
}
