//! `cargo xtask bench-scale`: what a hundred thousand WebSockets cost that are open and idle.
//!
//! Nobody has them open: raw sockets write their segments to one end of a veth pair, and the agent at
//! the other end sees them go by. The receiving kernel takes none of them, for they are addressed to
//! another machine.

mod injector;

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};

use self::injector::{Crowd, Injector};
use super::{
    DEVICE, Guarded, LISTEN, OURS, PATIENCE, PEER, Pair, RECEIVER, SENDER, Statistics, inside,
    median, programs, statistics, sum,
};
use crate::{build, http, process, workspace};

/// Connections that open between two looks at whether the agent keeps up.
const PART: u32 = 1000;
/// Packets of one block: to one flow, or to any.
const BLOCK: u32 = 20_000;
/// How long the agent is watched doing nothing.
const IDLE: Duration = Duration::from_secs(10);
/// Scrapes, of which the table has the median.
const SCRAPES: usize = 9;

/// What was measured.
pub struct Measured {
    /// Bytes of the agent's memory: all that it has mapped and touched, and what of it is shared with
    /// the kernel's maps.
    pub resident: u64,
    pub mapped: u64,
    /// Bytes of all maps, by name.
    pub maps: BTreeMap<String, u64>,
    /// WebSockets that are open, by the agent's word.
    pub active: f64,
    /// Records that were lost.
    pub lost: f64,
    /// Time of a scrape.
    pub scrape: Duration,
    /// Bytes of it.
    pub exposition: usize,
    /// Processor time a second while nothing happens.
    pub idle: f64,
    /// Kernel time of a segment of any flow, beside that of one flow, in pairs.
    pub pairs: Vec<(f64, f64)>,
}

/// Measures and prints.
pub fn command(connections: u32, rounds: usize) -> Result<()> {
    if !process::is_root() {
        bail!("namespaces and programs need root: run it as root, or with `sudo -E`");
    }
    build::release_binary()?;
    let measured = measure(connections, rounds)?;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let total = measured.maps.values().sum();
    println!(
        "agent: {:.1} MiB, of which {:.1} MiB are pages of the kernel's maps",
        mib(measured.resident),
        mib(measured.mapped)
    );
    println!("kernel maps: {:.1} MiB", mib(total));
    for (name, bytes) in &measured.maps {
        println!("  {name:<16}{:>8.2} MiB", mib(*bytes));
    }
    println!("active: {}, lost records: {}", measured.active, measured.lost);
    println!(
        "scrape: {:.1} ms, {} bytes",
        measured.scrape.as_secs_f64() * 1e3,
        measured.exposition
    );
    println!("idle: {:.2} % of a processor", measured.idle * 100.0);
    let [one, any, ratio]: [Vec<f64>; 3] = [
        measured.pairs.iter().map(|(one, _)| *one).collect(),
        measured.pairs.iter().map(|(_, any)| *any).collect(),
        measured.pairs.iter().map(|(one, any)| any / one).collect(),
    ];
    println!(
        "segment of one flow {:.0} ns, of any {:.0} ns: {:.2}",
        median(one.into_iter()),
        median(any.into_iter()),
        median(ratio.into_iter())
    );
    Ok(())
}

/// Opens so many connections before an agent, and looks at it. The agent must be built.
pub fn measure(connections: u32, rounds: usize) -> Result<Measured> {
    let _statistics = Statistics::on()?;
    let _pair = Pair::make()?;
    let agent = Agent::start()?;
    let injector = within(SENDER, || Injector::open(PEER))?;
    let mut crowd = Crowd::new(connections);
    let begun = Instant::now();
    let mut open = 0;
    while open < connections {
        let part = PART.min(connections - open);
        for of in open..open + part {
            crowd.open(&injector, of)?;
        }
        open += part;
        thread::sleep(Duration::from_millis(10));
    }
    eprintln!("{connections} connections in {:.1?}", begun.elapsed());
    let deadline = Instant::now() + PATIENCE;
    let mut active = 0.0;
    while active < f64::from(connections) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(500));
        active = sum(&agent.scrape()?, "websocket_connections_active").unwrap_or(0.0);
    }

    let before = agent.processor_time()?;
    let watched = Instant::now();
    thread::sleep(IDLE);
    let idle = (agent.processor_time()? - before) / watched.elapsed().as_secs_f64();

    let mut scrapes = Vec::new();
    let mut exposition = String::new();
    for _ in 0..SCRAPES {
        let begun = Instant::now();
        exposition = agent.scrape()?;
        scrapes.push(begun.elapsed().as_secs_f64());
    }

    let mut pairs = Vec::new();
    for _ in 0..rounds {
        let mut block = |any: bool| -> Result<f64> {
            let before = statistics(agent.program)?;
            for _ in 0..BLOCK {
                let of = if any { crowd.any() } else { 0 };
                crowd.speak(&injector, of)?;
            }
            let after = statistics(agent.program)?;
            let packets = after.packets.saturating_sub(before.packets);
            if packets < u64::from(BLOCK) * 9 / 10 {
                bail!("the program saw {packets} packets of {BLOCK}");
            }
            Ok(after.time.saturating_sub(before.time) as f64 / packets as f64)
        };
        pairs.push((block(false)?, block(true)?));
    }
    thread::sleep(Duration::from_secs(1));
    let text = agent.scrape()?;
    let (resident, mapped) = agent.memory()?;
    let measured = Measured {
        resident,
        mapped,
        maps: agent.maps()?,
        active: sum(&text, "websocket_connections_active").unwrap_or(0.0),
        lost: sum(&text, "wstap_samples_lost_total").unwrap_or(0.0),
        scrape: Duration::from_secs_f64(median(scrapes.into_iter())),
        exposition: exposition.len(),
        idle,
        pairs,
    };
    agent.stop()?;
    Ok(measured)
}

/// Does something inside a network namespace. A thread enters it alone.
fn within<T: Send>(namespace: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let path = format!("/run/netns/{namespace}");
    let file = fs::File::open(&path).with_context(|| format!("cannot open {path}"))?;
    thread::scope(|scope| {
        let worker = scope.spawn(move || {
            setns(file, CloneFlags::CLONE_NEWNET)
                .with_context(|| format!("cannot enter {path}"))?;
            work()
        });
        match worker.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// `wstap run` in the receiver's namespace, with what it has by default.
struct Agent {
    process: Guarded,
    program: u64,
}

impl Agent {
    fn start() -> Result<Self> {
        let before = programs(OURS)?;
        let log = workspace::target().join("bench-scale-agent.log");
        let out =
            fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = inside(RECEIVER, workspace::release_binary());
        command
            .args(["run", "--interface", DEVICE, "--listen", LISTEN])
            .args(["--copy", "headers"])
            .stdout(out.try_clone().context("cannot share the log")?)
            .stderr(out);
        let mut process = Guarded::spawn(&mut command)?;
        let begun = Instant::now();
        loop {
            if let Some(status) = process.0.try_wait().context("cannot look at the agent")? {
                let said = fs::read_to_string(&log).unwrap_or_default();
                bail!("`wstap run` ended by itself ({status}): {}", said.trim());
            }
            let after = programs(OURS)?;
            if let Some(program) = after.difference(&before).next() {
                // Loaded comes before attached.
                thread::sleep(Duration::from_secs(1));
                let program = *program;
                return Ok(Self { process, program });
            }
            if begun.elapsed() > PATIENCE {
                bail!("`wstap run` has loaded no program after {PATIENCE:?}");
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn scrape(&self) -> Result<String> {
        let listen = LISTEN.parse().context("the agent's address is none")?;
        within(RECEIVER, || Ok(http::get(listen, "/metrics")?.1))
    }

    fn proc(&self, file: &str) -> Result<String> {
        let path = format!("/proc/{}/{file}", self.process.0.id());
        fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    }

    /// Seconds.
    fn processor_time(&self) -> Result<f64> {
        let mut nanos = 0.0;
        let tasks = format!("/proc/{}/task", self.process.0.id());
        for task in fs::read_dir(&tasks).with_context(|| format!("cannot read {tasks}"))? {
            let path = task?.path().join("schedstat");
            let text = fs::read_to_string(&path).unwrap_or_default();
            let first = text.split_whitespace().next();
            nanos += first.and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0);
        }
        Ok(nanos / 1e9)
    }

    /// Bytes that are resident, and those of them that are pages of the kernel's maps.
    fn memory(&self) -> Result<(u64, u64)> {
        let resident = field(&self.proc("smaps_rollup")?, "Rss:").unwrap_or(0) << 10;
        let mut mapped = 0;
        let mut is_map = false;
        for line in self.proc("smaps")?.lines() {
            if line.contains("-") && line.contains(':') && !line.starts_with(|c: char| c.is_uppercase())
            {
                is_map = line.contains("bpf-map");
            } else if is_map && line.starts_with("Rss:") {
                mapped += field(line, "Rss:").unwrap_or(0) << 10;
            }
        }
        Ok((resident, mapped))
    }

    /// Bytes of the maps that it holds open, by name.
    fn maps(&self) -> Result<BTreeMap<String, u64>> {
        let folder = format!("/proc/{}/fdinfo", self.process.0.id());
        let mut ids = BTreeMap::new();
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))? {
            let text = fs::read_to_string(entry?.path()).unwrap_or_default();
            if let (Some(id), Some(bytes)) = (field(&text, "map_id:"), field(&text, "memlock:")) {
                ids.insert(id, bytes);
            }
        }
        let mut names = BTreeMap::new();
        for (id, bytes) in ids {
            let shown = process::capture(Command::new("bpftool").args([
                "map",
                "show",
                "id",
                &id.to_string(),
            ]))?;
            let mut words = shown.split_whitespace();
            let name = words.find(|word| *word == "name").and(words.next());
            *names.entry(name.unwrap_or("?").to_owned()).or_default() += bytes;
        }
        Ok(names)
    }

    fn stop(mut self) -> Result<()> {
        let pid = self.process.0.id().to_string();
        process::capture(Command::new("sh").args(["-c", "kill -s TERM \"$1\"", "sh", &pid]))?;
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Some(status) = self.process.0.try_wait().context("cannot wait")? {
                if status.success() {
                    return Ok(());
                }
                bail!("the agent failed ({status})");
            }
            thread::sleep(Duration::from_millis(5));
        }
        bail!("the agent does not end")
    }
}

/// The number behind a name.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    line[name.len()..].split_whitespace().next()?.parse().ok()
}
