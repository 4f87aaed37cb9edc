//! Attaching to interfaces, those that appear later included, and leaving them as they were.
//!
//! With TCX the kernel detaches when the process ends, however it ends. A clsact filter stays
//! behind a process that was killed. So such a filter goes inert when the agent's heartbeat stops,
//! and the next start removes it, whichever method that one uses.
//!
//! An attacher works in one network namespace. That of the agent's own has others for those that are
//! followed besides (`namespaces`).
//!
//! A clsact qdisc is removed at the end if it is empty and an agent made it: this one, or one whose
//! filters were found in it and say so.

mod links;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    mem,
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::net::UnixStream,
    },
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use aya::{
    Ebpf,
    maps::{Array, MapData},
};
use aya_log::EbpfLogger;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use wstap_common::globals;

use self::links::{Attached, take_away};
use super::{
    KernelError,
    clock::monotonic,
    clsact::Claim,
    inner::{Inner, lock},
    namespaces::Namespaces,
    netlink::{Change, Connection, Link, Monitor},
    program::{self, in_map},
    requirements,
    status::{AttachStatus, update},
};
use crate::config::{AttachMode, CaptureConfig, InterfaceSelection};

/// How long clsact filters go on working without a heartbeat.
pub const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the heart beats.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long the start waits for interfaces to be attached, once one is. TCX waits in the kernel for
/// a grace period on each, some 30 ms; the first ones can be read meanwhile.
const START: Duration = Duration::from_millis(100);
/// How long the programs do nothing at the start, if there are so many interfaces. A connection that passes several
/// of them, and is known by its frames alone, is told to be one only where all of them have seen it begin to be
/// looked at.
const ARMING: Duration = Duration::from_secs(5);
/// Interfaces that [`Attacher::describe`] names.
const NAMED: usize = 8;

/// How programs are attached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Method {
    /// TCX links.
    Tcx,
    /// Filters of a clsact qdisc.
    Clsact,
}

impl Method {
    /// Its name, as `--attach` takes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// The method that is wanted, or the best one that the kernel has.
///
/// # Errors
///
/// TCX is wanted and not there, or bpf() is not to be used at all.
pub(super) fn choose(wish: AttachMode) -> Result<Method, KernelError> {
    requirements::bpf_usable()?;
    match wish {
        AttachMode::Clsact => Ok(Method::Clsact),
        AttachMode::Tcx => match requirements::tcx() {
            Ok(()) => Ok(Method::Tcx),
            Err(reason) => Err(KernelError::NoTcx(reason)),
        },
        AttachMode::Auto => Ok(match requirements::tcx() {
            Ok(()) => Method::Tcx,
            Err(reason) => {
                log::debug!("no TCX: {reason}");
                Method::Clsact
            }
        }),
    }
}

/// Where an attacher's programs come from.
enum Programs {
    /// Those of the object, for all interfaces.
    Own(Box<Ebpf>),
    /// Each interface has its own.
    Inner(Arc<Mutex<Inner>>),
}

/// The namespace of an attacher, if it is not the agent's own.
struct Place {
    scope: u32,
    label: Arc<str>,
    /// [`Vantage::interface`] by index.
    numbers: BTreeMap<u32, u32>,
}

/// Holds the programs and their attachments. Dropping it takes everything away again.
pub struct Attacher {
    // Dropped in this order: links before the programs that they belong to.
    others: Option<Namespaces>,
    interfaces: BTreeMap<u32, Attached>,
    programs: Programs,
    place: Option<Place>,
    method: Method,
    selection: InterfaceSelection,
    netlink: Connection,
    monitor: Monitor,
    /// Of the agent's own namespace alone.
    heartbeat: Option<Array<MapData, u64>>,
    claim: Option<Claim>,
    log: Option<EbpfLogger<&'static dyn log::Log>>,
    /// Interfaces that are yet to be looked at, by index.
    pending: BTreeMap<u32, Link>,
    /// Those of them, by index, that were there at the start.
    starting: BTreeSet<u32>,
    /// Whether the programs are at work, which they are for all namespaces at once.
    is_armed: bool,
    arm_by: Instant,
    /// Why an interface is not attached, by index: said once.
    refused: BTreeMap<u32, String>,
    status: AttachStatus,
    /// What of the status is this one's: attached, failed.
    counted: (u64, u64),
}

impl Attacher {
    pub(super) fn new(
        mut ebpf: Ebpf,
        method: Method,
        heartbeat: Array<MapData, u64>,
        log: Option<EbpfLogger<&'static dyn log::Log>>,
        config: &CaptureConfig,
    ) -> Result<Self, KernelError> {
        let status = AttachStatus::default();
        let others = if config.namespaces.wanted.is_empty() {
            None
        } else {
            let selection = config.namespaces.clone();
            let inner = Inner::new(&mut ebpf)?;
            let interfaces = config.interfaces.clone();
            let status = status.clone();
            Some(Namespaces::new(
                selection, method, interfaces, inner, status,
            )?)
        };
        let programs = Programs::Own(Box::new(ebpf));
        let mut attacher = Self::here(programs, method, config.interfaces.clone(), status)?;
        attacher.others = others;
        attacher.heartbeat = Some(heartbeat);
        attacher.log = log;
        attacher.beat()?;
        attacher.list()?;
        attacher.starting = attacher.pending.keys().copied().collect();
        attacher.publish();
        if method == Method::Tcx {
            attacher.remove_stale();
        }
        Ok(attacher)
    }

    /// Attaches to the interfaces that are there, or to the first of them if they are many.
    ///
    /// # Errors
    ///
    /// There are some, and none of them can be attached to.
    pub(super) fn begin(&mut self) -> Result<(), KernelError> {
        let deadline = Instant::now() + START;
        if let Some(others) = &mut self.others {
            others.scan();
        }
        while (self.interfaces.is_empty() || Instant::now() < deadline) && self.advance() {}
        if self.interfaces.is_empty() {
            if let Some((index, reason)) = self.refused.first_key_value() {
                let name = self.status.names.name(*index);
                return Err(KernelError::Attach {
                    interface: name.map_or("an interface".into(), |on| on.name).to_string(),
                    reason: reason.clone(),
                });
            }
            log::warn!("no interface that is up matches --interface; waiting for one");
        }
        self.arm()
    }

    /// Has the programs work, once all interfaces that were there at the start have been looked at.
    fn arm(&mut self) -> Result<(), KernelError> {
        let others = self.others.as_ref();
        let waits = !self.starting.is_empty() || others.is_some_and(Namespaces::has_pending);
        if self.is_armed || (waits && Instant::now() < self.arm_by) {
            return Ok(());
        }
        if let Programs::Own(ebpf) = &mut self.programs {
            program::arm(ebpf)?;
        }
        self.is_armed = true;
        self.publish();
        Ok(())
    }

    /// One for another namespace, in which the calling thread is: its number and what it is called are
    /// given. Nothing is attached yet.
    ///
    /// # Errors
    ///
    /// Interfaces cannot be listed or watched.
    pub(super) fn inside(
        inner: Arc<Mutex<Inner>>,
        (scope, label): (u32, &str),
        method: Method,
        selection: InterfaceSelection,
        status: AttachStatus,
    ) -> Result<Self, KernelError> {
        let mut attacher = Self::here(Programs::Inner(inner), method, selection, status)?;
        attacher.place = Some(Place {
            scope,
            label: label.into(),
            numbers: BTreeMap::new(),
        });
        attacher.list()?;
        if method == Method::Tcx {
            attacher.remove_stale();
        }
        Ok(attacher)
    }

    /// One for the namespace in which the calling thread is, that knows of nothing yet.
    fn here(
        programs: Programs,
        method: Method,
        selection: InterfaceSelection,
        status: AttachStatus,
    ) -> Result<Self, KernelError> {
        let netlink = |doing| move |cause| KernelError::Netlink { doing, cause };
        Ok(Self {
            others: None,
            interfaces: BTreeMap::new(),
            programs,
            place: None,
            method,
            selection,
            netlink: Connection::open().map_err(netlink("opening a netlink socket"))?,
            // Before the interfaces are listed, so that none is missed in between.
            monitor: Monitor::open().map_err(netlink("watching the interfaces"))?,
            heartbeat: None,
            claim: match method {
                Method::Tcx => None,
                Method::Clsact => Some(Claim::new().map_err(netlink("claiming a filter handle"))?),
            },
            log: None,
            pending: BTreeMap::new(),
            starting: BTreeSet::new(),
            is_armed: false,
            arm_by: Instant::now() + ARMING,
            refused: BTreeMap::new(),
            status,
            counted: (0, 0),
        })
    }

    /// The namespace that it works in.
    pub(super) fn place(&self) -> &str {
        self.place.as_ref().map_or("the agent's own", |p| &p.label)
    }

    fn scope(&self) -> u32 {
        self.place.as_ref().map_or(0, |place| place.scope)
    }

    /// Whether interfaces of its namespace are yet to be looked at.
    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Leaves the interfaces that are yet to be looked at as they are.
    pub(super) fn forget_pending(&mut self) {
        self.pending.clear();
    }

    /// What to wait for: a change in its namespace.
    pub(super) fn monitor_fd(&self) -> BorrowedFd<'_> {
        self.monitor.as_fd()
    }

    /// How programs are attached.
    #[must_use]
    pub fn method(&self) -> Method {
        self.method
    }

    /// What others may know of it from now on.
    #[must_use]
    pub fn status(&self) -> AttachStatus {
        self.status.clone()
    }

    /// Names of the interfaces that are attached now, not all if they are many.
    #[must_use]
    pub fn describe(&self) -> String {
        let names = self.interfaces.values().map(|attached| &*attached.name);
        let mut text = names.take(NAMED).collect::<Vec<_>>().join(", ");
        let wanted = |link: &&Link| link.up && self.selection.matches(&link.name);
        let pending = self.pending.values().filter(wanted).count();
        let more = self.interfaces.len().saturating_sub(NAMED) + pending;
        if text.is_empty() {
            "no interface yet".clone_into(&mut text);
        } else if more > 0 {
            text.push_str(&format!(" and {more} more"));
        }
        if let Some(others) = &self.others {
            text.push_str(&format!("; other network namespaces: {}", others.len()));
        }
        text
    }

    /// Follows the interfaces, and lets the heart beat, until the other end of `stop` is closed.
    ///
    /// # Errors
    ///
    /// Changes can no longer be followed.
    pub fn watch(mut self, stop: &UnixStream) -> Result<(), KernelError> {
        let netlink = |cause| KernelError::Netlink {
            doing: "watching the interfaces",
            cause,
        };
        let mut next_beat = Instant::now();
        loop {
            let now = Instant::now();
            if now >= next_beat {
                self.beat()?;
                next_beat = now + HEARTBEAT;
            }
            let mut next = next_beat;
            let mut has_pending = self.has_pending();
            if let Some(others) = &mut self.others {
                if now >= others.next_scan() {
                    others.scan();
                }
                next = next.min(others.next_scan());
                has_pending |= others.has_pending();
            }
            let timeout = if has_pending {
                Duration::ZERO
            } else {
                next.saturating_duration_since(now)
            };
            let mut fds = vec![
                PollFd::new(stop.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.monitor.as_fd(), PollFlags::POLLIN),
            ];
            if let Some(log) = &self.log {
                fds.push(PollFd::new(log.as_fd(), PollFlags::POLLIN));
            }
            let own = fds.len();
            if let Some(others) = &self.others {
                fds.extend(others.fds().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
            }
            let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::ZERO);
            match poll(&mut fds, timeout) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(netlink(error.into())),
            }
            let ready = |fd: Option<&PollFd>| fd.and_then(PollFd::any).unwrap_or(false);
            let (stopped, changed, logged) = (
                ready(fds.first()),
                ready(fds.get(1)),
                own > 2 && ready(fds.get(2)),
            );
            let elsewhere: Vec<_> = fds.iter().skip(own).map(|fd| ready(Some(fd))).collect();
            if stopped {
                return Ok(());
            }
            if logged && let Some(log) = &mut self.log {
                log.flush();
            }
            if changed
                && self.take_changes()?
                && let Some(others) = &mut self.others
            {
                others.hurry();
            }
            if let Some(others) = &mut self.others
                && elsewhere.contains(&true)
            {
                others.changes(|i| elsewhere.get(i) == Some(&true));
            }
            self.advance();
            self.arm()?;
        }
    }

    /// Takes in what has happened in its namespace; whether interfaces have come or gone.
    ///
    /// # Errors
    ///
    /// Changes can no longer be followed.
    pub(super) fn take_changes(&mut self) -> Result<bool, KernelError> {
        let scope = self.scope();
        let mut is_other = false;
        let changes = self
            .monitor
            .changes()
            .map_err(|cause| KernelError::Netlink {
                doing: "watching the interfaces",
                cause,
            })?;
        for change in changes {
            match change {
                Change::Seen(link) => is_other |= self.seen(link),
                Change::Gone(index) => {
                    self.gone(index);
                    is_other = true;
                }
                Change::Address(address) => self.status.addresses.insert(scope, address),
                Change::AddressGone(address) => self.status.addresses.remove(scope, address),
                Change::Overrun => {
                    self.list()?;
                    is_other = true;
                }
            }
        }
        Ok(is_other)
    }

    fn beat(&mut self) -> Result<(), KernelError> {
        let Some(heartbeat) = &mut self.heartbeat else {
            return Ok(());
        };
        heartbeat
            .set(0, monotonic(), 0)
            .map_err(in_map(globals::HEARTBEAT_MAP))
    }

    /// Looks at one of the pending interfaces, or at those of one other namespace; whether there were
    /// any.
    fn advance(&mut self) -> bool {
        self.proceed() || self.others.as_mut().is_some_and(Namespaces::proceed)
    }

    /// Brings everything up to what the kernel lists now.
    fn list(&mut self) -> Result<(), KernelError> {
        let error = |cause| KernelError::Netlink {
            doing: "listing the interfaces",
            cause,
        };
        let links = self.netlink.links().map_err(error)?;
        let addresses = self.netlink.addresses().map_err(error)?;
        self.status.addresses.replace(self.scope(), addresses);
        let there: HashSet<_> = links.iter().map(|link| link.index).collect();
        let known = [
            self.interfaces.keys().collect::<Vec<_>>(),
            self.refused.keys().collect(),
            self.pending.keys().collect(),
        ];
        let gone: Vec<_> = known
            .concat()
            .into_iter()
            .filter(|index| !there.contains(index))
            .copied()
            .collect();
        for index in gone {
            self.gone(index);
        }
        for link in links {
            self.seen(link);
        }
        Ok(())
    }

    /// Notes an interface, and that it is to be looked at; whether it is new.
    fn seen(&mut self, link: Link) -> bool {
        let number = self.number(link.index);
        let label = self.place.as_ref().map(|place| &place.label);
        let is_new = self.status.names.name(number).is_none();
        self.status.names.insert(number, &link.name, label);
        self.pending.insert(link.index, link);
        is_new
    }

    /// What stands for an interface in records.
    fn number(&mut self, index: u32) -> u32 {
        let (Some(place), Programs::Inner(inner)) = (&mut self.place, &self.programs) else {
            return index;
        };
        let new = || lock(inner).number();
        *place.numbers.entry(index).or_insert_with(new)
    }

    /// Looks at one of the pending interfaces of its namespace, in which the calling thread must be;
    /// whether there was one.
    pub(super) fn proceed(&mut self) -> bool {
        let Some((_, link)) = self.pending.pop_first() else {
            return false;
        };
        let wanted = self.selection.matches(&link.name);
        if let Some(attached) = self.interfaces.get_mut(&link.index) {
            attached.name.clone_from(&link.name);
            if !wanted {
                log::info!("{} is no longer selected: detaching", link.name);
                self.detach(link.index);
            }
        } else if wanted && link.up {
            self.attach(&link);
        } else {
            self.refused.remove(&link.index);
        }
        self.starting.remove(&link.index);
        self.publish();
        true
    }

    fn gone(&mut self, index: u32) {
        self.pending.remove(&index);
        self.starting.remove(&index);
        self.refused.remove(&index);
        let number = self.number(index);
        self.status.names.retire(number);
        if let Some(place) = &mut self.place {
            place.numbers.remove(&index);
        }
        // The kernel has taken filters and qdiscs away with the interface; a TCX link is left, and
        // goes with its descriptor.
        if let Some(attached) = self.interfaces.remove(&index) {
            log::debug!("{} is gone", attached.name);
        }
        self.publish();
    }

    fn publish(&mut self) {
        let (attached, failed) = &mut self.counted;
        update(&self.status.attached, attached, self.interfaces.len());
        update(&self.status.failed, failed, self.refused.len());
        if self.place.is_none() {
            let at_least = usize::from(!self.is_armed);
            self.status.set_starting(self.starting.len().max(at_least));
        }
    }
}

impl Attacher {
    /// Takes everything away from its namespace, in which the calling thread must be.
    pub(super) fn leave(&mut self) {
        for (index, attached) in mem::take(&mut self.interfaces) {
            take_away(&mut self.netlink, index, attached);
        }
        self.pending.clear();
        self.refused.clear();
        self.publish();
        if let Some(place) = &mut self.place {
            self.status.addresses.replace(place.scope, []);
            for number in mem::take(&mut place.numbers).into_values() {
                self.status.names.retire(number);
            }
        }
    }

    /// Leaves filters where they are: they cannot be reached, and go inert with the agent. TCX links go
    /// by themselves.
    pub(super) fn abandon(&mut self) {
        for (_, attached) in mem::take(&mut self.interfaces) {
            if self.method == Method::Clsact {
                mem::forget(attached.links);
            }
        }
    }
}

impl Drop for Attacher {
    fn drop(&mut self) {
        // To detach with TCX takes the kernel two grace periods of RCU an interface, with its lock on all
        // interfaces held: threads, or leaving it to the end of the process, make it no shorter. So
        // the programs do nothing from here on, on all interfaces at once.
        if let Programs::Own(ebpf) = &mut self.programs
            && let Err(error) = program::disarm(ebpf)
        {
            log::debug!("{error}");
        }
        self.leave();
    }
}
