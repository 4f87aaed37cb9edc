//! Wrong usage, told in one line.

use std::{env, ffi::OsString};

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// What is wrong with the command line `args` (the program's name first), on one line, and where to
/// read what would be right. `None` where the answer is a page, which clap prints: what was asked
/// for with `--help` or `--version`, or given for want of a command.
#[must_use]
pub fn line(error: &clap::Error, args: &[OsString]) -> Option<String> {
    if let ErrorKind::DisplayHelp
    | ErrorKind::DisplayVersion
    | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand = error.kind()
    {
        return None;
    }
    let mut line = sentence(error);
    if let Some(variable) = variable(error, args) {
        line.push_str(" (from ");
        line.push_str(&variable);
        line.push(')');
    }
    line.push_str("; see `wstap");
    let command = args.get(1).and_then(|name| name.to_str());
    if let Some(command) = command.filter(|name| super::command().find_subcommand(name).is_some()) {
        line.push(' ');
        line.push_str(command);
    }
    line.push_str(" --help`");
    Some(line)
}

/// What is wrong, on one line.
pub(super) fn sentence(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let mut line = String::new();
    let parts = text
        .lines()
        .map(str::trim)
        .take_while(|part| !part.starts_with("Usage:") && !part.starts_with("For more information"))
        .filter(|part| !part.is_empty());
    for part in parts {
        if line.is_empty() {
            line.push_str(part.strip_prefix("error: ").unwrap_or(part));
            continue;
        }
        line.push_str(if part.starts_with("tip:") { "; " } else { " " });
        line.push_str(part);
    }
    line
}

/// The environment variable that a refused value comes from.
fn variable(error: &clap::Error, args: &[OsString]) -> Option<String> {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let flag = context(ContextKind::InvalidArg)?.strip_prefix("--")?;
    let value = context(ContextKind::InvalidValue)?;
    let flag = flag
        .split(|c: char| !c.is_ascii_lowercase() && c != '-')
        .next()?;
    let name = format!("WSTAP_{}", flag.to_ascii_uppercase().replace('-', "_"));
    let typed = args.iter().any(|arg| arg.to_string_lossy().contains(value));
    let is_run = args.get(1).is_some_and(|command| command == "run");
    let set = env::var(&name).is_ok_and(|set| set.contains(value));
    (is_run && set && !typed).then_some(name)
}
