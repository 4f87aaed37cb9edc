//! What the agent may do, and what it gives up.

use std::{collections::BTreeMap, fs, time::Duration};

use nix::{sys::signal::Signal, unistd::Pid};
use wstap::{
    config::{self, NamespaceSelection},
    source::kernel::{
        Method,
        privileges::{needed_later, needed_to_read},
        requirements::{CAPABILITIES, Capability},
    },
};

use super::{
    ATTACH, Pair, at,
    support::{
        agent::{self, Agent, Process},
        container::{Container, Context, image},
        eventually,
        load::{Load, Script},
        machine::{self, turn},
        netns::{Netns, run},
    },
};

/// Of each thread of a process its name and its status.
fn threads(pid: Pid) -> Vec<(String, String)> {
    let folder = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let threads = folder.filter_map(|entry| {
        let status = fs::read_to_string(entry.ok()?.path().join("status")).ok()?;
        let name = field(&status, "Name").to_owned();
        Some((name, status))
    });
    threads.collect()
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let mut lines = status.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.unwrap_or_default().trim()
}

fn mask(capabilities: &[Capability]) -> u64 {
    let bit = |capability: &Capability| {
        let known: caps::Capability = capability.name.parse().expect("a capability");
        known.bitmask()
    };
    capabilities.iter().map(bit).sum()
}

/// Whether all threads have what they need, and nothing else. `bounding` is what the process can get at
/// most, where it was not given what it takes to give that up.
#[track_caller]
fn must_have_given_up(pid: Pid, attach: &str, bounding: Option<u64>) {
    let method = match attach {
        "tcx" => Method::Tcx,
        _ => Method::Clsact,
    };
    let (later, read) = (
        mask(&needed_later(method, &NamespaceSelection::default())),
        mask(&needed_to_read()),
    );
    let mut seen = BTreeMap::<String, usize>::new();
    for (name, status) in threads(pid) {
        let allowed = match name.as_str() {
            "tokio-rt-worker" => 0,
            "reader" => read,
            _ => later,
        };
        let set = |name| u64::from_str_radix(field(&status, name), 16).expect("a set");
        for (which, expected) in [
            ("CapInh", 0),
            ("CapPrm", allowed),
            ("CapEff", allowed),
            ("CapAmb", 0),
        ] {
            let found = set(which);
            assert_eq!(
                found, expected,
                "{which} of {name}: {found:x}, {attach}\n{status}"
            );
        }
        // Threads that were started by one that could no longer give it up have what that one has.
        let beyond = set("CapBnd") & !bounding.unwrap_or(later);
        assert_eq!(beyond, 0, "CapBnd of {name}, {attach}\n{status}");
        assert_eq!(field(&status, "NoNewPrivs"), "1", "{name}");
        *seen.entry(name).or_default() += 1;
    }
    for name in ["wstap", "links", "reader"] {
        assert_eq!(seen.get(name), Some(&1), "{name}: {seen:?}");
    }
    assert!(seen.contains_key("tokio-rt-worker"), "{seen:?}");
}

/// What goes between the namespaces from now on, counted.
#[track_caller]
fn exchange(pair: &Pair, address: &str) -> super::support::tally::Tally {
    let to = at(address);
    Load::whole(&pair.client, &pair.server, to, to, Script::default(), 20)
}

/// Joins the two by a device without a link layer.
#[track_caller]
fn join_by_tun(pair: &Pair) -> Process {
    let mut command = std::process::Command::new(machine::python());
    command.arg(machine::script("tun.py"));
    for (ns, device) in [(&pair.client, "tun0"), (&pair.server, "tun1")] {
        command.args([ns.path().as_str(), device]);
    }
    let mut joint = Process::spawn(command);
    eventually("both devices are there", Duration::from_secs(10), || {
        joint.must_live();
        let is_ready = joint.stdout().contains("ready");
        is_ready.then_some(()).ok_or_else(|| joint.stderr())
    });
    for (ns, device, address) in [
        (&pair.client, "tun0", "10.79.0.1/24"),
        (&pair.server, "tun1", "10.79.0.2/24"),
    ] {
        ns.ip(&format!("address add {address} dev {device}"));
        ns.ip(&format!("link set {device} up"));
    }
    joint
}

#[test]
fn nothing_is_kept_but_what_attaching_takes() {
    let Some(_turn) = turn() else { return };
    for attach in ATTACH {
        let pair = Pair::new();
        let agent = Agent::run(
            &pair.server,
            &format!("--attach {attach} -i lo -i l* -i tun*"),
        );
        agent.must_be_attached(1);
        must_have_given_up(agent.process.pid(), attach, None);

        // Interfaces that appear now, also of the other framing, which had no part in the start.
        Netns::veth(
            (&pair.client, "late0", &["10.78.0.1/24"]),
            (&pair.server, "late1", &["10.78.0.2/24"]),
        );
        agent.must_be_attached(2);
        let mut expected = exchange(&pair, "10.78.0.2:8080");
        let _joint = join_by_tun(&pair);
        agent.must_be_attached(3);
        expected = expected + &exchange(&pair, "10.79.0.2:8080");
        agent.must_count(&expected);
        pair.server.ip("link delete late1");
        agent.must_be_attached(2);
        must_have_given_up(agent.process.pid(), attach, None);
        agent.stop(Signal::SIGTERM);
        for device in ["lo", "tun1"] {
            let left = pair.server.tc(&format!("qdisc show dev {device}"));
            assert!(!left.contains("clsact"), "{attach}, {device}: {left}");
        }
    }
}

#[test]
fn other_namespaces_take_what_they_need_and_no_more() {
    let Some(_turn) = turn() else { return };
    let (ns, pod) = (Netns::new("node"), Netns::new("pod"));
    let flags = format!("--attach tcx --netns {}", pod.name());
    let agent = Agent::run(&ns, &flags);
    agent.must_be_attached(2);
    let wanted = NamespaceSelection {
        wanted: vec![config::Netns::Name(pod.name().to_owned())],
        ..NamespaceSelection::default()
    };
    let needed = mask(&needed_later(Method::Tcx, &wanted));
    for (name, status) in threads(agent.process.pid()) {
        let left = u64::from_str_radix(field(&status, "CapPrm"), 16).expect("a set");
        let allowed = match name.as_str() {
            "tokio-rt-worker" => 0,
            "reader" => mask(&needed_to_read()),
            _ => needed,
        };
        assert_eq!(left, allowed, "{name}: {left:x}");
    }
}

#[test]
fn trace_gives_up_the_same() {
    let Some(_turn) = turn() else { return };
    let ns = Netns::new("trace");
    let trace = agent::trace(&ns, "lo", &["--attach", "tcx"]);
    let kept = format!(
        "{:016x}",
        mask(&needed_later(Method::Tcx, &NamespaceSelection::default()))
    );
    eventually("it has given them up", Duration::from_secs(5), || {
        let threads = threads(trace.pid());
        let mut too_many = threads
            .iter()
            .filter(|(_, status)| field(status, "CapPrm") != kept);
        too_many
            .next()
            .map_or(Ok(()), |(name, status)| Err(format!("{name}: {status}")))
    });
}

/// `wstap run` in a container.
#[track_caller]
fn contained<'a>(ns: &'a Netns, context: &Context, attach: &str) -> (Agent<'a>, Container) {
    let listen = Agent::address(ns);
    let listening = listen.to_string();
    let args = ["run", "--attach", attach, "--listen", &listening];
    let container = Container::new(context, Some(ns), &args);
    (Agent::start(ns, listen, container.command()), container)
}

/// With the capabilities that are shipped and not one more, a read-only root, seccomp, and no file of
/// the machine: it counts every frame.
#[test]
fn the_image_works_with_the_shipped_security_context() {
    let Some(_turn) = turn() else { return };
    // Of /sys it needs no more than how many processors there are.
    for (attach, whole_sys) in [("tcx", true), ("tcx", false), ("clsact", false)] {
        let pair = Pair::new();
        let mut context = Context::shipped();
        context.whole_sys = whole_sys;
        let (agent, container) = contained(&pair.server, &context, attach);
        let pid = container.pid();
        must_have_given_up(pid, attach, Some(mask(&CAPABILITIES)));
        for (name, status) in threads(pid) {
            assert_eq!(field(&status, "Seccomp"), "2", "{name}");
        }

        let expected = exchange(&pair, Pair::V4);
        Netns::veth(
            (&pair.client, "late0", &["10.78.0.1/24"]),
            (&pair.server, "late1", &["10.78.0.2/24"]),
        );
        agent.must_be_attached(3);
        agent.must_count(&(expected + &exchange(&pair, "10.78.0.2:8080")));

        let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("it runs");
        let root = mounts
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>());
        let root: Vec<_> = root.filter(|words| words.get(4) == Some(&"/")).collect();
        assert!(!root.is_empty(), "{mounts}");
        for words in root {
            assert!(
                words[5].split(',').any(|option| option == "ro"),
                "{words:?}"
            );
        }
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs");
        for descriptor in descriptors.filter_map(Result::ok) {
            let file = fs::read_link(descriptor.path()).unwrap_or_default();
            // The standard three are pipes of the test's and /dev/null.
            let is_file = file.is_absolute() && !file.starts_with("/dev");
            assert!(!is_file, "{} is open", file.display());
        }
        let said = agent.process.stderr();
        assert!(!said.contains("WARN") && !said.contains("ERROR"), "{said}");
        agent.stop(Signal::SIGTERM);
    }
}

/// The one line of `wstap run` in a container that does not start.
#[track_caller]
fn refusal(context: &Context) -> String {
    let ns = Netns::new("refused");
    let container = Container::new(context, Some(&ns), &["run"]);
    let output = container.command().output().expect("runc runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.starts_with("wstap: "), "{said}");
    said
}

#[test]
fn a_capability_less_is_named() {
    let Some(_turn) = turn() else { return };
    let shipped = Context::shipped();
    let added = shipped.added();
    assert_eq!(added.len(), 3);
    for missing in &added {
        let line = refusal(&shipped.without(missing));
        let named: Vec<_> = added
            .iter()
            .filter(|name| line.contains(&format!("CAP_{name}")))
            .collect();
        assert_eq!(named, [missing], "{line}");
        let remedy =
            format!("`capabilities: {{add: [{missing}]}}` in the container's securityContext");
        assert!(line.contains(&remedy), "{line}");
    }
    let mut other_user = shipped.clone();
    other_user.security["runAsUser"] = 65_532.into();
    let line = refusal(&other_user);
    assert!(line.contains("user 0 only: `runAsUser: 0`"), "{line}");
}

#[test]
fn a_seccomp_profile_that_refuses_is_told_from_a_capability() {
    let Some(_turn) = turn() else { return };
    let mut older = Context::shipped();
    older.clone3 = libc::EPERM;
    let line = refusal(&older);
    assert!(
        line.contains("starting a thread") && line.contains("seccomp"),
        "{line}"
    );
    older.profile_knows_bpf = false;
    let line = refusal(&older);
    assert!(line.contains("capabilities are there"), "{line}");
    assert!(
        line.contains("seccomp") && line.contains("seccompProfile"),
        "{line}"
    );

    let findings = check(&older, None);
    assert_eq!(findings["CAP_BPF"].0, "yes");
    let (state, said) = &findings["bpf()"];
    assert!(state == "no" && said.contains("seccomp"), "{findings:?}");
    assert_eq!(findings["program"].0, "unknown");
}

/// What `wstap check` says in a container: state, and the rest, by requirement.
#[track_caller]
fn check(context: &Context, ns: Option<&Netns>) -> BTreeMap<String, (String, String)> {
    let container = Container::new(context, ns, &["check", "-o", "json"]);
    let output = container.command().output().expect("runc runs");
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let findings = agent::events(&stdout).into_iter().map(|finding| {
        let word = |name: &str| finding[name].as_str().unwrap_or_default().to_owned();
        let said = format!("{}; {}", word("found"), word("remedy"));
        (word("requirement"), (word("state"), said))
    });
    let findings: BTreeMap<_, _> = findings.collect();
    let failed = findings.values().any(|(state, _)| state == "no");
    assert_eq!(output.status.code(), Some(failed.into()), "{findings:?}");
    findings
}

#[test]
fn check_says_what_the_container_lacks() {
    let Some(_turn) = turn() else { return };
    let shipped = Context::shipped();
    // With the machine's network, as with `hostNetwork`, where that is ours to give.
    let findings = check(&shipped, None);
    assert!(
        findings.values().all(|(state, _)| state != "no"),
        "{findings:?}"
    );
    for what in [
        "CAP_BPF",
        "CAP_NET_ADMIN",
        "CAP_PERFMON",
        "bpf()",
        "program",
    ] {
        assert_eq!(findings[what].0, "yes", "{what}");
    }
    let own = wstap::source::kernel::requirements::is_machines_network();
    let expected = if own == Some(true) { "yes" } else { "degraded" };
    assert_eq!(findings["network"].0, expected, "{findings:?}");

    // A pod of its own network.
    let ns = Netns::new("pod");
    let findings = check(&shipped, Some(&ns));
    let (state, said) = &findings["network"];
    assert_eq!(state, "degraded");
    assert!(
        said.contains("this pod alone") && said.contains("hostNetwork: true"),
        "{said}"
    );

    for missing in shipped.added() {
        let findings = check(&shipped.without(&missing), Some(&ns));
        let (state, said) = &findings[&format!("CAP_{missing}")];
        assert_eq!(state, "no");
        assert!(said.contains(&format!("add: [{missing}]")), "{said}");
    }
}

#[test]
fn the_image_has_nothing_but_the_binary_and_its_libraries() {
    let Some(_turn) = turn() else { return };
    let files = run(std::process::Command::new("find")
        .arg(image())
        .args(["-type", "f", "-printf", "/%P\n"]));
    let mut files: Vec<_> = files.lines().collect();
    files.sort_unstable();
    assert!(files.contains(&"/usr/bin/wstap"), "{files:?}");
    for file in files {
        let is_library = file.starts_with("/lib") && file.contains(".so");
        assert!(is_library || file == "/usr/bin/wstap", "{file}");
    }
}
