//! Events as JSON, one object a line, in the contract's names and order.
//!
//! Written by hand rather than through serde: the objects are flat, their order is part of the
//! contract, and what does not change from event to event of a connection is rendered once. A
//! field that is not known is left out.

use std::{
    io::{self, Write},
    sync::Arc,
};

use super::{InterfaceNames, Sink, escape};
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
    line: Vec<u8>,
    /// What all events of a connection have in common, of the last connection that was printed.
    common: Option<(Arc<Connection>, Vec<u8>)>,
    clock: Clock,
}

impl<W: Write> Json<W> {
    /// Prints to `out`, which should be buffered.
    pub fn new(out: W, interfaces: InterfaceNames) -> Self {
        Self {
            out,
            interfaces,
            line: Vec::new(),
            common: None,
            clock: Clock::default(),
        }
    }

    fn common(&mut self, connection: &Arc<Connection>) -> &[u8] {
        if !matches!(&self.common, Some((last, _)) if Arc::ptr_eq(last, connection)) {
            let mut bytes = Vec::new();
            let mut object = Object(&mut bytes);
            object.display("conn", connection.id);
            object.display("client", connection.client);
            object.display("server", connection.server);
            if let Some(name) = connection.interface.and_then(&mut self.interfaces) {
                object.string("interface", &name);
            }
            self.common = Some((Arc::clone(connection), bytes));
        }
        self.common.as_ref().map_or(&[], |(_, bytes)| bytes)
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
            EventKind::Progress(_) => return Ok(()),
        };
        let mut line = std::mem::take(&mut self.line);
        line.clear();
        line.extend_from_slice(b"{\"event\":\"");
        line.extend_from_slice(name.as_bytes());
        line.extend_from_slice(b"\",\"ts\":\"");
        self.clock.write(&mut line, event.ts);
        line.push(b'"');
        line.extend_from_slice(self.common(&event.connection));
        let mut object = Object(&mut line);
        match &event.kind {
            EventKind::Handshake(handshake) => object.handshake(&event.connection, handshake),
            EventKind::Frame(frame) => object.frame(frame),
            EventKind::Message(message) => object.message(message),
            EventKind::Close(close) => object.close(close),
            EventKind::Violation(violation) => object.violation(violation),
            EventKind::Gap(gap) => object.gap(gap),
            EventKind::Progress(_) => {}
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
        let _ = write!(out, "{}.{nanos:09}Z", self.rendered);
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
        let _ = write!(self.0, "{}", value.into());
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
        self.counts("frames", &close.frames);
        self.counts("bytes", &close.bytes);
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

    fn counts(&mut self, name: &str, counts: &PerDirection<OpcodeCounts>) {
        self.per_direction(name, counts, |out, counts| {
            for (at, (opcode, n)) in counts.iter().enumerate() {
                let comma = if at == 0 { "" } else { "," };
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
fn utf8(preview: &Preview) -> Option<&str> {
    match std::str::from_utf8(&preview.bytes) {
        Ok(text) => Some(text),
        Err(error) if preview.truncated && error.error_len().is_none() => {
            std::str::from_utf8(preview.bytes.get(..error.valid_up_to())?).ok()
        }
        Err(_) => None,
    }
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
