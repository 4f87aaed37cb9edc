//! Whether everything is counted and reported, in seconds: no figure that the machine's other work could
//! change.

use anyhow::{Result, bail};
use nix::sys::signal::Signal;

use super::agent::Wstap;
use super::table;
use super::traced::{at_rest, reported};
use super::traffic::{Amount, Load, Plain};
use super::{Bench, Ledger, counted};

/// Payload, frames a write, echoed, and writes that a tracer keeps up with.
const LOADS: [(&str, usize, usize, bool, u64); 5] = [
    ("64 B frames, one a write", 64, 1, false, 5000),
    ("64 B frames, 100 a write", 64, 100, false, 100),
    ("64 B echo", 64, 1, true, 500),
    ("16 KiB frames", 16 << 10, 1, false, 1000),
    ("1 MiB frames", 1 << 20, 1, false, 50),
];

/// Fails where a count is not what was sent.
pub fn check(bench: &Bench) -> Result<()> {
    let mut rows = Vec::new();
    let agent = Wstap::run(&bench.pair.server, bench.wstap, &[])?;
    let mut ledger = Ledger::new(bench);
    for (name, payload, together, echo, _) in LOADS {
        for kind in [Plain::Udp, Plain::Tcp, Plain::Http] {
            bench.plain(kind, 1024, Amount::Writes(100))?;
        }
        let amount = Amount::For(bench.sample);
        ledger.add(&bench.client(Load {
            payload,
            together,
            echo,
            amount,
        })?);
        let sent = ledger.sent(bench);
        let name = format!("`run` at full speed, up to and with {name}");
        rows.push(counted(&name, &sent, &agent.settled(&sent)?.counted()));
    }
    agent.stop(Signal::SIGTERM)?;

    let events = bench.folder.join("events.json");
    let tracer = Wstap::trace(&bench.pair.server, bench.wstap, &events, &[])?;
    let mut ledger = Ledger::new(bench);
    for (_, payload, together, echo, writes) in LOADS {
        let amount = Amount::Writes(writes);
        ledger.add(&bench.client(Load {
            payload,
            together,
            echo,
            amount,
        })?);
        at_rest(&tracer.process)?;
    }
    let said = tracer.stop(Signal::SIGINT)?;
    let mut traced = counted("`trace`", &ledger.sent(bench), &reported(&events)?);
    traced.note += &format!(": {}", said.lines().last().unwrap_or_default());
    rows.push(traced);

    println!("{}", table::text(&rows));
    match rows
        .iter()
        .filter(|row| row.is_reached() == Some(false))
        .count()
    {
        0 => Ok(()),
        wrong => bail!("{wrong} counts are not what was sent"),
    }
}
