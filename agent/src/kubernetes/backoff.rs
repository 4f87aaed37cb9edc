//! How long to wait before the next attempt.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

/// Before the second attempt, at most.
const FIRST: Duration = Duration::from_millis(500);
/// Before any, at most.
const LAST: Duration = Duration::from_secs(30);

/// Twice as long each time, less up to a half that chance takes off: when an API server comes back,
/// the agents of a thousand nodes do not ask it at once.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    attempts: u32,
    /// Its keys are random, and that is all that is wanted of it.
    chance: RandomState,
}

impl Backoff {
    /// The next attempt is the first again.
    pub(super) fn reset(&mut self) {
        self.attempts = 0;
    }

    /// How long to wait now.
    pub(super) fn next(&mut self) -> Duration {
        let full = FIRST.saturating_mul(1 << self.attempts.min(16)).min(LAST);
        self.attempts = self.attempts.saturating_add(1);
        // As many 65536ths of a half.
        let share = u32::from(self.chance.hash_one(self.attempts) as u16);
        full.saturating_sub((full / 2).saturating_mul(share) / (1 << 16))
    }
}

/// A number below `bound`, by chance; 0 where there is none.
pub(super) fn any_below(bound: u32) -> u32 {
    let chance = RandomState::new().hash_one(bound) as u32;
    chance.checked_rem(bound).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_are_not_all_the_same() {
        let mut backoff = Backoff::default();
        let mut full = FIRST;
        for _ in 0..100 {
            let wait = backoff.next();
            assert!(wait <= full && wait >= full / 2, "{wait:?} of {full:?}");
            full = (full * 2).min(LAST);
        }
        let last: Vec<Duration> = (0..10).map(|_| backoff.next()).collect();
        assert!(last.iter().any(|wait| *wait != last[0]));
        backoff.reset();
        assert!(backoff.next() <= FIRST);
    }
}
