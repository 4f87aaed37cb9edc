//! How far a capture has been read, shown to whoever waits at a terminal.
//!
//! Drawn on standard error, and gone before anything else may appear on the same terminal: events
//! that scroll by are sign of life enough.

use std::{
    env,
    io::{self, IsTerminal, Read},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// What is read within this time needs no bar.
const DELAY: Duration = Duration::from_secs(1);

/// Of a file: bytes out of so many, rate, time left.
const OF_FILE: &str =
    "{percent:>3}% [{wide_bar}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";

/// Of what may go on for ever.
const OF_STREAM: &str = "{bytes} read, {bytes_per_sec}";

/// A bar that appears where reading takes long. Clones are the same bar.
#[derive(Clone)]
pub struct Progress {
    /// `None` where nobody would see it.
    bar: Option<ProgressBar>,
    begun: Instant,
    /// Standard output is a terminal too, most likely the same.
    shares_terminal: bool,
}

impl Progress {
    /// For an input of `size` bytes, where that is known.
    #[must_use]
    pub fn new(size: Option<u64>) -> Self {
        let dumb = env::var_os("TERM").is_none_or(|term| term == "dumb");
        let seen = !dumb && io::stderr().is_terminal();
        let template = if size.is_some() { OF_FILE } else { OF_STREAM };
        // The templates are well-formed; a bar without style is one all the same.
        let style = ProgressStyle::with_template(template)
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> ");
        let hidden = ProgressDrawTarget::hidden();
        Self {
            bar: seen.then(|| ProgressBar::with_draw_target(size, hidden).with_style(style)),
            begun: Instant::now(),
            shares_terminal: io::stdout().is_terminal(),
        }
    }

    /// `reader`, watched.
    pub fn watch<R: Read + 'static>(&self, reader: R) -> Box<dyn Read> {
        match self.bar {
            Some(_) => Box::new(Watched {
                reader,
                progress: self.clone(),
            }),
            None => Box::new(reader),
        }
    }

    /// Something is about to be printed on standard output.
    pub fn make_way(&self) {
        if self.shares_terminal {
            self.end();
        }
    }

    /// Erases the bar, for good.
    pub fn end(&self) {
        if let Some(bar) = &self.bar
            && !bar.is_finished()
        {
            bar.finish_and_clear();
        }
    }

    fn add(&self, bytes: usize) {
        let Some(bar) = &self.bar else { return };
        bar.inc(bytes as u64);
        if bar.is_hidden() && !bar.is_finished() && self.begun.elapsed() >= DELAY {
            bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(5));
            bar.tick();
        }
    }
}

/// Tells the bar what was read.
struct Watched<R> {
    reader: R,
    progress: Progress,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.progress.add(read);
        Ok(read)
    }
}
