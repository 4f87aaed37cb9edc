//! Events as JSON, one object a line, in the contract's names and order.
//!
//! Written by hand rather than through serde: the objects are flat, their order is part of the
//! contract, and what does not change from event to event of a connection is rendered once. A
//! field that is not known is left out.

use std::{
    io::{self, Write},
    sync::Arc,
};

use super::{
    InterfaceNames, Sink, escape,
    peer::{Naming, Peer, PeerKind, Peers},
};
use crate::proto::{
    event::{
        Close, Connection, Event, EventKind, Frame, Gap, Handshake, Message, OpcodeCounts, Preview,
        TcpCounts, Violation,
    },
    flow::{Direction, PerDirection},
    time::Timestamp,
};

/// Prints every event but progress.
pub struct Json<W> {
    out: W,
    interfaces: InterfaceNames,
    naming: Option<Naming>,
    line: Vec<u8>,
    /// What all events of a connection have in common, of the last connection that was printed.
    common: Option<(Arc<Connection>, Peers, Vec<u8>)>,
    clock: Clock,
}

impl<W: Write> Json<W> {
    /// Prints to `out`, which should be buffered.
    pub fn new(out: W, interfaces: InterfaceNames) -> Self {
        Self {
            out,
            interfaces,
            naming: None,
            line: Vec::new(),
            common: None,
            clock: Clock::default(),
        }
    }

    /// The same with names of pods.
    #[must_use]
    pub fn with_names(mut self, naming: Naming) -> Self {
        self.naming = Some(naming);
        self
    }

    /// Takes note of an event that is not to be printed: connections keep the names that they had
    /// when they were opened.
    pub fn pass_over(&mut self, event: &Event) {
        if let Some(naming) = &mut self.naming {
            naming.follow(event);
        }
    }

    fn common(&mut self, event: &Event) -> &[u8] {
        let connection = &event.connection;
        let peers =
            (self.naming.as_mut()).map_or_else(Peers::default, |naming| naming.follow(event));
        let is_last = |(last, known, _): &(Arc<Connection>, Peers, _)| {
            Arc::ptr_eq(last, connection) && known.same(&peers)
        };
        if !self.common.as_ref().is_some_and(is_last) {
            let mut bytes = Vec::new();
            let mut object = Object(&mut bytes);
            object.display("conn", connection.id);
            object.display("client", connection.client);
            object.display("server", connection.server);
            for (name, peer, kind) in [
                ("client_pod", &peers.client, PeerKind::Pod),
                ("server_pod", &peers.server, PeerKind::Pod),
                ("server_service", &peers.server, PeerKind::Service),
            ] {
                if let Some(peer) = Peer::shown(peer, kind) {
                    object.string(name, &peer);
                }
            }
            if let Some(on) = connection.interface.and_then(&mut self.interfaces) {
                object.string("interface", &on.name);
                if let Some(netns) = &on.netns {
                    object.string("netns", netns);
                }
            }
            self.common = Some((Arc::clone(connection), peers, bytes));
        }
        self.common.as_ref().map_or(&[], |(_, _, bytes)| bytes)
    }
}

impl<W: Write> Sink for Json<W> {
    fn event(&mut self, event: &Event) -> io::Result<()> {
        let name = match &event.kind {
            EventKind::Handshake(_) => "handshake",
            EventKind::Frame(_) => "frame",
            EventKind::Message(_) => "message",
            EventKind::Close(_) => "close",
            EventKind::Violation(_) => "violation",
            EventKind::Gap(_) => "gap",
            EventKind::Progress(_) | EventKind::Counted(_) => {
                self.pass_over(event);
                return Ok(());
            }
        };
        let mut line = std::mem::take(&mut self.line);
        line.clear();
        line.extend_from_slice(b"{\"event\":\"");
        line.extend_from_slice(name.as_bytes());
        line.extend_from_slice(b"\",\"ts\":\"");
        self.clock.write(&mut line, event.ts);
        line.push(b'"');
        line.extend_from_slice(self.common(event));
        let mut object = Object(&mut line);
        match &event.kind {
            EventKind::Handshake(handshake) => object.handshake(&event.connection, handshake),
            EventKind::Frame(frame) => object.frame(frame),
            EventKind::Message(message) => object.message(message),
            EventKind::Close(close) => object.close(close),
            EventKind::Violation(violation) => object.violation(violation),
            EventKind::Gap(gap) => object.gap(gap),
            EventKind::Progress(_) | EventKind::Counted(_) => {}
        }
        line.extend_from_slice(b"}\n");
        let result = self.out.write_all(&line);
        self.line = line;
        result
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Times as RFC 3339; the part down to the second is rendered once a second.
#[derive(Default)]
struct Clock {
    second: Option<u64>,
    rendered: String,
}

impl Clock {
    fn write(&mut self, out: &mut Vec<u8>, ts: Timestamp) {
        let (second, nanos) = (ts.0 / 1_000_000_000, ts.0 % 1_000_000_000);
        if self.second != Some(second) {
            self.second = Some(second);
            self.rendered = i64::try_from(second)
                .ok()
                .and_then(|second| jiff::Timestamp::from_second(second).ok())
                .map(|ts| ts.strftime("%Y-%m-%dT%H:%M:%S").to_string())
                .unwrap_or_default();
        }
        out.extend_from_slice(self.rendered.as_bytes());
        // Nine digits, with what leads them turned into the point.
        let at = out.len();
        number(out, nanos + 1_000_000_000);
        if let Some(lead) = out.get_mut(at) {
            *lead = b'.';
        }
        out.push(b'Z');
    }
}

/// The fields of an object that has at least one before them.
struct Object<'a>(&'a mut Vec<u8>);

impl Object<'_> {
    fn key(&mut self, name: &str) {
        self.0.extend_from_slice(b",\"");
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b"\":");
    }

    /// A string that needs no escaping.
    fn word(&mut self, name: &str, value: &str) {
        self.key(name);
        self.0.push(b'"');
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(b'"');
    }

    /// As [`Self::word`], of anything that prints.
    fn display(&mut self, name: &str, value: impl std::fmt::Display) {
        self.key(name);
        let _ = write!(self.0, "\"{value}\"");
    }

    fn string(&mut self, name: &str, value: &str) {
        self.key(name);
        string(self.0, value);
    }

    fn known_string(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.string(name, value);
        }
    }

    fn number(&mut self, name: &str, value: impl Into<u128>) {
        self.key(name);
        number(self.0, value);
    }

    fn known_number(&mut self, name: &str, value: Option<impl Into<u128>>) {
        if let Some(value) = value {
            self.number(name, value);
        }
    }

    fn boolean(&mut self, name: &str, value: bool) {
        self.key(name);
        self.0
            .extend_from_slice(if value { b"true" } else { b"false" });
    }

    fn hex(&mut self, name: &str, bytes: &[u8]) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        self.key(name);
        self.0.push(b'"');
        for byte in bytes {
            self.0.push(DIGITS[usize::from(byte >> 4)]);
            self.0.push(DIGITS[usize::from(byte & 15)]);
        }
        self.0.push(b'"');
    }

    fn direction(&mut self, direction: Direction) {
        self.word("dir", direction.as_str());
    }

    fn handshake(&mut self, connection: &Connection, handshake: &Handshake) {
        self.word("outcome", connection.outcome.as_str());
        self.known_string("method", handshake.method.as_deref());
        self.known_string("path", connection.path.as_deref());
        self.known_string("host", connection.host.as_deref());
        self.known_string("origin", handshake.origin.as_deref());
        self.known_string("user_agent", handshake.user_agent.as_deref());
        self.known_number("status", handshake.status);
        self.known_string("subprotocol", connection.subprotocol.as_deref());
        if let [first, rest @ ..] = &handshake.offered_subprotocols[..] {
            self.key("offered_subprotocols");
            self.0.push(b'[');
            string(self.0, first);
            for subprotocol in rest {
                self.0.push(b',');
                string(self.0, subprotocol);
            }
            self.0.push(b']');
        }
        self.known_string("extensions", handshake.extensions.as_deref());
        self.known_string("key", connection.key.as_deref());
        if let Some(hop) = &connection.next_hop {
            self.display("next_hop", hop.id);
        }
        if let Some(hop) = &connection.previous_hop {
            self.display("previous_hop", hop.id);
        }
        self.known_number(
            "latency_ns",
            handshake.latency.map(|latency| latency.as_nanos()),
        );
    }

    fn frame(&mut self, frame: &Frame) {
        self.direction(frame.direction);
        self.number("index", frame.index);
        self.word("opcode", frame.opcode.as_str());
        self.boolean("fin", frame.fin);
        self.number("rsv", frame.rsv);
        self.boolean("masked", frame.mask.is_some());
        if let Some(mask) = frame.mask {
            self.hex("mask", &mask);
        }
        self.number("len", frame.len);
        if let Some(preview) = &frame.payload {
            self.payload(preview);
        }
        if let Some(close) = &frame.close {
            self.known_number("code", close.code.map(|code| code.0));
            self.known_string("reason", Some(&close.reason[..]).filter(|r| !r.is_empty()));
        }
        self.known_number("rtt_ns", frame.rtt.map(|rtt| rtt.as_nanos()));
    }

    fn payload(&mut self, preview: &Preview) {
        match utf8(preview) {
            Some(text) => self.string("payload", text),
            None => self.hex("payload_hex", &preview.bytes),
        }
        if preview.truncated {
            self.boolean("payload_truncated", true);
        }
    }

    fn message(&mut self, message: &Message) {
        self.direction(message.direction);
        self.word("type", message.opcode.as_str());
        self.number("len", message.len);
        self.number("frames", message.frames);
        self.boolean("compressed", message.compressed);
        self.known_number("inflated_len", message.inflated_len);
    }

    fn close(&mut self, close: &Close) {
        self.word("kind", close.kind.as_str());
        if let Some(initiator) = close.initiator {
            self.word("initiator", initiator.as_str());
        }
        self.known_number("code", close.code.map(|code| code.0));
        self.known_string("reason", close.reason.as_deref());
        self.number("duration_ns", close.duration.as_nanos());
        self.known_number(
            "silence_ns",
            close.silence.map(|silence| silence.as_nanos()),
        );
        self.counts("frames", &close.frames, &close.frames);
        self.counts("bytes", &close.frames, &close.bytes);
        self.per_direction("tcp", &close.tcp, |out, tcp| {
            let TcpCounts {
                retransmitted,
                out_of_order,
                keepalive_probes,
                zero_windows,
            } = tcp;
            let _ = write!(
                out,
                "\"retransmitted\":{retransmitted},\"out_of_order\":{out_of_order},\
                 \"keepalive_probes\":{keepalive_probes},\"zero_windows\":{zero_windows}"
            );
        });
    }

    /// A number for each opcode that occurred: `frames` are how often each did.
    fn counts(
        &mut self,
        name: &str,
        frames: &PerDirection<OpcodeCounts>,
        counts: &PerDirection<OpcodeCounts>,
    ) {
        let both = PerDirection {
            client_to_server: (&frames.client_to_server, &counts.client_to_server),
            server_to_client: (&frames.server_to_client, &counts.server_to_client),
        };
        self.per_direction(name, &both, |out, (frames, counts)| {
            for (at, (opcode, _)) in frames.iter().enumerate() {
                let comma = if at == 0 { "" } else { "," };
                let n = counts.of(opcode);
                let _ = write!(out, "{comma}\"{}\":{n}", opcode.as_str());
            }
        });
    }

    fn per_direction<T>(
        &mut self,
        name: &str,
        values: &PerDirection<T>,
        fields: impl Fn(&mut Vec<u8>, &T),
    ) {
        self.key(name);
        for (direction, open) in Direction::BOTH.into_iter().zip(['{', ',']) {
            let _ = write!(self.0, "{open}\"{}\":{{", direction.as_str());
            fields(self.0, &values[direction]);
            self.0.push(b'}');
        }
        self.0.push(b'}');
    }

    fn violation(&mut self, violation: &Violation) {
        self.direction(violation.direction);
        self.word("rule", violation.rule.as_str());
        self.known_string(
            "detail",
            Some(&violation.detail[..]).filter(|d| !d.is_empty()),
        );
        self.number("count", violation.count);
    }

    fn gap(&mut self, gap: &Gap) {
        self.direction(gap.direction);
        self.number("bytes", gap.bytes);
        self.boolean("resynced", gap.resynced);
    }
}

/// The preview as text, where it is UTF-8. A character that the preview's own end cuts is left out.
/// What is compressed is no text, whatever it looks like.
fn utf8(preview: &Preview) -> Option<&str> {
    if preview.compressed {
        return None;
    }
    match std::str::from_utf8(&preview.bytes) {
        Ok(text) => Some(text),
        Err(error) if preview.truncated && error.error_len().is_none() => {
            std::str::from_utf8(preview.bytes.get(..error.valid_up_to())?).ok()
        }
        Err(_) => None,
    }
}

/// Writes a number.
fn number(out: &mut Vec<u8>, value: impl Into<u128>) {
    let value = value.into();
    let mut digits = itoa::Buffer::new();
    // All but durations of centuries fit, and take a fraction of the time.
    let digits = match u64::try_from(value) {
        Ok(value) => digits.format(value),
        Err(_) => digits.format(value),
    };
    out.extend_from_slice(digits.as_bytes());
}

/// Writes a JSON string. Beyond what JSON demands (RFC 8259, section 7), what a terminal obeys is
/// escaped too: the value is the same, and a line that is looked at does no harm.
fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut plain = 0;
    for (at, c) in text.char_indices() {
        if !matches!(c, '"' | '\\') && !escape::is_hostile(c) {
            continue;
        }
        out.extend_from_slice(&text.as_bytes()[plain..at]);
        plain = at + c.len_utf8();
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            c => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    out.extend_from_slice(&text.as_bytes()[plain..]);
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        proto::{
            event::{CloseKind, Outcome, Progress, Rule},
            frame::Opcode,
        },
        sink::{InterfaceName, no_interfaces, sample},
    };

    fn printed(event: &Event) -> String {
        let mut out = Vec::new();
        Json::new(&mut out, no_interfaces()).event(event).unwrap();
        String::from_utf8(out).unwrap()
    }

    /// What follows the fields that every event has.
    fn own(kind: EventKind) -> String {
        let line = printed(&sample::event(kind));
        let (_, own) = line
            .split_once(r#","server":"[2001:db8::1]:8080","#)
            .unwrap();
        own.trim_end().to_owned()
    }

    #[test]
    fn every_event_has_its_place_in_time_and_on_the_net() {
        let mut out = Vec::new();
        let names: InterfaceNames = Box::new(|index| {
            (index == 3).then(|| InterfaceName {
                name: String::from("veth0"),
                netns: Some(String::from("blue")),
            })
        });
        let mut json = Json::new(&mut out, names);
        json.event(&sample::event(sample::gap(true))).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            concat!(
                r#"{"event":"gap","ts":"2026-03-01T09:05:07.000123456Z","conn":"c7","#,
                r#""client":"192.0.2.1:40312","server":"[2001:db8::1]:8080","interface":"veth0","netns":"blue","#,
                r#""dir":"server_to_client","bytes":1448,"resynced":true}"#,
                "\n"
            )
        );
    }

    #[test]
    fn handshakes_say_what_is_known() {
        assert_eq!(
            own(sample::handshake()),
            concat!(
                r#""outcome":"accepted","method":"GET","path":"/rooms/1?token=x","#,
                r#""host":"chat.example:8080","origin":"https://example","status":101,"#,
                r#""subprotocol":"chat.v2","offered_subprotocols":["chat.v2","chat.v1"],"#,
                r#""extensions":"permessage-deflate","key":"dGhlIHNhbXBsZSBub25jZQ==","#,
                r#""latency_ns":1240000}"#
            )
        );
        let proxied = Connection {
            next_hop: Some(sample::next_hop()),
            previous_hop: Some(sample::previous_hop()),
            ..sample::connection()
        };
        let line = printed(&sample::on(proxied, sample::handshake()));
        let end = "\"key\":\"dGhlIHNhbXBsZSBub25jZQ==\",\"next_hop\":\"c6\",\"previous_hop\":\"c8\",\
                   \"latency_ns\":1240000}\n";
        assert!(line.ends_with(end), "{line}");
        let midstream = Connection {
            outcome: Outcome::Midstream,
            host: None,
            path: None,
            subprotocol: None,
            key: None,
            ..sample::connection()
        };
        let kind = EventKind::Handshake(Box::default());
        let line = printed(&sample::on(midstream, kind));
        assert!(line.ends_with(",\"outcome\":\"midstream\"}\n"), "{line}");
    }

    #[test]
    fn frames_show_their_header() {
        assert_eq!(
            own(EventKind::Frame(Box::new(Frame {
                fin: false,
                rsv: 4,
                rtt: Some(Duration::from_nanos(17)),
                ..sample::frame(Direction::ClientToServer, Opcode::Reserved(3), u64::MAX)
            }))),
            concat!(
                r#""dir":"client_to_server","index":1,"opcode":"reserved_3","fin":false,"rsv":4,"#,
                r#""masked":true,"mask":"dead0001","len":18446744073709551615,"rtt_ns":17}"#
            )
        );
        let close = own(sample::close_frame(1001, "a\"b\u{202e}"));
        assert!(
            close.ends_with(r#""masked":false,"len":8,"code":1001,"reason":"a\"b\u202e"}"#),
            "{close}"
        );
    }

    #[test]
    fn payload_is_text_where_it_can_be() {
        for (bytes, truncated, expected) in [
            (&b"hi"[..], false, r#""payload":"hi"}"#),
            (
                "hä".as_bytes(),
                true,
                r#""payload":"hä","payload_truncated":true}"#,
            ),
            (b"h\xc3", true, r#""payload":"h","payload_truncated":true}"#),
            (b"h\xc3", false, r#""payload_hex":"68c3"}"#),
            (b"\x1b\x7f\n", false, r#""payload":"\u001b\u007f\n"}"#),
        ] {
            let line = own(sample::text_frame(bytes, truncated));
            assert!(line.ends_with(expected), "{line}");
        }
    }

    #[test]
    fn closes_count_what_occurred() {
        assert_eq!(
            own(sample::close(1001, "bye")),
            concat!(
                r#""kind":"clean","initiator":"server","code":1001,"reason":"bye","#,
                r#""duration_ns":12300000000,"silence_ns":5000000000,"#,
                r#""frames":{"client_to_server":{"text":3,"close":1},"#,
                r#""server_to_client":{"reserved_b":1}},"#,
                r#""bytes":{"client_to_server":{"text":3000,"close":2},"#,
                r#""server_to_client":{"reserved_b":0}},"#,
                r#""tcp":{"client_to_server":{"retransmitted":1,"out_of_order":0,"#,
                r#""keepalive_probes":0,"zero_windows":0},"server_to_client":{"#,
                r#""retransmitted":0,"out_of_order":0,"keepalive_probes":0,"zero_windows":0}}}"#
            )
        );
        let EventKind::Close(mut close) = sample::close(1000, "") else {
            panic!("it is a close");
        };
        (close.kind, close.code, close.initiator) = (CloseKind::Eof, None, None);
        close.silence = None;
        let line = own(EventKind::Close(close));
        assert!(
            line.starts_with(r#""kind":"eof","duration_ns":12300000000,"frames""#),
            "{line}"
        );
    }

    #[test]
    fn the_others() {
        assert_eq!(
            own(sample::message(Opcode::Binary, 9)),
            r#""dir":"client_to_server","type":"binary","len":9,"frames":2,"compressed":true}"#
        );
        assert_eq!(
            own(sample::violation(Rule::ReservedBits, 10)),
            concat!(
                r#""dir":"client_to_server","rule":"reserved_bits","#,
                r#""detail":"\u001b[2J","count":10}"#
            )
        );
        let progress = EventKind::Progress(Progress {
            direction: Direction::ClientToServer,
            opcode: Opcode::Text,
            bytes: 1,
            total: None,
        });
        assert_eq!(printed(&sample::event(progress)), "");
    }

    #[test]
    fn what_is_kept_of_one_connection_is_not_shown_of_the_next() {
        let mut out = Vec::new();
        let mut json = Json::new(&mut out, no_interfaces());
        for client in ["192.0.2.1:1", "192.0.2.1:2", "192.0.2.1:1"] {
            let client = client.parse().unwrap();
            let connection = Connection {
                client,
                ..sample::connection()
            };
            json.event(&sample::on(connection, sample::gap(false)))
                .unwrap();
        }
        let out = String::from_utf8(out).unwrap();
        let clients: Vec<_> = out
            .lines()
            .filter_map(|line| line.split('"').nth(15))
            .collect();
        assert_eq!(clients, ["192.0.2.1:1", "192.0.2.1:2", "192.0.2.1:1"]);
    }
}
