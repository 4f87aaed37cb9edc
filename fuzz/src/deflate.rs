//! The negotiation of permessage-deflate (RFC 7692, section 7): two header values.
//!
//! Layout: what was agreed as a run, then what was offered.

use wstap::proto::deflate::{Extensions, parse_extensions, unoffered};

use crate::input::Input;

/// Reads without harm, and an offer that is taken as it is offers all that was agreed.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let agreed = String::from_utf8_lossy(input.run()).into_owned();
    let offered = String::from_utf8_lossy(input.rest()).into_owned();
    let (mut agreed_list, mut offered_list) = (Vec::new(), Vec::new());
    parse_extensions(&agreed, &mut agreed_list);
    parse_extensions(&offered, &mut offered_list);
    let extensions = Extensions::agreed(&agreed_list);
    if agreed_list.is_empty() {
        assert!(!extensions.may_compress() && !extensions.have_others());
    }
    assert!(unoffered(&offered_list, &agreed_list).len() <= agreed_list.len());
    // Two headers are one with a comma between (RFC 9110, section 5.3).
    let mut joined = Vec::new();
    parse_extensions(&format!("{agreed},{offered}"), &mut joined);
    if !agreed.contains('"') {
        agreed_list.extend(offered_list);
        // The bound on what is looked at.
        agreed_list.truncate(32);
        assert_eq!(joined, agreed_list);
    }
}
