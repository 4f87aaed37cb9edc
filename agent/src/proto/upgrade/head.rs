//! Where an HTTP/1 head ends, and whether what comes is one at all (RFC 9112, section 2).

use super::proxy::Preface;

/// Gathers a head from bytes that may be cut anywhere.
#[derive(Debug, Default)]
pub struct HeadBuffer {
    bytes: Vec<u8>,
    first_line: Option<usize>,
    /// What comes may begin with a header of the PROXY protocol.
    preface: bool,
}

/// What [`HeadBuffer::push`] made of its input.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Pushed {
    /// The head is complete; so many bytes of the input belong to it.
    Complete(usize),
    /// All of the input was taken and more is needed.
    Incomplete,
    /// The head is longer than allowed.
    TooLong,
}

/// What bytes at the beginning of a message can be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// An HTTP/1 request.
    Request,
    /// An HTTP/1 response.
    Response,
    /// A TLS ClientHello.
    Tls,
    /// None of these.
    Other,
    /// Too few bytes to tell.
    Undecided,
}

/// Methods have no fixed list; the longest in the registry has 17 letters.
const MAX_METHOD: usize = 24;

impl Kind {
    /// What `bytes` can be the beginning of.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        const RESPONSE: &[u8] = b"HTTP/1.";
        let mut undecided = bytes.is_empty();
        let shared = bytes.len().min(RESPONSE.len());
        if bytes[..shared] == RESPONSE[..shared] {
            if shared == RESPONSE.len() {
                return Self::Response;
            }
            undecided = true;
        }
        let method = bytes
            .iter()
            .take(MAX_METHOD + 1)
            .take_while(|byte| byte.is_ascii_uppercase() || **byte == b'-')
            .count();
        match bytes.get(method) {
            Some(b' ') if (1..=MAX_METHOD).contains(&method) => return Self::Request,
            None if method <= MAX_METHOD => undecided = true,
            _ => {}
        }
        // RFC 8446, sections 5.1 and 4: a record of type handshake, of version 3.x, whose first
        // message is a ClientHello.
        let tls = [0x16, 0x03].iter().zip(bytes).all(|(a, b)| a == b)
            && bytes.get(2).is_none_or(|minor| *minor <= 4)
            && bytes.get(5).is_none_or(|message| *message == 1);
        match (tls, bytes.len() > 5) {
            (true, true) => Self::Tls,
            (true, false) => Self::Undecided,
            (false, _) if undecided => Self::Undecided,
            (false, _) => Self::Other,
        }
    }
}

impl HeadBuffer {
    /// Gathers the first head of a connection, which a header of the PROXY protocol may precede.
    #[must_use]
    pub fn first() -> Self {
        Self {
            preface: true,
            ..Self::default()
        }
    }

    /// Nothing gathered yet; line ends before the head do not count (RFC 9112, section 2.2).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The bytes gathered.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What the bytes gathered are, by their first line as far as it is there.
    #[must_use]
    pub fn kind(&self) -> Kind {
        if self.preface {
            return Kind::Undecided;
        }
        let kind = Kind::of(&self.bytes);
        match (kind, self.first_line) {
            (Kind::Request, Some(end)) => {
                // Other protocols have lines that begin with a word, too.
                let line = self.bytes[..end].trim_ascii_end();
                let version = line.rsplit(|byte| *byte == b' ').next();
                if version.is_some_and(|version| version.starts_with(b"HTTP/1.")) {
                    kind
                } else {
                    Kind::Other
                }
            }
            _ => kind,
        }
    }

    /// Takes bytes from the front of `input`, up to the blank line; the head may have `max`.
    pub fn push(&mut self, input: &[u8], max: usize) -> Pushed {
        if !self.preface {
            return self.gather(input, max);
        }
        let before = self.bytes.len();
        let taken = input.len().min(max.saturating_sub(before));
        self.bytes.extend_from_slice(&input[..taken]);
        let skipped = match Preface::of(&self.bytes) {
            Preface::Begun if taken < input.len() => return Pushed::TooLong,
            Preface::Begun => return Pushed::Incomplete,
            // It was not whole before.
            Preface::Whole(len) => len.saturating_sub(before),
            Preface::None => 0,
        };
        self.preface = false;
        let mut gathered = std::mem::take(&mut self.bytes);
        if skipped == 0 {
            // What was taken for the beginning of one has no end of a head in it.
            gathered.truncate(before);
            self.gather(&gathered, max);
        }
        match self.gather(input.get(skipped..).unwrap_or_default(), max) {
            Pushed::Complete(n) => Pushed::Complete(skipped + n),
            other => other,
        }
    }

    fn gather(&mut self, input: &[u8], max: usize) -> Pushed {
        let skipped = if self.bytes.is_empty() {
            input
                .iter()
                .take_while(|byte| matches!(byte, b'\r' | b'\n'))
                .count()
        } else {
            0
        };
        let input = &input[skipped..];
        let before = self.bytes.len();
        let taken = input.len().min(max.saturating_sub(before));
        self.bytes.extend_from_slice(&input[..taken]);
        let mut from = before;
        while let Some(at) = self.bytes[from..].iter().position(|byte| *byte == b'\n') {
            let line_end = from + at;
            self.first_line.get_or_insert(line_end);
            let line = &self.bytes[..line_end];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.ends_with(b"\n") {
                self.bytes.truncate(line_end + 1);
                return Pushed::Complete(skipped + line_end + 1 - before);
            }
            from = line_end + 1;
        }
        if taken < input.len() {
            Pushed::TooLong
        } else {
            Pushed::Incomplete
        }
    }

    /// Joins header lines that were folded, which senders must not do and some did (RFC 9112,
    /// section 5.2), and hands out the head.
    pub fn unfolded(&mut self) -> &[u8] {
        for at in 0..self.bytes.len() {
            let folded = self.bytes[at] == b'\n'
                && matches!(self.bytes.get(at + 1), Some(b' ' | b'\t'))
                && self.first_line.is_some_and(|first| at > first);
            if folded {
                self.bytes[at] = b' ';
                if at > 0 && self.bytes[at - 1] == b'\r' {
                    self.bytes[at - 1] = b' ';
                }
            }
        }
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds() {
        for (bytes, kind) in [
            (&b"GET / HTTP/1.1"[..], Kind::Request),
            (b"M-SEARCH * HTTP/1.1", Kind::Request),
            (b"GE", Kind::Undecided),
            (b"", Kind::Undecided),
            (b"HTTP", Kind::Undecided),
            (b"HTTP/1", Kind::Undecided),
            (b"HTTP/1.0 200", Kind::Response),
            (b"HTTP/2", Kind::Other),
            (b"get / HTTP/1.1", Kind::Other),
            (b" GET", Kind::Other),
            (b"SSH-2.0-x", Kind::Other),
            (&[0x16, 3, 1, 2, 0, 1, 0], Kind::Tls),
            (&[0x16, 3, 1], Kind::Undecided),
            (&[0x16, 3, 9], Kind::Other),
            (&[0x17, 3, 3], Kind::Other),
            (&[0x16, 3, 3, 0, 70, 2], Kind::Other),
            (&[0x81, 5], Kind::Other),
        ] {
            assert_eq!(Kind::of(bytes), kind, "{bytes:?}");
        }
    }

    #[test]
    fn the_first_line_names_the_protocol() {
        for (line, kind) in [
            (&b"EHLO example.com\r\n"[..], Kind::Other),
            (b"PRI * HTTP/2.0\r\n", Kind::Other),
            (b"EHLO example.com", Kind::Request),
            (b"GET / HTTP/1.0\n", Kind::Request),
        ] {
            let mut head = HeadBuffer::default();
            assert_eq!(head.push(line, 100), Pushed::Incomplete);
            assert_eq!(head.kind(), kind, "{line:?}");
        }
    }

    #[test]
    fn a_head_ends_at_the_blank_line_wherever_it_is_cut() {
        for input in [
            &b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\nrest"[..],
            b"GET / HTTP/1.1\nHost: a\n\nrest",
            b"GET / HTTP/1.1\r\n\r\nrest",
        ] {
            for cut in 0..input.len() {
                let mut head = HeadBuffer::default();
                let consumed = match head.push(&input[..cut], 100) {
                    Pushed::Complete(n) => n,
                    Pushed::Incomplete => match head.push(&input[cut..], 100) {
                        Pushed::Complete(n) => cut + n,
                        other => panic!("{other:?}"),
                    },
                    Pushed::TooLong => panic!(),
                };
                assert_eq!(&input[consumed..], b"rest");
            }
        }
    }

    #[test]
    fn a_header_of_the_proxy_protocol_is_skipped_wherever_it_is_cut() {
        let v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x01\x02\x03\x04\x05\x06\x07\x08\0\x50\0\x51";
        for preface in [
            &b"PROXY TCP4 192.0.2.1 192.0.2.2 1 80\r\n"[..],
            v2,
            b"",
            b"\r\n",
        ] {
            let head = b"PUT / HTTP/1.1\r\nHost: a\r\n\r\n";
            let input = [preface, head, b"rest"].concat();
            for size in 1..input.len() {
                let mut buffer = HeadBuffer::first();
                let mut seen = 0;
                for piece in input.chunks(size) {
                    match buffer.push(piece, 200) {
                        Pushed::Complete(n) => {
                            seen += n;
                            break;
                        }
                        Pushed::Incomplete => seen += piece.len(),
                        Pushed::TooLong => panic!(),
                    }
                    assert!(matches!(buffer.kind(), Kind::Undecided | Kind::Request));
                }
                assert_eq!(&input[seen..], b"rest", "{size}");
                assert_eq!(buffer.bytes(), head);
            }
        }
    }

    #[test]
    fn a_head_has_a_limit() {
        let mut head = HeadBuffer::default();
        assert_eq!(head.push(b"GET / HT", 10), Pushed::Incomplete);
        assert_eq!(head.push(b"TP/1.1\r\n\r\n", 10), Pushed::TooLong);
        assert_eq!(head.bytes().len(), 10);
    }

    #[test]
    fn folded_lines_are_joined() {
        let mut head = HeadBuffer::default();
        head.push(b"GET / HTTP/1.1\r\nUpgrade:\r\n websocket\r\n\r\n", 100);
        assert_eq!(
            head.unfolded(),
            b"GET / HTTP/1.1\r\nUpgrade:   websocket\r\n\r\n"
        );
    }
}
