//! Whatever peers do, memory and the number of series stay bounded.

use super::*;

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
fn paths_that_look_the_same_are_one_endpoint() {
    for path_label in [PathLabel::Template, PathLabel::Raw] {
        let metrics = Metrics::new(&MetricsConfig {
            path_label,
            ..MetricsConfig::default()
        });
        for (id, path) in (0..).zip(["/a\u{200b}", "/a\u{202e}", "/a\u{fffd}"]) {
            let conn = connection(id, path, Outcome::Accepted);
            metrics.observe(&event(&conn, handshake(Some(101))));
        }
        let text = metrics.expose(seconds(3));
        let label = ["path=\"/a\u{fffd}\""];
        assert_eq!(series_of(&text, "websocket_connections_active"), 1);
        assert_eq!(
            value(&text, "websocket_connections_active", &label),
            Some(3.0)
        );
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
