//! What a segment is, by the bytes it begins with.
//!
//! Nothing here decides what bytes mean: that is the agent's part. This only says what is worth the
//! agent's look. A false "yes" costs a few records, a false "no" a connection.

/// Bytes of a segment that are looked at.
pub const PEEK: usize = 16;

/// What a segment's first bytes look like.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Beginning {
    /// `GET `, or the part of it that fits in a very short segment.
    Get,
    /// A header of the PROXY protocol, behind which anything may follow in the same segment.
    Proxied,
    /// Another HTTP request, or one behind a stray line break (RFC 9112, section 2.2).
    Request,
    /// `HTTP/1.x 101`.
    SwitchingProtocols,
    /// The status line of another final response.
    FinalResponse,
    /// An interim response (1xx), or a status line too short to tell.
    Response,
    /// A TLS handshake record with a ClientHello.
    ClientHello,
    /// A frame header that RFC 6455 permits.
    Frame,
    /// None of these.
    Other,
}

/// Says what `bytes` look like; `len` is the segment's length, and `bytes` beyond it are zero.
#[inline(always)]
#[must_use]
pub fn beginning(bytes: &[u8; PEEK], len: u32) -> Beginning {
    let word = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    match word {
        GET => return Beginning::Get,
        HTTP => {
            // "HTTP/1." and then minor version, blank, three digits.
            let version = u32::from_be_bytes([bytes[4], bytes[5], bytes[6], b' ']);
            if version == VERSION {
                return status(bytes, len);
            }
            return Beginning::Other;
        }
        POST | PUT | HEAD | OPTIONS | DELETE | PATCH | CONNECT | TRACE => {
            return Beginning::Request;
        }
        _ => {}
    }
    let next = u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
    let last = u32::from_be_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
    if (word == PROXY && next >> 16 == PROXY_END) || (word, next, last) == PROXY_V2 {
        return Beginning::Proxied;
    }
    if word >> 16 == 0x0d0a && bytes[2].is_ascii_uppercase() {
        return Beginning::Request;
    }
    // A request cut off after one, two or three bytes.
    if len < 4 && word != 0 && (GET & !(u32::MAX >> (8 * len))) == word {
        return Beginning::Get;
    }
    // RFC 8446, section 5.1: handshake record, legacy version 3.x; section 4: ClientHello is 1.
    if bytes[0] == 0x16 && bytes[1] == 3 && bytes[2] <= 4 && bytes[5] == 1 && len > 5 {
        return Beginning::ClientHello;
    }
    if plausible_frame(bytes, len) {
        return Beginning::Frame;
    }
    Beginning::Other
}

const GET: u32 = u32::from_be_bytes(*b"GET ");
const HTTP: u32 = u32::from_be_bytes(*b"HTTP");
const VERSION: u32 = u32::from_be_bytes(*b"/1. ");
const POST: u32 = u32::from_be_bytes(*b"POST");
const PUT: u32 = u32::from_be_bytes(*b"PUT ");
const HEAD: u32 = u32::from_be_bytes(*b"HEAD");
const OPTIONS: u32 = u32::from_be_bytes(*b"OPTI");
const DELETE: u32 = u32::from_be_bytes(*b"DELE");
const PATCH: u32 = u32::from_be_bytes(*b"PATC");
const CONNECT: u32 = u32::from_be_bytes(*b"CONN");
const TRACE: u32 = u32::from_be_bytes(*b"TRAC");

/// "PROXY ", and the signature of version 2 (HAProxy's `proxy-protocol.txt`).
const PROXY: u32 = u32::from_be_bytes(*b"PROX");
const PROXY_END: u32 = u32::from_be_bytes(*b"\0\0Y ");
const PROXY_V2: (u32, u32, u32) = (0x0d0a_0d0a, 0x000d_0a51, u32::from_be_bytes(*b"UIT\n"));

#[inline(always)]
fn status(bytes: &[u8; PEEK], len: u32) -> Beginning {
    let digits = u32::from_be_bytes([0, bytes[9], bytes[10], bytes[11]]);
    if len < 12 {
        Beginning::Response
    } else if digits == u32::from_be_bytes(*b"\x00101") {
        Beginning::SwitchingProtocols
    } else if bytes[9] == b'1' {
        Beginning::Response
    } else {
        Beginning::FinalResponse
    }
}

/// Whether RFC 6455, section 5.2, permits a frame that begins with `bytes`. Some 2 % of random
/// bytes pass.
#[inline(always)]
#[must_use]
pub fn plausible_frame(bytes: &[u8; PEEK], len: u32) -> bool {
    let (first, second) = (bytes[0], bytes[1]);
    let opcode = first & 0x0f;
    let fin = first & 0x80 != 0;
    // RSV1 is permessage-deflate's; the others belong to no registered extension.
    if len < 2 || first & 0x30 != 0 {
        return false;
    }
    let length = second & 0x7f;
    match opcode {
        0..=2 => match length {
            126 => u16::from_be_bytes([bytes[2], bytes[3]]) >= 126,
            // Minimal, and below 2^40: nobody frames a terabyte.
            127 => {
                let high = u32::from_be_bytes([bytes[2], bytes[3], bytes[4], bytes[5]]);
                let low = u32::from_be_bytes([bytes[6], bytes[7], bytes[8], bytes[9]]);
                high < 0x100 && (high != 0 || low > 0xffff)
            }
            _ => true,
        },
        8..=10 => fin && length <= 125 && first & 0x40 == 0,
        _ => false,
    }
}

/// Looks for the token `websocket` in any case: in `Upgrade: websocket` as in
/// `Sec-WebSocket-Key`. Feed it one byte after the other.
///
/// The comparison is of eight bytes at a time (`websocke`), without a branch a byte: the verifier
/// walks the loop around it once for each byte.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokenSearch {
    last: u64,
    found: u64,
}

impl TokenSearch {
    const TOKEN: u64 = u64::from_be_bytes(*b"websocke");

    /// Takes in a byte.
    #[inline(always)]
    pub fn push(&mut self, byte: u8) {
        // ASCII letters differ from their lower case in bit 5 only; that other bytes are folded
        // onto letters as well (`\x17` to `7`) matters little for what is only a first sieve.
        self.last = (self.last << 8) | u64::from(byte | 0x20);
        let difference = self.last ^ Self::TOKEN;
        // The top bit of `d | -d` is clear for 0 alone.
        self.found |= !(difference | difference.wrapping_neg()) >> 63;
    }

    /// Whether the token has come by.
    #[inline(always)]
    #[must_use]
    pub fn found(&self) -> bool {
        self.found != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: &[u8]) -> Beginning {
        let mut peek = [0; PEEK];
        let n = bytes.len().min(PEEK);
        peek[..n].copy_from_slice(&bytes[..n]);
        beginning(&peek, u32::try_from(bytes.len()).unwrap())
    }

    #[test]
    fn http_is_told_by_its_first_line() {
        assert_eq!(of(b"GET / HTTP/1.1\r\n"), Beginning::Get);
        assert_eq!(of(b"G"), Beginning::Get);
        assert_eq!(of(b"GE"), Beginning::Get);
        assert_eq!(of(b"GET"), Beginning::Get);
        assert_eq!(of(b"POST / HTTP/1.1\r\n"), Beginning::Request);
        assert_eq!(of(b"\r\nGET / HTTP/1.1\r\n"), Beginning::Request);
        assert_eq!(
            of(b"HTTP/1.1 101 Switching Protocols\r\n"),
            Beginning::SwitchingProtocols
        );
        assert_eq!(of(b"HTTP/1.0 101 x"), Beginning::SwitchingProtocols);
        assert_eq!(of(b"HTTP/1.1 100 Continue"), Beginning::Response);
        assert_eq!(of(b"HTTP/1.1 1"), Beginning::Response);
        assert_eq!(of(b"HTTP/1.1 403 Forbidden"), Beginning::FinalResponse);
        assert_eq!(of(b"HTTP/2.0 101 x"), Beginning::Other);
    }

    #[test]
    fn the_proxy_protocol_is_told_by_what_it_begins_with() {
        assert_eq!(
            of(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET /"),
            Beginning::Proxied
        );
        assert_eq!(of(b"PROXY UNKNOWN\r\n"), Beginning::Proxied);
        assert_eq!(
            of(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"),
            Beginning::Proxied
        );
        assert_eq!(of(b"PROXIMITY 1\r\n"), Beginning::Other);
        assert_eq!(of(b"\r\n\r\n\0\r\nQUITE"), Beginning::Other);
        assert_eq!(of(b"\r\n\r\nGET / HTTP"), Beginning::Other);
    }

    #[test]
    fn tls_is_told_by_its_client_hello() {
        assert_eq!(
            of(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
            Beginning::ClientHello
        );
        assert_eq!(of(b"\x17\x03\x03\x00\x20abcdef"), Beginning::Other);
    }

    #[test]
    fn frames_are_told_by_what_the_rfc_permits() {
        assert_eq!(of(b"\x81\x05Hello"), Beginning::Frame);
        assert_eq!(of(b"\xc1\x85\x37\xfa\x21\x3d\x7f\x9f"), Beginning::Frame);
        assert_eq!(of(b"\x82\x7e\x01\x00aaaaaaaaaaaa"), Beginning::Frame);
        assert_eq!(
            of(b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00aa"),
            Beginning::Frame
        );
        assert_eq!(of(b"\x88\x00"), Beginning::Frame);
        // Not minimal, reserved opcode, reserved bits, fragmented or oversized control frames.
        assert_eq!(of(b"\x82\x7e\x00\x10aaaa"), Beginning::Other);
        assert_eq!(
            of(b"\x82\x7f\x00\x00\x00\x00\x00\x00\xff\xff"),
            Beginning::Other
        );
        assert_eq!(of(b"\x83\x05Hello"), Beginning::Other);
        assert_eq!(of(b"\xa1\x05Hello"), Beginning::Other);
        assert_eq!(of(b"\x08\x00"), Beginning::Other);
        assert_eq!(of(b"\x88\x7e\x01\x00"), Beginning::Other);
        assert_eq!(of(b"\x81"), Beginning::Other);
    }

    #[test]
    fn few_random_bytes_pass_for_a_frame() {
        let mut state = 1u64;
        let mut plausible = 0;
        for _ in 0..100_000 {
            let mut peek = [0; PEEK];
            for byte in &mut peek {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                *byte = (state >> 56) as u8;
            }
            plausible += u32::from(plausible_frame(&peek, 64));
        }
        assert!(plausible < 7_000, "{plausible} of 100000");
    }

    #[test]
    fn the_token_is_found_in_any_case_and_place() {
        let search = |text: &[u8]| {
            let mut search = TokenSearch::default();
            text.iter().for_each(|&byte| search.push(byte));
            search.found()
        };
        assert!(search(b"Upgrade: WebSocket\r\n"));
        assert!(search(b"sec-websocket-key: x\r\n"));
        assert!(!search(b"Upgrade: web socket\r\n"));
        assert!(!search(b"Upgrade-Insecure-Requests: 1\r\nwebsock"));
    }
}
