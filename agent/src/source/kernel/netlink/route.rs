//! The way to an address, and what kinds of devices there are.

use std::{io, net::IpAddr};

use rtnetlink::packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::LinkMessage,
    route::{RouteAttribute, RouteFlags, RouteMessage},
};

use super::{Connection, LINK_HEADER, NLM_F_DUMP, attributes, own_header, text};

const ROUTE_HEADER: usize = 12;
const RTN_LOCAL: u8 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_VIA: u16 = 18;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_LINK_NETNSID: u16 = 37;

/// Where packets to an address go.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Way {
    /// Nowhere: the address is this machine's own.
    pub is_own: bool,
    /// Index of the interface that they leave by.
    pub device: Option<u32>,
    /// Another machine passes them on.
    pub has_gateway: bool,
    /// The route is to this address alone.
    pub is_single: bool,
}

/// What an interface is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Device {
    /// Its index.
    pub index: u32,
    /// `veth`, `bridge` and the like; empty for hardware.
    pub kind: String,
    /// The bridge (or the like) that it is a port of.
    pub master: Option<u32>,
    /// Its other end is in another network namespace of this machine.
    pub leads_elsewhere: bool,
}

impl Connection {
    /// The way to an address.
    ///
    /// # Errors
    ///
    /// There is none, or the kernel refused.
    pub fn way(&mut self, to: IpAddr) -> io::Result<Way> {
        let mut message = RouteMessage::default();
        (
            message.header.address_family,
            message.header.destination_prefix_length,
        ) = match to {
            IpAddr::V4(_) => (AddressFamily::Inet, 32),
            IpAddr::V6(_) => (AddressFamily::Inet6, 128),
        };
        // The route, and not what comes of it for this address.
        message.header.flags = RouteFlags::FibMatch;
        message
            .attributes
            .push(RouteAttribute::Destination(to.into()));
        let mut found = None;
        // An acknowledgement follows the answer, and ends it.
        let flags = super::NLM_F_ACK;
        self.request(
            RouteNetlinkMessage::GetRoute(message),
            flags,
            |kind, payload| {
                if kind == libc::RTM_NEWROUTE {
                    found = way(payload);
                }
            },
        )?;
        found.ok_or_else(|| io::Error::from_raw_os_error(libc::ENETUNREACH))
    }

    /// All interfaces, and what they are.
    ///
    /// # Errors
    ///
    /// As [`Connection::links`].
    pub fn devices(&mut self) -> io::Result<Vec<Device>> {
        let message = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let mut devices = Vec::new();
        self.request(message, NLM_F_DUMP, |kind, payload| {
            if kind == libc::RTM_NEWLINK {
                devices.extend(device(payload));
            }
        })?;
        Ok(devices)
    }
}

fn number(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

fn way(payload: &[u8]) -> Option<Way> {
    let (header, rest) = payload.split_first_chunk::<ROUTE_HEADER>()?;
    let [family, len, .., kind, _, _, _, _] = *header;
    let whole = if i32::from(family) == libc::AF_INET {
        32
    } else {
        128
    };
    let mut way = Way {
        is_own: kind == RTN_LOCAL,
        is_single: len == whole,
        ..Way::default()
    };
    for (kind, value) in attributes(rest) {
        match kind {
            RTA_OIF => way.device = number(value),
            RTA_GATEWAY | RTA_VIA => way.has_gateway = true,
            _ => {}
        }
    }
    Some(way)
}

fn device(payload: &[u8]) -> Option<Device> {
    let mut device = Device {
        index: own_header(payload)?.index,
        ..Device::default()
    };
    for (kind, value) in attributes(payload.get(LINK_HEADER..)?) {
        match kind {
            IFLA_MASTER => device.master = number(value),
            IFLA_LINK_NETNSID => device.leads_elsewhere = true,
            IFLA_LINKINFO => {
                let kind = attributes(value).find(|(kind, _)| *kind == IFLA_INFO_KIND);
                device.kind = kind.map(|(_, value)| text(value)).unwrap_or_default();
            }
            _ => {}
        }
    }
    Some(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_its_own() {
        let mut netlink = Connection::open().unwrap();
        for own in ["127.0.0.1", "127.9.9.9"] {
            assert!(netlink.way(own.parse().unwrap()).unwrap().is_own, "{own}");
        }
        // Whether there is a way out or none: requests go on behind an error.
        let _ = netlink.way("192.0.2.1".parse().unwrap());
        assert!(netlink.way([127, 0, 0, 1].into()).unwrap().is_own);
        let devices = netlink.devices().unwrap();
        assert!(devices.iter().any(|device| device.kind.is_empty()));
    }

    #[test]
    fn damaged_answers_yield_nothing() {
        assert_eq!(way(&[0; ROUTE_HEADER - 1]), None);
        let mut payload = vec![0; ROUTE_HEADER];
        (payload[0], payload[1], payload[7]) = (2, 32, RTN_LOCAL);
        payload.extend([5, 0, 4, 0, 1]);
        let own = Way {
            is_own: true,
            is_single: true,
            ..Way::default()
        };
        assert_eq!(way(&payload), Some(own));
        assert_eq!(device(&[0; 3]), None);
    }
}
