//! Which interfaces and ports are watched, also those that come and go.

use nix::sys::signal::Signal;

use super::{
    ATTACH, Pair, at,
    support::{
        agent::Agent,
        load::{Load, Script},
        machine::turn,
        netns::{self, Netns},
        tally::Tally,
    },
};

#[test]
fn interfaces_come_and_go() {
    let Some(_turn) = turn() else { return };
    for attach in ATTACH {
        let (client, server) = (Netns::new("client"), Netns::new("server"));
        let agent = Agent::run(&client, &format!("--attach {attach}"));
        agent.must_be_attached(1);
        let mut expected = Tally::default();
        for seed in 0..2 {
            Netns::veth(
                (&client, "c0", &Pair::CLIENT),
                (&server, "s0", &Pair::SERVER),
            );
            agent.must_be_attached(2);
            let script = Script {
                seed,
                ..Script::default()
            };
            let tally = Load::whole(&client, &server, at(Pair::V4), at(Pair::V4), script, 20);
            expected = expected + &tally;
            agent.must_count(&expected);
            client.ip("link delete c0");
            agent.must_be_attached(1);
        }
        agent.stop(Signal::SIGTERM);
    }
}

#[test]
fn nothing_is_missed_where_the_kernel_drops_messages() {
    let Some(_turn) = turn() else { return };
    let ns = Netns::new("crowd");
    let agent = Agent::run(&ns, "");
    agent.must_be_attached(1);
    // What it does not read fills its socket with what was before, and the rest is dropped.
    agent.process.signal(Signal::SIGSTOP);
    ns.ip("link add late type veth peer name later");
    let crowd: String = (0..1000)
        .map(|i| format!("link set later mtu {}\n", 1400 + i % 2))
        .collect();
    let mut batch = ns.command("sh");
    batch.args(["-ec", &format!("ip -batch - <<END\n{crowd}END")]);
    netns::run(&mut batch);
    ns.ip("link set late up");
    ns.ip("link set later up");
    agent.process.signal(Signal::SIGCONT);
    agent.must_be_attached(3);
}

#[test]
fn interfaces_that_are_down_are_attached_when_they_come_up() {
    let Some(_turn) = turn() else { return };
    let pair = Pair::new();
    pair.client.ip("link set c0 down");
    let agent = Agent::run(&pair.client, "");
    agent.must_be_attached(1);
    pair.client.ip("link set c0 up");
    agent.must_be_attached(2);
    let tally = Load::whole(
        &pair.client,
        &pair.server,
        at(Pair::V4),
        at(Pair::V4),
        Script::default(),
        20,
    );
    agent.must_count(&tally);
}

#[test]
fn interfaces_by_name() {
    let Some(_turn) = turn() else { return };
    let pair = Pair::new();
    Netns::veth(
        (&pair.client, "other0", &["10.78.0.1/24"]),
        (&pair.server, "other1", &["10.78.0.2/24"]),
    );
    for (flags, attached) in [
        ("-i c*", 1),
        ("--interface c0 --interface absent*", 1),
        ("--exclude-interface other*", 2),
        ("-i * --exclude-interface lo --exclude-interface other?", 1),
    ] {
        let agent = Agent::run(&pair.client, flags);
        agent.must_be_attached(attached);
        let unseen = at("10.78.0.2:8080");
        Load::whole(
            &pair.client,
            &pair.server,
            unseen,
            unseen,
            Script::default(),
            5,
        );
        let tally = Load::whole(
            &pair.client,
            &pair.server,
            at(Pair::V4),
            at(Pair::V4),
            Script::default(),
            5,
        );
        agent.must_count(&tally);
    }
}

#[test]
fn ports_by_number_and_range() {
    let Some(_turn) = turn() else { return };
    let pair = Pair::new();
    for flags in ["-p 8080", "--port 8000-8090", "-p 1 -p 8080-8080"] {
        let agent = Agent::run(&pair.client, flags);
        let unseen = at("10.77.0.2:9090");
        Load::whole(
            &pair.client,
            &pair.server,
            unseen,
            unseen,
            Script::default(),
            5,
        );
        let tally = Load::whole(
            &pair.client,
            &pair.server,
            at(Pair::V4),
            at(Pair::V4),
            Script::default(),
            5,
        );
        agent.must_count(&tally);
        let labels = [("verdict", "unwatched_port")];
        assert!(agent.metrics().sum("wstap_kernel_packets_total", &labels) > 0);
    }
}
