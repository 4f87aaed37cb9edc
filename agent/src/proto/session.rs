//! The life of one TCP connection: HTTP until a WebSocket opens, then the WebSocket, or the search
//! for one where the beginning was not seen.
//!
//! Takes in bytes that are in order, from whatever source, and says what they mean. Knows nothing of
//! segments, tables and time-outs.

mod account;
mod census;
mod chain;
mod content;
mod evidence;
mod hops;
mod http;
mod incoming;
mod paths;
mod payload;
mod ping;
mod plausible;
mod probe;
mod quiet;
mod search;
mod usual;
mod violations;
mod walked;
mod websocket;

use std::{collections::VecDeque, net::SocketAddr, sync::Arc};

use account::{Account, Decided};
use chain::Chain;
use http::{Bytes, Held, Http, Input, Opening, Step};
use probe::{Found, Probe, is_credible};
use websocket::WebSocket;

use super::{
    deflate::Extensions,
    event::{Connection, Event, EventKind, Outcome, TcpCounts},
    flow::{ConnId, Direction, PerDirection},
    observer::{Config, Decision, Stats},
    tcp::StreamEvent,
    time::Timestamp,
};

pub use account::{AnswerSeen, RequestSeen};
pub use hops::{Answered, Hops};
pub use quiet::Quiet;
pub use walked::Standing;

/// What sessions share.
#[derive(Debug)]
pub struct Context<'a> {
    /// Limits and wishes.
    pub config: &'a Config,
    /// Counters.
    pub stats: &'a mut Stats,
    /// Where events go.
    pub events: &'a mut VecDeque<Event>,
    /// Handshakes that may be the next hops of others.
    pub hops: &'a mut Hops,
    /// The last connection number given.
    pub last_id: &'a mut u64,
    /// Bytes that all sessions hold.
    pub held: &'a mut usize,
    /// Decompressors that all sessions have.
    pub inflaters: &'a mut usize,
    /// Memory to unmask in, what is in it means nothing.
    pub plain: &'a mut Vec<u8>,
    /// Bytes that others hold and that count for the same limit.
    pub held_elsewhere: usize,
    /// The beginning of the connection was seen: what comes first is a beginning.
    pub from_start: bool,
}

impl Context<'_> {
    fn emit(&mut self, ts: Timestamp, connection: &Arc<Connection>, kind: EventKind) {
        self.events.push_back(Event {
            ts,
            connection: Arc::clone(connection),
            kind,
        });
    }

    fn next_id(&mut self) -> ConnId {
        *self.last_id += 1;
        ConnId(*self.last_id)
    }

    /// How many bytes may be held by what holds `own` of them so far.
    fn room_for(&self, own: usize) -> usize {
        let held = self.held.saturating_add(self.held_elsewhere);
        self.config
            .max_buffered
            .saturating_sub(held.saturating_sub(own))
    }

    fn has_room(&self, bytes: usize) -> bool {
        let held = self.held.saturating_add(self.held_elsewhere);
        held.saturating_add(bytes) <= self.config.max_buffered
    }
}

/// Why a session ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ending {
    /// Both sides have finished, or it was reset.
    Finished,
    /// A new connection between the same ends has begun.
    Restarted,
    /// Nothing was heard of it for longer than the limit.
    Idle,
    /// Others need its place.
    Evicted,
    /// The observation ends.
    Eof,
}

/// One TCP connection.
#[derive(Debug)]
pub struct Session {
    account: Account,
    phase: Phase,
    /// Sides that have finished, and when.
    fins: [Option<Timestamp>; 2],
    over: Option<Timestamp>,
    /// What this session contributes to [`Context::held`].
    held: usize,
}

#[derive(Debug)]
enum Phase {
    Http(Box<Http>),
    Probe(Box<Probe>),
    WebSocket(Box<WebSocket>),
    /// Nothing to be learnt from it.
    Closed,
}

impl Session {
    /// A connection of which nothing was seen, between `ends` (in the order of the flow's key), first
    /// seen on `interface`.
    #[must_use]
    pub fn new(ends: [SocketAddr; 2], interface: Option<u32>) -> Self {
        Self {
            account: Account {
                ends,
                real: [None; 2],
                interface,
                id: None,
                violations: Default::default(),
                decision: None,
                request: None,
                unasked: None,
                asked: None,
                answered: None,
            },
            phase: Phase::Http(Box::new(Http::new())),
            fins: [None; 2],
            over: None,
            held: 0,
        }
    }

    /// The number by which events name it, once it has one.
    #[must_use]
    pub fn id(&self) -> Option<ConnId> {
        self.account.id
    }

    /// Whether a WebSocket is open on it.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::WebSocket(_))
    }

    /// When it was over, if it is: [`Self::close`] is due.
    #[must_use]
    pub fn over(&self) -> Option<Timestamp> {
        self.over
    }

    /// What the source should be told, once.
    pub fn take_decision(&mut self) -> Option<Decision> {
        self.account.decision.take()
    }

    /// The request for a WebSocket that was seen last, once.
    pub fn take_request(&mut self) -> Option<RequestSeen> {
        self.account.request.take()
    }

    /// The answer to what was not seen, once.
    pub fn take_unasked(&mut self) -> Option<AnswerSeen> {
        self.account.unasked.take()
    }

    /// The handshake that was answered last, once.
    pub fn take_answered(&mut self) -> Option<Answered> {
        self.account.answered.take()
    }

    /// Takes in what the stream yields. [`StreamEvent::Restart`] is not for a session: it is the end
    /// of one and the beginning of another.
    pub fn handle(&mut self, event: &StreamEvent<'_>, cx: &mut Context<'_>) {
        match *event {
            StreamEvent::Bytes {
                side,
                ts,
                offset,
                bytes,
                starts_segment,
                ends_segment,
            } => self.handle_bytes(
                &Bytes {
                    side,
                    ts,
                    offset,
                    bytes,
                    starts_segment,
                    ends_segment,
                },
                cx,
            ),
            StreamEvent::Missing {
                side,
                ts,
                offset,
                len,
                ..
            } => self.handle_missing(side, ts, offset, len, cx),
            StreamEvent::Fin { side, ts } => {
                self.fins[side].get_or_insert(ts);
                if let Phase::WebSocket(websocket) = &mut self.phase {
                    websocket.handle_fin(websocket.direction(side), ts, cx);
                }
                if self.fins.iter().all(Option::is_some) {
                    self.over.get_or_insert(ts);
                }
            }
            StreamEvent::Reset { side, ts } => {
                if let Phase::WebSocket(websocket) = &mut self.phase {
                    websocket.handle_reset(websocket.direction(side), ts);
                }
                self.over.get_or_insert(ts);
            }
            StreamEvent::Restart { .. } => {}
        }
        self.settle(cx);
    }

    /// Ends it. `tcp` are the counts of both sides.
    pub fn close(
        &mut self,
        ending: Ending,
        ts: Timestamp,
        tcp: [TcpCounts; 2],
        cx: &mut Context<'_>,
    ) {
        let http = match std::mem::replace(&mut self.phase, Phase::Closed) {
            Phase::WebSocket(websocket) => {
                let of = |d| tcp[usize::from(websocket.direction(1) == d)];
                let tcp = PerDirection {
                    client_to_server: of(Direction::ClientToServer),
                    server_to_client: of(Direction::ServerToClient),
                };
                websocket.close(ending, ts, tcp, cx);
                self.account.decision = Some(match ending {
                    Ending::Idle => Decision::Idle,
                    _ => Decision::Ended,
                });
                None
            }
            Phase::Http(http) => Some(http),
            Phase::Probe(probe) => Some(probe.http),
            Phase::Closed => None,
        };
        if let Some((client, attempt)) = http.and_then(|mut http| http.take_attempt()) {
            let decided = Decided {
                client,
                attempt: Some(&attempt),
                response: None,
                ts,
                outcome: Outcome::Unanswered,
            };
            self.account.decide(&decided, cx);
        }
        self.account.withdraw(cx);
        self.settle(cx);
    }

    /// Another account of the same connection, with translated addresses, shows that the end `side` is
    /// really at `address`.
    pub fn translate(&mut self, side: usize, address: SocketAddr, hops: &mut Hops) {
        if let Some(ticket) = self.account.asked {
            hops.translate(ticket, self.account.ends[side], address);
        }
        self.account.real[side] = Some(address);
    }

    /// Whether this may be a connection whose handshake was not seen: when it was found, if it was.
    #[must_use]
    pub fn unplaced(&self) -> Option<Option<Timestamp>> {
        match &self.phase {
            Phase::Http(http) => (!http.has_spoken()).then_some(None),
            Phase::Probe(probe) => (!probe.http.has_spoken()).then_some(None),
            Phase::WebSocket(websocket) => {
                let Connection {
                    outcome, opened, ..
                } = *websocket.connection;
                (outcome == Outcome::Midstream).then_some(Some(opened))
            }
            Phase::Closed => None,
        }
    }

    /// Ends it without a word: another account of the same connection is followed.
    pub fn discard(&mut self, cx: &mut Context<'_>) {
        self.account.withdraw(cx);
        if let Phase::WebSocket(websocket) = &mut self.phase {
            websocket.release(cx);
            cx.stats.active = cx.stats.active.saturating_sub(1);
        }
        self.phase = Phase::Closed;
        self.settle(cx);
    }

    fn handle_bytes(&mut self, input: &Bytes<'_>, cx: &mut Context<'_>) {
        match &mut self.phase {
            Phase::WebSocket(websocket) => {
                let direction = websocket.direction(input.side);
                let Bytes {
                    ts,
                    bytes,
                    starts_segment,
                    ends_segment,
                    ..
                } = *input;
                let edges = (starts_segment, ends_segment);
                websocket.handle_bytes(direction, ts, bytes, edges, cx);
            }
            Phase::Http(http) => {
                let step = http.handle_bytes(input, &mut self.account, cx);
                self.step(step, Some(input), cx);
            }
            Phase::Probe(probe) => {
                if probe.is_http(input) {
                    let mut http = std::mem::replace(&mut probe.http, Box::new(Http::new()));
                    http.begin_message(input.side);
                    self.phase = Phase::Http(http);
                    self.handle_bytes(input, cx);
                } else {
                    self.probe(input, cx);
                }
            }
            Phase::Closed => {}
        }
    }

    fn handle_missing(
        &mut self,
        side: usize,
        ts: Timestamp,
        offset: u64,
        len: u64,
        cx: &mut Context<'_>,
    ) {
        match &mut self.phase {
            Phase::WebSocket(websocket) => {
                websocket.handle_missing(websocket.direction(side), ts, len, cx);
            }
            Phase::Http(http) => {
                let step = http.handle_missing(side, ts, offset, len);
                self.step(step, None, cx);
            }
            Phase::Probe(probe) => probe.handle_missing(side, ts, len),
            Phase::Closed => {}
        }
    }

    /// Does what HTTP came to; `input` are the bytes that led there.
    fn step(&mut self, step: Step, input: Option<&Bytes<'_>>, cx: &mut Context<'_>) {
        match step {
            Step::Http => {}
            Step::NotHttp { tls } => {
                let (Phase::Http(http), Some(input)) = (&mut self.phase, input) else {
                    return;
                };
                cx.stats.unreadable_tls += u64::from(tls);
                if tls || cx.from_start || http.has_spoken() {
                    self.ignore();
                } else {
                    let http = std::mem::replace(http, Box::new(Http::new()));
                    self.phase = Phase::Probe(Box::new(Probe::new(http, cx.config.max_searched)));
                    self.probe(input, cx);
                }
            }
            Step::AnswerLost => {
                let Phase::Http(http) = &mut self.phase else {
                    return;
                };
                let mut http = std::mem::replace(http, Box::new(Http::new()));
                let held = http.take_held();
                let client = http.client();
                self.phase = Phase::Probe(Box::new(Probe::new(http, cx.config.max_searched)));
                self.replay(client, held, cx);
                if let Some(input) = input {
                    self.probe(input, cx);
                }
            }
            Step::Opens(opening) => self.open(*opening, input, cx),
        }
    }

    /// A response opened a WebSocket.
    fn open(&mut self, opening: Opening, input: Option<&Bytes<'_>>, cx: &mut Context<'_>) {
        let Opening {
            client,
            attempt,
            response,
            at,
            held,
            client_lost,
            request: head,
        } = opening;
        let Some(input) = input else { return };
        let decided = Decided {
            client,
            attempt: attempt.as_ref(),
            response: Some(&response),
            ts: input.ts,
            outcome: Outcome::Accepted,
        };
        let connection = self.account.decide(&decided, cx);
        let request = attempt.as_ref().map(|attempt| attempt.request.as_ref());
        let violations = std::mem::take(&mut self.account.violations);
        let mut websocket = WebSocket::new(connection, client, response.extensions(request))
            .with_violations(violations);
        if attempt.is_none() || client_lost {
            websocket.begin_anywhere(Direction::ClientToServer, None, cx);
        }
        if let Some(head) = head {
            websocket.await_request(head);
        }
        self.phase = Phase::WebSocket(Box::new(websocket));
        self.replay(Some(client), held, cx);
        self.apply_fins(cx);
        self.handle_bytes(&input.behind(at), cx);
    }

    /// Looks for frames.
    fn probe(&mut self, input: &Bytes<'_>, cx: &mut Context<'_>) {
        let Phase::Probe(probe) = &mut self.phase else {
            return;
        };
        let room = cx.has_room(0);
        let found = probe.handle_bytes(input, cx.config.preview, room);
        cx.stats.exceeded.search += probe.take_given_up();
        let fits = probe.held() <= cx.room_for(self.held);
        cx.stats.exceeded.buffered += u64::from(!room || !fits);
        match found {
            Found::Nothing if fits => {}
            Found::Nothing | Found::Neither => {
                // A WebSocket may have been asked for all the same.
                self.close(Ending::Finished, input.ts, Default::default(), cx);
                self.ignore();
            }
            Found::WebSocket(at) => {
                if let Some(recognised) = probe.recognised(input.side) {
                    self.pick_up(recognised, cx);
                    self.handle_bytes(&input.behind(at), cx);
                }
            }
        }
    }

    /// Frames were recognised where no handshake was seen.
    fn pick_up(&mut self, recognised: probe::Recognised, cx: &mut Context<'_>) {
        let attempt = match &mut self.phase {
            Phase::Probe(probe) => probe.http.take_attempt(),
            _ => None,
        };
        let client = recognised.client;
        let decided = Decided {
            client,
            attempt: attempt
                .as_ref()
                .filter(|(asked, _)| *asked == client)
                .map(|(_, attempt)| attempt),
            response: None,
            ts: recognised.opened,
            outcome: Outcome::Midstream,
        };
        let connection = self.account.decide(&decided, cx);
        let violations = std::mem::take(&mut self.account.violations);
        let mut websocket =
            WebSocket::new(connection, client, Extensions::Unknown).with_violations(violations);
        let [first, second] = recognised.chains;
        let (client_chain, server_chain) = if client == 0 {
            (first, second)
        } else {
            (second, first)
        };
        let mut place = |direction: Direction, chain: Option<Chain>| match chain {
            Some(chain) if is_credible(&chain) => Some(chain),
            chain => {
                websocket.begin_anywhere(direction, chain, cx);
                None
            }
        };
        let chains = PerDirection {
            client_to_server: place(Direction::ClientToServer, client_chain),
            server_to_client: place(Direction::ServerToClient, server_chain),
        };
        websocket.begin_with(chains, cx);
        self.phase = Phase::WebSocket(Box::new(websocket));
        self.apply_fins(cx);
    }

    /// Takes in what was held back of `side`.
    fn replay(&mut self, side: Option<usize>, held: Vec<Held>, cx: &mut Context<'_>) {
        let Some(side) = side else { return };
        for held in held {
            match held.input(side) {
                Input::Bytes(input) => self.handle_bytes(&input, cx),
                Input::Missing { ts, offset, len } => {
                    self.handle_missing(side, ts, offset, len, cx);
                }
            }
        }
    }

    /// Sides may have finished before the WebSocket was known.
    fn apply_fins(&mut self, cx: &mut Context<'_>) {
        let Phase::WebSocket(websocket) = &mut self.phase else {
            return;
        };
        for side in [0, 1] {
            if let Some(ts) = self.fins[side] {
                websocket.handle_fin(websocket.direction(side), ts, cx);
            }
        }
    }

    fn ignore(&mut self) {
        self.phase = Phase::Closed;
        self.account.decision = Some(Decision::Ignore);
    }

    fn settle(&mut self, cx: &mut Context<'_>) {
        let held = match &self.phase {
            Phase::Http(http) => http.held(),
            Phase::Probe(probe) => probe.held(),
            Phase::WebSocket(websocket) => websocket.held(),
            Phase::Closed => 0,
        };
        if held != self.held {
            *cx.held = (*cx.held + held).saturating_sub(self.held);
            self.held = held;
        }
    }
}
