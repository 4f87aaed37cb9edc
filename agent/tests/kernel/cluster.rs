//! A node of a cluster, as the agent sees it from the host's namespace with default flags: whichever way
//! a connection takes through it, it is one connection, between those who really talk.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    thread,
    time::Duration,
};

use super::{
    ATTACH, at,
    midstream::since,
    support::{
        agent::Agent,
        eventually,
        load::{Closer, Load, Script},
        machine::turn,
        netns::Netns,
        node::{Family, Node},
        proxy::Proxy,
        tally::Tally,
        trace::Trace,
    },
};

/// Where the servers of the pods listen.
const PORT: u16 = 8080;

/// Longest that the agent takes to see what has happened.
const PATIENCE: Duration = Duration::from_secs(10);

/// An agent on a node, and what it has to have counted so far.
struct Watch<'a> {
    agent: Agent<'a>,
    expected: Tally,
    connections: u64,
}

/// What is to be said of connections.
struct Said<'a> {
    client: IpAddr,
    servers: &'a [SocketAddr],
    side: &'a str,
}

impl<'a> Watch<'a> {
    #[track_caller]
    fn start(node: &'a Node, flags: &str) -> Self {
        let agent = Agent::run(&node.host, flags);
        agent.must_be_attached(node.devices());
        Self {
            agent,
            expected: Tally::default(),
            connections: 0,
        }
    }

    /// Handshakes so far, by the labels `server` and `side`.
    fn handshakes(&self) -> BTreeMap<(String, String), u64> {
        let metrics = self.agent.metrics();
        let mut sums = BTreeMap::new();
        for sample in metrics.of("websocket_handshakes_total") {
            let labels = ["server", "side"].map(|label| sample.label(label).to_owned());
            *sums.entry(labels.into()).or_default() += sample.count();
        }
        sums
    }

    /// Has a client talk to servers in some connections, and makes sure that each is counted once, as what
    /// it is.
    #[track_caller]
    fn must_see(
        &mut self,
        client: &Netns,
        to: SocketAddr,
        servers: &[(&Netns, SocketAddr)],
        said: &Said<'_>,
    ) {
        let before = self.handshakes();
        let script = Script {
            connections: 4,
            seed: self.connections + 1,
            closer: if self.connections.is_multiple_of(8) {
                Closer::Client
            } else {
                Closer::Server
            },
            ..Script::default()
        };
        let opened = script.connections;
        let load = Load::open_among(client, servers, to, script);
        load.exchange(15);
        let live = eventually("each connection is followed once", PATIENCE, || {
            let live = self.live();
            if live.len() as u64 == opened {
                Ok(live)
            } else {
                Err(format!("to {to}: {live:#?}"))
            }
        });
        let ends = live.iter().map(|entry| {
            let end = |name: &str| at(entry[name].as_str().expect("an address"));
            (end("client").ip(), end("server"))
        });
        let ends: Vec<_> = ends.collect();
        let mut due: Vec<_> = said
            .servers
            .iter()
            .cycle()
            .take(ends.len())
            .map(|server| (said.client, *server))
            .collect();
        due.sort_unstable();
        let mut sorted = ends.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, due, "to {to}: {live:#?}");

        self.expected = std::mem::take(&mut self.expected) + &load.close();
        self.connections += opened;
        self.agent.must_count(&self.expected);
        self.agent.must_have_active(0);
        let after = self.handshakes();
        assert_eq!(after.values().sum::<u64>(), self.connections, "to {to}");
        let grown: BTreeSet<_> = after
            .into_iter()
            .filter(|(labels, n)| before.get(labels) != Some(n))
            .map(|(labels, _)| labels)
            .collect();
        let due: BTreeSet<_> = said
            .servers
            .iter()
            .map(|server| (server.to_string(), said.side.to_owned()))
            .collect();
        assert_eq!(grown, due, "to {to}");
    }

    #[track_caller]
    fn live(&self) -> Vec<serde_json::Value> {
        let (_, json) = self.agent.get("/connections");
        serde_json::from_str(&json).expect("JSON")
    }
}

#[test]
fn from_pod_to_pod() {
    let Some(_turn) = turn() else { return };
    for attach in ATTACH {
        let node = Node::new();
        let (a, b) = (node.bridged("vethaa01", 2), node.bridged("vethbb02", 3));
        let (c, d) = (node.routed("cali0c01", 2), node.routed("lxc0d02", 3));
        let mut watch = Watch::start(&node, &format!("--attach {attach}"));
        for family in Family::BOTH {
            // Through the bridge, through the bridge and a route, and by routes alone.
            for (client, server) in [(&a, &b), (&a, &c), (&c, &b), (&c, &d)] {
                let to = server.at(family, PORT);
                let said = Said {
                    client: client.ip(family),
                    servers: &[to],
                    side: "both",
                };
                watch.must_see(&client.ns, to, &[(&server.ns, to)], &said);
            }
        }
    }
}

#[test]
fn through_a_service() {
    let Some(_turn) = turn() else { return };
    for attach in ATTACH {
        let node = Node::new();
        let (a, b) = (node.bridged("vethaa01", 2), node.bridged("vethbb02", 3));
        let (c, d) = (node.routed("eni0c01", 2), node.routed("cali0d02", 3));
        let mut watch = Watch::start(&node, &format!("--attach {attach}"));
        for family in Family::BOTH {
            let service = |n: u8| {
                let text = family.pick(format!("10.96.0.{n}:80"), format!("[fd96::{n}]:80"));
                at(&text)
            };
            let ends = [&b, &c].map(|pod| pod.at(family, PORT));
            node.service(service(10), &ends, false);
            let servers = [(&b.ns, ends[0]), (&c.ns, ends[1])];
            // From a pod of the bridge, and from one that is routed.
            for client in [&a, &d] {
                let said = Said {
                    client: client.ip(family),
                    servers: &ends,
                    side: "both",
                };
                watch.must_see(&client.ns, service(10), &servers, &said);
            }
            // To itself: its own packets come back with the host's address.
            let own = d.at(family, PORT);
            node.service(service(11), &[own], false);
            let said = Said {
                client: d.ip(family),
                servers: &[own],
                side: "both",
            };
            watch.must_see(&d.ns, service(11), &[(&d.ns, own)], &said);
        }
    }
}

#[test]
fn in_and_out() {
    let Some(_turn) = turn() else { return };
    for attach in ATTACH {
        let node = Node::new();
        let (a, b) = (node.bridged("vethaa01", 2), node.routed("lxc0b02", 2));
        let mut watch = Watch::start(&node, &format!("--attach {attach}"));
        for family in Family::BOTH {
            let outside = (
                Node::outside_ip(family),
                SocketAddr::new(Node::outside_ip(family), PORT),
            );
            // Out, masqueraded: the client is the pod, whatever address it has outside.
            for pod in [&a, &b] {
                let said = Said {
                    client: pod.ip(family),
                    servers: &[outside.1],
                    side: "client",
                };
                watch.must_see(&pod.ns, outside.1, &[(&node.outside, outside.1)], &said);
            }
            // In, directly.
            let own = a.at(family, PORT);
            let said = Said {
                client: outside.0,
                servers: &[own],
                side: "server",
            };
            watch.must_see(&node.outside, own, &[(&a.ns, own)], &said);
            // In, through a port of the node: with the client's address kept, and without.
            let ends = [&a, &b].map(|pod| pod.at(family, PORT));
            let servers = [(&a.ns, ends[0]), (&b.ns, ends[1])];
            for (port, masquerades) in [(30_081, false), (30_080, true)] {
                let port = SocketAddr::new(Node::ip(family), port);
                node.service(port, &ends, masquerades);
                let said = Said {
                    client: outside.0,
                    servers: &ends,
                    side: "server",
                };
                watch.must_see(&node.outside, port, &servers, &said);
            }
        }
    }
}

#[test]
fn the_host_and_its_pods() {
    let Some(_turn) = turn() else { return };
    for attach in ATTACH {
        let node = Node::new();
        let (a, b) = (node.bridged("vethaa01", 2), node.routed("cali0b02", 2));
        let mut watch = Watch::start(&node, &format!("--attach {attach}"));
        for family in Family::BOTH {
            let gateway = family
                .pick("10.244.0.1", "fd44::1")
                .parse()
                .expect("an address");
            let own = b.at(family, PORT);
            // From a probe of the kubelet's, as it were. The host's address is that of the way.
            let to = a.at(family, PORT);
            let said = Said {
                client: gateway,
                servers: &[to],
                side: "both",
            };
            watch.must_see(&node.host, to, &[(&a.ns, to)], &said);
            // Through a Service, out of the host itself.
            let service = at(family.pick("10.96.0.12:80", "[fd96::c]:80"));
            node.service(service, &[own], false);
            let said = Said {
                client: Node::ip(family),
                servers: &[own],
                side: "both",
            };
            watch.must_see(&node.host, service, &[(&b.ns, own)], &said);
            // To a pod with `hostNetwork`: by either address of the host.
            for ip in [Node::ip(family), gateway] {
                let to = SocketAddr::new(ip, PORT);
                for pod in [&a, &b] {
                    let said = Said {
                        client: pod.ip(family),
                        servers: &[to],
                        side: "both",
                    };
                    watch.must_see(&pod.ns, to, &[(&node.host, to)], &said);
                }
            }
        }
    }
}

/// After an agent was restarted, as it were: nothing but frames tells that what passes under several pairs
/// of addresses is one.
#[test]
fn midstream_through_a_service_and_out() {
    let Some(_turn) = turn() else { return };
    for attach in ATTACH {
        let node = Node::new();
        let (a, b) = (node.bridged("vethaa01", 2), node.bridged("vethbb02", 3));
        let (c, d) = (node.routed("eni0c01", 2), node.routed("cali0d02", 3));
        let v4 = Family::V4;
        let service = at("10.96.0.10:80");
        let ends = [&b, &c].map(|pod| pod.at(v4, PORT));
        node.service(service, &ends, false);
        let port = SocketAddr::new(Node::ip(v4), 30_080);
        let behind = [&a, &d].map(|pod| pod.at(v4, 9000));
        node.service(port, &behind, true);
        let outside = SocketAddr::new(Node::outside_ip(v4), PORT);
        let script = |seed| Script {
            connections: 4,
            seed,
            ..Script::default()
        };
        let servers = [(&b.ns, ends[0]), (&c.ns, ends[1])];
        let inside = Load::open_among(&d.ns, &servers, service, script(1));
        let out = Load::open(&a.ns, &node.outside, outside, outside, script(2));
        let servers = [(&a.ns, behind[0]), (&d.ns, behind[1])];
        let inward = Load::open_among(&node.outside, &servers, port, script(3));
        let loads = [inside, out, inward];
        let watch = Watch::start(&node, &format!("--attach {attach}"));
        for load in &loads {
            load.exchange(20);
        }
        watch.agent.must_have_active(12);
        thread::sleep(Duration::from_millis(500));
        let metrics = watch.agent.metrics();
        let midstream = [("outcome", "midstream")];
        assert_eq!(metrics.sum("websocket_handshakes_total", &midstream), 12);
        let counted = watch.agent.tally();
        let so_far = || {
            let all = loads.iter().map(Load::so_far);
            all.reduce(|sum, tally| sum + &tally).unwrap_or_default()
        };
        let sent = so_far();
        for (sent, counted) in [
            (&sent.client_to_server, &counted.client_to_server),
            (&sent.server_to_client, &counted.server_to_client),
        ] {
            let (sent, counted) = (sent.total(), counted.total());
            assert!(counted <= sent, "{counted} of {sent}");
            assert!(counted * 10 >= sent * 8, "{counted} of {sent}");
        }
        for load in &loads {
            load.exchange(20);
        }
        let closed = loads.into_iter().map(Load::close);
        let tally = closed.reduce(|sum, tally| sum + &tally).unwrap_or_default();
        watch.agent.must_count(&(counted + &since(&tally, &sent)));
        watch.agent.must_have_active(0);
    }
}

/// In a pod, and in one with `hostNetwork` as ingress controllers often are; reached and reaching through
/// Services, so that either hop is seen under two pairs of addresses.
#[test]
fn through_a_proxy() {
    let Some(_turn) = turn() else { return };
    let node = Node::new();
    let (a, b, c) = (
        node.bridged("vethaa01", 2),
        node.bridged("vethbb02", 3),
        node.routed("cali0c01", 2),
    );
    for family in Family::BOTH {
        let [front, back] = [20, 21]
            .map(|n| at(&family.pick(format!("10.96.0.{n}:80"), format!("[fd96::{n}]:80"))));
        node.service(back, &[b.at(family, 9000)], false);
        node.service(front, &[c.at(family, PORT)], false);
        let host = SocketAddr::new(Node::ip(family), PORT);
        let outside = Node::outside_ip(family);
        for (ns, to, listen, client, ip, sides) in [
            (
                &c.ns,
                front,
                c.at(family, PORT),
                &a.ns,
                a.ip(family),
                ["both", "both"],
            ),
            (
                &node.host,
                host,
                host,
                &node.outside,
                outside,
                ["server", "both"],
            ),
        ] {
            let agent = Agent::run(&node.host, "");
            agent.must_be_attached(node.devices());
            let trace = Trace::start(&node.host, 5, "");
            let _nginx = Proxy::nginx_between(ns, listen, back, Duration::from_secs(20));
            let load = Load::open(client, &b.ns, to, b.at(family, 9000), Script::default());
            load.exchange(20);
            agent.must_have_active(6);
            let (_, json) = agent.get("/connections");
            let live: Vec<serde_json::Value> = serde_json::from_str(&json).expect("JSON");
            let mut joined = 0;
            for hop in live
                .iter()
                .filter(|hop| hop["server"] == listen.to_string())
            {
                let next = live.iter().find(|next| next["conn"] == hop["next_hop"]);
                let next = next.unwrap_or_else(|| panic!("no next hop: {live:#?}"));
                assert_eq!(next["previous_hop"], hop["conn"]);
                assert_eq!(next["server"], b.at(family, 9000).to_string());
                assert_eq!(at(hop["client"].as_str().expect("text")).ip(), ip);
                assert!(hop.get("previous_hop").is_none() && next.get("next_hop").is_none());
                joined += 1;
            }
            assert_eq!(joined, 3, "{live:#?}");
            let tally = load.close();
            agent.must_count(&(tally.clone() + &tally));
            for (server, side) in [listen, b.at(family, 9000)].iter().zip(sides) {
                let labels = [("server", &*server.to_string()), ("side", side)];
                let said = agent.metrics().sum("websocket_handshakes_total", &labels);
                assert_eq!(said, 3, "{labels:?}");
            }
            let connections = trace.connections(6);
            let handshakes = connections.iter().map(|connection| connection.handshake());
            let handshakes: Vec<_> = handshakes.collect();
            for own in &handshakes {
                let [other, back] = match own["server"] == listen.to_string() {
                    true => ["next_hop", "previous_hop"],
                    false => ["previous_hop", "next_hop"],
                };
                let named = handshakes.iter().find(|hop| hop["conn"] == own[other]);
                let named = named.unwrap_or_else(|| panic!("no {other}: {own:#?}"));
                assert_eq!(named[back], own["conn"]);
                assert_eq!(named["key"], own["key"]);
            }
        }
    }
}
