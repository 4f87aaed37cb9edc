//! `wstap completions`: completion scripts, made from the command line's definition.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use crate::cli::{self, CompletionsArgs};

/// Prints the script for one shell.
///
/// # Errors
///
/// Standard output cannot be written to.
pub fn execute(args: &CompletionsArgs) -> anyhow::Result<ExitCode> {
    // The generator takes a failing write for a bug and panics, so it gets memory.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut cli::command(), "wstap", &mut script);
    let mut stdout = io::stdout().lock();
    stdout.write_all(&script)?;
    stdout.flush()?;
    Ok(ExitCode::SUCCESS)
}
