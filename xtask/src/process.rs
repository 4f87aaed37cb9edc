//! Runs other programs: with the terminal's input and output or captured, with a time limit where
//! something outside this machine answers, and with errors that show the command.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context, Result, bail};

use crate::workspace;

/// What coreutils' `timeout` exits with when the time is up.
const TIMED_OUT: i32 = 124;

/// A command that is ended when it takes longer than `limit`.
///
/// `timeout` stays in the foreground, so that Ctrl-C reaches both.
pub fn limited(limit: Duration, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("timeout");
    command
        .args(["--foreground", "--kill-after=10"])
        .arg(limit.as_secs().max(1).to_string())
        .arg(program);
    command
}

/// Cargo, of the toolchain that runs this program, at the top of the repository.
pub fn cargo() -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(workspace::root());
    command
}

/// The command as one would type it.
pub fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(OsStr::to_string_lossy).collect();
    match words.as_slice() {
        // The wrapper is no part of what is being done.
        [timeout, _, _, _, rest @ ..] if timeout == "timeout" => rest.join(" "),
        all => all.join(" "),
    }
}

/// Runs a command with the terminal's output. Any exit status but 0 is an error.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot run `{}`", shown(command)))?;
    judge(command, status, "")
}

/// Runs a command and returns what it printed on standard output. Any exit status but 0 is an
/// error that carries what it printed on standard error.
pub fn capture(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run `{}`", shown(command)))?;
    judge(
        command,
        output.status,
        &String::from_utf8_lossy(&output.stderr),
    )?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn judge(command: &Command, status: ExitStatus, stderr: &str) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    let shown = shown(command);
    if status.code() == Some(TIMED_OUT) && command.get_program() == "timeout" {
        bail!("`{shown}` did not finish in time and was stopped");
    }
    match stderr.trim() {
        "" => bail!("`{shown}` failed ({status})"),
        said => bail!("`{shown}` failed ({status}): {said}"),
    }
}

/// Where a program lies, if it is on `PATH`.
pub fn find(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|dir| dir.join(program))
        .find(|path| fs::metadata(path).is_ok_and(|m| m.is_file() && m.mode() & 0o111 != 0))
}

/// Whether this process may do everything.
pub fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_too_long_is_stopped_and_named() {
        let mut command = limited(Duration::from_secs(1), "sleep");
        let error = capture(command.arg("30")).unwrap_err().to_string();
        assert_eq!(error, "`sleep 30` did not finish in time and was stopped");
    }

    #[test]
    fn a_failure_carries_what_was_said() {
        let mut command = Command::new("sh");
        let error = capture(command.args(["-c", "echo no >&2; exit 3"])).unwrap_err();
        let error = error.to_string();
        assert!(error.ends_with("failed (exit status: 3): no"), "{error}");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = run(&mut Command::new("wstap-no-such-program")).unwrap_err();
        assert!(error.to_string().contains("wstap-no-such-program"));
        assert_eq!(find("wstap-no-such-program"), None);
        assert!(find("sh").is_some());
    }
}
