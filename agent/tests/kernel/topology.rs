//! Wherever a connection passes, it is counted once, and exactly.

use super::{
    ATTACH, Pair, at,
    support::{
        agent::Agent,
        load::{Closer, Load, Script},
        machine::turn,
        netns::Netns,
        row::Row,
    },
};

#[test]
fn veth_at_the_clients_end() {
    let Some(_turn) = turn() else { return };
    for attach in ATTACH {
        let pair = Pair::new();
        let agent = Agent::run(&pair.client, &format!("--attach {attach}"));
        let v4 = Load::whole(
            &pair.client,
            &pair.server,
            at(Pair::V4),
            at(Pair::V4),
            Script::default(),
            60,
        );
        agent.must_count(&v4);
        let script = Script {
            seed: 2,
            ..Script::default()
        };
        let v6 = Load::whole(
            &pair.client,
            &pair.server,
            at(Pair::V6),
            at(Pair::V6),
            script,
            60,
        );
        agent.must_count(&(v4 + &v6));
        agent.must_have_active(0);
    }
}

#[test]
fn veth_at_the_servers_end() {
    let Some(_turn) = turn() else { return };
    for attach in ATTACH {
        let pair = Pair::new();
        let agent = Agent::run(&pair.server, &format!("--attach {attach}"));
        let script = Script {
            closer: Closer::Server,
            seed: 3,
            ..Script::default()
        };
        let v4 = Load::whole(
            &pair.client,
            &pair.server,
            at(Pair::V4),
            at(Pair::V4),
            script.clone(),
            60,
        );
        agent.must_count(&v4);
        let v6 = Load::whole(
            &pair.client,
            &pair.server,
            at(Pair::V6),
            at(Pair::V6),
            script,
            60,
        );
        agent.must_count(&(v4 + &v6));
        agent.must_have_active(0);
    }
}

#[test]
fn loopback_passes_both_hooks_and_counts_once() {
    let Some(_turn) = turn() else { return };
    for attach in ATTACH {
        let ns = Netns::new("lo");
        let agent = Agent::run(&ns, &format!("--attach {attach}"));
        let (v4, v6) = (at("127.0.0.1:8080"), at("[::1]:8080"));
        let first = Load::whole(&ns, &ns, v4, v4, Script::default(), 60);
        agent.must_count(&first);
        let second = Load::whole(&ns, &ns, v6, v6, Script::default(), 60);
        agent.must_count(&(first + &second));
    }
}

#[test]
fn both_ends_of_a_pair_in_one_namespace() {
    let Some(_turn) = turn() else { return };
    // Container and host of one machine, seen by one agent: the middle joins two pairs.
    let row = Row::new();
    let (client, host, server) = (&row.client, &row.middle, &row.server);
    row.route();
    for attach in ATTACH {
        let agent = Agent::run(host, &format!("--attach {attach}"));
        let to = at("10.77.2.2:8080");
        let tally = Load::whole(client, server, to, to, Script::default(), 60);
        agent.must_count(&tally);
    }
}

#[test]
fn bridge_between_two_ports() {
    let Some(_turn) = turn() else { return };
    let (client, host, server) = (
        Netns::new("client"),
        Netns::new("host"),
        Netns::new("server"),
    );
    bridge(&client, &host, &server);
    for attach in ATTACH {
        let agent = Agent::run(&host, &format!("--attach {attach}"));
        let to = at("10.77.0.2:8080");
        let v4 = Load::whole(&client, &server, to, to, Script::default(), 60);
        agent.must_count(&v4);
        let to = at("[fd77::2]:8080");
        let v6 = Load::whole(&client, &server, to, to, Script::default(), 60);
        agent.must_count(&(v4 + &v6));
    }
}

#[test]
fn bridge_to_the_host_itself() {
    let Some(_turn) = turn() else { return };
    let (client, host, server) = (
        Netns::new("client"),
        Netns::new("host"),
        Netns::new("server"),
    );
    bridge(&client, &host, &server);
    for attach in ATTACH {
        let agent = Agent::run(&host, &format!("--attach {attach}"));
        // Each segment passes the port and the bridge.
        let to = at("10.77.0.254:8080");
        let inward = Load::whole(&client, &host, to, to, Script::default(), 60);
        agent.must_count(&inward);
        let to = at("10.77.0.2:8080");
        let outward = Load::whole(&host, &server, to, to, Script::default(), 60);
        agent.must_count(&(inward + &outward));
    }
}

fn bridge(client: &Netns, host: &Netns, server: &Netns) {
    host.ip("link add name br0 type bridge");
    host.ip("address add 10.77.0.254/24 dev br0");
    host.ip("address add fd77::fe/64 dev br0 nodad");
    host.ip("link set br0 up");
    Netns::veth((client, "c0", &Pair::CLIENT), (host, "hc", &[]));
    Netns::veth((server, "s0", &Pair::SERVER), (host, "hs", &[]));
    host.ip("link set hc master br0");
    host.ip("link set hs master br0");
}

#[test]
fn nat_changes_addresses_not_counts() {
    let Some(_turn) = turn() else { return };
    let row = Row::new();
    let (client, router, server) = (&row.client, &row.middle, &row.server);
    row.translate();
    for attach in ATTACH {
        let agent = Agent::run(router, &format!("--attach {attach}"));
        let (to, on) = (Row::service(), Row::translated());
        let tally = Load::whole(client, server, to, on, Script::default(), 60);
        agent.must_count(&tally);
        agent.must_have_active(0);
    }
}

#[test]
fn labels_say_which_end_is_on_this_node() {
    let Some(_turn) = turn() else { return };
    let (client, host, server) = (
        Netns::new("client"),
        Netns::new("host"),
        Netns::new("server"),
    );
    bridge(&client, &host, &server);
    let one = || Script {
        connections: 1,
        ..Script::default()
    };
    for (at_client, at_server, to, sides) in [
        (
            &client,
            &server,
            "10.77.0.2:8080",
            ["client", "both", "server"],
        ),
        (&client, &host, "10.77.0.254:8080", ["client", "both", ""]),
        (&host, &server, "[fd77::2]:8080", ["", "both", "server"]),
        (&host, &host, "127.0.0.1:8080", ["", "both", ""]),
        (&host, &host, "10.77.0.254:8080", ["", "both", ""]),
    ] {
        let agents = [&client, &host, &server].map(|ns| Agent::run(ns, ""));
        let tally = Load::whole(at_client, at_server, at(to), at(to), one(), 5);
        for (agent, side) in agents.iter().zip(sides) {
            if side.is_empty() {
                continue;
            }
            agent.must_count(&tally);
            let metrics = agent.metrics();
            let frames = metrics.of("websocket_frames_total");
            let mut said: Vec<_> = frames.map(|sample| sample.label("side")).collect();
            said.dedup();
            assert_eq!(said, [side], "to {to}");
        }
    }
}
