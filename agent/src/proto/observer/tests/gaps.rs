//! Bytes that are missing, and getting back in sync.

use super::{config, midstream::Random};
use crate::proto::{
    flow::Role,
    observer::{
        Config,
        script::{FIN, RESPONSE, Script, close_body, frame, masked, plain},
    },
};

#[test]
fn a_gap_in_a_payload_is_arithmetic() {
    let mut s = Script::accepted(config());
    let bytes = plain(0x82, &[b'x'; 500]);
    s.server(&bytes[..100]);
    s.lose(Role::Server, 300);
    s.server(&bytes[400..]);
    s.server(&plain(0x82, b"y"));
    s.give_up();
    assert_eq!(
        s.lines(),
        [
            "s2c 1 binary 500",
            "message s2c binary 500 in 1",
            "s2c 2 binary 1",
            "message s2c binary 1 in 1"
        ]
    );
    assert_eq!(s.observer.stats().gaps, 0);
}

#[test]
fn a_lost_header_is_reported_and_repaired() {
    for role in [Role::Server, Role::Client] {
        let make = |payload: &[u8]| match role {
            Role::Server => plain(0x81, payload),
            Role::Client => masked(0x81, payload),
        };
        let mut s = Script::accepted(config());
        s.segment(role, 0x10, &make(b"before"));
        s.lose(role, 77);
        for _ in 0..5 {
            s.segment(role, 0x10, &make(b"some text"));
        }
        s.give_up();
        let lines = s.lines();
        let d = if role == Role::Server { "s2c" } else { "c2s" };
        assert_eq!(lines[2], format!("gap {d} 77 resynced"), "{lines:?}");
        assert_eq!(lines[3], format!("{d} 2 text 9"));
        assert_eq!(lines.len(), 13);
        let stats = s.observer.stats();
        assert_eq!((stats.gaps, stats.resyncs, stats.frames_lost), (1, 1, 1));
    }
}

#[test]
fn a_payload_of_one_byte_throughout_is_no_row_of_frames() {
    // Some of these keys make every four bytes look like a frame's header.
    for first in 0x80..=0x8a_u8 {
        for second in (0x80..=0xff_u8).step_by(3) {
            let mut s = Script::accepted(config());
            s.lose(Role::Client, 700);
            // The end of a payload of zeros, as its masking key leaves it, behind something else.
            let end = [first, second, 0x11, 0x22].repeat(350);
            s.client(&[&[first, second, 7], &end[..]].concat());
            for n in 0..12 {
                let key = [first ^ n, second ^ n, 3 * n, 0x81 ^ n];
                s.client(&frame(0x82, Some(key), &[0; 1400]));
            }
            s.give_up();
            let lines = s.lines();
            let other = |line: &String| {
                !(line.contains("gap c2s") || line.contains("binary 1400") && line.contains("c2s"))
            };
            let other: Vec<_> = lines.into_iter().filter(other).collect();
            assert!(other.is_empty(), "{first:x} {second:x}: {other:?}");
            assert_eq!(s.observer.stats().resyncs, 1, "{first:x} {second:x}");
        }
    }
}

#[test]
fn back_in_sync_within_a_segment() {
    let mut s = Script::accepted(config());
    s.lose(Role::Server, 1000);
    let mut bytes = vec![0xff; 300];
    for n in 0..12 {
        bytes.extend(plain(0x82, &vec![0xff; 20 + n]));
    }
    s.server(&bytes[..450]);
    s.server(&bytes[450..]);
    s.give_up();
    let lines = s.lines();
    assert_eq!(lines[0], "gap s2c 1000 resynced", "{lines:?}");
    // The first headers are not believed: random bytes may have led to the next.
    assert_eq!(lines[1], "s2c 1 binary 23");
    assert_eq!(lines.last().unwrap(), "message s2c binary 31 in 1");
    assert_eq!(lines.len(), 19);
}

#[test]
fn never_back_in_sync() {
    let mut s = Script::accepted(config());
    s.lose(Role::Server, 10);
    s.server(&[0xff; 100]);
    s.give_up();
    s.lose(Role::Server, 10);
    s.server(&[0xff; 100]);
    s.shut();
    s.give_up();
    s.finish();
    assert_eq!(s.lines()[0], "gap s2c 20 open",);
    assert_eq!(s.observer.stats().gaps, 1);
    assert_eq!(s.observer.stats().resyncs, 0);
}

#[test]
fn the_other_direction_goes_on() {
    let mut s = Script::accepted(config());
    s.lose(Role::Server, 10);
    s.server(&[0xff; 100]);
    s.client(&masked(0x82, b"x"));
    s.give_up();
    assert_eq!(s.lines(), ["c2s 1 binary 1", "message c2s binary 1 in 1"]);
}

#[test]
fn a_snap_length_cuts_payload() {
    let mut s = Script::accepted(config());
    s.snap = 60;
    for _ in 0..3 {
        s.client(&masked(0x82, &[7; 1000]));
    }
    assert_eq!(s.lines().len(), 6);
    // A header in what was cut off is a gap.
    s.client(&[masked(0x82, &[7; 1000]), masked(0x82, &[7; 10])].concat());
    assert_eq!(s.lines().len(), 2);
    for _ in 0..4 {
        s.client(&masked(0x82, &[7; 1000]));
    }
    let lines = s.lines();
    assert_eq!(lines[0], "gap c2s 16 resynced", "{lines:?}");
    assert_eq!(lines.len(), 9);
}

#[test]
fn a_message_with_a_lost_frame_is_left_out() {
    let mut s = Script::accepted(config());
    s.server(&plain(0x02, b"12345678"));
    s.lose(Role::Server, 100);
    s.server(&plain(0x00, b"12345678"));
    s.server(&plain(0x80, b"12345678"));
    for _ in 0..6 {
        s.server(&plain(0x82, b"12345678"));
    }
    s.give_up();
    let lines = s.lines();
    assert!(
        !lines.iter().any(|line| line.contains("violation")),
        "{lines:?}"
    );
    let messages = lines.iter().filter(|line| line.starts_with("message"));
    assert!(
        messages.clone().all(|line| line.ends_with("8 in 1")),
        "{lines:?}"
    );
    assert_eq!(messages.count(), 6);
}

#[test]
fn missing_bytes_behind_the_head() {
    let mut s = Script::new(config());
    s.connect();
    s.client(crate::proto::observer::script::REQUEST.as_bytes());
    s.snap = RESPONSE.len();
    s.server(&[RESPONSE.as_bytes(), &plain(0x81, b"cut off")].concat());
    s.snap = usize::MAX;
    for _ in 0..4 {
        s.server(&plain(0x81, b"some text"));
    }
    let lines = s.lines();
    assert_eq!(
        lines[..2],
        ["handshake accepted 101 /chat", "gap s2c 9 resynced"]
    );
}

/// A client that has sent 1200 bytes which nobody saw.
fn lossy() -> Script {
    let mut s = Script::accepted(config());
    s.client(&masked(0x81, b"before"));
    s.lines();
    s.lose(Role::Client, 1200);
    s
}

#[test]
fn what_ends_a_conversation_is_enough_to_be_back_in_sync() {
    let mut s = lossy();
    let key = |n: u8| Some([n, 0x9d ^ n, 0x3c, n.wrapping_mul(37)]);
    s.client(&frame(0x89, key(1), b""));
    s.give_up();
    s.client(&frame(0x80, key(2), b"\x01\x02\x03 the rest"));
    s.client(&frame(0x88, key(3), &close_body(1000, "")));
    s.server(&plain(0x88, &close_body(1000, "")));
    s.shut();
    assert_eq!(
        s.lines(),
        [
            "gap c2s 1200 resynced",
            // The ping could have led there by chance.
            "c2s 2 continuation 12",
            "c2s 3 close 2 1000 \"\"",
            "s2c 1 close 2 1000 \"\"",
            "close clean by client 1000 \"\" after 1ms",
        ]
    );
}

#[test]
fn a_close_frame_before_the_end_is_enough() {
    for reason in ["", "done"] {
        let mut s = lossy();
        s.client(&masked(0x88, &close_body(1000, reason)));
        s.shut();
        s.give_up();
        let lines = s.lines();
        assert_eq!(lines[0], "gap c2s 1200 resynced", "{lines:?}");
        assert_eq!(
            lines[2],
            format!("close half by client 1000 {reason:?} after 0ns")
        );
    }
    // The same with the FIN in its segment, and behind the rest of something.
    let mut s = lossy();
    let bytes = [&[0xff; 40][..], &masked(0x88, &close_body(1000, "done"))].concat();
    s.segment(Role::Client, FIN | 0x10, &bytes);
    s.fin(Role::Server);
    s.give_up();
    assert_eq!(s.lines()[1], "c2s 2 close 6 1000 \"done\"");
}

#[test]
fn a_pong_that_was_asked_for_is_enough() {
    let mut s = Script::accepted(config());
    s.server(&plain(0x89, b"one"));
    s.lose(Role::Client, 1200);
    s.client(&masked(0x8a, b"one"));
    s.give_up();
    let lines = s.lines();
    assert_eq!(lines[1], "gap c2s 1200 resynced", "{lines:?}");
    assert!(lines[2].starts_with("c2s 1 pong 3 rtt"));
}

#[test]
fn one_frame_of_text_in_a_segment_is_enough() {
    let mut s = lossy();
    s.client(&masked(0x81, b"{\"type\":\"subscribe\"}"));
    s.give_up();
    assert_eq!(s.lines()[0], "gap c2s 1200 resynced");
}

#[test]
fn zeros_under_a_mask_are_no_frames() {
    // Each key that looks like a header makes an endless chain of them.
    let mut s = lossy();
    s.client(&frame(0x82, Some([0x82, 0x82, 5, 7]), &[0; 100_000])[4000..]);
    s.give_up();
    assert_eq!(s.observer.stats().resyncs, 0);
}

#[test]
fn random_payload_does_not_pass_for_frames() {
    let mut random = Random(0x51ed_270b_9f1c_a3d7);
    for trial in 0..40 {
        let role = if trial % 2 == 0 {
            Role::Client
        } else {
            Role::Server
        };
        let mut s = Script::accepted(config());
        s.lose(role, 500);
        for _ in 0..40 {
            s.segment(role, 0x10, &random.bytes(1448));
            s.give_up();
        }
        s.fin(role);
        s.give_up();
        assert_eq!(s.observer.stats().resyncs, 0, "trial {trial}");
    }
}

/// Shows `bytes` behind a gap in `role`'s direction, in full segments. How often it got back in sync.
fn resyncs_in(role: Role, bytes: &[u8]) -> u64 {
    let mut s = Script::accepted(config());
    s.lose(role, 500);
    for piece in bytes.chunks(1448) {
        s.segment(role, 0x10, piece);
        s.give_up();
    }
    s.observer.stats().resyncs
}

#[test]
fn counters_under_a_mask_are_no_frames() {
    // Numbers whose upper bytes stay the same, so that two bytes of the key look like a header, and
    // those that count are a key that is new each time.
    for (size, little) in [(4, true), (4, false), (8, true)] {
        for key in [0xc2f2, 0x82c6, 0x81a2, 0x8292, 0x82fe_u32] {
            for turn in 0..4 {
                let mut mask = (key << 16 | 0x1137).to_be_bytes();
                mask.rotate_left(turn);
                let numbers = (123_456..130_000_u64).flat_map(|n| {
                    let bytes = if little {
                        n.to_le_bytes()
                    } else {
                        n.to_be_bytes()
                    };
                    if little {
                        bytes[..size].to_vec()
                    } else {
                        bytes[8 - size..].to_vec()
                    }
                });
                let bytes = frame(0x82, Some(mask), &numbers.collect::<Vec<_>>());
                let resyncs = resyncs_in(Role::Client, &bytes[20..]);
                assert_eq!(resyncs, 0, "{size} {little} {mask:02x?}");
            }
        }
    }
}

#[test]
fn words_that_end_like_a_header_are_no_frames() {
    // The last byte of these letters is 0x80, 0x81, 0x82 or 0x89, and a space is a length of 32.
    let mut random = Random(0xc0de_0f2a);
    let words = [
        "нас",
        "вот",
        "мир",
        "борщ",
        "совет",
        "час",
        "вечер",
        "и",
        "там",
        "день",
    ];
    for _ in 0..30 {
        let mut text = String::new();
        while text.len() < 40_000 {
            text += words[random.below(words.len() as u64) as usize];
            text += [" ", " ", ", "][random.below(3) as usize];
        }
        assert_eq!(resyncs_in(Role::Server, text.as_bytes()), 0);
    }
}

#[test]
fn a_length_is_no_header_of_its_own() {
    // `01 f0` is a part of the length, with the same key and text behind it.
    for len in [0x1f0, 0x181, 0x281] {
        let mut s = lossy();
        let text = "{\"type\":\"tick\",\"symbol\":\"EURUSD\"}".repeat(20);
        for n in 0..4u8 {
            let key = [0x7e, 0x6e ^ n, 0x3a, 0xc9 ^ n.wrapping_mul(77)];
            s.client(&frame(0x81, Some(key), &text.as_bytes()[..len]));
        }
        s.give_up();
        let lines = s.lines();
        assert_eq!(lines.len(), 9, "{lines:?}");
        assert_eq!(lines[1], format!("c2s 2 text {len}"));
    }
}

#[test]
fn an_end_of_a_payload_that_leads_to_a_frame_is_none() {
    // The rest of a large frame, all of a segment, that looks like a short one.
    let mut random = Random(0x7a11_0f1a);
    let mut s = Script::accepted(config());
    s.lose(Role::Server, 1448);
    s.server(&[&[0x81, 68][..], &random.bytes(68)].concat());
    for n in 0..4 {
        for piece in plain(0x82, &random.bytes(5000 + 100 * n)).chunks(1448) {
            s.server(piece);
        }
    }
    s.give_up();
    let lines = s.lines();
    assert_eq!(lines[1], "s2c 1 binary 5000", "{lines:?}");
}

#[test]
fn headers_upon_headers_are_read_a_few_times_each() {
    // A place that leads to the next, and so on: without a bound each byte would be read by as many
    // chains as headers fit before it.
    for pattern in [
        &[0x82, 0][..],
        &[0x82, 1, 0],
        &[0x81, 3],
        &[0x8a, 2, 0x89, 2],
    ] {
        let mut s = Script::accepted(config());
        s.lose(Role::Server, 500);
        s.server(&[0xff; 20]);
        s.give_up();
        for piece in pattern.repeat(200_000 / pattern.len()).chunks(1448) {
            s.server(piece);
        }
        assert_eq!(s.observer.stats().resyncs, 0, "{pattern:02x?}");
        assert!(s.observer.stats().held < 64 << 10, "{pattern:02x?}");
    }
}

/// Frames of 100 bytes in bulk behind a gap, as many before it, with `payload` in them. How often it
/// got back in sync, and what it says then.
fn bulk(mut payload: impl FnMut() -> Vec<u8>, segment: usize) -> (u64, Vec<String>) {
    let mut s = Script::accepted(config());
    let bytes: Vec<u8> = (0..400).flat_map(|_| plain(0x82, &payload())).collect();
    let (before, rest) = bytes.split_at(20 * 102);
    s.server(before);
    s.lines();
    let (lost, behind) = rest.split_at(150);
    s.lose(Role::Server, lost.len());
    for piece in behind.chunks(segment) {
        s.server(piece);
        s.give_up();
    }
    (s.observer.stats().resyncs, s.lines())
}

#[test]
fn a_header_that_was_common_is_known_again() {
    for segment in [16, 700, 1448, 30_000] {
        let mut random = Random(0x6b1f_05c1);
        let (resyncs, lines) = bulk(|| random.bytes(100), segment);
        assert_eq!(resyncs, 1, "{segment}");
        assert_eq!(lines[1], "s2c 21 binary 100");
        // Of 380 frames a gap of 150 bytes hit two.
        let frames = lines.iter().filter(|line| line.starts_with("s2c")).count();
        assert!((377..=378).contains(&frames), "{segment}: {frames}");
    }
}

#[test]
fn payload_that_has_the_header_as_regularly_is_not_told_from_frames() {
    // Whichever comes first behind the gap, and however far chains get in a segment.
    for at in [0, 20, 50, 90, 98] {
        for segment in [16, 700, 1448, 30_000] {
            let mut random = Random(0x6b1f_05c1 + at as u64);
            let record = || {
                let mut payload = random.bytes(100);
                payload[at..at + 2].copy_from_slice(&[0x82, 100]);
                payload
            };
            let (resyncs, _) = bulk(record, segment);
            assert_eq!(resyncs, 0, "{at} {segment}");
        }
    }
}

#[test]
fn a_search_is_given_up_where_it_costs_too_much() {
    let mut s = Script::accepted(Config {
        max_searched: 10_000,
        ..config()
    });
    let mut random = Random(0x0dd_ba11);
    s.lose(Role::Server, 500);
    for _ in 0..8 {
        s.server(&random.bytes(1448));
        s.give_up();
    }
    assert_eq!(s.observer.stats().exceeded.search, 1);
    // Frames are no longer looked for, but the gap is reported.
    for n in 0..20 {
        s.server(&plain(0x82, &random.bytes(1000 + n)));
    }
    s.fin(Role::Server);
    s.give_up();
    assert_eq!(s.lines(), ["gap s2c 500 open"]);
    assert_eq!(s.observer.stats().exceeded.search, 1);
}

#[test]
fn what_is_read_in_frames_pays_for_further_searches() {
    let mut s = Script::accepted(Config {
        max_searched: 10_000,
        ..config()
    });
    let mut random = Random(0x0dd_ba11);
    for _ in 0..30 {
        for n in 0..4 {
            s.server(&plain(0x82, &random.bytes(1200 + n)));
        }
        s.lose(Role::Server, 500);
        for n in 0..4 {
            s.server(&plain(0x82, &random.bytes(1000 + n)));
            s.give_up();
        }
    }
    let stats = s.observer.stats();
    assert_eq!((stats.resyncs, stats.exceeded.search), (30, 0));
}
