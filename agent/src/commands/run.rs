//! `wstap run`.

use std::process::ExitCode;

use crate::config::RunConfig;

/// Runs the command.
///
/// # Errors
///
/// It cannot be done.
pub fn execute(_config: RunConfig) -> anyhow::Result<ExitCode> {
    anyhow::bail!("wstap run: not built in")
}
