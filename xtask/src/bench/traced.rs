//! What `trace -o json` to a file reports, copies and takes.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use super::agent::{RING, Wstap};
use super::child::Guarded;
use super::statistics::middle;
use super::table::{Required, Row};
use super::traffic::{Amount, Load, Sent, opcode};
use super::{Bench, Ledger};
use crate::interrupt;

/// A process that has taken less than this for a while has nothing more to do.
const QUIET: Duration = Duration::from_millis(10);
/// How long wstap may be quiet before it goes on with what it has.
const PAUSE: Duration = Duration::from_millis(200);
/// How long a process may take to come to rest.
const REST: Duration = Duration::from_secs(90);

struct Case {
    name: &'static str,
    payload: usize,
    together: usize,
    /// Writes of a sample: an event is a line of some 300 bytes on the disk.
    writes: u64,
    copied: Option<f64>,
}

const CASES: [Case; 4] = [
    Case {
        name: "64 B frames, one a write",
        payload: 64,
        together: 1,
        writes: 50_000,
        copied: None,
    },
    Case {
        name: "64 B frames, 100 a write",
        payload: 64,
        together: 100,
        writes: 500,
        copied: None,
    },
    Case {
        name: "16 KiB frames",
        payload: 16 << 10,
        together: 1,
        writes: 40_000,
        copied: Some(0.5),
    },
    Case {
        name: "1 MiB frames",
        payload: 1 << 20,
        together: 1,
        writes: 1000,
        copied: Some(0.05),
    },
];

/// All figures of the group.
pub fn rows(bench: &Bench) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for case in &CASES {
        rows.extend(rows_of(bench, case)?);
    }
    Ok(rows)
}

fn rows_of(bench: &Bench, case: &Case) -> Result<Vec<Row>> {
    let events = bench.folder.join("events.json");
    let tracer = Wstap::trace(&bench.pair.server, bench.wstap, &events, &[])?;
    let mut ledger = Ledger::new(bench);
    let ring = tracer.process.ring_position(RING)?;
    let mut cpu = Vec::new();
    for round in 0..bench.pairs {
        bench.progress(&format!("traced: {}", case.name), round);
        let before = tracer.process.cpu()?;
        let done = bench.client(Load {
            payload: case.payload,
            together: case.together,
            echo: false,
            amount: Amount::Writes(case.writes),
        })?;
        ledger.add(&done);
        at_rest(&tracer.process)?;
        let taken = tracer.process.cpu()?.saturating_sub(before);
        let millions = done.sent.frames[usize::from(opcode::BINARY)] as f64 / 1e6;
        cpu.push(taken.as_secs_f64() / millions);
    }
    let ring = tracer.process.ring_position(RING)?.saturating_sub(ring);
    let said = tracer.stop(Signal::SIGINT)?;
    let said = said.lines().last().unwrap_or_default().to_owned();
    let sent = ledger.sent(bench);
    let reported = reported(&events)?;
    fs::remove_file(&events).with_context(|| format!("cannot remove {}", events.display()))?;

    let frames = |of: &[Sent; 2]| of.iter().map(Sent::all_frames).sum::<u64>();
    let payload: u64 = sent.iter().map(Sent::all_bytes).sum();
    let cpu = middle(cpu);
    let name = case.name;
    Ok(vec![
        Row {
            figure: format!("`trace -o json`: agent CPU per million data frames: {name}"),
            measured: cpu.median,
            interval: cpu.interval,
            unit: "s",
            // Of large frames there are too few for the timers not to show.
            required: (case.payload <= 64).then_some(Required::AtMost(1.0)),
            note: format!(
                "frames sent, in bursts of {}",
                case.writes * case.together as u64
            ),
        },
        Row {
            figure: format!("`trace -o json`: frames reported / sent: {name}"),
            measured: frames(&reported) as f64 / frames(&sent) as f64,
            interval: None,
            unit: "",
            // Counts are exact whatever detail is lost; this is the detail.
            required: None,
            note: format!("{} of {}: {said}", frames(&reported), frames(&sent)),
        },
        Row {
            figure: format!("`trace -o json`: bytes through the ring per payload byte: {name}"),
            measured: ring as f64 / payload as f64 * 100.0,
            interval: None,
            unit: "%",
            required: case.copied.map(Required::AtMost),
            note: format!("{ring} of {payload}"),
        },
    ])
}

/// Waits until wstap has nothing more to do.
pub fn at_rest(process: &Guarded) -> Result<()> {
    quiet(process, PAUSE)
}

/// Waits until a process takes hardly any time for so long.
pub fn quiet(process: &Guarded, long: Duration) -> Result<()> {
    let begun = Instant::now();
    let mut before = process.cpu()?;
    while begun.elapsed() < REST {
        interrupt::pause(long)?;
        let now = process.cpu()?;
        if now.saturating_sub(before) < QUIET {
            return Ok(());
        }
        before = now;
    }
    eprintln!("a process is busy {REST:?} after its last packet");
    Ok(())
}

/// The frames among the events of a file, the clients' first.
pub fn reported(events: &Path) -> Result<[Sent; 2]> {
    let file = File::open(events).with_context(|| format!("cannot open {}", events.display()))?;
    let mut lines = BufReader::with_capacity(1 << 20, file);
    let mut reported = [Sent::default(); 2];
    let mut line = String::new();
    while lines.read_line(&mut line).context("cannot read an event")? > 0 {
        if line.starts_with("{\"event\":\"frame\"") {
            let direction = usize::from(!line.contains("\"dir\":\"client_to_server\""));
            let opcode = match field(&line, "\"opcode\":\"") {
                Some("continuation") => 0,
                Some("text") => opcode::TEXT,
                Some("binary") => opcode::BINARY,
                Some("close") => opcode::CLOSE,
                Some("ping") => opcode::PING,
                Some("pong") => opcode::PONG,
                _ => 3,
            };
            let len = field(&line, "\"len\":").and_then(|len| len.parse().ok());
            reported[direction].add(opcode, 1, len.unwrap_or(0));
        }
        line.clear();
    }
    Ok(reported)
}

/// What follows a name up to the end of the value. The names are of fields that nobody outside fills.
fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = line.split_once(name)?;
    rest.split(['"', ',', '}']).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found() {
        let line = r#"{"event":"frame","opcode":"binary","len":64}"#;
        assert_eq!(field(line, "\"opcode\":\""), Some("binary"));
        assert_eq!(field(line, "\"len\":"), Some("64"));
        assert_eq!(field(line, "\"code\":"), None);
    }
}
