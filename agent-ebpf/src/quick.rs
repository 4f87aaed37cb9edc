//! What most segments need, which is little: done in the program that they enter by, with one look at
//! one map of flows, and without a call where it can be.
//!
//! A segment that needs more is left as if nobody had looked at it.

use core::{mem::MaybeUninit, ptr::null_mut};

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_skb_load_bytes, bpf_spin_lock, bpf_spin_unlock},
};
use wstap_common::{
    counter::Counter,
    flow::{Place, flag, mode, stage},
    globals::{DETAILED, MAX_PREVIEW},
    record::{ENTRY_LEN, HEADER_LEN, MAX_ENTRY_CAPTURED, RECORD_WALK, RecordHeader, WalkHeader},
    tally::{LAST_ENDS_MESSAGE, LAST_MESSAGE_SHIFT, Tally, element},
};
use wstap_ebpf::{
    bound::{bounded, load_u64, opaque, store_u64},
    recognise::may_matter_behind_http,
};

use crate::{
    flow::{Passage, RECENT},
    follow::{fill_from, place_of},
    headers::{FIN, Headers, RST, SYN},
    maps::{CANDIDATES, CHANGES, EACH_FRAME, ENTRIES, FLOWS, Flow, HINTS, PREVIEW, TALLIES, WALKS},
    sample::{precisely, recently, wakeup_now_and_then},
    walk::{ENTRIES_AT, ENTRIES_END, ENTRIES_LEN, NEAR, exceeds, output_with, size_class},
};

/// Frames of a segment that are counted here.
const FRAMES: u32 = 6;
/// Bytes of a frame behind which another is looked for here: of smaller ones a segment holds many, which
/// the walk does faster.
const LARGE: u64 = 512;

/// Does what the segment in `passage` needs and says what it counts as, unless that is more than can be done here.
#[inline(always)]
pub fn quick(skb: *mut __sk_buff, hook: u32, passage: &mut Passage) -> Option<Counter> {
    if passage.headers.flags & (FIN | RST | SYN) != 0 {
        return None;
    }
    let hinted = HINTS.get(passage.key.hint()).is_some_and(|hint| *hint != 0);
    if hinted && let Some(flow) = FLOWS.get_ptr_mut(&passage.key) {
        // SAFETY: the element of a deleted entry may be used again for another flow while this program
        // holds it; what is written to it then moves that flow's account by a segment.
        return followed(skb, hook, passage, unsafe { &mut *flow });
    }
    let stage = stage_of(passage)?;
    if passage.headers.len > 0 {
        match stage {
            stage::IGNORED => Some(Counter::Ignored),
            stage::HTTP => is_body(skb, &passage.headers).then_some(Counter::Undecided),
            _ => None,
        }
    } else {
        // In these stages an acknowledgement says nothing.
        matches!(
            stage,
            stage::IGNORED | stage::HTTP | stage::FRESH | stage::UNKNOWN
        )
        .then_some(Counter::Empty)
    }
}

/// The stage of the candidate that the segment in `passage` belongs to.
#[inline(always)]
fn stage_of(passage: &mut Passage) -> Option<u32> {
    // Before the look-up: what changes meanwhile voids what is kept.
    // SAFETY: an element of an array is always there. Volatile, since other CPUs write it.
    let changes = unsafe { CHANGES.get_ptr(0)?.read_volatile() };
    let Passage { key, recent, .. } = passage;
    let key = &*key;
    let recent = recent.get_mut(key.hint() as usize % RECENT)?;
    let word = |i: usize| {
        // SAFETY: within the key.
        unsafe { load_u64((&raw const *key).cast::<u8>().add(i * 8)) }
    };
    let mut differs = recent.changes ^ changes;
    for (i, kept) in recent.key.iter().enumerate() {
        differs |= kept ^ word(i);
    }
    if differs == 0 {
        return Some(recent.stage);
    }
    let state = CANDIDATES.get_ptr_mut(key)?;
    // SAFETY: as in `quick`, of an evicted entry; of a candidate a segment more or less is looked at then.
    let stage = unsafe { (*state).stage };
    if stage == stage::IGNORED || stage == stage::HTTP {
        for (i, kept) in recent.key.iter_mut().enumerate() {
            *kept = word(i);
        }
        recent.changes = changes;
        recent.stage = stage;
    }
    Some(stage)
}

/// Whether the segment begins with nothing that means anything behind HTTP, as those of a body do. False where it
/// is too short to tell.
#[inline(always)]
fn is_body(skb: *mut __sk_buff, headers: &Headers) -> bool {
    let mut word = MaybeUninit::<u32>::uninit();
    // SAFETY: there is room for four bytes. That so many are the segment's, and not padding behind it, is asked below.
    let failed = unsafe {
        bpf_skb_load_bytes(
            skb.cast(),
            headers.payload,
            word.as_mut_ptr().cast(),
            size_of::<u32>() as u32,
        )
    };
    if failed != 0 || headers.len < size_of::<u32>() as u32 {
        return false;
    }
    // SAFETY: the helper has filled it.
    !may_matter_behind_http(u32::from_be(unsafe { word.assume_init() }))
}

/// A segment of a flow that is followed.
#[inline(always)]
fn followed(
    skb: *mut __sk_buff,
    hook: u32,
    passage: &mut Passage,
    flow: &mut Flow,
) -> Option<Counter> {
    let Passage {
        key,
        headers,
        sender,
        clock,
        ..
    } = passage;
    // SAFETY: within the passage. Volatile, so that the verifier does not know which it is, and has one of them to
    // follow.
    let sender = (unsafe { (&raw const *sender).read_volatile() } & 1) as usize;
    // What the other direction waits for, this segment may acknowledge.
    let opposite = &flow.directions[1 - sender];
    if opposite.hole[0] != opposite.hole[1] || opposite.waiting != 0 {
        return None;
    }
    let direction = &flow.directions[sender];
    let (high, owner) = (direction.high, direction.owner);
    let end = headers.seq.wrapping_add(headers.len);
    if owner != hook {
        let ahead = end.wrapping_sub(high);
        // Unless it makes this hook the owner.
        let is_new = headers.len > 0 && (owner == 0 || (ahead > 0 && ahead < 1 << 30));
        return (!is_new).then_some(Counter::NotOwner);
    }
    // Windows are of interest where one closes, or may open again.
    if headers.window == 0 || flow.closed_at[1 - sender] != 0 {
        return None;
    }
    if headers.len == 0 {
        // Nor is it a keep-alive probe.
        return (headers.seq.wrapping_add(1) != high).then_some(Counter::Empty);
    }
    if headers.seq != high || WALKS.load() == 0 {
        return None;
    }
    let place = place_of(flow, sender);
    let beyond = end.wrapping_sub(place.next()) as i32;
    if beyond > 0 {
        let frames = frames(skb, headers, flow, sender, place)?;
        let tally = TALLIES.get_ptr_mut(element(flow.tally, sender as u32))?;
        let now = if EACH_FRAME.load() != 0 {
            let now = precisely(clock);
            describe(headers, (hook, key.scope), flow, sender, place, now)?;
            now
        } else {
            recently(clock)
        };
        let number = flow.directions[sender].records;
        // SAFETY: an element of an array is always there, and nobody else writes its counts without
        // the lock.
        let tally = unsafe { &mut *tally };
        if !count(flow, sender, tally, place, &frames, [headers.seq, end], now) {
            return None;
        }
        if EACH_FRAME.load() != 0 {
            send(frames.used, number);
        }
        return Some(Counter::Walked);
    }
    if place.mode() != mode::NEAR && place.mode() != mode::CONTROL {
        return None;
    }
    let tally = TALLIES.get_ptr_mut(element(flow.tally, sender as u32))?;
    let now = recently(clock);
    let high = &raw mut flow.directions[sender].high;
    // SAFETY: an element of an array is always there, and these are single numbers. Volatile, since
    // another CPU may have a segment of the direction at this moment: what it has seen stays seen.
    unsafe {
        if high.read_volatile() != headers.seq {
            return None;
        }
        high.write_volatile(end);
        let edge = &raw mut (*tally).edge;
        edge.write_volatile(end);
        // That CPU may have been between the two.
        let newest = high.read_volatile();
        if newest != end {
            edge.write_volatile(newest);
        }
        (*tally).last_seen = now;
    }
    flow.last_seen = now;
    Some(Counter::Passed)
}

/// Frames that are messages, all of one kind and size class.
struct Frames {
    /// How many.
    number: u32,
    /// Index into `Tally::messages`.
    message: u64,
    /// Their size class.
    class: u64,
    /// Payload bytes of the last one.
    len: u64,
    /// Payload bytes of all.
    bytes: u64,
    /// The place behind them.
    place: u64,
    /// Bytes of `ENTRIES` that are used, where each has an entry.
    used: u64,
}

/// The frames in a segment that has the next header in it: nothing but a few messages of one kind, each
/// in one frame by the rules.
#[inline(always)]
fn frames(
    skb: *mut __sk_buff,
    headers: &Headers,
    flow: &Flow,
    sender: usize,
    place: Place,
) -> Option<Frames> {
    let mut at = u64::from(place.next().wrapping_sub(headers.seq));
    // In `mode::NEAR`, with no message under way, no close frame, and nothing carried over.
    if place.0 >> 48 != u64::from(mode::NEAR) << 12 || at >= u64::from(headers.len) {
        return None;
    }
    let is_client = flow.flags & flag::CLIENT == sender as u32;
    let rsv1 = (u64::from(flow.flags & flag::DEFLATE) / u64::from(flag::DEFLATE)) << 6;
    let mut found = Frames {
        number: 0,
        message: 0,
        class: 0,
        len: 0,
        bytes: 0,
        place: 0,
        used: ENTRIES_AT,
    };
    let direction = &flow.directions[sender & 1];
    // Entries are for the walk, but for the usual ones of a tracer.
    if PREVIEW.load() != 0 || (EACH_FRAME.load() == 0 && direction.frames < DETAILED) {
        return None;
    }
    let mut before = (direction.message_len, direction.message_frames);
    let entries = if EACH_FRAME.load() != 0 {
        ENTRIES.get_ptr_mut(0)?.cast::<u8>()
    } else {
        null_mut()
    };
    for _ in 0..FRAMES {
        if at + 14 > u64::from(headers.len) {
            return None;
        }
        let mut bytes = MaybeUninit::<[u64; 2]>::uninit();
        let word = bytes.as_mut_ptr().cast::<u64>();
        // SAFETY: the second of two words, which is not filled whole. Volatile, so that no call of `memset`
        // comes of it.
        unsafe { word.add(1).write_volatile(0) };
        let from = headers.payload.wrapping_add(at as u32);
        // SAFETY: there is room for 14 bytes.
        let failed = unsafe { bpf_skb_load_bytes(skb.cast(), from, word.cast(), 14) };
        if failed != 0 {
            return None;
        }
        // SAFETY: both words are written by now.
        let bytes = unsafe { bytes.assume_init() };
        let first = bytes[0] & 0xff;
        let second = bytes[0] >> 8 & 0xff;
        let opcode = first & 0x0f;
        let masked = second >> 7;
        let short = second & 0x7f;
        let middle = (bytes[0] >> 16 & 0xffff).swap_bytes() >> 48;
        let long = (bytes[0] >> 16 | bytes[1] << 48).swap_bytes();
        // Without branches, see `exceeds`.
        let [is_middle, is_long] = [exceeds(short, 125), exceeds(short, 126)].map(opaque);
        let len = short ^ ((short ^ middle) & is_middle.wrapping_neg());
        let len = len ^ ((len ^ long) & is_long.wrapping_neg());
        let size = 2 + masked * 4 + is_middle * 2 + is_long * 6;
        // Longer than it need be, or so long that the next header is not near.
        let odd = (is_middle & exceeds(126, len))
            | (is_long & exceeds(0x1_0000, len))
            | opaque((NEAR - 1).wrapping_sub(len) | len) >> 63;
        if (first & 0xb0 ^ 0x80)
            | (opcode.wrapping_sub(1) & !1)
            | (first & 0x40 & !rsv1)
            | (masked ^ u64::from(is_client))
            | odd
            != 0
        {
            return None;
        }
        let message = (opcode - 1) * 2 + (first >> 6 & 1);
        let class = size_class(len);
        if found.number == 0 {
            found.class = class;
            found.message = message;
        }
        if (found.message ^ message) | (found.class ^ class) != 0 {
            return None;
        }
        if EACH_FRAME.load() != 0 {
            let seq = headers.seq.wrapping_add(at as u32);
            let frame = direction.frames.wrapping_add(found.number);
            let entry = found.used;
            found.used = enter(entries, entry, [seq, frame], before, size, bytes)?;
            before = (len, 1);
            if message == 0 && len <= u64::from(MAX_PREVIEW) {
                // Small text is copied whole, so that it can be checked.
                if at + size + len > u64::from(headers.len) {
                    return None;
                }
                found.used = copy_text(skb, entries, from, entry, size + len)?;
            }
        }
        found.number += 1;
        found.len = len;
        found.bytes += len;
        at += size + len;
        if at >= u64::from(headers.len) {
            let next = headers.seq.wrapping_add(at as u32);
            found.place = Place::new(next, place.version().wrapping_add(1), 0, 0, mode::NEAR).0;
            return Some(found);
        }
        if len < LARGE {
            return None;
        }
    }
    None
}

/// Makes an entry of a frame at `used` in `entries`, as the walk does; where the next goes.
#[inline(always)]
fn enter(
    entries: *mut u8,
    used: u64,
    [seq, frame]: [u32; 2],
    (message_len, message_frames): (u64, u32),
    size: u64,
    bytes: [u64; 2],
) -> Option<u64> {
    let used = opaque(used);
    if used > ENTRIES_END {
        return None;
    }
    // SAFETY: up to `ENTRIES_END` there is room for the largest entry.
    unsafe {
        let to = entries.add(used as usize);
        store_u64(to, message_len);
        store_u64(to.add(8), u64::from(seq) | u64::from(frame) << 32);
        store_u64(to.add(16), u64::from(message_frames) | size << 48);
        store_u64(to.add(24), bytes[0]);
        store_u64(to.add(32), bytes[1]);
        // Read back, so that the verifier forgets which of its ways has led here.
        let size = load_u64(to.add(16)) >> 48;
        Some(used + ENTRY_LEN as u64 + ((size + 7) & !7))
    }
}

/// Completes the entry at `used` in `entries` by the payload: it is a frame of `len` bytes in all, at `from` in the
/// packet. Where the next goes.
#[inline(always)]
fn copy_text(skb: *mut __sk_buff, entries: *mut u8, from: u32, used: u64, len: u64) -> Option<u64> {
    let used = opaque(used);
    if used > ENTRIES_END {
        return None;
    }
    let len = bounded(len, MAX_ENTRY_CAPTURED as u64)?;
    // SAFETY: up to `ENTRIES_END` there is room for the largest entry.
    unsafe {
        let to = entries.add(used as usize);
        if bpf_skb_load_bytes(skb.cast(), from, to.add(ENTRY_LEN).cast(), len as u32) != 0 {
            return None;
        }
        let head = load_u64(to.add(16)) & (u64::MAX >> 16);
        store_u64(to.add(16), head | len << 48);
        let len = load_u64(to.add(16)) >> 48;
        Some(used + ENTRY_LEN as u64 + ((len + 7) & !7))
    }
}

/// Writes the headers of the segment's record, as the walk does; `seen` are its hook and scope.
#[inline(always)]
fn describe(
    headers: &Headers,
    seen: (u32, u32),
    flow: &Flow,
    sender: usize,
    place: Place,
    now: u64,
) -> Option<()> {
    let entries = ENTRIES.get_ptr_mut(0)?;
    let direction = &flow.directions[sender & 1];
    // SAFETY: the buffer has room for both headers.
    let header = unsafe {
        fill_from(entries.cast(), headers, seen, flow, now, RECORD_WALK);
        &mut *entries.cast::<u8>().add(HEADER_LEN).cast::<WalkHeader>()
    };
    header.quiet_since = flow.last_seen;
    header.message_len = direction.message_len;
    header.from = place.next();
    header.high = headers.seq.wrapping_add(headers.len);
    header.number = direction.records;
    header.frames = direction.frames;
    header.message_frames = direction.message_frames;
    header.state = u32::from(place.version()) << 16;
    Some(())
}

/// Sends off the record, of which `used` bytes are used. It is its direction's `number`th.
#[inline(always)]
fn send(used: u64, number: u32) {
    let Some(entries) = ENTRIES.get_ptr_mut(0) else {
        return;
    };
    let Some(used) = bounded(used, ENTRIES_LEN as u64) else {
        return;
    };
    // SAFETY: the header is at the buffer's beginning.
    unsafe { (*entries.cast::<RecordHeader>()).captured = used as u32 - HEADER_LEN as u32 };
    output_with(entries.cast(), used, wakeup_now_and_then(number));
}

/// Counts them, unless the place has changed meanwhile, or segments wait for this one, or another CPU has seen
/// one beyond it.
#[inline(always)]
fn count(
    flow: &mut Flow,
    sender: usize,
    tally: &mut Tally,
    place: Place,
    frames: &Frames,
    [seq, end]: [u32; 2],
    now: u64,
) -> bool {
    let class = opaque(frames.class) as usize & 15;
    let message = opaque(frames.message) as usize & 3;
    let kind = 1 + message / 2;
    let direction = &raw mut flow.directions[sender & 1];
    let tally = &raw mut *tally;
    let mut done = false;
    // SAFETY: the lock is the flow's, the direction within its value, the indices within the arrays:
    // a class is at most 11, and behind the classes there is more of the tally.
    unsafe {
        bpf_spin_lock(&raw mut flow.lock);
        let high = (&raw const (*direction).high).read_volatile();
        if (*direction).place == place.0 && (*direction).waiting == 0 && high == seq {
            (*direction).place = frames.place;
            (*direction).high = end;
            (*direction).frames = (*direction).frames.wrapping_add(frames.number);
            if EACH_FRAME.load() != 0 {
                (*direction).records = (*direction).records.wrapping_add(1);
                (*direction).message_len = frames.len;
                (*direction).message_frames = 1;
            }
            let add = |to: *mut u32, at: usize| {
                *to.add(at) = (*to.add(at)).wrapping_add(frames.number);
            };
            add((&raw mut (*tally).frames).cast(), kind);
            add((&raw mut (*tally).messages).cast(), message);
            add((&raw mut (*tally).frame_sizes).cast(), class);
            add((&raw mut (*tally).message_sizes).cast(), class);
            let bytes = (&raw mut (*tally).bytes).cast::<u64>().add(kind);
            *bytes = (*bytes).wrapping_add(frames.bytes);
            (*tally).message_bytes = (*tally).message_bytes.wrapping_add(frames.bytes);
            (*tally).last_size = frames.len;
            (*tally).last_message_size = frames.len;
            (*tally).last = (kind as u64
                | u64::from(LAST_ENDS_MESSAGE)
                | frames.message << LAST_MESSAGE_SHIFT) as u32;
            (*tally).next = frames.place as u32;
            (*tally).edge = end;
            (*tally).last_seen = now;
            (*tally).walked = (*tally).walked.wrapping_add(1);
            flow.last_seen = now;
            done = true;
        }
        bpf_spin_unlock(&raw mut flow.lock);
    }
    done
}
