//! Events for the tests of the sinks.

use std::{sync::Arc, time::Duration};

use crate::proto::{
    event::{
        Close, CloseBody, CloseKind, Connection, Event, EventKind, Frame, Gap, Handshake, Hop,
        Message, MessageCounts, OpcodeCounts, Outcome, Preview, Rule, TcpCounts, Violation,
    },
    flow::{ConnId, Direction, PerDirection, Role},
    frame::{CloseCode, Opcode},
    time::Timestamp,
};

/// 2026-03-01T09:05:07.000123456Z.
pub const TS: Timestamp = Timestamp(1_772_355_907_000_123_456);

pub fn connection() -> Connection {
    Connection {
        id: ConnId(7),
        client: "192.0.2.1:40312".parse().unwrap(),
        server: "[2001:db8::1]:8080".parse().unwrap(),
        interface: Some(3),
        opened: TS,
        outcome: Outcome::Accepted,
        host: Some("chat.example:8080".into()),
        path: Some("/rooms/1?token=x".into()),
        subprotocol: Some("chat.v2".into()),
        key: Some("dGhlIHNhbXBsZSBub25jZQ==".into()),
        next_hop: None,
        previous_hop: None,
    }
}

/// Where a proxy passed [`connection`]'s request on.
pub fn next_hop() -> Box<Hop> {
    Box::new(Hop {
        id: ConnId(6),
        client: "[2001:db8::1]:51000".parse().unwrap(),
        server: "198.51.100.4:9000".parse().unwrap(),
    })
}

/// Whose request [`connection`]'s passes on.
pub fn previous_hop() -> Box<Hop> {
    Box::new(Hop {
        id: ConnId(8),
        client: "203.0.113.9:52000".parse().unwrap(),
        server: "192.0.2.1:443".parse().unwrap(),
    })
}

pub fn event(kind: EventKind) -> Event {
    on(connection(), kind)
}

pub fn on(connection: Connection, kind: EventKind) -> Event {
    Event {
        ts: TS,
        connection: Arc::new(connection),
        kind,
    }
}

pub fn handshake() -> EventKind {
    EventKind::Handshake(Box::new(Handshake {
        method: Some("GET".into()),
        origin: Some("https://example".into()),
        user_agent: None,
        status: Some(101),
        offered_subprotocols: vec!["chat.v2".into(), "chat.v1".into()],
        extensions: Some("permessage-deflate".into()),
        latency: Some(Duration::from_micros(1240)),
    }))
}

pub fn frame(direction: Direction, opcode: Opcode, len: u64) -> Frame {
    Frame {
        direction,
        index: 1,
        opcode,
        fin: true,
        rsv: 0,
        mask: (direction == Direction::ClientToServer).then_some([0xde, 0xad, 0, 1]),
        len,
        payload: None,
        close: None,
        rtt: None,
        tallied: false,
    }
}

pub fn text_frame(payload: &[u8], truncated: bool) -> EventKind {
    EventKind::Frame(Box::new(Frame {
        payload: Some(Preview {
            bytes: payload.to_vec(),
            truncated,
            compressed: false,
        }),
        ..frame(
            Direction::ClientToServer,
            Opcode::Text,
            payload.len() as u64,
        )
    }))
}

pub fn close_frame(code: u16, reason: &str) -> EventKind {
    EventKind::Frame(Box::new(Frame {
        close: Some(CloseBody {
            code: Some(CloseCode(code)),
            reason: reason.into(),
        }),
        ..frame(
            Direction::ServerToClient,
            Opcode::Close,
            2 + reason.len() as u64,
        )
    }))
}

pub fn message(opcode: Opcode, len: u64) -> EventKind {
    EventKind::Message(Message {
        direction: Direction::ClientToServer,
        opcode,
        len,
        frames: 2,
        compressed: true,
        inflated_len: None,
        tallied: false,
    })
}

pub fn close(code: u16, reason: &str) -> EventKind {
    let counts = |list: &[(Opcode, u64)]| {
        let mut counts = OpcodeCounts::default();
        for &(opcode, n) in list {
            counts.add(opcode, n);
        }
        counts
    };
    EventKind::Close(Box::new(Close {
        kind: CloseKind::Clean,
        initiator: Some(Role::Server),
        code: Some(CloseCode(code)),
        reason: Some(reason.into()).filter(|_| !reason.is_empty()),
        duration: Duration::from_millis(12_300),
        silence: Some(Duration::from_secs(5)),
        frames: PerDirection {
            client_to_server: counts(&[(Opcode::Text, 3), (Opcode::Close, 1)]),
            server_to_client: counts(&[(Opcode::Reserved(11), 1)]),
        },
        bytes: PerDirection {
            client_to_server: counts(&[(Opcode::Text, 3000), (Opcode::Close, 2)]),
            server_to_client: OpcodeCounts::default(),
        },
        messages: PerDirection {
            client_to_server: MessageCounts {
                count: 2,
                on_wire: 1024,
                inflated: 4096,
            },
            server_to_client: MessageCounts::default(),
        },
        tcp: PerDirection {
            client_to_server: TcpCounts {
                retransmitted: 1,
                ..TcpCounts::default()
            },
            server_to_client: TcpCounts::default(),
        },
        unanswered_pings: PerDirection::default(),
    }))
}

pub fn violation(rule: Rule, count: u64) -> EventKind {
    EventKind::Violation(Violation {
        direction: Direction::ClientToServer,
        rule,
        detail: "\u{1b}[2J".into(),
        count,
    })
}

pub fn gap(resynced: bool) -> EventKind {
    EventKind::Gap(Gap {
        direction: Direction::ServerToClient,
        bytes: 1448,
        resynced,
    })
}
