//! The command line of wstap: parse, logging, exit status.

use std::{
    ffi::OsString,
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
    let args: Vec<_> = std::env::args_os().collect();
    let cli = match Cli::from_args(args.iter().cloned()) {
        Ok(cli) => cli,
        Err(error) => return wrong_usage(&error, &args),
    };
    env_logger::Builder::new()
        .filter_level(LevelFilter::Warn)
        .filter_module("wstap", cli.command.log_level())
        // The kernel program's log has a level of its own.
        .filter_module("wstap_ebpf", cli.command.kernel_log_level())
        // What it has to say is said by `kubernetes`; and of what it cannot parse it would write all,
        // pods with their environment.
        .filter_module("kube_client", LevelFilter::Off)
        .format_target(false)
        .init();
    match commands::run(cli) {
        Ok(status) => status,
        Err(error) => match error.downcast_ref::<ConfigError>() {
            Some(error) => {
                let error = cli::command().error(ErrorKind::ArgumentConflict, error);
                wrong_usage(&error, &args)
            }
            None => {
                say(&format!("{error:#}"));
                ExitCode::FAILURE
            }
        },
    }
}

fn wrong_usage(error: &clap::Error, args: &[OsString]) -> ExitCode {
    match cli::usage::line(error, args) {
        Some(line) => {
            say(&line);
            ExitCode::from(2)
        }
        None => error.exit(),
    }
}

fn say(line: &str) {
    // Where nobody can be told, the exit status still tells.
    let _ = writeln!(io::stderr(), "wstap: {line}");
}
