//! `cargo xtask run`: builds wstap and becomes it.

use std::convert::Infallible;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{build, process, workspace};

/// Commands that load programs into the kernel.
const NEED_ROOT: [&str; 4] = ["run", "trace", "top", "check"];

/// Builds, unless that is `built`, and runs wstap with `args`, or `run` where there are none. The
/// exit status is wstap's own, because this process becomes it.
pub fn command(args: &[String], built: bool) -> Result<()> {
    if !built {
        build::release_binary()?;
    }
    let binary = workspace::release_binary();
    let run = [String::from("run")];
    let args = if args.is_empty() { &run } else { args };
    let needs_root = args.iter().any(|arg| NEED_ROOT.contains(&arg.as_str()));
    let mut command = Command::new(&binary);
    command.args(args);
    match become_command(command, needs_root)? {}
}

/// Turns this process into `command`, under sudo where it needs root and this process is not.
pub fn become_command(command: Command, needs_root: bool) -> Result<Infallible> {
    let mut command = if needs_root && !process::is_root() {
        if process::find("sudo").is_none() {
            bail!(
                "`{}` needs root, and there is no sudo: run it as root",
                process::shown(&command)
            );
        }
        let mut sudo = Command::new("sudo");
        sudo.arg("-E")
            .arg(command.get_program())
            .args(command.get_args());
        eprintln!(
            "wstap needs root to load its program: {}",
            process::shown(&sudo)
        );
        sudo
    } else {
        command
    };
    let error = command.exec();
    Err(error).with_context(|| format!("cannot run `{}`", process::shown(&command)))
}
