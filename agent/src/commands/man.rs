//! `wstap man`: manual pages, made from the command line's definition.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap_mangen::Man;

use crate::cli::{self, ManArgs};

/// Prints the page of wstap or of one of its commands.
///
/// # Errors
///
/// Standard output cannot be written to.
pub fn execute(args: &ManArgs) -> anyhow::Result<ExitCode> {
    let mut command = cli::command();
    command.build();
    let page = args
        .command
        .as_deref()
        .and_then(|name| command.find_subcommand(name).cloned());
    let mut roff = Vec::new();
    Man::new(page.unwrap_or(command)).render(&mut roff)?;
    let mut stdout = io::stdout().lock();
    stdout.write_all(&roff)?;
    stdout.flush()?;
    Ok(ExitCode::SUCCESS)
}
