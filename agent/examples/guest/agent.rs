//! The finished agent as a child, watching; and what it says held against what the peers sent.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{peers, tally::Tally};

/// Emulated machines are slow, the more so where others work beside them.
const PATIENCE: Duration = Duration::from_secs(240);
/// How long the agent may take to have told of a connection that has ended.
const SETTLING: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(50);
const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9466);

/// Ends of conversations, with the server's address and what was sent.
pub type Conversations = Vec<Result<(SocketAddr, Tally)>>;
/// For each conversation, what is told wrongly.
pub type Differences = Vec<Option<String>>;

/// Two agents at once, which see the same: `run` with its metrics, and `trace` with its events.
pub struct Agents {
    run: Agent,
    trace: Agent,
}

impl Agents {
    /// Starts them on these devices, and waits until they are attached to all, and to `inside`.
    pub fn start(
        program: &Path,
        flags: &[&str],
        devices: &[&str],
        inside: &[&str],
    ) -> Result<Self> {
        let listen = LISTEN.to_string();
        let run = [&["run", "-v", "--listen", &listen], flags].concat();
        let trace = [&["trace", "-vv", "-o", "json"], flags].concat();
        let mut agents = Self {
            run: Agent::spawn(program, &run, devices)?,
            trace: Agent::spawn(program, &trace, devices)?,
        };
        let all = [devices, inside].concat();
        agents.run.attached(&all).context("`run`")?;
        agents.trace.attached(&all).context("`trace`")?;
        Ok(agents)
    }

    /// Ends them: for each conversation, in what they do not tell what was sent.
    pub fn judge(self, conversations: &Conversations) -> Result<Differences> {
        let deadline = Instant::now() + SETTLING;
        let differences = loop {
            let served = Exposition(get("/metrics")?);
            let differences = each(conversations, |server, sent| served.judge(server, sent));
            if differences.iter().all(Option::is_none) || Instant::now() > deadline {
                break differences;
            }
            thread::sleep(PAUSE);
        };
        while self.trace.said().matches("{\"event\":\"close\"").count() < conversations.len()
            && Instant::now() < deadline
        {
            thread::sleep(PAUSE);
        }
        self.run.stop().context("`run`")?;
        let said = self.trace.stop().context("`trace`")?;
        let events = said.lines().map(serde_json::from_str);
        let events: Vec<Value> = events.collect::<Result<_, _>>().context("an event")?;
        let more = each(conversations, |server, sent| {
            judge_events(&events, server, sent)
        });
        Ok(differences
            .into_iter()
            .zip(more)
            .map(|(run, trace)| run.or(trace))
            .collect())
    }
}

fn each(
    conversations: &Conversations,
    judge: impl Fn(&SocketAddr, &Tally) -> Result<(), String>,
) -> Differences {
    let judged = conversations.iter().map(|conversation| match conversation {
        Ok((server, sent)) => judge(server, sent).err(),
        Err(error) => Some(format!("{error:#}")),
    });
    judged.collect()
}

/// The events of one connection: a handshake, the frames, an end whose sums are theirs.
fn judge_events(events: &[Value], server: &SocketAddr, sent: &Tally) -> Result<(), String> {
    let server = server.to_string();
    let mut told = Tally::default();
    let mut ended = Tally::default();
    let mut others: BTreeMap<String, u64> = BTreeMap::new();
    for event in events.iter().filter(|event| event["server"] == *server) {
        let text = |key: &str| event[key].as_str().unwrap_or_default();
        match text("event") {
            "frame" => {
                let len = event["len"].as_u64().unwrap_or_default();
                told.count(text("dir"), text("opcode"), 1, len);
            }
            "handshake" => {
                let what = format!("handshake {} {}", text("outcome"), text("path"));
                *others.entry(what).or_default() += 1;
            }
            "close" => {
                sums(event, &mut ended);
                let (kind, code, initiator) = (text("kind"), &event["code"], text("initiator"));
                let what = format!("close {kind} {code} {:?} {initiator}", text("reason"));
                *others.entry(what).or_default() += 1;
            }
            other => *others.entry(other.to_owned()).or_default() += 1,
        }
    }
    same("the frames of `trace`", &told, sent)?;
    same("the sums of `trace`", &ended, sent)?;
    let (code, reason) = peers::CLOSE;
    let expected = [
        format!("handshake accepted {}", peers::PATH),
        format!("close clean {code} {reason:?} client"),
    ];
    if others.values().all(|&n| n == 1) && others.keys().rev().eq(&expected) {
        Ok(())
    } else {
        Err(format!("`trace` tells {others:?}"))
    }
}

/// `frames` and `bytes` of an end.
fn sums(close: &Value, tally: &mut Tally) {
    for (member, bytes) in [("frames", false), ("bytes", true)] {
        let directions = close[member].as_object().into_iter().flatten();
        for (direction, opcodes) in directions {
            for (opcode, n) in opcodes.as_object().into_iter().flatten() {
                let n = n.as_u64().unwrap_or_default();
                let (frames, bytes) = if bytes { (0, n) } else { (n, 0) };
                tally.count(direction, opcode, frames, bytes);
            }
        }
    }
}

fn same(what: &str, told: &Tally, sent: &Tally) -> Result<(), String> {
    if told == sent {
        return Ok(());
    }
    Err(format!("{what}: {told}; sent: {sent}"))
}

/// What `/metrics` serves.
struct Exposition(String);

impl Exposition {
    fn judge(&self, server: &SocketAddr, sent: &Tally) -> Result<(), String> {
        let server = server.to_string();
        let ours = [("server", &*server)];
        let mut told = Tally::default();
        for (name, bytes) in [
            ("websocket_frames_total", false),
            ("websocket_frame_payload_bytes_total", true),
        ] {
            for (labels, n) in self.series(name, &ours) {
                let label = |name| label(labels, name).unwrap_or_default();
                let (frames, bytes) = if bytes { (0, n) } else { (n, 0) };
                told.count(label("direction"), label("opcode"), frames, bytes);
            }
        }
        same("the metrics of `run`", &told, sent)?;
        let code = peers::CLOSE.0.to_string();
        let clean = [
            ("server", &*server),
            ("kind", "clean"),
            ("code", &code),
            ("initiator", "client"),
        ];
        let accepted = [("server", &*server), ("outcome", "accepted")];
        for (name, labels, expected) in [
            ("websocket_handshakes_total", &ours[..], 1),
            ("websocket_handshakes_total", &accepted, 1),
            ("websocket_connections_closed_total", &ours, 1),
            ("websocket_connections_closed_total", &clean, 1),
            ("websocket_connections_active", &ours, 0),
            ("websocket_protocol_violations_total", &ours, 0),
            ("wstap_samples_lost_total", &[], 0),
            ("wstap_frames_lost_total", &[], 0),
            ("wstap_gaps_total", &[], 0),
            ("wstap_resyncs_total", &[], 0),
        ] {
            let sum: u64 = self.series(name, labels).map(|(_, n)| n).sum();
            if sum != expected {
                return Err(format!("{name} {labels:?} is {sum}, not {expected}"));
            }
        }
        Ok(())
    }

    /// Labels and values of the series with this name and these labels.
    fn series<'a>(
        &'a self,
        name: &'a str,
        wanted: &'a [(&str, &str)],
    ) -> impl Iterator<Item = (&'a str, u64)> {
        self.0.lines().filter_map(move |line| {
            let rest = line.strip_prefix(name)?;
            let (labels, value) = rest.rsplit_once(' ')?;
            if !labels.is_empty() && !labels.starts_with('{') {
                return None;
            }
            let has = |(name, value): &(&str, &str)| label(labels, name) == Some(value);
            wanted.iter().all(has).then_some(())?;
            Some((labels, value.parse().ok()?))
        })
    }
}

/// The value of a label; those asked for here have nothing to escape in them.
fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    let key = format!("{name}=\"");
    let at = labels
        .match_indices(&key)
        .map(|(at, _)| at)
        .find(|&at| labels[..at].ends_with(['{', ',']))?;
    labels[at + key.len()..].split('"').next()
}

fn get(path: &str) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&LISTEN, PATIENCE).context("reaching the agent")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {LISTEN}\r\n\r\n")?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .with_context(|| format!("reading {path}"))?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.contains(" 200 ") => Ok(body.to_owned()),
        _ => bail!("{path} answers {:?}", answer.lines().next()),
    }
}

/// The agent as a child, which is killed when this is dropped.
struct Agent {
    child: Child,
    stdout: Arc<Mutex<String>>,
    stderr: Arc<Mutex<String>>,
}

impl Agent {
    fn spawn(program: &Path, args: &[&str], devices: &[&str]) -> Result<Self> {
        let mut child = Command::new(program)
            .args(args)
            .args(devices.iter().flat_map(|device| ["-i", device]))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        let stdout = collect(child.stdout.take());
        let stderr = collect(child.stderr.take());
        Ok(Self {
            child,
            stdout,
            stderr,
        })
    }

    /// Waits until it says that it is attached to all of them.
    fn attached(&mut self, devices: &[&str]) -> Result<()> {
        let wanted: Vec<_> = devices
            .iter()
            .map(|device| format!("attached to {device}\n"))
            .collect();
        self.until(|agent| {
            let log = text(&agent.stderr);
            wanted.iter().all(|line| log.contains(line))
        })
    }

    fn until(&mut self, done: impl Fn(&Self) -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            if let Some(status) = self.child.try_wait()? {
                bail!("the agent ended with {status}: {}", self.complaint());
            }
            if Instant::now() > deadline {
                bail!("the agent is not attached: {}", self.complaint());
            }
            thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// What it has printed.
    fn said(&self) -> String {
        text(&self.stdout)
    }

    /// The end of its log.
    fn complaint(&self) -> String {
        let log = text(&self.stderr);
        let skipped = log.lines().count().saturating_sub(20);
        log.lines().skip(skipped).collect::<Vec<_>>().join("\n")
    }

    /// Ends it: what it has printed.
    fn stop(mut self) -> Result<String> {
        kill(
            Pid::from_raw(i32::try_from(self.child.id())?),
            Signal::SIGINT,
        )?;
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            match self.child.try_wait()? {
                Some(status) => break status,
                None if Instant::now() > deadline => bail!("the agent does not end"),
                None => thread::sleep(PAUSE),
            }
        };
        // The collecting threads see the end of the pipes a moment later.
        while Arc::strong_count(&self.stdout) > 1 && Instant::now() < deadline {
            thread::sleep(PAUSE);
        }
        self.judge(status)
    }

    fn judge(&self, status: ExitStatus) -> Result<String> {
        if status.success() {
            Ok(self.said())
        } else {
            bail!("the agent ended with {status}: {}", self.complaint())
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(shared: &Mutex<String>) -> String {
    shared
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone()
}

/// Reads a pipe to its end on a thread of its own, which holds the text until then.
fn collect(pipe: Option<impl Read + Send + 'static>) -> Arc<Mutex<String>> {
    let shared = Arc::new(Mutex::new(String::new()));
    if let Some(pipe) = pipe {
        let text = Arc::clone(&shared);
        thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                let mut text = text.lock().unwrap_or_else(PoisonError::into_inner);
                text.push_str(&line);
                text.push('\n');
            }
        });
    }
    shared
}
