//! How connections end, and by whom.

use std::time::Duration;

use super::config;
use crate::proto::{
    event::{Close, EventKind},
    flow::Role,
    observer::{
        Config, Decision,
        script::{ACK, FIN, REQUEST, RESPONSE, SYN, Script, close_body, masked, plain},
    },
    seq::SeqNumber,
    time::Timestamp,
};

fn open() -> Script {
    Script::accepted(config())
}

fn close(s: &mut Script) -> Close {
    let events = s.events();
    match events.last().map(|event| &event.kind) {
        Some(EventKind::Close(close)) => (**close).clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn half() {
    let mut s = open();
    s.server(&plain(0x88, b""));
    s.shut();
    assert_eq!(
        s.lines(),
        [
            "s2c 1 close 0 0 \"\"",
            "close half by server 1005 \"\" after 1ms"
        ]
    );
    let mut s = open();
    s.client(&masked(0x88, &close_body(1001, "")));
    s.rst(Role::Server);
    assert_eq!(s.lines()[1], "close half by client 1001 \"\" after 1ms");
    let mut s = open();
    s.client(&masked(0x88, &[1]));
    s.finish();
    assert_eq!(s.lines()[2], "close half by client 1005 \"\" after 1ms");
}

#[test]
fn clean_even_if_nobody_finishes() {
    let mut s = open();
    s.wait(Duration::from_secs(3));
    s.server(&plain(0x88, &close_body(1011, "why")));
    s.client(&masked(0x88, &close_body(1000, "x")));
    s.finish();
    assert_eq!(
        s.lines()[2],
        "close clean by server 1011 \"why\" after 3.001s"
    );
}

#[test]
fn fin() {
    let mut s = open();
    s.wait(Duration::from_secs(2));
    s.fin(Role::Server);
    assert!(s.lines().is_empty());
    s.wait(Duration::from_secs(2));
    s.client(&masked(0x82, b"late"));
    s.fin(Role::Client);
    assert_eq!(s.lines()[2], "close fin by server 1006 \"\" after 2.001s");
}

#[test]
fn rst() {
    let mut s = open();
    s.wait(Duration::from_secs(2));
    s.rst(Role::Client);
    assert_eq!(s.lines(), ["close rst by client 1006 \"\" after 2.001s"]);
    let mut s = open();
    s.fin(Role::Client);
    s.rst(Role::Server);
    assert_eq!(s.lines(), ["close rst by client 1006 \"\" after 1ms"]);
}

#[test]
fn idle() {
    let mut s = Script::accepted(Config {
        idle_timeout: Duration::from_secs(60),
        ..config()
    });
    s.server(&plain(0x82, b"x"));
    let last = s.now;
    let at = |seconds| last.saturating_add(Duration::from_secs(seconds));
    s.observer.handle_timeout(at(59));
    assert_eq!(s.observer.stats().active, 1);
    s.observer.handle_timeout(at(70));
    let events = s.events();
    assert_eq!(events.last().unwrap().ts, at(60));
    let Some(EventKind::Close(close)) = events.last().map(|event| &event.kind) else {
        panic!()
    };
    assert_eq!(close.kind.as_str(), "idle");
    assert_eq!((close.code.unwrap().0, close.initiator), (1006, None));
    assert_eq!(close.silence, Some(Duration::from_secs(60)));
    assert_eq!(s.observer.stats().active, 0);
    assert_eq!(s.observer.stats().tracked, 0);
}

#[test]
fn a_keep_alive_probe_is_a_sign_of_life_but_no_activity() {
    let mut s = Script::accepted(Config {
        idle_timeout: Duration::from_secs(60),
        ..config()
    });
    for _ in 0..3 {
        s.wait(Duration::from_secs(40));
        let seq = SeqNumber(s.next[0].0.wrapping_sub(1));
        s.segment_at(Role::Client, ACK, seq, &[0]);
        s.segment_at(Role::Server, ACK, s.next[1], &[]);
    }
    assert!(s.lines().is_empty());
    s.wait(Duration::from_secs(61));
    s.observer.handle_timeout(s.now);
    let close = close(&mut s);
    assert_eq!(close.kind.as_str(), "idle");
    assert_eq!(close.tcp.client_to_server.keepalive_probes, 3);
    assert!(close.silence.unwrap() > Duration::from_secs(180));
    assert_eq!(close.frames.client_to_server.total(), 0);
}

#[test]
fn one_fin_and_then_silence_is_idle() {
    let mut s = Script::accepted(Config {
        idle_timeout: Duration::from_secs(60),
        ..config()
    });
    s.fin(Role::Client);
    s.observer.handle_timeout(Timestamp(u64::MAX));
    assert_eq!(s.lines(), ["close idle by client 1006 \"\" after 1ms"]);
}

#[test]
fn eof() {
    let mut s = open();
    s.fin(Role::Client);
    s.finish();
    let close = close(&mut s);
    assert_eq!(close.kind.as_str(), "eof");
    assert_eq!(
        (close.code, close.initiator, close.silence),
        (None, None, None)
    );
    s.finish();
    assert!(s.events().is_empty());
}

#[test]
fn a_close_frame_whose_body_was_not_captured_has_no_code() {
    let mut s = open();
    s.snap = 2;
    s.server(&plain(0x88, &close_body(1000, "")));
    s.shut();
    assert_eq!(s.lines()[1], "close half by server 0 \"\" after 1ms");
}

#[test]
fn late_segments_make_no_ghost() {
    let mut s = open();
    let frames = plain(0x82, b"01234567").repeat(8);
    let seq = s.next[1];
    s.server(&frames);
    s.shut();
    assert_eq!(s.lines().last().unwrap().split(' ').nth(1), Some("fin"));
    assert_eq!(s.decisions(), [Decision::Follow, Decision::Ended]);
    s.segment_at(Role::Server, ACK, seq, &frames);
    s.segment_at(Role::Server, FIN | ACK, s.next[1], &[]);
    s.finish();
    assert!(s.lines().is_empty());
}

#[test]
fn the_same_ends_again() {
    let mut s = open();
    s.shut();
    s.next = [SeqNumber(5000), SeqNumber(900_000)];
    s.connect();
    s.client(REQUEST.as_bytes());
    s.server(RESPONSE.as_bytes());
    s.finish();
    let ids: Vec<_> = s
        .events()
        .iter()
        .map(|event| event.connection.id.0)
        .collect();
    assert_eq!(ids, [1, 2, 2]);
}

#[test]
fn a_new_connection_ends_the_one_before() {
    let mut s = open();
    s.server(&plain(0x82, b"x"));
    s.wait(Duration::from_secs(1000));
    s.next = [SeqNumber(0x5000_0000), SeqNumber(0x6000_0000)];
    s.connect();
    s.client(REQUEST.as_bytes());
    s.server(RESPONSE.as_bytes());
    let lines = s.lines();
    assert!(
        lines[2].starts_with("close idle by nobody 1006"),
        "{lines:?}"
    );
    assert_eq!(lines[3], "handshake accepted 101 /chat");
    assert_eq!(s.observer.stats().active, 1);
}

#[test]
fn another_epoch_is_another_connection() {
    let mut s = Script::new(config());
    s.epoch = 5;
    s.client(REQUEST.as_bytes());
    s.server(RESPONSE.as_bytes());
    s.epoch = 6;
    s.segment(Role::Client, SYN, &[]);
    let lines = s.lines();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[1].starts_with("close idle"), "{lines:?}");
    let verdicts: Vec<_> = std::iter::from_fn(|| s.observer.poll_verdict())
        .map(|verdict| (verdict.epoch, verdict.decision))
        .collect();
    assert_eq!(verdicts, [(5, Decision::Follow), (5, Decision::Ended)]);
}

#[test]
fn an_observation_ends_in_parts() {
    let mut s = Script::new(config());
    for port in 1..=10 {
        s.client.set_port(port);
        s.connect();
        s.client(REQUEST.replace("dGhl", &format!("dGh{port:X}")).as_bytes());
        s.server(RESPONSE.as_bytes());
    }
    s.events();
    let mut parts = Vec::new();
    let mut ids = Vec::new();
    loop {
        let is_done = s.observer.finish_some(s.now);
        let events = s.events();
        parts.push(events.len());
        ids.extend(events.iter().map(|event| event.connection.id.0));
        if is_done {
            break;
        }
    }
    assert_eq!(parts, [4, 4, 2]);
    assert!(ids.is_sorted(), "{ids:?}");
    assert_eq!(
        (s.observer.stats().active, s.observer.stats().tracked),
        (0, 0)
    );
}

#[test]
fn one_that_was_silent_too_long_is_found_again_when_it_speaks() {
    let mut s = Script::new(config());
    s.epoch = 5;
    s.connect();
    s.client(REQUEST.as_bytes());
    s.server(RESPONSE.as_bytes());
    s.wait(Duration::from_secs(3601));
    s.observer.handle_timeout(s.now);
    assert_eq!(s.decisions(), [Decision::Follow, Decision::Idle]);
    s.events();
    for _ in 0..9 {
        s.server(&plain(0x81, b"still here"));
        s.client(&masked(0x81, b"and so am I"));
    }
    assert_eq!(s.decisions(), [Decision::Follow]);
    assert_eq!(s.lines()[0], "handshake midstream");
    assert_eq!(s.observer.stats().active, 1);
}

#[test]
fn a_source_that_goes_on_is_told_again() {
    let mut s = Script::new(config());
    s.epoch = 5;
    s.client(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03");
    assert_eq!(s.decisions(), [Decision::Ignore]);
    // What was on its way is no reason.
    s.client(b"late");
    assert_eq!(s.decisions(), []);
    for _ in 0..2 {
        s.wait(Duration::from_secs(1));
        s.client(b"deaf");
        s.client(b"deaf");
        assert_eq!(s.decisions(), [Decision::Ignore]);
    }
}

#[test]
fn the_code_is_that_of_the_first_close_frame_or_not_known() {
    let mut s = Script::accepted(config());
    s.snap = 2;
    s.server(&plain(0x88, &close_body(1001, "first")));
    s.snap = usize::MAX;
    s.server(&plain(0x88, &close_body(1000, "second")));
    s.client(&masked(0x88, &close_body(1002, "third")));
    s.shut();
    let close = close(&mut s);
    assert_eq!((close.code, close.reason), (None, None));
}
