//! `cargo xtask bench-packet`: what a packet costs in the kernel.
//!
//! Two network namespaces, a veth pair between them, bounded traffic in one direction. The kernel
//! counts runs and nanoseconds of each program (`kernel.bpf_stats_enabled`); what a program costs is
//! the difference to one that only returns, measured by the same traffic in the same minute.

mod statistics;
pub mod table;

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::process::Command as AsyncCommand;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use crate::traffic::Kind;
use crate::{build, process, setup, workspace};

/// Switches the kernel's statistics of programs.
const STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";

const SENDER: &str = "wstap-bench-send";
const RECEIVER: &str = "wstap-bench-recv";
/// The receiver's end of the veth pair, where the programs are.
const DEVICE: &str = "bench-recv";
const PEER: &str = "bench-send";
/// Addresses for documentation (RFC 5737): nothing else has them, and nothing leaves the pair.
const SENDER_ADDRESS: &str = "192.0.2.1/30";
const RECEIVER_ADDRESS: &str = "192.0.2.2/30";
const SERVER: &str = "192.0.2.2:9000";
/// Of the agent, in the receiver's namespace.
const LISTEN: &str = "127.0.0.1:9466";

/// A record that finds no room costs less than one that does: nothing may be lost, however slow the
/// agent.
const RING_BUFFER: &str = "256M";

/// The programs of wstap and of the comparison that see what arrives.
const OURS: &str = "wstap_eth_in";
const EMPTY: &str = "wstap_empty";

/// Returns `TC_ACT_UNSPEC`, -1: the packet goes on to whatever comes next.
const EMPTY_SOURCE: &str = r#"#![no_std]
#[unsafe(no_mangle)]
#[unsafe(link_section = "classifier")]
pub extern "C" fn wstap_empty(_: *const u8) -> i32 {
    -1
}
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
pub static LICENSE: [u8; 4] = *b"GPL\0";
"#;

/// How long wstap may take to attach, and to end.
const PATIENCE: Duration = Duration::from_secs(15);
/// One run of traffic ends itself long before.
const TRAFFIC_LIMIT: Duration = Duration::from_secs(60);

struct Case {
    name: &'static str,
    kind: Kind,
    size: usize,
    count: u64,
}

/// Each takes about a second or less. Packets are fewer than payloads where TCP and the stack join
/// them. What a WebSocket carries fits into [`RING_BUFFER`] as a whole.
const CASES: [Case; 5] = [
    Case {
        name: "UDP, 64 B",
        kind: Kind::Udp,
        size: 64,
        count: 200_000,
    },
    Case {
        name: "TCP, no WebSocket, 64 B",
        kind: Kind::Tcp,
        size: 64,
        count: 300_000,
    },
    Case {
        name: "TCP, no WebSocket, 16 KiB",
        kind: Kind::Tcp,
        size: 16 << 10,
        count: 60_000,
    },
    Case {
        name: "WebSocket, 64 B",
        kind: Kind::Ws,
        size: 64,
        count: 200_000,
    },
    Case {
        name: "WebSocket, 16 KiB",
        kind: Kind::Ws,
        size: 16 << 10,
        count: 8_000,
    },
];

/// Measures and prints a table.
pub fn command(rounds: usize) -> Result<()> {
    if !process::is_root() {
        bail!("namespaces and programs need root: run it as root, or with `sudo -E`");
    }
    for (program, package) in [
        ("ip", "iproute2"),
        ("tc", "iproute2"),
        ("bpftool", "bpftool"),
    ] {
        if process::find(program).is_none() {
            bail!("{program} is missing: install the package {package}");
        }
    }
    build::release_binary()?;
    let empty = setup::link_probe("empty", EMPTY_SOURCE, &["wstap_empty", "LICENSE"])?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")?
        .block_on(async {
            let mut interrupt = signal(SignalKind::interrupt()).context("cannot catch SIGINT")?;
            let mut terminate = signal(SignalKind::terminate()).context("cannot catch SIGTERM")?;
            // Whichever ends first, the guards inside put everything back.
            tokio::select! {
                done = measure(rounds, &empty) => done,
                _ = interrupt.recv() => bail!("interrupted"),
                _ = terminate.recv() => bail!("terminated"),
            }
        })
}

async fn measure(rounds: usize, empty: &Path) -> Result<()> {
    let _statistics = Statistics::on()?;
    let _pair = Pair::make()?;
    let mut results: Vec<[Vec<Sample>; 2]> = CASES.iter().map(|_| Default::default()).collect();
    let mut lost = 0.0;
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        let filter = Filter::attach(empty)?;
        for (case, result) in CASES.iter().zip(&mut results) {
            result[0].push(sample(case, filter.program).await?);
        }
        drop(filter);
        let agent = Agent::start().await?;
        for (case, result) in CASES.iter().zip(&mut results) {
            result[1].push(sample(case, agent.program).await?);
        }
        // The agent reads its counters a few times a second.
        sleep(Duration::from_secs(1)).await;
        lost += agent.lost()?;
        agent.stop().await?;
    }
    println!(
        "{:<27}{:>12}{:>10}{:>10}{:>12}",
        "nanoseconds a packet", "packets", "empty", "wstap", "difference"
    );
    for (case, [empty, ours]) in CASES.iter().zip(&results) {
        let packets = median(ours.iter().map(|sample| sample.packets as f64));
        let (empty, ours) = (
            median(empty.iter().map(Sample::nanoseconds)),
            median(ours.iter().map(Sample::nanoseconds)),
        );
        println!(
            "{:<27}{packets:>12.0}{empty:>10.1}{ours:>10.1}{:>12.1}",
            case.name,
            ours - empty
        );
    }
    println!("Medians of {rounds} rounds, at ingress of a veth device.");
    if lost > 0.0 {
        println!("{lost} records found no room, so that the figures for WebSockets are too low.");
    }
    Ok(())
}

/// What a program did during one run of traffic.
struct Sample {
    packets: u64,
    time: u64,
}

impl Sample {
    fn nanoseconds(&self) -> f64 {
        self.time as f64 / self.packets as f64
    }
}

/// The median; of none it is no number.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (values.get(middle), values.get(middle.wrapping_sub(1))) {
        (Some(upper), Some(lower)) if values.len() % 2 == 0 => f64::midpoint(*upper, *lower),
        (Some(only), _) => *only,
        (None, _) => f64::NAN,
    }
}

/// Runs the traffic of a case and reads what it cost.
async fn sample(case: &Case, program: u64) -> Result<Sample> {
    let server: SocketAddr = SERVER.parse().context("the server's address is none")?;
    let this = std::env::current_exe().context("cannot tell which program this is")?;
    let mut serve = inside(RECEIVER, &this);
    serve.args(["traffic", "serve", case.kind.name(), &server.to_string()]);
    let mut serve = Guarded::spawn(serve.stdout(Stdio::piped()))?;
    serve.await_ready()?;

    let before = statistics(program)?;
    let mut send = AsyncCommand::from(inside(SENDER, &this));
    send.args(["traffic", "send", case.kind.name(), &server.to_string()])
        .args([case.size.to_string(), case.count.to_string()])
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let status = tokio::time::timeout(TRAFFIC_LIMIT, send.status())
        .await
        .with_context(|| format!("the traffic `{}` does not end", case.name))?
        .context("cannot run the sender")?;
    if !status.success() {
        bail!("the sender of `{}` failed ({status})", case.name);
    }
    serve.finish().await?;
    let after = statistics(program)?;
    let packets = after.packets.saturating_sub(before.packets);
    if packets == 0 {
        bail!("program {program} saw no packet of `{}`", case.name);
    }
    let time = after.time.saturating_sub(before.time);
    Ok(Sample { packets, time })
}

/// Runs and nanoseconds of a program since it was loaded.
fn statistics(program: u64) -> Result<Sample> {
    let listed = bpftool(&["prog", "show", "id", &program.to_string()])?;
    let field = |name: &str| {
        let mut words = listed.split_whitespace();
        words.find(|word| *word == name)?;
        words.next()?.parse().ok()
    };
    // Without a run there is nothing to show.
    let (time, packets) = (field("run_time_ns"), field("run_cnt"));
    Ok(Sample {
        packets: packets.unwrap_or(0),
        time: time.unwrap_or(0),
    })
}

/// Sum of a metric's samples; `None` where it has none.
fn sum(exposition: &str, metric: &str) -> Option<f64> {
    let of_metric = |line: &&str| {
        let rest = line.strip_prefix(metric);
        rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
    };
    let value = |line: &str| line.rsplit(' ').next()?.parse::<f64>().ok();
    let lines = exposition.lines().filter(of_metric);
    lines.filter_map(value).reduce(|total, value| total + value)
}

/// Numbers of the loaded programs with this name.
fn programs(name: &str) -> Result<HashSet<u64>> {
    let listed = bpftool(&["prog", "show"])?;
    Ok(programs_in(&listed, name))
}

/// `42: sched_cls  name wstap_eth_in  tag 0123456789abcdef  gpl ...`
fn programs_in(listed: &str, name: &str) -> HashSet<u64> {
    let named = |line: &&str| {
        let mut words = line.split_whitespace();
        words.find(|word| *word == "name").is_some() && words.next() == Some(name)
    };
    let number = |line: &str| line.split(':').next()?.trim().parse().ok();
    listed.lines().filter(named).filter_map(number).collect()
}

fn bpftool(args: &[&str]) -> Result<String> {
    process::capture(Command::new("bpftool").args(args))
}

/// A command inside a network namespace.
fn inside(namespace: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("ip");
    command
        .args(["netns", "exec", namespace])
        .arg(program)
        .stdin(Stdio::null());
    command
}

fn ip(args: &str) -> Result<()> {
    process::capture(Command::new("ip").args(args.split_whitespace())).map(drop)
}

/// The kernel's statistics of programs, on; put back as they were.
struct Statistics {
    before: String,
}

impl Statistics {
    fn on() -> Result<Self> {
        let before = fs::read_to_string(STATISTICS)
            .with_context(|| format!("cannot read {STATISTICS}, which Linux 5.1 and later have"))?;
        fs::write(STATISTICS, "1").with_context(|| format!("cannot write {STATISTICS}"))?;
        Ok(Self { before })
    }
}

impl Drop for Statistics {
    fn drop(&mut self) {
        if let Err(error) = fs::write(STATISTICS, self.before.trim()) {
            eprintln!("{STATISTICS} stays at 1: {error}");
        }
    }
}

/// The namespaces with the veth pair. They go, and all in them.
struct Pair;

impl Pair {
    fn make() -> Result<Self> {
        // Left by one that was killed.
        drop((
            ip(&format!("netns del {SENDER}")),
            ip(&format!("netns del {RECEIVER}")),
        ));
        let pair = Self;
        for command in [
            format!("netns add {SENDER}"),
            format!("netns add {RECEIVER}"),
            format!("-n {SENDER} link add {PEER} type veth peer name {DEVICE} netns {RECEIVER}"),
            format!("-n {SENDER} addr add {SENDER_ADDRESS} dev {PEER}"),
            format!("-n {RECEIVER} addr add {RECEIVER_ADDRESS} dev {DEVICE}"),
            format!("-n {SENDER} link set {PEER} up"),
            format!("-n {RECEIVER} link set {DEVICE} up"),
            format!("-n {RECEIVER} link set lo up"),
        ] {
            ip(&command)?;
        }
        Ok(pair)
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for namespace in [SENDER, RECEIVER] {
            if let Err(error) = ip(&format!("netns del {namespace}")) {
                eprintln!("{error:#}");
            }
        }
    }
}

/// The program that only returns, at the receiver's ingress.
struct Filter {
    program: u64,
}

impl Filter {
    fn attach(object: &Path) -> Result<Self> {
        let before = programs(EMPTY)?;
        tc("qdisc", "add", &["clsact"])?;
        // From here on the qdisc goes with it, and the filter with the qdisc.
        let mut filter = Self { program: 0 };
        let object = object.to_str().context("the object's path is not UTF-8")?;
        tc(
            "filter",
            "add",
            &["ingress", "bpf", "da", "obj", object, "sec", "classifier"],
        )?;
        let after = programs(EMPTY)?;
        let new = after.difference(&before).next();
        filter.program = *new.context("the empty program is not there after it was attached")?;
        Ok(filter)
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        if let Err(error) = tc("qdisc", "del", &["clsact"]) {
            eprintln!("{error:#}");
        }
    }
}

fn tc(object: &str, verb: &str, args: &[&str]) -> Result<()> {
    let mut tc = Command::new("tc");
    tc.args(["-n", RECEIVER, object, verb, "dev", DEVICE]);
    process::capture(tc.args(args)).map(drop)
}

/// `wstap run` in the receiver's namespace.
struct Agent {
    process: Guarded,
    program: u64,
}

impl Agent {
    async fn start() -> Result<Self> {
        let before = programs(OURS)?;
        let log: PathBuf = workspace::target().join("bench-agent.log");
        let out =
            fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = inside(RECEIVER, workspace::release_binary());
        command
            .args(["run", "--interface", DEVICE, "--attach", "tcx"])
            .args(["--listen", LISTEN, "--ring-buffer", RING_BUFFER])
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
                sleep(Duration::from_secs(1)).await;
                return Ok(Self {
                    process,
                    program: *program,
                });
            }
            if begun.elapsed() > PATIENCE {
                bail!("`wstap run` has loaded no program after {PATIENCE:?}");
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Records that were lost since it was started.
    fn lost(&self) -> Result<f64> {
        let this = std::env::current_exe().context("cannot tell which program this is")?;
        let text = process::capture(inside(RECEIVER, this).args(["traffic", "metrics", LISTEN]))?;
        sum(&text, "wstap_samples_lost_total")
            .context("the metrics do not say how many records were lost")
    }

    async fn stop(mut self) -> Result<()> {
        let pid = self.process.0.id().to_string();
        process::capture(Command::new("sh").args(["-c", "kill -s TERM \"$1\"", "sh", &pid]))?;
        self.process.finish().await
    }
}

/// A process that does not outlive its owner.
struct Guarded(Child);

impl Guarded {
    fn spawn(command: &mut Command) -> Result<Self> {
        let child = command
            .spawn()
            .with_context(|| format!("cannot run `{}`", process::shown(command)))?;
        Ok(Self(child))
    }

    /// Waits for the line with which a server says that it listens.
    fn await_ready(&mut self) -> Result<()> {
        let stdout = self.0.stdout.take().context("the server says nothing")?;
        let mut line = String::new();
        BufReader::new(stdout)
            .read_line(&mut line)
            .context("cannot read what the server says")?;
        if line.trim() != "ready" {
            bail!("the server did not start");
        }
        Ok(())
    }

    async fn finish(&mut self) -> Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            match self.0.try_wait().context("cannot wait for a process")? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("a process of the measurement failed ({status})"),
                None => sleep(Duration::from_millis(5)).await,
            }
        }
        bail!("a process of the measurement does not end")
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            // It may have ended just now.
            drop(self.0.kill());
            drop(self.0.wait());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_programs_by_name() {
        let listed = "7: sched_cls  name wstap_eth_in  tag 01  gpl run_time_ns 12 run_cnt 3\n\
                      \tloaded_at 2026-01-01T00:00:00+0000  uid 0\n\
                      8: sched_cls  name wstap_eth_out  tag 02  gpl\n\
                      9: cgroup_skb  tag 03  gpl\n";
        assert_eq!(programs_in(listed, OURS), HashSet::from([7]));
    }

    #[test]
    fn sums_a_metric() {
        let text = "# TYPE lost counter\nlost{reason=\"a b\"} 2\nlost{reason=\"c\"} 3\nlosses 9\n";
        assert_eq!(sum(text, "lost"), Some(5.0));
        assert_eq!(sum(text, "found"), None);
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), 2.5);
        assert!(median(std::iter::empty()).is_nan());
    }
}
