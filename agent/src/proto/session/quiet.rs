//! A session of which nothing is under way, in as little memory as it needs.

use std::sync::Arc;

use super::{Account, Phase, Session, incoming::Incoming, websocket::WebSocket};
use crate::proto::{
    deflate::Extensions,
    event::Connection,
    flow::{Direction, FlowKey},
    packed::Packer,
    time::Timestamp,
};

/// What a quiet session consists of besides numbers.
#[derive(Debug)]
pub struct Quiet {
    connection: Arc<Connection>,
    extensions: Extensions,
}

impl Quiet {
    /// The connection.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.connection
    }
}

impl Session {
    /// Whether a WebSocket is open, and nothing is under way.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let Account {
            id,
            violations,
            decision,
            request,
            unasked,
            answered,
            ..
        } = &self.account;
        let Phase::WebSocket(websocket) = &self.phase else {
            return false;
        };
        *id == Some(websocket.connection.id)
            && violations.is_empty()
            && decision.is_none()
            && request.is_none()
            && unasked.is_none()
            && answered.is_none()
            && self.fins.iter().all(Option::is_none)
            && self.over.is_none()
            && self.held == 0
            && websocket.is_quiet()
    }

    /// Writes a session that is quiet; what is no number. `None` where it is not quiet.
    pub(in crate::proto) fn write(&mut self, p: &mut Packer) -> Option<Quiet> {
        if !self.is_quiet() {
            return None;
        }
        p.option(&mut self.account.interface, Packer::short);
        let Phase::WebSocket(websocket) = &mut self.phase else {
            return None;
        };
        let mut client = websocket.client() as u8;
        p.byte(&mut client);
        websocket.pack(p);
        Some(Quiet {
            connection: Arc::clone(&websocket.connection),
            extensions: websocket.extensions,
        })
    }

    /// Reads a session that was quiet.
    pub(in crate::proto) fn read(key: &FlowKey, quiet: Quiet, p: &mut Packer) -> Self {
        let mut session = Self::new(key.ends, None);
        p.option(&mut session.account.interface, Packer::short);
        session.account.id = Some(quiet.connection.id);
        let mut client = 0;
        p.byte(&mut client);
        let mut websocket = WebSocket::new(quiet.connection, usize::from(client), quiet.extensions);
        websocket.pack(p);
        session.phase = Phase::WebSocket(Box::new(websocket));
        session
    }
}

impl WebSocket {
    fn is_quiet(&self) -> bool {
        let incoming = Direction::BOTH.map(|d| &self.incoming[d]);
        incoming.into_iter().all(Incoming::is_quiet)
            && self.violations.is_empty()
            && self.first_close.is_none()
            && !self.is_ending()
    }

    fn pack(&mut self, p: &mut Packer) {
        let Timestamp(opened) = self.connection.opened;
        let Timestamp(last_activity) = &mut self.last_activity;
        p.near(last_activity, opened);
        let Timestamp(heard) = &mut self.heard;
        p.near(heard, *last_activity);
        for d in Direction::BOTH {
            self.incoming[d].pack(p);
        }
    }
}
