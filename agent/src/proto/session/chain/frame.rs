//! A frame of a chain, which may turn out to be none.

use std::time::Duration;

use crate::proto::{frame::Header, time::Timestamp};

/// A frame of a chain, with what is needed to report it later.
#[derive(Debug)]
pub(in crate::proto::session) struct ChainFrame {
    pub header: Header,
    /// When the header was complete.
    pub ts: Timestamp,
    /// How long it had been quiet before the header.
    pub quiet: Duration,
    /// [`super::Piece::order`] of the header's end.
    pub order: u64,
    /// When the last payload byte so far went by.
    pub last: Timestamp,
    /// The beginning of the payload, still masked.
    pub payload: Vec<u8>,
    /// Payload bytes that went by.
    pub seen: u64,
    pub(super) wanted: usize,
    /// Payload bytes after which its content can be judged; `None` once it was, or where it cannot.
    pub(super) judged_at: Option<usize>,
    /// The same header, masking key and all, came before in the chain, and is short. Periodic bytes
    /// do that, so it proves nothing but by where it ends.
    pub(super) repeated: bool,
    /// What its header proves.
    pub(super) proof: i32,
    /// Where it begins, as [`super::Chain::phase`].
    pub(super) phase: u64,
    /// What its content proves.
    pub(super) content: i32,
    /// It ended with a segment, the first that did since its header.
    pub(super) fits: bool,
    pub(super) intact: bool,
}

impl ChainFrame {
    /// Takes in payload.
    pub(super) fn take(&mut self, bytes: &[u8], ts: Timestamp) {
        self.last = ts;
        self.seen += bytes.len() as u64;
        if self.intact {
            let room = self.wanted.saturating_sub(self.payload.len());
            self.payload
                .extend_from_slice(&bytes[..room.min(bytes.len())]);
        }
    }

    pub(super) fn skip(&mut self, len: u64, ts: Timestamp) {
        self.last = ts;
        self.seen += len;
        if self.payload.len() < self.wanted {
            self.intact = false;
        }
    }
}
