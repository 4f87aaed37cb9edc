//! permessage-deflate (RFC 7692): what is negotiated, and what is inflated.
//!
//! Layout: a byte. Even: what was agreed as a run, then what was offered. Odd: a message; the byte
//! says how it is cut, and how large the window is.

use wstap::proto::{
    deflate::{Extensions, parse_extensions, unoffered},
    inflate::{Inflated, Inflater},
};

use crate::input::Input;

/// No more of a message is inflated.
const MOST: usize = 1 << 20;

/// Reads without harm.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let what = input.u8();
    if what & 1 == 0 {
        negotiate(input);
    } else {
        let size = usize::from(what >> 4).max(1);
        inflate(input.rest(), size, 8 + (what >> 1 & 7));
    }
}

/// Two headers are one with a comma between (RFC 9110, section 5.3), and no more is unoffered than
/// was agreed.
fn negotiate(mut input: Input<'_>) {
    let agreed = String::from_utf8_lossy(input.run()).into_owned();
    let offered = String::from_utf8_lossy(input.rest()).into_owned();
    let (mut agreed_list, mut offered_list) = (Vec::new(), Vec::new());
    parse_extensions(&agreed, &mut agreed_list);
    parse_extensions(&offered, &mut offered_list);
    let extensions = Extensions::agreed(&agreed_list, &offered_list);
    if agreed_list.is_empty() {
        assert!(!extensions.have_others());
    }
    assert!(unoffered(&offered_list, &agreed_list).len() <= agreed_list.len());
    let mut joined = Vec::new();
    parse_extensions(&format!("{agreed},{offered}"), &mut joined);
    if !agreed.contains('"') {
        agreed_list.extend(offered_list);
        // The bound on what is looked at.
        agreed_list.truncate(32);
        assert_eq!(joined, agreed_list);
    }
}

/// What comes out, and how it ends, is the same however the message is cut.
fn inflate(message: &[u8], size: usize, window_bits: u8) {
    let whole = inflated(message, message.len().max(1), window_bits);
    let cut = inflated(message, size, window_bits);
    assert_eq!(whole.1, cut.1);
    // Where it is stopped, the rest of a piece is not looked at.
    if whole.1 != Inflated::Stopped {
        assert!(
            whole.0 == cut.0,
            "{} and {} bytes",
            whole.0.len(),
            cut.0.len()
        );
    }
}

fn inflated(message: &[u8], size: usize, window_bits: u8) -> (Vec<u8>, Inflated) {
    let mut inflater = Inflater::new(window_bits);
    let mut out = Vec::new();
    for piece in message.chunks(size) {
        let fed = inflater.feed(piece, &mut |bytes| {
            out.extend_from_slice(bytes);
            out.len() < MOST
        });
        if fed != Inflated::All {
            return (out, fed);
        }
    }
    let end = inflater.finish();
    (out, end)
}
