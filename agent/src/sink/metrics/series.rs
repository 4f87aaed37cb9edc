//! Series of single WebSockets: which of the live ones have them, and those that have ended and
//! linger.
//!
//! Counts are kept for every live connection, so that one that gets its series late begins with the
//! right numbers. The busiest have them, by frames so far.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    num::NonZeroU64,
    sync::Arc,
    time::Duration,
};

use super::{
    endpoint::EndpointId,
    exposition::{self, Exposition},
    names::{self, Scope},
    path::PathLabel,
    tally::{OPCODES, OpcodeTally},
};
use crate::{
    proto::{
        event::{Close, Connection, Counted, Frame, Hop, Progress},
        flow::{ConnId, Direction, PerDirection, Role},
        frame::{CloseCode, Opcode},
        time::Timestamp,
    },
    sink::peer::Peers,
};

/// Frames after which a connection without series is compared with those that have them.
const CHALLENGE_EVERY: u64 = 64;

/// Stale ranks that one comparison brings up to date at most.
const REFRESHES: usize = 8;

/// Numbers of both directions, in half the memory as long as they are small, as those of most of a
/// hundred thousand connections are.
#[derive(Clone, Debug)]
pub(super) enum Opcodes {
    /// Frames and bytes.
    Small(PerDirection<[[u32; OPCODES.len()]; 2]>),
    /// Any.
    Large(Box<PerDirection<OpcodeTally>>),
}

impl Default for Opcodes {
    fn default() -> Self {
        Self::Small(PerDirection::default())
    }
}

impl Opcodes {
    /// The numbers of a direction.
    pub(super) fn tally(&self, direction: Direction) -> OpcodeTally {
        match self {
            Self::Small(small) => {
                let [frames, bytes] = small[direction].map(|numbers| numbers.map(u64::from));
                OpcodeTally { frames, bytes }
            }
            Self::Large(tallies) => tallies[direction],
        }
    }

    /// Frames of both directions.
    pub(super) fn frames(&self) -> u64 {
        let frames = Direction::BOTH.map(|direction| self.tally(direction).frames);
        let frames = frames.iter().flatten();
        frames.fold(0, |sum, frames| sum.saturating_add(*frames))
    }

    fn change(&mut self, direction: Direction, change: impl FnOnce(&mut OpcodeTally)) {
        if let Self::Large(tallies) = self {
            return change(&mut tallies[direction]);
        }
        let mut tally = self.tally(direction);
        change(&mut tally);
        let small = [&tally.frames, &tally.bytes].map(narrow);
        if let (Self::Small(numbers), [Some(frames), Some(bytes)]) = (&mut *self, small) {
            numbers[direction] = [frames, bytes];
            return;
        }
        let mut tallies = Box::new(PerDirection {
            client_to_server: self.tally(Direction::ClientToServer),
            server_to_client: self.tally(Direction::ServerToClient),
        });
        tallies[direction] = tally;
        *self = Self::Large(tallies);
    }
}

fn narrow(numbers: &[u64; OPCODES.len()]) -> Option<[u32; OPCODES.len()]> {
    let mut small = [0; OPCODES.len()];
    for (small, number) in small.iter_mut().zip(numbers) {
        *small = u32::try_from(*number).ok()?;
    }
    Some(small)
}

/// A number that may not be there, in eight bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Maybe(
    /// One more than the number.
    Option<NonZeroU64>,
);

impl Maybe {
    fn some(number: u64) -> Self {
        Self(NonZeroU64::new(number.saturating_add(1)))
    }

    /// The number.
    pub(super) fn number(self) -> Option<u64> {
        self.0.map(|number| number.get() - 1)
    }
}

/// Other hops of a proxied connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Joined {
    pub(super) next: Option<ConnId>,
    pub(super) previous: Option<ConnId>,
}

/// What is kept of a connection.
#[derive(Clone, Debug)]
pub(super) struct Live {
    /// What the core knows of it.
    pub(super) connection: Arc<Connection>,
    /// Where it is counted.
    pub(super) endpoint: EndpointId,
    /// Names of its ends.
    pub(super) peers: Peers,
    /// Its own counts.
    pub(super) opcodes: Opcodes,
    /// Payload bytes of the last frame that is over.
    pub(super) last_frame_size: PerDirection<Maybe>,
    /// Time of the last event.
    pub(super) last_seen: Timestamp,
    /// Other hops that have named this one since, where the handshake could not.
    pub(super) joined: Option<Box<Joined>>,
    close: Option<(CloseCode, Option<Role>)>,
    /// Frames of both directions when it was last ranked, for those that have series.
    rank: Maybe,
}

// There may be a hundred thousand of them.
const _: () = assert!(size_of::<Live>() <= 200);

impl Live {
    pub(super) fn new(
        connection: Arc<Connection>,
        endpoint: EndpointId,
        peers: Peers,
        now: Timestamp,
    ) -> Self {
        Self {
            connection,
            endpoint,
            peers,
            opcodes: Opcodes::default(),
            last_frame_size: PerDirection::default(),
            last_seen: now,
            joined: None,
            close: None,
            rank: Maybe::default(),
        }
    }

    /// The other hops, by what its handshake said or theirs.
    pub(super) fn hops(&self) -> Joined {
        let joined = self.joined.as_deref().copied().unwrap_or_default();
        let said = |hop: &Option<Box<Hop>>| hop.as_ref().map(|hop| hop.id);
        Joined {
            next: said(&self.connection.next_hop).or(joined.next),
            previous: said(&self.connection.previous_hop).or(joined.previous),
        }
    }

    /// Counts a frame. True if it is time for [`Series::challenge`].
    pub(super) fn frame(&mut self, frame: &Frame, series: &Series) -> bool {
        if !frame.tallied {
            let direction = frame.direction;
            (self.opcodes).change(direction, |tally| tally.frame(frame.opcode));
        }
        if frame.opcode == Opcode::Close && self.close.is_none() {
            self.close = close_code(frame).map(|code| (code, Some(frame.direction.sender())));
        }
        let is_time = || self.opcodes.frames().is_multiple_of(CHALLENGE_EVERY);
        !self.is_ranked() && (series.has_room() || is_time())
    }

    /// Counts frames that were counted elsewhere. True if it is time for [`Series::challenge`].
    pub(super) fn counted(&mut self, counted: &Counted, series: &Series) -> bool {
        let direction = counted.direction;
        let before = self.opcodes.frames();
        self.opcodes.change(direction, |tally| {
            tally.count(&counted.frames, &counted.bytes);
        });
        if let Some(size) = counted.last_frame_size {
            self.last_frame_size[direction] = Maybe::some(size);
        }
        let is_time = || self.opcodes.frames() / CHALLENGE_EVERY != before / CHALLENGE_EVERY;
        !self.is_ranked() && (series.has_room() || is_time())
    }

    fn is_ranked(&self) -> bool {
        self.rank.number().is_some()
    }

    /// Counts payload bytes.
    pub(super) fn progress(&mut self, progress: &Progress) {
        let direction = progress.direction;
        (self.opcodes).change(direction, |tally| {
            tally.payload(progress.opcode, progress.bytes);
        });
        if let Some(size) = progress.total {
            self.last_frame_size[direction] = Maybe::some(size);
        }
    }
}

/// What a close frame says (RFC 6455, section 7.1.5), where enough of it was seen.
fn close_code(frame: &Frame) -> Option<CloseCode> {
    if frame.len < 2 {
        return Some(CloseCode::NO_STATUS);
    }
    frame.close.as_ref().and_then(|body| body.code)
}

/// All live connections.
pub(super) type Connections = HashMap<ConnId, Box<Live>>;

/// Who has series.
#[derive(Debug)]
pub(super) struct Series {
    limit: usize,
    linger: Duration,
    /// Live connections that have series, least busy first. A rank may be out of date, and is then
    /// too low.
    ranking: BTreeSet<(u64, ConnId)>,
    /// Ended ones, with the time until which they stay, in the order of their ends; at most `limit`.
    ended: VecDeque<(Timestamp, Live)>,
    refused: u64,
    cut_short: u64,
}

impl Series {
    /// None, and at most `limit` of live connections and as many of ended ones.
    pub(super) fn new(limit: usize, linger: Duration) -> Self {
        Self {
            limit,
            linger,
            ranking: BTreeSet::new(),
            ended: VecDeque::new(),
            refused: 0,
            cut_short: 0,
        }
    }

    /// How many connections found no room when they were opened.
    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    /// How many ended connections lost their series before their time.
    pub(super) fn cut_short(&self) -> u64 {
        self.cut_short
    }

    fn has_room(&self) -> bool {
        self.ranking.len() < self.limit
    }

    /// Takes in a connection that was just opened.
    pub(super) fn open(&mut self, live: &mut Live) {
        if self.has_room() {
            self.grant(live);
        } else if self.limit > 0 {
            self.refused += 1;
        }
    }

    /// Gives series to a connection that has none, if there is room or it has become clearly busier
    /// than the least busy one that has: by a quarter, so that equals do not take turns.
    pub(super) fn challenge(&mut self, id: ConnId, connections: &mut Connections) {
        let Some(frames) = connections.get(&id).map(|live| live.opcodes.frames()) else {
            return;
        };
        if !self.has_room() && !self.displace(frames, connections) {
            return;
        }
        if let Some(live) = connections.get_mut(&id) {
            self.grant(live);
        }
    }

    /// Frees the place of the least busy connection, if `frames` clearly exceeds its frames.
    fn displace(&mut self, frames: u64, connections: &mut Connections) -> bool {
        for _ in 0..REFRESHES {
            let Some(&(rank, least)) = self.ranking.first() else {
                return false;
            };
            // All ranks are lower bounds, so nobody is less busy than this.
            if frames <= rank.saturating_add(rank / 4) {
                return false;
            }
            self.ranking.pop_first();
            let Some(holder) = connections.get_mut(&least) else {
                return true;
            };
            let now = holder.opcodes.frames();
            if now == rank {
                holder.rank = Maybe::default();
                return true;
            }
            holder.rank = Maybe::some(now);
            self.ranking.insert((now, least));
        }
        false
    }

    fn grant(&mut self, live: &mut Live) {
        let frames = live.opcodes.frames();
        live.rank = Maybe::some(frames);
        self.ranking.insert((frames, live.connection.id));
    }

    /// Takes out a connection whose end was not seen.
    pub(super) fn forget(&mut self, live: &Live) {
        if let Some(rank) = live.rank.number() {
            self.ranking.remove(&(rank, live.connection.id));
        }
    }

    /// Takes over a connection that has ended.
    pub(super) fn close(&mut self, mut live: Live, close: &Close, now: Timestamp) {
        self.expire(now);
        if !live.is_ranked() {
            return;
        }
        self.forget(&live);
        if let Some(code) = close.code {
            live.close = Some((code, close.initiator));
        }
        if self.ended.len() >= self.limit {
            self.ended.pop_front();
            self.cut_short += 1;
        }
        self.ended
            .push_back((now.saturating_add(self.linger), live));
    }

    /// Lets go of ended connections whose time has come.
    pub(super) fn expire(&mut self, now: Timestamp) {
        while self.ended.front().is_some_and(|(until, _)| *until <= now) {
            self.ended.pop_front();
        }
        if self.ended.is_empty() {
            self.ended.shrink_to_fit();
        }
    }

    /// Copies of all connections that have series, oldest first.
    pub(super) fn snapshot(&self, connections: &Connections) -> Vec<Live> {
        let live = self
            .ranking
            .iter()
            .filter_map(|(_, id)| connections.get(id).map(|live| &**live));
        let ended = self.ended.iter().map(|(_, live)| live);
        let mut all: Vec<Live> = live.chain(ended).cloned().collect();
        all.sort_by_key(|live| live.connection.id);
        all
    }
}

/// Writes the series of single connections.
pub(super) fn expose(out: &mut Exposition, shown: &[Live], path_label: PathLabel) {
    let shown: Vec<(String, &Live)> = shown
        .iter()
        .map(|live| (labels(&live.connection, path_label), live))
        .collect();
    let each = || {
        shown.iter().flat_map(|(labels, live)| {
            Direction::BOTH.map(|direction| (labels.as_str(), direction, *live))
        })
    };
    let mut family = out.family(&names::CONNECTION_FRAMES);
    for (labels, direction, live) in each() {
        for (opcode, n) in OPCODES.iter().zip(live.opcodes.tally(direction).frames) {
            family.count(labels, &[&direction.as_str(), opcode], n);
        }
    }
    let mut family = out.family(&names::CONNECTION_PAYLOAD_BYTES);
    for (labels, direction, live) in each() {
        for (opcode, n) in OPCODES.iter().zip(live.opcodes.tally(direction).bytes) {
            family.count(labels, &[&direction.as_str(), opcode], n);
        }
    }
    let mut family = out.family(&names::CONNECTION_LAST_FRAME_SIZE);
    for (labels, direction, live) in each() {
        if let Some(size) = live.last_frame_size[direction].number() {
            family.sample(labels, &[&direction.as_str()], size);
        }
    }
    let mut family = out.family(&names::CONNECTION_OPENED);
    for (labels, live) in &shown {
        // Digits, not a float: its 53 bits do not hold nanoseconds since 1970.
        let Timestamp(nanos) = live.connection.opened;
        let (seconds, nanos) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
        family.sample(labels, &[], format_args!("{seconds}.{nanos:09}"));
    }
    let mut family = out.family(&names::CONNECTION_CLOSE_CODE);
    for (labels, live) in &shown {
        if let Some((code, initiator)) = live.close {
            family.sample(labels, &[&initiator.map_or("", Role::as_str)], code.0);
        }
    }
}

fn labels(connection: &Connection, path_label: PathLabel) -> String {
    let path = path_label.apply(connection.path.as_deref());
    exposition::labels(
        Scope::Connection.labels(),
        &[
            &connection.id,
            &connection.client,
            &connection.server,
            &path,
        ],
    )
}
