//! The finished binary as a child process inside a namespace.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Read},
    net::{Ipv4Addr, SocketAddr},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use wstap_common::globals;

use super::{eventually, exposition::Exposition, netns::Netns, tally::Tally};

/// The binary under test.
pub const WSTAP: &str = env!("CARGO_BIN_EXE_wstap");

/// Those that are loaded before anything is attached.
const PROGRAMS: usize = 1 + globals::PROGRAMS.as_flattened().len();

/// A process whose output is collected, and which is killed when this is dropped.
pub struct Process {
    child: Child,
    what: String,
    stdout: Arc<Mutex<String>>,
    stderr: Arc<Mutex<String>>,
}

impl Process {
    /// Starts it.
    #[track_caller]
    pub fn spawn(mut command: Command) -> Self {
        let what = format!("{command:?}").replace('"', "");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        let stdout = collect(child.stdout.take().expect("a pipe"));
        let stderr = collect(child.stderr.take().expect("a pipe"));
        Self {
            child,
            what,
            stdout,
            stderr,
        }
    }

    /// What it has printed so far.
    pub fn stdout(&self) -> String {
        self.stdout
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// What it has printed from this byte on, which begins a line.
    pub fn stdout_from(&self, at: usize) -> String {
        let stdout = self.stdout.lock().unwrap_or_else(PoisonError::into_inner);
        stdout.get(at..).unwrap_or_default().to_owned()
    }

    /// How many bytes it has printed so far.
    pub fn printed(&self) -> usize {
        self.stdout
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// What it has complained of so far.
    pub fn stderr(&self) -> String {
        self.stderr
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Its process id: `ip netns exec` has become the program.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a process id"))
    }

    /// Sends a signal.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal)
            .unwrap_or_else(|error| panic!("{signal} to {}: {error}", self.what));
    }

    /// Its status, where it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child of ours")
    }

    /// Fails where it has ended.
    #[track_caller]
    pub fn must_live(&mut self) {
        if let Some(status) = self.ended() {
            panic!("{} ended with {status}\n{}", self.what, self.stderr());
        }
    }

    /// Waits for its end: status and standard output.
    #[track_caller]
    pub fn wait(mut self, limit: Duration) -> (ExitStatus, String) {
        let what = format!("{} has ended", self.what);
        let status = eventually(&what, limit, || {
            self.ended().ok_or_else(|| "it runs".to_owned())
        });
        // The collecting threads see the end of the pipes a moment later.
        let (mut stdout, mut last) = (self.stdout(), None);
        while last.as_ref() != Some(&stdout) {
            thread::sleep(Duration::from_millis(50));
            last = Some(std::mem::replace(&mut stdout, self.stdout()));
        }
        (status, stdout)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- {}\n{}", self.what, self.stderr());
        }
    }
}

fn collect(pipe: impl Read + Send + 'static) -> Arc<Mutex<String>> {
    let text = Arc::new(Mutex::new(String::new()));
    let shared = Arc::clone(&text);
    thread::spawn(move || {
        let mut lines = BufReader::new(pipe);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            let mut text = shared.lock().unwrap_or_else(PoisonError::into_inner);
            text.push_str(&String::from_utf8_lossy(&line));
            line.clear();
        }
    });
    text
}

/// `wstap run` inside a namespace, ready.
pub struct Agent<'a> {
    ns: &'a Netns,
    /// The process.
    pub process: Process,
    /// Where it serves metrics.
    pub listen: SocketAddr,
}

impl<'a> Agent<'a> {
    /// Starts it with the words of `flags` and waits until it is ready.
    #[track_caller]
    pub fn run(ns: &'a Netns, flags: &str) -> Self {
        Self::run_in(ns, flags, &[])
    }

    /// The same with these variables in its environment.
    #[track_caller]
    pub fn run_in(ns: &'a Netns, flags: &str, variables: &[(&str, &str)]) -> Self {
        let listen = Self::address(ns);
        let mut command = ns.command(WSTAP);
        command
            .args(["run", "--listen", &listen.to_string()])
            .args(flags.split_whitespace())
            .envs(variables.iter().copied());
        Self::start(ns, listen, command)
    }

    /// Where one can listen.
    pub fn address(ns: &Netns) -> SocketAddr {
        let port = ns.free_port(Ipv4Addr::LOCALHOST.into());
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    }

    /// Starts it by a command that has it listen there, and waits until it is ready.
    #[track_caller]
    pub fn start(ns: &'a Netns, listen: SocketAddr, command: Command) -> Self {
        let mut agent = Self {
            ns,
            process: Process::spawn(command),
            listen,
        };
        eventually("the agent is ready", Duration::from_secs(20), || {
            agent.process.must_live();
            match agent.ns.http_get(listen, "/readyz") {
                Ok((200, _)) => Ok(()),
                Ok((status, body)) => Err(format!("/readyz: {status} {body}")),
                Err(error) => Err(format!("/readyz: {error}")),
            }
        });
        agent
    }

    /// What it serves at `path`: status and body.
    #[track_caller]
    pub fn get(&self, path: &str) -> (u16, String) {
        let answer = self.ns.http_get(self.listen, path);
        answer
            .unwrap_or_else(|error| panic!("asking the agent: {error}\n{}", self.process.stderr()))
    }

    /// The text of `/metrics`.
    #[track_caller]
    pub fn scrape(&self) -> String {
        let (status, body) = self.get("/metrics");
        assert_eq!(status, 200, "{body}");
        body
    }

    /// What `/metrics` says now.
    #[track_caller]
    pub fn metrics(&self) -> Exposition {
        Exposition::parse(&self.scrape())
    }

    /// What the agent has counted.
    #[track_caller]
    pub fn tally(&self) -> Tally {
        Tally::of_metrics(&self.metrics())
    }

    /// Waits until the agent has counted exactly `expected`, then makes sure that it stays so and
    /// that nothing was lost on the way.
    #[track_caller]
    pub fn must_count(&self, expected: &Tally) {
        let mut last = Tally::default();
        eventually(
            "the agent counts what the peers count",
            Duration::from_secs(20),
            || {
                last = self.tally();
                if last == *expected {
                    return Ok(());
                }
                let lost = self.losses();
                Err(format!("peers\n{expected}\nagent\n{last}\nlosses {lost}"))
            },
        );
        thread::sleep(Duration::from_millis(150));
        let later = self.tally();
        assert_eq!(
            later, *expected,
            "counted on\npeers\n{expected}\nagent\n{later}"
        );
        let losses = self.losses();
        assert_eq!(losses, "", "counts agree, and yet there were losses");
    }

    /// What the agent says it has missed; empty where it has missed nothing.
    #[track_caller]
    pub fn losses(&self) -> String {
        let metrics = self.metrics();
        let losses = metrics.samples.iter().filter(|sample| {
            let counted = match sample.name.as_str() {
                "wstap_samples_lost_total" | "wstap_frames_lost_total" | "wstap_gaps_total" => true,
                // Pings that wait for their pongs are many here. It costs round trips, no counts.
                "wstap_limit_exceeded_total" => sample.label("limit") != "pings",
                _ => false,
            };
            counted && sample.value > 0.0
        });
        let losses: Vec<_> = losses.map(|sample| format!("{sample:?}")).collect();
        losses.join("; ")
    }

    /// Waits until as many WebSockets are open as are expected.
    #[track_caller]
    pub fn must_have_active(&self, expected: u64) {
        let what = format!("websocket_connections_active is {expected}");
        eventually(&what, Duration::from_secs(10), || {
            let active = self.metrics().sum("websocket_connections_active", &[]);
            if active == expected {
                Ok(())
            } else {
                Err(format!("it is {active}"))
            }
        });
    }

    /// Waits until the agent is attached to this many interfaces.
    #[track_caller]
    pub fn must_be_attached(&self, interfaces: u64) {
        let what = format!("wstap_interfaces_attached is {interfaces}");
        eventually(&what, Duration::from_secs(10), || {
            let attached = self.metrics().sum("wstap_interfaces_attached", &[]);
            if attached == interfaces {
                Ok(())
            } else {
                Err(format!("it is {attached}"))
            }
        });
    }

    /// Ends it with a signal that asks: it must come to a good end.
    #[track_caller]
    pub fn stop(self, signal: Signal) {
        self.process.signal(signal);
        let stderr = Arc::clone(&self.process.stderr);
        let (status, stdout) = self.process.wait(Duration::from_secs(10));
        let stderr = stderr.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(status.success(), "{status} after {signal}\n{stderr}");
        assert_eq!(stdout, "", "`run` writes nothing to standard output");
    }
}

/// `wstap trace -o json` inside a namespace, attached to one interface.
#[track_caller]
pub fn trace(ns: &Netns, interface: &str, flags: &[&str]) -> Process {
    let mut command = ns.command(WSTAP);
    command.args(["trace", "-o", "json", "-i", interface]);
    command.args(flags);
    let mut trace = Process::spawn(command);
    // Nothing is said on standard output until something happens.
    eventually("trace is attached", Duration::from_secs(15), || {
        trace.must_live();
        let attached = held(trace.pid(), "prog_id").len() >= PROGRAMS;
        attached
            .then_some(())
            .ok_or_else(|| "no program".to_owned())
    });
    thread::sleep(Duration::from_millis(300));
    trace
}

/// Ids of one kind (`prog_id`, `link_id`, `map_id`) that a process holds in the kernel.
pub fn held(pid: Pid, kind: &str) -> BTreeSet<u32> {
    let mut ids = BTreeSet::new();
    let folder = std::fs::read_dir(format!("/proc/{pid}/fdinfo"));
    for entry in folder.into_iter().flatten().filter_map(Result::ok) {
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        for line in text.lines() {
            if let Some((key, value)) = line.split_once(':')
                && key == kind
            {
                ids.extend(value.trim().parse::<u32>());
            }
        }
    }
    ids
}

/// The events of `-o json`: one object a line.
///
/// # Panics
///
/// Where a line is none.
#[track_caller]
pub fn events(json: &str) -> Vec<Value> {
    let parse = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    json.lines().map(parse).collect()
}
