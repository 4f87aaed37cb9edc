//! What the events of one TCP connection have in common, and the handshakes on it.

use std::{net::SocketAddr, sync::Arc};

use super::{Answered, Context, violations::Violations};
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

/// The identity of a TCP connection.
#[derive(Debug)]
pub(super) struct Account {
    pub ends: [SocketAddr; 2],
    pub interface: Option<u32>,
    pub id: Option<ConnId>,
    /// Violations of handshakes, until a WebSocket takes them over.
    pub violations: Violations,
    pub decision: Option<Decision>,
    pub request: Option<RequestSeen>,
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
        let id = *self.id.get_or_insert_with(|| cx.next_id());
        let key = request
            .and_then(|request| request.key.clone())
            .filter(|key| key.len() <= MAX_KEY);
        let began = attempt.map(|attempt| attempt.began);
        let own = Hop {
            id,
            client: self.ends[client],
            server: self.ends[1 - client],
        };
        let asked = key.as_deref().zip(began);
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
            next_hop: asked.and_then(|(key, began)| cx.hops.behind(&own, key, began).map(Box::new)),
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
