//! Directions whose place is not known: given up, copied whole, and walked again from where the agent says.

use aya_ebpf::helpers::generated::{bpf_spin_lock, bpf_spin_unlock};
use wstap_common::{
    counter::Counter,
    flow::{Cursor, CursorKey, Place, Trial, mode, state},
    globals::SLOTS as SLOTS_LEN,
    record::{HEADER_LEN, RECORD_LOST, RECORD_RESUMED, RecordHeader, WALK_HEADER_LEN, WalkHeader},
    tally::{Tally, element},
};

use super::{
    aside::hand_over,
    commit::{describe, fill},
    place_of,
};
use crate::{
    flow::Passage,
    headers::{ACK, FIN},
    maps::{CURSORS, ENTRIES, FLOWS, Flow, PASSAGE, RECORDS, TALLIES, WALK, count},
    sample::{now, wakeup},
    walk::{URGENT, emit_entries},
};

/// How long segments wait for one that is missing once its receiver has acknowledged it: it may be on
/// another CPU at this moment.
const PATIENCE: u64 = 50_000_000;
/// Bytes of a record without entries.
const RESUMED_LEN: usize = HEADER_LEN + WALK_HEADER_LEN;
/// How long they wait where no acknowledgement is seen.
pub(super) const LONG_PATIENCE: u64 = 1_000_000_000;

/// Gives up the place of a direction whose missing segment has passed by unseen, by now.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn give_up_late(sender: u32) -> u64 {
    let Some(passage) = PASSAGE.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: this CPU's own slot, which `inspect` has filled.
    let passage = unsafe { &*passage };
    let Some(flow) = FLOWS.get_ptr_mut(passage.key) else {
        return 0;
    };
    // SAFETY: as in `decide`.
    let flow = unsafe { &*flow };
    if place_of(flow, sender as usize).mode() == mode::FAR {
        // Another CPU has just come by the header, and is about to take in what waited: it is payload.
        return 0;
    }
    let since = flow.directions[(sender & 1) as usize].waiting_since;
    let now = now();
    if now.saturating_sub(since) > PATIENCE {
        lose(sender, now, now);
    }
    0
}

/// A direction that is copied whole: walks again where the agent has said where, and this segment
/// is not beyond it; or where a trial has come to, if the agent has confirmed it. The new place, or 0.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn resume(place: u64, high: u32) -> u64 {
    let place = Place(place);
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
    if flow.tally == 0 {
        return 0;
    }
    let sender = passage.sender & 1;
    let Some(tally) = TALLIES.get_ptr_mut(element(flow.tally, sender)) else {
        return 0;
    };
    // SAFETY: as in `followed`.
    let tally = unsafe { &mut *tally };
    let key = CursorKey {
        flow: passage.key,
        sender,
    };
    let Some(cursor) = CURSORS.get_ptr(key) else {
        return 0;
    };
    // SAFETY: the element of an evicted entry may be used again while this program holds it; a
    // cursor is void unless its epoch and version are right.
    let cursor = unsafe { &*cursor };
    let next = cursor.next;
    let seq = passage.headers.seq;
    let trial = Trial(flow.directions[sender as usize].waiting_since);
    if cursor.epoch != flow.epoch || cursor.version != u32::from(trial.version()) {
        return 0;
    }
    if (next.wrapping_sub(seq) as i32) < 0 || (next.wrapping_sub(high) as i32) < 0 {
        let confirmed = place.mode() == mode::TRIAL
            && next == trial.begin()
            && trial.copying() == 0
            && place.carried() == 0
            && place.state() & state::UNKNOWN == 0
            && seq == high;
        return if confirmed {
            confirm(passage, flow, tally, cursor, place)
        } else {
            // Late, but who is who it does know.
            flow.flags = cursor.state >> 8;
            0
        };
    }
    let version = place.version().wrapping_add(1);
    let new = Place::new(next, version, cursor.state as u8, 0, mode::NEAR);
    let (message_len, message_frames) = (cursor.message_len, cursor.message_frames);
    let frames = cursor.frames;
    let flags = cursor.state >> 8;
    let end = seq
        .wrapping_add(passage.headers.len)
        .wrapping_add(u32::from(passage.headers.has(FIN)));
    let reach = if end.wrapping_sub(high) as i32 > 0 {
        end
    } else {
        high
    };
    let direction = &raw mut flow.directions[sender as usize];
    let mut done = 0;
    // SAFETY: the lock is the flow's; the direction is within its value.
    unsafe {
        bpf_spin_lock(&raw mut flow.lock);
        // Nor has another CPU a segment beyond this one, which it would copy whole.
        let is_last = (*direction).high.wrapping_sub(reach) as i32 <= 0;
        if is_last && (*direction).place == place.0 {
            (*direction).rest = 0;
            (*direction).message_len = message_len;
            (*direction).message_frames = message_frames;
            (*direction).frames = frames;
            (*direction).place = new.0;
            flow.flags = flags;
            tally.next = next;
            tally.rest = 0;
            done = new.0;
        }
        bpf_spin_unlock(&raw mut flow.lock);
    }
    if done != 0 {
        count(Counter::Resumed, 1);
    }
    done
}

/// Goes on where the trial has come to, which the agent has confirmed, and tells it so: its record is
/// behind those of all segments that were copied whole. The new place, or 0.
#[inline(always)]
fn confirm(
    passage: &Passage,
    flow: &mut Flow,
    tally: &mut Tally,
    cursor: &Cursor,
    place: Place,
) -> u64 {
    let sender = (passage.sender & 1) as usize;
    let Some(mut entry) = RECORDS.reserve_bytes(RESUMED_LEN, 0) else {
        return 0;
    };
    let flags = cursor.state >> 8;
    let frames = (cursor.frames).wrapping_add(flow.directions[sender].frames);
    let closed = cursor.state as u8 & state::CLOSED;
    let version = place.version().wrapping_add(1);
    let new = Place::new(place.next(), version, place.state() | closed, 0, mode::NEAR);
    let direction = &raw mut flow.directions[sender];
    let to = entry.as_mut_ptr();
    // SAFETY: there is room for both headers, and the ring hands out memory aligned to eight bytes.
    let header = unsafe {
        fill(to.cast(), passage, flow, now(), RECORD_RESUMED);
        let record = &mut *to.cast::<RecordHeader>();
        record.len = 0;
        record.captured = WALK_HEADER_LEN as u32;
        record.flags = ACK;
        record.window = 1;
        &mut *to.add(HEADER_LEN).cast::<WalkHeader>()
    };
    // SAFETY: within the flow's value.
    unsafe {
        header.quiet_since = flow.last_seen;
        header.message_len = (*direction).message_len;
        header.from = place.next();
        header.high = passage.headers.seq;
        header.number = (*direction).records;
        header.frames = frames;
        header.message_frames = (*direction).message_frames;
        header.state = u32::from(new.state()) | u32::from(version) << 16;
    }
    let end = (passage.headers.seq).wrapping_add(passage.headers.len);
    let mut done = 0;
    // SAFETY: the lock is the flow's; the direction is within its value.
    unsafe {
        bpf_spin_lock(&raw mut flow.lock);
        // Nor has another CPU a segment beyond this one, or is still copying one before it.
        let is_last = (*direction).high.wrapping_sub(end) as i32 <= 1;
        let copying = Trial((*direction).waiting_since).copying();
        if is_last && copying == 0 && (*direction).place == place.0 {
            (*direction).frames = frames;
            (*direction).records = (*direction).records.wrapping_add(1);
            (*direction).waiting_since = 0;
            (*direction).place = new.0;
            flow.flags = flags;
            tally.next = place.next();
            tally.rest = 0;
            done = new.0;
        }
        bpf_spin_unlock(&raw mut flow.lock);
    }
    if done == 0 {
        entry.discard(0);
        return 0;
    }
    entry.submit(wakeup(false));
    count(Counter::Samples, 1);
    count(Counter::Resumed, 1);
    done
}

/// Gives the place of a direction up: from here on its segments are copied whole, those first that
/// were set aside.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn lose(sender: u32, quiet_since: u64, now: u64) -> u64 {
    let Some(passage) = PASSAGE.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: this CPU's own slot, which `inspect` has filled.
    let passage = unsafe { &*passage };
    let Some(flow) = FLOWS.get_ptr_mut(passage.key) else {
        return 0;
    };
    // SAFETY: as in `decide`.
    give_up(passage, unsafe { &mut *flow }, sender, quiet_since, now);
    0
}

#[inline(always)]
fn give_up(passage: &Passage, flow: &mut Flow, sender: u32, quiet_since: u64, now: u64) {
    let sender = (sender & 1) as usize;
    let place = place_of(flow, sender);
    let Some(walk) = WALK.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: this CPU's own slot, used by nobody else while this program runs.
    let walk = unsafe { &mut *walk };
    walk.flags = URGENT;
    walk.stay(&flow.directions[sender], place);
    describe(passage, flow, now, quiet_since, place.0);
    let Some(entries) = ENTRIES.get_ptr_mut(0) else {
        return;
    };
    let version = place.version().wrapping_add(1);
    // SAFETY: the headers are at the buffer's beginning.
    unsafe {
        let record = &mut *entries.cast::<RecordHeader>();
        record.kind = RECORD_LOST;
        // It says nothing of a segment; and that at hand may be the other direction's.
        record.seq = place.next();
        record.len = 0;
        record.flags = ACK;
        record.ack = flow.directions[1 - sender].high;
        record.window = 1;
        if sender as u32 != passage.sender & 1 {
            turn(record);
        }
        let header = entries.cast::<u8>().add(HEADER_LEN).cast::<WalkHeader>();
        (*header).state = u32::from(place.state()) | u32::from(version) << 16;
        (*header).high = flow.directions[sender].high;
        (*header).number = flow.directions[sender].records;
    }
    let direction = &raw mut flow.directions[sender];
    let mut waiting = 0;
    let mut done = false;
    // SAFETY: the lock is the flow's, the direction within its value.
    unsafe {
        bpf_spin_lock(&raw mut flow.lock);
        if (*direction).place == place.0 {
            let new = Place::new(place.next(), version, place.state(), 0, mode::WHOLE);
            (*direction).place = new.0;
            (*direction).records = (*direction).records.wrapping_add(1);
            waiting = (*direction).waiting;
            (*direction).waiting = 0;
            (*direction).waiting_since = Trial::new(0, version, 0, 0).0;
            done = true;
        }
        bpf_spin_unlock(&raw mut flow.lock);
    }
    if !done {
        return;
    }
    count(Counter::PlaceLost, 1);
    emit_entries();
    for _ in 0..SLOTS_LEN {
        waiting = hand_over(waiting) as u32;
        if waiting == 0 {
            break;
        }
    }
}

/// Makes the record that of the other direction.
#[inline(always)]
fn turn(record: &mut RecordHeader) {
    // SAFETY: both have sixteen bytes. Word by word, or a call of `memmove` comes of it.
    unsafe {
        let a = (&raw mut record.source).cast::<u64>();
        let b = (&raw mut record.destination).cast::<u64>();
        for i in 0..2 {
            let word = a.add(i).read_volatile();
            a.add(i).write_volatile(b.add(i).read_volatile());
            b.add(i).write_volatile(word);
        }
    }
    core::mem::swap(&mut record.source_port, &mut record.destination_port);
}
