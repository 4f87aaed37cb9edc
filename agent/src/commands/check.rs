//! `wstap check`: can this machine run it, and what to do if not.

use std::{
    ffi::OsString,
    fmt,
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
};

use aya::util::KernelVersion;
use nix::sys::{
    resource::{RLIM_INFINITY, Resource, getrlimit},
    utsname::uname,
};

use crate::{
    cli::{Cli, Command},
    config::{CheckConfig, RunConfig},
    source::kernel::{
        netlink::Connection,
        program,
        requirements::{self, CAPABILITIES, CGROUP_ACCOUNTING, OLDEST, Privileges},
        trial,
    },
};

/// How a requirement is met.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Yes,
    Degraded,
    No,
    /// Could not be found out, and something before it says why.
    Unknown,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Yes => "yes",
            Self::Degraded => "degraded",
            Self::No => "no",
            Self::Unknown => "unknown",
        })
    }
}

/// A requirement, and how this machine meets it.
struct Finding {
    state: State,
    what: &'static str,
    /// What was found, and the remedy where there is need of one.
    detail: String,
}

fn finding(what: &'static str, state: State, detail: impl Into<String>) -> Finding {
    Finding {
        state,
        what,
        detail: detail.into(),
    }
}

/// Prints a line for each requirement. Fails where `wstap run` would.
///
/// # Errors
///
/// Standard output cannot be written to.
pub fn execute(_config: CheckConfig) -> anyhow::Result<ExitCode> {
    let findings = findings();
    let mut out = io::stdout().lock();
    for Finding {
        state,
        what,
        detail,
    } in &findings
    {
        writeln!(out, "{state:<9} {what:<14} {detail}")?;
    }
    out.flush()?;
    Ok(if findings.iter().any(|f| f.state == State::No) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn findings() -> Vec<Finding> {
    let privileges = Privileges::current().unwrap_or_default();
    let mut findings = vec![built(), kernel(), btf(), jit()];
    for capability in CAPABILITIES {
        findings.push(if privileges.has(capability) {
            finding(capability.name, State::Yes, capability.purpose)
        } else {
            let detail = format!("missing, {}; run as root, or grant it", capability.purpose);
            finding(capability.name, State::No, detail)
        });
    }
    let usable = requirements::bpf_usable();
    findings.push(match &usable {
        Ok(()) => finding("bpf()", State::Yes, "may be called"),
        Err(refusal) => finding("bpf()", State::No, refusal.to_string()),
    });
    findings.push(memlock());
    if usable.is_ok() {
        findings.extend([ring_buffer(), classifier(), hooks(), load()]);
    } else {
        let unknown = |what| finding(what, State::Unknown, "bpf() cannot be asked");
        findings.extend(["ring buffer", "classifier", "hooks", "program"].map(unknown));
    }
    findings.push(interfaces());
    findings
}

fn built() -> Finding {
    if program::is_built() {
        finding("build", State::Yes, "with the eBPF program")
    } else {
        let detail = "without the eBPF program; run `cargo xtask setup` and build again";
        finding("build", State::No, detail)
    }
}

fn kernel() -> Finding {
    let release = uname().map_or_else(
        |error| format!("unknown ({error})"),
        |name| name.release().to_string_lossy().into_owned(),
    );
    match KernelVersion::current() {
        Ok(version) if version < OLDEST => {
            let detail = format!("Linux {release} is older than 5.10; a newer one is needed");
            finding("kernel", State::No, detail)
        }
        Ok(_) => finding("kernel", State::Yes, format!("Linux {release}")),
        Err(_) => finding("kernel", State::Unknown, format!("Linux {release}")),
    }
}

fn btf() -> Finding {
    let path = Path::new("/sys/kernel/btf/vmlinux");
    if path.exists() {
        return finding("BTF", State::Yes, path.display().to_string());
    }
    let detail = "no /sys/kernel/btf/vmlinux: works all the same, the program needs none; later \
                  features will (CONFIG_DEBUG_INFO_BTF=y)";
    finding("BTF", State::Degraded, detail)
}

fn jit() -> Finding {
    let enabled = fs::read_to_string("/proc/sys/net/core/bpf_jit_enable");
    match enabled.as_deref().map(str::trim) {
        Ok("0") => {
            let detail = "off: each packet costs several times as much; \
                          `sysctl net.core.bpf_jit_enable=1`";
            finding("JIT", State::Degraded, detail)
        }
        Ok(_) => finding("JIT", State::Yes, "on"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let detail = "the kernel has none for this processor (CONFIG_BPF_JIT): each packet \
                          costs several times as much";
            finding("JIT", State::Degraded, detail)
        }
        Err(_) => finding("JIT", State::Unknown, "only root may read bpf_jit_enable"),
    }
}

fn memlock() -> Finding {
    const WHAT: &str = "memlock";
    if requirements::kernel_version() >= CGROUP_ACCOUNTING {
        return finding(WHAT, State::Yes, "maps count against the memory cgroup");
    }
    match getrlimit(Resource::RLIMIT_MEMLOCK) {
        Ok((_, RLIM_INFINITY)) => finding(WHAT, State::Yes, "no limit"),
        Ok((_, limit)) => {
            let detail = format!(
                "{limit} bytes, and before Linux 5.11 maps count against it: `ulimit -l unlimited`, \
                 `LimitMEMLOCK=infinity`, or CAP_SYS_RESOURCE"
            );
            finding(WHAT, State::Degraded, detail)
        }
        Err(error) => finding(WHAT, State::Unknown, error.to_string()),
    }
}

fn ring_buffer() -> Finding {
    const WHAT: &str = "ring buffer";
    match requirements::ring_buffer() {
        Ok(true) => finding(WHAT, State::Yes, "the kernel has it"),
        Ok(false) => finding(
            WHAT,
            State::No,
            "the kernel has none; Linux 5.8 or later does",
        ),
        Err(error) => finding(WHAT, State::Unknown, error.to_string()),
    }
}

fn classifier() -> Finding {
    const WHAT: &str = "classifier";
    match requirements::classifier() {
        Ok(true) => finding(WHAT, State::Yes, "the kernel takes such programs"),
        Ok(false) => {
            let detail = "the kernel takes no such programs (CONFIG_NET_CLS_BPF, CONFIG_NET_SCHED)";
            finding(WHAT, State::No, detail)
        }
        Err(error) => finding(WHAT, State::Unknown, error.to_string()),
    }
}

fn hooks() -> Finding {
    const WHAT: &str = "hooks";
    let Err(reason) = requirements::tcx() else {
        return finding(WHAT, State::Yes, "TCX");
    };
    match has_clsact() {
        Some(false) => {
            let detail = format!(
                "neither TCX ({reason}; Linux 6.6) nor the module sch_ingress: install the package \
                 with the kernel's further modules"
            );
            finding(WHAT, State::No, detail)
        }
        Some(true) | None => {
            let detail = format!(
                "clsact filters, for there is no TCX ({reason}; Linux 6.6): what an agent leaves \
                 that is killed goes inert, and the next start removes it"
            );
            finding(WHAT, State::Degraded, detail)
        }
    }
}

/// Whether the kernel has the clsact qdisc, as far as its list of modules tells.
fn has_clsact() -> Option<bool> {
    if Path::new("/sys/module/sch_ingress").exists() {
        return Some(true);
    }
    let name = uname().ok()?;
    let modules = Path::new("/lib/modules").join(name.release());
    let mut known = false;
    for list in ["modules.builtin", "modules.dep"] {
        let Ok(file) = File::open(modules.join(list)) else {
            continue;
        };
        known = true;
        let list = io::read_to_string(file).unwrap_or_default();
        if list.contains("/sch_ingress.ko") {
            return Some(true);
        }
    }
    known.then_some(false)
}

/// Does what `run` would do, given its variables in the environment, short of attaching.
fn load() -> Finding {
    const WHAT: &str = "program";
    let config = match Cli::from_args(["wstap", "run"].map(OsString::from)) {
        Ok(Cli {
            command: Command::Run(args),
        }) => RunConfig::try_from(*args).map_err(|error| error.to_string()),
        Ok(_) => Err("the command line is not the one of `run`".to_owned()),
        Err(error) => Err(error.kind().to_string()),
    };
    match config.map(|config| trial(&config.capture)) {
        Ok(Ok(())) => finding(WHAT, State::Yes, "loads, and the verifier accepts it"),
        Ok(Err(error)) => finding(WHAT, State::No, error.to_string()),
        Err(error) => {
            let detail = format!("a WSTAP_ variable in the environment is wrong: {error}");
            finding(WHAT, State::No, detail)
        }
    }
}

fn interfaces() -> Finding {
    const WHAT: &str = "interfaces";
    match Connection::open().and_then(|mut netlink| netlink.links()) {
        Ok(links) => {
            let up = links.iter().filter(|link| link.up).count();
            finding(WHAT, State::Yes, format!("{up} of {} are up", links.len()))
        }
        Err(error) => {
            let detail = format!("cannot be listed: {error}; allow netlink sockets");
            finding(WHAT, State::No, detail)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_requirement_has_a_line() {
        let findings = findings();
        for what in [
            "build",
            "kernel",
            "BTF",
            "JIT",
            "CAP_BPF",
            "CAP_NET_ADMIN",
            "CAP_PERFMON",
            "bpf()",
            "memlock",
            "ring buffer",
            "classifier",
            "hooks",
            "program",
            "interfaces",
        ] {
            let lines = findings.iter().filter(|finding| finding.what == what);
            assert_eq!(lines.count(), 1, "{what}");
        }
        assert!(
            findings
                .iter()
                .all(|finding| !finding.detail.contains('\n'))
        );
    }
}
