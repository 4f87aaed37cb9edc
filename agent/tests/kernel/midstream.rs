//! Connections that are older than the agent.

use super::{
    ATTACH, Pair, at,
    support::{
        agent::Agent,
        load::{Load, Script},
        machine::turn,
        tally::Tally,
    },
};

/// `now` without what had been counted `before`.
pub(super) fn since(now: &Tally, before: &Tally) -> Tally {
    Tally {
        client_to_server: now.client_to_server.clone() - &before.client_to_server,
        server_to_client: now.server_to_client.clone() - &before.server_to_client,
        closed: now.closed.clone(),
    }
}

fn picked_up(attach: &str, at_the_client: bool) {
    let pair = Pair::new();
    let script = Script {
        connections: 5,
        ..Script::default()
    };
    let load = Load::open(
        &pair.client,
        &pair.server,
        at(Pair::V4),
        at(Pair::V4),
        script,
    );
    load.exchange(20);
    let unseen = load.so_far();

    let ns = if at_the_client {
        &pair.client
    } else {
        &pair.server
    };
    let agent = Agent::run(ns, &format!("--attach {attach}"));
    assert_eq!(agent.tally(), Tally::default(), "nothing has passed yet");
    load.exchange(40);
    agent.must_have_active(5);
    let midstream = [("outcome", "midstream")];
    assert_eq!(
        agent
            .metrics()
            .sum("websocket_handshakes_total", &midstream),
        5
    );

    // Recognition may cost the first frames, and invents none.
    let sent = since(&load.so_far(), &unseen);
    // What is counted in the kernel is looked at a few times a second.
    std::thread::sleep(std::time::Duration::from_millis(500));
    let counted = agent.tally();
    for (sent, counted) in [
        (&sent.client_to_server, &counted.client_to_server),
        (&sent.server_to_client, &counted.server_to_client),
    ] {
        for (opcode, n) in &counted.frames {
            let sent = sent.frames.get(opcode).copied().unwrap_or_default();
            assert!(*n <= sent, "{opcode}: {n} counted and {sent} sent");
        }
        let (sent, counted) = (sent.total(), counted.total());
        assert!(
            counted * 10 >= sent * 8,
            "{counted} of {sent} frames were recognised"
        );
    }

    // From then on they are like any other.
    let before = load.so_far();
    load.exchange(60);
    let tally = load.close();
    agent.must_count(&(counted + &since(&tally, &before)));
    agent.must_have_active(0);
}

#[test]
fn at_the_clients_end() {
    let Some(_turn) = turn() else { return };
    for attach in ATTACH {
        picked_up(attach, true);
    }
}

#[test]
fn at_the_servers_end() {
    let Some(_turn) = turn() else { return };
    for attach in ATTACH {
        picked_up(attach, false);
    }
}
