//! A peer that is a program.

use std::{io::Write, process::Command, time::Duration};

use tempfile::NamedTempFile;

use super::{Job, LIFETIME, Reports, Running};
use crate::support::{agent::Process, eventually};

/// Starts `command` with the job as its last word, and waits until it is ready.
#[track_caller]
pub fn start(mut command: Command, job: &Job) -> Running {
    let mut file = NamedTempFile::new().expect("a temporary file");
    serde_json::to_writer(&mut file, job).expect("a job in a file");
    file.flush().expect("a job in a file");
    command.arg(file.path());
    let mut process = Process::spawn(command);
    eventually("the peer is ready", Duration::from_secs(15), || {
        process.must_live();
        let ready = process.stdout().starts_with("ready\n");
        ready.then_some(()).ok_or_else(|| process.stderr())
    });
    Running::Process(process, file)
}

/// What it prints at its end.
#[track_caller]
pub fn reports(process: Process) -> Reports {
    let (status, stdout) = process.wait(Duration::from_secs(LIFETIME + 5));
    assert!(status.success(), "a peer ended with {status}");
    let json = stdout.lines().nth(1).unwrap_or_default();
    serde_json::from_str(json).unwrap_or_else(|error| panic!("{error} in the reports: {stdout}"))
}
