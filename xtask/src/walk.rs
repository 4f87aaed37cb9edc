//! `cargo xtask walk`: that following headers in the kernel is invisible, over many seeds.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::process;

/// Tells the test how many seeds there are, and which is the first.
const SEEDS: &str = "WSTAP_WALK_SEEDS";
/// As [`SEEDS`].
const FIRST: &str = "WSTAP_WALK_SEED";
/// What the test says of each seed begins so.
const MARK: &str = "figures: ";
/// The tests, and how they send.
const TESTS: [(&str, &str); 2] = [
    (
        "walk::in_one_order_all_is_the_same",
        "segments one at a time",
    ),
    (
        "walk::from_two_processors_at_once_frames_are_the_same",
        "two at a time, from two processors",
    ),
];

#[derive(clap::Args)]
pub struct Args {
    /// How many seeds, each sent in both ways
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    seeds: u64,
    /// The first of them
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    from: u64,
}

/// Runs the differential test over many seeds; an error where there was a difference.
pub fn command(args: &Args) -> Result<()> {
    if !process::is_root() {
        bail!("loading the kernel program needs root");
    }
    let mut differing = 0;
    for (test, name) in TESTS {
        let start = Instant::now();
        let mut sum = Sum::default();
        for seed in args.from..args.from.saturating_add(args.seeds) {
            if !sum.add(test, seed)? {
                differing += 1;
                println!("seed {seed}, {name}: a difference, see above");
            }
        }
        println!("{name}: {}", sum.line(start.elapsed().as_secs()));
    }
    if differing > 0 {
        bail!("{differing} runs with differences");
    }
    Ok(())
}

/// What was compared.
#[derive(Default)]
struct Sum {
    seeds: u64,
    same: u64,
    figures: BTreeMap<String, f64>,
}

impl Sum {
    /// Runs a seed; whether there was no difference.
    fn add(&mut self, test: &str, seed: u64) -> Result<bool> {
        let mut cargo = process::cargo();
        cargo
            .args(["test", "--quiet", "--package", "wstap", "--test", "kernel"])
            .args(["--", "--exact", "--nocapture", test])
            .env(FIRST, seed.to_string())
            .env(SEEDS, "1")
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = cargo.spawn().context("cannot run the test")?;
        let stderr = child.stderr.take().context("no standard error")?;
        let mut told = false;
        for line in BufReader::new(stderr).lines() {
            let line = line.context("reading what the test says")?;
            let Some(figures) = line.strip_prefix(MARK) else {
                eprintln!("{line}");
                continue;
            };
            told = true;
            for (name, value) in figures.split(' ').filter_map(|one| one.split_once('=')) {
                let value: f64 = value.parse().context("a figure of the test")?;
                *self.figures.entry(name.to_owned()).or_default() += value;
            }
        }
        let same = child.wait().context("waiting for the test")?.success();
        if same && !told {
            bail!("the test did not run: it needs root, and says why it steps aside");
        }
        self.seeds += 1;
        self.same += u64::from(same);
        Ok(same)
    }

    fn line(&self, seconds: u64) -> String {
        let figure = |name: &str| self.figures.get(name).copied().unwrap_or(0.0);
        let share = |of: &str, all: &str| 100.0 * figure(of) / figure(all).max(1.0);
        format!(
            "{} seeds in {seconds} s, {} without a difference; {} connections, {} segments, {} \
             frames, {} events compared; {:.1} % of the segments were copied whole, {:.1} % of the \
             bytes on the wire handed over",
            self.seeds,
            self.same,
            figure("connections"),
            figure("segments"),
            figure("frames"),
            figure("events"),
            share("whole", "segments"),
            share("handed_over", "bytes"),
        )
    }
}
