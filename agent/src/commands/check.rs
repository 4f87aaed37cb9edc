//! `wstap check`.

use std::process::ExitCode;

use crate::config::CheckConfig;

/// Runs the command.
///
/// # Errors
///
/// It cannot be done.
pub fn execute(_config: CheckConfig) -> anyhow::Result<ExitCode> {
    anyhow::bail!("wstap check: not built in")
}
