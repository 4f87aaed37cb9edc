use etherparse::{TcpHeader, TcpOptionElement};
use proptest::prelude::*;

use super::*;
use crate::source::capture::writer::{data, ethernet, ip, tcp};

const CLIENT: &str = "192.0.2.1:40000";
const SERVER: &str = "192.0.2.2:80";
const CLIENT6: &str = "[2001:db8::1]:40000";
const SERVER6: &str = "[2001:db8::2]:80";

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A segment with options, 32 bytes of header in all.
fn segment(payload: &[u8]) -> Vec<u8> {
    let mut header = TcpHeader::new(40000, 80, 0xfffffff0, 502);
    header.ack = true;
    header.psh = true;
    header.acknowledgment_number = 7;
    header
        .set_options(&[TcpOptionElement::Timestamp(1, 2)])
        .unwrap();
    tcp(&header, payload)
}

fn v4(payload: &[u8]) -> Vec<u8> {
    ip(
        address(CLIENT).ip(),
        address(SERVER).ip(),
        &segment(payload),
    )
}

fn v6(payload: &[u8]) -> Vec<u8> {
    ip(
        address(CLIENT6).ip(),
        address(SERVER6).ip(),
        &segment(payload),
    )
}

/// An IPv6 packet with `headers` between the IP header and the segment; `next` is the first of
/// them, and each names its successor itself.
fn v6_with(next: u8, headers: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut packet = v6(payload);
    packet[6] = next;
    packet.splice(40..40, headers.iter().copied());
    let len = packet.len() as u16 - 40;
    packet[4..6].copy_from_slice(&len.to_be_bytes());
    packet
}

fn parse(link: LinkType, packet: &[u8]) -> Result<TcpPacket<'_>, NoSegment> {
    TcpPacket::parse(link, packet, packet.len() as u32)
}

fn prefixed(prefix: &[u8], packet: &[u8]) -> Vec<u8> {
    [prefix, packet].concat()
}

#[test]
fn fields_are_the_header_s() {
    let packet = v4(b"hello");
    let parsed = parse(LinkType::Ip, &packet).unwrap();
    let expected = TcpPacket {
        source: address(CLIENT),
        destination: address(SERVER),
        seq: SeqNumber(0xfffffff0),
        ack: Some(SeqNumber(7)),
        flags: TcpFlags(0x18),
        window: 502,
        len: 5,
        payload: b"hello",
    };
    assert_eq!(parsed, expected);

    let window = parsed.captured();
    let segment = parsed.segment(Timestamp(9), Some(3), &window);
    assert_eq!(
        segment.windows,
        [Window {
            offset: 0,
            bytes: b"hello"
        }]
    );
    assert_eq!(
        (segment.ts, segment.interface, segment.len),
        (Timestamp(9), Some(3), 5)
    );
    assert_eq!((segment.scope, segment.epoch), (0, 0));

    let packet = v6(b"hello");
    let expected = TcpPacket {
        source: address(CLIENT6),
        destination: address(SERVER6),
        ..expected
    };
    assert_eq!(parse(LinkType::Ip, &packet).unwrap(), expected);
}

#[test]
fn an_acknowledgement_number_needs_its_flag() {
    let mut header = TcpHeader::new(40000, 80, 1, 502);
    header.syn = true;
    header.acknowledgment_number = 7;
    let packet = ip(
        address(CLIENT).ip(),
        address(SERVER).ip(),
        &tcp(&header, b""),
    );
    let parsed = parse(LinkType::Ip, &packet).unwrap();
    assert_eq!(
        (parsed.ack, parsed.flags, parsed.len),
        (None, TcpFlags(2), 0)
    );
    assert!(
        parsed
            .segment(Timestamp(0), None, &parsed.captured())
            .windows
            .is_empty()
    );
}

#[test]
fn every_link_type_leads_to_the_segment() {
    let sll = |protocol: [u8; 2]| prefixed(&[0, 0, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0], &protocol);
    let sll2 = |protocol: [u8; 2]| {
        prefixed(
            &protocol,
            &[0, 0, 0, 0, 0, 2, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0],
        )
    };
    let (v4, v6) = (v4(b"hello"), v6(b"hello"));
    let ip4 = [0x08, 0x00];
    let ip6 = [0x86, 0xdd];
    let mut cases = vec![
        (1, ethernet(&v4)),
        (1, ethernet(&v6)),
        (113, prefixed(&sll(ip4), &v4)),
        (113, prefixed(&sll(ip6), &v6)),
        (
            113,
            prefixed(&sll([0x81, 0x00]), &prefixed(&[0, 5, 0x08, 0x00], &v4)),
        ),
        (276, prefixed(&sll2(ip4), &v4)),
        (276, prefixed(&sll2(ip6), &v6)),
    ];
    for number in [12, 14, 101] {
        cases.push((number, v4.clone()));
        cases.push((number, v6.clone()));
    }
    cases.push((228, v4.clone()));
    cases.push((229, v6.clone()));
    for number in [0, 108] {
        for (family, packet) in [(2_u32, &v4), (10, &v6), (24, &v6), (28, &v6), (30, &v6)] {
            cases.push((number, prefixed(&family.to_be_bytes(), packet)));
            cases.push((number, prefixed(&family.to_le_bytes(), packet)));
        }
    }
    for (number, packet) in cases {
        let link = LinkType::from_number(number).unwrap();
        let parsed = parse(link, &packet).unwrap_or_else(|e| panic!("{number} {packet:x?}: {e:?}"));
        assert_eq!(parsed.payload, b"hello", "{number}");
        assert_eq!(parsed.source.port(), 40000);
    }
    assert_eq!(LinkType::from_number(127), None);
}

#[test]
fn vlan_tags_are_passed_over_up_to_the_bound() {
    let tagged = |tags: &[u16]| {
        let mut frame = ethernet(&v4(b"hello"));
        for tag in tags {
            let [high, low] = tag.to_be_bytes();
            frame.splice(12..12, [high, low, 0, 7]);
        }
        frame
    };
    for tags in [
        &[0x8100][..],
        &[0x88a8],
        &[0x8100, 0x88a8],
        &[0x9100, 0x9100],
        &[0x8100; 4],
    ] {
        let frame = tagged(tags);
        assert_eq!(
            parse(LinkType::Ethernet, &frame).unwrap().payload,
            b"hello",
            "{tags:x?}"
        );
    }
    let frame = tagged(&[0x8100; MAX_VLAN_TAGS + 1]);
    assert_eq!(parse(LinkType::Ethernet, &frame), Err(NoSegment::Malformed));
}

#[test]
fn padding_is_no_payload() {
    for packet in [v4(b""), v4(b"x"), v6(b"x")] {
        let mut frame = ethernet(&packet);
        let wanted = parse(LinkType::Ethernet, &frame).unwrap().len;
        frame.resize(100, 0xaa);
        let parsed = parse(LinkType::Ethernet, &frame).unwrap();
        assert_eq!(
            (parsed.len, parsed.payload.len()),
            (wanted, wanted as usize)
        );
    }
}

#[test]
fn a_snap_length_leaves_the_length_on_the_wire() {
    for (packet, ip_header) in [(v4(b"hello"), 20), (v6(b"hello"), 40)] {
        let frame = ethernet(&packet);
        for captured in 0..frame.len() {
            let parsed =
                TcpPacket::parse(LinkType::Ethernet, &frame[..captured], frame.len() as u32);
            // The fixed header is enough: its options may be missing.
            if captured < 14 + ip_header + 20 {
                assert_eq!(parsed, Err(NoSegment::Cut), "{captured}");
            } else {
                let parsed = parsed.unwrap();
                assert_eq!(parsed.len, 5);
                assert_eq!(
                    parsed.payload.len(),
                    captured.saturating_sub(14 + ip_header + 32)
                );
            }
        }
    }
}

#[test]
fn a_length_on_the_wire_that_was_cut_too_is_put_right_by_the_ip_header() {
    let packet = v4(b"hello");
    let parsed = TcpPacket::parse(LinkType::Ip, &packet[..54], 54).unwrap();
    assert_eq!((parsed.len, parsed.payload), (5, &b"he"[..]));
    let parsed = TcpPacket::parse(LinkType::Ip, &packet, 0).unwrap();
    assert_eq!(parsed.payload, b"hello");
}

#[test]
fn ipv4_options_are_passed_over() {
    let mut packet = v4(b"hello");
    packet[0] = 0x47;
    packet[3] += 8;
    packet.splice(20..20, [1; 8]);
    assert_eq!(parse(LinkType::Ip, &packet).unwrap().payload, b"hello");
}

#[test]
fn of_fragments_the_first_is_a_segment() {
    let mut packet = v4(b"hello");
    packet[6] = 0x20;
    assert_eq!(parse(LinkType::Ip, &packet).unwrap().len, 5);
    packet[7] = 1;
    assert_eq!(parse(LinkType::Ip, &packet), Err(NoSegment::Fragment));
    packet[9] = 17;
    assert_eq!(parse(LinkType::Ip, &packet), Err(NoSegment::NotTcp));

    let fragment = |next, offset: u16| {
        let [high, low] = (offset << 3 | 1).to_be_bytes();
        v6_with(44, &[next, 0, high, low, 1, 2, 3, 4], b"hello")
    };
    assert_eq!(parse(LinkType::Ip, &fragment(6, 0)).unwrap().len, 5);
    assert_eq!(
        parse(LinkType::Ip, &fragment(6, 1)),
        Err(NoSegment::Fragment)
    );
    assert_eq!(
        parse(LinkType::Ip, &fragment(17, 1)),
        Err(NoSegment::NotTcp)
    );
}

#[test]
fn without_an_ip_length_the_packet_s_own_counts() {
    let payload = vec![0x55; 300_000];
    let mut packet = v4(b"");
    packet[2..4].fill(0);
    packet.extend(&payload);
    let parsed = parse(LinkType::Ip, &packet).unwrap();
    assert_eq!((parsed.len, parsed.payload.len()), (300_000, 300_000));
    // The same through a snap length.
    let parsed = TcpPacket::parse(LinkType::Ip, &packet[..100], packet.len() as u32).unwrap();
    assert_eq!((parsed.len, parsed.payload.len()), (300_000, 48));

    let mut plain = v6(b"");
    plain[4..6].fill(0);
    plain.extend(&payload);
    let mut jumbo = v6_with(0, &[6, 0, 0xc2, 4, 0, 4, 0x93, 0xf0], b"");
    jumbo[4..6].fill(0);
    jumbo.extend(&payload);
    for packet in [plain, jumbo] {
        let parsed = parse(LinkType::Ip, &packet).unwrap();
        assert_eq!((parsed.len, parsed.payload.len()), (300_000, 300_000));
    }
}

#[test]
fn ipv6_extension_headers_are_passed_over_up_to_the_bound() {
    let mut headers = vec![43, 1];
    headers.extend([0; 14]);
    headers.extend([60, 0, 0, 0, 0, 0, 0, 0]);
    headers.extend([51, 0, 1, 4, 0, 0, 0, 0]);
    headers.extend([44, 4]);
    headers.extend([0; 22]);
    headers.extend([6, 0, 0, 1, 9, 9, 9, 9]);
    let packet = v6_with(0, &headers, b"hello");
    assert_eq!(parse(LinkType::Ip, &packet).unwrap().payload, b"hello");

    let options = |n: usize| {
        let mut headers = [60, 0, 0, 0, 0, 0, 0, 0].repeat(n);
        headers[8 * (n - 1)] = 6;
        v6_with(60, &headers, b"hello")
    };
    assert_eq!(
        parse(LinkType::Ip, &options(MAX_EXTENSION_HEADERS))
            .unwrap()
            .len,
        5
    );
    let packet = options(MAX_EXTENSION_HEADERS + 1);
    assert_eq!(parse(LinkType::Ip, &packet), Err(NoSegment::Malformed));

    // One that is longer than the packet.
    let packet = v6_with(60, &[6, 255, 0, 0, 0, 0, 0, 0], b"hello");
    assert_eq!(parse(LinkType::Ip, &packet), Err(NoSegment::Malformed));
}

#[test]
fn what_is_not_tcp_is_left() {
    let mut udp = v4(b"hello");
    udp[9] = 17;
    let arp = prefixed(&[0xff; 12], &[0x08, 0x06, 0, 1, 8, 0]);
    let netlink = prefixed(
        &[0, 4, 3, 56, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0],
        &v4(b"hello"),
    );
    let icmp6 = v6_with(58, &[], b"hello");
    let appletalk = prefixed(&[0, 0, 0, 16], &[0; 40]);
    for (link, packet) in [
        (LinkType::Ip, udp),
        (LinkType::Ethernet, arp),
        (LinkType::LinuxSll, netlink),
        (LinkType::Ip, icmp6),
        (LinkType::Loopback, appletalk),
    ] {
        assert_eq!(parse(link, &packet), Err(NoSegment::NotTcp), "{link:?}");
    }
}

#[test]
fn headers_that_lie_are_malformed() {
    let spoilt = |at: usize, value: u8| {
        let mut packet = v4(b"hello");
        packet[at] = value;
        packet
    };
    for (at, value) in [
        // IP version, header length, total length below the header's.
        (0, 0x15),
        (0, 0x44),
        (3, 19),
        // Room for no more than a part of the TCP header.
        (3, 39),
        // Data offset below 5, and beyond the segment.
        (32, 0x40),
        (32, 0xf0),
    ] {
        let packet = spoilt(at, value);
        assert_eq!(
            parse(LinkType::Ip, &packet),
            Err(NoSegment::Malformed),
            "{at} {value:#x}"
        );
    }
    assert_eq!(parse(LinkType::Ip, &[]), Err(NoSegment::Malformed));
}

proptest! {
    /// Whatever the bytes are, and wherever a well-formed packet is spoilt.
    #[test]
    fn no_bytes_panic(
        link in prop::sample::select(vec![0_u16, 1, 101, 113, 276]),
        start in 0..3,
        mut bytes in prop::collection::vec(any::<u8>(), 0..120),
        spoil in prop::collection::vec((0_usize..120, any::<u8>()), 0..4),
        len in any::<u32>(),
    ) {
        let (client, server) = match start {
            1 => (CLIENT, SERVER),
            _ => (CLIENT6, SERVER6),
        };
        if start > 0 {
            bytes = data(address(client), address(server), 1, &bytes);
        }
        for (at, value) in spoil {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        let link = LinkType::from_number(link).unwrap();
        if let Ok(packet) = TcpPacket::parse(link, &bytes, len) {
            prop_assert!(packet.payload.len() <= packet.len as usize);
        }
    }
}
