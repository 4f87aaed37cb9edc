//! A TCP connection while it speaks HTTP/1: requests on one side, responses on the other, until one
//! of them opens a WebSocket.

use std::collections::VecDeque;

use super::{
    Context,
    account::{Account, AnswerSeen, Attempt, Decided},
};
use crate::proto::{
    event::Outcome,
    time::Timestamp,
    upgrade::{
        Asks, Body, HeadBuffer, HeadError, Kind, Pushed, ResponseHead, parse_request,
        parse_response,
    },
};

/// Requests that may wait for their responses. Who pipelines more than that is no browser.
const MAX_PENDING: usize = 64;

/// Both sides.
#[derive(Debug)]
pub(super) struct Http {
    sides: [Side; 2],
    /// The side that sends requests, once that is known.
    client: Option<usize>,
    /// Requests without a final response, oldest first. What one for a WebSocket says is held.
    pending: VecDeque<Pending>,
    /// What the client sent behind a request for a WebSocket, before it was answered.
    held: Vec<Held>,
    held_bytes: usize,
    /// A complete head was seen.
    spoken: bool,
}

#[derive(Debug)]
struct Side {
    reading: Reading,
    /// Of the head that is being read.
    began: Timestamp,
    began_at: u64,
}

/// Place in the messages of one side.
#[derive(Debug)]
enum Reading {
    Head(HeadBuffer),
    Body(Body),
    /// The place was lost: waits for a segment that begins with a head.
    Lost,
    /// Waits for the answer to a request for a WebSocket.
    Held,
}

#[derive(Debug)]
enum Pending {
    Upgrade(Attempt),
    Other(Asks),
}

impl Pending {
    /// Memory held beyond a fixed size.
    fn held(&self) -> usize {
        match self {
            Self::Upgrade(attempt) => attempt.request.held(),
            Self::Other(_) => 0,
        }
    }
}

/// Something that was held back.
#[derive(Debug)]
pub(super) enum Held {
    Bytes {
        ts: Timestamp,
        offset: u64,
        bytes: Vec<u8>,
        starts_segment: bool,
        ends_segment: bool,
    },
    Missing {
        ts: Timestamp,
        offset: u64,
        len: u64,
    },
}

/// What was held back, as it was taken in.
pub(super) enum Input<'a> {
    Bytes(Bytes<'a>),
    Missing {
        ts: Timestamp,
        offset: u64,
        len: u64,
    },
}

/// Bytes of one side.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bytes<'a> {
    pub side: usize,
    pub ts: Timestamp,
    pub offset: u64,
    pub bytes: &'a [u8],
    pub starts_segment: bool,
    pub ends_segment: bool,
}

impl Held {
    /// What `side` had sent.
    pub fn input(&self, side: usize) -> Input<'_> {
        match *self {
            Self::Missing { ts, offset, len } => Input::Missing { ts, offset, len },
            Self::Bytes {
                ts,
                offset,
                ref bytes,
                starts_segment,
                ends_segment,
            } => Input::Bytes(Bytes {
                side,
                ts,
                offset,
                bytes,
                starts_segment,
                ends_segment,
            }),
        }
    }
}

impl Bytes<'_> {
    /// What is behind the first `at` bytes.
    pub fn behind(&self, at: usize) -> Self {
        Self {
            offset: self.offset + at as u64,
            bytes: self.bytes.get(at..).unwrap_or_default(),
            starts_segment: self.starts_segment && at == 0,
            ..*self
        }
    }
}

/// What comes of the bytes.
#[derive(Debug)]
pub(super) enum Step {
    /// It goes on.
    Http,
    /// It is no HTTP.
    NotHttp {
        /// A TLS ClientHello.
        tls: bool,
    },
    /// Where a WebSocket was asked for, the answer went missing.
    AnswerLost,
    /// A WebSocket opens.
    Opens(Box<Opening>),
}

/// A WebSocket opens.
#[derive(Debug)]
pub(super) struct Opening {
    pub client: usize,
    pub attempt: Option<Attempt>,
    pub response: ResponseHead,
    /// Position behind the response's head in the bytes that completed it.
    pub at: usize,
    /// What the client sent before.
    pub held: Vec<Held>,
    /// Whether what the client sent behind its request was not held.
    pub client_lost: bool,
    /// The request as far as it has come, where its answer came first.
    pub request: Option<HeadBuffer>,
}

impl Default for Side {
    fn default() -> Self {
        Self {
            reading: Reading::Head(HeadBuffer::first()),
            began: Timestamp::default(),
            began_at: 0,
        }
    }
}

impl Http {
    /// Nothing seen yet.
    pub fn new() -> Self {
        Self {
            sides: Default::default(),
            client: None,
            pending: VecDeque::new(),
            held: Vec::new(),
            held_bytes: 0,
            spoken: false,
        }
    }

    /// Whether a complete head was seen.
    pub fn has_spoken(&self) -> bool {
        self.spoken
    }

    /// The side that sends requests, once that is known.
    pub fn client(&self) -> Option<usize> {
        self.client
    }

    /// Memory held beyond a fixed size.
    pub fn held(&self) -> usize {
        let of = |side: &Side| match &side.reading {
            Reading::Head(head) => head.bytes().len(),
            Reading::Body(body) => body.held(),
            Reading::Lost | Reading::Held => 0,
        };
        let asked: usize = self.pending.iter().map(Pending::held).sum();
        of(&self.sides[0]) + of(&self.sides[1]) + asked + self.held_bytes
    }

    /// The attempt that waits for its answer, and the client's side.
    pub fn take_attempt(&mut self) -> Option<(usize, Attempt)> {
        let client = self.client?;
        let mut attempts = self.pending.drain(..).filter_map(|pending| match pending {
            Pending::Upgrade(attempt) => Some(attempt),
            Pending::Other(_) => None,
        });
        attempts.next_back().map(|attempt| (client, attempt))
    }

    /// Whether an attempt waits for its answer.
    pub fn is_upgrading(&self) -> bool {
        matches!(self.pending.back(), Some(Pending::Upgrade(_)))
    }

    /// Hands out what was held back.
    pub fn take_held(&mut self) -> Vec<Held> {
        self.held_bytes = 0;
        std::mem::take(&mut self.held)
    }

    /// `side` begins a message with its next byte.
    pub fn begin_message(&mut self, side: usize) {
        self.sides[side].reading = Reading::Head(HeadBuffer::default());
        self.sides[1 - side].reading = if self.client == Some(1 - side) && self.is_upgrading() {
            Reading::Held
        } else {
            Reading::Lost
        };
    }

    /// Takes in bytes.
    pub fn handle_bytes(
        &mut self,
        input: &Bytes<'_>,
        account: &mut Account,
        cx: &mut Context<'_>,
    ) -> Step {
        let side = input.side;
        let mut at = 0;
        while at < input.bytes.len() {
            let rest = &input.bytes[at..];
            let starts_segment = input.starts_segment && at == 0;
            match &mut self.sides[side].reading {
                Reading::Held => {
                    self.hold(input, at, cx);
                    return Step::Http;
                }
                Reading::Lost if starts_segment && begins_message(rest) => {
                    self.sides[side].reading = Reading::Head(HeadBuffer::default());
                }
                Reading::Lost => return Step::Http,
                Reading::Body(body) => match body.skip(rest) {
                    Ok(n) => {
                        at += n;
                        if body.is_over() {
                            self.next_message(side);
                        }
                    }
                    Err(_) => return self.lose(side),
                },
                Reading::Head(head) => {
                    let began = head.is_empty();
                    if !cx.has_room(rest.len()) {
                        cx.stats.exceeded.buffered += 1;
                        return self.lose(side);
                    }
                    let pushed = head.push(rest, cx.config.max_head);
                    let kind = head.kind();
                    if began {
                        self.sides[side].began = input.ts;
                        self.sides[side].began_at = input.offset + at as u64;
                    }
                    match kind {
                        Kind::Tls => return Step::NotHttp { tls: true },
                        Kind::Other => return self.nonsense(side),
                        Kind::Request | Kind::Response | Kind::Undecided => {}
                    }
                    match pushed {
                        Pushed::Incomplete => return Step::Http,
                        Pushed::TooLong => {
                            cx.stats.exceeded.head += 1;
                            return self.lose(side);
                        }
                        Pushed::Complete(n) => {
                            at += n;
                            let client = if kind == Kind::Request {
                                side
                            } else {
                                1 - side
                            };
                            if *self.client.get_or_insert(client) != client {
                                return self.lose(side);
                            }
                            let step = if kind == Kind::Request {
                                self.handle_request(side, account, cx)
                            } else {
                                self.handle_response(side, input.ts, at, account, cx)
                            };
                            if !matches!(step, Step::Http) {
                                return step;
                            }
                        }
                    }
                }
            }
        }
        Step::Http
    }

    /// Takes in bytes that are not available.
    pub fn handle_missing(&mut self, side: usize, ts: Timestamp, offset: u64, len: u64) -> Step {
        match &mut self.sides[side].reading {
            Reading::Held => {
                self.hold_missing(ts, offset, len);
                Step::Http
            }
            Reading::Lost => Step::Http,
            Reading::Head(_) => self.lose(side),
            Reading::Body(body) => match body.skip_missing(len) {
                Ok(n) if n < len => self.lose(side),
                Ok(_) => {
                    if body.is_over() {
                        self.next_message(side);
                    }
                    Step::Http
                }
                Err(_) => self.lose(side),
            },
        }
    }

    /// Keeps what the client sends before it has its answer, up to the length of a head.
    fn hold(&mut self, input: &Bytes<'_>, at: usize, cx: &mut Context<'_>) {
        let bytes = &input.bytes[at..];
        let offset = input.offset + at as u64;
        let size = bytes.len() + size_of::<Held>();
        if self.held_bytes + size > cx.config.max_head || !cx.has_room(size) {
            cx.stats.exceeded.head += 1;
            self.hold_missing(input.ts, offset, bytes.len() as u64);
            return;
        }
        self.held_bytes += size;
        self.held.push(Held::Bytes {
            ts: input.ts,
            offset,
            bytes: bytes.to_vec(),
            starts_segment: input.starts_segment && at == 0,
            ends_segment: input.ends_segment,
        });
    }

    /// Remembers that bytes are not available: in one entry, however many pieces they come in.
    fn hold_missing(&mut self, ts: Timestamp, offset: u64, len: u64) {
        if let Some(Held::Missing { len: sum, .. }) = self.held.last_mut() {
            *sum = sum.saturating_add(len);
        } else {
            self.held_bytes += size_of::<Held>();
            self.held.push(Held::Missing { ts, offset, len });
        }
    }

    fn handle_request(&mut self, side: usize, account: &mut Account, cx: &mut Context<'_>) -> Step {
        let Side {
            reading,
            began,
            began_at,
        } = &mut self.sides[side];
        let Reading::Head(head) = reading else {
            return Step::Http;
        };
        let request = match parse_request(head.unfolded()) {
            Ok(request) => request,
            Err(HeadError::TooManyHeaders) => {
                cx.stats.exceeded.head += 1;
                return self.lose(side);
            }
            Err(HeadError::Malformed) => return self.nonsense(side),
        };
        self.spoken = true;
        if self.pending.len() >= MAX_PENDING {
            cx.stats.exceeded.head += 1;
            return self.lose(side);
        }
        if let Asks::Upgrade(request) = &request.asks
            && !cx.has_room(request.held())
        {
            cx.stats.exceeded.buffered += 1;
            return self.lose(side);
        }
        self.pending.push_back(match request.asks {
            Asks::Upgrade(request) => {
                let began = *began;
                if let Some(key) = &request.key {
                    account.ask(side, key, began, *began_at, cx);
                }
                Pending::Upgrade(Attempt { request, began })
            }
            other => Pending::Other(other),
        });
        if request.body.is_over() {
            self.next_message(side);
        } else {
            self.sides[side].reading = Reading::Body(request.body);
        }
        Step::Http
    }

    fn handle_response(
        &mut self,
        side: usize,
        ts: Timestamp,
        at: usize,
        account: &mut Account,
        cx: &mut Context<'_>,
    ) -> Step {
        let Reading::Head(head) = &mut self.sides[side].reading else {
            return Step::Http;
        };
        let response = match parse_response(head.unfolded()) {
            Ok(response) => response,
            Err(HeadError::TooManyHeaders) => {
                cx.stats.exceeded.head += 1;
                return self.lose(side);
            }
            Err(HeadError::Malformed) => return self.nonsense(side),
        };
        self.spoken = true;
        let client = 1 - side;
        if response.status == 101 {
            let attempt = match self.pending.pop_front() {
                Some(Pending::Upgrade(attempt)) => Some(attempt),
                // What it answers may be further behind, if responses went missing.
                _ if response.upgrades => self.take_attempt().map(|(_, attempt)| attempt),
                // Another protocol takes over.
                _ => return Step::NotHttp { tls: false },
            };
            if attempt.is_none()
                && let Some(accept) = &response.accept
            {
                account.unasked = Some(AnswerSeen {
                    accept: accept.clone(),
                    server: side,
                    offset: self.sides[side].began_at,
                });
            }
            let request = match &mut self.sides[client].reading {
                Reading::Head(head) if attempt.is_none() => Some(std::mem::take(head)),
                _ => None,
            };
            return Step::Opens(Box::new(Opening {
                client,
                attempt,
                response,
                at,
                client_lost: matches!(self.sides[client].reading, Reading::Lost),
                request,
                held: self.take_held(),
            }));
        }
        if response.status / 100 == 1 {
            self.next_message(side);
            return Step::Http;
        }
        let (asked, refused) = match self.pending.pop_front() {
            Some(Pending::Upgrade(attempt)) => (None, Some(attempt)),
            Some(Pending::Other(asks)) => (Some(asks), None),
            None => (None, None),
        };
        let body = response.body(asked.as_ref());
        if body.is_over() {
            self.next_message(side);
        } else {
            self.sides[side].reading = Reading::Body(body);
        }
        if let Some(attempt) = refused {
            let decided = Decided {
                client,
                attempt: Some(&attempt),
                response: Some(&response),
                ts,
                outcome: Outcome::Rejected,
            };
            account.decide(&decided, cx);
            self.release(client, account, cx);
        }
        Step::Http
    }

    /// An attempt was refused: what the client sent behind it is more HTTP.
    fn release(&mut self, client: usize, account: &mut Account, cx: &mut Context<'_>) {
        if !matches!(self.sides[client].reading, Reading::Held) {
            return;
        }
        self.next_message(client);
        for held in self.take_held() {
            let step = match held.input(client) {
                Input::Bytes(input) => self.handle_bytes(&input, account, cx),
                Input::Missing { ts, offset, len } => self.handle_missing(client, ts, offset, len),
            };
            if !matches!(step, Step::Http) {
                self.lose(client);
            }
        }
    }

    /// A message of `side` is over.
    fn next_message(&mut self, side: usize) {
        self.sides[side].reading = if self.client == Some(side) && self.is_upgrading() {
            Reading::Held
        } else {
            Reading::Head(HeadBuffer::default())
        };
    }

    /// What `side` sends is no HTTP where a head was due.
    fn nonsense(&mut self, side: usize) -> Step {
        if self.spoken {
            self.lose(side)
        } else {
            Step::NotHttp { tls: false }
        }
    }

    /// The place in the messages of `side` is lost.
    fn lose(&mut self, side: usize) -> Step {
        let upgrading = self.is_upgrading();
        self.sides[side].reading = Reading::Lost;
        // Which response answers what is not known any more, but for the next one.
        if self.client == Some(side) {
            let kept = matches!(self.pending.front(), Some(Pending::Upgrade(_)));
            self.pending.truncate(usize::from(kept));
        } else if upgrading {
            (self.pending).retain(|pending| matches!(pending, Pending::Upgrade(_)));
            return Step::AnswerLost;
        } else {
            self.pending.clear();
        }
        Step::Http
    }
}

/// Whether a segment begins with an HTTP/1 head.
pub(super) fn begins_message(bytes: &[u8]) -> bool {
    match Kind::of(bytes) {
        Kind::Response => true,
        Kind::Request => {
            let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or(bytes);
            let version = line.trim_ascii_end().rsplit(|byte| *byte == b' ').next();
            version.is_some_and(|version| version.starts_with(b"HTTP/1."))
                || (line.len() == bytes.len() && bytes.starts_with(b"GET "))
        }
        _ => false,
    }
}
