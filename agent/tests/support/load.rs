//! WebSocket clients and servers (tokio-tungstenite) on threads inside namespaces. They exchange
//! what a seed says, as often as the test asks, and a [`Tap`] counts it at both ends.

use std::{
    net::SocketAddr,
    ops::Add,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, accept_async, client_async,
    tungstenite::{
        Message, Utf8Bytes,
        protocol::{
            CloseFrame,
            frame::{
                Frame,
                coding::{Data, OpCode},
            },
        },
    },
};

use super::{
    eventually,
    netns::Netns,
    random::Random,
    tally::{Report, Tally},
    tap::{Shared, Tap},
};

/// Longest that a peer lives, whatever happens to it.
const LIFETIME: Duration = Duration::from_secs(100);

/// Who ends the connections.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Closer {
    /// The client.
    Client,
    /// The server.
    Server,
}

/// What is exchanged.
#[derive(Clone, Debug)]
pub struct Script {
    /// How many connections, all open at once.
    pub connections: u64,
    /// Where the messages come from.
    pub seed: u64,
    /// Who sends the first close frame.
    pub closer: Closer,
    /// Its code and reason; `None` for a close frame without a body.
    pub close: Option<(u16, &'static str)>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            connections: 3,
            seed: 1,
            closer: Closer::Client,
            close: Some((1000, "done")),
        }
    }
}

#[derive(Clone, Copy, Default)]
struct Orders {
    /// Messages and control frames that each end of each connection sends, from the beginning.
    messages: u64,
    close: bool,
}

/// The clients or the servers.
struct Side {
    report: Shared,
    /// What was sent and flushed, over all connections.
    sent: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

/// Connections that are open.
pub struct Load {
    script: Script,
    orders: watch::Sender<Orders>,
    client: Side,
    servers: Vec<Side>,
}

impl Load {
    /// Opens the connections from inside `client` to `to`, where they reach the servers that listen
    /// on `on` inside `server`.
    #[track_caller]
    pub fn open(
        client: &Netns,
        server: &Netns,
        to: SocketAddr,
        on: SocketAddr,
        script: Script,
    ) -> Self {
        Self::open_among(client, &[(server, on)], to, script)
    }

    /// As [`Load::open`], to where each of the servers is reached by as many of the connections.
    #[track_caller]
    pub fn open_among(
        client: &Netns,
        servers: &[(&Netns, SocketAddr)],
        to: SocketAddr,
        script: Script,
    ) -> Self {
        let (orders, watched) = watch::channel(Orders::default());
        let (opened, mut all_opened) = mpsc::channel::<()>(1);
        let n = script.connections;

        let each = n / servers.len() as u64;
        assert_eq!(each * servers.len() as u64, n, "as many for each");
        let serve = |&(server, on): &(&Netns, SocketAddr)| {
            let (listening, ready) = std::sync::mpsc::channel();
            let side = Side::spawn(server, &script, Closer::Server, &watched, &opened, {
                move |end: End| async move {
                    let listener = TcpListener::bind(on).await.expect("a free port");
                    listening.send(()).expect("the test is waiting");
                    for i in 0..each {
                        let (stream, _) = listener.accept().await.expect("a client");
                        tokio::spawn(end.clone().serve(stream, i));
                    }
                    end
                }
            });
            ready
                .recv_timeout(Duration::from_secs(10))
                .expect("a listening server");
            side
        };
        let servers = servers.iter().map(serve).collect();
        let client = Side::spawn(client, &script, Closer::Client, &watched, &opened, {
            move |end: End| async move {
                for i in 0..n {
                    let stream = TcpStream::connect(to);
                    let stream = timeout(Duration::from_secs(10), stream).await;
                    let stream = stream
                        .unwrap_or_else(|_| panic!("connecting to {to} takes too long"))
                        .unwrap_or_else(|error| panic!("connecting to {to}: {error}"));
                    tokio::spawn(end.clone().ask(stream, to, i));
                }
                end
            }
        });
        drop(opened);
        // Each connection's two ends send once; the channel closes after the last.
        for _ in 0..2 * n {
            assert!(
                all_opened.blocking_recv().is_some(),
                "connections from {to} could not all be opened"
            );
        }
        Self {
            script,
            orders,
            client,
            servers,
        }
    }

    /// Has each end of each connection send `messages` more, and waits until all has arrived.
    #[track_caller]
    pub fn exchange(&self, messages: u64) {
        self.orders
            .send_modify(|orders| orders.messages += messages);
        let due = self.orders.borrow().messages * self.script.connections;
        let mut last = None;
        eventually(
            "the peers have exchanged what they should",
            LIFETIME,
            || {
                let sent = |side: &Side| side.sent.load(Ordering::Acquire);
                let sent = [sent(&self.client), self.servers.iter().map(sent).sum()];
                let (client, server) = (self.client.report(), self.served());
                let arrived = client.sent == server.received && server.sent == client.received;
                // Pongs follow by themselves: all is over once nothing has moved for a while.
                let now = Some((client, server));
                let quiet = now == last;
                last = now;
                if sent == [due; 2] && arrived && quiet {
                    return Ok(());
                }
                thread::sleep(Duration::from_millis(50));
                Err(format!("sent {sent:?} of {due} each; arrived: {arrived}"))
            },
        );
    }

    /// What has been exchanged so far.
    #[track_caller]
    pub fn so_far(&self) -> Tally {
        Tally::agreed(&self.client.report(), &self.served(), self.initiator())
    }

    /// What the servers report together.
    fn served(&self) -> Report {
        let reports = self.servers.iter().map(Side::report);
        reports.reduce(Add::add).unwrap_or_default()
    }

    /// Closes all connections: what was exchanged, by both ends' count.
    #[track_caller]
    pub fn close(self) -> Tally {
        self.orders.send_modify(|orders| orders.close = true);
        let initiator = self.initiator();
        let end = |side: Side| {
            side.thread.join().expect("peers that come to their end");
            let report = side.report.lock().unwrap_or_else(PoisonError::into_inner);
            report.clone()
        };
        let client = end(self.client);
        let servers = self.servers.into_iter().map(end);
        let server = servers.reduce(Add::add).unwrap_or_default();
        let tally = Tally::agreed(&client, &server, initiator);
        assert_eq!(tally.closed.values().sum::<u64>(), self.script.connections);
        tally
    }

    /// [`Load::open`], [`Load::exchange`] and [`Load::close`].
    #[track_caller]
    pub fn whole(
        client: &Netns,
        server: &Netns,
        to: SocketAddr,
        on: SocketAddr,
        script: Script,
        messages: u64,
    ) -> Tally {
        let load = Self::open(client, server, to, on, script);
        load.exchange(messages);
        load.close()
    }

    fn initiator(&self) -> &'static str {
        match self.script.closer {
            Closer::Client => "client",
            Closer::Server => "server",
        }
    }
}

impl Side {
    fn spawn<F: Future<Output = End> + Send>(
        ns: &Netns,
        script: &Script,
        role: Closer,
        orders: &watch::Receiver<Orders>,
        opened: &mpsc::Sender<()>,
        connect: impl FnOnce(End) -> F + Send + 'static,
    ) -> Self {
        let report = Shared::default();
        let sent = Arc::new(AtomicU64::new(0));
        let (over, mut all_over) = mpsc::channel::<()>(1);
        let end = End {
            close: (script.closer == role).then_some(script.close),
            seed: script.seed.wrapping_mul(2) + u64::from(role == Closer::Server),
            orders: orders.clone(),
            report: Arc::clone(&report),
            sent: Arc::clone(&sent),
            opened: Some(opened.clone()),
            _over: over,
        };
        let thread = ns.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.expect("a runtime").block_on(async {
                let whole = async {
                    drop(connect(end).await);
                    all_over.recv().await;
                };
                timeout(LIFETIME, whole)
                    .await
                    .expect("connections that come to their end");
            });
        });
        Self {
            report,
            sent,
            thread,
        }
    }

    fn report(&self) -> Report {
        self.report
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// One end of one connection.
#[derive(Clone)]
struct End {
    /// Set at the end that closes: code and reason.
    close: Option<Option<(u16, &'static str)>>,
    seed: u64,
    orders: watch::Receiver<Orders>,
    report: Shared,
    sent: Arc<AtomicU64>,
    opened: Option<mpsc::Sender<()>>,
    _over: mpsc::Sender<()>,
}

impl End {
    async fn serve(self, stream: TcpStream, i: u64) {
        stream.set_nodelay(true).expect("a socket option");
        let tap = Tap::new(stream, Arc::clone(&self.report));
        self.converse(accept_async(tap).await.expect("a handshake"), i)
            .await;
    }

    async fn ask(self, stream: TcpStream, to: SocketAddr, i: u64) {
        stream.set_nodelay(true).expect("a socket option");
        let tap = Tap::new(stream, Arc::clone(&self.report));
        let url = format!("ws://{to}/load/{i}?seed={}", self.seed);
        let (socket, _) = client_async(url, tap).await.expect("a handshake");
        self.converse(socket, i).await;
    }

    async fn converse(mut self, socket: WebSocketStream<Tap<TcpStream>>, i: u64) {
        if let Some(opened) = self.opened.take() {
            opened.send(()).await.expect("the test is waiting");
        }
        let (mut sink, mut source) = socket.split();
        let send = async {
            let mut messages = Messages::new(self.seed, i);
            let (mut sent, mut flushed) = (0, 0);
            loop {
                let orders = *self.orders.borrow_and_update();
                while sent < orders.messages {
                    for frame in messages.draw() {
                        sink.feed(Message::Frame(frame))
                            .await
                            .expect("an open connection");
                    }
                    sent += 1;
                    // Now and then, so that segments begin with a header, end in one, hold many.
                    if messages.random.below(3) == 0 {
                        sink.flush().await.expect("an open connection");
                    }
                }
                sink.flush().await.expect("an open connection");
                self.sent.fetch_add(sent - flushed, Ordering::AcqRel);
                flushed = sent;
                if orders.close {
                    break;
                }
                if self.orders.changed().await.is_err() {
                    break;
                }
            }
            if let Some(close) = self.close {
                let close = close.map(|(code, reason)| CloseFrame {
                    code: code.into(),
                    reason: Utf8Bytes::from_static(reason),
                });
                sink.send(Message::Close(close))
                    .await
                    .expect("an open connection");
            }
        };
        let receive = async {
            // Ends with the closing handshake; an error shows as counts that do not agree.
            while let Some(Ok(_)) = source.next().await {}
        };
        tokio::join!(send, receive);
    }
}

/// Messages of one end of one connection.
struct Messages {
    random: Random,
}

impl Messages {
    fn new(seed: u64, i: u64) -> Self {
        Self {
            random: Random(seed.wrapping_mul(0x9e37_79b9).wrapping_add(i)),
        }
    }

    /// The frames of the next message, or a control frame.
    fn draw(&mut self) -> Vec<Frame> {
        match self.random.below(100) {
            0..10 => vec![self.ping()],
            10..13 => {
                let len = self.random.below(126);
                vec![Frame::pong(self.random.letters(len))]
            }
            13..30 => {
                let fragments = 2 + self.random.below(4);
                let mut frames = Vec::new();
                for n in 0..fragments {
                    let opcode = if n == 0 { self.data() } else { Data::Continue };
                    frames.push(self.frame(opcode, n + 1 == fragments));
                    if n + 1 < fragments && self.random.below(3) == 0 {
                        frames.push(self.ping());
                    }
                }
                frames
            }
            _ => {
                let opcode = self.data();
                vec![self.frame(opcode, true)]
            }
        }
    }

    fn ping(&mut self) -> Frame {
        let len = self.random.below(126);
        Frame::ping(self.random.letters(len))
    }

    fn data(&mut self) -> Data {
        if self.random.below(2) == 0 {
            Data::Text
        } else {
            Data::Binary
        }
    }

    fn frame(&mut self, opcode: Data, fin: bool) -> Frame {
        // All three forms of the length, its limits among them.
        let len = match self.random.below(1000) {
            0..560 => self.random.below(125),
            560..600 => [0, 125, 126, 127][self.random.below(4) as usize],
            600..900 => 126 + self.random.below(1000),
            900..996 => 1000 + self.random.below(8000),
            996..998 => [65535, 65536][self.random.below(2) as usize],
            _ => 60_000 + self.random.below(90_000),
        };
        Frame::message(self.random.letters(len), OpCode::Data(opcode), fin)
    }
}
