//! The bytes of an established WebSocket.
//!
//! Layout: a byte of settings, then the blocks of [`crate::conversation`].

use wstap::proto::{event::Event, observer::Config};

use crate::{
    conversation::{Conversation, DEFLATING, How, REQUEST, RESPONSE, play},
    input::Input,
    judge::{essence, essence_of_streams},
};

/// Any cut gives the same events, and so does any order.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let settings = input.u8();
    let whole = events(settings, input, How::Whole);
    if settings & 8 == 0 {
        let cut = events(settings, input, How::Cut);
        assert_eq!(essence(whole), essence(cut));
    } else {
        let shuffled = events(settings, input, How::Shuffled);
        assert_eq!(essence_of_streams(whole), essence_of_streams(shuffled));
    }
}

fn events(settings: u8, input: Input<'_>, how: How) -> Vec<Event> {
    let mut conversation = Conversation::new(
        Config {
            preview: match settings & 6 {
                0 => 0,
                2 => 16,
                _ => 1 << 20,
            },
            inflate: true,
            max_inflated: 1 << 20,
            ..Config::default()
        },
        how,
    );
    conversation.send(0, REQUEST, || usize::MAX);
    let response = if settings & 1 == 0 {
        RESPONSE
    } else {
        DEFLATING
    };
    conversation.send(1, response, || usize::MAX);
    play(&mut conversation, input, how);
    conversation.end()
}
