//! A TCP segment as a source hands it to the core: what was on the wire, and what of it was
//! captured.

use std::net::SocketAddr;

use super::{seq::SeqNumber, time::Timestamp};

/// A run of captured payload bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Window<'a> {
    /// Position of the first byte in the segment's payload.
    pub offset: u32,
    /// The bytes.
    pub bytes: &'a [u8],
}

/// A TCP segment, or a piece of one.
///
/// Between and behind the windows there are payload bytes that were on the wire and were not
/// captured: cut by a snap length, or not worth copying.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// When it passed the point of observation.
    pub ts: Timestamp,
    /// Sender.
    pub source: SocketAddr,
    /// Receiver.
    pub destination: SocketAddr,
    /// Sequence number: of the SYN where that flag is set, else of the first payload byte.
    pub seq: SeqNumber,
    /// Acknowledgement number, with the ACK flag.
    pub ack: Option<SeqNumber>,
    /// Flags.
    pub flags: TcpFlags,
    /// The window field as sent, unscaled.
    pub window: u16,
    /// Payload bytes on the wire.
    pub len: u32,
    /// Payload bytes of the segment behind this piece, which come next by themselves.
    pub behind: u32,
    /// What was captured: ascending, not overlapping, within `len`.
    pub windows: &'a [Window<'a>],
    /// Index of the interface it was seen on, where the source has such.
    pub interface: Option<u32>,
    /// Network namespace, 0 where there is only one.
    pub scope: u32,
    /// The source's own number for this incarnation of the connection, handed back with a verdict;
    /// 0 where the source wants none.
    pub epoch: u32,
}

/// TCP flags: byte 13 of the header.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// The sender has finished sending.
    #[must_use]
    pub fn fin(self) -> bool {
        self.0 & 0x01 != 0
    }

    /// Synchronise sequence numbers.
    #[must_use]
    pub fn syn(self) -> bool {
        self.0 & 0x02 != 0
    }

    /// Reset the connection.
    #[must_use]
    pub fn rst(self) -> bool {
        self.0 & 0x04 != 0
    }

    /// The acknowledgement number is meaningful.
    #[must_use]
    pub fn ack(self) -> bool {
        self.0 & 0x10 != 0
    }
}
