//! What wstap leaves to the application: throughput and round trips with it and without it, one after
//! the other, and what `run` counted, copied and took meanwhile.
//!
//! Without it is over another veth pair between the same namespaces, at which nothing is attached: so a
//! second and not a start of the agent lies between what is compared, and other work of the machine is
//! in both.

use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::Signal;

use super::agent::{RING, Wstap};
use super::statistics::{median, middle};
use super::table::{Required, Row};
use super::traffic::{Amount, Done, Load, Sent, opcode};
use super::{Bench, Ledger, counted};

/// What is sent, and what must be left of it.
struct Case {
    name: &'static str,
    payload: usize,
    together: usize,
    echo: bool,
    /// With wstap / without.
    left: Option<f64>,
    /// Bytes through the ring for each payload byte, in percent.
    copied: Option<f64>,
    /// Agent's processor seconds for a million frames.
    cpu: Option<f64>,
}

const CASES: [Case; 5] = [
    Case {
        name: "16 KiB frames",
        payload: 16 << 10,
        together: 1,
        echo: false,
        left: Some(0.97),
        copied: Some(0.5),
        cpu: None,
    },
    Case {
        name: "1 MiB frames",
        payload: 1 << 20,
        together: 1,
        echo: false,
        left: Some(0.97),
        copied: Some(0.05),
        cpu: None,
    },
    Case {
        name: "64 B echo",
        payload: 64,
        together: 1,
        echo: true,
        left: Some(0.97),
        copied: None,
        cpu: None,
    },
    Case {
        name: "64 B frames, 100 a write",
        payload: 64,
        together: 100,
        echo: false,
        left: Some(0.85),
        copied: None,
        cpu: Some(0.01),
    },
    Case {
        name: "64 B frames, one a write",
        payload: 64,
        together: 1,
        echo: false,
        left: None,
        copied: None,
        cpu: None,
    },
];

/// What one case gave with the agent, summed over its samples.
#[derive(Default)]
struct Watched {
    sent: [Sent; 2],
    counted: [Sent; 2],
    ring: u64,
    /// Seconds for a million frames, of each sample.
    cpu: Vec<f64>,
    lost: f64,
    found: f64,
}

/// The agent, and what it had when it was last looked at.
struct Look<'a> {
    agent: Wstap<'a>,
    /// Of both ends, over the pair that is watched.
    sent: [Sent; 2],
    counted: [Sent; 2],
    places: (f64, f64),
}

/// All figures of the group.
pub fn rows(bench: &Bench) -> Result<Vec<Row>> {
    let mut ratios: [Vec<f64>; CASES.len()] = Default::default();
    let mut rates: [Vec<f64>; CASES.len()] = Default::default();
    let mut watched: [Watched; CASES.len()] = Default::default();
    let mut look = Look {
        agent: Wstap::run(&bench.pair.server, bench.wstap, &[])?,
        sent: Default::default(),
        counted: Default::default(),
        places: (0.0, 0.0),
    };
    for round in 0..bench.pairs {
        bench.progress("throughput", round);
        for (at, case) in CASES.iter().enumerate() {
            let load = load(case, bench.sample);
            let (without, with);
            if round % 2 == 0 {
                without = rate(&bench.bare_client(load)?);
                with = look.at(bench, load, &mut watched[at])?;
            } else {
                with = look.at(bench, load, &mut watched[at])?;
                without = rate(&bench.bare_client(load)?);
            }
            ratios[at].push(with / without);
            rates[at].push(without);
        }
    }
    look.agent.stop(Signal::SIGTERM)?;

    let mut rows = Vec::new();
    for ((case, ratios), rates) in CASES.iter().zip(ratios).zip(rates) {
        let left = middle(ratios);
        let rate = median(rates);
        let payload = rate * case.payload as f64 / 1e6;
        rows.push(Row {
            figure: format!("throughput with wstap / without: {}", case.name),
            measured: left.median,
            interval: left.interval,
            unit: "",
            required: case.left.map(Required::AtLeast),
            note: format!(
                "{} pairs; without: {rate:.0} frames/s, {payload:.0} MB/s",
                bench.pairs
            ),
        });
    }
    for (case, watched) in CASES.iter().zip(&watched) {
        rows.extend(rows_of(case, watched));
    }
    Ok(rows)
}

fn rows_of(case: &Case, watched: &Watched) -> Vec<Row> {
    let mut rows = vec![counted(case.name, &watched.sent, &watched.counted)];
    let payload: u64 = watched.sent.iter().map(Sent::all_bytes).sum();
    rows.push(Row {
        figure: format!(
            "`run`: bytes through the ring per payload byte: {}",
            case.name
        ),
        measured: watched.ring as f64 / payload as f64 * 100.0,
        interval: None,
        unit: "%",
        required: case.copied.map(Required::AtMost),
        note: format!(
            "{} of {payload}; places lost {}, found {}",
            watched.ring, watched.lost, watched.found
        ),
    });
    if !case.echo {
        let cpu = middle(watched.cpu.iter().copied());
        rows.push(Row {
            figure: format!("`run`: agent CPU per million data frames: {}", case.name),
            measured: cpu.median,
            interval: cpu.interval,
            unit: "s",
            required: case.cpu.map(Required::AtMost),
            note: "all it does meanwhile, timers included".to_owned(),
        });
    }
    rows
}

fn load(case: &Case, sample: Duration) -> Load {
    Load {
        payload: case.payload,
        together: case.together,
        echo: case.echo,
        amount: Amount::For(sample),
    }
}

/// Frames a second from client to server.
fn rate(done: &Done) -> f64 {
    done.sent.frames[usize::from(opcode::BINARY)] as f64 / done.elapsed.as_secs_f64()
}

impl Look<'_> {
    /// Watches one load. Returns frames a second.
    fn at(&mut self, bench: &Bench, load: Load, watched: &mut Watched) -> Result<f64> {
        let agent = &self.agent;
        let mut ledger = Ledger::new(bench);
        let ring = agent.process.ring_position(RING)?;
        let cpu = agent.process.cpu()?;
        let done = bench.client(load)?;
        // Before it is asked for anything.
        let cpu = agent.process.cpu()?.saturating_sub(cpu);
        ledger.add(&done);

        let sent = ledger.sent(bench);
        for (all, sent) in self.sent.iter_mut().zip(sent) {
            *all += sent;
        }
        let metrics = agent.settled(&self.sent)?;
        let counted = metrics.counted();
        for direction in 0..2 {
            watched.sent[direction] += sent[direction];
            watched.counted[direction] += counted[direction] - self.counted[direction];
        }
        self.counted = counted;
        watched.ring += agent.process.ring_position(RING)?.saturating_sub(ring);
        let millions = done.sent.frames[usize::from(opcode::BINARY)] as f64 / 1e6;
        watched.cpu.push(cpu.as_secs_f64() / millions);
        let (lost, found) = metrics.places();
        watched.lost += lost - self.places.0;
        watched.found += found - self.places.1;
        self.places = (lost, found);
        Ok(rate(&done))
    }
}
