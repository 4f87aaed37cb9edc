//! The filters of a clsact qdisc: which are ours, which are stale, where the next one goes.
//!
//! A filter stays behind an agent that was killed. What is stale is told from what another agent
//! uses by the filter's handle: an agent holds the abstract socket of that name as long as it
//! lives. Such names are local to the network namespace, as the filters are. One bit of the handle
//! says whether an agent made the qdisc, so that this too outlives the agent.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener},
    },
};

use wstap_common::globals;

use super::netlink::{Connection, Filter, Side};

/// `ETH_P_ALL`, in host byte order.
const ETH_P_ALL: u16 = 3;
/// Kind of our filters.
const KIND: &str = "bpf";
/// In the handle of a filter of ours: an agent made the qdisc, and the last one to go removes it.
const QDISC_IS_OURS: u32 = 1 << 31;
/// Names that are tried for a handle before giving up.
const ATTEMPTS: usize = 8;

/// The handle that an agent's filters have, claimed as long as this lives.
#[derive(Debug)]
pub(super) struct Claim {
    handle: u32,
    _socket: UnixListener,
}

impl Claim {
    /// Claims a handle that nobody else has.
    pub fn new() -> io::Result<Self> {
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for _ in 0..ATTEMPTS {
            // Keyed with the system's random numbers. A handle is not 0, which means any.
            let random = RandomState::new().build_hasher().finish();
            let handle = (random as u32 & !QDISC_IS_OURS).max(1);
            match claim(handle) {
                Ok(socket) => {
                    return Ok(Self {
                        handle,
                        _socket: socket,
                    });
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// The handle of a filter in a qdisc that an agent made, or that was there before.
    pub fn handle(&self, qdisc_is_ours: bool) -> u32 {
        if qdisc_is_ours {
            self.handle | QDISC_IS_OURS
        } else {
            self.handle
        }
    }
}

fn claim(handle: u32) -> io::Result<UnixListener> {
    let name = format!("wstap/filter/{:08x}", handle & !QDISC_IS_OURS);
    UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)
}

/// Whether the agent that attached with `handle` is still there.
fn is_claimed(handle: u32) -> bool {
    claim(handle).is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
}

/// What was found in the clsact qdisc of an interface, once stale filters of ours were removed.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// Stale filters of ours that were removed.
    pub removed: usize,
    /// Filters of agents that are there.
    pub living: usize,
    /// Filters of others.
    pub foreign: usize,
    /// Whether an agent made the qdisc.
    pub qdisc_is_ours: bool,
    priorities: [Priority; Side::BOTH.len()],
}

impl Survey {
    /// Looks into the qdisc, if there is one, and removes what is stale.
    pub fn take(netlink: &mut Connection, index: u32) -> io::Result<Self> {
        let mut survey = Self::default();
        for (side, priority) in Side::BOTH.into_iter().zip(&mut survey.priorities) {
            let mut rest = Vec::new();
            for filter in netlink.filters(index, side)? {
                if !is_ours(&filter) {
                    survey.foreign += usize::from(is_filter(&filter));
                    rest.push(filter);
                    continue;
                }
                survey.qdisc_is_ours |= filter.handle & QDISC_IS_OURS != 0;
                if is_claimed(filter.handle) {
                    survey.living += 1;
                } else {
                    netlink.delete_filter(index, side, &filter)?;
                    survey.removed += 1;
                }
            }
            *priority = Priority::before(&rest);
        }
        Ok(survey)
    }

    /// Whether nothing is in it any more.
    pub fn is_empty(&self) -> bool {
        self.living + self.foreign == 0
    }

    /// Where to attach on `side`.
    pub fn priority(&self, side: Side) -> Priority {
        match side {
            Side::Ingress => self.priorities[0],
            Side::Egress => self.priorities[1],
        }
    }
}

/// A place among the filters.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Priority {
    /// Lower ones come first.
    pub value: u16,
    /// Whether others come before it.
    pub behind_others: bool,
}

impl Default for Priority {
    fn default() -> Self {
        Self {
            value: 1,
            behind_others: false,
        }
    }
}

impl Priority {
    /// The first place that a filter of ours can have. A priority belongs to one kind of classifier
    /// and one protocol; among bpf filters of one priority the newest comes first.
    fn before(others: &[Filter]) -> Self {
        let taken = |priority| {
            others.iter().any(|other| {
                other.priority == priority && (other.kind != KIND || other.protocol != ETH_P_ALL)
            })
        };
        let value = (1..u16::MAX)
            .find(|priority| !taken(*priority))
            .unwrap_or(1);
        Self {
            value,
            behind_others: others.iter().any(|other| other.priority < value),
        }
    }
}

fn is_ours(filter: &Filter) -> bool {
    let ours = |name: &String| globals::PROGRAMS.as_flattened().contains(&name.as_str());
    filter.kind == KIND && filter.name.as_ref().is_some_and(ours)
}

/// The kernel lists a classifier with handle 0 before its filters; the bpf classifier is never
/// without filters.
fn is_filter(filter: &Filter) -> bool {
    filter.handle != 0 || filter.kind != KIND
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(priority: u16, kind: &str, protocol: u16) -> Filter {
        Filter {
            handle: 1,
            priority,
            protocol,
            kind: kind.to_owned(),
            name: None,
        }
    }

    fn place(others: &[Filter]) -> (u16, bool) {
        let priority = Priority::before(others);
        (priority.value, priority.behind_others)
    }

    #[test]
    fn first_where_it_can_be() {
        assert_eq!(place(&[]), (1, false));
        assert_eq!(place(&[filter(49152, "flower", 3)]), (1, false));
        assert_eq!(place(&[filter(1, "bpf", ETH_P_ALL)]), (1, false));
        assert_eq!(place(&[filter(1, "bpf", 0x0800)]), (2, true));
        let crowd = [filter(1, "flower", 3), filter(2, "matchall", 3)];
        assert_eq!(place(&crowd), (3, true));
    }

    #[test]
    fn ours_are_known_by_name() {
        let mut ours = filter(1, "bpf", ETH_P_ALL);
        ours.name = Some("wstap_ip_out".to_owned());
        assert!(is_ours(&ours));
        ours.name = Some("wstap".to_owned());
        assert!(!is_ours(&ours));
        assert!(!is_ours(&filter(1, "bpf", ETH_P_ALL)));
    }

    #[test]
    fn a_claim_ends_with_its_owner() {
        let owner = Claim::new().unwrap();
        let handles = [owner.handle(false), owner.handle(true)];
        assert!(handles.into_iter().all(is_claimed));
        drop(owner);
        assert!(!handles.into_iter().any(is_claimed));
    }
}
