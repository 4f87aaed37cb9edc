//! A stream that counts the WebSocket frames that pass it, whatever the library above it does by
//! itself (pongs, the closing handshake). Headers are decoded by that library's own codec.

use std::{
    io::{self, Cursor},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::protocol::frame::{FrameHeader, coding::OpCode};

use super::tally::Report;

/// Where a frame went, seen from the end that has the tap.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Way {
    /// It was read.
    Read,
    /// It was written.
    Written,
}

/// A frame that has passed whole.
pub struct Passed<'a> {
    /// Its opcode's name.
    pub opcode: &'static str,
    /// Whether it ends its message.
    pub fin: bool,
    /// Whether RSV1 is set.
    pub rsv1: bool,
    /// Length of its payload.
    pub len: u64,
    /// The payload of a control frame, unmasked.
    pub control: Option<&'a [u8]>,
    /// The type of the message that it completes.
    pub completes: Option<&'static str>,
    /// The close code, where it is the connection's first close frame (1005 where it has none).
    pub closes: Option<u64>,
}

/// What is told of every frame.
pub trait Ledger {
    /// A frame has passed.
    fn passed(&mut self, way: Way, frame: &Passed<'_>);
}

/// Counts, which all connections of a peer add up to.
impl Ledger for Report {
    fn passed(&mut self, way: Way, frame: &Passed<'_>) {
        let counts = match way {
            Way::Read => &mut self.received,
            Way::Written => &mut self.sent,
        };
        counts.frame(frame.opcode, frame.len);
        if let Some(kind) = frame.completes {
            *counts.messages.entry(kind.to_owned()).or_default() += 1;
        }
        if let Some(code) = frame.closes {
            *self.closed.entry(code).or_default() += 1;
        }
    }
}

/// A ledger that others look into meanwhile.
pub type Shared<L = Report> = Arc<Mutex<L>>;

/// See the module.
pub struct Tap<S, L = Report> {
    inner: S,
    read: Meter,
    written: Meter,
    /// Whether there was a close frame either way.
    closed: bool,
    shared: Shared<L>,
}

impl<S, L: Ledger> Tap<S, L> {
    /// Tells `shared` of the frames of `inner`, which begins with an HTTP head each way.
    pub fn new(inner: S, shared: Shared<L>) -> Self {
        Self {
            inner,
            read: Meter::default(),
            written: Meter::default(),
            closed: false,
            shared,
        }
    }

    fn pass(&mut self, way: Way, bytes: &[u8]) {
        let meter = match way {
            Way::Read => &mut self.read,
            Way::Written => &mut self.written,
        };
        let closed = &mut self.closed;
        let mut ledger = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        meter.pass(bytes, |mut frame| {
            if frame.closes.is_some() && std::mem::replace(closed, true) {
                frame.closes = None;
            }
            ledger.passed(way, &frame);
        });
    }
}

impl<S: AsyncRead + Unpin, L: Ledger> AsyncRead for Tap<S, L> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let result = Pin::new(&mut this.inner).poll_read(cx, buf);
        this.pass(Way::Read, &buf.filled()[before..]);
        result
    }
}

impl<S: AsyncWrite + Unpin, L: Ledger> AsyncWrite for Tap<S, L> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.inner).poll_write(cx, buf);
        if let Poll::Ready(Ok(n)) = result {
            this.pass(Way::Written, &buf[..n]);
        }
        result
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

/// Where one direction stands.
#[derive(Default)]
struct Meter {
    /// Bytes of the HTTP head's end that were seen, then frames.
    head_end: usize,
    header: Vec<u8>,
    /// The frame whose header was read, and the bytes of its payload that are to come.
    frame: Option<(FrameHeader, u64, u64)>,
    /// The payload so far, of a control frame.
    control: Vec<u8>,
    /// The type of the message that is not complete.
    message: Option<&'static str>,
}

impl Meter {
    /// Tells of the frames that `bytes` complete.
    fn pass(&mut self, mut bytes: &[u8], mut tell: impl FnMut(Passed<'_>)) {
        const HEAD_END: &[u8] = b"\r\n\r\n";
        while let Some((&byte, rest)) = bytes.split_first() {
            if self.head_end < HEAD_END.len() {
                let again = usize::from(byte == b'\r');
                let matches = byte == HEAD_END[self.head_end];
                self.head_end = if matches { self.head_end + 1 } else { again };
                bytes = rest;
            } else if let Some((header, _, left)) = &mut self.frame {
                let n = usize::try_from(*left).map_or(bytes.len(), |n| n.min(bytes.len()));
                if let OpCode::Control(_) = header.opcode {
                    self.control.extend_from_slice(&bytes[..n]);
                }
                *left -= n as u64;
                bytes = &bytes[n..];
            } else {
                self.header.push(byte);
                bytes = rest;
                let mut cursor = Cursor::new(&self.header);
                let header = FrameHeader::parse(&mut cursor).expect("a frame header");
                self.frame = header.map(|(header, len)| (header, len, len));
            }
            if let Some((header, len, _)) = self.frame.take_if(|(_, _, left)| *left == 0) {
                self.complete(&header, len, &mut tell);
            }
        }
    }

    fn complete(&mut self, header: &FrameHeader, len: u64, tell: &mut impl FnMut(Passed<'_>)) {
        let bits = u8::from(header.opcode);
        let mut frame = Passed {
            opcode: opcode_name(bits),
            fin: header.is_final,
            rsv1: header.rsv1,
            len,
            control: None,
            completes: None,
            closes: None,
        };
        if let OpCode::Data(_) = header.opcode {
            if bits != 0 {
                self.message = Some(frame.opcode);
            }
            if header.is_final {
                let kind = self.message.take();
                frame.completes = Some(kind.expect("a continuation continues something"));
            }
        } else {
            let key = header.mask.unwrap_or_default();
            for (byte, key) in self.control.iter_mut().zip(key.iter().cycle()) {
                *byte ^= key;
            }
            frame.control = Some(&self.control);
            if bits == 8 {
                let code = self.control.first_chunk();
                frame.closes = Some(code.map_or(1005, |code| u16::from_be_bytes(*code).into()));
            }
        }
        tell(frame);
        self.header.clear();
        self.control.clear();
    }
}

fn opcode_name(bits: u8) -> &'static str {
    match bits {
        0 => "continuation",
        1 => "text",
        2 => "binary",
        8 => "close",
        9 => "ping",
        10 => "pong",
        _ => "reserved",
    }
}
