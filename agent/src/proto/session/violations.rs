//! How often each rule was broken on a connection.

use std::sync::Arc;

use super::Context;
use crate::proto::{
    event::{Connection, EventKind, Rule, Violation},
    flow::{Direction, PerDirection},
    time::Timestamp,
};

const RULES: usize = Rule::ALL.len();

/// Counts by direction and rule. Takes no memory on connections that break none.
#[derive(Debug, Default)]
pub(super) struct Violations {
    counts: Option<Box<PerDirection<[u64; RULES]>>>,
}

impl Violations {
    /// Whether there was none.
    pub fn is_empty(&self) -> bool {
        self.counts.is_none()
    }

    /// Counts one, and emits it. `detail` is asked for only where users are told.
    pub fn report(
        &mut self,
        connection: &Arc<Connection>,
        direction: Direction,
        ts: Timestamp,
        rule: Rule,
        detail: &dyn Fn() -> String,
        cx: &mut Context<'_>,
    ) {
        let counts = self.counts.get_or_insert_with(|| {
            Box::new(PerDirection {
                client_to_server: [0; RULES],
                server_to_client: [0; RULES],
            })
        });
        let count = &mut counts[direction][rule as usize];
        *count = count.saturating_add(1);
        let mut violation = Violation {
            direction,
            rule,
            detail: String::new(),
            count: *count,
        };
        if violation.is_milestone() {
            violation.detail = detail();
        }
        cx.emit(ts, connection, EventKind::Violation(violation));
    }
}
