//! What a direction holds back: bytes that came before others that belong in front of them.

use std::collections::BTreeMap;

use super::{
    Shared,
    parts::{Parts, slice},
};
use crate::proto::{segment::Segment, seq::SeqNumber, time::Timestamp};

/// What a held-back piece is charged beyond its bytes: its places in two maps and its allocation.
const PIECE_OVERHEAD: usize = 128;

/// A run of bytes that is held back; the key in the map is where it begins.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) end: u64,
    /// `None` where they were not captured.
    pub(super) bytes: Option<Box<[u8]>>,
    pub(super) ts: Timestamp,
    pub(super) starts_segment: bool,
    pub(super) ends_segment: bool,
    /// What must have been delivered of the other direction before it.
    pub(super) ack: Option<SeqNumber>,
    /// When it became known that the bytes right before it were missing, if they are.
    pub(super) noticed: Timestamp,
}

impl Piece {
    fn charge(&self) -> usize {
        PIECE_OVERHEAD + self.bytes.as_ref().map_or(0, |bytes| bytes.len())
    }
}

/// What the pieces of one segment have in common.
#[derive(Clone, Copy)]
pub(super) struct Carrier {
    pub(super) begin: u64,
    pub(super) end: u64,
    pub(super) ts: Timestamp,
    pub(super) ack: Option<SeqNumber>,
}

/// Pieces of a stream by position, their sum, and their share of [`Shared::buffered`].
#[derive(Debug, Default)]
pub(super) struct Held {
    /// Disjoint.
    pieces: BTreeMap<u64, Piece>,
    /// The ranges that the pieces cover, adjacent ones merged: start and end. The first may begin
    /// before the first piece. Finds what is new in a segment without a look at each piece.
    runs: BTreeMap<u64, u64>,
    charged: usize,
}

impl Held {
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// What the pieces are charged.
    pub(super) fn charged(&self) -> usize {
        self.charged
    }

    /// The first piece and where it begins.
    pub(super) fn first(&self) -> Option<(u64, &Piece)> {
        self.pieces
            .first_key_value()
            .map(|(&at, piece)| (at, piece))
    }

    /// Lets the first piece wait for nothing of the other direction. Whether it had to wait.
    pub(super) fn release_first(&mut self) -> bool {
        let first = self.pieces.first_entry();
        first.is_some_and(|mut first| first.get_mut().ack.take().is_some())
    }

    /// The first range between two positions that is not held back.
    pub(super) fn next_unseen(&self, from: u64, to: u64) -> Option<(u64, u64)> {
        let (mut from, mut to) = (from, to);
        if !self.runs.is_empty() && from < to {
            if let Some((_, &end)) = self.runs.range(..=from).next_back() {
                from = from.max(end);
            }
            if let Some((&begin, _)) = self.runs.range(from..).next() {
                to = to.min(begin);
            }
        }
        (from < to).then_some((from, to))
    }

    /// Holds back a range that is not held back yet; `fin` is the time of a FIN behind it.
    pub(super) fn insert(
        &mut self,
        (from, to): (u64, u64),
        bytes: Option<&[u8]>,
        carrier: Carrier,
        fin: Option<Timestamp>,
        shared: &mut Shared,
    ) {
        let behind = self
            .pieces
            .range(to..)
            .next()
            .map(|(_, piece)| piece.noticed);
        let noticed = behind
            .or(fin)
            .map_or(carrier.ts, |noticed| noticed.min(carrier.ts));
        let piece = Piece {
            end: to,
            bytes: bytes.map(Box::from),
            ts: carrier.ts,
            starts_segment: from == carrier.begin,
            ends_segment: to == carrier.end,
            ack: carrier.ack,
            noticed,
        };
        self.put(from, piece, shared);

        let end = self.runs.remove(&to).unwrap_or(to);
        match self.runs.range_mut(..from).next_back() {
            Some((_, before)) if *before == from => *before = end,
            _ => {
                self.runs.insert(from, end);
            }
        }
    }

    /// Takes out the first piece, which begins at `at`.
    pub(super) fn pop(&mut self, at: u64, shared: &mut Shared) -> Option<Piece> {
        let piece = self.take(at, shared)?;
        if let Some(run) = self.runs.first_entry()
            && *run.get() <= piece.end
        {
            run.remove();
        }
        Some(piece)
    }

    /// Drops everything.
    pub(super) fn clear(&mut self, shared: &mut Shared) {
        shared.buffered = shared.buffered.saturating_sub(self.charged);
        *self = Self::default();
    }

    fn put(&mut self, from: u64, piece: Piece, shared: &mut Shared) {
        self.charged += piece.charge();
        shared.buffered += piece.charge();
        self.pieces.insert(from, piece);
    }

    fn take(&mut self, from: u64, shared: &mut Shared) -> Option<Piece> {
        let piece = self.pieces.remove(&from)?;
        self.charged = self.charged.saturating_sub(piece.charge());
        shared.buffered = shared.buffered.saturating_sub(piece.charge());
        Some(piece)
    }

    /// Holds what a segment brings from `next` on against what is held back of the same range: the
    /// first bytes win, and bytes take the place of those that were not captured.
    pub(super) fn compare(
        &mut self,
        segment: &Segment<'_>,
        next: u64,
        carrier: Carrier,
        shared: &mut Shared,
    ) {
        let mut differs = false;
        for part in Parts::new(segment) {
            let Some(bytes) = part.bytes else { continue };
            let begin = carrier.begin + u64::from(part.begin);
            let end = carrier.begin + u64::from(part.end);
            let mut at = begin.max(next);
            while at < end {
                let before = self.pieces.range(..=at).next_back();
                let Some((&from, piece)) = before.filter(|(_, piece)| piece.end > at) else {
                    match self.pieces.range(at..end).next() {
                        Some((&from, _)) => at = from,
                        None => break,
                    }
                    continue;
                };
                let to = piece.end.min(end);
                let ours = slice(bytes, at - begin, to - begin);
                match &piece.bytes {
                    Some(held) => differs |= slice(held, at - from, to - from) != ours,
                    None => self.fill(from, (at, to), ours, carrier, shared),
                }
                at = to;
            }
        }
        if differs {
            shared.conflicts = shared.conflicts.saturating_add(1);
        }
    }

    /// Puts `bytes` in the place of a part of a piece that was not captured.
    fn fill(
        &mut self,
        piece: u64,
        (from, to): (u64, u64),
        bytes: Option<&[u8]>,
        carrier: Carrier,
        shared: &mut Shared,
    ) {
        let Some(old) = self.take(piece, shared) else {
            return;
        };
        let end = old.end;
        let uncaptured = |end| Piece {
            end,
            bytes: None,
            ..old
        };
        if piece < from {
            self.put(piece, uncaptured(from), shared);
        }
        if to < end {
            self.put(to, uncaptured(end), shared);
        }
        let filled = Piece {
            end: to,
            bytes: bytes.map(Box::from),
            ts: carrier.ts,
            starts_segment: from == carrier.begin,
            ends_segment: to == carrier.end,
            ..old
        };
        self.put(from, filled, shared);
    }
}
