//! Raw sockets, and the segments of connections that nobody has.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};
use nix::libc;
use nix::sys::socket::{MsgFlags, send};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

const SYN: u8 = 0x02;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;

/// Lengths of the headers.
const ETHERNET: usize = 14;
const IP: usize = 20;
const TCP: usize = 20;

/// Servers, and ports of each.
const SERVERS: u32 = 16;
const PORTS: u32 = 4;
/// Payload of the frames of [`Crowd::speak`].
const SPOKEN: usize = 64;

/// Writes Ethernet frames to a device.
pub struct Injector(OwnedFd);

impl Injector {
    /// Opens one in the network namespace of this thread.
    pub fn open(device: &str) -> Result<Self> {
        let index = nix::net::if_::if_nametoindex(device)
            .with_context(|| format!("there is no device {device}"))?;
        // Protocol 0: nothing is received.
        // SAFETY: takes numbers alone.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(std::io::Error::last_os_error()).context("cannot open a raw socket");
        }
        // SAFETY: it was opened just now, and nobody else has it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: integers and bytes, all of which may be 0.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = index.cast_signed();
        // SAFETY: an address of that family and its size.
        let bound = unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as u32,
            )
        };
        if bound < 0 {
            return Err(std::io::Error::last_os_error()).context("cannot bind a raw socket");
        }
        Ok(Self(socket))
    }

    fn send(&self, frame: &[u8]) -> Result<()> {
        let sent = send(self.0.as_raw_fd(), frame, MsgFlags::empty());
        sent.context("cannot write a segment")?;
        Ok(())
    }
}

/// Connections, each to one of some servers.
pub struct Crowd {
    /// Bytes that the server has sent, and so the next sequence number.
    sent: Vec<u32>,
    random: u64,
    buffer: Vec<u8>,
}

/// Who says something.
#[derive(Clone, Copy)]
enum Who {
    Client,
    Server,
}

impl Crowd {
    /// So many, none of which is open.
    pub fn new(connections: u32) -> Self {
        Self {
            sent: vec![0; connections as usize],
            random: 0x9e37_79b9_7f4a_7c15,
            buffer: Vec::with_capacity(2048),
        }
    }

    /// One of them.
    pub fn any(&mut self) -> u32 {
        // Of Marsaglia, xorshift64.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (((self.random >> 32) * self.sent.len() as u64) >> 32) as u32
    }

    /// Opens one, and both ends say something.
    pub fn open(&mut self, injector: &Injector, of: u32) -> Result<()> {
        use Who::{Client, Server};
        let key = format!("{of:021}A==");
        let (request, response) = (request(of, &key), response(&key));
        let (client, server) = (initial(of, Client), initial(of, Server));
        let asked = client + 1 + request.len() as u32;
        let answered = server + 1 + response.len() as u32;
        let mut say = |who, flags, seq, ack, payload: &[u8]| {
            self.write(of, who, flags, seq, ack, payload);
            injector.send(&self.buffer)
        };
        say(Client, SYN, client, 0, b"")?;
        say(Server, SYN | ACK, server, client + 1, b"")?;
        say(Client, ACK, client + 1, server + 1, b"")?;
        say(
            Client,
            PSH | ACK,
            client + 1,
            server + 1,
            request.as_bytes(),
        )?;
        say(Server, PSH | ACK, server + 1, asked, response.as_bytes())?;
        say(Client, ACK, asked, answered, b"")?;
        // {"op":"hello"}, masked with zeros; its answer; a ping and its pong.
        let hello = *b"\x81\x8e\0\0\0\0{\"op\":\"hello\"}";
        say(Client, PSH | ACK, asked, answered, &hello)?;
        let asked = asked + hello.len() as u32;
        let welcome = *b"\x81\x10{\"op\":\"welcome\"}\x89\x02hi";
        say(Server, PSH | ACK, answered, asked, &welcome)?;
        let answered = answered + welcome.len() as u32;
        say(Client, PSH | ACK, asked, answered, b"\x8a\x82\0\0\0\0hi")?;
        self.sent[of as usize] = answered;
        Ok(())
    }

    /// The server sends a frame in a segment of its own.
    pub fn speak(&mut self, injector: &Injector, of: u32) -> Result<()> {
        let mut frame = [b'x'; SPOKEN + 2];
        frame[0] = 0x81;
        frame[1] = SPOKEN as u8;
        let seq = self.sent[of as usize];
        self.write(
            of,
            Who::Server,
            PSH | ACK,
            seq,
            initial(of, Who::Client) + 1,
            &frame,
        );
        self.sent[of as usize] = seq.wrapping_add(frame.len() as u32);
        injector.send(&self.buffer)
    }

    /// Puts a segment together. Nobody looks at its checksums.
    fn write(&mut self, of: u32, who: Who, flags: u8, seq: u32, ack: u32, payload: &[u8]) {
        let server = (
            Ipv4Addr::from_bits(0xc612_0001 + of % SERVERS),
            8000 + (of / SERVERS % PORTS) as u16,
        );
        let client = (
            Ipv4Addr::from_bits(0x0a00_0001 + of / 8),
            32_768 + (of.wrapping_mul(0x9e37_79b1) >> 18) as u16,
        );
        let (from, to) = match who {
            Who::Client => (client, server),
            Who::Server => (server, client),
        };
        let frame = &mut self.buffer;
        frame.clear();
        // To a machine that is not there, so that the receiver's stack takes none.
        frame.extend([0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2, 0x08, 0x00]);
        let len = (IP + TCP + payload.len()) as u16;
        frame.extend([0x45, 0]);
        frame.extend(len.to_be_bytes());
        frame.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
        frame.extend(from.0.octets());
        frame.extend(to.0.octets());
        frame.extend(from.1.to_be_bytes());
        frame.extend(to.1.to_be_bytes());
        frame.extend(seq.to_be_bytes());
        frame.extend(ack.to_be_bytes());
        frame.extend([0x50, flags]);
        frame.extend(512u16.to_be_bytes());
        frame.extend([0; 4]);
        debug_assert_eq!(frame.len(), ETHERNET + IP + TCP);
        frame.extend(payload);
    }
}

/// Well below where sequence numbers wrap.
fn initial(of: u32, who: Who) -> u32 {
    let salt = match who {
        Who::Client => 0x85eb_ca6b,
        Who::Server => 0xc2b2_ae35,
    };
    of.wrapping_mul(salt) >> 1
}

/// What a browser asks with.
fn request(of: u32, key: &str) -> String {
    format!(
        "GET /chat/{of:06}?token=0123456789abcdef HTTP/1.1\r\nHost: chat.example.com:8000\r\n\
         User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\
         Accept: */*\r\nAccept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate\r\n\
         Sec-WebSocket-Version: 13\r\nOrigin: http://chat.example.com\r\n\
         Sec-WebSocket-Key: {key}\r\nConnection: keep-alive, Upgrade\r\n\
         Pragma: no-cache\r\nCache-Control: no-cache\r\nUpgrade: websocket\r\n\r\n"
    )
}

fn response(key: &str) -> String {
    let accept = derive_accept_key(key.as_bytes());
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    )
}
