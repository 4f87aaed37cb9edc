//! WebSocket clients and servers of another make: Python's `websockets`, run by
//! `tests/peers/peer.py`.

use std::{net::SocketAddr, time::Duration};

use super::{
    agent::Process,
    eventually,
    load::Closer,
    machine,
    netns::Netns,
    tally::{Report, Tally},
};

/// What is exchanged.
#[derive(Clone, Copy, Debug)]
pub struct Script {
    /// How many connections, all open at once.
    pub connections: u64,
    /// Messages and control frames that each end sends.
    pub messages: u64,
    /// Where they come from.
    pub seed: u64,
    /// Whether permessage-deflate is offered and accepted.
    pub deflate: bool,
    /// Who sends the first close frame.
    pub closer: Closer,
    /// Its code.
    pub code: u16,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            connections: 2,
            messages: 100,
            seed: 1,
            deflate: false,
            closer: Closer::Client,
            code: 1000,
        }
    }
}

/// Lets both peers do their work: what was exchanged, by both ends' count.
#[track_caller]
pub fn exchange(
    client: &Netns,
    server: &Netns,
    to: SocketAddr,
    on: SocketAddr,
    script: Script,
) -> Tally {
    let start = |ns: &Netns, role: &str, address: SocketAddr| {
        let mut command = ns.command(machine::python());
        command.arg(machine::script("peer.py")).arg(role);
        command.args(["--host", &address.ip().to_string()]);
        let numbers = [
            ("--port", u64::from(address.port())),
            ("--connections", script.connections),
            ("--messages", script.messages),
            ("--seed", script.seed),
            ("--code", u64::from(script.code)),
        ];
        for (flag, n) in numbers {
            command.args([flag, &n.to_string()]);
        }
        let (closer, deflate) = (script.closer == Closer::Client, script.deflate);
        command.args(["--closer", if closer { "client" } else { "server" }]);
        command.args(deflate.then_some("--deflate"));
        Process::spawn(command)
    };
    let mut listening = start(server, "server", on);
    eventually("the Python server listens", Duration::from_secs(15), || {
        listening.must_live();
        let ready = listening.stdout().starts_with("ready");
        ready.then_some(()).ok_or_else(|| listening.stderr())
    });
    let reports = [start(client, "client", to), listening].map(|peer| {
        let (status, stdout) = peer.wait(Duration::from_secs(60));
        assert!(status.success(), "a Python peer ended with {status}");
        let json = stdout
            .lines()
            .find(|line| line.starts_with('{'))
            .expect("a report");
        Report::from_json(&serde_json::from_str(json).expect("JSON"))
    });
    let initiator = if script.closer == Closer::Client {
        "client"
    } else {
        "server"
    };
    let tally = Tally::agreed(&reports[0], &reports[1], initiator);
    assert_eq!(tally.closed.values().sum::<u64>(), script.connections);
    tally
}
