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

/// Bytes of the longest header: two, eight of length, four of masking key.
const MAX_HEADER: usize = 14;

/// Payload bytes that a control frame may have (RFC 6455, section 5.5).
pub const MAX_CONTROL_PAYLOAD: u64 = 125;

/// A frame's header as sent (RFC 6455, section 5.2), whatever it says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Header {
    /// Last frame of its message.
    pub fin: bool,
    /// Reserved bits: RSV1 is 4, RSV2 2, RSV3 1.
    pub rsv: u8,
    /// What the frame is.
    pub opcode: Opcode,
    /// The masking key, where the frame is masked.
    pub mask: Option<[u8; 4]>,
    /// Payload length as declared, all 64 bits of it.
    pub len: u64,
    /// Whether the length took the fewest bytes possible.
    pub minimal: bool,
}

impl Header {
    /// RSV1, the only reserved bit with a meaning by now (RFC 7692, section 6).
    pub const RSV1: u8 = 4;

    /// Payload bytes that follow: what is declared, without the bit that must be zero.
    #[must_use]
    pub fn payload_len(&self) -> u64 {
        self.len & (u64::MAX >> 1)
    }

    /// Whether the length has the bit set that must be zero.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        self.len > u64::MAX >> 1
    }

    /// The header at the front of `input`, where all of it is there, and its length.
    #[inline]
    #[must_use]
    pub fn whole(input: &[u8]) -> Option<(usize, Self)> {
        let bytes = input.get(..Self::encoded_len(*input.get(1)?))?;
        Some((bytes.len(), Self::parse(bytes)?))
    }

    /// Bytes of the header of which `second` is the second byte.
    fn encoded_len(second: u8) -> usize {
        let length = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + length + if second & 0x80 != 0 { 4 } else { 0 }
    }

    /// The header that `bytes` are; they are as many as [`Self::encoded_len`] says.
    #[inline]
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (&[first, second], mut rest) = bytes.split_first_chunk::<2>()?;
        let (len, minimal) = match second & 0x7f {
            126 => {
                let (length, behind) = rest.split_first_chunk::<2>()?;
                rest = behind;
                let length = u64::from(u16::from_be_bytes(*length));
                (length, length > 125)
            }
            127 => {
                let (length, behind) = rest.split_first_chunk::<8>()?;
                rest = behind;
                let length = u64::from_be_bytes(*length);
                (length, length > 0xffff)
            }
            short => (u64::from(short), true),
        };
        let mask = if second & 0x80 != 0 {
            Some(*rest.first_chunk::<4>()?)
        } else {
            None
        };
        Some(Self {
            fin: first & 0x80 != 0,
            rsv: (first >> 4) & 0x7,
            opcode: Opcode::from_bits(first),
            mask,
            len,
            minimal,
        })
    }
}

/// Removes (or applies) a mask in place; `offset` is the position of the first byte in its payload
/// (RFC 6455, section 5.3).
pub fn unmask(bytes: &mut [u8], mask: [u8; 4], offset: u64) {
    let mut key = mask;
    key.rotate_left((offset % 4) as usize);
    let wide = u64::from_ne_bytes([
        key[0], key[1], key[2], key[3], key[0], key[1], key[2], key[3],
    ]);
    let mut words = bytes.chunks_exact_mut(8);
    for word in &mut words {
        if let Ok(plain) = <[u8; 8]>::try_from(&*word) {
            word.copy_from_slice(&(u64::from_ne_bytes(plain) ^ wide).to_ne_bytes());
        }
    }
    for (byte, key) in words.into_remainder().iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

/// Gathers a header from bytes that may be cut anywhere.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeaderDecoder {
    bytes: [u8; MAX_HEADER],
    filled: usize,
}

impl HeaderDecoder {
    /// A decoder at the beginning of a header.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether no byte of the header was seen yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Takes bytes from the front of `input`: how many, and the header if they complete it. The
    /// decoder is then at the beginning of the next one.
    pub fn decode(&mut self, input: &[u8]) -> (usize, Option<Header>) {
        let mut taken = 0;
        loop {
            let needed = if self.filled < 2 {
                2
            } else {
                Header::encoded_len(self.bytes[1])
            };
            let missing = needed - self.filled;
            let available = &input[taken..];
            let n = missing.min(available.len());
            self.bytes[self.filled..self.filled + n].copy_from_slice(&available[..n]);
            self.filled += n;
            taken += n;
            if n < missing {
                return (taken, None);
            }
            if self.filled == Header::encoded_len(self.bytes[1]) {
                let header = Header::parse(&self.bytes[..self.filled]);
                self.filled = 0;
                return (taken, header);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(bytes: &[u8]) -> Option<Header> {
        let (taken, header) = HeaderDecoder::new().decode(bytes);
        assert_eq!(taken, bytes.len());
        header
    }

    #[test]
    fn the_examples_of_the_rfc() {
        // RFC 6455, section 5.7.
        let text = decode(&[0x81, 0x05]).unwrap();
        assert_eq!((text.fin, text.rsv, text.opcode), (true, 0, Opcode::Text));
        assert_eq!((text.len, text.mask, text.minimal), (5, None, true));
        let masked = decode(&[0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d]).unwrap();
        assert_eq!(masked.mask, Some([0x37, 0xfa, 0x21, 0x3d]));
        let fragment = decode(&[0x01, 0x03]).unwrap();
        assert!(!fragment.fin);
        assert_eq!(decode(&[0x82, 0x7e, 0x01, 0x00]).unwrap().len, 256);
        let large = decode(&[0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0]).unwrap();
        assert_eq!((large.len, large.minimal), (65536, true));
    }

    #[test]
    fn forbidden_values_are_kept() {
        let header = decode(&[0x7f & 0xf3, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 1, 1, 2, 3, 4]).unwrap();
        assert_eq!((header.fin, header.rsv), (false, 7));
        assert_eq!(header.opcode, Opcode::Reserved(3));
        assert!(header.is_too_large());
        assert_eq!(header.len, 0xff00_0000_0000_0001);
        assert_eq!(header.payload_len(), 0x7f00_0000_0000_0001);
        assert!(!decode(&[0x82, 0x7e, 0, 125]).unwrap().minimal);
        assert!(decode(&[0x82, 0x7e, 0, 126]).unwrap().minimal);
        assert!(
            !decode(&[0x82, 0x7f, 0, 0, 0, 0, 0, 0, 0xff, 0xff])
                .unwrap()
                .minimal
        );
    }

    #[test]
    fn cut_anywhere_it_is_the_same_header() {
        let bytes = [0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0, 9, 8, 7, 6];
        let whole = decode(&bytes).unwrap();
        for cut in 1..bytes.len() {
            let mut decoder = HeaderDecoder::new();
            assert_eq!(decoder.decode(&bytes[..cut]), (cut, None));
            assert!(!decoder.is_empty());
            let (taken, header) = decoder.decode(&bytes[cut..]);
            assert_eq!((taken, header), (bytes.len() - cut, Some(whole)));
            assert!(decoder.is_empty());
        }
    }

    #[test]
    fn unmasking_begins_anywhere() {
        let mut whole = *b"\x7f\x9f\x4d\x51\x58";
        let mut tail = [0x4d, 0x51, 0x58];
        unmask(&mut whole, [0x37, 0xfa, 0x21, 0x3d], 0);
        unmask(&mut tail, [0x37, 0xfa, 0x21, 0x3d], 2);
        assert_eq!(&whole, b"Hello");
        assert_eq!(&tail, b"llo");
    }
}
