//! Agents that end, begin and overlap while connections are open and traffic flows.

use std::{
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use super::{
    ATTACH, Pair, at,
    support::{
        agent::{Agent, held},
        eventually,
        load::{Load, Script},
        machine::turn,
        netns::Netns,
        tally::Tally,
    },
};

fn load(pair: &Pair, connections: u64) -> Load {
    let script = Script {
        connections,
        ..Script::default()
    };
    Load::open(
        &pair.client,
        &pair.server,
        at(Pair::V4),
        at(Pair::V4),
        script,
    )
}

fn frames(tally: &Tally) -> u64 {
    tally.client_to_server.total() + tally.server_to_client.total()
}

fn handshakes(agent: &Agent<'_>, outcome: &str) -> u64 {
    let metrics = agent.metrics();
    metrics.sum("websocket_handshakes_total", &[("outcome", outcome)])
}

#[test]
fn a_killed_agents_successor_goes_on_and_counts_nothing_twice() {
    let Some(_turn) = turn() else { return };
    for attach in ATTACH {
        let pair = Pair::new();
        let first = Agent::run(&pair.server, &format!("--attach {attach}"));
        let load = load(&pair, 10);
        load.exchange(20);
        let before = load.so_far();
        first.must_have_active(10);
        eventually("the first has counted", Duration::from_secs(10), || {
            let (counted, sent) = (frames(&first.tally()), frames(&before));
            (counted == sent)
                .then_some(())
                .ok_or_else(|| format!("{counted} of {sent}"))
        });
        first.process.signal(Signal::SIGKILL);
        first.process.wait(Duration::from_secs(5));
        // Nobody looks, and the peers do not notice.
        load.exchange(10);
        let unseen = load.so_far();

        let second = Agent::run(&pair.server, &format!("--attach {attach}"));
        assert_eq!(second.tally(), Tally::default(), "nothing has passed yet");
        let started = Instant::now();
        load.exchange(40);
        second.must_have_active(10);
        eprintln!(
            "{attach}: 10 of 10 connections followed after {:?}",
            started.elapsed()
        );
        assert_eq!(handshakes(&second, "midstream"), 10);
        assert_eq!(handshakes(&second, "accepted"), 0);
        thread::sleep(Duration::from_millis(500));
        let sent = frames(&load.so_far()) - frames(&unseen);
        let counted = frames(&second.tally());
        assert!(counted <= sent, "{attach}: {counted} counted of {sent}");
        assert!(
            counted * 10 >= sent * 8,
            "{attach}: {counted} counted of {sent}"
        );
        let closed = load.close().closed;
        second.must_have_active(0);
        assert_eq!(second.tally().closed, closed, "{attach}");
    }
}

#[test]
fn old_and_new_agents_overlap() {
    let Some(_turn) = turn() else { return };
    for attach in ATTACH {
        let pair = Pair::new();
        let flags = format!("--attach {attach}");
        let old = Agent::run(&pair.server, &flags);
        let load = load(&pair, 5);
        load.exchange(10);
        let before = load.so_far();
        let new = Agent::run(&pair.server, &flags);
        load.exchange(30);
        // Each counts for itself: as separate targets their sum is twice what passed meanwhile.
        old.must_have_active(5);
        new.must_have_active(5);
        let both = load.so_far();
        eventually(
            "the old one has counted all",
            Duration::from_secs(10),
            || {
                let counted = frames(&old.tally());
                (counted == frames(&both))
                    .then_some(())
                    .ok_or_else(|| format!("{counted} of {}", frames(&both)))
            },
        );
        assert!(frames(&new.tally()) <= frames(&both) - frames(&before));
        assert_eq!(handshakes(&old, "accepted"), 5);
        assert_eq!(handshakes(&new, "midstream"), 5);
        assert_eq!(handshakes(&new, "accepted"), 0);

        // The filters of the one that goes go, those of the other stay, and count.
        old.stop(Signal::SIGTERM);
        let counted = frames(&new.tally());
        load.exchange(10);
        let after = frames(&load.so_far()) - frames(&both);
        eventually("the new one counts on", Duration::from_secs(10), || {
            let more = frames(&new.tally()) - counted;
            (more == after)
                .then_some(())
                .ok_or_else(|| format!("{more} of {after}"))
        });
        let closed = load.close().closed;
        new.must_have_active(0);
        assert_eq!(new.tally().closed, closed, "{attach}");
    }
}

/// Interfaces, in pairs, up.
fn many(ns: &Netns, pairs: usize) {
    for i in 0..pairs {
        ns.ip(&format!("link add a{i} up type veth peer name b{i}"));
        ns.ip(&format!("link set b{i} up"));
    }
}

#[test]
fn with_many_interfaces_it_is_ready_when_all_are_attached_and_not_from_the_first_signal_on() {
    let Some(_turn) = turn() else { return };
    let ns = Netns::new("many");
    many(&ns, 20);
    let agent = Agent::run(&ns, "--attach tcx");
    let attached = agent.metrics().sum("wstap_interfaces_attached", &[]);
    assert_eq!(attached, 41, "ready means attached");
    agent.process.signal(Signal::SIGTERM);
    let asked = Instant::now();
    eventually(
        "it is not ready any more",
        Duration::from_secs(1),
        || match ns.http_get(agent.listen, "/readyz") {
            Ok((503, body)) if body.contains("stopping") => Ok(()),
            other => Err(format!("{other:?}")),
        },
    );
    // What was counted is served while the kernel detaches.
    agent.scrape();
    assert!(asked.elapsed() < Duration::from_secs(1));
    let (status, _) = agent.process.wait(Duration::from_secs(10));
    assert!(status.success());
    assert!(!ns.run("bpftool", &["net", "show"]).contains("wstap"));
}

#[test]
fn a_second_signal_ends_it_at_once_and_leaves_nothing() {
    let Some(_turn) = turn() else { return };
    let ns = Netns::new("many");
    many(&ns, 20);
    let agent = Agent::run(&ns, "--attach tcx");
    assert!(!held(agent.process.pid(), "prog_id").is_empty());
    agent.process.signal(Signal::SIGTERM);
    thread::sleep(Duration::from_millis(100));
    agent.process.signal(Signal::SIGINT);
    let (status, _) = agent.process.wait(Duration::from_secs(10));
    assert_eq!(status.code(), Some(1));
    assert!(!ns.run("bpftool", &["net", "show"]).contains("wstap"));
}
