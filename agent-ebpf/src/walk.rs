//! The walk: from header to header through what a segment brings of a direction.
//!
//! A walk is a function of a snapshot (the direction's [`Place`] and what belongs to it) and of the
//! segment's bytes; nothing that others see changes until it is committed, and it is committed only
//! if the place is still the same. All that it needs lies in [`Walk`], one for each CPU.
//!
//! The functions that are not inlined have names outside, so that the verifier walks each once, by
//! itself: the loop over the headers of a window in one, the loop over the windows in the other.

mod delta;
mod frame;

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_probe_read_kernel, bpf_ringbuf_output, bpf_skb_load_bytes},
};
use wstap_common::{
    counter::Counter,
    flow::{Place, Walked, mode, state},
    globals::MAX_PREVIEW,
    record::{ENTRY_LEN, HEADER_LEN, RecordHeader, WALK_HEADER_LEN, WalkHeader},
};

use wstap_ebpf::bound::{bounded, load_u64, opaque, store_u64};

pub use self::delta::{Delta, exceeds, size_class};
use self::frame::{Run, walk_frame};
use crate::{
    maps::{ENTRIES, PREVIEW, RECORDS, SLOTS, WALK, count},
    sample::wakeup,
};

/// Room before the segment's bytes in a window: the bytes of a header that the last segment cut off.
const CARRY: u64 = 16;
/// Bytes of the segment in the first window. It holds any header and any control payload whole.
const FIRST: u64 = 192;
/// Bytes of the segment in a window behind a frame that was larger than the last window: a header.
const GLANCE: u64 = 32;
/// Bytes of the segment in a window.
pub const WINDOW: u64 = 4096;
/// Where the next header is farther away than this, no window is worth it for the sake of those behind it.
const FAR_AWAY: u64 = 1024;
/// Room behind them: what is read beyond the bytes that are there means nothing, and is not used.
const SLACK: u64 = 160;
/// Bytes of a control frame that are copied with its header; of a data frame no more are.
const CONTROL_PAYLOAD: u64 = MAX_PREVIEW as u64;
/// Bytes that are written behind an [`ENTRY_LEN`] in any case: the largest header.
const DATA_COPY: u64 = 16;
/// Bytes that are written where there is payload to copy.
const CONTROL_COPY: u64 = 144;
/// In [`Walked::rest`], in [`mode::CONTROL`]: payload that is still to be copied; and above it what
/// comes behind that before the next header.
const PENDING: u64 = 0xff;
/// See [`PENDING`].
const PENDING_BITS: u32 = 8;
/// Headers in one go of the inner loop.
const HEADERS: u64 = 64;
/// Goes of the inner loop: 64 KiB of the smallest frames, and more.
const STEPS: u64 = 1152;

/// Where entries begin in [`ENTRIES`].
pub const ENTRIES_AT: u64 = (HEADER_LEN + WALK_HEADER_LEN) as u64;
/// Bytes of [`ENTRIES`]: what a CPU may have in one value.
pub const ENTRIES_LEN: usize = 32 << 10;
/// Up to where an entry may begin.
pub const ENTRIES_END: u64 = ENTRIES_LEN as u64 - ENTRY_LEN as u64 - CONTROL_COPY;

/// Bytes of a segment that a slot holds.
pub const SLOT_BYTES: u32 = 64 << 10;

/// In [`Walk::flags`]: the frames of this direction are masked.
pub const MASKED: u32 = 1;
/// In [`Walk::flags`]: RSV1 may begin a compressed message.
pub const DEFLATE: u32 = 2;
/// In [`Walk::flags`]: every frame becomes an entry.
pub const DETAIL: u32 = 4;
/// In [`Walk::flags`]: the agent should look at once.
pub const URGENT: u32 = 8;
/// In [`Walk::flags`]: nobody knows whether there is a header where the walk begins. There are no
/// entries, and what breaks a rule ends it.
pub const TRIAL: u32 = 16;

/// How a go of the inner loop ended.
mod status {
    /// Behind as many headers as one go takes.
    pub const MORE: u32 = 0;
    /// A header, or a control frame, is cut off by the end of the window.
    pub const CUT: u32 = 1;
    /// No room for a further entry.
    pub const FULL: u32 = 2;
    /// On trial, what is there is no header that keeps the rules.
    pub const ODD: u32 = 3;
}

/// A walk under way.
#[repr(C)]
pub struct Walk {
    /// In: where the payload is in the packet.
    pub payload: u32,
    /// In: its length.
    pub len: u32,
    /// In: sequence number of its first byte.
    pub seq: u32,
    /// In: the slot it is in, 0 for the packet.
    pub slot: u32,
    /// In: the slot that names it.
    pub previous: u32,
    /// In: [`MASKED`], [`DEFLATE`], [`DETAIL`].
    pub flags: u32,
    /// In: [`wstap_common::globals::PREVIEW`].
    pub preview: u64,
    /// In and out: [`state`].
    pub state: u32,
    /// In and out: bytes in [`Self::carry`].
    pub carried: u32,
    /// In and out: [`mode`].
    pub mode: u32,
    /// In and out: as in [`Walked`].
    pub rest: u64,
    pub message_len: u64,
    pub carry: [u64; 2],
    pub frames: u32,
    pub message_frames: u32,
    /// In and out: position in the payload of the next byte that is needed; may be behind its end.
    pub offset: u64,
    /// Out: bytes of [`ENTRIES`] that are used.
    pub used: u64,

    /// Where in the window the next header is, and where the bytes end that are there.
    at: u64,
    filled: u64,
    status: u32,
    /// Bytes of the segment in the next window.
    size: u32,
    /// The window reaches to the segment's end.
    is_last: u32,
    /// Not 0 where the next go is of the same window.
    goes_on: u32,
    reserved: u32,
    pub delta: Delta,
    window: [u8; (CARRY + WINDOW + SLACK) as usize],
}

/// Walks the segment that `WALK` describes; 0 if it came to its end.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn walk_segment(skb: *mut __sk_buff) -> u64 {
    u64::from(!windows(skb))
}

#[inline(always)]
fn windows(skb: *mut __sk_buff) -> bool {
    let Some(walk) = WALK.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: this CPU's own slot, used by nobody else while this program runs.
    let walk = unsafe { &mut *walk };
    if walk.mode == u32::from(mode::CONTROL) {
        if !control_payload(skb, walk) {
            return false;
        }
        if walk.rest & PENDING != 0 {
            return true;
        }
        walk.offset = walk.offset.wrapping_add(walk.rest >> PENDING_BITS);
        walk.rest = 0;
        walk.mode = mode::NEAR.into();
    }
    walk.size = FIRST as u32;
    walk.status = status::MORE;
    walk.goes_on = 0;
    // As little as can be, since the verifier walks it so many times; see `walk_window` for its form.
    let mut steps = 0;
    loop {
        let ended = walk_window(skb);
        if ended != 0 {
            return ended == END;
        }
        steps += 1;
        if steps >= STEPS {
            return false;
        }
    }
}

/// Loads the next window; 0 if it could.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn load_window(skb: *mut __sk_buff) -> u64 {
    let Some(walk) = WALK.get_ptr_mut(0) else {
        return 1;
    };
    // SAFETY: as in `windows`.
    let walk = unsafe { &mut *walk };
    let left = u64::from(walk.len).saturating_sub(walk.offset);
    let size = u64::from(walk.size);
    let wanted = if left < size { left } else { size };
    let carried = opaque(u64::from(walk.carried));
    if carried > 14 {
        return 1;
    }
    // Before the bytes are loaded, since it writes beyond where they begin.
    let begin = CARRY - carried;
    // SAFETY: `begin` is at most `CARRY`, and there is room for more than 16 bytes behind.
    unsafe {
        let to = walk.window.as_mut_ptr().add(begin as usize);
        store_u64(to, walk.carry[0]);
        store_u64(to.add(8), walk.carry[1]);
    }
    walk.at = begin;
    walk.filled = CARRY + wanted;
    walk.is_last = u32::from(wanted == left);
    walk.carried = 0;
    let Some(wanted) = bounded(wanted, WINDOW) else {
        return 1;
    };
    // SAFETY: the window has room for `WINDOW` bytes behind `CARRY`.
    let to = unsafe { walk.window.as_mut_ptr().add(CARRY as usize) };
    u64::from(!read(skb, walk, walk.offset, to, wanted))
}

/// Sends off what is in [`ENTRIES`], and begins anew behind it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn emit_entries() -> u64 {
    if let Some(walk) = WALK.get_ptr_mut(0) {
        // SAFETY: as in `windows`.
        emit(unsafe { &mut *walk });
    }
    0
}

/// Copies the payload of a control frame that went on in this segment.
#[inline(always)]
fn control_payload(skb: *mut __sk_buff, walk: &mut Walk) -> bool {
    let Some(entries) = ENTRIES.get_ptr_mut(0) else {
        return false;
    };
    let offset = walk.offset;
    let len = u64::from(walk.len);
    if offset >= len {
        return true;
    }
    let left = len - offset;
    let pending = walk.rest & PENDING;
    let part = if left < pending { left } else { pending };
    let Some(part) = bounded(part, CONTROL_PAYLOAD) else {
        return false;
    };
    let seq = walk.seq.wrapping_add(offset as u32);
    // SAFETY: nothing is in the buffer yet, and it has room for more than one entry.
    let to = unsafe {
        let to = entries.cast::<u8>().add(ENTRIES_AT as usize);
        store_u64(to, walk.message_len);
        store_u64(to.add(8), u64::from(seq) | u64::from(walk.frames) << 32);
        store_u64(
            to.add(16),
            u64::from(walk.message_frames) | u64::from(walk.state) << 32 | 1 << 40 | part << 48,
        );
        to.add(ENTRY_LEN)
    };
    if !read(skb, walk, offset, to, part) {
        return false;
    }
    walk.used = ENTRIES_AT + ENTRY_LEN as u64 + ((part + 7) & !7);
    walk.offset = offset + part;
    walk.rest -= part;
    true
}

/// Reads bytes of the segment to where there is room for them.
#[inline(always)]
fn read(skb: *mut __sk_buff, walk: &Walk, offset: u64, to: *mut u8, len: u64) -> bool {
    if walk.slot == 0 {
        let from = walk.payload.wrapping_add(offset as u32);
        // SAFETY: the caller says that there is room.
        return unsafe { bpf_skb_load_bytes(skb.cast(), from, to.cast(), len as u32) } == 0;
    }
    let Some(slot) = SLOTS.get_ptr_mut(walk.slot) else {
        return false;
    };
    let offset = opaque(offset);
    if offset >= u64::from(SLOT_BYTES) {
        return false;
    }
    // SAFETY: `offset` is within the slot's bytes, behind which there is room for a window; where
    // the bytes go, the caller says that there is room.
    unsafe {
        let from = (&raw const (*slot).bytes).cast::<u8>().add(offset as usize);
        bpf_probe_read_kernel(to.cast(), len as u32, from.cast()) == 0
    }
}

#[inline(always)]
fn emit(walk: &mut Walk) {
    let Some(entries) = ENTRIES.get_ptr_mut(0) else {
        return;
    };
    let Some(used) = bounded(walk.used, ENTRIES_LEN as u64) else {
        return;
    };
    // SAFETY: the headers are at the buffer's beginning.
    unsafe {
        let record = entries.cast::<RecordHeader>();
        (*record).captured = (used as u32).wrapping_sub(HEADER_LEN as u32);
    }
    output(entries.cast(), used, walk.flags & URGENT != 0);
    // SAFETY: as above.
    unsafe {
        let header = entries.cast::<u8>().add(HEADER_LEN).cast::<WalkHeader>();
        (*header).number = (*header).number.wrapping_add(1);
        (*header).from = walk.seq.wrapping_add(walk.offset as u32);
        (*header).frames = walk.frames;
        (*header).message_len = walk.message_len;
        (*header).message_frames = walk.message_frames;
        (*header).state = (*header).state & 0xffff_0000 | walk.state;
    }
    walk.used = ENTRIES_AT;
}

/// Sends off a record that lies in a map.
#[inline(always)]
pub fn output(record: *mut u8, len: u64, urgent: bool) {
    output_with(record, len, wakeup(urgent));
}

/// As [`output`]; `wakeup` is what is said of the reader.
#[inline(always)]
pub fn output_with(record: *mut u8, len: u64, wakeup: u64) {
    // SAFETY: the verifier sees that so many bytes are there.
    let failed = unsafe {
        bpf_ringbuf_output(
            (&raw const RECORDS).cast_mut().cast(),
            record.cast(),
            len,
            wakeup,
        )
    };
    if failed == 0 {
        count(Counter::Samples, 1);
        count(Counter::SampleBytes, len.wrapping_sub(HEADER_LEN as u64));
    } else {
        count(Counter::LostRingFull, 1);
    }
}

/// Of [`walk_window`]: the segment has ended.
const END: u64 = 1;
/// Of [`walk_window`]: the walk cannot go on.
const STUCK: u64 = 2;

/// Loads the next window of the segment in `WALK` and walks its headers, as many as one go takes; 0 if there is
/// more to walk.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn walk_window(skb: *mut __sk_buff) -> u64 {
    let Some(walk) = WALK.get_ptr_mut(0) else {
        return STUCK;
    };
    // SAFETY: as in `windows`.
    let walk = unsafe { &mut *walk };
    if walk.offset >= u64::from(walk.len) {
        return END;
    }
    if walk.goes_on == 0 && load_window(skb) != 0 {
        return STUCK;
    }
    walk.goes_on = 0;
    // One way back, by a condition at the end: verifiers before 6.8 refuse a loop to whose beginning an
    // instruction leads that does not jump.
    let mut frames = 0_u64;
    let mut run = Run::new(walk);
    let mut more;
    loop {
        let mut goes_on = run.takes(walk);
        if !goes_on {
            run.end(walk);
            // As often as not the next header is behind the window, and a call is dear.
            if walk.at < walk.filled {
                goes_on = walk_frame() == 0;
            } else {
                walk.status = status::MORE;
            }
            run = Run::new(walk);
        }
        more = opaque(u64::from(goes_on));
        frames += 1;
        if more == 0 || frames >= HEADERS {
            break;
        }
    }
    run.end(walk);
    let at = opaque(walk.at);
    if more != 0 && at < walk.filled {
        walk.goes_on = 1;
        return 0;
    }
    // Behind a large frame another such may come. Of smaller ones a window holds several, and there are
    // only so many steps.
    let is_large = at.wrapping_sub(walk.filled) as i64 > FAR_AWAY as i64;
    walk.size = if is_large {
        GLANCE as u32
    } else {
        WINDOW as u32
    };
    walk.offset = walk.offset.wrapping_add(at).wrapping_sub(CARRY);
    if walk.status == status::CUT && walk.is_last != 0 {
        let carried = walk.filled.wrapping_sub(at);
        if at <= CARRY + WINDOW && carried <= 14 {
            // SAFETY: there is room for 16 bytes behind any byte of the segment.
            unsafe {
                let from = walk.window.as_ptr().add(at as usize);
                walk.carry[0] = load_u64(from);
                walk.carry[1] = load_u64(from.add(8));
            }
            walk.carried = carried as u32;
        }
        walk.offset = walk.len.into();
    }
    if walk.status == status::FULL {
        emit_entries();
    }
    if walk.status == status::ODD {
        return STUCK;
    }
    0
}

impl Walk {
    /// Sequence number of the window's first byte.
    #[inline(always)]
    fn base(&self) -> u32 {
        self.seq
            .wrapping_add(self.offset as u32)
            .wrapping_sub(CARRY as u32)
    }

    /// Takes a snapshot of `direction`, whose place is `place`, to walk it from there.
    #[inline(always)]
    pub fn begin(&mut self, direction: &Walked, place: Place) {
        self.preview = PREVIEW.load().into();
        self.state = place.state().into();
        self.carried = place.carried().into();
        // On trial, the next header is near, or the trial is over.
        self.mode = if place.mode() == mode::TRIAL {
            mode::NEAR.into()
        } else {
            place.mode().into()
        };
        self.rest = direction.rest;
        self.message_len = direction.message_len;
        self.carry[0] = direction.carry[0];
        self.carry[1] = direction.carry[1];
        self.frames = direction.frames;
        self.message_frames = direction.message_frames;
        self.offset = u64::from(place.next().wrapping_sub(self.seq));
        self.used = ENTRIES_AT;
    }

    /// Makes the snapshot that of a direction of which nothing is known.
    #[inline(always)]
    pub fn clear_snapshot(&mut self) {
        self.carry = [0; 2];
        self.message_len = 0;
        self.message_frames = 0;
        self.frames = 0;
    }

    /// As [`Self::begin`], on trial from the segment's first byte on.
    #[inline(always)]
    pub fn begin_anew(&mut self) {
        self.state = state::UNKNOWN.into();
        self.carried = 0;
        self.mode = mode::NEAR.into();
        self.rest = 0;
        self.clear_snapshot();
        self.offset = 0;
        self.used = ENTRIES_AT;
    }

    /// As [`Self::begin`], of a segment that has nothing to walk: the place stays.
    #[inline(always)]
    pub fn stay(&mut self, direction: &Walked, place: Place) {
        self.seq = place.next();
        self.len = 0;
        self.begin(direction, place);
    }

    /// Where the walk has come to.
    #[inline(always)]
    pub fn place(&self, version: u16) -> (Place, u64) {
        let state = self.state as u8;
        let carried = self.carried as u8;
        let beyond = self.offset.saturating_sub(u64::from(self.len));
        if self.mode == u32::from(mode::FAR) {
            // Only where nothing was walked.
            return (
                Place::new(self.seq, version, state, 0, mode::FAR),
                self.rest,
            );
        }
        if self.mode == u32::from(mode::CONTROL) {
            let next = self.seq.wrapping_add(self.len);
            (
                Place::new(next, version, state, 0, mode::CONTROL),
                self.rest,
            )
        } else if beyond < NEAR {
            let next = self.seq.wrapping_add(self.offset as u32);
            (Place::new(next, version, state, carried, mode::NEAR), 0)
        } else {
            let next = self.seq.wrapping_add(self.len);
            (Place::new(next, version, state, 0, mode::FAR), beyond)
        }
    }
}

/// Payload before the next header, behind the place: of [`Walked::rest`].
#[inline(always)]
pub fn ahead(place: Place, rest: u64) -> u64 {
    if place.mode() == mode::CONTROL {
        (rest & PENDING) + (rest >> PENDING_BITS)
    } else {
        rest
    }
}

/// Up to here the next header is told by its sequence number alone.
pub const NEAR: u64 = 1 << 30;
