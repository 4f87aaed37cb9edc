//! A segment of a flow that is followed: passed over, walked, set aside or copied whole.
//!
//! What concerns the walk of a direction changes under the lock of its flow, and only if its
//! [`Place`] is still the one that the walk began with: so of several CPUs that have segments of one
//! direction at once, one commits. Under the lock no function may be called.

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_skb_load_bytes, bpf_spin_lock, bpf_spin_unlock},
};
use wstap_common::{
    counter::Counter,
    flow::{CursorKey, Place, flag, mode},
    globals::SLOTS as SLOTS_LEN,
    record::{HEADER_LEN, RECORD_LOST, RECORD_SEGMENT, RECORD_WALK, RecordHeader, WalkHeader},
    tally::{LAST_ENDS_MESSAGE, LAST_MESSAGE_SHIFT, Tally, element},
};

use wstap_ebpf::bound::{bounded, opaque};

use crate::{
    flow::{Account, Passage, account},
    headers::{ACK, FIN, Headers, RST, SYN},
    maps::{
        CURSORS, EACH_FRAME, ENTRIES, FLOWS, FREE_SLOTS, Flow, HEADER, PASSAGE, SLOTS, TALLIES,
        WALK, WALKS, count,
    },
    sample::{Origin, now, sample},
    walk::{
        DEFLATE, DETAIL, ENTRIES_AT, MASKED, NEAR, SLOT_BYTES, URGENT, ahead, emit_entries, output,
        size_class, walk_segment,
    },
};

/// Another CPU may have moved the place on between a look at it and the commit; more often than this
/// in a row it does not.
const ATTEMPTS: u32 = 8;

/// Of [`advance`], above the number of a counter: segments that were set aside may be next.
const DRAIN: u64 = 1 << 32;
/// Of [`advance`]: the segment is to be copied whole.
const WHOLE: u64 = 1 << 33;

/// A segment of a flow that is followed; what it counts as.
///
/// Most of them are the next in order and nothing but payload, or another hook's: those are done with
/// here. The rest is in functions that look the flow up again.
#[inline(always)]
pub fn followed(skb: *mut __sk_buff, passage: &Passage, flow: &mut Flow) -> u32 {
    let sender = (passage.sender & 1) as usize;
    let opposite = &mut flow.directions[1 - sender];
    let [from, to] = opposite.hole;
    if from != to && passage.headers.has(ACK) && passage.headers.ack.wrapping_sub(to) as i32 >= 0 {
        // Its receiver has what was missing: it passed by unseen, or on another CPU at the same time.
        opposite.hole = [0; 2];
    }
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
    let headers = &passage.headers;
    let now = now();
    let quiet_since = flow.last_seen;
    if brings_news(headers, high, flow.directions[sender].hole) {
        flow.last_seen = now;
    }
    if WALKS.load() == 0 {
        return copy_whole(skb, now) as u32;
    }
    let place = place_of(flow, sender);
    let direction = &flow.directions[sender];
    let beyond = direction.high.wrapping_sub(place.next()) as i32;
    // Windows are of interest while one is closed.
    let windows = flow.closed_at != 0 || headers.window == 0;
    if !windows
        && place.mode() != mode::WHOLE
        && place.mode() != mode::FAR
        && beyond <= 0
        && headers.seq == high
        && direction.hole[0] == direction.hole[1]
        && !headers.has(FIN)
        && !headers.has(RST)
        && headers.len > 0
        && let Some(tally) = TALLIES.get_ptr_mut(element(flow.tally, sender as u32))
    {
        // SAFETY: an element of an array is always there, and these are single numbers.
        unsafe {
            (*tally).last_seen = now;
            (*tally).edge = direction.high;
        }
        return Counter::Passed as u32;
    }
    if EACH_FRAME.load() == 0
        && !windows
        && beyond > 0
        && headers.seq == high
        && direction.hole[0] == direction.hole[1]
        && headers.flags & (FIN | RST | SYN) == 0
        && let Some(frame) = only_frame(skb, headers, flow, sender, place)
        && let Some(tally) = TALLIES.get_ptr_mut(element(flow.tally, sender as u32))
    {
        // SAFETY: an element of an array is always there, and nobody else writes its counts without
        // the lock.
        let tally = unsafe { &mut *tally };
        if count_only(flow, sender, tally, place, frame, now) {
            if flow.directions[sender].waiting != 0 {
                drain(skb);
            }
            return Counter::Walked as u32;
        }
    }
    let outcome = advance(skb, high, now, quiet_since);
    if outcome & DRAIN != 0 {
        drain(skb);
    }
    if outcome & WHOLE != 0 {
        return copy_whole(skb, now) as u32;
    }
    outcome as u32
}

/// Whether a segment has payload that has not gone by yet, as far as that is known: a retransmission
/// or a probe is no sign of life. `high` and `hole` are those before it.
#[inline(always)]
fn brings_news(headers: &Headers, high: u32, [from, to]: [u32; 2]) -> bool {
    let end = headers.seq.wrapping_add(headers.len);
    let fills = from != to
        && (headers.seq.wrapping_sub(to) as i32) < 0
        && end.wrapping_sub(from) as i32 > 0;
    headers.len > 0 && (end.wrapping_sub(high) as i32 > 0 || fills)
}

/// A frame that is a message.
#[derive(Clone, Copy)]
struct OnlyFrame {
    /// Index into `Tally::messages`.
    message: u64,
    /// 1 for text, 2 for binary.
    opcode: u64,
    /// Payload bytes.
    len: u64,
    /// The place behind it.
    place: u64,
}

/// The frame in a segment that begins with a header and has no other: nothing but a message in one
/// frame by the rules. Most segments that begin with a header are of this kind, and need no walk.
#[inline(always)]
fn only_frame(
    skb: *mut __sk_buff,
    headers: &Headers,
    flow: &Flow,
    sender: usize,
    place: Place,
) -> Option<OnlyFrame> {
    // In `mode::NEAR`, with no message under way, no close frame, and nothing carried over.
    if place.0 >> 48 != u64::from(mode::NEAR) << 12
        || place.next() != headers.seq
        || headers.len < 14
    {
        return None;
    }
    let mut bytes = [0u64; 2];
    // SAFETY: there is room for 14 bytes.
    let failed =
        unsafe { bpf_skb_load_bytes(skb.cast(), headers.payload, bytes.as_mut_ptr().cast(), 14) };
    if failed != 0 {
        return None;
    }
    let first = bytes[0] & 0xff;
    let second = bytes[0] >> 8 & 0xff;
    let rsv1 = first >> 6 & 1;
    let opcode = first & 0x0f;
    let compresses = flow.flags & flag::DEFLATE != 0;
    let is_client = flow.flags & flag::CLIENT == sender as u32;
    if first & 0xb0 != 0x80
        || (opcode != 1 && opcode != 2)
        || (rsv1 != 0 && !compresses)
        || second >> 7 != u64::from(is_client)
    {
        return None;
    }
    let mut size = 2 + (second >> 7) * 4;
    let mut len = second & 0x7f;
    if len == 126 {
        size += 2;
        len = u64::from((bytes[0] >> 16) as u16).swap_bytes() >> 48;
        if len < 126 {
            return None;
        }
    } else if len == 127 {
        size += 8;
        len = (bytes[0] >> 16 | bytes[1] << 48).swap_bytes();
        if len < 0x1_0000 || len >= NEAR {
            return None;
        }
    }
    if size + len < u64::from(headers.len) {
        return None;
    }
    let next = headers.seq.wrapping_add((size + len) as u32);
    Some(OnlyFrame {
        message: (opcode - 1) * 2 + rsv1,
        opcode,
        len,
        place: Place::new(next, place.version().wrapping_add(1), 0, 0, mode::NEAR).0,
    })
}

/// Counts it, unless the place has changed meanwhile.
#[inline(always)]
fn count_only(
    flow: &mut Flow,
    sender: usize,
    tally: &mut Tally,
    place: Place,
    frame: OnlyFrame,
    now: u64,
) -> bool {
    let class = opaque(size_class(frame.len)) as usize & 15;
    let message = opaque(frame.message) as usize & 3;
    let kind = opaque(frame.opcode) as usize & 3;
    let direction = &raw mut flow.directions[sender & 1];
    let tally = &raw mut *tally;
    let mut done = false;
    // SAFETY: the lock is the flow's, the direction within its value, the indices within the arrays:
    // a class is at most 11, and behind the classes there is more of the tally.
    unsafe {
        bpf_spin_lock(&raw mut flow.lock);
        if (*direction).place == place.0 {
            (*direction).place = frame.place;
            (*direction).frames = (*direction).frames.wrapping_add(1);
            let add = |to: *mut u32, at: usize| *to.add(at) = (*to.add(at)).wrapping_add(1);
            add((&raw mut (*tally).frames).cast(), kind);
            add((&raw mut (*tally).messages).cast(), message);
            add((&raw mut (*tally).frame_sizes).cast(), class);
            add((&raw mut (*tally).message_sizes).cast(), class);
            let bytes = (&raw mut (*tally).bytes).cast::<u64>().add(kind);
            *bytes = (*bytes).wrapping_add(frame.len);
            (*tally).message_bytes = (*tally).message_bytes.wrapping_add(frame.len);
            (*tally).last_size = frame.len;
            (*tally).last_message_size = frame.len;
            (*tally).last = (frame.opcode
                | u64::from(LAST_ENDS_MESSAGE)
                | frame.message << LAST_MESSAGE_SHIFT) as u32;
            (*tally).next = frame.place as u32;
            (*tally).edge = (*direction).high;
            (*tally).last_seen = now;
            (*tally).walked = (*tally).walked.wrapping_add(1);
            done = true;
        }
        bpf_spin_unlock(&raw mut flow.lock);
    }
    done
}

/// How long segments wait for one that is missing once its receiver has acknowledged it: it may be on
/// another CPU at this moment.
const PATIENCE: u64 = 50_000_000;
/// How long they wait where no acknowledgement is seen.
const LONG_PATIENCE: u64 = 1_000_000_000;

/// Gives up the place of a direction whose missing segment has passed by unseen, by now.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn give_up_late(sender: u32) -> u64 {
    let Some(passage) = PASSAGE.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: this CPU's own slot, which `inspect` has filled.
    let passage = unsafe { &*passage };
    let Some(flow) = FLOWS.get_ptr_mut(passage.key) else {
        return 0;
    };
    // SAFETY: as in `decide`.
    let since = unsafe { (*flow).directions[(sender & 1) as usize].waiting_since };
    let now = now();
    if now.saturating_sub(since) > PATIENCE {
        lose(sender, now, now);
    }
    0
}

/// Copies the segment in `PASSAGE` whole; what it counts as.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn copy_whole(skb: *mut __sk_buff, now: u64) -> u64 {
    let Some(passage) = PASSAGE.get_ptr_mut(0) else {
        return Counter::Missed as u64;
    };
    // SAFETY: this CPU's own slot, which `inspect` has filled.
    let passage = unsafe { &*passage };
    let Some(flow) = FLOWS.get_ptr_mut(passage.key) else {
        return Counter::Missed as u64;
    };
    // SAFETY: as in `decide`.
    let flow = unsafe { &*flow };
    let origin = Origin {
        epoch: flow.epoch,
        now,
        urgent: false,
        kind: RECORD_SEGMENT,
        tally: flow.tally,
        boundary: 0,
    };
    sample(skb, passage, &origin) as u64
}

/// Does what the segment in `PASSAGE` asks for, which is not only the next payload. `high` is how far
/// its direction had come before.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn advance(skb: *mut __sk_buff, high: u32, now: u64, quiet_since: u64) -> u64 {
    let Some(passage) = PASSAGE.get_ptr_mut(0) else {
        return Counter::Missed as u64;
    };
    // SAFETY: this CPU's own slot, which `inspect` has filled.
    let passage = unsafe { &*passage };
    let Some(flow) = FLOWS.get_ptr_mut(passage.key) else {
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
    if flow.last_seen == now {
        tally.last_seen = now;
    }
    observe(passage, flow, tally, high);

    let mut attempt = 0;
    while attempt < ATTEMPTS {
        attempt += 1;
        let mut place = place_of(flow, sender);
        if place.mode() == mode::WHOLE {
            let whole = place.0;
            place = Place(resume(whole, high));
            if place.0 == 0 {
                // Another CPU that resumes at this moment either sees how far this segment goes, or
                // is seen here: else nobody would walk it.
                let direction = &raw mut flow.directions[sender];
                // SAFETY: the lock is the flow's, the direction within its value.
                let current = unsafe {
                    bpf_spin_lock(&raw mut flow.lock);
                    let current = (*direction).place;
                    bpf_spin_unlock(&raw mut flow.lock);
                    current
                };
                if current != whole {
                    continue;
                }
                return WHOLE;
            }
        }
        if place.mode() == mode::FAR {
            place = approach(passage, flow, tally, place).unwrap_or_else(|| place_of(flow, sender));
        }
        let headers = &passage.headers;
        let end = headers.seq.wrapping_add(headers.len);
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
                CHANGED => continue,
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
            continue;
        }
        if ends || walk.used > ENTRIES_AT {
            emit_entries();
        }
        walk.delta.clear();
        return if flow.directions[sender].waiting != 0 {
            Counter::Walked as u64 | DRAIN
        } else {
            Counter::Walked as u64
        };
    }
    Counter::Passed as u64
}

/// The place of a direction, read at once.
#[inline(always)]
fn place_of(flow: &Flow, sender: usize) -> Place {
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
    if EACH_FRAME.load() != 0 {
        flags |= DETAIL;
    }
    flags
}

/// Counts what TCP does out of the ordinary. `high` is how far the direction had come before.
#[inline(always)]
fn observe(passage: &Passage, flow: &mut Flow, tally: &mut Tally, high: u32) {
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

/// A frame so long that sequence numbers do not tell where it ends: moves the place on, and says
/// where it is once the segment comes near the next header.
#[inline(always)]
fn approach(passage: &Passage, flow: &mut Flow, tally: &mut Tally, place: Place) -> Option<Place> {
    let end = passage.headers.seq.wrapping_add(passage.headers.len);
    let direction = &raw mut flow.directions[(passage.sender & 1) as usize];
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

/// A direction that is copied whole: walks again where the agent has said where, and this segment
/// is not beyond it. The new place, or 0.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn resume(place: u64, high: u32) -> u64 {
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
    if cursor.epoch != flow.epoch
        || cursor.version != u32::from(place.version())
        || (next.wrapping_sub(seq) as i32) < 0
        || (next.wrapping_sub(high) as i32) < 0
    {
        return 0;
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

/// Makes what the walk in `WALK` has found the state of its direction, unless that has changed
/// meanwhile. `record` is not 0 if there will be one in any case. Not inlined, to have its part of the
/// stack only while it runs.
#[inline(never)]
fn commit(flow: &mut Flow, sender: usize, tally: &mut Tally, place: u64, record: u32) -> bool {
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
fn describe(passage: &Passage, flow: &Flow, now: u64, quiet_since: u64, place: u64) {
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
unsafe fn fill(to: *mut RecordHeader, passage: &Passage, flow: &Flow, now: u64, kind: u32) {
    // SAFETY: the caller says that there is room, and all is plain numbers.
    let record = unsafe { &mut *to };
    let headers = &passage.headers;
    record.time = now;
    record.ifindex = passage.hook >> 1;
    record.epoch = flow.epoch;
    // SAFETY: both have sixteen bytes. Word by word, or a call of `memmove` comes of it.
    unsafe {
        let to = (&raw mut record.source).cast::<u64>();
        let from = (&raw const headers.source).cast::<u64>();
        to.write_volatile(from.read_volatile());
        to.add(1).write_volatile(from.add(1).read_volatile());
        let to = (&raw mut record.destination).cast::<u64>();
        let from = (&raw const headers.destination).cast::<u64>();
        to.write_volatile(from.read_volatile());
        to.add(1).write_volatile(from.add(1).read_volatile());
    }
    record.source_port = headers.source_port;
    record.destination_port = headers.destination_port;
    record.seq = headers.seq;
    record.ack = headers.ack;
    record.len = headers.len;
    record.captured = 0;
    record.window = headers.window;
    record.flags = headers.flags;
    record.egress = (passage.hook & 1) as u8;
    record.kind = kind;
    record.scope = 0;
    record.tally = flow.tally;
    record.boundary = 0;
}

/// Of [`set_aside`]: done.
const SET_ASIDE: u64 = 0;
/// Of [`set_aside`]: the place has changed meanwhile.
const CHANGED: u64 = 1;
/// Of [`set_aside`]: there is no room.
const NO_ROOM: u64 = 2;

/// Sets the segment in `PASSAGE` aside, unless the place is no longer `place`.
///
/// The segment is in its slot before the place is looked at under the lock, and whoever moves the
/// place on looks for slots afterwards: so one of the two sees the other.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn set_aside(skb: *mut __sk_buff, place: u64) -> u64 {
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
    let Some(slot) = SLOTS.get_ptr_mut(index) else {
        return NO_ROOM;
    };
    // SAFETY: the slot is ours until it is given away below.
    unsafe {
        fill(
            (&raw mut (*slot).header).cast(),
            passage,
            flow,
            since,
            RECORD_SEGMENT,
        )
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
        let _ = FREE_SLOTS.push(index, 0);
    }
    outcome
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

/// Walks the segments of the direction in `PASSAGE` that were set aside and are next.
#[inline(always)]
fn drain(skb: *mut __sk_buff) {
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
        if seq.wrapping_sub(next) as i32 <= 0 {
            found = u64::from(index) | u64::from(previous) << 32;
        }
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
    let place = place_of(flow, sender);
    if place.mode() != mode::NEAR && place.mode() != mode::CONTROL {
        return false;
    }
    let found = next_slot(flow.directions[sender].waiting, place.next());
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
    let end = walk.seq.wrapping_add(walk.len);
    let holds = end.wrapping_sub(place.next()) as i32 > 0;
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
        let _ = FREE_SLOTS.push(found, 0);
        count(Counter::Drained, 1);
    }
    walk.delta.clear();
    // Where another CPU was faster, maybe only in setting a further segment aside, there is more to do.
    true
}

/// Gives the place of a direction up: from here on its segments are copied whole, those first that
/// were set aside.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lose(sender: u32, quiet_since: u64, now: u64) -> u64 {
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
    let port = record.source_port;
    record.source_port = record.destination_port;
    record.destination_port = port;
}

/// Sends off the segment in a slot whole, and gives the slot back; the slot that it named.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn hand_over(index: u32) -> u64 {
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
    let _ = FREE_SLOTS.push(index, 0);
    link
}
