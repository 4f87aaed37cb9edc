//! Every metric of wstap: name, kind, labels, help text. Nothing else spells a name or a label.
//!
//! `docs/metrics.md` says the same with more words; a test holds the two against each other.

/// What a metric is, in the words of the text format.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Only rises.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Observations in buckets, their number and sum.
    Histogram,
}

impl Kind {
    /// The word of a `# TYPE` line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// What a series speaks of, and so the labels that come before its own.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scope {
    /// An endpoint: all WebSockets of one server socket and path.
    Endpoint,
    /// One WebSocket.
    Connection,
    /// The agent itself.
    Agent,
}

impl Scope {
    /// The labels that every series of this scope begins with.
    #[must_use]
    pub const fn labels(self) -> &'static [&'static str] {
        match self {
            Self::Endpoint => &["server", "path", "side"],
            Self::Connection => &["connection", "client", "server", "path"],
            Self::Agent => &[],
        }
    }
}

/// Labels that endpoints have besides, where pods are known by name. They come behind those of the scope.
pub const PEER_LABELS: [&str; 5] = [
    "server_namespace",
    "server_pod",
    "server_workload",
    "client_namespace",
    "client_workload",
];

/// A metric.
#[derive(Debug, Eq, PartialEq)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// What it speaks of.
    pub scope: Scope,
    /// Labels behind those of the scope, in the order in which values are given.
    pub labels: &'static [&'static str],
    /// The `# HELP` line.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($ident:ident: $kind:ident of $scope:ident, $name:literal, [$($label:literal),*], $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $ident: Metric = Metric {
                name: $name,
                kind: Kind::$kind,
                scope: Scope::$scope,
                labels: &[$($label),*],
                help: $help,
            };
        )*

        /// All of them, in the order in which they are exposed.
        pub const ALL: &[&Metric] = &[$(&$ident,)*];
    };
}

metrics! {
    HANDSHAKES: Counter of Endpoint, "websocket_handshakes_total", ["outcome", "status", "subprotocol"],
        "Attempts to open a WebSocket, and WebSockets found open, by outcome, HTTP status and subprotocol.";
    HANDSHAKE_DURATION: Histogram of Endpoint, "websocket_handshake_duration_seconds", [],
        "Time from the first byte of the upgrade request to the last byte of the response's head.";
    CONNECTIONS_ACTIVE: Gauge of Endpoint, "websocket_connections_active", [],
        "WebSockets that are open now.";
    CONNECTIONS_CLOSED: Counter of Endpoint, "websocket_connections_closed_total", ["kind", "code", "initiator"],
        "WebSockets that ended, by how, close code and who ended them.";
    CONNECTION_DURATION: Histogram of Endpoint, "websocket_connection_duration_seconds", [],
        "How long WebSockets were open.";
    CONNECTION_SILENCE: Histogram of Endpoint, "websocket_connection_silence_seconds", ["kind"],
        "How long nothing had come of a WebSocket when its ending began, by how it ended.";
    FRAMES: Counter of Endpoint, "websocket_frames_total", ["direction", "opcode"],
        "Frames, counted when their header is complete.";
    FRAME_PAYLOAD_BYTES: Counter of Endpoint, "websocket_frame_payload_bytes_total", ["direction", "opcode"],
        "Payload bytes of frames, counted as they go by.";
    FRAME_SIZE: Histogram of Endpoint, "websocket_frame_size_bytes", ["direction"],
        "Payload bytes of a frame, of those that are over.";
    MESSAGES: Counter of Endpoint, "websocket_messages_total", ["direction", "type", "compressed"],
        "Complete messages.";
    MESSAGE_SIZE: Histogram of Endpoint, "websocket_message_size_bytes", ["direction"],
        "Payload bytes of a message on the wire, all its frames together.";
    PING_RTT: Histogram of Endpoint, "websocket_ping_rtt_seconds", ["direction"],
        "Time from a ping to the pong that answers it, by direction of the ping.";
    UNANSWERED_PINGS: Counter of Endpoint, "websocket_unanswered_pings_total", ["direction"],
        "Pings that no pong had answered when the WebSocket ended, by direction of the ping.";
    PROTOCOL_VIOLATIONS: Counter of Endpoint, "websocket_protocol_violations_total", ["direction", "rule"],
        "Rules of RFC 6455 and RFC 7692 broken, by who broke them.";

    CONNECTION_FRAMES: Counter of Connection, "websocket_connection_frames_total", ["direction", "opcode"],
        "Frames of one WebSocket.";
    CONNECTION_PAYLOAD_BYTES: Counter of Connection, "websocket_connection_payload_bytes_total", ["direction", "opcode"],
        "Payload bytes of one WebSocket.";
    CONNECTION_LAST_FRAME_SIZE: Gauge of Connection, "websocket_connection_last_frame_size_bytes", ["direction"],
        "Payload bytes of the last frame of one WebSocket that is over.";
    CONNECTION_OPENED: Gauge of Connection, "websocket_connection_opened_timestamp_seconds", [],
        "When one WebSocket was opened or found, in seconds since the Unix epoch.";
    CONNECTION_CLOSE_CODE: Gauge of Connection, "websocket_connection_close_code", ["initiator"],
        "Close code of one WebSocket that is ending or has ended.";

    BUILD_INFO: Gauge of Agent, "wstap_build_info", ["version", "revision"],
        "Always 1; the labels say which build this is.";
    INTERFACES_ATTACHED: Gauge of Agent, "wstap_interfaces_attached", [],
        "Network interfaces to which the kernel program is attached.";
    NETWORK_NAMESPACES: Gauge of Agent, "wstap_network_namespaces", [],
        "Network namespaces that are followed besides the agent's own.";
    NETWORK_NAMESPACES_FAILED: Counter of Agent, "wstap_network_namespaces_failed_total", [],
        "Network namespaces that were wanted and could not be entered or looked for.";
    CONNECTIONS_TRACKED: Gauge of Agent, "wstap_connections_tracked", [],
        "TCP connections of any kind that take memory in the agent.";
    SAMPLES: Counter of Agent, "wstap_samples_total", [],
        "Records that the kernel program has written to the ring buffer.";
    SAMPLE_BYTES: Counter of Agent, "wstap_sample_bytes_total", [],
        "Bytes in the records that the kernel program has written, besides their fixed heads.";
    SAMPLES_LOST: Counter of Agent, "wstap_samples_lost_total", ["reason"],
        "Records that did not reach the observer, by reason.";
    FRAMES_LOST: Counter of Agent, "wstap_frames_lost_total", [],
        "Frames that were in gaps, as far as can be told: at least one each.";
    GAPS: Counter of Agent, "wstap_gaps_total", [],
        "Times that bytes were missing where they were needed.";
    RESYNCS: Counter of Agent, "wstap_resyncs_total", [],
        "Gaps after which frames were recognised again.";
    CONFLICTS: Counter of Agent, "wstap_retransmission_conflicts_total", [],
        "Segments that repeated bytes and did not agree with the first; the first were taken.";
    LIMIT_EXCEEDED: Counter of Agent, "wstap_limit_exceeded_total", ["limit"],
        "Times that a bound of the agent was exceeded.";
    LIMIT: Gauge of Agent, "wstap_limit", ["limit"],
        "Bounds of the agent on what grows with connections, as configured.";
    KERNEL_PACKETS: Counter of Agent, "wstap_kernel_packets_total", ["verdict"],
        "Packets that passed the kernel program, by what was done with them.";
    PLACES_LOST: Counter of Agent, "wstap_kernel_places_lost_total", [],
        "Times that the kernel program lost its place in the frames of one direction, which is copied whole since.";
    PLACES_FOUND: Counter of Agent, "wstap_kernel_places_found_total", [],
        "Times that the kernel program went on with the frames of a direction that was copied whole.";
    SEGMENTS_SET_ASIDE: Counter of Agent, "wstap_kernel_early_segments_total", [],
        "Segments that were set aside until what comes before them had come, and have been gone through since.";
    WALKS_LOST: Counter of Agent, "wstap_records_missed_total", [],
        "Records of frames that were never read: the frames are counted, and have no events.";
    ENDPOINTS_GONE: Counter of Agent, "wstap_endpoints_gone_total", [],
        "Endpoints whose series went after their pod.";
    KUBERNETES_PODS: Gauge of Agent, "wstap_kubernetes_pods", [],
        "Pods of this node that are known by an address of their own.";
    KUBERNETES_WATCH_ERRORS: Counter of Agent, "wstap_kubernetes_watch_errors_total", ["resource"],
        "Times that listing or watching objects of the Kubernetes API failed.";
    KUBERNETES_OWNERS_GUESSED: Counter of Agent, "wstap_kubernetes_owners_guessed_total", [],
        "Times that the API did not say what a pod belongs to, and names had to.";
    UNREADABLE_CONNECTIONS: Counter of Agent, "wstap_unreadable_connections_total", ["reason"],
        "Connections that were seen and cannot be read from here.";
}

/// Names that the process collector exposes; it is not ours, so only the names are kept.
pub const PROCESS: &[&str] = &[
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_threads",
    "process_virtual_memory_bytes",
];
