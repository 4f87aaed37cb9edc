//! From the kernel program's clock to the time of day.
//!
//! The program stamps records with `CLOCK_MONOTONIC`, the only clock that all supported kernels let
//! it read. The distance to the time of day is measured at the start and again every few seconds.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering::Relaxed},
};

use nix::time::{ClockId, clock_gettime};

use crate::proto::time::Timestamp;

/// How often the distance is measured again.
const INTERVAL: u64 = 5_000_000_000;
/// A change larger than this is a clock that was set, or a machine that slept: followed at once.
const STEP: i128 = 500_000_000;
/// Smaller changes are followed by at most so many parts of the time that has passed, NTP's own
/// limit, so that times do not jump.
const SLEW: i128 = 2000;

/// Converts monotonic times, and measures.
#[derive(Debug)]
pub struct Clock {
    face: ClockFace,
    measured: u64,
}

/// Converts monotonic times as its [`Clock`] does.
#[derive(Clone, Debug)]
pub struct ClockFace {
    /// Nanoseconds from the monotonic clock's zero to that of the Unix epoch.
    offset: Arc<AtomicI64>,
}

impl ClockFace {
    /// The time of day at a monotonic time in nanoseconds.
    #[must_use]
    pub fn timestamp(&self, monotonic: u64) -> Timestamp {
        let nanos = i128::from(monotonic).saturating_add(self.offset.load(Relaxed).into());
        Timestamp(u64::try_from(nanos.max(0)).unwrap_or(u64::MAX))
    }
}

impl Clock {
    /// A clock, measured now.
    #[must_use]
    pub fn new() -> Self {
        Self::with(distance(), monotonic())
    }

    fn with(offset: i128, measured: u64) -> Self {
        let offset = Arc::new(AtomicI64::new(clamped(offset)));
        Self {
            face: ClockFace { offset },
            measured,
        }
    }

    /// Another one that converts as this does, now and later.
    #[must_use]
    pub fn face(&self) -> ClockFace {
        self.face.clone()
    }

    /// The time of day at a monotonic time in nanoseconds.
    #[must_use]
    pub fn timestamp(&self, monotonic: u64) -> Timestamp {
        self.face.timestamp(monotonic)
    }

    /// The time of day now. Measures again where it is time to.
    pub fn now(&mut self) -> Timestamp {
        let now = monotonic();
        let elapsed = now.saturating_sub(self.measured);
        if elapsed >= INTERVAL {
            self.follow(distance(), elapsed);
            self.measured = now;
        }
        self.timestamp(now)
    }

    fn follow(&mut self, distance: i128, elapsed: u64) {
        let offset = i128::from(self.face.offset.load(Relaxed));
        let change = distance - offset;
        let change = if change.abs() > STEP {
            change
        } else {
            let limit = i128::from(elapsed) / SLEW;
            change.clamp(-limit, limit)
        };
        self.face.offset.store(clamped(offset + change), Relaxed);
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

/// `CLOCK_MONOTONIC` in nanoseconds, as the kernel program reads it.
#[must_use]
pub fn monotonic() -> u64 {
    u64::try_from(nanos(ClockId::CLOCK_MONOTONIC)).unwrap_or_default()
}

fn clamped(offset: i128) -> i64 {
    i64::try_from(offset).unwrap_or(i64::MAX)
}

/// The better of a few measurements: the one that was interrupted least.
fn distance() -> i128 {
    let measure = |_| {
        let before = nanos(ClockId::CLOCK_MONOTONIC);
        let real = nanos(ClockId::CLOCK_REALTIME);
        let after = nanos(ClockId::CLOCK_MONOTONIC);
        (after - before, real - before.midpoint(after))
    };
    let best = (0..5)
        .map(measure)
        .min_by_key(|(uncertainty, _)| *uncertainty);
    best.map_or(0, |(_, distance)| distance)
}

fn nanos(clock: ClockId) -> i128 {
    // Both clocks exist on every Linux, and reading them cannot fail.
    clock_gettime(clock).map_or(0, |time| {
        i128::from(time.tv_sec()) * 1_000_000_000 + i128::from(time.tv_nsec())
    })
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn agrees_with_the_time_of_day() {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let now = Clock::new().now();
        let expected = Timestamp(u64::try_from(since.as_nanos()).unwrap());
        assert!(now.saturating_since(expected).as_millis() < 100);
        assert!(expected.saturating_since(now).as_millis() < 100);
    }

    #[test]
    fn follows_drift_slowly_and_a_set_clock_at_once() {
        let mut clock = Clock::with(1_000_000_000, 0);
        let face = clock.face();
        let offset = || face.offset.load(Relaxed);
        clock.follow(1_010_000_000, INTERVAL);
        assert_eq!(offset(), 1_002_500_000);
        clock.follow(1_002_400_000, INTERVAL);
        assert_eq!(offset(), 1_002_400_000);
        clock.follow(9_000_000_000, INTERVAL);
        assert_eq!(offset(), 9_000_000_000);
    }

    #[test]
    fn times_before_the_epoch_are_the_epoch() {
        let clock = Clock::with(-50, 0);
        assert_eq!(clock.timestamp(20), Timestamp(0));
        assert_eq!(clock.timestamp(70), Timestamp(20));
    }
}
