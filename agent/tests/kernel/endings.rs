//! How connections end, and how attempts fail, with real sockets.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use super::{
    Pair, at,
    support::{
        agent::Agent,
        eventually,
        load::{Closer, Load, Script},
        machine::turn,
        netns::Netns,
    },
};

pub(super) const REQUEST: &str = "GET /ending HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\n\r\n";
pub(super) const ACCEPTED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
const TEXT: &[u8] = &[0x81, 2, b'o', b'k'];

/// A connection's two ends after the request was answered with `answer`.
pub(super) fn answered(pair: &Pair, to: SocketAddr, answer: &str) -> (TcpStream, TcpStream) {
    let listener = pair.server.listen(to);
    answered_by(&listener, &pair.client, to, answer)
}

/// As [`answered`], by a server that listens already.
pub(super) fn answered_by(
    listener: &TcpListener,
    client: &Netns,
    to: SocketAddr,
    answer: &str,
) -> (TcpStream, TcpStream) {
    let mut client = client.connect(to).expect("a listening server");
    let (mut server, _) = listener.accept().expect("a client");
    client
        .write_all(REQUEST.as_bytes())
        .expect("an open connection");
    must_read(&mut server, REQUEST.len());
    server
        .write_all(answer.as_bytes())
        .expect("an open connection");
    must_read(&mut client, answer.len());
    (client, server)
}

pub(super) fn must_read(stream: &mut TcpStream, n: usize) {
    stream
        .read_exact(&mut vec![0; n])
        .expect("what the other end sent");
}

/// Has the kernel answer with a RST when the socket is closed.
pub(super) fn reset(stream: TcpStream) {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    nix::sys::socket::setsockopt(&stream, nix::sys::socket::sockopt::Linger, &linger)
        .expect("a socket option");
    drop(stream);
}

#[track_caller]
pub(super) fn must_be_closed(agent: &Agent, kind: &str, code: &str, initiator: &str) {
    let mut labels = vec![("kind", kind), ("code", code)];
    // Silence has no initiator.
    labels.extend((!initiator.is_empty()).then_some(("initiator", initiator)));
    eventually("the ending is counted", Duration::from_secs(10), || {
        let closed = agent.tally().closed;
        let metrics = agent.metrics();
        let n = metrics.sum("websocket_connections_closed_total", &labels);
        // Each ending that was seen had a silence before it, however short.
        let of_kind = [("kind", kind)];
        let endings = metrics.sum("websocket_connections_closed_total", &of_kind);
        let silences = metrics.sum("websocket_connection_silence_seconds_count", &of_kind);
        if n == 1 && silences == endings {
            Ok(())
        } else {
            Err(format!(
                "{kind} {code} {initiator}; agent: {closed:?}, {silences} silences"
            ))
        }
    });
}

#[test]
fn a_short_snap_length_costs_no_handshake() {
    const PAYLOAD: u16 = 1000;
    let Some(_turn) = turn() else { return };
    let pair = Pair::new();
    let agent = Agent::run(&pair.server, "--snap-length 128 --copy whole");
    assert!(REQUEST.len() > 128, "longer than what may be copied");
    let (mut client, mut server) = answered(&pair, at(Pair::V4), ACCEPTED);
    agent.must_have_active(1);
    let [high, low] = PAYLOAD.to_be_bytes();
    let mut frame = vec![0x82, 126, high, low];
    frame.resize(frame.len() + usize::from(PAYLOAD), 0);
    server.write_all(&frame).expect("an open connection");
    must_read(&mut client, frame.len());
    eventually("the frame is counted", Duration::from_secs(10), || {
        let metrics = agent.metrics();
        let seen = [
            metrics.sum("websocket_handshakes_total", &[("outcome", "accepted")]),
            metrics.sum("websocket_frames_total", &[("opcode", "binary")]),
            metrics.sum("websocket_frame_payload_bytes_total", &[]),
            metrics.sum("wstap_limit_exceeded_total", &[("limit", "snap_length")]),
            metrics.sum("wstap_gaps_total", &[]),
        ];
        if seen == [1, 1, PAYLOAD.into(), 1, 0] {
            Ok(())
        } else {
            Err(format!("{seen:?}"))
        }
    });
}

#[test]
fn without_a_close_frame() {
    let Some(_turn) = turn() else { return };
    let pair = Pair::new();
    let agent = Agent::run(&pair.client, "");

    let (client, mut server) = answered(&pair, at(Pair::V4), ACCEPTED);
    server.write_all(TEXT).expect("an open connection");
    agent.must_have_active(1);
    drop(client);
    thread::sleep(Duration::from_millis(100));
    drop(server);
    // Two bytes that nobody read make the kernel send a RST, which is what comes first.
    must_be_closed(&agent, "rst", "1006", "client");

    let (mut client, mut server) = answered(&pair, at("10.77.0.2:8081"), ACCEPTED);
    server.write_all(TEXT).expect("an open connection");
    must_read(&mut client, TEXT.len());
    server
        .shutdown(Shutdown::Write)
        .expect("an open connection");
    must_read_end(&mut client);
    drop(client);
    must_be_closed(&agent, "fin", "1006", "server");

    let (mut client, server) = answered(&pair, at("10.77.0.2:8082"), ACCEPTED);
    reset(server);
    thread::sleep(Duration::from_millis(100));
    assert!(client.read(&mut [0]).is_err(), "the connection was reset");
    must_be_closed(&agent, "rst", "1006", "server");
    agent.must_have_active(0);
}

fn must_read_end(stream: &mut TcpStream) {
    assert_eq!(stream.read(&mut [0]).expect("the end of the stream"), 0);
}

#[test]
fn with_a_close_frame_one_way() {
    let Some(_turn) = turn() else { return };
    let pair = Pair::new();
    let agent = Agent::run(&pair.server, "");
    let (mut client, mut server) = answered(&pair, at(Pair::V6), ACCEPTED);
    server
        .write_all(&[0x88, 2, 0x03, 0xe9])
        .expect("an open connection");
    must_read(&mut client, 4);
    drop(client);
    must_read_end(&mut server);
    drop(server);
    must_be_closed(&agent, "half", "1001", "server");
}

#[test]
fn close_codes_as_sent() {
    let Some(_turn) = turn() else { return };
    let pair = Pair::new();
    let agent = Agent::run(&pair.client, "");
    let mut expected = super::support::tally::Tally::default();
    for (i, close) in [
        None,
        Some((1011, "")),
        Some((3000, "registered")),
        Some((4999, "private")),
    ]
    .into_iter()
    .enumerate()
    {
        for closer in [Closer::Client, Closer::Server] {
            let script = Script {
                connections: 1,
                seed: i as u64,
                closer,
                close,
            };
            let tally = Load::whole(
                &pair.client,
                &pair.server,
                at(Pair::V4),
                at(Pair::V4),
                script,
                2,
            );
            expected = expected + &tally;
        }
    }
    agent.must_count(&expected);
    let closed = agent.tally().closed;
    assert_eq!(closed.get("clean 1005 client"), Some(&1), "{closed:?}");
}

#[test]
fn silence_ends_a_connection_that_nobody_closed() {
    let Some(_turn) = turn() else { return };
    let pair = Pair::new();
    let agent = Agent::run(&pair.client, "--idle-timeout 2s");
    let (_client, _server) = answered(&pair, at(Pair::V4), ACCEPTED);
    agent.must_have_active(1);
    // Its peers are gone without a word: no FIN will ever come.
    pair.client.ip("link set c0 down");
    must_be_closed(&agent, "idle", "1006", "");
    agent.must_have_active(0);
}

#[test]
fn refused_and_unanswered_attempts_open_nothing() {
    let Some(_turn) = turn() else { return };
    let pair = Pair::new();
    let agent = Agent::run(&pair.client, "");
    let refusal = "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno";
    let (client, server) = answered(&pair, at(Pair::V4), refusal);
    drop((client, server));
    let (client, server) = answered(&pair, at("10.77.0.2:8081"), "");
    drop((client, server));
    let wrong = ACCEPTED.replace("s3pP", "AAAA");
    let (client, server) = answered(&pair, at("10.77.0.2:8082"), &wrong);
    drop((client, server));

    eventually(
        "three outcomes are counted",
        Duration::from_secs(10),
        || {
            let metrics = agent.metrics();
            let of = |outcome, status| {
                let labels = [("outcome", outcome), ("status", status)];
                metrics.sum("websocket_handshakes_total", &labels)
            };
            let counted = [
                of("rejected", "403"),
                of("unanswered", ""),
                of("invalid", "101"),
            ];
            if counted == [1, 1, 1] {
                Ok(())
            } else {
                Err(format!("{counted:?}"))
            }
        },
    );
    let metrics = agent.metrics();
    assert_eq!(metrics.sum("websocket_handshakes_total", &[]), 3);
    let violations = metrics.sum(
        "websocket_protocol_violations_total",
        &[("rule", "wrong_accept")],
    );
    assert_eq!(violations, 1);
    agent.must_have_active(0);
}
