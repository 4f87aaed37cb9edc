//! How soon one who starts `trace` sees something.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::Bench;
use super::child::Guarded;
use super::statistics::middle;
use super::table::{Required, Row};
use super::traffic::{self, MASK, opcode};
use crate::interrupt;

/// Between two handshakes.
const HANDSHAKES: Duration = Duration::from_millis(20);
/// After this long it is not seen any more.
const LIMIT: Duration = Duration::from_secs(15);

/// The figure: from the start of the process to its first line, while frames go by at full speed on a
/// connection that is older, and connections come and go.
pub fn rows(bench: &Bench) -> Result<Vec<Row>> {
    let stop = AtomicBool::new(false);
    let times = thread::scope(|scope| {
        let busy = scope.spawn(|| bench.pair.client.within(|| busy(bench, &stop)));
        let others = scope.spawn(|| bench.pair.client.within(|| handshakes(bench, &stop)));
        let times = (0..bench.pairs)
            .map(|round| {
                bench.progress("first event", round);
                interrupt::check()?;
                once(bench)
            })
            .collect::<Result<Vec<_>>>();
        stop.store(true, Relaxed);
        for thread in [busy, others] {
            match thread.join() {
                Ok(done) => done?,
                Err(_) => bail!("a client panicked"),
            }
        }
        times
    })?;
    let time = middle(times.iter().map(|time| time.as_secs_f64() * 1e3));
    Ok(vec![Row {
        figure: "time to first event after start".to_owned(),
        measured: time.median,
        interval: time.interval,
        unit: "ms",
        required: Some(Required::AtMost(300.0)),
        note: format!(
            "{} starts of `trace`, loading and verifying included",
            times.len()
        ),
    }])
}

fn once(bench: &Bench) -> Result<Duration> {
    let (begun, process) = bench.pair.server.within(|| {
        let mut command = Command::new(bench.wstap);
        command
            .args(["trace", "--copy", "headers", "-o", "json", "--count", "1"])
            .args(["--interface", &bench.pair.server.device])
            .args(["--duration", &format!("{}s", LIMIT.as_secs())])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let begun = Instant::now();
        Ok((begun, Guarded::spawn(&mut command)?))
    })?;
    let mut process = process;
    let out = process.stdout().context("its output is not piped")?;
    let mut line = String::new();
    BufReader::new(out)
        .read_line(&mut line)
        .context("cannot read an event")?;
    let time = begun.elapsed();
    if line.is_empty() {
        bail!("`wstap trace` ended without an event");
    }
    process.finish(LIMIT)?;
    Ok(time)
}

fn busy(bench: &Bench, stop: &AtomicBool) -> Result<()> {
    let mut stream = traffic::open(bench.address(), "/sink")?;
    let frame = traffic::frame(opcode::BINARY, &vec![b'.'; 16 << 10], Some(MASK));
    while !stop.load(Relaxed) && !interrupt::raised() {
        stream.write_all(&frame).context("cannot write frames")?;
    }
    traffic::close(&mut stream).map(drop)
}

fn handshakes(bench: &Bench, stop: &AtomicBool) -> Result<()> {
    while !stop.load(Relaxed) && !interrupt::raised() {
        let mut stream = traffic::open(bench.address(), "/sink")?;
        traffic::close(&mut stream)?;
        thread::sleep(HANDSHAKES);
    }
    Ok(())
}
