//! The traffic: a server and clients with plain blocking sockets, in threads of this process that are
//! in the namespaces. What is sent lies ready, so that nothing but the kernel is busy with it; each end
//! knows to the frame what it has sent.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::ops::{AddAssign, Sub};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use tokio_tungstenite::tungstenite::handshake::{client::generate_key, derive_accept_key};

use super::namespace::Side;
use crate::interrupt;

/// No end waits longer for the other.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often one that listens looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(5);
/// What one reads at once.
const READ: usize = 1 << 18;
/// Bytes of an HTTP head, at most.
const HEAD: usize = 4096;

/// Opcodes (RFC 6455, section 5.2).
pub mod opcode {
    pub const TEXT: u8 = 1;
    pub const BINARY: u8 = 2;
    pub const CLOSE: u8 = 8;
    pub const PING: u8 = 9;
    pub const PONG: u8 = 10;
}

/// Close code 1000, as the payload of a close frame.
const NORMAL: [u8; 2] = 1000_u16.to_be_bytes();

/// Frames and payload bytes that one direction carried, by opcode.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Sent {
    pub frames: [u64; 16],
    pub bytes: [u64; 16],
}

impl Sent {
    /// Adds frames with so many payload bytes in all.
    pub fn add(&mut self, opcode: u8, frames: u64, bytes: u64) {
        let at = usize::from(opcode & 0xf);
        self.frames[at] += frames;
        self.bytes[at] += bytes;
    }

    /// Frames of all opcodes.
    pub fn all_frames(&self) -> u64 {
        self.frames.iter().sum()
    }

    /// Payload bytes of all opcodes.
    pub fn all_bytes(&self) -> u64 {
        self.bytes.iter().sum()
    }
}

impl AddAssign for Sent {
    fn add_assign(&mut self, more: Self) {
        for at in 0..16 {
            self.frames[at] += more.frames[at];
            self.bytes[at] += more.bytes[at];
        }
    }
}

impl Sub for Sent {
    type Output = Self;

    fn sub(mut self, before: Self) -> Self {
        for at in 0..16 {
            self.frames[at] -= before.frames[at];
            self.bytes[at] -= before.bytes[at];
        }
        self
    }
}

/// A frame with FIN, masked or not, as it is on the wire.
pub fn frame(opcode: u8, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let masked = if mask.is_some() { 0x80 } else { 0 };
    let mut wire = vec![0x80 | opcode];
    match payload.len() {
        len @ ..126 => wire.push(masked | len as u8),
        len @ ..65_536 => {
            wire.push(masked | 126);
            wire.extend((len as u16).to_be_bytes());
        }
        len => {
            wire.push(masked | 127);
            wire.extend((len as u64).to_be_bytes());
        }
    }
    match mask {
        Some(key) => {
            wire.extend(key);
            wire.extend(payload.iter().zip(key.iter().cycle()).map(|(a, b)| a ^ b));
        }
        None => wire.extend(payload),
    }
    wire
}

/// Any key will do (RFC 6455, section 5.3, wants it unpredictable for the sake of proxies).
pub const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// When a client has sent enough.
#[derive(Clone, Copy, Debug)]
pub enum Amount {
    For(Duration),
    Writes(u64),
}

impl Amount {
    fn is_reached(self, begun: Instant, writes: u64) -> bool {
        match self {
            Self::For(duration) => begun.elapsed() >= duration,
            Self::Writes(enough) => writes >= enough,
        }
    }
}

/// What a client does on a connection.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Bytes of each frame's payload.
    pub payload: usize,
    /// Frames that are written at once.
    pub together: usize,
    /// The server answers each frame with its like, and the client waits for that; then
    /// [`Self::together`] is 1.
    pub echo: bool,
    pub amount: Amount,
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    pub sent: Sent,
    /// From the first byte of the first frame until the server had read the last.
    pub elapsed: Duration,
}

/// Plays a client: handshake, frames, closing handshake, and the end of the connection.
pub fn client(server: SocketAddr, load: Load) -> Result<Done> {
    let path = if load.echo {
        format!("/echo/{}", load.payload)
    } else {
        "/sink".to_owned()
    };
    let mut stream = open(server, &path)?;
    let one = frame(opcode::BINARY, &vec![b'.'; load.payload], Some(MASK));
    let block = one.repeat(load.together);
    let mut reply = frame(opcode::BINARY, &vec![b'.'; load.payload], None);
    let mut writes = 0;
    let begun = Instant::now();
    // An interrupted measurement counts for nothing, but ends in order.
    while !load.amount.is_reached(begun, writes) && !interrupt::raised() {
        stream.write_all(&block).context("cannot write frames")?;
        if load.echo {
            stream
                .read_exact(&mut reply)
                .context("cannot read the echo")?;
        }
        writes += 1;
    }
    let mut sent = Sent::default();
    let frames = writes * load.together as u64;
    sent.add(opcode::BINARY, frames, frames * load.payload as u64);
    sent += close(&mut stream)?;
    Ok(Done {
        sent,
        elapsed: begun.elapsed(),
    })
}

/// Connects and shakes hands.
pub fn open(server: SocketAddr, path: &str) -> Result<TcpStream> {
    let (stream, status) = ask(server, path)?;
    if status != 101 {
        bail!("the server answers the handshake with {status}");
    }
    Ok(stream)
}

/// Connects and asks for a WebSocket; the status is the answer.
pub fn ask(server: SocketAddr, path: &str) -> Result<(TcpStream, u16)> {
    let mut stream = connect(server)?;
    let key = generate_key();
    write_all(
        &mut stream,
        &format!(
            "GET {path} HTTP/1.1\r\nHost: {server}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
        ),
    )?;
    let head = read_head(&mut stream)?.context("the server hung up on the handshake")?;
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
    Ok((stream, status.context("the answer has no status")?))
}

/// A head in one piece: one write, one segment.
fn write_all(stream: &mut TcpStream, head: &str) -> Result<()> {
    stream
        .write_all(head.as_bytes())
        .context("cannot write a head")
}

/// Connects without Nagle's algorithm: one write is one segment, as far as TCP can.
pub fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)
        .with_context(|| format!("cannot connect to {address}"))?;
    patient(&stream)?;
    Ok(stream)
}

fn patient(stream: &TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(())
}

/// The closing handshake, and the end of the connection, which the server's is the sign of that it has
/// read everything.
pub fn close(stream: &mut TcpStream) -> Result<Sent> {
    let mut sent = Sent::default();
    stream
        .write_all(&frame(opcode::CLOSE, &NORMAL, Some(MASK)))
        .context("cannot write a close frame")?;
    sent.add(opcode::CLOSE, 1, 2);
    stream.shutdown(Shutdown::Write)?;
    let mut rest = [0; 64];
    while stream.read(&mut rest).context("cannot read the end")? > 0 {}
    Ok(sent)
}

/// Reads a head, byte by byte where that is what comes; `None` at the end of the connection.
fn read_head(stream: &mut TcpStream) -> Result<Option<String>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if head.len() >= HEAD {
            bail!("a head does not end");
        }
        if stream.read(&mut byte).context("cannot read a head")? == 0 {
            return Ok(None);
        }
        head.extend(byte);
    }
    Ok(Some(String::from_utf8_lossy(&head).into_owned()))
}

/// What is no WebSocket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Plain {
    /// Datagrams.
    Udp,
    /// A TCP stream that begins with nothing known.
    Tcp,
    /// The body of a request: others may follow it, and one of them ask for a WebSocket.
    Http,
}

/// Sends payloads of this size to a [`Server`].
pub fn plain(server: SocketAddr, kind: Plain, size: usize, amount: Amount) -> Result<()> {
    let payload = vec![b'.'; size];
    let begun = Instant::now();
    let mut writes = 0;
    let enough = |writes| amount.is_reached(begun, writes) || interrupt::raised();
    if kind == Plain::Udp {
        let socket = UdpSocket::bind("0.0.0.0:0").context("cannot make a socket")?;
        socket.connect(server).context("cannot connect")?;
        while !enough(writes) {
            socket.send(&payload).context("cannot send")?;
            writes += 1;
        }
        return Ok(());
    }
    let mut stream = if kind == Plain::Http {
        let mut stream = connect(server)?;
        let head = "POST /upload HTTP/1.1\r\nHost: plain\r\nTransfer-Encoding: chunked\r\n\r\n";
        write_all(&mut stream, head)?;
        stream
    } else {
        connect(plain_address(server))?
    };
    while !enough(writes) {
        stream.write_all(&payload).context("cannot write")?;
        writes += 1;
    }
    stream.shutdown(Shutdown::Write)?;
    while stream.read(&mut [0; 64]).context("cannot read the end")? > 0 {}
    Ok(())
}

/// Where a server drains whatever comes.
fn plain_address(server: SocketAddr) -> SocketAddr {
    SocketAddr::new(server.ip(), server.port() + 1)
}

/// A server, until it is dropped. Its connections end with their clients.
pub struct Server {
    stop: Arc<AtomicBool>,
    listening: Vec<JoinHandle<()>>,
    sent: Arc<Mutex<Sent>>,
}

impl Server {
    /// Listens for TCP and UDP, and at the next port for TCP that is no WebSocket; at all addresses.
    pub fn start(side: &Side, port: u16) -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let bind = |address| {
            let listener =
                TcpListener::bind(address).with_context(|| format!("cannot bind {address}"))?;
            listener.set_nonblocking(true)?;
            Ok::<_, anyhow::Error>(listener)
        };
        let (listener, plain, datagrams) = side.within(|| {
            let datagrams =
                UdpSocket::bind(address).with_context(|| format!("cannot bind {address}"))?;
            datagrams.set_read_timeout(Some(Duration::from_millis(100)))?;
            Ok((bind(address)?, bind(plain_address(address))?, datagrams))
        })?;
        let mut server = Self {
            stop: Arc::new(AtomicBool::new(false)),
            listening: Vec::new(),
            sent: Arc::new(Mutex::new(Sent::default())),
        };
        let stop = Arc::clone(&server.stop);
        server.listening.push(thread::spawn(move || {
            let mut buffer = [0; 65_536];
            while !stop.load(Relaxed) {
                let _ = datagrams.recv(&mut buffer);
            }
        }));
        let sum = Arc::clone(&server.sent);
        server.accept(listener, move |stream| serve(stream, &sum));
        server.accept(plain, |mut stream| {
            stream.set_nonblocking(false)?;
            patient(&stream)?;
            drain(&mut stream).map(drop)
        });
        Ok(server)
    }

    /// Has each connection served in a thread of its own.
    fn accept(
        &mut self,
        listener: TcpListener,
        serve: impl Fn(TcpStream) -> Result<()> + Clone + Send + 'static,
    ) {
        let stop = Arc::clone(&self.stop);
        self.listening.push(thread::spawn(move || {
            while !stop.load(Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let serve = serve.clone();
                        // What goes wrong here shows at the client, which knows what it wanted.
                        thread::spawn(move || serve(stream));
                    }
                    Err(_) => thread::sleep(LOOK),
                }
            }
        }));
    }

    /// What all connections have sent. What belongs to a connection is in it before the client sees the
    /// connection's end.
    pub fn sent(&self) -> Sent {
        *self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        for thread in self.listening.drain(..) {
            let _ = thread.join();
        }
    }
}

fn serve(mut stream: TcpStream, sum: &Mutex<Sent>) -> Result<()> {
    stream.set_nonblocking(false)?;
    patient(&stream)?;
    while let Some(head) = read_head(&mut stream)? {
        let path = head.split(' ').nth(1).unwrap_or_default();
        let key = head
            .lines()
            .find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "));
        let Some(key) = key else {
            if path == "/upload" {
                drain(&mut stream)?;
                return Ok(());
            }
            write_all(
                &mut stream,
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            )?;
            continue;
        };
        if path == "/refused" {
            write_all(
                &mut stream,
                "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            )?;
            return Ok(());
        }
        let accept = derive_accept_key(key.trim().as_bytes());
        write_all(
            &mut stream,
            &format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Accept: {accept}\r\n\r\n"
            ),
        )?;
        let mut sent = match path.strip_prefix("/echo/") {
            Some(size) => echo(&mut stream, size.parse()?)?,
            None => drain(&mut stream)?,
        };
        sent.add(opcode::CLOSE, 1, 2);
        *sum.lock().unwrap_or_else(PoisonError::into_inner) += sent;
        stream.write_all(&frame(opcode::CLOSE, &NORMAL, None))?;
        return Ok(());
    }
    Ok(())
}

/// Reads to the end.
fn drain(stream: &mut TcpStream) -> Result<Sent> {
    let mut buffer = vec![0; READ];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(Sent::default()),
            Ok(_) => {}
            // An idle connection is wanted as long as its client is there.
            Err(error) if is_silence(&error) && !interrupt::raised() => {}
            Err(error) => return Err(error).context("cannot read frames"),
        }
    }
}

fn is_silence(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Answers each frame of this size with its like, each ping with a pong, up to the close frame.
fn echo(stream: &mut TcpStream, size: usize) -> Result<Sent> {
    let payload = vec![b'.'; size];
    let reply = frame(opcode::BINARY, &payload, None);
    let one = frame(opcode::BINARY, &payload, Some(MASK));
    let ping = frame(opcode::PING, PING, Some(MASK));
    let pong = frame(opcode::PONG, PING, None);
    let mut sent = Sent::default();
    let mut buffer = vec![0; one.len().max(ping.len()) + READ];
    let mut filled = 0;
    loop {
        let mut at = 0;
        while let Some(first) = buffer[at..filled].first() {
            let (wire, answer) = match first & 0xf {
                opcode::PING => (ping.len(), &pong),
                opcode::CLOSE => return Ok(sent),
                _ => (one.len(), &reply),
            };
            if filled - at < wire {
                break;
            }
            at += wire;
            stream.write_all(answer).context("cannot answer")?;
            if first & 0xf == opcode::PING {
                sent.add(opcode::PONG, 1, PING.len() as u64);
            } else {
                sent.add(opcode::BINARY, 1, size as u64);
            }
        }
        buffer.copy_within(at..filled, 0);
        filled -= at;
        match stream.read(&mut buffer[filled..]) {
            Ok(0) => return Err(anyhow!("the connection ended without a close frame")),
            Ok(read) => filled += read,
            Err(error) if is_silence(&error) && !interrupt::raised() => {}
            Err(error) => return Err(error).context("cannot read frames"),
        }
    }
}

/// The payload of each ping.
pub const PING: &[u8] = b"are you there?";

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of RFC 6455, section 5.7.
    #[test]
    fn frames_are_those_of_the_rfc() {
        let hello = [0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f];
        assert_eq!(frame(opcode::TEXT, b"Hello", None), hello);
        let masked = [
            0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58,
        ];
        assert_eq!(frame(opcode::TEXT, b"Hello", Some(MASK)), masked);
        let long = frame(opcode::BINARY, &[0; 256], None);
        assert_eq!(long[..4], [0x82, 0x7e, 0x01, 0x00]);
        let longer = frame(opcode::BINARY, &[0; 65_536], None);
        assert_eq!(longer[..10], [0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn what_is_sent_adds_up() {
        let mut sent = Sent::default();
        sent.add(opcode::BINARY, 3, 192);
        let before = sent;
        sent.add(opcode::CLOSE, 1, 2);
        assert_eq!((sent.all_frames(), sent.all_bytes()), (4, 194));
        sent += before;
        assert_eq!((sent - before).all_frames(), 4);
    }
}
