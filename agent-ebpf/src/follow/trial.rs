//! The way back of a direction whose place is lost and that does not pause: the agent, which finds out
//! where a header was, always comes late.
//!
//! So headers are guessed, and walked from on trial, while segments go on being copied whole. The agent
//! is told where a trial begins. If it finds a header there it says so, and then the place that the
//! walk has come to since is the direction's. Of a trial nothing is counted and nothing handed over.

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_skb_load_bytes, bpf_spin_lock, bpf_spin_unlock},
};
use wstap_common::flow::{Place, Trial, flag, mode, state};

use super::{flags, place_of};
use crate::{
    headers::{FIN, Headers, RST, SYN},
    maps::{FLOWS, Flow, PASSAGE, WALK},
    walk::{DETAIL, TRIAL, walk_segment},
};

/// How long a trial waits to be confirmed, in [`Trial::when`].
const PATIENCE: u8 = 15;
/// After so long the agent may not have known where it was when the trial began, and is asked anew about
/// another header, if one begins a segment.
const ANEW: u8 = 4;

/// Of [`try_on`]: the place has changed meanwhile.
pub(super) const CHANGED: u64 = 1;
/// Of [`try_on`]: the segment was walked on trial; [`settle`] is to be told when it has been copied.
pub(super) const TRIED: u64 = 2;
/// Of [`try_on`]: as [`TRIED`], and the trial begins with it.
pub(super) const BEGUN: u64 = 4;

/// Walks the segment in `PASSAGE`, of a direction whose place is lost, on trial, or begins a trial with
/// it. `high` is how far the direction had come before.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn try_on(skb: *mut __sk_buff, before: u64, high: u32, now: u64) -> u64 {
    let Some(passage) = PASSAGE.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: this CPU's own slot, which `inspect` has filled.
    let passage = unsafe { &*passage };
    let Some(flow) = FLOWS.get_ptr_mut(&passage.key) else {
        return 0;
    };
    // SAFETY: as in `decide`.
    let flow = unsafe { &mut *flow };
    let Some(walk) = WALK.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: this CPU's own slot, used by nobody else while this program runs.
    let walk = unsafe { &mut *walk };
    let sender = (passage.sender & 1) as usize;
    let headers = &passage.headers;
    let mut place = Place(before);
    let mut trial = Trial(flow.directions[sender].waiting_since);
    let in_order = headers.seq == high && headers.flags & (FIN | RST | SYN) == 0;
    let mut outcome = TRIED;
    let waited = Trial::when(now).wrapping_sub(trial.since());
    if place.mode() == mode::WHOLE {
        if !in_order
            || flow.tally == 0
            || flow.muted != 0
            || !is_plausible(skb, headers, flow, sender)
        {
            return unchanged(flow, sender, before);
        }
        outcome = TRIED | BEGUN;
        place = Place::new(headers.seq, place.version(), state::UNKNOWN, 0, mode::TRIAL);
        trial = Trial::new(headers.seq, trial.version(), Trial::when(now), 0);
    } else if place.next() == headers.seq
        && place.carried() == 0
        && in_order
        && (ANEW..=PATIENCE).contains(&waited)
        && flow.muted == 0
    {
        outcome = TRIED | BEGUN;
        trial = Trial::new(headers.seq, trial.version(), Trial::when(now), 0);
    }
    let end = headers.seq.wrapping_add(headers.len);
    if end.wrapping_sub(place.next()) as i32 <= 0 && headers.flags & (FIN | RST) == 0 {
        return unchanged(flow, sender, before);
    }
    let is_late = Trial::when(now).wrapping_sub(trial.since()) > PATIENCE;
    let version = place.version().wrapping_add(1);
    let mut new = Place::new(place.next(), version, state::UNKNOWN, 0, mode::WHOLE);
    walk.clear_snapshot();
    if in_order && !is_late {
        walk.payload = headers.payload;
        walk.len = headers.len;
        walk.seq = headers.seq;
        walk.slot = 0;
        walk.previous = 0;
        walk.flags = flags(flow, sender as u32) & !DETAIL | TRIAL;
        if Place(before).mode() == mode::WHOLE {
            walk.begin_anew();
        } else {
            walk.begin(&flow.directions[sender], place);
            if outcome & BEGUN != 0 {
                walk.frames = 0;
            }
        }
        if walk_segment(skb) == 0 {
            let (reached, _) = walk.place(version);
            if reached.mode() == mode::NEAR {
                let (next, state) = (reached.next(), reached.state());
                new = Place::new(next, version, state, reached.carried(), mode::TRIAL);
            }
        }
    }
    walk.delta.clear();
    if new.mode() == mode::WHOLE {
        outcome = 0;
    }
    let copying = u32::from(outcome != 0);
    let direction = &raw mut flow.directions[sender];
    let mut done = false;
    // SAFETY: the lock is the flow's, the direction within its value.
    unsafe {
        bpf_spin_lock(&raw mut flow.lock);
        if (*direction).place == before {
            // Others may be copying still.
            let others = Trial((*direction).waiting_since).copying();
            (*direction).waiting_since = Trial::new(
                trial.begin(),
                trial.version(),
                trial.since(),
                others.wrapping_add(copying as u8),
            )
            .0;
            (*direction).place = new.0;
            (*direction).rest = 0;
            (*direction).message_len = walk.message_len;
            (*direction).message_frames = walk.message_frames;
            (*direction).carry[0] = walk.carry[0];
            (*direction).carry[1] = walk.carry[1];
            (*direction).frames = walk.frames;
            done = true;
        }
        bpf_spin_unlock(&raw mut flow.lock);
    }
    if done { outcome } else { CHANGED }
}

/// A segment that was walked on trial has been copied.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn settle() -> u64 {
    let Some(passage) = PASSAGE.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: this CPU's own slot, which `inspect` has filled.
    let passage = unsafe { &*passage };
    let Some(flow) = FLOWS.get_ptr_mut(&passage.key) else {
        return 0;
    };
    // SAFETY: as in `decide`.
    let flow = unsafe { &mut *flow };
    let direction = &raw mut flow.directions[(passage.sender & 1) as usize];
    // SAFETY: the lock is the flow's, the direction within its value.
    unsafe {
        bpf_spin_lock(&raw mut flow.lock);
        let trial = (*direction).waiting_since;
        if trial >> 56 != 0 {
            (*direction).waiting_since = trial - (1 << 56);
        }
        bpf_spin_unlock(&raw mut flow.lock);
    }
    0
}

/// 0 if the place is `before` still: another CPU that resumes at this moment either sees how far this
/// segment goes, or is seen here; else nobody would walk it.
#[inline(always)]
fn unchanged(flow: &mut Flow, sender: usize, before: u64) -> u64 {
    // SAFETY: the lock is the flow's. Nothing is changed.
    unsafe { bpf_spin_lock(&raw mut flow.lock) };
    let current = place_of(flow, sender);
    // SAFETY: as above.
    unsafe { bpf_spin_unlock(&raw mut flow.lock) };
    if current.0 == before { 0 } else { CHANGED }
}

/// Whether a segment begins with what may be a header of its direction.
#[inline(always)]
fn is_plausible(skb: *mut __sk_buff, headers: &Headers, flow: &Flow, sender: usize) -> bool {
    if headers.len < 2 {
        return false;
    }
    let mut bytes = [0u8; 2];
    // SAFETY: there is room for two bytes.
    let failed =
        unsafe { bpf_skb_load_bytes(skb.cast(), headers.payload, bytes.as_mut_ptr().cast(), 2) };
    let [first, second] = bytes;
    let is_client = flow.flags & flag::CLIENT == sender as u32;
    failed == 0
        && first & 0x30 == 0
        && matches!(first & 0x0f, 0 | 1 | 2 | 8 | 9 | 10)
        && (second >> 7 != 0) == is_client
}
