//! What TCP does by itself below a WebSocket changes no count of frames, and is told at the end.

use std::{
    io::{ErrorKind, Read, Write},
    thread,
    time::{Duration, Instant},
};

use nix::sys::socket::{setsockopt, sockopt};

use super::{
    Pair, at,
    endings::{ACCEPTED, answered, answered_by, must_read},
    support::{
        machine::turn,
        netns::Netns,
        row::Row,
        trace::{Connection, Trace},
    },
};

/// Of frames as a client sends them, with a masking key of zeros.
const HEADER: [u8; 8] = [0x82, 0xfe, 0x03, 0xe8, 0, 0, 0, 0];
const PAYLOAD: usize = 1000;

/// A binary frame.
fn frame() -> Vec<u8> {
    [&HEADER[..], &[0; PAYLOAD]].concat()
}

/// One of TCP's counts of a direction.
#[track_caller]
fn tcp(connection: &Connection, direction: &str, count: &str) -> u64 {
    let count = &connection.close()["tcp"][direction][count];
    count.as_u64().expect("a number")
}

/// The only connection, all of whose frames were `n` of the client's.
#[track_caller]
fn only(trace: Trace, n: u64) -> Connection {
    let mut connections = trace.connections(1);
    let connection = connections.pop().expect("a connection");
    assert!(connections.is_empty(), "{connections:#?}");
    let tally = connection.tally();
    let expected = (n > 0).then_some(("binary".to_owned(), n));
    assert_eq!(
        tally.client_to_server.frames,
        expected.into_iter().collect()
    );
    let bytes = tally.client_to_server.bytes.values().sum::<u64>();
    assert_eq!(bytes, n * PAYLOAD as u64);
    assert_eq!(tally.server_to_client.total(), 0);
    connection
}

/// A count of the kernel's own, of everything in a namespace.
#[track_caller]
fn kernels(ns: &Netns, name: &str) -> u64 {
    let list = ns.run("nstat", &["-asz", name]);
    let line = list.lines().find_map(|line| line.strip_prefix(name));
    let n = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    n.unwrap_or_else(|| panic!("no {name}: {list}"))
}

#[test]
fn keep_alive_probes_are_no_traffic() {
    const LIFE: Duration = Duration::from_millis(2500);
    let Some(_turn) = turn() else { return };
    let pair = Pair::new();
    let traces = [&pair.client, &pair.server].map(|ns| Trace::start(ns, 1, ""));
    let (mut client, mut server) = answered(&pair, at(Pair::V4), ACCEPTED);
    client.write_all(&frame()).expect("an open connection");
    must_read(&mut server, frame().len());
    setsockopt(&client, sockopt::KeepAlive, &true).expect("a socket option");
    setsockopt(&client, sockopt::TcpKeepIdle, &1).expect("a socket option");
    setsockopt(&client, sockopt::TcpKeepInterval, &1).expect("a socket option");
    thread::sleep(LIFE);
    let sent = kernels(&pair.client, "TcpExtTCPKeepAlive");
    assert!(sent >= 2, "{sent} probes");
    drop((client, server));
    for trace in traces {
        let connection = only(trace, 1);
        let counted = ["client_to_server", "server_to_client"]
            .map(|direction| tcp(&connection, direction, "keepalive_probes"));
        assert_eq!(counted, [sent, 0]);
        assert_eq!(tcp(&connection, "client_to_server", "retransmitted"), 0);
        // A connection that lives by TCP alone is silent all the same.
        assert!(connection.silence() >= LIFE, "{:?}", connection.silence());
        assert_eq!(connection.ending(), "fin 1006 client");
    }
}

#[test]
fn a_receiver_that_does_not_read_closes_its_window() {
    let Some(_turn) = turn() else { return };
    let pair = Pair::new();
    let traces = [&pair.client, &pair.server].map(|ns| Trace::start(ns, 1, ""));
    let listener = pair.server.listen(at(Pair::V4));
    setsockopt(&listener, sockopt::RcvBuf, &8192).expect("a socket option");
    let to = at(Pair::V4);
    let (mut client, mut server) = answered_by(&listener, &pair.client, to, ACCEPTED);

    // Until nothing more is taken for a while.
    client.set_nonblocking(true).expect("a socket option");
    let (frame, mut written) = (frame(), 0);
    let mut taken = Instant::now();
    while taken.elapsed() < Duration::from_secs(1) {
        match client.write(&frame[written % frame.len()..]) {
            Ok(n) => (written, taken) = (written + n, Instant::now()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                thread::sleep(Duration::from_millis(20));
            }
            Err(error) => panic!("{error}"),
        }
    }
    let closed = kernels(&pair.server, "TcpExtTCPToZeroWindowAdv");
    assert!(closed > 0);
    client.set_nonblocking(false).expect("a socket option");
    let rest = written.next_multiple_of(frame.len()) - written;
    let reader = thread::spawn(move || {
        server
            .read_to_end(&mut Vec::new())
            .expect("a stream with an end")
    });
    client
        .write_all(&frame[frame.len() - rest..])
        .expect("an open connection");
    drop(client);
    let read = reader.join().expect("a reader");
    assert_eq!(read, written + rest);
    for trace in traces {
        let connection = only(trace, (read / frame.len()) as u64);
        let zero_windows = tcp(&connection, "server_to_client", "zero_windows");
        assert!(
            zero_windows >= closed,
            "{zero_windows} of at least {closed}"
        );
        assert_eq!(tcp(&connection, "client_to_server", "zero_windows"), 0);
        // The sender asks whether the window is still closed, which keeps nothing alive.
        assert_eq!(tcp(&connection, "client_to_server", "keepalive_probes"), 0);
    }
}

#[test]
fn what_the_network_loses_is_sent_again() {
    const FRAMES: usize = 400;
    let Some(_turn) = turn() else { return };
    let row = Row::new();
    row.client.ip("route add default via 10.77.1.1");
    row.server.ip("route add default via 10.77.2.1");
    let traces = [&row.client, &row.server].map(|ns| Trace::start(ns, 1, ""));
    let listener = row.server.listen(Row::back());
    let (mut client, mut server) = answered_by(&listener, &row.client, Row::back(), ACCEPTED);
    // One of fifteen on the way to the server, between the two agents.
    for rule in [
        "add table ip lossy",
        "add chain ip lossy forward { type filter hook forward priority 0; }",
        "add rule ip lossy forward iifname \"pc\" numgen inc mod 15 14 drop",
    ] {
        row.middle.run("nft", &[rule]);
    }
    let reader = thread::spawn(move || {
        server
            .read_to_end(&mut Vec::new())
            .expect("a stream with an end")
    });
    for _ in 0..FRAMES {
        client.write_all(&frame()).expect("an open connection");
        // Segments of their own.
        thread::sleep(Duration::from_micros(200));
    }
    row.middle.run("nft", &["delete chain ip lossy forward"]);
    drop(client);
    assert_eq!(reader.join().expect("a reader"), FRAMES * frame().len());
    let sent_again = kernels(&row.client, "TcpRetransSegs");
    let [before, behind] = traces.map(|trace| only(trace, FRAMES as u64));
    // The kernel counts the packets of which the device makes one, and the agent sees that one.
    let seen = tcp(&before, "client_to_server", "retransmitted");
    assert!((1..=sent_again).contains(&seen), "{seen} of {sent_again}");
    assert_eq!(tcp(&before, "client_to_server", "out_of_order"), 0);
    // Behind the loss what is sent again is new, but for what was sent again for nothing, and what
    // came before it was early.
    let again = tcp(&behind, "client_to_server", "retransmitted");
    assert!(again < seen, "{again} of {seen}");
    assert!(tcp(&behind, "client_to_server", "out_of_order") > 0);
}
