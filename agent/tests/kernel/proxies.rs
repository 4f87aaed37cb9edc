//! Proxies of other makes in between: both hops are followed, each by itself, and one names the
//! other.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    thread,
    time::Duration,
};

use super::{
    endings::{ACCEPTED, REQUEST, must_read},
    support::{
        agent::Agent,
        eventually,
        machine::turn,
        peers::{self, Job, Part, Role, script},
        proxy::Proxy,
        row::Row,
        tally::Tally,
        trace::{Connection, Trace},
    },
};

/// Longer than any pause of peers that work.
const PATIENT: Duration = Duration::from_secs(20);

/// The hops from the client to the proxy, each with the hop behind it: the one that it names, which
/// has the same key and is another connection.
#[track_caller]
fn joined(connections: &[Connection]) -> Vec<[&Connection; 2]> {
    let (front, back) = (Row::front().to_string(), Row::back().to_string());
    let to = |server: &str| {
        let own = connections
            .iter()
            .filter(|c| c.handshake()["server"] == server);
        own.collect::<Vec<_>>()
    };
    let (outer, mut inner) = (to(&front), to(&back));
    assert_eq!(outer.len() + inner.len(), connections.len());
    let pairs = outer.into_iter().map(|hop| {
        let named = &hop.handshake()["next_hop"];
        let at = inner
            .iter()
            .position(|next| next.handshake()["conn"] == *named);
        let next = inner.remove(at.unwrap_or_else(|| panic!("no next hop: {hop:#?}")));
        let (hop_key, key) = (&hop.handshake()["key"], &next.handshake()["key"]);
        assert!(key.is_string());
        assert_eq!(hop_key, key);
        assert_eq!(next.handshake()["previous_hop"], hop.handshake()["conn"]);
        assert!(next.handshake().get("next_hop").is_none(), "it is the last");
        assert!(
            hop.handshake().get("previous_hop").is_none(),
            "it is the first"
        );
        [hop, next]
    });
    let pairs = pairs.collect();
    assert!(inner.is_empty(), "hops that no other names: {inner:#?}");
    pairs
}

/// Conversations at once.
const CONVERSATIONS: u64 = 3;

/// Has `ws` talk to `websockets` through whatever is in between, in conversations of one kind, the
/// place of it in [`script::conversations`]: what both counted.
#[track_caller]
fn converse(row: &Row, kind: usize) -> Tally {
    let [websockets, ws, ..] = &peers::ALL;
    let (mut asking, mut answering) = (
        Job::new(Role::Client, Row::front()),
        Job::new(Role::Server, Row::back()),
    );
    let mut endings = Vec::new();
    for seed in 1..=CONVERSATIONS {
        let script = script::conversations(seed).nth(kind).expect("a kind");
        let path = format!("/{seed}");
        let part = |steps: &Vec<_>| Part {
            to: Row::front(),
            deflate: script.deflate,
            steps: steps.clone(),
        };
        asking
            .conversations
            .insert(path.clone(), part(&script.client));
        answering
            .conversations
            .insert(path.clone(), part(&script.server));
        endings.push((path, script.ending));
    }
    let server = websockets.start(&row.server, &answering);
    let clients = ws.start(&row.client, &asking).reports();
    let servers = server.reports();
    let tallies = endings.iter().map(|(path, ending)| {
        let (client, server) = (&clients[path], &servers[path]);
        assert_eq!(client.sent, server.received, "{path}: client to server");
        assert_eq!(server.sent, client.received, "{path}: server to client");
        peers::tally(*ending, client, server)
    });
    tallies.fold(Tally::default(), |sum, tally| sum + &tally)
}

#[track_caller]
fn counts_are_right_on_both_hops(proxy: impl Fn(&Row) -> Proxy, kind: usize) {
    let row = Row::new();
    let _proxy = proxy(&row);
    let agent = Agent::run(&row.middle, "");
    let trace = Trace::start(&row.middle, 2, "");
    let sent = converse(&row, kind);
    // Twice on the wire.
    agent.must_count(&(sent.clone() + &sent));
    agent.must_have_active(0);

    let connections = trace.connections(2 * CONVERSATIONS as usize);
    let pairs = joined(&connections);
    let mut sums = [Tally::default(), Tally::default()];
    for hops in pairs {
        let tallies = hops.map(Connection::tally);
        assert_eq!(tallies[0], tallies[1], "one hop, and the next");
        for (sum, tally) in sums.iter_mut().zip(&tallies) {
            *sum = std::mem::take(sum) + tally;
        }
    }
    for sum in sums {
        assert_eq!(sum, sent, "events\n{sum}\npeers\n{sent}");
    }
}

#[test]
fn nginx_in_between() {
    let Some(_turn) = turn() else { return };
    // Closed by the client.
    counts_are_right_on_both_hops(|row| Proxy::nginx(row, PATIENT), 0);
}

#[test]
fn haproxy_in_between() {
    let Some(_turn) = turn() else { return };
    // Compressed, and closed by the server.
    counts_are_right_on_both_hops(|row| Proxy::haproxy(row, "http", "", PATIENT), 1);
}

/// Reads up to the end of an HTTP head that begins with `start`: what came before it.
#[track_caller]
fn must_read_head(stream: &mut TcpStream, start: &[u8]) -> Vec<u8> {
    let (mut read, mut begin) = (Vec::new(), None);
    while begin.is_none() || !read.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a head");
        read.extend(byte);
        begin = begin.or_else(|| read.ends_with(start).then(|| read.len() - start.len()));
    }
    read.truncate(begin.unwrap_or_default());
    read
}

/// A connection through the proxy that falls silent after a message each way: the ends of client
/// and server, and what came before the request.
#[track_caller]
fn silent(row: &Row) -> (TcpStream, TcpStream, Vec<u8>) {
    let listener = row.server.listen(Row::back());
    let mut client = row.client.connect(Row::front()).expect("a proxy");
    client
        .write_all(REQUEST.as_bytes())
        .expect("an open connection");
    let (mut server, _) = listener.accept().expect("a proxy");
    server
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("a socket option");
    let before = must_read_head(&mut server, b"GET ");
    server
        .write_all(ACCEPTED.as_bytes())
        .expect("an open connection");
    must_read_head(&mut client, b"HTTP/1.1 101 ");
    let text = [0x81, 0x82, 1, 2, 3, 4, b'h' ^ 1, b'i' ^ 2];
    client.write_all(&text).expect("an open connection");
    must_read(&mut server, text.len());
    server
        .write_all(&[0x81, 2, b'o', b'k'])
        .expect("an open connection");
    must_read(&mut client, 4);
    (client, server, before)
}

/// Waits until the proxy has given up. How each end, the client and the server, is told: by a FIN,
/// or by a RST, be it behind a FIN.
#[track_caller]
fn must_be_given_up(mut client: TcpStream, mut server: TcpStream) -> [&'static str; 2] {
    let told = [&mut client, &mut server].map(|end| end.read(&mut [0]).map_err(|e| e.kind()));
    // What follows the FIN at once is not waited for by reading.
    thread::sleep(Duration::from_millis(100));
    let errors = [client, server].map(|end| end.take_error().expect("a socket option"));
    let mut errors = errors.into_iter();
    told.map(|told| match (told, errors.next().flatten()) {
        (Ok(0), None) => "fin",
        (Ok(0), Some(_)) | (Err(ErrorKind::ConnectionReset), None) => "rst",
        neither => panic!("{neither:?}"),
    })
}

/// The proxy ends both hops: as the server of one and the client of the other, after the silence.
#[track_caller]
fn must_read_as_given_up([hop, next]: [&Connection; 2], patience: Duration, kinds: [&str; 2]) {
    let endings = [
        format!("{} 1006 server", kinds[0]),
        format!("{} 1006 client", kinds[1]),
    ];
    assert_eq!([hop.ending(), next.ending()], endings, "{hop:#?}{next:#?}");
    for hop in [hop, next] {
        let silence = hop.silence();
        let about = patience.mul_f64(0.9)..patience + Duration::from_secs(1);
        assert!(about.contains(&silence), "silent for {silence:?}");
        let tally = hop.tally();
        let frames = [tally.client_to_server, tally.server_to_client].map(|sent| sent.total());
        assert_eq!(frames, [1, 1]);
        assert!(hop.close().get("reason").is_none());
    }
}

#[test]
fn nginx_gives_up_a_silent_connection() {
    const PATIENCE: Duration = Duration::from_millis(1500);
    let Some(_turn) = turn() else { return };
    let row = Row::new();
    let _proxy = Proxy::nginx(&row, PATIENCE);
    let agent = Agent::run(&row.middle, "");
    let trace = Trace::start(&row.middle, 2, "");
    let (client, server, _) = silent(&row);
    eventually("live connections name the next hop", PATIENCE, || {
        let answer = row.middle.http_get(agent.listen, "/connections");
        let (_, json) = answer.map_err(|error| error.to_string())?;
        let list: Vec<serde_json::Value> = serde_json::from_str(&json).expect("JSON");
        let to = |server: std::net::SocketAddr| {
            list.iter()
                .find(|entry| entry["server"] == server.to_string())
        };
        let (Some(hop), Some(next)) = (to(Row::front()), to(Row::back())) else {
            return Err(json);
        };
        let key = "dGhlIHNhbXBsZSBub25jZQ==";
        assert_eq!((&hop["key"], &next["key"]), (&key.into(), &key.into()));
        assert_eq!(hop["next_hop"], next["conn"]);
        assert_eq!(next["previous_hop"], hop["conn"]);
        assert!(next.get("next_hop").is_none(), "{json}");
        assert!(hop.get("previous_hop").is_none(), "{json}");
        Ok(())
    });
    let kinds = must_be_given_up(client, server);
    let connections = trace.connections(2);
    let pairs = joined(&connections);
    assert_eq!(pairs.len(), 1);
    must_read_as_given_up(pairs[0], PATIENCE, kinds);
}

#[test]
fn haproxy_gives_up_a_silent_connection() {
    const PATIENCE: Duration = Duration::from_secs(1);
    const MODES: [(&str, &str, &[u8]); 3] = [
        ("http", "", b""),
        ("tcp", "send-proxy", b"PROXY TCP4 10.77.1.2 10.77.1.1 "),
        ("tcp", "send-proxy-v2", b"\r\n\r\n\0\r\nQUIT\n"),
    ];
    let Some(_turn) = turn() else { return };
    let row = Row::new();
    let trace = Trace::start(&row.middle, 2, "");
    let kinds = MODES.map(|(mode, server, begins)| {
        let _proxy = Proxy::haproxy(&row, mode, server, PATIENCE);
        let (client, server, before) = silent(&row);
        assert!(before.starts_with(begins), "{}", before.escape_ascii());
        must_be_given_up(client, server)
    });
    let connections = trace.connections(2 * MODES.len());
    let pairs = joined(&connections);
    assert_eq!(pairs.len(), MODES.len());
    for (hops, kinds) in pairs.into_iter().zip(kinds) {
        must_read_as_given_up(hops, PATIENCE, kinds);
    }
}

#[test]
fn a_refusal_is_the_servers_where_there_is_a_next_hop() {
    let Some(_turn) = turn() else { return };
    let row = Row::new();
    let _proxy = Proxy::nginx(&row, PATIENT);
    let trace = Trace::start(&row.middle, 2, "");
    let ask = || {
        let mut client = row.client.connect(Row::front()).expect("a proxy");
        client
            .write_all(REQUEST.as_bytes())
            .expect("an open connection");
        client
    };
    // Nobody listens behind the proxy.
    must_read_head(&mut ask(), b"HTTP/1.1 502 ");
    let listener = row.server.listen(Row::back());
    let mut client = ask();
    let (mut server, _) = listener.accept().expect("a proxy");
    must_read_head(&mut server, b"GET ");
    server
        .write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
        .expect("an open connection");
    must_read_head(&mut client, b"HTTP/1.1 403 ");

    let connections = trace.until("handshake", 3);
    let own: Vec<_> = connections.iter().map(Connection::handshake).collect();
    let [proxys, next, passed] = &own[..] else {
        panic!("{connections:#?}");
    };
    for (handshake, server, status) in [
        (proxys, Row::front(), 502),
        (next, Row::back(), 403),
        (passed, Row::front(), 403),
    ] {
        assert_eq!(handshake["outcome"], "rejected");
        assert_eq!(handshake["server"], server.to_string());
        assert_eq!(handshake["status"], status);
    }
    assert_eq!(passed["next_hop"], next["conn"]);
    assert_eq!(next["previous_hop"], passed["conn"]);
    assert!(proxys.get("next_hop").is_none() && next.get("next_hop").is_none());
}
