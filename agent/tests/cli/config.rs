//! The configuration file: what comes before what, what is said of a wrong one, and the example.

use std::{collections::BTreeSet, fs, net::TcpListener, path::Path};

use clap::{Arg, ArgAction, Command};
use serde_json::Value;
use wstap::{
    cli::{self, Cli},
    config::RunConfig,
};

use super::{failure, misuse, run, stdout, wstap};

/// Every key with its default, and nothing else.
const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/wstap.toml");
const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
/// Behind a key that has no default.
const UNSET: &str = "# not set";

/// The flags of `run` that can be keys.
fn keys() -> Vec<Arg> {
    let command = cli::command();
    let run = command
        .find_subcommand("run")
        .expect("there is such a command");
    let args = run.get_arguments();
    args.filter(|arg| arg.get_long().is_some_and(|long| long != "config"))
        .cloned()
        .collect()
}

fn long(arg: &Arg) -> &str {
    arg.get_long().expect("a long name")
}

/// As TOML, the way that a person would write it.
fn toml(value: &str) -> String {
    if value.parse::<u64>().is_ok() || ["true", "false"].contains(&value) {
        value.to_owned()
    } else {
        format!("\"{value}\"")
    }
}

fn default(arg: &Arg) -> String {
    if let Some(value) = arg.get_default_values().first() {
        return toml(value.to_str().expect("UTF-8"));
    }
    match arg.get_action() {
        ArgAction::Append => "[]".to_owned(),
        ArgAction::Count => "0".to_owned(),
        ArgAction::SetTrue => "false".to_owned(),
        _ => {
            let possible = arg.get_possible_values();
            let value = match possible.first() {
                Some(value) => value.get_name().to_owned(),
                None => format!("{}", arg.get_value_names().expect("names")[0]),
            };
            format!("\"{value}\"  {UNSET}")
        }
    }
}

/// What [`EXAMPLE`] should be.
fn example() -> String {
    let mut text = "\
# The configuration of `wstap run --config FILE`: every key, with its default. Keys are the long
# names of the flags; a flag overrides its variable, and that what is said here. Sizes and durations
# are written as flags take them, lists as such or as one string with commas. `wstap check --config
# FILE` tells whether a file is right.
"
    .to_owned();
    let mut heading = None;
    for arg in keys() {
        let of = arg.get_help_heading().unwrap_or("Log");
        if heading.as_deref() != Some(of) {
            text.push_str(&format!("\n# ---- {of} ----\n"));
            heading = Some(of.to_owned());
        }
        text.push('\n');
        let help = arg.get_help().expect("help").to_string();
        let mut line = "#".to_owned();
        for word in help.split_whitespace() {
            if line.chars().count() + 1 + word.chars().count() > 100 {
                text.push_str(&line);
                text.push('\n');
                "#".clone_into(&mut line);
            }
            line.push(' ');
            line.push_str(word);
        }
        text.push_str(&format!("{line}\n#{} = {}\n", long(&arg), default(&arg)));
    }
    text
}

fn config(args: &[&str]) -> RunConfig {
    let args = ["wstap", "run"].iter().chain(args);
    let cli = Cli::from_args(args.map(Into::into)).expect("right usage");
    match cli.command {
        cli::Command::Run(args) => (*args).try_into().expect("they go together"),
        other => panic!("{other:?}"),
    }
}

fn written(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), text).expect("a file");
    file
}

fn path(file: &tempfile::NamedTempFile) -> &str {
    file.path().to_str().expect("UTF-8")
}

#[test]
fn the_example_has_every_key_and_its_default() {
    let expected = example();
    if std::env::var_os("WSTAP_BLESS").is_some_and(|value| value == "1") {
        fs::write(EXAMPLE, &expected).expect("the example can be written");
    }
    let kept = fs::read_to_string(EXAMPLE).unwrap_or_default();
    assert!(
        kept == expected,
        "deploy/wstap.toml is not what the flags say; WSTAP_BLESS=1 writes it anew:\n{expected}"
    );

    // With every key in force it says the same as without.
    let is_key = |line: &str| {
        line.starts_with('#')
            && line.contains(" = ")
            && !line.starts_with("# ")
            && !line.ends_with(UNSET)
    };
    let all: String = kept
        .lines()
        .map(|line| {
            line.strip_prefix('#')
                .filter(|_| is_key(line))
                .unwrap_or(line)
        })
        .map(|line| format!("{line}\n"))
        .collect();
    assert!(all.contains("\nlisten = "), "{all}");
    let file = written(&all);
    assert_eq!(
        format!("{:?}", config(&["--config", path(&file)])),
        format!("{:?}", config(&[]))
    );
    let file = written(&kept);
    assert_eq!(
        format!("{:?}", config(&["--config", path(&file)])),
        format!("{:?}", config(&[]))
    );
}

#[test]
fn every_flag_of_run_can_be_given_in_the_file() {
    let known: BTreeSet<_> = keys().iter().map(|arg| long(arg).to_owned()).collect();
    // Another value than the default, where there is one.
    let values = |arg: &Arg| -> Vec<String> {
        let possible: Vec<_> = arg
            .get_possible_values()
            .iter()
            .map(|v| v.get_name().to_owned())
            .collect();
        let name = arg
            .get_value_names()
            .and_then(|names| names.first())
            .map(ToString::to_string);
        match (arg.get_action(), name.as_deref()) {
            (ArgAction::SetTrue, _) => vec!["true".into()],
            (ArgAction::Count, _) => vec!["3".into()],
            _ if !possible.is_empty() => possible
                .iter()
                .map(|value| format!("\"{value}\""))
                .collect(),
            (ArgAction::Append, Some("GLOB")) => {
                vec!["[\"eth0\", \"lo\"]".into(), "\"eth0,lo\"".into()]
            }
            (ArgAction::Append, Some("PORT|FROM-TO")) => {
                vec!["[80, \"90-91\"]".into(), "\"80,90-91\"".into()]
            }
            (_, Some("SIZE")) => vec!["\"128K\"".into(), "131072".into()],
            (_, Some("N")) => vec!["17".into()],
            (_, Some("DURATION")) => vec!["\"7s\"".into()],
            (_, Some("ADDR:PORT")) => vec!["\"[::1]:17\"".into()],
            _ => vec!["\"x\"".into()],
        }
    };
    for arg in keys() {
        for value in values(&arg) {
            let file = written(&format!("{} = {value}\n", long(&arg)));
            let args = ["wstap", "run", "--config", path(&file)];
            let cli = Cli::from_args(args.map(Into::into));
            if let Err(error) = cli {
                panic!("{} = {value}: {error}", long(&arg));
            }
        }
    }
    for key in ["interface", "listen", "attach", "verbose", "idle-timeout"] {
        assert!(known.contains(key), "{key}");
    }
}

#[test]
fn a_file_says_what_a_command_line_says() {
    let file = written(
        "interface = ['eth0', 'veth*']\nport = [80, '8000-8999']\nring-buffer = '1M'\n\
         idle-timeout = '5m'\nlisten = '[::1]:17'\ncopy = 'whole'\npath-label = 'none'\n",
    );
    let flags = "-i eth0,veth* -p 80,8000-8999 --ring-buffer 1M --idle-timeout 5m --listen [::1]:17 \
                 --copy whole --path-label none";
    let flags: Vec<_> = flags.split_whitespace().collect();
    assert_eq!(
        format!("{:?}", config(&["--config", path(&file)])),
        format!("{:?}", config(&flags))
    );
    // A flag takes the place of what the file says, lists included.
    let both = config(&["--config", path(&file), "-p", "443", "--copy", "headers"]);
    assert_eq!(both.capture.ports, [443..=443]);
    assert_eq!(both.capture.copy, wstap::config::CopyMode::Headers);
    assert_eq!(both.capture.ring_buffer, 1 << 20);
}

/// What the command does, given these variables.
fn with(variables: &[(&str, &str)], args: &[&str]) -> std::process::Output {
    let mut command = wstap();
    command.args(args).envs(variables.iter().copied());
    command.output().expect("the binary runs")
}

/// Where `run` would listen, told by its failure to.
fn listens(variables: &[(&str, &str)], args: &[&str]) -> String {
    let output = with(variables, &[&["run"], args].concat());
    let line = failure(&output);
    let at = line.strip_prefix("wstap: listening on ").expect(line);
    at.split(": ").next().expect("an address").to_owned()
}

#[test]
fn a_flag_comes_before_a_variable_before_the_file_before_the_default() {
    // Addresses that are taken: listening there fails before anything starts.
    let taken = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    let [of_file, of_variable, of_flag] = taken
        .each_ref()
        .map(|listener| listener.local_addr().expect("an address").to_string());
    let file = written(&format!("listen = '{of_file}'\n"));
    let config = ("WSTAP_CONFIG", path(&file));
    let variable = ("WSTAP_LISTEN", of_variable.as_str());
    let empty = ("WSTAP_LISTEN", "");
    assert_eq!(listens(&[], &["--config", path(&file)]), of_file);
    assert_eq!(listens(&[config], &[]), of_file);
    assert_eq!(listens(&[config, empty], &[]), of_file);
    assert_eq!(listens(&[config, variable], &[]), of_variable);
    assert_eq!(
        listens(&[config, variable], &["--listen", &of_flag]),
        of_flag
    );
    // An empty variable names no file, and a flag another one than the variable.
    let nowhere = ("WSTAP_CONFIG", "/nonexistent");
    assert_eq!(listens(&[nowhere], &["--config", path(&file)]), of_file);
    assert_eq!(listens(&[("WSTAP_CONFIG", ""), variable], &[]), of_variable);
}

#[test]
fn a_wrong_file_ends_with_2_and_one_line_that_names_the_place() {
    let file = written("lisen = '127.0.0.1:1'\n\nring-buffer = '1'\n");
    let name = path(&file);
    let line = misuse(&run(&["run", "--config", name])).to_owned();
    assert_eq!(
        line,
        format!(
            "wstap: {name}:1:1: unknown key 'lisen' (did you mean 'listen'?); {name}:3:15: invalid \
             value '1' for '--ring-buffer <SIZE>': 1 bytes: must be from 65536 to 1073741824 bytes; \
             see `wstap run --help`"
        )
    );
    // What does not go together is found with what comes from elsewhere.
    let file = written("reassembly-total = '1M'\n");
    let output = with(
        &[("WSTAP_REASSEMBLY_BYTES", "2M")],
        &["run", "--config", path(&file)],
    );
    assert!(misuse(&output).contains("--reassembly-total"));

    for (path, why) in [
        ("/nonexistent/wstap.toml", "No such file or directory"),
        ("/", "directory"),
        ("/dev/zero", "too large"),
        ("/proc/self/exe", "UTF-8"),
    ] {
        let output = run(&["run", "--config", path]);
        let line = misuse(&output);
        let expected = format!("wstap: reading the configuration {path}: ");
        assert!(line.starts_with(&expected) && line.contains(why), "{line}");
        assert!(line.contains("leave --config"), "{line}");
    }
}

#[test]
fn check_tells_whether_run_would_take_the_file() {
    let configuration = |variables: &[(&str, &str)], args: &[&str]| -> Value {
        let output = with(variables, &[&["check", "-o", "json"], args].concat());
        let lines = stdout(&output).lines();
        let mut lines = lines.map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        lines
            .find(|line| line["requirement"] == "configuration")
            .expect("a line on it")
    };
    let right = written("port = 80\n");
    let wrong = written("port = 0\n");
    let said = configuration(&[], &["--config", path(&right)]);
    assert_eq!(said["state"], "yes");
    assert_eq!(said["found"], format!("{} is valid", path(&right)));
    for said in [
        configuration(&[], &["--config", path(&wrong)]),
        configuration(&[("WSTAP_CONFIG", path(&wrong))], &[]),
        configuration(&[("WSTAP_PORT", "0")], &["--config", path(&right)]),
    ] {
        assert_eq!(said["state"], "no");
        assert!(said["found"].to_string().contains("not a port"), "{said}");
    }
}

#[test]
fn every_key_is_documented() {
    let text = fs::read_to_string(Path::new(DOCUMENT)).expect("docs/configuration.md");
    for arg in keys() {
        let row = format!("| `{}` |", long(&arg));
        assert!(
            text.contains(&row),
            "docs/configuration.md has no row {row}"
        );
    }
    let rows = text.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(
        rows,
        keys().len(),
        "rows of docs/configuration.md that are no keys"
    );
}

/// The definition that all of this comes from.
#[test]
fn a_file_is_only_taken_by_run_and_check() {
    let takes = |command: &Command| {
        command
            .get_arguments()
            .any(|arg| arg.get_long() == Some("config"))
    };
    let command = cli::command();
    let names: BTreeSet<_> = command
        .get_subcommands()
        .filter(|command| takes(command))
        .map(Command::get_name)
        .collect();
    assert_eq!(names, BTreeSet::from(["run", "check"]));
}
