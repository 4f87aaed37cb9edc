//! Giving up what the process may do, once it needs it no more.
//!
//! Capabilities belong to a thread, and those that it starts have what it has. So there is an order to
//! keep: threads that need none give theirs up before anything else, and the one that opens the
//! source does so before it attaches and before it starts others. Nothing gives capabilities back.

use aya::util::KernelVersion;
use caps::{CapSet, CapsHashSet, errors::CapsError};
use nix::sys::prctl;

use super::{
    attach::Method,
    requirements::{BPF, CAPABILITIES, Capability, NET_ADMIN, for_namespaces, kernel_version},
};
use crate::config::NamespaceSelection;

/// From here on a process without `CAP_BPF` may read and write the maps that it has open, whatever
/// `kernel.unprivileged_bpf_disabled` says; before, that setting forbids it every use of bpf().
const MAPS_NEED_NOTHING: KernelVersion = KernelVersion::new(5, 19, 0);

/// For the whole process, before it has other threads: nothing that it executes has more privileges
/// than it has itself, and no process of the same user can look into its memory, nor does a crash
/// leave a copy of it: it holds what passes by, tokens included.
pub fn confine() {
    if let Err(error) = prctl::set_no_new_privs() {
        log::warn!("setting no_new_privs: {error}");
    }
    if let Err(error) = prctl::set_dumpable(false) {
        log::warn!("making the process not dumpable: {error}");
    }
}

/// What is needed once the programs are loaded: to read and write the maps, to attach to interfaces
/// and to detach.
///
/// A TCX link takes a program and an interface, and no capability; it goes with its descriptor. A
/// filter is added and removed over netlink. Interfaces of other network namespaces have programs of their
/// own, so that there everything is needed as long as some are followed.
#[must_use]
pub fn needed_later(method: Method, namespaces: &NamespaceSelection) -> Vec<Capability> {
    if !namespaces.wanted.is_empty() {
        return CAPABILITIES
            .into_iter()
            .chain(for_namespaces(namespaces))
            .collect();
    }
    let mut needed = needed_to_read();
    if method == Method::Clsact {
        needed.push(NET_ADMIN);
    }
    needed
}

/// Of these, what reading and writing the maps takes.
#[must_use]
pub fn needed_to_read() -> Vec<Capability> {
    if kernel_version() < MAPS_NEED_NOTHING {
        vec![BPF]
    } else {
        Vec::new()
    }
}

/// Gives up all capabilities of this thread but `kept`, for good. Where that fails the thread goes on
/// with what it has, and says so.
pub fn renounce(kept: &[Capability]) {
    if let Err(error) = try_renounce(kept) {
        log::warn!("giving up capabilities: {error}");
    }
}

fn try_renounce(kept: &[Capability]) -> Result<(), CapsError> {
    let permitted = caps::read(None, CapSet::Permitted)?;
    let kept = kept_of(&permitted, kept);
    // Takes a capability itself, which a container is not given. There the set is what it was given,
    // and no_new_privs keeps the process from getting back to it.
    if caps::has_cap(None, CapSet::Effective, caps::Capability::CAP_SETPCAP)? {
        for capability in caps::read(None, CapSet::Bounding)?.difference(&kept) {
            caps::drop(None, CapSet::Bounding, *capability)?;
        }
    }
    // Whatever is not permitted is not ambient either.
    caps::clear(None, CapSet::Inheritable)?;
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)
}

/// Those of `kept` that are there, or what stands for them.
fn kept_of(permitted: &CapsHashSet, kept: &[Capability]) -> CapsHashSet {
    let there = |name: &str| {
        let capability = name.parse().ok()?;
        permitted.contains(&capability).then_some(capability)
    };
    let stand_in = |capability: &Capability| capability.stand_in().and_then(there);
    kept.iter()
        .filter_map(|capability| there(capability.name).or_else(|| stand_in(capability)))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::{fs, thread};

    use super::*;

    fn set(names: &[&str]) -> CapsHashSet {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn what_is_kept_is_what_is_there() {
        let all = set(&["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON", "CAP_SYS_ADMIN"]);
        assert_eq!(kept_of(&all, &[]), set(&[]));
        assert_eq!(kept_of(&all, &[BPF]), set(&["CAP_BPF"]));
        assert_eq!(kept_of(&set(&["CAP_CHOWN"]), &[BPF, NET_ADMIN]), set(&[]));
        let older = set(&["CAP_SYS_ADMIN", "CAP_NET_ADMIN"]);
        assert_eq!(kept_of(&older, &[BPF, NET_ADMIN]), older);
        assert_eq!(kept_of(&older, &[NET_ADMIN]), set(&["CAP_NET_ADMIN"]));
    }

    #[test]
    fn a_thread_gives_up_what_it_has() {
        let status = || fs::read_to_string("/proc/thread-self/status").unwrap();
        let before = status();
        let after = thread::spawn(move || {
            renounce(&[]);
            // Twice is as good as once.
            renounce(&[]);
            status()
        });
        let after = after.join().unwrap();
        for name in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            let line = format!("{name}:\t{:016x}", 0);
            assert!(after.contains(&line), "{after}");
        }
        // Others keep theirs.
        let effective = |status: &str| {
            let line = status.lines().find(|line| line.starts_with("CapEff"));
            line.unwrap().to_owned()
        };
        assert_eq!(effective(&status()), effective(&before));
    }
}
