//! What a hundred thousand WebSockets cost that are open and idle.
//!
//! Nobody has them open: raw sockets write their segments to the client's end of the veth pair, and the
//! agent at the other end sees them go by. The receiving kernel takes none of them, for they are
//! addressed to another machine.

mod injector;

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::unistd::Pid;

use self::injector::{Crowd, Injector};
use super::Bench;
use super::agent::Wstap;
use super::program::{Runs, Statistics};
use super::statistics::{median, middle};
use super::table::{Required, Row};
use crate::{interrupt, process};

/// Connections.
const CONNECTIONS: u32 = 100_000;
/// Those that open between two pauses, so that nothing is lost on the way.
const PART: u32 = 1000;
const PAUSE: Duration = Duration::from_millis(10);
/// Frames that each of them says when it opens.
const FRAMES: u32 = 4;
/// How long the agent may take to have seen them all, and to have counted what they said.
const PATIENCE: Duration = Duration::from_secs(30);
/// Segments of one block: to one flow, or to any.
const BLOCK: u32 = 20_000;
/// How long the agent is watched while nothing happens.
const IDLE: Duration = Duration::from_secs(10);
/// Scrapes of which the table has the middle.
const SCRAPES: usize = 9;
const MB: f64 = 1e6;

/// The figures.
pub fn rows(bench: &Bench<'_>) -> Result<Vec<Row>> {
    let _statistics = Statistics::on()?;
    let side = &bench.pair.client;
    let injector = side.within(|| Injector::open(&side.device))?;
    let agent = Wstap::run(&bench.pair.server, bench.wstap, &[])?;
    let pid = agent.process.pid();
    let mut crowd = Crowd::new(CONNECTIONS);
    let small = memory(pid)?;
    let active = open(&injector, &mut crowd, &agent)?;
    let caught_up = catch_up(&agent)?;

    let before = agent.process.cpu()?;
    interrupt::pause(IDLE)?;
    let idle = agent.process.cpu()?.saturating_sub(before);
    let mut scrapes = Vec::new();
    for _ in 0..SCRAPES {
        let begun = Instant::now();
        agent.metrics()?;
        scrapes.push(begun.elapsed().as_secs_f64() * 1e3);
    }

    let mut blocks = Vec::new();
    for round in 0..bench.pairs {
        bench.progress("many flows", round);
        let one = block(&agent, || crowd.speak(&injector, 0))?;
        let any = block(&agent, || {
            let of = crowd.any();
            crowd.speak(&injector, of)
        })?;
        blocks.push((one, any));
    }
    let many = memory(pid)?;
    let maps = maps(pid)?;
    let lost = agent.metrics()?.sum("wstap_samples_lost_total", &[]);
    agent.stop(nix::sys::signal::Signal::SIGTERM)?;

    let row = |figure: &str, measured, unit, required, note| Row {
        figure: format!("{figure}, {CONNECTIONS} connections open"),
        measured,
        interval: None,
        unit,
        required,
        note,
    };
    let ratio = middle(blocks.iter().map(|(one, any)| any / one));
    let largest = maps.iter().filter(|(_, bytes)| **bytes > 1 << 20);
    let largest: Vec<_> = largest
        .map(|(name, bytes)| format!("{name} {:.1}", *bytes as f64 / MB))
        .collect();
    Ok(vec![
        row(
            "counted as active / opened",
            active / f64::from(CONNECTIONS),
            "",
            Some(Required::Exactly(1.0)),
            format!("{lost} records lost"),
        ),
        row(
            "memory of the agent",
            many.own as f64 / MB,
            "MB",
            Some(Required::AtMost(150.0)),
            format!(
                "resident less the pages of the kernel's maps, which are {:.1} MB; with none open {:.1} MB",
                many.maps as f64 / MB,
                small.own as f64 / MB
            ),
        ),
        row(
            "kernel maps",
            maps.values().sum::<u64>() as f64 / MB,
            "MB",
            Some(Required::AtMost(64.0)),
            largest.join(", "),
        ),
        Row {
            interval: ratio.interval,
            ..row(
                "kernel time of a segment with one frame, of any flow / of one",
                ratio.median,
                "",
                Some(Required::AtMost(1.3)),
                format!(
                    "{:.0} ns / {:.0} ns",
                    median(blocks.iter().map(|(_, any)| *any)),
                    median(blocks.iter().map(|(one, _)| *one))
                ),
            )
        },
        row(
            "time of a scrape",
            median(scrapes),
            "ms",
            None,
            String::new(),
        ),
        row(
            "processor time of the agent, nothing happening",
            idle.as_secs_f64() / IDLE.as_secs_f64() * 100.0,
            "%",
            None,
            format!("{caught_up:.1} s after the last was open all that they had said was counted"),
        ),
    ])
}

/// Opens all of them; how many there are by the agent's word.
fn open(injector: &Injector, crowd: &mut Crowd, agent: &Wstap<'_>) -> Result<f64> {
    let mut open = 0;
    while open < CONNECTIONS {
        let part = PART.min(CONNECTIONS - open);
        for of in open..open + part {
            crowd.open(injector, of)?;
        }
        open += part;
        interrupt::pause(PAUSE)?;
    }
    let begun = Instant::now();
    loop {
        let active = agent.metrics()?.sum("websocket_connections_active", &[]);
        if active >= f64::from(CONNECTIONS) || begun.elapsed() > PATIENCE {
            return Ok(active);
        }
        interrupt::pause(Duration::from_millis(200))?;
    }
}

/// Waits until the agent has counted what was said when they opened, and some more; seconds that it
/// took.
fn catch_up(agent: &Wstap<'_>) -> Result<f64> {
    let all = f64::from(CONNECTIONS * FRAMES);
    let begun = Instant::now();
    while agent.metrics()?.sum("websocket_frames_total", &[]) < all {
        if begun.elapsed() > PATIENCE {
            bail!("not all frames were counted within {PATIENCE:?}");
        }
        interrupt::pause(Duration::from_millis(200))?;
    }
    let took = begun.elapsed().as_secs_f64();
    // What has spoken last is put away a second later.
    interrupt::pause(Duration::from_secs(3))?;
    Ok(took)
}

/// Nanoseconds a segment.
fn block(agent: &Wstap<'_>, mut speak: impl FnMut() -> Result<()>) -> Result<f64> {
    let before = Runs::of(agent.program)?;
    for _ in 0..BLOCK {
        speak()?;
    }
    let runs = Runs::of(agent.program)?.since(before);
    if runs.packets < u64::from(BLOCK) * 9 / 10 {
        bail!("the program has seen {} packets of {BLOCK}", runs.packets);
    }
    Ok(runs.mean())
}

/// Bytes of a process's memory.
struct Memory {
    /// Its own.
    own: u64,
    /// Pages of the kernel's maps that it has mapped.
    maps: u64,
}

fn memory(pid: Pid) -> Result<Memory> {
    let text =
        fs::read_to_string(format!("/proc/{pid}/smaps")).context("cannot read its mappings")?;
    let mut memory = Memory { own: 0, maps: 0 };
    let mut is_map = false;
    for line in text.lines() {
        if let Some(resident) = number(line, "Rss:") {
            let sum = if is_map {
                &mut memory.maps
            } else {
                &mut memory.own
            };
            *sum += resident << 10;
        } else if line.starts_with(|first: char| first.is_ascii_hexdigit() && !first.is_uppercase())
        {
            is_map = line.ends_with("bpf-map");
        }
    }
    Ok(memory)
}

/// Bytes of the maps that a process holds open, by name.
fn maps(pid: Pid) -> Result<BTreeMap<String, u64>> {
    let folder = format!("/proc/{pid}/fdinfo");
    let mut bytes = BTreeMap::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {folder}"))? {
        let text = fs::read_to_string(entry?.path()).unwrap_or_default();
        let field = |name| text.lines().find_map(|line| number(line, name));
        if let (Some(id), Some(memlock)) = (field("map_id:"), field("memlock:")) {
            bytes.insert(id, memlock);
        }
    }
    let mut named = BTreeMap::new();
    for (id, bytes) in bytes {
        let mut bpftool = std::process::Command::new("bpftool");
        let shown = process::capture(bpftool.args(["map", "show", "id", &id.to_string()]))?;
        let mut words = shown.split_whitespace().skip_while(|word| *word != "name");
        let name = words.nth(1).unwrap_or("?").to_owned();
        *named.entry(name).or_default() += bytes;
    }
    Ok(named)
}

/// The number behind a name at the beginning of a line.
fn number(line: &str, name: &str) -> Option<u64> {
    let rest = line.strip_prefix(name)?;
    rest.split_whitespace().next()?.parse().ok()
}
