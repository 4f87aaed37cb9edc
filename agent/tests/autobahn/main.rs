//! The case groups of the Autobahn test suite, as traffic: what `wstap read` says is held against
//! what was sent, case by case.
//!
//! Each case is sent by the client and by the server, and each of these in segments of whole
//! frames, in segments of one byte, and in segments that are as large as can be. All are connections
//! of one capture, which stays in cargo's folder for temporary files for other dissectors to read.

mod case;
mod groups;

// The unit tests write captures, too.
#[path = "../support/pcap.rs"]
mod pcap;

use std::{collections::BTreeMap, fs, net::SocketAddr, path::PathBuf, process::Command};

use etherparse::TcpHeader;
use serde_json::Value;

use case::{Case, Sent};
use pcap::{Magic, Order, Pcap};

const WSTAP: &str = env!("CARGO_BIN_EXE_wstap");

/// Payloads up to this length are compared byte by byte.
const PREVIEW: usize = 256;

/// A segment that fits into an IPv4 packet.
const LARGEST: usize = 60_000;

/// Segments of one byte are made of so many bytes at most.
const FEW: usize = 700;

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

const DIRECTIONS: [&str; 2] = ["client_to_server", "server_to_client"];

/// How bytes become segments.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Cut {
    Frames,
    Bytes,
    Largest,
}

/// A case as it is sent once.
struct Run {
    case: Case,
    /// 0 where the client is the sender, 1 where the server is.
    sender: usize,
    cut: Cut,
    client: SocketAddr,
}

#[test]
fn every_case() {
    let runs = runs();
    let capture = record(&runs);
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("autobahn");
    fs::create_dir_all(&path).expect("a writable folder");
    let path = path.join("cases.pcap");
    fs::write(&path, capture).expect("a writable folder");
    let said = said(&path);
    let mut groups: BTreeMap<String, [u64; 2]> = BTreeMap::new();
    let mut wrong = Vec::new();
    for run in &runs {
        let expected = run.expected();
        let said = said.get(&run.client.to_string());
        let said = said.map(Vec::as_slice).unwrap_or_default();
        let agrees = expected == said;
        let group = run.case.id.split([',', '.']).next().unwrap_or_default();
        groups.entry(format!("{group:>2}")).or_default()[usize::from(!agrees)] += 1;
        if !agrees {
            let place = (expected.iter().zip(said)).position(|(one, other)| one != other);
            let place = place.unwrap_or(expected.len().min(said.len()));
            let at = |lines: &[String]| lines.get(place).cloned().unwrap_or_default();
            wrong.push(format!(
                "{}, {}, {:?}: expected `{}`, said `{}`",
                run.case.id,
                DIRECTIONS[run.sender],
                run.cut,
                at(&expected),
                at(said),
            ));
        }
    }
    println!("group  agree  differ");
    for (group, [agree, differ]) in groups {
        println!("{group:<5}{agree:>7}{differ:>8}");
    }
    assert!(
        wrong.is_empty(),
        "{} of {} differ\n{}",
        wrong.len(),
        runs.len(),
        wrong.join("\n")
    );
}

fn runs() -> Vec<Run> {
    let mut runs = Vec::new();
    for case in groups::all() {
        let few = case
            .sent
            .iter()
            .map(|sent| sent.payload.len() + 14)
            .sum::<usize>()
            <= FEW;
        for cut in [Cut::Frames, Cut::Bytes, Cut::Largest] {
            for sender in 0..2 {
                if few || cut != Cut::Bytes {
                    let port = 1024 + runs.len() as u16;
                    runs.push(Run {
                        case: case.clone(),
                        sender,
                        cut,
                        client: ([192, 0, 2, 7], port).into(),
                    });
                }
            }
        }
    }
    runs
}

/// Writes a capture, one connection after the other.
fn record(runs: &[Run]) -> Vec<u8> {
    let mut file = Pcap::new(Order::Little, Magic::Nanoseconds, 1);
    let mut now = 1_700_000_000_000_000_000;
    for run in runs {
        let mut wire = Wire {
            file: &mut file,
            now,
            ends: [run.client, ([192, 0, 2, 1], 80).into()],
            // The same key with the same numbers would be the same connection behind a NAT.
            next: [0x1000, 0x5000].map(|next: u32| next << 16 | u32::from(run.client.port())),
        };
        wire.segment(0, &[], |tcp| tcp.syn = true);
        wire.segment(1, &[], |tcp| (tcp.syn, tcp.ack) = (true, true));
        wire.send(0, &request(&run.case));
        wire.send(1, &response(&run.case));
        let other = 1 - run.sender;
        for (side, frames) in [(run.sender, &run.case.sent), (other, &run.case.answer)] {
            let frames: Vec<_> = frames.iter().map(|sent| encoded(sent, side == 0)).collect();
            match run.cut {
                Cut::Frames => frames.iter().for_each(|frame| wire.send(side, frame)),
                Cut::Largest => wire.send(side, &frames.concat()),
                Cut::Bytes => {
                    for byte in frames.concat() {
                        wire.send(side, &[byte]);
                    }
                }
            }
        }
        for side in [run.sender, other] {
            wire.segment(side, &[], |tcp| (tcp.fin, tcp.ack) = (true, true));
        }
        now = wire.now;
    }
    file.bytes()
}

fn request(case: &Case) -> Vec<u8> {
    let extensions = match &case.extensions {
        // An offer that allows every answer.
        Some(agreed) => format!(
            "Sec-WebSocket-Extensions: {agreed}{}\r\n",
            if agreed.contains("server_max") {
                ""
            } else {
                "; client_max_window_bits"
            }
        ),
        None => String::new(),
    };
    format!(
        "GET /case/{} HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Version: 13\r\n{extensions}\r\n",
        case.id.split(',').next().unwrap_or_default()
    )
    .into_bytes()
}

fn response(case: &Case) -> Vec<u8> {
    let extensions = match &case.extensions {
        Some(agreed) => format!("Sec-WebSocket-Extensions: {agreed}\r\n"),
        None => String::new(),
    };
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n{extensions}\r\n"
    )
    .into_bytes()
}

/// A frame's bytes.
fn encoded(sent: &Sent, masked: bool) -> Vec<u8> {
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

/// A connection on its way into the capture.
struct Wire<'a> {
    file: &'a mut Pcap,
    now: u64,
    ends: [SocketAddr; 2],
    next: [u32; 2],
}

impl Wire<'_> {
    fn send(&mut self, side: usize, bytes: &[u8]) {
        for piece in bytes.chunks(LARGEST) {
            self.segment(side, piece, |tcp| (tcp.psh, tcp.ack) = (true, true));
        }
    }

    fn segment(&mut self, side: usize, bytes: &[u8], set: impl FnOnce(&mut TcpHeader)) {
        let [source, destination] = [self.ends[side], self.ends[1 - side]];
        let mut header = TcpHeader::new(source.port(), destination.port(), self.next[side], 8192);
        set(&mut header);
        if header.ack {
            header.acknowledgment_number = self.next[1 - side];
        }
        self.next[side] += bytes.len() as u32 + u32::from(header.syn) + u32::from(header.fin);
        let segment = pcap::tcp(&header, bytes);
        let packet = pcap::ethernet(&pcap::ip(source.ip(), destination.ip(), &segment));
        self.now += 1_000;
        self.file.packet(self.now, &packet);
    }
}

impl Run {
    /// What has to be said: frames as they come, then messages, rules, the ending.
    fn expected(&self) -> Vec<String> {
        let case = &self.case;
        let mut lines = Vec::new();
        for (side, frames) in [(0, &case.sent), (1, &case.answer)] {
            let direction = if side == 0 {
                self.sender
            } else {
                1 - self.sender
            };
            for sent in frames {
                let compressed = case.extensions.is_some();
                lines.push(format!(
                    "{side} {} fin {} rsv {} masked {} len {}{}{}",
                    opcode(sent.first & 15),
                    sent.first & 0x80 != 0,
                    sent.first >> 4 & 7,
                    direction == 0,
                    sent.payload.len(),
                    if sent.answers { " answers" } else { "" },
                    payload(&sent.payload, compressed),
                ));
            }
        }
        for message in &case.messages {
            lines.push(format!(
                "message {} of {} bytes in {} frames, compressed {}",
                message.kind, message.len, message.frames, message.compressed
            ));
        }
        // Told again at ten times, a hundred, and so on. In which order is no matter.
        let mut broken = Vec::new();
        for (rule, times) in &case.broken {
            let told = (0..6).map(|n| 10u64.pow(n)).filter(|n| n <= times);
            broken.extend(told.map(|n| format!("{rule} {n}")));
        }
        broken.sort();
        lines.extend(broken);
        let ending = &case.ending;
        lines.push(format!(
            "{} {} {:?}",
            ending.kind, ending.code, ending.reason
        ));
        lines
    }
}

/// Bytes that are compared: few, and as they were sent.
fn payload(bytes: &[u8], compressed: bool) -> String {
    if compressed || bytes.len() > PREVIEW {
        return String::new();
    }
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!(" payload {hex}")
}

fn opcode(bits: u8) -> String {
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

/// What is said, by client, in the same words and order.
fn said(capture: &PathBuf) -> BTreeMap<String, Vec<String>> {
    let mut command = Command::new(WSTAP);
    command.args(["read", "-o", "json", &format!("--payload={PREVIEW}")]);
    for event in ["handshake", "frame", "message", "violation", "gap", "close"] {
        command.arg(format!("--event={event}"));
    }
    let output = command.arg(capture).output().expect("the binary runs");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && complaint.is_empty(),
        "{complaint}"
    );
    let mut connections: BTreeMap<String, Said> = BTreeMap::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let event: Value = serde_json::from_str(line).expect("an object a line");
        let client = event["client"].as_str().expect("a client").to_owned();
        connections.entry(client).or_default().take(&event);
    }
    connections
        .into_iter()
        .map(|(client, said)| (client, said.lines()))
        .collect()
}

#[derive(Default)]
struct Said {
    compressed: bool,
    /// Who sent first: the sender of the case.
    sender: Option<Value>,
    frames: [Vec<String>; 2],
    messages: Vec<String>,
    broken: Vec<String>,
    rest: Vec<String>,
}

impl Said {
    fn take(&mut self, event: &Value) {
        let text = |name: &str| event[name].as_str().unwrap_or_default();
        match text("event") {
            "handshake" => {
                self.compressed = event["extensions"].is_string();
                if text("outcome") != "accepted" {
                    self.rest.push(format!("handshake {}", text("outcome")));
                }
            }
            "frame" => {
                let sender = self.sender.get_or_insert_with(|| event["dir"].clone());
                let side = usize::from(*sender != event["dir"]);
                let len = event["len"].as_u64().unwrap_or(u64::MAX);
                let bytes = match (&event["payload"], &event["payload_hex"]) {
                    (Value::String(text), _) => text.as_bytes().to_vec(),
                    (_, Value::String(hex)) => (0..hex.len() / 2)
                        .filter_map(|i| u8::from_str_radix(hex.get(2 * i..2 * i + 2)?, 16).ok())
                        .collect(),
                    _ => Vec::new(),
                };
                let shown = if len as usize > PREVIEW {
                    String::new()
                } else {
                    payload(&bytes, self.compressed)
                };
                self.frames[side].push(format!(
                    "{side} {} fin {} rsv {} masked {} len {len}{}{shown}",
                    text("opcode"),
                    event["fin"],
                    event["rsv"],
                    event["masked"],
                    if event["rtt_ns"].is_u64() {
                        " answers"
                    } else {
                        ""
                    },
                ));
            }
            "message" => self.messages.push(format!(
                "message {} of {} bytes in {} frames, compressed {}",
                text("type"),
                event["len"],
                event["frames"],
                event["compressed"]
            )),
            "violation" => self
                .broken
                .push(format!("{} {}", text("rule"), event["count"])),
            "gap" => self.rest.push("gap".to_owned()),
            "close" => self.rest.push(format!(
                "{} {} {:?}",
                text("kind"),
                event["code"],
                text("reason")
            )),
            _ => {}
        }
    }

    fn lines(mut self) -> Vec<String> {
        self.broken.sort();
        let [sent, answer] = self.frames;
        [sent, answer, self.messages, self.broken, self.rest].concat()
    }
}
