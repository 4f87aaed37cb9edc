//! The fuzzer at one end of a connection, an implementation at the other: what was sent, what the
//! other end answered, and what has to be said of both.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    sync::mpsc,
    thread,
};

use crate::cases::{
    case::{CLOSE, Ending, FIN, Message, PING, PONG, Sent, TEXT, body},
    run::{self, Run},
    said::Said,
};

/// The text after all others: its echo says that all before it was taken.
const MARKER: &[u8] = b"is that all?";

/// What happened on a connection.
#[derive(Debug)]
pub struct Conversation {
    /// The fuzzer's side.
    side: usize,
    sent: Vec<Sent>,
    heard: Vec<Sent>,
    /// Messages of the fuzzer's, the last text among them.
    messages: Vec<Message>,
    /// The other end has taken all: it has echoed as many.
    complete: bool,
    /// The other end sent its close frame before the fuzzer did.
    they_closed: bool,
    /// The other end has reset the connection, and did not finish it before.
    reset: bool,
}

/// What has to be said, as [`Run::expected`] does, and what is said.
pub struct Comparison {
    pub expected: Vec<String>,
    pub said: Vec<String>,
    /// All that the fuzzer sent is in it.
    pub whole: bool,
}

/// Reads an HTTP head, octet by octet: what comes after it stays.
pub fn head(mut stream: &TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut octet = [0];
        stream.read_exact(&mut octet).expect("an HTTP head");
        head.push(octet[0]);
    }
    String::from_utf8(head).expect("ASCII")
}

/// Sends a case after the handshake, closes where the case does not, and listens to the end.
pub fn converse(run: &Run, stream: &TcpStream) -> Conversation {
    let side = run.sender;
    let (tell, told) = mpsc::channel();
    thread::scope(|scope| {
        let listening = scope.spawn(move || listen(run, stream, &tell));
        let mut talk = Conversation {
            side,
            sent: run.case.sent.clone(),
            heard: Vec::new(),
            messages: run.case.messages.clone(),
            complete: false,
            they_closed: false,
            reset: false,
        };
        let mut open = true;
        for piece in run.pieces(side) {
            open = open && written(stream, &piece);
        }
        let mut we_closed = talk.sent.iter().any(closes);
        let marked = !we_closed && talk.send(stream, FIN | TEXT, MARKER);
        if marked {
            talk.messages.push(Message {
                kind: "text",
                len: MARKER.len(),
                frames: 1,
                inflated: None,
            });
        }
        let (mut they_closed, mut echoed) = (false, 0);
        for frame in told {
            echoed += usize::from(frame.first & 0x88 == FIN);
            they_closed |= closes(&frame);
            if !we_closed && (they_closed || marked && echoed == talk.messages.len()) {
                talk.complete = !they_closed;
                talk.they_closed = they_closed;
                we_closed = true;
                talk.send(stream, CLOSE, &body(1000, ""));
            }
            talk.heard.push(frame);
            // RFC 6455, section 7.1.1: it is the server that ends the TCP connection.
            if we_closed && they_closed && side == 1 {
                let _ = stream.shutdown(Shutdown::Write);
            }
        }
        talk.reset = listening.join().expect("a listener");
        talk
    })
}

/// Decodes what the other end sends, up to its end: whether that is a reset.
fn listen(run: &Run, mut stream: &TcpStream, tell: &mpsc::Sender<Sent>) -> bool {
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    let reset = loop {
        match stream.read(&mut buffer) {
            Ok(0) => break false,
            Ok(n) => bytes.extend_from_slice(&buffer[..n]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break true,
            Err(error) => panic!("{}: waiting for the other end: {error}", run.path()),
        }
        while let Some(frame) = decoded(&mut bytes, run.sender == 1) {
            tell.send(frame).expect("the fuzzer");
        }
    };
    assert!(bytes.is_empty(), "{}: half a frame {bytes:?}", run.path());
    reset
}

/// Takes a frame from the front, where there is a whole one.
fn decoded(bytes: &mut Vec<u8>, masked: bool) -> Option<Sent> {
    let (first, second) = (*bytes.first()?, *bytes.get(1)?);
    assert_eq!(second & 0x80 != 0, masked, "whose frames are masked");
    let (len, mut at) = match second & 0x7f {
        126 => (
            u64::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?)),
            4,
        ),
        127 => (u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?), 10),
        len => (u64::from(len), 2),
    };
    let mut key = [0; 4];
    if masked {
        key = *bytes.get(at..)?.first_chunk()?;
        at += 4;
    }
    let end = at + usize::try_from(len).expect("a length that memory can hold");
    let payload = bytes.get(at..end)?.iter().zip(key.iter().cycle());
    let payload = payload.map(|(octet, key)| octet ^ key).collect();
    bytes.drain(..end);
    Some(Sent {
        first,
        payload,
        answers: false,
    })
}

/// Whether it is a close frame.
fn closes(sent: &Sent) -> bool {
    sent.first & 15 == CLOSE & 15
}

/// Writes, unless the other end has gone.
fn written(mut stream: &TcpStream, piece: &[u8]) -> bool {
    match stream.write_all(piece) {
        Ok(()) => true,
        Err(error) => {
            let gone = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
            assert!(gone.contains(&error.kind()), "writing: {error}");
            false
        }
    }
}

impl Conversation {
    fn send(&mut self, stream: &TcpStream, first: u8, payload: &[u8]) -> bool {
        let sent = Sent {
            first,
            payload: payload.to_vec(),
            answers: false,
        };
        let written = written(stream, &run::encoded(&sent, self.side == 0));
        if written {
            self.sent.push(sent);
        }
        written
    }

    /// How the other end took it, in a word or two.
    pub fn answer(&self) -> String {
        let code_of = |sent: &[Sent]| sent.iter().find(|sent| closes(sent)).map(code);
        match (code_of(&self.sent), code_of(&self.heard)) {
            (_, None) => "hangs up".to_owned(),
            (ours, theirs) if ours == theirs && !self.they_closed => "closes as asked".to_owned(),
            (_, Some(theirs)) => format!("closes with {theirs}"),
        }
    }

    /// Holds what is said against what was sent and heard.
    ///
    /// An end that fails the connection may reset it, and what is still on its way then, or is not
    /// even sent, is not to be seen: of the fuzzer's frames the last may be missing, and of the
    /// last that is there the end of its payload.
    pub fn compare(&self, run: &Run, said: &Said) -> Comparison {
        let (we, they) = (self.side, 1 - self.side);
        let compressed = run.case.extensions.is_some();
        let mut frames = said.frames.clone();
        let mut messages = said.messages.clone();
        let mut broken = said.broken.clone();
        broken.sort();
        let (mut sent, mut whole) = (&self.sent[..], true);
        if !self.complete {
            sent = &sent[..sent.len().min(frames[we].len())];
            whole = sent.len() == self.sent.len();
            if let (Some(sent), Some(seen)) = (sent.last(), frames[we].last_mut()) {
                let sent = run::frame(sent, we, compressed);
                if sent != *seen && sent.starts_with(&*seen) {
                    *seen = sent;
                    whole = false;
                }
            }
        }

        let mut expected_frames = [Vec::new(), Vec::new()];
        let lines = sent.iter().map(|sent| run::frame(sent, we, compressed));
        expected_frames[we] = lines.collect();
        let heard = self.answers(sent);
        let lines = heard.iter().map(|sent| run::frame(sent, they, compressed));
        expected_frames[they] = lines.collect();

        let mut expected_messages = [Vec::new(), Vec::new()];
        let echoes = self.echoes();
        expected_messages[they] = echoes.iter().map(|m| run::message(m, they)).collect();
        let mut expected_broken = run::broken(&run.case.broken, we);
        if whole {
            let lines = self.messages.iter().map(|m| run::message(m, we));
            expected_messages[we] = lines.collect();
        } else {
            // What is said of a part is none other than what is said of the whole.
            messages[we].clear();
            expected_broken.retain(|line| broken.contains(line));
        }

        let mut rest = said.rest.clone();
        if !self.reset {
            // A reset that comes after the other end's FIN shows nowhere here.
            let lines = rest.iter_mut();
            lines.for_each(|line| *line = line.replace("rst 1006", "fin 1006"));
        }
        let (frames, messages) = (frames.concat(), messages.concat());
        let (ending, expected_frames) = (self.ending(run, sent), expected_frames.concat());
        let expected_messages = expected_messages.concat();
        Comparison {
            expected: [
                expected_frames,
                expected_messages,
                expected_broken,
                vec![ending],
            ]
            .concat(),
            said: [frames, messages, broken, rest].concat(),
            whole,
        }
    }

    /// What was heard, with the pongs that answer a ping of these frames marked.
    fn answers(&self, sent: &[Sent]) -> Vec<Sent> {
        let mut pings: Vec<_> = sent.iter().filter(|sent| sent.first == PING).collect();
        let mut heard = self.heard.clone();
        for frame in heard.iter_mut().filter(|frame| frame.first == PONG) {
            if let Some(ping) = pings.iter().position(|ping| ping.payload == frame.payload) {
                pings.remove(ping);
                frame.answers = true;
            }
        }
        heard
    }

    /// The messages of the other end. It echoes: what they are inflated to is known.
    fn echoes(&self) -> Vec<Message> {
        let mut echoes: Vec<Message> = Vec::new();
        let mut open: Option<Message> = None;
        for frame in self.heard.iter().filter(|frame| frame.first & 8 == 0) {
            let echo = open.get_or_insert_with(|| {
                let original = self.messages.get(echoes.len());
                let plain = original.map(|original| original.inflated.unwrap_or(original.len));
                let text = frame.first & 15 == TEXT;
                Message {
                    kind: if text { "text" } else { "binary" },
                    len: 0,
                    frames: 0,
                    inflated: plain.filter(|_| frame.first & 0x40 != 0),
                }
            });
            echo.len += frame.payload.len();
            echo.frames += 1;
            if frame.first & 0x80 != 0 {
                echoes.extend(open.take());
            }
        }
        echoes
    }

    /// How the connection has ended, where only these frames of the fuzzer's were seen.
    fn ending(&self, run: &Run, sent: &[Sent]) -> String {
        let ours = sent.iter().find(|sent| closes(sent));
        let theirs = self.heard.iter().find(|sent| closes(sent));
        let kind = match (ours, theirs) {
            (Some(_), Some(_)) => "clean",
            (None, None) if self.reset => "rst",
            (None, None) => "fin",
            _ => "half",
        };
        // Without a close frame from either, it is the other end that has hung up.
        let they_began = self.they_closed || ours.is_none();
        let first = if they_began { theirs } else { ours };
        let ending = match first {
            Some(_) if !they_began && run.case.sent.iter().any(closes) => Ending {
                kind,
                ..run.case.ending.clone()
            },
            Some(close) => Ending {
                kind,
                code: code(close),
                reason: reason(close),
            },
            None => Ending {
                kind,
                code: 1006,
                reason: String::new(),
            },
        };
        let side = if they_began { 1 - self.side } else { self.side };
        run::ending(&ending, side)
    }
}

fn code(close: &Sent) -> u16 {
    let code = close.payload.first_chunk();
    code.map_or(1005, |code| u16::from_be_bytes(*code))
}

fn reason(close: &Sent) -> String {
    let reason = close.payload.get(2..).unwrap_or_default();
    String::from_utf8(reason.to_vec()).expect("an implementation's reason")
}
