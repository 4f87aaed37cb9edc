//! The record of a sampled segment, or of a piece of one.
//!
//! A record is a [`RecordHeader`] and, right behind it, the bytes that were copied. The ring buffer
//! hands out fixed sizes, so a record may be longer than it says: what follows `captured` bytes is
//! noise. A segment too large for one record becomes several, in order, each with the sequence
//! number at which it begins; only the last carries FIN.

use core::net::SocketAddr;

use crate::flow::unmapped;

/// The fixed part of a record. Integers are in host byte order.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct RecordHeader {
    /// `CLOCK_MONOTONIC` nanoseconds at which the segment passed the hook.
    pub time: u64,
    /// Interface of the hook.
    pub ifindex: u32,
    /// [`crate::flow::FlowState::epoch`] of the flow.
    pub epoch: u32,
    /// Sender, IPv4 mapped.
    pub source: [u8; 16],
    /// Receiver, IPv4 mapped.
    pub destination: [u8; 16],
    /// Sender's port.
    pub source_port: u16,
    /// Receiver's port.
    pub destination_port: u16,
    /// Sequence number of the piece's first byte (of the SYN, where it has one).
    pub seq: u32,
    /// Acknowledgement number, meaningful with the ACK flag.
    pub ack: u32,
    /// Payload bytes of the piece on the wire.
    pub len: u32,
    /// Payload bytes that follow this header, from the piece's beginning; at most `len`.
    pub captured: u32,
    /// The window field as sent, unscaled.
    pub window: u16,
    /// TCP flags: the header's byte 13.
    pub flags: u8,
    /// 1 at egress, 0 at ingress.
    pub egress: u8,
    /// [`RECORD_SEGMENT`] or another of the kinds below it.
    pub kind: u32,
    /// [`crate::flow::FlowKey::scope`].
    pub scope: u32,
    /// [`crate::flow::Followed::tally`] of the flow.
    pub tally: u32,
    /// [`RECORD_ARMING`]: sequence number from which on the direction is walked. [`RECORD_SEGMENT`]:
    /// payload bytes of the segment behind this piece.
    pub boundary: u32,
}

/// Size of a [`RecordHeader`] in bytes.
pub const HEADER_LEN: usize = 88;
const _: () = assert!(size_of::<RecordHeader>() == HEADER_LEN);

/// A piece of a segment, copied from its beginning.
pub const RECORD_SEGMENT: u32 = 1;
/// As [`RECORD_SEGMENT`], of the segment behind which both directions are walked. What of it lies at
/// [`RecordHeader::boundary`] and beyond is walked already.
pub const RECORD_ARMING: u32 = 2;
/// What the walk of a segment has found: a [`WalkHeader`], and [`Entry`]s.
pub const RECORD_WALK: u32 = 3;
/// As [`RECORD_WALK`] without entries: the place is lost, and behind [`WalkHeader::from`] segments
/// are copied whole.
pub const RECORD_LOST: u32 = 4;
/// As [`RECORD_SEGMENT`], of the first segment of a trial: what follows is walked on trial besides,
/// as if a header began with this segment.
pub const RECORD_TRIAL: u32 = 5;
/// As [`RECORD_WALK`] without entries: the trial has been confirmed, and what of the direction comes
/// behind [`RecordHeader::seq`] is walked. Its next header is at [`WalkHeader::from`].
pub const RECORD_RESUMED: u32 = 6;

/// What follows the [`RecordHeader`] of a walk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct WalkHeader {
    /// `CLOCK_MONOTONIC` nanoseconds of the last payload of either direction before this segment.
    pub quiet_since: u64,
    /// Payload bytes of the message under way where the walk began.
    pub message_len: u64,
    /// Sequence number at which the walk began: of a header byte, or of a control frame's payload.
    pub from: u32,
    /// Sequence number behind the newest byte of the direction, this segment included.
    pub high: u32,
    /// Walk records of this direction before this one.
    pub number: u32,
    /// Frames of this direction before this record.
    pub frames: u32,
    /// Frames of the message under way where the walk began.
    pub message_frames: u32,
    /// [`crate::flow::state`] and, from bit 16 on, [`crate::flow::Place::version`] where it began.
    pub state: u32,
}

/// Size of a [`WalkHeader`] in bytes.
pub const WALK_HEADER_LEN: usize = 40;
const _: () = assert!(size_of::<WalkHeader>() == WALK_HEADER_LEN);

/// A frame that was walked, followed by the bytes of it that were copied, padded to a multiple of
/// eight: its header, and what is wanted of the payload, as far as the segment holds it. The rest of
/// that comes as an entry without a header.
///
/// Wanted is the payload of control frames; of text that is not compressed, where it is at most
/// [`crate::globals::MAX_PREVIEW`] bytes and all in the segment; and of other data frames [`crate::globals::PREVIEW`] bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct Entry {
    /// Payload bytes of the message under way before the frame.
    pub message_len: u64,
    /// Sequence number of the first byte that was copied.
    pub seq: u32,
    /// Frames of this direction before this one.
    pub index: u32,
    /// Frames of the message under way before this one.
    pub message_frames: u32,
    /// [`crate::flow::state`] before the frame.
    pub state: u8,
    /// 1 if this goes on with the payload of the frame before.
    pub continues: u8,
    /// Bytes that follow, without the padding.
    pub captured: u16,
}

/// Size of an [`Entry`] in bytes.
pub const ENTRY_LEN: usize = 24;
const _: () = assert!(size_of::<Entry>() == ENTRY_LEN);

/// Bytes of the largest header and the largest control payload.
pub const MAX_ENTRY_CAPTURED: usize = 14 + 125;

/// A walk, decoded.
#[derive(Clone, Copy, Debug)]
pub struct Walk<'a> {
    /// Where it began.
    pub header: WalkHeader,
    entries: &'a [u8],
}

impl<'a> Walk<'a> {
    /// Decodes what follows the header of a walk record.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Short`]; what is wrong behind the header shows in [`Self::entries`].
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let Some((head, entries)) = body.split_first_chunk::<WALK_HEADER_LEN>() else {
            return Err(DecodeError::Short { len: body.len() });
        };
        let header = WalkHeader {
            quiet_since: u64::from_ne_bytes(array(head, 0)),
            message_len: u64::from_ne_bytes(array(head, 8)),
            from: u32::from_ne_bytes(array(head, 16)),
            high: u32::from_ne_bytes(array(head, 20)),
            number: u32::from_ne_bytes(array(head, 24)),
            frames: u32::from_ne_bytes(array(head, 28)),
            message_frames: u32::from_ne_bytes(array(head, 32)),
            state: u32::from_ne_bytes(array(head, 36)),
        };
        Ok(Self { header, entries })
    }

    /// The frames, in order, each with its bytes. Ends early where an entry is cut off.
    pub fn entries(&self) -> impl Iterator<Item = (Entry, &'a [u8])> + use<'a> {
        let mut rest = self.entries;
        core::iter::from_fn(move || {
            let (head, body) = rest.split_first_chunk::<ENTRY_LEN>()?;
            let entry = Entry {
                message_len: u64::from_ne_bytes(array(head, 0)),
                seq: u32::from_ne_bytes(array(head, 8)),
                index: u32::from_ne_bytes(array(head, 12)),
                message_frames: u32::from_ne_bytes(array(head, 16)),
                state: head[20],
                continues: head[21],
                captured: u16::from_ne_bytes(array(head, 22)),
            };
            let captured = usize::from(entry.captured);
            let bytes = body.get(..captured)?;
            rest = body.get(captured.next_multiple_of(8)..).unwrap_or_default();
            Some((entry, bytes))
        })
    }
}

/// Sizes that a record may have in the ring buffer, header included: what is copied is rounded up
/// to the next one, and what is more than the largest becomes several records.
pub const SIZE_CLASSES: [usize; 5] = [128, 512, 2048, 8192, 32768];

/// Records of one segment. What is beyond them is not copied.
pub const MAX_PIECES: usize = 9;
/// Largest snap length: these records have room for so much of any segment.
pub const MAX_SNAP_LENGTH: u32 = 256 << 10;
const _: () = assert!(MAX_PIECES * (SIZE_CLASSES[4] - HEADER_LEN) >= MAX_SNAP_LENGTH as usize);

/// Why bytes from the ring buffer are no record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DecodeError {
    /// Fewer bytes than a header has, or than the header says are captured.
    Short {
        /// Bytes that were there.
        len: usize,
    },
    /// The kind is none that this agent knows.
    Kind(u32),
    /// More bytes captured than the piece has.
    Captured {
        /// Bytes that are said to follow.
        captured: u32,
        /// Bytes that the piece has.
        len: u32,
    },
}

impl core::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Short { len } => write!(f, "record cut short at {len} bytes"),
            Self::Kind(kind) => write!(f, "record of unknown kind {kind}"),
            Self::Captured { captured, len } => {
                write!(
                    f,
                    "record claims {captured} captured bytes of a piece of {len}"
                )
            }
        }
    }
}

impl core::error::Error for DecodeError {}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

impl RecordHeader {
    /// Decodes a record: its header and the captured bytes.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] where `bytes` are not what the kernel program writes.
    pub fn decode(bytes: &[u8]) -> Result<(Self, &[u8]), DecodeError> {
        let short = DecodeError::Short { len: bytes.len() };
        let Some((head, rest)) = bytes.split_first_chunk::<HEADER_LEN>() else {
            return Err(short);
        };
        let header = Self {
            time: u64::from_ne_bytes(array(head, 0)),
            ifindex: u32::from_ne_bytes(array(head, 8)),
            epoch: u32::from_ne_bytes(array(head, 12)),
            source: array(head, 16),
            destination: array(head, 32),
            source_port: u16::from_ne_bytes(array(head, 48)),
            destination_port: u16::from_ne_bytes(array(head, 50)),
            seq: u32::from_ne_bytes(array(head, 52)),
            ack: u32::from_ne_bytes(array(head, 56)),
            len: u32::from_ne_bytes(array(head, 60)),
            captured: u32::from_ne_bytes(array(head, 64)),
            window: u16::from_ne_bytes(array(head, 68)),
            flags: head[70],
            egress: head[71],
            kind: u32::from_ne_bytes(array(head, 72)),
            scope: u32::from_ne_bytes(array(head, 76)),
            tally: u32::from_ne_bytes(array(head, 80)),
            boundary: u32::from_ne_bytes(array(head, 84)),
        };
        let is_walk = match header.kind {
            RECORD_SEGMENT | RECORD_ARMING | RECORD_TRIAL => false,
            RECORD_WALK | RECORD_LOST | RECORD_RESUMED => true,
            kind => return Err(DecodeError::Kind(kind)),
        };
        if header.captured > header.len && !is_walk {
            let (captured, len) = (header.captured, header.len);
            return Err(DecodeError::Captured { captured, len });
        }
        match rest.get(..header.captured as usize) {
            Some(captured) => Ok((header, captured)),
            None => Err(short),
        }
    }

    /// Sender of the segment.
    #[must_use]
    pub fn source(&self) -> SocketAddr {
        SocketAddr::new(unmapped(self.source), self.source_port)
    }

    /// Receiver of the segment.
    #[must_use]
    pub fn destination(&self) -> SocketAddr {
        SocketAddr::new(unmapped(self.destination), self.destination_port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(len: u32, captured: u32) -> [u8; HEADER_LEN + 4] {
        let mut bytes = [0; HEADER_LEN + 4];
        bytes[..8].copy_from_slice(&7u64.to_ne_bytes());
        bytes[48..50].copy_from_slice(&443u16.to_ne_bytes());
        bytes[60..64].copy_from_slice(&len.to_ne_bytes());
        bytes[64..68].copy_from_slice(&captured.to_ne_bytes());
        bytes[72..76].copy_from_slice(&RECORD_SEGMENT.to_ne_bytes());
        bytes[HEADER_LEN..].copy_from_slice(b"abcd");
        bytes
    }

    #[test]
    fn decodes_header_and_captured_bytes() {
        let bytes = encoded(9, 3);
        let (header, captured) = RecordHeader::decode(&bytes).unwrap();
        assert_eq!((header.time, header.source_port, header.len), (7, 443, 9));
        assert_eq!(captured, b"abc");
    }

    #[test]
    fn refuses_what_the_kernel_does_not_write() {
        let bytes = encoded(9, 3);
        assert_eq!(
            RecordHeader::decode(&bytes[..HEADER_LEN - 1]),
            Err(DecodeError::Short {
                len: HEADER_LEN - 1
            })
        );
        assert_eq!(
            RecordHeader::decode(&bytes[..HEADER_LEN + 2]),
            Err(DecodeError::Short {
                len: HEADER_LEN + 2
            })
        );
        assert_eq!(
            RecordHeader::decode(&encoded(2, 3)),
            Err(DecodeError::Captured {
                captured: 3,
                len: 2
            })
        );
        let mut kind = bytes;
        kind[72..76].copy_from_slice(&9u32.to_ne_bytes());
        assert_eq!(RecordHeader::decode(&kind), Err(DecodeError::Kind(9)));
    }
}
