//! From the bytes of a captured packet to a segment: the capture-file path, where a packet begins
//! at its link layer and may be cut short.
//!
//! Owns the link layers, VLAN tags, IPv4, IPv6 with its extension headers, and TCP's header.
//! Does not reassemble IP fragments, look into tunnels or verify checksums (a packet captured at
//! its sender often has none yet).
//!
//! What a packet carries is taken from the IP header and not from the capture: a short Ethernet
//! frame is padded, and a snap length cuts. Only the fixed part of the TCP header has to be there.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use crate::proto::{
    segment::{Segment, TcpFlags, Window},
    seq::SeqNumber,
    time::Timestamp,
};

/// VLAN tags that are passed over at most; two are usual where a provider adds its own.
pub const MAX_VLAN_TAGS: usize = 4;

/// IPv6 extension headers that are passed over at most; each kind should occur once (RFC 8200,
/// section 4.1), and there are fewer than this.
pub const MAX_EXTENSION_HEADERS: usize = 8;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// 802.1Q, 802.1ad, and the number that QinQ used before there was 802.1ad.
const ETHERTYPES_VLAN: [u16; 3] = [0x8100, 0x88a8, 0x9100];

/// `ARPHRD_NETLINK`: the protocol field of a cooked header is a netlink family then.
const ARPHRD_NETLINK: u16 = 824;

const PROTOCOL_TCP: u8 = 6;

/// What a packet begins with. The numbers are those of the link-layer header types that pcap and
/// pcapng share.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LinkType {
    /// `EN10MB`, 1.
    Ethernet,
    /// `LINUX_SLL`, 113: what Linux gives for the device `any` and for devices without a header.
    LinuxSll,
    /// `LINUX_SLL2`, 276.
    LinuxSll2,
    /// `RAW` (101, and 12 and 14 in files that carry a BSD's own number), `IPV4` (228), `IPV6`
    /// (229): the IP version tells which.
    Ip,
    /// `NULL` (0) and `LOOP` (108): a BSD's address family, in either byte order.
    Loopback,
}

impl LinkType {
    /// The link type of a file's or an interface's number, where it is one that can be read.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        match number {
            1 => Some(Self::Ethernet),
            113 => Some(Self::LinuxSll),
            276 => Some(Self::LinuxSll2),
            12 | 14 | 101 | 228 | 229 => Some(Self::Ip),
            0 | 108 => Some(Self::Loopback),
            _ => None,
        }
    }
}

/// Why a packet is no segment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NoSegment {
    /// It carries something else.
    NotTcp,
    /// An IP fragment other than the first: without a TCP header.
    Fragment,
    /// The capture ends before the headers do.
    Cut,
    /// The headers contradict themselves.
    Malformed,
}

/// A TCP packet, read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TcpPacket<'a> {
    /// Sender.
    pub source: SocketAddr,
    /// Receiver.
    pub destination: SocketAddr,
    /// Sequence number.
    pub seq: SeqNumber,
    /// Acknowledgement number, with the ACK flag.
    pub ack: Option<SeqNumber>,
    /// Flags.
    pub flags: TcpFlags,
    /// The window field as sent.
    pub window: u16,
    /// Payload bytes on the wire. Of a first fragment: in that fragment.
    pub len: u32,
    /// The payload bytes that were captured: the first ones, at most `len`.
    pub payload: &'a [u8],
}

impl<'a> TcpPacket<'a> {
    /// Reads a packet of which `captured` was captured, and which had `len` bytes on the wire.
    ///
    /// # Errors
    ///
    /// Where it is not a TCP segment or cannot be read as one.
    pub fn parse(link: LinkType, captured: &'a [u8], len: u32) -> Result<Self, NoSegment> {
        let frame = Layer::new(captured, len);
        let (addresses, segment) = match link {
            LinkType::Ethernet => ethernet(frame),
            LinkType::LinuxSll => linux_sll(frame),
            LinkType::LinuxSll2 => linux_sll2(frame),
            LinkType::Ip => ip(frame),
            LinkType::Loopback => loopback(frame),
        }?;
        tcp(addresses, segment)
    }

    /// The window of what was captured, to be put into a segment.
    #[must_use]
    pub fn captured(&self) -> Window<'a> {
        Window {
            offset: 0,
            bytes: self.payload,
        }
    }

    /// The segment, seen at `ts` on `interface`. `window` is what [`Self::captured`] gave.
    #[must_use]
    pub fn segment<'w>(
        &self,
        ts: Timestamp,
        interface: Option<u32>,
        window: &'w Window<'w>,
    ) -> Segment<'w> {
        Segment {
            ts,
            source: self.source,
            destination: self.destination,
            seq: self.seq,
            ack: self.ack,
            flags: self.flags,
            window: self.window,
            len: self.len,
            behind: 0,
            windows: if window.bytes.is_empty() {
                &[]
            } else {
                std::slice::from_ref(window)
            },
            interface,
            scope: 0,
            epoch: 0,
        }
    }
}

/// What is left of a packet at some layer: bytes on the wire, of which the first were captured.
#[derive(Clone, Copy)]
struct Layer<'a> {
    captured: &'a [u8],
    len: u32,
}

impl<'a> Layer<'a> {
    fn new(captured: &'a [u8], len: u32) -> Self {
        // Some writers leave the length on the wire 0.
        let len = len.max(u32::try_from(captured.len()).unwrap_or(u32::MAX));
        Self { captured, len }
    }

    /// The first `N` bytes.
    fn first<const N: usize>(&self) -> Result<&'a [u8; N], NoSegment> {
        match self.captured.first_chunk() {
            Some(bytes) if self.holds(N) => Ok(bytes),
            None if self.holds(N) => Err(NoSegment::Cut),
            _ => Err(NoSegment::Malformed),
        }
    }

    /// What follows the first `n` bytes, which need not have been captured.
    fn after(self, n: usize) -> Result<Self, NoSegment> {
        let len = u32::try_from(n).ok().and_then(|n| self.len.checked_sub(n));
        let len = len.ok_or(NoSegment::Malformed)?;
        let captured = self.captured.get(n..).unwrap_or_default();
        Ok(Self { captured, len })
    }

    /// The same with the length that the IP header states: padding goes, and what the capture does
    /// not have may still have been on the wire.
    fn with_len(self, len: u32) -> Self {
        let end = usize::try_from(len)
            .unwrap_or(usize::MAX)
            .min(self.captured.len());
        let captured = self.captured.get(..end).unwrap_or_default();
        Self { captured, len }
    }

    fn holds(&self, n: usize) -> bool {
        u32::try_from(n).is_ok_and(|n| n <= self.len)
    }
}

/// Sender and receiver without their ports.
#[derive(Clone, Copy)]
enum Addresses {
    V4(Ipv4Addr, Ipv4Addr),
    V6(Ipv6Addr, Ipv6Addr),
}

impl Addresses {
    fn with_ports(self, source: u16, destination: u16) -> (SocketAddr, SocketAddr) {
        match self {
            Self::V4(from, to) => (
                SocketAddrV4::new(from, source).into(),
                SocketAddrV4::new(to, destination).into(),
            ),
            Self::V6(from, to) => (
                SocketAddrV6::new(from, source, 0, 0).into(),
                SocketAddrV6::new(to, destination, 0, 0).into(),
            ),
        }
    }
}

/// What an IP packet is to us: its addresses and the TCP segment in it.
type IpPacket<'a> = Result<(Addresses, Layer<'a>), NoSegment>;

fn ethernet(frame: Layer<'_>) -> IpPacket<'_> {
    let header: &[u8; 14] = frame.first()?;
    ether_type(
        u16::from_be_bytes([header[12], header[13]]),
        frame.after(14)?,
    )
}

fn linux_sll(frame: Layer<'_>) -> IpPacket<'_> {
    let header: &[u8; 16] = frame.first()?;
    if u16::from_be_bytes([header[2], header[3]]) == ARPHRD_NETLINK {
        return Err(NoSegment::NotTcp);
    }
    ether_type(
        u16::from_be_bytes([header[14], header[15]]),
        frame.after(16)?,
    )
}

fn linux_sll2(frame: Layer<'_>) -> IpPacket<'_> {
    let header: &[u8; 20] = frame.first()?;
    if u16::from_be_bytes([header[8], header[9]]) == ARPHRD_NETLINK {
        return Err(NoSegment::NotTcp);
    }
    ether_type(u16::from_be_bytes([header[0], header[1]]), frame.after(20)?)
}

/// `AF_INET6` is 10 on Linux, 24 on NetBSD and OpenBSD, 28 on FreeBSD, 30 on Darwin. `NULL` has
/// the byte order of the machine that captured and `LOOP` is big-endian; the families are small
/// enough to tell the order by looking.
fn loopback(frame: Layer<'_>) -> IpPacket<'_> {
    let header: &[u8; 4] = frame.first()?;
    let family = u32::from_be_bytes(*header);
    let family = if family > 0xffff {
        family.swap_bytes()
    } else {
        family
    };
    match family {
        2 => ipv4(frame.after(4)?),
        10 | 24 | 28 | 30 => ipv6(frame.after(4)?),
        _ => Err(NoSegment::NotTcp),
    }
}

fn ether_type(mut ether_type: u16, mut payload: Layer<'_>) -> IpPacket<'_> {
    let mut tags = 0;
    while ETHERTYPES_VLAN.contains(&ether_type) {
        if tags == MAX_VLAN_TAGS {
            return Err(NoSegment::Malformed);
        }
        let tag: &[u8; 4] = payload.first()?;
        ether_type = u16::from_be_bytes([tag[2], tag[3]]);
        payload = payload.after(4)?;
        tags += 1;
    }
    match ether_type {
        ETHERTYPE_IPV4 => ipv4(payload),
        ETHERTYPE_IPV6 => ipv6(payload),
        _ => Err(NoSegment::NotTcp),
    }
}

fn ip(packet: Layer<'_>) -> IpPacket<'_> {
    let [version] = packet.first()?;
    match version >> 4 {
        4 => ipv4(packet),
        6 => ipv6(packet),
        _ => Err(NoSegment::Malformed),
    }
}

fn ipv4(packet: Layer<'_>) -> IpPacket<'_> {
    let header: &[u8; 20] = packet.first()?;
    let header_len = usize::from(header[0] & 0x0f) * 4;
    if header[0] >> 4 != 4 || header_len < 20 {
        return Err(NoSegment::Malformed);
    }
    // A sender whose device segments (TSO) is captured before that, with super-packets that may be
    // beyond what the field holds: Linux leaves it 0 then.
    let packet = match u16::from_be_bytes([header[2], header[3]]) {
        0 => packet,
        total => packet.with_len(u32::from(total)),
    };
    let payload = packet.after(header_len)?;
    if header[9] != PROTOCOL_TCP {
        return Err(NoSegment::NotTcp);
    }
    if u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0 {
        return Err(NoSegment::Fragment);
    }
    let address =
        |at: usize| Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]);
    Ok((Addresses::V4(address(12), address(16)), payload))
}

fn ipv6(packet: Layer<'_>) -> IpPacket<'_> {
    let header: &[u8; 40] = packet.first()?;
    if header[0] >> 4 != 6 {
        return Err(NoSegment::Malformed);
    }
    let payload = packet.after(40)?;
    // 0 is a jumbogram (RFC 2675), as BIG TCP makes them, with or without the option that has the
    // length: the packet's own length is the same.
    let mut payload = match u16::from_be_bytes([header[4], header[5]]) {
        0 => payload,
        len => payload.with_len(u32::from(len)),
    };
    let address = |at: usize| Ipv6Addr::from(std::array::from_fn::<u8, 16, _>(|i| header[at + i]));
    let addresses = Addresses::V6(address(8), address(24));
    let mut next = header[6];
    for _ in 0..=MAX_EXTENSION_HEADERS {
        let len = match next {
            PROTOCOL_TCP => return Ok((addresses, payload)),
            // Hop-by-hop options, routing, destination options, mobility, HIP, shim6.
            0 | 43 | 60 | 135 | 139 | 140 => {
                let start: &[u8; 2] = payload.first()?;
                (usize::from(start[1]) + 1) * 8
            }
            // Authentication header (RFC 4302): counted in words of four bytes.
            51 => {
                let start: &[u8; 2] = payload.first()?;
                (usize::from(start[1]) + 2) * 4
            }
            44 => {
                let fragment: &[u8; 8] = payload.first()?;
                if u16::from_be_bytes([fragment[2], fragment[3]]) & 0xfff8 != 0 {
                    return Err(match fragment[0] {
                        PROTOCOL_TCP => NoSegment::Fragment,
                        _ => NoSegment::NotTcp,
                    });
                }
                8
            }
            _ => return Err(NoSegment::NotTcp),
        };
        [next] = *payload.first()?;
        payload = payload.after(len)?;
    }
    Err(NoSegment::Malformed)
}

fn tcp(addresses: Addresses, segment: Layer<'_>) -> Result<TcpPacket<'_>, NoSegment> {
    let header: &[u8; 20] = segment.first()?;
    let header_len = usize::from(header[12] >> 4) * 4;
    if header_len < 20 {
        return Err(NoSegment::Malformed);
    }
    let payload = segment.after(header_len)?;
    let word = |at: usize| {
        u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    let flags = TcpFlags(header[13]);
    let (source, destination) = addresses.with_ports(
        u16::from_be_bytes([header[0], header[1]]),
        u16::from_be_bytes([header[2], header[3]]),
    );
    Ok(TcpPacket {
        source,
        destination,
        seq: SeqNumber(word(4)),
        ack: flags.ack().then(|| SeqNumber(word(8))),
        flags,
        window: u16::from_be_bytes([header[14], header[15]]),
        len: payload.len,
        payload: payload.captured,
    })
}

#[cfg(test)]
mod tests;
