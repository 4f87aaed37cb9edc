//! Conversations that a seed chooses.

use super::{Close, Deflate, Role, Step};
use crate::support::random::Random;

/// How a connection is ended, and by whom.
#[derive(Clone, Copy, Debug)]
pub struct Ending {
    /// Who begins it.
    pub by: Role,
    /// What it does.
    pub how: How,
}

/// What ends a connection.
#[derive(Clone, Copy, Debug)]
pub enum How {
    /// A close frame with a code and a reason.
    Close(u16, &'static str),
    /// A close frame without a body.
    NoStatus,
    /// A FIN.
    Drop,
    /// A RST.
    Reset,
}

impl Ending {
    /// What the contract calls it.
    pub fn kind(self) -> &'static str {
        match self.how {
            How::Close(..) | How::NoStatus => "clean",
            How::Drop => "fin",
            How::Reset => "rst",
        }
    }

    /// Code and reason.
    pub fn close(self) -> Close {
        let (code, reason) = match self.how {
            How::Close(code, reason) => (code, reason),
            How::NoStatus => (1005, ""),
            How::Drop | How::Reset => (1006, ""),
        };
        Close {
            code,
            reason: reason.to_owned(),
        }
    }
}

/// What both ends do on one connection.
#[derive(Clone, Debug)]
pub struct Script {
    /// What the client offers, where it can.
    pub deflate: Option<Deflate>,
    /// How it ends.
    pub ending: Ending,
    /// The client's steps.
    pub client: Vec<Step>,
    /// The server's.
    pub server: Vec<Step>,
}

/// Each way to end a connection, with and without compression.
const KINDS: [(Option<Deflate>, Ending); 8] = {
    use How::{Close, Drop, NoStatus, Reset};
    use Role::{Client, Server};
    const fn ending(by: Role, how: How) -> Ending {
        Ending { by, how }
    }
    const OFFER: Deflate = Deflate {
        server_no_context_takeover: false,
        client_no_context_takeover: false,
        server_max_window_bits: None,
        client_max_window_bits: None,
    };
    [
        (None, ending(Client, Close(1000, "done"))),
        (
            Some(OFFER),
            ending(Server, Close(4001, "hinausgeworfen: größer als erlaubt")),
        ),
        (
            Some(Deflate {
                server_no_context_takeover: true,
                client_max_window_bits: Some(10),
                ..OFFER
            }),
            ending(Client, NoStatus),
        ),
        (None, ending(Server, Close(1001, ""))),
        (
            Some(Deflate {
                client_no_context_takeover: true,
                server_max_window_bits: Some(9),
                ..OFFER
            }),
            ending(Client, Drop),
        ),
        (None, ending(Server, Drop)),
        (Some(OFFER), ending(Client, Reset)),
        (None, ending(Server, Reset)),
    ]
};

/// The conversations of a client with a server, one of each kind.
pub fn conversations(seed: u64) -> impl Iterator<Item = Script> {
    KINDS.iter().zip(0..).map(move |(&(deflate, ending), n)| {
        let random = |end: u64| Random(seed.wrapping_mul(0x9e37_79b9).wrapping_add(2 * n + end));
        let [mut client, mut server] = [0, 1].map(|end| steps(&mut random(end)));
        let (first, second) = match ending.by {
            Role::Client => (&mut client, &mut server),
            Role::Server => (&mut server, &mut client),
        };
        // Who ends the connection has had its last word answered twice: before the second time the other
        // end has read all that was written before the first, pongs too. Nothing is under way then,
        // and both ends have seen the same.
        for word in [&b"good-bye"[..], b"once more"] {
            let all = messages(first).count();
            second.push(Step::Await { messages: all });
            second.push(text(word));
            let all = messages(second).count();
            first.push(Step::Await { messages: all });
            first.push(text(word));
        }
        let all = messages(first).count();
        second.push(Step::Await { messages: all });
        second.push(text(b"now"));
        let all = messages(second).count();
        first.push(Step::Await { messages: all });
        first.push(match ending.how {
            How::Close(code, reason) => Step::Close {
                code: Some(code),
                reason,
            },
            How::NoStatus => Step::Close {
                code: None,
                reason: "",
            },
            How::Drop => Step::Drop,
            How::Reset => Step::Reset,
        });
        Script {
            deflate,
            ending,
            client,
            server,
        }
    })
}

/// The messages that are sent: type and content.
pub fn messages(steps: &[Step]) -> impl Iterator<Item = (&'static str, Vec<u8>)> {
    let mut messages: Vec<(&'static str, Vec<u8>)> = Vec::new();
    for step in steps {
        let Step::Frame {
            opcode, payload, ..
        } = step
        else {
            continue;
        };
        match (*opcode, messages.last_mut()) {
            ("text" | "binary", _) => messages.push((opcode, payload.clone())),
            ("continuation", Some((_, content))) => content.extend(payload),
            _ => {}
        }
    }
    messages.into_iter()
}

fn text(payload: &[u8]) -> Step {
    Step::Frame {
        opcode: "text",
        fin: true,
        payload: payload.to_vec(),
    }
}

/// What one end says before the end.
fn steps(random: &mut Random) -> Vec<Step> {
    let mut steps = Vec::new();
    for _ in 0..12 + random.below(10) {
        match random.below(100) {
            0..12 => steps.push(control("ping", random)),
            12..16 => steps.push(control("pong", random)),
            16..40 => fragmented(random, &mut steps),
            _ => {
                let (opcode, payload) = message(random);
                steps.push(Step::Frame {
                    opcode,
                    fin: true,
                    payload,
                });
            }
        }
    }
    steps.push(text("Ende, 終わり".as_bytes()));
    steps
}

/// A ping or a pong whose payload no other has.
fn control(opcode: &'static str, random: &mut Random) -> Step {
    let mut payload = random.next().to_be_bytes().to_vec();
    let len = random.below(118);
    payload.extend(random.letters(len));
    Step::Frame {
        opcode,
        fin: true,
        payload,
    }
}

/// A message in two to six fragments, which may be empty, and may cut characters; with pings
/// between them.
fn fragmented(random: &mut Random, steps: &mut Vec<Step>) {
    let (mut opcode, mut rest) = message(random);
    for left in (0..2 + random.below(5)).rev() {
        let at = match left {
            0 => rest.len(),
            _ => random.below(rest.len() as u64 + 1) as usize,
        };
        let behind = rest.split_off(at);
        steps.push(Step::Frame {
            opcode,
            fin: left == 0,
            payload: std::mem::replace(&mut rest, behind),
        });
        opcode = "continuation";
        if left > 0 && random.below(3) == 0 {
            steps.push(control("ping", random));
        }
    }
}

/// Type and content of a message.
fn message(random: &mut Random) -> (&'static str, Vec<u8>) {
    const LIMITS: [usize; 11] = [0, 1, 2, 124, 125, 126, 127, 128, 65_535, 65_536, 65_537];
    let len = match random.below(100) {
        0..45 => random.below(125) as usize,
        45..75 => LIMITS[random.below(LIMITS.len() as u64) as usize],
        75..98 => 126 + random.below(4000) as usize,
        _ => random.below(150_000) as usize,
    };
    match random.below(3) {
        0 => {
            let words = (0..len.div_ceil(8)).flat_map(|_| random.next().to_be_bytes());
            ("binary", words.take(len).collect())
        }
        1 => ("binary", random.letters(len as u64)),
        _ => ("text", characters(random, len)),
    }
}

/// UTF-8 of exactly this many bytes, with characters of one to four.
fn characters(random: &mut Random, len: usize) -> Vec<u8> {
    const CHARACTERS: [&str; 8] = ["a", "B", " ", "\0", "é", "世", "\u{2028}", "😀"];
    let mut text = Vec::new();
    while text.len() < len {
        let next = CHARACTERS[random.below(CHARACTERS.len() as u64) as usize];
        let fits = text.len() + next.len() <= len;
        text.extend(if fits { next } else { "x" }.as_bytes());
    }
    text
}
