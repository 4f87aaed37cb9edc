//! Where a judge is known to be wrong, or to say less than there is.
//!
//! Each fault is told from the traffic, not from the name of a capture: what it explains in one, it
//! explains in all.

use super::{Difference, Frame};

/// A known fault.
struct Fault {
    judges: &'static [&'static str],
    name: &'static str,
    reason: &'static str,
    explains: fn(&Difference<'_>) -> bool,
}

const FAULTS: [Fault; 2] = [
    Fault {
        judges: &["tshark", "rows", "suricata"],
        name: "no handshake, no frames",
        reason: "frames are looked for only behind a handshake that was captured; wstap finds a \
                 WebSocket by its frames, too",
        explains: |difference| {
            let midstream = difference.connection.is_some_and(|c| c.midstream);
            difference.field == "frames" && midstream && difference.theirs == "0"
        },
    },
    Fault {
        judges: &["tshark"],
        name: "a message that goes on after its end",
        reason: "where the last fragment of a message is empty, tshark does not take the message for \
                 complete, and shows it again before the next one that is fragmented",
        explains: |difference| {
            let earlier = difference.connection.and_then(|connection| {
                connection.frames[difference.direction].get(..difference.index)
            });
            difference.field == "message"
                && difference.theirs.ends_with(&difference.ours)
                && earlier.unwrap_or_default().iter().any(is_empty_end)
        },
    },
];

/// Whether a fragmented message ends with this frame, and the frame is empty.
fn is_empty_end(frame: &Frame) -> bool {
    [("opcode", "continuation"), ("fin", "true"), ("len", "0")]
        .into_iter()
        .all(|(field, value)| frame.get(field).is_some_and(|said| said == value))
}

/// The fault that explains a difference.
pub fn explains(difference: &Difference<'_>, judge: &str) -> Option<&'static str> {
    FAULTS
        .iter()
        .find(|fault| fault.judges.contains(&judge) && (fault.explains)(difference))
        .map(|fault| fault.name)
}

/// Why a fault is one.
pub fn reason(name: &str) -> &'static str {
    let fault = FAULTS.iter().find(|fault| fault.name == name);
    fault.map_or("", |fault| fault.reason)
}
