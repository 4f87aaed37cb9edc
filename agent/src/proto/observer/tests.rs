use std::time::Duration;

use super::{
    script::{REQUEST, RESPONSE, Script, close_body, masked, plain},
    *,
};
use crate::proto::event::EventKind;

fn config() -> Config {
    Config::default()
}

#[test]
fn a_whole_connection() {
    let mut s = Script::new(config());
    s.connect();
    s.client(REQUEST.as_bytes());
    assert!(s.lines().is_empty());
    s.wait(Duration::from_millis(4));
    s.server(RESPONSE.as_bytes());
    let events = s.events();
    let [event] = events.as_slice() else {
        panic!("{events:?}")
    };
    let connection = event.connection.clone();
    assert_eq!(connection.id, ConnId(1));
    assert_eq!((connection.client, connection.server), (s.client, s.server));
    assert_eq!(connection.interface, Some(3));
    assert_eq!((connection.opened, event.ts), (s.now, s.now));
    assert_eq!(connection.host.as_deref(), Some("server.example.com"));
    assert_eq!(connection.subprotocol.as_deref(), Some("chat"));
    let EventKind::Handshake(handshake) = &event.kind else {
        panic!()
    };
    assert_eq!(handshake.latency, Some(Duration::from_millis(5)));
    assert_eq!(handshake.offered_subprotocols, ["chat", "superchat"]);
    assert_eq!(handshake.method.as_deref(), Some("GET"));
    assert_eq!(s.decisions(), [Decision::Follow]);
    assert_eq!(s.observer.stats().active, 1);

    s.client(&masked(0x81, b"Hello"));
    s.server(&plain(0x01, b"Hel"));
    s.server(&plain(0x89, b"ping"));
    s.client(&masked(0x8a, b"ping"));
    s.server(&plain(0x80, b"lo"));
    s.wait(Duration::from_secs(1));
    s.client(&masked(0x88, &close_body(1000, "bye")));
    s.server(&plain(0x88, &close_body(1000, "")));
    s.shut();
    assert_eq!(
        s.lines(),
        [
            "c2s 1 text 5",
            "message c2s text 5 in 1",
            "s2c 1 text 3 -",
            "s2c 2 ping 4",
            "c2s 2 pong 4 rtt 1ms",
            "s2c 3 continuation 2",
            "message s2c text 5 in 2",
            "c2s 3 close 5 1000 \"bye\"",
            "s2c 4 close 2 1000 \"\"",
            "close clean by client 1000 \"bye\" after 1.001s",
        ]
    );
    assert_eq!(s.decisions(), [Decision::Ended]);
    assert_eq!(s.observer.stats().active, 0);
}

mod accounts;
mod content;
mod endings;
mod frames;
mod gaps;
mod handshakes;
mod limits;
mod midstream;
mod properties;
mod walks;
