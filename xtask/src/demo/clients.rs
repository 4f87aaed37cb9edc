//! The demonstration's clients. Each lives again and again, a few seconds each time, and each ends
//! in a way of its own.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

type Ended = Result<(), Error>;
type Socket = WebSocketStream<TcpStream>;

/// How often each client has come to the end that it was meant to come to.
pub struct Endings([(&'static str, AtomicU64); 7]);

const MEMBER: usize = 0;
const SPAMMER: usize = 1;
const READER: usize = 2;
const UPLOADER: usize = 3;
const DROPPER: usize = 4;
const RESETTER: usize = 5;
const INTRUDER: usize = 6;

impl Endings {
    fn new() -> Self {
        let names = [
            "1000",
            "4003 by the server",
            "1001 by the server",
            "without a code",
            "FIN",
            "RST",
            "refused with 403",
        ];
        Self(names.map(|name| (name, AtomicU64::new(0))))
    }

    /// Name and number of each.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let load = |(name, count): &(&'static str, AtomicU64)| (*name, count.load(Relaxed));
        self.0.iter().map(load)
    }
}

/// Starts them in `tasks`, until these are stopped. They take turns at the addresses.
pub fn start(tasks: &mut JoinSet<()>, addresses: &[SocketAddr]) -> Arc<Endings> {
    let endings = Arc::new(Endings::new());
    let (Some(&v4), Some(&v6)) = (addresses.first(), addresses.last()) else {
        return endings;
    };
    let mut clients = Clients { tasks, endings };
    clients.start(MEMBER, 900, move |n| member(v4, "ada", n));
    clients.start(MEMBER, 1300, move |n| member(v6, "bob", n));
    clients.start(SPAMMER, 4000, move |_| spammer(v4));
    clients.start(READER, 2000, move |_| reader(v6));
    clients.start(UPLOADER, 3000, move |_| uploader(v4));
    clients.start(DROPPER, 6000, move |_| dropper(v6));
    clients.start(RESETTER, 7000, move |_| resetter(v4));
    clients.start(INTRUDER, 5000, move |_| intruder(v4));
    clients.endings
}

struct Clients<'a> {
    tasks: &'a mut JoinSet<()>,
    endings: Arc<Endings>,
}

impl Clients<'_> {
    /// Runs a session, rests, and does so again.
    fn start<S, F>(&mut self, ending: usize, rest_ms: u64, session: S)
    where
        S: Fn(u32) -> F + Send + 'static,
        F: Future<Output = Ended> + Send,
    {
        let endings = Arc::clone(&self.endings);
        self.tasks.spawn(async move {
            for n in 0.. {
                if session(n).await.is_ok() {
                    endings.0[ending].1.fetch_add(1, Relaxed);
                }
                sleep(Duration::from_millis(rest_ms)).await;
            }
        });
    }
}

async fn open(address: SocketAddr, path: &str) -> Result<Socket, Error> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (socket, _) = client_async(format!("ws://{address}{path}"), stream).await?;
    Ok(socket)
}

/// Reads for a while; pings are answered on the way.
async fn listen(socket: &mut Socket, length: Duration) -> Ended {
    let read = async {
        while let Some(message) = socket.next().await {
            message?;
        }
        Err(Error::ConnectionClosed)
    };
    timeout(length, read).await.unwrap_or(Ok(()))
}

/// Reads to the end of the connection, and returns the close frame that was on the way.
async fn drain(socket: &mut Socket) -> Result<Option<CloseFrame>, Error> {
    let mut closed = None;
    while let Some(message) = socket.next().await {
        if let Message::Close(frame) = message? {
            closed = frame;
        }
    }
    Ok(closed)
}

/// Chats in a room, pings, and leaves with 1000.
async fn member(address: SocketAddr, name: &str, n: u32) -> Ended {
    let mut socket = open(address, &format!("/chat/{}?user={name}", 40 + n % 3)).await?;
    for line in ["hello", "anyone seen the deploy?", "👋 grüße", "bye"] {
        socket
            .send(Message::text(format!("{name}: {line}")))
            .await?;
        socket
            .send(Message::Ping(name.as_bytes().to_vec().into()))
            .await?;
        listen(&mut socket, Duration::from_millis(700)).await?;
    }
    let (code, reason) = (CloseCode::Normal, "see you".into());
    socket.close(Some(CloseFrame { code, reason })).await?;
    drain(&mut socket).await.map(drop)
}

/// Says what the chat does not want to hear, and is closed with a code of its own.
async fn spammer(address: SocketAddr) -> Ended {
    let mut socket = open(address, "/chat/41?user=mallory").await?;
    socket
        .send(Message::text("mallory: spam, spam, spam"))
        .await?;
    drain(&mut socket).await.map(drop)
}

/// Reads the ticker until its server goes away.
async fn reader(address: SocketAddr) -> Ended {
    let mut socket = open(address, "/ticker").await?;
    drain(&mut socket).await.map(drop)
}

/// Uploads: one large message, one in fragments with a ping between them; closes without a code.
async fn uploader(address: SocketAddr) -> Ended {
    let mut socket = open(address, "/upload").await?;
    socket.send(Message::binary(vec![0x5a; 300_000])).await?;
    socket.next().await.transpose()?;
    let fragment = |opcode, last| {
        let payload = vec![b'x'; 4096];
        Message::Frame(Frame::message(payload, OpCode::Data(opcode), last))
    };
    socket.send(fragment(Data::Binary, false)).await?;
    socket
        .send(Message::Ping(b"still here".to_vec().into()))
        .await?;
    socket.send(fragment(Data::Continue, false)).await?;
    socket.send(fragment(Data::Continue, true)).await?;
    listen(&mut socket, Duration::from_millis(300)).await?;
    socket.close(None).await?;
    drain(&mut socket).await.map(drop)
}

/// Hangs up without a close frame, as a client does that crashes: a FIN.
async fn dropper(address: SocketAddr) -> Ended {
    let mut socket = open(address, "/echo").await?;
    socket.send(Message::text("is this thing on?")).await?;
    // Nothing is left unread, or the kernel would send a RST.
    socket.next().await.transpose()?;
    Ok(())
}

/// Hangs up with a RST.
async fn resetter(address: SocketAddr) -> Ended {
    let mut socket = open(address, "/echo").await?;
    socket.send(Message::binary(vec![1, 2, 3, 4])).await?;
    socket.next().await.transpose()?;
    socket.get_ref().set_zero_linger()?;
    Ok(())
}

/// Wants in where it may not.
async fn intruder(address: SocketAddr) -> Ended {
    match open(address, "/admin/console?token=hunter2").await {
        Err(Error::Http(response)) if response.status() == 403 => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err(Error::ConnectionClosed),
    }
}
