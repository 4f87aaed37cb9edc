//! The live connections as JSON, for `/connections`.

use std::{fmt::Write as _, net::SocketAddr};

use serde::Serialize;

use super::{series::Live, tally::OPCODES};
use crate::{
    proto::{flow::Direction, time::Timestamp},
    sink::{
        escape::is_hostile,
        peer::{Peer, PeerKind},
    },
};

/// A live connection. Fields are named as those of the events are.
#[derive(Debug, Serialize)]
struct Entry<'a> {
    conn: String,
    client: SocketAddr,
    server: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_pod: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_pod: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_service: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subprotocol: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_hop: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous_hop: Option<String>,
    outcome: &'static str,
    opened: String,
    age_ns: u64,
    last_seen: String,
    silence_ns: u64,
    frames: Directions<Counts>,
    bytes: Directions<Counts>,
    last_frame_size: Directions<u64>,
}

#[derive(Debug, Serialize)]
struct Directions<T> {
    #[serde(skip_serializing_if = "Option::is_none")]
    client_to_server: Option<T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_to_client: Option<T>,
}

impl<T> Directions<T> {
    fn new(of: impl FnMut(Direction) -> Option<T>) -> Self {
        let [client_to_server, server_to_client] = Direction::BOTH.map(of);
        Self {
            client_to_server,
            server_to_client,
        }
    }
}

/// Counts by opcode; those that did not occur are left out.
#[derive(Debug)]
struct Counts([u64; OPCODES.len()]);

impl Serialize for Counts {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let occurred = OPCODES.iter().zip(self.0).filter(|(_, n)| *n > 0);
        serializer.collect_map(occurred)
    }
}

impl<'a> Entry<'a> {
    fn new(live: &'a Live, now: Timestamp) -> Self {
        let connection = &live.connection;
        let opcodes = |direction| live.opcodes.tally(direction);
        let hops = live.hops();
        Self {
            conn: connection.id.to_string(),
            client: connection.client,
            server: connection.server,
            client_pod: Peer::shown(&live.peers.client, PeerKind::Pod),
            server_pod: Peer::shown(&live.peers.server, PeerKind::Pod),
            server_service: Peer::shown(&live.peers.server, PeerKind::Service),
            path: connection.path.as_deref(),
            host: connection.host.as_deref(),
            subprotocol: connection.subprotocol.as_deref(),
            key: connection.key.as_deref(),
            next_hop: hops.next.map(|id| id.to_string()),
            previous_hop: hops.previous.map(|id| id.to_string()),
            outcome: connection.outcome.as_str(),
            opened: rfc3339(connection.opened),
            age_ns: now.0.saturating_sub(connection.opened.0),
            last_seen: rfc3339(live.last_seen),
            silence_ns: now.0.saturating_sub(live.last_seen.0),
            frames: Directions::new(|direction| Some(Counts(opcodes(direction).frames))),
            bytes: Directions::new(|direction| Some(Counts(opcodes(direction).bytes))),
            last_frame_size: Directions::new(|direction| live.last_frame_size[direction].number()),
        }
    }
}

/// Appends connections to an array that is being written: a line each.
pub(super) fn append(text: &mut String, connections: &[Live], now: Timestamp) {
    for live in connections {
        // Only a map with keys that are no strings could fail, and there is none.
        if let Ok(entry) = serde_json::to_string(&Entry::new(live, now)) {
            text.push_str(if text.len() > 1 { ",\n" } else { "\n" });
            push_harmless(text, &entry);
        }
    }
}

/// Appends JSON with what a terminal would obey escaped. Outside of strings there is nothing of the
/// kind, so the value is the same.
fn push_harmless(text: &mut String, json: &str) {
    for c in json.chars() {
        if is_hostile(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a string does not fail.
                let _ = write!(text, "\\u{unit:04x}");
            }
        } else {
            text.push(c);
        }
    }
}

/// RFC 3339, UTC, nanoseconds.
fn rfc3339(Timestamp(nanos): Timestamp) -> String {
    let instant = jiff::Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or_default();
    format!("{instant:.9}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_escaped_and_means_the_same() {
        let path = "/\u{202e}\u{9b}31m\u{e0041}é";
        let json = serde_json::to_string(path).unwrap();
        let mut text = String::new();
        push_harmless(&mut text, &json);
        assert_eq!(text, "\"/\\u202e\\u009b31m\\udb40\\udc41é\"");
        assert_eq!(serde_json::from_str::<String>(&text).unwrap(), path);
    }

    #[test]
    fn times_are_utc_with_nanoseconds() {
        for (nanos, text) in [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (1_700_000_000_000_000_001, "2023-11-14T22:13:20.000000001Z"),
            (u64::MAX, "2554-07-21T23:34:33.709551615Z"),
        ] {
            assert_eq!(rfc3339(Timestamp(nanos)), text);
        }
    }
}
