//! What the commands that watch live have in common: the threads, and how they end.
//!
//! Two threads, each with its own part of the kernel source: one holds the attachment and follows
//! the interfaces, the other takes records from the ring buffer through the observer to a sink.
//! Neither is asynchronous, so neither waits for what the runtime of the caller is doing, and a
//! panic in one of them unwinds and detaches.

use std::{
    io,
    os::unix::net::UnixStream,
    panic, process,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
};
use wstap_common::counter::Counter;

use crate::{
    config::CaptureConfig,
    proto::{
        observer::{self, Observer},
        time::Timestamp,
    },
    sink::{
        Sink,
        metrics::{AgentStatus, KernelCounts, NamespaceCounts, ReaderCounts},
        unit::Counted,
    },
    source::kernel::{
        self, AttachStatus, Attacher, Counters, KernelError, Reader, Wake, privileges,
        reader::{self, Record, Woken},
    },
};

/// Records between two looks at what the observer has made of them.
const BATCH: usize = 512;
/// As many events may wait for that look. A segment that is copied whole has up to some thousand frames,
/// and batches of these would take hundreds of MiB, not all of which the allocator gives back.
const EVENTS: usize = 4096;
/// Batches between two looks at the clock, where the records do not end.
const BATCHES: usize = 16;
/// How long the reader sleeps at most. Records that do not wake it are as old as this.
const NAP: Duration = Duration::from_millis(50);
/// How long records are left to gather behind those that woke the reader, where each one would:
/// nobody's eyes are as fast, and to be woken takes longer than to read.
const GATHER: Duration = Duration::from_millis(2);
/// Between two updates of the status.
const STATUS_INTERVAL: Duration = Duration::from_millis(500);
/// Between two looks at what the kernel program has counted; longer where a look takes long: of the
/// thread's time it takes one part in so many at most, as long as what a scrape finds is recent.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
const LOOK_SHARE: u32 = 50;
const LONGEST_LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// Between two searches for flows that nobody follows any more.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);
/// What a flow may be silent beyond the idle time-out before it is searched for: the observer ends
/// it at the time-out.
const SWEEP_MARGIN: Duration = Duration::from_secs(60);

/// A kernel source that is attached and not yet read.
pub struct Source {
    attacher: Attacher,
    reader: Reader,
    counters: Counters,
    wake: Wake,
}

impl Source {
    /// Loads and attaches.
    ///
    /// # Errors
    ///
    /// [`KernelError`].
    pub fn open(config: &CaptureConfig, wake: Wake) -> Result<Self, KernelError> {
        let (attacher, reader, counters) = kernel::open(config, wake)?;
        Ok(Self {
            attacher,
            reader,
            counters,
            wake,
        })
    }

    /// What is attached.
    #[must_use]
    pub fn attacher(&self) -> &Attacher {
        &self.attacher
    }

    /// Begins to read. `status` is told a few times a second how things are.
    ///
    /// # Errors
    ///
    /// There can be no more threads.
    pub fn start<S: Sink + Send + 'static>(
        self,
        observer: &observer::Config,
        sink: S,
        status: impl FnMut(&AgentStatus) + Send + 'static,
    ) -> io::Result<Session<S>> {
        let Self {
            attacher,
            reader,
            counters,
            wake,
        } = self;
        let mut pump = Pump {
            observer: Observer::new(observer.clone()).with_tallies(Box::new(reader.tallies())),
            reader,
            idle_timeout: observer.idle_timeout,
            sink,
            counters,
            attach: attacher.status(),
            tell: status,
            newest: Timestamp::default(),
            gathers: wake == Wake::Each,
        };
        let links = Worker::spawn("links", move |stop| attacher.watch(&stop))?;
        let reader = Worker::spawn("reader", move |stop| {
            // It is the one that reads what anybody sends.
            privileges::renounce(&privileges::needed_to_read());
            let result = pump.run(&stop);
            let status = pump.status();
            (result, pump.sink, status)
        })?;
        Ok(Session { links, reader })
    }
}

/// A kernel source that is being read.
pub struct Session<S> {
    links: Worker<Result<(), KernelError>>,
    reader: Worker<(io::Result<()>, S, AgentStatus)>,
}

impl<S> Session<S> {
    /// Returns when one of the threads has ended by itself: because the sink wants no more, or
    /// because it failed. [`Session::stop`] says which.
    pub async fn ended(&mut self) {
        tokio::select! {
            () = self.links.ended() => {}
            () = self.reader.ended() => {}
        }
    }

    /// Takes what is in the ring buffer, ends the observation, detaches; the sink, and the last
    /// status. Everything is detached even if it fails.
    ///
    /// In this order, because detaching may take seconds: TCX has the kernel wait 10 to 30 ms for
    /// each interface, one after the other.
    ///
    /// # Errors
    ///
    /// What one of the threads failed with.
    pub fn stop(self) -> anyhow::Result<(S, AgentStatus)> {
        let Self { links, reader } = self;
        // Should it resume a panic, then dropping `links` detaches.
        let (read, sink, status) = reader.stop();
        let links = links.stop();
        // As it is: a closed pipe is recognised by its type.
        read?;
        links?;
        Ok((sink, status))
    }
}

/// Stops the session without holding up the runtime. A further interrupt ends the process at once, in
/// case something hangs: what is attached with TCX goes with it, a clsact filter goes inert.
///
/// # Errors
///
/// Those of [`Session::stop`].
pub async fn stop<S: Send + 'static>(
    session: Session<S>,
    interrupts: &mut Interrupts,
) -> anyhow::Result<(S, AgentStatus)> {
    let stopped = tokio::task::spawn_blocking(move || session.stop());
    tokio::select! {
        stopped = stopped => match stopped {
            Ok(stopped) => stopped,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => panic::resume_unwind(panic),
                Err(error) => Err(error).context("stopping"),
            },
        },
        () = interrupts.next() => {
            log::warn!("interrupted again: exiting at once");
            process::exit(1);
        }
    }
}

/// A thread that can be told to stop.
struct Worker<T> {
    stop: Option<UnixStream>,
    ended: oneshot::Receiver<()>,
    thread: Option<JoinHandle<T>>,
}

impl<T: Send + 'static> Worker<T> {
    fn spawn(name: &str, work: impl FnOnce(UnixStream) -> T + Send + 'static) -> io::Result<Self> {
        let (stop, stopped) = UnixStream::pair()?;
        let (alive, ended) = oneshot::channel();
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                // Dropped at the end of the thread, that of a panic included.
                let _alive = alive;
                work(stopped)
            })?;
        Ok(Self {
            stop: Some(stop),
            ended,
            thread: Some(thread),
        })
    }
}

impl<T> Worker<T> {
    async fn ended(&mut self) {
        // Nothing is ever sent.
        let _ = (&mut self.ended).await;
    }

    fn stop(mut self) -> T {
        drop(self.stop.take());
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(panic)) => panic::resume_unwind(panic),
            None => unreachable!("the thread is joined once"),
        }
    }
}

impl<T> Drop for Worker<T> {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // Its panic has been reported where it happened.
            let _ = thread.join();
        }
    }
}

/// What the reader's thread works with.
struct Pump<S, F> {
    reader: Reader,
    observer: Observer,
    idle_timeout: Duration,
    sink: S,
    counters: Counters,
    attach: AttachStatus,
    tell: F,
    /// Time of the last segment.
    newest: Timestamp,
    /// Records are left to gather.
    gathers: bool,
}

/// What [`Pump::read`] has found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Found {
    /// No record.
    Nothing,
    /// Some, and all that were there.
    All,
    /// Some, and there may be more.
    More,
}

impl<S: Sink, F: FnMut(&AgentStatus)> Pump<S, F> {
    /// Works until the other end of `stop` is closed, or the sink wants no more.
    fn run(&mut self, stop: &UnixStream) -> io::Result<()> {
        let mut next_status = Instant::now();
        let mut next_sweep = next_status + SWEEP_INTERVAL;
        let mut next_look = next_status;
        let mut looked = Duration::ZERO;
        loop {
            let now = Instant::now();
            if now >= next_status {
                let status = self.status();
                (self.tell)(&status);
                next_status = now + STATUS_INTERVAL;
            }
            if now >= next_sweep {
                let silent = self.idle_timeout.saturating_add(SWEEP_MARGIN);
                let removed = self.reader.sweep(silent);
                if removed > 0 {
                    log::debug!("removed {removed} silent flows from the kernel's map");
                }
                next_sweep = now + SWEEP_INTERVAL;
            }

            let mut nap = NAP;
            if now >= next_look {
                let begun = Instant::now();
                let time = self.reader.now();
                let is_over = self.observer.handle_tallies(time);
                self.pass_on()?;
                looked = looked.saturating_add(begun.elapsed());
                if is_over {
                    let took = std::mem::take(&mut looked).saturating_mul(LOOK_SHARE);
                    next_look = now + took.clamp(LOOK_INTERVAL, LONGEST_LOOK_INTERVAL);
                } else {
                    // The rest follows once the records have been taken that have come meanwhile.
                    nap = Duration::ZERO;
                }
            }

            let stopped = self.reader.wait(nap, stop)? == Woken::Stop;
            // Taken before the records, so that none of those that follow is older.
            let time = self.reader.now();
            let found = self.read()?;
            self.observer.handle_timeout(time);
            self.pass_on()?;
            if stopped && !self.sink.is_done() {
                // The ring buffer has no end while programs are attached: what was there is taken.
                while self.read()? == Found::More && self.newest <= time {}
                while !self.observer.finish_some(self.newest.max(time)) {
                    self.pass_on()?;
                }
                self.pass_on()?;
            }
            if stopped || self.sink.is_done() {
                let time = self.reader.now();
                self.sink.finish(time, &self.observer.stats())?;
                let status = self.status();
                (self.tell)(&status);
                return Ok(());
            }
            self.sink.flush()?;
            if self.gathers && found == Found::All && reader::pause(GATHER, stop)? == Woken::Stop {
                // Seen once more above, where it ends.
                continue;
            }
        }
    }

    /// Takes records, but not for long.
    fn read(&mut self) -> io::Result<Found> {
        let mut found = Found::Nothing;
        for _ in 0..BATCHES {
            let (observer, newest) = (&mut self.observer, &mut self.newest);
            let records = self.reader.drain(BATCH, |record| {
                match record {
                    Record::Sample(segment, sample) => {
                        *newest = segment.ts;
                        observer.handle_sample(segment, sample);
                    }
                    Record::Walk(walk, entries) => {
                        *newest = walk.segment.ts;
                        observer.handle_walk(walk, entries);
                    }
                }
                observer.events_waiting() < EVENTS
            });
            let is_full = self.observer.events_waiting() >= EVENTS;
            self.pass_on()?;
            if records > 0 {
                found = Found::All;
            }
            if self.sink.is_done() || (records < BATCH && !is_full) {
                return Ok(found);
            }
        }
        Ok(Found::More)
    }

    /// Hands the observer's verdicts to the kernel program and its events to the sink.
    fn pass_on(&mut self) -> io::Result<()> {
        while let Some(verdict) = self.observer.poll_verdict() {
            self.reader.apply(&verdict);
        }
        while let Some(cursor) = self.observer.poll_cursor() {
            self.reader.place(&cursor);
        }
        while !self.sink.is_done() {
            let Some(event) = self.observer.poll_event() else {
                break;
            };
            self.sink.event(&event)?;
        }
        Ok(())
    }

    fn status(&self) -> AgentStatus {
        let kernel = self.counters.read();
        AgentStatus {
            observer: self.observer.stats(),
            kernel: kernel
                .inspect_err(|error| log::warn!("{error}"))
                .ok()
                .map(KernelCounts),
            reader: ReaderCounts {
                undecodable: self.reader.undecodable(),
                cut: self.reader.cut(),
            },
            interfaces_attached: self.attach.attached(),
            namespaces: NamespaceCounts {
                followed: self.attach.namespaces(),
                failed: self.attach.namespaces_failed(),
                turned_away: self.attach.namespaces_turned_away(),
            },
        }
    }
}

/// What was sampled, and what was lost on the way.
pub(super) fn sampled(status: &AgentStatus) -> String {
    let kernel = status.kernel.unwrap_or_default();
    let mut total = 0u64;
    let mut reasons = String::new();
    for (reason, count) in status.lost() {
        if count > 0 {
            let separator = if total == 0 { " (" } else { ", " };
            reasons.push_str(&format!("{separator}{count} {reason}"));
            total = total.saturating_add(count);
        }
    }
    if total > 0 {
        reasons.push(')');
    }
    let sampled = Counted(kernel.of(Counter::Samples), "record");
    format!("{sampled} sampled, {total} lost{reasons}")
}

/// The signals that end a command.
pub struct Interrupts {
    signals: [Signal; 2],
    hangup: Option<Signal>,
}

impl Interrupts {
    /// From now on signals end the command in good order. Needs a runtime.
    ///
    /// # Errors
    ///
    /// A handler could not be installed.
    pub fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("installing the handler of a signal");
        Ok(Self {
            signals: [
                listen(SignalKind::terminate())?,
                listen(SignalKind::interrupt())?,
            ],
            // nohup(1) has it ignored, and that is to stay so.
            hangup: if hangup_is_ignored() {
                None
            } else {
                Some(listen(SignalKind::hangup())?)
            },
        })
    }

    /// Waits for one.
    pub async fn next(&mut self) {
        let [terminate, interrupt] = &mut self.signals;
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup => {}
        }
    }
}

fn hangup_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let bit = 1 << (libc::SIGHUP - 1);
    ignored.is_some_and(|mask| mask & bit != 0)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
    }

    #[test]
    fn a_worker_works_until_it_is_stopped() {
        let worker = Worker::spawn("test", |mut stop| stop.read(&mut [0]).unwrap()).unwrap();
        assert_eq!(worker.stop(), 0);
    }

    #[test]
    fn the_end_of_a_worker_is_noticed() {
        let mut worker = Worker::spawn("test", |_| 7).unwrap();
        runtime().block_on(worker.ended());
        assert_eq!(worker.stop(), 7);
    }

    #[test]
    fn a_panic_is_passed_on() {
        let mut worker = Worker::spawn("test", |_| panic!("on purpose")).unwrap();
        runtime().block_on(worker.ended());
        let caught = panic::catch_unwind(panic::AssertUnwindSafe(|| worker.stop()));
        assert!(caught.is_err());
    }
}
