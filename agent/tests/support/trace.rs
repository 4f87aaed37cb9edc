//! `wstap trace -o json` inside a namespace, and what it says of each connection.

use std::time::Duration;

use nix::{sys::signal::Signal, unistd::Pid};
use serde_json::Value;

use super::{
    agent::{Process, WSTAP, events, held},
    eventually,
    netns::Netns,
    tally::Tally,
};

/// It runs until this is dropped or asked for what it has seen.
pub struct Trace(Process);

impl Trace {
    /// Starts it with the words of `flags`, and waits until it is attached to the namespace's
    /// `devices`, `lo` not counted.
    #[track_caller]
    pub fn start(ns: &Netns, devices: usize, flags: &str) -> Self {
        let mut command = ns.command(WSTAP);
        command
            .args(["trace", "-o", "json", "--attach", "tcx"])
            .args(["--exclude-interface", "lo"])
            .args(
                ["handshake", "frame", "message", "close", "violation", "gap"]
                    .map(|e| format!("--event={e}")),
            )
            .args(flags.split_whitespace());
        let mut process = Process::spawn(command);
        eventually("trace is attached", Duration::from_secs(15), || {
            process.must_live();
            let links = held(process.pid(), "link_id").len();
            // Ingress and egress.
            (links == 2 * devices)
                .then_some(())
                .ok_or_else(|| format!("{links} hooks"))
        });
        Self(process)
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        self.0.pid()
    }

    /// Waits until it has told of something in which `needle` occurs.
    #[track_caller]
    pub fn must_tell(&self, needle: &str, limit: Duration) {
        let mut seen = 0;
        eventually(&format!("{needle} is told of"), limit, || {
            // All of it is long, and what was looked at before has no news.
            let stdout = self.0.stdout_from(seen);
            seen += stdout.rfind('\n').map_or(0, |end| end + 1);
            stdout
                .contains(needle)
                .then_some(())
                .ok_or_else(|| self.0.stderr())
        });
    }

    /// Ends it: all that it has said, in order.
    #[track_caller]
    pub fn stop(self) -> Vec<Value> {
        self.0.signal(Signal::SIGINT);
        let (status, stdout) = self.0.wait(Duration::from_secs(30));
        assert!(status.success(), "{status}");
        events(&stdout)
    }

    /// Waits until it has told of the end of this many connections, and ends it: all connections
    /// that it has told of, in the order of their handshakes.
    #[track_caller]
    pub fn connections(self, closed: usize) -> Vec<Connection> {
        self.until("close", closed)
    }

    /// As [`Self::connections`], once it has told of this many events of one kind.
    #[track_caller]
    pub fn until(self, event: &str, n: usize) -> Vec<Connection> {
        let what = format!("{n} events `{event}` are printed");
        eventually(&what, Duration::from_secs(10), || {
            let stdout = self.0.stdout();
            let printed = stdout.matches(&format!("{{\"event\":\"{event}\"")).count();
            (printed == n).then_some(()).ok_or(stdout)
        });
        self.0.signal(Signal::SIGINT);
        let (status, stdout) = self.0.wait(Duration::from_secs(10));
        assert!(status.success(), "{status}");
        let mut connections: Vec<Connection> = Vec::new();
        for event in events(&stdout) {
            let same = |connection: &&mut Connection| connection.events[0]["conn"] == event["conn"];
            match connections.iter_mut().find(same) {
                Some(connection) => connection.events.push(event),
                None => connections.push(Connection {
                    events: vec![event],
                }),
            }
        }
        connections
    }
}

/// All that was said of one.
#[derive(Debug)]
pub struct Connection {
    /// In order.
    pub events: Vec<Value>,
}

impl Connection {
    /// Its events of one kind.
    pub fn of<'a>(&'a self, event: &'a str) -> impl Iterator<Item = &'a Value> {
        self.events
            .iter()
            .filter(move |value| value["event"] == event)
    }

    /// The only one of its kind.
    #[track_caller]
    fn only(&self, event: &'static str) -> &Value {
        let mut all = self.of(event);
        match (all.next(), all.next()) {
            (Some(only), None) => only,
            _ => panic!("not one {event}: {self:#?}"),
        }
    }

    /// How it began.
    #[track_caller]
    pub fn handshake(&self) -> &Value {
        self.only("handshake")
    }

    /// How it ended.
    #[track_caller]
    pub fn close(&self) -> &Value {
        self.only("close")
    }

    /// `kind`, `code` and `initiator` of its end.
    #[track_caller]
    pub fn ending(&self) -> String {
        let close = self.close();
        let word = |key: &str| close[key].as_str().unwrap_or_default().to_owned();
        format!("{} {} {}", word("kind"), close["code"], word("initiator"))
    }

    /// Quiet time before its end.
    #[track_caller]
    pub fn silence(&self) -> Duration {
        Duration::from_nanos(self.close()["silence_ns"].as_u64().expect("a number"))
    }

    /// What its events add up to, which is what its close event says, and nothing else happened.
    #[track_caller]
    pub fn tally(&self) -> Tally {
        for event in ["violation", "gap"] {
            assert_eq!(self.of(event).count(), 0, "{self:#?}");
        }
        let mut tally = Tally::default();
        for frame in self.of("frame") {
            let (opcode, len) = (frame["opcode"].as_str(), frame["len"].as_u64());
            let counts = tally.direction(&frame["dir"]);
            counts.frame(opcode.expect("a word"), len.expect("a number"));
        }
        for message in self.of("message") {
            let compressed = message["compressed"] == true;
            let kind = message["type"].as_str().expect("a word").to_owned();
            let kind = kind + if compressed { "+deflate" } else { "" };
            *tally
                .direction(&message["dir"])
                .messages
                .entry(kind)
                .or_default() += 1;
        }
        let close = self.close();
        for direction in ["client_to_server", "server_to_client"] {
            let counts = tally.direction(&direction.into());
            let said = |field: &str| {
                let counts = close[field][direction].as_object().into_iter().flatten();
                let known = counts.filter_map(|(opcode, n)| Some((opcode.clone(), n.as_u64()?)));
                known.filter(|(_, n)| *n > 0).collect()
            };
            assert_eq!(counts.frames, said("frames"), "{direction}");
            assert_eq!(counts.bytes, said("bytes"), "{direction}");
        }
        tally.closed.insert(self.ending(), 1);
        tally
    }
}
