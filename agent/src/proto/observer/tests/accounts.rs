//! One connection that is seen in several places.

use super::config;
use crate::proto::{
    event::EventKind,
    observer::{
        Decision,
        script::{REQUEST, RESPONSE, Script, masked, plain},
    },
    seq::SeqNumber,
};

/// The same conversation under two pairs of addresses, each segment twice.
fn conversation(s: &mut Script, mut other: impl FnMut(&mut Script)) {
    let mut twice = |s: &mut Script, step: &dyn Fn(&mut Script)| {
        let (client, next, scope) = (s.client, s.next, s.scope);
        step(s);
        let after = s.next;
        s.next = next;
        other(s);
        step(s);
        (s.client, s.next, s.scope) = (client, after, scope);
    };
    twice(s, &|s| s.connect());
    twice(s, &|s| s.client(REQUEST.as_bytes()));
    twice(s, &|s| s.server(RESPONSE.as_bytes()));
    twice(s, &|s| s.client(&masked(0x82, b"x")));
    twice(s, &|s| s.server(&plain(0x82, b"x")));
}

const ONCE: [&str; 5] = [
    "handshake accepted 101 /chat",
    "c2s 1 binary 1",
    "message c2s binary 1 in 1",
    "s2c 1 binary 1",
    "message s2c binary 1 in 1",
];

#[test]
fn behind_nat_it_is_the_same() {
    let mut s = Script::new(config());
    conversation(&mut s, |s| s.client = ([203, 0, 113, 5], 61_000).into());
    assert_eq!(s.lines(), ONCE);
    assert_eq!(s.decisions(), [Decision::Ignore, Decision::Follow]);
    assert_eq!(s.observer.stats().active, 1);
}

/// As captured on the device `any`, or on both ends of a pair: the core cannot tell a copy from a
/// retransmission, and counts it as one.
#[test]
fn each_packet_twice_is_one_conversation() {
    let mut s = Script::new(config());
    conversation(&mut s, |_| {});
    assert_eq!(s.lines(), ONCE);
    s.shut();
    let events = s.events();
    let [event] = events.as_slice() else {
        panic!("{events:?}")
    };
    let EventKind::Close(close) = &event.kind else {
        panic!()
    };
    assert_eq!(close.tcp.client_to_server.retransmitted, 2);
    assert_eq!(close.tcp.server_to_client.retransmitted, 2);
}

#[test]
fn in_another_scope_it_is_the_same() {
    let mut s = Script::new(config());
    conversation(&mut s, |s| s.scope = 9);
    assert_eq!(s.lines(), ONCE);
    s.finish();
    assert_eq!(s.lines().len(), 1);
}

#[test]
fn another_hop_is_another_connection() {
    let mut s = Script::new(config());
    conversation(&mut s, |s| {
        s.client = ([203, 0, 113, 5], 61_000).into();
        s.next[0] = SeqNumber(s.next[0].0.wrapping_add(0x1000_0000));
    });
    let lines = s.lines();
    assert_eq!(lines.len(), 10, "{lines:?}");
    assert_eq!(s.observer.stats().active, 2);
}
