//! Events made by hand, and the exposition that they give.

use super::*;
use crate::proto::{
    event::{CloseBody, CloseKind, Frame, Gap, Message, Outcome, Progress, Rule, Violation},
    flow::{Direction, PerDirection, Role},
    frame::{CloseCode, Opcode},
    observer::Stats,
};
use wstap_common::counter::{Counter, Group};

use Direction::{ClientToServer, ServerToClient};

mod bounds;
mod contract;
mod peers;

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
        key: Some("dGhlIHNhbXBsZSBub25jZQ==".into()),
        next_hop: None,
        previous_hop: None,
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
        tallied: false,
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
        messages: PerDirection::default(),
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
                tallied: false,
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
        ending.silence = Some(Duration::from_millis(60_002));
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
            "websocket_connection_silence_seconds_bucket",
            vec![chat, "kind=\"half\"", "le=\"59.5\""],
            0.0,
        ),
        (
            "websocket_connection_silence_seconds_bucket",
            vec![chat, "kind=\"half\"", "le=\"62.5\""],
            1.0,
        ),
        ("wstap_limit", vec!["limit=\"connections\""], 100_000.0),
        ("wstap_limit", vec!["limit=\"endpoints\""], 500.0),
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
fn what_was_given_up_was_not_ended_by_a_silence() {
    let metrics = Metrics::new(&MetricsConfig::default());
    for (id, kind) in [CloseKind::Evicted, CloseKind::Eof, CloseKind::Rst]
        .into_iter()
        .enumerate()
    {
        let conn = open(id as u64);
        let mut ending = close(kind, None, None);
        // A close frame had begun to end it.
        ending.silence = Some(Duration::from_secs(5));
        metrics.observe(&event(&conn, handshake(Some(101))));
        metrics.observe(&event(&conn, EventKind::Close(Box::new(ending))));
    }
    let text = metrics.expose(seconds(3));
    let name = "websocket_connection_silence_seconds_count";
    assert_eq!(series_of(&text, name), 1);
    assert_eq!(value(&text, name, &["kind=\"rst\""]), Some(1.0));
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
    contract::check_metrics(&metrics.expose(seconds(3)));
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
fn handshakes_are_told_apart_by_subprotocol() {
    let metrics = Metrics::new(&MetricsConfig::default());
    for (id, subprotocol) in [
        (1, None),
        (2, Some("chat")),
        (3, Some("chat")),
        (4, Some("a b")),
    ] {
        let conn = Arc::new(Connection {
            subprotocol: subprotocol.map(Into::into),
            ..(*open(id)).clone()
        });
        metrics.observe(&event(&conn, handshake(Some(101))));
    }
    let text = metrics.expose(seconds(3));
    for (label, n) in [("", 1.0), ("chat", 2.0), ("other", 1.0)] {
        let label = format!("subprotocol=\"{label}\"");
        let counted = value(&text, "websocket_handshakes_total", &[&label]);
        assert_eq!(counted, Some(n), "{label}");
    }
}

#[test]
fn the_agents_metrics_are_there_from_the_start() {
    let text = Metrics::new(&MetricsConfig::default()).expose(seconds(1));
    for counter in Counter::ALL {
        let name = match counter.group() {
            Group::Packets => "wstap_kernel_packets_total",
            Group::Lost => "wstap_samples_lost_total",
            Group::Total => continue,
        };
        let label = format!("=\"{}\"", counter.label());
        assert_eq!(value(&text, name, &[&label]), Some(0.0));
    }
    let undecodable = ["reason=\"undecodable\""];
    assert_eq!(
        value(&text, "wstap_samples_lost_total", &undecodable),
        Some(0.0)
    );
    assert_eq!(series_of(&text, "wstap_limit_exceeded_total"), 21);
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
fn the_kernels_counts_come_on_top_of_the_observers() {
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
    assert_eq!(tls(&metrics), Some(1.0 + counts.of(Counter::Tls) as f64));
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
            "key": "dGhlIHNhbXBsZSBub25jZQ==",
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

#[test]
fn hops_name_each_other_in_whichever_order_they_are_told_of() {
    let hop = |other: &Connection| {
        Some(Box::new(Hop {
            id: other.id,
            client: other.client,
            server: other.server,
        }))
    };
    let (outer, inner) = (open(1), open(2));
    let outer_names = Arc::new(Connection {
        next_hop: hop(&inner),
        ..(*outer).clone()
    });
    let inner_names = Arc::new(Connection {
        previous_hop: hop(&outer),
        ..(*inner).clone()
    });
    for order in [
        [&inner_names, &outer_names],
        [&inner, &outer_names],
        [&outer, &inner_names],
    ] {
        let metrics = Metrics::new(&MetricsConfig::default());
        for connection in order {
            metrics.observe(&event(connection, handshake(Some(101))));
        }
        let json: serde_json::Value =
            serde_json::from_str(&metrics.connections_json(seconds(4))).unwrap();
        assert_eq!(json[0]["next_hop"], "c2");
        assert_eq!(json[1]["previous_hop"], "c1");
        assert!(json[0].get("previous_hop").is_none() && json[1].get("next_hop").is_none());
    }
}

#[test]
fn the_side_is_the_end_that_is_here() {
    let client: IpAddr = [10, 0, 0, 1].into();
    let server: IpAddr = [10, 0, 0, 2].into();
    for (local, side) in [
        (vec![client], "client"),
        (vec![server], "server"),
        (vec![client, server], "both"),
        (vec![], "unknown"),
    ] {
        let metrics = Metrics::new(&MetricsConfig::default());
        metrics.set_local(move |address| local.contains(&address));
        metrics.observe(&event(&open(1), handshake(Some(101))));
        let text = metrics.expose(seconds(3));
        let active = format!(
            "websocket_connections_active{{server=\"10.0.0.2:80\",path=\"/chat\",side=\"{side}\"}} 1\n"
        );
        assert!(text.contains(&active), "{text}");
    }
}
