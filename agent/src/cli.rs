//! The command line as typed: commands, flags, their help and their environment variables.
//!
//! Values are parsed here, so that a wrong one is named with its flag and ends with status 2. What
//! they mean together is checked in [`crate::config`].

mod file;
pub mod group;
pub mod usage;
pub mod value;

use std::{env, ffi::OsString, net::SocketAddr, path::PathBuf};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, builder, error::ErrorKind};
use log::LevelFilter;

pub use self::group::{
    Attach, CaptureArgs, ColorWhen, CopyMode, EventName, Format, KubernetesArgs, LimitArgs,
    MetricsArgs, OutputArgs, SelectionArgs, When,
};

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
remedy; or unknown, where what it takes to find out is missing. The exit status is 1 if `wstap run` could not work.

Examples:
  wstap check
  wstap check -o json | jq -r 'select(.state != \"yes\").remedy'")]
    Check(CheckArgs),
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
underscores; lists are separated by commas. And it is a key of the file that --config names, under
its long name: TOML, lists as such or separated by commas. A flag overrides its variable, and that
the file.

Examples:
  wstap run
  wstap run --listen 0.0.0.0:9466 -i eth0 -i 'veth*' --connection-series 0
  WSTAP_PORT=80,8000-8999 WSTAP_PATH_LABEL=none wstap run
  wstap run --config /etc/wstap.toml

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
    /// Names of pods.
    #[command(flatten)]
    pub kubernetes: KubernetesArgs,
    /// TOML file with values for flags that are neither given nor set as variables; its keys are their
    /// long names
    #[arg(
        long,
        value_name = "FILE",
        env = "WSTAP_CONFIG",
        value_hint = clap::ValueHint::FilePath,
        help_heading = None::<&str>
    )]
    pub config: Option<PathBuf>,
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
  wstap trace --opcode ping,pong --server 10.0.0.7:8080
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
    /// Names of pods.
    #[command(flatten)]
    pub kubernetes: KubernetesArgs,
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

/// Flags of `wstap check`.
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// The file that `wstap run --config` would be given
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// text for eyes, json for programs: one object a line, with requirement, state, found and
    /// remedy
    #[arg(
        short,
        long,
        value_name = "FORMAT",
        value_enum,
        default_value_t = Format::Text,
        hide_possible_values = true,
    )]
    pub output: Format,
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
            Self::Check(_) | Self::Completions(_) | Self::Man(_) => 0,
        };
        LEVELS.get(step).copied().unwrap_or(LevelFilter::Trace)
    }

    /// How much the kernel program says there.
    #[must_use]
    pub fn kernel_log_level(&self) -> LevelFilter {
        match self {
            Self::Run(args) => args.capture.kernel_log,
            Self::Trace(args) => args.capture.kernel_log,
            Self::Read(_) | Self::Check(_) | Self::Completions(_) | Self::Man(_) => {
                LevelFilter::Off
            }
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
    /// Parses `args`, the program's name first, and the file that they name. A variable that is empty is as
    /// good as none.
    ///
    /// # Errors
    ///
    /// Wrong usage, a file that cannot be read or is wrong; `--help` and `--version` too, which are for standard output.
    pub fn from_args(args: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let mut command = command().mut_subcommand("run", |run| {
            run.mut_args(|arg| {
                let value = arg.get_env().and_then(env::var_os);
                if value.is_some_and(|value| value.is_empty()) {
                    arg.env(builder::Resettable::Reset)
                } else {
                    arg
                }
            })
        });
        let args: Vec<_> = args.into_iter().collect();
        // Parsing settles a definition: what the file says has to be put into one that is not settled.
        let defined = command.clone();
        let mut matches = command.try_get_matches_from_mut(&args)?;
        let file = matches
            .subcommand_matches("run")
            .and_then(|run| run.get_one::<PathBuf>(file::FLAG))
            .cloned();
        if let Some(file) = file {
            let run = defined.find_subcommand("run").cloned().unwrap_or_default();
            let run = file::applied(run, &file)
                .map_err(|error| command.error(ErrorKind::InvalidValue, error))?;
            command = defined.mut_subcommand("run", |_| run);
            matches = command.try_get_matches_from_mut(&args)?;
        }
        Self::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
    }
}

#[cfg(test)]
mod tests;
