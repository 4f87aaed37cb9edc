//! Opening handshakes as they come over real sockets, with all that may precede them.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use super::{
    Pair, at,
    support::{agent::Agent, eventually, machine::turn},
};

const REQUEST: &[u8] = b"GET /chat HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\
    Connection: keep-alive, Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
const V1: &[u8] = b"PROXY TCP4 198.51.100.1 10.77.0.2 40000 8080\r\n";
const V2: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc6\x33\x64\x01\x0a\x4d\0\x02\x9c\x40\x1f\x90";

/// Who sends.
#[derive(Clone, Copy)]
enum By {
    Client,
    Server,
}
use By::{Client, Server};

/// Bytes, and who sends them.
type Part<'a> = (By, &'a [u8]);

/// Sends each of `parts` in a segment of its own.
fn converse(ends: &mut [TcpStream; 2], parts: &[Part<'_>]) {
    let [client, server] = ends;
    for (by, bytes) in parts {
        let (from, to) = match by {
            Client => (&mut *client, &mut *server),
            Server => (&mut *server, &mut *client),
        };
        from.write_all(bytes).expect("an open connection");
        to.read_exact(&mut vec![0; bytes.len()])
            .expect("what the other end sent");
    }
}

#[test]
fn whatever_precedes_the_upgrade() {
    let Some(_turn) = turn() else { return };
    let pair = Pair::new();
    let agent = Agent::run(&pair.server, "-i s0");
    let v1_at_once = [V1, REQUEST].concat();
    let v2_at_once = [V2, REQUEST].concat();
    let pipelined = [b"GET /a HTTP/1.1\r\n\r\n", REQUEST].concat();
    let ok = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let folded = String::from_utf8_lossy(REQUEST).replace("Upgrade: ", "upgrade:\r\n\t");
    let absolute = String::from_utf8_lossy(REQUEST).replace("/chat", "http://h/chat");
    let long = String::from_utf8_lossy(REQUEST).replace(
        "\r\n\r\n",
        &format!("\r\nCookie: {}\r\n\r\n", "x".repeat(20_000)),
    );
    let by_seven: Vec<_> = REQUEST.chunks(7).map(|piece| (Client, piece)).collect();
    let body = [b'.'; 16 << 10];
    let announced = b"HTTP/1.1 200 OK\r\nContent-Length: 163840\r\n\r\n";
    let posted = b"POST /a HTTP/1.1\r\nContent-Length: 163840\r\n\r\n";
    let (byte, rest) = REQUEST.split_at(1);
    let mut answered: Vec<Part<'_>> =
        vec![(Client, b"GET /a HTTP/1.1\r\n\r\n"), (Server, announced)];
    answered.extend([(Server, &body[..]); 10]);
    answered.push((Client, REQUEST));
    let mut sent: Vec<Part<'_>> = vec![(Client, posted)];
    sent.extend([(Client, &body[..]); 10]);
    sent.extend([(Server, &ok[..]), (Client, byte), (Client, rest)]);
    let mut tunnelled: Vec<Part<'_>> = vec![(Client, posted)];
    tunnelled.extend([(Client, &body[..]); 10]);
    tunnelled.extend([(Server, &ok[..]), (Client, V2), (Client, REQUEST)]);
    let before: [(&str, Vec<Part<'_>>); 16] = [
        ("nothing", vec![(Client, REQUEST)]),
        ("PROXY v1 in the segment", vec![(Client, &v1_at_once)]),
        ("PROXY v1 before it", vec![(Client, V1), (Client, REQUEST)]),
        ("PROXY v2 in the segment", vec![(Client, &v2_at_once)]),
        ("PROXY v2 before it", vec![(Client, V2), (Client, REQUEST)]),
        (
            "a tunnel",
            vec![
                (Client, b"CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n"),
                (Server, b"HTTP/1.0 200 Connection established\r\n\r\n"),
                (Client, REQUEST),
            ],
        ),
        (
            "other requests",
            vec![
                (Client, b"GET /a HTTP/1.1\r\n\r\n"),
                (Server, ok),
                (Client, b"POST /a HTTP/1.1\r\nContent-Length: 1\r\n\r\nx"),
                (Server, ok),
                (Client, REQUEST),
            ],
        ),
        ("one pipelined", vec![(Client, &pipelined), (Server, ok)]),
        (
            "an interim response",
            vec![
                (Client, REQUEST),
                (Server, b"HTTP/1.1 103 Early Hints\r\n\r\n"),
            ],
        ),
        ("a folded header", vec![(Client, folded.as_bytes())]),
        ("an absolute target", vec![(Client, absolute.as_bytes())]),
        ("a long cookie", vec![(Client, long.as_bytes())]),
        ("many segments", by_seven),
        ("a large answer", answered),
        ("a large upload, and alone its first byte", sent),
        ("a large upload, and PROXY v2 before it", tunnelled),
    ];
    for (n, (what, before)) in (1..).zip(&before) {
        let to = at(Pair::V4);
        let listener = pair.server.listen(to);
        let client = pair.client.connect(to).expect("a listening server");
        let (server, _) = listener.accept().expect("a client");
        server.set_nodelay(true).expect("a socket option");
        let mut ends = [client, server];
        converse(&mut ends, before);
        converse(
            &mut ends,
            &[
                (Server, RESPONSE),
                (Client, &[0x81, 0x81, 0, 0, 0, 0, b'x']),
                (Server, &[0x81, 1, b'x']),
            ],
        );
        drop(ends);
        let what = format!("the handshake with {what} is counted");
        eventually(&what, Duration::from_secs(5), || {
            let metrics = agent.metrics();
            let accepted = [("outcome", "accepted"), ("status", "101")];
            let counts = [
                metrics.sum("websocket_handshakes_total", &accepted),
                metrics.sum("websocket_frames_total", &[("opcode", "text")]),
                metrics.sum("websocket_connections_closed_total", &[]),
            ];
            if counts == [n, 2 * n, n] {
                Ok(())
            } else {
                Err(format!("{counts:?} instead of {:?}", [n, 2 * n, n]))
            }
        });
    }
    let metrics = agent.metrics();
    assert_eq!(metrics.sum("websocket_protocol_violations_total", &[]), 0);
    assert_eq!(
        metrics.sum("websocket_handshakes_total", &[]),
        before.len() as u64
    );
}

#[test]
fn tls_is_counted_whatever_precedes_it() {
    let Some(_turn) = turn() else { return };
    let pair = Pair::new();
    let agent = Agent::run(&pair.server, "-i s0");
    let hello = [&b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03"[..], &[7; 506]].concat();
    let v1_at_once = [V1, &hello].concat();
    let v2_at_once = [V2, &hello].concat();
    let before: [(&str, Vec<Part<'_>>); 6] = [
        ("nothing", vec![(Client, &hello)]),
        ("PROXY v1 in the segment", vec![(Client, &v1_at_once)]),
        ("PROXY v1 before it", vec![(Client, V1), (Client, &hello)]),
        ("PROXY v2 in the segment", vec![(Client, &v2_at_once)]),
        ("PROXY v2 before it", vec![(Client, V2), (Client, &hello)]),
        (
            "a tunnel",
            vec![
                (Client, b"CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n"),
                (Server, b"HTTP/1.0 200 Connection established\r\n\r\n"),
                (Client, &hello),
            ],
        ),
    ];
    for (n, (what, parts)) in (1..).zip(&before) {
        let to = at(Pair::V4);
        let listener = pair.server.listen(to);
        let client = pair.client.connect(to).expect("a listening server");
        let (server, _) = listener.accept().expect("a client");
        let mut ends = [client, server];
        converse(&mut ends, parts);
        // The server's part, and application data.
        converse(
            &mut ends,
            &[(Server, &hello), (Client, b"\x17\x03\x03\0\x01x")],
        );
        drop(ends);
        let what = format!("TLS after {what} is counted");
        let counted = || {
            let labels = [("reason", "tls")];
            (agent.metrics()).sum("wstap_unreadable_connections_total", &labels)
        };
        eventually(&what, Duration::from_secs(5), || match counted() {
            count if count == n => Ok(()),
            count => Err(format!("{count} instead of {n}")),
        });
    }
    // Each once.
    let metrics = agent.metrics();
    let labels = [("reason", "tls")];
    let counted = metrics.sum("wstap_unreadable_connections_total", &labels);
    assert_eq!(counted, before.len() as u64);
    assert_eq!(metrics.sum("websocket_handshakes_total", &[]), 0);
}
