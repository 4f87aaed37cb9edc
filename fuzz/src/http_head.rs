//! A connection on which HTTP is spoken, and a WebSocket perhaps after it.
//!
//! Layout: a byte of settings, then the blocks of [`crate::conversation`].

use std::collections::VecDeque;

use wstap::proto::{
    event::Event,
    observer::Config,
    upgrade::{Asks, Body, HeadBuffer, Kind, Pushed, parse_request, parse_response},
};

use crate::{
    conversation::{Conversation, How, play},
    input::Input,
    judge::{essence, essence_of_streams},
};

/// Any cut and any order give the same events, as long as both ends speak HTTP. Where one does not, a WebSocket
/// is searched for, and where segments begin is a hint.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let settings = input.u8();
    let max_head = if settings & 2 != 0 { 512 } else { 64 << 10 };
    let config = Config {
        preview: if settings & 1 != 0 { 64 } else { 0 },
        max_head,
        ..Config::default()
    };
    let whole = events(config.clone(), input, How::Whole);
    let is_http = is_http(input, max_head);
    if settings & 4 == 0 {
        let cut = events(config, input, How::Cut);
        if is_http {
            assert_eq!(essence(whole), essence(cut));
        }
    } else {
        let shuffled = events(config, input, How::Shuffled);
        if is_http {
            assert_eq!(essence_of_streams(whole), essence_of_streams(shuffled));
        }
    }
}

fn events(config: Config, input: Input<'_>, how: How) -> Vec<Event> {
    let mut conversation = Conversation::new(config, how);
    play(&mut conversation, input, how);
    conversation.end()
}

/// Whether the client sends requests up to one that asks for a WebSocket, and the server responses
/// up to a 101.
fn is_http(mut input: Input<'_>, max_head: usize) -> bool {
    let mut streams = [Vec::new(), Vec::new()];
    while !input.is_empty() {
        let side = usize::from(input.u8() >> 7);
        streams[side].extend_from_slice(input.run());
    }
    let mut asked = VecDeque::new();
    let mut client = streams[0].as_slice();
    let mut upgrading = false;
    while !client.is_empty() && !upgrading {
        let Some((mut head, rest)) = head(client, Kind::Request, max_head) else {
            return false;
        };
        let Ok(request) = parse_request(head.unfolded()) else {
            return false;
        };
        upgrading = matches!(request.asks, Asks::Upgrade(_));
        asked.push_back(request.asks);
        let Some(rest) = behind(request.body, rest) else {
            return false;
        };
        client = rest;
    }
    let mut server = streams[1].as_slice();
    while !server.is_empty() {
        let Some((mut head, rest)) = head(server, Kind::Response, max_head) else {
            return false;
        };
        let Ok(response) = parse_response(head.unfolded()) else {
            return false;
        };
        if response.status == 101 {
            return upgrading && asked.len() == 1;
        }
        server = rest;
        if response.status / 100 != 1 {
            let asked = asked.pop_front();
            let Some(rest) = behind(response.body(asked.as_ref()), rest) else {
                return false;
            };
            server = rest;
        }
    }
    // What follows a request that is never granted is HTTP, or is not.
    client.is_empty()
}

/// A head of this kind at the beginning, if it is complete, and what follows it.
fn head(bytes: &[u8], kind: Kind, max: usize) -> Option<(HeadBuffer, &[u8])> {
    let mut head = HeadBuffer::default();
    match head.push(bytes, max) {
        Pushed::Complete(n) if head.kind() == kind => Some((head, bytes.get(n..)?)),
        _ => None,
    }
}

/// What follows a body; nothing where it is not complete.
fn behind(mut body: Body, bytes: &[u8]) -> Option<&[u8]> {
    if body.is_over() {
        return Some(bytes);
    }
    let n = body.skip(bytes).ok()?;
    bytes.get(n..)
}
