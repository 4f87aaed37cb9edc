//! Which addresses belong to containers of this machine, where nobody else says so.
//!
//! An address is one of theirs if packets to it leave directly, by no gateway, through a device whose
//! other end is in another network namespace of this machine, or through a bridge with no hardware
//! among its ports. The devices of default routes lead out, whatever they are: a node that is itself a
//! container has a veth pair for its uplink.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::netlink::{
    Connection,
    route::{Device, Way},
};

/// How long an answer of the kernel's holds. Containers come and go, and their addresses are used again.
const LIFETIME: Duration = Duration::from_secs(5);

/// Addresses that are remembered.
const REMEMBERED: usize = 4096;

/// Of no destination's own (RFC 7600 and RFC 6666): the way to them is the default one.
const NOWHERE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 8)),
    IpAddr::V6(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 8)),
];

/// Answers whether addresses are those of containers here.
#[derive(Default)]
pub(super) struct Here(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// Opened by whoever asks first, in the agent's own network namespace.
    netlink: Option<Connection>,
    answers: BTreeMap<IpAddr, bool>,
    /// Indices of the devices that lead to containers.
    devices: BTreeSet<u32>,
    /// When all of this is asked for anew.
    until: Option<Instant>,
}

impl fmt::Debug for Here {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Here")
    }
}

impl Here {
    /// Whether `address` is that of a container on this machine. Where that cannot be found out, it is not.
    pub(super) fn has(&self, address: IpAddr) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if known.until.is_none_or(|until| now >= until) || known.answers.len() >= REMEMBERED {
            known.answers.clear();
            known.until = Some(now + LIFETIME);
            known.devices = known.look_around().unwrap_or_else(|error| {
                log::debug!("listing the devices of containers: {error}");
                BTreeSet::new()
            });
        }
        if let Some(answer) = known.answers.get(&address) {
            return *answer;
        }
        let answer = known
            .way(address)
            .is_ok_and(|way| leads_to(&known.devices, way));
        known.answers.insert(address, answer);
        answer
    }
}

impl Known {
    fn netlink(&mut self) -> io::Result<&mut Connection> {
        let netlink = match self.netlink.take() {
            Some(netlink) => netlink,
            None => Connection::open()?,
        };
        Ok(self.netlink.insert(netlink))
    }

    fn way(&mut self, to: IpAddr) -> io::Result<Way> {
        self.netlink()?.way(to)
    }

    fn look_around(&mut self) -> io::Result<BTreeSet<u32>> {
        let devices = self.netlink()?.devices()?;
        // No way at all is no way through one of them.
        let out = NOWHERE.map(|nowhere| self.way(nowhere).ok().and_then(|way| way.device));
        Ok(leading_to_containers(&devices, out))
    }
}

/// Indices of the devices that lead to containers, where the default routes go by those of `out`.
fn leading_to_containers(devices: &[Device], out: [Option<u32>; 2]) -> BTreeSet<u32> {
    let is_pair = |device: &Device| matches!(&*device.kind, "veth" | "netkit");
    let leads_out = |port: &Device| !is_pair(port) || out.contains(&Some(port.index));
    let leads_in = |device: &&Device| {
        if device.kind == "bridge" {
            let mut ports = devices
                .iter()
                .filter(|port| port.master == Some(device.index));
            !ports.any(leads_out)
        } else {
            is_pair(device) && device.leads_elsewhere
        }
    };
    let indices = devices.iter().filter(leads_in).map(|device| device.index);
    indices
        .filter(|index| !out.contains(&Some(*index)))
        .collect()
}

fn leads_to(devices: &BTreeSet<u32>, way: Way) -> bool {
    !way.has_gateway && way.device.is_some_and(|device| devices.contains(&device))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(index: u32, kind: &str, master: Option<u32>) -> Device {
        Device {
            index,
            kind: kind.to_owned(),
            master,
            leads_elsewhere: kind == "veth",
        }
    }

    #[test]
    fn pairs_and_their_bridges_lead_to_containers() {
        let mut devices = vec![
            device(1, "", None),
            device(2, "", None),
            device(3, "bridge", None),
            device(4, "veth", Some(3)),
            device(5, "veth", None),
            device(6, "bridge", None),
            device(7, "", Some(6)),
            device(8, "veth", Some(6)),
            device(9, "vxlan", None),
        ];
        let leading = leading_to_containers(&devices, [Some(2), None]);
        assert_eq!(leading, [3, 4, 5, 8].into(), "no hardware behind them");
        let leading = leading_to_containers(&devices, [Some(5), Some(3)]);
        assert_eq!(leading, [4, 8].into(), "not the uplinks");
        devices[4].leads_elsewhere = false;
        let leading = leading_to_containers(&devices, [None; 2]);
        assert_eq!(leading, [3, 4, 8].into(), "both ends are here");
    }

    #[test]
    fn what_a_gateway_passes_on_is_elsewhere() {
        let devices = [5].into();
        let way = Way {
            device: Some(5),
            ..Way::default()
        };
        assert!(leads_to(&devices, way));
        let has_gateway = true;
        assert!(!leads_to(&devices, Way { has_gateway, ..way }));
        assert!(!leads_to(&devices, Way::default()));
    }

    #[test]
    fn addresses_outside_are_not_here() {
        let here = Here::default();
        for _ in 0..2 {
            assert!(!here.has([203, 0, 113, 77].into()));
        }
    }
}
