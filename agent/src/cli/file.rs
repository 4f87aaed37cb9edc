//! The configuration file of `run`: TOML whose keys are the long names of its flags.
//!
//! A value of the file takes the place of the flag's default, so that flags and variables come
//! before it, and that one parser judges all of them.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    ops::Range,
    path::{Path, PathBuf},
};

use clap::{
    Arg, ArgAction, Command,
    error::{ContextKind, ContextValue, ErrorKind},
};
use toml::de::{DeTable, DeValue};

use super::usage;

/// Bytes of a file that are read at most.
const LONGEST: u64 = 1 << 20;
/// The key that a file cannot have: it would name another file.
pub(super) const FLAG: &str = "config";

/// Why a file is no configuration.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    /// It cannot be read.
    #[error(
        "reading the configuration {}: {cause}; give a file of at most 1 MiB that this user may \
         read, or leave --config and WSTAP_CONFIG out", path.display()
    )]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        cause: io::Error,
    },
    /// What it says is wrong.
    #[error("{}", list(path, faults))]
    Wrong {
        /// Which.
        path: PathBuf,
        /// Where, and how.
        faults: Vec<Fault>,
    },
}

/// Something wrong at a place of a file.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Fault {
    /// From 1.
    line: usize,
    /// In characters, from 1.
    column: usize,
    what: String,
}

fn list(path: &Path, faults: &[Fault]) -> String {
    let fault = |Fault { line, column, what }: &Fault| {
        format!("{}:{line}:{column}: {what}", path.display())
    };
    faults.iter().map(fault).collect::<Vec<_>>().join("; ")
}

/// The command `run` with the values of the file at `path` in place of its defaults.
///
/// # Errors
///
/// [`FileError`], with everything that is wrong with the file.
pub(super) fn applied(run: Command, path: &Path) -> Result<Command, FileError> {
    let read = |path: &Path| {
        let mut text = String::new();
        let read = File::open(path)?
            .take(LONGEST + 1)
            .read_to_string(&mut text)?;
        if u64::try_from(read).is_ok_and(|read| read > LONGEST) {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(text)
    };
    let path = path.to_owned();
    let text = match read(&path) {
        Ok(text) => text,
        Err(cause) => return Err(FileError::Read { path, cause }),
    };
    match settings(&run, &text) {
        Ok(settings) => Ok(settings.into_iter().fold(run, |run, setting| {
            run.mut_arg(setting.flag, |arg| arg.default_values(setting.values))
        })),
        Err(faults) => Err(FileError::Wrong { path, faults }),
    }
}

/// What a file says of one flag.
#[derive(Debug, Eq, PartialEq)]
struct Setting {
    /// clap's name of it.
    flag: String,
    /// As on a command line.
    values: Vec<String>,
}

fn settings(run: &Command, text: &str) -> Result<Vec<Setting>, Vec<Fault>> {
    let fault = |span: Range<usize>, what: String| {
        let before = text.get(..span.start).unwrap_or(text);
        let line = before.rsplit('\n').next().unwrap_or_default();
        Fault {
            line: before.matches('\n').count() + 1,
            column: line.chars().count() + 1,
            what,
        }
    };
    let table = DeTable::parse(text).map_err(|error| {
        let what = error
            .message()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        vec![fault(error.span().unwrap_or_default(), what)]
    })?;
    let mut entries: Vec<_> = table.get_ref().iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);

    // What is judged here is the file alone.
    let run = run
        .clone()
        .no_binary_name(true)
        .mut_args(|arg| arg.env(None::<&str>));
    let (mut settings, mut faults) = (Vec::new(), Vec::new());
    for (key, value) in entries {
        let name: &str = key.get_ref();
        let Some(arg) = run
            .get_arguments()
            .find(|arg| name != FLAG && arg.get_long() == Some(name))
        else {
            faults.push(fault(key.span(), unknown(&run, name)));
            continue;
        };
        let repeated = matches!(arg.get_action(), ArgAction::Append);
        let items = match value.get_ref() {
            DeValue::Array(items) if repeated => items
                .iter()
                .map(|item| (item.span(), item.get_ref()))
                .collect(),
            item => vec![(value.span(), item)],
        };
        let mut values = Vec::new();
        for (span, item) in items {
            match judged(&run, arg, item) {
                Ok(value) => values.push(value),
                Err(what) => faults.push(fault(span, what)),
            }
        }
        let flag = arg.get_id().to_string();
        settings.push(Setting { flag, values });
    }
    if faults.is_empty() {
        Ok(settings)
    } else {
        Err(faults)
    }
}

/// The value as the flag takes it, or what is wrong with it.
fn judged(run: &Command, arg: &Arg, value: &DeValue<'_>) -> Result<String, String> {
    let name = arg.get_long().unwrap_or_default();
    let wrong =
        |wanted: &dyn fmt::Display| Err(format!("'{name}' takes {wanted}, not {}", kind(value)));
    match (arg.get_action(), value) {
        (ArgAction::SetTrue, DeValue::Boolean(value)) => return Ok(value.to_string()),
        (ArgAction::SetTrue, _) => return wrong(&"true or false"),
        (ArgAction::Count, DeValue::Integer(_)) => {
            return match text(value).filter(|n| n.parse::<u8>().is_ok()) {
                Some(n) => Ok(n),
                None => Err(format!("'{name}' takes a number from 0 to 255")),
            };
        }
        (ArgAction::Count, _) => return wrong(&"a number from 0 to 255"),
        _ => {}
    }
    let Some(text) = text(value) else {
        let names = arg.get_value_names().unwrap_or_default();
        return wrong(&names.first().map_or("a string", |name| name.as_str()));
    };
    match run
        .clone()
        .try_get_matches_from([format!("--{name}={text}")])
    {
        Ok(_) => Ok(text),
        Err(error) => match error.kind() {
            // With which others it goes is seen once all are together.
            ErrorKind::MissingRequiredArgument | ErrorKind::ArgumentConflict => Ok(text),
            _ => Err(usage::sentence(&error)),
        },
    }
}

/// Strings as they are, numbers in the decimal system.
fn text(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(
            i128::from_str_radix(number.as_str(), number.radix())
                .map_or_else(|_| number.to_string(), |number| number.to_string()),
        ),
        _ => None,
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// What is said of a key that is no flag of `run`.
fn unknown(run: &Command, key: &str) -> String {
    let mut text = format!("unknown key '{}'", key.escape_debug());
    if key == FLAG {
        text.push_str(" (a file cannot name another)");
        return text;
    }
    let near = run.clone().try_get_matches_from([format!("--{key}=")]);
    if let Err(error) = near
        && let Some(ContextValue::String(near)) = error.get(ContextKind::SuggestedArg)
        && let Some(near) = near.strip_prefix("--").filter(|near| *near != FLAG)
    {
        text.push_str(&format!(" (did you mean '{near}'?)"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> Command {
        let command = super::super::command();
        command.find_subcommand("run").unwrap().clone()
    }

    fn faults(text: &str) -> Vec<String> {
        let faults = settings(&run(), text).unwrap_err();
        faults
            .iter()
            .map(|Fault { line, column, what }| format!("{line}:{column}: {what}"))
            .collect()
    }

    #[test]
    fn values_are_those_of_a_command_line() {
        let settings = settings(
            &run(),
            "# all kinds\n\
             port = [80, '8000-8999']\n\
             interface = 'eth0,veth*'\n\
             ring-buffer = 1_048_576\n\
             max-head = 0x10000\n\
             idle-timeout = \"1m30s\"\n\
             exclude-interface = []\n\
             verbose = 2\n",
        )
        .unwrap();
        let values: Vec<_> = settings
            .iter()
            .map(|setting| format!("{} {}", setting.flag, setting.values.join(" ")))
            .collect();
        assert_eq!(
            values,
            [
                "port 80 8000-8999",
                "interface eth0,veth*",
                "ring_buffer 1048576",
                "max_head 65536",
                "idle_timeout 1m30s",
                "exclude_interface ",
                "verbose 2",
            ]
        );
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        for (text, expected) in [
            (
                "\nlisen = ':1'",
                "2:1: unknown key 'lisen' (did you mean 'listen'?)",
            ),
            (
                "ring_buffer = 1",
                "1:1: unknown key 'ring_buffer' (did you mean 'ring-buffer'?)",
            ),
            (
                "config = 'x'",
                "1:1: unknown key 'config' (a file cannot name another)",
            ),
            ("zzz = 1", "1:1: unknown key 'zzz'"),
            ("'a\\nb' = 1", "1:1: unknown key 'a\\\\nb'"),
            (
                "listen = true",
                "1:10: 'listen' takes ADDR:PORT, not a boolean",
            ),
            (
                "listen = ['[::]:1']",
                "1:10: 'listen' takes ADDR:PORT, not a list",
            ),
            (
                "port = [80, 1.5]",
                "1:13: 'port' takes PORT|FROM-TO, not a number with a fraction",
            ),
            (
                "verbose = true",
                "1:11: 'verbose' takes a number from 0 to 255, not a boolean",
            ),
            (
                "verbose = 300",
                "1:11: 'verbose' takes a number from 0 to 255",
            ),
            ("[capture]\nport = 1", "1:2: unknown key 'capture'"),
            (
                "[port]\na = 1",
                "1:1: 'port' takes PORT|FROM-TO, not a table",
            ),
            (
                "# ä\n\"snap-length\" = '1K' \nring-buffer = 1",
                "3:15: invalid value '1' for '--ring-buffer <SIZE>': 1 bytes: must be from 65536 to \
                 1073741824 bytes",
            ),
            (
                "kernel-log = 'loud'",
                "1:14: invalid value 'loud' for '--kernel-log <LEVEL>' [possible values: off, error, \
                 warn, info, debug, trace]",
            ),
            (
                "idle-timeout = 30",
                "1:16: invalid value '30' for '--idle-timeout <DURATION>': not a duration: give a \
                 number with ms, s, m or h, as in 500ms or 1m30s",
            ),
        ] {
            assert_eq!(faults(text), [expected], "{text}");
        }
    }

    #[test]
    fn everything_that_is_wrong_is_named() {
        assert_eq!(
            faults("port = [0, 80, 'x']\nlisten = 1.5\nabc = 1").len(),
            4
        );
    }

    #[test]
    fn what_is_no_toml_is_named_with_its_place() {
        for (text, place) in [
            ("port = ", "1:8: "),
            ("port = 80\nport = 81", "2:1: "),
            ("port = 80\n= 1", "2:1: "),
            ("a = 'x", "1:7: "),
        ] {
            let faults = faults(text);
            assert_eq!(faults.len(), 1, "{text}");
            let fault = &faults[0];
            assert!(
                fault.starts_with(place) && !fault.contains('\n'),
                "{text}: {fault}"
            );
        }
    }
}
