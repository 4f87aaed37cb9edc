//! The configuration: what the command line asks for, validated and free of clap.
//!
//! Made from [`crate::cli`] alone; nothing here opens, reads or asks the machine.

use std::{net::SocketAddr, ops::RangeInclusive, path::PathBuf, time::Duration};

use globset::{Glob, GlobSet, GlobSetBuilder};
use log::LevelFilter;
use wstap_common::globals::MAX_PREVIEW;

pub use crate::cli::{
    Attach as AttachMode, ColorWhen as Color, CopyMode, EventName, Format, When as KubernetesMode,
    value::{Endpoint, Netns, OpcodeName},
};
use crate::{
    cli::{self, value::Globs},
    proto::{
        flow::Direction,
        observer::{self, Interest},
    },
    sink::metrics::PathLabel,
};

/// Flags that do not go together.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// One direction may hold back more than all of them.
    #[error(
        "--reassembly-bytes ({per_direction} bytes, for one direction) is more than \
         --reassembly-total ({total} bytes, for all): lower the one or raise the other"
    )]
    Reassembly {
        /// For one direction.
        per_direction: u64,
        /// For all.
        total: u64,
    },
    /// More payload is to be shown than is copied with a header.
    #[error(
        "--payload={bytes} is more than --copy headers copies of a payload, {MAX_PREVIEW} bytes: leave \
         --copy out, or ask for less"
    )]
    Preview {
        /// What was asked for.
        bytes: usize,
    },
    /// Patterns that are too much together.
    #[error("the patterns of {flag} cannot be used together: {source}")]
    Patterns {
        /// Which.
        flag: &'static str,
        /// Why.
        source: globset::Error,
    },
}

/// What to capture, and how.
#[derive(Clone, Debug)]
pub struct CaptureConfig {
    /// Where to attach.
    pub interfaces: InterfaceSelection,
    /// In which other network namespaces.
    pub namespaces: NamespaceSelection,
    /// Server ports to watch; empty for all.
    pub ports: Vec<RangeInclusive<u16>>,
    /// Bytes of the ring buffer: a power of two of at least 64 KiB, so a multiple of any page size.
    pub ring_buffer: u32,
    /// How to attach.
    pub attach: AttachMode,
    /// What of the WebSockets that are followed is copied.
    pub copy: CopyMode,
    /// Where headers are copied: how much of each data frame's payload with them, at most
    /// [`MAX_PREVIEW`].
    pub preview: u32,
    /// Payload bytes of one segment that are copied at most.
    pub snap_length: u32,
    /// Capacity of the map of followed flows.
    pub max_connections: u32,
    /// Capacity of the map of candidates.
    pub max_candidates: u32,
    /// What the kernel program logs.
    pub kernel_log: LevelFilter,
}

/// Which network namespaces to follow besides the agent's own.
#[derive(Clone, Debug, Default)]
pub struct NamespaceSelection {
    /// These.
    pub wanted: Vec<Netns>,
    /// So many at the same time.
    pub max: usize,
    /// Where the machine's procfs is mounted.
    pub procfs: PathBuf,
}

/// Which interfaces to attach to.
#[derive(Clone, Debug)]
pub struct InterfaceSelection {
    include: GlobSet,
    exclude: GlobSet,
}

impl InterfaceSelection {
    /// Those whose name one of `include` matches (every one, if there is none) and none of
    /// `exclude`.
    ///
    /// # Errors
    ///
    /// The patterns are too large together.
    pub fn new(include: &[Glob], exclude: &[Glob]) -> Result<Self, globset::Error> {
        let every = [Glob::new("*")?];
        let include = if include.is_empty() { &every } else { include };
        Ok(Self {
            include: glob_set(include)?,
            exclude: glob_set(exclude)?,
        })
    }

    /// Whether the interface `name` is one of them.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        self.include.is_match(name) && !self.exclude.is_match(name)
    }
}

/// How to print events.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct OutputConfig {
    /// Text or JSON.
    pub format: Format,
    /// Whether to colour the text.
    pub color: Color,
    /// Bytes of each payload to show; `None` for none.
    pub payload: Option<usize>,
}

/// Which events to print, and how many. What it shows is in [`crate::sink::filter`].
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Any of these clients; empty for all.
    pub clients: Vec<Endpoint>,
    /// Any of these servers; empty for all.
    pub servers: Vec<Endpoint>,
    /// Any of these hosts.
    pub hosts: Option<GlobSet>,
    /// Any of these paths.
    pub paths: Option<GlobSet>,
    /// This direction.
    pub direction: Option<Direction>,
    /// Any of these opcodes; empty for all.
    pub opcodes: Vec<OpcodeName>,
    /// Any of these close codes; empty for all.
    pub close_codes: Vec<u16>,
    /// At least so many payload bytes.
    pub min_size: Option<u64>,
    /// Any of these kinds; empty for all but messages.
    pub events: Vec<EventName>,
    /// Stop after so many events.
    pub count: Option<u64>,
    /// Stop after this time.
    pub duration: Option<Duration>,
}

/// Labels and series of the metrics that `wstap run` serves and `wstap read` prints.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SeriesConfig {
    /// Live connections that get series of their own.
    pub connection_series: u32,
    /// How long these stay after the connection.
    pub series_linger: Duration,
    /// Distinct sets of endpoint labels.
    pub max_endpoints: u32,
    /// The label `path`.
    pub path_label: PathLabel,
}

/// Where names of pods come from.
#[derive(Clone, Debug)]
pub struct KubernetesConfig {
    /// Whether they are wanted.
    pub mode: KubernetesMode,
    /// The node whose pods are watched; `None` for the one that is called as the host is.
    pub node_name: Option<String>,
    /// Whether Services are wanted too.
    pub services: bool,
    /// Pods, and Services, that are known at the same time.
    pub max_pods: usize,
}

/// What `wstap run` does.
#[derive(Clone, Debug)]
pub struct RunConfig {
    /// What to capture.
    pub capture: CaptureConfig,
    /// The observer's limits.
    pub observer: observer::Config,
    /// Where to serve HTTP.
    pub listen: SocketAddr,
    /// Labels and series of the metrics.
    pub series: SeriesConfig,
    /// Whether `/connections` is served.
    pub connections_endpoint: bool,
    /// Names of pods.
    pub kubernetes: KubernetesConfig,
}

/// What `wstap trace` does.
#[derive(Clone, Debug)]
pub struct TraceConfig {
    /// What to capture.
    pub capture: CaptureConfig,
    /// The observer's limits.
    pub observer: observer::Config,
    /// How to print.
    pub output: OutputConfig,
    /// What to print.
    pub selection: Selection,
    /// Names of pods.
    pub kubernetes: KubernetesConfig,
}

/// What `wstap check` does.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CheckConfig {
    /// The file that `run` would be given.
    pub file: Option<PathBuf>,
    /// Text or JSON.
    pub format: Format,
}

impl From<cli::CheckArgs> for CheckConfig {
    fn from(args: cli::CheckArgs) -> Self {
        Self {
            file: args.config,
            format: args.output,
        }
    }
}

/// What `wstap read` does.
#[derive(Clone, Debug)]
pub struct ReadConfig {
    /// Where from.
    pub input: Input,
    /// The observer's limits.
    pub observer: observer::Config,
    /// What to print.
    pub report: Report,
    /// Of what.
    pub selection: Selection,
}

/// A capture.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Input {
    /// Standard input.
    Stdin,
    /// A file.
    File(PathBuf),
}

/// What `wstap read` prints.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Report {
    /// A line an event.
    Events(OutputConfig),
    /// A table of the connections.
    Summary,
    /// The Prometheus exposition.
    Metrics(SeriesConfig),
}

impl TryFrom<cli::RunArgs> for RunConfig {
    type Error = ConfigError;

    fn try_from(args: cli::RunArgs) -> Result<Self, ConfigError> {
        Ok(Self {
            capture: capture(&args.capture, &args.limits)?,
            observer: limits(&args.limits)?,
            listen: args.listen,
            series: series(&args.metrics),
            connections_endpoint: match args.connections_endpoint {
                cli::When::Auto => args.listen.ip().to_canonical().is_loopback(),
                cli::When::On => true,
                cli::When::Off => false,
            },
            kubernetes: kubernetes(args.kubernetes),
        })
    }
}

impl TryFrom<cli::TraceArgs> for TraceConfig {
    type Error = ConfigError;

    fn try_from(args: cli::TraceArgs) -> Result<Self, ConfigError> {
        let output = output(&args.output);
        let selection = selection(args.selection)?;
        let mut capture = capture(&args.capture, &args.limits)?;
        if let Some(bytes) = output.payload {
            capture.preview = preview(bytes, args.capture.copy)?;
            // There is nothing to show of what is not copied.
            capture.copy = args.capture.copy.unwrap_or(CopyMode::Whole);
        }
        // Nobody inflates a part.
        let inflate = output.payload.is_some() && capture.copy == CopyMode::Whole;
        let mut kubernetes = kubernetes(args.kubernetes);
        // Text shows no names.
        if output.format == Format::Text && kubernetes.mode == KubernetesMode::Auto {
            kubernetes.mode = KubernetesMode::Off;
        }
        Ok(Self {
            capture,
            observer: observer::Config {
                preview: output.payload.unwrap_or(0),
                inflate,
                interest: interest(&selection),
                ..limits(&args.limits)?
            },
            output,
            selection,
            kubernetes,
        })
    }
}

impl TryFrom<cli::ReadArgs> for ReadConfig {
    type Error = ConfigError;

    fn try_from(args: cli::ReadArgs) -> Result<Self, ConfigError> {
        let output = output(&args.output);
        let selection = selection(args.selection)?;
        let report = if args.summary {
            Report::Summary
        } else if args.metrics {
            Report::Metrics(series(&args.labels))
        } else {
            Report::Events(output)
        };
        Ok(Self {
            input: if args.file.as_os_str() == "-" {
                Input::Stdin
            } else {
                Input::File(args.file)
            },
            observer: observer::Config {
                preview: output.payload.unwrap_or(0),
                // What `run` would have counted it counts without.
                inflate: !args.metrics,
                interest: match report {
                    Report::Events(_) => interest(&selection),
                    Report::Summary => Interest {
                        frames: false,
                        progress: false,
                        messages: false,
                    },
                    Report::Metrics(_) => Interest::default(),
                },
                // Packets of the two directions may have been written to the file by different
                // queues, in an order that they never had.
                causal_order: true,
                ..limits(&args.limits)?
            },
            report,
            selection,
        })
    }
}

/// What a printer shows of the events that come with every frame.
fn interest(selection: &Selection) -> Interest {
    Interest {
        frames: selection.names(EventName::Frame),
        progress: false,
        messages: selection.names(EventName::Message),
    }
}

fn glob_set(globs: &[Glob]) -> Result<GlobSet, globset::Error> {
    let mut set = GlobSetBuilder::new();
    for glob in globs {
        set.add(glob.clone());
    }
    set.build()
}

fn capture(args: &cli::CaptureArgs, limits: &cli::LimitArgs) -> Result<CaptureConfig, ConfigError> {
    let flat = |lists: &[Globs]| -> Vec<Glob> {
        lists
            .iter()
            .flat_map(|globs| globs.0.iter().cloned())
            .collect()
    };
    let interfaces =
        InterfaceSelection::new(&flat(&args.interface), &flat(&args.exclude_interface));
    Ok(CaptureConfig {
        interfaces: interfaces.map_err(|source| ConfigError::Patterns {
            flag: "--interface and --exclude-interface",
            source,
        })?,
        namespaces: NamespaceSelection {
            wanted: args.netns.clone(),
            max: saturating_usize(args.max_netns.into()),
            procfs: args.procfs.clone(),
        },
        ports: args.port.clone(),
        ring_buffer: saturating_u32(args.ring_buffer)
            .checked_next_power_of_two()
            .unwrap_or(1 << 31),
        attach: args.attach,
        copy: args.copy.unwrap_or(CopyMode::Headers),
        preview: 0,
        snap_length: saturating_u32(args.snap_length),
        max_connections: limits.max_connections,
        max_candidates: limits.max_candidates,
        kernel_log: args.kernel_log,
    })
}

/// How much of each payload is to be copied with its header; 0 where segments are copied whole.
fn preview(bytes: usize, copy: Option<CopyMode>) -> Result<u32, ConfigError> {
    if copy != Some(CopyMode::Headers) {
        return Ok(0);
    }
    u32::try_from(bytes)
        .ok()
        .filter(|bytes| *bytes <= MAX_PREVIEW)
        .ok_or(ConfigError::Preview { bytes })
}

fn limits(args: &cli::LimitArgs) -> Result<observer::Config, ConfigError> {
    if args.reassembly_bytes > args.reassembly_total {
        return Err(ConfigError::Reassembly {
            per_direction: args.reassembly_bytes,
            total: args.reassembly_total,
        });
    }
    Ok(observer::Config {
        max_connections: saturating_usize(args.max_connections.into()),
        max_candidates: saturating_usize(args.max_candidates.into()),
        idle_timeout: args.idle_timeout,
        max_buffered_per_direction: saturating_usize(args.reassembly_bytes),
        max_buffered: saturating_usize(args.reassembly_total),
        max_head: saturating_usize(args.max_head),
        gap_patience: args.gap_patience,
        max_pings: saturating_usize(args.max_pings.into()),
        max_inflated: args.max_inflated,
        max_inflate_ratio: args.max_inflate_ratio.into(),
        max_inflaters: saturating_usize(args.max_inflaters.into()),
        max_searched: args.max_searched,
        ..observer::Config::default()
    })
}

fn series(args: &cli::MetricsArgs) -> SeriesConfig {
    SeriesConfig {
        connection_series: args.connection_series,
        series_linger: args.series_linger,
        max_endpoints: args.max_endpoints,
        path_label: args.path_label,
    }
}

fn kubernetes(args: cli::KubernetesArgs) -> KubernetesConfig {
    KubernetesConfig {
        mode: args.kubernetes,
        node_name: args.node_name,
        services: args.kubernetes_services,
        max_pods: saturating_usize(args.max_pods.into()),
    }
}

fn output(args: &cli::OutputArgs) -> OutputConfig {
    OutputConfig {
        format: args.output,
        color: args.color,
        payload: args.payload.map(saturating_usize),
    }
}

fn selection(args: cli::SelectionArgs) -> Result<Selection, ConfigError> {
    let globs = |globs: &[Glob], flag| match globs {
        [] => Ok(None),
        globs => match glob_set(globs) {
            Ok(set) => Ok(Some(set)),
            Err(source) => Err(ConfigError::Patterns { flag, source }),
        },
    };
    Ok(Selection {
        hosts: globs(&args.host, "--host")?,
        paths: globs(&args.path, "--path")?,
        clients: args.client,
        servers: args.server,
        direction: args.direction,
        opcodes: args.opcode,
        close_codes: args.close_code,
        min_size: args.min_size,
        events: args.event,
        count: args.count,
        duration: args.duration,
    })
}

fn saturating_u32(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn saturating_usize(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};

    fn command(line: &str) -> Command {
        let args = ["wstap"].into_iter().chain(line.split_whitespace());
        Cli::from_args(args.map(Into::into)).unwrap().command
    }

    fn run(flags: &str) -> Result<RunConfig, ConfigError> {
        match command(&format!("run {flags}")) {
            Command::Run(args) => (*args).try_into(),
            other => panic!("{other:?}"),
        }
    }

    fn read(flags: &str) -> ReadConfig {
        match command(&format!("read {flags}")) {
            Command::Read(args) => (*args).try_into().unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn without_flags_the_observer_has_its_own_defaults() {
        let config = run("").unwrap();
        let defaults = observer::Config::default();
        assert_eq!(format!("{:?}", config.observer), format!("{defaults:?}"));
        assert_eq!(config.listen, "127.0.0.1:9466".parse().unwrap());
        assert_eq!(config.capture.ring_buffer, 16 << 20);
        assert_eq!(config.capture.snap_length, 256 << 10);
        assert!(config.capture.ports.is_empty());
    }

    #[test]
    fn interfaces_are_included_then_excluded() {
        for (flags, name, expected) in [
            ("", "lo", true),
            ("", "veth1a2b@if3", true),
            ("-i eth0", "eth0", true),
            ("-i eth0", "eth01", false),
            ("-i eth0,veth*", "veth7", true),
            ("-i {eth,ens}?", "ens3", true),
            ("--exclude-interface lo,docker*", "lo", false),
            ("--exclude-interface lo,docker*", "docker0", false),
            ("--exclude-interface lo,docker*", "eth0", true),
            ("-i * --exclude-interface veth?", "veth1", false),
        ] {
            let config = run(flags).unwrap();
            assert_eq!(
                config.capture.interfaces.matches(name),
                expected,
                "{flags} {name}"
            );
        }
    }

    #[test]
    fn other_namespaces_are_followed_where_it_is_asked_for() {
        let none = run("").unwrap().capture.namespaces;
        assert!(none.wanted.is_empty());
        assert_eq!((none.max, none.procfs), (512, "/proc".into()));
        let flags = "--netns blue,77 --netns pods --max-netns 9 --procfs /host/proc";
        let some = run(flags).unwrap().capture.namespaces;
        let wanted = [Netns::Name("blue".to_owned()), Netns::Pid(77), Netns::Pods];
        assert_eq!(some.wanted, wanted);
        assert_eq!((some.max, some.procfs), (9, "/host/proc".into()));
    }

    #[test]
    fn the_ring_buffer_is_a_power_of_two() {
        for (flag, expected) in [("64K", 1 << 16), ("65537", 1 << 17), ("1G", 1 << 30)] {
            let config = run(&format!("--ring-buffer {flag}")).unwrap();
            assert_eq!(config.capture.ring_buffer, expected);
        }
    }

    #[test]
    fn connections_are_served_on_loopback_unless_told_otherwise() {
        for (flags, expected) in [
            ("", true),
            ("--listen [::1]:1", true),
            ("--listen [::ffff:127.0.0.1]:1", true),
            ("--listen 0.0.0.0:1", false),
            ("--listen 0.0.0.0:1 --connections-endpoint on", true),
            ("--connections-endpoint off", false),
        ] {
            assert_eq!(
                run(flags).unwrap().connections_endpoint,
                expected,
                "{flags}"
            );
        }
    }

    #[test]
    fn one_direction_cannot_have_more_than_all() {
        let error = run("--reassembly-bytes 2M --reassembly-total 1M").unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("2097152") && error.contains("1048576"),
            "{error}"
        );
    }

    #[test]
    fn trace_asks_for_names_where_it_shows_them() {
        for (flags, expected) in [
            ("", KubernetesMode::Off),
            ("-o json", KubernetesMode::Auto),
            ("--kubernetes on", KubernetesMode::On),
            ("-o json --kubernetes off", KubernetesMode::Off),
        ] {
            let Command::Trace(args) = command(&format!("trace {flags}")) else {
                panic!("{flags}");
            };
            let config: TraceConfig = (*args).try_into().unwrap();
            assert_eq!(config.kubernetes.mode, expected, "{flags}");
        }
    }

    #[test]
    fn read_knows_what_to_read_and_to_print() {
        assert_eq!(read("-").input, Input::Stdin);
        assert_eq!(read("./-").input, Input::File("./-".into()));
        assert_eq!(read("--summary x").report, Report::Summary);
        assert!(matches!(read("--metrics x").report, Report::Metrics(_)));
        let config = read("--payload=10 x");
        assert!(config.observer.causal_order);
        assert_eq!(config.observer.preview, 10);
        assert!(matches!(config.report, Report::Events(output) if output.payload == Some(10)));
    }
}
