//! Flags that commands share, in groups, and the words that they take.

use std::{ops::RangeInclusive, path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use globset::Glob;
use log::LevelFilter;
use wstap_common::record::MAX_SNAP_LENGTH;

use super::value::{self, Endpoint, Globs, Netns, OpcodeName};
use crate::{proto::flow::Direction, sink::metrics::PathLabel};

/// What to capture, and how.
#[derive(Args, Debug)]
#[command(next_help_heading = "Capture")]
pub struct CaptureArgs {
    /// Interfaces to attach to, also those that appear later; repeatable [default: all that are
    /// up, lo included]
    #[arg(
        short,
        long,
        value_name = "GLOB",
        env = "WSTAP_INTERFACE",
        value_parser = value::globs
    )]
    pub interface: Vec<Globs>,
    /// Interfaces to leave alone, although --interface has them; repeatable
    #[arg(
        long,
        value_name = "GLOB",
        env = "WSTAP_EXCLUDE_INTERFACE",
        value_parser = value::globs
    )]
    pub exclude_interface: Vec<Globs>,
    /// Other network namespaces to attach in besides the agent's own: a name under /run/netns, a path,
    /// a process id, or pods, for those of all processes of the machine; also those that appear later;
    /// repeatable
    #[arg(
        long,
        value_name = "NAME|PATH|PID|pods",
        env = "WSTAP_NETNS",
        value_delimiter = ',',
        value_parser = value::netns
    )]
    pub netns: Vec<Netns>,
    /// Network namespaces of --netns that are followed at the same time; further ones wait until one of
    /// them is gone
    #[arg(
        long,
        value_name = "N",
        env = "WSTAP_MAX_NETNS",
        default_value_t = 512,
        value_parser = value::count(1, 1 << 16)
    )]
    pub max_netns: u32,
    /// Where the machine's procfs is mounted, in which --netns looks for processes
    #[arg(
        long,
        value_name = "DIR",
        env = "WSTAP_PROCFS",
        default_value = "/proc"
    )]
    pub procfs: PathBuf,
    /// Server ports to watch; repeatable [default: all]
    #[arg(
        short,
        long,
        value_name = "PORT|FROM-TO",
        env = "WSTAP_PORT",
        value_delimiter = ',',
        value_parser = value::ports
    )]
    pub port: Vec<RangeInclusive<u16>>,
    /// Size of the ring buffer between kernel and agent, rounded up to a power of two: 64K to 1G
    #[arg(
        long,
        value_name = "SIZE",
        env = "WSTAP_RING_BUFFER",
        default_value = "16M",
        value_parser = value::size(64 << 10, 1 << 30)
    )]
    pub ring_buffer: u64,
    /// Payload bytes of one segment of a WebSocket that are copied at most: 128 to 256K
    #[arg(
        long,
        value_name = "SIZE",
        env = "WSTAP_SNAP_LENGTH",
        default_value = "256K",
        value_parser = value::size(128, MAX_SNAP_LENGTH.into())
    )]
    pub snap_length: u64,
    /// What of a WebSocket is copied from the kernel: headers (with control frames, and small text while
    /// a connection is young), or every segment whole, which costs more, and is the default with
    /// --payload
    #[arg(long, value_name = "WHAT", env = "WSTAP_COPY", value_enum)]
    pub copy: Option<CopyMode>,
    /// How to attach: tcx (kernel 6.6 and later), clsact, or auto, the first of these that works
    #[arg(
        long,
        value_name = "HOW",
        env = "WSTAP_ATTACH",
        value_enum,
        default_value_t = Attach::Auto,
        hide_possible_values = true,
    )]
    pub attach: Attach,
    /// Log of the kernel program: off, error, warn, info, debug or trace
    #[arg(
        long,
        value_name = "LEVEL",
        env = "WSTAP_KERNEL_LOG",
        default_value = "off",
        value_parser = value::log_level(),
        hide_possible_values = true
    )]
    pub kernel_log: LevelFilter,
}

/// Bounds on memory and patience.
#[derive(Args, Debug)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// WebSocket connections followed at the same time; beyond, the one that was silent longest is
    /// given up
    #[arg(
        long,
        value_name = "N",
        env = "WSTAP_MAX_CONNECTIONS",
        default_value_t = 100_000,
        value_parser = value::count(1, 16 << 20)
    )]
    pub max_connections: u32,
    /// A connection that is silent for so long counts as ended
    #[arg(
        long,
        value_name = "DURATION",
        env = "WSTAP_IDLE_TIMEOUT",
        default_value = "1h",
        value_parser = value::positive_duration
    )]
    pub idle_timeout: Duration,
    /// TCP connections remembered that are not, or not yet, known to be WebSockets
    #[arg(
        long,
        value_name = "N",
        env = "WSTAP_MAX_CANDIDATES",
        default_value_t = 65_536,
        value_parser = value::count(1, 16 << 20)
    )]
    pub max_candidates: u32,
    /// Bytes that one direction may hold back while it waits for missing ones: 64K to 1G
    #[arg(
        long,
        value_name = "SIZE",
        env = "WSTAP_REASSEMBLY_BYTES",
        default_value = "4M",
        value_parser = value::size(64 << 10, 1 << 30)
    )]
    pub reassembly_bytes: u64,
    /// Bytes that all directions together may hold back: 64K to 64G
    #[arg(
        long,
        value_name = "SIZE",
        env = "WSTAP_REASSEMBLY_TOTAL",
        default_value = "256M",
        value_parser = value::size(64 << 10, 64 << 30)
    )]
    pub reassembly_total: u64,
    /// Bytes of an HTTP head; a longer one is no handshake: 1K to 16M
    #[arg(
        long,
        value_name = "SIZE",
        env = "WSTAP_MAX_HEAD",
        default_value = "64K",
        value_parser = value::size(1 << 10, 16 << 20)
    )]
    pub max_head: u64,
    /// Pings in flight that are remembered in each direction, to tell their round trips
    #[arg(
        long,
        value_name = "N",
        env = "WSTAP_MAX_PINGS",
        default_value_t = 64,
        value_parser = value::count(1, 1 << 16)
    )]
    pub max_pings: u32,
    /// Inflated bytes of one compressed message; beyond, it is not inflated further: 1K to 64G
    #[arg(
        long,
        value_name = "SIZE",
        env = "WSTAP_MAX_INFLATED",
        default_value = "16M",
        value_parser = value::size(1 << 10, 64 << 30)
    )]
    pub max_inflated: u64,
    /// Inflated bytes for each byte on the wire that a message of more than 64K may have; beyond, it
    /// is not inflated further
    #[arg(
        long,
        value_name = "N",
        env = "WSTAP_MAX_INFLATE_RATIO",
        default_value_t = 100,
        value_parser = value::count(1, 1 << 20)
    )]
    pub max_inflate_ratio: u32,
    /// Directions of connections that may have a decompressor, of some 43 KiB each, at the same
    /// time; others are not inflated
    #[arg(
        long,
        value_name = "N",
        env = "WSTAP_MAX_INFLATERS",
        default_value_t = 4096,
        value_parser = value::count(0, 16 << 20)
    )]
    pub max_inflaters: u32,
    /// Bytes of one direction in which frames are sought behind a gap or midstream, beyond as many as went
    /// by in frames: 64K to 64G
    #[arg(
        long,
        value_name = "SIZE",
        env = "WSTAP_MAX_SEARCHED",
        default_value = "16M",
        value_parser = value::size(64 << 10, 64 << 30)
    )]
    pub max_searched: u64,
    /// How long to wait for missing bytes that their receiver has got
    #[arg(
        long,
        value_name = "DURATION",
        env = "WSTAP_GAP_PATIENCE",
        default_value = "1s",
        value_parser = value::duration
    )]
    pub gap_patience: Duration,
}

/// Labels and series of the metrics.
#[derive(Args, Debug)]
#[command(next_help_heading = "Metrics")]
pub struct MetricsArgs {
    /// Live connections that get series of their own, the busiest first; 0 for none
    #[arg(
        long,
        value_name = "N",
        env = "WSTAP_CONNECTION_SERIES",
        default_value_t = 1000,
        value_parser = value::count(0, 1 << 20)
    )]
    pub connection_series: u32,
    /// How long the series of a connection stay after its end, and those of an endpoint after its pod's
    #[arg(
        long,
        value_name = "DURATION",
        env = "WSTAP_SERIES_LINGER",
        default_value = "60s",
        value_parser = value::duration
    )]
    pub series_linger: Duration,
    /// Distinct endpoints (sets of endpoint labels); the rest share one that is named other
    #[arg(
        long,
        value_name = "N",
        env = "WSTAP_MAX_ENDPOINTS",
        default_value_t = 500,
        value_parser = value::count(1, 1 << 20)
    )]
    pub max_endpoints: u32,
    /// The label path: template drops the query and writes {id} for numbers, UUIDs and long hex,
    /// raw is as sent, none is empty
    #[arg(
        long,
        value_name = "HOW",
        env = "WSTAP_PATH_LABEL",
        value_enum,
        default_value_t = PathLabel::Template,
        hide_possible_values = true,
    )]
    pub path_label: PathLabel,
}

/// Names of pods.
#[derive(Args, Debug)]
#[command(next_help_heading = "Kubernetes")]
pub struct KubernetesArgs {
    /// Name the pods at the ends of connections: on (by the service account or a kubeconfig), off, or auto,
    /// only inside a cluster and by the service account
    #[arg(
        long,
        value_name = "WHEN",
        env = "WSTAP_KUBERNETES",
        value_enum,
        default_value_t = When::Auto,
        hide_possible_values = true,
    )]
    pub kubernetes: When,
    /// The name of this node in the cluster, whose pods are watched [default: the host's name]
    #[arg(
        long,
        value_name = "NAME",
        env = "WSTAP_NODE_NAME",
        value_parser = value::node_name
    )]
    pub node_name: Option<String>,
    /// Name Services too, by their cluster addresses: those of the whole cluster are watched
    #[arg(
        long,
        env = "WSTAP_KUBERNETES_SERVICES",
        value_parser = clap::builder::BoolishValueParser::new()
    )]
    pub kubernetes_services: bool,
    /// Pods that are known at the same time, and as many Services; others have no names
    #[arg(
        long,
        value_name = "N",
        env = "WSTAP_MAX_PODS",
        default_value_t = 10_000,
        value_parser = value::count(1, 1 << 20)
    )]
    pub max_pods: u32,
}

/// Which events to show.
#[derive(Args, Debug)]
#[command(next_help_heading = "Selection")]
pub struct SelectionArgs {
    /// Connections of this client; IPv6 in brackets where a port follows, :PORT alone for any address
    #[arg(long, value_name = "ADDR[:PORT]", value_delimiter = ',')]
    pub client: Vec<Endpoint>,
    /// Connections to this server; IPv6 in brackets where a port follows, :PORT alone for any address
    #[arg(long, value_name = "ADDR[:PORT]", value_delimiter = ',')]
    pub server: Vec<Endpoint>,
    /// Connections whose Host matches, with or without its port, in any case
    #[arg(long, value_name = "GLOB", value_parser = value::glob_any_case)]
    pub host: Vec<Glob>,
    /// Connections whose request target matches, with or without its query; * matches / too
    #[arg(long, value_name = "GLOB", value_parser = value::glob)]
    pub path: Vec<Glob>,
    /// Frames, messages, violations and gaps of this direction: client_to_server (c2s) or
    /// server_to_client (s2c)
    #[arg(
        long,
        value_name = "DIRECTION",
        value_parser = value::direction(),
        hide_possible_values = true,
    )]
    pub direction: Option<Direction>,
    /// Frames with this opcode: continuation, text, binary, close, ping, pong, reserved_3 ...
    /// reserved_f, or reserved for all of these; with --event message, messages of this type
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        hide_possible_values = true
    )]
    pub opcode: Vec<OpcodeName>,
    /// Close frames and endings with this code
    #[arg(long, value_name = "CODE", value_delimiter = ',')]
    pub close_code: Vec<u16>,
    /// Frames, and with --event messages, of at least so many payload bytes
    #[arg(long, value_name = "BYTES", value_parser = value::any_size)]
    pub min_size: Option<u64>,
    /// Events of this kind: handshake, frame, message, close, violation or gap [default: all but
    /// message]
    #[arg(
        long,
        value_name = "NAME",
        value_enum,
        value_delimiter = ',',
        hide_possible_values = true
    )]
    pub event: Vec<EventName>,
    /// Stop after N events shown
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Stop after this time; with a capture file, of the capture's own time
    #[arg(long, value_name = "DURATION", value_parser = value::positive_duration)]
    pub duration: Option<Duration>,
}

/// How to show events.
#[derive(Args, Debug)]
#[command(next_help_heading = "Output")]
pub struct OutputArgs {
    /// text for eyes, json for programs: one object a line
    #[arg(
        short,
        long,
        value_name = "FORMAT",
        value_enum,
        default_value_t = Format::Text,
        hide_possible_values = true,
    )]
    pub output: Format,
    /// Show the beginning of each payload, unmasked and inflated: up to BYTES, 256 if not given, 16M
    /// at most
    #[arg(
        long,
        value_name = "BYTES",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "256",
        value_parser = value::size(1, 16 << 20)
    )]
    pub payload: Option<u64>,
    /// Colour the text: always, never, or auto, on a terminal where NO_COLOR is not set
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = ColorWhen::Auto, hide_possible_values = true)]
    pub color: ColorWhen,
}

/// How to attach to an interface.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Attach {
    /// TCX where the kernel has it, else clsact.
    Auto,
    /// TCX or nothing.
    Tcx,
    /// A filter on the clsact qdisc.
    Clsact,
}

/// What of a WebSocket is copied from the kernel.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum CopyMode {
    /// Headers and control frames.
    Headers,
    /// Every segment.
    Whole,
}

/// Whether to do something.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum When {
    /// Where it is safe.
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// Whether to colour.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum ColorWhen {
    /// On a terminal.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The form of the output.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Format {
    /// For eyes.
    Text,
    /// One JSON object a line.
    Json,
}

/// The names of events.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum EventName {
    /// An attempt to open a WebSocket.
    Handshake,
    /// A frame.
    Frame,
    /// A message.
    Message,
    /// The end of a connection.
    Close,
    /// A broken rule.
    Violation,
    /// Missing bytes.
    Gap,
}
