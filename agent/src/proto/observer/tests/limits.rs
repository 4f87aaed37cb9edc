//! Bounds, and the counters of what exceeded them.

use super::config;
use crate::proto::{
    flow::Role,
    observer::{
        Config, Decision,
        script::{REQUEST, RESPONSE, SYN, Script, masked, plain},
    },
};

#[test]
fn the_one_silent_longest_is_evicted() {
    let mut s = Script::accepted(Config {
        max_connections: 2,
        ..config()
    });
    let first = (s.client, s.next);
    let open = |s: &mut Script, port| {
        s.client.set_port(port);
        s.connect();
        let key = format!("{port:05}AhbXBsZSBub25jZQ==");
        s.client(REQUEST.replace("dGhlIHNhbXBsZSBub25jZQ==", &key).as_bytes());
        s.server(RESPONSE.as_bytes());
    };
    open(&mut s, 2);
    (s.client, s.next) = first;
    s.server(&plain(0x82, b"x"));
    let second = s.client;
    s.events();
    open(&mut s, 3);
    let events = s.events();
    let evicted = events.last().unwrap();
    assert_eq!(evicted.connection.client.port(), 2);
    let line = super::super::script::line(evicted).unwrap();
    assert_eq!(line, "close evicted by nobody 0 \"\" after 0ns");
    assert_eq!(s.observer.stats().exceeded.connections, 1);
    assert_eq!(s.observer.stats().active, 2);
    assert_eq!(s.decisions().last(), Some(&Decision::Ended));
    // It is not found again.
    s.client = second;
    s.client.set_port(2);
    for _ in 0..9 {
        s.server(&plain(0x81, b"still here"));
    }
    assert!(s.lines().is_empty());
}

#[test]
fn candidates_make_room() {
    let mut s = Script::new(Config {
        max_candidates: 10,
        ..config()
    });
    for port in 1..=30 {
        s.client.set_port(port);
        s.segment(Role::Client, SYN, &[]);
        s.client(if port == 1 {
            REQUEST.as_bytes()
        } else {
            b"GET"
        });
    }
    assert_eq!(s.lines(), ["handshake unanswered /chat"]);
    let stats = s.observer.stats();
    assert_eq!((stats.tracked, stats.exceeded.candidates), (10, 20));
    for port in 31..=60 {
        s.client.set_port(port);
        s.segment(Role::Client, SYN, &[]);
        s.client(b"SSH-2.0-x\r\n");
    }
    assert!(s.observer.stats().tracked <= 20);
}

#[test]
fn early_frames_are_held_up_to_a_limit() {
    let mut s = Script::new(Config {
        max_head: 1000,
        ..config()
    });
    s.connect();
    s.client(REQUEST.as_bytes());
    s.client(&masked(0x82, &[7; 500]));
    s.client(&masked(0x82, &[7; 2000]));
    s.server(RESPONSE.as_bytes());
    assert_eq!(s.observer.stats().exceeded.head, 1);
    assert_eq!(
        s.lines(),
        [
            "handshake accepted 101 /chat",
            "c2s 1 binary 500",
            "message c2s binary 500 in 1"
        ]
    );
}

#[test]
fn heads_count_for_what_all_may_hold() {
    let mut s = Script::new(Config {
        max_buffered: 10_000,
        ..config()
    });
    for port in 1..=20 {
        s.client.set_port(port);
        s.connect();
        s.client(format!("GET /{} HTTP/1.1\r\n", "x".repeat(1000)).as_bytes());
    }
    assert!(s.observer.held <= 10_000);
    assert!(s.observer.stats().exceeded.buffered >= 10);
    s.finish();
    assert_eq!(s.observer.held, 0);
}

#[test]
fn heads_and_bytes_out_of_order_count_together() {
    let mut s = Script::new(Config {
        max_buffered: 10_000,
        ..config()
    });
    for port in 1..=20 {
        s.client.set_port(port);
        s.connect();
        if port % 2 == 0 {
            s.client(format!("GET /{} HTTP/1.1\r\n", "x".repeat(1000)).as_bytes());
        } else {
            s.lose(Role::Client, 1);
            s.client(&[b'x'; 1000]);
        }
        assert!(s.observer.stats().held <= 10_000);
    }
    assert!(s.observer.stats().exceeded.buffered >= 10);
}

#[test]
fn requests_that_wait_for_an_answer_count_as_held() {
    let mut s = Script::new(Config {
        max_buffered: 10_000,
        ..config()
    });
    let request = REQUEST.replace("/chat", &format!("/{}", "x".repeat(1000)));
    for port in 1..=20 {
        s.client.set_port(port);
        s.connect();
        s.client(request.as_bytes());
    }
    let stats = s.observer.stats();
    assert!((5_000..=10_000).contains(&stats.held), "{}", stats.held);
    assert!(stats.exceeded.buffered >= 10);
    s.finish();
    assert_eq!(s.observer.held, 0);
}

#[test]
fn searches_keep_to_what_all_may_hold() {
    // Each frame repeats the one before, which proves nothing: a chain of them grows.
    let frames = plain(0x82, b"x").repeat(100);
    for open in [true, false] {
        let config = Config {
            max_buffered: 4_000,
            ..config()
        };
        let mut s = if open {
            Script::accepted(config)
        } else {
            Script::new(config)
        };
        s.lose(Role::Server, 10);
        for frames in frames.chunks(30) {
            s.server(frames);
            s.give_up();
            let stats = s.observer.stats();
            assert!(stats.held <= 4_000, "{} bytes", stats.held);
        }
        assert!(s.observer.stats().exceeded.buffered > 0);
    }
}

#[test]
fn pings_are_remembered_up_to_a_limit() {
    let mut s = Script::accepted(Config {
        max_pings: 3,
        ..config()
    });
    s.server(&plain(0x89, b"x").repeat(5));
    assert_eq!(s.observer.stats().exceeded.pings, 2);
}
