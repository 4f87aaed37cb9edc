//! How long directions are copied whole at full speed, because the kernel program lost its place.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use nix::sys::signal::Signal;

use super::agent::Wstap;
use super::table::{Required, Row};
use super::traffic::{Amount, Load, Sent};
use super::{Bench, Ledger, counted};

/// Between two looks. What begins and ends between two is not seen here, and is in the bytes that were
/// copied.
const LOOK: Duration = Duration::from_millis(50);

const CASES: [(&str, usize, usize); 3] = [
    ("16 KiB frames", 16 << 10, 1),
    ("1 MiB frames", 1 << 20, 1),
    ("64 B frames, 100 a write", 64, 100),
];

/// All figures of the group.
pub fn rows(bench: &Bench) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (number, (name, payload, together)) in CASES.into_iter().enumerate() {
        eprintln!("at full speed: {} of {}", number + 1, CASES.len());
        let duration = bench.full_speed / CASES.len() as u32;
        let load = Load {
            payload,
            together,
            echo: false,
            amount: Amount::For(duration),
        };
        rows.extend(case(bench, name, load)?);
    }
    Ok(rows)
}

fn case(bench: &Bench, name: &str, load: Load) -> Result<Vec<Row>> {
    let agent = Wstap::run(&bench.pair.server, bench.wstap, &[])?;
    let mut ledger = Ledger::new(bench);
    let (done, time, lost_for) = thread::scope(|scope| {
        let address = bench.address();
        let client = scope.spawn(move || {
            bench
                .pair
                .client
                .within(|| super::traffic::client(address, load))
        });
        let begun = Instant::now();
        let (mut last, mut lost_for, mut was_lost) = (begun, Duration::ZERO, false);
        while !client.is_finished() {
            let (lost, found) = agent.metrics()?.places();
            let now = Instant::now();
            let is_lost = lost > found;
            if was_lost && is_lost {
                lost_for += now - last;
            } else if was_lost || is_lost {
                // It changed in between; on the average in the middle.
                lost_for += (now - last) / 2;
            }
            (last, was_lost) = (now, is_lost);
            thread::sleep(LOOK);
        }
        let done = client.join().map_err(|_| anyhow!("a client panicked"))??;
        Ok::<_, anyhow::Error>((done, begun.elapsed(), lost_for))
    })?;
    ledger.add(&done);
    let sent = ledger.sent(bench);
    let metrics = agent.settled(&sent)?;
    agent.stop(Signal::SIGTERM)?;

    let (lost, found) = metrics.places();
    let packets = metrics.packets();
    let of = |verdict| packets.get(verdict).copied().unwrap_or_default();
    let followed = of("passed") + of("walked") + of("set_aside") + of("sampled");
    let payload: u64 = sent.iter().map(Sent::all_bytes).sum();
    let copied = metrics.sum("wstap_sample_bytes_total", &[]);
    let row = Row {
        figure: format!("time a direction is copied whole: {name}"),
        measured: lost_for.as_secs_f64() / time.as_secs_f64() * 100.0,
        interval: None,
        unit: "%",
        required: Some(Required::AtMost(1.0)),
        note: format!(
            "of {:.0} s; places lost {lost}, found {found}; {:.3} % of the segments copied, {:.3} % \
             of the payload; {} set aside",
            time.as_secs_f64(),
            of("sampled") / followed * 100.0,
            copied / payload as f64 * 100.0,
            of("set_aside"),
        ),
    };
    let name = format!("{name}, {:.0} s on one connection", time.as_secs_f64());
    Ok(vec![row, counted(&name, &sent, &metrics.counted())])
}
