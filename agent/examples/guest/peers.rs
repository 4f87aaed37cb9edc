//! A client and a server that count what they send.
//!
//! They take turns, so that each ping has its pong before the next is sent and what an
//! implementation sends by itself is known.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use tokio_tungstenite::tungstenite::{
    self, Error, Message, WebSocket,
    protocol::{
        CloseFrame,
        frame::{
            Frame,
            coding::{CloseCode, Data, OpCode},
        },
    },
};

use crate::tally::{CLIENT, SERVER, Tally};

/// What the client asks for.
pub const PATH: &str = "/kernels";
/// What it closes with.
pub const CLOSE: (u16, &str) = (1000, "that was all");

/// Emulated machines are slow.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between the parts of what is cut, so that each is a segment of its own.
const PAUSE: Duration = Duration::from_millis(20);

/// On both sides of what makes a header longer, and of what one segment can hold.
const SIZES: [usize; 8] = [0, 1, 125, 126, 4096, 65_535, 65_536, 300_000];
/// Frames of one write, and bytes of each.
const BURST: (usize, usize) = (100, 64);

/// Accepts one client and talks to it until the end.
pub fn serve(listener: &TcpListener) -> Result<Tally> {
    let (stream, _) = listener.accept().context("accepting")?;
    settle(&stream)?;
    let socket = tungstenite::accept(stream).map_err(|error| anyhow!("accepting: {error}"))?;
    let mut end = End::new(socket, SERVER);
    end.ping(b"are you there?")?;
    end.fragments()?;
    end.cut(&[1, 1, 1, 1, 2])?;
    end.burst()?;
    loop {
        match end.next()? {
            Some(Message::Text(text)) => {
                end.send(Data::Text, true, text.as_bytes())?;
            }
            Some(Message::Binary(bytes)) => {
                end.send(Data::Binary, true, &bytes)?;
            }
            Some(_) => {}
            None => return Ok(end.tally),
        }
    }
}

/// Connects, says its part, and closes.
pub fn connect(address: SocketAddr) -> Result<Tally> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE).context("connecting")?;
    settle(&stream)?;
    let url = format!("ws://{address}{PATH}");
    let (socket, _) =
        tungstenite::client(url, stream).map_err(|error| anyhow!("the handshake: {error}"))?;
    let mut end = End::new(socket, CLIENT);
    end.messages(2 + BURST.0)?;
    end.ping(b"")?;
    end.fragments()?;
    end.messages(1)?;
    for size in SIZES {
        end.send(Data::Binary, true, &vec![0x5a; size])?;
        end.messages(1)?;
    }
    end.cut(&[1, 1, 1, 3, 2, 100])?;
    end.messages(1)?;
    end.burst()?;
    end.messages(BURST.0)?;
    end.close()?;
    Ok(end.tally)
}

fn settle(stream: &TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(())
}

struct End<S: Read + Write> {
    socket: WebSocket<S>,
    direction: &'static str,
    tally: Tally,
}

impl End<TcpStream> {
    fn new(socket: WebSocket<TcpStream>, direction: &'static str) -> Self {
        Self {
            socket,
            direction,
            tally: Tally::default(),
        }
    }

    fn count(&mut self, opcode: &str, len: usize) {
        let len = u64::try_from(len).unwrap_or(u64::MAX);
        self.tally.count(self.direction, opcode, 1, len);
    }

    /// Puts a data frame into the socket's buffer.
    fn write(&mut self, opcode: Data, fin: bool, payload: &[u8]) -> Result<()> {
        let frame = Frame::message(payload.to_vec(), OpCode::Data(opcode), fin);
        self.socket
            .write(Message::Frame(frame))
            .map_err(|error| anyhow!("writing: {error}"))?;
        let name = match opcode {
            Data::Text => "text",
            Data::Binary => "binary",
            Data::Continue => "continuation",
            Data::Reserved(_) => bail!("a reserved opcode"),
        };
        self.count(name, payload.len());
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.socket
            .flush()
            .map_err(|error| anyhow!("flushing: {error}"))
    }

    fn send(&mut self, opcode: Data, fin: bool, payload: &[u8]) -> Result<()> {
        self.write(opcode, fin, payload)?;
        self.flush()
    }

    /// Sends a ping and waits for its pong.
    fn ping(&mut self, payload: &[u8]) -> Result<()> {
        self.socket
            .send(Message::Ping(payload.to_vec().into()))
            .map_err(|error| anyhow!("pinging: {error}"))?;
        self.count("ping", payload.len());
        match self.next()? {
            Some(Message::Pong(answer)) if answer == payload => Ok(()),
            other => bail!("no pong but {other:?}"),
        }
    }

    /// A text in three fragments, the second of them empty, with a ping in it.
    fn fragments(&mut self) -> Result<()> {
        self.send(Data::Text, false, b"in ")?;
        self.ping(b"in between")?;
        self.send(Data::Continue, false, b"")?;
        self.send(Data::Continue, true, b"pieces")
    }

    /// A binary frame of 300 bytes, its beginning in parts of these lengths.
    fn cut(&mut self, parts: &[usize]) -> Result<()> {
        self.flush()?;
        let mut frame = vec![0x82, 126, 1, 44];
        if self.direction == CLIENT {
            frame[1] |= 0x80;
            // Masked with zeros, payload is as it was.
            frame.extend([0; 4]);
        }
        frame.extend([b'c'; 300]);
        self.count("binary", 300);
        let mut rest = &frame[..];
        for &len in parts {
            let (part, behind) = rest.split_at(len);
            self.socket.get_mut().write_all(part).context("writing")?;
            thread::sleep(PAUSE);
            rest = behind;
        }
        self.socket.get_mut().write_all(rest).context("writing")
    }

    /// Many frames at once.
    fn burst(&mut self) -> Result<()> {
        for _ in 0..BURST.0 {
            self.write(Data::Text, true, &[b'b'; BURST.1])?;
        }
        self.flush()
    }

    /// Reads so many messages.
    fn messages(&mut self, n: usize) -> Result<()> {
        for _ in 0..n {
            match self.next()? {
                Some(Message::Text(_) | Message::Binary(_)) => {}
                other => bail!("no message but {other:?}"),
            }
        }
        Ok(())
    }

    /// What comes next, pings left out; what the socket answers by itself is counted. `None` at the
    /// end of the connection.
    fn next(&mut self) -> Result<Option<Message>> {
        loop {
            match self.socket.read() {
                Ok(Message::Ping(payload)) => self.count("pong", payload.len()),
                Ok(Message::Close(close)) if self.direction == SERVER => {
                    self.count("close", close.map_or(0, |close| 2 + close.reason.len()));
                }
                Ok(Message::Close(_)) => {}
                Ok(message) => return Ok(Some(message)),
                Err(Error::ConnectionClosed) => return Ok(None),
                Err(error) => bail!("reading: {error}"),
            }
        }
    }

    fn close(&mut self) -> Result<()> {
        let (code, reason) = CLOSE;
        let close = CloseFrame {
            code: CloseCode::from(code),
            reason: reason.into(),
        };
        self.socket
            .close(Some(close))
            .map_err(|error| anyhow!("closing: {error}"))?;
        self.count("close", 2 + reason.len());
        match self.next()? {
            None => Ok(()),
            Some(other) => bail!("no end but {other:?}"),
        }
    }
}
