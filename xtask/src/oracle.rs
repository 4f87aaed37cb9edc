//! `cargo xtask oracle`: what `wstap read` says of captures, held against dissectors that others
//! wrote.
//!
//! Owns the comparison: connections, directions, frames, and of each frame what the judge has to say
//! about it. How a dissector is asked is in a file of its own. A difference is either explained by a
//! fault that the judge is known to have, see [`faults`], or makes the command fail.

mod faults;
mod suricata;
mod tshark;
mod wstap;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

pub use self::suricata::{CONFIGURATION as SURICATA, version as suricata_version};
use crate::{build, workspace};

/// What is compared with what.
#[derive(clap::Args)]
pub struct Args {
    /// Folder of captures
    folder: PathBuf,
    /// The binary; built with optimisations if not given
    #[arg(long, value_name = "PATH")]
    wstap: Option<PathBuf>,
    /// Compare with rows of tshark that were written before (FOLDER/CAPTURE.jsonl, an object a
    /// frame), instead of the dissectors that are installed
    #[arg(long, value_name = "FOLDER")]
    rows: Option<PathBuf>,
}

/// What names of captures end in.
const CAPTURES: [&str; 5] = [".pcap", ".pcapng", ".cap", ".pcap.gz", ".pcapng.gz"];

/// Differences that are shown of one capture; the rest is counted.
const SHOWN: usize = 20;

/// Client and server, `ip:port`.
type Ends = (String, String);

/// What is said of one frame, by the name of the field; bytes in hex. A field that is not there is
/// one of which nothing is said.
type Frame = BTreeMap<&'static str, String>;

/// What is said of one connection.
#[derive(Clone, Debug, Default)]
struct Connection {
    /// From client to server, and back.
    frames: [Vec<Frame>; 2],
    /// Its beginning is not in the capture.
    midstream: bool,
}

/// What is said of one capture.
type Dissection = BTreeMap<Ends, Connection>;

const DIRECTIONS: [&str; 2] = ["client_to_server", "server_to_client"];

/// Something on which two disagree.
struct Difference<'a> {
    ends: &'a Ends,
    direction: usize,
    /// Place in its direction, from 0; of a difference in number the number that both have.
    index: usize,
    /// The field; `frames` for a difference in number.
    field: &'static str,
    ours: String,
    theirs: String,
    /// The connection, as wstap has it.
    connection: Option<&'a Connection>,
}

/// How a comparison came out.
#[derive(Default)]
struct Verdict {
    connections: usize,
    frames: usize,
    /// Fields on which both say the same.
    agreements: u64,
    /// Differences by the fault of the judge that explains them.
    explained: BTreeMap<&'static str, u64>,
    unexplained: u64,
    /// The first of the unexplained.
    shown: Vec<String>,
}

/// Somebody who dissects captures.
enum Judge {
    Tshark { version: String },
    Rows(PathBuf),
    Suricata { version: String },
}

impl Judge {
    fn name(&self) -> &'static str {
        match self {
            Self::Tshark { .. } => "tshark",
            Self::Rows(_) => "rows",
            Self::Suricata { .. } => "suricata",
        }
    }

    fn dissect(&self, capture: &Path, ours: &Dissection) -> Result<Dissection> {
        match self {
            Self::Tshark { .. } => tshark::dissect(capture, ours),
            Self::Rows(folder) => tshark::rows(folder, capture, ours),
            Self::Suricata { .. } => suricata::dissect(capture, ours),
        }
    }
}

/// Compares, prints a table, and fails where a difference is not explained.
pub fn command(args: &Args) -> Result<()> {
    let wstap = if let Some(path) = &args.wstap {
        path.clone()
    } else {
        build::release_binary()?;
        workspace::release_binary()
    };
    compare(&args.folder, &wstap, args.rows.as_deref())
}

/// The same with a binary that is there.
pub fn compare(folder: &Path, wstap: &Path, rows: Option<&Path>) -> Result<()> {
    let captures = captures(folder)?;
    let judges = match rows {
        Some(rows) => vec![Judge::Rows(rows.to_owned())],
        None => installed()?,
    };
    println!(
        "{:<44}{:<10}{:>6}{:>8}{:>10}{:>11}{:>13}",
        "capture", "judge", "conns", "frames", "agree", "explained", "differences"
    );
    let mut total: BTreeMap<&'static str, Verdict> = BTreeMap::new();
    for capture in &captures {
        let ours = wstap::dissect(wstap, capture)?;
        for judge in &judges {
            let theirs = judge
                .dissect(capture, &ours)
                .with_context(|| format!("asking {} about {}", judge.name(), capture.display()))?;
            let verdict = judged(&ours, &theirs, judge.name());
            let name = capture.file_name().unwrap_or_default().to_string_lossy();
            verdict.print(&name, judge.name());
            for difference in &verdict.shown {
                println!("    {difference}");
            }
            if verdict.unexplained > SHOWN as u64 {
                println!("    and {} more", verdict.unexplained - SHOWN as u64);
            }
            total.entry(judge.name()).or_default().add(&verdict);
        }
    }
    let mut unexplained = 0;
    for (judge, verdict) in &total {
        verdict.print(&format!("{} captures", captures.len()), judge);
        unexplained += verdict.unexplained;
    }
    let mut explanations: BTreeMap<&str, u64> = BTreeMap::new();
    for verdict in total.values() {
        for (fault, n) in &verdict.explained {
            *explanations.entry(fault).or_default() += n;
        }
    }
    for (fault, n) in explanations {
        println!("explained, {n} times: {fault}: {}", faults::reason(fault));
    }
    if unexplained > 0 {
        bail!("{unexplained} differences that nothing explains");
    }
    Ok(())
}

fn captures(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)
        .with_context(|| format!("cannot list the captures in {}", folder.display()))?;
    let mut captures = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if CAPTURES.iter().any(|end| name.ends_with(end)) {
            captures.push(path);
        }
    }
    captures.sort();
    if captures.is_empty() {
        bail!("no captures in {}", folder.display());
    }
    Ok(captures)
}

fn installed() -> Result<Vec<Judge>> {
    let mut judges = Vec::new();
    match tshark::version()? {
        Some(version) => judges.push(Judge::Tshark { version }),
        None => println!("tshark is not asked: it is not installed (Debian's package tshark)"),
    }
    match suricata::version()? {
        Ok(version) => judges.push(Judge::Suricata { version }),
        Err(why) => println!("suricata is not asked: {why}"),
    }
    for judge in &judges {
        if let Judge::Tshark { version } | Judge::Suricata { version } = judge {
            println!("{}: {version}", judge.name());
        }
    }
    if judges.is_empty() {
        bail!("there is nothing to compare with: install tshark");
    }
    Ok(judges)
}

fn judged(ours: &Dissection, theirs: &Dissection, judge: &str) -> Verdict {
    let mut verdict = Verdict {
        connections: ours.len(),
        ..Verdict::default()
    };
    let none = Connection::default();
    let others = theirs.keys().filter(|ends| !ours.contains_key(*ends));
    for ends in ours.keys().chain(others) {
        let connection = ours.get(ends);
        let mine = connection.unwrap_or(&none);
        let judged = theirs.get(ends).unwrap_or(&none);
        for direction in 0..2 {
            let (mine, judged) = (&mine.frames[direction], &judged.frames[direction]);
            verdict.frames += mine.len();
            let difference = |index, field, ours: &str, theirs: &str| Difference {
                ends,
                direction,
                index,
                field,
                ours: ours.to_owned(),
                theirs: theirs.to_owned(),
                connection,
            };
            if mine.len() == judged.len() {
                verdict.agreements += 1;
            } else {
                let numbers = (mine.len().to_string(), judged.len().to_string());
                let both = mine.len().min(judged.len());
                verdict.differ(&difference(both, "frames", &numbers.0, &numbers.1), judge);
            }
            for (index, (mine, judged)) in mine.iter().zip(judged).enumerate() {
                for (&field, theirs) in judged {
                    match mine.get(field) {
                        Some(ours) if ours == theirs => verdict.agreements += 1,
                        // Where wstap says nothing, as of payload that was not captured.
                        None => {}
                        Some(ours) => {
                            verdict.differ(&difference(index, field, ours, theirs), judge);
                        }
                    }
                }
            }
        }
    }
    verdict
}

impl Verdict {
    fn differ(&mut self, difference: &Difference<'_>, judge: &str) {
        if let Some(fault) = faults::explains(difference, judge) {
            *self.explained.entry(fault).or_default() += 1;
            return;
        }
        self.unexplained += 1;
        if self.shown.len() < SHOWN {
            let (client, server) = difference.ends;
            self.shown.push(format!(
                "{client} -> {server} {} frame {} {}: wstap {}, {judge} {}",
                DIRECTIONS[difference.direction],
                difference.index + 1,
                difference.field,
                shortened(&difference.ours),
                shortened(&difference.theirs),
            ));
        }
    }

    fn add(&mut self, other: &Self) {
        self.connections += other.connections;
        self.frames += other.frames;
        self.agreements += other.agreements;
        self.unexplained += other.unexplained;
        for (fault, n) in &other.explained {
            *self.explained.entry(fault).or_default() += n;
        }
    }

    fn print(&self, name: &str, judge: &str) {
        println!(
            "{name:<44}{judge:<10}{:>6}{:>8}{:>10}{:>11}{:>13}",
            self.connections,
            self.frames,
            self.agreements,
            self.explained.values().sum::<u64>(),
            self.unexplained,
        );
    }
}

fn shortened(value: &str) -> String {
    match value.char_indices().nth(60) {
        Some((end, _)) => format!("{}... ({} characters)", &value[..end], value.len()),
        None => format!("`{value}`"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The contract's name of an opcode.
fn opcode(bits: u64) -> String {
    match bits {
        0 => "continuation".to_owned(),
        1 => "text".to_owned(),
        2 => "binary".to_owned(),
        8 => "close".to_owned(),
        9 => "ping".to_owned(),
        10 => "pong".to_owned(),
        bits => format!("reserved_{bits:x}"),
    }
}

#[cfg(test)]
mod tests;
