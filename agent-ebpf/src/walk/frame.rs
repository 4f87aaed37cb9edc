//! One frame of a window: what it counts as, and what of it is handed over.

use core::mem::offset_of;

use wstap_common::{
    flow::{mode, state},
    record::ENTRY_LEN,
    tally::{LAST_ENDS_MESSAGE, LAST_MESSAGE_SHIFT, size_bound},
};
use wstap_ebpf::bound::{
    add_u64_at, increment_u32_at, load_u16, load_u64, load_u64_at, opaque, store_u64,
};

use super::{
    CARRY, CONTROL_COPY, CONTROL_PAYLOAD, DATA_COPY, DEFLATE, DETAIL, ENTRIES_END, MASKED,
    PENDING_BITS, TRIAL, WINDOW, Walk,
    delta::{SIMPLE_BITS, exceeds, size_class},
    status,
};
use crate::maps::{ENTRIES, WALK};

/// A run of frames that are nothing but messages by the rules and need no entry, as most are. What changes with
/// each of them is here as far as can be, and not in the walk: there are only so many registers.
pub(super) struct Run {
    /// Where in the window the next header is.
    at: u64,
    /// What of the first two bytes is the same in all of them, as a mask, and what it is.
    fixed: u64,
    expected: u64,
    /// Bytes of a header with a length of less than 126.
    size: u64,
    /// Where the last header may begin that is there in any case.
    limit: u64,
    /// `Walk::frames`, and the first bytes of the last one.
    frames: u32,
    head: u64,
}

/// Where in the walk things are that each frame needs.
const WINDOW_AT: usize = offset_of!(Walk, window);
const SIZES_AT: usize = offset_of!(Walk, delta.simple_sizes);
const SIMPLE_AT: usize = offset_of!(Walk, delta.simple);

impl Run {
    /// A run that begins with the next frame of the walk. Nothing in it is a number that the verifier knows, or it would
    /// follow each length of a run for itself.
    #[inline(always)]
    pub(super) fn new(walk: &Walk) -> Self {
        let masked = u64::from(walk.flags & MASKED);
        let deflate = u64::from(walk.flags & DEFLATE) >> 1;
        // No message may be under way, no close frame behind, and no entry asked for.
        let is_simple = 1 ^ exceeds(u64::from(walk.state | walk.flags & DETAIL), 0);
        Self {
            at: walk.at,
            fixed: 0x80f0 ^ deflate << 6,
            expected: 0x80 | masked << 15,
            size: 2 + masked * 4,
            // A header of eight bytes at most is there.
            limit: walk.filled.wrapping_sub(8).wrapping_mul(is_simple),
            frames: walk.frames,
            head: walk.delta.last_size,
        }
    }

    /// Walks one frame of the window, if it is of the run; says whether it was.
    #[inline(always)]
    pub(super) fn takes(&mut self, walk: &mut Walk) -> bool {
        let at = opaque(self.at);
        if at > CARRY + WINDOW || at > self.limit {
            return false;
        }
        // SAFETY: behind any byte of the segment there is room for more.
        let head =
            unsafe { load_u64_at::<WINDOW_AT>((&raw const *walk).cast::<u8>().add(at as usize)) };
        let Length { len, is_long } = length(head);
        if (head & self.fixed) ^ self.expected
            | ((head & 0x0f).wrapping_sub(1) & !1)
            // A length of eight bytes, or one that would do with none.
            | (is_long & ((head >> 8 & 0x7f) | exceeds(126, len)))
            != 0
        {
            return false;
        }
        let (class, message) = (class(len) as usize, message(head) as usize);
        let walk = (&raw mut *walk).cast::<u8>();
        // SAFETY: the indices are within the arrays.
        unsafe {
            increment_u32_at::<SIZES_AT>(walk.add(class * size_of::<u32>()));
            add_u64_at::<SIMPLE_AT>(walk.add(message * size_of::<u64>()), len | 1 << SIMPLE_BITS);
        }
        self.frames = self.frames.wrapping_add(1);
        self.head = head;
        self.at = at + self.size + is_long * 2 + len;
        true
    }

    /// Ends the run: the walk goes on behind it.
    #[inline(always)]
    pub(super) fn end(&self, walk: &mut Walk) {
        walk.at = self.at;
        if walk.frames != self.frames {
            walk.frames = self.frames;
            let Length { len, .. } = length(self.head);
            let delta = &mut walk.delta;
            delta.last_size = len;
            delta.last_message_size = len;
            delta.last = (self.head as u32 & 0x0f)
                | LAST_ENDS_MESSAGE
                | (message(self.head) as u32) << LAST_MESSAGE_SHIFT;
            delta.any = 1;
        }
    }
}

/// Payload length of a frame whose header has no length of eight bytes.
struct Length {
    len: u64,
    /// 1 if the header has one of two bytes.
    is_long: u64,
}

/// What the header `head` says of it; without a branch, see [`exceeds`].
#[inline(always)]
fn length(head: u64) -> Length {
    let short = head >> 8 & 0x7f;
    let long = (head >> 16 & 0xffff).swap_bytes() >> 48;
    let is_long = opaque(exceeds(short, 125));
    let len = short.wrapping_add(long.wrapping_sub(short).wrapping_mul(is_long));
    Length { len, is_long }
}

/// Index into `Tally::messages` of a frame of text or binary.
#[inline(always)]
fn message(head: u64) -> u64 {
    opaque(((head & 0x0f) - 1) * 2 + (head >> 6 & 1)) & 3
}

/// As [`size_class`], of less than 64 KiB: the bounds are compared with at once, each in 21 bits of a word. The
/// highest of these becomes 1 where the length is larger.
#[inline(always)]
fn class(len: u64) -> u64 {
    const LANE: u32 = 21;
    const EACH: u64 = 1 | 1 << LANE | 1 << (2 * LANE);
    const fn lanes(bounds: [u64; 3]) -> u64 {
        let [a, b, c] = bounds;
        let top = (1 << (LANE - 1)) - 1;
        (top - a) | (top - b) << LANE | (top - c) << (2 * LANE)
    }
    const SMALL: u64 = lanes([size_bound(0), size_bound(1), size_bound(2)]);
    const LARGE: u64 = lanes([size_bound(3), size_bound(4), size_bound(5)]);
    let of_each = len.wrapping_mul(EACH);
    let small = of_each.wrapping_add(SMALL) >> (LANE - 1) & EACH;
    let large = of_each.wrapping_add(LARGE) >> (LANE - 1) & EACH;
    // The sum of all lanes is in the last one.
    opaque((small + large).wrapping_mul(EACH) >> (2 * LANE)) & 7
}

/// Walks one frame of the window in `WALK`; 0 if there may be more. A function of its own, so that
/// the verifier follows its ways once and not for each of the frames before.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn walk_frame() -> u64 {
    let (Some(walk), Some(entries)) = (WALK.get_ptr_mut(0), ENTRIES.get_ptr_mut(0)) else {
        return 1;
    };
    // SAFETY: this CPU's own slots, used by nobody else while this program runs.
    u64::from(!frame(unsafe { &mut *walk }, entries.cast()))
}

#[inline(always)]
fn frame(walk: &mut Walk, entries: *mut u8) -> bool {
    walk.status = status::MORE;
    let at = opaque(walk.at);
    if at >= walk.filled || at > CARRY + WINDOW {
        return false;
    }
    // SAFETY: behind any byte of the segment the window has room for the largest entry.
    let bytes = unsafe { walk.window.as_ptr().add(at as usize) };
    // SAFETY: as above.
    let (head, length) = unsafe { (load_u16(bytes), load_u64(bytes.add(2))) };
    let (first, second) = (head & 0xff, head >> 8);
    let is_masked = second >> 7;
    let mut size = 2 + is_masked * 4;
    let mut len = second & 0x7f;
    // What may break a rule; the agent says whether it does.
    let mut odd = is_masked ^ u64::from(walk.flags & MASKED);
    if len == 126 {
        size += 2;
        len = u64::from((length as u16).swap_bytes());
        odd |= exceeds(126, len);
    } else if len == 127 {
        size += 8;
        len = length.swap_bytes();
        odd |= exceeds(0x1_0000, len & (u64::MAX >> 1)) | len >> 63;
        len &= u64::MAX >> 1;
    }
    let available = walk.filled - at;
    if available < size {
        walk.status = status::CUT;
        return false;
    }
    let opcode = first & 0x0f;
    let is_control = opcode & 8 != 0;
    let before = u64::from(walk.state);
    let mut state = before;
    let mut message_len = walk.message_len;
    let mut message_frames = walk.message_frames;
    let mut copied = size;
    let mut pending = 0;
    let mut kind = opcode;
    odd |= state & state::CLOSED as u64;
    // Payload that is copied with the header.
    let wanted;
    if is_control {
        kind = if opcode <= 10 { opcode - 5 } else { 6 };
        wanted = CONTROL_PAYLOAD;
        odd |= (first >> 7) ^ 1 | exceeds(len, CONTROL_PAYLOAD) | exceeds(opcode, 10);
        if opcode == 8 {
            state |= state::CLOSED as u64;
        }
    } else {
        if opcode > 2 {
            kind = 6;
            odd = 1;
        }
        let rsv1 = first >> 6 & 1;
        let within = state & state::OPCODE as u64;
        odd |= first & 0x30;
        if opcode != 0 {
            let compressed = rsv1 & u64::from(walk.flags & DEFLATE) >> 1;
            odd |= within | (rsv1 ^ compressed);
            state = (state & state::CLOSED as u64) | opcode | compressed << 4;
            message_len = len;
            message_frames = 1;
        } else {
            odd |= rsv1;
            if within == 0 {
                odd |= !state & state::UNKNOWN as u64;
            } else {
                message_len = message_len.wrapping_add(len);
                message_frames += 1;
            }
        }
        // Small text that is not compressed is copied whole, so that it can be checked. Without a
        // branch, see `exceeds`.
        let is_text = 1 ^ exceeds(state & (state::OPCODE | state::COMPRESSED) as u64 ^ 1, 0);
        let small = 1 ^ exceeds(len, CONTROL_PAYLOAD);
        let detail = u64::from(walk.flags & DETAIL) / u64::from(DETAIL);
        wanted = opaque((walk.preview | ((is_text & small) * 127)) * detail);
    }
    let payload = opaque(len.wrapping_sub(len.wrapping_sub(wanted) * exceeds(len, wanted)));
    let held = available - size;
    if held < payload {
        if walk.is_last == 0 {
            walk.status = status::CUT;
            return false;
        }
        // Of text that is not all there nothing is wanted: nobody should wait for its rest, which may
        // never pass.
        if is_control || walk.preview != 0 {
            copied += held;
            // More than sequence numbers can tell apart is no payload that anybody reads.
            if len < 1 << 55 {
                pending = (payload - held) | (len - payload) << PENDING_BITS;
            }
        }
    } else {
        copied += payload;
    }
    if walk.flags & TRIAL != 0 {
        if odd != 0 {
            walk.status = status::ODD;
            return false;
        }
    } else if is_control || odd != 0 || walk.flags & DETAIL != 0 {
        let to = opaque(walk.used);
        if to > ENTRIES_END {
            walk.status = status::FULL;
            return false;
        }
        let seq = walk.base().wrapping_add(at as u32);
        // SAFETY: up to `ENTRIES_END` there is room for the largest entry, and behind any byte of
        // the segment the window has room for as many.
        unsafe {
            let to = entries.add(to as usize);
            store_u64(to, walk.message_len);
            store_u64(to.add(8), u64::from(seq) | u64::from(walk.frames) << 32);
            store_u64(
                to.add(16),
                u64::from(walk.message_frames) | before << 32 | copied << 48,
            );
            let to = to.add(ENTRY_LEN);
            store_u64(to, load_u64(bytes));
            store_u64(to.add(8), load_u64(bytes.add(8)));
            if copied > DATA_COPY {
                for i in 2..(CONTROL_COPY / 8) as usize {
                    store_u64(to.add(i * 8), load_u64(bytes.add(i * 8)));
                }
            }
        }
        walk.used = to + ENTRY_LEN as u64 + ((copied + 7) & !7);
    }
    let delta = &mut walk.delta;
    let mut last = opcode;
    if !is_control && first & 0x80 != 0 {
        let of = state & state::OPCODE as u64;
        if of == 1 || of == 2 {
            let message = opaque((of - 1) * 2 + (state >> 4 & 1)) as usize & 3;
            delta.messages[message] += 1;
            delta.message_sizes[size_class(message_len) as usize & 15] += 1;
            delta.message_bytes = delta.message_bytes.wrapping_add(message_len);
            delta.last_message_size = message_len;
            last |= u64::from(LAST_ENDS_MESSAGE) | (message as u64) << LAST_MESSAGE_SHIFT;
        }
        state &= state::CLOSED as u64;
    }
    let kind = opaque(kind) as usize & 7;
    delta.frames[kind] += 1;
    delta.bytes[kind] = delta.bytes[kind].wrapping_add(len);
    delta.frame_sizes[size_class(len) as usize & 15] += 1;
    delta.last_size = len;
    delta.last = last as u32;
    delta.any = 1;
    walk.frames = walk.frames.wrapping_add(1);
    walk.state = state as u32;
    walk.message_len = message_len;
    walk.message_frames = message_frames;
    if pending != 0 {
        walk.mode = mode::CONTROL.into();
        walk.rest = pending;
        walk.at = walk.filled;
        return false;
    }
    walk.at = at.wrapping_add(size).wrapping_add(len);
    true
}
