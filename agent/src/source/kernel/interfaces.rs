//! Names of interfaces, addresses of this machine, and how packets begin.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock},
};

use super::{here::Here, netlink::LinkAddress};

/// Interfaces that are gone and whose names are still told: what was seen on them may end later.
const REMEMBERED: usize = 1024;

// Missing from libc.
const ARPHRD_RAWIP: u16 = 519;
const ARPHRD_IP6GRE: u16 = 823;

/// How the packets of an interface begin, and so which programs it takes: an index into
/// [`wstap_common::globals::PROGRAMS`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Framing {
    /// With an Ethernet header.
    Ethernet = 0,
    /// With the IP header.
    Ip = 1,
}

impl Framing {
    /// That of a hardware type (`ARPHRD_*`); `None` where packets begin in a way that is not
    /// followed.
    #[must_use]
    pub fn of(hardware: u16) -> Option<Self> {
        match hardware {
            libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK => Some(Self::Ethernet),
            libc::ARPHRD_NONE
            | ARPHRD_RAWIP
            | libc::ARPHRD_PPP
            | libc::ARPHRD_TUNNEL
            | libc::ARPHRD_TUNNEL6
            | libc::ARPHRD_SIT
            | libc::ARPHRD_IPGRE
            | ARPHRD_IP6GRE => Some(Self::Ip),
            _ => None,
        }
    }
}

/// Addresses of this machine, as its network namespace and the others that are followed have them, and of its
/// containers; shared with who asks which end of a connection is here.
#[derive(Clone, Debug, Default)]
pub struct LocalAddresses(Arc<RwLock<BTreeSet<(IpAddr, u32, u32)>>>, Arc<Here>);

impl LocalAddresses {
    /// Whether `address` is this machine's, or that of a container on it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.are_own(address) || self.1.has(address)
    }

    fn are_own(&self, address: IpAddr) -> bool {
        let addresses = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mut of_any_interface = addresses.range((address, 0, 0)..=(address, u32::MAX, u32::MAX));
        // All of 127.0.0.0/8 is, and only its first address is listed.
        address.is_loopback() || of_any_interface.next().is_some()
    }

    /// These are all that the namespace `scope` has.
    pub(super) fn replace(&self, scope: u32, addresses: impl IntoIterator<Item = LinkAddress>) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(_, of, _)| *of != scope);
        let addresses = addresses.into_iter();
        all.extend(addresses.map(|(link, address)| (address, scope, link)));
    }

    pub(super) fn insert(&self, scope: u32, (link, address): LinkAddress) {
        let mut addresses = self.0.write().unwrap_or_else(PoisonError::into_inner);
        addresses.insert((address, scope, link));
    }

    pub(super) fn remove(&self, scope: u32, (link, address): LinkAddress) {
        let mut addresses = self.0.write().unwrap_or_else(PoisonError::into_inner);
        addresses.remove(&(address, scope, link));
    }
}

/// What an interface is called.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct InterfaceName {
    /// Its name.
    pub name: Arc<str>,
    /// Its network namespace, where it is another one than the agent's.
    pub netns: Option<Arc<str>>,
}

/// Names of the interfaces, shared with who prints them: by index, or where they are in another network
/// namespace by [`wstap_common::flow::Vantage::interface`].
#[derive(Clone, Debug, Default)]
pub struct InterfaceNames(Arc<RwLock<Names>>);

#[derive(Debug, Default)]
struct Names {
    names: BTreeMap<u32, InterfaceName>,
    gone: VecDeque<u32>,
}

impl InterfaceNames {
    /// The name of the interface `index`, if it is known.
    #[must_use]
    pub fn name(&self, index: u32) -> Option<InterfaceName> {
        let names = self.0.read().unwrap_or_else(PoisonError::into_inner);
        names.names.get(&index).cloned()
    }

    pub(super) fn insert(&self, index: u32, name: &str, netns: Option<&Arc<str>>) {
        let mut names = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if names
            .names
            .get(&index)
            .is_some_and(|old| *old.name == *name)
        {
            return;
        }
        let name = InterfaceName {
            name: name.into(),
            netns: netns.cloned(),
        };
        names.names.insert(index, name);
        names.gone.retain(|gone| *gone != index);
    }

    /// The interface is gone; its name is forgotten when many others are gone too.
    pub(super) fn retire(&self, index: u32) {
        let mut names = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if !names.names.contains_key(&index) || names.gone.contains(&index) {
            return;
        }
        names.gone.push_back(index);
        if names.gone.len() > REMEMBERED
            && let Some(oldest) = names.gone.pop_front()
        {
            names.names.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(names: &InterfaceNames, index: u32) -> Option<String> {
        Some(names.name(index)?.name.to_string())
    }

    #[test]
    fn names_outlive_their_interfaces_for_a_while() {
        let names = InterfaceNames::default();
        names.insert(1, "lo", None);
        for index in 2..=u32::try_from(REMEMBERED).unwrap() + 2 {
            names.insert(index, "veth", None);
            names.retire(index);
            names.retire(index);
        }
        assert_eq!(text(&names, 1).as_deref(), Some("lo"));
        assert_eq!(names.name(2), None);
        assert_eq!(text(&names, 3).as_deref(), Some("veth"));
    }

    #[test]
    fn an_address_is_local_as_long_as_an_interface_has_it() {
        let addresses = LocalAddresses::default();
        let address = [192, 0, 2, 1].into();
        addresses.replace(0, [(1, address), (2, address)]);
        addresses.remove(0, (1, address));
        assert!(addresses.contains(address));
        assert!(addresses.contains("::ffff:192.0.2.1".parse().unwrap()));
        addresses.insert(7, (2, address));
        addresses.remove(0, (2, address));
        assert!(addresses.contains(address), "in another namespace");
        addresses.replace(0, []);
        assert!(addresses.contains(address), "in another namespace");
        addresses.replace(7, []);
        assert!(!addresses.contains(address));
        assert!(addresses.contains("127.1.2.3".parse().unwrap()));
    }

    #[test]
    fn names_change() {
        let names = InterfaceNames::default();
        names.insert(2, "eth0", None);
        names.retire(2);
        names.insert(2, "wan", None);
        assert_eq!(text(&names, 2).as_deref(), Some("wan"));
    }

    #[test]
    fn framing_follows_the_hardware_type() {
        assert_eq!(Framing::of(1), Some(Framing::Ethernet));
        assert_eq!(Framing::of(772), Some(Framing::Ethernet));
        for ip in [65534, 519, 512, 768, 769, 776] {
            assert_eq!(Framing::of(ip), Some(Framing::Ip), "{ip}");
        }
        assert_eq!(Framing::of(801), None);
    }
}
