//! What is attached while the agent lives, and what remains of it.

use std::{process::Command, time::Duration};

use log::LevelFilter;
use nix::{sys::signal::Signal, unistd::Pid};
use serde_json::Value;
use wstap::{
    commands::live::Source,
    config::{AttachMode, CaptureConfig, CopyMode, InterfaceSelection, NamespaceSelection},
    proto::{event::Event, observer},
    sink::Sink,
    source::kernel::Wake,
};
use wstap_common::counter::Counter;

use super::{
    ATTACH, Pair, at,
    support::{
        agent::{Agent, held},
        eventually,
        load::{Load, Script},
        machine::turn,
        netns::{Netns, run},
    },
};

/// All filters of a device, both ways.
pub(super) fn filters(ns: &Netns, device: &str) -> String {
    ["ingress", "egress"]
        .map(|hook| ns.tc(&format!("filter show dev {device} {hook}")))
        .concat()
}

/// Lines of our filters.
pub(super) fn ours(filters: &str) -> usize {
    filters
        .lines()
        .filter(|line| line.contains("wstap_"))
        .count()
}

pub(super) fn has_clsact(ns: &Netns, device: &str) -> bool {
    ns.tc(&format!("qdisc show dev {device}"))
        .contains("clsact")
}

/// Waits until the kernel has none of these programs any more.
#[track_caller]
pub(super) fn must_be_unloaded(programs: impl IntoIterator<Item = u32>) {
    for id in programs {
        eventually("the program is gone", Duration::from_secs(5), || {
            let id = id.to_string();
            let shown = Command::new("bpftool")
                .args(["prog", "show", "id", &id])
                .output();
            let shown = shown.expect("bpftool runs");
            let text = String::from_utf8_lossy(&shown.stdout).into_owned();
            if shown.status.success() {
                Err(text)
            } else {
                Ok(())
            }
        });
    }
}

/// Runs the agent, has it count something, and ends it; the programs that it had loaded.
fn run_and_end(pair: &Pair, attach: &str, signal: Signal) -> Vec<u32> {
    let agent = Agent::run(&pair.server, &format!("--attach {attach}"));
    let programs: Vec<_> = held(agent.process.pid(), "prog_id").into_iter().collect();
    assert!(
        !programs.is_empty(),
        "an agent that is ready has loaded programs"
    );
    let attached = ours(&filters(&pair.server, "s0"));
    assert_eq!(
        attached,
        if attach == "clsact" { 2 } else { 0 },
        "one filter for each direction"
    );

    // Its end comes in the middle of something.
    let load = Load::open(
        &pair.client,
        &pair.server,
        at(Pair::V4),
        at(Pair::V4),
        Script::default(),
    );
    load.exchange(10);
    agent.must_have_active(3);
    if signal == Signal::SIGKILL {
        agent.process.signal(signal);
        let (status, _) = agent.process.wait(Duration::from_secs(5));
        assert!(!status.success());
    } else {
        agent.stop(signal);
    }
    // The traffic has not noticed.
    load.exchange(10);
    load.close();
    programs
}

#[test]
fn signals_leave_nothing_behind() {
    let Some(_turn) = turn() else { return };
    for attach in ATTACH {
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            let pair = Pair::new();
            let programs = run_and_end(&pair, attach, signal);
            for device in ["lo", "s0"] {
                assert_eq!(
                    filters(&pair.server, device),
                    "",
                    "{attach}, {signal}, {device}"
                );
                assert!(
                    !has_clsact(&pair.server, device),
                    "{attach}, {signal}, {device}"
                );
            }
            must_be_unloaded(programs);
            let net = pair.server.run("bpftool", &["net", "show"]);
            assert!(!net.contains("wstap"), "{attach}, {signal}: {net}");
        }
    }
}

#[test]
fn tcx_goes_with_a_killed_agent() {
    let Some(_turn) = turn() else { return };
    let pair = Pair::new();
    let programs = run_and_end(&pair, "tcx", Signal::SIGKILL);
    must_be_unloaded(programs);
    for device in ["lo", "s0"] {
        assert_eq!(filters(&pair.server, device), "");
        assert!(!has_clsact(&pair.server, device));
    }
}

#[test]
fn clsact_filters_of_a_killed_agent_are_replaced() {
    let Some(_turn) = turn() else { return };
    let pair = Pair::new();
    let mut orphans = run_and_end(&pair, "clsact", Signal::SIGKILL);
    assert_eq!(
        ours(&filters(&pair.server, "s0")),
        2,
        "nobody was left to remove them"
    );
    // Killed twice, they are still replaced and not added to.
    orphans.extend(run_and_end(&pair, "clsact", Signal::SIGKILL));
    assert_eq!(ours(&filters(&pair.server, "s0")), 2);

    let agent = Agent::run(&pair.server, "--attach clsact");
    assert_eq!(ours(&filters(&pair.server, "s0")), 2);
    must_be_unloaded(orphans);
    let tally = Load::whole(
        &pair.client,
        &pair.server,
        at(Pair::V6),
        at(Pair::V6),
        Script::default(),
        20,
    );
    agent.must_count(&tally);
    agent.stop(Signal::SIGTERM);
    for device in ["lo", "s0"] {
        assert_eq!(filters(&pair.server, device), "");
        // It held nothing but filters of ours, so that it is ours too, whoever made it.
        assert!(!has_clsact(&pair.server, device), "{device}");
    }
}

#[test]
fn clsact_filters_of_a_killed_agent_go_inert() {
    let Some(_turn) = turn() else { return };
    let pair = Pair::new();
    let agent = Agent::run(&pair.server, "--attach clsact -i s0");
    let counters = held(agent.process.pid(), "map_id")
        .into_iter()
        .find(|id| bpftool(&["map", "show", "id", &id.to_string()]).contains("COUNTERS"))
        .expect("the agent holds its map of counters");
    agent.process.signal(Signal::SIGKILL);
    agent.process.wait(Duration::from_secs(5));

    // The filter keeps the map; what is left of the agent's last heartbeat is some seconds.
    eventually("the filter has gone inert", Duration::from_secs(15), || {
        let traffic = || {
            Load::whole(
                &pair.client,
                &pair.server,
                at(Pair::V4),
                at(Pair::V4),
                Script::default(),
                1,
            )
        };
        let before = (
            counted(counters, Counter::Inert),
            counted(counters, Counter::Samples),
        );
        traffic();
        let after = (
            counted(counters, Counter::Inert),
            counted(counters, Counter::Samples),
        );
        if after.0 > before.0 && after.1 == before.1 {
            Ok(())
        } else {
            Err(format!(
                "inert packets and samples: {before:?}, then {after:?}"
            ))
        }
    });
}

/// The sum over all processors of a counter in the map `id`.
fn counted(id: u32, counter: Counter) -> u64 {
    let key = (counter as u32).to_ne_bytes().map(|byte| byte.to_string());
    let id = id.to_string();
    let lookup = ["-j", "map", "lookup", "id", &id, "key"];
    let lookup: Vec<_> = lookup
        .into_iter()
        .chain(key.iter().map(String::as_str))
        .collect();
    let found: Value = serde_json::from_str(&bpftool(&lookup)).expect("JSON");
    let values = found["values"]
        .as_array()
        .expect("a value for each processor");
    let sum = values.iter().map(|value| {
        let bytes = value["value"]
            .as_array()
            .expect("bytes")
            .iter()
            .map(|byte| {
                let hex = byte.as_str().and_then(|byte| byte.strip_prefix("0x"));
                u8::from_str_radix(hex.expect("a byte"), 16).expect("a byte")
            });
        let bytes: Vec<u8> = bytes.collect();
        u64::from_ne_bytes(bytes.try_into().expect("eight bytes"))
    });
    sum.sum()
}

fn bpftool(args: &[&str]) -> String {
    run(Command::new("bpftool").args(args))
}

#[test]
fn clsact_filters_of_a_killed_agent_are_removed_when_the_next_uses_tcx() {
    let Some(_turn) = turn() else { return };
    let pair = Pair::new();
    let orphans = run_and_end(&pair, "clsact", Signal::SIGKILL);
    let agent = Agent::run(&pair.server, "--attach tcx");
    assert_eq!(filters(&pair.server, "s0"), "");
    must_be_unloaded(orphans);
    agent.stop(Signal::SIGTERM);
}

#[test]
fn foreign_filters_and_qdiscs_stay() {
    let Some(_turn) = turn() else { return };
    for attach in ATTACH {
        let pair = Pair::new();
        let ns = &pair.server;
        ns.tc("qdisc add dev s0 clsact");
        for hook in ["ingress", "egress"] {
            // It ends the chain for every packet: only what stands before it sees anything.
            ns.tc(&format!(
                "filter add dev s0 {hook} protocol all pref 10 u32 match u32 0 0 classid 1:1"
            ));
        }
        let before = filters(ns, "s0");
        assert!(before.contains("u32"), "{before}");
        let mut programs = Vec::new();
        for signal in [Signal::SIGTERM, Signal::SIGKILL, Signal::SIGINT] {
            let agent = Agent::run(ns, &format!("--attach {attach}"));
            let tally = Load::whole(
                &pair.client,
                ns,
                at(Pair::V4),
                at(Pair::V4),
                Script::default(),
                10,
            );
            agent.must_count(&tally);
            programs.extend(held(agent.process.pid(), "prog_id"));
            if signal == Signal::SIGKILL {
                agent.process.signal(signal);
                agent.process.wait(Duration::from_secs(5));
            } else {
                agent.stop(signal);
                assert_eq!(filters(ns, "s0"), before, "{attach}, {signal}");
            }
            assert!(has_clsact(ns, "s0"), "{attach}, {signal}");
        }
        must_be_unloaded(programs);
        assert_eq!(filters(ns, "s0"), before, "{attach}");
    }
}

#[test]
fn two_agents_at_once_count_the_same() {
    let Some(_turn) = turn() else { return };
    let pair = Pair::new();
    let first = Agent::run(&pair.server, "--attach tcx");
    let second = Agent::run(&pair.server, "--attach tcx");
    let tally = Load::whole(
        &pair.client,
        &pair.server,
        at(Pair::V4),
        at(Pair::V4),
        Script::default(),
        20,
    );
    first.must_count(&tally);
    second.must_count(&tally);
    first.stop(Signal::SIGTERM);
    let more = Load::whole(
        &pair.client,
        &pair.server,
        at(Pair::V6),
        at(Pair::V6),
        Script::default(),
        20,
    );
    second.must_count(&(tally + &more));
}

/// A sink with a defect.
struct Panicking;

impl Sink for Panicking {
    fn event(&mut self, _: &Event) -> std::io::Result<()> {
        panic!("on purpose")
    }
}

#[test]
fn a_panic_leaves_nothing_behind() {
    let Some(_turn) = turn() else { return };
    for (attach, filters_while_alive) in [(AttachMode::Tcx, 0), (AttachMode::Clsact, 2)] {
        let pair = Pair::new();
        let config = CaptureConfig {
            interfaces: InterfaceSelection::new(&[], &[]).expect("a selection"),
            namespaces: NamespaceSelection::default(),
            ports: Vec::new(),
            ring_buffer: 1 << 20,
            attach,
            snap_length: 1 << 16,
            copy: CopyMode::Headers,
            preview: 0,
            max_connections: 1000,
            max_candidates: 1000,
            kernel_log: LevelFilter::Off,
        };
        let (attached, is_attached) = std::sync::mpsc::channel();
        let agent = pair.server.spawn(move || {
            let source = Source::open(&config, Wake::Each).expect("it attaches");
            let session = source.start(&observer::Config::default(), Panicking, |_| {});
            let mut session = session.expect("there are threads");
            attached.send(()).expect("somebody waits");
            tokio::runtime::Builder::new_current_thread()
                .build()
                .expect("a runtime")
                .block_on(session.ended());
            // Unwinds with the panic of the reader, and detaches on its way.
            session.stop().map(drop)
        });
        is_attached
            .recv_timeout(Duration::from_secs(10))
            .expect("it attaches");
        eventually("it is attached", Duration::from_secs(5), || {
            match ours(&filters(&pair.server, "s0")) {
                n if n == filters_while_alive => Ok(()),
                n => Err(format!("{n} filters")),
            }
        });
        let programs = held(Pid::this(), "prog_id");
        assert!(!programs.is_empty(), "{attach:?}: nothing is loaded");
        let load = Load::open(
            &pair.client,
            &pair.server,
            at(Pair::V4),
            at(Pair::V4),
            Script::default(),
        );
        assert!(agent.join().is_err(), "the panic is passed on");
        load.exchange(10);
        load.close();
        for device in ["lo", "s0"] {
            assert_eq!(filters(&pair.server, device), "", "{attach:?}, {device}");
            assert!(!has_clsact(&pair.server, device), "{attach:?}, {device}");
        }
        must_be_unloaded(programs);
    }
}
