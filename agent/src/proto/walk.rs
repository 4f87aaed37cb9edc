//! What a source says that has followed the frames of a direction by itself: where their headers
//! are, and how many there were.
//!
//! Such a source hands over headers and control frames instead of segments, states with each where it
//! belongs, and counts everything else in a [`Tally`]. Which bytes are handed over is its business;
//! what they mean is decided here as ever.

use std::fmt::Debug;

use super::{
    event::{Counted, TcpCounts},
    flow::{Direction, FlowKey},
    frame::Opcode,
    packed::Packer,
    segment::Segment,
    seq::SeqNumber,
    time::Timestamp,
};

/// Kinds of frames that are counted apart: continuation, text, binary, close, ping, pong, reserved.
pub const FRAME_KINDS: usize = 7;
/// Kinds of messages that are counted apart: text and binary, each plain and compressed.
pub const MESSAGE_KINDS: usize = 4;
/// Classes of sizes: up to 16 bytes, up to four times as much, ..., up to 16 MiB, larger.
pub const SIZES: usize = 12;

/// The opcode of a kind of frames; `None` for the reserved ones.
#[must_use]
pub fn opcode_of(kind: usize) -> Option<Opcode> {
    match kind {
        0 => Some(Opcode::Continuation),
        1 => Some(Opcode::Text),
        2 => Some(Opcode::Binary),
        3 => Some(Opcode::Close),
        4 => Some(Opcode::Ping),
        5 => Some(Opcode::Pong),
        _ => None,
    }
}

/// The class of a size.
#[must_use]
pub fn class_of(size: u64) -> usize {
    (0..SIZES - 1)
        .find(|class| size <= 16 << (2 * class))
        .unwrap_or(SIZES - 1)
}

/// Where in the frames and messages of a direction a header is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Place {
    /// Frames before, modulo 2^32.
    pub index: u32,
    /// The message under way.
    pub message: MessageState,
    /// A close frame came before.
    pub closed: bool,
}

/// The message under way between two frames.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum MessageState {
    /// None is.
    #[default]
    Between,
    /// One may be whose beginning was not seen.
    Unknown,
    /// One is.
    Within {
        /// Of its first frame.
        opcode: Opcode,
        /// Whether it is compressed.
        compressed: bool,
        /// Its frames so far.
        frames: u32,
        /// Their payload bytes.
        len: u64,
    },
}

/// A segment in which a source has followed the frames.
#[derive(Clone, Copy, Debug)]
pub struct Walk<'a> {
    /// The segment, without its bytes.
    pub segment: Segment<'a>,
    /// The sender's tally; that of the other side is its neighbour, see [`neighbour`].
    pub tally: u32,
    /// Time of the last payload of either direction before the segment.
    pub quiet_since: Timestamp,
    /// Where the source had come to: the sequence number of a header byte, or of payload of a
    /// control frame.
    pub from: SeqNumber,
    /// Sequence number behind the newest byte of the direction.
    pub high: SeqNumber,
    /// Walks of this direction that were handed over before this one, modulo 2^32.
    pub number: u32,
    /// What is at [`Self::from`].
    pub place: Place,
    /// The source has lost its place: behind [`Self::from`] come segments. The number is to be
    /// given back with [`Cursor::version`].
    pub lost: Option<u32>,
    /// The source has confirmed its trial: what was not handed over so far is walked, and the next header
    /// is at [`Self::from`].
    pub resumed: bool,
}

/// A frame that a source came by.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Sequence number of the first of [`Self::bytes`].
    pub seq: SeqNumber,
    /// Where it is.
    pub place: Place,
    /// The bytes are payload of the frame before, not a header.
    pub continues: bool,
    /// The header, and of a control frame the payload.
    pub bytes: &'a [u8],
}

/// What accompanies a segment that was handed over whole, of a connection that a source follows.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Sample {
    /// The sender's tally, 0 if there is none.
    pub tally: u32,
    /// The sender's direction is followed from here on.
    pub boundary: Option<SeqNumber>,
    /// The source tries whether a header begins with this segment, and wants to be told.
    pub is_trial: bool,
}

/// The tally of the other direction.
#[must_use]
pub fn neighbour(tally: u32) -> u32 {
    tally ^ 1
}

/// Where a direction goes on of which a source has lost its place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Cursor {
    /// The connection.
    pub flow: FlowKey,
    /// [`Segment::epoch`] of the incarnation that is meant.
    pub epoch: u32,
    /// Index of the sender in [`FlowKey::ends`].
    pub side: usize,
    /// The next header; or that where a trial began.
    pub next: SeqNumber,
    /// What is there.
    pub place: Place,
    /// Whether the sender is the client.
    pub is_client: bool,
    /// Whether RSV1 may say that a message is compressed.
    pub compresses: bool,
    /// What [`Walk::lost`] said, 0 where the direction was never followed.
    pub version: u32,
}

/// What a source has counted of one direction, since it began.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Tally {
    /// Time of the last payload.
    pub last_seen: Timestamp,
    /// The counts.
    pub counts: Counts,
    /// Payload bytes of the frame under way that have not been seen.
    pub ahead: u64,
    /// Sequence number of the next header, modulo 2^32.
    pub next: SeqNumber,
    /// The last frame.
    pub last: LastFrame,
    /// What was out of the ordinary in TCP.
    pub tcp: TcpCounts,
}

/// The last frame in a [`Tally`].
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct LastFrame {
    /// Its kind.
    pub kind: usize,
    /// Its payload as declared.
    pub size: u64,
    /// Where it ends a message: the kind of it, and its size.
    pub message: Option<(usize, u64)>,
}

/// Counts of frames and messages. The small ones wrap.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// Frames by kind.
    pub frames: [u32; FRAME_KINDS],
    /// Payload bytes by kind of frame.
    pub bytes: [u64; FRAME_KINDS],
    /// Frames by the class of their size.
    pub frame_sizes: [u32; SIZES],
    /// Messages by kind.
    pub messages: [u32; MESSAGE_KINDS],
    /// Messages by the class of their size.
    pub message_sizes: [u32; SIZES],
    /// Payload bytes of messages.
    pub message_bytes: u64,
    /// Payload bytes of the frames in [`Self::frame_sizes`].
    pub frame_bytes: u64,
}

/// Where tallies are looked up.
pub trait Tallies: Debug + Send {
    /// The tally with this number, if it is of the incarnation `epoch` of its connection.
    fn read(&self, tally: u32, epoch: u32) -> Option<Tally>;

    /// [`Tally::last_seen`] alone.
    fn last_seen(&self, tally: u32, epoch: u32) -> Option<Timestamp>;
}

impl Tally {
    /// The counts without what has not gone by yet of the frame under way: of its payload what was
    /// seen, its size and its message not before its end, which may be an early one: `over`.
    fn settled(&self, over: bool) -> Counts {
        let mut counts = self.counts;
        let sum = counts
            .bytes
            .iter()
            .fold(0u64, |sum, n| sum.wrapping_add(*n));
        counts.frame_bytes = sum;
        let ahead = self.ahead.min(self.last.size);
        if ahead == 0 {
            return counts;
        }
        let LastFrame {
            kind,
            size,
            message,
        } = self.last;
        if let Some(bytes) = counts.bytes.get_mut(kind) {
            *bytes = bytes.wrapping_sub(ahead);
        }
        let take = |count: &mut u32| *count = count.wrapping_sub(1);
        take(&mut counts.frame_sizes[class_of(size)]);
        counts.frame_bytes = counts.frame_bytes.wrapping_sub(size);
        if over {
            let seen = size - ahead;
            let class = &mut counts.frame_sizes[class_of(seen)];
            *class = class.wrapping_add(1);
            counts.frame_bytes = counts.frame_bytes.wrapping_add(seen);
        }
        if let Some((kind, size)) = message {
            counts.messages.get_mut(kind).map(take);
            take(&mut counts.message_sizes[class_of(size)]);
            counts.message_bytes = counts.message_bytes.wrapping_sub(size);
        }
        counts
    }

    /// Whether `before` is what is counted now.
    pub(super) fn is_in(&self, before: &Counts) -> bool {
        self.settled(false) == *before
    }

    /// A number that is another one when payload has gone by since, but for one time in 2^32.
    pub(super) fn print(&self) -> u32 {
        let frames = self.counts.frames.iter();
        let frames = frames.fold(0u32, |sum, n| sum.wrapping_add(*n));
        let ahead = (self.ahead as u32).rotate_left(16);
        // Of Knuth: bits of small numbers come to lie everywhere.
        self.next.0 ^ ahead ^ frames.wrapping_mul(0x9e37_79b1)
    }

    /// What was counted since `before`, which becomes what is counted now. `None` where that is
    /// nothing, or where the tally is in the midst of a change.
    pub fn since(
        &self,
        before: &mut Counts,
        direction: Direction,
        over: bool,
    ) -> Option<Box<Counted>> {
        let now = self.settled(over);
        if now == *before {
            return None;
        }
        let counted = now.since(before, direction)?;
        *before = now;
        let under_way = self.ahead > 0 && !over;
        let sized = counted.frame_sizes.iter().any(|n| *n > 0);
        let size = self.last.size - self.ahead.min(self.last.size);
        Some(Box::new(Counted {
            last_frame_size: (!under_way && sized).then_some(size),
            ..counted
        }))
    }
}

impl Counts {
    /// Writes or reads them.
    pub(super) fn pack(&mut self, p: &mut Packer) {
        let Self {
            frames,
            bytes,
            frame_sizes,
            messages,
            message_sizes,
            message_bytes,
            frame_bytes,
        } = self;
        let sums = bytes.iter_mut().chain([message_bytes, frame_bytes]);
        p.sparse(sums);
        let sizes = frame_sizes.iter_mut().chain(message_sizes);
        p.sparse_short(frames.iter_mut().chain(messages).chain(sizes));
    }

    /// The difference; `None` where one of them has become less.
    fn since(&self, before: &Self, direction: Direction) -> Option<Counted> {
        Some(Counted {
            direction,
            frames: differences(&self.frames, &before.frames)?,
            bytes: long_differences(&self.bytes, &before.bytes)?,
            frame_sizes: differences(&self.frame_sizes, &before.frame_sizes)?,
            frame_bytes: self.frame_bytes.checked_sub(before.frame_bytes)?,
            messages: differences(&self.messages, &before.messages)?,
            message_sizes: differences(&self.message_sizes, &before.message_sizes)?,
            message_bytes: self.message_bytes.checked_sub(before.message_bytes)?,
            last_frame_size: None,
        })
    }
}

fn differences<const N: usize>(now: &[u32; N], before: &[u32; N]) -> Option<[u64; N]> {
    let mut out = [0; N];
    for ((out, now), before) in out.iter_mut().zip(now).zip(before) {
        let difference = now.wrapping_sub(*before);
        if difference > u32::MAX / 2 {
            return None;
        }
        *out = u64::from(difference);
    }
    Some(out)
}

fn long_differences<const N: usize>(now: &[u64; N], before: &[u64; N]) -> Option<[u64; N]> {
    let mut out = [0; N];
    for ((out, now), before) in out.iter_mut().zip(now).zip(before) {
        *out = now.checked_sub(*before)?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(frames: u32, bytes: u64, size: u64, ahead: u64) -> Tally {
        let mut tally = Tally {
            ahead,
            last: LastFrame {
                kind: 1,
                size,
                message: Some((0, size)),
            },
            ..Tally::default()
        };
        tally.counts.frames[1] = frames;
        tally.counts.bytes[1] = bytes;
        tally.counts.messages[0] = frames;
        tally.counts.message_bytes = bytes;
        tally.counts.frame_sizes[class_of(size)] = frames;
        tally.counts.message_sizes[class_of(size)] = frames;
        tally
    }

    #[test]
    fn a_frame_under_way_counts_as_far_as_it_was_seen() {
        let mut before = Counts::default();
        let mut since = |tally: Tally, over| {
            let counted = tally.since(&mut before, Direction::ClientToServer, over);
            counted.map(|counted| {
                (
                    counted.frames[1],
                    counted.bytes[1],
                    counted.messages[0],
                    (counted.frame_sizes.iter().sum::<u64>(), counted.frame_bytes),
                    counted.last_frame_size,
                )
            })
        };
        assert_eq!(since(tally(0, 0, 0, 0), false), None);
        let first = Some((1, 60, 0, (0, 0), None));
        assert_eq!(since(tally(1, 100, 100, 40), false), first);
        let rest = Some((0, 40, 1, (1, 100), Some(100)));
        assert_eq!(since(tally(1, 100, 100, 0), false), rest);
        assert_eq!(since(tally(1, 100, 100, 0), false), None);
        // In the midst of a change.
        assert_eq!(since(tally(1, 100, 100, 7), false), None);
        let cut_off = Some((1, 10, 0, (1, 10), Some(10)));
        assert_eq!(since(tally(2, 200, 100, 90), true), cut_off);
    }

    #[test]
    fn counts_wrap() {
        let mut before = tally(u32::MAX, 5, 0, 0).settled(false);
        let counted = tally(3, 5, 0, 0).since(&mut before, Direction::ClientToServer, false);
        assert_eq!(counted.unwrap().frames[1], 4);
    }

    #[test]
    fn classes_are_powers_of_four() {
        for (size, class) in [(0, 0), (16, 0), (17, 1), (64, 1), (65, 2)] {
            assert_eq!(class_of(size), class);
        }
        assert_eq!(class_of(16 << 20), SIZES - 2);
        assert_eq!(class_of((16 << 20) + 1), SIZES - 1);
    }
}
