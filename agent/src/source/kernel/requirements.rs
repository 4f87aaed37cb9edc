//! What the kernel and the process must have, and what to do where they do not.

use std::{fmt, fs, io, path::Path};

use aya::{
    maps::MapType,
    programs::{ProgramError, ProgramType, SchedClassifier, TcAttachType, tc::TcError},
    sys::{SyscallError, is_map_supported, is_program_supported},
    util::KernelVersion,
};

use super::KernelError;
use crate::config::{NamespaceSelection, Netns};

/// The oldest kernel that is supported.
pub const OLDEST: KernelVersion = KernelVersion::new(5, 10, 0);
/// From here on map memory is charged to the memory cgroup instead of the memlock limit.
pub const CGROUP_ACCOUNTING: KernelVersion = KernelVersion::new(5, 11, 0);

/// A capability of the process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Capability {
    /// As capabilities(7) calls it.
    pub name: &'static str,
    /// What it is needed for.
    pub purpose: &'static str,
    bit: u32,
    /// Whether `CAP_SYS_ADMIN` stands for it, as before Linux 5.8.
    admin: bool,
}

/// For bpf() itself.
pub const BPF: Capability = Capability {
    name: "CAP_BPF",
    purpose: "to load the program and create its maps",
    bit: 39,
    admin: true,
};

/// For programs that look at packets, and for netlink.
pub const NET_ADMIN: Capability = Capability {
    name: "CAP_NET_ADMIN",
    purpose: "to load a program for packets and to attach it",
    bit: 12,
    admin: false,
};

/// For what the verifier allows a program.
pub const PERFMON: Capability = Capability {
    name: "CAP_PERFMON",
    purpose: "to let the program read packets at computed positions",
    bit: 38,
    admin: true,
};

/// Without these nothing can be loaded and attached.
pub const CAPABILITIES: [Capability; 3] = [BPF, NET_ADMIN, PERFMON];

/// What entering other network namespaces needs besides.
pub const ENTER: Capability = Capability {
    name: "CAP_SYS_ADMIN",
    purpose: "to enter network namespaces (--netns)",
    bit: SYS_ADMIN,
    admin: false,
};
/// What finding those of processes needs besides.
pub const FIND: Capability = Capability {
    name: "CAP_SYS_PTRACE",
    purpose: "to look at the network namespaces of processes (--netns)",
    bit: SYS_PTRACE,
    admin: false,
};

/// The capabilities that following other network namespaces needs besides, in this order: [`ENTER`], and
/// [`FIND`] where they are those of processes. None where none is to be followed.
#[must_use]
pub fn for_namespaces(selection: &NamespaceSelection) -> Vec<Capability> {
    let of_process = |netns: &Netns| match netns {
        Netns::Pods | Netns::Pid(_) => true,
        Netns::Path(path) => path.starts_with("/proc") || path.starts_with(&selection.procfs),
        Netns::Name(_) => false,
    };
    let mut needed = Vec::new();
    if !selection.wanted.is_empty() {
        needed.push(ENTER);
    }
    if selection.wanted.iter().any(of_process) {
        needed.push(FIND);
    }
    needed
}

const SYS_PTRACE: u32 = 19;
const SYS_ADMIN: u32 = 21;
const SYS_RESOURCE: u32 = 24;

/// Why the kernel refuses, where it is known before or after the attempt.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// Capabilities are missing.
    #[error(
        "missing {} {}; {remedy}",
        if missing.len() == 1 { "capability" } else { "capabilities" },
        enumerate(missing)
    )]
    Capabilities {
        /// Which, as capabilities(7) calls them.
        missing: Vec<&'static str>,
        /// What to do.
        remedy: String,
    },
    /// They are there, but count only inside a user namespace.
    #[error(
        "the capabilities of this process count only in its user namespace, and bpf() asks for those \
         of the initial one; run it outside (no rootless container, no `userns` mapping)"
    )]
    UserNamespace,
    /// They are there, and a seccomp filter is too.
    #[error(
        "the capabilities are there, but a seccomp profile forbids bpf() ({code}); in Kubernetes \
         `seccompProfile: {{type: RuntimeDefault}}` allows it with a newer container runtime, and with an \
         older one `Localhost` with a profile that allows `bpf`, or `Unconfined`, does; in Docker \
         `--security-opt seccomp=FILE`"
    )]
    Seccomp {
        /// What bpf() returned.
        code: String,
    },
    /// They are there, and bpf() is refused all the same.
    #[error(
        "the capabilities are there, but the kernel refuses bpf() ({code}); a security module \
         (SELinux, AppArmor, lockdown) may forbid it: see the kernel's log"
    )]
    Forbidden {
        /// What bpf() returned.
        code: String,
    },
    /// The kernel was built without bpf().
    #[error("the kernel has no bpf() ({code}); it needs CONFIG_BPF_SYSCALL=y")]
    Missing {
        /// What bpf() returned.
        code: String,
    },
}

fn enumerate(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [name] => (*name).to_owned(),
        [names @ .., last] => format!("{} and {last}", names.join(", ")),
    }
}

/// What the kernel says of this process.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Privileges {
    effective: u64,
    /// What it can get at all.
    bounding: u64,
    is_root: bool,
    seccomp: bool,
    user_namespace: bool,
    /// It is in a container of Kubernetes.
    pod: bool,
}

impl Privileges {
    /// Those of this process.
    ///
    /// # Errors
    ///
    /// `/proc` cannot be read.
    pub fn current() -> io::Result<Self> {
        let status = fs::read_to_string("/proc/self/status")?;
        let uid_map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        Ok(Self {
            pod: is_pod(),
            ..Self::parse(&status, &uid_map)
        })
    }

    fn parse(status: &str, uid_map: &str) -> Self {
        let field = |name: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .map_or("", str::trim)
        };
        // The initial user namespace maps every id to itself.
        let mapped: Vec<_> = uid_map.split_whitespace().collect();
        let set = |name| u64::from_str_radix(field(name), 16).unwrap_or(0);
        // Real, effective, saved, file system.
        let effective_user = field("Uid").split_whitespace().nth(1);
        Self {
            effective: set("CapEff"),
            bounding: set("CapBnd"),
            is_root: effective_user == Some("0"),
            pod: false,
            seccomp: field("Seccomp") == "2",
            user_namespace: !mapped.is_empty() && mapped != ["0", "0", "4294967295"],
        }
    }

    /// Whether `capability` is there.
    #[must_use]
    pub fn has(&self, capability: Capability) -> bool {
        let bit = |bit: u32| self.effective & (1 << bit) != 0;
        bit(capability.bit) || (capability.admin && bit(SYS_ADMIN))
    }

    /// Whether the limit on locked memory can be raised (`CAP_SYS_RESOURCE`).
    #[must_use]
    pub fn may_raise_limits(&self) -> bool {
        self.effective & (1 << SYS_RESOURCE) != 0
    }

    /// Checks the capabilities.
    ///
    /// # Errors
    ///
    /// Some are missing.
    pub fn check(&self) -> Result<(), Refusal> {
        self.check_all(&CAPABILITIES)
    }

    /// Checks these capabilities.
    ///
    /// # Errors
    ///
    /// Some are missing.
    pub fn check_all(&self, needed: &[Capability]) -> Result<(), Refusal> {
        let missing: Vec<_> = needed
            .iter()
            .copied()
            .filter(|capability| !self.has(*capability))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(Refusal::Capabilities {
            remedy: self.remedy(&missing),
            missing: missing.iter().map(|capability| capability.name).collect(),
        })
    }

    /// What to do about `missing` capabilities: it depends on who has withheld them.
    #[must_use]
    pub fn remedy(&self, missing: &[Capability]) -> String {
        let short: Vec<_> = missing.iter().map(Capability::short_name).collect();
        let short = short.join(", ");
        let names: Vec<_> = missing.iter().map(|capability| capability.name).collect();
        let them = if missing.len() == 1 { "it" } else { "them" };
        let withheld = missing
            .iter()
            .any(|capability| self.bounding & (1 << capability.bit) == 0);
        match (withheld, self.is_root, self.pod) {
            // Without one that is withheld even root has none.
            (true, true, true) => format!(
                "`capabilities: {{add: [{short}]}}` in the container's securityContext grants {them}"
            ),
            (true, false, true) => format!(
                "`capabilities: {{add: [{short}]}}` and `runAsUser: 0` in the container's \
                 securityContext grant {them}"
            ),
            (true, _, false) => format!(
                "the container or service is started without: as root with `--cap-add` (Docker), \
                 `capabilities: {{add: [{short}]}}` (Kubernetes) or `CapabilityBoundingSet=` (systemd) it \
                 has {them}"
            ),
            (false, false, true) => format!(
                "Kubernetes gives what is added to user 0 only: `runAsUser: 0` in the container's \
                 securityContext grants {them}"
            ),
            (false, ..) => format!(
                "run as root, or grant {them}: `setcap {}+ep` on the binary, or `capabilities.add` of the \
                 container",
                names.join(",").to_lowercase()
            ),
        }
    }

    /// Whether this is a container of Kubernetes.
    #[must_use]
    pub fn in_pod(&self) -> bool {
        self.pod
    }

    /// Who refuses bpf(), given what it returned.
    #[must_use]
    pub fn blame(&self, error: &io::Error) -> Refusal {
        let code = error.to_string();
        if let Err(refusal) = self.check() {
            refusal
        } else if self.seccomp && error.raw_os_error() != Some(libc::EACCES) {
            Refusal::Seccomp { code }
        } else if error.raw_os_error() == Some(libc::ENOSYS) {
            Refusal::Missing { code }
        } else if self.user_namespace {
            Refusal::UserNamespace
        } else {
            Refusal::Forbidden { code }
        }
    }
}

/// Whether this is a container of Kubernetes, which sets this variable in all of them.
fn is_pod() -> bool {
    std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
}

/// Whether this is the machine's own network namespace, in which the interfaces of all are to be seen;
/// `None` where that cannot be told.
///
/// Settings of the whole machine have their files there alone (`net/core/sysctl_net_core.c`); what
/// belongs to a namespace has one in each.
#[must_use]
pub fn is_machines_network() -> Option<bool> {
    let folder = Path::new("/proc/sys/net/core");
    if !folder.join("somaxconn").exists() {
        return None;
    }
    Some(folder.join("netdev_budget").exists())
}

/// The version of the running kernel; the oldest supported where it cannot be told.
#[must_use]
pub fn kernel_version() -> KernelVersion {
    KernelVersion::current().unwrap_or(OLDEST)
}

/// Checks that bpf() may be called.
///
/// # Errors
///
/// Why not.
pub fn bpf_usable() -> Result<(), Refusal> {
    let privileges = Privileges::current().unwrap_or_default();
    privileges.check()?;
    match is_map_supported(MapType::Array) {
        Err(error) => Err(privileges.blame(&error.io_error)),
        Ok(_) => Ok(()),
    }
}

/// Checks that other network namespaces may be entered, where some are to be.
///
/// # Errors
///
/// Capabilities are missing.
pub fn may_enter(selection: &NamespaceSelection) -> Result<(), KernelError> {
    let privileges = Privileges::current().unwrap_or_default();
    let needed = for_namespaces(selection);
    privileges
        .check_all(&needed)
        .map_err(KernelError::Namespaces)
}

/// Whether the kernel has ring buffers (Linux 5.8).
///
/// # Errors
///
/// bpf() failed.
pub fn ring_buffer() -> Result<bool, SyscallError> {
    is_map_supported(MapType::RingBuf)
}

/// Whether the kernel has classifier programs.
///
/// # Errors
///
/// bpf() failed.
pub fn classifier() -> Result<bool, ProgramError> {
    is_program_supported(ProgramType::SchedClassifier)
}

/// Whether the kernel has TCX (Linux 6.6, `CONFIG_NET_XGRESS`): asked by listing the programs on
/// the loopback interface, which every network namespace has. Distributions backport and leave
/// out, so the version says nothing.
///
/// # Errors
///
/// What the kernel said instead.
pub fn tcx() -> Result<(), String> {
    match SchedClassifier::query_tcx("lo", TcAttachType::Ingress) {
        Ok(_) => Ok(()),
        Err(ProgramError::SyscallError(error)) => Err(error.io_error.to_string()),
        Err(ProgramError::TcError(TcError::IoError(error))) => {
            Err(format!("no interface `lo` to ask about: {error}"))
        }
        Err(error) => Err(error.to_string()),
    }
}

impl Capability {
    /// What it is as a container is given it: Kubernetes and Docker leave out the prefix.
    #[must_use]
    pub fn short_name(&self) -> &'static str {
        self.name.strip_prefix("CAP_").unwrap_or(self.name)
    }

    /// The capability that stands for it, if there is one.
    #[must_use]
    pub fn stand_in(&self) -> Option<&'static str> {
        self.admin.then_some("CAP_SYS_ADMIN")
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INITIAL: &str = "         0          0 4294967295\n";

    const ALL: &str = "000001ffffffffff";

    fn of(user: u32, effective: &str, bounding: &str, seccomp: u8) -> Privileges {
        let status = format!(
            "Name:\twstap\nUid:\t{user}\t{user}\t{user}\t{user}\nCapEff:\t{effective}\n\
             CapBnd:\t{bounding}\nSeccomp:\t{seccomp}\n"
        );
        Privileges::parse(&status, INITIAL)
    }

    fn privileges(effective: &str, seccomp: u8) -> Privileges {
        of(1000, effective, ALL, seccomp)
    }

    fn eperm() -> io::Error {
        io::Error::from_raw_os_error(libc::EPERM)
    }

    fn missing_of(refusal: &Refusal) -> &[&'static str] {
        match refusal {
            Refusal::Capabilities { missing, .. } => missing,
            _ => &[],
        }
    }

    #[test]
    fn missing_capabilities_are_named() {
        assert_eq!(privileges(ALL, 0).check(), Ok(()));
        let refusal = privileges("000000c000000000", 0).check().unwrap_err();
        assert_eq!(missing_of(&refusal), ["CAP_NET_ADMIN"]);
        assert_eq!(
            refusal.to_string(),
            "missing capability CAP_NET_ADMIN; run as root, or grant it: `setcap cap_net_admin+ep` on the \
             binary, or `capabilities.add` of the container"
        );
        let refusal = privileges("0000000000000000", 0).check().unwrap_err();
        assert_eq!(
            missing_of(&refusal),
            ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"]
        );
    }

    #[test]
    fn the_remedy_is_that_of_who_withholds() {
        let remedy = |privileges: Privileges| {
            let refusal = privileges.check().unwrap_err().to_string();
            refusal.split_once("; ").unwrap().1.to_owned()
        };
        let in_pod = |privileges| Privileges {
            pod: true,
            ..privileges
        };
        // User 0, and two of three were added.
        let two = "000000c000000000";
        assert_eq!(
            remedy(in_pod(of(0, two, two, 2))),
            "`capabilities: {add: [NET_ADMIN]}` in the container's securityContext grants it"
        );
        let docker = remedy(of(0, two, two, 2));
        assert!(docker.contains("--cap-add") && docker.contains("[NET_ADMIN]"));
        // Added, but to another user.
        let three = "000000c000001000";
        assert_eq!(
            remedy(in_pod(of(1000, "0", three, 2))),
            "Kubernetes gives what is added to user 0 only: `runAsUser: 0` in the container's \
             securityContext grants them"
        );
        let both = remedy(in_pod(of(1000, "0", two, 2)));
        assert!(both.contains("add: [BPF, NET_ADMIN, PERFMON]") && both.contains("runAsUser: 0"));
    }

    #[test]
    fn sys_admin_stands_for_bpf_and_perfmon() {
        assert_eq!(privileges("0000000000201000", 0).check(), Ok(()));
        assert!(privileges("0000000000200000", 0).check().is_err());
    }

    #[test]
    fn other_namespaces_need_more() {
        let names = |wanted: &[Netns]| {
            let selection = NamespaceSelection {
                wanted: wanted.to_vec(),
                max: 1,
                procfs: "/host/proc".into(),
            };
            let needed = for_namespaces(&selection);
            needed.iter().map(|needed| needed.name).collect::<Vec<_>>()
        };
        let blue = Netns::Name("blue".to_owned());
        let (enter, both) = (["CAP_SYS_ADMIN"], ["CAP_SYS_ADMIN", "CAP_SYS_PTRACE"]);
        assert!(names(&[]).is_empty());
        assert_eq!(names(std::slice::from_ref(&blue)), enter);
        assert_eq!(names(&[Netns::Path("/run/docker/netns/1".into())]), enter);
        assert_eq!(names(&[Netns::Path("/host/proc/7/ns/net".into())]), both);
        assert_eq!(names(&[blue, Netns::Pods]), both);
        let bare = privileges("000000c000001000", 0);
        assert!(bare.check().is_ok());
        let refusal = bare.check_all(&[ENTER, FIND]).unwrap_err();
        assert_eq!(missing_of(&refusal), both);
        assert!(
            privileges("000000c000281000", 0)
                .check_all(&[ENTER, FIND])
                .is_ok()
        );
    }

    #[test]
    fn limits_are_raised_with_a_capability_of_its_own() {
        assert!(privileges("0000000001000000", 0).may_raise_limits());
        assert!(!privileges("000000c000001000", 0).may_raise_limits());
    }

    #[test]
    fn a_refusal_is_blamed_on_who_refuses() {
        let all = ALL;
        let blame = |privileges: Privileges| privileges.blame(&eperm());
        assert!(matches!(
            blame(privileges("0", 2)),
            Refusal::Capabilities { .. }
        ));
        assert!(matches!(blame(privileges(all, 2)), Refusal::Seccomp { .. }));
        assert!(matches!(
            blame(privileges(all, 0)),
            Refusal::Forbidden { .. }
        ));
        // SELinux, where there is a seccomp filter too: its word is another.
        let eacces = io::Error::from_raw_os_error(libc::EACCES);
        let refusal = privileges(all, 2).blame(&eacces);
        assert!(matches!(refusal, Refusal::Forbidden { .. }));
        let status = format!("CapEff:\t{all}\nSeccomp:\t0\n");
        let rootless = Privileges::parse(&status, "0 1000 1\n");
        assert_eq!(blame(rootless), Refusal::UserNamespace);
        let enosys = io::Error::from_raw_os_error(libc::ENOSYS);
        let refusal = privileges(all, 0).blame(&enosys);
        assert!(matches!(refusal, Refusal::Missing { .. }));
    }
}
