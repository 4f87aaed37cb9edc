//! What TCP does out of the ordinary, counted as the agent counts it of whole segments.

use wstap_common::tally::Tally;

use crate::{
    flow::Passage,
    headers::{ACK, FIN, Headers, RST},
    maps::Flow,
};

/// Whether a segment has payload that has not gone by yet, as far as that is known: a retransmission
/// or a probe is no sign of life. `high` and `hole` are those before it.
#[inline(always)]
pub(super) fn brings_news(headers: &Headers, high: u32, [from, to]: [u32; 2]) -> bool {
    let end = headers.seq.wrapping_add(headers.len);
    let fills = from != to
        && (headers.seq.wrapping_sub(to) as i32) < 0
        && end.wrapping_sub(from) as i32 > 0;
    headers.len > 0 && (end.wrapping_sub(high) as i32 > 0 || fills)
}

/// Counts what TCP does out of the ordinary. `high` is how far the direction had come before.
#[inline(always)]
pub(super) fn observe(passage: &Passage, flow: &mut Flow, tally: &mut Tally, high: u32) {
    let headers = &passage.headers;
    if headers.has(RST) {
        return;
    }
    if headers.has(ACK) {
        let high = flow.directions[1 - (passage.sender & 1) as usize].high;
        if headers.window == 0 {
            flow.closed_at = high;
        } else if flow.closed_at == high {
            flow.closed_at = 0;
        }
    }
    let direction = &mut flow.directions[(passage.sender & 1) as usize];
    let takes = headers.len + u32::from(headers.has(FIN));
    let open = direction.hole[0] != direction.hole[1];
    if headers.seq == high && !open && takes > 0 {
        tally.edge = direction.high;
        return;
    }
    if takes == 0 && headers.window == 0 && headers.has(ACK) {
        tally.zero_windows = tally.zero_windows.wrapping_add(1);
    }
    if headers.len <= 1 && !headers.has(FIN) && headers.seq.wrapping_add(1) == high {
        // Whoever has something to send, and may not, asks in the same way whether it may.
        if flow.closed_at != high {
            tally.keepalive_probes = tally.keepalive_probes.wrapping_add(1);
        }
        return;
    }
    if takes == 0 {
        return;
    }
    tally.edge = direction.high;
    let end = headers.seq.wrapping_add(headers.len);
    let [from, to] = direction.hole;
    let ahead = headers.seq.wrapping_sub(high) as i32;
    let mut seen = 0;
    if ahead > 0 {
        if !open {
            direction.hole = [high, headers.seq];
        }
        tally.out_of_order = tally.out_of_order.wrapping_add(1);
        return;
    }
    // Bytes of the segment that are neither missing so far nor beyond what was seen.
    let old = end.wrapping_sub(high) as i32;
    let known = if old > 0 { high } else { end };
    if (known.wrapping_sub(headers.seq) as i32) > 0 {
        seen = known.wrapping_sub(headers.seq);
    }
    if open {
        let first = if (headers.seq.wrapping_sub(from) as i32) > 0 {
            headers.seq
        } else {
            from
        };
        let last = if (known.wrapping_sub(to) as i32) < 0 {
            known
        } else {
            to
        };
        let fills = last.wrapping_sub(first) as i32;
        if fills > 0 {
            seen = seen.wrapping_sub(fills as u32);
            if first == from {
                direction.hole = [last, to];
            } else {
                // Its middle or its end: what remains is taken for its beginning.
                direction.hole = [from, first];
                tally.out_of_order = tally.out_of_order.wrapping_add(1);
            }
        } else if old > 0 || headers.has(FIN) {
            tally.out_of_order = tally.out_of_order.wrapping_add(1);
        }
    }
    if seen > 0 {
        tally.retransmitted = tally.retransmitted.wrapping_add(1);
    }
}
