//! More pods than a node has.

use std::time::Instant;

use super::*;
use crate::walk::{
    conversation::Conversation,
    disorder::{Rates, deliver},
    inject::Injector,
    random::Random,
};

/// Pods, and connections between them.
const MANY: u16 = 10_000;

/// The address of the `n`th pod.
fn address(n: u16) -> Ipv4Addr {
    Ipv4Addr::from(0x0a80_0000 + u32::from(n))
}

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
    for n in 0..MANY {
        let set = format!("web{}-7c9d", n / 10);
        if n % 10 == 0 {
            node.cluster.put(
                "replicasets",
                owned(&set, Some(("Deployment", &format!("web{}", n / 10)))),
            );
        }
        let address = address(n).to_string();
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
    until_known(&agent, MANY.into());
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

    // From each a connection to the next.
    node.client
        .spawn(|| {
            let injector = Injector::open("c0");
            for n in 0..MANY {
                let client = SocketAddr::from((address(n), 40_000));
                let server = SocketAddr::from((address((n + 1) % MANY), 8080));
                let conversation = Conversation::between(n, [client, server]);
                let mut random = Random::new(n.into());
                let traffic = deliver(&conversation, &Rates::default(), &mut random);
                for packet in &traffic.packets {
                    injector.send(&packet.bytes);
                }
                if n % 8 == 0 {
                    // What the other end has not taken yet must not become too much for its queue.
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
        })
        .join()
        .expect("all are sent");
    agent.must_have_active(MANY.into());
    let asked = Instant::now();
    let (_, text) = node
        .host
        .http_get(agent.listen, "/metrics")
        .expect("an answer");
    let took = asked.elapsed();
    let series = text.lines().filter(|line| !line.starts_with('#')).count();
    let open = resident(&agent);
    eprintln!(
        "{MANY} connections between them: {open} KiB; {series} series, {} KiB, in {took:?}",
        text.len() >> 10
    );
    assert!(open < after + (100 << 10), "{after} KiB before, {open} KiB");
    eventually("each frame is counted", PATIENCE, || {
        let frames = agent.metrics().sum("websocket_frames_total", &[]);
        (frames == 2 * u64::from(MANY))
            .then_some(())
            .ok_or_else(|| format!("{frames} are"))
    });
}
