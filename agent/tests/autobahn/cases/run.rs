//! A case as it is sent once, and what has to be said of it.

use super::case::{Case, Ending, Message, Sent};
use super::groups;

/// Payloads up to this length are compared byte by byte.
pub const PREVIEW: usize = 256;

/// By side: 0 is the client, 1 the server.
pub const DIRECTIONS: [&str; 2] = ["client_to_server", "server_to_client"];

/// By side, as well.
pub const ENDS: [&str; 2] = ["client", "server"];

/// A case is sent octet by octet where it has so many at most.
const FEW: usize = 700;

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// How bytes become segments.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cut {
    Frames,
    /// Of so many octets.
    Chops(usize),
    /// All at once, as far as it fits.
    Largest,
}

/// A case as it is sent once.
#[derive(Clone, Debug)]
pub struct Run {
    pub case: Case,
    /// 0 where the client is the sender, 1 where the server is.
    pub sender: usize,
    pub cut: Cut,
}

/// Every case in both directions, in every cut.
pub fn all() -> Vec<Run> {
    let mut runs = Vec::new();
    for case in groups::all() {
        let len: usize = case.sent.iter().map(|sent| sent.payload.len() + 14).sum();
        let cuts = match case.chops {
            Some(octets) => vec![Cut::Chops(octets)],
            None if len > FEW => vec![Cut::Frames, Cut::Largest],
            None => vec![Cut::Frames, Cut::Chops(1), Cut::Largest],
        };
        for cut in cuts {
            for sender in 0..2 {
                let case = case.clone();
                runs.push(Run { case, sender, cut });
            }
        }
    }
    runs
}

impl Run {
    /// What is asked for: it names the run.
    pub fn path(&self) -> String {
        let cut = match self.cut {
            Cut::Frames => "frames".to_owned(),
            Cut::Chops(octets) => octets.to_string(),
            Cut::Largest => "all".to_owned(),
        };
        let id = self.case.id.replace(", ", "/").replace(' ', "-");
        format!("/case/{id}?dir={}&cut={cut}", DIRECTIONS[self.sender])
    }

    pub fn request(&self, key: &str) -> String {
        let extensions = match &self.case.extensions {
            Some(offer) => format!("Sec-WebSocket-Extensions: {offer}\r\n"),
            None => String::new(),
        };
        format!(
            "GET {} HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n\
             Sec-WebSocket-Version: 13\r\n{extensions}\r\n",
            self.path(),
        )
    }

    pub fn response(&self, accept: &str) -> String {
        let extensions = match &self.case.extensions {
            Some(agreed) => format!("Sec-WebSocket-Extensions: {agreed}\r\n"),
            None => String::new(),
        };
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n{extensions}\r\n"
        )
    }

    /// The frames of a side, in the pieces in which they are sent.
    pub fn pieces(&self, side: usize) -> Vec<Vec<u8>> {
        let frames = self.frames(side).iter();
        let frames: Vec<_> = frames.map(|sent| encoded(sent, side == 0)).collect();
        match self.cut {
            Cut::Frames => frames,
            Cut::Chops(octets) => frames.concat().chunks(octets).map(<[u8]>::to_vec).collect(),
            Cut::Largest if frames.is_empty() => frames,
            Cut::Largest => vec![frames.concat()],
        }
    }

    /// What a side sends.
    pub fn frames(&self, side: usize) -> &[Sent] {
        if side == self.sender {
            &self.case.sent
        } else {
            &self.case.answer
        }
    }

    /// What has to be said: frames as they come, then messages, rules, the ending.
    pub fn expected(&self) -> Vec<String> {
        let case = &self.case;
        let mut lines = Vec::new();
        for side in 0..2 {
            for sent in self.frames(side) {
                lines.push(frame(sent, side, case.extensions.is_some()));
            }
        }
        for sent in &case.messages {
            lines.push(message(sent, self.sender));
        }
        lines.extend(broken(&case.broken, self.sender));
        lines.push(ending(&case.ending, self.sender));
        lines
    }
}

/// A frame in words, as [`super::said`] puts them.
pub fn frame(sent: &Sent, side: usize, compressed: bool) -> String {
    format!(
        "{} {} fin {} rsv {} masked {} len {}{}{}",
        DIRECTIONS[side],
        opcode(sent.first & 15),
        sent.first & 0x80 != 0,
        sent.first >> 4 & 7,
        side == 0,
        sent.payload.len(),
        if sent.answers { " answers" } else { "" },
        payload(&sent.payload, compressed),
    )
}

/// A message in words.
pub fn message(message: &Message, side: usize) -> String {
    let inflated = match message.inflated {
        Some(len) => format!(", inflated {len}"),
        None => String::new(),
    };
    format!(
        "{} message {} of {} bytes in {} frames, compressed {}{inflated}",
        DIRECTIONS[side],
        message.kind,
        message.len,
        message.frames,
        message.inflated.is_some(),
    )
}

/// In words, how a connection has ended, and that this side was the first to end it.
pub fn ending(ending: &Ending, side: usize) -> String {
    let Ending { kind, code, reason } = ending;
    format!("{kind} {code} {reason:?} by {}", ENDS[side])
}

/// Broken rules in words. They are told again at ten times, a hundred, and so on; in which order is
/// no matter.
pub fn broken(rules: &[(&str, u64)], side: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for (rule, times) in rules {
        let told = (0..6).map(|n| 10u64.pow(n)).filter(|n| n <= times);
        lines.extend(told.map(|n| format!("{} {rule} {n}", DIRECTIONS[side])));
    }
    lines.sort();
    lines
}

/// Bytes that are compared: few, and as they were sent.
pub fn payload(bytes: &[u8], compressed: bool) -> String {
    if compressed || bytes.len() > PREVIEW {
        return String::new();
    }
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!(" payload {hex}")
}

/// The name of an opcode.
pub fn opcode(bits: u8) -> String {
    match bits {
        0 => "continuation".to_owned(),
        1 => "text".to_owned(),
        2 => "binary".to_owned(),
        8 => "close".to_owned(),
        9 => "ping".to_owned(),
        10 => "pong".to_owned(),
        bits => format!("reserved_{bits:x}"),
    }
}

/// A frame's bytes.
pub fn encoded(sent: &Sent, masked: bool) -> Vec<u8> {
    let bit = if masked { 0x80 } else { 0 };
    let len = sent.payload.len();
    let mut bytes = vec![sent.first];
    match len {
        0..=125 => bytes.push(bit | len as u8),
        126..=0xffff => {
            bytes.push(bit | 126);
            bytes.extend((len as u16).to_be_bytes());
        }
        _ => {
            bytes.push(bit | 127);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    if masked {
        bytes.extend(MASK);
        let masked = sent.payload.iter().zip(MASK.iter().cycle());
        bytes.extend(masked.map(|(byte, key)| byte ^ key));
    } else {
        bytes.extend(&sent.payload);
    }
    bytes
}
