//! Writes capture files in memory: pcap and pcapng in all variants that a reader has to know.
//!
//! Nothing is checked: a test may write what no program would.

// Every test that includes this file uses a part of it.
#![allow(dead_code)]

use std::net::{IpAddr, SocketAddr};

use etherparse::{IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, TcpHeader};

/// Byte order of the machine that writes.
#[derive(Clone, Copy, Debug)]
pub enum Order {
    Little,
    Big,
}

impl Order {
    pub const BOTH: [Self; 2] = [Self::Little, Self::Big];

    pub fn u16(self, value: u16) -> [u8; 2] {
        match self {
            Self::Little => value.to_le_bytes(),
            Self::Big => value.to_be_bytes(),
        }
    }

    pub fn u32(self, value: u32) -> [u8; 4] {
        match self {
            Self::Little => value.to_le_bytes(),
            Self::Big => value.to_be_bytes(),
        }
    }

    pub fn u64(self, value: u64) -> [u8; 8] {
        match self {
            Self::Little => value.to_le_bytes(),
            Self::Big => value.to_be_bytes(),
        }
    }
}

/// What a pcap file begins with.
#[derive(Clone, Copy, Debug)]
pub enum Magic {
    Microseconds,
    Nanoseconds,
    /// Microseconds, and records with eight more bytes of header.
    Modified,
}

/// A pcap file.
pub struct Pcap {
    order: Order,
    magic: Magic,
    file: Vec<u8>,
}

impl Pcap {
    pub fn new(order: Order, magic: Magic, link_type: u32) -> Self {
        let number = match magic {
            Magic::Microseconds => 0xa1b2_c3d4,
            Magic::Nanoseconds => 0xa1b2_3c4d,
            Magic::Modified => 0xa1b2_cd34,
        };
        let mut file = Vec::new();
        file.extend(order.u32(number));
        file.extend(order.u16(2));
        file.extend(order.u16(4));
        for field in [0, 0, 262_144, link_type] {
            file.extend(order.u32(field));
        }
        Self { order, magic, file }
    }

    /// A packet that was captured whole, at `nanos` since the epoch.
    pub fn packet(&mut self, nanos: u64, packet: &[u8]) -> &mut Self {
        self.cut_packet(nanos, packet, packet.len() as u32)
    }

    /// A packet of which `captured` was captured, and which had `len` bytes on the wire.
    pub fn cut_packet(&mut self, nanos: u64, captured: &[u8], len: u32) -> &mut Self {
        let fraction = match self.magic {
            Magic::Nanoseconds => nanos % 1_000_000_000,
            _ => nanos % 1_000_000_000 / 1_000,
        };
        let fields = [
            (nanos / 1_000_000_000) as u32,
            fraction as u32,
            captured.len() as u32,
            len,
        ];
        self.record(fields, captured)
    }

    /// A record whose header says whatever it likes.
    pub fn record(&mut self, header: [u32; 4], bytes: &[u8]) -> &mut Self {
        for field in header {
            self.file.extend(self.order.u32(field));
        }
        if let Magic::Modified = self.magic {
            self.file.extend([0; 8]);
        }
        self.file.extend(bytes);
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.file.clone()
    }

    pub fn len(&self) -> usize {
        self.file.len()
    }
}

/// A pcapng file.
pub struct Pcapng {
    order: Order,
    file: Vec<u8>,
}

impl Pcapng {
    /// A file that begins with a section.
    pub fn new(order: Order) -> Self {
        let mut file = Self {
            order,
            file: Vec::new(),
        };
        file.section(order);
        file
    }

    /// Another section.
    pub fn section(&mut self, order: Order) -> &mut Self {
        self.order = order;
        let mut body = order.u32(0x1a2b_3c4d).to_vec();
        body.extend(order.u16(1));
        body.extend(order.u16(0));
        body.extend(order.u64(u64::MAX));
        self.option(&mut body, 4, b"a test");
        self.end_of_options(&mut body);
        self.block(0x0a0d_0d0a, &body)
    }

    pub fn interface(&mut self, link_type: u16, snap_len: u32) -> &mut Self {
        self.interface_with_clock(link_type, snap_len, None, None)
    }

    /// An interface with `if_tsresol` and `if_tsoffset`.
    pub fn interface_with_clock(
        &mut self,
        link_type: u16,
        snap_len: u32,
        resolution: Option<u8>,
        offset: Option<i64>,
    ) -> &mut Self {
        let mut body = self.order.u16(link_type).to_vec();
        body.extend([0; 2]);
        body.extend(self.order.u32(snap_len));
        self.option(&mut body, 2, b"eth0");
        if let Some(resolution) = resolution {
            self.option(&mut body, 9, &[resolution]);
        }
        if let Some(offset) = offset {
            let value = self.order.u64(offset.cast_unsigned());
            self.option(&mut body, 14, &value);
        }
        self.end_of_options(&mut body);
        self.block(1, &body)
    }

    /// An enhanced packet block; `time` in the interface's units.
    pub fn enhanced(&mut self, interface: u32, time: u64, captured: &[u8], len: u32) -> &mut Self {
        let mut body = self.order.u32(interface).to_vec();
        self.packet_fields(&mut body, time, captured, len);
        self.option(&mut body, 1, b"a comment");
        self.end_of_options(&mut body);
        self.block(6, &body)
    }

    /// The packet block that enhanced ones replaced.
    pub fn obsolete(&mut self, interface: u16, time: u64, captured: &[u8], len: u32) -> &mut Self {
        let mut body = self.order.u16(interface).to_vec();
        body.extend(self.order.u16(u16::MAX));
        self.packet_fields(&mut body, time, captured, len);
        self.block(2, &body)
    }

    /// A simple packet block.
    pub fn simple(&mut self, captured: &[u8], len: u32) -> &mut Self {
        let mut body = self.order.u32(len).to_vec();
        body.extend(captured);
        pad(&mut body);
        self.block(3, &body)
    }

    /// Any block; `body` a multiple of four bytes.
    pub fn block(&mut self, kind: u32, body: &[u8]) -> &mut Self {
        let len = body.len() as u32 + 12;
        self.framed(kind, len, body, len)
    }

    /// A block whose lengths say whatever they like.
    pub fn framed(&mut self, kind: u32, len: u32, body: &[u8], repeated: u32) -> &mut Self {
        self.file.extend(self.order.u32(kind));
        self.file.extend(self.order.u32(len));
        self.file.extend(body);
        self.file.extend(self.order.u32(repeated));
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.file.clone()
    }

    pub fn len(&self) -> usize {
        self.file.len()
    }

    fn packet_fields(&self, body: &mut Vec<u8>, time: u64, captured: &[u8], len: u32) {
        for field in [(time >> 32) as u32, time as u32, captured.len() as u32, len] {
            body.extend(self.order.u32(field));
        }
        body.extend(captured);
        pad(body);
    }

    fn option(&self, body: &mut Vec<u8>, code: u16, value: &[u8]) {
        body.extend(self.order.u16(code));
        body.extend(self.order.u16(value.len() as u16));
        body.extend(value);
        pad(body);
    }

    fn end_of_options(&self, body: &mut Vec<u8>) {
        body.extend([0; 4]);
        debug_assert_eq!(body.len() % 4, 0);
    }
}

fn pad(body: &mut Vec<u8>) {
    body.resize(body.len().next_multiple_of(4), 0);
}

/// A TCP segment, header and payload; the checksum is 0, as before offloading.
pub fn tcp(header: &TcpHeader, payload: &[u8]) -> Vec<u8> {
    let mut segment = header.to_bytes().to_vec();
    segment.extend(payload);
    segment
}

/// An IP packet, of the version of its addresses, around a TCP segment.
pub fn ip(source: IpAddr, destination: IpAddr, segment: &[u8]) -> Vec<u8> {
    let mut packet = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let len = segment.len() as u16;
            let (source, destination) = (source.octets(), destination.octets());
            let header = Ipv4Header::new(len, 64, IpNumber::TCP, source, destination);
            header
                .expect("a length that IPv4 can express")
                .to_bytes()
                .to_vec()
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let header = Ipv6Header {
                traffic_class: 0,
                flow_label: Ipv6FlowLabel::ZERO,
                payload_length: segment.len() as u16,
                next_header: IpNumber::TCP,
                hop_limit: 64,
                source: source.octets(),
                destination: destination.octets(),
            };
            header.to_bytes().to_vec()
        }
        _ => panic!("both addresses are of one version"),
    };
    packet.extend(segment);
    packet
}

/// An Ethernet frame around an IP packet.
pub fn ethernet(packet: &[u8]) -> Vec<u8> {
    let ether_type: [u8; 2] = if packet[0] >> 4 == 4 {
        [0x08, 0x00]
    } else {
        [0x86, 0xdd]
    };
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    frame.extend(ether_type);
    frame.extend(packet);
    frame
}

/// An Ethernet frame with a segment that carries `payload`, PSH and ACK set.
pub fn data(source: SocketAddr, destination: SocketAddr, seq: u32, payload: &[u8]) -> Vec<u8> {
    let mut header = TcpHeader::new(source.port(), destination.port(), seq, 0x2000);
    header.psh = true;
    header.ack = true;
    header.acknowledgment_number = 0x0102_0304;
    ethernet(&ip(source.ip(), destination.ip(), &tcp(&header, payload)))
}
