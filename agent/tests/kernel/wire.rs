//! What a kernel would not send by itself: wrappings, orders and sequence numbers of
//! `tests/peers/raw.py`, written to a device frame by frame.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::{
    ATTACH, Pair,
    support::{
        agent::{Agent, Process},
        eventually,
        machine::{self, turn},
        netns::{Netns, run},
        tally::{Report, Tally},
    },
};

/// Sends cases from a device: what was in them.
#[track_caller]
fn send(ns: &Netns, device: &str, cases: &[String]) -> (Tally, Value) {
    let mut command = ns.command(machine::python());
    command
        .arg(machine::script("raw.py"))
        .arg(device)
        .args(cases);
    let (status, stdout) = Process::spawn(command).wait(Duration::from_secs(20));
    assert!(status.success(), "{status}");
    let value: Value = serde_json::from_str(&stdout).expect("a report");
    let report = Report::from_json(&value);
    let closed = report
        .closed
        .iter()
        .map(|(code, n)| (format!("clean {code} client"), *n));
    let tally = Tally {
        client_to_server: report.sent,
        server_to_client: report.received,
        closed: closed.collect(),
    };
    (tally, value)
}

/// Names of the cases that are to be counted exactly.
fn whole_cases() -> Vec<String> {
    let mut command = std::process::Command::new(machine::python());
    let list = run(command.arg(machine::script("raw.py")).arg("--list"));
    list.lines()
        .filter(|case| !case.starts_with("fragments"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_wrapping_is_counted_exactly_at_ingress() {
    let Some(_turn) = turn() else { return };
    for attach in ATTACH {
        let pair = Pair::new();
        let agent = Agent::run(&pair.server, &format!("--attach {attach} -i s0"));
        each_case(&agent, &pair, attach);
    }
}

#[test]
fn every_wrapping_is_counted_exactly_at_egress() {
    let Some(_turn) = turn() else { return };
    for attach in ATTACH {
        let pair = Pair::new();
        let agent = Agent::run(&pair.client, &format!("--attach {attach} -i c0"));
        each_case(&agent, &pair, attach);
    }
}

/// One case after the other, so that a difference has a name.
#[track_caller]
fn each_case(agent: &Agent, pair: &Pair, attach: &str) {
    let cases = whole_cases();
    assert!(cases.len() > 15, "{cases:?}");
    let mut wrong = Vec::new();
    for case in cases {
        let before = agent.tally();
        let (sent, _) = send(&pair.client, "c0", std::slice::from_ref(&case));
        let expected = before + &sent;
        let start = Instant::now();
        let mut counted = agent.tally();
        while counted != expected && start.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(Duration::from_millis(25));
            counted = agent.tally();
        }
        if counted != expected {
            let losses = agent.losses();
            wrong.push(format!(
                "{case}: expected\n{expected}\nagent\n{counted}\nlosses: {losses}"
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{attach}, differently:\n{}",
        wrong.join("\n\n")
    );
}

#[test]
fn all_wrappings_at_once() {
    let Some(_turn) = turn() else { return };
    let pair = Pair::new();
    let agent = Agent::run(&pair.server, "");
    let (expected, _) = send(&pair.client, "c0", &whole_cases());
    agent.must_count(&expected);
    agent.must_have_active(0);
}

#[test]
fn ip_fragments_are_counted_and_left() {
    let Some(_turn) = turn() else { return };
    let pair = Pair::new();
    let agent = Agent::run(&pair.server, "");
    let cases = ["fragments", "fragments-ipv6"].map(str::to_owned);
    let (expected, report) = send(&pair.client, "c0", &cases);
    let fragments = report["fragments"].as_u64().expect("a number");
    assert!(fragments > 0);
    eventually(
        "fragments are counted, and the connections end",
        Duration::from_secs(10),
        || {
            let metrics = agent.metrics();
            let counted = metrics.sum("wstap_kernel_packets_total", &[("verdict", "fragment")]);
            let closed = metrics.sum("websocket_connections_closed_total", &[("kind", "clean")]);
            if (counted, closed) == (fragments, 2) {
                Ok(())
            } else {
                Err(format!(
                    "{counted} of {fragments} fragments, {closed} of 2 connections"
                ))
            }
        },
    );
    // The headers of all frames were in first fragments: what is missing is payload.
    let counted = agent.tally();
    assert_eq!(
        counted.client_to_server.frames,
        expected.client_to_server.frames
    );
    assert_eq!(
        counted.server_to_client.frames,
        expected.server_to_client.frames
    );
}
