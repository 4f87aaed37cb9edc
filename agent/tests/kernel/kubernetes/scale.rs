//! More pods than a node has.

use std::time::Instant;

use super::*;

/// Resident memory of a process in KiB.
fn resident(agent: &Agent<'_>) -> u64 {
    let status =
        fs::read_to_string(format!("/proc/{}/status", agent.process.pid())).expect("a process");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .expect("VmRSS");
    line.trim()
        .trim_end_matches(" kB")
        .parse()
        .expect("a number")
}

#[test]
fn ten_thousand_pods() {
    let Some(_turn) = turn() else { return };
    let node = Node::new();
    let before = {
        let agent = Agent::run(&node.host, "--kubernetes off");
        std::thread::sleep(Duration::from_secs(2));
        resident(&agent)
    };
    node.deploy();
    for n in 0..10_000u32 {
        let set = format!("web{}-7c9d", n / 10);
        if n % 10 == 0 {
            node.cluster.put(
                "replicasets",
                owned(&set, Some(("Deployment", &format!("web{}", n / 10)))),
            );
        }
        let address = Ipv4Addr::from(0x0a80_0000 + n).to_string();
        let v6 = format!("fd80::{n:x}");
        node.cluster.put(
            "pods",
            pod(
                &format!("{set}-{n:05}"),
                &[&address, &v6],
                Some(("ReplicaSet", &set)),
            ),
        );
    }
    let started = Instant::now();
    let agent = node.agent("");
    until_known(&agent, 10_000);
    let took = started.elapsed();
    std::thread::sleep(Duration::from_secs(1));
    let after = resident(&agent);
    eprintln!(
        "10 000 pods: known {took:?} after the start; resident {before} KiB without, {after} KiB with"
    );
    assert!(
        after < before + (40 << 10),
        "{before} KiB without, {after} KiB with"
    );
    let pages = node
        .cluster
        .requests()
        .iter()
        .filter(|target| target.contains("limit=100"))
        .count();
    assert!(pages >= 100, "{pages} pages");
    // There were two more than there was room for.
    assert_eq!(
        agent
            .metrics()
            .sum("wstap_limit_exceeded_total", &[("limit", "pods")]),
        2
    );
}
