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

use super::tally::{Counts, Report};

/// What all connections of a peer add up to.
pub type Shared = Arc<Mutex<Report>>;

/// See the module.
pub struct Tap<S> {
    inner: S,
    read: Meter,
    written: Meter,
    /// Code of the first close frame either way.
    closed: bool,
    shared: Shared,
}

impl<S> Tap<S> {
    /// Counts the frames of `inner`, which begins with an HTTP head each way, into `shared`.
    pub fn new(inner: S, shared: Shared) -> Self {
        Self {
            inner,
            read: Meter::default(),
            written: Meter::default(),
            closed: false,
            shared,
        }
    }
}

fn settle(shared: &Shared, closed: &mut bool, close: Option<u64>) {
    if let Some(code) = close
        && !std::mem::replace(closed, true)
    {
        let mut report = shared.lock().unwrap_or_else(PoisonError::into_inner);
        *report.closed.entry(code).or_default() += 1;
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Tap<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let result = Pin::new(&mut this.inner).poll_read(cx, buf);
        let close = {
            let mut report = this.shared.lock().unwrap_or_else(PoisonError::into_inner);
            this.read
                .pass(&buf.filled()[before..], &mut report.received)
        };
        settle(&this.shared, &mut this.closed, close);
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tap<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.inner).poll_write(cx, buf);
        if let Poll::Ready(Ok(n)) = result {
            let close = {
                let mut report = this.shared.lock().unwrap_or_else(PoisonError::into_inner);
                this.written.pass(&buf[..n], &mut report.sent)
            };
            settle(&this.shared, &mut this.closed, close);
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
    payload_left: u64,
    masking_key: Option<[u8; 4]>,
    /// The first bytes of a close frame's payload, while in one.
    close_body: Option<Vec<u8>>,
    message: Option<&'static str>,
}

impl Meter {
    /// Counts the frames in `bytes`; the code of a close frame that was completed.
    fn pass(&mut self, mut bytes: &[u8], counts: &mut Counts) -> Option<u64> {
        const HEAD_END: &[u8] = b"\r\n\r\n";
        let mut close = None;
        while let Some((&byte, rest)) = bytes.split_first() {
            if self.head_end < HEAD_END.len() {
                let again = usize::from(byte == b'\r');
                let matches = byte == HEAD_END[self.head_end];
                self.head_end = if matches { self.head_end + 1 } else { again };
                bytes = rest;
            } else if self.payload_left > 0 {
                let n =
                    usize::try_from(self.payload_left).map_or(bytes.len(), |n| n.min(bytes.len()));
                if let Some(body) = &mut self.close_body {
                    body.extend_from_slice(&bytes[..n]);
                }
                self.payload_left -= n as u64;
                bytes = &bytes[n..];
                close = self.end_of_close().or(close);
            } else {
                self.header.push(byte);
                bytes = rest;
                self.count_header(counts);
                close = self.end_of_close().or(close);
            }
        }
        close
    }

    fn count_header(&mut self, counts: &mut Counts) {
        let mut cursor = Cursor::new(&self.header);
        let Some((header, len)) = FrameHeader::parse(&mut cursor).expect("a frame header") else {
            return;
        };
        self.header.clear();
        self.payload_left = len;
        self.masking_key = header.mask;
        let bits = u8::from(header.opcode);
        counts.frame(opcode_name(bits), len);
        if bits == 8 {
            self.close_body = Some(Vec::new());
        }
        if let OpCode::Data(_) = header.opcode {
            if bits != 0 {
                self.message = Some(opcode_name(bits));
            }
            if header.is_final {
                let kind = self
                    .message
                    .take()
                    .expect("a continuation continues something");
                *counts.messages.entry(kind.to_owned()).or_default() += 1;
            }
        }
    }

    fn end_of_close(&mut self) -> Option<u64> {
        if self.payload_left > 0 {
            return None;
        }
        let mut body = self.close_body.take()?;
        if let Some(key) = self.masking_key {
            body.iter_mut()
                .zip(key.iter().cycle())
                .for_each(|(byte, key)| *byte ^= key);
        }
        let code = body
            .first_chunk()
            .map_or(1005, |code| u64::from(u16::from_be_bytes(*code)));
        Some(code)
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
