//! `wstap trace`: the kernel through the observer, to a printing sink.

use std::{
    io::{self, BufWriter, Stdout, Write},
    process::ExitCode,
    time::Duration,
};

use super::{
    PRINTING,
    live::{self, Interrupts, Source, sampled},
};
use crate::{
    config::TraceConfig,
    kubernetes::Kubernetes,
    sink::{InterfaceName, metrics::AgentStatus, peer::Naming, printer::Printer, unit::Counted},
    source::kernel::{Wake, privileges},
};

/// Prints until interrupted, or as much as the selection wants.
///
/// # Errors
///
/// Nothing can be attached, or standard output not be written to.
pub fn execute(config: TraceConfig) -> anyhow::Result<ExitCode> {
    privileges::confine();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(trace(config))
}

async fn trace(config: TraceConfig) -> anyhow::Result<ExitCode> {
    // Before attaching, so that no signal leaves anything behind.
    let mut interrupts = Interrupts::listen()?;
    let kubernetes = Kubernetes::start(&config.kubernetes).await?;
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
        Box::new(move |index| {
            let on = names.name(index)?;
            Some(InterfaceName {
                name: on.name.to_string(),
                netns: on.netns.map(|netns| netns.to_string()),
            })
        }),
        Output(BufWriter::with_capacity(64 << 10, io::stdout())),
    );
    let printer = match &kubernetes {
        Some(kubernetes) => printer.with_names(Naming::new(kubernetes.names())),
        None => printer,
    };
    let mut session = source.start(&config.observer, printer, |_| ())?;
    tokio::select! {
        () = interrupts.next() => {}
        () = session.ended() => {}
        () = sleep(duration) => {}
    }
    let (printer, status) = live::stop(session, &mut interrupts).await?;
    eprintln!("{}", summary(printer.shown(), &status));
    Ok(ExitCode::SUCCESS)
}

/// Standard output, whose errors say that they are its own: they come up with those of the reader.
struct Output(BufWriter<Stdout>);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(|error| printing(&error))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(|error| printing(&error))
    }
}

fn printing(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{PRINTING}: {error}"))
}

async fn sleep(duration: Option<Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => std::future::pending().await,
    }
}

/// The last line: what was shown, and what was not.
fn summary(shown: u64, status: &AgentStatus) -> String {
    format!("{} shown, {}", Counted(shown, "event"), sampled(status))
}

#[cfg(test)]
mod tests {
    use wstap_common::counter::Counter;

    use super::*;
    use crate::sink::metrics::{KernelCounts, ReaderCounts};

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
            "3 events shown, 12 records sampled, 0 lost"
        );
        counts.0[Counter::LostRingFull as usize] = 4;
        assert_eq!(
            summary(3, &status(counts)),
            "3 events shown, 12 records sampled, 4 lost (4 ring_full)"
        );
        let status = AgentStatus {
            reader: ReaderCounts {
                undecodable: 2,
                ..ReaderCounts::default()
            },
            ..status(counts)
        };
        assert_eq!(
            summary(1, &status),
            "1 event shown, 12 records sampled, 6 lost (4 ring_full, 2 undecodable)"
        );
    }
}
