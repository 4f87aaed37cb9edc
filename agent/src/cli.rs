//! The command line as typed: commands, flags, their help and their environment variables.
//!
//! Values are parsed here, so that a wrong one is named with its flag and ends with status 2. What
//! they mean together is checked in [`crate::config`].

pub mod value;

use std::{ffi::OsString, net::SocketAddr, ops::RangeInclusive, path::PathBuf, time::Duration};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum, builder};
use globset::Glob;
use log::LevelFilter;

use self::value::{Endpoint, Globs, OpcodeName};
use crate::proto::flow::Direction;

/// What the help of every printing command says of its selection.
macro_rules! selection_help {
    () => {
        "\
Selection: an event is shown if it passes every flag given; of several values of one flag, any
will do. A flag that says nothing of a kind of event (--opcode of a handshake) hides that kind,
unless --event names it: `--event handshake,frame --opcode ping` shows handshakes, and of the
frames the pings.

SIZE and BYTES may have K, M or G behind (powers of 1024). DURATION is a number with ms, s, m or
h, or several such: 1m30s."
    };
}

/// See WebSocket traffic from the kernel, frame by frame.
///
/// wstap follows the WebSocket connections of this machine, or of a capture file, and tells what
/// they exchange, how healthy they are, and who ended them, how and why. The observed programs
/// are not touched: no proxy, no library, no restart.
#[derive(Debug, Parser)]
#[command(
    name = "wstap",
    version,
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    max_term_width = 100,
    after_help = "\
Examples:
  wstap check                       can this machine run it?
  sudo wstap trace -i lo -p 8080    what happens on loopback, server port 8080
  sudo wstap run                    metrics at http://127.0.0.1:9466/metrics
  wstap read capture.pcap           the same from a capture file

Exit status: 0 done, 1 failed at run time, 2 wrong usage."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Attach, follow, and serve Prometheus metrics until SIGTERM or SIGINT (needs root)
    Run(Box<RunArgs>),
    /// Print what happens live, one line an event (needs root)
    Trace(Box<TraceArgs>),
    /// Print what happened in a pcap or pcapng file, one line an event
    Read(Box<ReadArgs>),
    /// Tell whether this machine can run wstap, and what to do if not
    #[command(after_help = "\
It looks at the kernel, BTF, capabilities and hooks. Each line says yes, no or degraded, and the
remedy. The exit status is 1 if `wstap run` could not work.")]
    Check,
    /// Print a completion script for a shell
    #[command(after_help = "\
Examples:
  wstap completions bash > /etc/bash_completion.d/wstap
  wstap completions zsh > \"${fpath[1]}/_wstap\"
  wstap completions fish > ~/.config/fish/completions/wstap.fish")]
    Completions(CompletionsArgs),
    /// Print the man page (roff)
    #[command(after_help = "\
Examples:
  wstap man | man -l -
  wstap man trace > /usr/local/share/man/man1/wstap-trace.1")]
    Man(ManArgs),
}

/// Flags of `wstap run`.
#[derive(Args, Debug)]
#[command(after_help = "\
Every flag is an environment variable too: WSTAP_ and its name in capitals, dashes as
underscores; lists are separated by commas. A flag overrides its variable.

Examples:
  wstap run
  wstap run --listen 0.0.0.0:9466 -i eth0 -i 'veth*' --connection-series 0
  WSTAP_PORT=80,8000-8999 WSTAP_PATH_LABEL=none wstap run

SIZE is in bytes, or with K, M or G (powers of 1024). DURATION is a number with ms, s, m or h,
or several such: 1m30s.")]
pub struct RunArgs {
    /// Capture flags.
    #[command(flatten)]
    pub capture: CaptureArgs,
    /// Limits.
    #[command(flatten)]
    pub limits: LimitArgs,
    /// Address and port that serve /metrics, /healthz, /readyz and /connections
    #[arg(
        long,
        value_name = "ADDR:PORT",
        env = "WSTAP_LISTEN",
        default_value = "127.0.0.1:9466",
        value_parser = value::socket_addr,
        help_heading = "Metrics"
    )]
    pub listen: SocketAddr,
    /// Labels and series.
    #[command(flatten)]
    pub metrics: MetricsArgs,
    /// Serve /connections, which names peers and paths: on, off, or auto, only where --listen is a
    /// loopback address
    #[arg(
        long,
        value_name = "WHEN",
        env = "WSTAP_CONNECTIONS_ENDPOINT",
        value_enum,
        default_value_t = When::Auto,
        hide_possible_values = true,
        help_heading = "Metrics"
    )]
    pub connections_endpoint: When,
    /// Say more on standard error: debug, then trace
    #[arg(
        short,
        long,
        env = "WSTAP_VERBOSE",
        action = clap::ArgAction::Count,
        help_heading = None::<&str>
    )]
    pub verbose: u8,
}

/// Flags of `wstap trace`.
#[derive(Args, Debug)]
#[command(after_help = concat!("\
Examples:
  wstap trace                                   everything, on every interface
  wstap trace -i lo -p 8080 --payload           loopback, port 8080, the first bytes of each payload
  wstap trace --event close                     only who ended which connection, how and why
  wstap trace --opcode ping,pong --server 10.0.0.7:443
  wstap trace -o json --path '/chat/*' | jq .

", selection_help!()))]
pub struct TraceArgs {
    /// Capture flags.
    #[command(flatten)]
    pub capture: CaptureArgs,
    /// Selection.
    #[command(flatten)]
    pub selection: SelectionArgs,
    /// Output.
    #[command(flatten)]
    pub output: OutputArgs,
    /// Limits.
    #[command(flatten)]
    pub limits: LimitArgs,
    /// Say more on standard error: info, debug, then trace
    #[arg(short, long, action = clap::ArgAction::Count, help_heading = None::<&str>)]
    pub verbose: u8,
}

/// Flags of `wstap read`.
#[derive(Args, Debug)]
#[command(after_help = concat!("\
Examples:
  wstap read capture.pcap
  wstap read --summary capture.pcapng           a table of the connections
  wstap read --event message -o json capture.pcap | jq .
  wstap read --metrics capture.pcap | promtool check metrics
  tcpdump -i eth0 -U -w - port 80 | wstap read -

Of a truncated or damaged file everything up to the damage is printed, then the error; the exit
status is 1.

", selection_help!()))]
pub struct ReadArgs {
    /// A pcap or pcapng file, also with gzip; - is standard input
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub file: PathBuf,
    /// Print a table of the connections, and totals, instead of events
    #[arg(
        long,
        conflicts_with_all = [
            "metrics", "output", "payload", "direction", "opcode", "close_code", "min_size",
            "event", "count",
        ],
        help_heading = "Output"
    )]
    pub summary: bool,
    /// Print what `wstap run` would have served as /metrics at the end of the file, instead of
    /// events
    #[arg(
        long,
        conflicts_with_all = [
            "output", "payload", "direction", "opcode", "close_code", "min_size", "event", "count",
        ],
        help_heading = "Output"
    )]
    pub metrics: bool,
    /// Selection.
    #[command(flatten)]
    pub selection: SelectionArgs,
    /// Output.
    #[command(flatten)]
    pub output: OutputArgs,
    /// Labels and series.
    #[command(flatten)]
    pub labels: MetricsArgs,
    /// Limits.
    #[command(flatten)]
    pub limits: LimitArgs,
    /// Say more on standard error: info, debug, then trace
    #[arg(short, long, action = clap::ArgAction::Count, help_heading = None::<&str>)]
    pub verbose: u8,
}

/// Flags of `wstap completions`.
#[derive(Args, Debug)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// Flags of `wstap man`.
#[derive(Args, Debug)]
pub struct ManArgs {
    /// The command whose page is wanted; without it, that of wstap itself
    #[arg(value_name = "COMMAND", value_parser = value::command_name)]
    pub command: Option<String>,
}

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
    /// Payload bytes of one segment that are copied at most: 128 to 1M
    #[arg(
        long,
        value_name = "SIZE",
        env = "WSTAP_SNAP_LENGTH",
        default_value = "256K",
        value_parser = value::size(128, 1 << 20)
    )]
    pub snap_length: u64,
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
        default_value = "off"
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
    /// How long the series of a connection stay after its end
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

/// Which events to show.
#[derive(Args, Debug)]
#[command(next_help_heading = "Selection")]
pub struct SelectionArgs {
    /// Connections of this client; IPv6 with a port as [ADDR]:PORT, :PORT for any address
    #[arg(long, value_name = "ADDR[:PORT]", value_delimiter = ',')]
    pub client: Vec<Endpoint>,
    /// Connections to this server; IPv6 with a port as [ADDR]:PORT, :PORT for any address
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
    /// Show the beginning of each payload, unmasked: up to BYTES, 256 if not given, 16M at most
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

/// The form of the label `path`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum PathLabel {
    /// Without query, identifiers replaced.
    Template,
    /// As sent.
    Raw,
    /// Empty.
    None,
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

impl Command {
    /// How much the agent itself says on standard error.
    #[must_use]
    pub fn log_level(&self) -> LevelFilter {
        const LEVELS: [LevelFilter; 4] = [
            LevelFilter::Warn,
            LevelFilter::Info,
            LevelFilter::Debug,
            LevelFilter::Trace,
        ];
        let step = match self {
            Self::Run(args) => usize::from(args.verbose).saturating_add(1),
            Self::Trace(args) => usize::from(args.verbose),
            Self::Read(args) => usize::from(args.verbose),
            Self::Check | Self::Completions(_) | Self::Man(_) => 0,
        };
        LEVELS.get(step).copied().unwrap_or(LevelFilter::Trace)
    }

    /// How much the kernel program says there.
    #[must_use]
    pub fn kernel_log_level(&self) -> LevelFilter {
        match self {
            Self::Run(args) => args.capture.kernel_log,
            Self::Trace(args) => args.capture.kernel_log,
            Self::Read(_) | Self::Check | Self::Completions(_) | Self::Man(_) => LevelFilter::Off,
        }
    }
}

/// The command line's definition. Environment variables are `run`'s alone: a person at a shell
/// gets what was typed, whatever a service's environment says.
#[must_use]
pub fn command() -> clap::Command {
    // Values of the environment in the help would be in the man pages too.
    let mut command =
        Cli::command().mut_subcommand("run", |run| run.mut_args(|arg| arg.hide_env_values(true)));
    for name in ["trace", "read"] {
        command = command.mut_subcommand(name, |sub| {
            sub.mut_args(|arg| arg.env(builder::Resettable::Reset))
        });
    }
    command
}

impl Cli {
    /// Parses `args`, the program's name first.
    ///
    /// # Errors
    ///
    /// Wrong usage; `--help` and `--version` too, which are for standard output.
    pub fn from_args(args: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let mut command = command();
        let mut matches = command.try_get_matches_from_mut(args)?;
        Self::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
    }
}

#[cfg(test)]
mod tests;
