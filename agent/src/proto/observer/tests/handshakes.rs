//! Opening handshakes, and the HTTP around them.

use std::time::Duration;

use super::config;
use crate::proto::{
    event::{EventKind, Outcome},
    flow::Role,
    observer::{
        Config, Decision,
        script::{REQUEST, RESPONSE, Script, masked, plain},
    },
};

const REFUSAL: &[u8] = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\n\r\nnever";

fn connected() -> Script {
    let mut s = Script::new(config());
    s.connect();
    s
}

#[test]
fn heads_are_cut_anywhere() {
    for cut in 1..60 {
        let mut s = connected();
        for piece in REQUEST.as_bytes().chunks(cut) {
            s.client(piece);
        }
        let response = [RESPONSE.as_bytes(), &plain(0x81, b"hi")].concat();
        for piece in response.chunks(cut) {
            s.server(piece);
        }
        s.client(&masked(0x82, b"x"));
        assert_eq!(
            s.lines(),
            [
                "handshake accepted 101 /chat",
                "s2c 1 text 2",
                "message s2c text 2 in 1",
                "c2s 1 binary 1",
                "message c2s binary 1 in 1"
            ]
        );
    }
}

#[test]
fn frames_come_with_the_heads() {
    let mut s = connected();
    // A client must not, and some do not wait.
    s.client(&[REQUEST.as_bytes(), &masked(0x81, b"early")].concat());
    s.client(&masked(0x82, b"earlier"));
    s.server(&[RESPONSE.as_bytes(), &plain(0x89, b""), &plain(0x81, b"hi")].concat());
    assert_eq!(
        s.lines(),
        [
            "handshake accepted 101 /chat",
            "c2s 1 text 5",
            "message c2s text 5 in 1",
            "c2s 2 binary 7",
            "message c2s binary 7 in 1",
            "s2c 1 ping 0",
            "s2c 2 text 2",
            "message s2c text 2 in 1"
        ]
    );
}

#[test]
fn requests_before_the_upgrade() {
    let mut s = connected();
    s.client(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n");
    s.server(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    s.server(b"0\r\n\r\n");
    s.client(b"POST /b HTTP/1.1\r\nContent-Length: 4\r\n\r\nGET HEAD /c HTTP/1.1\r\n\r\n");
    s.client(REQUEST.as_bytes());
    s.server(b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n");
    s.server(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n");
    s.server(&[RESPONSE.as_bytes(), &plain(0x82, b"x")].concat());
    assert_eq!(
        s.lines(),
        [
            "handshake accepted 101 /chat",
            "s2c 1 binary 1",
            "message s2c binary 1 in 1"
        ]
    );
}

#[test]
fn refused_and_tried_again() {
    let mut s = connected();
    s.client(&REQUEST.replace("Version: 13", "Version: 8").into_bytes());
    s.client(b"GET /other HTTP/1.1\r\n\r\n");
    s.server(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n");
    s.server(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(
        s.lines(),
        [
            "violation c2s invalid_version \"8\" 1",
            "handshake rejected 426 /chat"
        ]
    );
    assert_eq!(s.decisions(), [Decision::Rejected]);
    s.client(&REQUEST.replace("/chat", "/again").into_bytes());
    s.server(REFUSAL);
    s.client(REQUEST.as_bytes());
    s.server(RESPONSE.as_bytes());
    let events = s.events();
    let outcomes: Vec<_> = events.iter().map(|e| e.connection.outcome).collect();
    use Outcome::{Accepted, Rejected};
    assert_eq!(outcomes, [Rejected, Accepted]);
    assert!(events.iter().all(|event| event.connection.id.0 == 1));
    assert_eq!(s.decisions(), [Decision::Rejected, Decision::Follow]);
    assert_eq!(s.observer.stats().active, 1);
}

#[test]
fn unanswered() {
    let ends: [fn(&mut Script); 4] = [
        Script::finish,
        Script::shut,
        |s| s.rst(Role::Server),
        |s| {
            s.wait(Duration::from_secs(4000));
            s.observer.handle_timeout(s.now);
        },
    ];
    for end in ends {
        let mut s = connected();
        s.client(REQUEST.as_bytes());
        end(&mut s);
        assert_eq!(s.lines(), ["handshake unanswered /chat"]);
        assert_eq!(s.observer.stats().active, 0);
    }
}

#[test]
fn a_failed_check_makes_it_invalid_and_is_followed() {
    let mut s = connected();
    s.client(REQUEST.as_bytes());
    s.server(RESPONSE.replace("s3pP", "xxxx").as_bytes());
    s.server(&plain(0x82, b"x"));
    assert_eq!(
        s.lines(),
        [
            "violation s2c wrong_accept \"xxxxLMBiTxaQ9kYGzzhZRbK+xOo=\" 1",
            "handshake invalid 101 /chat",
            "s2c 1 binary 1",
            "message s2c binary 1 in 1"
        ]
    );
    let mut s = connected();
    s.client(REQUEST.replace("Key", "Kay").as_bytes());
    s.server(RESPONSE.as_bytes());
    assert_eq!(
        s.lines(),
        [
            "violation c2s missing_key \"\" 1",
            "handshake invalid 101 /chat",
        ]
    );
}

#[test]
fn a_response_whose_request_was_not_seen() {
    let mut s = connected();
    s.lose(Role::Client, 180);
    s.server(RESPONSE.as_bytes());
    assert_eq!(s.lines(), ["handshake accepted 101"]);
    s.server(&plain(0xc1, b"x"));
    assert_eq!(
        s.lines(),
        ["s2c 1 text 1 rsv4", "message s2c text 1 in 1 compressed"]
    );
    for _ in 0..4 {
        s.client(&masked(0x82, b"x"));
    }
    s.give_up();
    assert_eq!(s.lines().len(), 8);
}

#[test]
fn the_request_comes_after_its_answer() {
    let mut s = connected();
    let request = s.next[0];
    s.lose(Role::Client, REQUEST.len());
    s.server(RESPONSE.as_bytes());
    s.segment_at(Role::Client, 0x10, request, REQUEST.as_bytes());
    s.client(&masked(0x82, b"x"));
    assert_eq!(
        s.lines(),
        [
            "handshake accepted 101",
            "c2s 1 binary 1",
            "message c2s binary 1 in 1"
        ]
    );
}

#[test]
fn a_request_that_comes_after_its_answer_comes_in_pieces() {
    let bytes = [REQUEST.as_bytes(), &masked(0x82, b"x")].concat();
    for before in [0, 3, 100] {
        for size in [1, 7, 100, bytes.len()] {
            let mut s = connected();
            let (early, late) = bytes.split_at(before);
            if !early.is_empty() {
                s.client(early);
            }
            s.server(RESPONSE.as_bytes());
            for piece in late.chunks(size) {
                s.client(piece);
            }
            assert_eq!(
                s.lines(),
                [
                    "handshake accepted 101",
                    "c2s 1 binary 1",
                    "message c2s binary 1 in 1"
                ],
                "{before} {size}"
            );
        }
    }
    // What is no request after all may be frames.
    let mut s = connected();
    s.client(b"GET /");
    s.server(RESPONSE.as_bytes());
    s.client(&[b'x'; 100_000]);
    for _ in 0..9 {
        s.client(&masked(0x81, b"some text"));
    }
    assert!(s.lines().iter().any(|line| line.starts_with("c2s 1 text")));
    assert_eq!(s.observer.held, 0);
}

#[test]
fn a_connection_that_was_there_before_begins_anywhere() {
    let mut s = Script::new(config());
    s.server(b"ody of some response");
    s.client(b"GET /x HTTP/1.1\r\n\r\n");
    s.server(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc");
    s.client(REQUEST.as_bytes());
    s.server(RESPONSE.as_bytes());
    assert_eq!(s.lines(), ["handshake accepted 101 /chat"]);
}

#[test]
fn bytes_missing_from_http() {
    let mut s = connected();
    s.client(b"GET /x HTTP/1.1\r\n\r\n");
    s.lose(Role::Server, 70);
    s.server(b" the rest of a head\r\n\r\n");
    s.server(b"body");
    s.client(REQUEST.as_bytes());
    s.wait(Duration::from_secs(2));
    s.server(RESPONSE.as_bytes());
    s.give_up();
    assert_eq!(s.lines(), ["handshake accepted 101 /chat"]);
}

#[test]
fn the_answer_went_missing() {
    let mut s = connected();
    s.client(REQUEST.as_bytes());
    s.lose(Role::Server, RESPONSE.len());
    for _ in 0..3 {
        s.server(&plain(0x81, b"from the server"));
        s.client(&masked(0x81, b"from the client"));
    }
    s.give_up();
    let lines = s.lines();
    assert_eq!(lines[0], "handshake midstream /chat");
    assert_eq!(lines.len(), 13, "{lines:#?}");
}

#[test]
fn what_is_no_http_is_ignored() {
    for bytes in [
        &b"SSH-2.0-OpenSSH\r\n"[..],
        b"EHLO me\r\n",
        &[0x81, 3, 1, 2, 3],
    ] {
        let mut s = connected();
        s.client(bytes);
        assert_eq!(s.decisions(), [Decision::Ignore]);
        s.client(REQUEST.as_bytes());
        s.server(RESPONSE.as_bytes());
        s.finish();
        assert!(s.events().is_empty());
        assert_eq!(s.observer.stats().unreadable_tls, 0);
    }
}

#[test]
fn tls_is_counted() {
    let mut s = connected();
    let hello = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc][..], &[7; 500]].concat();
    s.client(&hello);
    s.client(&hello);
    assert_eq!(s.observer.stats().unreadable_tls, 1);
    assert_eq!(s.decisions(), [Decision::Ignore]);
    // Through a proxy.
    let mut s = connected();
    s.client(b"CONNECT a:443 HTTP/1.1\r\n\r\n");
    s.server(b"HTTP/1.1 200 Connection established\r\n\r\n");
    s.client(&hello);
    assert_eq!(s.observer.stats().unreadable_tls, 1);
}

#[test]
fn a_tunnel_to_a_websocket() {
    let mut s = connected();
    s.client(b"CONNECT a:80 HTTP/1.1\r\n\r\n");
    s.server(b"HTTP/1.1 200 Connection established\r\n\r\n");
    s.client(REQUEST.as_bytes());
    s.server(RESPONSE.as_bytes());
    assert_eq!(s.lines(), ["handshake accepted 101 /chat"]);
}

#[test]
fn heads_that_are_too_long() {
    let mut s = Script::new(Config {
        max_head: 1000,
        ..config()
    });
    s.connect();
    let cookie = format!("\r\nCookie: {}\r\n\r\n", "x".repeat(1000));
    s.client(REQUEST.replace("\r\n\r\n", &cookie).as_bytes());
    assert_eq!(s.observer.stats().exceeded.head, 1);
    s.finish();
    assert!(s.events().is_empty());
}

#[test]
fn another_protocol_takes_over() {
    let mut s = connected();
    s.client(b"GET / HTTP/1.1\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n");
    s.server(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n");
    assert_eq!(s.decisions(), [Decision::Ignore]);
    assert!(s.events().is_empty());
}

#[test]
fn what_the_events_say() {
    let mut s = connected();
    s.client(b"\r\nGET http://h/p?q=1 HTTP/1.1\r\nHost: h\r\nUSER-AGENT: me\r\nUpgrade: foo,\r\n WebSocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n");
    s.server(b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=10\r\n\r\n");
    let events = s.events();
    let EventKind::Handshake(handshake) = &events[0].kind else {
        panic!()
    };
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].connection.outcome, Outcome::Accepted);
    assert_eq!(events[0].connection.path.as_deref(), Some("http://h/p?q=1"));
    assert_eq!(handshake.user_agent.as_deref(), Some("me"));
    assert_eq!(
        handshake.extensions.as_deref(),
        Some("permessage-deflate; client_max_window_bits=10")
    );
}

#[test]
fn an_attempt_is_told_of_when_both_ends_then_lose_their_way() {
    for client in [
        &b"HTTP/1.1 200 OK\r\n\r\n"[..],
        b"GET / HTTP/1.1\r\n: \r\n\r\n",
        b"\x00\x01\x02",
    ] {
        let mut s = Script::new(config());
        s.connect();
        s.client(REQUEST.as_bytes());
        s.server(b"HTTP/1.x\r\n\r\n");
        s.client(client);
        s.shut();
        assert_eq!(s.lines(), ["handshake unanswered /chat"], "{client:?}");
    }
}

#[test]
fn an_answer_that_opens_another_protocol_is_ignored_at_once() {
    let answer = "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
    let mut s = Script::new(config());
    s.server(answer.as_bytes());
    assert_eq!(s.decisions(), [Decision::Ignore]);
}

#[test]
fn pipelined_with_the_upgrade_behind() {
    let mut s = connected();
    let all = [
        b"GET /a HTTP/1.1\r\n\r\nHEAD /b HTTP/1.1\r\n\r\n",
        REQUEST.as_bytes(),
    ]
    .concat();
    s.client(&all);
    s.server(
        &[
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
            RESPONSE.as_bytes(),
            &plain(0x89, b""),
        ]
        .concat(),
    );
    assert_eq!(s.lines(), ["handshake accepted 101 /chat", "s2c 1 ping 0"]);
}

#[test]
fn interim_responses_before_the_answer() {
    for interim in [
        "100 Continue",
        "102 Processing",
        "103 Early Hints\r\nLink: </x>",
    ] {
        let mut s = connected();
        s.client(REQUEST.as_bytes());
        s.server(format!("HTTP/1.1 {interim}\r\n\r\n").as_bytes());
        assert!(s.lines().is_empty());
        s.server(RESPONSE.as_bytes());
        assert_eq!(s.lines(), ["handshake accepted 101 /chat"]);
    }
}

#[test]
fn heads_as_they_should_not_be_written() {
    let request = "GET  http://server.example.com/chat  HTTP/1.1\n\
        hOST:server.example.com\nUPGRADE: h2c,\n\t WebSocket\n\
        connection: keep-alive , UPGRADE\nconnection: te\n\
        sec-websocket-key:\n dGhlIHNhbXBsZSBub25jZQ==   \nSEC-WEBSOCKET-VERSION:13\n\
        Sec-WebSocket-Protocol: chat\nSec-WebSocket-Protocol: superchat,,\n\
        Sec-WebSocket-Extensions: a\nSec-WebSocket-Extensions: permessage-deflate\n\
        bad header\n\n";
    let response = "HTTP/1.1 101\nupgrade: WEBSOCKET\nConnection: Keep-Alive,Upgrade\n\
        SEC-WEBSOCKET-ACCEPT:\n s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\nSec-WebSocket-Protocol: superchat\n\
        Sec-WebSocket-Extensions: permessage-deflate\nSec-WebSocket-Extensions: a\n\n";
    for size in [1, 7, 10_000] {
        let mut s = connected();
        request
            .as_bytes()
            .chunks(size)
            .for_each(|piece| s.client(piece));
        response
            .as_bytes()
            .chunks(size)
            .for_each(|piece| s.server(piece));
        let events = s.events();
        let [event] = events.as_slice() else {
            panic!("{events:?}")
        };
        let EventKind::Handshake(handshake) = &event.kind else {
            panic!()
        };
        assert_eq!(event.connection.outcome, Outcome::Accepted);
        assert_eq!(
            event.connection.path.as_deref(),
            Some("http://server.example.com/chat")
        );
        assert_eq!(event.connection.subprotocol.as_deref(), Some("superchat"));
        assert_eq!(handshake.offered_subprotocols, ["chat", "superchat"]);
        assert_eq!(
            handshake.extensions.as_deref(),
            Some("permessage-deflate, a")
        );
    }
}

#[test]
fn headers_that_may_come_once() {
    for (from, to, rule) in [
        (
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "Key",
            "invalid_key",
        ),
        ("Sec-WebSocket-Version: 13", "Version", "invalid_version"),
    ] {
        let mut s = connected();
        s.client(
            REQUEST
                .replace(from, &format!("{from}\r\n{from}"))
                .as_bytes(),
        );
        s.server(RESPONSE.as_bytes());
        let lines = s.lines();
        assert!(
            lines[0].starts_with(&format!("violation c2s {rule}")),
            "{to}: {lines:?}"
        );
        assert_eq!(lines.last().unwrap(), "handshake invalid 101 /chat");
    }
}

#[test]
fn refusals_with_bodies_of_every_kind() {
    for refusal in [
        &b"HTTP/1.1 401 Unauthorized\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"[..],
        b"HTTP/1.1 503 x\r\nContent-Length: 21\r\n\r\nHTTP/1.1 101 Upgraded\n",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n",
    ] {
        for size in [1, 1000] {
            let mut s = connected();
            s.client(REQUEST.as_bytes());
            refusal.chunks(size).for_each(|piece| s.server(piece));
            assert!(s.lines()[0].starts_with("handshake rejected"));
            s.client(REQUEST.as_bytes());
            s.server(RESPONSE.as_bytes());
            assert_eq!(s.lines(), ["handshake accepted 101 /chat"]);
        }
    }
    // As long as the connection.
    let mut s = connected();
    s.client(REQUEST.as_bytes());
    s.server(b"HTTP/1.0 502 Bad Gateway\r\n\r\n");
    s.server(RESPONSE.as_bytes());
    s.shut();
    assert_eq!(s.lines(), ["handshake rejected 502 /chat"]);
}

#[test]
fn proxies_of_another_age() {
    // A proxy that speaks HTTP/1.0 and passes the upgrade on all the same.
    let mut s = connected();
    s.client(REQUEST.replace("HTTP/1.1", "HTTP/1.0").as_bytes());
    s.server(RESPONSE.replace("HTTP/1.1", "HTTP/1.0").as_bytes());
    s.server(&plain(0x81, b"x"));
    assert_eq!(s.lines().len(), 3);
    // One that asks for credentials before it lets through, and answers as of old.
    let mut s = connected();
    s.client(b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n");
    s.server(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 2\r\n\r\nno");
    s.client(b"CONNECT a:80 HTTP/1.1\r\nProxy-Authorization: x\r\n\r\n");
    s.server(b"HTTP/1.0 200 Connection established\r\nProxy-Agent: x\r\n\r\n");
    s.client(b"GET / HTTP/1.1\r\n\r\n");
    s.server(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    s.client(REQUEST.as_bytes());
    s.server(&[RESPONSE.as_bytes(), &plain(0x81, b"x")].concat());
    s.client(&masked(0x81, b"y"));
    assert_eq!(
        s.lines(),
        [
            "handshake accepted 101 /chat",
            "s2c 1 text 1",
            "message s2c text 1 in 1",
            "c2s 1 text 1",
            "message c2s text 1 in 1",
        ]
    );
}

#[test]
fn behind_a_balancer_that_speaks_the_proxy_protocol() {
    let v1 = &b"PROXY TCP4 198.51.100.1 192.0.2.1 40000 80\r\n"[..];
    let v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x01\x02\x03\x04\x05\x06\x07\x08\0\x50\0\x51";
    for preface in [v1, v2] {
        let bytes = [preface, REQUEST.as_bytes()].concat();
        for size in [1, 5, preface.len(), 10_000] {
            let mut s = connected();
            bytes.chunks(size).for_each(|piece| s.client(piece));
            s.server(RESPONSE.as_bytes());
            s.client(&masked(0x89, b""));
            assert_eq!(
                s.lines(),
                ["handshake accepted 101 /chat", "c2s 1 ping 0"],
                "{size}"
            );
        }
    }
    let mut s = connected();
    s.client(v1);
    s.client(b"\x16\x03\x01\x02\0\x01\0\x01\xfc");
    assert_eq!(s.observer.stats().unreadable_tls, 1);
}
