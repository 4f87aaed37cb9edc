//! What the kernel and the process must have, and what to do where they do not.

use std::{fmt, fs, io};

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

/// Without these nothing can be loaded and attached.
pub const CAPABILITIES: [Capability; 3] = [
    Capability {
        name: "CAP_BPF",
        purpose: "to load the program and create its maps",
        bit: 39,
        admin: true,
    },
    Capability {
        name: "CAP_NET_ADMIN",
        purpose: "to attach to interfaces",
        bit: 12,
        admin: false,
    },
    Capability {
        name: "CAP_PERFMON",
        purpose: "to let the program read packets at computed positions",
        bit: 38,
        admin: true,
    },
];

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
        "missing {} {}; run as root, or grant {}: `setcap {}+ep` on the binary, or \
         `capabilities.add` of the container",
        if .0.len() == 1 { "capability" } else { "capabilities" },
        enumerate(.0),
        if .0.len() == 1 { "it" } else { "them" },
        .0.join(",").to_lowercase()
    )]
    Capabilities(Vec<&'static str>),
    /// They are there, but count only inside a user namespace.
    #[error(
        "the capabilities of this process count only in its user namespace, and bpf() asks for those \
         of the initial one; run it outside (no rootless container, no `userns` mapping)"
    )]
    UserNamespace,
    /// They are there, and a seccomp filter is too.
    #[error(
        "the capabilities are there, but a seccomp profile forbids bpf() ({code}); allow the system \
         call `bpf` in it, or run with `--security-opt seccomp=unconfined` or `seccompProfile: \
         Unconfined`"
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
    seccomp: bool,
    user_namespace: bool,
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
        Ok(Self::parse(&status, &uid_map))
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
        Self {
            effective: u64::from_str_radix(field("CapEff"), 16).unwrap_or(0),
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
            .filter(|capability| !self.has(**capability))
            .map(|capability| capability.name)
            .collect();
        if missing.is_empty() {
            Ok(())
        } else {
            Err(Refusal::Capabilities(missing))
        }
    }

    /// Who refuses bpf(), given what it returned.
    #[must_use]
    pub fn blame(&self, error: &io::Error) -> Refusal {
        let code = error.to_string();
        if let Err(refusal) = self.check() {
            refusal
        } else if self.seccomp {
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

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INITIAL: &str = "         0          0 4294967295\n";

    fn privileges(effective: &str, seccomp: u8) -> Privileges {
        let status = format!("Name:\twstap\nCapEff:\t{effective}\nSeccomp:\t{seccomp}\n");
        Privileges::parse(&status, INITIAL)
    }

    fn eperm() -> io::Error {
        io::Error::from_raw_os_error(libc::EPERM)
    }

    #[test]
    fn missing_capabilities_are_named() {
        assert_eq!(privileges("000001ffffffffff", 0).check(), Ok(()));
        let refusal = privileges("000000c000000000", 0).check().unwrap_err();
        assert_eq!(refusal, Refusal::Capabilities(vec!["CAP_NET_ADMIN"]));
        assert_eq!(
            refusal.to_string(),
            "missing capability CAP_NET_ADMIN; run as root, or grant it: `setcap cap_net_admin+ep` on the \
             binary, or `capabilities.add` of the container"
        );
        let refusal = privileges("0000000000000000", 0).check().unwrap_err();
        let all = vec!["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"];
        assert_eq!(refusal, Refusal::Capabilities(all));
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
        assert_eq!(refusal, Refusal::Capabilities(both.to_vec()));
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
        let all = "000001ffffffffff";
        let blame = |privileges: Privileges| privileges.blame(&eperm());
        assert!(matches!(
            blame(privileges("0", 2)),
            Refusal::Capabilities(_)
        ));
        assert!(matches!(blame(privileges(all, 2)), Refusal::Seccomp { .. }));
        assert!(matches!(
            blame(privileges(all, 0)),
            Refusal::Forbidden { .. }
        ));
        let status = format!("CapEff:\t{all}\nSeccomp:\t0\n");
        let rootless = Privileges::parse(&status, "0 1000 1\n");
        assert_eq!(blame(rootless), Refusal::UserNamespace);
        let enosys = io::Error::from_raw_os_error(libc::ENOSYS);
        let refusal = privileges(all, 0).blame(&enosys);
        assert!(matches!(refusal, Refusal::Missing { .. }));
    }
}
