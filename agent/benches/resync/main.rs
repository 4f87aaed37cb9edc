//! How a direction gets back in sync: how many frames that takes, how often it is wrong, and what
//! the search costs. `cargo xtask resync` runs it; the same seed gives the same figures, but for
//! times.

mod traffic;
mod watch;
mod work;

use std::{
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use traffic::{Content, Shape, Size, Writes};
use watch::{Loss, Outcome, Patience, Watch};

/// Seeds of the parts, so that each gives the same figures whatever else runs.
const RECOVERY: u64 = 1 << 40;
const FALSEHOOD: u64 = 2 << 40;

const fn shape(
    name: &'static str,
    masked: bool,
    content: Content,
    size: Size,
    writes: Writes,
) -> Shape {
    Shape {
        name,
        masked,
        content,
        size,
        writes,
        pings: false,
    }
}

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const SIZES: &[usize] = &[40, 60, 100];

/// Traffic as it is: with a direction of each kind, server and client.
fn shapes() -> Vec<Shape> {
    use Content::{Deflated, Json, Random, Records, SameJson};
    use Size::{Any, Between, Natural, Of};
    use Writes::{Bulk, Each};
    let mut shapes = Vec::new();
    for (name, content, size, writes, pings) in [
        ("JSON", Json, Natural, Each, false),
        ("JSON, bulk", Json, Natural, Bulk, false),
        ("JSON and pings", Json, Natural, Each, true),
        ("the same JSON", SameJson, Natural, Each, false),
        ("deflated JSON", Deflated, Natural, Each, false),
        ("binary 100 B", Random, Of(100), Each, false),
        ("binary 100 B and pings", Random, Of(100), Each, true),
        ("binary 100 B, bulk", Random, Of(100), Bulk, false),
        (
            "binary 40, 60, 100 B, bulk",
            Random,
            Any(SIZES),
            Bulk,
            false,
        ),
        (
            "binary 16 to 125 B, bulk",
            Random,
            Between(16, 125),
            Bulk,
            false,
        ),
        ("records of 100 B, bulk", Records, Of(100), Bulk, false),
        ("binary 1.4 KB", Random, Of(1400), Each, false),
        ("binary 1.4 KB, bulk", Random, Of(1400), Bulk, false),
        ("binary 16 KiB", Random, Of(16 * KIB), Each, false),
        ("binary 16 KiB, bulk", Random, Of(16 * KIB), Bulk, false),
        ("binary 64 KiB", Random, Of(64 * KIB), Each, false),
        ("binary 64 KiB, bulk", Random, Of(64 * KIB), Bulk, false),
        ("binary 1 MiB", Random, Of(MIB), Each, false),
        ("binary 1 MiB, bulk", Random, Of(MIB), Bulk, false),
    ] {
        for masked in [false, true] {
            shapes.push(Shape {
                pings,
                ..shape(name, masked, content, size, writes)
            });
        }
    }
    shapes
}

/// Payload that is hard to tell from headers, beside random one.
fn payloads() -> Vec<Shape> {
    use Content::{Counters, Cyrillic, Deflated, Json, Protobuf, Random, Records, SameJson, Zeros};
    let mut shapes = Vec::new();
    for (name, content) in [
        ("random", Random),
        ("Cyrillic text", Cyrillic),
        ("counters of 32 bits", Counters),
        ("zeros", Zeros),
        ("protobuf", Protobuf),
        ("JSON", Json),
        ("the same JSON", SameJson),
        ("deflated JSON", Deflated),
    ] {
        for masked in [false, true] {
            let size = Size::Between(128, 16 * KIB);
            shapes.push(shape(name, masked, content, size, Writes::Each));
        }
    }
    // Small ones of few sizes, of which headers are known; some of them hold what looks like those.
    for (name, content, size) in [
        ("random, 100 B", Random, Size::Of(100)),
        ("random, 40, 60, 100 B", Random, Size::Any(SIZES)),
        ("records of 100 B", Records, Size::Of(100)),
        (
            "records, 100 or 300 B",
            Records,
            Size::Any(&[100, 100, 300]),
        ),
        ("counters, 100 B", Counters, Size::Of(100)),
    ] {
        for masked in [false, true] {
            shapes.push(shape(name, masked, content, size, Writes::Bulk));
        }
    }
    shapes
}

/// What is asked for.
struct Args {
    seed: u64,
    times: u64,
    only: Option<String>,
    part: Option<String>,
}

impl Args {
    fn parse() -> Result<Self, String> {
        let mut args = std::env::args().skip(1);
        let mut parsed = Self {
            seed: 1,
            times: 1,
            only: None,
            part: None,
        };
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("{arg} wants a value"));
            let number = |text: String| text.parse().map_err(|_| format!("{text} is no number"));
            match arg.as_str() {
                "--seed" => parsed.seed = number(value()?)?,
                "--times" => parsed.times = number(value()?)?,
                "--only" => parsed.only = Some(value()?),
                "--part" => parsed.part = Some(value()?),
                // Cargo says so itself.
                "--bench" => {}
                _ => return Err(format!("{arg} is not known")),
            }
        }
        Ok(parsed)
    }

    fn wants(&self, shape: &Shape) -> bool {
        self.only.as_deref().is_none_or(|only| shape.name == only)
    }

    fn wants_part(&self, part: &str) -> bool {
        self.part.as_deref().is_none_or(|only| only == part)
    }
}

fn main() -> ExitCode {
    let args = match Args::parse() {
        Ok(args) => args,
        Err(error) => {
            eprintln!("resync: {error}");
            return ExitCode::FAILURE;
        }
    };
    if args.wants_part("recovery") {
        recovery(&args);
    }
    if args.wants_part("falsehood") {
        falsehood(&args);
    }
    if args.wants_part("work") {
        work::table(args.seed);
    }
    ExitCode::SUCCESS
}

fn side(masked: bool) -> &'static str {
    if masked { "client" } else { "server" }
}

/// Frames lost after a header was.
fn recovery(args: &Args) {
    println!(
        "Frames lost behind a lost header (median, p90, p99, max), and frames waited for (median, p99)"
    );
    println!(
        "{:<28}{:<8}{:<18}{:>7}{:>9}{:>7}{:>6}{:>6}{:>6}{:>9}{:>6}{:>7}",
        "traffic",
        "sender",
        "what is not seen",
        "losses",
        "back",
        "lost",
        "p90",
        "p99",
        "max",
        "waited",
        "p99",
        "wrong"
    );
    let losses = [
        (
            "1 segment",
            Loss {
                segments: 1,
                both: false,
                midstream: false,
            },
        ),
        (
            "1, both seen",
            Loss {
                segments: 1,
                both: true,
                midstream: false,
            },
        ),
        (
            "5 segments",
            Loss {
                segments: 5,
                both: false,
                midstream: false,
            },
        ),
        (
            "the beginning",
            Loss {
                segments: 1,
                both: false,
                midstream: true,
            },
        ),
        (
            "beginning, both",
            Loss {
                segments: 1,
                both: true,
                midstream: true,
            },
        ),
    ];
    for shape in shapes().iter().filter(|shape| args.wants(shape)) {
        let size = match shape.size {
            Size::Of(size) => size as u64,
            _ => 100,
        };
        // Bytes that a row of the table may take decide.
        let trials = args.times * (20_000_000 / (size * 6 + 6000)).clamp(30, 1000);
        let patience = Patience {
            frames: if size > 100_000 { 8 } else { 60 },
            bytes: 1,
        };
        for (what, loss) in losses {
            let outcomes = run(shape, loss, patience, args.seed ^ RECOVERY, trials).0;
            print_recovery(shape, what, &outcomes);
        }
    }
}

/// Losses that are reckoned one after the other.
const BLOCK: u64 = 5000;

/// Loses headers `trials` times, on all cores. What came of each, and the bytes that were searched. It
/// does not depend on how many cores there are.
fn run(
    shape: &Shape,
    loss: Loss,
    patience: Patience,
    seed: u64,
    trials: u64,
) -> (Vec<Outcome>, u64) {
    let blocks = trials.div_ceil(BLOCK);
    let next = AtomicU64::new(0);
    let done = Mutex::new(Vec::new());
    let work = || {
        loop {
            let block = next.fetch_add(1, Ordering::Relaxed);
            if block >= blocks {
                return;
            }
            let trials = BLOCK.min(trials - block * BLOCK);
            let seed = seed.wrapping_add(block * BLOCK);
            let results = run_block(shape, loss, patience, seed, trials);
            if let Ok(mut done) = done.lock() {
                done.push((block, results));
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let mut done = done.into_inner().unwrap_or_default();
    done.sort_by_key(|(block, _)| *block);
    let mut outcomes = Vec::with_capacity(trials as usize);
    let mut searched = 0;
    for (_, (of_block, bytes)) in done {
        outcomes.extend(of_block);
        searched += bytes;
    }
    (outcomes, searched)
}

fn run_block(
    shape: &Shape,
    loss: Loss,
    patience: Patience,
    seed: u64,
    trials: u64,
) -> (Vec<Outcome>, u64) {
    let mut outcomes = Vec::with_capacity(trials as usize);
    let mut searched = 0;
    let mut watch = Watch::new(*shape, seed, !loss.midstream);
    for trial in 0..trials {
        let outcome = watch.lose(loss, patience);
        searched += std::mem::take(&mut watch.searched);
        outcomes.push(outcome);
        // Not for ever: what it counts is bounded, and so are its keys.
        if !outcome.synced || loss.midstream || trial % 1000 == 999 {
            watch = Watch::new(*shape, seed.wrapping_add(trial + 1), !loss.midstream);
        }
    }
    (outcomes, searched)
}

fn print_recovery(shape: &Shape, what: &str, outcomes: &[Outcome]) {
    let share = |part: usize| 100.0 * part as f64 / outcomes.len() as f64;
    let back = outcomes.iter().filter(|outcome| outcome.synced).count();
    let wrong = outcomes.iter().filter(|outcome| outcome.wrong).count();
    let sorted = |of: fn(&Outcome) -> u64| {
        let mut all: Vec<_> = outcomes.iter().filter(|o| o.synced).map(of).collect();
        all.sort_unstable();
        move |share: f64| match all.len() {
            0 => "-".to_owned(),
            n => all[((n - 1) as f64 * share).round() as usize].to_string(),
        }
    };
    let lost = sorted(|outcome| outcome.lost);
    let waited = sorted(|outcome| outcome.waited);
    println!(
        "{:<28}{:<8}{:<18}{:>7}{:>8.1}%{:>7}{:>6}{:>6}{:>6}{:>9}{:>6}{:>7}",
        shape.name,
        side(shape.masked),
        what,
        outcomes.len(),
        share(back),
        lost(0.5),
        lost(0.9),
        lost(0.99),
        lost(1.0),
        waited(0.5),
        waited(0.99),
        wrong,
    );
}

/// How often something is taken for a frame that is none.
fn falsehood(args: &Args) {
    println!(
        "\nFalse syncs: a header of a frame of 128 B to 16 KiB is lost, or the beginning not seen"
    );
    println!(
        "{:<24}{:<8}{:<16}{:>9}{:>10}{:>7}{:>12}{:>9}",
        "payload", "sender", "what is not seen", "searches", "MB", "wrong", "at most", "MB/s"
    );
    let patience = Patience {
        frames: 40,
        bytes: 1,
    };
    for shape in payloads().iter().filter(|shape| args.wants(shape)) {
        for (what, midstream) in [("1 segment", false), ("the beginning", true)] {
            let trials = args.times
                * match shape.content {
                    Content::Random if matches!(shape.size, Size::Between(..)) => 250_000,
                    _ => 10_000,
                };
            let begun = Instant::now();
            let loss = Loss {
                segments: 1,
                both: false,
                midstream,
            };
            let (outcomes, searched) = run(shape, loss, patience, args.seed ^ FALSEHOOD, trials);
            let wrong = outcomes.iter().filter(|outcome| outcome.wrong).count();
            println!(
                "{:<24}{:<8}{:<16}{:>9}{:>10.0}{:>7}{:>12.1e}{:>9.0}",
                shape.name,
                side(shape.masked),
                what,
                trials,
                searched as f64 / 1e6,
                wrong,
                upper_bound(wrong as u64, trials),
                searched as f64 / 1e6 / begun.elapsed().as_secs_f64(),
            );
        }
    }
}

/// The rate that `wrong` of `trials` does not exceed with a confidence of 95 %: where none is wrong,
/// 3 in `trials`. By the relation of Poisson's distribution to chi-square's, with Wilson and
/// Hilferty's approximation.
fn upper_bound(wrong: u64, trials: u64) -> f64 {
    let n = wrong as f64 + 1.0;
    let bound = n * (1.0 - 1.0 / (9.0 * n) + 1.644_85 / (3.0 * n.sqrt())).powi(3);
    bound / trials as f64
}
