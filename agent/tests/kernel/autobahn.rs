//! The case groups of the Autobahn test suite over real sockets, with the fuzzer at either end.
//!
//! These are the cases and the cuts that `tests/autobahn` writes into a capture, all of them: long
//! messages are of 1 MiB at most there already, where the list has 16, and of 128 KiB in chops. A
//! piece is a write of its own, and follows when the one before has arrived: so it is a segment, too,
//! as long as it fits into one.

mod fuzzer;
mod peers;

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    iter,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::sys::signal::Signal;
use wstap::proto::event::Rule;

use super::{
    Pair, at,
    cases::{
        run::{self, DIRECTIONS, ENDS, Run},
        said::{self, Said},
        table::Table,
    },
    support::{
        agent::{Agent, Process, WSTAP, held},
        eventually,
        machine::turn,
        netns::Netns,
        tally::{Counts, Tally},
    },
};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// Connections that are open at a time.
const AT_ONCE: usize = 12;

/// Takes all that is sent, however slow the reader: a build for development on a machine that has
/// other things to do. Of whole segments only half of it is for. What is lost where it cannot be read
/// in time is no matter of these tests.
const RING: &str = "256M";

/// What a socket is sure to take while nobody reads.
const LITTLE: usize = 4096;

/// Time for any single step of a conversation.
const PATIENCE: Duration = Duration::from_secs(10);

/// Starts `trace` in the client's namespace.
#[track_caller]
fn trace(pair: &Pair) -> Process {
    let mut command = pair.client.command(WSTAP);
    command.args(["trace", "-i", "c0", "--ring-buffer", RING]);
    // The texts repeat themselves, and some compress that better than others.
    command.args(["--max-inflate-ratio", "1000"]);
    command.args(said::flags());
    let mut trace = Process::spawn(command);
    eventually("trace is attached", Duration::from_secs(15), || {
        trace.must_live();
        if held(trace.pid(), "prog_id").len() >= 2 {
            Ok(())
        } else {
            Err("no program".to_owned())
        }
    });
    thread::sleep(Duration::from_millis(300));
    trace
}

/// Ends `trace` when it has no more to say: what it has said, by path.
#[track_caller]
fn told(trace: Process) -> BTreeMap<String, Said> {
    let mut printed = 0;
    eventually("trace has told all", Duration::from_secs(60), || {
        let before = std::mem::replace(&mut printed, trace.printed());
        if before == printed {
            return Ok(());
        }
        thread::sleep(Duration::from_secs(1));
        Err(format!("{before} bytes, then {printed}"))
    });
    trace.signal(Signal::SIGINT);
    eventually("trace has lost nothing", Duration::from_secs(10), || {
        let summary = trace.stderr();
        if summary.contains(" sampled, 0 lost") {
            Ok(())
        } else {
            Err(summary)
        }
    });
    let (status, told) = trace.wait(Duration::from_secs(10));
    assert!(status.success(), "{status}");
    said::by_path(&told)
}

/// Work that is under way.
struct AtOnce<T>(Vec<JoinHandle<Vec<T>>>);

/// Does `work` so many times, some at a time, on threads in a namespace; it is told which thread it
/// is on, and which time it is.
fn at_once<T: Send + 'static>(
    ns: &Netns,
    times: usize,
    work: impl Fn(usize, usize) -> T + Send + Sync + 'static,
) -> AtOnce<T> {
    let (work, next) = (Arc::new(work), Arc::new(AtomicUsize::new(0)));
    let threads = (0..AT_ONCE).map(|thread| {
        let (work, next) = (Arc::clone(&work), Arc::clone(&next));
        let mine = move || next.fetch_add(1, Ordering::Relaxed);
        ns.spawn(move || {
            let times = iter::repeat_with(mine).take_while(|n| *n < times);
            times.map(|n| work(thread, n)).collect()
        })
    });
    AtOnce(threads.collect())
}

impl<T> AtOnce<T> {
    /// Waits until all is done: what has come of it.
    fn wait(self) -> Vec<T> {
        let done = self.0.into_iter().map(JoinHandle::join);
        let done = done.map(|done| done.expect("conversations that come to their end"));
        done.flatten().collect()
    }
}

/// Both ends are the fuzzer's.
fn play(run: &Run, listener: &TcpListener) {
    let on = listener.local_addr().expect("a bound address");
    let client = TcpStream::connect(on).expect("a listening server");
    let (server, _) = listener.accept().expect("a client");
    let ends = [client, server];
    ends.iter().for_each(prepare);
    send(&ends, 0, run.request(KEY).as_bytes());
    send(&ends, 1, run.response(ACCEPT).as_bytes());
    let sides = [run.sender, 1 - run.sender];
    for side in sides {
        for piece in run.pieces(side) {
            send(&ends, side, &piece);
        }
    }
    for side in sides {
        ends[side]
            .shutdown(Shutdown::Write)
            .expect("an open connection");
        let rest = (&ends[1 - side]).read(&mut [0]).expect("an end");
        assert_eq!(rest, 0, "{}", run.path());
    }
}

/// Sets what a fuzzer's socket needs.
fn prepare(stream: &TcpStream) {
    let limit = Some(PATIENCE);
    stream.set_nodelay(true).expect("a socket option");
    stream.set_read_timeout(limit).expect("a socket option");
    stream.set_write_timeout(limit).expect("a socket option");
}

/// Lets a side send, and waits until it has arrived.
fn send(ends: &[TcpStream; 2], side: usize, piece: &[u8]) {
    let [mut from, mut to] = [&ends[side], &ends[1 - side]];
    let mut arrived = vec![0; piece.len()];
    thread::scope(|scope| {
        let mut write = move || from.write_all(piece).expect("an open connection");
        if piece.len() <= LITTLE {
            write();
        } else {
            scope.spawn(write);
        }
        to.read_exact(&mut arrived).expect("what was sent");
    });
    assert_eq!(arrived, piece, "TCP");
}

/// What `run` has to count: frames and endings, and broken rules by direction.
fn sums(runs: &[Run]) -> (Tally, BTreeMap<(&'static str, &'static str), u64>) {
    let mut tally = Tally::default();
    let mut broken = BTreeMap::new();
    for run in runs {
        let mut counts = [Counts::default(), Counts::default()];
        for (side, counts) in counts.iter_mut().enumerate() {
            for sent in run.frames(side) {
                let bits = sent.first & 15;
                let reserved = matches!(bits, 3..8 | 11..);
                let opcode = if reserved {
                    "reserved".to_owned()
                } else {
                    run::opcode(bits)
                };
                counts.frame(&opcode, sent.payload.len() as u64);
            }
        }
        for message in &run.case.messages {
            let deflate = if message.inflated.is_some() {
                "+deflate"
            } else {
                ""
            };
            let messages = &mut counts[run.sender].messages;
            *messages
                .entry(format!("{}{deflate}", message.kind))
                .or_default() += 1;
        }
        for (rule, times) in &run.case.broken {
            *broken.entry((DIRECTIONS[run.sender], *rule)).or_default() += times;
        }
        let ending = &run.case.ending;
        let code = match ending.code {
            code @ (1000..=1015 | 3000..=4999) => code.to_string(),
            _ => "invalid".to_owned(),
        };
        let closed = format!("{} {code} {}", ending.kind, ENDS[run.sender]);
        let [client_to_server, server_to_client] = counts;
        tally = tally
            + &Tally {
                client_to_server,
                server_to_client,
                closed: [(closed, 1)].into(),
            };
    }
    (tally, broken)
}

#[test]
fn every_case_live() {
    let Some(_turn) = turn() else { return };
    let pair = Pair::new();
    // Each path is an endpoint.
    let flags = "-i s0 --max-endpoints 5000 --connection-series 0 --ring-buffer";
    let agents = ["whole", "headers"].map(|copy| {
        let agent = Agent::run(&pair.server, &format!("{flags} {RING} --copy {copy}"));
        (copy, agent)
    });
    let trace = trace(&pair);
    let runs = run::all();
    let listeners: Vec<_> = (8080..)
        .take(AT_ONCE)
        .map(|port| pair.server.listen(SocketAddr::new(at(Pair::V4).ip(), port)))
        .collect();
    let work = runs.clone();
    at_once(&pair.client, runs.len(), move |thread, n| {
        play(&work[n], &listeners[thread]);
    })
    .wait();

    let said = told(trace);
    let mut table = Table::default();
    for run in &runs {
        let lines = said.get(&run.path()).map(Said::lines).unwrap_or_default();
        table.add(run, &run.expected(), &lines);
    }
    table.settle("Live, `trace` at the client:");
    assert_eq!(said.len(), runs.len(), "connections");

    let (tally, broken) = sums(&runs);
    for (copy, agent) in &agents {
        agent.must_count(&tally);
        let mut counted: BTreeMap<_, u64> = BTreeMap::new();
        let metrics = agent.metrics();
        for sample in metrics.of("websocket_protocol_violations_total") {
            let key = (sample.label("direction"), sample.label("rule"));
            *counted.entry(key).or_default() += sample.count();
        }
        counted.retain(|_, times| *times > 0);
        if *copy == "headers" {
            // Text that is cut between segments is not copied, and many of the cases cut theirs.
            for (key, times) in &mut counted {
                let expected = broken.get(key).copied().unwrap_or_default();
                if key.1 == Rule::InvalidUtf8.as_str() && *times >= expected / 2 {
                    *times = (*times).max(expected);
                }
            }
        }
        assert_eq!(counted, broken, "broken rules, {copy} copied");
        println!("Live, `run` at the server, {copy} copied: all sums agree");
    }
}
