//! One direction of a WebSocket: where in its frames it is, and what was counted.

use std::time::Duration;

use super::{content::Content, ping::Pings, search::Search, usual::Usual};
use crate::proto::{
    event::{MessageCounts, OpcodeCounts},
    frame::{Header, HeaderDecoder, MAX_CONTROL_PAYLOAD, Opcode, unmask},
    message::Messages,
    packed::Packer,
    time::Timestamp,
    upgrade::HeadBuffer,
};

/// One direction.
#[derive(Debug)]
pub(super) struct Incoming {
    pub reading: Reading,
    pub messages: Messages,
    pub content: Content,
    /// How long the connection was quiet before the current header.
    pub quiet: Duration,
    /// A close frame was seen.
    pub closed: bool,
    /// Pings sent in this direction.
    pub pings: Pings,
    /// Headers that are common in it.
    pub usual: Usual,
    /// Bytes in which frames were sought, in searches that are over.
    pub searched: u64,
    pub frames: OpcodeCounts,
    pub bytes: OpcodeCounts,
    pub completed: MessageCounts,
    /// Of frames that the source counts, those with reserved opcodes: it does not tell them apart.
    /// Frames and payload bytes.
    pub reserved: Option<Box<[OpcodeCounts; 2]>>,
    /// Frames seen, which is the index of the last one.
    pub index: u64,
    /// The source counts the frames that begin.
    pub tallied: bool,
}

/// Place in the frames of one direction.
#[derive(Debug)]
pub(super) enum Reading {
    Header(HeaderDecoder),
    Payload(Open),
    Search(Box<Search>),
    /// In the request, whose answer came first.
    Request(Box<HeadBuffer>),
    Ended,
}

/// A frame whose payload is going by.
#[derive(Debug)]
pub(super) struct Open {
    pub header: Header,
    pub ts: Timestamp,
    pub index: u64,
    pub left: u64,
    /// Payload bytes that went by, and those of them that no progress event has reported.
    pub seen: u64,
    pub unreported: u64,
    /// Payload bytes to wait for before the frame is reported, and what there is of them.
    pub wanted: usize,
    pub collected: Vec<u8>,
    /// Nothing is missing among what was collected.
    pub intact: bool,
    pub reported: bool,
    /// The source counts it.
    pub tallied: bool,
}

impl Incoming {
    pub fn new(reading: Reading, messages: Messages, content: Content) -> Self {
        Self {
            reading,
            messages,
            content,
            quiet: Duration::ZERO,
            closed: false,
            pings: Pings::default(),
            usual: Usual::default(),
            searched: 0,
            frames: OpcodeCounts::default(),
            bytes: OpcodeCounts::default(),
            completed: MessageCounts::default(),
            reserved: None,
            index: 0,
            tallied: false,
        }
    }

    /// Whether it is between two frames and two messages, and waits for nothing.
    pub fn is_quiet(&self) -> bool {
        matches!(&self.reading, Reading::Header(decoder) if decoder.is_empty())
            && self.messages.is_quiet()
            && self.content.is_quiet()
            && self.pings.is_quiet()
            && self.reserved.is_none()
    }

    /// Writes or reads a direction that is quiet.
    pub fn pack(&mut self, p: &mut Packer) {
        let Self {
            reading: _,
            messages,
            content,
            quiet,
            closed,
            pings,
            usual,
            searched,
            frames,
            bytes,
            completed,
            reserved: _,
            index,
            tallied,
        } = self;
        messages.pack(p);
        content.pack(p);
        pings.pack(p);
        usual.pack(p);
        let mut nanos = u64::try_from(quiet.as_nanos()).unwrap_or(u64::MAX);
        p.number(&mut nanos);
        *quiet = Duration::from_nanos(nanos);
        p.flag(closed);
        p.flag(tallied);
        p.number(searched);
        p.number(index);
        p.sparse(&mut frames.0);
        p.sparse(&mut bytes.0);
        let MessageCounts {
            count,
            on_wire,
            inflated,
        } = completed;
        p.sparse([count, on_wire, inflated]);
    }

    /// Bytes in which frames may be sought: `most`, and as many more as went by in frames. So a search
    /// makes a connection dearer by a factor at most, however often it is made to begin.
    pub fn allowance(&self, most: u64) -> u64 {
        let read = most.saturating_add(self.bytes.total());
        read.saturating_sub(self.searched)
    }
}

impl Open {
    pub fn new(header: Header, ts: Timestamp, index: u64, preview: usize) -> Self {
        // An oversized close frame still says its code in the first bytes.
        let whole = header.opcode == Opcode::Close
            || (header.opcode.is_control() && header.len <= MAX_CONTROL_PAYLOAD);
        let wanted = if whole {
            preview.max(MAX_CONTROL_PAYLOAD as usize)
        } else {
            preview
        };
        let left = header.payload_len();
        Self {
            header,
            ts,
            index,
            left,
            seen: 0,
            unreported: 0,
            wanted: wanted.min(usize::try_from(left).unwrap_or(usize::MAX)),
            collected: Vec::new(),
            intact: true,
            reported: false,
            tallied: false,
        }
    }

    pub fn take(&mut self, bytes: &[u8]) {
        self.pass(bytes.len() as u64);
        if self.intact {
            let room = self.wanted.saturating_sub(self.collected.len());
            self.collected
                .extend_from_slice(&bytes[..room.min(bytes.len())]);
        }
    }

    pub fn skip(&mut self, len: u64) {
        self.pass(len);
        if self.collected.len() < self.wanted {
            self.intact = false;
        }
    }

    fn pass(&mut self, len: u64) {
        self.left -= len;
        self.seen += len;
        self.unreported += len;
    }

    /// Whether all that is waited for went by.
    pub fn is_ready(&self) -> bool {
        self.seen >= self.wanted as u64
    }

    /// What was collected, unmasked.
    pub fn unmasked(&mut self) -> &[u8] {
        if let Some(mask) = self.header.mask {
            unmask(&mut self.collected, mask, 0);
        }
        &self.collected
    }

    /// The first `n` bytes of what was collected, unmasked.
    pub fn unmasked_prefix(&self, n: usize) -> Vec<u8> {
        let mut bytes = self.collected.get(..n).unwrap_or_default().to_vec();
        if let Some(mask) = self.header.mask {
            unmask(&mut bytes, mask, 0);
        }
        bytes
    }
}
