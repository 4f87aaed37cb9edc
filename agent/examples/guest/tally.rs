//! Frames and payload bytes, by direction and opcode.

use std::{collections::BTreeMap, fmt};

/// The client's direction, as events and labels name it.
pub const CLIENT: &str = "client_to_server";
/// The server's.
pub const SERVER: &str = "server_to_client";

/// What was sent, or what was told of it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Tally(BTreeMap<(String, String), (u64, u64)>);

impl Tally {
    /// Counts frames and their bytes; what counts nothing leaves no trace.
    pub fn count(&mut self, direction: &str, opcode: &str, frames: u64, bytes: u64) {
        if frames == 0 && bytes == 0 {
            return;
        }
        let key = (direction.to_owned(), opcode.to_owned());
        let sum = self.0.entry(key).or_default();
        *sum = (sum.0.saturating_add(frames), sum.1.saturating_add(bytes));
    }

    /// Adds what another has counted.
    pub fn add(&mut self, other: &Self) {
        for ((direction, opcode), (frames, bytes)) in &other.0 {
            self.count(direction, opcode, *frames, *bytes);
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for ((direction, opcode), (frames, bytes)) in &self.0 {
            write!(f, "{separator}{direction} {opcode} {frames} ({bytes} B)")?;
            separator = ", ";
        }
        Ok(())
    }
}
