//! One connection under several pairs of addresses, of which no handshake was seen: it is known by its
//! segments. Translation of addresses leaves their sequence numbers as they are.

use std::{
    collections::{BTreeMap, VecDeque, hash_map::RandomState},
    hash::BuildHasher,
    net::SocketAddr,
    time::Duration,
};

use super::{Decision, Observer, State, context, table::SlotId};
use crate::proto::{flow::FlowKey, segment::Segment, time::Timestamp};

/// Segments that are remembered.
const REMEMBERED: usize = 4096;

/// The hooks that a segment passes see it within microseconds, or milliseconds where it has to queue.
const SOON: Duration = Duration::from_secs(1);

/// Payload bytes that are compared: capture files are made up and replayed with the same numbers again
/// and again.
const BEGINNING: usize = 8;

/// How long the segments of a WebSocket are remembered behind its first: until the source has hooks
/// everywhere, if it was about to.
const BEHIND: Duration = Duration::from_secs(10);

/// Segments of connections without a handshake, and the flow on which each was seen first.
#[derive(Debug, Default)]
pub(super) struct Passed {
    secret: RandomState,
    /// By the hash of sequence and acknowledgement number.
    flows: BTreeMap<u64, Seen>,
    order: VecDeque<u64>,
}

/// Where a segment was seen first.
#[derive(Clone, Copy, Debug)]
struct Seen {
    flow: FlowKey,
    /// The sender's side there.
    sender: usize,
    ts: Timestamp,
    /// As many bytes of the payload's beginning as were captured.
    beginning: ([u8; BEGINNING], usize),
}

impl Seen {
    fn new(segment: &Segment<'_>, flow: FlowKey, sender: usize) -> Self {
        let first = segment.windows.first().filter(|first| first.offset == 0);
        let bytes = first.map_or(&[][..], |first| first.bytes);
        let mut beginning = [0; BEGINNING];
        let captured = beginning.iter_mut().zip(bytes);
        let captured = captured.map(|(to, from)| *to = *from).count();
        Self {
            flow,
            sender,
            ts: segment.ts,
            beginning: (beginning, captured),
        }
    }

    /// Whether this can be the same segment elsewhere.
    fn is_elsewhere(&self, other: &Self) -> bool {
        let ((own, n), (others, m)) = (self.beginning, other.beginning);
        let both = own.iter().zip(&others).take(n.min(m));
        self.flow != other.flow
            && other.ts.saturating_since(self.ts) <= SOON
            && both.into_iter().all(|(own, other)| own == other)
    }
}

impl Passed {
    /// The flow that had the segment before, and its sender's side there; else it is remembered as
    /// `flow`'s.
    fn first(
        &mut self,
        segment: &Segment<'_>,
        flow: FlowKey,
        side: usize,
    ) -> Option<(FlowKey, usize)> {
        let hash = self.secret.hash_one((segment.seq.0, segment.ack?.0));
        let own = Seen::new(segment, flow, side);
        if let Some(first) = self.flows.get_mut(&hash) {
            if first.is_elsewhere(&own) {
                return Some((first.flow, first.sender));
            }
            *first = own;
            return None;
        }
        if self.order.len() >= REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.flows.remove(&oldest);
        }
        self.order.push_back(hash);
        self.flows.insert(hash, own);
        None
    }
}

impl Observer {
    /// Whether the segment of `slot` is one that another account of the same connection had before, and
    /// that other one goes on. Where this one does, the other is given up.
    pub(super) fn is_double(&mut self, slot: SlotId, side: usize, segment: &Segment<'_>) -> bool {
        let now = segment.ts;
        let Some((own_open, mut own_sides)) = self.unplaced(slot, now) else {
            return false;
        };
        if segment.len == 0 {
            return false;
        }
        let Some((flow, sender)) = self.passed.first(segment, self.table.key(slot), side) else {
            return false;
        };
        let Some(other) = self.table.find(&flow) else {
            return false;
        };
        let Some((other_open, other_sides)) = self.unplaced(other, now) else {
            return false;
        };
        own_sides[side] = true;
        let both = |sides: [bool; 2]| sides == [true; 2];
        let stays = match (own_open, other_open) {
            // Both were told of already.
            (true, true) => return false,
            (true, false) => true,
            (false, true) => false,
            // A hook may see one direction only: who sees both has to be found out.
            _ if !both(own_sides) && !both(other_sides) => return false,
            _ => !both(other_sides),
        };
        // Packets pass the hooks in the order of their way.
        if stays {
            self.give_up_for_another(other);
            self.rename(slot, side, flow.ends[sender]);
        } else {
            self.give_up_for_another(slot);
            self.rename(other, 1 - sender, segment.destination);
        }
        !stays
    }

    /// Of a connection whose beginning was not seen, and which is recognised by its segments: whether
    /// it was, and which sides have spoken. A WebSocket is for a while only.
    fn unplaced(&mut self, slot: SlotId, now: Timestamp) -> Option<(bool, [bool; 2])> {
        let live = self.live(slot)?;
        if live.tcp.saw_syn(0) || live.tcp.saw_syn(1) {
            return None;
        }
        let since = live.session.unplaced()?;
        if since.is_some_and(|opened| now > opened.saturating_add(BEHIND)) {
            return None;
        }
        Some((since.is_some(), [0, 1].map(|side| live.tcp.seen(side))))
    }

    /// Another account of the same connection is followed.
    fn give_up_for_another(&mut self, slot: SlotId) {
        let Some(entry) = self.table.get_mut(slot) else {
            return;
        };
        if let State::Live(live) = &mut entry.state {
            let mut cx = context!(self, false);
            live.session.discard(&mut cx);
        }
        self.settle(slot, State::Ignored, Some(Decision::Ignore));
    }

    /// An end of a connection is at another address than the account has it.
    pub(super) fn rename(&mut self, slot: SlotId, side: usize, end: SocketAddr) {
        if let Some(entry) = self.table.get_mut(slot)
            && let State::Live(live) = &mut entry.state
        {
            live.session.translate(side, end, &mut self.hops);
        }
    }
}
