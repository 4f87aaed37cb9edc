//! A segment that is a header and the beginning of one frame, and that frame a message: counted with no
//! walk.

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_skb_load_bytes, bpf_spin_lock, bpf_spin_unlock},
};
use wstap_common::{
    flow::{Place, flag, mode},
    tally::{LAST_ENDS_MESSAGE, LAST_MESSAGE_SHIFT, Tally},
};
use wstap_ebpf::bound::opaque;

use crate::{
    headers::Headers,
    maps::Flow,
    walk::{NEAR, size_class},
};

/// A frame that is a message.
#[derive(Clone, Copy)]
pub(super) struct OnlyFrame {
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
pub(super) fn only_frame(
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
        if !(0x1_0000..NEAR).contains(&len) {
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
pub(super) fn count_only(
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
