//! `cargo xtask resync`: how a direction gets back in sync, measured by `agent/benches/resync`.

use anyhow::{Context, Result};

use crate::build::SKIP_EBPF;
use crate::process;

#[derive(clap::Args)]
pub struct Args {
    /// The same seed gives the same figures, but for times
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// So many times the usual number of losses
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
    times: u64,
    /// Only this table
    #[arg(long, value_parser = ["recovery", "falsehood", "work"])]
    part: Option<String>,
    /// Only this kind of traffic or payload, by its name in the tables
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
}

/// Builds with optimisations, and runs.
pub fn command(args: &Args) -> Result<()> {
    let mut cargo = process::cargo();
    cargo
        .env(SKIP_EBPF.0, SKIP_EBPF.1)
        .args([
            "bench",
            "--quiet",
            "--package",
            "wstap",
            "--bench",
            "resync",
        ])
        .args(["--", "--seed", &args.seed.to_string()])
        .args(["--times", &args.times.to_string()]);
    for (flag, value) in [("--part", &args.part), ("--only", &args.only)] {
        if let Some(value) = value {
            cargo.args([flag, value]);
        }
    }
    process::run(&mut cargo).context("cannot measure how a direction gets back in sync")
}
