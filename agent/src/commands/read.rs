//! `wstap read`.

use std::process::ExitCode;

use crate::config::ReadConfig;

/// Runs the command.
///
/// # Errors
///
/// It cannot be done.
pub fn execute(_config: ReadConfig) -> anyhow::Result<ExitCode> {
    anyhow::bail!("wstap read: not built in")
}
