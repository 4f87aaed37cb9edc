//! What changes under the lock, and the record that says so.

use aya_ebpf::helpers::generated::{bpf_spin_lock, bpf_spin_unlock};
use wstap_common::{
    flow::{Place, mode},
    record::{HEADER_LEN, RECORD_WALK, RecordHeader, WalkHeader},
    tally::Tally,
};

use crate::{
    flow::Passage,
    headers::Headers,
    maps::{ENTRIES, Flow, SLOTS, WALK},
    walk::{ENTRIES_AT, NEAR, ahead},
};

/// A frame so long that sequence numbers do not tell where it ends: moves the place on to where a segment of
/// `sender` ends, and says where it is once that comes near the next header.
#[inline(always)]
pub(super) fn approach(
    end: u32,
    flow: &mut Flow,
    sender: usize,
    tally: &mut Tally,
    place: Place,
) -> Option<Place> {
    let direction = &raw mut flow.directions[sender & 1];
    let mut near = None;
    // SAFETY: the lock is the flow's; it is let go on every path.
    unsafe { bpf_spin_lock(&raw mut flow.lock) };
    // SAFETY: within the flow's value.
    unsafe {
        if (*direction).place == place.0 {
            let moved = end.wrapping_sub(place.next()) as i32;
            let rest = (*direction).rest;
            let version = place.version().wrapping_add(1);
            if moved > 0 {
                let moved = moved as u64;
                let (next, rest, mode) = if rest.saturating_sub(moved) < NEAR {
                    (place.next().wrapping_add(rest as u32), 0, mode::NEAR)
                } else {
                    (end, rest - moved, mode::FAR)
                };
                let new = Place::new(next, version, place.state(), 0, mode);
                (*direction).place = new.0;
                (*direction).rest = rest;
                tally.next = next;
                tally.rest = rest;
                if mode == mode::NEAR {
                    near = Some(new);
                }
            }
        }
        bpf_spin_unlock(&raw mut flow.lock);
    }
    near
}

/// Makes what the walk in `WALK` has found the state of its direction, unless that has changed
/// meanwhile. `record` is not 0 if there will be one in any case. Not inlined, to have its part of the
/// stack only while it runs.
#[inline(never)]
pub(super) fn commit(
    flow: &mut Flow,
    sender: usize,
    tally: &mut Tally,
    place: u64,
    record: u32,
) -> bool {
    let place = Place(place);
    let Some(walk) = WALK.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: this CPU's own slot, used by nobody else while this program runs.
    let walk = unsafe { &mut *walk };
    let slot = walk.slot;
    let previous = walk.previous;
    // The slot that names this one, and this one; the first of the array where there is none.
    let (Some(before), Some(own)) = (SLOTS.get_ptr_mut(previous), SLOTS.get_ptr_mut(slot)) else {
        return false;
    };
    let (new, rest) = walk.place(place.version().wrapping_add(1));
    let ahead = ahead(new, rest);
    let Some(entries) = ENTRIES.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: the headers are at the buffer's beginning.
    let mut number = unsafe { (*entries.cast::<u8>().add(HEADER_LEN).cast::<WalkHeader>()).number };
    if record != 0 || walk.used > ENTRIES_AT {
        number = number.wrapping_add(1);
    }
    let direction = &raw mut flow.directions[sender & 1];
    let mut done = false;
    // SAFETY: the lock is the flow's, the direction within its value, and nobody else writes the
    // tally's counts without the lock.
    unsafe {
        bpf_spin_lock(&raw mut flow.lock);
        let first = (*direction).waiting;
        let linked = slot == 0
            || (previous == 0 && first == slot)
            || (previous != 0 && (*before).link == u64::from(slot));
        if (*direction).place == place.0 && linked {
            if slot != 0 && previous == 0 {
                (*direction).waiting = (*own).link as u32;
            } else if slot != 0 {
                (*before).link = (*own).link;
            }
            (*direction).rest = rest;
            (*direction).message_len = walk.message_len;
            (*direction).carry[0] = walk.carry[0];
            (*direction).carry[1] = walk.carry[1];
            (*direction).frames = walk.frames;
            (*direction).message_frames = walk.message_frames;
            (*direction).records = number;
            (*direction).place = new.0;
            tally.next = new.next();
            tally.rest = ahead;
            tally.walked = tally.walked.wrapping_add(1);
            if walk.delta.any != 0 {
                walk.delta.apply(tally);
            }
            done = true;
        }
        bpf_spin_unlock(&raw mut flow.lock);
    }
    done
}

/// Writes the headers of the record that the walk of this segment may become. Not inlined, to have its
/// part of the stack only while it runs.
#[inline(never)]
pub(super) fn describe(passage: &Passage, flow: &Flow, now: u64, quiet_since: u64, place: u64) {
    let place = Place(place);
    let (Some(entries), Some(walk)) = (ENTRIES.get_ptr_mut(0), WALK.get_ptr_mut(0)) else {
        return;
    };
    // SAFETY: this CPU's own slot, used by nobody else while this program runs.
    let walk = unsafe { &*walk };
    let direction = &flow.directions[(passage.sender & 1) as usize];
    // SAFETY: the buffer has room for both headers.
    let header = unsafe {
        fill(entries.cast(), passage, flow, now, RECORD_WALK);
        &mut *entries.cast::<u8>().add(HEADER_LEN).cast::<WalkHeader>()
    };
    header.quiet_since = quiet_since;
    header.message_len = walk.message_len;
    header.from = place.next().wrapping_sub(walk.carried);
    header.high = direction.high;
    header.number = direction.records;
    header.frames = walk.frames;
    header.message_frames = walk.message_frames;
    header.state = u32::from(place.state()) | u32::from(place.version()) << 16;
}

/// Writes the header of a record of the segment, field by field: the stack has no room for it.
///
/// # Safety
///
/// There must be room for it.
#[inline(always)]
pub(super) unsafe fn fill(
    to: *mut RecordHeader,
    passage: &Passage,
    flow: &Flow,
    now: u64,
    kind: u32,
) {
    // SAFETY: as the caller says.
    unsafe {
        fill_from(
            to,
            &passage.headers,
            (passage.hook, passage.key.scope),
            flow,
            now,
            kind,
        );
    };
}

/// As [`fill`], of a segment that is in no passage: its hook and scope are given.
///
/// # Safety
///
/// There must be room for it.
#[inline(always)]
pub unsafe fn fill_from(
    to: *mut RecordHeader,
    headers: &Headers,
    (hook, scope): (u32, u32),
    flow: &Flow,
    now: u64,
    kind: u32,
) {
    // SAFETY: the caller says that there is room, and all is plain numbers.
    let record = unsafe { &mut *to };
    record.time = now;
    record.ifindex = hook >> 1;
    record.epoch = flow.epoch;
    // SAFETY: both have sixteen bytes. Word by word, or a call of `memmove` comes of it; by small words,
    // since the headers may be on the stack, where the verifier insists on alignment.
    unsafe {
        for (to, from) in [
            (&raw mut record.source, &raw const headers.source),
            (&raw mut record.destination, &raw const headers.destination),
        ] {
            let (to, from) = (to.cast::<u32>(), from.cast::<u32>());
            for i in 0..4 {
                to.add(i).write_volatile(from.add(i).read_volatile());
            }
        }
    }
    record.source_port = headers.source_port;
    record.destination_port = headers.destination_port;
    record.seq = headers.seq;
    record.ack = headers.ack;
    record.len = headers.len;
    record.captured = 0;
    record.window = headers.window;
    record.flags = headers.flags;
    record.egress = (hook & 1) as u8;
    record.kind = kind;
    record.scope = scope;
    record.tally = flow.tally;
    record.boundary = 0;
}
