//! The bytes of a capture, a record at a time: a window that moves over an input that cannot be
//! sought in. Knows where in the file it is, and nothing of formats.

use std::io::{self, Read};

use super::{CaptureError, Damage, MAX_RECORD};

/// Bytes asked for at a time.
const CHUNK: usize = 256 << 10;

/// The same of a compressed input. When the decoder meets damage it takes back all that it made
/// in that call, so this bounds what is lost of the good part.
const COMPRESSED_CHUNK: usize = 8 << 10;

pub(super) struct Input {
    reader: Box<dyn Read>,
    compressed: bool,
    buffer: Vec<u8>,
    /// What of the buffer is read and not yet taken.
    start: usize,
    end: usize,
    /// Position in the file of the byte at `start`.
    offset: u64,
    /// There is no more.
    ended: bool,
    /// Why, where it is not the end of the file. Told when the bytes before it are used up.
    failure: Option<io::Error>,
}

impl Input {
    /// Reads from `reader`, which decompresses if `compressed`: then offsets are positions in the
    /// decompressed file.
    pub(super) fn new(reader: Box<dyn Read>, compressed: bool) -> Self {
        Self {
            reader,
            compressed,
            buffer: Vec::new(),
            start: 0,
            end: 0,
            offset: 0,
            ended: false,
            failure: None,
        }
    }

    /// Position in the file of the next byte.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The next bytes without taking them: at least `n`, or all there are up to the file's end.
    /// `n` is at most a record and its header.
    pub(super) fn peek(&mut self, n: usize) -> &[u8] {
        self.fill(n);
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    /// Whether the file is over. An error where it cannot be read further.
    pub(super) fn at_end(&mut self) -> Result<bool, CaptureError> {
        let end = self.peek(1).is_empty();
        match self.failure {
            Some(_) if end => Err(self.short(self.offset, 1)),
            _ => Ok(end),
        }
    }

    /// The next `n` bytes without taking them.
    pub(super) fn require(&mut self, n: usize) -> Result<&[u8], CaptureError> {
        self.fill(n);
        if self.end - self.start < n {
            return Err(self.short(self.offset, n as u64));
        }
        Ok(self
            .buffer
            .get(self.start..self.start + n)
            .unwrap_or_default())
    }

    /// Takes the next `n` bytes.
    pub(super) fn take(&mut self, n: usize) -> Result<&[u8], CaptureError> {
        self.require(n)?;
        let start = self.start;
        self.advance(n);
        Ok(self.buffer.get(start..start + n).unwrap_or_default())
    }

    /// Passes over `n` bytes, however many, without holding them; fewer where the file ends.
    pub(super) fn skip(&mut self, n: u64) {
        let mut left = n;
        while left > 0 {
            let available = self.peek(1).len();
            if available == 0 {
                break;
            }
            let step = usize::try_from(left).unwrap_or(usize::MAX).min(available);
            self.advance(step);
            left -= step as u64;
        }
    }

    /// Why the record that begins at `offset` and should have `needed` bytes is incomplete.
    pub(super) fn short(&mut self, offset: u64, needed: u64) -> CaptureError {
        let end = self.offset + (self.end - self.start) as u64;
        let truncated = CaptureError::Truncated {
            offset,
            needed,
            available: end - offset,
        };
        let Some(error) = self.failure.take() else {
            return truncated;
        };
        match error.kind() {
            io::ErrorKind::UnexpectedEof if self.compressed => truncated,
            // The decoder's own errors; those of the file below it come through as they are.
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput if self.compressed => {
                CaptureError::Damaged {
                    offset: end,
                    damage: Damage::Gzip(error),
                }
            }
            _ => CaptureError::Io { offset: end, error },
        }
    }

    fn advance(&mut self, n: usize) {
        self.start += n;
        self.offset += n as u64;
    }

    fn fill(&mut self, n: usize) {
        debug_assert!(
            n <= MAX_RECORD + 64,
            "callers check lengths before they ask"
        );
        while self.end - self.start < n && !self.ended {
            if self.end == self.buffer.len() {
                self.make_room();
            }
            let space = self.buffer.get_mut(self.end..).unwrap_or_default();
            let chunk = if self.compressed {
                COMPRESSED_CHUNK
            } else {
                CHUNK
            }
            .min(space.len());
            match self.reader.read(&mut space[..chunk]) {
                Ok(0) => self.ended = true,
                Ok(read) => self.end += read.min(chunk),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.ended = true;
                    self.failure = Some(error);
                }
            }
        }
    }

    /// Moves what is left to the front; grows where that frees nothing. So the buffer is at most
    /// twice what is asked for, and grows only as bytes really come, whatever a length field says.
    fn make_room(&mut self) {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        } else {
            self.buffer.resize((self.buffer.len() * 2).max(CHUNK), 0);
        }
    }
}

/// What is left of the input, for a decoder to read.
impl Read for Input {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let rest = self.buffer.get(self.start..self.end).unwrap_or_default();
        if rest.is_empty() {
            if let Some(error) = self.failure.take() {
                return Err(error);
            }
            return self.reader.read(into);
        }
        let n = rest.len().min(into.len());
        into[..n].copy_from_slice(&rest[..n]);
        self.advance(n);
        Ok(n)
    }
}
