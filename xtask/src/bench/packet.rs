//! Kernel time a packet, beyond that of a program that only returns, at ingress of the server's device.
//!
//! Both programs see the same packets, one behind the other: what the measuring costs, which the kernel
//! does around each of them, is in both, and goes with the difference.

use std::path::Path;

use anyhow::Result;
use nix::sys::signal::Signal;

use super::agent::Wstap;
use super::program::{Empty, Runs, Statistics, empty_object};
use super::statistics::{Middle, line, median, middle};
use super::table::{Required, Row};
use super::traffic::{Amount, Load, Plain, opcode};
use super::{Bench, Ledger, counted};

/// Holds what a second of small frames leaves: a record that finds no room costs less than one that
/// does, so nothing may be lost, however slow the reader.
const LARGE_RING: &str = "256M";

/// Frames at once, for what each further one costs.
const TOGETHER: [usize; 5] = [1, 4, 16, 64, 256];
/// Payload of the small frames.
const SMALL: usize = 64;
/// So large a frame has hundreds of segments, of which one has the header.
const LARGE: usize = 16 << 20;

#[derive(Clone, Copy)]
enum Kind {
    Plain(Plain, usize),
    WebSocket { payload: usize, together: usize },
}

/// One sample: what both programs took.
struct Sample {
    packets: f64,
    /// Frames a packet.
    frames: f64,
    empty: f64,
    beyond: f64,
}

/// All figures of the group.
pub fn rows(bench: &Bench) -> Result<Vec<Row>> {
    let object = empty_object()?;
    let statistics = Statistics::on()?;
    let mut rows = tallied(bench, &object, &statistics)?;
    rows.extend(recorded(bench, &object, &statistics)?);
    Ok(rows)
}

/// What `run` costs.
fn tallied(bench: &Bench, object: &Path, statistics: &Statistics) -> Result<Vec<Row>> {
    let agent = Wstap::run(&bench.pair.server, bench.wstap, &["--attach", "tcx"])?;
    let empty = Empty::attach(&bench.pair.server, object)?;
    let mut ledger = Ledger::new(bench);
    let once = [
        ("not TCP (UDP, 64 B)", Kind::Plain(Plain::Udp, 64), 20.0),
        ("TCP, no WebSocket, 64 B", Kind::Plain(Plain::Tcp, 64), 90.0),
        (
            "TCP, no WebSocket, 16 KiB",
            Kind::Plain(Plain::Tcp, 16 << 10),
            90.0,
        ),
        (
            "TCP, no WebSocket, HTTP body",
            Kind::Plain(Plain::Http, 16 << 10),
            90.0,
        ),
        (
            "segment inside a payload",
            Kind::WebSocket {
                payload: LARGE,
                together: 1,
            },
            90.0,
        ),
    ];
    let mut samples: Vec<Vec<Sample>> = once.iter().map(|_| Vec::new()).collect();
    let mut frames: Vec<Vec<Sample>> = TOGETHER.iter().map(|_| Vec::new()).collect();
    for round in 0..bench.pairs {
        bench.progress("kernel time a packet", round);
        for ((_, kind, _), samples) in once.iter().zip(&mut samples) {
            statistics.insist()?;
            samples.push(sample(bench, *kind, &agent, &empty, &mut ledger)?);
        }
        for (&together, samples) in TOGETHER.iter().zip(&mut frames) {
            let kind = Kind::WebSocket {
                payload: SMALL,
                together,
            };
            statistics.insist()?;
            samples.push(sample(bench, kind, &agent, &empty, &mut ledger)?);
        }
    }
    let sent = ledger.sent(bench);
    let metrics = agent.settled(&sent)?;
    drop(empty);
    agent.stop(Signal::SIGTERM)?;

    let mut rows = Vec::new();
    for ((name, _, most), samples) in once.iter().zip(&samples) {
        rows.push(row(
            name,
            middle(samples.iter().map(|one| one.beyond)),
            *most,
            samples,
        ));
    }
    if let Some(single) = frames.first() {
        let beyond = middle(single.iter().map(|one| one.beyond));
        rows.push(row(
            "segment with one frame, tallied",
            beyond,
            180.0,
            single,
        ));
    }
    // A line through what the same round has measured: the machine is the same in it.
    let rounds = (0..bench.pairs).map(|round| {
        let points: Vec<_> = frames
            .iter()
            .filter_map(|samples| samples.get(round))
            .map(|one| (one.frames, one.beyond))
            .collect();
        line(&points).1
    });
    let last = frames.last().map(Vec::as_slice).unwrap_or_default();
    rows.push(row(
        "each further frame in a segment (64 B)",
        middle(rounds),
        12.0,
        last,
    ));
    rows.push(counted(
        "the loads of the group kernel",
        &sent,
        &metrics.counted(),
    ));
    Ok(rows)
}

/// What `trace` costs.
fn recorded(bench: &Bench, object: &Path, statistics: &Statistics) -> Result<Vec<Row>> {
    let flags = ["--attach", "tcx", "--ring-buffer", LARGE_RING];
    let tracer = Wstap::trace(
        &bench.pair.server,
        bench.wstap,
        Path::new("/dev/null"),
        &flags,
    )?;
    let empty = Empty::attach(&bench.pair.server, object)?;
    let mut ledger = Ledger::new(bench);
    let kind = Kind::WebSocket {
        payload: SMALL,
        together: 1,
    };
    let mut samples = Vec::new();
    for round in 0..bench.pairs {
        bench.progress("kernel time a packet, traced", round);
        statistics.insist()?;
        samples.push(sample(bench, kind, &tracer, &empty, &mut ledger)?);
    }
    drop(empty);
    let said = tracer.stop(Signal::SIGINT)?;
    let beyond = middle(samples.iter().map(|one| one.beyond));
    let mut row = row(
        "segment with one frame, with a record",
        beyond,
        260.0,
        &samples,
    );
    // Where many were lost, this is too low.
    row.note += &format!("; the tracer: {}", said.lines().last().unwrap_or_default());
    Ok(vec![row])
}

fn row(name: &str, beyond: Middle, most: f64, samples: &[Sample]) -> Row {
    let of = |field: fn(&Sample) -> f64| median(samples.iter().map(field));
    Row {
        figure: format!("kernel time a packet beyond an empty program: {name}"),
        measured: beyond.median,
        interval: beyond.interval,
        unit: "ns",
        required: Some(Required::AtMost(most)),
        note: format!(
            "{:.0} packets a sample, {:.2} frames a packet; empty {:.0} ns",
            of(|one| one.packets),
            of(|one| one.frames),
            of(|one| one.empty)
        ),
    }
}

/// Runs the traffic and reads what it cost.
fn sample(
    bench: &Bench,
    kind: Kind,
    wstap: &Wstap<'_>,
    empty: &Empty<'_>,
    ledger: &mut Ledger,
) -> Result<Sample> {
    let before = [Runs::of(wstap.program)?, Runs::of(empty.program)?];
    let amount = Amount::For(bench.sample);
    let mut frames = 0;
    match kind {
        Kind::Plain(kind, size) => bench.plain(kind, size, amount)?,
        Kind::WebSocket { payload, together } => {
            let load = Load {
                payload,
                together,
                echo: false,
                amount,
            };
            let done = bench.client(load)?;
            frames = done.sent.frames[usize::from(opcode::BINARY)];
            ledger.add(&done);
        }
    }
    let ours = Runs::of(wstap.program)?.since(before[0]);
    let empty = Runs::of(empty.program)?.since(before[1]);
    Ok(Sample {
        packets: ours.packets as f64,
        frames: frames as f64 / ours.packets as f64,
        empty: empty.mean(),
        beyond: ours.mean() - empty.mean(),
    })
}
