//! What a walk adds to the tally of its direction, and the classes of sizes in it.

use wstap_common::tally::{BYTE_KINDS, FRAME_KINDS, MESSAGE_KINDS, SIZES, Tally};
use wstap_ebpf::bound::opaque;

/// Bits of payload bytes in [`Delta::simple`]. A segment has less than a terabyte, and less than 2^24 frames.
pub const SIMPLE_BITS: u32 = 40;

/// What a walk adds to the tally.
#[repr(C)]
pub struct Delta {
    pub bytes: [u64; BYTE_KINDS],
    pub message_bytes: u64,
    pub last_size: u64,
    pub last_message_size: u64,
    pub frames: [u32; FRAME_KINDS + 1],
    pub messages: [u32; MESSAGE_KINDS],
    pub frame_sizes: [u32; SIZES + 4],
    pub message_sizes: [u32; SIZES + 4],
    /// Messages in one frame, which are counted here alone: by index of messages their payload bytes, and from
    /// [`SIMPLE_BITS`] on how many; and by the size of their frame.
    pub simple: [u64; MESSAGE_KINDS],
    pub simple_sizes: [u32; SIZES + 4],
    pub last: u32,
    /// There is something at all.
    pub any: u32,
}

/// 1 if `len` is larger than `bound`, else 0; without a branch, of which the verifier would follow
/// both sides for each header. Both are less than 2^63.
#[inline(always)]
pub fn exceeds(len: u64, bound: u64) -> u64 {
    opaque(bound.wrapping_sub(len)) >> 63
}

/// The size class of a payload, as [`wstap_common::tally::size_bound`] has them.
#[inline(always)]
pub fn size_class(len: u64) -> u64 {
    exceeds(len, 16)
        + exceeds(len, 64)
        + exceeds(len, 256)
        + exceeds(len, 1 << 10)
        + exceeds(len, 4 << 10)
        + exceeds(len, 16 << 10)
        + exceeds(len, 64 << 10)
        + exceeds(len, 256 << 10)
        + exceeds(len, 1 << 20)
        + exceeds(len, 4 << 20)
        + exceeds(len, 16 << 20)
}

impl Delta {
    /// Begins anew.
    #[inline(always)]
    pub fn clear(&mut self) {
        let words = (&raw mut *self).cast::<u64>();
        for i in 0..size_of::<Self>() / 8 {
            // SAFETY: within the structure. Volatile, so that no call of `memset` comes of it.
            unsafe { words.add(i).write_volatile(0) };
        }
    }

    /// Adds it to `tally`, which nobody else writes meanwhile, and begins anew.
    #[inline(always)]
    pub fn apply(&mut self, tally: &mut Tally) {
        tally.last_size = self.last_size;
        tally.last = self.last;
        tally.message_bytes = tally.message_bytes.wrapping_add(self.message_bytes);
        if self.last_message_size != 0 {
            tally.last_message_size = self.last_message_size;
        }
        for i in 0..FRAME_KINDS {
            tally.frames[i] = tally.frames[i].wrapping_add(self.frames[i]);
            tally.bytes[i] = tally.bytes[i].wrapping_add(self.bytes[i]);
        }
        for i in 0..MESSAGE_KINDS {
            let messages = (self.simple[i] >> SIMPLE_BITS) as u32;
            let bytes = self.simple[i] & ((1 << SIMPLE_BITS) - 1);
            // Text and binary, each plain and compressed.
            let kind = 1 + i / 2;
            tally.messages[i] = tally.messages[i].wrapping_add(self.messages[i] + messages);
            tally.frames[kind] = tally.frames[kind].wrapping_add(messages);
            tally.bytes[kind] = tally.bytes[kind].wrapping_add(bytes);
            tally.message_bytes = tally.message_bytes.wrapping_add(bytes);
        }
        for i in 0..SIZES {
            let simple = self.simple_sizes[i];
            tally.frame_sizes[i] = tally.frame_sizes[i].wrapping_add(self.frame_sizes[i] + simple);
            tally.message_sizes[i] =
                tally.message_sizes[i].wrapping_add(self.message_sizes[i] + simple);
        }
    }
}
