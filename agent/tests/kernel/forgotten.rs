//! Connections that the agent has given up, or has lost sight of: what the kernel program makes of
//! what they say afterwards.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::fd::AsRawFd as _,
    thread,
    time::{Duration, Instant},
};

use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage, sockopt};

use super::{
    Pair, at,
    endings::{ACCEPTED, REQUEST, answered, must_be_closed, must_read, reset},
    support::{agent::Agent, eventually, exposition::Exposition, machine::turn},
};

const PLAIN: &[u8] = b"\x81\x05hello";
const MASKED: &[u8] = b"\x81\x85\0\0\0\0hello";

/// Both say hello, `n` times, each as a segment of its own.
fn greet(client: &mut TcpStream, server: &mut TcpStream, n: usize) {
    for _ in 0..n {
        client.write_all(MASKED).expect("an open connection");
        must_read(server, MASKED.len());
        server.write_all(PLAIN).expect("an open connection");
        must_read(client, PLAIN.len());
    }
}

/// What was copied so far: of an agent that does not see its own metrics fetched.
fn samples(agent: &Agent) -> u64 {
    // What the kernel counts is read twice a second.
    thread::sleep(Duration::from_millis(700));
    agent.metrics().sum("wstap_samples_total", &[])
}

#[test]
fn an_idle_connection_that_speaks_again_is_found_again() {
    let Some(_turn) = turn() else { return };
    let pair = Pair::new();
    let agent = Agent::run(&pair.client, "--idle-timeout 1s");
    let (mut client, mut server) = answered(&pair, at(Pair::V4), ACCEPTED);
    greet(&mut client, &mut server, 1);
    agent.must_have_active(1);
    for round in 1..=2 {
        agent.must_have_active(0);
        greet(&mut client, &mut server, 20);
        agent.must_have_active(1);
        let found = [("outcome", "midstream")];
        let found = agent.metrics().sum("websocket_handshakes_total", &found);
        assert_eq!(found, round, "each time it was silent it is found anew");
    }
    greet(&mut client, &mut server, 1);
    client
        .write_all(b"\x88\x82\0\0\0\0\x03\xe8")
        .expect("an open connection");
    server
        .write_all(b"\x88\x02\x03\xe8")
        .expect("an open connection");
    must_read(&mut client, 4);
    drop((client, server));
    must_be_closed(&agent, "clean", "1000", "client");
    let frames = agent.tally().client_to_server.frames;
    assert_eq!(frames.values().sum::<u64>(), 1 + 20 + 20 + 1 + 1);
}

#[test]
fn an_evicted_connection_is_left_alone() {
    let Some(_turn) = turn() else { return };
    let pair = Pair::new();
    let agent = Agent::run(&pair.client, "-i c0 --max-connections 1");
    let (mut first, mut server) = answered(&pair, at(Pair::V4), ACCEPTED);
    greet(&mut first, &mut server, 1);
    let _second = answered(&pair, at("10.77.0.2:8081"), ACCEPTED);
    let evicted = |agent: &Agent| {
        let evicted = [("kind", "evicted")];
        agent
            .metrics()
            .sum("websocket_connections_closed_total", &evicted)
    };
    eventually("one is evicted", Duration::from_secs(5), || {
        (evicted(&agent) == 1)
            .then_some(())
            .ok_or_else(|| "none is".to_owned())
    });
    let before = samples(&agent);
    greet(&mut first, &mut server, 50);
    assert_eq!(samples(&agent), before, "nothing of it is copied");
    assert_eq!(evicted(&agent), 1);
    agent.must_have_active(1);
}

#[test]
fn a_switch_to_another_protocol_is_left_alone() {
    let Some(_turn) = turn() else { return };
    let pair = Pair::new();
    let agent = Agent::run(&pair.client, "-i c0");
    let answer = "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
    let listener = pair.server.listen(at(Pair::V4));
    let mut client = pair
        .client
        .connect(at(Pair::V4))
        .expect("a listening server");
    let (mut server, _) = listener.accept().expect("a client");
    let request =
        b"POST /attach HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
    client.write_all(request).expect("an open connection");
    must_read(&mut server, request.len());
    server
        .write_all(answer.as_bytes())
        .expect("an open connection");
    must_read(&mut client, answer.len());
    let say = |from: &mut TcpStream, to: &mut TcpStream| {
        let line = b"total 0\n";
        from.write_all(line).expect("an open connection");
        must_read(to, line.len());
    };
    // The agent takes some to be sure that they are no frames.
    for _ in 0..200 {
        say(&mut server, &mut client);
        say(&mut client, &mut server);
    }
    let before = samples(&agent);
    for _ in 0..50 {
        say(&mut server, &mut client);
        say(&mut client, &mut server);
    }
    assert_eq!(samples(&agent), before, "nothing of it is copied");
    assert_eq!(agent.metrics().sum("websocket_handshakes_total", &[]), 0);
}

/// A connection from a port that is always the same.
fn connect_from(port: u16, to: SocketAddr) -> TcpStream {
    let fd = socket::socket(
        AddressFamily::Inet,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .expect("a socket");
    socket::setsockopt(&fd, sockopt::ReuseAddr, &true).expect("a socket option");
    let any = SockaddrStorage::from(SocketAddr::from(([0, 0, 0, 0], port)));
    socket::bind(fd.as_raw_fd(), &any).expect("a free port");
    socket::connect(fd.as_raw_fd(), &SockaddrStorage::from(to)).expect("a listening server");
    let stream = TcpStream::from(fd);
    stream.set_nodelay(true).expect("a socket option");
    stream
}

#[test]
fn the_same_addresses_again_at_once_are_another_connection() {
    const TIMES: u64 = 1000;
    const LIMIT: Duration = Duration::from_secs(20);
    let Some(_turn) = turn() else { return };
    let pair = Pair::new();
    let agent = Agent::run(&pair.server, "");
    let listener = pair.server.listen(at(Pair::V4));
    let server = thread::spawn(move || {
        for _ in 0..TIMES {
            let (mut stream, _) = listener.accept().expect("a client");
            must_read(&mut stream, REQUEST.len());
            let answer = [ACCEPTED.as_bytes(), PLAIN].concat();
            stream.write_all(&answer).expect("an open connection");
            let _ = stream.read(&mut [0]);
        }
    });
    let begun = Instant::now();
    let client = pair.client.spawn(move || {
        for _ in 0..TIMES {
            let mut stream = connect_from(40_123, at(Pair::V4));
            stream
                .write_all(REQUEST.as_bytes())
                .expect("an open connection");
            must_read(&mut stream, ACCEPTED.len() + PLAIN.len());
            reset(stream);
            assert!(begun.elapsed() < LIMIT);
        }
    });
    client.join().expect("the client");
    server.join().expect("the server");
    let metrics = must_have_been_reset(&agent, TIMES, LIMIT);
    assert_eq!(metrics.sum("websocket_handshakes_total", &[]), TIMES);
    assert_eq!(metrics.sum("websocket_frames_total", &[]), TIMES);
    assert_eq!(
        metrics.sum("websocket_connections_closed_total", &[]),
        TIMES
    );
    agent.must_have_active(0);
}

/// Waits until so many WebSockets have ended by a reset, and they are those that were accepted; the metrics then.
#[track_caller]
fn must_have_been_reset(agent: &Agent<'_>, times: u64, limit: Duration) -> Exposition {
    eventually("every WebSocket has ended", limit, || {
        let n = agent
            .metrics()
            .sum("websocket_connections_closed_total", &[("kind", "rst")]);
        (n == times).then_some(()).ok_or_else(|| format!("{n}"))
    });
    let metrics = agent.metrics();
    let accepted = metrics.sum("websocket_handshakes_total", &[("outcome", "accepted")]);
    assert_eq!(accepted, times);
    metrics
}

#[test]
fn the_same_addresses_after_something_else_are_another_connection() {
    const TIMES: u64 = 200;
    const LIMIT: Duration = Duration::from_secs(20);
    // Each often enough that nothing is looked for any more.
    const OTHERS: [&[u8]; 2] = [b"SSH-2.0-x\r\n", b"POST /a HTTP/1.1\r\nHost: h\r\n\r\n"];
    const BODY: &[u8] = b"nothing of interest";
    let Some(_turn) = turn() else { return };
    let pair = Pair::new();
    let agent = Agent::run(&pair.server, "-i s0");
    let listener = pair.server.listen(at(Pair::V4));
    let server = thread::spawn(move || {
        for n in 0..TIMES {
            let (mut stream, _) = listener.accept().expect("a client");
            must_read(&mut stream, OTHERS[n as usize % 2].len() + 10 * BODY.len());
            stream.write_all(BODY).expect("an open connection");
            let _ = stream.read(&mut [0]);
            let (mut stream, _) = listener.accept().expect("a client");
            must_read(&mut stream, REQUEST.len());
            let answer = [ACCEPTED.as_bytes(), PLAIN].concat();
            stream.write_all(&answer).expect("an open connection");
            let _ = stream.read(&mut [0]);
        }
    });
    let client = pair.client.spawn(move || {
        for n in 0..TIMES {
            let mut stream = connect_from(40_124, at(Pair::V4));
            stream
                .write_all(OTHERS[n as usize % 2])
                .expect("an open connection");
            for _ in 0..10 {
                stream.write_all(BODY).expect("an open connection");
            }
            must_read(&mut stream, BODY.len());
            reset(stream);
            let mut stream = connect_from(40_124, at(Pair::V4));
            // A request may come in two.
            let (first, second) = REQUEST.as_bytes().split_at(1);
            stream.write_all(first).expect("an open connection");
            stream.write_all(second).expect("an open connection");
            must_read(&mut stream, ACCEPTED.len() + PLAIN.len());
            reset(stream);
        }
    });
    client.join().expect("the client");
    server.join().expect("the server");
    let metrics = must_have_been_reset(&agent, TIMES, LIMIT);
    assert_eq!(metrics.sum("websocket_frames_total", &[]), TIMES);
}
