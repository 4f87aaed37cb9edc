//! What becomes of events.

pub mod close_code;
pub mod escape;
pub mod filter;
pub mod json;
pub mod metrics;
pub mod peer;
pub mod printer;
pub mod summary;
pub mod text;
pub mod unit;

use std::io;

use crate::proto::{event::Event, observer::Stats, time::Timestamp};

/// Takes events, one at a time, in order.
pub trait Sink {
    /// Takes an event.
    ///
    /// # Errors
    ///
    /// What the sink writes to can no longer be written to.
    fn event(&mut self, event: &Event) -> io::Result<()>;

    /// Lets go of what is buffered: called when no more events are at hand for now.
    ///
    /// # Errors
    ///
    /// As [`Sink::event`].
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Takes the end of the observation, and what the observer has counted until then: what the
    /// sink says once, it says now.
    ///
    /// # Errors
    ///
    /// As [`Sink::event`].
    fn finish(&mut self, _end: Timestamp, _stats: &Stats) -> io::Result<()> {
        self.flush()
    }

    /// Whether it wants no more events.
    fn is_done(&self) -> bool {
        false
    }
}

/// What an interface is called.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct InterfaceName {
    /// Its name.
    pub name: String,
    /// Its network namespace, where it is another one than the agent's.
    pub netns: Option<String>,
}

/// Names of interfaces by their number, as far as the source knows them.
pub type InterfaceNames = Box<dyn FnMut(u32) -> Option<InterfaceName> + Send>;

/// For sources whose interfaces have no names worth showing.
#[must_use]
pub fn no_interfaces() -> InterfaceNames {
    Box::new(|_| None)
}

#[cfg(test)]
mod sample;
