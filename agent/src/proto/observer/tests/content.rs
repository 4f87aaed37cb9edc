//! What messages say: inflating, and UTF-8.

use proptest::prelude::*;

use super::config;
use crate::proto::{
    flow::Role,
    inflate::tests::Deflater,
    observer::{
        Config,
        script::{KEY, Script, frame, header, line, masked, plain},
    },
};

const DEFLATE: &str = "permessage-deflate";

fn inflating() -> Config {
    Config {
        inflate: true,
        ..config()
    }
}

const NO_TAKEOVER: &str = "permessage-deflate; server_no_context_takeover";

#[test]
fn messages_over_several_frames_with_control_frames_between() {
    let mut s = Script::with_deflate(inflating());
    let payload = Deflater::new().message(b"Hello Hello Hello Hello");
    let (first, second) = payload.split_at(4);
    s.server(&plain(0x41, first));
    s.server(&plain(0x89, b"x"));
    s.server(&plain(0x00, b""));
    s.server(&plain(0x80, second));
    // Uncompressed in between, and nothing.
    s.client(&masked(0x82, b"plain"));
    s.client(&masked(0xc1, &[0]));
    assert_eq!(
        s.lines(),
        [
            "s2c 1 text 4 - rsv4".to_owned(),
            "s2c 2 ping 1".to_owned(),
            "s2c 3 continuation 0 -".to_owned(),
            format!("s2c 4 continuation {}", second.len()),
            format!(
                "message s2c text {} in 3 compressed inflated 23",
                payload.len()
            ),
            "c2s 1 binary 5".to_owned(),
            "message c2s binary 5 in 1".to_owned(),
            "c2s 2 text 1 rsv4".to_owned(),
            "message c2s text 1 in 1 compressed inflated 0".to_owned(),
        ]
    );
}

#[test]
fn the_window_is_kept_or_not_in_either_direction() {
    // RFC 7692, section 7.2.3.2: the second refers to the first.
    let (hello, again) = ([0xf2, 0x48, 0xcd, 0xc9, 0xc9, 7, 0], [0xf2, 0, 0x11, 0, 0]);
    let mut s = Script::agreed(inflating(), DEFLATE, NO_TAKEOVER);
    for payload in [&hello[..], &again] {
        s.client(&masked(0xc1, payload));
    }
    for _ in 0..2 {
        s.server(&plain(0xc1, &hello));
    }
    let lines = s.lines();
    let lengths: Vec<_> = (lines.iter())
        .filter(|line| line.starts_with("message"))
        .map(|line| line.ends_with(" compressed inflated 5"))
        .collect();
    assert_eq!(lengths, [true; 4], "{lines:?}");
    assert_eq!(s.observer.inflaters, 1, "the client's alone is kept");
    s.shut();
    assert_eq!(s.observer.inflaters, 0);
}

#[test]
fn any_window_size_is_read() {
    for bits in 8..=15 {
        let response = format!("{DEFLATE}; server_max_window_bits={bits}");
        let mut s = Script::agreed(inflating(), DEFLATE, &response);
        let mut sender = Deflater::new();
        let text = "x".repeat(200).into_bytes();
        for _ in 0..2 {
            s.server(&plain(0xc2, &sender.message(&text)));
        }
        let lines = s.lines();
        assert!(lines[1].ends_with("inflated 200"), "{lines:?}");
        assert!(lines[3].ends_with("inflated 200"), "{lines:?}");
    }
}

#[test]
fn a_reference_to_what_is_not_in_the_window_is_a_violation() {
    let (hello, again) = ([0xf2, 0x48, 0xcd, 0xc9, 0xc9, 7, 0], [0xf2, 0, 0x11, 0, 0]);
    // Before the first byte there is nothing, and nothing is left of an earlier message either where
    // the context is not taken over.
    for (response, payloads) in [
        (DEFLATE, &[&again[..]][..]),
        (NO_TAKEOVER, &[&hello[..], &again]),
    ] {
        let mut s = Script::agreed(inflating(), DEFLATE, response);
        for payload in payloads {
            s.server(&plain(0xc1, payload));
        }
        let lines = s.lines();
        let [.., violation, message] = lines.as_slice() else {
            panic!("{lines:?}")
        };
        assert_eq!(violation, "violation s2c invalid_deflate \"\" 1");
        assert_eq!(message, "message s2c text 5 in 1 compressed");
    }
    // A sender with a larger window than was agreed on.
    let part: Vec<u8> = (0..1000u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let payload = Deflater::new().message(&[&part[..], &part].concat());
    for (bits, ok) in [(9, false), (10, true), (15, true)] {
        let response = format!("{DEFLATE}; server_max_window_bits={bits}");
        let mut s = Script::agreed(inflating(), DEFLATE, &response);
        s.server(&plain(0xc2, &payload));
        let lines = s.lines();
        let end = if ok { " inflated 2000" } else { "compressed" };
        assert_eq!(lines.len(), if ok { 2 } else { 3 }, "{bits}: {lines:?}");
        assert!(lines.last().unwrap().ends_with(end), "{bits}: {lines:?}");
        // The client's window is another matter.
        s.client(&masked(0xc2, &payload));
        assert!(s.lines()[1].ends_with(" inflated 2000"));
    }
}

#[test]
fn a_message_that_is_cut_off_is_told_at_its_end() {
    let payload = Deflater::new().message(b"a message that is cut off somewhere");
    for response in [DEFLATE, NO_TAKEOVER] {
        let mut s = Script::agreed(inflating(), DEFLATE, response);
        s.server(&plain(0xc1, &payload[..payload.len() / 2]));
        let lines = s.lines();
        assert_eq!(lines[1], "violation s2c invalid_deflate \"\" 1");
        assert!(lines[2].ends_with("compressed"), "{lines:?}");
    }
}

#[test]
fn several_blocks_and_final_ones() {
    let mut s = Script::with_deflate(inflating());
    // RFC 7692, section 7.2.3.4 and 7.2.3.5.
    let with_final = [0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00];
    let blocks = [
        0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00,
    ];
    for payload in [&with_final[..], &blocks, &with_final[..7], &blocks] {
        s.server(&plain(0xc1, payload));
    }
    let lines = s.lines();
    assert_eq!(lines.len(), 8);
    for line in lines.iter().filter(|line| line.starts_with("message")) {
        assert!(line.ends_with("inflated 5"), "{lines:?}");
    }
}

#[test]
fn what_cannot_be_inflated_is_a_violation_and_no_stop() {
    let mut s = Script::with_deflate(inflating());
    s.server(&plain(0xc1, &[0x07, 1, 2, 3]));
    // What follows refers to what was not understood.
    s.server(&plain(0xc1, &Deflater::new().message(b"x")));
    s.server(&plain(0x81, b"plain"));
    assert_eq!(
        s.lines(),
        [
            "s2c 1 text 4 rsv4",
            "violation s2c invalid_deflate \"\" 1",
            "message s2c text 4 in 1 compressed",
            "s2c 2 text 3 rsv4",
            "message s2c text 3 in 1 compressed",
            "s2c 3 text 5",
            "message s2c text 5 in 1",
        ]
    );
    assert_eq!(s.observer.inflaters, 0);
    // Without takeover each message is one of its own; an empty one has at least one byte.
    let mut s = Script::agreed(inflating(), DEFLATE, NO_TAKEOVER);
    for payload in [
        &[0x07][..],
        &[],
        &[0xf2, 0x48],
        &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 7, 0],
    ] {
        s.server(&plain(0xc1, payload));
    }
    let lines = s.lines();
    let rules = lines.iter().filter(|line| line.contains("invalid_deflate"));
    assert_eq!(rules.count(), 3, "{lines:?}");
    assert!(
        lines[9].starts_with("s2c 4") && lines[10].ends_with("inflated 5"),
        "{lines:?}"
    );
}

#[test]
fn an_empty_compressed_message_spoils_nothing() {
    let mut s = Script::with_deflate(inflating());
    s.server(&plain(0xc1, &[]));
    s.server(&plain(0xc1, &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 7, 0]));
    assert_eq!(
        s.lines(),
        [
            "s2c 1 text 0 rsv4",
            "violation s2c invalid_deflate \"\" 1",
            "message s2c text 0 in 1 compressed",
            "s2c 2 text 7 rsv4",
            "message s2c text 7 in 1 compressed inflated 5",
        ]
    );
}

#[test]
fn it_is_left_alone_where_nobody_asked() {
    let mut s = Script::with_deflate(config());
    s.server(&plain(0xc1, &[0x07]));
    assert_eq!(
        s.lines(),
        ["s2c 1 text 1 rsv4", "message s2c text 1 in 1 compressed"]
    );
    assert_eq!(s.observer.inflaters, 0);
}

#[test]
fn missing_bytes_end_it_silently() {
    for (response, after) in [(DEFLATE, ""), (NO_TAKEOVER, " inflated 300")] {
        let mut s = Script::agreed(inflating(), DEFLATE, response);
        let mut sender = Deflater::new();
        let text: Vec<u8> = (0..300).map(|n| (n * 7 % 251) as u8).collect();
        let bytes = plain(0xc2, &sender.message(&text));
        s.snap = 100;
        s.server(&bytes);
        s.snap = usize::MAX;
        s.server(&plain(0xc2, &Deflater::new().message(&text)));
        let lines = s.lines();
        assert_eq!(lines.len(), 4, "{lines:?}");
        assert!(lines[1].ends_with("compressed"), "{lines:?}");
        assert!(
            lines[3].ends_with(&format!("compressed{after}")),
            "{lines:?}"
        );
    }
}

#[test]
fn a_header_lost_loses_the_window() {
    let mut s = Script::with_deflate(inflating());
    s.server(&plain(0xc1, &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 7, 0]));
    s.lose(Role::Server, 50);
    for _ in 0..20 {
        s.server(&plain(0x81, b"some plain text"));
    }
    s.give_up();
    s.server(&plain(0xc1, &[0xf2, 0, 0x11, 0, 0]));
    let lines = s.lines();
    assert!(lines[1].ends_with("inflated 5"), "{lines:?}");
    assert!(
        lines.iter().any(|line| line.ends_with("resynced")),
        "{lines:?}"
    );
    assert_eq!(lines.last().unwrap(), "message s2c text 5 in 1 compressed");
}

#[test]
fn a_message_broken_off_loses_the_window() {
    let mut s = Script::with_deflate(inflating());
    let payload = Deflater::new().message(b"Hello");
    s.server(&plain(0x41, &payload[..3]));
    s.server(&plain(0xc1, &payload));
    let lines = s.lines();
    assert!(lines[1].contains("expected_continuation"), "{lines:?}");
    assert_eq!(lines[3], "message s2c text 7 in 1 compressed");
}

#[test]
fn a_bomb_is_left_alone_beyond_the_limits() {
    let bomb = |s: &mut Script, takeover: bool| {
        let mut sender = Deflater::new();
        for _ in 0..2 {
            s.server(&plain(0xc2, &sender.message(&vec![0; 8 << 20])));
            if !takeover {
                sender = Deflater::new();
            }
        }
        s.server(&plain(0xc2, &sender.message(b"")));
        s.lines()
    };
    for config in [
        Config {
            max_inflated: 1 << 20,
            max_inflate_ratio: 2000,
            ..inflating()
        },
        inflating(),
    ] {
        let mut s = Script::with_deflate(config.clone());
        let lines = bomb(&mut s, true);
        assert_eq!(lines.len(), 6);
        assert!(
            !lines
                .iter()
                .any(|line| line.contains("inflated") || line.contains("violation"))
        );
        assert_eq!(s.observer.stats().exceeded.inflated, 3);
        assert_eq!(s.observer.inflaters, 0);
        // Without takeover the next message is another matter.
        let mut s = Script::agreed(config, DEFLATE, NO_TAKEOVER);
        let lines = bomb(&mut s, false);
        assert!(lines[5].ends_with("inflated 0"), "{lines:?}");
        assert_eq!(s.observer.stats().exceeded.inflated, 2);
    }
    let mut s = Script::with_deflate(Config {
        max_inflate_ratio: 2000,
        ..inflating()
    });
    assert!(bomb(&mut s, true)[1].ends_with("inflated 8388608"));
    assert_eq!(s.observer.stats().exceeded.inflated, 0);
}

#[test]
fn what_was_inflated_up_to_a_limit_is_shown_however_it_is_cut() {
    let message = Deflater::new().message(&vec![b'x'; 1 << 20]);
    for size in [1, message.len() + 10] {
        let mut s = Script::with_deflate(Config {
            preview: 4,
            max_inflated: 100,
            ..inflating()
        });
        let bytes = plain(0xc1, &message);
        bytes.chunks(size).for_each(|piece| s.server(piece));
        let lines = s.lines();
        assert_eq!(
            lines[0],
            format!("s2c 1 text {} rsv4 \"xxxx\"...", message.len())
        );
    }
}

#[test]
fn a_short_message_may_repeat_itself() {
    let mut s = Script::with_deflate(inflating());
    let mut sender = Deflater::new();
    let text = [b'x'; 60_000];
    s.server(&plain(0xc2, &sender.message(&text)));
    assert!(s.lines()[1].ends_with("inflated 60000"));
}

#[test]
fn decompressors_are_bounded() {
    let mut s = Script::with_deflate(Config {
        max_inflaters: 1,
        ..inflating()
    });
    let payload = Deflater::new().message(b"Hello");
    s.server(&plain(0xc1, &payload));
    s.client(&masked(0xc1, &payload));
    s.client(&masked(0xc1, &payload));
    let lines = s.lines();
    assert!(lines[1].ends_with("inflated 5"));
    assert!(lines[3].ends_with("compressed") && lines[5].ends_with("compressed"));
    assert_eq!(s.observer.stats().exceeded.inflaters, 1);
    assert_eq!(s.observer.inflaters, 1);
}

#[test]
fn frames_that_are_compressed_one_by_one() {
    for name in ["x-webkit-deflate-frame", "deflate-frame"] {
        let mut s = Script::agreed(inflating(), name, name);
        let mut sender = Deflater::new();
        let parts = [sender.message(b"Hello "), sender.message(b"Hello ")];
        s.server(&plain(0x41, &parts[0]));
        s.server(&plain(0xc9, b""));
        s.server(&plain(0x00, b"plain "));
        s.server(&plain(0xc0, &parts[1]));
        s.server(&plain(0x81, b"plain"));
        let lines = s.lines();
        let lines: Vec<_> = lines
            .iter()
            .filter(|line| !line.starts_with("s2c"))
            .collect();
        let len = parts[0].len() + parts[1].len() + 6;
        assert_eq!(
            lines,
            [
                "violation s2c reserved_bits \"4\" 1",
                &format!("message s2c text {len} in 3 compressed inflated 18"),
                "message s2c text 5 in 1",
            ]
        );
    }
}

#[test]
fn previews_are_what_a_frame_adds_to_its_message() {
    let mut s = Script::with_deflate(Config {
        preview: 8,
        ..inflating()
    });
    let mut sender = Deflater::new();
    let short = sender.message(b"Hello");
    let long = sender.message(b"Hello, Hello, Hello");
    let mut text = vec![];
    s.server(&plain(0xc1, &short));
    s.server(&plain(0x41, &long[..2]));
    s.server(&plain(0x80, &long[2..]));
    s.server(&plain(0xc1, &[0x07, b'a']));
    for event in s.events() {
        if let crate::proto::event::EventKind::Frame(frame) = event.kind {
            let preview = frame.payload.unwrap();
            text.push((
                String::from_utf8_lossy(&preview.bytes).into_owned(),
                preview.truncated,
                preview.compressed,
            ));
        }
    }
    assert_eq!(text[0], ("Hello".into(), false, false));
    assert_eq!(text.len(), 4);
    let whole: String = format!("{}{}", text[1].0, text[2].0);
    assert!("Hello, Hello, Hello".starts_with(&whole), "{text:?}");
    assert!(text[2].1 && !text[2].2, "{text:?}");
    assert_eq!(text[3], ("\u{7}a".into(), false, true));
}

fn text(payloads: &[(u8, &[u8])]) -> Vec<String> {
    let mut s = Script::accepted(config());
    for (first, payload) in payloads {
        s.client(&masked(*first, payload));
    }
    let mut lines = s.lines();
    lines.retain(|line| line.starts_with("violation"));
    lines
}

#[test]
fn text_is_utf8_across_fragments() {
    let none: [&str; 0] = [];
    let ok = "κόσμε€😀".as_bytes();
    for cut in 0..=ok.len() {
        let (a, b) = ok.split_at(cut);
        assert_eq!(
            text(&[(0x01, a), (0x89, b"\xff"), (0x80, b)]),
            none,
            "{cut}"
        );
    }
    assert_eq!(text(&[(0x82, b"\xff")]), none);
    assert_eq!(
        text(&[(0x81, b"a\xffb\xff")]),
        ["violation c2s invalid_utf8 \"text, byte 1\" 1"]
    );
    // The end of a message cuts a character; of a fragment it does not.
    assert_eq!(
        text(&[(0x01, b"ab"), (0x00, b"\xe2\x82"), (0x80, b"")]),
        ["violation c2s invalid_utf8 \"text, byte 2\" 1"]
    );
    assert_eq!(
        text(&[(0x81, b"\xc3"), (0x81, b"\xa4")]),
        [
            "violation c2s invalid_utf8 \"text, byte 0\" 1",
            // Told at milestones.
            "violation c2s invalid_utf8 \"\" 2",
        ]
    );
}

#[test]
fn compressed_text_is_utf8_when_inflated() {
    let mut s = Script::with_deflate(inflating());
    s.server(&plain(0xc1, &Deflater::new().message(b"abc\xe2\x28\xa1")));
    assert_eq!(
        s.lines()[1..],
        [
            "violation s2c invalid_utf8 \"text, byte 3\" 1",
            "message s2c text 8 in 1 compressed inflated 6",
        ]
    );
}

#[test]
fn a_bad_byte_is_told_when_it_comes() {
    let mut s = Script::accepted(config());
    let bytes = plain(0x81, &[&[b'x'; 200][..], b"\xff", &[b'x'; 200]].concat());
    s.server(&bytes[..150]);
    assert_eq!(s.lines(), ["s2c 1 text 401"]);
    s.server(&bytes[150..210]);
    assert_eq!(
        s.lines(),
        ["violation s2c invalid_utf8 \"text, byte 200\" 1"]
    );
}

#[test]
fn what_was_not_captured_is_not_judged() {
    let mut s = Script::accepted(config());
    s.snap = 50;
    s.server(&plain(0x81, &"€".repeat(100).into_bytes()));
    s.snap = usize::MAX;
    s.server(&plain(0x81, b"\xff"));
    let lines = s.lines();
    assert_eq!(lines.len(), 5, "{lines:?}");
    assert!(lines[3].contains("invalid_utf8"), "{lines:?}");
}

/// Frames that a peer may send that compresses.
fn compressed_stream(mask: bool) -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        6 => (prop::collection::vec(any::<char>(), 0..30), 1usize..60)
            .prop_map(|(text, n)| String::from_iter(text).repeat(n).into_bytes()),
        1 => prop::collection::vec(any::<u8>(), 0..600),
        1 => (1usize..300_000).prop_map(|n| vec![b'a'; n]),
    ];
    let message = (
        piece,
        any::<bool>(),
        prop::sample::select(vec![1u8, 2]),
        prop::option::weighted(0.2, (any::<usize>(), any::<u8>())),
        prop::option::weighted(0.5, 0usize..100),
    );
    prop::collection::vec(message, 1..8).prop_map(move |messages| {
        let mask = mask.then_some(KEY);
        let mut sender = Deflater::new();
        let mut stream = Vec::new();
        for (text, compress, opcode, spoil, cut) in messages {
            let mut payload = if compress {
                sender.message(&text)
            } else {
                text
            };
            if let Some((at, with)) = spoil
                && let Some(byte) = at
                    .checked_rem(payload.len())
                    .and_then(|at| payload.get_mut(at))
            {
                *byte = with;
            }
            let first = opcode | if compress { 0x40 } else { 0 };
            match cut {
                Some(cut) if cut < payload.len() => {
                    stream.extend(frame(first, mask, &payload[..cut]));
                    stream.extend(frame(0x89, mask, b"?"));
                    stream.extend(frame(0x80, mask, &payload[cut..]));
                }
                _ => stream.extend(frame(first | 0x80, mask, &payload)),
            }
        }
        stream
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn any_split_gives_the_same_content(
        client in compressed_stream(true),
        server in compressed_stream(false),
        cuts in prop::collection::vec(1usize..2000, 1..8),
        extension in prop::sample::select(vec![DEFLATE, NO_TAKEOVER, "deflate-frame"]),
        preview in prop_oneof![Just(0usize), 1usize..300],
        max_inflated in prop_oneof![Just(16u64 << 20), 0u64..5000],
        max_inflate_ratio in prop_oneof![Just(100u64), 1u64..50],
    ) {
        let config = Config { preview, max_inflated, max_inflate_ratio, ..inflating() };
        let show = |cuts: &[usize]| {
            let offered = extension.split(';').next().unwrap_or_default();
            let mut s = Script::agreed(config.clone(), offered, extension);
            let mut sizes = cuts.iter().copied().cycle();
            for (role, bytes) in [(Role::Client, &client), (Role::Server, &server)] {
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    let n = sizes.next().unwrap_or(1).clamp(1, rest.len());
                    s.segment(role, 0x10, &rest[..n]);
                    rest = &rest[n..];
                }
            }
            s.shut();
            let lines: Vec<_> = s.events().iter().filter_map(line).map(|line| {
                line.split(" after ").next().unwrap_or_default().to_owned()
            }).collect();
            assert_eq!(s.observer.inflaters, 0);
            (lines, s.observer.stats().exceeded)
        };
        prop_assert_eq!(show(&[usize::MAX]), show(&cuts));
    }

    #[test]
    fn hostile_payload_does_no_harm(
        payloads in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..300)), 1..20),
        extension in prop::sample::select(vec![DEFLATE, NO_TAKEOVER, "deflate-frame"]),
        left_open in any::<bool>(),
    ) {
        let offered = extension.split(';').next().unwrap_or_default();
        let mut s = Script::agreed(inflating(), offered, extension);
        for (first, payload) in payloads {
            s.server(&plain(first | 0x40, &payload));
        }
        if left_open {
            s.server(&header(0xc1, None, 1 << 40));
            s.server(&[0; 3000]);
        }
        s.finish();
        prop_assert_eq!(s.observer.inflaters, 0);
    }
}
