//! Many frames, and more than the agent can take.

use std::{
    io::{Read, Write},
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use super::{
    Pair, at,
    endings::{ACCEPTED, answered_by, must_read},
    support::{
        agent::Agent,
        eventually,
        load::{Load, Script},
        machine::turn,
    },
};

fn exact(connections: u64, messages: u64, at_least: u64) {
    let pair = Pair::new();
    let agent = Agent::run(&pair.server, "--ring-buffer 64M");
    let start = Instant::now();
    let script = Script {
        connections,
        seed: connections,
        ..Script::default()
    };
    let load = Load::open(
        &pair.client,
        &pair.server,
        at(Pair::V4),
        at(Pair::V4),
        script,
    );
    agent.must_have_active(connections);
    // In parts: the peers are to be counted, not to outrun an agent that was built for debugging.
    let mut left = messages;
    while left > 0 {
        let part = left.min((5000 / connections).max(1));
        load.exchange(part);
        left -= part;
    }
    let tally = load.close();
    agent.must_count(&tally);
    agent.must_have_active(0);
    let frames = tally.client_to_server.total() + tally.server_to_client.total();
    assert!(
        frames >= at_least,
        "{frames} frames are fewer than the {at_least} that were meant"
    );
    eprintln!(
        "{connections} connections, {frames} frames in {:?}:\n{tally}",
        start.elapsed()
    );
}

#[test]
fn a_hundred_thousand_frames_over_a_hundred_connections() {
    let Some(_turn) = turn() else { return };
    exact(100, 350, 100_000);
}

#[test]
fn twenty_thousand_frames_over_one_connection() {
    let Some(_turn) = turn() else { return };
    exact(1, 7000, 20_000);
}

#[test]
fn what_a_full_ring_loses_is_counted() {
    let Some(_turn) = turn() else { return };
    let pair = Pair::new();
    let mut agent = Agent::run(&pair.server, "--ring-buffer 256K");
    let load = Load::open(
        &pair.client,
        &pair.server,
        at(Pair::V4),
        at(Pair::V4),
        Script::default(),
    );
    load.exchange(10);
    let before = agent.metrics().sum("wstap_samples_lost_total", &[]);
    assert_eq!(before, 0, "nothing is lost while there is room");
    // An agent that stands still cannot keep up, however fast the machine.
    agent.process.signal(Signal::SIGSTOP);
    load.exchange(800);
    agent.process.signal(Signal::SIGCONT);
    eventually("losses are counted", Duration::from_secs(10), || {
        let lost = agent
            .metrics()
            .sum("wstap_samples_lost_total", &[("reason", "ring_full")]);
        if lost > 0 {
            Ok(())
        } else {
            Err("none lost".to_owned())
        }
    });
    load.close();
    agent.process.must_live();
    agent.must_have_active(0);
    // And connections that come after are counted like any others. They say less than the ring holds,
    // or a machine that is busy would lose of them as well.
    let before = agent.tally();
    let tally = Load::whole(
        &pair.client,
        &pair.server,
        at(Pair::V6),
        at(Pair::V6),
        Script::default(),
        3,
    );
    let expected = before + &tally;
    eventually(
        "a later connection is counted",
        Duration::from_secs(10),
        || {
            let now = agent.tally();
            if now == expected {
                Ok(())
            } else {
                Err(format!("expected\n{expected}\nagent\n{now}"))
            }
        },
    );
    agent.stop(Signal::SIGTERM);
}

#[test]
fn a_flow_that_is_copied_whole_leaves_room_for_handshakes() {
    const HANDSHAKES: usize = 50;
    let Some(_turn) = turn() else { return };
    let pair = Pair::new();
    let agent = Agent::run(&pair.server, "--copy whole --ring-buffer 256K");
    let listener = pair.server.listen(at(Pair::V4));
    let connect = || answered_by(&listener, &pair.client, at(Pair::V4), ACCEPTED);
    let (mut client, mut server) = connect();
    agent.must_have_active(1);
    // Several times what the ring holds, while nobody reads it.
    agent.process.signal(Signal::SIGSTOP);
    let frames = [&[0x82, 0xfe, 0x03, 0xe8, 0, 0, 0, 0][..], &[0; 1000]].concat();
    let frames = frames.repeat(1000);
    let reader = thread::spawn({
        let len = frames.len();
        move || {
            must_read(&mut server, len);
            server
        }
    });
    client.write_all(&frames).expect("an open connection");
    let server = reader.join().expect("a reader");
    let others: Vec<_> = (0..HANDSHAKES).map(|_| connect()).collect();
    // An ending is of the flow that is copied whole, and gets there all the same.
    drop((client, server));
    agent.process.signal(Signal::SIGCONT);
    agent.must_have_active(HANDSHAKES as u64);
    let metrics = agent.metrics();
    let accepted = metrics.sum("websocket_handshakes_total", &[("outcome", "accepted")]);
    assert_eq!(accepted, HANDSHAKES as u64 + 1);
    let lost = metrics.sum("wstap_samples_lost_total", &[("reason", "ring_full")]);
    assert!(lost > 0, "the ring was not short of room");
    drop(others);
    agent.must_have_active(0);
    agent.stop(Signal::SIGTERM);
}

#[test]
fn a_large_message_at_full_speed_is_one_frame() {
    let Some(_turn) = turn() else { return };
    // 32 MiB in one frame, written by hand: super-packets, and a length of 64 bits.
    const LEN: usize = 32 << 20;
    let pair = Pair::new();
    let agent = Agent::run(&pair.client, "--ring-buffer 64M");
    let listener = pair.server.listen(at(Pair::V4));
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).expect("a request");
            head.push(byte[0]);
        }
        // The key and the answer to it are those of RFC 6455, section 1.3.
        let answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
            Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        stream
            .write_all(answer.as_bytes())
            .expect("a client that reads");
        stream.write_all(&[0x82, 127]).expect("a client that reads");
        stream
            .write_all(&(LEN as u64).to_be_bytes())
            .expect("a client that reads");
        let chunk = vec![0x81; 1 << 20];
        for _ in 0..LEN >> 20 {
            stream.write_all(&chunk).expect("a client that reads");
        }
        stream
            .write_all(&[0x88, 2, 0x03, 0xe8])
            .expect("a client that reads");
        stream
            .read_to_end(&mut Vec::new())
            .expect("the client's close frame");
    });
    let mut stream = pair.client.connect(at(Pair::V4)).expect("a server");
    let request = "GET /large HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\n\
        Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        Sec-WebSocket-Version: 13\r\n\r\n";
    stream
        .write_all(request.as_bytes())
        .expect("a server that reads");
    let mut rest = LEN + 10 + 4;
    let mut buf = vec![0; 1 << 20];
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut buf[..1]).expect("an answer");
        head.push(buf[0]);
    }
    while rest > 0 {
        let n = rest.min(buf.len());
        rest -= stream.read(&mut buf[..n]).expect("the frame");
    }
    stream
        .write_all(&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8])
        .expect("a server that reads");
    drop(stream);
    server.join().expect("the server");

    let frames = [("direction", "server_to_client"), ("opcode", "binary")];
    eventually(
        "the frame is counted whole",
        Duration::from_secs(10),
        || {
            let metrics = agent.metrics();
            let counted = metrics.sum("websocket_frames_total", &frames);
            let bytes = metrics.sum("websocket_frame_payload_bytes_total", &frames);
            let closed = metrics.sum(
                "websocket_connections_closed_total",
                &[("kind", "clean"), ("code", "1000"), ("initiator", "server")],
            );
            if (counted, bytes, closed) == (1, LEN as u64, 1) {
                Ok(())
            } else {
                let losses = agent.losses();
                Err(format!(
                    "{counted} frames of {bytes} bytes, {closed} closed; losses: {losses}"
                ))
            }
        },
    );
}
