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

const FAULTS: [Fault; 5] = [
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
        name: "a message with what precedes it",
        reason: "tshark does not take a message whose last fragment is empty for complete, and takes \
                 a continuation of nothing for a beginning; either it shows before the next message \
                 that is fragmented",
        explains: |difference| {
            let earlier = difference.connection.and_then(|connection| {
                connection.frames[difference.direction].get(..difference.index)
            });
            difference.field == "message"
                && difference.theirs.ends_with(&difference.ours)
                && leaves_fragments(earlier.unwrap_or_default())
        },
    },
    Fault {
        judges: &["tshark"],
        name: "256 KiB of a masked payload",
        reason: "tshark unmasks no more of a frame than its first 262144 bytes",
        explains: |difference| {
            difference.field == "message"
                && difference.theirs.len() == 2 * 262_144
                && difference.ours.starts_with(&difference.theirs)
        },
    },
    Fault {
        judges: &["tshark"],
        name: "hundreds of frames in a segment",
        reason: "tshark gives up within a packet after 500 layers of protocols, of which each frame \
                 is one",
        explains: |difference| {
            let frames = difference
                .connection
                .map(|c| &c.frames[difference.direction]);
            let time = |frame: &Frame| frame.get("ts").cloned();
            let last = frames.and_then(|frames| time(frames.get(difference.index)?));
            let same = (frames.into_iter().flatten()).filter(|frame| time(frame) == last);
            difference.field == "frames" && last.is_some() && same.count() > 490
        },
    },
    Fault {
        judges: &["tshark"],
        name: "nothing, compressed",
        reason: "tshark shows a compressed message that is empty as one byte, 0",
        explains: |difference| {
            let said = (difference.ours.as_str(), difference.theirs.as_str());
            match difference.field {
                "inflated_len" => said == ("0", "1"),
                "inflated" => said == ("", "00"),
                _ => false,
            }
        },
    },
];

/// Whether there is an empty last fragment, or a continuation of nothing.
fn leaves_fragments(frames: &[Frame]) -> bool {
    let is = |frame: &Frame, field, value| frame.get(field).is_some_and(|said| said == value);
    let mut within = false;
    for frame in frames {
        let fin = is(frame, "fin", "true");
        if is(frame, "opcode", "continuation") {
            if !within || (fin && is(frame, "len", "0")) {
                return true;
            }
        } else if !is(frame, "opcode", "text") && !is(frame, "opcode", "binary") {
            continue;
        }
        within = !fin;
    }
    false
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
