//! Routing netlink, synchronous: links, addresses, classifier filters, the clsact qdisc.
//!
//! Synchronous, so that what was attached can be detached from a destructor. Answers are taken
//! apart here down to the few attributes that matter: foreign filters carry attributes that no
//! decoder knows all of, and must not make a listing fail.

pub mod route;

use std::{
    collections::VecDeque,
    io,
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd},
};

use rtnetlink::{
    packet_core::{
        NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR,
        NetlinkBuffer, NetlinkMessage, NlasIterator,
    },
    packet_route::{
        RouteNetlinkMessage,
        address::AddressMessage,
        link::{LinkHeader, LinkMessage},
        tc::{TcAttribute, TcHandle, TcHeader, TcMessage},
    },
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};

/// `RTMGRP_LINK`: links that appear, change and go.
const GROUP_LINK: u32 = 1;
/// `RTMGRP_IPV4_IFADDR` and `RTMGRP_IPV6_IFADDR`: addresses that do.
const GROUP_ADDRESS: u32 = 0x10 | 0x100;
/// Largest datagram that is read. The kernel fills 32 KiB at most where nobody asks for details of
/// virtual functions.
const RECEIVE: usize = 64 << 10;

const NLMSG_ALIGN: usize = 4;
const TC_HEADER: usize = 20;
const LINK_HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;
const AF_UNSPEC: u8 = 0;
const IFLA_IFNAME: u16 = 3;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_NAME: u16 = 7;

/// A network interface.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Whether it is administratively up.
    pub up: bool,
    /// Its hardware type, an `ARPHRD_*` of the kernel.
    pub hardware: u16,
}

/// An address of this machine: the interface's index, and what it has.
pub type LinkAddress = (u32, IpAddr);

/// What happened to an interface.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    /// It is new, or something about it is.
    Seen(Link),
    /// It was deleted, or moved to another network namespace.
    Gone(u32),
    /// It has an address.
    Address(LinkAddress),
    /// It no longer has an address.
    AddressGone(LinkAddress),
    /// Changes were lost: whoever wants to know has to list the links.
    Overrun,
}

/// A side of an interface.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Side {
    /// Packets that arrive.
    Ingress,
    /// Packets that leave.
    Egress,
}

impl Side {
    /// Both, in the order of [`wstap_common::globals::PROGRAMS`].
    pub const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];

    fn parent(self) -> TcHandle {
        let minor = match self {
            Self::Ingress => TcHandle::MIN_INGRESS,
            Self::Egress => TcHandle::MIN_EGRESS,
        };
        TcHandle {
            major: u16::MAX,
            minor,
        }
    }
}

/// A filter of a clsact qdisc, or (with handle 0) the classifier that holds filters of one priority.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Filter {
    /// Its number within the classifier.
    pub handle: u32,
    /// Lower ones come first.
    pub priority: u16,
    /// `ETH_P_*` in host byte order.
    pub protocol: u16,
    /// Kind of classifier: `bpf`, `flower`, ...
    pub kind: String,
    /// Name of a `bpf` filter.
    pub name: Option<String>,
}

/// A connection to the kernel for requests.
pub struct Connection {
    socket: Socket,
    sequence: u32,
}

impl Connection {
    /// Opens one in the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// The socket was refused.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// All interfaces.
    ///
    /// # Errors
    ///
    /// The kernel refused, or the answer was cut off.
    pub fn links(&mut self) -> io::Result<Vec<Link>> {
        let message = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let mut links = Vec::new();
        self.request(message, NLM_F_DUMP, |kind, payload| {
            if kind == libc::RTM_NEWLINK {
                links.extend(link(payload));
            }
        })?;
        Ok(links)
    }

    /// All addresses of the interfaces.
    ///
    /// # Errors
    ///
    /// As [`Connection::links`].
    pub fn addresses(&mut self) -> io::Result<Vec<LinkAddress>> {
        let message = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let mut addresses = Vec::new();
        self.request(message, NLM_F_DUMP, |kind, payload| {
            if kind == libc::RTM_NEWADDR {
                addresses.extend(address(payload));
            }
        })?;
        Ok(addresses)
    }

    /// The filters on one side of an interface; none where there is no clsact qdisc.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub fn filters(&mut self, index: u32, side: Side) -> io::Result<Vec<Filter>> {
        let message = RouteNetlinkMessage::GetTrafficFilter(tc_message(index, side.parent()));
        let mut filters = Vec::new();
        self.request(message, NLM_F_DUMP, |kind, payload| {
            if kind == libc::RTM_NEWTFILTER {
                filters.extend(filter(payload));
            }
        })?;
        Ok(filters)
    }

    /// Removes a filter.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub fn delete_filter(&mut self, index: u32, side: Side, filter: &Filter) -> io::Result<()> {
        let mut message = tc_message(index, side.parent());
        message.header.handle = TcHandle::from(filter.handle);
        message.header.info =
            (u32::from(filter.priority) << 16) | u32::from(filter.protocol.to_be());
        let message = RouteNetlinkMessage::DelTrafficFilter(message);
        self.request(message, NLM_F_ACK, |_, _| ())
    }

    /// Adds a clsact qdisc; whether it is new.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub fn add_clsact(&mut self, index: u32) -> io::Result<bool> {
        let message = RouteNetlinkMessage::NewQueueDiscipline(clsact(index));
        match self.request(message, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, |_, _| ()) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes the clsact qdisc with all that is in it.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub fn delete_clsact(&mut self, index: u32) -> io::Result<()> {
        let message = RouteNetlinkMessage::DelQueueDiscipline(clsact(index));
        self.request(message, NLM_F_ACK, |_, _| ())
    }

    fn request(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        mut answer: impl FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut request = vec![0; message.buffer_len()];
        message.serialize(&mut request);
        self.socket.send(&request, 0)?;

        loop {
            let datagram = match receive(&self.socket, 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                datagram => datagram?,
            };
            for (header, payload) in messages(&datagram) {
                // What is left of an earlier request that failed half-way.
                if header.sequence != self.sequence {
                    continue;
                }
                match header.kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => return acknowledged(payload),
                    kind => answer(kind, payload),
                }
            }
        }
    }
}

/// Hears of changes to the interfaces and their addresses.
pub struct Monitor {
    socket: Socket,
}

impl Monitor {
    /// Begins to listen in the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// The socket was refused.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, GROUP_LINK | GROUP_ADDRESS))?;
        Ok(Self { socket })
    }

    /// What has happened since the last call; does not wait. Where the kernel has dropped messages,
    /// [`Change::Overrun`] is all there is: it says so before it hands out the messages that are left,
    /// and those tell of a time before anything that is listed now.
    ///
    /// # Errors
    ///
    /// The socket broke.
    pub fn changes(&mut self) -> io::Result<VecDeque<Change>> {
        let mut changes = VecDeque::new();
        let mut overrun = false;
        loop {
            match receive(&self.socket, libc::MSG_DONTWAIT) {
                Ok(datagram) => changes.extend(
                    messages(&datagram)
                        .filter_map(|(header, payload)| change(header.kind, payload)),
                ),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) if overrun => return Ok([Change::Overrun].into()),
                    Some(libc::EAGAIN) => return Ok(changes),
                    Some(libc::EINTR) => {}
                    Some(libc::ENOBUFS) => overrun = true,
                    _ => return Err(error),
                },
            }
        }
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn receive(socket: &Socket, flags: libc::c_int) -> io::Result<Vec<u8>> {
    let mut datagram = Vec::with_capacity(RECEIVE);
    let len = socket.recv(&mut datagram, flags | libc::MSG_TRUNC)?;
    if len > datagram.len() {
        return Err(io::Error::other(format!("netlink answer of {len} bytes")));
    }
    Ok(datagram)
}

struct Header {
    kind: u16,
    sequence: u32,
}

/// The messages of a datagram. What follows a damaged one is left out.
fn messages(mut datagram: &[u8]) -> impl Iterator<Item = (Header, &[u8])> {
    std::iter::from_fn(move || {
        let buffer = NetlinkBuffer::new_checked(datagram).ok()?;
        let header = Header {
            kind: buffer.message_type(),
            sequence: buffer.sequence_number(),
        };
        let len = usize::try_from(buffer.length()).ok()?;
        let payload = datagram.get(NETLINK_HEADER..len)?;
        datagram = datagram
            .get(len.next_multiple_of(NLMSG_ALIGN)..)
            .unwrap_or_default();
        Some((header, payload))
    })
}

const NETLINK_HEADER: usize = 16;

/// What an `NLMSG_ERROR` says: 0 is an acknowledgement.
fn acknowledged(payload: &[u8]) -> io::Result<()> {
    let code = payload
        .first_chunk()
        .map_or(-libc::EBADMSG, |code| i32::from_ne_bytes(*code));
    if code == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(code.saturating_neg()))
    }
}

fn change(kind: u16, payload: &[u8]) -> Option<Change> {
    match kind {
        libc::RTM_NEWLINK => link(payload).map(Change::Seen),
        libc::RTM_DELLINK => own_header(payload).map(|header| Change::Gone(header.index)),
        libc::RTM_NEWADDR => address(payload).map(Change::Address),
        libc::RTM_DELADDR => address(payload).map(Change::AddressGone),
        _ => None,
    }
}

/// The header of a message about the link itself. Bridges send messages of their own family on the
/// same group, and their `RTM_DELLINK` says that a port has left the bridge.
fn own_header(payload: &[u8]) -> Option<LinkHeader> {
    let header = LinkHeader::parse(payload).ok()?;
    (u8::from(header.interface_family) == AF_UNSPEC).then_some(header)
}

fn link(payload: &[u8]) -> Option<Link> {
    let header = own_header(payload)?;
    let name = attributes(payload.get(LINK_HEADER..)?)
        .find_map(|(kind, value)| (kind == IFLA_IFNAME).then(|| text(value)))?;
    Some(Link {
        index: header.index,
        name,
        up: header.flags.bits() & libc::IFF_UP.cast_unsigned() != 0,
        hardware: u16::from(header.link_layer_type),
    })
}

fn address(payload: &[u8]) -> Option<LinkAddress> {
    let (header, rest) = payload.split_first_chunk::<ADDRESS_HEADER>()?;
    let [.., a, b, c, d] = *header;
    let mut own = None;
    for (kind, value) in attributes(rest) {
        let value = || {
            let v4 = value.first_chunk::<4>().filter(|_| value.len() == 4);
            let v6 = value.first_chunk::<16>().filter(|_| value.len() == 16);
            v4.map(|v4| IpAddr::from(*v4))
                .or(v6.map(|v6| IpAddr::from(*v6)))
        };
        match kind {
            // On a point-to-point link the other one is the peer's.
            IFA_LOCAL => own = value(),
            IFA_ADDRESS => own = own.or_else(value),
            _ => {}
        }
    }
    Some((u32::from_ne_bytes([a, b, c, d]), own?))
}

fn filter(payload: &[u8]) -> Option<Filter> {
    let header = TcHeader::parse(payload).ok()?;
    let mut filter = Filter {
        handle: header.handle.into(),
        priority: (header.info >> 16) as u16,
        protocol: u16::from_be(header.info as u16),
        kind: String::new(),
        name: None,
    };
    for (kind, value) in attributes(payload.get(TC_HEADER..)?) {
        match kind {
            TCA_KIND => filter.kind = text(value),
            TCA_OPTIONS if filter.kind == "bpf" => {
                filter.name = attributes(value)
                    .find_map(|(kind, value)| (kind == TCA_BPF_NAME).then(|| text(value)));
            }
            _ => {}
        }
    }
    Some(filter)
}

/// Kinds and values of attributes. What follows a damaged one is left out.
fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(bytes)
        .map_while(Result::ok)
        .map(|attribute| {
            let kind = attribute.kind();
            let len = attribute.value_length();
            let value = attribute.into_inner();
            (
                kind,
                value.get(NLA_HEADER..NLA_HEADER + len).unwrap_or_default(),
            )
        })
}

const NLA_HEADER: usize = 4;

fn text(value: &[u8]) -> String {
    let value = value.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(value).into_owned()
}

fn tc_message(index: u32, parent: TcHandle) -> TcMessage {
    let mut message = TcMessage::with_index(index.cast_signed());
    message.header.parent = parent;
    message
}

fn clsact(index: u32) -> TcMessage {
    let mut message = tc_message(index, TcHandle::CLSACT);
    message.header.handle = TcHandle {
        major: u16::MAX,
        minor: 0,
    };
    message
        .attributes
        .push(TcAttribute::Kind("clsact".to_owned()));
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let len = u16::try_from(NLA_HEADER + value.len()).unwrap();
        let mut bytes = [len.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(NLMSG_ALIGN), 0);
        bytes
    }

    fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
        let len = u32::try_from(NETLINK_HEADER + payload.len()).unwrap();
        let mut bytes = len.to_ne_bytes().to_vec();
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.resize(NETLINK_HEADER, 0);
        bytes.extend_from_slice(payload);
        bytes
    }

    fn link_payload(family: u8, index: u32, flags: u32, name: &str) -> Vec<u8> {
        let mut payload = vec![family, 0];
        payload.extend_from_slice(&772u16.to_ne_bytes());
        payload.extend_from_slice(&index.to_ne_bytes());
        payload.extend_from_slice(&flags.to_ne_bytes());
        payload.extend_from_slice(&[0; 4]);
        payload.extend(attribute(IFLA_IFNAME, format!("{name}\0").as_bytes()));
        payload
    }

    fn changes(datagram: &[u8]) -> Vec<Change> {
        messages(datagram)
            .filter_map(|(header, payload)| change(header.kind, payload))
            .collect()
    }

    #[test]
    fn links_come_and_go() {
        let mut datagram = message(libc::RTM_NEWLINK, &link_payload(0, 7, 1, "veth0"));
        datagram.extend(message(libc::RTM_DELLINK, &link_payload(0, 8, 0, "veth1")));
        let link = Link {
            index: 7,
            name: "veth0".to_owned(),
            up: true,
            hardware: 772,
        };
        assert_eq!(changes(&datagram), [Change::Seen(link), Change::Gone(8)]);
    }

    #[test]
    fn addresses_come_and_go() {
        let mut header = vec![2, 24, 0, 0];
        header.extend_from_slice(&7u32.to_ne_bytes());
        let mut payload = header.clone();
        payload.extend(attribute(IFA_ADDRESS, &[192, 0, 2, 2]));
        payload.extend(attribute(IFA_LOCAL, &[192, 0, 2, 1]));
        let own: IpAddr = [192, 0, 2, 1].into();
        let mut datagram = message(libc::RTM_NEWADDR, &payload);
        let v6 = [0xfd; 16];
        header.extend(attribute(IFA_ADDRESS, &v6));
        datagram.extend(message(libc::RTM_DELADDR, &header));
        assert_eq!(
            changes(&datagram),
            [
                Change::Address((7, own)),
                Change::AddressGone((7, v6.into()))
            ]
        );
        assert_eq!(changes(&message(libc::RTM_NEWADDR, &payload[..7])), []);
    }

    #[test]
    fn a_port_that_leaves_its_bridge_is_not_gone() {
        let bridge = u8::try_from(libc::AF_BRIDGE).unwrap();
        let datagram = message(libc::RTM_DELLINK, &link_payload(bridge, 8, 0, "veth1"));
        assert_eq!(changes(&datagram), []);
    }

    #[test]
    fn damaged_messages_yield_nothing() {
        let datagram = message(libc::RTM_NEWLINK, &link_payload(0, 7, 1, "veth0"));
        for len in 0..datagram.len() {
            assert_eq!(changes(&datagram[..len]), [], "{len} bytes");
        }
        let headless = message(libc::RTM_NEWLINK, &[0; 5]);
        assert_eq!(changes(&headless), []);
    }

    #[test]
    fn filters_are_known_by_kind_and_name() {
        let mut payload = vec![0; TC_HEADER];
        payload[8..12].copy_from_slice(&0x0001_0002_u32.to_ne_bytes());
        payload[16..20]
            .copy_from_slice(&((1u32 << 16) | u32::from(0x0003_u16.to_be())).to_ne_bytes());
        payload.extend(attribute(TCA_KIND, b"bpf\0"));
        payload.extend(attribute(
            TCA_OPTIONS,
            &attribute(TCA_BPF_NAME, b"wstap_eth_in\0"),
        ));
        let expected = Filter {
            handle: 0x0001_0002,
            priority: 1,
            protocol: 3,
            kind: "bpf".to_owned(),
            name: Some("wstap_eth_in".to_owned()),
        };
        assert_eq!(filter(&payload), Some(expected));
    }

    #[test]
    fn errors_are_told_from_acknowledgements() {
        assert!(acknowledged(&[0; 20]).is_ok());
        let error = acknowledged(&(-libc::EPERM).to_ne_bytes()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
        assert!(acknowledged(&[]).is_err());
    }

    #[test]
    fn this_machine_has_a_loopback_interface() {
        let links = Connection::open().unwrap().links().unwrap();
        assert!(
            links
                .iter()
                .any(|link| link.hardware == libc::ARPHRD_LOOPBACK)
        );
    }
}
