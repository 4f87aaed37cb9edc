//! Walks that wait for others: kept with their frames.

use crate::proto::{
    segment::Segment,
    seq::SeqNumber,
    walk::{self, Walk},
};

/// A walk that waits for another.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) walk: Walk<'static>,
    entries: Vec<(SeqNumber, walk::Place, bool, usize)>,
    bytes: Vec<u8>,
}

impl Waiting {
    pub(super) fn new<'a>(
        walk: &Walk<'_>,
        entries: &mut dyn Iterator<Item = walk::Entry<'a>>,
    ) -> Self {
        let mut waiting = Self {
            walk: Walk {
                segment: Segment {
                    windows: &[],
                    ..walk.segment
                },
                ..*walk
            },
            entries: Vec::new(),
            bytes: Vec::new(),
        };
        for entry in entries {
            let walk::Entry {
                seq,
                place,
                continues,
                bytes,
            } = entry;
            waiting.bytes.extend_from_slice(bytes);
            (waiting.entries).push((seq, place, continues, bytes.len()));
        }
        waiting
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = walk::Entry<'_>> {
        let mut rest = self.bytes.as_slice();
        self.entries
            .iter()
            .map(move |&(seq, place, continues, len)| {
                let (bytes, behind) = rest.split_at_checked(len).unwrap_or((rest, &[]));
                rest = behind;
                walk::Entry {
                    seq,
                    place,
                    continues,
                    bytes,
                }
            })
    }

    /// Whether the sender of the walk is the client, where its frames say so.
    pub(super) fn is_of_client(&self) -> Option<bool> {
        let header = self.entries().find(|entry| !entry.continues)?;
        header.bytes.get(1).map(|byte| byte & 0x80 != 0)
    }
}
