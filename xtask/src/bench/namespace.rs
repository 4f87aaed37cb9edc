//! Two network namespaces and the veth pairs between them. They go with the guard, and all in them.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::process;

/// A side of the pair.
#[derive(Clone, Debug)]
pub struct Side {
    /// Name of the namespace.
    pub namespace: String,
    /// Its end of the veth pair.
    pub device: String,
}

impl Side {
    fn new(name: &str, end: &str) -> Self {
        let pid = std::process::id();
        Self {
            namespace: format!("{}{pid}-{end}", prefix(name)),
            // Names of devices have 15 characters.
            device: format!("{name}-{end}"),
        }
    }

    /// A command inside.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.namespace])
            .arg(program)
            .stdin(Stdio::null());
        command
    }

    /// Runs `tc OBJECT VERB dev DEVICE ARGS`.
    pub fn tc(&self, object: &str, verb: &str, args: &[&str]) -> Result<()> {
        let mut tc = Command::new("tc");
        tc.args(["-n", &self.namespace, object, verb, "dev", &self.device]);
        process::capture(tc.args(args)).map(drop)
    }

    /// Moves this thread inside, and with it the sockets that it makes.
    pub fn enter(&self) -> Result<()> {
        let path = format!("/run/netns/{}", self.namespace);
        let namespace = File::open(&path).with_context(|| format!("cannot open {path}"))?;
        setns(namespace, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("cannot enter the namespace {}", self.namespace))
    }

    /// Does something inside, in a thread of its own, and waits for it.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter()?;
                work()
            });
            thread
                .join()
                .map_err(|_| anyhow!("a thread of the measurement panicked"))?
        })
    }
}

/// What names of namespaces begin with; the number of the process that has made them follows.
fn prefix(name: &str) -> String {
    format!("wstap-{name}-")
}

/// Namespaces of processes that are no more: they were killed.
fn abandoned(name: &str) -> Vec<String> {
    let is_abandoned = |namespace: &String| {
        let rest = namespace.strip_prefix(&prefix(name));
        let pid = rest.and_then(|rest| rest.split('-').next());
        pid.is_some_and(|pid| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists())
    };
    let entries = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(is_abandoned).collect()
}

/// Ends what is inside of a namespace.
fn clear(namespace: &str) {
    let mut list = Command::new("ip");
    let listed = process::capture(list.args(["netns", "pids", namespace]));
    for pid in listed.unwrap_or_default().split_whitespace() {
        if let Ok(pid) = pid.parse()
            && pid != std::process::id() as i32
        {
            // It may have ended just now.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// The namespaces with the veth pair, and another one beside it at which nothing is attached.
///
/// Addresses are those for tests between networks (RFC 2544, RFC 6890): nothing else has them, and
/// nothing leaves the pairs.
pub struct Pair {
    /// Where the clients are.
    pub client: Side,
    /// Where the server is, and the agent.
    pub server: Side,
}

impl Pair {
    /// Makes them; `name` is of six characters at most.
    pub fn make(name: &str) -> Result<Self> {
        for namespace in abandoned(name) {
            clear(&namespace);
            ip(&format!("netns del {namespace}"))?;
        }
        let pair = Self {
            client: Side::new(name, "client"),
            server: Side::new(name, "server"),
        };
        let (client, server) = (&pair.client, &pair.server);
        let bare = |side: &Side| format!("{}-b", side.device);
        for command in [
            format!("netns add {}", client.namespace),
            format!("netns add {}", server.namespace),
            format!(
                "-n {} link add {} type veth peer name {} netns {}",
                client.namespace, client.device, server.device, server.namespace
            ),
            format!(
                "-n {} link add {} type veth peer name {} netns {}",
                client.namespace,
                bare(client),
                bare(server),
                server.namespace
            ),
            Self::give(client, &client.device, "198.18.0.1"),
            Self::give(server, &server.device, "198.18.0.2"),
            Self::give(client, &bare(client), "198.18.1.1"),
            Self::give(server, &bare(server), "198.18.1.2"),
            format!("-n {} link set {} up", client.namespace, bare(client)),
            format!("-n {} link set {} up", server.namespace, bare(server)),
            format!("-n {} link set {} up", client.namespace, client.device),
            format!("-n {} link set {} up", server.namespace, server.device),
            format!("-n {} link set lo up", server.namespace),
        ] {
            ip(&command)?;
        }
        Ok(pair)
    }

    fn give(side: &Side, device: &str, address: &str) -> String {
        format!("-n {} addr add {address}/24 dev {device}", side.namespace)
    }

    /// Where the server listens, as a client gets there over the pair that is watched.
    pub fn watched(port: u16) -> SocketAddr {
        SocketAddr::from(([198, 18, 0, 2], port))
    }

    /// The same over the other pair, at which nothing is attached.
    pub fn bare(port: u16) -> SocketAddr {
        SocketAddr::from(([198, 18, 1, 2], port))
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for side in [&self.client, &self.server] {
            clear(&side.namespace);
            if let Err(error) = ip(&format!("netns del {}", side.namespace)) {
                eprintln!("{error:#}");
            }
        }
    }
}

/// Runs `ip`.
pub fn ip(args: &str) -> Result<()> {
    process::capture(Command::new("ip").args(args.split_whitespace())).map(drop)
}
