//! `cargo xtask soak`: the agent under a mixed load for a while. At the end its memory and files are what
//! they were, it has counted what was sent, and nothing of it is left.

mod load;

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::Signal;

use self::load::{Clients, Done};
use crate::bench::agent::{Metrics, Wstap};
use crate::bench::child::Memory;
use crate::bench::namespace::{Pair, Side};
use crate::bench::traffic::{Sent, Server};
use crate::bench::{binary, program, require_tools};
use crate::{interrupt, process};

const PORT: u16 = 9000;
const LOSSY_PORT: u16 = 9100;

/// Between two scrapes.
const SCRAPES: Duration = Duration::from_secs(3);
/// Lines of the series that are shown.
const SHOWN: usize = 20;
/// By then all kinds of load are there, and what is bounded has reached its bound.
const WARM: Duration = Duration::from_secs(30);
/// Parts of the time behind it. What the agent had at the least within a part is what it keeps: a scrape
/// and a burst need more for a moment.
const PARTS: usize = 8;
/// In the last part it may keep so much more than in the first.
const GROWTH: f64 = 1.1;
const SLACK: f64 = (3 << 20) as f64;
/// What is freed after a grace period of the kernel is gone by then.
const GRACE: Duration = Duration::from_secs(10);

/// One in a hundred segments is lost behind the point of observation, in both directions.
const LOSS: [(&str, &str); 2] = [("dport", "server"), ("sport", "client")];

/// How long.
#[derive(clap::Args)]
pub struct Args {
    /// As 60s or 20m
    #[arg(long, default_value = "20m", value_parser = crate::seconds)]
    duration: Duration,
    /// The binary; built with optimisations if not given
    #[arg(long, value_name = "PATH")]
    wstap: Option<PathBuf>,
}

/// What the agent held at a moment.
struct Sample {
    at: Duration,
    memory: Memory,
    cpu: Duration,
    frames: u64,
    tracked: f64,
}

/// Runs the load, and judges.
pub fn command(args: &Args) -> Result<()> {
    require_tools()?;
    let wstap = binary(args.wstap.as_deref())?;
    interrupt::catch()?;
    let pair = Pair::make("wssoak")?;
    let server = Server::start(&pair.server, PORT)?;
    let lossy = Server::start(&pair.server, LOSSY_PORT)?;
    lose(&pair)?;

    // What is remembered of connections that have ended is bounded. With small bounds they are reached
    // soon, and what grows beyond them is a leak.
    let bounds = ["--series-linger", "5s", "--max-candidates", "1024"];
    let mut agent = Wstap::run(&pair.server, &wstap, &bounds)?;
    let objects = agent.process.objects()?;
    let clients = Clients {
        side: &pair.client,
        server: Pair::watched(PORT),
        lossy: Pair::watched(LOSSY_PORT),
        end: Instant::now() + args.duration,
        done: Mutex::default(),
    };
    let series = thread::scope(|scope| {
        let threads = clients.start(scope);
        let series = watch(&mut agent, || {
            threads.iter().all(|(_, thread)| thread.is_finished())
        });
        for (name, thread) in threads {
            match thread.join() {
                Ok(done) => done?,
                Err(_) => bail!("the load `{name}` panicked"),
            }
        }
        series
    })?;
    interrupt::check()?;

    let done = *clients.done.lock().unwrap_or_else(PoisonError::into_inner);
    let mut answered = server.sent();
    answered += lossy.sent();
    let sent = [done.sent, answered];
    let metrics = agent.settled(&sent)?;
    let said = agent.stop(Signal::SIGTERM)?;

    show(&series);
    println!("The agent: {}\n", said.lines().last().unwrap_or_default());
    let mut checks = vec![
        flat(&series),
        files(&series),
        counts(&sent, &metrics.counted()),
    ];
    checks.extend(handshakes(&done, &metrics));
    checks.push(nothing_left(&pair.server, &objects)?);
    for metric in [
        "wstap_samples_total",
        "wstap_samples_lost_total",
        "wstap_records_missed_total",
        "wstap_gaps_total",
        "wstap_kernel_places_lost_total",
        "wstap_kernel_places_found_total",
        "wstap_kernel_early_segments_total",
    ] {
        println!("{metric:<40}{}", metrics.sum(metric, &[]));
    }
    println!();
    for (good, what) in &checks {
        println!("{:<8}{what}", if *good { "good" } else { "FAILED" });
    }
    match checks.iter().filter(|(good, _)| !good).count() {
        0 => Ok(()),
        failed => bail!("{failed} checks failed"),
    }
}

/// Has segments lost where the application's kernel receives them, which wstap has seen by then.
fn lose(pair: &Pair) -> Result<()> {
    if process::find("nft").is_none() {
        eprintln!("no network loses anything: nft is missing (package nftables)");
        return Ok(());
    }
    for (port, end) in LOSS {
        let side = if end == "server" {
            &pair.server
        } else {
            &pair.client
        };
        let rules = format!(
            "table ip wstap {{\nchain in {{\ntype filter hook input priority 0;\n\
             tcp {port} {LOSSY_PORT} numgen random mod 100 < 1 drop\n}}\n}}"
        );
        let mut command = side.command("nft");
        process::capture(command.arg(rules)).context("cannot have segments lost")?;
    }
    Ok(())
}

/// Scrapes until all is over.
fn watch(agent: &mut Wstap<'_>, is_over: impl Fn() -> bool) -> Result<Vec<Sample>> {
    let begun = Instant::now();
    let mut series = Vec::new();
    while !is_over() {
        let metrics = agent.metrics()?;
        series.push(Sample {
            at: begun.elapsed(),
            memory: agent.process.memory()?,
            cpu: agent.process.cpu()?,
            frames: metrics.counted().iter().map(Sent::all_frames).sum(),
            tracked: metrics.sum("wstap_connections_tracked", &[]),
        });
        let next = begun + SCRAPES * series.len() as u32;
        while Instant::now() < next && !is_over() {
            interrupt::pause(Duration::from_millis(100))?;
            agent.process.check()?;
        }
    }
    Ok(series)
}

const MIB: f64 = (1 << 20) as f64;

fn show(series: &[Sample]) {
    println!(
        "{:>8}{:>16}{:>15}{:>7}{:>9}{:>14}{:>10}",
        "seconds", "anonymous MiB", "resident MiB", "files", "tracked", "frames", "CPU s"
    );
    for sample in series.iter().step_by(series.len().div_ceil(SHOWN).max(1)) {
        println!(
            "{:>8.0}{:>16.2}{:>15.2}{:>7}{:>9}{:>14}{:>10.2}",
            sample.at.as_secs_f64(),
            sample.memory.anonymous as f64 / MIB,
            sample.memory.resident as f64 / MIB,
            sample.memory.files,
            sample.tracked,
            sample.frames,
            sample.cpu.as_secs_f64()
        );
    }
    println!(
        "Resident is what is mapped of the kernel's maps, too, which are there from the beginning.\n"
    );
}

/// Both halves of what comes after the first tenth, in which the agent gets going.
fn halves(series: &[Sample]) -> (&[Sample], &[Sample]) {
    let steady = &series[series.len() / 10..];
    steady.split_at(steady.len() / 2)
}

/// What was kept at the end, and at the beginning. Not of halves, or a step within the first would be part of
/// what the second is compared with.
fn flat(series: &[Sample]) -> (bool, String) {
    let warm = series.partition_point(|sample| sample.at < WARM);
    let steady = series.get(warm..).unwrap_or_default();
    let of = |sample: &Sample| sample.memory.anonymous as f64;
    let kept: Vec<f64> = (steady.chunks(steady.len().div_ceil(PARTS).max(1)))
        .map(|part| part.iter().map(of).fold(f64::INFINITY, f64::min))
        .collect();
    let most = steady.iter().map(of).fold(0.0, f64::max);
    let (Some(first), Some(last)) = (kept.first(), kept.last()) else {
        return (false, "memory: too short a time to tell".to_owned());
    };
    let good = *last <= first * GROWTH + SLACK;
    let shown: Vec<_> = (kept.iter())
        .map(|bytes| format!("{:.1}", bytes / MIB))
        .collect();
    let text = format!(
        "memory kept: {} MiB; at most {:.1} MiB",
        shown.join(", "),
        most / MIB
    );
    (good, text)
}

fn files(series: &[Sample]) -> (bool, String) {
    let (first, second) = halves(series);
    let of = |half: &[Sample]| half.iter().map(|sample| sample.memory.files).max();
    let (first, second) = (of(first).unwrap_or(0), of(second).unwrap_or(usize::MAX));
    // A scrape is an open file while it lasts.
    let good = second <= first + 1;
    (
        good,
        format!("open files: {first} at most in the first half, {second} in the second"),
    )
}

fn counts(sent: &[Sent; 2], counted: &[Sent; 2]) -> (bool, String) {
    let frames = |of: &[Sent; 2]| of.iter().map(Sent::all_frames).sum::<u64>();
    let bytes = |of: &[Sent; 2]| of.iter().map(Sent::all_bytes).sum::<u64>();
    let mut text = format!(
        "counted: {} of {} frames, {} of {} payload bytes",
        frames(counted),
        frames(sent),
        bytes(counted),
        bytes(sent)
    );
    for ((direction, sent), counted) in ["client", "server"].iter().zip(sent).zip(counted) {
        for opcode in 0..16 {
            let [sent, counted] = [sent, counted].map(|of| (of.frames[opcode], of.bytes[opcode]));
            if sent != counted {
                text += &format!("\n        {direction}, opcode {opcode}: {counted:?} of {sent:?}");
            }
        }
    }
    (sent == counted, text)
}

fn handshakes(done: &Done, metrics: &Metrics) -> [(bool, String); 2] {
    let of = |outcome| metrics.sum("websocket_handshakes_total", &[("outcome", outcome)]);
    let (accepted, refused) = (of("accepted"), of("rejected"));
    let all = metrics.sum("websocket_handshakes_total", &[]);
    let good = accepted == done.accepted as f64
        && refused == done.refused as f64
        && all == accepted + refused;
    let active = metrics.sum("websocket_connections_active", &[]);
    [
        (
            good,
            format!(
                "handshakes: {accepted} of {} accepted, {refused} of {} refused, {all} in all",
                done.accepted, done.refused
            ),
        ),
        (
            active == 0.0,
            format!("connections open at the end: {active}"),
        ),
    ]
}

/// Nothing at the interfaces, and none of the programs and maps that it had.
fn nothing_left(
    side: &Side,
    [programs, maps]: &[std::collections::BTreeSet<u64>; 2],
) -> Result<(bool, String)> {
    if programs.is_empty() || maps.is_empty() {
        return Err(anyhow!(
            "the agent had no program or no map, as its files say"
        ));
    }
    let begun = Instant::now();
    loop {
        let left = |object, had: &std::collections::BTreeSet<u64>| -> Result<usize> {
            let there = program::numbers(object)?;
            Ok(there.iter().filter(|number| had.contains(number)).count())
        };
        let (programs_left, maps_left) = (left("prog", programs)?, left("map", maps)?);
        let mut tc = Command::new("tc");
        let queues = process::capture(tc.args(["-n", &side.namespace, "qdisc", "show"]))?;
        let queues = queues
            .lines()
            .filter(|line| line.contains("clsact"))
            .count();
        let none = programs_left == 0 && maps_left == 0 && queues == 0;
        if none || begun.elapsed() > GRACE {
            let text = format!(
                "left behind: {programs_left} of {} programs, {maps_left} of {} maps, {queues} queues",
                programs.len(),
                maps.len()
            );
            return Ok((none, text));
        }
        interrupt::pause(Duration::from_millis(100))?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A scrape every three seconds of an agent that has so many MiB.
    fn series(of: impl Fn(usize) -> u64) -> Vec<Sample> {
        let sample = |n| Sample {
            at: SCRAPES * n as u32,
            memory: Memory {
                anonymous: of(n) << 20,
                resident: 0,
                files: 0,
            },
            cpu: Duration::ZERO,
            frames: 0,
            tracked: 0.0,
        };
        (0..80).map(sample).collect()
    }

    #[test]
    fn a_step_is_found_wherever_it_is() {
        for at in 16..70 {
            let stepped = series(|n| if n < at { 10 } else { 22 });
            assert!(!flat(&stepped).0, "{at}");
        }
        assert!(!flat(&series(|n| 10 + n as u64 / 8)).0);
        assert!(!flat(&[]).0);
    }

    #[test]
    fn what_is_given_back_is_no_growth() {
        assert!(flat(&series(|n| if n % 4 == 0 { 60 } else { 10 })).0);
        assert!(flat(&series(|n| if (40..60).contains(&n) { 60 } else { 10 })).0);
        // Until all is there.
        assert!(flat(&series(|n| if n < 10 { 1 } else { 10 })).0);
    }
}
