//! Whether the API answers: counted, logged once, and told to whoever asks.

use std::{
    fmt::Display,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

/// Longest part of an error that is repeated.
const MAX_REASON: usize = 300;

/// Contact about one kind of object.
#[derive(Clone, Debug)]
pub(super) struct Contact {
    resource: &'static str,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// There has been a whole list.
    listed: bool,
    /// What failed, and since when.
    trouble: Option<(String, Instant)>,
    errors: u64,
}

impl Contact {
    pub(super) fn new(resource: &'static str) -> Self {
        Self {
            resource,
            state: Arc::default(),
        }
    }

    /// The server has answered.
    pub(super) fn made(&self) {
        let mut state = self.state();
        state.listed = true;
        if state.trouble.take().is_some() {
            log::info!("Kubernetes: {} are watched again", self.resource);
        }
    }

    /// It has not, or not as it should.
    pub(super) fn failed(&self, error: &impl Display) {
        let mut reason = error.to_string();
        if let Some((end, _)) = reason.char_indices().nth(MAX_REASON) {
            reason.truncate(end);
        }
        let mut state = self.state();
        state.errors += 1;
        match &mut state.trouble {
            Some((last, _)) => {
                log::debug!("Kubernetes: watching {}: {reason}", self.resource);
                *last = reason;
            }
            trouble => {
                log::warn!(
                    "Kubernetes: watching {}: {reason}; names stay as they are until it works",
                    self.resource
                );
                *trouble = Some((reason, Instant::now()));
            }
        }
    }

    /// How often something failed.
    pub(super) fn errors(&self) -> u64 {
        self.state().errors
    }

    /// What is wrong, for people.
    pub(super) fn complaint(&self) -> Option<String> {
        let state = self.state();
        let resource = self.resource;
        match &state.trouble {
            Some((reason, since)) => {
                let seconds = since.elapsed().as_secs();
                let names = if state.listed {
                    "names are as last known"
                } else {
                    "there are no names yet"
                };
                Some(format!(
                    "{resource} not watched for {seconds} s, {names}: {reason}"
                ))
            }
            None if !state.listed => Some(format!("{resource} are not listed yet")),
            None => None,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_come_and_go() {
        let contact = Contact::new("pods");
        assert_eq!(
            contact.complaint().as_deref(),
            Some("pods are not listed yet")
        );
        contact.failed(&"refused");
        contact.failed(&"x".repeat(1000));
        let complaint = contact.complaint().unwrap();
        assert!(complaint.starts_with("pods not watched for 0 s, there are no names yet: xxx"));
        assert!(complaint.len() < 400);
        contact.made();
        assert_eq!((contact.complaint(), contact.errors()), (None, 2));
        contact.failed(&"gone");
        assert!(contact.complaint().unwrap().contains("as last known: gone"));
    }
}
