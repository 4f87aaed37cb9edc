//! That the kernel program follows frame headers by itself is invisible: two agents at one hook, one
//! that has segments copied whole and one that has not, say the same of the same packets.
//!
//! The traffic is made up, from a seed (`walk/conversation.rs`), disordered (`walk/disorder.rs`) and
//! written to one end of a pair of devices; the agents are at the other end. `WSTAP_WALK_SEEDS` says
//! how many seeds there are to be, `WSTAP_WALK_SEED` the first, `WSTAP_WALK_ONLY` which connection of
//! it is sent alone, `WSTAP_WALK_CAPTURES` a folder of captures to be sent besides.

mod compare;
pub mod conversation;
pub mod disorder;
pub mod inject;
pub mod random;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use etherparse::TcpHeader;
use nix::{
    sched::{CpuSet, sched_setaffinity},
    sys::signal::Signal,
    unistd::Pid,
};
use serde_json::Value;
use wstap::source::capture::CaptureFile;

use super::{
    Pair, pcap,
    support::{
        agent::{Agent, held},
        eventually,
        exposition::Exposition,
        machine::turn,
        netns::{Netns, run},
        trace::Trace,
    },
};
use compare::{Exact, by_connection, difference, disorder};
use conversation::{Conversation, End};
use disorder::{Packet, Rates, Traffic, deliver};
use inject::Injector;
use random::Random;

/// Connections of a seed.
const CONNECTIONS: u16 = 60;
/// Connections at the same time.
const AT_ONCE: usize = 6;
/// After so many packets there is a pause: what is compared is what is said, and neither agent is to
/// be outrun. Then it may also say where the kernel program finds its place again.
const BURST: usize = 24;
/// See [`BURST`].
const PAUSE: Duration = Duration::from_millis(2);
/// A sender waits so many turns for the other without letting go of its processor.
const TURNS: u32 = 20_000;
/// Missing bytes are waited for so long.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long the metrics of two agents may take to come to say the same: an end waits for missing bytes as
/// long as several times [`PATIENCE`].
const SETTLING: Duration = Duration::from_secs(12);
/// Differences that are shown.
const SHOWN: usize = 5;
/// The number of the connection that comes last.
const LAST: u16 = 60_000;

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    let number = value.parse();
    Some(number.unwrap_or_else(|_| panic!("{variable}={value} is no number")))
}

/// Packets to be sent at once, by one thread or each by its own.
#[derive(Debug, Default)]
struct Round {
    packets: Vec<Vec<u8>>,
    /// How long to wait behind them.
    pause: Duration,
}

impl From<Vec<u8>> for Round {
    fn from(packet: Vec<u8>) -> Self {
        Self {
            packets: vec![packet],
            ..Self::default()
        }
    }
}

/// A run: what is sent, and what is compared of it.
struct Plan {
    seed: u64,
    rounds: Vec<Round>,
    /// By the client's address.
    made: BTreeMap<String, (Conversation, Traffic)>,
    /// All agents see the packets in one order.
    ordered: bool,
    /// What is missing comes in the end: where segments are copied whole, all is read by then.
    complete: bool,
}

impl Plan {
    /// The traffic of a seed. With `pairs` packets of one sender are sent two at a time.
    fn new(seed: u64, connections: u16, pairs: bool) -> Self {
        let only = number("WSTAP_WALK_ONLY");
        let mut random = Random::new(seed);
        let mut all = Vec::new();
        for n in 0..connections {
            let mut random = Random::new(random.bits());
            let mut conversation = Conversation::new(n, &mut random);
            let mut rates = Rates::new(&mut random);
            if seed % 2 == 1 {
                rates.unseen = 0;
                // What `run` has counted of a frame under way may lag behind while it is open.
                if conversation.end == End::Open {
                    conversation.end = End::Fin(conversation::SERVER);
                }
            }
            if rates.disturb() {
                conversation.may_wait();
            }
            let traffic = deliver(&conversation, &rates, &mut random);
            if only.is_none_or(|only| only == u64::from(n)) {
                all.push((conversation, traffic));
            }
        }
        Self::made(seed, all, pairs, &mut random)
    }

    fn made(
        seed: u64,
        all: Vec<(Conversation, Traffic)>,
        pairs: bool,
        random: &mut Random,
    ) -> Self {
        let rounds = interleave(&all, pairs, random);
        let complete = all.iter().all(|(_, traffic)| !traffic.unseen);
        let made = all
            .into_iter()
            .map(|made| (made.0.ends[0].to_string(), made));
        Self {
            seed,
            rounds,
            made: made.collect(),
            ordered: !pairs,
            complete,
        }
    }

    /// Packets as they are.
    fn of(packets: Vec<Vec<u8>>) -> Self {
        Self {
            seed: 0,
            rounds: packets.into_iter().map(Round::from).collect(),
            made: BTreeMap::new(),
            ordered: true,
            complete: true,
        }
    }
}

/// The packets of several connections, a few of each at a time.
fn interleave(all: &[(Conversation, Traffic)], pairs: bool, random: &mut Random) -> Vec<Round> {
    let mut waiting = all.iter().map(|(_, traffic)| traffic.packets.as_slice());
    let mut open: Vec<&[Packet]> = waiting.by_ref().take(AT_ONCE).collect();
    let mut rounds: Vec<Round> = Vec::new();
    while !open.is_empty() {
        let at = random.len(0..=open.len() - 1);
        for _ in 0..random.len(1..=6) {
            match open[at] {
                [a, b, rest @ ..] if pairs && a.side == b.side && !a.is_alone && !b.is_alone => {
                    rounds.push(Round {
                        packets: vec![a.bytes.clone(), b.bytes.clone()],
                        pause: a.pause.max(b.pause),
                    });
                    open[at] = rest;
                }
                [packet, rest @ ..] => {
                    if pairs
                        && packet.is_end
                        && let Some(before) = rounds.last_mut()
                    {
                        before.pause = before.pause.max(PAUSE);
                    }
                    rounds.push(Round {
                        packets: vec![packet.bytes.clone()],
                        pause: packet.pause,
                    });
                    open[at] = rest;
                }
                [] => {}
            }
        }
        if open[at].is_empty() {
            match waiting.next() {
                Some(next) => open[at] = next,
                None => drop(open.swap_remove(at)),
            }
        }
    }
    rounds
}

/// Sends all of it, from one processor or from two.
fn send(ns: &Netns, rounds: Vec<Round>, threads: usize) {
    let rounds = Arc::new(rounds);
    let arrived = Arc::new(AtomicUsize::new(0));
    let senders: Vec<_> = (0..threads)
        .map(|own| {
            let (rounds, arrived) = (Arc::clone(&rounds), Arc::clone(&arrived));
            ns.spawn(move || {
                let mut cpus = CpuSet::new();
                cpus.set(own).expect("a processor's number");
                // With one processor there is no second.
                let _ = sched_setaffinity(Pid::from_raw(0), &cpus);
                let injector = Injector::open("c0");
                for (i, round) in rounds.iter().enumerate() {
                    if threads > 1 {
                        arrived.fetch_add(1, Ordering::AcqRel);
                        let mut turns = 0;
                        while arrived.load(Ordering::Acquire) < (i + 1) * threads {
                            // The other has no processor at this moment: what it waits for is this one's.
                            turns += 1;
                            if turns > TURNS {
                                thread::yield_now();
                            }
                            std::hint::spin_loop();
                        }
                    }
                    // Each its own; who is first is not said.
                    if let Some(packet) = round.packets.get((own + i) % threads) {
                        injector.send(packet);
                    }
                    let pause = if i % BURST == 0 {
                        PAUSE
                    } else {
                        Duration::ZERO
                    };
                    thread::sleep(pause.max(round.pause));
                }
            })
        })
        .collect();
    for sender in senders {
        sender.join().expect("a sender");
    }
}

/// Numbers of a run.
#[derive(Debug, Default)]
struct Report {
    packets: usize,
    /// Of the packets.
    bytes: usize,
    connections: usize,
    events: usize,
    frames: usize,
    /// The walking agent's kernel counters.
    kernel: BTreeMap<&'static str, u64>,
}

impl Report {
    fn add(&mut self, other: &Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.connections += other.connections;
        self.events += other.events;
        self.frames += other.frames;
        for (name, n) in &other.kernel {
            *self.kernel.entry(name).or_default() += n;
        }
    }

    /// What `cargo xtask walk` reads.
    fn figures(&self) -> String {
        let of = |name: &str| self.kernel.get(name).copied().unwrap_or(0);
        format!(
            "figures: connections={} segments={} bytes={} frames={} events={} whole={} handed_over={}",
            self.connections,
            self.packets,
            self.bytes,
            self.frames,
            self.events,
            of("sampled"),
            of("sample_bytes"),
        )
    }
}

/// Sends a plan past four agents and compares what they say.
#[track_caller]
fn compare(plan: Plan) -> Report {
    let pair = Pair::new();
    pair.client.ip("link set c0 mtu 65535");
    pair.server.ip("link set s0 mtu 65535");
    let flags = |copy| {
        format!(
            "-i s0 --ring-buffer 256M --gap-patience {}ms --copy {copy}",
            PATIENCE.as_millis()
        )
    };
    let [whole, walked] =
        ["whole", "headers"].map(|copy| Trace::start(&pair.server, 1, &flags(copy)));
    let [run_whole, run_walked] = ["whole", "headers"]
        .map(|copy| Agent::run(&pair.server, &format!("{} --attach tcx", flags(copy))));
    let mut report = Report {
        packets: plan.rounds.iter().map(|round| round.packets.len()).sum(),
        bytes: (plan.rounds.iter().flat_map(|round| &round.packets))
            .map(Vec::len)
            .sum(),
        ..Report::default()
    };
    let threads = if plan.ordered { 1 } else { 2 };
    send(&pair.client, plan.rounds, threads);
    let last = Conversation::plain(LAST);
    let traffic = deliver(&last, &Rates::default(), &mut Random::new(0));
    thread::sleep(PATIENCE * 2);
    let packets = traffic
        .packets
        .into_iter()
        .map(|packet| packet.bytes.into());
    send(&pair.client, packets.collect(), 1);
    let client = format!("\"{}\"", last.ends[0]);
    for trace in [&whole, &walked] {
        trace.must_tell(&client, Duration::from_secs(60));
    }
    thread::sleep(PATIENCE);
    report.kernel = counters(walked.pid());
    // While connections are still open: with the end of `trace` they end.
    let agents = [&run_whole, &run_walked];
    let mut metrics = agents.map(Agent::metrics);
    // What is behind missing bytes waits for a time that differs: the walk passes over those that are
    // payload, and an ending waits for those that it cannot pass over.
    let begun = Instant::now();
    while begun.elapsed() < SETTLING
        && metrics_differ(&metrics[0], &metrics[1], plan.ordered).is_some()
    {
        thread::sleep(PATIENCE / 2);
        metrics = agents.map(Agent::metrics);
    }
    for agent in [run_whole, run_walked] {
        agent.stop(Signal::SIGTERM);
    }
    let [whole, walked] = [whole, walked].map(Trace::stop);
    report.events = walked.len();
    report.frames = walked
        .iter()
        .filter(|event| event["event"] == "frame")
        .count();
    let walked_frames = by_opcode(&walked);
    let [whole, walked] = [whole, walked].map(|events| by_connection(&events));
    report.connections = walked.len();

    let mut wrong = Vec::new();
    let names: std::collections::BTreeSet<_> = whole.keys().chain(walked.keys()).collect();
    for name in names {
        let client = name.split(' ').next().unwrap_or_default();
        let made = plan.made.get(client);
        let exact = Exact {
            times: plan.ordered && made.is_none_or(|(_, traffic)| !traffic.overlaps),
            ending: made.is_none_or(|(_, traffic)| !traffic.unseen && !traffic.waited),
            duration: made.is_none_or(|(conversation, _)| conversation.end != End::Open),
            round_trips: plan.ordered
                && made.is_none_or(|(_, traffic)| !traffic.waited && !traffic.unseen),
            tcp: plan.ordered,
        };
        let found = match (whole.get(name), walked.get(name)) {
            (Some(whole), Some(walked)) => difference(whole, walked, exact),
            (Some(_), None) => Some("is not there with headers alone\n".to_owned()),
            _ => Some("is there with headers alone\n".to_owned()),
        };
        if let Some(text) = found {
            wrong.push(format!(
                "seed {}, {name}: {text}{}",
                plan.seed,
                history(made)
            ));
        }
    }
    if plan.ordered {
        let overlaps = |name: &str| {
            let made = plan.made.get(name.split(' ').next().unwrap_or_default());
            made.is_some_and(|(_, traffic)| traffic.overlaps)
        };
        wrong.extend(disorder(&whole, &walked, overlaps));
    }
    wrong.extend(not_the_sum(&walked_frames, &metrics[1], plan.complete));
    let [metrics_whole, metrics_walked] = metrics;
    if plan.complete {
        wrong.extend(metrics_differ(
            &metrics_whole,
            &metrics_walked,
            plan.ordered,
        ));
    }
    if !wrong.is_empty() {
        let n = wrong.len();
        wrong.truncate(SHOWN);
        panic!(
            "{n} differences, seed {}\n{}\n{report:?}",
            plan.seed,
            wrong.join("\n")
        );
    }
    report
}

/// The packets of a connection, in words.
fn history(made: Option<&(Conversation, Traffic)>) -> String {
    let Some((conversation, traffic)) = made else {
        return String::new();
    };
    let mut text = format!(
        "connection {}: frames from {:?}, {:?}\n",
        conversation.ends[0].port() - 1024,
        conversation.opened,
        conversation.end,
    );
    let name = format!("walk-{}.txt", conversation.ends[0].port() - 1024);
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let mut all = String::new();
    for packet in &traffic.packets {
        let _ = writeln!(all, "{}", packet.what);
    }
    if std::fs::write(&path, all).is_ok() {
        let _ = writeln!(text, "packets: {}", path.display());
    }
    text
}

/// Families that are to be the same.
const FAMILIES: [&str; 12] = [
    "websocket_handshakes_total",
    "websocket_connections_active",
    "websocket_connections_closed_total",
    "websocket_frames_total",
    "websocket_frame_payload_bytes_total",
    "websocket_frame_size_bytes_bucket",
    "websocket_frame_size_bytes_sum",
    "websocket_messages_total",
    "websocket_message_size_bytes_bucket",
    "websocket_message_size_bytes_sum",
    "websocket_unanswered_pings_total",
    "websocket_protocol_violations_total",
];

fn metrics_differ(whole: &Exposition, walked: &Exposition, ordered: bool) -> Option<String> {
    let lines = |metrics: &Exposition| -> BTreeMap<String, f64> {
        let of = |name: &&str| metrics.of(name).collect::<Vec<_>>();
        let samples = FAMILIES.iter().flat_map(of);
        let samples = samples.filter(|sample| {
            // Which ping a pong answers depends on the order of both directions.
            let is_ping = sample.name == "websocket_unanswered_pings_total"
                && (!ordered || sample.label("path") != conversation::PATH);
            let of_payload = ["invalid_utf8", "invalid_deflate"].contains(&sample.label("rule"));
            sample.value > 0.0 && !of_payload && !is_ping
        });
        samples
            .map(|sample| (format!("{} {:?}", sample.name, sample.labels), sample.value))
            .collect()
    };
    let [whole, walked] = [whole, walked].map(lines);
    let mut text = String::new();
    let names: std::collections::BTreeSet<_> = whole.keys().chain(walked.keys()).collect();
    for name in names {
        let (a, b) = (whole.get(name), walked.get(name));
        if a != b {
            let _ = writeln!(text, "  {name}: whole {a:?}, headers {b:?}");
        }
    }
    let lines: Vec<_> = text.lines().take(4 * SHOWN).collect();
    (!lines.is_empty()).then(|| format!("metrics:\n{}", lines.join("\n")))
}

/// Frames that were reported, by direction and opcode, those that are reserved as one.
fn by_opcode(events: &[Value]) -> BTreeMap<(String, String), u64> {
    let mut frames: BTreeMap<_, u64> = BTreeMap::new();
    for event in events.iter().filter(|event| event["event"] == "frame") {
        let word = |key: &str| event[key].as_str().unwrap_or_default();
        let opcode = match word("opcode") {
            reserved if reserved.starts_with("reserved") => "reserved",
            opcode => opcode,
        };
        let key = (word("dir").to_owned(), opcode.to_owned());
        *frames.entry(key).or_default() += 1;
    }
    frames
}

/// Where the tallies that one agent has read are not the sum of the frames that the other has reported.
fn not_the_sum(
    frames: &BTreeMap<(String, String), u64>,
    metrics: &Exposition,
    complete: bool,
) -> Option<String> {
    if !complete {
        return None;
    }
    let mut text = String::new();
    for ((direction, opcode), n) in frames {
        let labels = [("direction", direction.as_str()), ("opcode", opcode)];
        let counted = metrics.sum("websocket_frames_total", &labels);
        if counted != *n {
            let _ = writeln!(
                text,
                "  {direction} {opcode}: {n} reported, {counted} counted"
            );
        }
    }
    (!text.is_empty()).then(|| format!("frames of trace, and of run:\n{text}"))
}

/// The kernel program's counters that say how it went.
fn counters(pid: Pid) -> BTreeMap<&'static str, u64> {
    let rows = elements(pid, "COUNTERS");
    let sum = |row: &Value| {
        let values = row["values"].as_array().into_iter().flatten();
        values.map(|value| word(&value["value"])).sum()
    };
    let counters = wstap_common::counter::Counter::ALL.iter().zip(&rows);
    counters
        .map(|(counter, row)| (counter.label(), sum(row)))
        .collect()
}

/// The elements of a map of an agent, as bpftool shows them.
fn elements(pid: Pid, name: &str) -> Vec<Value> {
    let json = |args: &[&str]| -> Value {
        let text = run(std::process::Command::new("bpftool").arg("-j").args(args));
        serde_json::from_str(&text).unwrap_or_default()
    };
    let ids = held(pid, "map_id");
    let mut ids = ids.iter().map(ToString::to_string);
    let id = ids.find(|id| json(&["map", "show", "id", id])["name"] == name);
    let dump = id.map(|id| json(&["map", "dump", "id", &id]));
    let rows = dump.as_ref().and_then(Value::as_array);
    rows.cloned().unwrap_or_default()
}

/// A number in bytes that are written in hexadecimal.
fn word(bytes: &Value) -> u64 {
    let bytes = bytes.as_array().into_iter().flatten();
    let byte = |value: &Value| {
        let digits = value.as_str().unwrap_or_default().trim_start_matches("0x");
        u64::from_str_radix(digits, 16).unwrap_or(0)
    };
    bytes.map(byte).rev().fold(0, |sum, byte| sum << 8 | byte)
}

fn many(pairs: bool, seeds: u64) {
    let first = number("WSTAP_WALK_SEED").unwrap_or(1);
    let seeds = number("WSTAP_WALK_SEEDS").unwrap_or(seeds);
    let start = Instant::now();
    let mut total = Report::default();
    for seed in first..first + seeds {
        let report = compare(Plan::new(seed, CONNECTIONS, pairs));
        eprintln!("seed {seed}: {report:?}");
        eprintln!("{}", report.figures());
        total.add(&report);
    }
    eprintln!("{seeds} seeds in {:?}: {total:?}", start.elapsed());
}

#[test]
fn in_one_order_all_is_the_same() {
    let Some(_turn) = turn() else { return };
    many(false, 1);
}

#[test]
fn from_two_processors_at_once_frames_are_the_same() {
    let Some(_turn) = turn() else { return };
    many(true, 1);
}

#[test]
fn a_payload_that_ends_with_the_connection_is_counted_as_far_as_it_came() {
    let Some(_turn) = turn() else { return };
    let mut random = Random::new(0);
    let firsts = [0x81, 0x02, 0x83, 0x89].into_iter().enumerate();
    let all = firsts.map(|(n, first)| {
        let conversation = Conversation::cut_off(n as u16, first);
        let traffic = deliver(&conversation, &Rates::default(), &mut Random::new(0));
        (conversation, traffic)
    });
    let plan = Plan::made(0, all.collect(), false, &mut random);
    eprintln!("{:?}", compare(plan));
}

#[test]
fn segments_that_waited_for_the_header_of_an_enormous_frame_do_not_lose_the_place() {
    let Some(_turn) = turn() else { return };
    let mut random = Random::new(0);
    let conversation = Conversation::enormous(0);
    let mut traffic = deliver(&conversation, &Rates::default(), &mut Random::new(2));
    let header = format!("server {}..", conversation.opened[1]);
    let packets = &mut traffic.packets;
    let first = packets
        .iter()
        .position(|packet| packet.what.starts_with(&header));
    let first = first.expect("the header is sent");
    let behind = packets[first..]
        .iter()
        .position(|packet| packet.side == conversation::CLIENT);
    let last = first + behind.expect("the client ends it") - 1;
    packets[first..=last].rotate_left(1);
    // What waited, the client acknowledges by its end: as if what it waited for had passed by unseen.
    packets[last - 1].pause = Duration::from_millis(200);
    traffic.waited = true;
    let plan = Plan::made(0, vec![(conversation, traffic)], false, &mut random);
    let report = compare(plan);
    assert_eq!(report.kernel["place_lost"], 0, "{report:?}");
    let waited = (last - first) as u64;
    assert!(waited > 1, "{report:?}");
    for counter in ["set_aside", "drained"] {
        assert_eq!(report.kernel[counter], waited, "{counter}: {report:?}");
    }
}

#[test]
fn slots_of_connections_that_are_gone_are_given_back() {
    const CONNECTIONS: u16 = 60;
    const FRAMES: usize = 5;
    let Some(_turn) = turn() else { return };
    let pair = Pair::new();
    let agent = Agent::run(&pair.server, "-i s0 --copy headers");
    for n in 0..CONNECTIONS {
        let conversation = Conversation::reset(n, FRAMES);
        let traffic = deliver(&conversation, &Rates::default(), &mut Random::new(4));
        let frames = format!("server {}..", conversation.opened[1]);
        // The first frame never passes, so the others wait for it.
        let packets = traffic.packets.into_iter();
        let packets = packets.filter(|packet| !packet.what.starts_with(&frames));
        send(
            &pair.client,
            packets.map(|packet| packet.bytes.into()).collect(),
            1,
        );
    }
    let set_aside = counters(agent.process.pid())["set_aside"];
    assert!(set_aside > 128, "{set_aside} waited");
    eventually("all slots are free", Duration::from_secs(10), || {
        let owners = elements(agent.process.pid(), "SLOT_OWNERS");
        assert_eq!(owners.len(), 128);
        let taken = owners.iter().filter(|row| word(&row["value"]) != 0).count();
        (taken == 0)
            .then_some(())
            .ok_or_else(|| format!("{taken} are taken"))
    });
}

#[test]
fn captures_are_the_same() {
    let Some(_turn) = turn() else { return };
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let folder = std::env::var_os("WSTAP_WALK_CAPTURES").map(PathBuf::from);
    let mut packets = Vec::new();
    for folder in std::iter::once(golden).chain(folder) {
        let entries = std::fs::read_dir(&folder)
            .unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut files: Vec<_> = entries
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .collect();
        files.sort();
        for file in files {
            let is_capture = file
                .extension()
                .is_some_and(|end| end == "pcap" || end == "pcapng");
            if is_capture {
                packets.extend(replayed(&file));
            }
        }
    }
    eprintln!("{:?}", compare(Plan::of(packets)));
}

/// The segments of a capture as packets.
fn replayed(path: &Path) -> Vec<Vec<u8>> {
    let mut file = CaptureFile::open(path).unwrap_or_else(|error| panic!("{error}"));
    let mut packets = Vec::new();
    let read = file.read(&mut |segment| {
        let mut payload = vec![0; segment.len as usize];
        for window in segment.windows {
            let at = window.offset as usize;
            payload[at..at + window.bytes.len()].copy_from_slice(window.bytes);
        }
        let flags = segment.flags;
        let (source, destination) = (segment.source, segment.destination);
        let mut header = TcpHeader::new(
            source.port(),
            destination.port(),
            segment.seq.0,
            segment.window,
        );
        header.syn = flags.syn();
        header.fin = flags.fin();
        header.rst = flags.rst();
        header.ack = flags.ack();
        header.acknowledgment_number = segment.ack.map_or(0, |ack| ack.0);
        let packet = pcap::ip(source.ip(), destination.ip(), &pcap::tcp(&header, &payload));
        packets.push(pcap::ethernet(&packet));
        ControlFlow::Continue(())
    });
    if let Err(error) = read {
        eprintln!("{}: {error}", path.display());
    }
    packets
}
