//! Connections whose frames the source follows by itself.
//!
//! Each direction of such a connection is either handed over whole, and goes through reassembly as
//! any other, or is walked: then frames come with the place where they belong, and what is not
//! handed over is payload. Owns the passage from one to the other, the order of what is handed over,
//! and the account of what the source counts.

mod counting;
mod reading;
mod waiting;

use std::time::Duration;

use super::{EVENTS_AT_ONCE, Entry, Live, Mark, Observer, State, context, table::SlotId};
use crate::proto::{
    event::TcpCounts,
    flow::Direction,
    packed::Packer,
    segment::Segment,
    seq::SeqNumber,
    session::Session,
    tcp::{StreamEvent, TcpFlow},
    time::Timestamp,
    walk::{self, Counts, Cursor, Sample, Walk, neighbour},
};
use reading::Reading;
use waiting::Waiting;

/// Walks of a direction that wait for those before them. Two processors may hand theirs over in the
/// wrong order.
const MAX_WAITING: usize = 4;
/// Walks of a direction that wait until its WebSocket is known.
const MAX_UNOPENED: usize = 16;
/// Largest distance between a reset and what its sender has sent.
const NEAR: u32 = 1 << 20;
/// Payload before the next header beyond which a cursor says nothing: sequence numbers could not tell
/// it from one that has passed.
const FAR: u64 = 1 << 30;
/// Bytes of the longest header.
const MAX_HEADER: i32 = 14;
/// How long a source may take to go on where its trial has come to.
const CONFIRMING: Duration = Duration::from_millis(250);
/// Events for which there is always room.
const EVENTS_KEPT: usize = 8192;
/// Connections that are looked at in one go. Records wait meanwhile.
const SLOTS_OF_LOOK: u32 = if cfg!(test) { 2 } else { 16_384 };
/// A tally is taken for complete whose last payload was so long ago.
const SETTLED: Duration = Duration::from_secs(1);

/// A connection of which the source keeps tallies.
#[derive(Debug)]
pub(super) struct Walks {
    /// Of side 0; that of side 1 is the neighbour.
    pub(super) tally: u32,
    sides: [Side; 2],
    /// What reassembly had counted until the source did.
    tcp: [TcpCounts; 2],
    /// Up to what time the tallies were looked at.
    pub(super) looked: Timestamp,
}

#[derive(Debug)]
struct Side {
    /// The next byte that has not been handed to the session, where the direction is walked.
    next: Option<SeqNumber>,
    /// The number of the next walk.
    number: u32,
    waiting: Vec<Waiting>,
    /// What of the tally was reported.
    counts: Box<Counts>,
    /// [`Tally::print`] when all of it was reported, 0 before.
    print: u32,
    /// Since when the direction is handed over whole, as the source has it.
    version: u32,
    /// The cursor that the source was given last.
    told: Option<SeqNumber>,
    /// It has segments that no cursor takes account of yet.
    moved: bool,
    /// Where in the stream the source's trial began. What is before it may have to be waited for.
    awaited: Option<(u64, SeqNumber)>,
    /// A trial of the source began at a header: where, and what was before it. The source is to be told.
    trial: Option<(SeqNumber, walk::Place)>,
    /// When the source was told of a trial.
    confirmed: Option<Timestamp>,
}

impl Side {
    /// Whether the source was told of a trial just now.
    fn is_confirming(&self, now: Timestamp) -> bool {
        let waits = |at: Timestamp| now.saturating_since(at) < CONFIRMING;
        self.confirmed.is_some_and(waits)
    }
}

impl Walks {
    pub(super) fn new(side: usize, tally: u32, tcp: [TcpCounts; 2]) -> Box<Self> {
        let new = |_| Side {
            next: None,
            number: 0,
            waiting: Vec::new(),
            counts: Box::default(),
            print: 0,
            version: 0,
            told: None,
            moved: false,
            awaited: None,
            trial: None,
            confirmed: None,
        };
        Box::new(Self {
            tally: if side == 0 { tally } else { neighbour(tally) },
            sides: [0, 1].map(new),
            tcp,
            looked: Timestamp::default(),
        })
    }

    /// Whether nothing waits, and the source has been told what there is to tell, and has had the time to
    /// act on it.
    pub(super) fn is_quiet(&self, now: Timestamp) -> bool {
        self.sides.iter().all(|side| {
            let is_told = !side.moved && side.trial.is_none() && !side.is_confirming(now);
            side.waiting.is_empty() && is_told
        })
    }

    /// Writes or reads what is no field of [`super::doze::Dozing`] of one that is quiet. `tcp` is what
    /// it belongs to.
    pub(super) fn pack(&mut self, tcp: &TcpFlow, p: &mut Packer) {
        for (of, side) in self.sides.iter_mut().enumerate() {
            let known = tcp.next_seq(of).unwrap_or_default().0;
            let Side {
                next,
                number,
                waiting: _,
                counts,
                print: _,
                version,
                told,
                moved: _,
                awaited: _,
                trial: _,
                confirmed: _,
            } = side;
            p.option(next, |p, next| p.near_short(&mut next.0, known));
            p.short(number);
            counts.pack(p);
            p.short(version);
            p.option(told, |p, told| p.near_short(&mut told.0, known));
        }
        for counts in &mut self.tcp {
            counts.pack(p);
        }
    }

    /// A side's stream has come to `offset`, where it is at `standing`: maybe the source's trial began
    /// there, and at a header.
    pub(super) fn reach(&mut self, side: usize, offset: u64, session: &Session) {
        let of = &mut self.sides[side];
        if let Some((_, seq)) = of.awaited.take_if(|(at, _)| *at == offset)
            && let Some(standing) = session.standing(side).filter(|at| at.ahead == 0)
        {
            of.trial = Some((seq, standing.place));
        }
    }

    /// What tells whether anything was counted since the tallies were looked at.
    pub(super) fn told(&self) -> u32 {
        let [a, b] = &self.sides;
        both(a.print, b.print)
    }

    /// The tally of a side.
    fn tally(&self, side: usize) -> u32 {
        if side == 0 {
            self.tally
        } else {
            neighbour(self.tally)
        }
    }
}

/// One number of two.
fn both(a: u32, b: u32) -> u32 {
    a.rotate_left(16) ^ b
}

impl Entry {
    /// The tally of side 0, 0 if there is none.
    pub(super) fn tally(&self) -> u32 {
        match &self.state {
            State::Live(live) => live.walks.as_ref().map_or(0, |walks| walks.tally),
            State::Dozing(dozing) => dozing.tally,
            _ => 0,
        }
    }
}

impl Observer {
    /// Takes in a segment of a connection whose frames the source may follow.
    pub fn handle_sample(&mut self, segment: &Segment<'_>, sample: Sample) {
        let Some((slot, side)) = self.arrive(segment) else {
            return;
        };
        if self.is_double(slot, side, segment) {
            return;
        }
        if sample.tally != 0 && self.is_walked(slot, side) {
            self.handle_straggler(slot, side, segment, sample);
            return;
        }
        if sample.tally != 0 && sample.boundary.is_none() {
            // The source counts what TCP does from this segment on.
            self.account(slot, side, sample.tally);
        }
        if sample.is_trial {
            self.try_on(slot, side, segment);
        }
        self.deliver(slot, side, segment);
        if sample.tally != 0 {
            self.follow(slot, side, sample);
            self.doze_if_crowded(slot);
        }
    }

    /// Takes in what the source has found in a segment.
    pub fn handle_walk<'a>(
        &mut self,
        walk: &Walk<'_>,
        entries: &mut dyn Iterator<Item = walk::Entry<'a>>,
    ) {
        let Some((slot, side)) = self.arrive(&walk.segment) else {
            return;
        };
        if self.is_double(slot, side, &walk.segment) {
            return;
        }
        self.account(slot, side, walk.tally);
        let Some(live) = self.live(slot) else {
            return;
        };
        let is_open = live.session.is_open();
        let Some(walks) = &mut live.walks else {
            return;
        };
        let of = &mut walks.sides[side];
        let ahead = walk.number.wrapping_sub(of.number).cast_signed();
        if is_open && ahead <= 0 && of.waiting.is_empty() {
            self.take_walk(slot, side, walk, entries);
            self.doze_if_crowded(slot);
            return;
        }
        of.waiting.push(Waiting::new(walk, entries));
        self.take_waiting(slot, false);
    }

    /// Looks at the tallies of connections: reports what was counted, and who has been heard of.
    ///
    /// Goes on where it has stopped the last time, and stops where enough events wait to be polled, or
    /// it has looked at enough. Whether the round is over: all connections have been looked at.
    pub fn handle_tallies(&mut self, now: Timestamp) -> bool {
        self.now = self.now.max(now);
        // Where bytes were waited for, one segment may bring some ten thousand events at once.
        self.events.shrink_to(EVENTS_KEPT);
        let waiting = self.events.len();
        let end = self.table.slots();
        let stop = end.min(self.next_look.saturating_add(SLOTS_OF_LOOK));
        while self.next_look < stop {
            if self.events.len() - waiting >= EVENTS_AT_ONCE {
                return false;
            }
            let slot = self.table.slot(self.next_look);
            self.next_look += 1;
            self.take_waiting(slot, true);
            self.heed(slot);
        }
        let is_over = stop == end;
        if is_over {
            self.next_look = 0;
        }
        is_over
    }

    /// The next place that the source should be told of.
    pub fn poll_cursor(&mut self) -> Option<Cursor> {
        while let Some((slot, generation, side)) = self.cursors.pop() {
            if self.table.generation(slot) != generation {
                continue;
            }
            let cursor = self.cursor(slot, side);
            self.doze_if_crowded(slot);
            if cursor.is_some() {
                return cursor;
            }
        }
        None
    }

    pub(super) fn live(&mut self, slot: SlotId) -> Option<&mut Live> {
        match &mut self.table.get_mut(slot)?.state {
            State::Live(live) => Some(live),
            _ => None,
        }
    }

    fn is_walked(&mut self, slot: SlotId, side: usize) -> bool {
        let walks = self.live(slot).and_then(|live| live.walks.as_ref());
        walks.is_some_and(|walks| walks.sides[side].next.is_some())
    }

    /// A connection has tallies.
    fn account(&mut self, slot: SlotId, side: usize, tally: u32) {
        if let Some(live) = self.live(slot)
            && (live.walks.as_ref()).is_none_or(|walks| walks.tally(side) != tally)
        {
            let counts = live.counts();
            live.walks = Some(Walks::new(side, tally, counts));
        }
    }

    /// A segment was taken in of a connection that has tallies; maybe its direction is walked from
    /// now on.
    fn follow(&mut self, slot: SlotId, side: usize, sample: Sample) {
        self.account(slot, side, sample.tally);
        let generation = self.table.generation(slot);
        let Some(live) = self.live(slot) else {
            return;
        };
        let Some(walks) = &mut live.walks else {
            return;
        };
        if let Some(boundary) = sample.boundary {
            walks.sides[side].next = Some(boundary);
            live.session.set_tallied(side, true);
            live.tcp.forget_acknowledgement(1 - side);
        } else {
            // The other one may have had nothing to say yet. What it says first is to be walked, since
            // how quiet it was before is known to the source alone.
            let moved = [0, 1].map(|side| std::mem::replace(&mut walks.sides[side].moved, true));
            let news = moved.iter().enumerate().filter(|(_, moved)| !**moved);
            self.cursors
                .extend(news.map(|(side, _)| (slot, generation, side)));
        }
        self.take_waiting(slot, false);
    }

    /// The source tries whether a header begins with this segment, which is not taken in yet.
    fn try_on(&mut self, slot: SlotId, side: usize, segment: &Segment<'_>) {
        if let Some(live) = self.live(slot)
            && let Some(walks) = &mut live.walks
        {
            let offset = live.tcp.offset_of(side, segment.seq);
            walks.sides[side].awaited = offset.map(|offset| (offset, segment.seq));
        }
    }

    /// Has the source told that its trial began at a header, if it has turned out so.
    pub(super) fn confirm(&mut self, slot: SlotId, side: usize) {
        let generation = self.table.generation(slot);
        let walks = self.live(slot).and_then(|live| live.walks.as_ref());
        if walks.is_some_and(|walks| walks.sides[side].trial.is_some()) {
            self.cursors.push((slot, generation, side));
        }
    }

    /// A segment of a direction that is walked: it is late, or what said that the place was lost has
    /// been lost itself.
    fn handle_straggler(
        &mut self,
        slot: SlotId,
        side: usize,
        segment: &Segment<'_>,
        sample: Sample,
    ) {
        let Some(live) = self.live(slot) else {
            return;
        };
        let Some(next) = (live.walks.as_ref()).and_then(|walks| walks.sides[side].next) else {
            return;
        };
        let ahead = live.session.standing(side).map_or(0, |at| at.ahead);
        let end = segment.seq + segment.len;
        let beyond = i64::from(end.distance_from(next));
        let ends = segment.flags.fin() || segment.flags.rst();
        if !ends && (segment.len == 0 || beyond <= i64::try_from(ahead).unwrap_or(i64::MAX)) {
            return;
        }
        self.leave(slot, side, segment.seq);
        self.deliver(slot, side, segment);
        self.follow(slot, side, sample);
    }

    /// Takes what waited as far as it is its turn, or all of it where it has waited long enough.
    pub(super) fn take_waiting(&mut self, slot: SlotId, long_enough: bool) {
        let Some(walks) = self.live(slot).and_then(|live| live.walks.as_ref()) else {
            return;
        };
        let since = |side: usize| {
            let waiting = &walks.sides[side].waiting;
            waiting.iter().map(|waiting| waiting.walk.segment.ts).min()
        };
        let first = usize::from(since(1).is_some_and(|at| since(0).is_none_or(|own| at < own)));
        for side in [first, 1 - first] {
            loop {
                let Some(live) = self.live(slot) else {
                    return;
                };
                let is_open = live.session.is_open();
                let Some(walks) = &mut live.walks else {
                    return;
                };
                let of = &mut walks.sides[side];
                let behind = |waiting: &Waiting| waiting.walk.number.wrapping_sub(of.number);
                let first = (of.waiting.iter().enumerate())
                    .min_by_key(|(_, waiting)| behind(waiting).cast_signed())
                    .map(|(at, waiting)| (at, behind(waiting).cast_signed()));
                let Some((at, ahead)) = first else {
                    break;
                };
                let bound = if is_open { MAX_WAITING } else { MAX_UNOPENED };
                let overdue = long_enough || of.waiting.len() > bound;
                if !overdue && (!is_open || ahead > 0) {
                    break;
                }
                let waiting = of.waiting.swap_remove(at);
                if !is_open && let Some(is_client) = waiting.is_of_client() {
                    let client = if is_client { side } else { 1 - side };
                    self.open_unseen(slot, client, waiting.walk.segment.ts);
                }
                let mut entries = waiting.entries();
                self.take_walk(slot, side, &waiting.walk, &mut entries);
            }
        }
    }

    /// The source follows a WebSocket whose opening was not seen.
    fn open_unseen(&mut self, slot: SlotId, client: usize, ts: Timestamp) {
        let Some(entry) = self.table.get_mut(slot) else {
            return;
        };
        let State::Live(live) = &mut entry.state else {
            return;
        };
        let mark = Mark::new(&self.events, self.last_id);
        let mut cx = context!(self, false);
        live.session.open_unseen(client, ts, &mut cx);
        self.conclude(slot, mark);
    }

    /// A walk whose turn it is.
    fn take_walk<'a>(
        &mut self,
        slot: SlotId,
        side: usize,
        walk: &Walk<'_>,
        entries: &mut dyn Iterator<Item = walk::Entry<'a>>,
    ) {
        let reset = walk.segment.flags.rst();
        let credible = walk.segment.seq.distance_from(walk.high).unsigned_abs() <= NEAR;
        if walk.lost.is_some() || (reset && credible) {
            // What was counted until then comes before it.
            if reset {
                self.catch_up(slot, true);
            }
            self.look(slot, false);
        }
        let Some(entry) = self.table.get_mut(slot) else {
            return;
        };
        let Some((tcp, session, walks)) = entry.walked() else {
            return;
        };
        let of = &mut walks.sides[side];
        let missed = walk.number.wrapping_sub(of.number).cast_signed();
        if missed >= 0 {
            of.number = walk.number.wrapping_add(1);
            self.stats.walks_lost += u64::from(missed.unsigned_abs());
        }
        let mark = Mark::new(&self.events, self.last_id);
        let mut cx = context!(self, false);
        if walk.resumed && of.next.is_none() {
            // All that is handed over whole has been. What is missing goes by unseen, if at all.
            tcp.flush_side(side, &self.limits, &mut self.shared, &mut |event| {
                session.handle(&event, &mut cx);
            });
        }
        let next = match of.next {
            Some(next) => next,
            None => {
                let next = tcp.next_seq(side).unwrap_or(walk.from);
                tcp.jump(side, next, &mut self.shared);
                tcp.forget_acknowledgement(1 - side);
                next
            }
        };
        session.set_tallied(side, true);
        if walk.resumed {
            of.confirmed = None;
            let known = session.standing(side).is_some_and(|at| {
                next + at.ahead as u32 == walk.from && at.place.index == walk.place.index
            });
            if !known {
                session.put(side, &walk.place, &mut cx);
            }
            of.next = Some(if known { next } else { walk.from });
            self.conclude(slot, mark);
            return;
        }
        let mut reading = Reading {
            side,
            session,
            next,
            begin: walk.segment.seq,
            quiet_since: walk.quiet_since,
            ts: walk.segment.ts,
        };
        let activity = reading.session.replace_activity(walk.quiet_since);
        for entry in entries {
            reading.take(&entry, &mut cx);
        }
        if let Some(version) = walk.lost {
            reading.leave(walk.from, &walk.place, &mut cx);
            of.next = None;
            of.version = version;
            of.told = None;
            of.awaited = None;
            of.trial = None;
            session.set_tallied(side, false);
            session.note_activity(activity);
            tcp.jump(side, walk.from, &mut self.shared);
            self.conclude(slot, mark);
            return;
        }
        if !reset {
            reading.finish(walk.segment.seq + walk.segment.len, &mut cx);
            if walk.segment.len > 0 {
                reading.session.note_activity(walk.segment.ts);
            }
        }
        of.next = Some(reading.next);
        let ts = walk.segment.ts;
        if reset && credible {
            // What the other side has sent, and is handed over whole, waits for nothing any more.
            tcp.flush_side(1 - side, &self.limits, &mut self.shared, &mut |event| {
                session.handle(&event, &mut cx);
            });
            session.handle(&StreamEvent::Reset { side, ts }, &mut cx);
        } else if walk.segment.flags.fin() {
            session.handle(&StreamEvent::Fin { side, ts }, &mut cx);
        }
        session.note_activity(activity);
        self.conclude(slot, mark);
    }

    /// A direction is handed over whole from `seq` on, and nobody knows what is there.
    fn leave(&mut self, slot: SlotId, side: usize, seq: SeqNumber) {
        let Some(entry) = self.table.get_mut(slot) else {
            return;
        };
        let State::Live(live) = &mut entry.state else {
            return;
        };
        let Some(walks) = &mut live.walks else {
            return;
        };
        let of = &mut walks.sides[side];
        of.next = None;
        of.told = None;
        of.awaited = None;
        live.tcp.jump(side, seq, &mut self.shared);
        let mut cx = context!(self, false);
        live.session.lose(side, &mut cx);
        live.session.set_tallied(side, false);
    }

    /// What a side's next cursor says, if there is anything new.
    fn cursor(&mut self, slot: SlotId, side: usize) -> Option<Cursor> {
        let flow = self.table.key(slot);
        let entry = self.table.get_mut(slot)?;
        let epoch = entry.epoch;
        let State::Live(live) = &mut entry.state else {
            return None;
        };
        let of = &mut live.walks.as_mut()?.sides[side];
        of.moved = false;
        let trial = of.trial.take();
        // From the place that is told, nothing before it is handed over.
        if of.next.is_some() || (trial.is_none() && live.session.wants_payload(side)) {
            return None;
        }
        let direction = live.session.direction(side)?;
        let compresses = live.session.compresses();
        let (next, place) = if let Some(trial) = trial {
            of.confirmed = Some(self.now);
            of.told = None;
            trial
        } else {
            // What it is told now would take the place of that.
            if of.is_confirming(self.now) {
                return None;
            }
            let standing = live.session.standing(side)?;
            let ahead = u32::try_from(standing.ahead).ok();
            let ahead = ahead.filter(|ahead| u64::from(*ahead) < FAR)?;
            let next = live.tcp.next_seq(side)? + ahead;
            if of.told.replace(next) == Some(next) {
                return None;
            }
            (next, standing.place)
        };
        Some(Cursor {
            flow,
            epoch,
            side,
            next,
            place,
            is_client: direction == Direction::ClientToServer,
            compresses,
            version: of.version,
        })
    }
}
