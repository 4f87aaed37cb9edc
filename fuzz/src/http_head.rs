//! A connection on which HTTP is spoken, and a WebSocket perhaps after it.
//!
//! Layout: a byte of settings, then the blocks of [`crate::conversation`].

use wstap::proto::{event::Event, observer::Config};

use crate::{
    conversation::{Conversation, play},
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
        preview: if settings & 1 != 0 { 64 } else { 0 },
        max_head: if settings & 2 != 0 { 512 } else { 64 << 10 },
        ..Config::default()
    });
    play(&mut conversation, input, cut);
    conversation.end()
}
