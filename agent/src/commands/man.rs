//! `wstap man`: manual pages, made from the command line's definition.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::{Command, builder::Resettable};
use clap_mangen::{
    Man,
    roff::{Roff, roman},
};

use crate::cli::{self, ManArgs};

/// Prints the page of wstap or of one of its commands.
///
/// # Errors
///
/// Standard output cannot be written to.
pub fn execute(args: &ManArgs) -> anyhow::Result<ExitCode> {
    let mut command = cli::command();
    // Gives the commands their full names.
    command.build();
    let page = (args.command.as_deref()).and_then(|name| command.find_subcommand(name).cloned());
    let roff = render(page.unwrap_or(command))?;
    let mut stdout = io::stdout().lock();
    stdout.write_all(&roff)?;
    stdout.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn render(command: Command) -> io::Result<Vec<u8>> {
    // The generator would run the lines of the examples together.
    let notes = command
        .get_after_help()
        .map(ToString::to_string)
        .unwrap_or_default();
    let mut page = Vec::new();
    Man::new(command.after_help(Resettable::Reset)).render(&mut page)?;
    let mut roff = Roff::new();
    let (examples, notes): (Vec<_>, Vec<_>) = notes
        .split("\n\n")
        .filter(|paragraph| !paragraph.is_empty())
        .partition(|paragraph| paragraph.starts_with("Examples:"));
    for list in examples {
        roff.control("SH", ["EXAMPLES"]).control("nf", []);
        for line in list.lines().skip(1) {
            roff.text([roman(line)]);
        }
        roff.control("fi", []);
    }
    if !notes.is_empty() {
        roff.control("SH", ["NOTES"]);
    }
    for paragraph in notes {
        roff.control("PP", []).text([roman(paragraph)]);
    }
    roff.to_writer(&mut page)?;
    Ok(page)
}
