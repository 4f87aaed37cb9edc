//! What the kernel program counts of one direction of a flow that it walks.
//!
//! The elements lie in a memory-mapped array, two for each flow: [`element`]. Only the kernel
//! program writes them, under the lock of the flow; the agent reads them without a system call, may
//! see a segment half counted, and sees it whole the next time. Numbers wrap: what counts is the
//! difference between two looks, so the agent looks often enough.

/// Values of [`Tally::frames`]: continuation, text, binary, close, ping, pong, reserved.
pub const FRAME_KINDS: usize = 7;
/// Values of [`Tally::bytes`]: as [`FRAME_KINDS`], padded to a power of two.
pub const BYTE_KINDS: usize = 8;
/// Values of [`Tally::messages`]: text and binary, each plain and compressed.
pub const MESSAGE_KINDS: usize = 4;
/// Size classes: up to 16 bytes, up to four times as much, ..., up to 16 MiB, larger.
pub const SIZES: usize = 12;

/// Where an opcode is counted in [`Tally::frames`] and [`Tally::bytes`].
#[inline(always)]
#[must_use]
pub const fn frame_kind(opcode: u8) -> usize {
    match opcode & 0xf {
        data @ 0..=2 => data as usize,
        control @ 8..=10 => control as usize - 5,
        _ => 6,
    }
}

/// Largest payload of a size class; the last has none.
#[must_use]
pub const fn size_bound(class: usize) -> u64 {
    16 << (2 * class)
}

/// Counts of one direction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct Tally {
    /// `CLOCK_MONOTONIC` nanoseconds of the last payload at the owner's hook.
    pub last_seen: u64,
    /// Sequence number of the next header byte, or where [`Self::rest`] begins.
    pub next: u32,
    /// Sequence number behind the newest byte.
    pub edge: u32,
    /// [`crate::flow::FlowState::epoch`] of the flow, 0 while the element is no flow's.
    pub epoch: u32,
    /// The last frame: its opcode, [`LAST_ENDS_MESSAGE`], and [`Self::messages`]' index above.
    pub last: u32,
    /// Payload bytes behind [`Self::next`] before the next header: not 0 in frames of a GiB and more.
    pub rest: u64,
    /// Declared payload bytes of the last frame.
    pub last_size: u64,
    /// Declared payload bytes of the last message that has its last frame.
    pub last_message_size: u64,
    /// Payload bytes of all messages that are counted.
    pub message_bytes: u64,
    /// Payload bytes as the headers declare them, by [`frame_kind`]; the last is not used. Of the
    /// frame under way too: [`Self::ahead`] of them have not been seen.
    pub bytes: [u64; BYTE_KINDS],
    /// Frames, by [`frame_kind`].
    pub frames: [u32; FRAME_KINDS],
    /// Messages whose last header was seen.
    pub messages: [u32; MESSAGE_KINDS],
    /// Frames by the size class of their payload.
    pub frame_sizes: [u32; SIZES],
    /// Messages by the size class of their payload.
    pub message_sizes: [u32; SIZES],
    /// Segments that carried bytes which had been sent before.
    pub retransmitted: u32,
    /// Segments that arrived ahead of bytes that were still to come.
    pub out_of_order: u32,
    /// Keep-alive probes.
    pub keepalive_probes: u32,
    /// Segments that announced a window of zero.
    pub zero_windows: u32,
    /// Segments that were walked.
    pub walked: u32,
}

/// In [`Tally::last`]: the last frame ends a message, which has not gone by yet while
/// [`Tally::ahead`] is not 0.
pub const LAST_ENDS_MESSAGE: u32 = 0x10;
/// Where in [`Tally::last`] the index into [`Tally::messages`] is.
pub const LAST_MESSAGE_SHIFT: u32 = 8;

/// Size of a [`Tally`] in bytes.
pub const TALLY_LEN: usize = 280;
const _: () = assert!(size_of::<Tally>() == TALLY_LEN);

/// Index of the element of a flow's direction. `pair` is [`crate::flow::Followed::tally`], `sender`
/// the index of the sender in the flow's key.
#[inline(always)]
#[must_use]
pub const fn element(pair: u32, sender: u32) -> u32 {
    pair.wrapping_mul(2) | (sender & 1)
}

/// The numbers of an element, one after the other.
struct Words<'a> {
    words: core::slice::Iter<'a, u64>,
    /// The second half of the word whose first half was taken.
    second: Option<u32>,
}

impl Words<'_> {
    fn long(&mut self) -> u64 {
        self.words.next().copied().unwrap_or_default()
    }

    fn short(&mut self) -> u32 {
        match self.second.take() {
            Some(second) => second,
            None => {
                let [a, b, c, d, e, f, g, h] = self.long().to_ne_bytes();
                self.second = Some(u32::from_ne_bytes([e, f, g, h]));
                u32::from_ne_bytes([a, b, c, d])
            }
        }
    }
}

impl Tally {
    /// Where in the element [`Self::epoch`] is, in bytes.
    pub const EPOCH_AT: usize = core::mem::offset_of!(Self, epoch);

    /// [`Self::epoch`], out of the word of eight bytes that has it.
    #[must_use]
    pub fn epoch_in(word: u64) -> u32 {
        let bytes = word.to_ne_bytes();
        let at = Self::EPOCH_AT % 8;
        u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
    }

    /// Decodes an element.
    #[must_use]
    pub fn from_words(words: &[u64; TALLY_LEN / 8]) -> Self {
        let mut words = Words {
            words: words.iter(),
            second: None,
        };
        Self {
            last_seen: words.long(),
            next: words.short(),
            edge: words.short(),
            epoch: words.short(),
            last: words.short(),
            rest: words.long(),
            last_size: words.long(),
            last_message_size: words.long(),
            message_bytes: words.long(),
            bytes: core::array::from_fn(|_| words.long()),
            frames: core::array::from_fn(|_| words.short()),
            messages: core::array::from_fn(|_| words.short()),
            frame_sizes: core::array::from_fn(|_| words.short()),
            message_sizes: core::array::from_fn(|_| words.short()),
            retransmitted: words.short(),
            out_of_order: words.short(),
            keepalive_probes: words.short(),
            zero_windows: words.short(),
            walked: words.short(),
        }
    }

    /// Payload bytes of the frame under way that have not been seen yet.
    #[must_use]
    pub const fn ahead(&self) -> u64 {
        let near = self.next.wrapping_sub(self.edge) as i32;
        let near = if near > 0 { near as u64 } else { 0 };
        self.rest.saturating_add(near)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_decoded_as_it_lies() {
        let mut bytes = [0u8; TALLY_LEN];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = (at % 251) as u8;
        }
        let words: [u64; TALLY_LEN / 8] = core::array::from_fn(|at| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at * 8..][..8]);
            u64::from_ne_bytes(word)
        });
        let tally = Tally::from_words(&words);
        // SAFETY: `Tally` is plain integers without padding, and as long as the bytes.
        let lies: Tally = unsafe { core::mem::transmute(bytes) };
        assert_eq!(tally, lies);
        assert_eq!(Tally::epoch_in(words[Tally::EPOCH_AT / 8]), tally.epoch);
    }

    #[test]
    fn payload_ahead_is_what_lies_between_edge_and_header() {
        let mut tally = Tally::from_words(&[0; TALLY_LEN / 8]);
        assert_eq!(tally.ahead(), 0);
        (tally.next, tally.edge) = (5, u32::MAX - 4);
        assert_eq!(tally.ahead(), 10);
        tally.rest = 1 << 40;
        assert_eq!(tally.ahead(), (1 << 40) + 10);
        (tally.next, tally.edge, tally.rest) = (5, 9, 0);
        assert_eq!(tally.ahead(), 0);
    }
}
