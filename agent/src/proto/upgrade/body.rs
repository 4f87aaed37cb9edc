//! How far the body of an HTTP/1 message goes (RFC 9112, section 6). Bodies are skipped, not read.

use httparse::Status;

/// What of a body is still to come.
#[derive(Clone, Debug)]
pub enum Body {
    /// So many bytes.
    Length(u64),
    /// Chunks, and then trailers.
    Chunked(Chunked),
    /// All that comes on this connection.
    UntilClose,
}

/// Place in a chunked body.
#[derive(Clone, Debug, Default)]
pub struct Chunked {
    place: Place,
    line: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default)]
enum Place {
    /// In the line that says how long the next chunk is.
    #[default]
    Size,
    /// In a chunk, with so many bytes to go.
    Data(u64),
    /// At the line end behind a chunk.
    DataEnd,
    /// In the trailers; a line with so many bytes so far.
    Trailer(usize),
}

/// A chunk size with extensions is at most so long; browsers and servers have similar bounds.
const MAX_SIZE_LINE: usize = 4096;

/// The place in the body is lost.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Lost;

impl Body {
    /// Whether nothing is to come.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Length(0))
    }

    /// Memory held.
    #[must_use]
    pub fn held(&self) -> usize {
        match self {
            Self::Chunked(chunked) => chunked.line.len(),
            _ => 0,
        }
    }

    /// Skips bytes at the front of `input` that belong to the body: how many.
    ///
    /// # Errors
    ///
    /// [`Lost`] where the chunks make no sense.
    pub fn skip(&mut self, input: &[u8]) -> Result<usize, Lost> {
        match self {
            Self::UntilClose => Ok(input.len()),
            Self::Length(left) => {
                let n = input
                    .len()
                    .min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= n as u64;
                Ok(n)
            }
            Self::Chunked(chunked) => {
                let (taken, over) = chunked.skip(input)?;
                if over {
                    *self = Self::Length(0);
                }
                Ok(taken)
            }
        }
    }

    /// Skips bytes that were not captured: how many of `len`.
    ///
    /// # Errors
    ///
    /// [`Lost`] where what is missing is more than content.
    pub fn skip_missing(&mut self, len: u64) -> Result<u64, Lost> {
        match self {
            Self::UntilClose => Ok(len),
            Self::Length(left) => {
                let n = len.min(*left);
                *left -= n;
                Ok(n)
            }
            Self::Chunked(Chunked {
                place: Place::Data(left),
                ..
            }) if len < *left => {
                *left -= len;
                Ok(len)
            }
            Self::Chunked(_) => Err(Lost),
        }
    }
}

impl Chunked {
    fn skip(&mut self, input: &[u8]) -> Result<(usize, bool), Lost> {
        let mut rest = input;
        while let Some((&byte, behind)) = rest.split_first() {
            match &mut self.place {
                Place::Data(left) => {
                    let n = rest.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= n as u64;
                    rest = &rest[n..];
                    if *left == 0 {
                        self.place = Place::DataEnd;
                    }
                    continue;
                }
                Place::Size => {
                    self.line.push(byte);
                    if byte == b'\n' {
                        self.place = match httparse::parse_chunk_size(&self.line) {
                            Ok(Status::Complete((_, 0))) => Place::Trailer(0),
                            Ok(Status::Complete((_, size))) => Place::Data(size),
                            _ => return Err(Lost),
                        };
                        self.line.clear();
                    } else if self.line.len() > MAX_SIZE_LINE {
                        return Err(Lost);
                    }
                }
                Place::DataEnd => match byte {
                    b'\r' => {}
                    b'\n' => self.place = Place::Size,
                    _ => return Err(Lost),
                },
                Place::Trailer(length) => match byte {
                    b'\n' if *length == 0 => return Ok((input.len() - behind.len(), true)),
                    b'\n' => *length = 0,
                    b'\r' => {}
                    _ => *length = length.saturating_add(1),
                },
            }
            rest = behind;
        }
        Ok((input.len(), false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_end_wherever_they_are_cut() {
        let input = b"5;x=\"y\"\r\nhello\r\n0A\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\nNEXT";
        for cut in 0..input.len() - 4 {
            let mut body = Body::Chunked(Chunked::default());
            let first = body.skip(&input[..cut]).unwrap();
            assert_eq!(first, cut);
            let second = body.skip(&input[cut..]).unwrap();
            assert!(body.is_over());
            assert_eq!(&input[first + second..], b"NEXT");
        }
    }

    #[test]
    fn nonsense_is_no_chunk() {
        let mut body = Body::Chunked(Chunked::default());
        assert_eq!(body.skip(b"zz\r\n"), Err(Lost));
        let mut body = Body::Chunked(Chunked::default());
        assert_eq!(body.skip(b"1\r\nab"), Err(Lost));
        let mut body = Body::Chunked(Chunked::default());
        assert_eq!(body.skip(&[b'1'; 10_000]), Err(Lost));
    }

    #[test]
    fn missing_content_is_arithmetic() {
        let mut body = Body::Length(10);
        assert_eq!(body.skip_missing(4), Ok(4));
        assert_eq!(body.skip_missing(40), Ok(6));
        assert!(body.is_over());
        let mut body = Body::Chunked(Chunked::default());
        assert_eq!(body.skip_missing(1), Err(Lost));
        body.skip(b"ff\r\nabc").unwrap();
        assert_eq!(body.skip_missing(100), Ok(100));
        assert_eq!(body.skip_missing(1000), Err(Lost));
    }
}
