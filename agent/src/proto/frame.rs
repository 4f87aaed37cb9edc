//! Frames (RFC 6455, section 5): the names of their parts, and the decoder of their headers.

/// What a frame is: the low four bits of its first byte.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Opcode {
    /// Continues a fragmented message.
    Continuation,
    /// Text, UTF-8.
    Text,
    /// Binary.
    Binary,
    /// Ends the connection.
    Close,
    /// Asks for a pong.
    Ping,
    /// Answers a ping, or says that its sender is alive.
    Pong,
    /// One of the values that the RFC reserves: 3 to 7 and 11 to 15.
    Reserved(u8),
}

impl Opcode {
    /// The opcode of the low four bits of `bits`.
    #[must_use]
    pub fn from_bits(bits: u8) -> Self {
        match bits & 0x0f {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xa => Self::Pong,
            reserved => Self::Reserved(reserved),
        }
    }

    /// The four bits.
    #[must_use]
    pub fn bits(self) -> u8 {
        match self {
            Self::Continuation => 0x0,
            Self::Text => 0x1,
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xa,
            Self::Reserved(bits) => bits & 0x0f,
        }
    }

    /// Whether it is a control opcode, reserved ones included (RFC 6455, section 5.5).
    #[must_use]
    pub fn is_control(self) -> bool {
        self.bits() & 0x08 != 0
    }

    /// The contract's word: `text`, `reserved_3`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        const NAMES: [&str; 16] = [
            "continuation",
            "text",
            "binary",
            "reserved_3",
            "reserved_4",
            "reserved_5",
            "reserved_6",
            "reserved_7",
            "close",
            "ping",
            "pong",
            "reserved_b",
            "reserved_c",
            "reserved_d",
            "reserved_e",
            "reserved_f",
        ];
        NAMES[usize::from(self.bits())]
    }
}

/// A close code (RFC 6455, section 7.4), as sent or as concluded.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct CloseCode(pub u16);

impl CloseCode {
    /// The close frame had no body.
    pub const NO_STATUS: Self = Self(1005);
    /// There was no close frame.
    pub const ABNORMAL: Self = Self(1006);

    /// Whether a peer may send it.
    #[must_use]
    pub fn is_valid_on_wire(self) -> bool {
        matches!(self.0, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }
}
