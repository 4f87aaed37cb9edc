//! Events made by hand, and the exposition that they give.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    process::{Command, Stdio},
};

use super::*;
use crate::proto::{
    event::{CloseBody, CloseKind, Frame, Gap, Message, Outcome, Progress, Rule, Violation},
    flow::{Direction, PerDirection, Role},
    frame::{CloseCode, Opcode},
    observer::Stats,
};
use wstap_common::counter::Counter;

use Direction::{ClientToServer, ServerToClient};

const SECOND: u64 = 1_000_000_000;

fn seconds(n: u64) -> Timestamp {
    Timestamp(n * SECOND)
}

/// A connection of its own client port.
fn connection(id: u64, path: &str, outcome: Outcome) -> Arc<Connection> {
    Arc::new(Connection {
        id: ConnId(id),
        client: ([10, 0, 0, 1], 40_000 + (id % 20_000) as u16).into(),
        server: ([10, 0, 0, 2], 80).into(),
        interface: None,
        opened: seconds(1),
        outcome,
        host: Some("example.com".into()),
        path: Some(path.into()),
        subprotocol: None,
    })
}

fn open(id: u64) -> Arc<Connection> {
    connection(id, "/chat", Outcome::Accepted)
}

fn event(connection: &Arc<Connection>, kind: EventKind) -> Event {
    at(connection, 2, kind)
}

fn at(connection: &Arc<Connection>, second: u64, kind: EventKind) -> Event {
    Event {
        ts: seconds(second),
        connection: Arc::clone(connection),
        kind,
    }
}

fn handshake(status: Option<u16>) -> EventKind {
    EventKind::Handshake(Box::new(Handshake {
        status,
        latency: status.map(|_| Duration::from_millis(3)),
        ..Handshake::default()
    }))
}

fn frame(direction: Direction, opcode: Opcode, len: u64) -> Frame {
    Frame {
        direction,
        index: 1,
        opcode,
        fin: true,
        rsv: 0,
        mask: None,
        len,
        payload: None,
        close: None,
        rtt: None,
    }
}

fn progress(direction: Direction, opcode: Opcode, bytes: u64, total: Option<u64>) -> EventKind {
    EventKind::Progress(Progress {
        direction,
        opcode,
        bytes,
        total,
    })
}

pub(super) fn close(kind: CloseKind, code: Option<u16>, initiator: Option<Role>) -> Close {
    Close {
        kind,
        initiator,
        code: code.map(CloseCode),
        reason: None,
        duration: Duration::from_secs(61),
        silence: None,
        frames: PerDirection::default(),
        bytes: PerDirection::default(),
        tcp: PerDirection::default(),
        unanswered_pings: PerDirection::default(),
    }
}

fn violation(direction: Direction, rule: Rule) -> EventKind {
    EventKind::Violation(Violation {
        direction,
        rule,
        detail: String::new(),
        count: 2,
    })
}

fn clean_close() -> EventKind {
    EventKind::Close(Box::new(close(
        CloseKind::Clean,
        Some(1000),
        Some(Role::Client),
    )))
}

fn text_frame() -> EventKind {
    EventKind::Frame(Box::new(frame(ClientToServer, Opcode::Text, 5)))
}

fn metrics(max_endpoints: usize, connection_series: usize) -> Metrics {
    Metrics::new(&MetricsConfig {
        max_endpoints,
        connection_series,
        ..MetricsConfig::default()
    })
}

/// Sends every kind of event through, so that every metric has a series.
fn populate(metrics: &Metrics) {
    let hostile = connection(1, "/a\"b\\c\nd\0\u{202e}\u{fffd}", Outcome::Invalid);
    for conn in [open(0), hostile] {
        metrics.observe(&event(&conn, handshake(Some(101))));
        metrics.observe(&event(&conn, text_frame()));
        for (bytes, total) in [(3, None), (2, Some(5))] {
            let part = progress(ClientToServer, Opcode::Text, bytes, total);
            metrics.observe(&event(&conn, part));
        }
        metrics.observe(&event(
            &conn,
            EventKind::Message(Message {
                direction: ClientToServer,
                opcode: Opcode::Text,
                len: 5,
                frames: 1,
                compressed: true,
                inflated_len: None,
            }),
        ));
        let mut pong = frame(ServerToClient, Opcode::Pong, 0);
        pong.rtt = Some(Duration::from_micros(300));
        metrics.observe(&event(&conn, EventKind::Frame(Box::new(pong))));
        let mut reserved = frame(ServerToClient, Opcode::Reserved(0xb), u64::MAX);
        reserved.rsv = 7;
        metrics.observe(&event(&conn, EventKind::Frame(Box::new(reserved))));
        for rule in Rule::ALL {
            metrics.observe(&event(&conn, violation(ServerToClient, *rule)));
        }
        metrics.observe(&event(
            &conn,
            EventKind::Gap(Gap {
                direction: ClientToServer,
                bytes: 7,
                resynced: true,
            }),
        ));
        let mut closing = frame(ServerToClient, Opcode::Close, 2);
        closing.close = Some(CloseBody {
            code: Some(CloseCode(1001)),
            reason: String::new(),
        });
        metrics.observe(&event(&conn, EventKind::Frame(Box::new(closing))));
        let mut ending = close(CloseKind::Half, Some(1001), Some(Role::Server));
        ending.unanswered_pings[ClientToServer] = 2;
        metrics.observe(&event(&conn, EventKind::Close(Box::new(ending))));
    }
    let refused = connection(2, "/chat", Outcome::Rejected);
    metrics.observe(&event(&refused, handshake(Some(426))));
    let found = connection(3, "", Outcome::Midstream);
    metrics.observe(&event(&found, handshake(None)));
    metrics.update_agent(&AgentStatus {
        kernel: Some(KernelCounts::default()),
        interfaces_attached: 3,
        ..AgentStatus::default()
    });
}

/// The value of the only series of `name` whose labels have all of `labels` in them.
fn value(text: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let mut found = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let (series, value) = rest.rsplit_once(' ')?;
        let whole = series.is_empty() || series.starts_with('{');
        (whole && labels.iter().all(|label| series.contains(label)))
            .then(|| value.parse().expect("a number"))
    });
    let value = found.next();
    assert_eq!(found.next(), None, "more than one {name} with {labels:?}");
    value
}

fn series_of(text: &str, name: &str) -> usize {
    let start = format!("{name}{{");
    text.lines().filter(|l| l.starts_with(&start)).count()
}

fn promtool(text: &str) {
    let child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.unwrap_or_else(|error| {
        panic!("promtool does not run ({error}): install the Debian package `prometheus`, or run `cargo xtask setup`")
    });
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(text.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && output.stdout.is_empty() && said.is_empty(),
        "promtool: {}{said}\n{text}",
        String::from_utf8_lossy(&output.stdout)
    );
}

#[test]
fn promtool_accepts_an_empty_agent() {
    let text = Metrics::new(&MetricsConfig::default()).expose(seconds(1));
    assert!(!text.contains("websocket_"));
    promtool(&(text + &process_metrics()));
}

#[test]
fn promtool_accepts_everything_hostile_labels_too() {
    let metrics = Metrics::new(&MetricsConfig::default());
    populate(&metrics);
    promtool(&(metrics.expose(seconds(3)) + &process_metrics()));
}

#[test]
fn every_metric_is_exposed_with_its_kind_and_labels() {
    let metrics = Metrics::new(&MetricsConfig::default());
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
        let labels: Vec<_> = (metric.scope.labels().iter())
            .chain(metric.labels)
            .copied()
            .collect();
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

#[test]
fn events_are_counted_where_they_belong() {
    let metrics = Metrics::new(&MetricsConfig::default());
    populate(&metrics);
    let text = metrics.expose(seconds(3));
    let chat = "path=\"/chat\"";
    let to_server = "direction=\"client_to_server\"";
    let to_client = "direction=\"server_to_client\"";
    for (name, labels, expected) in [
        (
            "websocket_handshakes_total",
            vec!["outcome=\"accepted\",status=\"101\""],
            1.0,
        ),
        (
            "websocket_handshakes_total",
            vec!["outcome=\"rejected\",status=\"426\""],
            1.0,
        ),
        (
            "websocket_handshakes_total",
            vec!["path=\"\"", "outcome=\"midstream\",status=\"\""],
            1.0,
        ),
        (
            "websocket_handshake_duration_seconds_count",
            vec![chat],
            2.0,
        ),
        ("websocket_connections_active", vec![chat], 0.0),
        ("websocket_connections_active", vec!["path=\"\""], 1.0),
        (
            "websocket_connections_closed_total",
            vec![chat, "kind=\"half\",code=\"1001\",initiator=\"server\""],
            1.0,
        ),
        (
            "websocket_connection_duration_seconds_bucket",
            vec![chat, "le=\"60\""],
            0.0,
        ),
        (
            "websocket_connection_duration_seconds_bucket",
            vec![chat, "le=\"120\""],
            1.0,
        ),
        (
            "websocket_frames_total",
            vec![chat, to_server, "opcode=\"text\""],
            1.0,
        ),
        (
            "websocket_frames_total",
            vec![chat, to_client, "opcode=\"reserved\""],
            1.0,
        ),
        (
            "websocket_frame_payload_bytes_total",
            vec![chat, to_server, "opcode=\"text\""],
            5.0,
        ),
        ("websocket_frame_size_bytes_sum", vec![chat, to_server], 5.0),
        ("websocket_frame_size_bytes_count", vec![chat], 1.0),
        (
            "websocket_messages_total",
            vec![chat, to_server, "type=\"text\",compressed=\"true\""],
            1.0,
        ),
        (
            "websocket_message_size_bytes_sum",
            vec![chat, to_server],
            5.0,
        ),
        (
            "websocket_ping_rtt_seconds_sum",
            vec![chat, to_server],
            0.0003,
        ),
        (
            "websocket_unanswered_pings_total",
            vec![chat, to_server],
            2.0,
        ),
        (
            "websocket_protocol_violations_total",
            vec![chat, to_client, "rule=\"reserved_bits\""],
            1.0,
        ),
        (
            "websocket_connection_frames_total",
            vec!["\"c0\"", "opcode=\"pong\""],
            1.0,
        ),
        (
            "websocket_connection_payload_bytes_total",
            vec!["\"c0\"", to_server],
            5.0,
        ),
        (
            "websocket_connection_last_frame_size_bytes",
            vec!["\"c0\"", to_server],
            5.0,
        ),
        (
            "websocket_connection_opened_timestamp_seconds",
            vec!["\"c0\""],
            1.0,
        ),
        (
            "websocket_connection_close_code",
            vec!["\"c0\"", "initiator=\"server\""],
            1001.0,
        ),
        ("wstap_interfaces_attached", vec![], 3.0),
    ] {
        assert_eq!(
            value(&text, name, &labels),
            Some(expected),
            "{name} {labels:?}"
        );
    }
}

#[test]
fn a_hostile_length_poisons_nothing() {
    let metrics = Metrics::new(&MetricsConfig::default());
    let conn = open(1);
    metrics.observe(&event(&conn, handshake(Some(101))));
    let endless = frame(ClientToServer, Opcode::Binary, u64::MAX);
    for _ in 0..3 {
        metrics.observe(&event(&conn, EventKind::Frame(Box::new(endless.clone()))));
        let part = progress(ClientToServer, Opcode::Binary, u64::MAX, Some(u64::MAX));
        metrics.observe(&event(&conn, part));
    }
    promtool(&metrics.expose(seconds(3)));
}

#[test]
fn the_gauge_is_never_negative_and_right_after_strays() {
    let metrics = Metrics::new(&MetricsConfig::default());
    let conn = open(1);
    let active = |metrics: &Metrics| {
        value(
            &metrics.expose(seconds(2)),
            "websocket_connections_active",
            &[],
        )
    };
    metrics.observe(&event(&conn, text_frame()));
    metrics.observe(&event(&conn, clean_close()));
    assert_eq!(active(&metrics), None);
    metrics.observe(&event(&conn, handshake(Some(101))));
    metrics.observe(&event(&conn, handshake(Some(101))));
    assert_eq!(active(&metrics), Some(1.0));
    for _ in 0..3 {
        metrics.observe(&event(&conn, clean_close()));
        assert_eq!(active(&metrics), Some(0.0));
    }
    let text = metrics.expose(seconds(2));
    assert_eq!(
        value(&text, "websocket_connections_closed_total", &[]),
        Some(4.0)
    );
}

#[test]
fn endpoints_are_bounded_and_the_rest_is_other() {
    let metrics = metrics(10, 0);
    for id in 0..100_000 {
        let conn = connection(id, &format!("/x{id}"), Outcome::Accepted);
        metrics.observe(&event(&conn, handshake(Some(101))));
        metrics.observe(&event(&conn, text_frame()));
        metrics.observe(&event(&conn, clean_close()));
    }
    let text = metrics.expose(seconds(3));
    assert_eq!(series_of(&text, "websocket_connections_active"), 11);
    let other = ["server=\"other\",path=\"other\",side=\"unknown\""];
    assert_eq!(
        value(&text, "websocket_frames_total", &other),
        Some(99_990.0)
    );
    let limit = ["limit=\"endpoints\""];
    assert_eq!(
        value(&text, "wstap_limit_exceeded_total", &limit),
        Some(99_990.0)
    );
    assert!(text.len() < 60_000);
}

#[test]
fn refused_attempts_do_not_push_out_what_works() {
    let metrics = metrics(3, 0);
    for id in 0..1000 {
        let conn = connection(id, &format!("/scan{id}"), Outcome::Rejected);
        metrics.observe(&event(&conn, violation(ClientToServer, Rule::MissingKey)));
        metrics.observe(&event(&conn, handshake(Some(404))));
    }
    for id in 1000..1005 {
        let conn = connection(id, &format!("/works{id}"), Outcome::Accepted);
        metrics.observe(&event(&conn, handshake(Some(101))));
    }
    let text = metrics.expose(seconds(3));
    let mut endpoints: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with("websocket_connections_active"))
        .map(|line| line.split("path=").nth(1).unwrap_or_default())
        .collect();
    endpoints.sort_unstable();
    assert_eq!(
        endpoints,
        [
            "\"/works1000\",side=\"unknown\"} 1",
            "\"/works1001\",side=\"unknown\"} 1",
            "\"/works1002\",side=\"unknown\"} 1",
            "\"other\",side=\"unknown\"} 2",
        ]
    );
    // Nothing that was counted got lost on the way.
    for name in [
        "websocket_handshakes_total",
        "websocket_protocol_violations_total",
    ] {
        let labels: &[&str] = &["path=\"other\""];
        let rule = "rule=\"missing_key\"";
        let status = "status=\"404\"";
        let own = if name.contains("violations") {
            rule
        } else {
            status
        };
        assert_eq!(value(&text, name, &[labels, &[own]].concat()), Some(1000.0));
    }
}

#[test]
fn close_codes_are_bounded() {
    let metrics = Metrics::new(&MetricsConfig::default());
    for id in 0..100_000 {
        let conn = open(id);
        metrics.observe(&event(&conn, handshake(Some(101))));
        let ending = close(CloseKind::Clean, Some((id % 65_536) as u16), None);
        metrics.observe(&event(&conn, EventKind::Close(Box::new(ending))));
    }
    let text = metrics.expose(seconds(3));
    let codes = series_of(&text, "websocket_connections_closed_total");
    assert_eq!(codes, MAX_CLOSE_CODES + 2);
    assert!(
        value(
            &text,
            "wstap_limit_exceeded_total",
            &["limit=\"close_codes\""]
        ) > Some(0.0)
    );
}

#[test]
fn the_busiest_have_series_with_all_their_counts() {
    let metrics = metrics(10, 2);
    let send = |id: u64, frames: usize| {
        for _ in 0..frames {
            metrics.observe(&event(&open(id), text_frame()));
        }
    };
    let shown = || {
        let text = metrics.expose(seconds(2));
        let name = "websocket_connection_opened_timestamp_seconds{connection=\"";
        let lines = text.lines().filter_map(|line| line.strip_prefix(name));
        let ids = lines.map(|rest| rest.split('"').next().unwrap_or_default().to_owned());
        ids.collect::<Vec<_>>()
    };
    for id in 0..4 {
        metrics.observe(&event(&open(id), handshake(Some(101))));
    }
    send(0, 1000);
    send(1, 10);
    assert_eq!(shown(), ["c0", "c1"]);
    send(2, 63);
    assert_eq!(shown(), ["c0", "c1"]);
    send(2, 1);
    assert_eq!(shown(), ["c0", "c2"]);
    let text = metrics.expose(seconds(2));
    let frames = "websocket_connection_frames_total";
    assert_eq!(value(&text, frames, &["\"c2\""]), Some(64.0));
    // A near equal does not take the place.
    send(3, 64);
    assert_eq!(shown(), ["c0", "c2"]);
    send(3, 64);
    assert_eq!(shown(), ["c0", "c3"]);
    let text = metrics.expose(seconds(2));
    assert_eq!(value(&text, frames, &["\"c3\""]), Some(128.0));
    let limit = ["limit=\"connection_series\""];
    assert_eq!(
        value(&text, "wstap_limit_exceeded_total", &limit),
        Some(2.0)
    );
    // A free place goes to the next that has something to say.
    metrics.observe(&event(&open(0), clean_close()));
    send(1, 1);
    assert_eq!(shown(), ["c0", "c1", "c3"]);
    assert_eq!(
        value(&metrics.expose(seconds(2)), frames, &["\"c1\""]),
        Some(11.0)
    );
}

#[test]
fn series_and_memory_go_when_they_have_lingered() {
    let metrics = metrics(10, 5);
    for id in 0..1000 {
        metrics.observe(&at(&open(id), 1, handshake(Some(101))));
    }
    for id in 0..1000 {
        metrics.observe(&at(&open(id), 10, clean_close()));
    }
    let code = "websocket_connection_close_code";
    assert_eq!(series_of(&metrics.expose(seconds(69)), code), 5);
    assert_eq!(series_of(&metrics.expose(seconds(70)), code), 0);
    let state = metrics.state();
    assert_eq!(state.connections.len(), 0);
    assert!(state.connections.capacity() <= 2048);
}

#[test]
fn lingering_series_are_bounded() {
    let metrics = metrics(10, 5);
    for id in 0..1000 {
        metrics.observe(&event(&open(id), handshake(Some(101))));
        metrics.observe(&event(&open(id), clean_close()));
    }
    let text = metrics.expose(seconds(3));
    assert_eq!(series_of(&text, "websocket_connection_close_code"), 5);
    let limit = ["limit=\"lingering_series\""];
    assert_eq!(
        value(&text, "wstap_limit_exceeded_total", &limit),
        Some(995.0)
    );
}

#[test]
fn no_series_where_none_are_wanted() {
    let metrics = metrics(10, 0);
    populate(&metrics);
    let text = metrics.expose(seconds(3));
    assert!(!text.contains("websocket_connection_frames_total"));
    let limit = ["limit=\"connection_series\""];
    assert_eq!(
        value(&text, "wstap_limit_exceeded_total", &limit),
        Some(0.0)
    );
}

#[test]
fn the_close_code_is_that_of_the_first_close_frame() {
    let metrics = Metrics::new(&MetricsConfig::default());
    let conn = open(1);
    metrics.observe(&event(&conn, handshake(Some(101))));
    let code = |metrics: &Metrics, initiator: &str| {
        let labels = [format!("initiator=\"{initiator}\"")];
        let text = metrics.expose(seconds(3));
        value(&text, "websocket_connection_close_code", &[&labels[0]])
    };
    let empty = frame(ClientToServer, Opcode::Close, 0);
    metrics.observe(&event(&conn, EventKind::Frame(Box::new(empty))));
    let mut answer = frame(ServerToClient, Opcode::Close, 2);
    answer.close = Some(CloseBody {
        code: Some(CloseCode(1000)),
        reason: String::new(),
    });
    metrics.observe(&event(&conn, EventKind::Frame(Box::new(answer))));
    assert_eq!(code(&metrics, "client"), Some(1005.0));
    // Without a close frame the end itself says what there is to say.
    let reset = open(2);
    metrics.observe(&event(&reset, handshake(Some(101))));
    let ending = close(CloseKind::Rst, Some(1006), Some(Role::Server));
    metrics.observe(&event(&reset, EventKind::Close(Box::new(ending))));
    assert_eq!(code(&metrics, "server"), Some(1006.0));
}

#[test]
fn the_agents_metrics_are_there_from_the_start() {
    let text = Metrics::new(&MetricsConfig::default()).expose(seconds(1));
    for counter in Counter::ALL {
        let name = match counter.group() {
            wstap_common::counter::Group::Packets => "wstap_kernel_packets_total",
            wstap_common::counter::Group::Lost => "wstap_samples_lost_total",
            wstap_common::counter::Group::Total => continue,
        };
        let label = format!("=\"{}\"", counter.label());
        assert_eq!(value(&text, name, &[&label]), Some(0.0));
    }
    assert_eq!(series_of(&text, "wstap_limit_exceeded_total"), 11);
    assert_eq!(
        value(
            &text,
            "wstap_unreadable_connections_total",
            &["reason=\"tls\""]
        ),
        Some(0.0)
    );
}

#[test]
fn the_kernels_counts_come_before_the_observers() {
    let metrics = Metrics::new(&MetricsConfig::default());
    let mut status = AgentStatus {
        observer: Stats {
            unreadable_tls: 1,
            gaps: 4,
            ..Stats::default()
        },
        ..AgentStatus::default()
    };
    let tls = |metrics: &Metrics| {
        let text = metrics.expose(seconds(1));
        assert_eq!(value(&text, "wstap_gaps_total", &[]), Some(4.0));
        value(&text, "wstap_unreadable_connections_total", &[])
    };
    metrics.update_agent(&status);
    assert_eq!(tls(&metrics), Some(1.0));
    let mut counts = KernelCounts::default();
    for (counter, n) in Counter::ALL.iter().zip(100..) {
        counts.0[*counter as usize] = n;
    }
    status.kernel = Some(counts);
    metrics.update_agent(&status);
    assert_eq!(tls(&metrics), Some(counts.of(Counter::Tls) as f64));
    let text = metrics.expose(seconds(1));
    assert_eq!(
        value(&text, "wstap_limit_exceeded_total", &["\"flows\""]),
        Some(counts.of(Counter::FlowsFull) as f64)
    );
    assert_eq!(
        value(&text, "wstap_kernel_packets_total", &["\"not_tcp\""]),
        Some(100.0)
    );
}

#[test]
fn the_same_events_give_the_same_text() {
    let text = || {
        let metrics = metrics(3, 100);
        for id in 0..300 {
            let conn = connection(id, &format!("/x{}", id % 7), Outcome::Accepted);
            metrics.observe(&event(&conn, handshake(Some(101))));
            metrics.observe(&event(&conn, text_frame()));
        }
        metrics.expose(seconds(3)) + &metrics.connections_json(seconds(3))
    };
    assert_eq!(text(), text());
}

#[test]
fn live_connections_are_listed_as_json() {
    let metrics = Metrics::new(&MetricsConfig::default());
    for id in 0..600 {
        metrics.observe(&event(&open(id), handshake(Some(101))));
    }
    metrics.observe(&event(&open(7), text_frame()));
    let part = progress(ClientToServer, Opcode::Text, 5, Some(5));
    metrics.observe(&event(&open(7), part));
    metrics.observe(&event(&open(8), clean_close()));
    let json: serde_json::Value =
        serde_json::from_str(&metrics.connections_json(seconds(4))).unwrap();
    let list = json.as_array().unwrap();
    assert_eq!(list.len(), 599);
    assert_eq!(
        list[7],
        serde_json::json!({
            "conn": "c7",
            "client": "10.0.0.1:40007",
            "server": "10.0.0.2:80",
            "path": "/chat",
            "host": "example.com",
            "outcome": "accepted",
            "opened": "1970-01-01T00:00:01.000000000Z",
            "age_ns": 3 * SECOND,
            "last_seen": "1970-01-01T00:00:02.000000000Z",
            "silence_ns": 2 * SECOND,
            "frames": {"client_to_server": {"text": 1}, "server_to_client": {}},
            "bytes": {"client_to_server": {"text": 5}, "server_to_client": {}},
            "last_frame_size": {"client_to_server": 5},
        })
    );
    let empty = Metrics::new(&MetricsConfig::default()).connections_json(seconds(1));
    assert_eq!(serde_json::from_str::<Vec<()>>(&empty).unwrap(), []);
}

/// The contract's list: name, kind, labels of its own.
const CONTRACT: &str = "
websocket_handshakes_total counter outcome status
websocket_handshake_duration_seconds histogram
websocket_connections_active gauge
websocket_connections_closed_total counter kind code initiator
websocket_connection_duration_seconds histogram
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
wstap_connections_tracked gauge
wstap_samples_total counter
wstap_sample_bytes_total counter
wstap_samples_lost_total counter reason
wstap_frames_lost_total counter
wstap_gaps_total counter
wstap_resyncs_total counter
wstap_limit_exceeded_total counter limit
wstap_kernel_packets_total counter verdict
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

/// The sections of `docs/metrics.md` that speak of one metric, by its name.
fn documented() -> BTreeMap<&'static str, &'static str> {
    const DOCS: &str = include_str!("../../../../docs/metrics.md");
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
        let query = section.split("```promql").nth(1).unwrap_or_default();
        assert!(query.contains(metric.name), "{} has no query", metric.name);
    }
}

#[test]
fn documentation_names_every_limit_verdict_and_reason() {
    let documented = documented();
    let exceeded = agent::limits(&AgentStatus::default(), &Exceeded::default());
    let limits = exceeded.map(|(limit, _)| (names::LIMIT_EXCEEDED.name, limit));
    let kernel = Counter::ALL
        .iter()
        .filter_map(|counter| match counter.group() {
            wstap_common::counter::Group::Packets => {
                Some((names::KERNEL_PACKETS.name, counter.label()))
            }
            wstap_common::counter::Group::Lost => Some((names::SAMPLES_LOST.name, counter.label())),
            wstap_common::counter::Group::Total => None,
        });
    for (name, label) in limits.into_iter().chain(kernel) {
        assert!(
            documented[name].contains(&format!("`{label}`")),
            "{name}: {label}"
        );
    }
}
