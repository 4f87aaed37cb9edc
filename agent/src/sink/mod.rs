//! What becomes of events.

use crate::proto::event::Event;

pub mod metrics;

/// Takes events, one at a time, in order.
pub trait Sink {
    /// Takes an event.
    ///
    /// # Errors
    ///
    /// What the sink writes to can no longer be written to.
    fn event(&mut self, event: &Event) -> std::io::Result<()>;
}
