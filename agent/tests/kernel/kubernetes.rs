//! Names from a Kubernetes API server, or what stands in for one: labels, fields, and that nothing
//! depends on it.

use std::{
    collections::BTreeSet,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use super::{
    Pair, at,
    support::{
        agent::{Agent, Process, WSTAP, events},
        cluster::{Cluster, Expiry, NODE, owned, pod, service},
        eventually,
        exposition::{Exposition, Sample},
        load::{Load, Script},
        machine::turn,
        netns::Netns,
    },
};

mod account;
mod scale;

/// A node with two pods on a bridge, and the API server on its loopback.
struct Node {
    host: Netns,
    client: Netns,
    server: Netns,
    cluster: Cluster,
    kubeconfig: tempfile::NamedTempFile,
}

const FLAGS: &str = "--kubernetes on --node-name node-1";
const PATIENCE: Duration = Duration::from_secs(20);

impl Node {
    #[track_caller]
    fn new() -> Self {
        let (host, client, server) = (
            Netns::new("host"),
            Netns::new("client"),
            Netns::new("server"),
        );
        host.ip("link add name br0 type bridge");
        host.ip("address add 10.77.0.254/24 dev br0");
        host.ip("link set br0 up");
        for (ns, own, here, addresses) in [
            (&client, "c0", "hc", &Pair::CLIENT),
            (&server, "s0", "hs", &Pair::SERVER),
        ] {
            Netns::veth((ns, own, addresses), (&host, here, &[]));
            host.ip(&format!("link set {here} master br0"));
        }
        let cluster = Cluster::serve(host.listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))));
        let kubeconfig = tempfile::NamedTempFile::new().expect("a file");
        fs::write(&kubeconfig, cluster.kubeconfig()).expect("a file");
        Self {
            host,
            client,
            server,
            cluster,
            kubeconfig,
        }
    }

    fn kubeconfig(&self) -> &str {
        self.kubeconfig.path().to_str().expect("a plain path")
    }

    /// The client's and the server's pod, with what they belong to.
    fn deploy(&self) {
        let c = &self.cluster;
        c.put(
            "replicasets",
            owned("chat-5d4f", Some(("Deployment", "chat"))),
        );
        c.put(
            "jobs",
            owned("report-29384710", Some(("CronJob", "report"))),
        );
        c.put(
            "pods",
            pod(
                "chat-5d4f-x",
                &["10.77.0.2", "fd77::2"],
                Some(("ReplicaSet", "chat-5d4f")),
            ),
        );
        c.put(
            "pods",
            pod(
                "report-29384710-y",
                &["10.77.0.1", "fd77::1"],
                Some(("Job", "report-29384710")),
            ),
        );
    }

    #[track_caller]
    fn agent(&self, flags: &str) -> Agent<'_> {
        let listen = Agent::address(&self.host);
        let mut command = self.host.command(WSTAP);
        command
            .args(["run", "--listen", &listen.to_string()])
            .args(FLAGS.split(' ').chain(flags.split_whitespace()))
            .env("KUBECONFIG", self.kubeconfig());
        Agent::start(&self.host, listen, command)
    }

    #[track_caller]
    fn load(&self, to: &str, seed: u64, connections: u64) -> Load {
        let script = Script {
            seed,
            connections,
            ..Script::default()
        };
        Load::open(&self.client, &self.server, at(to), at(to), script)
    }

    #[track_caller]
    fn readyz(&self, agent: &Agent<'_>) -> String {
        let (status, body) = self
            .host
            .http_get(agent.listen, "/readyz")
            .expect("an answer");
        assert_eq!(status, 200, "whatever becomes of Kubernetes: {body}");
        body
    }
}

/// Distinct values of some labels of the endpoints.
fn values(metrics: &Exposition, labels: &[&str]) -> BTreeSet<String> {
    let of = |sample: &Sample| {
        let values: Vec<&str> = labels.iter().map(|label| sample.label(label)).collect();
        values.join(" ")
    };
    metrics.of("websocket_frames_total").map(of).collect()
}

const NAMES: [&str; 5] = [
    "server_namespace",
    "server_pod",
    "server_workload",
    "client_namespace",
    "client_workload",
];

#[track_caller]
fn until_known(agent: &Agent<'_>, pods: u64) {
    eventually(&format!("{pods} pods are known"), PATIENCE, || {
        let known = agent.metrics().sum("wstap_kubernetes_pods", &[]);
        (known == pods)
            .then_some(())
            .ok_or_else(|| format!("{known}: {}", agent.process.stderr()))
    });
}

#[test]
fn pods_have_names_in_labels_events_and_connections() {
    let Some(_turn) = turn() else { return };
    let node = Node::new();
    node.deploy();
    let mut host = pod("proxy", &["10.77.0.254"], Some(("DaemonSet", "proxy")));
    host["spec"]["hostNetwork"] = true.into();
    node.cluster.put("pods", host);
    let mut elsewhere = pod("elsewhere", &["10.77.0.9"], None);
    elsewhere["spec"]["nodeName"] = "node-2".into();
    node.cluster.put("pods", elsewhere);

    let agent = node.agent("");
    let mut command = node.host.command("env");
    command
        .arg(format!("KUBECONFIG={}", node.kubeconfig()))
        .args([WSTAP, "trace", "-o", "json", "-i", "hs"]);
    // Handshakes are not shown, and yet give the connections their names.
    command
        .args(FLAGS.split(' '))
        .args(["--event", "frame,close", "--duration", "60s"]);
    let trace = Process::spawn(command);
    until_known(&agent, 2);
    eventually("trace has asked too", PATIENCE, || {
        let lists = node
            .cluster
            .requests()
            .iter()
            .filter(|target| target.contains("limit="))
            .count();
        (lists >= 2).then_some(()).ok_or_else(|| trace.stderr())
    });
    std::thread::sleep(Duration::from_millis(1500));

    let load = node.load(Pair::V4, 1, 3);
    load.exchange(20);
    let (_, live) = node
        .host
        .http_get(agent.listen, "/connections")
        .expect("an answer");
    let live: Vec<serde_json::Value> = serde_json::from_str(&live).expect("JSON");
    assert_eq!(live.len(), 3);
    for connection in live {
        assert_eq!(connection["client_pod"], "shop/report-29384710-y");
        assert_eq!(connection["server_pod"], "shop/chat-5d4f-x");
    }
    let v4 = load.close();
    agent.must_count(&v4);
    let load = node.load(Pair::V6, 2, 1);
    load.exchange(20);
    agent.must_count(&(v4 + &load.close()));

    let metrics = agent.metrics();
    let expected = "shop chat-5d4f-x chat shop report";
    assert_eq!(
        values(&metrics, &NAMES),
        BTreeSet::from([expected.to_owned()])
    );
    assert_eq!(
        values(&metrics, &["side"]),
        BTreeSet::from(["both".to_owned()])
    );
    for counter in [
        "wstap_kubernetes_watch_errors_total",
        "wstap_kubernetes_owners_guessed_total",
    ] {
        assert_eq!(metrics.sum(counter, &[]), 0, "{counter}");
    }
    assert_eq!(
        node.readyz(&agent),
        "ready\nkubernetes: 2 pods on node node-1\n"
    );
    for target in node
        .cluster
        .requests()
        .iter()
        .filter(|target| target.starts_with("/api/v1/pods"))
    {
        assert!(
            target.contains(&format!("fieldSelector=spec.nodeName%3D{NODE}")),
            "{target}"
        );
    }

    eventually("trace has shown the ends", PATIENCE, || {
        let closes = trace.stdout().matches("\"event\":\"close\"").count();
        (closes == 4).then_some(()).ok_or_else(|| trace.stderr())
    });
    let shown = events(&trace.stdout());
    for event in &shown {
        assert_eq!(event["client_pod"], "shop/report-29384710-y", "{event}");
        assert_eq!(event["server_pod"], "shop/chat-5d4f-x", "{event}");
    }
    assert!(shown.len() > 40);
}

#[test]
fn names_come_late_and_stay_whatever_becomes_of_the_server() {
    let Some(_turn) = turn() else { return };
    let node = Node::new();
    node.cluster.set_up(false);
    let agent = node.agent("");
    let detail = node.readyz(&agent);
    assert!(
        detail.contains("kubernetes: pods not watched for"),
        "{detail}"
    );
    assert!(detail.contains("there are no names yet"), "{detail}");
    let early = node.load(Pair::V4, 1, 2);
    early.exchange(5);
    let unnamed = |agent: &Agent<'_>| values(&agent.metrics(), &["server_pod"]);
    eventually("they have no names", PATIENCE, || {
        let names = unnamed(&agent);
        let none = BTreeSet::from([String::new()]);
        (names == none)
            .then_some(())
            .ok_or_else(|| format!("{names:?}"))
    });

    // It comes, slowly: connections that were there before get their names.
    node.deploy();
    node.cluster.set_delay(Duration::from_millis(500));
    node.cluster.set_up(true);
    until_known(&agent, 2);
    node.cluster.set_delay(Duration::ZERO);
    early.exchange(5);
    let open = |agent: &Agent<'_>, pod: &str| {
        agent
            .metrics()
            .sum("websocket_connections_active", &[("server_pod", pod)])
    };
    eventually("open connections have names", PATIENCE, || {
        let open = [open(&agent, ""), open(&agent, "chat-5d4f-x")];
        (open == [0, 2])
            .then_some(())
            .ok_or_else(|| format!("{open:?}"))
    });
    let tally = early.close();
    agent.must_count(&tally);
    let errors = agent.metrics().sum(
        "wstap_kubernetes_watch_errors_total",
        &[("resource", "pods")],
    );
    assert!(errors > 0);

    // It goes: names stay. What happens meanwhile is known once it is back.
    node.cluster.set_up(false);
    eventually("it is noticed", PATIENCE, || {
        let detail = node.readyz(&agent);
        detail
            .contains("names are as last known")
            .then_some(())
            .ok_or(detail)
    });
    let load = node.load(Pair::V4, 2, 1);
    assert_eq!(open(&agent, "chat-5d4f-x"), 1);
    agent.must_count(&(tally + &load.close()));
    node.cluster.delete("pods", "shop/chat-5d4f-x");
    let mut heir = pod(
        "heir-0",
        &["10.77.0.2", "fd77::2"],
        Some(("StatefulSet", "heir")),
    );
    heir["status"]["startTime"] = "2026-01-02T00:00:00Z".into();
    node.cluster.put("pods", heir);
    node.cluster.set_up(true);
    let named = |pod: &str, seed: u64| {
        eventually(
            &format!("new connections are {pod}'s"),
            Duration::from_secs(60),
            || {
                let load = node.load(Pair::V4, seed, 1);
                let open = open(&agent, pod);
                load.close();
                (open == 1)
                    .then_some(())
                    .ok_or_else(|| agent.process.stderr())
            },
        );
    };
    named("heir-0", 3);

    // Old versions are forgotten; a line is cut; an event is not understood: each time something has changed.
    let breaks: [fn(&Cluster); 4] = [
        |cluster| cluster.expire(Expiry::Status),
        |cluster| cluster.expire(Expiry::Event),
        Cluster::cut_lines,
        Cluster::invent,
    ];
    for (n, break_it) in (0u64..).zip(breaks) {
        let name = format!("next-{n}");
        let mut next = pod(&name, &["10.77.0.2"], None);
        next["status"]["startTime"] = format!("2026-01-0{}T00:00:00Z", 3 + n).into();
        // What is forgotten was not told before.
        let forgets = n < 2;
        if forgets {
            node.cluster.put("pods", next);
            break_it(&node.cluster);
        } else {
            break_it(&node.cluster);
            node.cluster.put("pods", next);
        }
        named(&name, 10 + n);
    }
    // In the agent's own words, a line each.
    for line in agent.process.stderr().lines() {
        let own = ["Kubernetes: ", "wstap "]
            .iter()
            .any(|word| line.contains(word));
        assert!(own, "{line}");
    }
}

#[test]
fn where_owners_may_not_be_asked_for_names_tell() {
    let Some(_turn) = turn() else { return };
    let node = Node::new();
    node.deploy();
    node.cluster.forbid("replicasets");
    node.cluster.forbid("jobs");
    let agent = node.agent("");
    until_known(&agent, 2);
    let load = node.load(Pair::V4, 1, 1);
    load.exchange(3);
    agent.must_count(&load.close());
    let expected = "shop chat-5d4f-x chat shop report";
    assert_eq!(
        values(&agent.metrics(), &NAMES),
        BTreeSet::from([expected.to_owned()])
    );
    assert_eq!(
        agent
            .metrics()
            .sum("wstap_kubernetes_owners_guessed_total", &[]),
        2
    );
    // And where nothing may be asked for, there are no names, and all else is as ever.
    node.cluster.forbid("pods");
    let agent = node.agent("");
    eventually("the refusal is told", PATIENCE, || {
        let detail = node.readyz(&agent);
        detail
            .contains("403 pods is forbidden")
            .then_some(())
            .ok_or(detail)
    });
    let load = node.load(Pair::V4, 2, 1);
    load.exchange(3);
    agent.must_count(&load.close());
    assert_eq!(
        values(&agent.metrics(), &NAMES),
        BTreeSet::from(["    ".to_owned()])
    );
}

#[test]
fn series_go_with_their_pod() {
    let Some(_turn) = turn() else { return };
    let node = Node::new();
    node.deploy();
    let agent = node.agent("--series-linger 1s");
    until_known(&agent, 2);
    let first = node.load(Pair::V4, 1, 1);
    first.exchange(3);
    let held = node.load(Pair::V6, 2, 1);
    held.exchange(3);
    first.close();
    node.cluster.delete("pods", "shop/chat-5d4f-x");
    until_known(&agent, 1);
    let servers = |metrics: &Exposition| values(metrics, &["server"]);
    eventually("only what is still open has series", PATIENCE, || {
        let left = servers(&agent.metrics());
        let expected = BTreeSet::from([Pair::V6.to_owned()]);
        (left == expected)
            .then_some(())
            .ok_or_else(|| format!("{left:?}"))
    });
    assert_eq!(agent.metrics().sum("wstap_endpoints_gone_total", &[]), 1);
    held.close();
    eventually("nothing has", PATIENCE, || {
        let left = servers(&agent.metrics());
        left.is_empty()
            .then_some(())
            .ok_or_else(|| format!("{left:?}"))
    });
    assert_eq!(agent.metrics().sum("wstap_endpoints_gone_total", &[]), 2);
}

#[test]
fn services_have_names_where_they_are_wanted() {
    let Some(_turn) = turn() else { return };
    let node = Node::new();
    node.cluster.put(
        "pods",
        pod("chat-0", &["10.77.2.2"], Some(("StatefulSet", "chat"))),
    );
    node.cluster
        .put("pods", pod("report", &["10.77.1.2"], None));
    node.cluster
        .put("services", service("chat-web", &["10.96.0.10"]));
    node.cluster.put("services", service("headless", &["None"]));
    // Routed, as many clusters do without a bridge.
    for (ns, own, here, net) in [
        (&node.client, "c1", "hc1", 1),
        (&node.server, "s1", "hs1", 2),
    ] {
        let [inside, outside] = [2, 1].map(|host| format!("10.77.{net}.{host}/24"));
        ns.ip(&format!(
            "link delete {}",
            if net == 1 { "c0" } else { "s0" }
        ));
        Netns::veth((ns, own, &[&inside]), (&node.host, here, &[&outside]));
        ns.ip(&format!("route add default via 10.77.{net}.1"));
    }
    node.host.ip("link delete br0");
    for rule in [
        "add table ip nat",
        "add chain ip nat prerouting { type nat hook prerouting priority -100; }",
        "add rule ip nat prerouting ip daddr 10.96.0.10 tcp dport 80 dnat to 10.77.2.2:8080",
    ] {
        node.host.run("nft", &[rule]);
    }
    // Only where the address is the Service's still.
    let agent = node.agent("--kubernetes-services -i hc1");
    until_known(&agent, 2);
    eventually("services are watched", PATIENCE, || {
        let requests = node.cluster.requests();
        let watched = requests
            .iter()
            .any(|target| target.starts_with("/api/v1/services") && target.contains("watch"));
        watched.then_some(()).ok_or_else(|| format!("{requests:?}"))
    });
    let (to, on) = (at("10.96.0.10:80"), at("10.77.2.2:8080"));
    let load = Load::open(&node.client, &node.server, to, on, Script::default());
    load.exchange(5);
    let (_, live) = node
        .host
        .http_get(agent.listen, "/connections")
        .expect("an answer");
    agent.must_count(&load.close());
    let expected = "shop  chat-web shop ";
    assert_eq!(
        values(&agent.metrics(), &NAMES),
        BTreeSet::from([expected.to_owned()]),
        "{live}"
    );
    assert!(
        live.contains("\"server_service\":\"shop/chat-web\""),
        "{live}"
    );
}
