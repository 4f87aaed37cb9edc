//! The commands: each wires a source, the observer and a sink.

pub mod check;
pub mod completions;
pub mod live;
pub mod man;
mod progress;
pub mod read;
pub mod run;
pub mod trace;

use std::{io, process::ExitCode};

use anyhow::Context as _;

use crate::{
    cli::{Cli, Command},
    config::SeriesConfig,
    proto::observer,
    sink::metrics::MetricsConfig,
};

/// What fails where a command that prints does.
const PRINTING: &str = "writing to standard output";

/// Does what the command line says. A reader of standard output that has had enough is no failure:
/// Rust ignores SIGPIPE, so its going shows as an error of the write.
///
/// # Errors
///
/// [`crate::config::ConfigError`] where flags do not go together; else what failed at run time.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let result = match cli.command {
        Command::Run(args) => run::execute((*args).try_into()?),
        Command::Trace(args) => trace::execute((*args).try_into()?),
        Command::Read(args) => read::execute((*args).try_into()?),
        Command::Check(args) => check::execute(args.into()).context(PRINTING),
        Command::Completions(args) => completions::execute(&args).context(PRINTING),
        Command::Man(args) => man::execute(&args).context(PRINTING),
    };
    match result {
        Err(error) if is_closed_pipe(&error) => Ok(ExitCode::SUCCESS),
        result => result,
    }
}

/// The metrics that the flags on labels and series ask for, of an observer with these limits.
fn metrics_config(series: &SeriesConfig, observer: &observer::Config) -> MetricsConfig {
    MetricsConfig {
        max_endpoints: usize::try_from(series.max_endpoints).unwrap_or(usize::MAX),
        connection_series: usize::try_from(series.connection_series).unwrap_or(usize::MAX),
        series_linger: series.series_linger,
        path_label: series.path_label,
        max_connections: observer.max_connections,
        max_candidates: observer.max_candidates,
    }
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
