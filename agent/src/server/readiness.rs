//! Whether the agent is watching: the programs are attached, and someone reads what they say.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How long the reader may be silent. It wakes up far more often, traffic or not.
pub const READER_PATIENCE: Duration = Duration::from_secs(10);

/// Shared between those who know and the server. Not ready to begin with.
#[derive(Clone, Debug)]
pub struct Readiness(Arc<Mutex<Parts>>);

struct Parts {
    programs: Result<(), String>,
    stopping: bool,
    reader: Result<Instant, String>,
    detail: Option<Detail>,
}

/// Says how something is that the agent can do without.
type Detail = Arc<dyn Fn() -> String + Send + Sync>;

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts")
            .field("programs", &self.programs)
            .field("reader", &self.reader)
            .finish_non_exhaustive()
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Parts {
            programs: Err("the programs are not attached yet".into()),
            stopping: false,
            reader: Err("the reader has not started yet".into()),
            detail: None,
        })))
    }
}

impl Readiness {
    /// The programs are attached.
    pub fn programs_attached(&self) {
        self.parts().programs = Ok(());
    }

    /// The programs are not attached, or no longer, and why.
    pub fn programs_failed(&self, reason: impl Into<String>) {
        self.parts().programs = Err(reason.into());
    }

    /// The agent is to end: not ready any more, whatever else is said.
    pub fn stopping(&self) {
        self.parts().stopping = true;
    }

    /// The reader's sign of life: at least every [`READER_PATIENCE`].
    pub fn reader_alive(&self) {
        self.parts().reader = Ok(Instant::now());
    }

    /// The reader has stopped, and why.
    pub fn reader_stopped(&self, reason: impl Into<String>) {
        self.parts().reader = Err(reason.into());
    }

    /// From now on `/readyz` repeats what `detail` says, a line. It changes nothing in the answer.
    pub fn set_detail(&self, detail: impl Fn() -> String + Send + Sync + 'static) {
        self.parts().detail = Some(Arc::new(detail));
    }

    /// What there is to say besides.
    #[must_use]
    pub fn detail(&self) -> Option<String> {
        let detail = self.parts().detail.clone();
        detail.map(|detail| detail())
    }

    /// Ready, or what is in the way.
    ///
    /// # Errors
    ///
    /// The reason, for people.
    pub fn check(&self) -> Result<(), String> {
        self.check_at(Instant::now())
    }

    fn check_at(&self, now: Instant) -> Result<(), String> {
        let parts = self.parts();
        if parts.stopping {
            return Err("the agent is stopping".to_owned());
        }
        parts.programs.clone()?;
        let silence = now.saturating_duration_since(parts.reader.clone()?);
        if silence > READER_PATIENCE {
            let seconds = silence.as_secs();
            return Err(format!("the reader has been stuck for {seconds} s"));
        }
        Ok(())
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_with_programs_and_a_reader_that_moves() {
        let readiness = Readiness::default();
        let reason = |readiness: &Readiness| readiness.check().unwrap_err();
        assert_eq!(reason(&readiness), "the programs are not attached yet");
        readiness.programs_attached();
        assert_eq!(reason(&readiness), "the reader has not started yet");
        readiness.reader_alive();
        assert_eq!(readiness.check(), Ok(()));
        let later = Instant::now() + READER_PATIENCE + Duration::from_secs(2);
        let stuck = readiness.check_at(later).unwrap_err();
        assert!(
            stuck.starts_with("the reader has been stuck for 1"),
            "{stuck}"
        );
        readiness.reader_stopped("the ring buffer is gone");
        assert_eq!(reason(&readiness), "the ring buffer is gone");
        readiness.reader_alive();
        readiness.programs_failed("detached from every interface");
        assert_eq!(reason(&readiness), "detached from every interface");
        readiness.stopping();
        readiness.programs_attached();
        assert_eq!(reason(&readiness), "the agent is stopping");
    }

    #[test]
    fn what_can_be_done_without_changes_no_answer() {
        let readiness = Readiness::default();
        assert_eq!(readiness.detail(), None);
        readiness.set_detail(|| "it rains".into());
        assert_eq!(readiness.detail().as_deref(), Some("it rains"));
        assert!(readiness.check().is_err());
        readiness.programs_attached();
        readiness.reader_alive();
        assert_eq!(readiness.check(), Ok(()));
    }
}
