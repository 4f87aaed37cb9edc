//! How many instructions the verifier walks through for each program.
//!
//! Kernels since 5.16 keep the number. The others tell it in the verifier's log alone, which is to
//! be had of a program that is refused; and one is refused after the verifier has done all of its
//! work where the process may open no further file.

use std::{collections::BTreeMap, ffi::OsString, fs::File, os::fd::AsRawFd as _};

use anyhow::{Context, Result, bail};
use aya::{
    Ebpf, VerifierLogLevel,
    programs::{ProgramError, SchedClassifier, loaded_programs},
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
/// The number of each program of the object, while it is loaded by an agent with these flags.
pub fn count(method: Method, flags: &[&str]) -> Result<BTreeMap<&'static str, u32>> {
    let entries = globals::PROGRAMS.into_iter().flatten();
    let names = entries.chain([globals::BODY]);
    if requirements::kernel_version() < COUNTED {
        let config = config(flags)?;
        let mut ebpf = program::prepare(&config, Wake::Batch, method, VerifierLogLevel::STATS)?;
        let counts = names.map(|name| {
            let program = find(&mut ebpf, name)?;
            let count = count_in_log(program).with_context(|| name.to_owned())?;
            Ok((name, count))
        });
        return counts.collect();
    }
    let mut loaded = BTreeMap::new();
    for info in loaded_programs() {
        let info = info.context("asking for the programs that are loaded")?;
        if let (Some(name), Some(count)) = (info.name_as_str(), info.verified_instruction_count()) {
            loaded.insert(name.to_owned(), count);
        }
    }
    let counts = names.map(|name| {
        let count = loaded.get(name).copied();
        let count = count.with_context(|| format!("{name} is not loaded"))?;
        Ok((name, count))
    });
    counts.collect()
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
