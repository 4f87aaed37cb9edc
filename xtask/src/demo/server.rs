//! The demonstration's server: a chat, a ticker, an upload, an echo, and a door that stays shut.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::StatusCode;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};

/// What a peer may do to end: everything that goes wrong here is meant to.
type Ended = Result<(), Error>;
type Socket = WebSocketStream<TcpStream>;

/// The code with which the chat throws somebody out.
pub const KICKED: u16 = 4003;

/// The sockets on which the server listens: one port, for IPv4 and, where there is one, IPv6.
pub struct Listeners {
    v4: TcpListener,
    v6: Option<TcpListener>,
    port: u16,
}

impl Listeners {
    /// Binds `port` on both loopback addresses, or another if it is taken.
    pub async fn bind(port: u16) -> Result<Self> {
        let v4 = match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
            Ok(listener) => listener,
            Err(_) => TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
                .await
                .context("cannot listen on 127.0.0.1 for the demonstration")?,
        };
        let port = v4.local_addr().context("cannot ask for a port")?.port();
        let v6 = TcpListener::bind((Ipv6Addr::LOCALHOST, port)).await.ok();
        Ok(Self { v4, v6, port })
    }

    /// The port of all of them.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What to connect to, the IPv4 address first.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let v6 = self.v6.as_ref();
        let v6 = v6.map(|_| SocketAddr::from((Ipv6Addr::LOCALHOST, self.port)));
        let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        std::iter::once(v4).chain(v6).collect()
    }

    /// Serves in `tasks` until they are stopped.
    pub fn serve(self, tasks: &mut JoinSet<()>) {
        let chat = Arc::new(broadcast::channel(64).0);
        for listener in [Some(self.v4), self.v6].into_iter().flatten() {
            tasks.spawn(accept(listener, Arc::clone(&chat)));
        }
    }
}

async fn accept(listener: TcpListener, chat: Arc<broadcast::Sender<Message>>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve(stream, Arc::clone(&chat)));
                }
                // Out of descriptors: others will close.
                Err(_) => sleep(Duration::from_millis(100)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, chat: Arc<broadcast::Sender<Message>>) -> Ended {
    stream.set_nodelay(true)?;
    let mut path = String::new();
    #[expect(clippy::result_large_err, reason = "the signature is tungstenite's")]
    let admit = |request: &Request, response: Response| {
        path = request.uri().path().to_owned();
        if path.starts_with("/admin") {
            let mut refusal = ErrorResponse::new(Some("not for you\n".to_owned()));
            *refusal.status_mut() = StatusCode::FORBIDDEN;
            return Err(refusal);
        }
        Ok(response)
    };
    let socket = accept_hdr_async(stream, admit).await?;
    match path.split('/').nth(1) {
        Some("chat") => talk(socket, &chat).await,
        Some("ticker") => tick(socket).await,
        Some("upload") => collect(socket).await,
        _ => echo(socket).await,
    }
}

/// Passes on what one says to all; whoever says `spam` has to leave.
async fn talk(mut socket: Socket, chat: &broadcast::Sender<Message>) -> Ended {
    let mut others = chat.subscribe();
    loop {
        tokio::select! {
            received = socket.next() => match received {
                Some(Ok(Message::Text(text))) if text.contains("spam") => {
                    return close(socket, CloseCode::from(KICKED), "kicked: spam").await;
                }
                Some(Ok(message @ Message::Text(_))) => {
                    // Fails only when nobody listens.
                    drop(chat.send(message));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
                None => return Ok(()),
            },
            said = others.recv() => if let Ok(message) = said {
                socket.send(message).await?;
            },
        }
    }
}

/// Pushes prices and pings, and goes away after a while, as a server does that is deployed anew.
async fn tick(mut socket: Socket) -> Ended {
    let mut clock = interval(Duration::from_millis(250));
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for n in 0..16u32 {
        clock.tick().await;
        let price = 100 + (n * 7919) % 13;
        let text = format!(r#"{{"symbol":"WSTP","price":{price},"seq":{n}}}"#);
        socket.send(Message::text(text)).await?;
        if n % 5 == 2 {
            let payload = n.to_be_bytes().to_vec();
            socket.send(Message::Ping(payload.into())).await?;
        }
    }
    close(socket, CloseCode::Away, "restarting").await
}

/// Takes what comes and acknowledges each message with its size.
async fn collect(mut socket: Socket) -> Ended {
    while let Some(message) = socket.next().await {
        let message = message?;
        if message.is_binary() || message.is_text() {
            let receipt = format!("{} bytes", message.len());
            socket.send(Message::text(receipt)).await?;
        }
    }
    Ok(())
}

async fn echo(mut socket: Socket) -> Ended {
    while let Some(message) = socket.next().await {
        let message = message?;
        if message.is_binary() || message.is_text() {
            socket.send(message).await?;
        }
    }
    Ok(())
}

/// Begins the closing handshake and waits for its end.
async fn close(mut socket: Socket, code: CloseCode, reason: &str) -> Ended {
    let reason = reason.into();
    socket.close(Some(CloseFrame { code, reason })).await?;
    while let Some(message) = socket.next().await {
        message?;
    }
    Ok(())
}
