//! Interfaces that come and go by the dozen, as those of pods do, each with traffic of its own.

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    process::{Command, Stdio},
    sync::{Arc, Barrier},
    thread,
    time::{Duration, Instant},
};

use aya::programs::{SchedClassifier, TcAttachType};
use nix::sys::signal::Signal;
use serde_json::Value;
use wstap::proto::upgrade::accept_for;

use super::support::{
    agent::{Agent, held},
    eventually,
    machine::turn,
    netns::{Netns, run},
    tally::{Counts, Tally},
};

/// Pairs of devices that are there at a time.
const AT_ONCE: usize = 12;
/// Pairs in all, where [`ALL`] does not say otherwise.
const PAIRS: usize = 144;
/// Environment variable: how many pairs in all.
const ALL: &str = "WSTAP_TEST_CHURN";
/// Messages each way over each connection.
const MESSAGES: usize = 4;
const TEXT: &[u8] = b"a text as short as most";
/// Longest that a peer waits for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// A batch of commands of `ip`, in the calling thread's namespace or in `ns`.
#[track_caller]
fn batch(ns: Option<&str>, commands: &str) {
    let mut ip = Command::new("ip");
    if let Some(ns) = ns {
        ip.args(["-n", ns]);
    }
    ip.args(["-batch", "-"]).stdin(Stdio::piped());
    let mut ip = ip.spawn().expect("ip");
    let mut stdin = ip.stdin.take().expect("a pipe");
    stdin.write_all(commands.as_bytes()).expect("a running ip");
    drop(stdin);
    assert!(ip.wait().expect("ip").success(), "{commands}");
}

/// Waits until both sides of a device have a program: since when it was there.
#[track_caller]
fn must_be_hooked(device: &str) -> Duration {
    let start = Instant::now();
    loop {
        let hooked = [TcAttachType::Ingress, TcAttachType::Egress].map(|side| {
            let programs = SchedClassifier::query_tcx(device, side);
            programs.is_ok_and(|(_, programs)| !programs.is_empty())
        });
        if hooked == [true; 2] {
            return start.elapsed();
        }
        assert!(start.elapsed() < PATIENCE, "{device} is not attached");
        thread::sleep(Duration::from_millis(1));
    }
}

fn frame(first: u8, masked: bool, payload: &[u8]) -> Vec<u8> {
    let len = u8::try_from(payload.len()).expect("short");
    // A masking key of zeros leaves the payload as it is.
    let mask: &[u8] = if masked { &[0; 4] } else { &[] };
    [&[first, len | u8::from(masked) << 7], mask, payload].concat()
}

/// Reads up to the end of an HTTP head.
#[track_caller]
fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a head");
        head.extend(byte);
    }
    String::from_utf8(head).expect("text")
}

#[track_caller]
fn prepared(stream: &TcpStream) {
    stream.set_nodelay(true).expect("a socket option");
    let patience = Some(PATIENCE);
    stream.set_read_timeout(patience).expect("a socket option");
}

/// The server of one connection: says what it is told, and closes when it is asked to.
#[track_caller]
fn serve(mut stream: TcpStream) {
    prepared(&stream);
    let request = head(&mut stream);
    let key = request.split("Sec-WebSocket-Key: ").nth(1);
    let key = key
        .and_then(|rest| rest.split("\r\n").next())
        .expect("a key");
    let accept = accept_for(key);
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).expect("a client");
    let mut buffer = vec![0; frame(0x81, true, TEXT).len()];
    for _ in 0..MESSAGES {
        stream.read_exact(&mut buffer).expect("a message");
        let answer = frame(0x81, false, TEXT);
        stream.write_all(&answer).expect("a client");
    }
    stream.read_exact(&mut [0; 8]).expect("a close frame");
    let close = frame(0x88, false, &[0x03, 0xe8]);
    stream.write_all(&close).expect("a client");
    stream.read_to_end(&mut Vec::new()).expect("an end");
}

/// A whole conversation, number `n`.
#[track_caller]
fn talk(to: SocketAddr, n: usize) {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE).expect("a server");
    prepared(&stream);
    // Sixteen bytes in base64.
    let key = format!("{n:022}==");
    let request = format!(
        "GET /churn HTTP/1.1\r\nHost: pod\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).expect("a server");
    assert!(head(&mut stream).starts_with("HTTP/1.1 101 "));
    let mut buffer = vec![0; frame(0x81, false, TEXT).len()];
    for _ in 0..MESSAGES {
        let message = frame(0x81, true, TEXT);
        stream.write_all(&message).expect("a server");
        stream.read_exact(&mut buffer).expect("an answer");
    }
    let close = frame(0x88, true, &[0x03, 0xe8]);
    stream.write_all(&close).expect("a server");
    stream.read_exact(&mut [0; 4]).expect("a close frame");
    // Both ends of it are over before the way between them goes.
    stream.shutdown(Shutdown::Write).expect("a connection");
    stream.read_to_end(&mut Vec::new()).expect("an end");
}

/// What `n` conversations come to.
fn conversations(n: usize) -> Tally {
    let mut counts = Counts::default();
    for _ in 0..n {
        for _ in 0..MESSAGES {
            counts.frame("text", TEXT.len() as u64);
        }
        counts.frame("close", 2);
    }
    let messages = (n * MESSAGES) as u64;
    counts.messages.insert("text".to_owned(), messages);
    Tally {
        client_to_server: counts.clone(),
        server_to_client: counts,
        closed: [("clean 1000 client".to_owned(), n as u64)].into(),
    }
}

/// What may leak, of the agent and of what it has in the kernel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Held {
    descriptors: usize,
    threads: usize,
    programs: usize,
    maps: usize,
    links: usize,
    /// Links of its programs that the kernel has, whoever holds them.
    in_kernel: usize,
    series: usize,
}

impl Held {
    /// As [`Self::by`], where no connection of a scrape lingers.
    #[track_caller]
    fn at_rest(agent: &Agent<'_>) -> Self {
        let looks = (0..10).map(|_| {
            thread::sleep(Duration::from_millis(50));
            Self::by(agent)
        });
        let least = looks.min_by_key(|held| held.descriptors);
        least.expect("some looks")
    }

    #[track_caller]
    fn by(agent: &Agent<'_>) -> Self {
        let pid = agent.process.pid();
        let entries = |folder: &str| {
            let folder = fs::read_dir(format!("/proc/{pid}/{folder}"));
            folder.expect("a process").count()
        };
        let programs = held(pid, "prog_id");
        let links = run(Command::new("bpftool").args(["-j", "link", "show"]));
        let links: Vec<Value> = serde_json::from_str(&links).expect("JSON");
        let ours = |link: &&Value| {
            let id = link["prog_id"].as_u64().and_then(|id| id.try_into().ok());
            id.is_some_and(|id| programs.contains(&id))
        };
        let scrape = agent.scrape();
        let series = scrape.lines().filter(|line| line.starts_with("websocket_"));
        Self {
            descriptors: entries("fd"),
            threads: entries("task"),
            programs: programs.len(),
            maps: held(pid, "map_id").len(),
            links: held(pid, "link_id").len(),
            in_kernel: links.iter().filter(ours).count(),
            series: series.count(),
        }
    }
}

/// Memory of the agent's own, in KiB.
fn memory(agent: &Agent<'_>) -> u64 {
    let path = format!("/proc/{}/status", agent.process.pid());
    let status = fs::read_to_string(path).expect("a process");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.and_then(|n| n.parse().ok()).expect("a number")
}

/// Datagrams that the agent's socket for changes has lost.
fn overruns(host: &Netns) -> u64 {
    let sockets = host.run("cat", &["/proc/net/netlink"]);
    let of_monitor = |line: &&str| line.split_whitespace().nth(3) == Some("00000111");
    let lines = sockets.lines().filter(of_monitor);
    let lost = lines.filter_map(|line| line.split_whitespace().nth(8)?.parse::<u64>().ok());
    lost.sum()
}

/// A namespace for the host's ends, and one for each other end that there is at a time.
struct Crowd<'a> {
    host: &'a Netns,
    pods: Vec<Arc<Netns>>,
    next: usize,
}

impl Crowd<'_> {
    /// Has pairs come, talk and go, [`AT_ONCE`] side by side: how long each had to wait for the agent.
    #[track_caller]
    fn churn(&mut self, pairs: usize) -> Vec<Duration> {
        let each = pairs / AT_ONCE;
        let first = self.next;
        self.next += pairs;
        let listening = Arc::new(Barrier::new(2 * AT_ONCE));
        let mut servers = Vec::new();
        let mut clients = Vec::new();
        for (slot, pod) in self.pods.iter().enumerate() {
            let ready = Arc::clone(&listening);
            servers.push(pod.spawn(move || {
                let listener = TcpListener::bind("0.0.0.0:8080").expect("a free port");
                ready.wait();
                for _ in 0..each {
                    serve(listener.accept().expect("a client").0);
                }
            }));
            let (ready, pod) = (Arc::clone(&listening), Arc::clone(pod));
            clients.push(self.host.spawn(move || {
                ready.wait();
                let numbers = (first + slot..).step_by(AT_ONCE).take(each);
                let waits = numbers.map(|n| {
                    let device = format!("veth{n:x}");
                    appear(&device, pod.name(), slot);
                    let wait = must_be_hooked(&device);
                    talk(([10, 50, slot as u8, 2], 8080).into(), n);
                    // Which end of it is here is asked when the agent next reads.
                    thread::sleep(Duration::from_millis(200));
                    batch(None, &format!("link delete {device}\n"));
                    wait
                });
                waits.collect::<Vec<_>>()
            }));
        }
        let waits = clients.into_iter().map(thread::JoinHandle::join);
        let waits = waits.flat_map(|waits| waits.expect("clients that come to their end"));
        let waits = waits.collect();
        for server in servers {
            server.join().expect("servers that come to their end");
        }
        waits
    }
}

/// Makes a pair between the calling thread's namespace and `pod`.
#[track_caller]
fn appear(device: &str, pod: &str, slot: usize) {
    batch(
        None,
        &format!("link add name {device} type veth peer name eth0 netns {pod}\n"),
    );
    let own = format!("address add 10.50.{slot}.2/24 dev eth0\nlink set eth0 up\n");
    batch(Some(pod), &own);
    let own = format!("address add 10.50.{slot}.1/24 dev {device}\nlink set {device} up\n");
    batch(None, &own);
}

fn quantile(sorted: &[Duration], of_hundred: usize) -> Duration {
    let at = (sorted.len() * of_hundred / 100).min(sorted.len() - 1);
    sorted[at]
}

#[test]
fn pairs_come_and_go_by_the_dozen() {
    let Some(_turn) = turn() else { return };
    let all = std::env::var(ALL).ok().map(|all| all.parse());
    let all: usize = all.transpose().expect("a number").unwrap_or(PAIRS);
    // As many before as behind the overrun.
    let half = (all / 2).next_multiple_of(AT_ONCE);
    let host = Netns::new("node");
    let mut crowd = Crowd {
        host: &host,
        pods: (0..AT_ONCE).map(|_| Arc::new(Netns::new("pod"))).collect(),
        next: 0,
    };
    let agent = Agent::run(&host, "--series-linger 1s");
    agent.must_be_attached(1);

    // What the first ones leave behind is kept for those that follow.
    crowd.churn(2 * AT_ONCE);
    let mut expected = conversations(2 * AT_ONCE);
    agent.must_count(&expected);
    must_settle(&agent);
    let (before, memory_before) = (Held::at_rest(&agent), memory(&agent));

    let start = Instant::now();
    let mut waits = crowd.churn(half);
    let mut took = start.elapsed();
    expected = expected + &conversations(half);

    // What it does not read while it stands still is more than its socket takes.
    let lost_before = overruns(&host);
    agent.process.signal(Signal::SIGSTOP);
    host.ip("link add late type veth peer name later");
    let crowded: String = (0..1000)
        .map(|i| format!("link set later mtu {}\n", 1400 + i % 2))
        .collect();
    host.spawn(move || batch(None, &crowded))
        .join()
        .expect("ip");
    host.ip("link set late up");
    host.ip("link set later up");
    assert!(overruns(&host) > lost_before, "there was no overrun");
    agent.process.signal(Signal::SIGCONT);
    agent.must_be_attached(3);
    host.ip("link delete late");
    agent.must_be_attached(1);

    let start = Instant::now();
    waits.extend(crowd.churn(half));
    took += start.elapsed();
    expected = expected + &conversations(half);
    agent.must_count(&expected);
    must_settle(&agent);
    let handshakes = agent.metrics().sum("websocket_handshakes_total", &[]);
    assert_eq!(handshakes, (2 * (AT_ONCE + half)) as u64);
    let (after, memory_after) = (Held::at_rest(&agent), memory(&agent));
    assert_eq!(after, before);
    waits.sort_unstable();
    eprintln!(
        "{} pairs in {took:?}; attached after {:?} (median), {:?} (99 %), {:?} (most); \
         memory {memory_before} KiB, then {memory_after} KiB; {after:?}",
        2 * half,
        quantile(&waits, 50),
        quantile(&waits, 99),
        quantile(&waits, 100),
    );
    assert!(
        memory_after < memory_before + 4096,
        "memory has grown from {memory_before} to {memory_after} KiB"
    );
    let complaints = agent.process.stderr();
    let complaints: Vec<_> = complaints.lines().skip(1).collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
    agent.stop(Signal::SIGTERM);
}

/// Waits until nothing is left of the pairs and their connections.
#[track_caller]
fn must_settle(agent: &Agent<'_>) {
    agent.must_be_attached(1);
    agent.must_have_active(0);
    eventually("series of connections are gone", PATIENCE, || {
        let (_, live) = agent.get("/connections");
        let series = agent
            .scrape()
            .matches("websocket_connection_frames")
            .count();
        // What describes them is there as well.
        if series <= 2 && live == "[\n]\n" {
            Ok(())
        } else {
            Err(format!("{series} lines, {live}"))
        }
    });
}

#[test]
fn one_that_appears_does_not_wait_for_those_that_go() {
    const CROWD: usize = 100;
    let Some(_turn) = turn() else { return };
    let (host, pod) = (Netns::new("node"), Netns::new("pod"));
    let agent = Agent::run(&host, "");
    let name = pod.name().to_owned();
    let lines = |line: &dyn Fn(usize) -> String| (0..CROWD).map(line).collect::<String>();
    let come =
        lines(&|n| format!("link add name gone{n} up type veth peer name p{n} netns {name}\n"));
    host.spawn(move || batch(None, &come)).join().expect("ip");
    agent.must_be_attached(1 + CROWD as u64);
    // All of them at once, which one that is deleted by itself is not: their namespace goes.
    let start = Instant::now();
    drop(pod);
    let pod = Netns::new("pod");
    let name = pod.name().to_owned();
    let wait = host.spawn(move || {
        appear("late", &name, 0);
        must_be_hooked("late")
    });
    let wait = wait.join().expect("an interface that is attached");
    eprintln!(
        "attached after {wait:?}, {:?} after {CROWD} went",
        start.elapsed()
    );
    agent.must_be_attached(2);
    assert!(wait < Duration::from_secs(2), "{wait:?}");
}
