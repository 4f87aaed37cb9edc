//! Other network namespaces than the agent's own: which there are, entering and leaving them.
//!
//! A namespace lives as long as a process is in it, a mount or an open descriptor of it is there. The
//! descriptors here are let go when neither the processes nor the mounts that were asked for are there
//! any more, which is looked at every second: by so much a namespace may outlive its pod.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::{self, File},
    io,
    os::{fd::BorrowedFd, unix::fs::MetadataExt as _},
    panic::resume_unwind,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sched::{CloneFlags, setns},
    sys::resource::{Resource, getrlimit, setrlimit},
};

use super::{
    KernelError,
    attach::{Attacher, Method},
    inner::Inner,
    status::AttachStatus,
};
use crate::config::{InterfaceSelection, NamespaceSelection, Netns};

/// Between two looks at which namespaces there are.
const SCAN: Duration = Duration::from_secs(1);
/// How soon to look where an interface has come or gone: with many a pod does.
const SOON: Duration = Duration::from_millis(250);
/// How old a process is when it is taken to stay where it is: what starts a container changes its
/// namespace first.
const YOUNG: Duration = Duration::from_secs(5);
/// Then it is looked at once in so many times. A look at ten thousand processes takes some 20 ms.
const SELDOM: u32 = 8;
/// Where `ip netns` mounts namespaces under their names.
const NAMES: &str = "/run/netns";
/// The namespace of the thread that looks.
const OWN: &str = "/proc/thread-self/ns/net";

/// The number by which the kernel tells namespaces apart: the inode of its file.
type Id = u64;

/// The namespaces that are followed besides the agent's own.
pub(super) struct Namespaces {
    selection: NamespaceSelection,
    method: Method,
    interfaces: InterfaceSelection,
    inner: Arc<Mutex<Inner>>,
    followed: BTreeMap<Id, Followed>,
    /// Those that are to be left, one at a time: to detach takes the kernel some milliseconds, while the
    /// heart has to beat.
    leaving: Vec<Followed>,
    /// Those that could not be entered, or are too many: said and counted once.
    refused: BTreeSet<Id>,
    /// The places in [`NamespaceSelection::wanted`] of which it was said that they are not there.
    absent: BTreeSet<usize>,
    /// Whether it was said that processes cannot be looked at.
    blind: bool,
    /// By number; all that there were at the last scan.
    processes: HashMap<u32, Process>,
    scans: u32,
    own: Id,
    /// The device of all files of namespaces.
    device: u64,
    scopes: u32,
    next_scan: Instant,
    status: AttachStatus,
}

/// A namespace that is followed.
struct Followed {
    /// `None` only while this is dropped.
    attacher: Option<Attacher>,
    handle: File,
}

/// A process, as it was when it was looked at last.
struct Process {
    namespace: Id,
    /// When it was seen for the first time.
    since: Instant,
    /// The scan that has found it.
    scan: u32,
}

/// A namespace that is there.
struct Found {
    path: PathBuf,
    /// What users call it.
    label: String,
}

impl Namespaces {
    /// Follows none yet.
    ///
    /// # Errors
    ///
    /// The agent's own namespace cannot be told.
    pub fn new(
        selection: NamespaceSelection,
        method: Method,
        interfaces: InterfaceSelection,
        inner: Inner,
        status: AttachStatus,
    ) -> Result<Self, KernelError> {
        let own = fs::metadata(OWN).map_err(|cause| KernelError::Netlink {
            doing: "looking at the agent's own network namespace",
            cause,
        })?;
        // Each interface takes two descriptors, each namespace three.
        let raised = getrlimit(Resource::RLIMIT_NOFILE)
            .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
        if let Err(error) = raised {
            log::debug!("raising the limit of open files: {error}");
        }
        Ok(Self {
            selection,
            method,
            interfaces,
            inner: Arc::new(Mutex::new(inner)),
            followed: BTreeMap::new(),
            leaving: Vec::new(),
            refused: BTreeSet::new(),
            absent: BTreeSet::new(),
            blind: false,
            processes: HashMap::new(),
            scans: 0,
            own: own.ino(),
            device: own.dev(),
            scopes: 0,
            next_scan: Instant::now(),
            status,
        })
    }

    /// When to look again which namespaces there are.
    pub fn next_scan(&self) -> Instant {
        self.next_scan
    }

    /// How many are followed.
    pub fn len(&self) -> usize {
        self.followed.len()
    }

    /// Has it look again soon: an interface outside has come or gone.
    pub fn hurry(&mut self) {
        self.next_scan = self.next_scan.min(Instant::now() + SOON);
    }

    /// Whether there is something to [`Self::proceed`] with.
    pub fn has_pending(&self) -> bool {
        if !self.leaving.is_empty() {
            return true;
        }
        let mut attachers = self.followed.values().filter_map(|f| f.attacher.as_ref());
        attachers.any(Attacher::has_pending)
    }

    /// What to wait for: a change in any of them.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let attachers = self.followed.values().filter_map(|f| f.attacher.as_ref());
        attachers.map(Attacher::monitor_fd)
    }

    /// Takes in what has happened in those that `is_ready` is true of, in the order of [`Self::fds`]. One
    /// that cannot be followed any further is left; it is entered again if it is still there.
    pub fn changes(&mut self, is_ready: impl Fn(usize) -> bool) {
        let mut broken = Vec::new();
        for (i, (id, followed)) in self.followed.iter_mut().enumerate() {
            let Some(attacher) = followed.attacher.as_mut().filter(|_| is_ready(i)) else {
                continue;
            };
            if let Err(error) = attacher.take_changes() {
                log::warn!("network namespace {}: {error}", attacher.place());
                broken.push(*id);
            }
        }
        for id in broken {
            self.leaving.extend(self.followed.remove(&id));
        }
        self.publish();
    }

    /// Leaves one that is gone, or looks at the pending interfaces of one of them; whether there was
    /// one.
    pub fn proceed(&mut self) -> bool {
        if let Some(gone) = self.leaving.pop() {
            drop(gone);
            self.publish();
            return true;
        }
        for followed in self.followed.values_mut() {
            let Some(attacher) = followed.attacher.as_mut().filter(|a| a.has_pending()) else {
                continue;
            };
            let worked = within(&followed.handle, || while attacher.proceed() {});
            if let Err(error) = worked {
                log::warn!("entering network namespace {}: {error}", attacher.place());
                attacher.forget_pending();
            }
            return true;
        }
        false
    }

    /// Looks which there are: enters those that are new, and has those left that are gone.
    pub fn scan(&mut self) {
        self.next_scan = Instant::now() + SCAN;
        let found = self.find();
        let gone: Vec<_> = (self.followed.keys())
            .filter(|id| !found.contains_key(id))
            .copied()
            .collect();
        for id in gone {
            if let Some(followed) = self.followed.remove(&id) {
                if let Some(attacher) = &followed.attacher {
                    log::info!("network namespace {} is gone", attacher.place());
                }
                self.leaving.push(followed);
            }
        }
        self.refused.retain(|id| found.contains_key(id));
        for (id, found) in found {
            if self.followed.contains_key(&id) {
                continue;
            }
            if self.followed.len() >= self.selection.max {
                if self.refused.insert(id) {
                    self.status.count_namespace_turned_away();
                    log::warn!(
                        "network namespace {}: not followed, there are --max-netns of them",
                        found.label
                    );
                }
                continue;
            }
            match self.enter(id, &found) {
                Ok(Some(followed)) => {
                    log::info!("following network namespace {}", found.label);
                    self.refused.remove(&id);
                    self.followed.insert(id, followed);
                }
                // Gone meanwhile, and maybe another's by now.
                Ok(None) => {}
                Err(error) => {
                    if self.refused.insert(id) {
                        self.status.count_namespace_failed();
                        log::warn!("network namespace {}: {error}", found.label);
                    }
                }
            }
        }
        self.publish();
    }

    fn publish(&self) {
        // Those that are yet to be left take descriptors too.
        self.status
            .set_namespaces(self.followed.len() + self.leaving.len());
    }

    /// All that are wanted and there, but for the agent's own.
    fn find(&mut self) -> BTreeMap<Id, Found> {
        let mut all = BTreeMap::new();
        let wanted = std::mem::take(&mut self.selection.wanted);
        for (i, netns) in wanted.iter().enumerate() {
            let (path, label) = match netns {
                Netns::Name(name) => (Path::new(NAMES).join(name), Some(&**name)),
                Netns::Path(path) => (path.clone(), path.to_str()),
                Netns::Pid(pid) => (self.of_process(*pid), None),
                Netns::Pods => {
                    self.of_processes(&mut all);
                    continue;
                }
            };
            let Some(id) = fs::metadata(&path).ok().and_then(|file| self.id(&file)) else {
                if self.absent.insert(i) {
                    let path = path.display();
                    log::warn!("--netns: no network namespace at {path}; waiting for one");
                }
                continue;
            };
            self.absent.remove(&i);
            all.entry(id).or_insert_with(|| Found {
                path,
                label: label.map_or_else(|| by_number(id), str::to_owned),
            });
        }
        self.selection.wanted = wanted;
        all.remove(&self.own);
        all
    }

    fn of_process(&self, pid: u32) -> PathBuf {
        self.selection.procfs.join(pid.to_string()).join("ns/net")
    }

    /// The number of a namespace. `ip netns` makes an empty file before it mounts one.
    fn id(&self, file: &fs::Metadata) -> Option<Id> {
        (file.dev() == self.device).then(|| file.ino())
    }

    /// Those of all processes.
    fn of_processes(&mut self, all: &mut BTreeMap<Id, Found>) {
        let mut denied = None;
        let processes = fs::read_dir(&self.selection.procfs)
            .inspect_err(|error| denied = Some(error.to_string()))
            .into_iter();
        self.scans = self.scans.wrapping_add(1);
        let (scan, now) = (self.scans, Instant::now());
        for process in processes.flatten().filter_map(Result::ok) {
            let name = process.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let mut known = self.processes.remove(&pid);
            let is_due = |known: &Process| {
                now.saturating_duration_since(known.since) < YOUNG || (pid ^ scan) % SELDOM == 0
            };
            if known.as_ref().is_none_or(is_due) {
                let since = known.map_or(now, |known| known.since);
                known = match fs::read_link(self.of_process(pid)) {
                    Ok(link) => link.to_str().and_then(number).map(|namespace| Process {
                        namespace,
                        since,
                        scan,
                    }),
                    Err(error) => {
                        if error.kind() == io::ErrorKind::PermissionDenied {
                            denied = Some(error.to_string());
                        }
                        // Else it has ended.
                        None
                    }
                };
            }
            if let Some(process) = known {
                let id = process.namespace;
                all.entry(id).or_insert_with(|| Found {
                    path: self.of_process(pid),
                    label: by_number(id),
                });
                self.processes.insert(pid, Process { scan, ..process });
            }
        }
        self.processes.retain(|_, process| process.scan == scan);
        if let Some(error) = denied
            && !self.blind
        {
            self.blind = true;
            self.status.count_namespace_failed();
            log::warn!(
                "--netns pods: not all processes in {} can be looked at ({error}); it must be a procfs, \
                 and a security module (AppArmor, SELinux) may forbid it in spite of CAP_SYS_PTRACE",
                self.selection.procfs.display()
            );
        }
    }

    fn enter(&mut self, id: Id, found: &Found) -> Result<Option<Followed>, String> {
        let handle = match File::open(&found.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            handle => handle.map_err(|error| format!("opening it: {error}"))?,
        };
        let file = handle.metadata().map_err(|error| error.to_string())?;
        if self.id(&file) != Some(id) {
            return Ok(None);
        }
        self.scopes = self.scopes.checked_add(1).unwrap_or(1);
        let attacher = within(&handle, || {
            Attacher::inside(
                Arc::clone(&self.inner),
                (self.scopes, &found.label),
                self.method,
                self.interfaces.clone(),
                self.status.clone(),
            )
        })
        .map_err(|error| format!("entering it: {error}"))?
        .map_err(|error| error.to_string())?;
        Ok(Some(Followed {
            attacher: Some(attacher),
            handle,
        }))
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        let Some(mut attacher) = self.attacher.take() else {
            return;
        };
        // Filters are taken away in the namespace of the thread that asks.
        let left = within(&self.handle, || attacher.leave());
        if let Err(error) = left {
            log::warn!("entering network namespace {}: {error}", attacher.place());
            attacher.abandon();
        }
    }
}

/// Does `work` inside a namespace, on a thread that ends with it.
///
/// # Errors
///
/// There are no more threads, or the namespace cannot be entered; the work is not done then.
fn within<T: Send>(handle: &File, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, || {
                setns(handle, CloneFlags::CLONE_NEWNET)?;
                Ok(work())
            })?;
        thread.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

/// A namespace that has no name, as the kernel and lsns(8) have it.
fn by_number(id: Id) -> String {
    format!("net:[{id}]")
}

fn number(link: &str) -> Option<Id> {
    link.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_of_a_process_names_its_namespace() {
        assert_eq!(number("net:[4026531840]"), Some(4_026_531_840));
        assert_eq!(number(&by_number(7)), Some(7));
        for none in ["", "net:[", "net:[]", "net:[x]", "mnt:[7]", "net:[7"] {
            assert_eq!(number(none), None, "{none}");
        }
        let own = fs::read_link(OWN).unwrap();
        let id = own.to_str().and_then(number);
        assert_eq!(id, Some(fs::metadata(OWN).unwrap().ino()));
    }
}
