//! WebSocket implementations of others as clients and as servers: a script goes in, a report comes
//! out.
//!
//! A peer gets a [`Job`]: its role, where it listens, and for each conversation, known by the path
//! of its URL, what this end is to do, step by step. A server is to serve until all conversations
//! are over; a client begins all of them at once. It accepts permessage-deflate where it can, and
//! offers it with the parameters of the job. At its end it has a [`Report`] of each conversation,
//! by path.
//!
//! A peer in another language is a program in `tests/peers`. It gets the job as a JSON file, the
//! last word of its command line; it prints `ready` when it listens, and the reports as one line of
//! JSON when all is over. Errors go to its standard error, and to its exit status. A peer in Rust
//! is an [`in_thread::Peer`]. Either has a line in [`ALL`].

mod fastwebsockets;
mod in_thread;
mod process;
pub mod script;
mod tungstenite;

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    thread::JoinHandle,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize, Serializer};
use tempfile::NamedTempFile;

use super::{
    agent::Process,
    machine,
    netns::Netns,
    tally::{Counts, Tally},
    tap::{Ledger, Passed, Way},
};

/// Longest that a peer lives, in seconds, whatever happens to it.
const LIFETIME: u64 = 60;

/// A WebSocket implementation.
pub struct Implementation {
    /// Its name.
    pub name: &'static str,
    /// Whether it knows permessage-deflate.
    pub deflates: bool,
    start: fn(&Netns, &Job) -> Running,
}

/// All of them.
pub const ALL: [Implementation; 4] = [
    Implementation {
        name: "websockets",
        deflates: true,
        start: |ns, job| {
            let mut command = ns.command(machine::python());
            command.arg(machine::script("python_websockets.py"));
            process::start(command, job)
        },
    },
    Implementation {
        name: "ws",
        deflates: true,
        start: |ns, job| {
            let mut command = ns.command("node");
            command.env("NODE_PATH", machine::node_modules());
            command.arg(machine::script("node_ws.js"));
            process::start(command, job)
        },
    },
    Implementation {
        name: "tokio-tungstenite",
        deflates: false,
        start: in_thread::start::<tungstenite::Tungstenite>,
    },
    Implementation {
        name: "fastwebsockets",
        deflates: false,
        start: in_thread::start::<fastwebsockets::FastWebSockets>,
    },
];

impl Implementation {
    /// Starts it inside a namespace; a server listens when this returns.
    #[track_caller]
    pub fn start(&self, ns: &Netns, job: &Job) -> Running {
        (self.start)(ns, job)
    }
}

/// One of the two ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It connects.
    Client,
    /// It listens.
    Server,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Server => "server",
        })
    }
}

/// What a peer is to do.
#[derive(Clone, Debug, Serialize)]
pub struct Job {
    /// Its end of all conversations.
    pub role: Role,
    /// Where a server listens.
    pub host: IpAddr,
    /// Its port.
    pub port: u16,
    /// How long it may take.
    pub seconds: u64,
    /// Its part of each conversation, by path.
    pub conversations: BTreeMap<String, Part>,
}

impl Job {
    /// A job without conversations; a server listens on `address`.
    pub fn new(role: Role, address: SocketAddr) -> Self {
        Self {
            role,
            host: address.ip(),
            port: address.port(),
            seconds: LIFETIME,
            conversations: BTreeMap::new(),
        }
    }
}

/// One end of a conversation.
#[derive(Clone, Debug, Serialize)]
pub struct Part {
    /// Whereto a client connects.
    pub to: SocketAddr,
    /// What a client offers.
    pub deflate: Option<Deflate>,
    /// What is done, one after the other; messages and control frames are read all the while.
    pub steps: Vec<Step>,
}

/// The parameters of permessage-deflate (RFC 7692, section 7.1); those that are `None` or `false`
/// are not offered.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Deflate {
    /// The server is to begin each message anew.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub server_no_context_takeover: bool,
    /// The client will.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub client_no_context_takeover: bool,
    /// The server's window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_max_window_bits: Option<u8>,
    /// The client's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_max_window_bits: Option<u8>,
}

/// Something that an end does.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "do", rename_all = "lowercase")]
pub enum Step {
    /// Sends a frame: a message, a fragment of one, a ping or a pong. An implementation that will
    /// not be told where its messages are cut may cut them as it likes.
    Frame {
        /// `text`, `binary`, `continuation`, `ping` or `pong`.
        opcode: &'static str,
        /// Whether it ends its message.
        fin: bool,
        /// What it holds, before anything compresses it.
        #[serde(serialize_with = "base64")]
        payload: Vec<u8>,
    },
    /// Waits until so many messages have arrived since the beginning.
    Await {
        /// How many.
        messages: usize,
    },
    /// Closes with the closing handshake.
    Close {
        /// `None` for a close frame without a body.
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<u16>,
        /// Empty where there is no code.
        reason: &'static str,
    },
    /// Closes the TCP connection, which says FIN.
    Drop,
    /// Aborts the TCP connection, which says RST.
    Reset,
}

fn base64<S: Serializer>(payload: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&BASE64_STANDARD.encode(payload))
}

/// What one end says of a conversation.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Report {
    /// `Sec-WebSocket-Extensions` as the server sent it; only clients say it.
    pub extensions: Option<String>,
    /// The frames that it wrote.
    #[serde(default)]
    pub sent: Vec<Frame>,
    /// The frames that it read.
    #[serde(default)]
    pub received: Vec<Frame>,
    /// The messages that it gave to its user.
    #[serde(default)]
    pub messages: Vec<Message>,
    /// How it says that the connection ended.
    #[serde(default)]
    pub close: Close,
}

/// A frame as it is on the wire.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct Frame {
    /// Its opcode's name.
    pub opcode: String,
    /// Whether it ends its message.
    pub fin: bool,
    /// Whether RSV1 is set.
    pub rsv1: bool,
    /// Length of its payload.
    pub len: u64,
    /// The payload of a control frame, in hexadecimal.
    pub payload: Option<String>,
}

/// A message.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct Message {
    /// `text` or `binary`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its length when it has been inflated.
    pub len: u64,
}

/// An ending: 1005 where the close frame had no code, 1006 where there was none.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct Close {
    /// The code.
    pub code: u16,
    /// The reason.
    pub reason: String,
}

impl Default for Close {
    fn default() -> Self {
        Self {
            code: 1006,
            reason: String::new(),
        }
    }
}

/// A frame's payload in the form that reports have.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Ledger for Report {
    fn passed(&mut self, way: Way, frame: &Passed<'_>) {
        let frames = match way {
            Way::Read => &mut self.received,
            Way::Written => &mut self.sent,
        };
        frames.push(Frame {
            opcode: frame.opcode.to_owned(),
            fin: frame.fin,
            rsv1: frame.rsv1,
            len: frame.len,
            payload: frame.control.map(hex),
        });
    }
}

/// What is counted of frames that went one way.
pub fn counts(frames: &[Frame]) -> Counts {
    let mut counts = Counts::default();
    let mut message = None;
    for frame in frames {
        counts.frame(&frame.opcode, frame.len);
        if frame.payload.is_some() {
            continue;
        }
        let compressed = if frame.rsv1 { "+deflate" } else { "" };
        let kind = message.get_or_insert_with(|| format!("{}{compressed}", frame.opcode));
        if frame.fin {
            *counts.messages.entry(std::mem::take(kind)).or_default() += 1;
            message = None;
        }
    }
    counts
}

/// What is counted of a conversation that both ends report and that ended as it was to.
pub fn tally(ending: script::Ending, client: &Report, server: &Report) -> Tally {
    let closed = format!("{} {} {}", ending.kind(), ending.close().code, ending.by);
    Tally {
        client_to_server: counts(&client.sent),
        server_to_client: counts(&server.sent),
        closed: BTreeMap::from([(closed, 1)]),
    }
}

/// What a peer has to say, by path.
pub type Reports = BTreeMap<String, Report>;

/// A peer at work.
pub enum Running {
    /// As a process, with its job.
    Process(Process, NamedTempFile),
    /// On a thread.
    Thread(JoinHandle<Reports>),
}

impl Running {
    /// Waits for its end.
    #[track_caller]
    pub fn reports(self) -> Reports {
        match self {
            Self::Process(process, _job) => process::reports(process),
            Self::Thread(thread) => thread.join().expect("a peer that comes to its end"),
        }
    }
}
