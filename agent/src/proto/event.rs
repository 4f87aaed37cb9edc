//! What the core says about the traffic. The contract of `docs` names the same things in JSON.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use super::{
    flow::{ConnId, Direction, PerDirection, Role},
    frame::{CloseCode, Opcode},
    packed::Packer,
    time::Timestamp,
    walk::{FRAME_KINDS, MESSAGE_KINDS, SIZES},
};

/// Something that happened on a connection.
#[derive(Clone, Debug)]
pub struct Event {
    /// When: the time of the segment that completed it.
    pub ts: Timestamp,
    /// Where.
    pub connection: Arc<Connection>,
    /// What.
    pub kind: EventKind,
}

/// What is known of a connection from its handshake on. The same for all events of one WebSocket,
/// shared and never changed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Connection {
    /// Unique within the run; the same for every attempt on one TCP connection.
    pub id: ConnId,
    /// The client's socket address, as it was where the connection was seen first: before any translation.
    pub client: SocketAddr,
    /// The server's socket address, as it was where the request was seen last: after any translation.
    pub server: SocketAddr,
    /// Index of the interface on which the connection was first seen.
    pub interface: Option<u32>,
    /// When it was opened: the last head byte of the 101, or the first frame seen.
    pub opened: Timestamp,
    /// How it began.
    pub outcome: Outcome,
    /// `Host` of the request.
    pub host: Option<Box<str>>,
    /// The request's target, as sent.
    pub path: Option<Box<str>>,
    /// The subprotocol agreed on.
    pub subprotocol: Option<Box<str>>,
    /// `Sec-WebSocket-Key` of the request. A proxy that passes the request on sends it again.
    pub key: Option<Box<str>>,
    /// Where a proxy passed the request on, as far as that was seen.
    pub next_hop: Option<Box<Hop>>,
    /// Whose request this one passes on, as far as that was seen.
    pub previous_hop: Option<Box<Hop>>,
}

/// A connection, as another one names it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Hop {
    /// [`Connection::id`].
    pub id: ConnId,
    /// [`Connection::client`]: the proxy's own socket address.
    pub client: SocketAddr,
    /// [`Connection::server`].
    pub server: SocketAddr,
}

/// What happened.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum EventKind {
    /// An attempt to open a WebSocket was decided, or one was found open.
    Handshake(Box<Handshake>),
    /// A frame's header is complete (and of a control frame the payload, where it follows).
    Frame(Box<Frame>),
    /// Payload bytes of a frame went by. For counters; not shown to users.
    Progress(Progress),
    /// Frames and messages were counted where they were followed. For counters; not shown to users.
    Counted(Box<Counted>),
    /// A message is complete.
    Message(Message),
    /// The connection is over. Exactly one for each that was opened.
    Close(Box<Close>),
    /// A peer broke a rule.
    Violation(Violation),
    /// Bytes were missing where they were needed.
    Gap(Gap),
}

/// How an attempt to open a WebSocket ended.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Outcome {
    /// 101, and every check passed.
    Accepted,
    /// 101, and a check failed.
    Invalid,
    /// Any other final status.
    Rejected,
    /// It ended before there was an answer.
    Unanswered,
    /// No handshake was seen.
    Midstream,
}

impl Outcome {
    /// The contract's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Invalid => "invalid",
            Self::Rejected => "rejected",
            Self::Unanswered => "unanswered",
            Self::Midstream => "midstream",
        }
    }

    /// Whether a WebSocket is open after it: frames, a close, a place among the active.
    #[must_use]
    pub fn opens(self) -> bool {
        matches!(self, Self::Accepted | Self::Invalid | Self::Midstream)
    }
}

/// The opening handshake (RFC 6455, section 4).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Handshake {
    /// The request's method.
    pub method: Option<String>,
    /// `Origin` of the request.
    pub origin: Option<String>,
    /// `User-Agent` of the request.
    pub user_agent: Option<String>,
    /// Status of the response.
    pub status: Option<u16>,
    /// Subprotocols that the client offered, in its order.
    pub offered_subprotocols: Vec<String>,
    /// `Sec-WebSocket-Extensions` of the response: what was agreed.
    pub extensions: Option<String>,
    /// From the request's first byte to the last byte of the response's head.
    pub latency: Option<Duration>,
}

/// A frame's header, and what was asked for of its payload.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Frame {
    /// Who sent it.
    pub direction: Direction,
    /// 1, 2, ... in its direction, from the first frame seen.
    pub index: u64,
    /// What it is.
    pub opcode: Opcode,
    /// Whether it is the last of its message.
    pub fin: bool,
    /// Reserved bits, 0 to 7: RSV1 is 4, RSV2 2, RSV3 1.
    pub rsv: u8,
    /// The masking key, where the frame is masked.
    pub mask: Option<[u8; 4]>,
    /// Payload bytes as declared.
    pub len: u64,
    /// The payload's beginning, unmasked, where a preview was asked for and it was captured.
    pub payload: Option<Preview>,
    /// Of a close frame: what its body says, as far as it was seen.
    pub close: Option<CloseBody>,
    /// Of a pong that answers a ping: the time between the two.
    pub rtt: Option<Duration>,
    /// Whether it is among those of an [`EventKind::Counted`].
    pub tallied: bool,
}

/// The beginning of a payload.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Preview {
    /// Unmasked bytes, inflated where the frame is compressed and could be.
    pub bytes: Vec<u8>,
    /// Whether there was more.
    pub truncated: bool,
    /// Whether they are still compressed. What was inflated is shown so: the bytes are what this
    /// frame adds to its message.
    pub compressed: bool,
}

/// The body of a close frame.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct CloseBody {
    /// The code sent; `None` where the body has fewer than two bytes or was not captured.
    pub code: Option<CloseCode>,
    /// The reason, invalid UTF-8 replaced; empty where there is none.
    pub reason: String,
}

/// Payload bytes of a frame that went by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Progress {
    /// Who sent them.
    pub direction: Direction,
    /// The frame's opcode.
    pub opcode: Opcode,
    /// How many, since the last such event of the frame.
    pub bytes: u64,
    /// Where the frame is over: all of its payload bytes that went by.
    pub total: Option<u64>,
}

/// Frames and messages that were counted where they were followed, since the last such event of
/// the direction. Those of them that were worth an event of their own have had it, or will.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Counted {
    /// Who sent them.
    pub direction: Direction,
    /// Frames by kind: continuation, text, binary, close, ping, pong, reserved.
    pub frames: [u64; FRAME_KINDS],
    /// Payload bytes that went by, by kind of frame.
    pub bytes: [u64; FRAME_KINDS],
    /// Frames that are over by their size: up to 16 bytes, up to four times as much, ...
    pub frame_sizes: [u64; SIZES],
    /// Their payload bytes.
    pub frame_bytes: u64,
    /// Complete messages: text, compressed text, binary, compressed binary.
    pub messages: [u64; MESSAGE_KINDS],
    /// Complete messages by their size.
    pub message_sizes: [u64; SIZES],
    /// Their payload bytes.
    pub message_bytes: u64,
    /// Payload bytes of the last frame that is over, where there is one more.
    pub last_frame_size: Option<u64>,
}

/// A message: a data frame and its continuations.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Message {
    /// Who sent it.
    pub direction: Direction,
    /// Opcode of its first frame.
    pub opcode: Opcode,
    /// Payload bytes of all its frames, on the wire.
    pub len: u64,
    /// How many frames.
    pub frames: u64,
    /// Whether permessage-deflate compressed it.
    pub compressed: bool,
    /// Length after inflating, where it was inflated.
    pub inflated_len: Option<u64>,
    /// Whether it is among those of an [`EventKind::Counted`].
    pub tallied: bool,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum CloseKind {
    /// Close frames both ways.
    Clean,
    /// A close frame one way only.
    Half,
    /// Reset.
    Rst,
    /// FINs without a close frame.
    Fin,
    /// Silent for longer than the limit.
    Idle,
    /// Given up in favour of others.
    Evicted,
    /// Still open when the observation ended.
    Eof,
}

impl CloseKind {
    /// The contract's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Half => "half",
            Self::Rst => "rst",
            Self::Fin => "fin",
            Self::Idle => "idle",
            Self::Evicted => "evicted",
            Self::Eof => "eof",
        }
    }
}

/// The end of a connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Close {
    /// How.
    pub kind: CloseKind,
    /// Who sent the first close frame; without one, the first FIN or RST.
    pub initiator: Option<Role>,
    /// Code of the first close frame; 1005 for one without, 1006 without a close frame; `None`
    /// where the observation ended first.
    pub code: Option<CloseCode>,
    /// Reason of the first close frame, where it had one.
    pub reason: Option<String>,
    /// Since [`Connection::opened`].
    pub duration: Duration,
    /// Quiet time before the ending began.
    pub silence: Option<Duration>,
    /// Frames by opcode.
    pub frames: PerDirection<OpcodeCounts>,
    /// Payload bytes that went by, by opcode.
    pub bytes: PerDirection<OpcodeCounts>,
    /// Messages that were complete.
    pub messages: PerDirection<MessageCounts>,
    /// TCP's own troubles.
    pub tcp: PerDirection<TcpCounts>,
    /// Pings that no pong answered, by the direction of the ping.
    pub unanswered_pings: PerDirection<u64>,
}

/// Messages of one direction, and of those that were inflated how long they are.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct MessageCounts {
    /// How many.
    pub count: u64,
    /// Of those that were inflated: payload bytes on the wire.
    pub on_wire: u64,
    /// Of the same: payload bytes inflated.
    pub inflated: u64,
}

impl MessageCounts {
    /// Counts a message of `len` bytes on the wire.
    pub fn add(&mut self, len: u64, inflated_len: Option<u64>) {
        self.count = self.count.saturating_add(1);
        if let Some(inflated) = inflated_len {
            self.on_wire = self.on_wire.saturating_add(len);
            self.inflated = self.inflated.saturating_add(inflated);
        }
    }

    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            count: self.count.saturating_add(other.count),
            on_wire: self.on_wire.saturating_add(other.on_wire),
            inflated: self.inflated.saturating_add(other.inflated),
        }
    }
}

/// A count for each of the sixteen opcodes, indexed by [`Opcode::bits`].
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct OpcodeCounts(pub [u64; 16]);

impl OpcodeCounts {
    /// Adds to the count of `opcode`.
    pub fn add(&mut self, opcode: Opcode, n: u64) {
        let count = &mut self.0[usize::from(opcode.bits())];
        *count = count.saturating_add(n);
    }

    /// The count of `opcode`.
    #[must_use]
    pub fn of(&self, opcode: Opcode) -> u64 {
        self.0[usize::from(opcode.bits())]
    }

    /// Opcodes that occurred, with their counts, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = (Opcode, u64)> + '_ {
        (0u8..)
            .zip(self.0)
            .filter(|&(_, n)| n > 0)
            .map(|(bits, n)| (Opcode::from_bits(bits), n))
    }

    /// The sum.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().fold(0, |sum, n| sum.saturating_add(*n))
    }
}

/// Segments of one direction that were out of the ordinary.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct TcpCounts {
    /// Carried bytes that had been sent before.
    pub retransmitted: u64,
    /// Arrived ahead of bytes that were still to come.
    pub out_of_order: u64,
    /// Keep-alive probes: one byte before the next sequence number, with one stale byte or none,
    /// unless the other side has closed its window.
    pub keepalive_probes: u64,
    /// Announced a window of zero.
    pub zero_windows: u64,
}

impl TcpCounts {
    /// Writes or reads them.
    pub(super) fn pack(&mut self, p: &mut Packer) {
        let Self {
            retransmitted,
            out_of_order,
            keepalive_probes,
            zero_windows,
        } = self;
        p.sparse([retransmitted, out_of_order, keepalive_probes, zero_windows]);
    }
}

impl TcpCounts {
    /// Both together.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self {
            retransmitted: self.retransmitted.saturating_add(other.retransmitted),
            out_of_order: self.out_of_order.saturating_add(other.out_of_order),
            keepalive_probes: (self.keepalive_probes).saturating_add(other.keepalive_probes),
            zero_windows: self.zero_windows.saturating_add(other.zero_windows),
        }
    }
}

/// A rule of RFC 6455 or RFC 7692 that was broken.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Violation {
    /// Who broke it.
    pub direction: Direction,
    /// Which.
    pub rule: Rule,
    /// The offending value. Empty where [`Violation::is_milestone`] says that it is not shown.
    pub detail: String,
    /// How often on this connection in this direction, this time included.
    pub count: u64,
}

impl Violation {
    /// Whether users are told: at 1, 10, 100, ...; counters count every one.
    #[must_use]
    pub fn is_milestone(&self) -> bool {
        let mut n = self.count;
        while n > 0 && n.is_multiple_of(10) {
            n /= 10;
        }
        n == 1
    }
}

macro_rules! rules {
    ($($(#[$doc:meta])* $variant:ident $name:literal,)*) => {
        /// The rules.
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        pub enum Rule { $($(#[$doc])* $variant,)* }

        impl Rule {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The contract's word.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

rules! {
    /// RFC 6455, 5.1: a client masks every frame.
    UnmaskedClientFrame "unmasked_client_frame",
    /// RFC 6455, 5.1: a server masks none.
    MaskedServerFrame "masked_server_frame",
    /// RFC 6455, 5.2: opcodes 3-7 and 11-15.
    ReservedOpcode "reserved_opcode",
    /// RFC 6455, 5.2: reserved bits without an extension that defines them.
    ReservedBits "reserved_bits",
    /// RFC 6455, 5.2: the length takes the fewest bytes possible.
    NonminimalLength "nonminimal_length",
    /// RFC 6455, 5.2: the most significant bit of a 64-bit length is 0.
    LengthTooLarge "length_too_large",
    /// RFC 6455, 5.5: control frames are not fragmented.
    FragmentedControl "fragmented_control",
    /// RFC 6455, 5.5: control frames have at most 125 bytes of payload.
    OversizedControl "oversized_control",
    /// RFC 6455, 5.4: a continuation continues something.
    UnexpectedContinuation "unexpected_continuation",
    /// RFC 6455, 5.4: within a fragmented message only continuations and control frames.
    ExpectedContinuation "expected_continuation",
    /// RFC 6455, 5.5.1: a close frame's body is empty or has at least two bytes.
    InvalidCloseLength "invalid_close_length",
    /// RFC 6455, 7.4: codes that may be sent.
    InvalidCloseCode "invalid_close_code",
    /// RFC 6455, 8.1: text and close reasons are UTF-8.
    InvalidUtf8 "invalid_utf8",
    /// RFC 7692, 7.2: compressed data that cannot be inflated.
    InvalidDeflate "invalid_deflate",
    /// RFC 6455, 5.5.1: no data and no other close frame is sent after a close frame.
    DataAfterClose "data_after_close",
    /// RFC 6455, 4.1: the request has a `Sec-WebSocket-Key`.
    MissingKey "missing_key",
    /// RFC 6455, 4.1: the key is 16 bytes in base64.
    InvalidKey "invalid_key",
    /// RFC 6455, 4.1: `Sec-WebSocket-Version: 13`.
    InvalidVersion "invalid_version",
    /// RFC 6455, 4.2.2: the response has a `Sec-WebSocket-Accept`.
    MissingAccept "missing_accept",
    /// RFC 6455, 4.1: the accept value follows from the key.
    WrongAccept "wrong_accept",
    /// RFC 6455, 4.1: the subprotocol is one that was offered.
    UnofferedSubprotocol "unoffered_subprotocol",
    /// RFC 6455, 4.1: the extensions are ones that were offered.
    UnofferedExtension "unoffered_extension",
}

/// Bytes that were missing where they were needed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Gap {
    /// Who had sent them.
    pub direction: Direction,
    /// How many.
    pub bytes: u64,
    /// Whether frames were recognised again behind it; if not, the direction stays out of sync.
    pub resynced: bool,
}
