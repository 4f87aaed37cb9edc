//! Events as text for eyes: one line each, aligned, coloured by opcode.
//!
//! ```text
//! 14:03:22.123456  127.0.0.1:40312 -- 127.0.0.1:8080 handshake    accepted 101 GET /chat  host ...
//! 14:03:22.124001  127.0.0.1:40312 -> 127.0.0.1:8080 text             12 B
//! 14:03:22.124310  127.0.0.1:40312 <- 127.0.0.1:8080 close             5 B  1001 Going Away "bye"
//! ```
//!
//! The client is always on the left; the arrow shows who sent. Times are UTC. What came from the
//! network is escaped and cut (see [`escape`]), so that a line is a line and a terminal is safe.

use std::{
    fmt::Write as _,
    io::{self, Write},
};

use anstyle::{AnsiColor, Style};

use super::{
    InterfaceNames, Sink, close_code, escape,
    unit::{Bytes, Counted, Time},
};
use crate::proto::{
    event::{
        Close, CloseKind, Connection, Event, EventKind, Frame, Gap, Handshake, Message, Outcome,
        Preview, Violation,
    },
    flow::Direction,
    frame::{CloseCode, Opcode},
    time::Timestamp,
};

/// Characters of a single value from the network (a path, a reason) that are shown.
const MAX_VALUE: usize = 256;

/// Width of the column that says what it is: `continuation`.
const WHAT_WIDTH: usize = 12;

/// Prints every event but progress.
pub struct Text<W> {
    out: W,
    interfaces: InterfaceNames,
    colored: bool,
    line: String,
    /// Widest client and server so far: the columns grow, and do not shrink.
    widths: [usize; 2],
}

impl<W: Write> Text<W> {
    /// Prints to `out`, which should be buffered; in colour if `colored`.
    pub fn new(out: W, interfaces: InterfaceNames, colored: bool) -> Self {
        Self {
            out,
            interfaces,
            colored,
            line: String::new(),
            widths: [15, 14],
        }
    }

    fn start(&mut self, ts: Timestamp, connection: &Connection, direction: Option<Direction>) {
        let day = ts.0 / 1000 % 86_400_000_000;
        let (seconds, micros) = (day / 1_000_000, day % 1_000_000);
        let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        let arrow = match direction {
            Some(Direction::ClientToServer) => "->",
            Some(Direction::ServerToClient) => "<-",
            None => "--",
        };
        let (client, server) = (connection.client.to_string(), connection.server.to_string());
        self.widths = [
            self.widths[0].max(client.len()),
            self.widths[1].max(server.len()),
        ];
        let [left, right] = self.widths;
        let time = format!("{hours:02}:{minutes:02}:{seconds:02}.{micros:06}");
        self.line.clear();
        self.styled(Style::new().dimmed(), &time);
        let _ = write!(self.line, "  {client:>left$} {arrow} {server:<right$} ");
    }

    fn styled(&mut self, style: Style, text: &str) {
        if self.colored {
            let _ = write!(self.line, "{style}{text}{style:#}");
        } else {
            self.line.push_str(text);
        }
    }

    /// The column that says what it is, and of how many bytes.
    fn what(&mut self, style: Style, what: &str, bytes: Option<u64>) {
        let padded = format!("{what:<WHAT_WIDTH$}");
        self.styled(style, &padded);
        if let Some(bytes) = bytes {
            let _ = write!(self.line, " {:>8}", Bytes(bytes));
        } else {
            self.line.push(' ');
        }
    }

    /// A named value from the network, where it is known.
    fn value(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            let _ = write!(self.line, "  {name} ");
            escape::text(&mut self.line, value, MAX_VALUE);
        }
    }

    fn code(&mut self, code: Option<CloseCode>, reason: &str) {
        if let Some(code) = code {
            let _ = write!(self.line, "  {} {}", code.0, close_code::name(code));
        }
        if !reason.is_empty() {
            self.line.push(' ');
            escape::quoted(&mut self.line, reason, MAX_VALUE);
        }
    }

    fn handshake(&mut self, connection: &Connection, handshake: &Handshake) {
        self.what(Style::new().bold(), "handshake", None);
        let style = match connection.outcome {
            Outcome::Accepted => color(AnsiColor::Green),
            Outcome::Midstream => Style::new(),
            Outcome::Invalid | Outcome::Rejected | Outcome::Unanswered => color(AnsiColor::Red),
        };
        self.styled(style, connection.outcome.as_str());
        if let Some(status) = handshake.status {
            let _ = write!(self.line, " {status}");
        }
        let parts = [handshake.method.as_deref(), connection.path.as_deref()];
        for part in parts.into_iter().flatten() {
            self.line.push(' ');
            escape::text(&mut self.line, part, MAX_VALUE);
        }
        // One that is the server's address says nothing new.
        let server = connection.server.to_string();
        let host = connection.host.as_deref().filter(|host| *host != server);
        self.value("host", host);
        self.value("subprotocol", connection.subprotocol.as_deref());
        self.value("extensions", handshake.extensions.as_deref());
        self.value("origin", handshake.origin.as_deref());
        for (name, hop) in [
            ("next", &connection.next_hop),
            ("previous", &connection.previous_hop),
        ] {
            if let Some(hop) = hop {
                let _ = write!(self.line, "  {name} hop {} -> {}", hop.client, hop.server);
            }
        }
        if let Some(latency) = handshake.latency {
            let _ = write!(self.line, "  in {}", Time(latency));
        }
        if let Some(on) = connection.interface.and_then(&mut self.interfaces) {
            self.value("on", Some(&on.name));
            self.value("in", on.netns.as_deref());
        }
    }

    fn frame(&mut self, frame: &Frame) {
        self.what(
            opcode_style(frame.opcode),
            frame.opcode.as_str(),
            Some(frame.len),
        );
        let mut flags = String::new();
        if !frame.fin {
            flags.push_str(" !fin");
        }
        for (bit, name) in [(4, " rsv1"), (2, " rsv2"), (1, " rsv3")] {
            if frame.rsv & bit != 0 {
                flags.push_str(name);
            }
        }
        match (frame.direction, frame.mask) {
            (Direction::ClientToServer, None) => flags.push_str(" unmasked"),
            (Direction::ServerToClient, Some(_)) => flags.push_str(" masked"),
            _ => {}
        }
        if !flags.is_empty() {
            self.line.push(' ');
            self.styled(color(AnsiColor::Yellow), &flags);
        }
        if let Some(close) = &frame.close {
            self.code(close.code, &close.reason);
        }
        if let Some(rtt) = frame.rtt {
            let _ = write!(self.line, "  round trip {}", Time(rtt));
        }
        // What a close frame holds has been shown.
        if let Some(preview) = &frame.payload
            && !preview.bytes.is_empty()
            && frame
                .close
                .as_ref()
                .is_none_or(|close| close.code.is_none())
        {
            self.payload(frame, preview);
        }
    }

    fn payload(&mut self, frame: &Frame, preview: &Preview) {
        self.line.push_str("  ");
        let is_text = frame.opcode == Opcode::Text || looks_like_text(preview);
        if is_text && !preview.compressed {
            escape::bytes_quoted(
                &mut self.line,
                &preview.bytes,
                usize::MAX,
                preview.truncated,
            );
        } else {
            escape::hex(
                &mut self.line,
                &preview.bytes,
                usize::MAX,
                preview.truncated,
            );
        }
    }

    fn message(&mut self, message: &Message) {
        self.what(opcode_style(message.opcode), "message", Some(message.len));
        let (what, frames) = (message.opcode.as_str(), Counted(message.frames, "frame"));
        let _ = write!(self.line, "  {what} in {frames}");
        if message.compressed {
            self.line.push_str(", compressed");
        }
        if let Some(len) = message.inflated_len {
            let _ = write!(self.line, ", {} inflated", Bytes(len));
        }
    }

    fn close(&mut self, close: &Close) {
        let style = match close.kind {
            CloseKind::Clean => color(AnsiColor::Magenta),
            CloseKind::Eof | CloseKind::Evicted => Style::new(),
            CloseKind::Half | CloseKind::Rst | CloseKind::Fin | CloseKind::Idle => {
                color(AnsiColor::Red)
            }
        };
        self.what(Style::new().bold(), "closed", None);
        self.styled(style, close.kind.as_str());
        if close.kind == CloseKind::Eof {
            self.line.push_str(" (still open)");
        }
        if let Some(initiator) = close.initiator {
            let _ = write!(self.line, " by {}", initiator.as_str());
        }
        self.code(close.code, close.reason.as_deref().unwrap_or_default());
        let _ = write!(self.line, "  after {}", Time(close.duration));
        // A shorter one is only the time between two segments.
        if let Some(silence) = close.silence.filter(|silence| silence.as_secs() > 0) {
            let _ = write!(self.line, ", silent for {}", Time(silence));
        }
        for (arrow, direction) in ["->", "<-"].into_iter().zip(Direction::BOTH) {
            let (frames, bytes) = (close.frames[direction], close.bytes[direction]);
            let frames = Counted(frames.total(), "frame");
            let _ = write!(self.line, "  {arrow} {frames} {}", Bytes(bytes.total()));
        }
    }

    fn violation(&mut self, violation: &Violation) {
        self.what(color(AnsiColor::Red).bold(), "violation", None);
        self.line.push_str(violation.rule.as_str());
        if !violation.detail.is_empty() {
            self.line.push_str(": ");
            escape::text(&mut self.line, &violation.detail, MAX_VALUE);
        }
        if violation.count > 1 {
            let _ = write!(self.line, " ({} times so far)", violation.count);
        }
    }

    fn gap(&mut self, gap: &Gap) {
        self.what(color(AnsiColor::Yellow).bold(), "gap", Some(gap.bytes));
        self.line.push_str(if gap.resynced {
            "  missing; frames recognised again"
        } else {
            "  missing; out of sync"
        });
    }
}

impl<W: Write> Sink for Text<W> {
    fn event(&mut self, event: &Event) -> io::Result<()> {
        let direction = match &event.kind {
            EventKind::Frame(frame) => Some(frame.direction),
            EventKind::Message(message) => Some(message.direction),
            EventKind::Violation(violation) => Some(violation.direction),
            EventKind::Gap(gap) => Some(gap.direction),
            EventKind::Handshake(_) | EventKind::Close(_) => None,
            EventKind::Progress(_) | EventKind::Counted(_) => return Ok(()),
        };
        self.start(event.ts, &event.connection, direction);
        match &event.kind {
            EventKind::Handshake(handshake) => self.handshake(&event.connection, handshake),
            EventKind::Frame(frame) => self.frame(frame),
            EventKind::Message(message) => self.message(message),
            EventKind::Close(close) => self.close(close),
            EventKind::Violation(violation) => self.violation(violation),
            EventKind::Gap(gap) => self.gap(gap),
            EventKind::Progress(_) | EventKind::Counted(_) => {}
        }
        self.line.push('\n');
        self.out.write_all(self.line.as_bytes())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn color(color: AnsiColor) -> Style {
    Style::new().fg_color(Some(color.into()))
}

fn opcode_style(opcode: Opcode) -> Style {
    match opcode {
        Opcode::Text => color(AnsiColor::Green),
        Opcode::Binary => color(AnsiColor::Blue),
        Opcode::Continuation => color(AnsiColor::Cyan),
        Opcode::Ping | Opcode::Pong => color(AnsiColor::BrightBlack),
        Opcode::Close => color(AnsiColor::Magenta),
        Opcode::Reserved(_) => color(AnsiColor::Red),
    }
}

/// Whether it is UTF-8 without control characters other than white space, as far as it goes.
fn looks_like_text(preview: &Preview) -> bool {
    let text = match std::str::from_utf8(&preview.bytes) {
        Ok(text) => text,
        Err(error) if preview.truncated && error.error_len().is_none() => {
            let valid = preview.bytes.get(..error.valid_up_to());
            valid
                .and_then(|bytes| std::str::from_utf8(bytes).ok())
                .unwrap_or_default()
        }
        Err(_) => return false,
    };
    text.chars()
        .all(|c| matches!(c, '\t' | '\n' | '\r') || !c.is_control())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        proto::event::{CloseBody, Rule},
        sink::{no_interfaces, sample},
    };

    fn printed(colored: bool, kinds: impl IntoIterator<Item = EventKind>) -> String {
        let mut out = Vec::new();
        let mut text = Text::new(&mut out, no_interfaces(), colored);
        for kind in kinds {
            text.event(&sample::event(kind)).unwrap();
        }
        String::from_utf8(out).unwrap()
    }

    const START: &str = "09:05:07.000123  192.0.2.1:40312";

    #[test]
    fn a_line_says_what_happened() {
        let pong = Frame {
            rtt: Some(Duration::from_micros(1240)),
            ..sample::frame(Direction::ServerToClient, Opcode::Pong, 4)
        };
        let odd = Frame {
            fin: false,
            rsv: 5,
            mask: None,
            ..sample::frame(Direction::ClientToServer, Opcode::Reserved(3), 1536)
        };
        let printed = printed(
            false,
            [
                sample::handshake(),
                sample::text_frame(b"hello\n", true),
                EventKind::Frame(Box::new(pong)),
                EventKind::Frame(Box::new(odd)),
                sample::close_frame(1001, "bye"),
                sample::message(Opcode::Text, 10),
                sample::violation(Rule::ReservedBits, 10),
                sample::gap(true),
                sample::close(4000, ""),
            ],
        );
        let rest: Vec<_> = printed
            .lines()
            .map(|line| {
                line.strip_prefix(START)
                    .unwrap()
                    .replace("[2001:db8::1]:8080", "S")
            })
            .collect();
        assert_eq!(
            rest,
            [
                " -- S handshake    accepted 101 GET /rooms/1?token=x  host chat.example:8080  \
                 subprotocol chat.v2  extensions permessage-deflate  origin https://example  \
                 in 1.2 ms",
                " -> S text              6 B  \"hello\\n\"…",
                " <- S pong              4 B  round trip 1.2 ms",
                " -> S reserved_3    1.5 KiB  !fin rsv1 rsv3 unmasked",
                " <- S close             5 B  1001 Going Away \"bye\"",
                " -> S message          10 B  text in 2 frames, compressed",
                " -> S violation    reserved_bits: \\u{1b}[2J (10 times so far)",
                " <- S gap           1.4 KiB  missing; frames recognised again",
                " -- S closed       clean by server  4000 private use  after 12.3 s, silent for \
                 5.0 s  -> 4 frames 2.9 KiB  <- 1 frame 0 B",
            ]
        );
    }

    #[test]
    fn a_proxied_handshake_names_its_other_hops() {
        let proxied = Connection {
            next_hop: Some(sample::next_hop()),
            previous_hop: Some(sample::previous_hop()),
            ..sample::connection()
        };
        let mut out = Vec::new();
        let mut text = Text::new(&mut out, no_interfaces(), false);
        text.event(&sample::on(proxied, sample::handshake()))
            .unwrap();
        let line = String::from_utf8(out).unwrap();
        let end = "  next hop [2001:db8::1]:51000 -> 198.51.100.4:9000  \
                   previous hop 203.0.113.9:52000 -> 192.0.2.1:443  in 1.2 ms\n";
        assert!(line.ends_with(end), "{line}");
    }

    #[test]
    fn nothing_hostile_gets_through() {
        let hostile = "\u{1b}]0;x\u{7}\u{9b}2J\u{202e}\r\n\u{2066}";
        let connection = Connection {
            host: Some(hostile.into()),
            path: Some(hostile.repeat(1000).into()),
            subprotocol: Some(hostile.into()),
            ..sample::connection()
        };
        let mut out = Vec::new();
        let mut text = Text::new(&mut out, no_interfaces(), false);
        for kind in [
            sample::handshake(),
            sample::text_frame(hostile.as_bytes(), false),
            sample::text_frame(b"\x1b\xff\x9b", false),
            sample::close_frame(1000, hostile),
            sample::close(1000, hostile),
            sample::violation(Rule::InvalidUtf8, 1),
        ] {
            text.event(&sample::on(connection.clone(), kind)).unwrap();
        }
        let out = String::from_utf8(out).unwrap();
        assert_eq!(out.lines().count(), 6);
        for c in out.chars().filter(|c| *c != '\n') {
            assert!(!escape::is_hostile(c), "{c:?}");
        }
        assert!(out.lines().all(|line| line.chars().count() < 4000));
    }

    #[test]
    fn colour_changes_no_text() {
        let kinds = || {
            [
                sample::text_frame(b"x", false),
                sample::close(1000, "y"),
                sample::handshake(),
            ]
        };
        let colored = printed(true, kinds());
        assert!(colored.contains("\u{1b}[32mtext"));
        assert_eq!(
            anstream::adapter::strip_str(&colored).to_string(),
            printed(false, kinds())
        );
    }

    #[test]
    fn binary_and_compressed_payload_is_hex() {
        let preview = |bytes: &[u8]| {
            Some(Preview {
                bytes: bytes.to_vec(),
                truncated: false,
                compressed: bytes == b"abc",
            })
        };
        let binary = Frame {
            payload: preview(b"\x00\xffA"),
            ..sample::frame(Direction::ServerToClient, Opcode::Binary, 3)
        };
        let compressed = Frame {
            rsv: 4,
            payload: preview(b"abc"),
            ..sample::frame(Direction::ServerToClient, Opcode::Text, 3)
        };
        let inflated = Frame {
            rsv: 4,
            payload: preview(b"plain"),
            ..sample::frame(Direction::ServerToClient, Opcode::Text, 3)
        };
        // The body of a close frame is shown once.
        let close = Frame {
            close: Some(CloseBody {
                code: Some(CloseCode(1000)),
                reason: String::new(),
            }),
            payload: preview(b"\x03\xe8"),
            ..sample::frame(Direction::ServerToClient, Opcode::Close, 2)
        };
        let kinds =
            [binary, compressed, inflated, close].map(|frame| EventKind::Frame(Box::new(frame)));
        let printed = printed(false, kinds);
        let ends: Vec<_> = printed
            .lines()
            .map(|line| line.rsplit("  ").next())
            .collect();
        assert_eq!(
            ends,
            [
                Some("00ff41"),
                Some("616263"),
                Some("\"plain\""),
                Some("1000 Normal Closure")
            ]
        );
    }

    #[test]
    fn columns_grow_and_stay() {
        let mut out = Vec::new();
        let mut text = Text::new(&mut out, no_interfaces(), false);
        for client in ["1.1.1.1:1", "[2001:db8:1:2:3:4:5:6]:40000", "1.1.1.1:1"] {
            let client = client.parse().unwrap();
            let connection = Connection {
                client,
                ..sample::connection()
            };
            text.event(&sample::on(connection, sample::gap(false)))
                .unwrap();
        }
        let out = String::from_utf8(out).unwrap();
        let arrows: Vec<_> = out.lines().filter_map(|line| line.find("<-")).collect();
        assert_eq!(arrows, [33, 46, 46]);
    }
}
