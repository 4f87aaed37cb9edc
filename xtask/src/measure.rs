//! Runs a program and says what it took: time, and the most memory that it had at once.
//!
//! The kernel tells the latter of all children together, so the program is the only child of a
//! process of its own, which is this one again.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::process;

/// What to run.
#[derive(clap::Args)]
pub struct Args {
    /// Where its standard output goes
    #[arg(long, value_name = "FILE", default_value = "/dev/null")]
    out: PathBuf,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// What a program took.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    pub time: Duration,
    /// Processor time, its own and the kernel's for it: what is left where others want the
    /// processor, too.
    pub cpu: Duration,
    /// Bytes of memory, at most.
    pub memory: u64,
}

/// Runs the program as the only child and prints both times in microseconds, and KiB.
pub fn command(args: &Args) -> Result<()> {
    let [program, arguments @ ..] = args.command.as_slice() else {
        bail!("no program is given");
    };
    let out =
        File::create(&args.out).with_context(|| format!("cannot write {}", args.out.display()))?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(out);
    let begun = Instant::now();
    let status = command
        .status()
        .with_context(|| format!("cannot run `{}`", process::shown(&command)))?;
    let time = begun.elapsed();
    if !status.success() {
        bail!("`{}` failed ({status})", process::shown(&command));
    }
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("cannot ask what it used")?;
    let micros = |time: TimeVal| u64::try_from(time.num_microseconds()).unwrap_or(0);
    let cpu = micros(usage.user_time()) + micros(usage.system_time());
    println!("{} {cpu} {}", time.as_micros(), usage.max_rss());
    Ok(())
}

/// Runs `command` by the program above, with its standard output to `out`.
pub fn usage(command: &Command, out: &Path) -> Result<Usage> {
    let this = std::env::current_exe().context("cannot tell which program this is")?;
    let mut measured = Command::new(this);
    measured.args(["measure", "--out"]).arg(out).arg("--");
    measured.arg(command.get_program()).args(command.get_args());
    if let Some(folder) = command.get_current_dir() {
        measured.current_dir(folder);
    }
    let said = process::capture(&mut measured)?;
    let mut numbers = said.split_whitespace().map(str::parse::<u64>);
    match (numbers.next(), numbers.next(), numbers.next()) {
        (Some(Ok(time)), Some(Ok(cpu)), Some(Ok(memory))) => Ok(Usage {
            time: Duration::from_micros(time),
            cpu: Duration::from_micros(cpu),
            memory: memory << 10,
        }),
        _ => bail!("`{}` said `{said}`", process::shown(&measured)),
    }
}
