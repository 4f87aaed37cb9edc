//! A WebSocket whose source follows the frames by itself: where it is put, and what is counted for
//! it.

use super::{Account, Context, Decided, Phase, Session, incoming::Reading, websocket::WebSocket};
use crate::proto::{
    deflate::{Extensions, Unit},
    event::{Counted, EventKind, OpcodeCounts, Outcome},
    flow::Direction,
    frame::{HeaderDecoder, Opcode},
    message::Messages,
    time::Timestamp,
    walk::{Place, opcode_of},
};

/// Where a direction is in its frames.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Standing {
    /// Payload bytes before the next header.
    pub ahead: u64,
    /// What is known there.
    pub place: Place,
}

impl Session {
    /// Where `side` is in its frames; `None` where that is not known, or it is within a header, or no
    /// WebSocket is open.
    #[must_use]
    pub fn standing(&self, side: usize) -> Option<Standing> {
        match &self.phase {
            Phase::WebSocket(websocket) => websocket.standing(websocket.direction(side)),
            _ => None,
        }
    }

    /// Whether RSV1 may say that a message is compressed.
    #[must_use]
    pub fn compresses(&self) -> bool {
        match &self.phase {
            Phase::WebSocket(websocket) => websocket.extensions.unit() == Some(Unit::Message),
            _ => false,
        }
    }

    /// Whether `side` is in a payload of which bytes are still wanted: a control frame's.
    #[must_use]
    pub fn wants_payload(&self, side: usize) -> bool {
        let Phase::WebSocket(websocket) = &self.phase else {
            return false;
        };
        match &websocket.incoming[websocket.direction(side)].reading {
            Reading::Payload(open) => !open.is_ready(),
            _ => false,
        }
    }

    /// Which direction `side` sends in, once a WebSocket is open.
    #[must_use]
    pub fn direction(&self, side: usize) -> Option<Direction> {
        match &self.phase {
            Phase::WebSocket(websocket) => Some(websocket.direction(side)),
            _ => None,
        }
    }

    /// The next byte of `side` is that of a header, at this place.
    pub fn put(&mut self, side: usize, place: &Place, cx: &mut Context<'_>) {
        if let Phase::WebSocket(websocket) = &mut self.phase {
            websocket.put(websocket.direction(side), place, cx);
        }
        self.settle(cx);
    }

    /// The place of `side` is lost, and nobody says where it is.
    pub fn lose(&mut self, side: usize, cx: &mut Context<'_>) {
        if let Phase::WebSocket(websocket) = &mut self.phase {
            let direction = websocket.direction(side);
            if !matches!(websocket.incoming[direction].reading, Reading::Ended) {
                websocket.begin_anywhere(direction, None, cx);
            }
        }
        self.settle(cx);
    }

    /// Whether the source counts the frames of `side` that begin from now on.
    pub fn set_tallied(&mut self, side: usize, tallied: bool) {
        if let Phase::WebSocket(websocket) = &mut self.phase {
            let direction = websocket.direction(side);
            websocket.incoming[direction].tallied = tallied;
        }
    }

    /// There was payload at `ts` last, before what is handed over next; what was known of it so far.
    pub fn replace_activity(&mut self, ts: Timestamp) -> Timestamp {
        match &mut self.phase {
            Phase::WebSocket(websocket) => std::mem::replace(&mut websocket.last_activity, ts),
            _ => ts,
        }
    }

    /// There was payload at `ts` of which it may be that it is still to be handed over.
    pub fn hear(&mut self, ts: Timestamp) {
        if let Phase::WebSocket(websocket) = &mut self.phase {
            websocket.heard = websocket.heard.max(ts);
        }
    }

    /// There was payload at `ts`.
    pub fn note_activity(&mut self, ts: Timestamp) {
        if let Phase::WebSocket(websocket) = &mut self.phase {
            websocket.last_activity = websocket.last_activity.max(ts);
        }
    }

    /// The source has counted frames.
    pub fn count(&mut self, ts: Timestamp, counted: Box<Counted>, cx: &mut Context<'_>) {
        if let Phase::WebSocket(websocket) = &mut self.phase {
            websocket.count(ts, counted, cx);
        }
    }

    /// The source follows a WebSocket of which nothing was seen before. `client` is the side of the
    /// client.
    pub fn open_unseen(&mut self, client: usize, ts: Timestamp, cx: &mut Context<'_>) {
        let attempt = match &mut self.phase {
            Phase::Http(http) => http.take_attempt(),
            Phase::Probe(probe) => probe.http.take_attempt(),
            Phase::WebSocket(_) | Phase::Closed => return,
        };
        let attempt = attempt.as_ref().filter(|(asked, _)| *asked == client);
        let account: &mut Account = &mut self.account;
        let decided = Decided {
            client,
            attempt: attempt.map(|(_, attempt)| attempt),
            response: None,
            ts,
            outcome: Outcome::Midstream,
        };
        let connection = account.decide(&decided, cx);
        let violations = std::mem::take(&mut account.violations);
        let mut websocket =
            WebSocket::new(connection, client, Extensions::Unknown).with_violations(violations);
        for direction in Direction::BOTH {
            websocket.begin_anywhere(direction, None, cx);
        }
        self.phase = Phase::WebSocket(Box::new(websocket));
        self.apply_fins(cx);
        self.settle(cx);
    }
}

impl WebSocket {
    fn standing(&self, d: Direction) -> Option<Standing> {
        let incoming = &self.incoming[d];
        let (ahead, open) = match &incoming.reading {
            Reading::Header(decoder) if decoder.is_empty() => (0, None),
            Reading::Payload(open) => (open.left, Some(&open.header)),
            _ => return None,
        };
        Some(Standing {
            ahead,
            place: Place {
                index: incoming.index as u32,
                message: incoming.messages.behind(open),
                closed: incoming.closed,
            },
        })
    }

    fn put(&mut self, d: Direction, place: &Place, cx: &mut Context<'_>) {
        let incoming = &mut self.incoming[d];
        if matches!(incoming.reading, Reading::Ended) {
            return;
        }
        incoming.reading = Reading::Header(HeaderDecoder::new());
        incoming.messages = Messages::at(place.message);
        incoming.closed |= place.closed;
        // The nearest index whose low half this is.
        let ahead = place
            .index
            .wrapping_sub(incoming.index as u32)
            .cast_signed();
        incoming.index = incoming.index.saturating_add_signed(ahead.into());
        incoming.content.lose(cx);
    }

    fn count(&mut self, ts: Timestamp, counted: Box<Counted>, cx: &mut Context<'_>) {
        let incoming = &mut self.incoming[counted.direction];
        for (kind, (frames, bytes)) in counted.frames.iter().zip(counted.bytes).enumerate() {
            // Those that share a kind are told apart at the end.
            let opcode = opcode_of(kind).unwrap_or(UNTOLD);
            incoming.frames.add(opcode, *frames);
            incoming.bytes.add(opcode, bytes);
        }
        let messages = counted.messages.iter().sum::<u64>();
        incoming.completed.count = incoming.completed.count.saturating_add(messages);
        cx.emit(ts, &self.connection, EventKind::Counted(counted));
    }
}

/// Stands for all reserved opcodes that the source has counted; itself is one of them.
const UNTOLD: Opcode = Opcode::Reserved(3);

/// Tells apart what the source has counted as one: `known` are those whose headers were seen. Those
/// that were not stay with the first.
pub(super) fn told_apart(mut sums: OpcodeCounts, known: &OpcodeCounts) -> OpcodeCounts {
    for (opcode, n) in known.iter() {
        let untold = &mut sums.0[usize::from(UNTOLD.bits())];
        let n = n.min(*untold);
        *untold -= n;
        sums.add(opcode, n);
    }
    sums
}
