//! Network namespaces besides the agent's own: what is seen inside them, and what is left of it.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{MetadataExt as _, symlink},
    path::Path,
    process::{Child, Command},
    time::Duration,
};

use nix::{sys::signal::Signal, unistd::Pid};
use serde_json::Value;

use super::{
    ATTACH, Pair, at,
    lifecycle::{filters, has_clsact, must_be_unloaded, ours},
    support::{
        agent::{Agent, Process, WSTAP, events, held, trace},
        eventually,
        load::{Load, Script},
        machine::turn,
        netns::{Netns, run},
        row::Row,
        tally::Tally,
    },
};

/// A pod's namespace, in which a process sleeps.
struct Pod {
    ns: Netns,
    sleeper: Child,
}

impl Pod {
    #[track_caller]
    fn new(role: &str) -> Self {
        let ns = Netns::new(role);
        let sleeper = ns.command("sleep").arg("100").spawn();
        let pod = Self {
            ns,
            sleeper: sleeper.expect("it sleeps"),
        };
        let own = fs::read_link("/proc/self/ns/net").expect("a namespace");
        eventually("it sleeps inside", Duration::from_secs(5), || {
            let at = fs::read_link(format!("/proc/{}/ns/net", pod.pid()));
            match at {
                Ok(at) if at != own => Ok(()),
                at => Err(format!("{at:?}")),
            }
        });
        pod
    }

    fn pid(&self) -> u32 {
        self.sleeper.id()
    }

    /// Has it among the processes of a procfs that has no others.
    #[track_caller]
    fn appear(&self, procfs: &Path) {
        let pid = self.pid().to_string();
        symlink(format!("/proc/{pid}"), procfs.join(pid)).expect("a link");
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = self.sleeper.kill();
        let _ = self.sleeper.wait();
    }
}

#[track_caller]
fn must_follow(agent: &Agent<'_>, namespaces: u64) {
    let what = format!("wstap_network_namespaces is {namespaces}");
    eventually(&what, Duration::from_secs(20), || {
        match agent.metrics().sum("wstap_network_namespaces", &[]) {
            n if n == namespaces => Ok(()),
            n => Err(format!("it is {n}\n{}", agent.process.stderr())),
        }
    });
}

fn on(name: &str) -> Script {
    // Each pod says something else.
    let seed = name.bytes().map(u64::from).sum();
    Script {
        connections: 4,
        seed,
        ..Script::default()
    }
}

/// Clients inside have these four ports and no others.
fn narrow(ns: &Netns) {
    let range = "echo 40001 40004 > /proc/sys/net/ipv4/ip_local_port_range";
    ns.run("sh", &["-ec", range]);
}

#[test]
fn loopbacks_of_two_pods_are_told_apart() {
    let Some(_turn) = turn() else { return };
    for attach in ATTACH {
        let (host, blue, red) = (Netns::new("host"), Netns::new("blue"), Netns::new("red"));
        let flags = format!(
            "--attach {attach} --netns {} --netns {}",
            blue.name(),
            red.name()
        );
        let agent = Agent::run(&host, &flags);
        must_follow(&agent, 2);
        agent.must_be_attached(3);
        let mut expected = Tally::default();
        for to in ["127.0.0.1:8080", "[::1]:8080"] {
            // The same addresses and ports in both, at the same time.
            for ns in [&blue, &red] {
                narrow(ns);
            }
            let first = Load::open(&blue, &blue, at(to), at(to), on("blue"));
            let second = Load::open(&red, &red, at(to), at(to), on("red"));
            first.exchange(20);
            second.exchange(30);
            agent.must_have_active(8);
            first.exchange(10);
            let first = first.close();
            agent.must_have_active(4);
            second.exchange(10);
            expected = expected + &first + &second.close();
            agent.must_count(&expected);
        }
        agent.stop(Signal::SIGTERM);
        for ns in [&blue, &red] {
            assert_eq!(filters(ns, "lo"), "", "{attach}");
            assert!(!has_clsact(ns, "lo"), "{attach}");
        }
    }
}

#[test]
fn events_say_in_which_namespace() {
    let Some(_turn) = turn() else { return };
    let (host, blue) = (Netns::new("host"), Netns::new("blue"));
    let tracing = trace(&host, "lo", &["--netns", blue.name()]);
    must_hold_links(&tracing, 4);
    let to = at("127.0.0.1:8080");
    for ns in [&blue, &host] {
        Load::whole(ns, ns, to, to, Script::default(), 20);
    }
    eventually("six ends are told", Duration::from_secs(10), || {
        let told = tracing.stdout().matches("\"event\":\"close\"").count();
        (told == 6).then_some(()).ok_or_else(|| format!("{told}"))
    });
    let (mut inside, mut outside) = (BTreeSet::new(), BTreeSet::new());
    for event in events(&tracing.stdout()) {
        assert_eq!(event["interface"], "lo", "{event}");
        assert_ne!(event["event"], "gap", "{event}");
        let conn = event["conn"].as_str().expect("a string").to_owned();
        match event["netns"].as_str() {
            Some(netns) => {
                assert_eq!(netns, blue.name());
                inside.insert(conn)
            }
            None => outside.insert(conn),
        };
    }
    assert_eq!((inside.len(), outside.len()), (3, 3));
    assert!(inside.is_disjoint(&outside));
}

#[test]
fn inside_and_outside_are_one_connection() {
    let Some(_turn) = turn() else { return };
    for attach in ATTACH {
        let (client, host, server) = (
            Netns::new("client"),
            Netns::new("host"),
            Netns::new("server"),
        );
        host.ip("link add name br0 type bridge");
        host.ip("address add 10.77.0.254/24 dev br0");
        host.ip("link set br0 up");
        Netns::veth((&client, "eth0", &Pair::CLIENT), (&host, "hc", &[]));
        Netns::veth((&server, "eth0", &Pair::SERVER), (&host, "hs", &[]));
        host.ip("link set hc master br0");
        host.ip("link set hs master br0");
        // Link-local addresses mean something else in each namespace, and their connections are one
        // all the same.
        host.ip("address add 169.254.7.1/30 dev br0");
        client.ip("address add 169.254.7.2/30 dev eth0");

        let flags = format!(
            "--attach {attach} --netns {},{}",
            client.name(),
            server.name()
        );
        let agent = Agent::run(&host, &flags);
        must_follow(&agent, 2);
        agent.must_be_attached(8);
        let mut expected = Tally::default();
        for (from, to, seed) in [
            (&client, Pair::V4, 1),
            (&client, Pair::V6, 2),
            (&host, Pair::V4, 3),
        ] {
            let script = Script {
                seed,
                ..Script::default()
            };
            expected = expected + &Load::whole(from, &server, at(to), at(to), script, 60);
            agent.must_count(&expected);
        }
        let to = at("169.254.7.1:8080");
        expected = expected + &Load::whole(&client, &host, to, to, Script::default(), 30);
        agent.must_count(&expected);
        let metrics = agent.metrics();
        let both = metrics.sum("websocket_handshakes_total", &[("side", "both")]);
        let all = metrics.sum("websocket_handshakes_total", &[]);
        assert_eq!((both, all), (12, 12), "addresses of pods are on this node");
        agent.stop(Signal::SIGTERM);
    }
}

#[test]
fn a_service_is_one_connection_inside_and_outside() {
    let Some(_turn) = turn() else { return };
    let row = Row::new();
    let (client, host, server) = (&row.client, &row.middle, &row.server);
    row.translate();
    for attach in ATTACH {
        let flags = format!(
            "--attach {attach} --netns {},{}",
            client.name(),
            server.name()
        );
        let agent = Agent::run(host, &flags);
        must_follow(&agent, 2);
        agent.must_be_attached(7);
        let (to, on) = (Row::service(), Row::translated());
        let tally = Load::whole(client, server, to, on, Script::default(), 60);
        agent.must_count(&tally);
        agent.must_have_active(0);
    }
}

/// A proxy inside a pod, as a mesh has it: HAProxy, that passes on from `front` to `back`.
#[track_caller]
fn sidecar(ns: &Netns, folder: &Path, front: &str, back: &str) -> Process {
    let config = format!(
        "global\nnbthread 1\ndefaults\nmode tcp\ntimeout connect 5s\ntimeout client 60s\n\
         timeout server 60s\nlisten hop\nbind {front}\nserver upstream {back}\n"
    );
    let path = folder.join(ns.name());
    fs::write(&path, config).expect("a file");
    let mut command = ns.command("haproxy");
    command.args(["-db", "-f"]).arg(&path);
    let mut process = Process::spawn(command);
    let listening = front.split(' ').next().expect("an address");
    eventually("the sidecar listens", Duration::from_secs(10), || {
        process.must_live();
        let sockets = ns.run("ss", &["-Hltn"]);
        sockets.contains(listening).then_some(()).ok_or(sockets)
    });
    process
}

#[test]
fn behind_sidecars_with_tls_between_them() {
    let Some(_turn) = turn() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let pem = folder.join("pem");
    let pem = pem.to_str().expect("a path in UTF-8");
    run(Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=pod",
            "-keyout",
            pem,
            "-out",
        ])
        .arg(folder.join("certificate")));
    let certificate = fs::read_to_string(folder.join("certificate")).expect("a certificate");
    let key = fs::read_to_string(pem).expect("a key");
    fs::write(pem, certificate + &key).expect("a file");

    let row = Row::new();
    let (client, host, server) = (&row.client, &row.middle, &row.server);
    row.route();
    let to = "127.0.0.1:8080";
    let secured = "10.77.2.2:15006";
    // Both hops over a loopback have the same address and port.
    let _outbound = sidecar(client, folder, to, &format!("{secured} ssl verify none"));
    let _inbound = sidecar(server, folder, &format!("{secured} ssl crt {pem}"), to);

    let outside = Agent::run(host, "");
    let flags = format!("--netns {},{}", client.name(), server.name());
    let inside = Agent::run(host, &flags);
    must_follow(&inside, 2);
    inside.must_be_attached(7);
    let hop = Load::whole(client, server, at(to), at(to), Script::default(), 40);
    // Two hops, each read where it is plain.
    let both = hop.clone() + &hop;
    inside.must_count(&both);
    outside.must_count(&Tally::default());
    // One for each that is plain, however many devices it passes.
    for agent in [&outside, &inside] {
        eventually("TLS is counted", Duration::from_secs(5), || {
            let name = "wstap_unreadable_connections_total";
            match agent.metrics().sum(name, &[("reason", "tls")]) {
                3 => Ok(()),
                n => Err(format!("{n} TLS connections")),
            }
        });
    }
}

#[test]
fn namespaces_by_process_path_and_name() {
    let Some(_turn) = turn() else { return };
    let (host, pod, other) = (Netns::new("host"), Pod::new("pod"), Netns::new("other"));
    let path = format!("/run/netns/{}", pod.ns.name());
    let procfs = tempfile::tempdir().expect("a folder");
    let procfs = procfs.path();
    pod.appear(procfs);
    // Its own, and one that is not there, are none of the others.
    let own = format!("/run/netns/{},absent", host.name());
    let to = at("127.0.0.1:8080");
    for netns in [
        pod.ns.name(),
        &path,
        &pod.pid().to_string(),
        &format!("{own},{path},{},pods", pod.pid()),
    ] {
        let flags = format!("--netns {netns} --procfs {}", procfs.display());
        let agent = Agent::run(&host, &flags);
        must_follow(&agent, 1);
        agent.must_be_attached(2);
        let waits = agent
            .process
            .stderr()
            .matches("absent; waiting for one")
            .count();
        assert_eq!(waits, usize::from(netns.contains("absent")), "said once");
        let tally = Load::whole(&pod.ns, &pod.ns, to, to, on("pod"), 5);
        agent.must_count(&tally);
    }

    let flags = format!(
        "-v --netns {},{} --max-netns 1",
        pod.ns.name(),
        other.name()
    );
    let agent = Agent::run(&host, &flags);
    must_follow(&agent, 1);
    assert!(!agent.process.stderr().contains("waiting for one"));
    std::thread::sleep(Duration::from_millis(2500));
    must_follow(&agent, 1);
    let limit = ("limit", "netns");
    let turned_away = agent.metrics().sum("wstap_limit_exceeded_total", &[limit]);
    assert_eq!(turned_away, 1, "counted once, however long it waits");
    // Whichever it is that waits, it has its turn when the others are gone.
    drop(pod);
    must_follow(&agent, 1);
    let attached = format!("attached to lo in {}", other.name());
    eventually("the other is followed", Duration::from_secs(5), || {
        let stderr = agent.process.stderr();
        stderr.contains(&attached).then_some(()).ok_or(stderr)
    });
    let tally = Load::whole(&other, &other, to, to, on("other"), 5);
    must_count(&agent, &tally);
}

/// Waits until it is attached so often with TCX: two links an interface.
#[track_caller]
fn must_hold_links(process: &Process, links: usize) {
    eventually("it is attached", Duration::from_secs(10), || {
        match held(process.pid(), "link_id").len() {
            n if n == links => Ok(()),
            n => Err(format!("{n} links\n{}", process.stderr())),
        }
    });
}

/// What an agent has of the kernel's: descriptors, programs, and file systems for maps.
fn possessions(pid: Pid) -> (usize, BTreeSet<u32>, usize) {
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).expect("a process");
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("a process");
    let mounted = mounts.lines().filter(|line| line.contains(" - bpf "));
    (fds.count(), held(pid, "prog_id"), mounted.count())
}

/// As [`Agent::must_count`], where it is too many namespaces that were lost.
#[track_caller]
fn must_count(agent: &Agent<'_>, expected: &Tally) {
    eventually(
        "the agent counts",
        Duration::from_secs(10),
        || match agent.tally() {
            tally if tally == *expected => Ok(()),
            tally => Err(format!("peers\n{expected}\nagent\n{tally}")),
        },
    );
}

#[test]
fn a_namespace_that_is_gone_is_left() {
    let Some(_turn) = turn() else { return };
    for attach in ATTACH {
        let (host, pod) = (Netns::new("host"), Netns::new("pod"));
        let agent = Agent::run(&host, &format!("--attach {attach} --netns {}", pod.name()));
        must_follow(&agent, 1);
        agent.must_be_attached(2);
        let (_, before, _) = possessions(agent.process.pid());
        let to = at("127.0.0.1:8080");
        let load = Load::open(&pod, &pod, to, to, Script::default());
        load.exchange(10);
        agent.must_have_active(3);
        // Its name goes; the peers are still inside, and notice nothing.
        let inode = fs::metadata(format!("/run/netns/{}", pod.name())).expect("a namespace");
        drop(pod);
        must_follow(&agent, 0);
        agent.must_be_attached(1);
        load.exchange(10);
        load.close();
        let (_, after, _) = possessions(agent.process.pid());
        if attach == "tcx" {
            must_be_unloaded(before.difference(&after).copied());
        }
        // Nobody keeps it.
        let kept = fs::read_dir(format!("/proc/{}/fd", agent.process.pid())).expect("a process");
        let kept = kept.filter_map(Result::ok).filter(|entry| {
            fs::metadata(entry.path())
                .is_ok_and(|file| (file.dev(), file.ino()) == (inode.dev(), inode.ino()))
        });
        assert_eq!(kept.count(), 0, "{attach}");
        let tally = Load::whole(&host, &host, to, to, Script::default(), 5);
        eventually("the host is still followed", Duration::from_secs(5), || {
            let closed = agent.tally().closed.values().sum::<u64>();
            (closed >= tally.closed.values().sum::<u64>())
                .then_some(())
                .ok_or_else(|| format!("{closed}"))
        });
        agent.stop(Signal::SIGTERM);
    }
}

#[test]
fn fifty_pods_come_and_go() {
    const AT_ONCE: usize = 10;
    let Some(_turn) = turn() else { return };
    let host = Netns::new("host");
    let procfs = tempfile::tempdir().expect("a folder");
    let procfs = procfs.path();
    let flags = format!("--netns pods --procfs {}", procfs.display());
    let agent = Agent::run(&host, &flags);
    agent.must_be_attached(1);
    let to = at("127.0.0.1:8080");
    let mut expected = Load::whole(&host, &host, to, to, on("host"), 5);
    agent.must_count(&expected);
    let before = possessions(agent.process.pid());
    let mut inside = BTreeSet::new();
    for _ in 0..50 / AT_ONCE {
        let pods: Vec<_> = (0..AT_ONCE).map(|i| Pod::new(&format!("pod{i}"))).collect();
        for pod in &pods {
            pod.appear(procfs);
        }
        must_follow(&agent, AT_ONCE as u64);
        agent.must_be_attached(1 + AT_ONCE as u64);
        inside.extend(held(agent.process.pid(), "prog_id"));
        for pod in pods.iter().step_by(3) {
            expected = expected + &Load::whole(&pod.ns, &pod.ns, to, to, on(pod.ns.name()), 5);
        }
        agent.must_count(&expected);
        for pod in &pods {
            fs::remove_file(procfs.join(pod.pid().to_string())).expect("a link");
        }
        drop(pods);
        must_follow(&agent, 0);
        agent.must_be_attached(1);
    }
    let failed = agent.metrics();
    assert_eq!(failed.sum("wstap_network_namespaces_failed_total", &[]), 0);
    assert_eq!(possessions(agent.process.pid()), before);
    assert_eq!(inside.len(), before.1.len() + 100);
    must_be_unloaded(inside.difference(&before.1).copied());
    agent.stop(Signal::SIGTERM);
    must_be_unloaded(before.1);
}

/// The names of programs, each with its id.
#[track_caller]
fn named(programs: BTreeSet<u32>) -> Vec<(String, u32)> {
    let name = |id: u32| {
        let show = ["-j", "prog", "show", "id", &id.to_string()];
        let shown = run(Command::new("bpftool").args(show));
        let shown: Value = serde_json::from_str(&shown).expect("JSON");
        (shown["name"].as_str().expect("a name").to_owned(), id)
    };
    programs.into_iter().map(name).collect()
}

#[test]
fn a_killed_agent_leaves_nothing_inside_that_does_anything() {
    let Some(_turn) = turn() else { return };
    let to = at("127.0.0.1:8080");
    for attach in ATTACH {
        let (host, pod) = (Netns::new("host"), Netns::new("pod"));
        let flags = format!("--attach {attach} --netns {}", pod.name());
        let agent = Agent::run(&host, &flags);
        must_follow(&agent, 1);
        agent.must_be_attached(2);
        let left = if attach == "clsact" { 2 } else { 0 };
        assert_eq!(ours(&filters(&pod, "lo")), left, "{attach}");
        let programs = named(held(agent.process.pid(), "prog_id"));
        let load = Load::open(&pod, &pod, to, to, Script::default());
        load.exchange(10);
        agent.process.signal(Signal::SIGKILL);
        agent.process.wait(Duration::from_secs(5));
        load.exchange(10);
        load.close();
        assert_eq!(ours(&filters(&pod, "lo")), left, "{attach}");
        // The filters keep their own programs, and not the large ones that these went on with.
        let is_kept = |name: &str| attach == "clsact" && !name.starts_with("inner_");
        must_be_unloaded(
            programs
                .into_iter()
                .filter(|(name, _)| !is_kept(name))
                .map(|(_, id)| id),
        );

        let agent = Agent::run(&host, &flags);
        must_follow(&agent, 1);
        agent.must_be_attached(2);
        assert_eq!(ours(&filters(&pod, "lo")), left, "replaced, {attach}");
        let tally = Load::whole(&pod, &pod, to, to, Script::default(), 10);
        agent.must_count(&tally);
        agent.stop(Signal::SIGTERM);
        assert_eq!(filters(&pod, "lo"), "", "{attach}");
        assert!(!has_clsact(&pod, "lo"), "{attach}");
    }
}

#[test]
fn what_is_missing_to_enter_is_named() {
    let Some(_turn) = turn() else { return };
    let host = Netns::new("host");
    for (bounding, netns, missing) in [
        ("-sys_admin", "blue", "missing capability CAP_SYS_ADMIN;"),
        ("-sys_ptrace", "pods", "missing capability CAP_SYS_PTRACE;"),
        (
            "-sys_ptrace,-sys_admin",
            "1",
            "missing capabilities CAP_SYS_ADMIN and CAP_SYS_PTRACE;",
        ),
    ] {
        let mut command = host.command("setpriv");
        command.args(["--bounding-set", bounding, WSTAP, "trace", "--netns", netns]);
        let output = command.output().expect("setpriv runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(
            stderr.contains(missing) && stderr.contains("--netns"),
            "{stderr}"
        );
    }
    // A name needs no more than entering.
    let pod = Netns::new("pod");
    let mut command = host.command("setpriv");
    command.args([
        "--bounding-set",
        "-sys_ptrace",
        WSTAP,
        "trace",
        "-v",
        "--netns",
    ]);
    command.arg(pod.name());
    let mut tracing = Process::spawn(command);
    eventually("it follows", Duration::from_secs(15), || {
        tracing.must_live();
        let stderr = tracing.stderr();
        let follows = stderr.contains(&format!("following network namespace {}", pod.name()));
        follows.then_some(()).ok_or(stderr)
    });
    let mut check = host.command("setpriv");
    check.args(["--bounding-set", "-sys_admin", WSTAP, "check"]);
    check.env("WSTAP_NETNS", "pods");
    let output = check.output().expect("setpriv runs");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{stdout}");
    let line = |what: &str| stdout.lines().find(|line| line.contains(what));
    assert!(
        line("CAP_SYS_ADMIN").is_some_and(|l| l.starts_with("no")),
        "{stdout}"
    );
    assert!(
        line("CAP_SYS_PTRACE").is_some_and(|l| l.starts_with("yes")),
        "{stdout}"
    );
}
