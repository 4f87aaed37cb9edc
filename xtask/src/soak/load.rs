//! The mixed load: each kind in a thread of its own, until the time is up, with all that it has sent
//! known to the frame.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::bench::namespace::Side;
use crate::bench::traffic::{self, Amount, Load, MASK, PING, Plain, Sent, opcode};
use crate::interrupt;

/// Connections that say next to nothing.
const IDLE: usize = 100;
/// One of them says something so often.
const MURMUR: Duration = Duration::from_millis(100);
/// A connection of frames at full speed lives so long, and another comes after a pause: the processor is
/// not theirs alone.
const SESSION: Duration = Duration::from_millis(1500);
const PAUSE: Duration = Duration::from_millis(500);

/// What all clients did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    pub sent: Sent,
    /// Handshakes that were accepted, and those that were refused.
    pub accepted: u64,
    pub refused: u64,
}

/// What the threads have in common.
pub struct Clients<'a> {
    pub side: &'a Side,
    pub server: SocketAddr,
    /// The same, behind a network that loses segments.
    pub lossy: SocketAddr,
    pub end: Instant,
    pub done: Mutex<Done>,
}

impl Clients<'_> {
    /// Starts all kinds.
    pub fn start<'scope, 'env>(
        &'env self,
        scope: &'scope Scope<'scope, 'env>,
    ) -> Vec<(&'static str, ScopedJoinHandle<'scope, Result<()>>)> {
        type Kind = fn(&Clients<'_>) -> Result<()>;
        let kinds: [(&'static str, Kind); 10] = [
            ("64 B frames, 100 a write", |all| {
                all.frames(all.server, 64, 100, false)
            }),
            ("16 KiB frames", |all| {
                all.frames(all.server, 16 << 10, 1, false)
            }),
            ("1 MiB frames", |all| {
                all.frames(all.server, 1 << 20, 1, false)
            }),
            ("64 B echo", |all| all.frames(all.server, 64, 1, true)),
            ("frames over a lossy network", |all| {
                all.frames(all.lossy, 1000, 3, false)
            }),
            ("echo over a lossy network", |all| {
                all.frames(all.lossy, 300, 1, true)
            }),
            ("handshakes", |all| all.handshakes()),
            ("refused handshakes", |all| all.refused()),
            ("idle connections", |all| all.idle()),
            ("what is no WebSocket", |all| all.plain()),
        ];
        let start = |(name, kind): (&'static str, Kind)| {
            let thread = scope.spawn(move || {
                self.side.enter()?;
                kind(self).with_context(|| format!("the load `{name}` failed"))
            });
            (name, thread)
        };
        kinds.into_iter().map(start).collect()
    }

    fn goes_on(&self) -> bool {
        Instant::now() < self.end && !interrupt::raised()
    }

    fn note(&self, sent: Sent, accepted: u64, refused: u64) {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.sent += sent;
        done.accepted += accepted;
        done.refused += refused;
    }

    /// Connections one after the other, at full speed.
    fn frames(&self, to: SocketAddr, payload: usize, together: usize, echo: bool) -> Result<()> {
        let amount = Amount::For(SESSION);
        while self.goes_on() {
            let load = Load {
                payload,
                together,
                echo,
                amount,
            };
            self.note(traffic::client(to, load)?.sent, 1, 0);
            thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Connections that come, ping, and go.
    fn handshakes(&self) -> Result<()> {
        while self.goes_on() {
            let mut stream = traffic::open(self.server, "/echo/64")?;
            let mut sent = ping(&mut stream)?;
            sent += traffic::close(&mut stream)?;
            self.note(sent, 1, 0);
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn refused(&self) -> Result<()> {
        while self.goes_on() {
            let (mut stream, status) = traffic::ask(self.server, "/refused")?;
            if status == 101 {
                traffic::close(&mut stream)?;
                anyhow::bail!("the server accepts what it should refuse");
            }
            self.note(Sent::default(), 0, 1);
            thread::sleep(Duration::from_millis(30));
        }
        Ok(())
    }

    /// Connections that stay, of which one pings now and then.
    fn idle(&self) -> Result<()> {
        let mut streams = Vec::new();
        while streams.len() < IDLE && self.goes_on() {
            streams.push(traffic::open(self.server, "/echo/64")?);
            self.note(Sent::default(), 1, 0);
        }
        for at in (0..streams.len()).cycle() {
            if !self.goes_on() {
                break;
            }
            if let Some(stream) = streams.get_mut(at) {
                self.note(ping(stream)?, 0, 0);
            }
            thread::sleep(MURMUR);
        }
        for mut stream in streams {
            self.note(traffic::close(&mut stream)?, 0, 0);
        }
        Ok(())
    }

    /// HTTP, TCP and UDP.
    fn plain(&self) -> Result<()> {
        while self.goes_on() {
            for _ in 0..10 {
                let mut stream = traffic::connect(self.server)?;
                for _ in 0..10 {
                    stream.write_all(b"GET / HTTP/1.1\r\nHost: plain\r\n\r\n")?;
                    let mut answer = [0; 40];
                    stream
                        .read_exact(&mut answer)
                        .context("cannot read an answer")?;
                }
            }
            for kind in [Plain::Udp, Plain::Tcp, Plain::Http] {
                traffic::plain(self.server, kind, 1024, Amount::Writes(2000))?;
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

/// A ping, and its pong.
fn ping(stream: &mut TcpStream) -> Result<Sent> {
    stream
        .write_all(&traffic::frame(opcode::PING, PING, Some(MASK)))
        .context("cannot write a ping")?;
    let mut pong = traffic::frame(opcode::PONG, PING, None);
    stream.read_exact(&mut pong).context("cannot read a pong")?;
    let mut sent = Sent::default();
    sent.add(opcode::PING, 1, PING.len() as u64);
    Ok(sent)
}
