//! What the events of one TCP connection have in common, and the handshakes on it.

use std::{net::SocketAddr, sync::Arc};

use super::{Answered, Context, hops::Ticket, violations::Violations};
use crate::proto::{
    event::{Connection, EventKind, Handshake, Hop, Outcome},
    flow::{ConnId, Direction},
    observer::Decision,
    time::Timestamp,
    upgrade::{Fault, MAX_KEY, Request, ResponseHead},
};

/// A request for a WebSocket, and when it began.
#[derive(Debug)]
pub(super) struct Attempt {
    pub request: Box<Request>,
    pub began: Timestamp,
}

/// Where a request for a WebSocket was, and the key that it carried.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RequestSeen {
    /// `Sec-WebSocket-Key`.
    pub key: String,
    /// Index of the client in the flow's key.
    pub client: usize,
    /// Stream offset of the request's first byte.
    pub offset: u64,
}

/// Where an answer was that opens a WebSocket which nobody was seen to ask for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AnswerSeen {
    /// `Sec-WebSocket-Accept`.
    pub accept: String,
    /// Index of the server in the flow's key.
    pub server: usize,
    /// Stream offset of the answer's first byte.
    pub offset: u64,
}

/// The identity of a TCP connection.
#[derive(Debug)]
pub(super) struct Account {
    pub ends: [SocketAddr; 2],
    /// Where an end has another address, as another account of the connection shows.
    pub real: [Option<SocketAddr>; 2],
    pub interface: Option<u32>,
    pub id: Option<ConnId>,
    /// Violations of handshakes, until a WebSocket takes them over.
    pub violations: Violations,
    pub decision: Option<Decision>,
    pub request: Option<RequestSeen>,
    pub unasked: Option<AnswerSeen>,
    /// The request that waits for its answer.
    pub asked: Option<Ticket>,
    pub answered: Option<Answered>,
}

/// How an attempt was decided.
pub(super) struct Decided<'a> {
    pub client: usize,
    pub attempt: Option<&'a Attempt>,
    pub response: Option<&'a ResponseHead>,
    /// When the last byte of the response's head came, or when it was clear that none comes.
    pub ts: Timestamp,
    pub outcome: Outcome,
}

impl Account {
    fn end(&self, side: usize) -> SocketAddr {
        self.real[side].unwrap_or(self.ends[side])
    }

    /// Between whom requests of the end `client` are.
    fn hop(&self, client: usize) -> Hop {
        Hop {
            id: self.id.unwrap_or(ConnId(0)),
            client: self.end(client),
            server: self.end(1 - client),
        }
    }

    /// The end `client` asks for a WebSocket with `key`, in a request that `began` at the offset `offset`.
    pub fn ask(
        &mut self,
        client: usize,
        key: &str,
        began: Timestamp,
        offset: u64,
        cx: &mut Context<'_>,
    ) {
        self.withdraw(cx);
        self.request = Some(RequestSeen {
            key: key.to_owned(),
            client,
            offset,
        });
        if key.len() <= MAX_KEY {
            let hop = self.hop(client);
            self.asked = Some(cx.hops.ask(key, began, hop, self.id.is_some()));
        }
    }

    /// Nobody waits for an answer any more.
    pub fn withdraw(&mut self, cx: &mut Context<'_>) {
        if let Some(ticket) = self.asked.take() {
            let waited = cx.hops.take(ticket);
            self.id = self.id.or(waited.id);
        }
    }

    /// Emits the handshake, after what was wrong with it.
    pub fn decide(&mut self, decided: &Decided<'_>, cx: &mut Context<'_>) -> Arc<Connection> {
        let Decided {
            client,
            attempt,
            response,
            ts,
            ..
        } = *decided;
        let request = attempt.map(|attempt| attempt.request.as_ref());
        let response_faults = match (decided.outcome, response) {
            (Outcome::Accepted, Some(response)) => response.faults(request),
            _ => Vec::new(),
        };
        let request_faults = request.map_or(&[][..], |request| &request.faults);
        let faultless = request_faults.is_empty() && response_faults.is_empty();
        let outcome = match decided.outcome {
            Outcome::Accepted if !faultless => Outcome::Invalid,
            outcome => outcome,
        };
        let waited = self.asked.take().map(|ticket| cx.hops.take(ticket));
        let waited = waited.unwrap_or_default();
        self.id = self.id.or(waited.id);
        let id = *self.id.get_or_insert_with(|| cx.next_id());
        let key = request
            .and_then(|request| request.key.clone())
            .filter(|key| key.len() <= MAX_KEY);
        let began = attempt.map(|attempt| attempt.began);
        let own = self.hop(client);
        let asked = key.as_deref().zip(began);
        let next_hop = (waited.next)
            .or_else(|| asked.and_then(|(key, began)| cx.hops.behind(&own, key, began)));
        let previous_hop = asked
            .filter(|_| response.is_some())
            .and_then(|(key, began)| {
                let Context { hops, last_id, .. } = cx;
                hops.before(&own, key, [began, ts], || {
                    **last_id += 1;
                    ConnId(**last_id)
                })
            });
        let connection = Arc::new(Connection {
            id,
            client: own.client,
            server: own.server,
            interface: self.interface,
            opened: ts,
            outcome,
            host: request.and_then(|request| request.host.as_deref().map(Into::into)),
            path: request.map(|request| request.path.as_str().into()),
            subprotocol: response
                .filter(|_| outcome.opens())
                .and_then(|response| response.subprotocol.as_deref().map(Into::into)),
            next_hop: next_hop.map(Box::new),
            previous_hop: previous_hop.map(Box::new),
            key: key.as_deref().map(Into::into),
        });
        let faults = [
            (Direction::ClientToServer, request_faults),
            (Direction::ServerToClient, &response_faults),
        ];
        for (direction, faults) in faults {
            for Fault { rule, detail } in faults {
                let detail = || detail.clone();
                self.violations
                    .report(&connection, direction, ts, *rule, &detail, cx);
            }
        }
        if let (Some(key), Some(began), Some(_)) = (key, began, response) {
            self.answered = Some(Answered {
                key,
                began,
                ended: ts,
                hop: own,
            });
        }
        let handshake = Handshake {
            method: request.map(|request| request.method.clone()),
            origin: request.and_then(|request| request.origin.clone()),
            user_agent: request.and_then(|request| request.user_agent.clone()),
            status: response.map(|response| response.status),
            offered_subprotocols: request.map_or_else(Vec::new, |r| r.subprotocols.clone()),
            extensions: response
                .filter(|_| outcome.opens())
                .and_then(|response| response.extensions.clone()),
            latency: response.and(began).map(|began| ts.saturating_since(began)),
        };
        cx.emit(ts, &connection, EventKind::Handshake(Box::new(handshake)));
        if outcome.opens() {
            cx.stats.active += 1;
        }
        self.decision = match outcome {
            Outcome::Rejected => Some(Decision::Rejected),
            Outcome::Unanswered => self.decision,
            Outcome::Accepted | Outcome::Invalid | Outcome::Midstream => Some(Decision::Follow),
        };
        connection
    }
}
