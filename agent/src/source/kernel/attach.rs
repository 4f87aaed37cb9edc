//! Attaching to interfaces, those that appear later included, and leaving them as they were.
//!
//! With TCX the kernel detaches when the process ends, however it ends. A clsact filter stays
//! behind a process that was killed. So such a filter goes inert when the agent's heartbeat stops,
//! and the next start removes it, whichever method that one uses.
//!
//! A clsact qdisc is removed at the end if it is empty and an agent made it: this one, or one whose
//! filters were found in it and say so.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    mem,
    os::{fd::AsFd as _, unix::net::UnixStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use aya::{
    Ebpf,
    maps::{Array, MapData},
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType,
        tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle},
    },
};
use aya_log::EbpfLogger;
use nix::{
    net::if_::if_nametoindex,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use wstap_common::globals;

use super::{
    KernelError,
    clock::monotonic,
    clsact::{Claim, Survey},
    interfaces::{Framing, InterfaceNames, LocalAddresses},
    netlink::{Change, Connection, Link, Monitor, Side},
    one_line,
    program::{self, in_map},
    requirements,
};
use crate::config::{AttachMode, InterfaceSelection};

/// How long clsact filters go on working without a heartbeat.
pub const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the heart beats.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long the start waits for interfaces to be attached, once one is. TCX waits in the kernel for
/// a grace period on each, some 30 ms; the first ones can be read meanwhile.
const START: Duration = Duration::from_millis(100);
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

/// What others may know of an [`Attacher`] that has been given away.
#[derive(Clone, Debug, Default)]
pub struct AttachStatus {
    /// Names of interfaces.
    pub names: InterfaceNames,
    /// Addresses of this machine.
    pub addresses: LocalAddresses,
    attached: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
    starting: Arc<AtomicU64>,
}

impl AttachStatus {
    /// Interfaces that are attached now.
    #[must_use]
    pub fn attached(&self) -> u64 {
        self.attached.load(Ordering::Relaxed)
    }

    /// Interfaces that are wanted and could not be attached.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Interfaces that were there at the start and have not been looked at yet. Once it is 0 it stays so.
    #[must_use]
    pub fn starting(&self) -> u64 {
        self.starting.load(Ordering::Relaxed)
    }
}

/// Holds the programs and their attachments. Dropping it takes everything away again.
pub struct Attacher {
    // Dropped in this order: links before the programs that they belong to.
    interfaces: BTreeMap<u32, Attached>,
    ebpf: Ebpf,
    method: Method,
    selection: InterfaceSelection,
    netlink: Connection,
    monitor: Monitor,
    heartbeat: Array<MapData, u64>,
    claim: Option<Claim>,
    log: Option<EbpfLogger<&'static dyn log::Log>>,
    /// Interfaces that are yet to be looked at, by index.
    pending: BTreeMap<u32, Link>,
    /// Those of them, by index, that were there at the start.
    starting: BTreeSet<u32>,
    /// Why an interface is not attached, by index: said once.
    refused: BTreeMap<u32, String>,
    status: AttachStatus,
}

struct Attached {
    name: String,
    links: Vec<SchedClassifierLink>,
    qdisc_is_ours: bool,
}

impl Attacher {
    pub(super) fn new(
        ebpf: Ebpf,
        method: Method,
        heartbeat: Array<MapData, u64>,
        log: Option<EbpfLogger<&'static dyn log::Log>>,
        selection: InterfaceSelection,
    ) -> Result<Self, KernelError> {
        let netlink = |doing| move |cause| KernelError::Netlink { doing, cause };
        let mut attacher = Self {
            interfaces: BTreeMap::new(),
            ebpf,
            method,
            selection,
            netlink: Connection::open().map_err(netlink("opening a netlink socket"))?,
            // Before the interfaces are listed, so that none is missed in between.
            monitor: Monitor::open().map_err(netlink("watching the interfaces"))?,
            heartbeat,
            claim: match method {
                Method::Tcx => None,
                Method::Clsact => Some(Claim::new().map_err(netlink("claiming a filter handle"))?),
            },
            log,
            pending: BTreeMap::new(),
            starting: BTreeSet::new(),
            refused: BTreeMap::new(),
            status: AttachStatus::default(),
        };
        attacher.beat()?;
        attacher.list()?;
        attacher.starting = attacher.pending.keys().copied().collect();
        attacher.publish();
        let deadline = Instant::now() + START;
        while (attacher.interfaces.is_empty() || Instant::now() < deadline) && attacher.proceed() {}
        if attacher.interfaces.is_empty() {
            if let Some((index, reason)) = attacher.refused.first_key_value() {
                let name = attacher.status.names.name(*index);
                return Err(KernelError::Attach {
                    interface: name.as_deref().unwrap_or("an interface").to_owned(),
                    reason: reason.clone(),
                });
            }
            log::warn!("no interface that is up matches --interface; waiting for one");
        }
        Ok(attacher)
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
            let timeout = if self.pending.is_empty() {
                next_beat.saturating_duration_since(now)
            } else {
                Duration::ZERO
            };
            let mut fds = vec![
                PollFd::new(stop.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.monitor.as_fd(), PollFlags::POLLIN),
            ];
            if let Some(log) = &self.log {
                fds.push(PollFd::new(log.as_fd(), PollFlags::POLLIN));
            }
            let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::ZERO);
            match poll(&mut fds, timeout) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(netlink(error.into())),
            }
            let ready = |fd: Option<&PollFd>| fd.and_then(PollFd::any).unwrap_or(false);
            let (stopped, changed, logged) =
                (ready(fds.first()), ready(fds.get(1)), ready(fds.get(2)));
            if stopped {
                return Ok(());
            }
            if logged && let Some(log) = &mut self.log {
                log.flush();
            }
            if changed {
                for change in self.monitor.changes().map_err(netlink)? {
                    match change {
                        Change::Seen(link) => self.seen(link),
                        Change::Gone(index) => self.gone(index),
                        Change::Address(address) => self.status.addresses.insert(address),
                        Change::AddressGone(address) => self.status.addresses.remove(address),
                        Change::Overrun => self.list()?,
                    }
                }
            }
            self.proceed();
        }
    }

    fn beat(&mut self) -> Result<(), KernelError> {
        self.heartbeat
            .set(0, monotonic(), 0)
            .map_err(in_map(globals::HEARTBEAT_MAP))
    }

    /// Brings everything up to what the kernel lists now.
    fn list(&mut self) -> Result<(), KernelError> {
        let error = |cause| KernelError::Netlink {
            doing: "listing the interfaces",
            cause,
        };
        let links = self.netlink.links().map_err(error)?;
        let addresses = self.netlink.addresses().map_err(error)?;
        self.status.addresses.replace(addresses);
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

    fn seen(&mut self, link: Link) {
        self.status.names.insert(link.index, &link.name);
        self.pending.insert(link.index, link);
    }

    /// Looks at one of the pending interfaces; whether there was one.
    fn proceed(&mut self) -> bool {
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
        self.status.names.retire(index);
        // The kernel has taken filters and qdiscs away with the interface; a TCX link is left, and
        // goes with its descriptor.
        if let Some(attached) = self.interfaces.remove(&index) {
            log::info!("{} is gone", attached.name);
        }
        self.publish();
    }

    fn publish(&self) {
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let status = &self.status;
        status
            .attached
            .store(count(self.interfaces.len()), Ordering::Relaxed);
        status
            .failed
            .store(count(self.refused.len()), Ordering::Relaxed);
        status
            .starting
            .store(count(self.starting.len()), Ordering::Relaxed);
    }

    fn attach(&mut self, link: &Link) {
        match self.try_attach(link) {
            Ok(attached) => {
                log::debug!("attached to {}", link.name);
                self.refused.remove(&link.index);
                self.interfaces.insert(link.index, attached);
            }
            // It was deleted or renamed meanwhile; the kernel tells that too.
            Err(reason) if !is_still(link) => log::debug!("{}: {reason}", link.name),
            Err(reason) => {
                if self.refused.get(&link.index) != Some(&reason) {
                    log::warn!("attaching to {}: {reason}", link.name);
                    self.refused.insert(link.index, reason);
                }
            }
        }
    }

    fn try_attach(&mut self, link: &Link) -> Result<Attached, String> {
        let Some(framing) = Framing::of(link.hardware) else {
            return Err(format!(
                "packets of its hardware type {} begin in a way that is not followed; leave it out \
                 with --exclude-interface",
                link.hardware
            ));
        };
        program::verify(&mut self.ebpf, framing).map_err(|error| error.to_string())?;
        if !is_still(link) {
            return Err("it was renamed".to_owned());
        }
        let made = self.method == Method::Clsact
            && self.netlink.add_clsact(link.index).map_err(|error| {
                format!("adding a clsact qdisc: {error}; is the kernel module sch_ingress there?")
            })?;
        let mut attached = Attached {
            name: link.name.clone(),
            links: Vec::with_capacity(Side::BOTH.len()),
            qdisc_is_ours: made,
        };
        match self.attach_sides(link, framing, &mut attached) {
            Ok(()) => Ok(attached),
            Err(reason) => {
                take_away(&mut self.netlink, link.index, attached);
                Err(reason)
            }
        }
    }

    fn attach_sides(
        &mut self,
        link: &Link,
        framing: Framing,
        attached: &mut Attached,
    ) -> Result<(), String> {
        let survey = Survey::take(&mut self.netlink, link.index)
            .map_err(|error| format!("looking for filters of a predecessor: {error}"))?;
        if survey.removed > 0 {
            log::info!("{}: removed filters of an agent that was killed", link.name);
        }
        if self.method == Method::Clsact {
            attached.qdisc_is_ours |= survey.qdisc_is_ours;
        } else if survey.qdisc_is_ours && survey.is_empty() {
            remove_qdisc(&mut self.netlink, link.index, &link.name);
        }
        let names = globals::PROGRAMS[framing as usize];
        for (side, name) in Side::BOTH.into_iter().zip(names) {
            let options = match &self.claim {
                None => TcAttachOptions::TcxOrder(LinkOrder::first()),
                Some(claim) => {
                    let priority = survey.priority(side);
                    if priority.behind_others {
                        log::warn!(
                            "{}: other filters have the first places; what they drop or redirect \
                             is not seen",
                            link.name
                        );
                    }
                    TcAttachOptions::Netlink(NlOptions {
                        priority: priority.value,
                        handle: TcHandle::from(claim.handle(attached.qdisc_is_ours)),
                        classid: None,
                    })
                }
            };
            let link = self
                .attach_program(name, &link.name, side, options)
                .map_err(|error| one_line(&error))?;
            attached.links.push(link);
        }
        Ok(())
    }

    fn attach_program(
        &mut self,
        name: &'static str,
        interface: &str,
        side: Side,
        options: TcAttachOptions,
    ) -> Result<SchedClassifierLink, ProgramError> {
        let program: &mut SchedClassifier = match self.ebpf.program_mut(name) {
            Some(program) => program.try_into()?,
            None => return Err(ProgramError::NotLoaded),
        };
        let side = match side {
            Side::Ingress => TcAttachType::Ingress,
            Side::Egress => TcAttachType::Egress,
        };
        let id = program.attach_with_options(interface, side, options)?;
        program.take_link(id)
    }

    fn detach(&mut self, index: u32) {
        if let Some(attached) = self.interfaces.remove(&index) {
            take_away(&mut self.netlink, index, attached);
        }
    }
}

impl Drop for Attacher {
    fn drop(&mut self) {
        // To detach with TCX takes the kernel two grace periods of RCU an interface, with its lock on all
        // interfaces held: threads, or leaving it to the end of the process, make it no shorter. So
        // the programs do nothing from here on, on all interfaces at once.
        if let Err(error) = program::disarm(&mut self.ebpf) {
            log::debug!("{error}");
        }
        for (index, attached) in mem::take(&mut self.interfaces) {
            take_away(&mut self.netlink, index, attached);
        }
        self.publish();
    }
}

/// Detaches, and removes the qdisc if it is ours and nobody else uses it.
fn take_away(netlink: &mut Connection, index: u32, attached: Attached) {
    drop(attached.links);
    if attached.qdisc_is_ours {
        let is_empty = |side| {
            netlink
                .filters(index, side)
                .is_ok_and(|rest| rest.is_empty())
        };
        if Side::BOTH.into_iter().all(is_empty) {
            remove_qdisc(netlink, index, &attached.name);
        }
    }
}

fn remove_qdisc(netlink: &mut Connection, index: u32, name: &str) {
    match netlink.delete_clsact(index) {
        Ok(()) => log::debug!("{name}: removed the clsact qdisc"),
        // Gone with the interface, or by another's hand.
        Err(error) => log::debug!("{name}: removing the clsact qdisc: {error}"),
    }
}

/// Whether the name still means the same interface. Programs are attached by name.
fn is_still(link: &Link) -> bool {
    if_nametoindex(link.name.as_str()).is_ok_and(|index| index == link.index)
}
