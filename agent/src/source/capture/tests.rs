use std::{cell::Cell, io::Write, net::SocketAddr, rc::Rc};

use flate2::{Compression, write::GzEncoder};

use super::{
    writer::{Magic as PcapMagic, Order, Pcap, Pcapng, data},
    *,
};

mod damage;

const SECOND: u64 = 1_000_000_000;
const ETHERNET: u16 = 1;
const RADIOTAP: u16 = 127;

/// What a segment was, to compare.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Seen {
    ts: u64,
    seq: u32,
    len: u32,
    payload: Vec<u8>,
    interface: Option<u32>,
}

fn seen(segment: &Segment<'_>) -> Seen {
    Seen {
        ts: segment.ts.0,
        seq: segment.seq.0,
        len: segment.len,
        payload: segment
            .windows
            .iter()
            .flat_map(|w| w.bytes)
            .copied()
            .collect(),
        interface: segment.interface,
    }
}

fn frame(seq: u32, payload: &[u8]) -> Vec<u8> {
    let client: SocketAddr = "192.0.2.1:40000".parse().unwrap();
    let server: SocketAddr = "192.0.2.2:80".parse().unwrap();
    data(client, server, seq, payload)
}

fn expected(ts: u64, seq: u32, payload: &[u8], interface: Option<u32>) -> Seen {
    Seen {
        ts,
        seq,
        len: payload.len() as u32,
        payload: payload.to_vec(),
        interface,
    }
}

/// Reads all, a few bytes at a time as a pipe may give them.
fn read(file: &[u8]) -> (Vec<Seen>, Result<CaptureCounts, CaptureError>) {
    let mut all = Vec::new();
    let result = open(file).and_then(|mut capture| {
        capture.read(&mut |segment| {
            all.push(seen(segment));
            ControlFlow::Continue(())
        })?;
        Ok(capture.counts())
    });
    (all, result)
}

fn open(file: &[u8]) -> Result<CaptureFile, CaptureError> {
    CaptureFile::from_reader(Box::new(Trickle {
        bytes: file.to_vec(),
        at: 0,
        step: 7,
    }))
}

fn read_well(file: &[u8]) -> (Vec<Seen>, CaptureCounts) {
    let (all, result) = read(file);
    (all, result.unwrap())
}

struct Trickle {
    bytes: Vec<u8>,
    at: usize,
    step: usize,
}

impl Read for Trickle {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = self.step.min(into.len()).min(self.bytes.len() - self.at);
        into[..n].copy_from_slice(&self.bytes[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A pcap file with `payloads`, a second apart.
fn pcap(payloads: &[&[u8]]) -> Vec<u8> {
    let mut file = Pcap::new(Order::Little, PcapMagic::Nanoseconds, ETHERNET.into());
    for (n, payload) in (1..).zip(payloads) {
        file.packet(n * SECOND, &frame(n as u32, payload));
    }
    file.bytes()
}

#[test]
fn pcap_in_every_variant() {
    for order in Order::BOTH {
        for magic in [
            PcapMagic::Microseconds,
            PcapMagic::Nanoseconds,
            PcapMagic::Modified,
        ] {
            // The upper half of the link type speaks of the frame check sequence.
            let mut file = Pcap::new(order, magic, 0x4400_0000 | u32::from(ETHERNET));
            let late = 4_000_000_000 * SECOND + 123_456_000;
            file.packet(1, &frame(1, b"one"));
            file.packet(late, &frame(2, b"two"));
            let (all, counts) = read_well(&file.bytes());
            let first = if let PcapMagic::Nanoseconds = magic {
                1
            } else {
                0
            };
            let wanted = [
                expected(first, 1, b"one", None),
                expected(late, 2, b"two", None),
            ];
            assert_eq!(all, wanted, "{order:?} {magic:?}");
            assert_eq!((counts.packets, counts.segments), (2, 2));
            assert_eq!(counts.bytes, file.len() as u64);
        }
    }
}

#[test]
fn every_packet_is_in_one_count() {
    let whole = frame(1, b"payload");
    let mut udp = whole.clone();
    udp[14 + 9] = 17;
    let mut fragment = whole.clone();
    fragment[14 + 7] = 1;
    let mut malformed = whole.clone();
    malformed[14] = 0x41;
    let mut file = Pcap::new(Order::Big, PcapMagic::Microseconds, ETHERNET.into());
    file.packet(0, &whole)
        .packet(0, &udp)
        .packet(0, &fragment)
        .packet(0, &malformed);
    file.cut_packet(0, &whole[..40], whole.len() as u32);
    file.cut_packet(0, &[], whole.len() as u32);
    file.cut_packet(0, &whole[..56], whole.len() as u32);
    let (all, counts) = read_well(&file.bytes());
    let snapped = Seen {
        len: 7,
        ..expected(0, 1, b"pa", None)
    };
    assert_eq!(all, [expected(0, 1, b"payload", None), snapped]);
    let wanted = CaptureCounts {
        bytes: file.len() as u64,
        packets: 7,
        segments: 2,
        not_tcp: 1,
        fragments: 1,
        cut: 2,
        malformed: 1,
        unsupported_link_type: 0,
    };
    assert_eq!(counts, wanted);
}

#[test]
fn pcapng_blocks_of_every_kind_in_both_orders() {
    for order in Order::BOTH {
        let mut file = Pcapng::new(order);
        let packet = frame(1, b"abc");
        let len = packet.len() as u32;
        file.interface(ETHERNET, 0).interface(ETHERNET, 96);
        // Name resolution, a custom block, one that nobody knows.
        file.block(4, &[0; 4])
            .block(0xbad, &[0; 8])
            .block(0x8000_0001, &[]);
        file.enhanced(1, 5_000_001, &packet, len);
        file.obsolete(0, 6_000_000, &packet, len);
        file.simple(&packet, len);
        file.enhanced(1, 7_000_000, &packet[..55], len);
        let (all, counts) = read_well(&file.bytes());
        let wanted = [
            expected(5 * SECOND + 1_000, 1, b"abc", Some(1)),
            expected(6 * SECOND, 1, b"abc", Some(0)),
            // Without a time of its own.
            expected(6 * SECOND, 1, b"abc", Some(0)),
            Seen {
                len: 3,
                ..expected(7 * SECOND, 1, b"a", Some(1))
            },
        ];
        assert_eq!(all, wanted, "{order:?}");
        assert_eq!(counts.bytes, file.len() as u64);
    }
}

#[test]
fn a_simple_packet_is_as_long_as_the_snap_length_says() {
    let packet = frame(1, b"0123456789");
    let len = packet.len() as u32;
    let mut file = Pcapng::new(Order::Little);
    // Two bytes of payload, and two of padding that are none.
    file.interface(ETHERNET, 54 + 4).simple(&packet[..58], len);
    file.section(Order::Little)
        .interface(ETHERNET, 54 + 1)
        .simple(&packet[..55], len);
    let (all, _) = read_well(&file.bytes());
    assert_eq!(all[0].payload, b"0123");
    assert_eq!((&all[1].payload[..], all[1].len), (&b"0"[..], 10));
}

#[test]
fn each_section_has_its_own_order_and_interfaces() {
    let packet = frame(1, b"abc");
    let len = packet.len() as u32;
    let mut file = Pcapng::new(Order::Little);
    file.interface(ETHERNET, 0)
        .interface(RADIOTAP, 0)
        .enhanced(0, 1_000_000, &packet, len);
    file.section(Order::Big);
    file.interface(101, 0)
        .enhanced(0, 2_000_000, &packet[14..], len - 14);
    let (all, _) = read_well(&file.bytes());
    let wanted = [
        expected(SECOND, 1, b"abc", Some(0)),
        expected(2 * SECOND, 1, b"abc", Some(0)),
    ];
    assert_eq!(all, wanted);

    let at = file.len() as u64;
    file.enhanced(1, 0, &packet, len);
    let (_, result) = read(&file.bytes());
    let Err(CaptureError::Damaged { offset, damage }) = result else {
        panic!("{result:?}")
    };
    assert!(matches!(
        damage,
        Damage::UnknownInterface { id: 1, known: 1 }
    ));
    assert_eq!(offset, at);
}

#[test]
fn times_by_resolution_and_offset() {
    let packet = frame(1, b"abc");
    let len = packet.len() as u32;
    let top = i64::MAX as u64;
    let cases = [
        (None, None, 1_500_000, 1_500_000_000),
        (Some(0), None, 3, 3 * SECOND),
        (Some(3), None, 1_500, 1_500_000_000),
        (Some(9), None, 1_500_000_001, 1_500_000_001),
        (Some(12), None, 1_500_000_000_999, 1_500_000_000),
        (Some(47), None, u64::MAX, 0),
        (Some(127), None, u64::MAX, 0),
        (Some(0x80), None, 3, 3 * SECOND),
        (Some(0x80 | 1), None, 3, 1_500_000_000),
        (Some(0x80 | 20), None, 3 << 19, 1_500_000_000),
        (Some(0x80 | 64), None, 1 << 63, 500_000_000),
        (Some(0xff), None, u64::MAX, 0),
        (Some(6), Some(100), 1_500_000, 101_500_000_000),
        (Some(9), Some(-1), 1_500_000_000, 500_000_000),
        // Before the epoch, and after the end of time.
        (Some(9), Some(-2), 1_500_000_000, 0),
        (Some(9), Some(i64::MIN), 1, 0),
        (Some(0), None, u64::MAX, top),
        (Some(0), Some(i64::MAX), u64::MAX, top),
    ];
    for order in Order::BOTH {
        for (resolution, offset, units, wanted) in cases {
            let mut file = Pcapng::new(order);
            file.interface_with_clock(ETHERNET, 0, resolution, offset);
            file.enhanced(0, units, &packet, len);
            let (all, _) = read_well(&file.bytes());
            assert_eq!(all[0].ts, wanted, "{resolution:x?} {offset:?} {units}");
        }
    }
}

#[test]
fn gzip_of_one_member_or_several() {
    let plain = pcap(&[b"one", b"two"]);
    let wanted = read_well(&plain);
    assert_eq!(wanted.0.len(), 2);
    assert_eq!(read_well(&gzip(&plain)), wanted);
    for cut in [1, 3, 24, 50, plain.len()] {
        let members = [gzip(&plain[..cut]), gzip(&plain[cut..])].concat();
        assert_eq!(read_well(&members), wanted);
    }
    let mut ng = Pcapng::new(Order::Big);
    ng.interface(ETHERNET, 0)
        .enhanced(0, 0, &frame(1, b"abc"), 57);
    assert_eq!(read_well(&gzip(&ng.bytes())).0.len(), 1);
}

#[test]
fn a_break_ends_and_another_call_goes_on() {
    let file = pcap(&[b"one", b"two", b"three"]);
    let mut capture = open(&file).unwrap();
    for wanted in [
        &[b"one".to_vec()][..],
        &[b"two".to_vec()],
        &[b"three".to_vec()],
        &[],
    ] {
        let mut all = Vec::new();
        capture
            .read(&mut |segment| {
                all.push(seen(segment).payload);
                ControlFlow::Break(())
            })
            .unwrap();
        assert_eq!(all, wanted);
    }
    assert_eq!(capture.counts().segments, 3);
}

/// An endless pcap file, that counts what it was asked for.
struct Endless {
    record: Vec<u8>,
    at: usize,
    left: u64,
    given: Rc<Cell<u64>>,
}

impl Read for Endless {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let rest = &self.record[self.at..];
        let n = rest.len().min(into.len());
        if self.left < n as u64 {
            return Err(io::Error::other("the medium is gone"));
        }
        into[..n].copy_from_slice(&rest[..n]);
        self.at = (self.at + n) % self.record.len();
        self.left -= n as u64;
        self.given.set(self.given.get() + n as u64);
        Ok(n)
    }
}

#[test]
fn a_packet_is_handed_on_before_more_is_waited_for() {
    let mut file = Pcap::new(Order::Little, PcapMagic::Microseconds, ETHERNET.into());
    let header = file.bytes();
    file.packet(0, &frame(1, b"x"));
    let record = file.bytes()[header.len()..].to_vec();
    let size = record.len() as u64;
    let given = Rc::new(Cell::new(0));
    let records = Endless {
        record,
        at: 0,
        left: size * 10_000,
        given: Rc::clone(&given),
    };
    let input = io::Cursor::new(header.clone()).chain(records);
    let mut capture = CaptureFile::from_reader(Box::new(input)).unwrap();
    let mut packets = 0;
    let result = capture.read(&mut |_| {
        packets += 1;
        assert_eq!(given.get(), packets * size);
        ControlFlow::Continue(())
    });
    assert_eq!(packets, 10_000);
    let Err(CaptureError::Io { offset, error }) = result else {
        panic!("{result:?}")
    };
    assert_eq!(offset, header.len() as u64 + 10_000 * size);
    assert_eq!(error.to_string(), "the medium is gone");
}

#[test]
fn large_packets_and_larger_blocks_that_are_passed_over() {
    let mut packet = frame(1, b"");
    packet[16..18].fill(0);
    packet.resize(3 << 20, 7);
    let mut file = Pcapng::new(Order::Little);
    file.interface(ETHERNET, 0);
    file.enhanced(0, 0, &packet, packet.len() as u32);
    file.block(0xbad, &vec![0; MAX_RECORD + 4]);
    file.enhanced(0, 0, &frame(2, b"abc"), 57);
    let input = Box::new(io::Cursor::new(file.bytes()));
    let mut capture = CaptureFile::from_reader(input).unwrap();
    let mut lens = Vec::new();
    capture
        .read(&mut |segment| {
            lens.push(segment.len);
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(lens, [(3 << 20) - 54, 3]);
}
