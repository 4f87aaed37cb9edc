//! How many instructions the verifier walks through for each program.
//!
//! Kernels since 5.16 keep the number. The others tell it in the verifier's log alone, which is to
//! be had of a program that is refused; and one is refused after the verifier has done all of its
//! work where the process may open no further file.

use std::{collections::BTreeMap, ffi::OsString, fs::File, os::fd::AsRawFd as _};

use anyhow::{Context, Result, bail};
use aya::{
    Ebpf, VerifierLogLevel,
    programs::{ProgramError, SchedClassifier},
    util::KernelVersion,
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use wstap::{
    cli::{Cli, Command},
    config::{CaptureConfig, RunConfig},
    source::kernel::{Method, Wake, program, requirements},
};
use wstap_common::globals;

/// The first kernel that keeps the number.
const COUNTED: KernelVersion = KernelVersion::new(5, 16, 0);
/// Lines of the verifier's log that a failure shows.
const SHOWN: usize = 40;

/// Loads every program of the object, as `wstap run` with these flags would: the number of each.
pub fn count(method: Method, flags: &[&str]) -> Result<BTreeMap<&'static str, u32>> {
    let config = config(flags)?;
    let prepare = |detail| program::prepare(&config, Wake::Batch, method, detail);
    let mut ebpf = prepare(VerifierLogLevel::STATS)?;
    let mut counts = BTreeMap::new();
    for name in globals::PROGRAMS.into_iter().flatten() {
        let program = find(&mut ebpf, name)?;
        let count = if requirements::kernel_version() < COUNTED {
            count_in_log(program)
        } else {
            program.load().map_err(Into::into).and_then(|()| {
                let count = program.info()?.verified_instruction_count();
                count.context("the kernel does not say how much the verifier did")
            })
        };
        let count = match count {
            Ok(count) => count,
            Err(error) => {
                // Once more, and tell everything.
                let mut ebpf = prepare(VerifierLogLevel::default())?;
                let log = find(&mut ebpf, name)?.load().map_or_else(log, |()| None);
                let log = log.unwrap_or_default();
                let skipped = log.lines().count().saturating_sub(SHOWN);
                let tail: Vec<_> = log.lines().skip(skipped).collect();
                return Err(error).with_context(|| format!("{name}\n{}", tail.join("\n")));
            }
        };
        counts.insert(name, count);
    }
    Ok(counts)
}

fn find<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    let program = ebpf.program_mut(name).context("the object lacks it")?;
    Ok(program.try_into()?)
}

/// Has a program that can be loaded refused for want of a descriptor.
fn count_in_log(program: &mut SchedClassifier) -> Result<u32> {
    let next = File::open("/dev/null").context("opening /dev/null")?;
    let next = u64::try_from(next.as_raw_fd())?;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, next, hard)?;
    let refused = program.load();
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard)?;
    let Err(error) = refused else {
        bail!("it was loaded without a descriptor");
    };
    let reason = error.to_string();
    let count = match error {
        ProgramError::LoadError {
            io_error,
            verifier_log,
        } if io_error.raw_os_error() == Some(libc::EMFILE) => processed(&verifier_log.to_string()),
        _ => None,
    };
    count.context(reason)
}

fn log(error: ProgramError) -> Option<String> {
    match error {
        ProgramError::LoadError { verifier_log, .. } => Some(verifier_log.to_string()),
        _ => None,
    }
}

/// `processed 1234 insns (limit 1000000) max_states_per_insn ...`
fn processed(log: &str) -> Option<u32> {
    let mut lines = log.lines().rev();
    let rest = lines.find_map(|line| line.strip_prefix("processed "))?;
    rest.split(' ').next()?.parse().ok()
}

fn config(flags: &[&str]) -> Result<CaptureConfig> {
    let args = ["wstap", "run"].iter().chain(flags).map(OsString::from);
    match Cli::from_args(args)?.command {
        Command::Run(args) => Ok(RunConfig::try_from(*args)?.capture),
        _ => bail!("the command line is not the one of `run`"),
    }
}
