//! Frames, messages and the rules about them.

use std::time::Duration;

use super::config;
use crate::proto::{
    event::{Event, EventKind},
    flow::Role,
    observer::{
        Config,
        script::{KEY, Script, close_body, frame, header, masked, plain},
    },
};

/// What comes of bytes that the client sends.
fn from_client(bytes: &[u8]) -> Vec<String> {
    let mut s = Script::accepted(config());
    s.client(bytes);
    s.lines()
}

/// What comes of bytes that the server sends.
fn from_server(bytes: &[u8]) -> Vec<String> {
    let mut s = Script::accepted(config());
    s.server(bytes);
    s.lines()
}

#[test]
fn the_mask_says_whose_it_is() {
    assert_eq!(
        from_client(&plain(0x82, b"x")),
        [
            "violation c2s unmasked_client_frame \"binary\" 1",
            "c2s 1 binary 1",
            "message c2s binary 1 in 1"
        ]
    );
    assert_eq!(
        from_server(&masked(0x8a, b"")),
        [
            "violation s2c masked_server_frame \"37fa213d\" 1",
            "s2c 1 pong 0",
        ]
    );
}

#[test]
fn reserved_values() {
    assert_eq!(
        from_server(&plain(0x83, b"x")),
        [
            "violation s2c reserved_opcode \"reserved_3\" 1",
            "s2c 1 reserved_3 1"
        ]
    );
    assert_eq!(
        from_server(&plain(0xbf, b"x")),
        [
            "violation s2c reserved_bits \"3\" 1",
            "violation s2c reserved_opcode \"reserved_f\" 1",
            "s2c 1 reserved_f 1 rsv3"
        ]
    );
    assert_eq!(
        from_server(&plain(0xc1, b"x"))[0],
        "violation s2c reserved_bits \"4\" 1"
    );
}

#[test]
fn lengths() {
    assert_eq!(
        from_server(&[0x82, 126, 0, 1, b'x'])[0],
        "violation s2c nonminimal_length \"1\" 1"
    );
    let mut s = Script::accepted(config());
    let mut bytes = header(0x82, None, u64::MAX);
    bytes.extend([0; 5000]);
    s.server(&bytes);
    s.server(&[0x88; 5000]);
    s.finish();
    let events = s.events();
    let seen: u64 = events
        .iter()
        .filter_map(|event| match event.kind {
            EventKind::Progress(progress) => progress.total,
            _ => None,
        })
        .sum();
    assert_eq!(seen, 10_000);
    let lines: Vec<_> = events
        .iter()
        .filter_map(super::super::script::line)
        .collect();
    assert_eq!(
        lines[..2],
        [
            format!("violation s2c length_too_large \"{}\" 1", u64::MAX),
            format!("s2c 1 binary {}", u64::MAX)
        ]
    );
    assert_eq!(lines[2], "close eof by nobody 0 \"\" after 0ns");
    assert_eq!(lines.len(), 3);
}

#[test]
fn control_frames() {
    assert_eq!(
        from_server(&plain(0x09, b"x")),
        [
            "violation s2c fragmented_control \"ping\" 1",
            "s2c 1 ping 1 -"
        ]
    );
    assert_eq!(
        from_server(&plain(0x89, &[b'x'; 126])),
        [
            "violation s2c oversized_control \"126\" 1",
            "s2c 1 ping 126"
        ]
    );
    // The code of an oversized close frame is in its first bytes all the same.
    let body = close_body(1002, &"y".repeat(200));
    let lines = from_server(&plain(0x88, &body));
    assert_eq!(lines[0], "violation s2c oversized_control \"202\" 1");
    assert!(
        lines[1].starts_with("s2c 1 close 202 1002 \"yyy"),
        "{lines:?}"
    );
}

#[test]
fn a_control_frame_waits_for_its_payload() {
    let mut s = Script::accepted(config());
    let bytes = masked(0x89, b"abc");
    s.client(&bytes[..7]);
    assert!(s.lines().is_empty());
    s.client(&bytes[7..]);
    let events = s.events();
    let frame = (events.iter())
        .find(|event| matches!(event.kind, EventKind::Frame(_)))
        .unwrap();
    // The header was complete a segment earlier.
    assert_eq!(frame.ts.0, s.now.0 - 1_000_000);
    s.client(&bytes[..7]);
    s.fin(Role::Client);
    assert_eq!(s.lines(), ["c2s 2 ping 3"]);
}

#[test]
fn fragmentation() {
    assert_eq!(
        from_server(&plain(0x80, b"x")),
        [
            "violation s2c unexpected_continuation \"continuation\" 1",
            "s2c 1 continuation 1"
        ]
    );
    let bytes = [plain(0x01, b"x"), plain(0x82, b"y")].concat();
    assert_eq!(
        from_server(&bytes),
        [
            "s2c 1 text 1 -",
            "violation s2c expected_continuation \"binary\" 1",
            "s2c 2 binary 1",
            "message s2c binary 1 in 1"
        ]
    );
}

#[test]
fn close_bodies() {
    for (body, expected) in [
        (vec![], vec!["s2c 1 close 0 0 \"\""]),
        (
            vec![3],
            vec![
                "violation s2c invalid_close_length \"1\" 1",
                "s2c 1 close 1 0 \"\"",
            ],
        ),
        (
            close_body(1005, ""),
            vec![
                "violation s2c invalid_close_code \"1005\" 1",
                "s2c 1 close 2 1005 \"\"",
            ],
        ),
        (
            close_body(2999, ""),
            vec![
                "violation s2c invalid_close_code \"2999\" 1",
                "s2c 1 close 2 2999 \"\"",
            ],
        ),
        (
            [&close_body(1000, "")[..], &[b'a', 0xff]].concat(),
            vec![
                "violation s2c invalid_utf8 \"close reason, byte 1\" 1",
                "s2c 1 close 4 1000 \"a\u{fffd}\"",
            ],
        ),
        (close_body(4999, "ä"), vec!["s2c 1 close 4 4999 \"ä\""]),
    ] {
        assert_eq!(from_server(&plain(0x88, &body)), expected);
    }
}

#[test]
fn nothing_comes_after_a_close_frame() {
    let bytes = [plain(0x88, b""), plain(0x81, b"x"), plain(0x88, b"")].concat();
    assert_eq!(
        from_server(&bytes),
        [
            "s2c 1 close 0 0 \"\"",
            "violation s2c data_after_close \"text\" 1",
            "s2c 2 text 1",
            "message s2c text 1 in 1",
            "violation s2c data_after_close \"\" 2",
            "s2c 3 close 0 0 \"\"",
        ]
    );
}

#[test]
fn pings_are_answered_until_a_close_frame_is_received() {
    // RFC 6455, section 5.5.2: an endpoint that has sent one still owes a pong.
    let mut s = Script::accepted(config());
    s.server(&plain(0x88, &close_body(1001, "")));
    s.client(&masked(0x89, b"x"));
    s.server(&plain(0x8a, b"x"));
    s.server(&plain(0x89, b""));
    s.client(&masked(0x88, &close_body(1001, "")));
    assert_eq!(
        s.lines(),
        [
            "s2c 1 close 2 1001 \"\"",
            "c2s 1 ping 1",
            "s2c 2 pong 1 rtt 1ms",
            "s2c 3 ping 0",
            "c2s 2 close 2 1001 \"\"",
        ]
    );
}

#[test]
fn what_reserved_bits_mean_is_not_known_and_neither_is_what_the_frame_says() {
    // Another extension makes something else of the payload.
    let mut s = Script::agreed(config(), "foo", "foo");
    s.server(&plain(0xc1, b"\xff"));
    s.server(&plain(0xa1, b"\xff"));
    s.server(&plain(0x81, b"\xff"));
    let mut lines = s.lines();
    lines.retain(|line| line.starts_with("violation"));
    assert_eq!(lines, ["violation s2c invalid_utf8 \"text, byte 0\" 1"]);
    // Of a connection found midstream nothing is known. Each frame may be compressed by itself.
    let mut s = Script::new(config());
    for _ in 0..8 {
        s.client(&masked(0x81, b"x"));
        s.server(&plain(0x81, b"x"));
    }
    let _ = s.lines();
    s.server(&plain(0x01, b"x"));
    s.server(&plain(0x40, b"\xff"));
    s.server(&plain(0xc9, b""));
    s.server(&plain(0xc0, b"\xff"));
    assert_eq!(
        s.lines(),
        [
            "s2c 9 text 1 -",
            "s2c 10 continuation 1 - rsv4",
            "s2c 11 ping 0 rsv4",
            "s2c 12 continuation 1 rsv4",
            "message s2c text 3 in 3",
        ]
    );
}

#[test]
fn violations_are_told_at_milestones_and_counted_each() {
    let mut s = Script::accepted(config());
    s.server(&plain(0x83, b"").repeat(11));
    let details: Vec<_> = s
        .events()
        .iter()
        .filter_map(|event| match &event.kind {
            EventKind::Violation(violation) => Some((violation.count, violation.detail.clone())),
            _ => None,
        })
        .collect();
    assert_eq!(details.len(), 11);
    assert_eq!(details[0], (1, "reserved_3".to_owned()));
    assert_eq!(details[1], (2, String::new()));
    assert_eq!(details[9], (10, "reserved_3".to_owned()));
}

#[test]
fn compression_is_where_it_was_agreed() {
    let mut s = Script::with_deflate(config());
    s.server(&plain(0x41, b"x"));
    s.server(&plain(0xc0, b"y"));
    s.server(&plain(0xc9, b""));
    s.server(&plain(0x82, b"y"));
    assert_eq!(
        s.lines(),
        [
            "s2c 1 text 1 - rsv4",
            "violation s2c reserved_bits \"4\" 1",
            "s2c 2 continuation 1 rsv4",
            "message s2c text 2 in 2 compressed",
            "violation s2c reserved_bits \"\" 2",
            "s2c 3 ping 0 rsv4",
            "s2c 4 binary 1",
            "message s2c binary 1 in 1",
        ]
    );
}

#[test]
fn pings_and_pongs() {
    let mut s = Script::accepted(config());
    s.server(&plain(0x89, b"one"));
    s.server(&plain(0x89, b"two"));
    s.client(&masked(0x8a, b"two"));
    s.client(&masked(0x8a, b"unasked"));
    s.client(&masked(0x89, b""));
    s.server(&plain(0x8a, b""));
    assert_eq!(
        s.lines(),
        [
            "s2c 1 ping 3",
            "s2c 2 ping 3",
            "c2s 1 pong 3 rtt 1ms",
            "c2s 2 pong 7",
            "c2s 3 ping 0",
            "s2c 3 pong 0 rtt 1ms",
        ]
    );
    s.finish();
    let events = s.events();
    let Some(EventKind::Close(close)) = events.last().map(|event| &event.kind) else {
        panic!()
    };
    assert_eq!(close.unanswered_pings.server_to_client, 1);
    assert_eq!(close.unanswered_pings.client_to_server, 0);
    assert_eq!(close.frames.client_to_server.total(), 3);
    assert_eq!(close.bytes.client_to_server.total(), 10);
}

#[test]
fn previews_are_unmasked_and_cut() {
    let mut s = Script::accepted(Config {
        preview: 4,
        ..config()
    });
    s.client(&masked(0x81, b"Hello"));
    s.client(&masked(0x81, b"Hey"));
    s.client(&masked(0x81, b""));
    s.server(&plain(0x8a, b"Hello"));
    assert_eq!(
        s.lines(),
        [
            "c2s 1 text 5 \"Hell\"...",
            "message c2s text 5 in 1",
            "c2s 2 text 3 \"Hey\"",
            "message c2s text 3 in 1",
            "c2s 3 text 0 \"\"",
            "message c2s text 0 in 1",
            "s2c 1 pong 5 \"Hell\"...",
        ]
    );
}

#[test]
fn a_preview_ends_where_bytes_are_missing() {
    let mut s = Script::accepted(Config {
        preview: 100,
        ..config()
    });
    s.snap = 10;
    s.server(&plain(0x82, b"0123456789"));
    s.server(&plain(0x82, b""));
    s.snap = 2;
    s.server(&plain(0x82, b"0123456789"));
    assert_eq!(
        s.lines(),
        [
            "s2c 1 binary 10 \"01234567\"...",
            "message s2c binary 10 in 1",
            "s2c 2 binary 0 \"\"",
            "message s2c binary 0 in 1",
            "s2c 3 binary 10",
            "message s2c binary 10 in 1",
        ]
    );
}

fn progress(events: &[Event]) -> Vec<(u64, Option<u64>)> {
    events
        .iter()
        .filter_map(|event| match event.kind {
            EventKind::Progress(progress) => Some((progress.bytes, progress.total)),
            _ => None,
        })
        .collect()
}

#[test]
fn progress_comes_once_a_piece() {
    let mut s = Script::accepted(config());
    let bytes = [plain(0x82, &[0; 300]), plain(0x82, b""), plain(0x82, b"x")].concat();
    s.server(&bytes[..104]);
    assert_eq!(progress(&s.events()), [(100, None)]);
    s.server(&bytes[104..154]);
    assert_eq!(progress(&s.events()), [(50, None)]);
    s.server(&bytes[154..]);
    assert_eq!(
        progress(&s.events()),
        [(150, Some(300)), (0, Some(0)), (1, Some(1))]
    );
    s.server(&header(0x82, None, 70_000));
    s.server(&[0; 9]);
    s.rst(Role::Server);
    assert_eq!(progress(&s.events()), [(9, None), (0, Some(9))]);
}

#[test]
fn a_frame_is_told_when_its_header_is_complete() {
    let mut s = Script::accepted(config());
    let bytes = frame(0x82, Some(KEY), &[0; 70_000]);
    s.client(&bytes[..13]);
    assert!(s.lines().is_empty());
    s.client(&bytes[13..14]);
    assert_eq!(s.lines(), ["c2s 1 binary 70000"]);
    s.wait(Duration::from_secs(9));
    s.client(&bytes[14..40_000]);
    assert!(s.lines().is_empty());
    s.client(&bytes[40_000..]);
    assert_eq!(s.lines(), ["message c2s binary 70000 in 1"]);
}

#[test]
fn what_is_near_a_rule_breaks_none() {
    let mut s = Script::with_deflate(Config {
        inflate: true,
        ..config()
    });
    s.client(&masked(0x82, b"x"));
    for bytes in [
        plain(0x82, &[0; 126]),
        plain(0x82, &[0; 0x1_0000]),
        plain(0x89, &[0xff; 125]),
        [
            plain(0x01, b"\xe2\x82"),
            plain(0x8a, b""),
            plain(0x80, b"\xac"),
        ]
        .concat(),
        plain(0xc1, &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 7, 0]),
        plain(0x82, b"\xff"),
    ] {
        s.server(&bytes);
    }
    let rules = |lines: &[String]| lines.iter().filter(|l| l.starts_with("violation")).count();
    let lines = s.lines();
    assert_eq!((lines.len(), rules(&lines)), (15, 0), "{lines:#?}");
    s.server(&header(0x82, None, u64::MAX >> 1));
    assert_eq!(s.lines().len(), 1);
    for code in [1000, 1003, 1007, 1014, 3000, 4999] {
        assert_eq!(
            rules(&from_server(&plain(0x88, &close_body(code, "ä")))),
            0,
            "{code}"
        );
    }
    assert_eq!(rules(&from_server(&plain(0x88, b""))), 0);
}
