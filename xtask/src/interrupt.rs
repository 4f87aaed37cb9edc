//! Ctrl-C and SIGTERM, for commands that have something to put back: what waits, waits here, and gets an
//! error instead of going on; guards do the rest.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

static RAISED: AtomicBool = AtomicBool::new(false);

/// How long one may go on before it is noticed.
const STEP: Duration = Duration::from_millis(20);

/// Has both signals noticed from here on.
pub fn catch() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        let interrupt = signal(SignalKind::interrupt()).context("cannot catch SIGINT")?;
        let terminate = signal(SignalKind::terminate()).context("cannot catch SIGTERM")?;
        (interrupt, terminate)
    };
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        RAISED.store(true, Relaxed);
    });
    Ok(())
}

/// Whether a signal came.
pub fn raised() -> bool {
    RAISED.load(Relaxed)
}

/// An error if a signal came.
pub fn check() -> Result<()> {
    if raised() {
        bail!("interrupted");
    }
    Ok(())
}

/// Sleeps, or fails as soon as a signal comes.
pub fn pause(duration: Duration) -> Result<()> {
    let begun = Instant::now();
    loop {
        check()?;
        match duration.checked_sub(begun.elapsed()) {
            None | Some(Duration::ZERO) => return Ok(()),
            Some(left) => thread::sleep(left.min(STEP)),
        }
    }
}
