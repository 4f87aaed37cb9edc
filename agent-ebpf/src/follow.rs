//! A segment of a flow that is followed: passed over, walked, set aside or copied whole.
//!
//! What concerns the walk of a direction changes under the lock of its flow, and only if its
//! [`Place`] is still the one that the walk began with: so of several CPUs that have segments of one
//! direction at once, one commits. Under the lock no function may be called.

mod aside;
mod commit;
mod lost;
mod tcp;
mod trial;

use aya_ebpf::bindings::__sk_buff;
use wstap_common::{
    counter::Counter,
    flow::{Place, flag, mode},
    globals::DETAILED,
    oddity::acknowledge,
    record::{RECORD_SEGMENT, RECORD_TRIAL},
    tally::element,
};

pub use self::commit::fill_from;
use self::{
    aside::{CHANGED, SET_ASIDE, drain, set_aside},
    commit::{approach, commit, describe},
    lost::{give_up_late, lose, resume},
    tcp::{brings_news, observe},
    trial::{settle, try_on},
};
use crate::{
    flow::{Account, Passage, account},
    headers::{ACK, FIN, Headers, RST},
    maps::{EACH_FRAME, FLOWS, Flow, HEADER, PASSAGE, TALLIES, WALK, WALKS, count},
    sample::{Origin, is_crowded, precisely, sample},
    walk::{DEFLATE, DETAIL, ENTRIES_AT, MASKED, URGENT, emit_entries, walk_segment},
};

/// Another CPU may have moved the place on between a look at it and the commit; more often than this
/// in a row it does not.
const ATTEMPTS: u32 = 8;

/// Of [`advance`], above the number of a counter: segments that were set aside may be next.
const DRAIN: u64 = 1 << 32;
/// Of [`advance`]: the segment is to be copied whole.
const WHOLE: u64 = 1 << 33;
/// Of [`advance`]: the place has changed meanwhile.
const AGAIN: u64 = 1 << 34;

/// A segment of a flow that is followed; what it counts as.
///
/// Those that are the next in order and nothing but payload, or a frame or two, [`crate::quick`] has done
/// with. What is more is in functions that look the flow up again.
#[inline(always)]
pub fn followed(skb: *mut __sk_buff, passage: &mut Passage, flow: &mut Flow) -> u32 {
    let sender = (passage.sender & 1) as usize;
    let opposite = &mut flow.directions[1 - sender];
    if opposite.waiting != 0
        && passage.headers.has(ACK)
        && passage
            .headers
            .ack
            .wrapping_sub(Place(opposite.place).next()) as i32
            > 0
    {
        give_up_late(1 - sender as u32);
    }
    let direction = &mut flow.directions[sender];
    // Of a direction of which nothing is known this is the first.
    let high = if direction.owner == 0 {
        passage.headers.seq
    } else {
        direction.high
    };
    match account(passage, &mut direction.owner, &mut direction.high) {
        Account::Mine => {}
        Account::Other => return Counter::NotOwner as u32,
        Account::Nothing => return Counter::Empty as u32,
    }
    let opposite = &mut flow.directions[1 - sender];
    if opposite.hole[0] != opposite.hole[1] && passage.headers.has(ACK) && !passage.headers.has(RST)
    {
        acknowledge(&mut opposite.hole, passage.headers.ack);
    }
    let quiet_since = flow.last_seen;
    let now = precisely(&mut passage.clock);
    if brings_news(&passage.headers, high, flow.directions[sender].hole) {
        flow.last_seen = now;
    }
    if WALKS.load() == 0 {
        return copy_whole(skb, now, 0) as u32;
    }
    note(high, now);
    let mut outcome = AGAIN;
    let mut tried = 0;
    for _ in 0..ATTEMPTS {
        let place = place_of(flow, sender);
        let is_lost = place.mode() == mode::WHOLE || place.mode() == mode::TRIAL;
        if is_lost && resume(place.0, high) == 0 {
            tried = try_on(skb, place.0, high, now);
            if tried == trial::CHANGED {
                continue;
            }
            outcome = WHOLE;
            break;
        }
        outcome = advance(skb, now, quiet_since);
        if outcome & AGAIN == 0 {
            break;
        }
    }
    if reach(&passage.headers).wrapping_sub(flow.directions[sender].high) as i32 > 0 {
        reassert();
    }
    if outcome & DRAIN != 0 {
        drain(skb);
    }
    if outcome & WHOLE != 0 {
        let counter = copy_whole(skb, now, u32::from(tried & trial::BEGUN != 0)) as u32;
        if tried & trial::TRIED != 0 {
            settle();
        }
        return counter;
    }
    if outcome & AGAIN != 0 {
        return Counter::Passed as u32;
    }
    outcome as u32
}

/// Sequence number behind a segment.
#[inline(always)]
fn reach(headers: &Headers) -> u32 {
    let fin = u32::from(headers.has(FIN));
    headers.seq.wrapping_add(headers.len).wrapping_add(fin)
}

/// Says once more how far the segment in `PASSAGE` goes: another CPU that had one before it has written over
/// that, since neither has the lock for so little.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn reassert() -> u64 {
    let Some(passage) = PASSAGE.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: this CPU's own slot, which `inspect` has filled.
    let passage = unsafe { &*passage };
    let headers = &passage.headers;
    // A reset has no place in the sequence.
    if headers.has(RST) || (headers.len == 0 && !headers.has(FIN)) {
        return 0;
    }
    let Some(flow) = FLOWS.get_ptr_mut(&passage.key) else {
        return 0;
    };
    // SAFETY: as in `decide`.
    let flow = unsafe { &mut *flow };
    let Some(tally) = TALLIES.get_ptr_mut(element(flow.tally, passage.sender & 1)) else {
        return 0;
    };
    let end = reach(headers);
    let high = &raw mut flow.directions[(passage.sender & 1) as usize].high;
    // SAFETY: an element of an array is always there, and these are single numbers. Volatile, since another
    // CPU may change them.
    unsafe {
        let behind = end.wrapping_sub(high.read_volatile());
        if behind > 0 && behind < 1 << 30 {
            high.write_volatile(end);
            (*tally).edge = end.wrapping_sub(u32::from(headers.has(FIN)));
        }
    }
    0
}

/// Counts what TCP does out of the ordinary in the segment in `PASSAGE`, which passes at `now`. `high` is how
/// far its direction had come before.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn note(high: u32, now: u64) -> u64 {
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
    let Some(tally) = TALLIES.get_ptr_mut(element(flow.tally, passage.sender & 1)) else {
        return 0;
    };
    // SAFETY: an element of an array is always there. What other CPUs write at the same time is
    // written under the lock, or is one number.
    let tally = unsafe { &mut *tally };
    if flow.last_seen == now {
        tally.last_seen = now;
    }
    observe(passage, flow, tally, high);
    0
}

/// Copies the segment in `PASSAGE` whole; what it counts as. `begins` is not 0 if a trial begins with it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn copy_whole(skb: *mut __sk_buff, now: u64, begins: u32) -> u64 {
    let Some(passage) = PASSAGE.get_ptr_mut(0) else {
        return Counter::Missed as u64;
    };
    // SAFETY: this CPU's own slot, which `inspect` has filled.
    let passage = unsafe { &*passage };
    let Some(flow) = FLOWS.get_ptr_mut(&passage.key) else {
        return Counter::Missed as u64;
    };
    // SAFETY: as in `decide`.
    let flow = unsafe { &mut *flow };
    if passage.headers.flags & (FIN | RST) == 0 {
        flow.muted = u32::from(is_crowded(flow.muted));
        if flow.muted != 0 {
            count(Counter::LostRingFull, 1);
            return Counter::Missed as u64;
        }
    }
    let origin = Origin {
        epoch: flow.epoch,
        now,
        urgent: false,
        kind: if begins != 0 {
            RECORD_TRIAL
        } else {
            RECORD_SEGMENT
        },
        tally: flow.tally,
        boundary: 0,
    };
    sample(skb, passage, &origin) as u64
}

/// Does what the segment in `PASSAGE` asks for, whose direction has a place.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn advance(skb: *mut __sk_buff, now: u64, quiet_since: u64) -> u64 {
    let Some(passage) = PASSAGE.get_ptr_mut(0) else {
        return Counter::Missed as u64;
    };
    // SAFETY: this CPU's own slot, which `inspect` has filled.
    let passage = unsafe { &*passage };
    let Some(flow) = FLOWS.get_ptr_mut(&passage.key) else {
        return Counter::Missed as u64;
    };
    // SAFETY: as in `decide`.
    let flow = unsafe { &mut *flow };
    let sender = (passage.sender & 1) as usize;
    let Some(tally) = TALLIES.get_ptr_mut(element(flow.tally, sender as u32)) else {
        return WHOLE;
    };
    // SAFETY: an element of an array is always there. What other CPUs write at the same time is
    // written under the lock, or is one number.
    let tally = unsafe { &mut *tally };
    let mut place = place_of(flow, sender);
    if place.mode() == mode::WHOLE || place.mode() == mode::TRIAL {
        return AGAIN;
    }
    let headers = &passage.headers;
    let end = headers.seq.wrapping_add(headers.len);
    if place.mode() == mode::FAR {
        let near = approach(end, flow, sender, tally, place);
        place = near.unwrap_or_else(|| place_of(flow, sender));
    }
    let beyond = end.wrapping_sub(place.next()) as i32;
    let ends = headers.has(FIN) || headers.has(RST);
    // The next header is far away still.
    let within = place.mode() == mode::FAR;
    if (beyond <= 0 || within) && !ends {
        return Counter::Passed as u64;
    }
    let early = headers.seq.wrapping_sub(place.next()) as i32 > 0;
    if early && !within && !headers.has(RST) {
        match set_aside(skb, place.0) {
            SET_ASIDE => return Counter::SetAside as u64,
            CHANGED => return AGAIN,
            _ => {
                lose(passage.sender, quiet_since, now);
                return WHOLE;
            }
        }
    }
    let Some(walk) = WALK.get_ptr_mut(0) else {
        return WHOLE;
    };
    // SAFETY: this CPU's own slot, used by nobody else while this program runs.
    let walk = unsafe { &mut *walk };
    walk.payload = headers.payload;
    walk.len = headers.len;
    walk.seq = headers.seq;
    walk.slot = 0;
    walk.previous = 0;
    walk.flags = flags(flow, sender as u32);
    if ends {
        walk.flags |= URGENT;
    }
    let holds = beyond > 0 && !early && !within;
    if holds {
        walk.begin(&flow.directions[sender], place);
    } else {
        walk.stay(&flow.directions[sender], place);
    }
    describe(passage, flow, now, quiet_since, place.0);
    if holds && walk_segment(skb) != 0 {
        walk.delta.clear();
        lose(passage.sender, quiet_since, now);
        return WHOLE;
    }
    if !commit(flow, sender, tally, place.0, ends.into()) {
        walk.delta.clear();
        return AGAIN;
    }
    if ends || walk.used > ENTRIES_AT {
        emit_entries();
    }
    walk.delta.clear();
    if flow.directions[sender].waiting != 0 {
        Counter::Walked as u64 | DRAIN
    } else {
        Counter::Walked as u64
    }
}

/// The place of a direction, read at once.
#[inline(always)]
pub fn place_of(flow: &Flow, sender: usize) -> Place {
    // SAFETY: a word of the flow's value. Volatile, since another CPU may change it.
    Place(unsafe { (&raw const flow.directions[sender & 1].place).read_volatile() })
}

#[inline(always)]
fn flags(flow: &Flow, sender: u32) -> u32 {
    let mut flags = 0;
    if flow.flags & flag::CLIENT == sender {
        flags |= MASKED;
    }
    if flow.flags & flag::DEFLATE != 0 {
        flags |= DEFLATE;
    }
    if EACH_FRAME.load() != 0 || flow.directions[(sender & 1) as usize].frames < DETAILED {
        flags |= DETAIL;
    }
    flags
}

/// Walks what the segment in `PASSAGE` has at the boundary in `HEADER` and beyond: frames right behind the answer
/// that opens the WebSocket.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn walk_behind(skb: *mut __sk_buff) -> u64 {
    let (Some(passage), Some(header)) = (PASSAGE.get_ptr_mut(0), HEADER.get_ptr(0)) else {
        return 0;
    };
    // SAFETY: this CPU's own slot.
    let boundary = unsafe { (*header).boundary };
    // SAFETY: this CPU's own slot, which `inspect` has filled.
    let passage = unsafe { &*passage };
    let end = passage.headers.seq.wrapping_add(passage.headers.len);
    let Some(flow) = FLOWS.get_ptr_mut(&passage.key) else {
        return 0;
    };
    // SAFETY: as in `decide`.
    let flow = unsafe { &mut *flow };
    let sender = (passage.sender & 1) as usize;
    let Some(tally) = TALLIES.get_ptr_mut(element(flow.tally, sender as u32)) else {
        return 0;
    };
    // SAFETY: as in `followed`.
    let tally = unsafe { &mut *tally };
    tally.next = boundary;
    tally.edge = end;
    let place = place_of(flow, sender);
    let Some(walk) = WALK.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: this CPU's own slot, used by nobody else while this program runs.
    let walk = unsafe { &mut *walk };
    let headers = &passage.headers;
    walk.payload = headers.payload;
    walk.len = headers.len;
    walk.seq = headers.seq;
    walk.slot = 0;
    walk.previous = 0;
    walk.flags = flags(flow, sender as u32);
    walk.begin(&flow.directions[sender], place);
    let now = flow.last_seen;
    describe(passage, flow, now, now, place.0);
    if boundary != place.next() || end == boundary {
        return 0;
    }
    if walk_segment(skb) != 0 {
        walk.delta.clear();
        lose(passage.sender, now, now);
        return 0;
    }
    let ends = headers.has(FIN) || headers.has(RST);
    if commit(flow, sender, tally, place.0, ends.into()) && (ends || walk.used > ENTRIES_AT) {
        emit_entries();
    }
    walk.delta.clear();
    0
}
