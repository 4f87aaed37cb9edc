//! What is counted of an endpoint, and how it is exposed.

use std::collections::BTreeMap;

use super::{
    code::{CodeLabel, StatusLabel},
    endpoint::Endpoint,
    exposition::Exposition,
    histogram::{Histogram, LATENCIES, LIFETIMES, SILENCES, SIZES},
    names,
    subprotocol::SubprotocolLabel,
};
use crate::proto::{
    event::{
        Close, CloseKind, Counted, Frame, Handshake, Message, Outcome, Progress, Rule, Violation,
    },
    flow::{Direction, PerDirection, Role},
    frame::Opcode,
};

/// Values of the `opcode` label; [`opcode_index`] is the place of an opcode among them.
pub(super) const OPCODES: [&str; 7] = [
    "continuation",
    "text",
    "binary",
    "close",
    "ping",
    "pong",
    "reserved",
];

/// Where in [`OPCODES`] and in an [`OpcodeTally`] an opcode is.
pub(super) const fn opcode_index(opcode: Opcode) -> usize {
    match opcode {
        Opcode::Continuation => 0,
        Opcode::Text => 1,
        Opcode::Binary => 2,
        Opcode::Close => 3,
        Opcode::Ping => 4,
        Opcode::Pong => 5,
        Opcode::Reserved(_) => 6,
    }
}

/// Frames and payload bytes by opcode.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct OpcodeTally {
    /// Frames.
    pub(super) frames: [u64; OPCODES.len()],
    /// Payload bytes.
    pub(super) bytes: [u64; OPCODES.len()],
}

impl OpcodeTally {
    /// Counts a frame.
    pub(super) fn frame(&mut self, opcode: Opcode) {
        self.frames[opcode_index(opcode)] += 1;
    }

    /// Counts payload bytes.
    pub(super) fn payload(&mut self, opcode: Opcode, bytes: u64) {
        let sum = &mut self.bytes[opcode_index(opcode)];
        *sum = sum.saturating_add(bytes);
    }

    /// Adds what was counted elsewhere.
    pub(super) fn count(&mut self, frames: &[u64; OPCODES.len()], bytes: &[u64; OPCODES.len()]) {
        self.absorb(&Self {
            frames: *frames,
            bytes: *bytes,
        });
    }

    fn absorb(&mut self, other: &Self) {
        let sums = self.frames.iter_mut().chain(&mut self.bytes);
        for (sum, more) in sums.zip(other.frames.iter().chain(&other.bytes)) {
            *sum = sum.saturating_add(*more);
        }
    }
}

/// What is counted of one direction of an endpoint.
#[derive(Clone, Debug)]
struct DirectionTally {
    opcodes: OpcodeTally,
    frame_size: Histogram,
    message_size: Histogram,
    /// By [`message_index`].
    messages: [u64; MESSAGES.len()],
    /// Of pings in this direction.
    ping_rtt: Histogram,
    /// Of pings in this direction.
    unanswered_pings: u64,
    /// By place in [`Rule::ALL`].
    violations: [u64; Rule::ALL.len()],
}

/// Values of the labels `type` and `compressed` of messages.
const MESSAGES: [(&str, bool); 6] = [
    ("text", false),
    ("text", true),
    ("binary", false),
    ("binary", true),
    ("reserved", false),
    ("reserved", true),
];

const fn message_index(message: &Message) -> usize {
    let kind = match message.opcode {
        Opcode::Text => 0,
        Opcode::Binary => 2,
        _ => 4,
    };
    kind + message.compressed as usize
}

impl Default for DirectionTally {
    fn default() -> Self {
        Self {
            opcodes: OpcodeTally::default(),
            frame_size: Histogram::new(SIZES),
            message_size: Histogram::new(SIZES),
            messages: [0; MESSAGES.len()],
            ping_rtt: Histogram::new(LATENCIES),
            unanswered_pings: 0,
            violations: [0; Rule::ALL.len()],
        }
    }
}

impl DirectionTally {
    fn absorb(&mut self, other: &Self) {
        self.opcodes.absorb(&other.opcodes);
        self.frame_size.absorb(&other.frame_size);
        self.message_size.absorb(&other.message_size);
        self.ping_rtt.absorb(&other.ping_rtt);
        self.unanswered_pings = self.unanswered_pings.saturating_add(other.unanswered_pings);
        let sums = self.messages.iter_mut().chain(&mut self.violations);
        for (sum, more) in sums.zip(other.messages.iter().chain(&other.violations)) {
            *sum += more;
        }
    }
}

/// What was seen in all.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Totals {
    /// Attempts to open a WebSocket, and WebSockets found open.
    pub handshakes: u64,
    /// WebSockets that ended.
    pub closed: u64,
    /// Frames of both directions.
    pub frames: u64,
    /// Their payload bytes.
    pub payload_bytes: u64,
}

/// What is counted of an endpoint. A step in time costs a few additions, whatever the number of
/// endpoints, connections and label values.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    handshakes: BTreeMap<(&'static str, StatusLabel, SubprotocolLabel), u64>,
    handshake_duration: Histogram,
    /// WebSockets open now; `None` where there never was one.
    active: Option<u64>,
    /// By kind, code and initiator, the last empty where there is none.
    closed: BTreeMap<(&'static str, CodeLabel, &'static str), u64>,
    duration: Histogram,
    /// By kind, of endings that were seen.
    silence: BTreeMap<&'static str, Histogram>,
    directions: PerDirection<DirectionTally>,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            handshakes: BTreeMap::new(),
            handshake_duration: Histogram::new(LATENCIES),
            active: None,
            closed: BTreeMap::new(),
            duration: Histogram::new(LIFETIMES),
            silence: BTreeMap::new(),
            directions: PerDirection::default(),
        }
    }
}

impl Tally {
    /// Adds what is counted here.
    pub(super) fn add_to(&self, totals: &mut Totals) {
        let add = |sum: &mut u64, counts: &mut dyn Iterator<Item = &u64>| {
            *sum = counts.fold(*sum, |sum, n| sum.saturating_add(*n));
        };
        add(&mut totals.handshakes, &mut self.handshakes.values());
        add(&mut totals.closed, &mut self.closed.values());
        for direction in Direction::BOTH {
            let OpcodeTally { frames, bytes } = &self.directions[direction].opcodes;
            add(&mut totals.frames, &mut frames.iter());
            add(&mut totals.payload_bytes, &mut bytes.iter());
        }
    }

    pub(super) fn handshake(
        &mut self,
        outcome: Outcome,
        handshake: &Handshake,
        subprotocol: SubprotocolLabel,
    ) {
        let status = StatusLabel::new(outcome, handshake.status);
        let count = (self.handshakes).entry((outcome.as_str(), status, subprotocol));
        *count.or_default() += 1;
        if let Some(latency) = handshake.latency {
            self.handshake_duration.observe(latency.as_secs_f64());
        }
    }

    /// A WebSocket is open.
    pub(super) fn opened(&mut self) {
        *self.active.get_or_insert(0) += 1;
    }

    /// Whether any is.
    pub(super) fn is_open(&self) -> bool {
        self.active.is_some_and(|active| active > 0)
    }

    /// A WebSocket that was counted as open is no longer.
    pub(super) fn ended(&mut self) {
        if let Some(active) = &mut self.active {
            *active = active.saturating_sub(1);
        }
    }

    pub(super) fn close(&mut self, close: &Close, code: CodeLabel) {
        let initiator = close.initiator.map_or("", Role::as_str);
        let count = self.closed.entry((close.kind.as_str(), code, initiator));
        *count.or_default() += 1;
        self.duration.observe(close.duration.as_secs_f64());
        // What was given up had no ending that a silence could have led to.
        let ended = !matches!(close.kind, CloseKind::Evicted | CloseKind::Eof);
        if let Some(silence) = close.silence.filter(|_| ended) {
            let histogram = self.silence.entry(close.kind.as_str());
            histogram
                .or_insert_with(|| Histogram::new(SILENCES))
                .observe(silence.as_secs_f64());
        }
        for direction in Direction::BOTH {
            let unanswered = &mut self.directions[direction].unanswered_pings;
            *unanswered = unanswered.saturating_add(close.unanswered_pings[direction]);
        }
    }

    pub(super) fn frame(&mut self, frame: &Frame) {
        let direction = frame.direction;
        if !frame.tallied {
            self.directions[direction].opcodes.frame(frame.opcode);
        }
        if let Some(rtt) = frame.rtt {
            let ping = &mut self.directions[direction.opposite()];
            ping.ping_rtt.observe(rtt.as_secs_f64());
        }
    }

    pub(super) fn progress(&mut self, progress: &Progress) {
        let tally = &mut self.directions[progress.direction];
        tally.opcodes.payload(progress.opcode, progress.bytes);
        if let Some(total) = progress.total {
            tally.frame_size.observe(total as f64);
        }
    }

    pub(super) fn counted(&mut self, counted: &Counted) {
        let tally = &mut self.directions[counted.direction];
        tally.opcodes.count(&counted.frames, &counted.bytes);
        tally
            .frame_size
            .add(&counted.frame_sizes, counted.frame_bytes);
        for (sum, more) in tally.messages.iter_mut().zip(counted.messages) {
            *sum += more;
        }
        (tally.message_size).add(&counted.message_sizes, counted.message_bytes);
    }

    pub(super) fn message(&mut self, message: &Message) {
        if message.tallied {
            return;
        }
        let tally = &mut self.directions[message.direction];
        tally.messages[message_index(message)] += 1;
        tally.message_size.observe(message.len as f64);
    }

    pub(super) fn violation(&mut self, violation: &Violation) {
        // `Rule::ALL` lists the rules in the order of their declaration.
        let rule = violation.rule as usize;
        self.directions[violation.direction].violations[rule] += 1;
    }

    /// Adds what another endpoint has counted.
    pub(super) fn absorb(&mut self, other: &Self) {
        for (key, n) in &other.handshakes {
            *self.handshakes.entry(key.clone()).or_default() += n;
        }
        self.handshake_duration.absorb(&other.handshake_duration);
        if let Some(active) = other.active {
            *self.active.get_or_insert(0) += active;
        }
        for (key, n) in &other.closed {
            *self.closed.entry(*key).or_default() += n;
        }
        self.duration.absorb(&other.duration);
        for (kind, silence) in &other.silence {
            let histogram = self.silence.entry(kind);
            histogram
                .or_insert_with(|| Histogram::new(SILENCES))
                .absorb(silence);
        }
        for direction in Direction::BOTH {
            self.directions[direction].absorb(&other.directions[direction]);
        }
    }
}

/// Writes the metrics of all endpoints.
pub(super) fn expose(out: &mut Exposition, endpoints: &[Endpoint]) {
    let mut family = out.family(&names::HANDSHAKES);
    for Endpoint { labels, tally } in endpoints {
        for ((outcome, status, subprotocol), n) in &tally.handshakes {
            family.count(labels, &[outcome, status, subprotocol], *n);
        }
    }
    let mut family = out.family(&names::HANDSHAKE_DURATION);
    for Endpoint { labels, tally } in endpoints {
        family.histogram(labels, &[], &tally.handshake_duration);
    }
    let mut family = out.family(&names::CONNECTIONS_ACTIVE);
    for Endpoint { labels, tally } in endpoints {
        if let Some(active) = tally.active {
            family.sample(labels, &[], active);
        }
    }
    let mut family = out.family(&names::CONNECTIONS_CLOSED);
    for Endpoint { labels, tally } in endpoints {
        for ((kind, code, initiator), n) in &tally.closed {
            family.count(labels, &[kind, code, initiator], *n);
        }
    }
    let mut family = out.family(&names::CONNECTION_DURATION);
    for Endpoint { labels, tally } in endpoints {
        family.histogram(labels, &[], &tally.duration);
    }
    let mut family = out.family(&names::CONNECTION_SILENCE);
    for Endpoint { labels, tally } in endpoints {
        for (kind, silence) in &tally.silence {
            family.histogram(labels, &[kind], silence);
        }
    }
    expose_directions(out, endpoints);
}

fn expose_directions(out: &mut Exposition, endpoints: &[Endpoint]) {
    let each = || {
        endpoints.iter().flat_map(|endpoint| {
            Direction::BOTH.map(|direction| {
                let tally = &endpoint.tally.directions[direction];
                (endpoint.labels.as_str(), direction.as_str(), tally)
            })
        })
    };
    let mut family = out.family(&names::FRAMES);
    for (labels, direction, tally) in each() {
        for (opcode, n) in OPCODES.iter().zip(tally.opcodes.frames) {
            family.count(labels, &[&direction, opcode], n);
        }
    }
    let mut family = out.family(&names::FRAME_PAYLOAD_BYTES);
    for (labels, direction, tally) in each() {
        for (opcode, n) in OPCODES.iter().zip(tally.opcodes.bytes) {
            family.count(labels, &[&direction, opcode], n);
        }
    }
    let mut family = out.family(&names::FRAME_SIZE);
    for (labels, direction, tally) in each() {
        family.histogram(labels, &[&direction], &tally.frame_size);
    }
    let mut family = out.family(&names::MESSAGES);
    for (labels, direction, tally) in each() {
        for ((kind, compressed), n) in MESSAGES.iter().zip(tally.messages) {
            family.count(labels, &[&direction, kind, compressed], n);
        }
    }
    let mut family = out.family(&names::MESSAGE_SIZE);
    for (labels, direction, tally) in each() {
        family.histogram(labels, &[&direction], &tally.message_size);
    }
    let mut family = out.family(&names::PING_RTT);
    for (labels, direction, tally) in each() {
        family.histogram(labels, &[&direction], &tally.ping_rtt);
    }
    let mut family = out.family(&names::UNANSWERED_PINGS);
    for (labels, direction, tally) in each() {
        family.count(labels, &[&direction], tally.unanswered_pings);
    }
    let mut family = out.family(&names::PROTOCOL_VIOLATIONS);
    for (labels, direction, tally) in each() {
        for (rule, n) in Rule::ALL.iter().zip(tally.violations) {
            family.count(labels, &[&direction, &rule.as_str()], n);
        }
    }
}
