//! What `cargo xtask kernels` runs inside a virtual machine: has the verifier count the program's
//! instructions, and holds the finished agent against a client and a server that know what they
//! sent, for each way to attach, each way to copy, over `lo`, a veth pair and a tunnel, IPv4 and IPv6.
//!
//! `guest AGENT` is meant for a machine of its own, whose devices and limits it changes. Each line
//! that it prints is a JSON object with one member: `kernel`, `instructions`, `row` or `failure`,
//! and `done` at the end.

mod agent;
mod instructions;
mod peers;
mod tally;

use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Instant,
};

use anyhow::{Context, Result, bail};
use aya::util::KernelVersion;
use nix::{
    sched::{CloneFlags, setns},
    sys::utsname::uname,
};
use serde_json::{Value, json};
use wstap::source::kernel::{Method, requirements};

use self::{agent::Agents, tally::Tally};

/// The first kernel with TCX.
const TCX: KernelVersion = KernelVersion::new(6, 6, 0);

/// The first kernel that hands a classifier what arrives in a tunnel without the outer header.
const BARE_TUNNELS: KernelVersion = KernelVersion::new(5, 14, 0);

/// The namespace at the other end of the veth pair.
const NAMESPACE: &str = "peer";
/// What the agents attach to: this end of the pair, and of the tunnel through it, whose packets begin
/// with the IP header.
const DEVICES: [&str; 3] = ["lo", "s0", "t0"];

/// What they attach to at the other end, where they look at both: its end of the pair has another name.
const OTHER_END: [&str; 2] = ["-i", "c0"];
const INSIDE: [&str; 3] = ["lo in peer", "c0 in peer", "t0 in peer"];

/// Addresses for documentation (RFC 5737, RFC 3849), which nothing else has.
const ROUTES: [Route; 6] = [
    Route::new("lo", "IPv4", "127.0.0.1:7000"),
    Route::new("lo", "IPv6", "[::1]:7000"),
    Route::new("veth", "IPv4", "192.0.2.2:7000"),
    Route::new("veth", "IPv6", "[2001:db8::2]:7000"),
    Route::new("tunnel", "IPv4", "198.51.100.2:7000"),
    Route::new("tunnel", "IPv6", "[2001:db8:1::2]:7000"),
];

/// Where a connection goes.
#[derive(Clone, Copy)]
struct Route {
    device: &'static str,
    family: &'static str,
    server: &'static str,
}

impl Route {
    const fn new(device: &'static str, family: &'static str, server: &'static str) -> Self {
        Self {
            device,
            family,
            server,
        }
    }

    /// Why there is nothing to be expected of it here.
    fn left_out(&self) -> Option<&'static str> {
        (self.device == "tunnel" && requirements::kernel_version() < BARE_TUNNELS).then_some(
            "before Linux 5.14 what arrives in a tunnel still has its outer header where a \
             classifier sees it",
        )
    }
}

fn main() {
    let done = run();
    if let Err(error) = &done {
        say(&json!({ "failure": format!("{error:#}") }));
    }
    say(&json!({ "done": done.is_ok() }));
}

fn say(value: &Value) {
    println!("{value}");
}

fn run() -> Result<()> {
    let agent = std::env::args_os()
        .nth(1)
        .context("the agent is not named")?;
    let agent = PathBuf::from(agent);
    let release = uname().context("asking for the kernel's name")?;
    say(&json!({ "kernel": release.release().to_string_lossy() }));
    wire()?;
    let modes = attach_modes()?;
    for copy in copy_modes(&agent)? {
        let flags: Vec<&str> = copy.map_or_else(Vec::new, |copy| vec!["--copy", copy]);
        // A program that copies is one that copies whole segments, unless it is asked not to.
        let copy = copy.unwrap_or("whole");
        for &method in modes {
            let flags = [&["--attach", method.as_str()], &flags[..]].concat();
            let agents = Agents::start(&agent, &flags, &DEVICES, &[])
                .with_context(|| format!("{} {copy}", method.as_str()))?;
            say(&json!({ "instructions": instructions::count(method, &flags)? }));
            for row in rows(agents, method, copy) {
                say(&json!({ "row": row }));
            }
        }
    }
    // What passes a device here and one there counts once.
    for &method in modes {
        let flags = ["--attach", method.as_str(), "--netns", NAMESPACE];
        let flags = [&flags[..], &OTHER_END].concat();
        let agents = Agents::start(&agent, &flags, &DEVICES, &INSIDE)
            .with_context(|| format!("{} at both ends", method.as_str()))?;
        for row in rows(agents, method, "both ends") {
            say(&json!({ "row": row }));
        }
    }
    Ok(())
}

/// Makes the devices.
fn wire() -> Result<()> {
    for line in [
        "link set lo up",
        "netns add peer",
        "-n peer link set lo up",
        "link add name s0 type veth peer name c0 netns peer",
        "address add 192.0.2.2/30 dev s0",
        "address add 2001:db8::2/64 dev s0 nodad",
        "link set s0 up",
        "-n peer address add 192.0.2.1/30 dev c0",
        "-n peer address add 2001:db8::1/64 dev c0 nodad",
        "-n peer link set c0 up",
        "link add name t0 type sit mode any local 192.0.2.2 remote 192.0.2.1",
        "-n peer link add name t0 type sit mode any local 192.0.2.1 remote 192.0.2.2",
        "address add 198.51.100.2/30 dev t0",
        "address add 2001:db8:1::2/64 dev t0 nodad",
        "link set t0 up",
        "-n peer address add 198.51.100.1/30 dev t0",
        "-n peer address add 2001:db8:1::1/64 dev t0 nodad",
        "-n peer link set t0 up",
    ] {
        let output = Command::new("ip")
            .args(line.split(' '))
            .output()
            .context("running ip")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("`ip {line}`: {}: {}", output.status, said.trim());
        }
    }
    Ok(())
}

/// Ways to attach that this kernel has to have. Debian leaves TCX in where the version has it, so
/// one that is not found there is a failure, not a reason to try less.
fn attach_modes() -> Result<&'static [Method]> {
    match requirements::tcx() {
        Ok(()) => Ok(&[Method::Tcx, Method::Clsact]),
        Err(_) if requirements::kernel_version() < TCX => Ok(&[Method::Clsact]),
        Err(reason) => bail!("a kernel since 6.6 that has no TCX: {reason}"),
    }
}

/// The values of the agent's `--copy`; `None` where it has no such flag.
fn copy_modes(agent: &Path) -> Result<&'static [Option<&'static str>]> {
    let help = Command::new(agent)
        .args(["trace", "--help"])
        .output()
        .with_context(|| format!("running {}", agent.display()))?;
    let help = String::from_utf8_lossy(&help.stdout);
    let has = help.lines().any(|line| line.trim().starts_with("--copy "));
    Ok(if has {
        &[Some("headers"), Some("whole")]
    } else {
        &[None]
    })
}

/// Has a conversation on each route: how long it took, and in what the agents differ from it.
fn rows(agents: Agents, method: Method, copy: &str) -> Vec<Value> {
    let (routes, left_out): (Vec<&Route>, Vec<&Route>) =
        ROUTES.iter().partition(|route| route.left_out().is_none());
    let mut seconds = Vec::new();
    let mut conversations = Vec::new();
    for route in &routes {
        let begun = Instant::now();
        conversations.push(converse(route));
        seconds.push(begun.elapsed().as_secs_f64());
    }
    let differences = agents
        .judge(&conversations)
        .unwrap_or_else(|error| vec![Some(format!("{error:#}")); routes.len()]);
    let row = |route: &Route, what: Value| {
        let mut row = json!({
            "attach": method.as_str(), "copy": copy, "device": route.device, "family": route.family,
        });
        if let (Some(row), Value::Object(mut what)) = (row.as_object_mut(), what) {
            row.append(&mut what);
        }
        row
    };
    let told = routes.iter().zip(seconds).zip(differences);
    let told = told.map(|((route, seconds), difference)| {
        row(
            route,
            json!({ "seconds": seconds, "difference": difference }),
        )
    });
    let untold = left_out
        .iter()
        .map(|route| row(route, json!({ "left_out": route.left_out() })));
    told.chain(untold).collect()
}

/// A conversation from its handshake to its end, and what its ends have sent.
fn converse(route: &Route) -> Result<(SocketAddr, Tally)> {
    let address: SocketAddr = route.server.parse()?;
    let listener = TcpListener::bind(address).with_context(|| format!("listening on {address}"))?;
    let far = route.device != "lo";
    let server = thread::spawn(move || peers::serve(&listener));
    let client = thread::spawn(move || {
        if far {
            let path = Path::new("/run/netns").join(NAMESPACE);
            let namespace = std::fs::File::open(&path)
                .with_context(|| format!("opening {}", path.display()))?;
            setns(namespace, CloneFlags::CLONE_NEWNET).context("entering the namespace")?;
        }
        peers::connect(address)
    });
    let client = client.join().unwrap_or_else(|_| bail!("it panicked"));
    let mut tally = client.with_context(|| format!("the client of {address}"))?;
    let server = server.join().unwrap_or_else(|_| bail!("it panicked"));
    tally.add(&server.with_context(|| format!("the server at {address}"))?);
    Ok((address, tally))
}
