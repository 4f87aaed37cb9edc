//! How a WebSocket ends: who began, how, and what had been counted.

use std::time::Duration;

use super::{Incoming, Reading, WebSocket, quiet};
use crate::proto::{
    event::{Close, CloseKind, EventKind, TcpCounts},
    flow::{Direction, PerDirection, Role},
    frame::CloseCode,
    session::{Context, Ending, walked::told_apart},
    time::Timestamp,
};

/// The close frame that came first.
#[derive(Debug)]
pub(in crate::proto::session) struct FirstClose {
    pub direction: Direction,
    /// Index of the frame in its direction.
    pub index: u64,
    pub(super) quiet: Duration,
    pub code: Option<CloseCode>,
    pub reason: Option<String>,
}

/// The FIN or RST that came first.
#[derive(Debug)]
pub(super) struct FirstEnd {
    role: Role,
    quiet: Duration,
}

impl WebSocket {
    /// The sender of one direction is done.
    pub fn handle_fin(&mut self, d: Direction, ts: Timestamp, cx: &mut Context<'_>) {
        self.note_end(d.sender(), ts);
        let closed = self.incoming[d.opposite()].closed;
        if let Reading::Search(search) = &mut self.incoming[d].reading
            && let gap = search.missing().is_some()
            && let Some(chain) = search.finish(closed)
        {
            self.resume(d, chain, gap, cx);
        }
        self.end_direction(d, ts, cx);
    }

    /// The connection was reset.
    pub fn handle_reset(&mut self, d: Direction, ts: Timestamp) {
        self.note_end(d.sender(), ts);
        self.reset = true;
    }

    fn note_end(&mut self, role: Role, ts: Timestamp) {
        let quiet = quiet(ts, self.last_activity, self.heard);
        self.first_end.get_or_insert(FirstEnd { role, quiet });
    }

    /// Ends it. `tcp` are the counts of both directions.
    pub fn close(
        mut self,
        ending: Ending,
        ts: Timestamp,
        tcp: PerDirection<TcpCounts>,
        cx: &mut Context<'_>,
    ) {
        for direction in Direction::BOTH {
            self.end_direction(direction, ts, cx);
        }
        self.release(cx);
        let [client, server] = Direction::BOTH.map(|d| self.incoming[d].closed);
        let kind = match ending {
            _ if client && server => CloseKind::Clean,
            _ if client || server => CloseKind::Half,
            _ if self.reset => CloseKind::Rst,
            Ending::Finished => CloseKind::Fin,
            // A new connection took its place: a FIN was seen or it had fallen silent unnoticed.
            Ending::Restarted if self.first_end.is_some() => CloseKind::Fin,
            Ending::Restarted | Ending::Idle => CloseKind::Idle,
            Ending::Evicted => CloseKind::Evicted,
            Ending::Eof => CloseKind::Eof,
        };
        let observed = !matches!(kind, CloseKind::Evicted | CloseKind::Eof);
        let (initiator, code, reason, silence) = match (self.first_close, self.first_end) {
            (Some(close), _) => (
                Some(close.direction.sender()),
                close.code,
                close.reason,
                Some(close.quiet),
            ),
            (None, _) if !observed => (None, None, None, None),
            (None, Some(end)) => (
                Some(end.role),
                Some(CloseCode::ABNORMAL),
                None,
                Some(end.quiet),
            ),
            (None, None) => (
                None,
                Some(CloseCode::ABNORMAL),
                None,
                Some(ts.saturating_since(self.last_activity.max(self.heard))),
            ),
        };
        let of = |d: Direction| &self.incoming[d];
        let (c2s, s2c) = (of(Direction::ClientToServer), of(Direction::ServerToClient));
        let frames = |of: &Incoming| match &of.reserved {
            Some(reserved) => told_apart(of.frames, &reserved[0]),
            None => of.frames,
        };
        let bytes = |of: &Incoming| match &of.reserved {
            Some(reserved) => told_apart(of.bytes, &reserved[1]),
            None => of.bytes,
        };
        let close = Close {
            kind,
            initiator,
            code,
            reason,
            duration: ts.saturating_since(self.connection.opened),
            silence,
            frames: PerDirection {
                client_to_server: frames(c2s),
                server_to_client: frames(s2c),
            },
            bytes: PerDirection {
                client_to_server: bytes(c2s),
                server_to_client: bytes(s2c),
            },
            messages: PerDirection {
                client_to_server: c2s.completed,
                server_to_client: s2c.completed,
            },
            tcp,
            unanswered_pings: PerDirection {
                client_to_server: c2s.pings.unanswered(),
                server_to_client: s2c.pings.unanswered(),
            },
        };
        cx.stats.active = cx.stats.active.saturating_sub(1);
        cx.emit(ts, &self.connection, EventKind::Close(Box::new(close)));
    }

    /// Nothing more comes in this direction.
    fn end_direction(&mut self, d: Direction, ts: Timestamp, cx: &mut Context<'_>) {
        if let Reading::Payload(open) = &self.incoming[d].reading {
            if !open.reported {
                self.report_frame(d, ts, cx);
            }
            self.report_faults(d, ts, cx);
            self.finish_progress(d, ts, cx);
        }
        let reading = std::mem::replace(&mut self.incoming[d].reading, Reading::Ended);
        if let Reading::Search(search) = reading
            && let Some(bytes) = search.missing()
        {
            self.report_gap(d, ts, bytes, false, cx);
        }
    }
}
