//! A case: what is sent, and what has to be said of it.

/// A frame as it is sent.
#[derive(Clone, Debug)]
pub struct Sent {
    /// FIN, RSV and opcode.
    pub first: u8,
    /// Before masking.
    pub payload: Vec<u8>,
    /// A pong to a ping that is still without one.
    pub answers: bool,
}

/// A message that is said to be complete.
#[derive(Clone, Debug)]
pub struct Message {
    pub kind: &'static str,
    /// On the wire.
    pub len: usize,
    pub frames: usize,
    /// Length before it was compressed, where it was.
    pub inflated: Option<usize>,
}

/// How the connection is said to have ended.
#[derive(Clone, Debug)]
pub struct Ending {
    pub kind: &'static str,
    pub code: u16,
    pub reason: String,
}

/// A case of one of the groups of the public list.
#[derive(Clone, Debug)]
pub struct Case {
    /// As the list numbers it.
    pub id: String,
    /// It is about writes of so many octets.
    pub chops: Option<usize>,
    /// `Sec-WebSocket-Extensions` of the answer.
    pub extensions: Option<String>,
    /// What the one end sends.
    pub sent: Vec<Sent>,
    /// What the other answers when all was sent.
    pub answer: Vec<Sent>,
    pub messages: Vec<Message>,
    /// Rules that the sender breaks, and how often.
    pub broken: Vec<(&'static str, u64)>,
    pub ending: Ending,
}

pub const FIN: u8 = 0x80;
pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
pub const CLOSE: u8 = 0x88;
pub const PING: u8 = 0x89;
pub const PONG: u8 = 0x8a;

impl Case {
    /// Nothing is sent, and both ends finish.
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            chops: None,
            extensions: None,
            sent: Vec::new(),
            answer: Vec::new(),
            messages: Vec::new(),
            broken: Vec::new(),
            ending: Ending {
                kind: "fin",
                code: 1006,
                reason: String::new(),
            },
        }
    }

    /// Sends a frame.
    pub fn frame(mut self, first: u8, payload: impl AsRef<[u8]>) -> Self {
        self.sent.push(Sent {
            first,
            payload: payload.as_ref().to_vec(),
            answers: false,
        });
        self
    }

    /// A message is complete, of `frames` frames with `len` bytes in all.
    pub fn message(mut self, kind: &'static str, len: usize, frames: usize) -> Self {
        self.messages.push(Message {
            kind,
            len,
            frames,
            inflated: None,
        });
        self
    }

    /// Sends a text in one frame.
    pub fn text(self, payload: impl AsRef<[u8]>) -> Self {
        let len = payload.as_ref().len();
        self.frame(FIN | TEXT, payload).message("text", len, 1)
    }

    /// Sends a binary message in one frame.
    pub fn binary(self, payload: impl AsRef<[u8]>) -> Self {
        let len = payload.as_ref().len();
        self.frame(FIN | BINARY, payload).message("binary", len, 1)
    }

    /// Sends a text of `text` bytes in one frame, compressed.
    pub fn compressed(mut self, wire: &[u8], text: usize) -> Self {
        self = self.frame(FIN | 0x40 | TEXT, wire);
        self.messages.push(Message {
            kind: "text",
            len: wire.len(),
            frames: 1,
            inflated: Some(text),
        });
        self
    }

    /// The other end answers a ping.
    pub fn pong(mut self, payload: impl AsRef<[u8]>) -> Self {
        self.answer.push(Sent {
            first: PONG,
            payload: payload.as_ref().to_vec(),
            answers: true,
        });
        self
    }

    /// The sender breaks a rule.
    pub fn breaks(mut self, rule: &'static str, times: u64) -> Self {
        self.broken.push((rule, times));
        self
    }

    /// Sends a close frame that is not answered.
    pub fn close(mut self, body: &[u8], code: u16, reason: &str) -> Self {
        self = self.frame(CLOSE, body);
        self.ending = Ending {
            kind: "half",
            code,
            reason: reason.to_owned(),
        };
        self
    }

    /// The other end answers with a close frame.
    pub fn answered(mut self, body: &[u8]) -> Self {
        self.answer.push(Sent {
            first: CLOSE,
            payload: body.to_vec(),
            answers: false,
        });
        self.ending.kind = "clean";
        self
    }

    /// Is sent in writes of so many octets, and in no other cut.
    pub fn in_chops(mut self, octets: usize) -> Self {
        self.chops = Some(octets);
        self
    }

    /// Agrees on extensions.
    pub fn agrees(mut self, extensions: &str) -> Self {
        self.extensions = Some(extensions.to_owned());
        self
    }
}

/// Body of a close frame.
pub fn body(code: u16, reason: impl AsRef<[u8]>) -> Vec<u8> {
    [&code.to_be_bytes(), reason.as_ref()].concat()
}
