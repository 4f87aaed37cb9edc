//! What the source counts by itself, taken in: when a connection was heard of, how far the frame under
//! way has gone by, and the counts.

use super::super::{Observer, State, context, table::SlotId};
use super::{
    FAR, MAX_HEADER, SETTLED, both,
    reading::{pass_payload, skip},
};
use crate::proto::{
    event::TcpCounts,
    time::Timestamp,
    walk::{Tally, neighbour},
};

impl Observer {
    /// Looks at a connection's tallies: takes in what was counted, and when it was heard of last.
    pub(super) fn heed(&mut self, slot: SlotId) {
        let Some(seen) = self.heard(slot) else {
            return;
        };
        if seen > self.table.last_seen(slot) {
            self.table.touch(slot, seen);
        }
        let settled = self.now.saturating_since(seen) >= SETTLED;
        let mut was_dozing = false;
        if let Some(State::Dozing(dozing)) = self.table.get_mut(slot).map(|entry| &entry.state) {
            if seen <= dozing.looked {
                return;
            }
            if settled && self.is_told(slot, seen) {
                return;
            }
            self.wake(slot);
            was_dozing = true;
        }
        let Some(walks) = self.live(slot).and_then(|live| live.walks.as_mut()) else {
            return;
        };
        if seen > walks.looked {
            if settled {
                walks.looked = seen;
            }
            self.catch_up(slot, false);
            self.look(slot, false);
        }
        if settled || was_dozing && self.is_crowded() {
            self.doze(slot);
        } else {
            self.doze_if_crowded(slot);
        }
    }

    /// Whether all that was counted of one that dozes has been taken in. Then there is nothing to look for
    /// until it is heard of later than `seen`.
    fn is_told(&mut self, slot: SlotId, seen: Timestamp) -> bool {
        let Some(entry) = self.table.get_mut(slot) else {
            return false;
        };
        let epoch = entry.epoch;
        let State::Dozing(dozing) = &mut entry.state else {
            return false;
        };
        let tally = dozing.tally;
        let now = [tally, neighbour(tally)].map(|tally| self.tallies.read(tally, epoch));
        let [Some(a), Some(b)] = now else {
            return false;
        };
        if both(a.print(), b.print()) != dozing.told {
            return false;
        }
        dozing.looked = seen;
        true
    }

    /// When a connection was heard of last, as its tallies have it.
    pub(in crate::proto::observer) fn heard(&mut self, slot: SlotId) -> Option<Timestamp> {
        let entry = self.table.get_mut(slot)?;
        let (epoch, tally) = (entry.epoch, entry.tally());
        if tally == 0 {
            return None;
        }
        let seen = |tally| self.tallies.last_seen(tally, epoch);
        seen(tally).max(seen(neighbour(tally)))
    }

    /// Where a direction goes on at the place that was told, and nothing has been handed over since: what goes by
    /// of the frame before it is the tally's to tell. `over` says that nothing more is handed over; else some of
    /// that frame may be, which says nothing any more.
    pub(in crate::proto::observer) fn catch_up(&mut self, slot: SlotId, over: bool) {
        let Some(entry) = self.table.get_mut(slot) else {
            return;
        };
        let epoch = entry.epoch;
        let Some((tcp, session, walks)) = entry.walked() else {
            return;
        };
        for side in 0..2 {
            let of = &mut walks.sides[side];
            let (None, Some(next)) = (of.next, tcp.next_seq(side)) else {
                continue;
            };
            // What was told may have been replaced by word of a trial, too late.
            let ahead = session.standing(side).map_or(0, |at| at.ahead);
            let header = (0 < ahead && ahead < FAR).then(|| next + ahead as u32);
            let Some(told) = of.told.or(header) else {
                continue;
            };
            // The source says so in the tally when it goes on. Without payload before it, that place may also be
            // the one that was lost.
            let is_within = session.standing(side).is_some_and(|at| at.ahead > 0);
            let is_read = self.config.interest.frames || session.wants_payload(side);
            if !over && (is_read || !is_within) {
                continue;
            }
            let tally = self.tallies.read(walks.tally(side), epoch);
            // Part of the header there may have gone by.
            let is_there = |tally: Tally| (0..MAX_HEADER).contains(&tally.next.distance_from(told));
            if tally.is_some_and(is_there) {
                tcp.jump(side, next, &mut self.shared);
                session.set_tallied(side, true);
                walks.sides[side].next = Some(next);
            }
        }
    }

    /// Takes in what a connection's tallies have counted; `over` says that nothing more comes.
    pub(in crate::proto::observer) fn look(&mut self, slot: SlotId, over: bool) {
        let Some(entry) = self.table.get_mut(slot) else {
            return;
        };
        let epoch = entry.epoch;
        let Some((tcp, session, walks)) = entry.walked() else {
            return;
        };
        for side in 0..2 {
            let Some(direction) = session.direction(side) else {
                return;
            };
            let Some(tally) = self.tallies.read(walks.tally(side), epoch) else {
                continue;
            };
            session.hear(tally.last_seen);
            let mut cx = context!(self, false);
            let of = &mut walks.sides[side];
            let counted = tally.since(&mut of.counts, direction, over);
            of.print = if tally.is_in(&of.counts) {
                tally.print()
            } else {
                0
            };
            if of.next.is_none()
                && of.told.is_some()
                && (counted.as_ref()).is_some_and(|counted| counted.frames.iter().any(|n| *n > 0))
            {
                // It goes on where it was told, and there was nothing to hand over yet. The frame
                // that was open is over.
                let mut next = tcp.next_seq(side).unwrap_or_default();
                let ahead = session.standing(side).map_or(0, |at| at.ahead);
                skip(session, side, &mut next, ahead, tally.last_seen, &mut cx);
                tcp.jump(side, next, &mut self.shared);
                session.set_tallied(side, true);
                of.next = Some(next);
            }
            if let Some(next) = &mut of.next
                // What is wanted is yet to be handed over.
                && (over || !session.wants_payload(side))
            {
                pass_payload(session, side, next, &tally, over, &mut cx);
            }
            if let Some(counted) = counted {
                session.count(tally.last_seen, counted, &mut cx);
            }
        }
    }

    /// What TCP did out of the ordinary in either direction, by whoever has counted it.
    pub(in crate::proto::observer) fn tcp_counts(&mut self, slot: SlotId) -> [TcpCounts; 2] {
        let Some(entry) = self.table.get_mut(slot) else {
            return Default::default();
        };
        let epoch = entry.epoch;
        let State::Live(live) = &mut entry.state else {
            return Default::default();
        };
        let Some(walks) = &live.walks else {
            return live.counts();
        };
        [0, 1].map(|side| match self.tallies.read(walks.tally(side), epoch) {
            Some(tally) => walks.tcp[side].and(&tally.tcp),
            None => live.tcp.counts(side),
        })
    }
}
