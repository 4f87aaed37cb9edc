//! The command line of wstap: parse, logging, exit status.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::error::ErrorKind;
use log::LevelFilter;
use wstap::{
    cli::{self, Cli},
    commands,
    config::ConfigError,
};

fn main() -> ExitCode {
    let cli = Cli::from_args(std::env::args_os()).unwrap_or_else(|error| error.exit());
    env_logger::Builder::new()
        .filter_level(LevelFilter::Warn)
        .filter_module("wstap", cli.command.log_level())
        // The kernel program's log has a level of its own.
        .filter_module("wstap_ebpf", cli.command.kernel_log_level())
        .format_target(false)
        .init();
    match commands::run(cli) {
        Ok(status) => status,
        Err(error) => match error.downcast_ref::<ConfigError>() {
            Some(error) => cli::command()
                .error(ErrorKind::ArgumentConflict, error)
                .exit(),
            None => {
                // Where nobody can be told, the exit status still tells.
                let _ = writeln!(io::stderr(), "wstap: {error:#}");
                ExitCode::FAILURE
            }
        },
    }
}
