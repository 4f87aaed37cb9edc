//! `wstap read`: a capture file through the observer, to a printing sink.

use std::{
    cell::RefCell,
    fs::Metadata,
    io::{self, BufWriter, Read, Stdout, Write},
    ops::ControlFlow,
    os::fd::AsFd,
    process::ExitCode,
    rc::Rc,
    time::Duration,
};

use anyhow::Context;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{PRINTING, metrics_config, progress::Progress};
use crate::{
    config::{Input, OutputConfig, ReadConfig, Report, Selection, SeriesConfig},
    proto::{
        event::Event,
        observer::{self, Observer, Stats},
        segment::Segment,
        time::Timestamp,
    },
    sink::{
        Sink,
        metrics::{AgentStatus, Metrics},
        no_interfaces,
        printer::Printer,
        summary::Summary,
    },
    source::capture::CaptureFile,
};

/// Reads the capture to its end, its damage, or as far as the selection wants.
///
/// # Errors
///
/// The capture cannot be read, or standard output not written to. What precedes the damage of a
/// damaged file has been printed.
pub fn execute(config: ReadConfig) -> anyhow::Result<ExitCode> {
    let doing = match &config.input {
        Input::Stdin => String::from("reading the capture on standard input"),
        Input::File(path) => format!("reading capture {}", path.display()),
    };
    let (progress, out, reader) = match &config.input {
        Input::Stdin => {
            let progress = Progress::new(None);
            let out = Output::new(progress.clone());
            let reader = progress.watch(LiveInput(out.clone()));
            (progress, out, reader)
        }
        Input::File(path) => {
            // Its errors name the file themselves.
            let file = CaptureFile::open_file(path)?;
            let size = file.metadata().ok().filter(Metadata::is_file);
            let progress = Progress::new(size.map(|file| file.len()));
            let reader = progress.watch(file);
            (progress.clone(), Output::new(progress), reader)
        }
    };
    let mut capture = CaptureFile::from_reader(reader).context(doing.clone())?;
    let mut sink = sink(
        config.report,
        &config.observer,
        config.selection.clone(),
        out,
    );
    let mut reading = Reading {
        observer: Observer::new(config.observer),
        sink: &mut *sink,
        duration: config.selection.duration,
        span: None,
        failed: None,
    };
    let read = capture.read(&mut |segment| reading.segment(segment));
    progress.end();
    reading.finish()?;
    read.context(doing)?;
    Ok(ExitCode::SUCCESS)
}

fn sink(
    report: Report,
    observer: &observer::Config,
    selection: Selection,
    out: Output,
) -> Box<dyn Sink> {
    match report {
        Report::Events(config) => events(&config, selection, out),
        Report::Summary => Box::new(Summary::new(out, selection)),
        Report::Metrics(series) => Box::new(Exposition::new(&series, observer, selection, out)),
    }
}

fn events(config: &OutputConfig, selection: Selection, out: Output) -> Box<dyn Sink> {
    Box::new(Printer::new(config, selection, no_interfaces(), out))
}

/// A capture on its way through the observer.
struct Reading<'a> {
    observer: Observer,
    sink: &'a mut dyn Sink,
    duration: Option<Duration>,
    /// Times of the first segment and of the latest.
    span: Option<(Timestamp, Timestamp)>,
    failed: Option<io::Error>,
}

impl Reading<'_> {
    fn segment(&mut self, segment: &Segment<'_>) -> ControlFlow<()> {
        let (first, last) = self.span.unwrap_or((segment.ts, segment.ts));
        if let Some(duration) = self.duration
            && segment.ts.saturating_since(first) > duration
        {
            return ControlFlow::Break(());
        }
        self.span = Some((first, last.max(segment.ts)));
        self.observer.handle_segment(segment);
        self.pass_on()
    }

    /// Hands the observer's events to the sink, until that has enough.
    fn pass_on(&mut self) -> ControlFlow<()> {
        // A file takes no orders.
        while self.observer.poll_verdict().is_some() {}
        while let Some(event) = self.observer.poll_event() {
            if let Err(error) = self.sink.event(&event) {
                self.failed = Some(error);
                return ControlFlow::Break(());
            }
            if self.sink.is_done() {
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    /// Ends the observation at the time of the last segment.
    fn finish(mut self) -> anyhow::Result<()> {
        if self.failed.is_none() && !self.sink.is_done() {
            let (_, last) = self.span.unwrap_or_default();
            loop {
                let is_over = self.observer.finish_some(last);
                // Why it broke off, if it did, is looked at below.
                if self.pass_on().is_break() || is_over {
                    break;
                }
            }
        }
        let finished = match self.failed {
            Some(error) => Err(error),
            None => {
                let (_, end) = self.span.unwrap_or_default();
                self.sink.finish(end, &self.observer.stats())
            }
        };
        match finished {
            // The reader is gone, and with it whoever would have wanted to know the rest.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(error.into()),
            Err(error) => Err(error).context(PRINTING),
            Ok(()) => Ok(()),
        }
    }
}

/// Standard output, buffered, and shared between the sink and whoever knows when to flush it.
#[derive(Clone)]
struct Output(Rc<RefCell<BufWriter<Terminal>>>);

impl Output {
    /// `progress` makes way for what is printed.
    fn new(progress: Progress) -> Self {
        let terminal = Terminal {
            out: io::stdout(),
            progress,
        };
        let out = BufWriter::with_capacity(64 << 10, terminal);
        Self(Rc::new(RefCell::new(out)))
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.borrow_mut().write_all(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.borrow_mut().flush()
    }
}

/// Standard output, which may be where the progress is shown, too.
struct Terminal {
    out: Stdout,
    progress: Progress,
}

impl Write for Terminal {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.progress.make_way();
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Standard input, where a capture may still be going on: before a wait for more, what has been
/// printed is let go.
struct LiveInput(Output);

impl Read for LiveInput {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let stdin = io::stdin();
        let mut ready = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        if poll(&mut ready, PollTimeout::ZERO) == Ok(0) && self.0.flush().is_err() {
            // Nobody listens any more: as good as the end. The last flush fails for the same
            // reason, and tells it.
            return Ok(0);
        }
        stdin.lock().read(buffer)
    }
}

/// The metrics, printed once at the end.
struct Exposition {
    metrics: Metrics,
    selection: Selection,
    out: Output,
}

impl Exposition {
    fn new(
        series: &SeriesConfig,
        observer: &observer::Config,
        selection: Selection,
        out: Output,
    ) -> Self {
        Self {
            metrics: Metrics::new(&metrics_config(series, observer)),
            selection,
            out,
        }
    }
}

impl Sink for Exposition {
    fn event(&mut self, event: &Event) -> io::Result<()> {
        if self.selection.wants(&event.connection) {
            self.metrics.event(event)?;
        }
        Ok(())
    }

    fn finish(&mut self, end: Timestamp, stats: &Stats) -> io::Result<()> {
        self.metrics.update_agent(&AgentStatus {
            observer: *stats,
            ..AgentStatus::default()
        });
        self.out.write_all(self.metrics.expose(end).as_bytes())?;
        self.out.flush()
    }
}
