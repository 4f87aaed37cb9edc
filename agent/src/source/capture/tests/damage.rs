//! Files that are cut off, damaged, hostile, or something else.

use proptest::prelude::*;

use super::*;

/// Reads `file` cut at every byte. `records` are where each record begins, the file's end included,
/// and how many segments come before it.
fn cut_everywhere(file: &[u8], records: &[(usize, usize)]) {
    assert_eq!(read(file).0.len(), records.last().unwrap().1);
    for cut in 1..file.len() {
        let (all, result) = read(&file[..cut]);
        let &(begin, before) = records
            .iter()
            .rfind(|(at, _)| *at <= cut)
            .unwrap_or(&(0, 0));
        assert_eq!(all.len(), before, "cut at {cut}");
        if begin == cut {
            assert!(result.is_ok(), "cut at {cut}: {result:?}");
            continue;
        }
        let Err(CaptureError::Truncated {
            offset,
            needed,
            available,
        }) = result
        else {
            panic!("cut at {cut}: {result:?}")
        };
        assert_eq!(
            (offset, available),
            (begin as u64, (cut - begin) as u64),
            "cut at {cut}"
        );
        assert!(needed > available);
    }
}

#[test]
fn a_pcap_file_may_be_cut_anywhere() {
    let mut file = Pcap::new(Order::Little, PcapMagic::Microseconds, ETHERNET.into());
    let mut records = vec![(file.len(), 0)];
    for seq in 1..4 {
        file.packet(SECOND, &frame(seq, b"payload"));
        records.push((file.len(), seq as usize));
    }
    cut_everywhere(&file.bytes(), &records);
}

#[test]
fn a_pcapng_file_may_be_cut_anywhere() {
    for order in Order::BOTH {
        let packet = frame(1, b"payload");
        let len = packet.len() as u32;
        let mut file = Pcapng::new(order);
        let mut records = vec![(file.len(), 0)];
        records.push((file.interface(ETHERNET, 0).len(), 0));
        records.push((file.enhanced(0, 1, &packet, len).len(), 1));
        records.push((file.block(0x0bad, &[7; 16]).len(), 1));
        records.push((file.obsolete(0, 2, &packet, len).len(), 2));
        records.push((file.section(order).len(), 2));
        records.push((file.interface(ETHERNET, 0).len(), 2));
        records.push((file.simple(&packet, len).len(), 3));
        cut_everywhere(&file.bytes(), &records);
    }
}

/// Payloads that do not compress well.
fn noise() -> Vec<Vec<u8>> {
    let mut state = 1_u32;
    let mut byte = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..2_000)
        .map(|_| (0..64).map(|_| byte()).collect())
        .collect()
}

#[test]
fn cut_gzip_gives_what_came_before() {
    let payloads = noise();
    let payloads: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
    let compressed = gzip(&pcap(&payloads));
    let mut most = 0;
    for cut in (10..compressed.len()).step_by(4_999) {
        let (all, result) = read(&compressed[..cut]);
        assert!(
            matches!(result, Err(CaptureError::Truncated { .. })),
            "{cut}: {result:?}"
        );
        assert!(all.len() >= most, "{cut}");
        most = all.len();
    }
    assert!(most > 1_900, "{most}");
    // Without the end of the last member's trailer all packets are there, and still it is cut.
    let (all, result) = read(&compressed[..compressed.len() - 1]);
    assert_eq!(all.len(), 2_000);
    assert!(matches!(result, Err(CaptureError::Truncated { .. })));
}

#[test]
fn corrupt_gzip_is_damage() {
    let mut compressed = gzip(&pcap(&[b"one", b"two"]));
    let checksum = compressed.len() - 8;
    compressed[checksum] ^= 1;
    let (all, result) = read(&compressed);
    assert_eq!(all.len(), 2);
    let Err(CaptureError::Damaged {
        offset,
        damage: Damage::Gzip(_),
    }) = result
    else {
        panic!("{result:?}")
    };
    assert_eq!(offset, pcap(&[b"one", b"two"]).len() as u64);
}

#[test]
fn corruption_within_gzip_loses_little_of_what_came_before() {
    let payloads = noise();
    let payloads: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
    let plain = pcap(&payloads);
    // The good half, and a stream that begins with a block of a type that there is not.
    let half = plain.len() / 2;
    let mut compressed = gzip(&plain[..half]);
    let mut member = gzip(&[]);
    member[10] = 0xff;
    compressed.extend(member);
    let (all, result) = read(&compressed);
    let Err(CaptureError::Damaged {
        offset,
        damage: Damage::Gzip(_),
    }) = result
    else {
        panic!("{result:?}")
    };
    assert_eq!(offset, half as u64);
    assert_eq!(all, read(&plain[..half]).0);

    let mut compressed = gzip(&plain);
    let middle = compressed.len() / 2;
    compressed[middle..middle + 2_000].fill(0xff);
    let (all, result) = read(&compressed);
    assert!(result.is_err());
    assert!(all.len() > 700, "{}", all.len());
    assert_eq!(all[..700], read(&plain).0[..700]);
}

#[test]
fn what_is_no_capture_is_named() {
    assert!(matches!(read(b"").1, Err(CaptureError::Empty)));
    assert!(matches!(read(&gzip(b"")).1, Err(CaptureError::Empty)));
    assert!(matches!(
        read(b"\xd4").1,
        Err(CaptureError::Truncated { .. })
    ));
    for (file, part) in [
        (&b"G"[..], "begins with 47,"),
        (b"GET / HTTP/1.1", "begins with 47 45 54 20,"),
        (b"\x28\xb5\x2f\xfd....", "zstd -dc"),
        (&gzip(&gzip(b"x")), "compressed twice"),
        (b"\0\0\0\0", "00 00 00 00"),
    ] {
        let error = read(file).1.unwrap_err();
        assert!(
            matches!(error, CaptureError::NotACapture { .. }),
            "{error:?}"
        );
        assert!(error.to_string().contains(part), "{error}");
    }
    let path = Path::new("/nonexistent/file.pcap");
    let error = CaptureFile::open(path).err().unwrap().to_string();
    assert!(
        error.contains("/nonexistent/file.pcap: No such file"),
        "{error}"
    );
}

#[test]
fn link_types_that_cannot_be_read() {
    let file = Pcap::new(Order::Little, PcapMagic::Microseconds, RADIOTAP.into());
    let error = read(&file.bytes()).1.unwrap_err();
    assert!(
        error.to_string().contains("127 (IEEE802_11_RADIOTAP)"),
        "{error}"
    );

    let packet = frame(1, b"abc");
    let len = packet.len() as u32;
    let mut file = Pcapng::new(Order::Little);
    file.interface(RADIOTAP, 0)
        .interface(9, 0)
        .enhanced(0, 0, &packet, len);
    let mut capture = open(&file.bytes()).unwrap();
    let result = capture.read(&mut |_| ControlFlow::Continue(()));
    let Err(CaptureError::UnsupportedLinkType(link)) = result else {
        panic!("{result:?}")
    };
    assert_eq!(link, LinkTypeNumber(RADIOTAP));
    assert_eq!(capture.counts().unsupported_link_type, 1);

    // One that can be read is enough, wherever it is described.
    file.interface(ETHERNET, 0)
        .enhanced(1, 0, &packet, len)
        .enhanced(2, 0, &packet, len);
    let (all, counts) = read_well(&file.bytes());
    assert_eq!(
        (all.len(), counts.packets, counts.unsupported_link_type),
        (1, 3, 2)
    );

    // No interface at all is no fault of the link type.
    assert!(read_well(&Pcapng::new(Order::Little).bytes()).0.is_empty());
}

#[test]
fn lengths_that_lie_are_damage() {
    let packet = frame(1, b"abc");
    let len = packet.len() as u32;
    let good = |order| {
        let mut file = Pcapng::new(order);
        file.interface(ETHERNET, 0).enhanced(0, 0, &packet, len);
        file
    };
    let huge = MAX_RECORD as u32 + 4;
    let mut packet_beyond_block = [0; 20];
    packet_beyond_block[12..16].fill(0xff);
    // Type, length, what follows these, the length again.
    let cases: [(&str, u32, u32, &[u8], u32); 13] = [
        ("impossible length 0", 6, 0, &[0; 40], 0),
        ("impossible length 0", 0xbad, 0, &[], 0),
        ("impossible length 8", 0xbad, 8, &[], 8),
        ("impossible length 33", 6, 33, &[0; 21], 33),
        ("impossible length 28", 6, 28, &[0; 16], 28),
        ("impossible length 4294967295", 6, u32::MAX, &[], 0),
        (
            "ends with the length 17",
            1,
            20,
            &[1, 0, 0, 0, 0, 0, 0, 0],
            17,
        ),
        ("ends with the length 17", 0xbad, 16, &[0; 4], 17),
        ("a packet or block of 16777220", 6, huge, &[], huge),
        (
            "malformed options",
            1,
            24,
            &[1, 0, 0, 0, 0, 0, 0, 0, 9, 9, 99, 99],
            24,
        ),
        (
            "malformed options",
            1,
            24,
            &[1, 0, 0, 0, 0, 0, 0, 0, 14, 0, 0, 0],
            24,
        ),
        ("byte-order magic", 0x0a0d_0d0a, 28, &[0; 16], 28),
        ("no room", 6, 32, &packet_beyond_block, 32),
    ];
    for (part, kind, len, body, repeated) in cases {
        let mut file = good(Order::Little);
        let at = file.len() as u64;
        file.framed(kind, len, body, repeated);
        let (all, result) = read(&file.bytes());
        assert_eq!(all.len(), 1, "{part}");
        let error = result.unwrap_err();
        assert!(
            matches!(error, CaptureError::Damaged { offset, .. } if offset == at),
            "{part}: {error}"
        );
        assert!(error.to_string().contains(part), "{part}: {error}");
    }

    let mut file = good(Order::Big);
    let mut body = vec![0x1a, 0x2b, 0x3c, 0x4d, 0, 2, 0, 0];
    body.extend([0xff; 8]);
    file.block(0x0a0d_0d0a, &body);
    let error = read(&file.bytes()).1.unwrap_err();
    assert!(
        matches!(
            error,
            CaptureError::Damaged {
                damage: Damage::Version(2),
                ..
            }
        ),
        "{error}"
    );

    let mut file = Pcap::new(Order::Little, PcapMagic::Microseconds, ETHERNET.into());
    file.packet(0, &packet);
    let at = file.len() as u64;
    file.record([0, 0, MAX_RECORD as u32 + 1, 0], &[]);
    let (all, result) = read(&file.bytes());
    assert_eq!(all.len(), 1);
    let damage = Damage::TooLong {
        len: MAX_RECORD as u32 + 1,
    };
    let wanted = CaptureError::Damaged { offset: at, damage };
    assert_eq!(result.unwrap_err().to_string(), wanted.to_string());
}

#[test]
fn interfaces_are_bounded() {
    let mut file = Pcapng::new(Order::Little);
    for _ in 0..=MAX_INTERFACES {
        file.block(1, &[1, 0, 0, 0, 0, 0, 0, 0]);
    }
    let mut capture = CaptureFile::from_reader(Box::new(io::Cursor::new(file.bytes()))).unwrap();
    let result = capture.read(&mut |_| ControlFlow::Continue(()));
    let Err(CaptureError::Damaged { damage, .. }) = result else {
        panic!("{result:?}")
    };
    assert!(matches!(damage, Damage::TooManyInterfaces));
}

fn assert_counts_add_up(counts: CaptureCounts) {
    let CaptureCounts {
        bytes: _,
        packets,
        segments,
        not_tcp,
        fragments,
        cut,
        malformed,
        unsupported_link_type,
    } = counts;
    let sum = segments + not_tcp + fragments + cut + malformed + unsupported_link_type;
    assert_eq!(packets, sum);
}

fn read_anything(file: &[u8]) {
    let Ok(mut capture) = open(file) else { return };
    let mut segments = 0;
    _ = capture.read(&mut |_| {
        segments += 1;
        ControlFlow::Continue(())
    });
    let counts = capture.counts();
    assert_eq!(counts.segments, segments);
    assert!(counts.bytes <= file.len() as u64);
    assert_counts_add_up(counts);
}

proptest! {
    #[test]
    fn no_bytes_panic(
        start in prop::sample::select(vec![
            &[][..],
            &[0xd4, 0xc3, 0xb2, 0xa1],
            &[0xa1, 0xb2, 0x3c, 0x4d],
            &[0x0a, 0x0d, 0x0d, 0x0a, 28, 0, 0, 0, 0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0],
        ]),
        bytes in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        read_anything(&[start, &bytes].concat());
    }

    /// A good file with some bytes changed.
    #[test]
    fn no_damage_panics(
        ng in any::<bool>(),
        order in prop::sample::select(Order::BOTH.to_vec()),
        spoil in prop::collection::vec((0_usize..600, any::<u8>()), 1..6),
    ) {
        let packet = frame(1, b"payload");
        let len = packet.len() as u32;
        let mut file = if ng {
            let mut file = Pcapng::new(order);
            file.interface_with_clock(ETHERNET, 0, Some(9), Some(1));
            file.enhanced(0, 1, &packet, len).obsolete(0, 2, &packet, len).simple(&packet, len);
            file.section(order).interface(101, 0).enhanced(0, 3, &packet[14..], len);
            file.bytes()
        } else {
            let mut file = Pcap::new(order, PcapMagic::Microseconds, ETHERNET.into());
            for _ in 0..6 {
                file.packet(0, &packet);
            }
            file.bytes()
        };
        for (at, value) in spoil {
            if let Some(byte) = file.get_mut(at) {
                *byte = value;
            }
        }
        read_anything(&file);
    }
}
