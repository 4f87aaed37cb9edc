//! Segments that came before one that is missing: set aside, and walked or handed over later.

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_skb_load_bytes, bpf_spin_lock, bpf_spin_unlock},
};
use wstap_common::{
    counter::Counter,
    flow::mode,
    globals::{SLOTS as SLOTS_LEN, slot_owner},
    record::{HEADER_LEN, RECORD_SEGMENT, RecordHeader},
    tally::{Tally, element},
};
use wstap_ebpf::bound::{bounded, opaque};

use super::{
    commit::{approach, commit, describe, fill},
    flags,
    lost::LONG_PATIENCE,
    place_of,
};
use crate::{
    flow::Passage,
    headers::{FIN, RST},
    maps::{ENTRIES, FLOWS, FREE_SLOTS, Flow, PASSAGE, SLOT_OWNERS, SLOTS, TALLIES, WALK, count},
    sample::now,
    walk::{ENTRIES_AT, SLOT_BYTES, URGENT, emit_entries, output, walk_segment},
};

/// Of [`set_aside`]: done.
pub(super) const SET_ASIDE: u64 = 0;
/// Of [`set_aside`]: the place has changed meanwhile.
pub(super) const CHANGED: u64 = 1;
/// Of [`set_aside`]: there is no room.
const NO_ROOM: u64 = 2;

/// Sets the segment in `PASSAGE` aside, unless the place is no longer `place`.
///
/// The segment is in its slot before the place is looked at under the lock, and whoever moves the
/// place on looks for slots afterwards: so one of the two sees the other.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn set_aside(skb: *mut __sk_buff, place: u64) -> u64 {
    let Some(passage) = PASSAGE.get_ptr_mut(0) else {
        return NO_ROOM;
    };
    // SAFETY: this CPU's own slot, which `inspect` has filled.
    let passage = unsafe { &*passage };
    let Some(flow) = FLOWS.get_ptr_mut(passage.key) else {
        return NO_ROOM;
    };
    // SAFETY: as in `decide`.
    let flow = unsafe { &mut *flow };
    let len = passage.headers.len;
    let since = now();
    let direction = &flow.directions[(passage.sender & 1) as usize];
    let waited = since.saturating_sub(direction.waiting_since);
    if len > SLOT_BYTES || (direction.waiting != 0 && waited > LONG_PATIENCE) {
        return NO_ROOM;
    }
    let Ok(Some(index)) = FREE_SLOTS.pop() else {
        return NO_ROOM;
    };
    let (Some(slot), Some(owner)) = (SLOTS.get_ptr_mut(index), SLOT_OWNERS.get_ptr_mut(index))
    else {
        return NO_ROOM;
    };
    // SAFETY: an element of an array is always there.
    unsafe { *owner = slot_owner(flow.tally, flow.epoch) };
    // SAFETY: the slot is ours until it is given away below.
    unsafe {
        fill(
            (&raw mut (*slot).header).cast(),
            passage,
            flow,
            since,
            RECORD_SEGMENT,
        );
    };
    let mut outcome = NO_ROOM;
    let mut copied = true;
    if let Some(wanted) = bounded(len.into(), SLOT_BYTES.into()) {
        // SAFETY: the slot has room for so many bytes.
        copied = unsafe {
            bpf_skb_load_bytes(
                skb.cast(),
                passage.headers.payload,
                (&raw mut (*slot).bytes).cast(),
                wanted as u32,
            )
        } == 0;
    }
    if copied {
        let direction = &raw mut flow.directions[(passage.sender & 1) as usize];
        // SAFETY: the lock is the flow's, the direction within its value.
        unsafe {
            bpf_spin_lock(&raw mut flow.lock);
            if (*direction).place != place {
                outcome = CHANGED;
            } else {
                if (*direction).waiting == 0 {
                    (*direction).waiting_since = since;
                }
                (*slot).link = u64::from((*direction).waiting);
                (*direction).waiting = index;
                outcome = SET_ASIDE;
            }
            bpf_spin_unlock(&raw mut flow.lock);
        }
    }
    if outcome != SET_ASIDE {
        give_back(index);
    }
    outcome
}

/// Walks the segments of the direction in `PASSAGE` that were set aside and are next.
#[inline(always)]
pub(super) fn drain(skb: *mut __sk_buff) {
    for _ in 0..SLOTS_LEN {
        if drain_next(skb) == 0 {
            break;
        }
    }
}

/// Walks one of the segments of the direction in `PASSAGE` that were set aside; 0 if none is next.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn drain_next(skb: *mut __sk_buff) -> u64 {
    let Some(passage) = PASSAGE.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: this CPU's own slot, which `inspect` has filled.
    let passage = unsafe { &*passage };
    let Some(flow) = FLOWS.get_ptr_mut(passage.key) else {
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
    u64::from(drain_one(skb, passage, flow, sender, tally))
}

/// The slot of a segment that has the byte `next`, or is old; of several the one that came first,
/// since what came first counts. 0 if there is none. Above 32 bits the slot that names it, 0 if the
/// direction does.
#[inline(never)]
fn next_slot(waiting: u32, next: u32) -> u64 {
    let mut found = 0;
    let mut previous = 0;
    let mut index = waiting;
    for _ in 0..SLOTS_LEN {
        if index == 0 {
            break;
        }
        let Some(slot) = SLOTS.get_ptr(index) else {
            break;
        };
        // SAFETY: what another CPU may make of a slot that it takes shows at the commit.
        let (seq, link) = unsafe { ((*slot).header.seq, (*slot).link) };
        // All ones if it has the byte or is old; without a branch, of which the verifier would follow both
        // sides for each slot.
        let due = opaque(((i64::from(seq.wrapping_sub(next) as i32) - 1) >> 63) as u64);
        let this = u64::from(index) | u64::from(previous) << 32;
        found = (found & !due) | (this & due);
        previous = index;
        index = link as u32;
    }
    found
}

/// Walks one of the segments that were set aside; whether there was one, and may be another.
#[inline(always)]
fn drain_one(
    skb: *mut __sk_buff,
    passage: &Passage,
    flow: &mut Flow,
    sender: usize,
    tally: &mut Tally,
) -> bool {
    let mut place = place_of(flow, sender);
    if place.mode() == mode::WHOLE || place.mode() == mode::TRIAL {
        return false;
    }
    // Where the next header is that far away, all that waits is payload.
    let is_far = place.mode() == mode::FAR;
    let next = place.next().wrapping_add(u32::from(is_far) << 29);
    let found = next_slot(flow.directions[sender].waiting, next);
    let (found, previous) = (found as u32, (found >> 32) as u32);
    if found == 0 {
        return false;
    }
    let (Some(slot), Some(walk), Some(entries)) = (
        SLOTS.get_ptr_mut(found),
        WALK.get_ptr_mut(0),
        ENTRIES.get_ptr_mut(0),
    ) else {
        return false;
    };
    // SAFETY: the last two are this CPU's own; the slot as above.
    let (slot, walk) = unsafe { (&mut *slot, &mut *walk) };
    let end = slot.header.seq.wrapping_add(slot.header.len);
    if is_far {
        let near = approach(end, flow, sender, tally, place);
        place = near.unwrap_or_else(|| place_of(flow, sender));
    }
    walk.payload = 0;
    walk.len = slot.header.len;
    walk.seq = slot.header.seq;
    walk.slot = found;
    walk.previous = previous;
    walk.flags = flags(flow, sender as u32);
    let ends = slot.header.flags & (FIN | RST) != 0;
    if ends {
        walk.flags |= URGENT;
    }
    let holds = !is_far && end.wrapping_sub(place.next()) as i32 > 0;
    if holds {
        walk.begin(&flow.directions[sender], place);
    } else {
        // Old by now: the place stays as it is.
        walk.stay(&flow.directions[sender], place);
    }
    describe(passage, flow, slot.header.time, slot.header.time, place.0);
    // SAFETY: the header is at the buffer's beginning.
    unsafe {
        let record = entries.cast::<RecordHeader>();
        (*record).seq = slot.header.seq;
        (*record).ack = slot.header.ack;
        (*record).len = slot.header.len;
        (*record).flags = slot.header.flags;
        (*record).window = slot.header.window;
    }
    if holds && walk_segment(skb) != 0 {
        walk.delta.clear();
        return false;
    }
    let committed = commit(flow, sender, tally, place.0, ends.into());
    if committed {
        if ends || walk.used > ENTRIES_AT {
            emit_entries();
        }
        give_back(found);
        count(Counter::Drained, 1);
    }
    walk.delta.clear();
    // Where another CPU was faster, maybe only in setting a further segment aside, there is more to do.
    true
}

/// Sends off the segment in a slot whole, and gives the slot back; the slot that it named.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn hand_over(index: u32) -> u64 {
    if index == 0 {
        return 0;
    }
    let Some(slot) = SLOTS.get_ptr_mut(index) else {
        return 0;
    };
    // SAFETY: the slot is ours, since it was taken under the lock.
    let (record, len, link) = unsafe {
        let record = &raw mut (*slot).header;
        (*record).captured = (*record).len;
        let len = u64::from((*record).len) + HEADER_LEN as u64;
        (record, len, (*slot).link)
    };
    if let Some(len) = bounded(len, u64::from(SLOT_BYTES) + HEADER_LEN as u64) {
        output(record.cast(), len, true);
    }
    give_back(index);
    link
}

/// Gives back a slot that is ours.
#[inline(always)]
fn give_back(index: u32) {
    if let Some(owner) = SLOT_OWNERS.get_ptr_mut(index) {
        // SAFETY: an element of an array is always there.
        unsafe { *owner = 0 };
    }
    let _ = FREE_SLOTS.push(index, 0);
}
