//! The core's front: segments in, events and verdicts out.
//!
//! Owns the table of connections and decides which of them are kept, and for how long; what they say
//! belongs to [`super::session`].

mod config;
mod doubles;
mod doze;
mod entry;
mod keys;
mod stats;
mod table;
mod verdict;
mod walks;

pub use config::{Config, Interest};
pub use stats::{Exceeded, Stats};
pub use verdict::{Decision, Verdict};

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    time::Duration,
    vec,
};

use doubles::Passed;
use entry::{Entry, Live, State};
use keys::Keys;
use table::{List, SlotId, Table};

use super::{
    event::Event,
    flow::{ConnId, FlowKey},
    segment::Segment,
    session::{Ending, Hops, Session},
    tcp::{Limits, Shared, StreamEvent},
    time::Timestamp,
    walk::{Sample, Tallies, Tally},
};

/// How long segments of a connection that is over are taken for late ones: TIME-WAIT as most systems
/// have it (RFC 9293, section 3.4.2, asks for more).
const LATE: Duration = Duration::from_secs(60);

/// Events that are made in one go, and a few more, where all connections are gone through: each takes some hundred
/// bytes, and a hundred thousand connections that have all something to say would leave the allocator
/// with tens of MB of holes.
const EVENTS_AT_ONCE: usize = if cfg!(test) { 4 } else { 2048 };

/// Between two times that the source is told to leave a connection alone, where it does not.
const INSIST: Duration = Duration::from_secs(1);

/// Follows TCP connections and says what the WebSockets among them do.
#[derive(Debug)]
pub struct Observer {
    config: Config,
    limits: Limits,
    table: Table<Entry>,
    keys: Keys,
    passed: Passed,
    hops: Hops,
    /// When a connection's missing bytes have been waited for long enough. An element is void if
    /// the entry says otherwise.
    timers: BinaryHeap<Reverse<(Timestamp, SlotId, u32)>>,
    /// Time as the segments have it.
    now: Timestamp,
    shared: Shared,
    stats: Stats,
    /// Bytes that sessions hold.
    held: usize,
    /// Decompressors that sessions have.
    inflaters: usize,
    /// Memory to unmask in.
    plain: Vec<u8>,
    last_id: u64,
    /// Entries made so far.
    born: u64,
    events: VecDeque<Event>,
    verdicts: VecDeque<Verdict>,
    tallies: Box<dyn Tallies>,
    /// Connections that doze.
    dozing: usize,
    /// The slot whose tallies are looked at next.
    next_look: u32,
    /// Directions whose place the source may have to be told.
    cursors: Vec<(SlotId, u32, usize)>,
    /// Connections that are yet to end, where the observation ends.
    ending: Option<vec::IntoIter<SlotId>>,
}

/// A source that keeps no tallies.
#[derive(Debug)]
struct NoTallies;

impl Tallies for NoTallies {
    fn read(&self, _: u32, _: u32) -> Option<Tally> {
        None
    }

    fn last_seen(&self, _: u32, _: u32) -> Option<Timestamp> {
        None
    }
}

/// The session's surroundings, out of parts of the observer that can be borrowed one by one.
macro_rules! context {
    ($observer:ident, $from_start:expr) => {
        $crate::proto::session::Context {
            config: &$observer.config,
            stats: &mut $observer.stats,
            events: &mut $observer.events,
            hops: &mut $observer.hops,
            last_id: &mut $observer.last_id,
            held: &mut $observer.held,
            inflaters: &mut $observer.inflaters,
            plain: &mut $observer.plain,
            held_elsewhere: $observer.shared.buffered,
            from_start: $from_start,
        }
    };
}
use context;

impl Observer {
    /// An observer that has seen nothing.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let limits = Limits {
            buffered_per_direction: config.max_buffered_per_direction,
            buffered_total: config.max_buffered,
            gap_patience: config.gap_patience,
            causal_order: config.causal_order,
        };
        Self {
            config,
            limits,
            table: Table::new(),
            keys: Keys::default(),
            passed: Passed::default(),
            hops: Hops::default(),
            timers: BinaryHeap::new(),
            now: Timestamp::default(),
            shared: Shared::default(),
            stats: Stats::default(),
            held: 0,
            inflaters: 0,
            plain: Vec::new(),
            last_id: 0,
            born: 0,
            events: VecDeque::new(),
            verdicts: VecDeque::new(),
            tallies: Box::new(NoTallies),
            dozing: 0,
            next_look: 0,
            cursors: Vec::new(),
            ending: None,
        }
    }

    /// Looks up here what the source counts by itself.
    #[must_use]
    pub fn with_tallies(mut self, tallies: Box<dyn Tallies>) -> Self {
        self.tallies = tallies;
        self
    }

    /// Takes in a segment.
    pub fn handle_segment(&mut self, segment: &Segment<'_>) {
        self.handle_sample(segment, Sample::default());
    }

    /// Finds or makes the place of a segment's connection; its place and the side of the sender, if
    /// the segment is of interest.
    fn arrive(&mut self, segment: &Segment<'_>) -> Option<(SlotId, usize)> {
        self.stats.segments += 1;
        self.pass_time(segment.ts);
        let (key, side) = FlowKey::new(segment.source, segment.destination, segment.scope);
        let slot = match self.table.find(&key) {
            Some(slot) => {
                self.table.touch(slot, segment.ts);
                self.renew(slot, side, segment)?
            }
            // Acknowledgements alone say nothing about a connection of which nothing is known.
            None if segment.len == 0 && !segment.flags.syn() => return None,
            None => self.admit(key, segment),
        };
        Some((slot, side))
    }

    /// Lets time pass where no segment does it: idle connections end, patience runs out.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        self.pass_time(now);
    }

    /// Ends the observation: what is held back is given up, every open connection ends as `eof`.
    pub fn finish(&mut self, now: Timestamp) {
        while !self.finish_some(now) {}
    }

    /// As [`Self::finish`], but stops where enough events wait to be polled; whether it is done. Until
    /// it is, nothing else is handed over.
    pub fn finish_some(&mut self, now: Timestamp) -> bool {
        self.now = self.now.max(now);
        let waiting = self.events.len();
        let mut open = match self.ending.take() {
            Some(open) => open,
            None => self.in_order(),
        };
        while self.events.len() - waiting < EVENTS_AT_ONCE {
            let Some(slot) = open.next() else {
                self.table = Table::new();
                self.timers.clear();
                return true;
            };
            self.end(slot, Ending::Eof, self.now);
            self.table.remove(slot);
        }
        self.ending = Some(open);
        false
    }

    /// Connections that are live, in the order of their numbers.
    fn in_order(&self) -> vec::IntoIter<SlotId> {
        let number = |live: &Live| live.session.id().unwrap_or(ConnId(u64::MAX));
        let mut live: Vec<_> = (self.table.iter())
            .filter_map(|(slot, entry)| match &entry.state {
                State::Live(live) => Some((number(live), entry.born, slot)),
                State::Dozing(dozing) => Some((dozing.id(), entry.born, slot)),
                _ => None,
            })
            .collect();
        live.sort_unstable();
        let slots: Vec<_> = live.into_iter().map(|(_, _, slot)| slot).collect();
        slots.into_iter()
    }

    /// The next event, in order.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Events that [`Self::poll_event`] has yet to give.
    #[must_use]
    pub fn events_waiting(&self) -> usize {
        self.events.len()
    }

    /// The next verdict.
    pub fn poll_verdict(&mut self) -> Option<Verdict> {
        self.verdicts.pop_front()
    }

    /// What was counted so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut stats = self.stats;
        stats.tracked = self.table.len() as u64;
        stats.held = self.held.saturating_add(self.shared.buffered) as u64;
        stats.conflicts = self.shared.conflicts;
        stats.exceeded.buffered_per_direction += self.shared.exceeded_per_direction;
        stats.exceeded.buffered += self.shared.exceeded_total;
        stats
    }

    /// Gives a new connection its place.
    fn admit(&mut self, key: FlowKey, segment: &Segment<'_>) -> SlotId {
        if self.table.len_of(List::Candidates) >= self.config.max_candidates
            && let Some(oldest) = self.table.oldest(List::Candidates)
        {
            self.stats.exceeded.candidates += 1;
            self.end(oldest, Ending::Evicted, self.now);
            self.table.remove(oldest);
        }
        self.born += 1;
        let entry = Entry {
            epoch: segment.epoch,
            born: self.born,
            syn: [None; 2],
            timer: None,
            told: Timestamp::default(),
            state: State::Live(Live::new(&key, segment.interface)),
        };
        self.table.insert(key, List::Candidates, entry, segment.ts)
    }

    /// Begins anew where `segment` shows that the connection known under its key was another one.
    /// Its place, if the segment is of interest.
    fn renew(&mut self, slot: SlotId, side: usize, segment: &Segment<'_>) -> Option<SlotId> {
        self.wake(slot);
        let entry = self.table.get_mut(slot)?;
        let known = std::mem::replace(&mut entry.epoch, segment.epoch);
        let other_epoch = known != 0 && segment.epoch != 0 && known != segment.epoch;
        let live = matches!(entry.state, State::Live(_));
        if !other_epoch && (live || !entry.is_followed_by(side, segment)) {
            if !live && segment.len > 0 && segment.ts >= entry.told.saturating_add(INSIST) {
                self.insist(slot, segment);
            }
            return live.then_some(slot);
        }
        if live {
            entry.epoch = known;
            self.end(slot, Ending::Restarted, segment.ts);
        }
        let key = self.table.key(slot);
        self.table.remove(slot);
        Some(self.admit(key, segment))
    }

    /// Tells the source once more to leave a connection alone: it may have forgotten.
    fn insist(&mut self, slot: SlotId, segment: &Segment<'_>) {
        let flow = self.table.key(slot);
        let Some(entry) = self.table.get_mut(slot) else {
            return;
        };
        entry.told = segment.ts;
        self.verdicts.push_back(Verdict {
            flow,
            epoch: segment.epoch,
            decision: Decision::Ignore,
            tally: 0,
        });
    }

    /// Hands a segment to its connection.
    fn deliver(&mut self, slot: SlotId, side: usize, segment: &Segment<'_>) {
        let key = self.table.key(slot);
        let Some(entry) = self.table.get_mut(slot) else {
            return;
        };
        if segment.flags.syn() {
            entry.syn[side] = Some(segment.seq);
        }
        let State::Live(live) = &mut entry.state else {
            return;
        };
        let before = live.counts();
        let Live {
            tcp,
            session,
            walks,
        } = &mut **live;
        let from_start = segment.flags.syn() || tcp.saw_syn(0) || tcp.saw_syn(1);
        let mut mark = Mark::new(&self.events, self.last_id);
        self.shared.elsewhere = self.held;
        let mut cx = context!(self, from_start);
        tcp.handle_segment(
            side,
            segment,
            &self.limits,
            &mut self.shared,
            &mut |event| {
                if let StreamEvent::Restart { ts, .. } = event {
                    let (ending, ts) = match session.over() {
                        Some(over) => (Ending::Finished, over),
                        None => (Ending::Restarted, ts),
                    };
                    session.close(ending, ts, before, &mut cx);
                    *session = Session::new(key.ends, segment.interface);
                    *walks = None;
                    cx.from_start = true;
                    mark = Mark::new(cx.events, *cx.last_id);
                } else {
                    if let (StreamEvent::Bytes { side, offset, .. }, Some(walks)) =
                        (&event, &mut *walks)
                    {
                        walks.reach(*side, *offset, session);
                    }
                    session.handle(&event, &mut cx);
                }
            },
        );
        self.confirm(slot, side);
        self.conclude(slot, mark);
    }

    /// Does what has become necessary after a connection's session was fed.
    fn conclude(&mut self, slot: SlotId, mark: Mark) {
        let key = self.table.key(slot);
        let Some(entry) = self.table.get_mut(slot) else {
            return;
        };
        let State::Live(live) = &mut entry.state else {
            return;
        };
        let asked = live.session.take_request().and_then(|request| {
            live.tcp.expect_answer(request.client);
            let seq = live.tcp.seq_at(request.client, request.offset)?;
            let answer = live.tcp.answer_to(request.client);
            let server = 1 - request.client;
            let (first, side) = self.keys.taken(&request.key, seq, answer, (key, server))?;
            Some((first, Some((side, key.ends[server]))))
        });
        // Where a hook sees what comes back alone, or with an address that is still to be translated.
        let taken = asked.or_else(|| {
            let answer = live.session.take_unasked()?;
            let seq = live.tcp.seq_at(answer.server, answer.offset)?;
            Some((self.keys.asked(&answer.accept, seq, key)?, None))
        });
        if let Some((first, server)) = taken {
            // What it said in the meantime another account says, too.
            let mut cx = context!(self, false);
            live.session.discard(&mut cx);
            self.events.truncate(mark.events);
            self.last_id = mark.last_id.max(self.hops.last_reserved());
            self.settle(slot, State::Ignored, Some(Decision::Ignore));
            // Packets pass the hooks in the order of their way.
            if let Some((side, server)) = server
                && let Some(first) = self.table.find(&first)
            {
                self.rename(first, side, server);
            }
            return;
        }
        if let Some(answered) = live.session.take_answered() {
            self.hops.remember(answered);
        }
        if let Some(ts) = live.session.over() {
            self.finish_off(slot, Ending::Finished, ts);
            return;
        }
        match live.session.take_decision() {
            Some(Decision::Ignore) => {
                self.settle(slot, State::Ignored, Some(Decision::Ignore));
                return;
            }
            Some(decision) => self.verdicts.push_back(Verdict {
                flow: key,
                epoch: entry.epoch,
                decision,
                tally: 0,
            }),
            None => {}
        }
        let open = live.session.is_open();
        if let Some(at) = live.tcp.poll_timeout(&self.limits)
            && entry.timer.is_none_or(|timer| at < timer)
        {
            entry.timer = Some(at);
            let generation = self.table.generation(slot);
            self.timers.push(Reverse((at, slot, generation)));
        }
        let list = if open { List::Open } else { List::Candidates };
        if self.table.list(slot) != list {
            self.table.move_to(slot, list);
            if self.table.len_of(List::Open) > self.config.max_connections
                && let Some(oldest) = self.table.oldest(List::Open)
            {
                self.stats.exceeded.connections += 1;
                self.end(oldest, Ending::Evicted, self.now);
                // It lives on, and would only be found again.
                let until = Timestamp(u64::MAX);
                self.settle(oldest, State::Over { until }, None);
            }
        }
    }

    /// A connection is over.
    fn finish_off(&mut self, slot: SlotId, ending: Ending, ts: Timestamp) {
        self.catch_up(slot, true);
        self.look(slot, true);
        let tcp = self.tcp_counts(slot);
        let Some(entry) = self.table.get_mut(slot) else {
            return;
        };
        let State::Live(live) = &mut entry.state else {
            return;
        };
        let mut cx = context!(self, false);
        live.session.close(ending, ts, tcp, &mut cx);
        let decision = live.session.take_decision();
        let until = ts.saturating_add(LATE);
        self.settle(slot, State::Over { until }, decision);
    }

    /// A connection is decided: only so much is kept of it as to know it again.
    fn settle(&mut self, slot: SlotId, state: State, decision: Option<Decision>) {
        let key = self.table.key(slot);
        let Some(entry) = self.table.get_mut(slot) else {
            return;
        };
        let tally = entry.tally();
        if let State::Live(live) = &mut entry.state {
            live.tcp.discard(&mut self.shared);
        }
        entry.state = state;
        entry.timer = None;
        entry.told = self.now;
        let epoch = entry.epoch;
        self.verdicts.extend(decision.map(|decision| Verdict {
            flow: key,
            epoch,
            decision,
            tally,
        }));
        self.table.move_to(slot, List::Decided);
        if self.table.len_of(List::Decided) > self.config.max_candidates
            && let Some(oldest) = self.table.oldest(List::Decided)
        {
            self.table.remove(oldest);
        }
    }

    /// Ends a connection from outside: what is held back is given up first. What becomes of its
    /// place is the caller's business.
    fn end(&mut self, slot: SlotId, ending: Ending, ts: Timestamp) {
        let key = self.table.key(slot);
        self.wake(slot);
        self.take_waiting(slot, true);
        self.catch_up(slot, true);
        self.look(slot, true);
        let counts = self.tcp_counts(slot);
        let Some(entry) = self.table.get_mut(slot) else {
            return;
        };
        let tally = entry.tally();
        let State::Live(live) = &mut entry.state else {
            return;
        };
        let Live { tcp, session, .. } = &mut **live;
        let from_start = tcp.saw_syn(0) || tcp.saw_syn(1);
        let mut cx = context!(self, from_start);
        tcp.flush(&self.limits, &mut self.shared, &mut |event| {
            session.handle(&event, &mut cx);
        });
        let tcp = if tally == 0 { live.counts() } else { counts };
        let (ending, ts) = match live.session.over() {
            Some(over) => (Ending::Finished, over),
            None => (ending, ts),
        };
        live.session.close(ending, ts, tcp, &mut cx);
        let decision = live.session.take_decision();
        live.tcp.discard(&mut self.shared);
        let epoch = entry.epoch;
        self.verdicts.extend(decision.map(|decision| Verdict {
            flow: key,
            epoch,
            decision,
            tally,
        }));
    }

    /// It is `now`: patience runs out, silent connections end.
    fn pass_time(&mut self, now: Timestamp) {
        self.now = self.now.max(now);
        while let Some(Reverse((at, slot, generation))) = self.timers.peek().copied() {
            if at > self.now {
                break;
            }
            self.timers.pop();
            if self.table.generation(slot) == generation {
                self.fire(slot, at);
            }
        }
        for list in [List::Open, List::Candidates, List::Decided] {
            while let Some(slot) = self.table.oldest(list) {
                let idle_timeout = self.config.idle_timeout;
                let deadline = self.table.last_seen(slot).saturating_add(idle_timeout);
                if deadline > self.now {
                    break;
                }
                if let Some(seen) = self.heard(slot)
                    && seen > self.table.last_seen(slot)
                {
                    self.table.touch(slot, seen);
                    continue;
                }
                self.end(slot, Ending::Idle, deadline);
                self.table.remove(slot);
            }
        }
    }

    /// A connection's patience has run out, if `at` is still when it should.
    fn fire(&mut self, slot: SlotId, at: Timestamp) {
        let Some(entry) = self.table.get_mut(slot) else {
            return;
        };
        if entry.timer != Some(at) {
            return;
        }
        entry.timer = None;
        let State::Live(live) = &mut entry.state else {
            return;
        };
        let Live { tcp, session, .. } = &mut **live;
        let from_start = tcp.saw_syn(0) || tcp.saw_syn(1);
        let mark = Mark::new(&self.events, self.last_id);
        self.shared.elsewhere = self.held;
        let mut cx = context!(self, from_start);
        tcp.handle_timeout(self.now, &self.limits, &mut self.shared, &mut |event| {
            session.handle(&event, &mut cx);
        });
        self.conclude(slot, mark);
    }
}

/// How far events and connection numbers had come.
#[derive(Clone, Copy)]
struct Mark {
    events: usize,
    last_id: u64,
}

impl Mark {
    fn new(events: &VecDeque<Event>, last_id: u64) -> Self {
        Self {
            events: events.len(),
            last_id,
        }
    }
}

#[cfg(test)]
pub(crate) mod script;
#[cfg(test)]
mod tests;
