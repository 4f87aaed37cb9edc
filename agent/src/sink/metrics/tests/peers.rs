//! Endpoints of pods: their labels, and their end.

use std::net::SocketAddr;

use super::*;
use crate::sink::peer::{
    Peer, PeerKind,
    tests::{Known, pod},
};

const ACTIVE: &str = "websocket_connections_active";
const CLIENT: &str = "10.0.0.1";
const SERVER: &str = "10.0.0.2";

fn named(max_endpoints: usize) -> (Arc<Known>, Metrics) {
    let known = Arc::new(Known::default());
    let metrics = Metrics::new(&MetricsConfig {
        max_endpoints,
        connection_series: 0,
        series_linger: Duration::from_secs(60),
        ..MetricsConfig::default()
    });
    let metrics = metrics.with_names(Arc::clone(&known) as Arc<dyn PeerNames>);
    (known, metrics)
}

/// A connection of client and server, opened then.
fn opened(id: u64, server: &str, second: u64) -> Arc<Connection> {
    let mut connection = (*connection(id, "/chat", Outcome::Accepted)).clone();
    connection.server = SocketAddr::new(server.parse().unwrap(), 80);
    connection.opened = seconds(second);
    Arc::new(connection)
}

fn shake(metrics: &Metrics, connection: &Arc<Connection>, second: u64) {
    metrics.observe(&at(connection, second, handshake(Some(101))));
}

#[test]
fn labels_are_those_of_the_contract_and_absent_without_kubernetes() {
    let (known, metrics) = named(10);
    known.give(CLIENT, pod("report-1", "report", Timestamp(0)));
    known.give(SERVER, pod("chat-1", "chat", Timestamp(0)));
    shake(&metrics, &open(1), 2);
    let text = metrics.expose(seconds(3));
    let labels = "server=\"10.0.0.2:80\",path=\"/chat\",side=\"unknown\",server_namespace=\"shop\",\
                  server_pod=\"chat-1\",server_workload=\"chat\",client_namespace=\"shop\",\
                  client_workload=\"report\"";
    assert_eq!(value(&text, ACTIVE, &[labels]), Some(1.0), "{text}");
    contract::check_metrics(&text);
    let without = super::metrics(10, 0);
    shake(&without, &open(1), 2);
    let text = without.expose(seconds(3));
    assert!(
        !text.contains("server_namespace") && !text.contains("wstap_kubernetes_"),
        "{text}"
    );
}

#[test]
fn a_service_is_no_pod() {
    let (known, metrics) = named(10);
    let service = Peer::new(PeerKind::Service, "shop", "web", "web", Timestamp(0));
    known.give(SERVER, service);
    shake(&metrics, &open(1), 2);
    let text = metrics.expose(seconds(3));
    let labels = "server_namespace=\"shop\",server_pod=\"\",server_workload=\"web\",\
                  client_namespace=\"\",client_workload=\"\"";
    assert_eq!(value(&text, ACTIVE, &[labels]), Some(1.0), "{text}");
    let json = metrics.connections_json(seconds(3));
    assert!(
        json.contains("\"server_service\":\"shop/web\"") && !json.contains("_pod"),
        "{json}"
    );
}

#[test]
fn what_is_beyond_the_bound_is_other_in_every_label_but_side() {
    let (_, metrics) = named(1);
    for id in 0..3 {
        let path = format!("/x{id}");
        let conn = connection(id, &path, Outcome::Accepted);
        shake(&metrics, &conn, 2);
    }
    let text = metrics.expose(seconds(3));
    let labels = "server=\"other\",path=\"other\",side=\"unknown\",server_namespace=\"other\",\
                  server_pod=\"other\",server_workload=\"other\",client_namespace=\"other\",\
                  client_workload=\"other\"";
    assert_eq!(value(&text, ACTIVE, &[labels]), Some(2.0), "{text}");
}

#[test]
fn an_open_connection_moves_to_the_name_that_comes_late() {
    let (known, metrics) = named(10);
    let conn = opened(1, SERVER, 10);
    shake(&metrics, &conn, 10);
    metrics.observe(&at(&conn, 11, text_frame()));
    known.give(SERVER, pod("chat-1", "chat", seconds(5)));
    known.give(CLIENT, pod("heir", "heir", seconds(100)));
    metrics.observe(&at(&conn, 12, text_frame()));
    let text = metrics.expose(seconds(13));
    for (pod, active, frames) in [("", 0.0, 1.0), ("chat-1", 1.0, 1.0)] {
        let label = [&*format!("server_pod=\"{pod}\"")];
        assert_eq!(value(&text, ACTIVE, &label), Some(active), "{pod}");
        assert_eq!(
            value(&text, "websocket_frames_total", &label),
            Some(frames),
            "{pod}"
        );
    }
    assert!(!text.contains("\"heir\""), "{text}");
    metrics.observe(&at(&conn, 14, clean_close()));
    let text = metrics.expose(seconds(15));
    assert_eq!(value(&text, ACTIVE, &["server_pod=\"chat-1\""]), Some(0.0));
    let closed = value(
        &text,
        "websocket_connections_closed_total",
        &["server_pod=\"chat-1\""],
    );
    assert_eq!(closed, Some(1.0));
}

#[test]
fn series_go_after_their_pod_with_a_last_scrape() {
    let (known, metrics) = named(10);
    known.give(SERVER, pod("chat-1", "chat", Timestamp(0)));
    let conn = open(1);
    shake(&metrics, &conn, 2);
    known.take(SERVER);
    // A connection that is open holds them.
    for second in [3, 100, 200] {
        assert_eq!(series_of(&metrics.expose(seconds(second)), ACTIVE), 1);
    }
    metrics.observe(&at(&conn, 201, clean_close()));
    for (second, left) in [(202, 1), (261, 1), (263, 1), (264, 0)] {
        let text = metrics.expose(seconds(second));
        assert_eq!(series_of(&text, ACTIVE), left, "{second}");
        let closed = value(&text, "websocket_connections_closed_total", &[]);
        assert_eq!(closed.is_some(), left == 1, "{second}");
    }
    let text = metrics.expose(seconds(300));
    assert_eq!(value(&text, "wstap_endpoints_gone_total", &[]), Some(1.0));
    assert_eq!(metrics.totals().closed, 1);
    // Its place is free, and a pod of the same name begins anew.
    known.give(SERVER, pod("chat-1", "chat", seconds(300)));
    shake(&metrics, &opened(2, SERVER, 310), 310);
    assert_eq!(value(&metrics.expose(seconds(311)), ACTIVE, &[]), Some(1.0));
}

/// A connection of the pod at `address` opens at `second`, ends, and then the pod is gone; metrics are asked for
/// soon after and much later.
fn come_and_go(
    known: &Known,
    metrics: &Metrics,
    address: &str,
    conn: &Arc<Connection>,
    second: u64,
) {
    shake(metrics, conn, second);
    metrics.observe(&at(conn, second + 1, clean_close()));
    known.take(address);
    for scrape in [2, 70] {
        let _ = metrics.expose(seconds(second + scrape));
    }
}

#[test]
fn pods_that_come_and_go_do_not_use_up_the_room() {
    let (known, metrics) = named(5);
    for id in 0..100u64 {
        let (address, second) = (format!("10.0.1.{id}"), 10 + 100 * id);
        known.give(&address, pod(&format!("chat-{id}"), "chat", Timestamp(0)));
        let conn = opened(id, &address, second);
        come_and_go(&known, &metrics, &address, &conn, second);
    }
    let text = metrics.expose(seconds(100_000));
    assert_eq!(
        value(
            &text,
            "wstap_limit_exceeded_total",
            &["limit=\"endpoints\""]
        ),
        Some(0.0)
    );
    assert_eq!(value(&text, "wstap_endpoints_gone_total", &[]), Some(100.0));
    assert_eq!(metrics.totals().handshakes, 100);
    // Clients of servers elsewhere keep theirs, until there is no room.
    for id in 200..220u64 {
        let (server, second) = (format!("192.0.2.{id}"), 200_000 + 100 * id);
        known.give(CLIENT, pod(&format!("job-{id}"), "job", Timestamp(0)));
        let conn = opened(id, &server, second);
        come_and_go(&known, &metrics, CLIENT, &conn, second);
    }
    let text = metrics.expose(seconds(300_000));
    assert_eq!(
        value(
            &text,
            "wstap_limit_exceeded_total",
            &["limit=\"endpoints\""]
        ),
        Some(0.0)
    );
    assert!((1..=5).contains(&series_of(&text, ACTIVE)), "{text}");
}
