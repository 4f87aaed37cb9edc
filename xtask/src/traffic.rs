//! One end of the traffic of a measurement, as a process of its own: a process enters a network
//! namespace as a whole. Plain blocking sockets; each end stops by itself.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Subcommand, ValueEnum};
use tokio_tungstenite::tungstenite::{self, Message};

use crate::http;

/// A server waits no longer than this for its client to come and to go on.
const PATIENCE: Duration = Duration::from_secs(20);

/// Which end, and of what.
#[derive(Clone, Copy, Subcommand)]
pub enum Role {
    /// Reads what one client sends, and says `ready` before
    Serve {
        /// What is sent
        kind: Kind,
        /// Where to listen
        address: SocketAddr,
    },
    /// Sends a number of payloads
    Send {
        /// What to send
        kind: Kind,
        /// Where to
        address: SocketAddr,
        /// Bytes of each payload
        size: usize,
        /// How many
        count: u64,
    },
    /// Prints the agent's metrics
    Metrics {
        /// Where it listens
        address: SocketAddr,
    },
}

/// What the traffic is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Kind {
    /// Datagrams
    Udp,
    /// A TCP stream that is no WebSocket
    Tcp,
    /// Binary messages of a WebSocket
    Ws,
}

impl Kind {
    /// As typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Ws => "ws",
        }
    }
}

/// Plays one end.
pub fn command(role: Role) -> Result<()> {
    match role {
        Role::Serve { kind, address } => serve(kind, address),
        Role::Send {
            kind,
            address,
            size,
            count,
        } => send(kind, address, size, count),
        Role::Metrics { address } => {
            print!("{}", http::get(address, "/metrics")?.1);
            Ok(())
        }
    }
}

fn serve(kind: Kind, address: SocketAddr) -> Result<()> {
    if kind == Kind::Udp {
        let socket = UdpSocket::bind(address).with_context(|| format!("cannot bind {address}"))?;
        println!("ready");
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut buffer = [0; 65536];
        // An empty datagram is the end; it may be lost, and then silence is.
        loop {
            match socket.recv(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(_) => socket.set_read_timeout(Some(Duration::from_secs(1)))?,
                Err(error) if is_timeout(&error) => return Ok(()),
                Err(error) => return Err(error).context("cannot receive"),
            }
        }
    }
    let listener = TcpListener::bind(address).with_context(|| format!("cannot bind {address}"))?;
    println!("ready");
    let mut stream = accept(&listener)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    if kind == Kind::Tcp {
        let mut buffer = vec![0; 1 << 18];
        while stream.read(&mut buffer).context("cannot read")? > 0 {}
        return Ok(());
    }
    let mut socket = tungstenite::accept(stream).context("no WebSocket handshake came")?;
    loop {
        match socket.read() {
            Ok(_) => {}
            Err(tungstenite::Error::ConnectionClosed) => return Ok(()),
            Err(error) => return Err(error).context("cannot read a message"),
        }
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn accept(listener: &TcpListener) -> Result<TcpStream> {
    listener.set_nonblocking(true)?;
    let begun = Instant::now();
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(error) if is_timeout(&error) && begun.elapsed() < PATIENCE => {
                thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(error).context("no client came"),
        }
    }
}

fn send(kind: Kind, address: SocketAddr, size: usize, count: u64) -> Result<()> {
    let payload = vec![b'.'; size];
    match kind {
        Kind::Udp => {
            let any: SocketAddr = match address {
                SocketAddr::V4(_) => ([0; 4], 0).into(),
                SocketAddr::V6(_) => ([0u8; 16], 0).into(),
            };
            let socket = UdpSocket::bind(any).context("cannot make a socket")?;
            socket.connect(address).context("cannot connect")?;
            for _ in 0..count {
                socket.send(&payload).context("cannot send")?;
            }
            socket.send(&[]).context("cannot send the end")?;
        }
        Kind::Tcp => {
            let mut stream = connect(address)?;
            for _ in 0..count {
                stream.write_all(&payload).context("cannot write")?;
            }
            stream.shutdown(Shutdown::Write)?;
            // The server's end is the sign that it has read everything.
            while stream.read(&mut [0; 64]).context("cannot read the end")? > 0 {}
        }
        Kind::Ws => {
            let url = format!("ws://{address}/bench");
            let (mut socket, _) = tungstenite::client(url, connect(address)?)
                .map_err(|error| anyhow::anyhow!("no WebSocket: {error}"))?;
            let message = Message::binary(payload);
            for _ in 0..count {
                socket.send(message.clone()).context("cannot send")?;
            }
            socket.close(None).context("cannot close")?;
            while socket.read().is_ok() {}
        }
    }
    Ok(())
}

/// Connects without Nagle's algorithm: one write is one segment, as far as TCP can.
fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)
        .with_context(|| format!("cannot connect to {address}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}
