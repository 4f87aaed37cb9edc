//! What is printed and exposed of the events: whoever it is for can read it, whatever the peers
//! have sent.

use std::{
    cell::RefCell,
    io::{self, Write},
    rc::Rc,
};

use serde_json::Value;
use wstap::{
    config::Selection,
    proto::{
        event::{Event, EventKind},
        observer::Stats,
        time::Timestamp,
    },
    sink::{
        Sink,
        escape::is_hostile,
        json::Json,
        metrics::{AgentStatus, Metrics, MetricsConfig, PathLabel},
        no_interfaces,
        summary::Summary,
        text::Text,
    },
};

use super::{Counts, exposition::Exposition};

/// So few that inputs reach them.
const ENDPOINTS: usize = 2;
const CONNECTION_SERIES: usize = 2;

/// Events that are printed and read again: more are more of the same.
const PRINTED: u64 = 30;

/// One in so many observations is scraped: a scrape takes longer than most inputs.
const SCRAPED: u64 = 8;

/// Every sink.
pub(super) struct Outputs {
    metrics: Metrics,
    json: Json<Buffer>,
    text: Text<Buffer>,
    summary: Summary<Buffer>,
    printed: Buffer,
    left: u64,
    summed_up: Buffer,
}

/// Where sinks print to.
#[derive(Clone, Default)]
struct Buffer(Rc<RefCell<Vec<u8>>>);

impl Buffer {
    fn take(&self) -> String {
        let bytes = std::mem::take(&mut *self.0.borrow_mut());
        String::from_utf8(bytes).expect("what is printed is UTF-8")
    }
}

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Outputs {
    pub(super) fn new() -> Self {
        let (printed, summed_up) = (Buffer::default(), Buffer::default());
        Self {
            metrics: Metrics::new(&MetricsConfig {
                max_endpoints: ENDPOINTS,
                connection_series: CONNECTION_SERIES,
                path_label: PathLabel::Raw,
                ..MetricsConfig::default()
            }),
            json: Json::new(printed.clone(), no_interfaces()),
            text: Text::new(printed.clone(), no_interfaces(), false),
            summary: Summary::new(summed_up.clone(), Selection::default()),
            printed,
            left: PRINTED,
            summed_up,
        }
    }

    /// Prints an event, and reads it again.
    pub(super) fn event(&mut self, event: &Event) {
        self.metrics.observe(event);
        self.summary.event(event).expect("a buffer takes all");
        if self.left == 0 {
            return;
        }
        self.json.event(event).expect("a buffer takes all");
        let json = self.printed.take();
        self.text.event(event).expect("a buffer takes all");
        let text = self.printed.take();
        if matches!(event.kind, EventKind::Progress(_) | EventKind::Counted(_)) {
            assert!(json.is_empty() && text.is_empty());
            return;
        }
        self.left -= 1;
        check_json(line(&json), event);
        line(&text);
    }

    /// What a scrape and a look at the connections say while `open` WebSockets are.
    pub(super) fn scrape(&self, now: Timestamp, stats: &Stats, counts: &Counts, open: u64) {
        let Counts { frames, bytes, .. } = counts;
        if !(frames + bytes + open).is_multiple_of(SCRAPED) {
            return;
        }
        let status = AgentStatus {
            observer: *stats,
            ..AgentStatus::default()
        };
        self.metrics.update_agent(&status);
        let text = self.metrics.expose(now);
        let exposition = Exposition::parse(&text);
        let sum = |name| exposition.sum(name);
        for (name, expected) in [
            ("websocket_handshakes_total", counts.handshakes),
            ("websocket_connections_active", open),
            ("websocket_connections_closed_total", counts.closed),
            ("websocket_frames_total", counts.frames),
            ("websocket_frame_payload_bytes_total", counts.bytes),
            ("websocket_messages_total", counts.messages),
            ("websocket_protocol_violations_total", counts.violations),
            ("wstap_gaps_total", counts.gaps),
        ] {
            assert_eq!(sum(name), expected as f64, "{name} of\n{text}");
        }
        let endpoints = exposition.scopes("websocket_connections_active");
        assert!(endpoints <= ENDPOINTS + 1, "{text}");
        let connections = exposition.scopes("websocket_connection_opened_timestamp_seconds");
        assert!(connections <= 2 * CONNECTION_SERIES, "{text}");
        assert_eq!(text, self.metrics.expose(now));

        let text = self.metrics.connections_json(now);
        assert!(!text.chars().any(|c| c != '\n' && is_hostile(c)), "{text}");
        let live: Vec<Value> = serde_json::from_str(&text).expect("JSON");
        assert_eq!(live.len() as u64, open, "{text}");
    }

    /// The observation is over.
    pub(super) fn finish(mut self, now: Timestamp, stats: &Stats, counts: &Counts) {
        self.scrape(now, stats, counts, 0);
        self.summary.finish(now, stats).expect("a buffer takes all");
        for row in self.summed_up.take().lines() {
            assert!(!row.contains(is_hostile), "{row}");
        }
    }
}

/// The one line that is printed of an event, on which a terminal finds nothing to obey.
fn line(printed: &str) -> &str {
    let line = printed.strip_suffix('\n').expect("a line that ends");
    assert!(!line.contains(is_hostile), "{line:?}");
    line
}

/// The line is an object, and says what the event does.
fn check_json(line: &str, event: &Event) {
    let object: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    let fields = object.as_object().expect("an object");
    for (name, value) in fields {
        assert!(!value.is_null(), "{name} of {line}");
    }
    for name in ["event", "ts", "conn", "client", "server"] {
        assert!(object[name].is_string(), "{name} of {line}");
    }
    let text = |name: &str| object[name].as_str();
    let number = |name: &str| object[name].as_u64();
    let connection = &event.connection;
    match &event.kind {
        EventKind::Handshake(handshake) => {
            assert_eq!(text("path"), connection.path.as_deref());
            assert_eq!(text("host"), connection.host.as_deref());
            assert_eq!(text("subprotocol"), connection.subprotocol.as_deref());
            assert_eq!(text("origin"), handshake.origin.as_deref());
            assert_eq!(text("user_agent"), handshake.user_agent.as_deref());
            assert_eq!(text("extensions"), handshake.extensions.as_deref());
            let offered = object["offered_subprotocols"].as_array();
            let offered = offered.map_or(0, Vec::len);
            assert_eq!(offered, handshake.offered_subprotocols.len());
        }
        EventKind::Frame(frame) => {
            assert_eq!(number("len"), Some(frame.len));
            assert_eq!(number("index"), Some(frame.index));
            if let (Some(preview), Some(text)) = (&frame.payload, text("payload")) {
                assert!(preview.bytes.starts_with(text.as_bytes()), "{line}");
            }
            let reason = frame.close.as_ref().map(|close| close.reason.as_str());
            assert_eq!(text("reason"), reason.filter(|reason| !reason.is_empty()));
        }
        EventKind::Message(message) => assert_eq!(number("len"), Some(message.len)),
        EventKind::Close(close) => {
            assert_eq!(text("reason"), close.reason.as_deref());
            assert_eq!(number("code"), close.code.map(|code| code.0.into()));
        }
        EventKind::Violation(violation) => {
            assert_eq!(number("count"), Some(violation.count));
        }
        EventKind::Gap(gap) => assert_eq!(number("bytes"), Some(gap.bytes)),
        EventKind::Progress(_) | EventKind::Counted(_) => {}
    }
}
