//! How a walk is handed to a session: what lies between the frames is payload that went by.

use super::FAR;
use crate::proto::{
    seq::SeqNumber,
    session::{Context, Session},
    tcp::StreamEvent,
    time::Timestamp,
    walk::{self, Tally},
};

/// Payload of the frame under way went by that nobody hands over: what the source has seen of it, or all of it
/// where the source has come to the header behind it. `over` says that nothing more comes.
pub(super) fn pass_payload(
    session: &mut Session,
    side: usize,
    next: &mut SeqNumber,
    tally: &Tally,
    over: bool,
    cx: &mut Context<'_>,
) {
    let Some(standing) = session.standing(side) else {
        return;
    };
    let behind = *next + standing.ahead as u32;
    let beyond = tally.next.distance_from(behind);
    // Where each frame is handed over, those behind it say when it was. And in a frame beyond the reach of
    // sequence numbers the tally may be in the midst of a change.
    let is_told = cx.config.interest.frames;
    let is_over = over || (beyond > 0 && tally.ahead < FAR && !is_told);
    let seen = match beyond {
        0 => standing.ahead.saturating_sub(tally.ahead),
        _ if is_over => standing.ahead,
        _ => 0,
    };
    skip(session, side, next, seen, tally.last_seen, cx);
}

/// Bytes that are not available, and were not lost.
pub(super) fn skip(
    session: &mut Session,
    side: usize,
    next: &mut SeqNumber,
    len: u64,
    ts: Timestamp,
    cx: &mut Context<'_>,
) {
    if len > 0 {
        session.handle(
            &StreamEvent::Missing {
                side,
                ts,
                offset: 0,
                len,
                lost: false,
            },
            cx,
        );
        *next = *next + len as u32;
    }
}

/// A walk that is being handed to a session.
pub(super) struct Reading<'a> {
    pub(super) side: usize,
    pub(super) session: &'a mut Session,
    /// The next byte that the session has not got.
    pub(super) next: SeqNumber,
    /// The first byte of the walk's segment: what comes before went by earlier.
    pub(super) begin: SeqNumber,
    pub(super) quiet_since: Timestamp,
    pub(super) ts: Timestamp,
}

impl Reading<'_> {
    /// Payload up to `to` went by, which is `len` bytes.
    fn pass(&mut self, to: SeqNumber, len: u64, cx: &mut Context<'_>) {
        let within = to.distance_from(self.begin).max(0).unsigned_abs();
        let within = u64::from(within).min(len);
        for (len, ts) in [(len - within, self.quiet_since), (within, self.ts)] {
            skip(self.session, self.side, &mut self.next, len, ts, cx);
        }
    }

    /// Comes to a header.
    fn reach(&mut self, seq: SeqNumber, place: &walk::Place, cx: &mut Context<'_>) {
        let standing = self.session.standing(self.side);
        if let Some(standing) = standing {
            let there = self.next + standing.ahead as u32;
            self.pass(there, standing.ahead, cx);
            if there == seq && standing.place.index == place.index {
                return;
            }
        }
        self.session.put(self.side, place, cx);
        self.next = seq;
    }

    /// The source has lost its place at `seq`.
    pub(super) fn leave(&mut self, seq: SeqNumber, place: &walk::Place, cx: &mut Context<'_>) {
        if let Some(standing) = self.session.standing(self.side)
            && standing.place.index == place.index
            && let Ok(missing) = u64::try_from(seq.distance_from(self.next))
            && missing < standing.ahead
        {
            // Within the payload of a control frame.
            self.pass(seq, missing, cx);
        } else {
            self.reach(seq, place, cx);
        }
    }

    /// Takes in a frame.
    pub(super) fn take(&mut self, entry: &walk::Entry<'_>, cx: &mut Context<'_>) {
        if self.session.direction(self.side).is_none() {
            return;
        }
        let standing = self.session.standing(self.side);
        let mut bytes = entry.bytes;
        if entry.continues {
            // Payload of the control frame that is open, if it is the same one.
            let Some(standing) = standing.filter(|at| at.place.index == entry.place.index) else {
                return;
            };
            let ahead = i64::from(entry.seq.distance_from(self.next));
            let Ok(missing) = u64::try_from(ahead) else {
                return;
            };
            if missing >= standing.ahead {
                return;
            }
            self.pass(entry.seq, missing, cx);
            let left = usize::try_from(standing.ahead - missing).unwrap_or(usize::MAX);
            bytes = bytes.get(..left).unwrap_or(bytes);
        } else {
            let known = standing
                .is_some_and(|at| entry.place.index.wrapping_sub(at.place.index).cast_signed() < 0);
            if known {
                return;
            }
            self.reach(entry.seq, &entry.place, cx);
        }
        if bytes.is_empty() {
            return;
        }
        self.session.handle(
            &StreamEvent::Bytes {
                side: self.side,
                ts: self.ts,
                offset: 0,
                bytes,
                starts_segment: false,
                ends_segment: false,
            },
            cx,
        );
        self.next = self.next + u32::try_from(bytes.len()).unwrap_or(0);
    }

    /// The segment ends at `end`: of the frame under way so much went by.
    pub(super) fn finish(&mut self, end: SeqNumber, cx: &mut Context<'_>) {
        let ahead = self.session.standing(self.side).map_or(0, |at| at.ahead);
        let behind = u64::try_from(end.distance_from(self.next)).unwrap_or(0);
        let len = behind.min(ahead);
        self.pass(end, len, cx);
    }
}
