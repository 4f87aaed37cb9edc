//! Set-up, build, test and demonstration of wstap: `cargo xtask --help`.
//!
//! One file a command; [`process`] runs other programs, [`workspace`] knows where things lie.

mod bench;
mod bench_read;
mod build;
mod demo;
mod deploy;
mod fuzz;
mod http;
mod image_root;
mod interrupt;
mod kernels;
mod measure;
mod oracle;
mod process;
mod resync;
mod run;
mod setup;
mod soak;
mod test;
mod walk;
mod workspace;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

/// Set-up, build, test and demonstration of wstap.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Find or install what the build of the kernel program needs
    Setup {
        /// And what the tests need
        #[arg(long)]
        tests: bool,
        /// And what `kernels` needs
        #[arg(long)]
        kernels: bool,
    },
    /// Set up, then build everything, the kernel program included
    Build {
        /// With optimisations
        #[arg(long)]
        release: bool,
    },
    /// Set up, build with optimisations, then run wstap (as root: with sudo where need be)
    Run {
        /// Something to see: a WebSocket server and its clients on loopback, the agent with
        /// /metrics, and the trace in this terminal
        #[arg(long)]
        demo: bool,
        /// End the demonstration after this many seconds instead of on Ctrl-C
        #[arg(long = "for", value_name = "SECONDS", requires = "demo", value_parser = seconds)]
        duration: Option<Duration>,
        /// Everything is built: only run
        #[arg(long, hide = true)]
        built: bool,
        /// What wstap is run with; `run` if nothing is given
        #[arg(last = true, conflicts_with = "demo")]
        args: Vec<String>,
    },
    /// Set up, build with optimisations, then lay out the root file system of the container image
    ImageRoot {
        /// Where: a folder that is new or empty
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        /// With this binary, and no build
        #[arg(long, value_name = "FILE")]
        binary: Option<PathBuf>,
    },
    /// Set up, then format, clippy, documentation, build and all tests: what CI runs
    Test {
        /// Leave out the tests that load the kernel program
        #[arg(long)]
        no_kernel: bool,
    },
    /// Hold `wstap read` against other dissectors of the same captures; 1 where a difference is not
    /// explained
    Oracle(oracle::Args),
    /// That what is under deploy/ is current and valid: chart, manifests, alerts, dashboards
    Deploy(deploy::Args),
    /// Give the fuzz targets (all, or some) bytes that nobody thought of
    Fuzz {
        /// Only this target (repeatable)
        #[arg(long, value_name = "NAME")]
        target: Vec<String>,
        /// How long each is fuzzed
        #[arg(long = "for", value_name = "SECONDS", default_value = "60", value_parser = seconds)]
        duration: Duration,
        /// Put what covers more into the repository's corpus, reduced
        #[arg(long)]
        keep: bool,
    },
    /// Boot old and new kernels in a virtual machine, and see that the program loads and counts right
    Kernels(kernels::Args),
    /// How a direction gets back in sync: frames lost behind a lost header, the rate of false sync, and
    /// what the search costs
    Resync(resync::Args),
    /// That following headers in the kernel changes nothing of what is said: made-up traffic past agents
    /// that do and agents that have segments copied whole (as root)
    Walk(walk::Args),
    /// What wstap costs: kernel time a packet, throughput left, what is counted, copied and taken
    Bench(bench::Args),
    /// The agent under a mixed load for a while: memory flat, counts exact, nothing left behind
    Soak(soak::Args),
    /// How fast captures are read, beside what else reads them, and in how much memory
    BenchRead(bench_read::Args),
    /// What a program takes
    #[command(hide = true)]
    Measure(measure::Args),
}

/// A time, in seconds where nothing else is said.
fn seconds(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(['s', 'm', 'h']);
    let unit = match text.strip_prefix(digits) {
        Some("" | "s") => 1.0,
        Some("m") => 60.0,
        Some("h") => 3600.0,
        _ => f64::NAN,
    };
    match digits.parse::<f64>().map(|number| number * unit) {
        Ok(n) if n > 0.0 && n <= 86_400.0 => Ok(Duration::from_secs_f64(n)),
        _ => Err("a time is meant, at most a day, as 10, 10s or 20m".to_owned()),
    }
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Setup { tests, kernels } => setup::command(tests, kernels),
        Command::Build { release } => build::command(release),
        Command::Run {
            demo: true,
            duration,
            built,
            ..
        } => demo::command(duration, built),
        Command::Run { built, args, .. } => run::command(&args, built),
        Command::ImageRoot { dir, binary } => image_root::command(&dir, binary.as_deref()),
        Command::Test { no_kernel } => test::command(no_kernel),
        Command::Oracle(args) => oracle::command(&args),
        Command::Deploy(args) => deploy::command(&args),
        Command::Fuzz {
            target,
            duration,
            keep,
        } => fuzz::command(&target, duration, keep),
        Command::Kernels(args) => kernels::command(&args),
        Command::Resync(args) => resync::command(&args),
        Command::Walk(args) => walk::command(&args),
        Command::Bench(args) => bench::command(&args),
        Command::Soak(args) => soak::command(&args),
        Command::BenchRead(args) => bench_read::command(&args),
        Command::Measure(args) => measure::command(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
