//! The exposition against promtool, the contract's list and `docs/metrics.md`.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    process::{Command, Stdio},
};

use super::*;
use crate::sink::peer::tests::Known;

/// Runs promtool on `input`; what it has to say, if it is not content.
fn promtool(arguments: &[&str], input: &str) -> Option<String> {
    let child = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.unwrap_or_else(|error| {
        panic!(
            "promtool does not run ({error}): run `cargo xtask setup`, or install the Debian \
             package `prometheus`"
        )
    });
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (!output.status.success()).then(|| String::from_utf8_lossy(&said).into_owned())
}

pub(super) fn check_metrics(text: &str) {
    assert_eq!(promtool(&["check", "metrics"], text), None, "of\n{text}");
}

#[test]
fn promtool_accepts_an_empty_agent() {
    let text = Metrics::new(&MetricsConfig::default()).expose(seconds(1));
    assert!(!text.contains("websocket_"));
    check_metrics(&(text + &process_metrics()));
}

#[test]
fn promtool_accepts_everything_hostile_labels_too() {
    let metrics = Metrics::new(&MetricsConfig::default());
    populate(&metrics);
    check_metrics(&(metrics.expose(seconds(3)) + &process_metrics()));
}

#[test]
fn every_metric_is_exposed_with_its_kind_and_labels() {
    let metrics = Metrics::new(&MetricsConfig::default()).with_names(Arc::new(Known::default()));
    populate(&metrics);
    let text = metrics.expose(seconds(3));
    let mut types: Vec<&str> = text.lines().filter(|l| l.starts_with("# TYPE")).collect();
    types.sort_unstable();
    let mut expected: Vec<String> = names::ALL
        .iter()
        .map(|metric| format!("# TYPE {} {}", metric.name, metric.kind.as_str()))
        .collect();
    expected.sort_unstable();
    assert_eq!(types, expected);
    for metric in names::ALL {
        let line = text
            .lines()
            .find(|line| {
                let name = line.split(['{', ' ']).next().unwrap_or_default();
                name == metric.name || name == format!("{}_sum", metric.name)
            })
            .unwrap();
        let peers: &[&str] = match metric.scope {
            names::Scope::Endpoint => &names::PEER_LABELS,
            names::Scope::Connection | names::Scope::Agent => &[],
        };
        let labels: Vec<_> = [metric.scope.labels(), peers, metric.labels].concat();
        let mut rest = line;
        for label in labels {
            let at = rest.find(&format!("{label}=\""));
            let at = at.unwrap_or_else(|| panic!("{label} in {line}"));
            rest = &rest[at..];
        }
    }
    let process = process_metrics();
    for name in names::PROCESS {
        assert!(value(&process, name, &[]).is_some(), "{name}");
    }
    assert_eq!(
        process.lines().filter(|l| l.starts_with("# TYPE")).count(),
        names::PROCESS.len()
    );
}

/// The contract's list: name, kind, labels of its own.
const CONTRACT: &str = "
websocket_handshakes_total counter outcome status subprotocol
websocket_handshake_duration_seconds histogram
websocket_connections_active gauge
websocket_connections_closed_total counter kind code initiator
websocket_connection_duration_seconds histogram
websocket_connection_silence_seconds histogram kind
websocket_frames_total counter direction opcode
websocket_frame_payload_bytes_total counter direction opcode
websocket_frame_size_bytes histogram direction
websocket_messages_total counter direction type compressed
websocket_message_size_bytes histogram direction
websocket_ping_rtt_seconds histogram direction
websocket_unanswered_pings_total counter direction
websocket_protocol_violations_total counter direction rule
websocket_connection_frames_total counter direction opcode
websocket_connection_payload_bytes_total counter direction opcode
websocket_connection_last_frame_size_bytes gauge direction
websocket_connection_opened_timestamp_seconds gauge
websocket_connection_close_code gauge initiator
wstap_build_info gauge version revision
wstap_interfaces_attached gauge
wstap_network_namespaces gauge
wstap_network_namespaces_failed_total counter
wstap_connections_tracked gauge
wstap_samples_total counter
wstap_sample_bytes_total counter
wstap_samples_lost_total counter reason
wstap_frames_lost_total counter
wstap_gaps_total counter
wstap_resyncs_total counter
wstap_retransmission_conflicts_total counter
wstap_limit_exceeded_total counter limit
wstap_limit gauge limit
wstap_kernel_packets_total counter verdict
wstap_kernel_places_lost_total counter
wstap_kernel_places_found_total counter
wstap_kernel_early_segments_total counter
wstap_records_missed_total counter
wstap_endpoints_gone_total counter
wstap_kubernetes_pods gauge
wstap_kubernetes_watch_errors_total counter resource
wstap_kubernetes_owners_guessed_total counter
wstap_unreadable_connections_total counter reason
";

#[test]
fn names_are_those_of_the_contract() {
    let ours: Vec<String> = names::ALL
        .iter()
        .map(|metric| {
            let words = [metric.name, metric.kind.as_str()];
            [&words, metric.labels].concat().join(" ")
        })
        .collect();
    assert_eq!(ours.join("\n"), CONTRACT.trim());
}

#[test]
fn no_label_is_one_that_scrapers_set() {
    // Of targets, as Prometheus and its operator name them; a label of ours would become `exported_...`.
    const SCRAPERS: [&str; 9] = [
        "job",
        "instance",
        "namespace",
        "pod",
        "container",
        "endpoint",
        "service",
        "node",
        "prometheus",
    ];
    for metric in names::ALL {
        for label in metric.scope.labels().iter().chain(metric.labels) {
            assert!(!SCRAPERS.contains(label), "{label} of {}", metric.name);
        }
    }
}

/// The sections of `docs/metrics.md` that speak of one metric, by its name.
fn documented() -> BTreeMap<&'static str, &'static str> {
    const DOCS: &str = include_str!("../../../../../docs/metrics.md");
    let sections = DOCS.split("\n### `").skip(1);
    sections
        .map(|section| {
            let (name, rest) = section.split_once('`').unwrap();
            (name, rest.split("\n## ").next().unwrap_or_default())
        })
        .collect()
}

#[test]
fn documentation_and_code_name_the_same_metrics() {
    let documented = documented();
    let described: BTreeSet<&str> = documented.keys().copied().collect();
    let own = names::ALL.iter().map(|metric| metric.name);
    let all: BTreeSet<&str> = own.chain(names::PROCESS.iter().copied()).collect();
    assert_eq!(described, all);
}

#[test]
fn documentation_gives_kind_labels_and_a_query() {
    for metric in names::ALL {
        let section = documented()[metric.name];
        let facts = section
            .lines()
            .find(|line| !line.is_empty())
            .unwrap_or_default();
        let kind = metric.kind.as_str();
        assert!(
            facts.to_lowercase().starts_with(kind),
            "{}: {facts}",
            metric.name
        );
        let labels: Vec<&str> = facts.split('`').skip(1).step_by(2).collect();
        assert_eq!(labels, metric.labels, "{}", metric.name);
    }
    let process = names::PROCESS.iter().copied();
    for name in names::ALL.iter().map(|metric| metric.name).chain(process) {
        let query = documented()[name].split("```promql").nth(1);
        let query = query.and_then(|rest| rest.split("```").next());
        assert!(
            query.is_some_and(|query| query.contains(name)),
            "{name} has no query"
        );
    }
}

#[test]
fn documented_queries_are_valid() {
    const DOCS: [&str; 4] = [
        include_str!("../../../../../README.md"),
        include_str!("../../../../../docs/metrics.md"),
        include_str!("../../../../../docs/operations.md"),
        include_str!("../../../../../docs/runbooks.md"),
    ];
    let queries: Vec<&str> = DOCS
        .iter()
        .flat_map(|text| text.split("```promql\n").skip(1))
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert!(queries.len() >= names::ALL.len() + names::PROCESS.len());
    let rules = queries.iter().enumerate();
    let rules: Vec<_> = rules
        .map(|(i, query)| serde_json::json!({"record": format!("query:{i}"), "expr": query}))
        .collect();
    // Rule files are YAML, of which JSON is a part.
    let file = serde_json::json!({"groups": [{"name": "docs", "rules": rules}]});
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queries.json");
    std::fs::write(&path, file.to_string()).unwrap();
    let arguments = ["check", "rules", path.to_str().unwrap()];
    assert_eq!(promtool(&arguments, ""), None);
}

#[test]
fn alerts_dashboards_and_runbooks_know_every_metric_that_they_ask_for() {
    const SHIPPED: [(&str, &str); 5] = [
        (
            "operations.md",
            include_str!("../../../../../docs/operations.md"),
        ),
        (
            "runbooks.md",
            include_str!("../../../../../docs/runbooks.md"),
        ),
        (
            "rules.yaml",
            include_str!("../../../../../deploy/prometheus/rules.yaml"),
        ),
        (
            "operators.json",
            include_str!("../../../../../deploy/grafana/operators.json"),
        ),
        (
            "agents.json",
            include_str!("../../../../../deploy/grafana/agents.json"),
        ),
    ];
    let mut known: BTreeSet<String> = BTreeSet::new();
    for metric in names::ALL {
        let suffixes: &[&str] = match metric.kind {
            names::Kind::Histogram => &["_bucket", "_count", "_sum"],
            _ => &[""],
        };
        known.extend(
            suffixes
                .iter()
                .map(|suffix| format!("{}{suffix}", metric.name)),
        );
    }
    known.extend(names::PROCESS.iter().map(|&name| name.to_owned()));
    for (file, text) in SHIPPED {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let metrics = words.filter(|word| {
            let prefixes = ["websocket_", "wstap_", "process_"];
            prefixes.iter().any(|prefix| word.starts_with(prefix))
        });
        let mut asked = 0;
        for metric in metrics {
            // Text may name a histogram as a whole.
            let named = file.ends_with(".md") && names::ALL.iter().any(|m| m.name == metric);
            assert!(named || known.contains(metric), "{file} asks for {metric}");
            asked += 1;
        }
        assert!(asked > 10, "{file} asks for {asked}");
    }
}

#[test]
fn documentation_names_every_label_of_endpoints() {
    const DOCS: &str = include_str!("../../../../../docs/metrics.md");
    for label in names::Scope::Endpoint
        .labels()
        .iter()
        .chain(&names::PEER_LABELS)
    {
        assert!(DOCS.contains(&format!("\n| `{label}` |")), "{label}");
    }
}

#[test]
fn documentation_names_every_limit_verdict_and_reason() {
    let documented = documented();
    let exceeded = agent::limits(&AgentStatus::default(), &Own::default());
    let limits = exceeded.map(|(limit, _)| (names::LIMIT_EXCEEDED.name, limit));
    let verdicts = Counter::ALL
        .iter()
        .filter(|counter| counter.group() == Group::Packets)
        .map(|counter| (names::KERNEL_PACKETS.name, counter.label()));
    let status = AgentStatus::default();
    let lost = status
        .lost()
        .map(|(reason, _)| (names::SAMPLES_LOST.name, reason));
    for (name, label) in limits.into_iter().chain(verdicts).chain(lost) {
        assert!(
            documented[name].contains(&format!("`{label}`")),
            "{name}: {label}"
        );
    }
}
