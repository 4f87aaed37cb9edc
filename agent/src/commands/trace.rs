//! `wstap trace`: the kernel through the observer, to a printing sink.

use std::{
    io::{self, BufWriter},
    process::ExitCode,
    time::Duration,
};

use wstap_common::counter::{Counter, Group};

use super::live::{Interrupts, Source};
use crate::{
    config::TraceConfig,
    sink::{metrics::AgentStatus, printer::Printer},
    source::kernel::Wake,
};

/// Prints until interrupted, or as much as the selection wants.
///
/// # Errors
///
/// Nothing can be attached, or standard output not be written to.
pub fn execute(config: TraceConfig) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(trace(config))
}

async fn trace(config: TraceConfig) -> anyhow::Result<ExitCode> {
    // Before attaching, so that no signal leaves anything behind.
    let mut interrupts = Interrupts::listen()?;
    let source = Source::open(&config.capture, Wake::Each)?;
    let names = source.attacher().status().names;
    log::info!(
        "attached with {} to {}",
        source.attacher().method().as_str(),
        source.attacher().describe()
    );
    let duration = config.selection.duration;
    let printer = Printer::new(
        &config.output,
        config.selection,
        Box::new(move |index| Some(names.name(index)?.to_string())),
        BufWriter::with_capacity(64 << 10, io::stdout()),
    );
    let mut session = source.start(&config.observer, printer, |_| ())?;
    tokio::select! {
        () = interrupts.next() => {}
        () = session.ended() => {}
        () = sleep(duration) => {}
    }
    let (printer, status) = session.stop()?;
    eprintln!("{}", summary(printer.shown(), &status));
    Ok(ExitCode::SUCCESS)
}

async fn sleep(duration: Option<Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => std::future::pending().await,
    }
}

/// The last line: what was shown, and what was not.
fn summary(shown: u64, status: &AgentStatus) -> String {
    let kernel = status.kernel.unwrap_or_default();
    let lost: Vec<_> = Counter::ALL
        .iter()
        .filter(|counter| counter.group() == Group::Lost && kernel.of(**counter) > 0)
        .map(|counter| format!(" ({} {})", kernel.of(*counter), counter.label()))
        .collect();
    let total = Counter::ALL
        .iter()
        .filter(|counter| counter.group() == Group::Lost)
        .fold(0u64, |sum, counter| sum.saturating_add(kernel.of(*counter)));
    format!(
        "{shown} events shown, {} segments sampled, {total} lost{}",
        kernel.of(Counter::Samples),
        lost.concat()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::metrics::KernelCounts;

    #[test]
    fn the_last_line_says_what_was_lost() {
        let mut counts = KernelCounts::default();
        let status = |counts| AgentStatus {
            kernel: Some(counts),
            ..AgentStatus::default()
        };
        counts.0[Counter::Samples as usize] = 12;
        assert_eq!(
            summary(3, &status(counts)),
            "3 events shown, 12 segments sampled, 0 lost"
        );
        counts.0[Counter::LostRingFull as usize] = 4;
        assert_eq!(
            summary(3, &status(counts)),
            "3 events shown, 12 segments sampled, 4 lost (4 ring_full)"
        );
    }
}
