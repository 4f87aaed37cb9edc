//! Devices and ways on which a hook sees part of a connection, or several see all of it, as on nodes of
//! clusters.

use std::{io::Write as _, time::Duration};

use super::{
    ATTACH, at,
    support::{
        agent::Agent,
        eventually,
        load::{Load, Script},
        machine::turn,
        netns::Netns,
        node::{Family, Node},
    },
};

#[track_caller]
fn must_be_on_side(agent: &Agent<'_>, side: &str) {
    let metrics = agent.metrics();
    let frames = metrics.of("websocket_frames_total");
    let mut sides: Vec<_> = frames.map(|sample| sample.label("side")).collect();
    sides.dedup();
    assert_eq!(sides, [side]);
}

/// As where other programs redirect packets from device to device, or routes are asymmetric.
#[test]
fn each_direction_by_a_way_of_its_own() {
    let Some(_turn) = turn() else { return };
    let (client, host, server) = (
        Netns::new("client"),
        Netns::new("host"),
        Netns::new("server"),
    );
    let own = |ip: &str| format!("10.77.1.{ip}/24");
    Netns::veth(
        (&client, "out", &[&own("2")]),
        (&host, "inward", &[&own("1")]),
    );
    Netns::veth(
        (&client, "back", &["10.77.2.2/24"]),
        (&host, "outward", &["10.77.2.1/24"]),
    );
    Netns::veth(
        (&server, "s0", &["10.77.3.2/24"]),
        (&host, "hs", &["10.77.3.1/24"]),
    );
    client.ip("route add default via 10.77.1.1");
    server.ip("route add default via 10.77.3.1");
    host.ip("route add 10.77.1.2/32 dev outward");
    for ns in [&client, &host] {
        ns.run(
            "sh",
            &[
                "-ec",
                "for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $f; done",
            ],
        );
    }
    let to = at("10.77.3.2:8080");
    for attach in ATTACH {
        for interfaces in ["-i inward -i outward", ""] {
            let agent = Agent::run(&host, &format!("--attach {attach} {interfaces}"));
            agent.must_be_attached(if interfaces.is_empty() { 4 } else { 2 });
            let tally = Load::whole(&client, &server, to, to, Script::default(), 40);
            agent.must_count(&tally);
            agent.must_have_active(0);
        }
    }
}

/// Pods with devices of the node's uplink: their packets pass its hooks, those from one to the other too.
#[test]
fn macvlan() {
    let Some(_turn) = turn() else { return };
    let node = Node::new();
    let pods = [50, 51].map(|n| {
        let pod = Netns::new("pod");
        let name = pod.name();
        node.host
            .ip("link add name mv0 link eth0 type macvlan mode bridge");
        node.host.ip(&format!("link set mv0 netns {name}"));
        pod.ip(&format!("address add 192.0.2.{n}/24 dev mv0"));
        pod.ip("link set mv0 up");
        pod
    });
    let agent = Agent::run(&node.host, "");
    agent.must_be_attached(node.devices());
    let to = at("192.0.2.50:8080");
    let tally = Load::whole(&node.outside, &pods[0], to, to, Script::default(), 20);
    agent.must_count(&tally);
    let between = Load::whole(&pods[1], &pods[0], to, to, Script::default(), 20);
    agent.must_count(&(tally + &between));
}

/// Two nodes with a tunnel in between: each agent counts the connection once, and one of them as the
/// server's.
#[test]
fn from_node_to_node_through_a_tunnel() {
    let Some(_turn) = turn() else { return };
    let nodes = [1, 2].map(|n: u8| {
        let (host, pod) = (Netns::new("node"), Netns::new("pod"));
        host.ip("link add name cni0 type bridge");
        host.ip(&format!("address add 10.244.{n}.1/24 dev cni0"));
        host.ip("link set cni0 up");
        let own = format!("10.244.{n}.2/24");
        Netns::veth((&pod, "eth0", &[&own]), (&host, "vethaa01", &[]));
        host.ip("link set vethaa01 master cni0");
        pod.ip(&format!("route add default via 10.244.{n}.1"));
        (host, pod)
    });
    let [(one, client), (two, server)] = &nodes;
    Netns::veth(
        (one, "eth0", &["192.0.2.1/24"]),
        (two, "eth0", &["192.0.2.2/24"]),
    );
    for (host, own, other) in [(one, 1, 2), (two, 2, 1)] {
        host.ip(&format!(
            "link add name flannel.1 type vxlan id 1 dev eth0 local 192.0.2.{own} remote \
             192.0.2.{other} dstport 4789"
        ));
        host.ip(&format!("address add 10.244.{own}.0/32 dev flannel.1"));
        host.ip("link set flannel.1 up");
        host.ip(&format!("route add 10.244.{other}.0/32 dev flannel.1"));
        let way = format!("10.244.{other}.0/24 via 10.244.{other}.0 dev flannel.1 onlink");
        host.ip(&format!("route add {way}"));
    }
    let agents = [one, two].map(|host| Agent::run(host, ""));
    for agent in &agents {
        agent.must_be_attached(5);
    }
    let to = at("10.244.2.2:8080");
    let tally = Load::whole(client, server, to, to, Script::default(), 40);
    for (agent, side) in agents.iter().zip(["client", "server"]) {
        agent.must_count(&tally);
        must_be_on_side(agent, side);
    }
}

/// What pods encrypt themselves cannot be read, and is said to be there, whichever end is here.
#[test]
fn tls_of_pods_is_counted() {
    let Some(_turn) = turn() else { return };
    let node = Node::new();
    let (a, b) = (node.bridged("vethaa01", 2), node.routed("cali0b01", 2));
    let agent = Agent::run(&node.host, "");
    agent.must_be_attached(node.devices());
    let outside = at("192.0.2.1:8443");
    // Before and behind a translation it counts twice: of what cannot be read nothing tells that it is
    // the same.
    for (client, server, to, counted) in [
        (&a.ns, &b.ns, b.at(Family::V4, 8443), 1),
        (&b.ns, &node.outside, outside, 3),
        (&node.outside, &a.ns, a.at(Family::V6, 8443), 4),
    ] {
        let listener = server.listen(to);
        let mut stream = client.connect(to).expect("a server");
        let (_server, _) = listener.accept().expect("a client");
        // The beginning of a ClientHello.
        stream
            .write_all(&[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 3])
            .expect("a connection");
        eventually("it is counted", Duration::from_secs(5), || {
            let labels = [("reason", "tls")];
            let metrics = agent.metrics();
            let unreadable = metrics.sum("wstap_unreadable_connections_total", &labels);
            (unreadable == counted)
                .then_some(())
                .ok_or_else(|| format!("{unreadable} of {counted}"))
        });
    }
}
