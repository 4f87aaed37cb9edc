//! What a segment is, by the bytes it begins with.
//!
//! Nothing here decides what bytes mean: that is the agent's part. This only says what is worth the
//! agent's look. A false "yes" costs a few records, a false "no" a connection.

use crate::bound::opaque;

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

/// Whether a segment of four bytes or more that begins with `word` (the first byte in the highest bits) may be
/// something that changes what is made of a connection on which HTTP has been seen: a request that may ask for a
/// WebSocket, a response, or TLS in a tunnel. Any of [`Beginning::Get`], [`Beginning::Proxied`],
/// [`Beginning::SwitchingProtocols`] and [`Beginning::ClientHello`] is.
#[inline(always)]
#[must_use]
pub fn may_matter_behind_http(word: u32) -> bool {
    const PROXY_V2_WORD: u32 = PROXY_V2.0;
    matches!(word, GET | HTTP | PROXY | PROXY_V2_WORD) || word >> 16 == 0x1603
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
    if len > 8 && bytes[8] != b' ' {
        // The end of a request line that was cut before its version.
        Beginning::Other
    } else if len < 12 {
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

/// What is searched for in a head, eight bytes at a time: at each position the word that begins
/// there, in little-endian order.
#[derive(Clone, Copy, Default)]
pub struct HeadSearch {
    token: u64,
    heads: u64,
    /// Where the first head ends, 0 before it does.
    len: u64,
}

/// Words in which ASCII letters are in lower case. They differ from their upper case in bit 5 only;
/// that other bytes are folded onto letters as well (`\x17` to `7`) matters little for what is only a
/// first sieve.
const FOLD: u64 = 0x2020_2020_2020_2020;
/// Of a request that may ask for a WebSocket.
const WEBSOCKET: u64 = u64::from_le_bytes(*b"websocke");
/// Of a response that agrees on `permessage-deflate` or one of its forerunners.
const DEFLATE: u64 = u64::from_le_bytes(*b"deflate\0");

/// CR LF CR LF, as the low half of a word.
const BLANK_LINE: u64 = 0x0a0d_0a0d;

/// The top bit is set for 0 alone.
#[inline(always)]
fn zero(number: u64) -> u64 {
    !(number | number.wrapping_neg())
}

/// The top bit is set if the word begins with LF and an empty line (RFC 9112, section 2.2: a
/// recipient may take a single LF for the end of a line).
#[inline(always)]
fn empty_line(word: u64) -> u64 {
    zero((word & 0xffff) ^ 0x0a0a) | zero((word & 0x00ff_ffff) ^ 0x000a_0d0a)
}

impl HeadSearch {
    /// Looks at the next position of a request. Of its lines those count that end as they should.
    #[inline(always)]
    pub fn request(&mut self, word: u64) {
        self.token |= zero((word | FOLD) ^ WEBSOCKET);
        self.heads += opaque(zero((word & 0xffff_ffff) ^ BLANK_LINE)) >> 63;
    }

    /// Looks at position `at` of a response.
    #[inline(always)]
    pub fn response(&mut self, at: u64, word: u64) {
        let open = zero(self.len);
        self.token |= open & zero(((word | FOLD) & (u64::MAX >> 8)) ^ DEFLATE);
        let ends = opaque(open & empty_line(word)) >> 63;
        // The empty line is that of a single LF, or of CR and LF.
        let crlf = opaque(zero((word >> 8 & 0xff) ^ 0x0d)) >> 63;
        self.len += opaque(ends) * (at + 2 + crlf);
    }

    /// Whether the token has come by.
    #[inline(always)]
    #[must_use]
    pub fn found(&self) -> bool {
        self.token >> 63 != 0
    }

    /// Empty lines: heads, where there is nothing but heads.
    #[inline(always)]
    #[must_use]
    pub fn heads(&self) -> u64 {
        self.heads
    }

    /// Bytes of the first head, its empty line included; 0 where it has not ended.
    #[inline(always)]
    #[must_use]
    pub fn head_len(&self) -> u64 {
        self.len
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
        assert_eq!(of(b"HTTP/1.1\r\nHost: example.com"), Beginning::Other);
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
    fn what_matters_behind_http_is_told_by_four_bytes() {
        let word = |bytes: &[u8]| u32::from_be_bytes(bytes[..4].try_into().unwrap());
        let matters: [&[u8]; 7] = [
            b"GET / HTTP/1.1\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\n",
            b"HTTP/1.1 200 OK\r\n",
            b"PROXY UNKNOWN\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
            b"\x16\x03\x04\x02\x00\x01\x00\x01\xfc",
        ];
        for bytes in matters {
            assert!(may_matter_behind_http(word(bytes)), "{bytes:?}");
        }
        assert!(!may_matter_behind_http(word(b"<html>")));
        // Each beginning that means something is one of them, whatever it goes on with.
        let mut state = 1u64;
        for first in 0..=u8::MAX {
            for n in 0..4096 {
                let mut peek = [0; PEEK];
                let text: &[u8] = matters[n % matters.len()];
                let kept = n / matters.len() % 13;
                peek[..text.len().min(PEEK)].copy_from_slice(&text[..text.len().min(PEEK)]);
                for byte in &mut peek[kept..] {
                    state = state.rotate_left(9).wrapping_mul(5);
                    *byte = (state >> 56) as u8;
                }
                peek[0] = if n % 2 == 0 { first } else { peek[0] };
                let matters = matches!(
                    beginning(&peek, 64),
                    Beginning::Get
                        | Beginning::Proxied
                        | Beginning::SwitchingProtocols
                        | Beginning::ClientHello
                );
                assert!(!matters || may_matter_behind_http(word(&peek)), "{peek:?}");
            }
        }
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
            let mut search = HeadSearch::default();
            words(text).for_each(|(_, word)| search.request(word));
            search.found()
        };
        assert!(search(b"Upgrade: WebSocket\r\n"));
        assert!(search(b"sec-websocket-key: x\r\n"));
        assert!(!search(b"Upgrade: web socket\r\n"));
        assert!(!search(b"Upgrade-Insecure-Requests: 1\r\nwebsock"));
    }

    /// The positions of a text, each with its word.
    fn words(text: &[u8]) -> impl Iterator<Item = (u64, u64)> {
        let mut padded = text.to_vec();
        padded.extend([0; 8]);
        (0..text.len()).map(move |at| {
            let word = padded[at..at + 8].try_into().unwrap();
            (at as u64, u64::from_le_bytes(word))
        })
    }

    #[test]
    fn heads_are_counted() {
        let of = |text: &[u8]| {
            let mut search = HeadSearch::default();
            words(text).for_each(|(_, word)| search.request(word));
            search.heads()
        };
        assert_eq!(of(b"GET / HTTP/1.1\r\na: b\r\n\r\n"), 1);
        assert_eq!(of(b"GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n"), 2);
        assert_eq!(of(b"GET / HTTP/1.1\r\n"), 0);
    }

    #[test]
    fn the_end_of_a_head_is_found() {
        let of = |text: &[u8]| {
            let mut search = HeadSearch::default();
            words(text).for_each(|(at, word)| search.response(at, word));
            (search.head_len(), search.found())
        };
        assert_eq!(
            of(b"HTTP/1.1 101 x\r\na: b\r\n\r\n\x81\x02\r\n\r\n"),
            (24, false)
        );
        assert_eq!(of(b"HTTP/1.1 101 x\na: b\n\n\x81"), (21, false));
        assert_eq!(of(b"HTTP/1.1 101 x\r\na: b\r\n"), (0, false));
        let text = b"HTTP/1.1 101 x\r\nE: PerMessage-Deflate; a\r\n\r\n";
        assert_eq!(of(text), (text.len() as u64, true));
        assert_eq!(of(b"HTTP/1.1 101 x\r\n\r\ndeflate"), (18, false));
    }
}
