//! The bytes of an established WebSocket.
//!
//! Layout: a byte of settings, then the blocks of [`crate::conversation`].

use wstap::proto::{event::Event, observer::Config};

use crate::{
    conversation::{Conversation, DEFLATING, REQUEST, RESPONSE, play},
    input::Input,
    judge::essence,
};

/// Any cut gives the same events.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let settings = input.u8();
    let whole = events(settings, input, false);
    let cut = events(settings, input, true);
    assert_eq!(essence(whole), essence(cut));
}

fn events(settings: u8, input: Input<'_>, cut: bool) -> Vec<Event> {
    let mut conversation = Conversation::new(Config {
        preview: match settings & 6 {
            0 => 0,
            2 => 16,
            _ => 1 << 20,
        },
        inflate: true,
        max_inflated: 1 << 20,
        ..Config::default()
    });
    conversation.send(0, REQUEST, || usize::MAX);
    let response = if settings & 1 == 0 {
        RESPONSE
    } else {
        DEFLATING
    };
    conversation.send(1, response, || usize::MAX);
    play(&mut conversation, input, cut);
    conversation.end()
}
