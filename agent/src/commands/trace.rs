//! `wstap trace`.

use std::process::ExitCode;

use crate::config::TraceConfig;

/// Runs the command.
///
/// # Errors
///
/// It cannot be done.
pub fn execute(_config: TraceConfig) -> anyhow::Result<ExitCode> {
    anyhow::bail!("wstap trace: not built in")
}
