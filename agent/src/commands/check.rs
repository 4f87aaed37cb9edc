//! `wstap check`: can this machine run it, and what to do if not.

use std::{
    ffi::OsString,
    fmt,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use aya::util::KernelVersion;
use nix::sys::{
    resource::{RLIM_INFINITY, Resource, getrlimit},
    utsname::uname,
};
use serde::Serialize;

use crate::{
    cli::{Cli, Command, usage},
    config::{CheckConfig, Format, RunConfig},
    source::kernel::{
        netlink::Connection,
        program,
        requirements::{self, CAPABILITIES, CGROUP_ACCOUNTING, OLDEST, Privileges, for_namespaces},
        trial,
    },
};

/// How a requirement is met.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
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
#[derive(Debug, Serialize)]
struct Finding {
    #[serde(rename = "requirement")]
    what: &'static str,
    state: State,
    found: String,
    /// What to do, where there is need.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

fn finding(what: &'static str, state: State, found: impl Into<String>) -> Finding {
    Finding {
        what,
        state,
        found: found.into(),
        remedy: None,
    }
}

impl Finding {
    fn remedy(self, remedy: impl Into<String>) -> Self {
        Self {
            remedy: Some(remedy.into()),
            ..self
        }
    }

    /// As told by an error, which says both on one line: the remedy follows the first semicolon.
    fn refused(what: &'static str, error: &impl fmt::Display) -> Self {
        let error = error.to_string();
        match error.split_once("; ") {
            Some((found, remedy)) => finding(what, State::No, found).remedy(remedy),
            None => finding(what, State::No, error),
        }
    }

    fn print(&self, out: &mut impl Write, format: Format) -> io::Result<()> {
        if format == Format::Json {
            serde_json::to_writer(&mut *out, self)?;
            return writeln!(out);
        }
        let Self {
            what,
            state,
            found,
            remedy,
        } = self;
        write!(out, "{state:<9} {what:<14} {found}")?;
        match remedy {
            Some(remedy) => writeln!(out, "; {remedy}"),
            None => writeln!(out),
        }
    }
}

/// Prints a line for each requirement. Fails where `wstap run` would.
///
/// # Errors
///
/// Standard output cannot be written to.
pub fn execute(config: CheckConfig) -> anyhow::Result<ExitCode> {
    let findings = findings(config.file);
    let mut out = io::stdout().lock();
    for finding in &findings {
        finding.print(&mut out, config.format)?;
    }
    out.flush()?;
    Ok(if findings.iter().any(|f| f.state == State::No) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// `file` is the one that `run` would be given.
fn findings(file: Option<PathBuf>) -> Vec<Finding> {
    let privileges = Privileges::current().unwrap_or_default();
    let (configuration, config) = configuration(file);
    let mut findings = vec![built(), configuration, kernel(), btf()];
    let selection = config.as_ref().map(|config| &config.capture.namespaces);
    let needed = CAPABILITIES.into_iter();
    for capability in needed.chain(selection.map(for_namespaces).unwrap_or_default()) {
        findings.push(if privileges.has(capability) {
            finding(capability.name, State::Yes, capability.purpose)
        } else {
            let detail = format!("missing, {}", capability.purpose);
            let remedy = privileges.remedy(&[capability]);
            finding(capability.name, State::No, detail).remedy(remedy)
        });
    }
    let usable = requirements::bpf_usable();
    findings.push(match &usable {
        Ok(()) => finding("bpf()", State::Yes, "may be called"),
        Err(refusal) => Finding::refused("bpf()", refusal),
    });
    findings.push(memlock(&privileges));
    if usable.is_ok() {
        let (program, compiled) = load(config.as_ref());
        findings.extend([ring_buffer(), classifier(), hooks(), program, jit(compiled)]);
    } else {
        let unknown = |what| finding(what, State::Unknown, "bpf() cannot be asked");
        findings.extend(["ring buffer", "classifier", "hooks", "program"].map(unknown));
        findings.push(jit(None));
    }
    findings.push(interfaces());
    findings.push(network(
        requirements::is_machines_network(),
        privileges.in_pod(),
    ));
    findings
}

fn built() -> Finding {
    if program::is_built() {
        finding("build", State::Yes, "with the eBPF program")
    } else {
        finding("build", State::No, "without the eBPF program")
            .remedy("`cargo xtask build --release` sets up what is missing and builds with it")
    }
}

fn kernel() -> Finding {
    let release = uname().map_or_else(
        |error| format!("unknown ({error})"),
        |name| name.release().to_string_lossy().into_owned(),
    );
    match KernelVersion::current() {
        Ok(version) if version < OLDEST => {
            let detail = format!("Linux {release} is older than 5.10");
            finding("kernel", State::No, detail).remedy("a newer one is needed")
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
    let detail = "no /sys/kernel/btf/vmlinux: works all the same, the program needs none";
    finding("BTF", State::Degraded, detail)
        .remedy("none needed; a kernel with CONFIG_DEBUG_INFO_BTF=y has it")
}

/// Whether programs are compiled: as `loaded`, the one that was, and else as the kernel's switch
/// says, which is to be seen in the initial network namespace only.
fn jit(loaded: Option<bool>) -> Finding {
    const WHAT: &str = "JIT";
    const SWITCH: &str = "/proc/sys/net/core/bpf_jit_enable";
    let enabled = fs::read_to_string(SWITCH);
    match (loaded, enabled.as_deref().map(str::trim)) {
        (Some(true), _) | (None, Ok("1" | "2")) => {
            finding(WHAT, State::Yes, "the kernel compiles programs")
        }
        (Some(false), _) | (None, Ok(_)) => finding(
            WHAT,
            State::Degraded,
            "programs are interpreted: each packet costs several times as much",
        )
        .remedy("`sysctl net.core.bpf_jit_enable=1`, on a kernel with CONFIG_BPF_JIT=y"),
        (None, Err(_)) => finding(WHAT, State::Unknown, format!("{SWITCH} cannot be read"))
            .remedy("ask as root, on the host"),
    }
}

fn memlock(privileges: &Privileges) -> Finding {
    const WHAT: &str = "memlock";
    if requirements::kernel_version() >= CGROUP_ACCOUNTING {
        return finding(WHAT, State::Yes, "maps count against the memory cgroup");
    }
    match getrlimit(Resource::RLIMIT_MEMLOCK) {
        Ok((_, RLIM_INFINITY)) => finding(WHAT, State::Yes, "no limit"),
        Ok(_) if privileges.may_raise_limits() => finding(
            WHAT,
            State::Yes,
            "wstap raises the limit (CAP_SYS_RESOURCE)",
        ),
        Ok((_, limit)) => {
            let detail = format!("{limit} bytes, and before Linux 5.11 maps count against it");
            finding(WHAT, State::Degraded, detail)
                .remedy(
                    "`ulimit -l unlimited`, `LimitMEMLOCK=infinity`, or CAP_SYS_RESOURCE, which in Kubernetes \
                     is `capabilities: {add: [SYS_RESOURCE]}`",
                )
        }
        Err(error) => finding(WHAT, State::Unknown, error.to_string()),
    }
}

fn ring_buffer() -> Finding {
    const WHAT: &str = "ring buffer";
    match requirements::ring_buffer() {
        Ok(true) => finding(WHAT, State::Yes, "the kernel has it"),
        Ok(false) => {
            finding(WHAT, State::No, "the kernel has none").remedy("Linux 5.8 or later does")
        }
        Err(error) => finding(WHAT, State::Unknown, error.to_string()),
    }
}

fn classifier() -> Finding {
    const WHAT: &str = "classifier";
    match requirements::classifier() {
        Ok(true) => finding(WHAT, State::Yes, "the kernel takes such programs"),
        Ok(false) => finding(WHAT, State::No, "the kernel takes no such programs")
            .remedy("a kernel with CONFIG_NET_SCHED and CONFIG_NET_CLS_BPF does"),
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
            let detail = format!("neither TCX ({reason}) nor the module sch_ingress");
            finding(WHAT, State::No, detail).remedy(
                "install the package with the kernel's further modules; TCX needs Linux 6.6",
            )
        }
        Some(true) | None => {
            let detail = format!(
                "clsact filters, for there is no TCX ({reason}): what an agent leaves that is \
                 killed goes inert, and the next start removes it"
            );
            finding(WHAT, State::Degraded, detail)
                .remedy("none needed; Linux 6.6 and later have TCX")
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

/// Whether flags, variables and the file make a configuration, and which. Flags are the defaults, since
/// those of `run` are not known here.
fn configuration(file: Option<PathBuf>) -> (Finding, Option<RunConfig>) {
    const WHAT: &str = "configuration";
    let mut args = ["wstap", "run"].map(OsString::from).to_vec();
    if let Some(file) = file {
        args.extend(["--config".into(), file.into_os_string()]);
    }
    let (config, file) = match Cli::from_args(args.clone()) {
        Ok(Cli {
            command: Command::Run(args),
        }) => {
            let file = args.config.clone();
            let config = RunConfig::try_from(*args).map_err(|error| error.to_string());
            (config, file)
        }
        Ok(_) => (Err("the command line is not the one of `run`".into()), None),
        Err(error) => (Err(usage::line(&error, &args).unwrap_or_default()), None),
    };
    match config {
        Ok(config) => {
            let found = match file {
                Some(file) => format!("{} is valid", file.display()),
                None => "no file; the variables are valid".to_owned(),
            };
            (finding(WHAT, State::Yes, found), Some(config))
        }
        Err(error) => {
            let error = format!("`wstap run` would not start: {error}");
            (finding(WHAT, State::No, error), None)
        }
    }
}

/// Does what `run` would do short of attaching. And whether the program is compiled, where it has
/// loaded.
fn load(config: Option<&RunConfig>) -> (Finding, Option<bool>) {
    const WHAT: &str = "program";
    let Some(config) = config else {
        let found = "there is no configuration to load it with";
        return (finding(WHAT, State::Unknown, found), None);
    };
    match trial(&config.capture) {
        Ok(compiled) => {
            let found = "loads, and the verifier accepts it";
            (finding(WHAT, State::Yes, found), compiled)
        }
        Err(error) => (Finding::refused(WHAT, &error), None),
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
            let detail = format!("cannot be listed: {error}");
            finding(WHAT, State::No, detail).remedy("allow netlink sockets")
        }
    }
}

/// Whether the network namespace is the `machine`'s own: an interface is seen by who is in its namespace
/// only.
fn network(machine: Option<bool>, pod: bool) -> Finding {
    const WHAT: &str = "network";
    match machine {
        Some(true) => finding(WHAT, State::Yes, "the machine's own namespace"),
        Some(false) => {
            let (seen, remedy) = if pod {
                (
                    "the traffic of this pod alone",
                    "`hostNetwork: true` in the pod's spec; none needed where the node is itself a \
                     container",
                )
            } else {
                (
                    "the traffic of this one alone",
                    "none needed if that is what you want; else `--network host` (Docker), `hostNetwork: \
                     true` (Kubernetes)",
                )
            };
            let detail = format!("not the machine's own namespace: {seen} is seen");
            finding(WHAT, State::Degraded, detail).remedy(remedy)
        }
        None => finding(WHAT, State::Unknown, "/proc/sys/net cannot be read"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_requirement_has_a_line() {
        let findings = findings(None);
        for what in [
            "build",
            "configuration",
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
            "network",
        ] {
            let lines = findings.iter().filter(|finding| finding.what == what);
            assert_eq!(lines.count(), 1, "{what}");
        }
        assert!(findings.iter().all(|finding| !finding.found.contains('\n')));
    }

    #[test]
    fn a_pod_without_the_hosts_network_is_told_so() {
        assert_eq!(network(Some(true), true).state, State::Yes);
        assert_eq!(network(None, true).state, State::Unknown);
        let pod = network(Some(false), true);
        assert_eq!(pod.state, State::Degraded);
        assert!(pod.remedy.unwrap().contains("hostNetwork: true"));
        assert!(pod.found.contains("this pod alone"));
        assert!(!network(Some(false), false).found.contains("pod"));
    }

    #[test]
    fn a_line_says_what_is_so_and_what_to_do() {
        let printed = |finding: &Finding, format| {
            let mut out = Vec::new();
            finding.print(&mut out, format).unwrap();
            String::from_utf8(out).unwrap()
        };
        let good = finding("kernel", State::Yes, "Linux 6.18");
        assert_eq!(
            printed(&good, Format::Text),
            "yes       kernel         Linux 6.18\n"
        );
        assert_eq!(
            printed(&good, Format::Json),
            "{\"requirement\":\"kernel\",\"state\":\"yes\",\"found\":\"Linux 6.18\"}\n"
        );
        let bad = Finding::refused("bpf()", &"missing; run as root, or grant it");
        assert_eq!(
            printed(&bad, Format::Text),
            "no        bpf()          missing; run as root, or grant it\n"
        );
        assert_eq!(
            printed(&bad, Format::Json),
            "{\"requirement\":\"bpf()\",\"state\":\"no\",\"found\":\"missing\",\
             \"remedy\":\"run as root, or grant it\"}\n"
        );
    }
}
