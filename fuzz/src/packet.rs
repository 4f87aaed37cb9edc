//! A packet as a capture file has it.
//!
//! Layout: a byte for the link type, two for the bytes on the wire that were not captured, then the
//! packet.

use wstap::{
    packet::{LinkType, TcpPacket},
    proto::time::Timestamp,
};

use crate::input::Input;

/// Link types, by what the first byte leaves divided by their number.
pub const LINKS: [LinkType; 5] = [
    LinkType::Ethernet,
    LinkType::LinuxSll,
    LinkType::LinuxSll2,
    LinkType::Ip,
    LinkType::Loopback,
];

/// What is said to be payload was on the wire, and was captured.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let link = LINKS[usize::from(input.u8()) % LINKS.len()];
    let beyond = u32::from(input.u16());
    let captured = input.rest();
    let len = captured.len() as u32 + beyond;
    let Ok(packet) = TcpPacket::parse(link, captured, len) else {
        return;
    };
    assert!(packet.payload.len() <= packet.len as usize);
    assert!(packet.payload.len() + 40 <= captured.len());
    assert_eq!(packet.ack.is_some(), packet.flags.ack());
    if beyond == 0 {
        // The same without its padding, or with the last byte cut off: the same header.
        let cut = captured.split_last().map_or(captured, |(_, rest)| rest);
        if let Ok(shorter) = TcpPacket::parse(link, cut, len) {
            assert_eq!((shorter.seq, shorter.len), (packet.seq, packet.len));
            assert!(packet.payload.starts_with(shorter.payload));
        }
    }
    let window = packet.captured();
    let segment = packet.segment(Timestamp(0), None, &window);
    assert_eq!(segment.len, packet.len);
}
