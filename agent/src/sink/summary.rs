//! `wstap read --summary`: a table with a row for each connection, then totals.
//!
//! A row is due when its connection is over, or its attempt has failed. The first
//! [`ALIGNED_ROWS`] are held back so that the columns can be made as wide as they need; later rows
//! are printed as they come, in columns of that width. So memory does not grow with the file.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{self, Write},
};

use super::{
    Sink, close_code, escape,
    unit::{Bytes, Counted, Time},
};
use crate::{
    config::Selection,
    proto::{
        event::{Close, CloseKind, Connection, Event, EventKind, MessageCounts},
        flow::{Direction, PerDirection},
        observer::Stats,
        time::Timestamp,
    },
};

/// Rows that are held back.
pub const ALIGNED_ROWS: usize = 1000;

/// Characters of a host and path, and of a reason, that are shown.
const MAX_VALUE: usize = 60;

const COLUMNS: usize = 11;

/// The last column is as wide as it gets.
const HEADS: [&str; COLUMNS] = [
    "CLIENT",
    "SERVER",
    "HOST AND PATH",
    "HANDSHAKE",
    "FRAMES ->",
    "<- FRAMES",
    "BYTES ->",
    "<- BYTES",
    "MESSAGES",
    "RATIO",
    "LASTED, ENDED",
];

/// Columns with numbers, which are aligned at the right.
const NUMBERS: std::ops::Range<usize> = 4..10;

type Row = [String; COLUMNS];

/// Gathers and prints the table.
pub struct Summary<W> {
    out: W,
    selection: Selection,
    held_back: Vec<Row>,
    /// Once the first rows are out.
    widths: Option<[usize; COLUMNS]>,
    totals: Totals,
}

#[derive(Default)]
struct Totals {
    outcomes: BTreeMap<&'static str, u64>,
    endings: BTreeMap<&'static str, u64>,
    frames: PerDirection<u64>,
    bytes: PerDirection<u64>,
    messages: PerDirection<MessageCounts>,
    violations: u64,
    gaps: u64,
}

/// Inflated bytes for each on the wire.
fn ratio(messages: &MessageCounts) -> Option<String> {
    let ratio = messages.inflated as f64 / messages.on_wire as f64;
    (messages.on_wire > 0).then(|| format!("{ratio:.1}"))
}

impl<W: Write> Summary<W> {
    /// Prints the connections that `selection` wants to `out`.
    pub fn new(out: W, selection: Selection) -> Self {
        Self {
            out,
            selection,
            held_back: Vec::new(),
            widths: None,
            totals: Totals::default(),
        }
    }

    fn row(&mut self, row: Row) -> io::Result<()> {
        match &self.widths {
            Some(widths) => print(&mut self.out, widths, &row.each_ref().map(|cell| &cell[..])),
            None => {
                self.held_back.push(row);
                if self.held_back.len() == ALIGNED_ROWS {
                    self.release()?;
                }
                Ok(())
            }
        }
    }

    /// Prints the heads and the rows that were held back.
    fn release(&mut self) -> io::Result<()> {
        if self.widths.is_some() {
            return Ok(());
        }
        let mut widths = HEADS.map(str::len);
        for row in &self.held_back {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        self.widths = Some(widths);
        print(&mut self.out, &widths, &HEADS)?;
        for row in self.held_back.drain(..) {
            print(
                &mut self.out,
                &widths,
                &row.each_ref().map(|cell| &cell[..]),
            )?;
        }
        Ok(())
    }

    /// What could not be looked into.
    fn tail(&mut self, stats: &Stats) -> io::Result<()> {
        if stats.unreadable_tls > 0 {
            let connections = Counted(stats.unreadable_tls, "connection");
            writeln!(self.out, "{connections} with TLS, which cannot be read")?;
        }
        self.flush()
    }

    fn ended(&mut self, connection: &Connection, close: &Close) -> io::Result<()> {
        let messages = close.messages;
        let totals = &mut self.totals;
        *totals.endings.entry(close.kind.as_str()).or_default() += 1;
        for direction in Direction::BOTH {
            add(
                &mut totals.frames[direction],
                close.frames[direction].total(),
            );
            add(&mut totals.bytes[direction], close.bytes[direction].total());
            totals.messages[direction] = totals.messages[direction].and(messages[direction]);
        }
        let mut row = row_of(connection);
        let frames = |direction| close.frames[direction].total().to_string();
        let bytes = |direction| Bytes(close.bytes[direction].total()).to_string();
        row[4] = frames(Direction::ClientToServer);
        row[5] = frames(Direction::ServerToClient);
        row[6] = bytes(Direction::ClientToServer);
        row[7] = bytes(Direction::ServerToClient);
        row[8] = format!(
            "{} + {}",
            messages.client_to_server.count, messages.server_to_client.count
        );
        let both = messages.client_to_server.and(messages.server_to_client);
        row[9] = ratio(&both).unwrap_or_else(|| String::from("-"));
        row[10] = ending(close);
        self.row(row)
    }
}

impl<W: Write> Sink for Summary<W> {
    fn event(&mut self, event: &Event) -> io::Result<()> {
        if !self.selection.wants(&event.connection) {
            return Ok(());
        }
        match &event.kind {
            EventKind::Handshake(handshake) => {
                let outcome = event.connection.outcome;
                add(self.totals.outcomes.entry(outcome.as_str()).or_default(), 1);
                if !outcome.opens() {
                    let mut row = row_of(&event.connection);
                    if let Some(status) = handshake.status {
                        let _ = write!(row[3], " {status}");
                    }
                    return self.row(row);
                }
            }
            EventKind::Close(close) => return self.ended(&event.connection, close),
            EventKind::Violation(_) => add(&mut self.totals.violations, 1),
            EventKind::Gap(_) => add(&mut self.totals.gaps, 1),
            EventKind::Frame(_)
            | EventKind::Progress(_)
            | EventKind::Message(_)
            | EventKind::Counted(_) => {}
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn finish(&mut self, _end: Timestamp, stats: &Stats) -> io::Result<()> {
        if self.totals.outcomes.is_empty() && self.totals.endings.is_empty() {
            writeln!(self.out, "No WebSocket connections.")?;
            return self.tail(stats);
        }
        self.release()?;
        let totals = &self.totals;
        let attempts = totals
            .outcomes
            .values()
            .fold(0, |sum: u64, n| sum.saturating_add(*n));
        writeln!(self.out)?;
        writeln!(
            self.out,
            "{}: {}; ended {}",
            Counted(attempts, "handshake"),
            list(&totals.outcomes),
            list(&totals.endings)
        )?;
        for (arrow, direction) in ["->", "<-"].into_iter().zip(Direction::BOTH) {
            let messages = &totals.messages[direction];
            write!(
                self.out,
                "{arrow} {}, {}, {} of payload",
                Counted(totals.frames[direction], "frame"),
                Counted(messages.count, "message"),
                Bytes(totals.bytes[direction])
            )?;
            if let Some(ratio) = ratio(messages) {
                let (from, to) = (Bytes(messages.on_wire), Bytes(messages.inflated));
                write!(self.out, "; {from} of it inflated to {to}, {ratio} times")?;
            }
            writeln!(self.out)?;
        }
        writeln!(
            self.out,
            "{}, {}",
            Counted(totals.violations, "violation"),
            Counted(totals.gaps, "gap")
        )?;
        self.tail(stats)
    }
}

fn add(count: &mut u64, n: u64) {
    *count = count.saturating_add(n);
}

fn row_of(connection: &Connection) -> Row {
    let mut row: Row = std::array::from_fn(|_| String::from("-"));
    row[0] = connection.client.to_string();
    row[1] = connection.server.to_string();
    if connection.host.is_some() || connection.path.is_some() {
        let parts = [&connection.host, &connection.path];
        let target: String = parts.into_iter().flatten().map(|part| &**part).collect();
        row[2].clear();
        escape::text(&mut row[2], &target, MAX_VALUE);
    }
    row[3] = connection.outcome.as_str().to_owned();
    row
}

fn ending(close: &Close) -> String {
    let mut text = format!("{}, {}", Time(close.duration), close.kind.as_str());
    if close.kind == CloseKind::Eof {
        text.push_str(" (still open)");
    }
    if let Some(initiator) = close.initiator {
        let _ = write!(text, " by {}", initiator.as_str());
    }
    if let Some(code) = close.code {
        let _ = write!(text, ", {} {}", code.0, close_code::name(code));
    }
    if let Some(reason) = close.reason.as_deref().filter(|reason| !reason.is_empty()) {
        text.push(' ');
        escape::quoted(&mut text, reason, MAX_VALUE);
    }
    text
}

fn list(counts: &BTreeMap<&'static str, u64>) -> String {
    if counts.is_empty() {
        return String::from("none");
    }
    let parts: Vec<_> = counts
        .iter()
        .map(|(name, n)| format!("{n} {name}"))
        .collect();
    parts.join(", ")
}

fn print(out: &mut impl Write, widths: &[usize; COLUMNS], row: &[&str; COLUMNS]) -> io::Result<()> {
    let mut line = String::new();
    for (at, (cell, width)) in row.iter().zip(widths).enumerate() {
        if NUMBERS.contains(&at) {
            let _ = write!(line, "{cell:>width$}  ");
        } else {
            let _ = write!(line, "{cell:<width$}  ");
        }
    }
    writeln!(out, "{}", line.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        proto::event::{Handshake, Outcome, Rule},
        sink::sample,
    };

    fn printed(events: &[Event]) -> String {
        let mut out = Vec::new();
        let mut summary = Summary::new(&mut out, Selection::default());
        for event in events {
            summary.event(event).unwrap();
        }
        summary.finish(sample::TS, &Stats::default()).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn rejected() -> Event {
        let connection = Connection {
            outcome: Outcome::Rejected,
            server: "192.0.2.9:80".parse().unwrap(),
            path: Some("/\u{1b}[31m".into()),
            ..sample::connection()
        };
        let handshake = Handshake {
            status: Some(403),
            ..Handshake::default()
        };
        sample::on(connection, EventKind::Handshake(Box::new(handshake)))
    }

    #[test]
    fn a_row_for_each_connection_then_totals() {
        let printed = printed(&[
            sample::event(sample::handshake()),
            sample::event(sample::violation(Rule::ReservedBits, 2)),
            sample::event(sample::close(1001, "bye")),
            rejected(),
        ]);
        let expected = [
            concat!(
                "CLIENT           SERVER              HOST AND PATH                      HANDSHAKE   ",
                "  FRAMES ->  <- FRAMES  BYTES ->  <- BYTES  MESSAGES  RATIO  LASTED, ENDED"
            ),
            concat!(
                "192.0.2.1:40312  [2001:db8::1]:8080  chat.example:8080/rooms/1?token=x  accepted    ",
                "          4          1   2.9 KiB       0 B     2 + 0    4.0  ",
                "12.3 s, clean by server, 1001 Going Away \"bye\""
            ),
            concat!(
                "192.0.2.1:40312  192.0.2.9:80        chat.example:8080/\\u{1b}[31m       rejected 403",
                "          -          -         -         -         -      -  -"
            ),
            "",
            "2 handshakes: 1 accepted, 1 rejected; ended 1 clean",
            "-> 4 frames, 2 messages, 2.9 KiB of payload; 1 KiB of it inflated to 4 KiB, 4.0 times",
            "<- 1 frame, 0 messages, 0 B of payload",
            "1 violation, 0 gaps",
        ];
        assert_eq!(printed.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn nothing_is_said_to_be_nothing() {
        assert_eq!(printed(&[]), "No WebSocket connections.\n");
    }

    #[test]
    fn rows_beyond_those_held_back_come_at_once() {
        let mut out = Vec::new();
        let mut summary = Summary::new(&mut out, Selection::default());
        for _ in 0..ALIGNED_ROWS + 5 {
            summary.event(&rejected()).unwrap();
            assert!(summary.held_back.len() < ALIGNED_ROWS);
        }
        summary.finish(sample::TS, &Stats::default()).unwrap();
        let out = String::from_utf8(out).unwrap();
        assert_eq!(
            out.lines().filter(|l| l.contains("rejected 403")).count(),
            1005
        );
    }
}
