//! Which addresses belong to containers of this machine, where nobody else says so.
//!
//! An address is one of theirs if packets to it leave directly, by no gateway: by a route of its own
//! through a device whose other end is in another network namespace of this machine, or through a bridge
//! with no hardware among its ports. A node that is itself a container has such a device for its uplink,
//! with routes to networks; and the devices of default routes lead out, whatever they are.

use std::{
    collections::BTreeSet,
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::netlink::{
    Connection,
    route::{Device, Way},
};

/// How long what the kernel has said holds. Containers come and go, and their addresses are used again.
const LIFETIME: Duration = Duration::from_secs(5);

/// Addresses of containers that are remembered.
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
    /// Addresses of containers.
    containers: BTreeSet<IpAddr>,
    devices: Devices,
    /// When all of this is asked for anew.
    until: Option<Instant>,
}

/// Indices of devices.
#[derive(Debug, Default, Eq, PartialEq)]
struct Devices {
    all: BTreeSet<u32>,
    /// Those that lead to a container.
    pairs: BTreeSet<u32>,
    /// Those that lead to several.
    bridges: BTreeSet<u32>,
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
        if known.until.is_none_or(|until| now >= until) || known.containers.len() >= REMEMBERED {
            known.containers.clear();
            known.look_around();
            known.until = Some(now + LIFETIME);
        }
        if known.containers.contains(&address) {
            return true;
        }
        // Only what is found is remembered: a container may be about to get the address.
        let is_here = known.way(address).is_ok_and(|way| {
            let is_new = |device| !known.devices.all.contains(&device);
            if way.device.is_some_and(is_new) {
                known.look_around();
            }
            known.devices.lead_in(way)
        });
        if is_here {
            known.containers.insert(address);
        }
        is_here
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

    fn look_around(&mut self) {
        let devices = self.netlink().and_then(Connection::devices);
        let devices = devices.unwrap_or_else(|error| {
            log::debug!("listing the devices of containers: {error}");
            Vec::new()
        });
        // No way at all is no way through one of them.
        let out = NOWHERE.map(|nowhere| self.way(nowhere).ok().and_then(|way| way.device));
        self.devices = Devices::new(&devices, out);
    }
}

impl Devices {
    /// Of which the default routes go by those of `out`.
    fn new(devices: &[Device], out: [Option<u32>; 2]) -> Self {
        let is_pair = |device: &Device| matches!(&*device.kind, "veth" | "netkit");
        let is_out = |device: &Device| out.contains(&Some(device.index));
        let hardware = |port: &&Device| port.master.is_some() && (!is_pair(port) || is_out(port));
        let masters = devices
            .iter()
            .filter(hardware)
            .filter_map(|port| port.master);
        let mixed: BTreeSet<u32> = masters.collect();
        let indices = |is_meant: &dyn Fn(&Device) -> bool| {
            let inward = devices.iter().filter(|device| !is_out(device));
            let meant = inward.filter(|device| is_meant(device));
            meant.map(|device| device.index).collect()
        };
        Self {
            all: devices.iter().map(|device| device.index).collect(),
            pairs: indices(&|device| is_pair(device) && device.leads_elsewhere),
            bridges: indices(&|device| device.kind == "bridge" && !mixed.contains(&device.index)),
        }
    }

    /// Whether a way ends in a container.
    fn lead_in(&self, way: Way) -> bool {
        !way.has_gateway
            && way.device.is_some_and(|device| {
                self.bridges.contains(&device) || (way.is_single && self.pairs.contains(&device))
            })
    }
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
        let inward = |devices: &[Device], out| {
            let Devices { pairs, bridges, .. } = Devices::new(devices, out);
            (pairs, bridges)
        };
        let found = inward(&devices, [Some(2), None]);
        let pairs = [4, 5, 8].into();
        assert_eq!(found, (pairs, [3].into()), "no hardware behind them");
        let found = inward(&devices, [Some(5), Some(3)]);
        assert_eq!(found, ([4, 8].into(), [].into()), "not the uplinks");
        devices[4].leads_elsewhere = false;
        let found = inward(&devices, [None; 2]);
        let pairs = [4, 8].into();
        assert_eq!(found, (pairs, [3].into()), "both ends are here");
    }

    #[test]
    fn what_a_gateway_passes_on_is_elsewhere() {
        let devices = Devices {
            pairs: [5].into(),
            bridges: [3].into(),
            ..Devices::default()
        };
        let way = Way {
            device: Some(5),
            is_single: true,
            ..Way::default()
        };
        assert!(devices.lead_in(way));
        let network = Way {
            is_single: false,
            ..way
        };
        assert!(!devices.lead_in(network), "an uplink, maybe");
        let device = Some(3);
        assert!(devices.lead_in(Way { device, ..network }));
        let has_gateway = true;
        assert!(!devices.lead_in(Way { has_gateway, ..way }));
        assert!(!devices.lead_in(Way::default()));
    }

    #[test]
    fn addresses_outside_are_not_here() {
        let here = Here::default();
        for _ in 0..2 {
            assert!(!here.has([203, 0, 113, 77].into()));
        }
    }
}
