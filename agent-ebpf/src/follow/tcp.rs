//! What TCP does out of the ordinary, counted as the agent counts it of whole segments.

use wstap_common::{
    oddity::{OUT_OF_ORDER, RETRANSMITTED, note},
    tally::Tally,
};

use crate::{
    flow::{Passage, note_window},
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
        let other = 1 - (passage.sender & 1) as usize;
        let high = flow.directions[other].high;
        note_window(&mut flow.closed_at[other], high, headers.window);
    }
    let direction = &mut flow.directions[(passage.sender & 1) as usize];
    let fin = u32::from(headers.has(FIN));
    let takes = headers.len + fin;
    if takes > 0 && headers.seq.wrapping_add(takes).wrapping_sub(high) as i32 > 0 {
        // A FIN is no byte.
        let (high, edge) = (&raw const direction.high, &raw mut tally.edge);
        // SAFETY: single numbers, of the flow and of its tally. Volatile, since another CPU may have a later
        // segment at this moment, and be between its two.
        unsafe {
            let seen = high.read_volatile();
            edge.write_volatile(seen.wrapping_sub(fin));
            let newest = high.read_volatile();
            if newest != seen {
                edge.write_volatile(newest);
            }
        }
    }
    if headers.seq == high && takes > 0 {
        return;
    }
    if takes == 0 && headers.window == 0 && headers.has(ACK) {
        tally.zero_windows = tally.zero_windows.wrapping_add(1);
    }
    if headers.len <= 1 && !headers.has(FIN) && headers.seq.wrapping_add(1) == high {
        // Whoever has something to send, and may not, asks in the same way whether it may.
        if flow.closed_at[(passage.sender & 1) as usize] != high {
            tally.keepalive_probes = tally.keepalive_probes.wrapping_add(1);
        }
        return;
    }
    if takes == 0 {
        return;
    }
    match note(high, &mut direction.hole, headers.seq, headers.len) {
        OUT_OF_ORDER => tally.out_of_order = tally.out_of_order.wrapping_add(1),
        RETRANSMITTED => tally.retransmitted = tally.retransmitted.wrapping_add(1),
        _ => {}
    }
}
