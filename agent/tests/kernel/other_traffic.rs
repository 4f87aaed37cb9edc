//! What is no WebSocket leaves no trace.

use std::{
    io::{Read, Write},
    net::Ipv4Addr,
    thread,
    time::Duration,
};

use super::{
    Pair, at,
    support::{
        agent::{Agent, Process, WSTAP},
        eventually,
        machine::turn,
    },
};

/// Bytes without a pattern, the same in every run.
fn noise(seed: u32, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 11) as u8
    };
    (0..len).map(next).collect()
}

/// Fails where the agent speaks of WebSockets.
#[track_caller]
fn must_be_silent(agent: &Agent) {
    thread::sleep(Duration::from_millis(500));
    let metrics = agent.metrics();
    let series: Vec<_> = metrics
        .samples
        .iter()
        .filter(|sample| sample.name.starts_with("websocket_"))
        .collect();
    assert!(series.is_empty(), "{series:#?}");
}

#[test]
fn http_yields_no_event() {
    let Some(_turn) = turn() else { return };
    let pair = Pair::new();
    let agent = Agent::run(&pair.server, "");
    let mut trace = pair.client.command(WSTAP);
    trace.args(["trace", "-o", "json"]);
    let mut trace = Process::spawn(trace);

    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("page"), noise(7, 300_000)).expect("a file");
    let mut server = pair.server.command("python3");
    server.args([
        "-m",
        "http.server",
        "8080",
        "--bind",
        "10.77.0.2",
        "--directory",
    ]);
    server.arg(folder.path());
    let mut server = Process::spawn(server);
    let to = at(Pair::V4);
    eventually("the web server listens", Duration::from_secs(10), || {
        server.must_live();
        pair.client
            .connect(to)
            .map(drop)
            .map_err(|error| error.to_string())
    });
    for path in ["/", "/page", "/absent"] {
        for _ in 0..5 {
            let mut stream = pair.client.connect(to).expect("a web server");
            write!(stream, "GET {path} HTTP/1.0\r\n\r\n").expect("a web server that reads");
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).expect("an answer");
            assert!(answer.starts_with(b"HTTP/1.0 "));
        }
    }
    must_be_silent(&agent);
    trace.must_live();
    assert_eq!(trace.stdout(), "");
}

#[test]
fn noise_yields_no_event_however_old_the_connection() {
    let Some(_turn) = turn() else { return };
    let pair = Pair::new();
    let listener = pair.server.listen(at(Pair::V4));
    let open = || {
        let client = pair.client.connect(at(Pair::V4)).expect("a listener");
        (client, listener.accept().expect("a client").0)
    };
    let mut streams: Vec<_> = (0..20).map(|_| open()).collect();
    let agent = Agent::run(&pair.server, "");
    streams.extend((0..20).map(|_| open()));
    for round in 0..10 {
        for (i, (client, server)) in (0..).zip(&mut streams) {
            let bytes = noise(round * 1000 + i, 700 + 13 * i as usize);
            client.write_all(&bytes).expect("an open connection");
            server
                .read_exact(&mut vec![0; bytes.len()])
                .expect("the noise");
            server.write_all(&bytes).expect("an open connection");
            client
                .read_exact(&mut vec![0; bytes.len()])
                .expect("the noise");
        }
    }
    drop(streams);
    must_be_silent(&agent);
}

#[test]
fn tls_is_counted_as_unreadable() {
    let Some(_turn) = turn() else { return };
    let pair = Pair::new();
    let agent = Agent::run(&pair.client, "");
    let listener = pair.server.listen(at("10.77.0.2:443"));
    let mut hello = vec![
        0x16, 0x03, 0x01, 0x01, 0x04, 0x01, 0x00, 0x01, 0x00, 0x03, 0x03,
    ];
    hello.extend(noise(3, 254));
    for _ in 0..7 {
        let mut client = pair
            .client
            .connect(at("10.77.0.2:443"))
            .expect("a listener");
        let (mut server, _) = listener.accept().expect("a client");
        client.write_all(&hello).expect("an open connection");
        server
            .read_exact(&mut vec![0; hello.len()])
            .expect("the hello");
        // Application data, which may look like anything.
        let mut record = vec![0x17, 0x03, 0x03, 0x40, 0x00];
        record.extend(noise(4, 0x4000));
        server.write_all(&record).expect("an open connection");
        client
            .read_exact(&mut vec![0; record.len()])
            .expect("the record");
    }
    eventually(
        "seven connections are counted",
        Duration::from_secs(5),
        || {
            let labels = [("reason", "tls")];
            let n = agent
                .metrics()
                .sum("wstap_unreadable_connections_total", &labels);
            if n == 7 {
                Ok(())
            } else {
                Err(format!("{n} are"))
            }
        },
    );
    must_be_silent(&agent);
}

#[test]
fn other_protocols_are_left_alone() {
    let Some(_turn) = turn() else { return };
    let pair = Pair::new();
    let agent = Agent::run(&pair.client, "");
    let bytes = noise(9, 1200);
    let udp = pair
        .client
        .spawn(move || {
            let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a socket");
            for _ in 0..50 {
                socket.send_to(&bytes, Pair::V4).expect("a route");
            }
        })
        .join();
    udp.expect("the sender");
    must_be_silent(&agent);
    let skipped = agent
        .metrics()
        .sum("wstap_kernel_packets_total", &[("verdict", "not_tcp")]);
    assert!(skipped >= 50, "{skipped} packets were seen to be no TCP");
}

#[test]
fn an_upgrade_to_something_else_is_not_copied() {
    let Some(_turn) = turn() else { return };
    let pair = Pair::new();
    // Not on `lo`, where the metrics are asked for.
    let agent = Agent::run(&pair.client, "-i c0");
    let listener = pair.server.listen(at(Pair::V4));
    let mut client = pair.client.connect(at(Pair::V4)).expect("a listener");
    let (mut server, _) = listener.accept().expect("a client");
    let request = b"POST /containers/1/attach HTTP/1.1\r\nHost: x\r\nUpgrade: tcp\r\n\r\n";
    client.write_all(request).expect("an open connection");
    server
        .read_exact(&mut vec![0; request.len()])
        .expect("the request");
    let answer = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
    server.write_all(answer).expect("an open connection");
    client
        .read_exact(&mut vec![0; answer.len()])
        .expect("the answer");
    // Long enough for the agent to have looked at it.
    thread::sleep(Duration::from_secs(1));
    for round in 0..100 {
        let bytes = noise(round, 1000);
        server.write_all(&bytes).expect("an open connection");
        client
            .read_exact(&mut vec![0; bytes.len()])
            .expect("the noise");
    }
    must_be_silent(&agent);
    let samples = agent.metrics().sum("wstap_samples_total", &[]);
    assert!((1..5).contains(&samples), "{samples} records");
}
