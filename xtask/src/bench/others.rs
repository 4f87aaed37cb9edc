//! Others beside wstap, at the same place and on the same traffic: what they take, what they leave, and
//! how much of it they report.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use super::Bench;
use super::agent::Wstap;
use super::child::Guarded;
use super::statistics::middle;
use super::table::Row;
use super::traced::{at_rest, quiet, reported};
use super::traffic::{Amount, Done, Load, Sent, opcode};
use crate::{interrupt, oracle, process};

/// How long one may take to begin, and to end.
const PATIENCE: Duration = Duration::from_secs(60);
/// From when it listens until it is sure to be at work.
const SETTLE: Duration = Duration::from_millis(300);
/// How long one may be quiet before it goes on with what it has: tshark is told twice a second.
const PAUSE: Duration = Duration::from_millis(1500);
/// Where a thread sees the packet sockets of its namespace, below a line of headings.
const SOCKETS: &str = "/proc/thread-self/net/packet";

const LOADS: [(&str, usize, u64); 2] = [
    ("64 B frames, one a write", 64, 100_000),
    ("16 KiB frames", 16 << 10, 10_000),
];

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Tool {
    Run,
    Trace,
    Tcpdump,
    Tshark,
    Suricata,
}

/// What one gave.
#[derive(Default)]
struct Taken {
    left: Vec<f64>,
    /// Seconds for a million frames.
    cpu: Vec<f64>,
    frames: u64,
    reported: f64,
    /// Why there is no more of it.
    fault: String,
}

/// All figures of the group.
pub fn rows(bench: &Bench) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for tool in [
        Tool::Run,
        Tool::Trace,
        Tool::Tcpdump,
        Tool::Tshark,
        Tool::Suricata,
    ] {
        if let Some(why) = tool.is_missing()? {
            eprintln!("{} is left out: {why}", tool.name());
            continue;
        }
        for (name, payload, writes) in LOADS {
            let load = Load {
                payload,
                together: 1,
                echo: false,
                amount: Amount::Writes(writes / tool.patience_wanted()),
            };
            let mut taken = Taken::default();
            let done = tool.compare(bench, name, load, &mut taken);
            interrupt::check()?;
            // What went wrong with one says nothing about the others.
            if let Err(error) = done {
                taken.fault = format!("; it failed: {error:#}");
            }
            rows.extend(taken.rows(tool, name));
        }
    }
    Ok(rows)
}

impl Taken {
    fn rows(&self, tool: Tool, load: &str) -> Vec<Row> {
        let row = |figure: &str, values: &[f64], unit, note| {
            let value = middle(values.iter().copied());
            Row {
                figure: format!("{}: {figure}: {load}", tool.name()),
                measured: value.median,
                interval: value.interval,
                unit,
                required: None,
                note,
            }
        };
        let share = self.reported / self.frames as f64;
        let reported = format!("{:.0} of {}", self.reported, self.frames);
        let pairs = format!("{} pairs{}", self.left.len(), self.fault);
        vec![
            row("CPU per million frames", &self.cpu, "s", String::new()),
            row("throughput left", &self.left, "", pairs),
            row(tool.reports(), &[share], "", reported),
        ]
    }
}

fn rate(done: &Done) -> f64 {
    done.sent.frames[usize::from(opcode::BINARY)] as f64 / done.elapsed.as_secs_f64()
}

impl Tool {
    fn name(self) -> &'static str {
        match self {
            Self::Run => "wstap run",
            Self::Trace => "wstap trace -o json",
            Self::Tcpdump => "tcpdump -w /dev/null",
            Self::Tshark => "tshark",
            Self::Suricata => "Suricata",
        }
    }

    /// How much slower than others it is, roughly: it gets so much less to do.
    fn patience_wanted(self) -> u64 {
        match self {
            Self::Tshark => 10,
            _ => 1,
        }
    }

    fn reports(self) -> &'static str {
        match self {
            Self::Run => "frames counted / sent",
            Self::Tcpdump => "packets not dropped",
            _ => "frames reported / sent",
        }
    }

    /// Why it cannot be measured, where it cannot.
    fn is_missing(self) -> Result<Option<String>> {
        Ok(match self {
            Self::Run | Self::Trace => None,
            Self::Tcpdump | Self::Tshark => {
                let program = if self == Self::Tcpdump {
                    "tcpdump"
                } else {
                    "tshark"
                };
                let missing = process::find(program).is_none();
                missing.then(|| "it is not installed".to_owned())
            }
            Self::Suricata => oracle::suricata_version()?.err(),
        })
    }

    /// Sends a load with it and without it, one after the other.
    fn compare(self, bench: &Bench, name: &str, load: Load, taken: &mut Taken) -> Result<()> {
        for round in 0..bench.pairs {
            bench.progress(&format!("{}, {name}", self.name()), round);
            let first = if round % 2 == 0 {
                Some(rate(&bench.client(load)?))
            } else {
                None
            };
            let with = self.watch(bench, load, taken)?;
            let without = match first {
                Some(rate) => rate,
                None => rate(&bench.client(load)?),
            };
            taken.left.push(with / without);
        }
        Ok(())
    }

    /// Has it watch one load. Returns frames a second that the application had.
    fn watch(self, bench: &Bench, load: Load, taken: &mut Taken) -> Result<f64> {
        let side = &bench.pair.server;
        let before = bench.server.sent();
        let out = bench.folder.join("others.out");
        match self {
            Self::Run | Self::Trace => {
                let wstap = if self == Self::Run {
                    Wstap::run(side, bench.wstap, &[])?
                } else {
                    Wstap::trace(side, bench.wstap, &out, &[])?
                };
                interrupt::pause(SETTLE)?;
                let cpu = wstap.process.cpu()?;
                let done = bench.client(load)?;
                at_rest(&wstap.process)?;
                let cpu = wstap.process.cpu()?.saturating_sub(cpu);
                let sent = [done.sent, bench.server.sent() - before];
                let seen = if self == Self::Run {
                    let counted = wstap.settled(&sent)?.counted();
                    wstap.stop(Signal::SIGTERM)?;
                    counted
                } else {
                    wstap.stop(Signal::SIGINT)?;
                    reported(&out)?
                };
                taken.add(cpu, &sent, frames(&seen) as f64, frames(&sent));
                Ok(rate(&done))
            }
            Self::Tcpdump | Self::Tshark | Self::Suricata => {
                let errors = bench.folder.join("others.err");
                let mut command = self.command(bench)?;
                command
                    .stdout(File::create(&out)?)
                    .stderr(File::create(&errors)?);
                let mut process = Guarded::spawn(&mut command)?;
                self.wait(bench, &mut process)?;
                let begun = process.cpu()?;
                let done = bench.client(load)?;
                quiet(&process, PAUSE)?;
                // With what its own children took, as soon as they have ended.
                let cpu = process
                    .stop(Signal::SIGINT, PATIENCE)?
                    .saturating_sub(begun);
                let sent = [done.sent, bench.server.sent() - before];
                let said = fs::read_to_string(&errors).unwrap_or_default();
                let (seen, of) = match self {
                    Self::Tcpdump => packets(&said)?,
                    Self::Tshark => (
                        lines(&out, |line| tshark_frames(line, load.payload))?,
                        frames(&sent),
                    ),
                    _ => (
                        lines(&bench.folder.join("eve.json"), suricata_frames)?,
                        frames(&sent),
                    ),
                };
                taken.add(cpu, &sent, seen as f64, of);
                Ok(rate(&done))
            }
        }
    }

    fn command(self, bench: &Bench) -> Result<Command> {
        let side = &bench.pair.server;
        let device = side.device.as_str();
        let mut command = match self {
            Self::Tcpdump => {
                let mut command = side.command("tcpdump");
                command.args(["-n", "-i", device, "-Z", "root", "-w", "/dev/null"]);
                command
            }
            Self::Tshark => {
                let mut command = side.command("tshark");
                // A line for each segment with frames, with their opcodes and lengths.
                command.args([
                    "-n",
                    "-i",
                    device,
                    "-d",
                    "tcp.port==9000,http",
                    "-Y",
                    "websocket",
                ]);
                command.args(["-T", "fields", "-e", "tcp.stream", "-e", "websocket.opcode"]);
                command.args(["-e", "websocket.payload_length"]);
                command
            }
            _ => {
                let log = bench.folder.join("eve.json");
                if log.exists() {
                    fs::remove_file(&log)?;
                }
                let configuration = bench.folder.join("suricata.yaml");
                fs::write(&configuration, oracle::SURICATA)?;
                let mut command = side.command("suricata");
                command
                    .arg("-c")
                    .arg(&configuration)
                    .arg("-l")
                    .arg(bench.folder);
                command.args(["-S", "/dev/null", "-k", "none"]);
                command.arg(format!("--af-packet={device}"));
                command
            }
        };
        // What tshark has yet to read lies there.
        command.env("TMPDIR", bench.folder).stdin(Stdio::null());
        Ok(command)
    }

    /// Waits until it has a socket for packets.
    fn wait(self, bench: &Bench, process: &mut Guarded) -> Result<()> {
        let begun = Instant::now();
        loop {
            let sockets = bench
                .pair
                .server
                .within(|| fs::read_to_string(SOCKETS).context("cannot list packet sockets"))?;
            if sockets.lines().count() > 1 {
                return interrupt::pause(SETTLE);
            }
            interrupt::pause(Duration::from_millis(20))?;
            process.check()?;
            if begun.elapsed() > PATIENCE {
                bail!("{} does not begin", self.name());
            }
        }
    }
}

impl Taken {
    fn add(&mut self, cpu: Duration, sent: &[Sent; 2], reported: f64, of: u64) {
        self.cpu.push(cpu.as_secs_f64() * 1e6 / frames(sent) as f64);
        self.reported += reported;
        self.frames += of;
    }
}

fn frames(of: &[Sent; 2]) -> u64 {
    of.iter().map(Sent::all_frames).sum()
}

/// Packets that tcpdump has captured, and how many it should have.
fn packets(said: &str) -> Result<(u64, u64)> {
    let number = |what: &str| {
        let line = said.lines().find(|line| line.ends_with(what))?;
        line.split(' ').next()?.parse::<u64>().ok()
    };
    let captured = number("captured").context("tcpdump does not say what it captured")?;
    let dropped = number("dropped by kernel").context("tcpdump does not say what it dropped")?;
    Ok((captured, captured + dropped))
}

/// Sum over the lines of a file.
fn lines(path: &Path, frames: impl Fn(&str) -> u64) -> Result<u64> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut sum = 0;
    for line in BufReader::new(file).lines() {
        sum += frames(&line.context("cannot read a line")?);
    }
    Ok(sum)
}

/// `0\t2,2,2\t64,64,64`: frames of one that has lost its place, and takes payload for headers, are not
/// those that were sent. The close frame has two bytes.
fn tshark_frames(line: &str, payload: usize) -> u64 {
    let lengths = line.split('\t').nth(2).unwrap_or_default();
    let sent = |length: &&str| {
        length
            .parse()
            .is_ok_and(|len: usize| len == payload || len == 2)
    };
    lengths.split(',').filter(sent).count() as u64
}

fn suricata_frames(line: &str) -> u64 {
    u64::from(line.contains("\"event_type\":\"websocket\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_others_say() {
        let said = "listening on eth0\n7 packets captured\n9 packets received by filter\n\
                    2 packets dropped by kernel\n";
        assert_eq!(packets(said).unwrap(), (7, 9));
        assert_eq!(tshark_frames("0\t2,2,8,6\t64,64,2,25", 64), 3);
        assert_eq!(tshark_frames("0\t\t", 64), 0);
    }
}
