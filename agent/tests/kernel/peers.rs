//! Implementations of others talk to each other, each as client with each as server, and what wstap
//! says of their conversations is what they say themselves.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{
    Pair, at,
    support::{
        agent::{Agent, Process, events, trace},
        eventually,
        machine::turn,
        peers::{
            self, Frame, Job, Message, Part, Report, Reports, Role, Step, hex,
            script::{self, Script},
        },
        tally::Tally,
    },
};

/// Changes every conversation, where it is set to another number.
const SEED: &str = "WSTAP_TEST_SEED";

/// Holds all that is said in one session: nothing is lost, however busy the machine is.
const RING: &str = "128M";

/// Bytes of each payload that are shown: those of a control frame whole.
const PREVIEW: usize = 125;

/// Letters that repeat are no bomb.
const TRACE: [&str; 6] = [
    "--payload=125",
    "--event=handshake,frame,message,violation,gap,close",
    "--max-inflate-ratio",
    "2000",
    "--ring-buffer",
    RING,
];

/// A conversation: what both ends were to do, and what they say was done.
struct Conversation {
    script: Script,
    /// Whether both know permessage-deflate.
    deflates: bool,
    client: Report,
    server: Report,
}

/// One direction of a conversation.
struct Direction<'a> {
    name: &'static str,
    frames: &'a [Frame],
    /// The messages that they carry.
    messages: Vec<Vec<u8>>,
    /// The frames the other way.
    back: &'a [Frame],
}

impl<'a> Direction<'a> {
    fn new(name: &'static str, from: &'a Report, steps: &[Step], to: &'a Report) -> Self {
        let messages = script::messages(steps);
        Self {
            name,
            frames: &from.sent,
            messages: messages.map(|(_, content)| content).collect(),
            back: &to.sent,
        }
    }
}

#[test]
fn each_implementation_with_each() {
    let Some(_turn) = turn() else { return };
    let seed = std::env::var(SEED).map_or(1, |seed| seed.parse().expect("a number"));
    for (to, first) in [(at(Pair::V4), seed), (at(Pair::V6), seed + 1)] {
        let pair = Pair::new();
        let agent = Agent::run(&pair.server, &format!("--ring-buffer {RING}"));
        let trace = trace(&pair.client, "c0", &TRACE);
        let conversations = converse(&pair, to, first);
        let told = told(trace, conversations.len());

        eprintln!("{} conversations, seed {first}", conversations.len());
        for (path, conversation) in &conversations {
            conversation.must_agree(path);
            let told = told.get(path).map_or(&[][..], Vec::as_slice);
            must_equal(path, told, &conversation.expected());
        }
        assert!(told.keys().eq(conversations.keys()), "{:?}", told.keys());
        let tallies = conversations.values().map(Conversation::tally);
        agent.must_count(&tallies.fold(Tally::default(), |sum, tally| sum + &tally));
        agent.must_have_active(0);
        let metrics = agent.metrics();
        for none in [
            "websocket_protocol_violations_total",
            "wstap_limit_exceeded_total",
        ] {
            assert_eq!(metrics.sum(none, &[]), 0, "{none}");
        }
        let pings = conversations.values().map(Conversation::pings);
        let (answered, unanswered) = pings.fold((0, 0), |sum, n| (sum.0 + n.0, sum.1 + n.1));
        for (name, pings) in [
            ("websocket_ping_rtt_seconds_count", answered),
            ("websocket_unanswered_pings_total", unanswered),
        ] {
            assert_eq!(metrics.sum(name, &[]), pings, "{name}");
        }
    }
}

/// Has all clients talk to all servers at once.
fn converse(pair: &Pair, to: SocketAddr, seed: u64) -> BTreeMap<String, Conversation> {
    let mut scripts = BTreeMap::new();
    let mut clients = peers::ALL.map(|_| Job::new(Role::Client, to));
    let mut servers = Vec::new();
    for (n, server) in (0..).zip(&peers::ALL) {
        let to = SocketAddr::new(to.ip(), to.port() + n);
        let mut job = Job::new(Role::Server, to);
        for (client, asking) in peers::ALL.iter().zip(&mut clients) {
            let seed = seed * 1000 + scripts.len() as u64;
            for (n, script) in script::conversations(seed).enumerate() {
                let path = format!("/{}/{}/{n}", client.name, server.name);
                let part = |steps: &Vec<_>| Part {
                    to,
                    deflate: script.deflate.filter(|_| client.deflates),
                    steps: steps.clone(),
                };
                let [ask, answer] = [&script.client, &script.server].map(part);
                asking.conversations.insert(path.clone(), ask);
                job.conversations.insert(path.clone(), answer);
                scripts.insert(path, (script, client.deflates && server.deflates));
            }
        }
        servers.push(server.start(&pair.server, &job));
    }
    let clients = peers::ALL.iter().zip(&clients);
    let clients: Vec<_> = clients
        .map(|(client, job)| client.start(&pair.client, job))
        .collect();
    let reports = |all: Vec<peers::Running>| -> Reports {
        all.into_iter().flat_map(peers::Running::reports).collect()
    };
    let (mut clients, mut servers) = (reports(clients), reports(servers));
    let conversations = scripts.into_iter().map(|(path, (script, deflates))| {
        let [client, server] = [&mut clients, &mut servers].map(|reports| {
            let report = reports.remove(&path);
            report.unwrap_or_else(|| panic!("no report of {path}"))
        });
        let conversation = Conversation {
            script,
            deflates,
            client,
            server,
        };
        (path, conversation)
    });
    conversations.collect()
}

/// The events of each conversation, by path.
fn told(trace: Process, conversations: usize) -> BTreeMap<String, Vec<Value>> {
    let count = || trace.stdout().matches("\"event\":\"close\"").count();
    eventually("trace has told all ends", Duration::from_secs(10), || {
        let ends = count();
        let all = ends >= conversations;
        all.then_some(())
            .ok_or_else(|| format!("{ends} of {conversations}"))
    });
    trace.signal(Signal::SIGINT);
    let (status, stdout) = trace.wait(Duration::from_secs(10));
    assert!(status.success(), "{status}");
    let mut paths = BTreeMap::new();
    let mut told: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for event in events(&stdout) {
        let conn = event["conn"].as_str().expect("an id").to_owned();
        if event["event"] == "handshake" {
            let path = event["path"].as_str().unwrap_or_default().to_owned();
            paths.insert(conn.clone(), path);
        }
        let path = paths.get(&conn).cloned().unwrap_or_default();
        told.entry(path).or_default().push(event);
    }
    told
}

impl Conversation {
    /// Both ends saw the same, and what they were asked to do.
    #[track_caller]
    fn must_agree(&self, path: &str) {
        let Self {
            script,
            client,
            server,
            ..
        } = self;
        assert_eq!(client.sent, server.received, "{path}: client to server");
        assert_eq!(server.sent, client.received, "{path}: server to client");
        let (asked, answered) = (&script.client, &script.server);
        for (steps, arrived) in [(asked, &server.messages), (answered, &client.messages)] {
            let asked: Vec<_> = script::messages(steps)
                .map(|(kind, content)| Message {
                    kind: kind.to_owned(),
                    len: content.len() as u64,
                })
                .collect();
            assert_eq!(*arrived, asked, "{path}: messages");
        }
        let extensions = client.extensions.as_deref().unwrap_or_default();
        let deflates = script.deflate.is_some() && self.deflates;
        assert_eq!(deflates, !extensions.is_empty(), "{path}: {extensions}");
        let close = script.ending.close();
        let other = match script.ending.by {
            Role::Client => server,
            Role::Server => client,
        };
        assert_eq!(other.close, close, "{path}: as the other end sees it");
    }

    fn directions(&self) -> [Direction<'_>; 2] {
        let Self {
            script,
            client,
            server,
            ..
        } = self;
        [
            Direction::new("client_to_server", client, &script.client, server),
            Direction::new("server_to_client", server, &script.server, client),
        ]
    }

    /// What wstap is to say: kind of event and direction, and the events without what only it knows.
    fn expected(&self) -> BTreeMap<(&'static str, &'static str), Vec<Value>> {
        let mut expected = BTreeMap::new();
        let mut handshake = json!({ "outcome": "accepted", "status": 101 });
        match self.client.extensions.as_deref() {
            None | Some("") => {}
            Some(extensions) => handshake["extensions"] = extensions.into(),
        }
        expected.insert(("handshake", ""), vec![handshake]);
        let (mut sums, mut sizes) = (json!({}), json!({}));
        for Direction {
            name: direction,
            frames,
            messages,
            back,
        } in self.directions()
        {
            let mut said = Vec::new();
            let mut whole = Vec::new();
            let mut parts: Vec<&Frame> = Vec::new();
            let mut contents = messages.iter();
            let pinged = payloads(back, "ping");
            for (index, frame) in frames.iter().enumerate() {
                let mut event = json!({
                    "index": index + 1,
                    "opcode": frame.opcode,
                    "fin": frame.fin,
                    "rsv": if frame.rsv1 { 4 } else { 0 },
                    "masked": direction == "client_to_server",
                    "len": frame.len,
                });
                match &frame.payload {
                    Some(payload) => {
                        event["control"] = payload.as_str().into();
                        let answers = frame.opcode == "pong" && pinged.contains(payload);
                        event["answers"] = answers.into();
                    }
                    None => {
                        let content = contents.as_slice().first();
                        let content = content.expect("as many messages as were asked for");
                        if parts.is_empty() {
                            event["begins"] = hex(&content[..content.len().min(PREVIEW)]).into();
                        }
                        parts.push(frame);
                    }
                }
                said.push(event);
                if frame.payload.is_none() && frame.fin {
                    let len = contents.next().map(Vec::len);
                    let compressed = parts[0].rsv1;
                    let mut message = json!({
                        "type": parts[0].opcode,
                        "len": parts.iter().map(|part| part.len).sum::<u64>(),
                        "frames": parts.len(),
                        "compressed": compressed,
                    });
                    if compressed {
                        message["inflated_len"] = json!(len);
                    } else {
                        assert_eq!(message["len"], json!(len), "the peers' own lengths");
                    }
                    whole.push(message);
                    parts.clear();
                }
            }
            let counts = peers::counts(frames);
            sums[direction] = json!(counts.frames);
            let sizes_of = counts.frames.keys().map(|opcode| {
                let bytes = counts.bytes.get(opcode).copied();
                (opcode.clone(), bytes.unwrap_or_default())
            });
            sizes[direction] = json!(sizes_of.collect::<BTreeMap<_, _>>());
            expected.insert(("frame", direction), said);
            expected.insert(("message", direction), whole);
        }
        let ending = self.script.ending;
        let mut close = json!({
            "kind": ending.kind(),
            "initiator": ending.by.to_string(),
            "code": ending.close().code,
            "frames": sums,
            "bytes": sizes,
        });
        let reason = ending.close().reason;
        if !reason.is_empty() {
            close["reason"] = reason.into();
        }
        expected.insert(("close", ""), vec![close]);
        expected
    }

    fn tally(&self) -> Tally {
        peers::tally(self.script.ending, &self.client, &self.server)
    }

    /// How many pings were answered, and how many were not.
    fn pings(&self) -> (u64, u64) {
        let of = |pings, pongs| {
            let (pings, pongs) = (payloads(pings, "ping"), payloads(pongs, "pong"));
            let answered = pings.intersection(&pongs).count();
            (answered as u64, (pings.len() - answered) as u64)
        };
        let [there, back] = [&self.client.sent, &self.server.sent];
        let (there, back) = (of(there, back), of(back, there));
        (there.0 + back.0, there.1 + back.1)
    }
}

fn payloads<'a>(frames: &'a [Frame], opcode: &str) -> BTreeSet<&'a String> {
    let frames = frames.iter().filter(|frame| frame.opcode == opcode);
    frames.filter_map(|frame| frame.payload.as_ref()).collect()
}

/// Compares the events of a conversation with those that are expected, field by field.
#[track_caller]
fn must_equal(
    path: &str,
    told: &[Value],
    expected: &BTreeMap<(&'static str, &'static str), Vec<Value>>,
) {
    let mut rest: BTreeMap<_, _> = expected
        .iter()
        .map(|(key, events)| (*key, events.iter()))
        .collect();
    for event in told {
        let word = |key: &str| event[key].as_str().unwrap_or_default();
        let key = (word("event"), word("dir"));
        let Some(expected) = rest.get_mut(&key).and_then(Iterator::next) else {
            panic!("{path}: nobody did this: {event}");
        };
        let mut event = event.clone();
        let object = event.as_object_mut().expect("an object");
        if key.0 == "frame" {
            let preview = match (object.remove("payload"), object.remove("payload_hex")) {
                (Some(text), _) => hex(text.as_str().expect("text").as_bytes()),
                (None, Some(bytes)) => bytes.as_str().expect("text").to_owned(),
                (None, None) => String::new(),
            };
            if expected.get("control").is_some() {
                object.insert("control".to_owned(), preview.into());
                let answers = object.contains_key("rtt_ns");
                object.insert("answers".to_owned(), answers.into());
            } else if let Some(begins) = expected["begins"].as_str() {
                // Of a fragment as much as it has; and a character that is cut is left out.
                let whole = expected["fin"] == false || preview.len() + 6 >= begins.len();
                let shown = begins.starts_with(&preview) && whole;
                assert!(shown, "{path}: {preview} of {begins}: {object:?}");
                object.insert("begins".to_owned(), begins.into());
            }
        }
        for incidental in [
            "event",
            "dir",
            "ts",
            "conn",
            "client",
            "server",
            "interface",
        ] {
            object.remove(incidental);
        }
        // What the peers do not tell.
        for unknown in [
            "method",
            "path",
            "host",
            "key",
            "user_agent",
            "latency_ns",
            "mask",
            "payload_truncated",
            "rtt_ns",
            "duration_ns",
            "silence_ns",
            "tcp",
        ] {
            object.remove(unknown);
        }
        if key.0 == "frame" && expected["opcode"] == "close" {
            // The close event says it, and the payload has been compared.
            object.remove("code");
            object.remove("reason");
        }
        assert_eq!(event, *expected, "{path}: {key:?}");
    }
    for (key, mut events) in rest {
        if let Some(event) = events.next() {
            panic!("{path}: nothing is said of {key:?} {event}");
        }
    }
}
