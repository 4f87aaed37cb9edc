//! The real binary: what a person or a script gets from it, with its exit status.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

#[path = "../support/conversation.rs"]
mod conversation;
#[path = "../support/pcap.rs"]
mod pcap;

mod config;
mod live;
mod read;
mod usage;

const WSTAP: &str = env!("CARGO_BIN_EXE_wstap");

/// The command, without any variable that it might listen to.
fn wstap() -> Command {
    let mut command = Command::new(WSTAP);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("WSTAP_") {
            command.env_remove(name);
        }
    }
    command.env_remove("NO_COLOR").stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    wstap().args(args).output().unwrap()
}

fn status(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stdout(output: &Output) -> &str {
    str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    str::from_utf8(&output.stderr).unwrap()
}

/// The one line on standard error of a command that failed.
#[track_caller]
fn failure(output: &Output) -> &str {
    error(output, 1)
}

/// The one line on standard error of a command that was used wrongly.
#[track_caller]
fn misuse(output: &Output) -> &str {
    error(output, 2)
}

#[track_caller]
fn error(output: &Output, expected: i32) -> &str {
    assert_eq!(status(output), expected, "{output:?}");
    let line = stderr(output).strip_suffix('\n').unwrap();
    assert!(!line.contains('\n'), "more than one line: {line}");
    assert!(line.starts_with("wstap: "), "{line}");
    line
}

fn events(output: &Output) -> Vec<Value> {
    assert_eq!(status(output), 0, "{output:?}");
    assert_eq!(stderr(output), "");
    stdout(output)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The names of the events, and of frames their opcode.
fn kinds(events: &[Value]) -> Vec<&str> {
    let kind = |event: &Value| {
        if event["event"] == "frame" {
            "opcode"
        } else {
            "event"
        }
    };
    events
        .iter()
        .filter_map(|event| event[kind(event)].as_str())
        .collect()
}
