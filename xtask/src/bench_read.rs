//! `cargo xtask bench-read`: how fast `wstap read` is, and in how much memory, beside what else reads
//! WebSockets from captures.
//!
//! The captures are made, so that it is known what is in them: each run of wstap is also held
//! against that. They are read from the page cache; what is measured is the program, not the disk.

mod generate;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use self::generate::{Traffic, Written, generate};
use crate::measure::{self, Usage};
use crate::{bench, build, process, workspace};

/// What is measured.
#[derive(clap::Args)]
pub struct Args {
    /// Bytes of each capture, as 8M or 1G
    #[arg(long, default_value = "1G", value_parser = size)]
    size: u64,
    /// Bytes of the captures that the others read: they take long
    #[arg(long, default_value = "100M", value_parser = size)]
    others: u64,
    /// Runs of each; the table shows the medians
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// The binary; built with optimisations if not given
    #[arg(long, value_name = "PATH")]
    wstap: Option<PathBuf>,
}

fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(['K', 'M', 'G']);
    let shift = match text.strip_prefix(digits) {
        Some("") => 0,
        Some("K") => 10,
        Some("M") => 20,
        Some("G") => 30,
        _ => return Err("a size is meant, as 8M".to_owned()),
    };
    match digits.parse::<u64>() {
        Ok(n @ 1..=64) if shift == 30 => Ok(n << shift),
        Ok(n @ 1..=65_536) if shift < 30 => Ok(n << shift),
        _ => Err("a size is meant, as 8M, of 64G at most".to_owned()),
    }
}

/// A capture that was made.
struct Capture {
    traffic: Traffic,
    path: PathBuf,
    written: Written,
}

/// Files that go when this does: they are large.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self> {
        let path = workspace::target().join("xtask/bench-read");
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }

    fn capture(&self, traffic: Traffic, size: u64) -> Result<Capture> {
        let path = self.0.join(format!("{}-{size}.pcap", traffic.name()));
        let written = generate(&path, traffic, size)?;
        Ok(Capture {
            traffic,
            path,
            written,
        })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What stays is seen, and made anew by the next run.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Somebody who reads captures, and how.
struct Reader {
    name: &'static str,
    command: fn(&Path, &Path) -> Command,
}

fn wstap(binary: &Path, flags: &[&str], capture: &Path) -> Command {
    let mut command = Command::new(binary);
    command.arg("read").args(flags).arg(capture);
    command
}

/// Ways of wstap, with what they are called in the table.
const WAYS: [(&str, &[&str]); 2] = [
    ("wstap read --summary", &["--summary"]),
    ("wstap read -o json", &["-o", "json"]),
];

/// A line for each frame, as `-o json` has it. Payload is reassembled, not printed.
fn tshark(capture: &Path, _: &Path) -> Command {
    let mut command = Command::new("tshark");
    command.arg("-n").arg("-r").arg(capture);
    command.args([
        "-d",
        "tcp.port==8080,http",
        "-Y",
        "websocket",
        "-T",
        "fields",
    ]);
    for field in [
        "frame.time_epoch",
        "tcp.stream",
        "websocket.opcode",
        "websocket.fin",
        "websocket.masking_key",
        "websocket.payload_length",
    ] {
        command.args(["-e", field]);
    }
    command
}

fn suricata(capture: &Path, folder: &Path) -> Command {
    let mut command = Command::new("suricata");
    command.arg("-r").arg(capture).arg("-l").arg(folder);
    command.args(["-S", "/dev/null", "-k", "none", "--runmode", "single"]);
    command.args(["--set", "app-layer.protocols.websocket.enabled=yes"]);
    command
}

fn zeek(capture: &Path, folder: &Path) -> Command {
    let mut command = Command::new("zeek");
    command.current_dir(folder).arg("-C").arg("-r").arg(capture);
    command
}

const OTHERS: [Reader; 3] = [
    Reader {
        name: "tshark",
        command: tshark,
    },
    Reader {
        name: "suricata",
        command: suricata,
    },
    Reader {
        name: "zeek",
        command: zeek,
    },
];

/// Measures and prints tables.
pub fn command(args: &Args) -> Result<()> {
    let binary = if let Some(path) = &args.wstap {
        path.clone()
    } else {
        build::release_binary()?;
        workspace::release_binary()
    };
    let folder = Folder::new()?;
    let none = Path::new("/dev/null");
    let runs = usize::from(args.rounds);
    println!(
        "{:<8}{:<22}{:>6}{:>10}{:>9}{:>8}{:>7}{:>12}{:>10}",
        "frames", "read by", "MB", "frames", "seconds", "CPU", "MB/s", "ns a frame", "peak MiB"
    );
    for traffic in Traffic::BOTH {
        let whole = folder.capture(traffic, args.size)?;
        check(&binary, &whole)?;
        let mut usages = WAYS.map(|_| Vec::new());
        for _ in 0..runs {
            for ((_, flags), usages) in WAYS.iter().zip(&mut usages) {
                usages.push(measure::usage(&wstap(&binary, flags, &whole.path), none)?);
            }
        }
        for ((name, _), usages) in WAYS.iter().zip(&usages) {
            row(&whole, name, usages);
        }
        // Memory is to be the same whatever the size.
        for size in [args.size / 3, args.size / 10] {
            let part = folder.capture(traffic, size)?;
            let (name, flags) = WAYS[0];
            let command = wstap(&binary, flags, &part.path);
            let usages = (0..runs).map(|_| measure::usage(&command, none));
            row(&part, name, &usages.collect::<Result<Vec<_>>>()?);
            fs::remove_file(&part.path)?;
        }
        fs::remove_file(&whole.path)?;
        let part = folder.capture(traffic, args.others.min(args.size))?;
        for reader in &OTHERS {
            if process::find(reader.name).is_some() {
                let command = (reader.command)(&part.path, &folder.0);
                let usage = measure::usage(&command, none)
                    .with_context(|| format!("reading with {}", reader.name))?;
                row(&part, reader.name, &[usage]);
            }
        }
        fs::remove_file(&part.path)?;
    }
    println!("Medians of {runs} runs, of the others one; captures in the page cache.");
    println!("MB/s and ns a frame are of processor time (CPU, in seconds).");
    for reader in OTHERS {
        if process::find(reader.name).is_none() {
            println!("{} is not installed.", reader.name);
        }
    }
    Ok(())
}

fn row(capture: &Capture, name: &str, usages: &[Usage]) {
    let seconds = bench::statistics::median(usages.iter().map(|usage| usage.time.as_secs_f64()));
    let cpu = bench::statistics::median(usages.iter().map(|usage| usage.cpu.as_secs_f64()));
    let memory = usages.iter().map(|usage| usage.memory).max().unwrap_or(0);
    let Written { size, frames, .. } = capture.written;
    println!(
        "{:<8}{name:<22}{:>6.0}{frames:>10}{seconds:>9.3}{cpu:>8.3}{:>7.0}{:>12.0}{:>10.1}",
        capture.traffic.name(),
        size as f64 / 1e6,
        size as f64 / 1e6 / cpu,
        cpu * 1e9 / frames as f64,
        memory as f64 / f64::from(1 << 20),
    );
}

/// Makes small captures and holds what is read against what was written.
pub fn check_all(binary: &Path, size: u64) -> Result<()> {
    let folder = Folder::new()?;
    for traffic in Traffic::BOTH {
        let capture = folder.capture(traffic, size)?;
        check(binary, &capture)?;
        let Written { frames, size, .. } = capture.written;
        println!(
            "{}: {frames} frames in {size} bytes, all of them read",
            traffic.name()
        );
    }
    Ok(())
}

/// Fails where wstap reads anything else than was written: by the sums in the connections' closes.
/// There may be no violation and no gap.
fn check(binary: &Path, capture: &Capture) -> Result<()> {
    let mut flags = vec!["-o", "json"];
    for event in ["close", "violation", "gap"] {
        flags.extend(["--event", event]);
    }
    let said = process::capture(&mut wstap(binary, &flags, &capture.path))?;
    let mut read = Written {
        size: capture.written.size,
        packets: capture.written.packets,
        ..Written::default()
    };
    for line in said.lines() {
        let event: Value = serde_json::from_str(line).context("a line is no JSON")?;
        if event["event"] != "close" || event["kind"] != "clean" {
            bail!("wstap found something wrong: {line}");
        }
        read.connections += 1;
        read.frames += data(&event["frames"]);
        read.payload += data(&event["bytes"]);
    }
    if read != capture.written {
        bail!("wstap read {read:?} of what is {:?}", capture.written);
    }
    Ok(())
}

/// The sum of text and binary, of both directions.
fn data(counts: &Value) -> u64 {
    let directions = ["client_to_server", "server_to_client"];
    let opcodes = ["text", "binary"];
    let count = |direction, opcode| counts[direction][opcode].as_u64().unwrap_or(0);
    directions
        .iter()
        .flat_map(|direction| opcodes.map(|opcode| count(*direction, opcode)))
        .sum()
}
