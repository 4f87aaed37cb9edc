//! One connection that is seen in several places.

use std::time::Duration;

use super::config;
use crate::proto::{
    event::{Event, EventKind},
    flow::Direction,
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

/// Packets pass the hooks in the order of their way: the client is whom the first saw, and the server whom
/// the last one did.
#[test]
fn the_ends_are_those_that_really_talk() {
    let mut s = Script::new(config());
    let client = s.client;
    let service = ([10, 96, 0, 10], 80).into();
    let pod = ([10, 244, 1, 2], 8080).into();
    let conversation = |s: &mut Script| {
        let next = s.next;
        for (client, server) in [(client, service), (([203, 0, 113, 5], 61_000).into(), pod)] {
            (s.client, s.server, s.next) = (client, server, next);
            s.connect();
            s.client(REQUEST.as_bytes());
        }
        let next = s.next;
        for (client, server) in [(([203, 0, 113, 5], 61_000).into(), pod), (client, service)] {
            (s.client, s.server, s.next) = (client, server, next);
            s.server(RESPONSE.as_bytes());
        }
    };
    conversation(&mut s);
    let events = s.events();
    let [event] = events.as_slice() else {
        panic!("{events:?}")
    };
    assert_eq!(event.connection.client, client);
    assert_eq!(event.connection.server, pod);
}

/// Where a bridge hands packets to the firewall, its own device sees what comes back with the client's
/// address and the server's real one, and nothing of what goes there.
#[test]
fn what_comes_back_alone_is_the_same() {
    let mut s = Script::new(config());
    let asked = (s.client, s.server);
    let pod = ([10, 244, 0, 2], 8080).into();
    let masqueraded = (([10, 244, 0, 1], 61_000).into(), pod);
    let mut next = s.next;
    for ends in [asked, masqueraded] {
        (s.client, s.server, s.next) = (ends.0, ends.1, next);
        s.connect();
        s.client(REQUEST.as_bytes());
    }
    next = s.next;
    for ends in [masqueraded, (asked.0, pod), asked] {
        (s.client, s.server, s.next) = (ends.0, ends.1, next);
        s.server(RESPONSE.as_bytes());
        s.server(&plain(0x82, b"x"));
    }
    assert_eq!(s.lines(), [ONCE[0], ONCE[3], ONCE[4]]);
    assert_eq!(s.observer.stats().active, 1);
}

/// Found by its frames on either side of a translation.
#[test]
fn midstream_it_is_the_same() {
    for one_way in [false, true] {
        let mut s = Script::new(config());
        let client = s.client;
        let service = ([10, 96, 0, 10], 80).into();
        let pod = ([10, 244, 1, 2], 8080).into();
        let ways = [(client, service), (([203, 0, 113, 5], 61_000).into(), pod)];
        for n in 0..40_u8 {
            let next = s.next;
            for (client, server) in ways {
                (s.client, s.server, s.next) = (client, server, next);
                s.client(&masked(0x82, &[n; 20]));
            }
            if one_way && n < 20 {
                continue;
            }
            let next = s.next;
            for (client, server) in ways.into_iter().rev() {
                (s.client, s.server, s.next) = (client, server, next);
                s.server(&plain(0x81, b"answer"));
            }
        }
        assert_eq!(s.observer.stats().active, 1, "one way: {one_way}");
        let events = s.events();
        let frames = |direction| {
            let is_frame = |event: &&Event| match &event.kind {
                EventKind::Frame(frame) => frame.direction == direction,
                _ => false,
            };
            events.iter().filter(is_frame).count()
        };
        let answers = if one_way { 20 } else { 40 };
        assert_eq!(frames(Direction::ClientToServer), 40);
        assert_eq!(frames(Direction::ServerToClient), answers);
        let connection = &events[0].connection;
        let server = if one_way { service } else { pod };
        assert_eq!((connection.client, connection.server), (client, server));
    }
}

/// Captures that are made up have the same numbers again and again.
#[test]
fn midstream_the_same_numbers_are_not_enough() {
    for (wait, byte) in [(0, 1), (2, 0)] {
        let mut s = Script::new(config());
        let next = s.next;
        for n in 0..2 {
            s.client.set_port(40_000 + n);
            s.next = next;
            for m in 0..20 {
                s.client(&masked(0x82, &[m + byte * n as u8; 20]));
                s.server(&plain(0x81, &[b'a' + byte * n as u8; 6]));
            }
            s.wait(Duration::from_secs(wait));
        }
        assert_eq!(s.observer.stats().active, 2);
    }
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

/// Client and proxy, proxy and server: the proxy asks when it was asked, and answers when it was
/// answered.
fn through_a_proxy(s: &mut Script, [outer, inner]: [&str; 2], within: bool) {
    let (client, server) = (s.client, s.server);
    let mut ends = [(client, server, s.next), (server, client, s.next)];
    ends[1].0.set_port(51_000);
    ends[1].1 = ([198, 51, 100, 4], 9000).into();
    for next in &mut ends[1].2 {
        *next = SeqNumber(next.0.wrapping_add(0x1000_0000));
    }
    let mut on = |s: &mut Script, hop: usize, step: &dyn Fn(&mut Script)| {
        (s.client, s.server, s.next) = ends[hop];
        step(s);
        ends[hop] = (s.client, s.server, s.next);
    };
    let key = |key: &str| REQUEST.replace("dGhlIHNhbXBsZSBub25jZQ==", key);
    let [outer, inner] = [key(outer), key(inner)];
    on(s, 0, &Script::connect);
    on(s, 1, &Script::connect);
    let [first, second] = if within { [0, 1] } else { [1, 0] };
    let requests = [&outer, &inner];
    on(s, first, &|s| s.client(requests[first].as_bytes()));
    on(s, second, &|s| s.client(requests[second].as_bytes()));
    on(s, 1, &|s| s.server(RESPONSE.as_bytes()));
    on(s, 0, &|s| s.server(RESPONSE.as_bytes()));
}

#[test]
fn the_hops_of_a_proxied_connection_name_each_other() {
    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    const OTHER: &str = "AQIDBAUGBwgJCgsMDQ4PEA==";
    for (keys, within, linked) in [
        ([KEY, KEY], true, true),
        ([OTHER, KEY], true, false),
        // The sample of RFC 6455, as test clients use it again and again.
        ([KEY, KEY], false, false),
    ] {
        let mut s = Script::new(config());
        through_a_proxy(&mut s, keys, within);
        let events = s.events();
        let mut handshakes = events.iter().filter_map(|event| match &event.kind {
            EventKind::Handshake(_) => Some(&event.connection),
            _ => None,
        });
        let (inner, outer) = (handshakes.next().unwrap(), handshakes.next().unwrap());
        assert_eq!(inner.key.as_deref(), Some(keys[1]));
        assert_eq!(outer.key.as_deref(), Some(keys[0]));
        assert_eq!((&inner.next_hop, &outer.previous_hop), (&None, &None));
        for (hop, other) in [(&outer.next_hop, inner), (&inner.previous_hop, outer)] {
            let hop = hop.as_ref().map(|hop| (hop.id, hop.client, hop.server));
            let expected = (other.id, other.client, other.server);
            assert_eq!(hop, linked.then_some(expected), "{keys:?} {within}");
        }
        assert_ne!(inner.id, outer.id);
    }
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
