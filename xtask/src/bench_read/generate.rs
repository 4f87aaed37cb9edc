//! Captures of any size whose every frame is known: written to disk as they are made, and the same
//! at each run. A smaller one is the beginning of a larger one, up to its connections' ends.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};

/// What kind of traffic.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Traffic {
    /// Text of 64 bytes: on half of the connections a frame a segment, on the others as TCP joins
    /// what is written without a pause.
    Small,
    /// Messages of 1 MiB, text and binary: on half of the connections in segments as they are on
    /// the wire, on the others as a capture shows them where the device cuts (GSO).
    Large,
}

impl Traffic {
    pub const BOTH: [Self; 2] = [Self::Small, Self::Large];

    pub fn name(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Large => "large",
        }
    }

    fn connections(self) -> usize {
        match self {
            Self::Small => 64,
            Self::Large => 16,
        }
    }

    fn payload(self) -> usize {
        match self {
            Self::Small => 64,
            Self::Large => 1 << 20,
        }
    }
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Written {
    /// Bytes of the file.
    pub size: u64,
    pub packets: u64,
    pub connections: u64,
    /// Data frames, each a message.
    pub frames: u64,
    /// Payload bytes of these.
    pub payload: u64,
}

/// Payload of a segment on Ethernet, with TCP time stamps.
const SEGMENT: usize = 1448;
/// The most that fits an IPv4 packet in whole segments.
const SUPER_SEGMENT: usize = 45 * SEGMENT;
/// Frames one after the other, each in its own segment, before it is another connection's turn.
const BURST: usize = 8;
/// Bytes that one connection sends before it is another's turn.
const TURN: usize = SUPER_SEGMENT;

const CLIENT: usize = 0;
const SERVER: usize = 1;

/// Writes a capture of about `size` bytes.
pub fn generate(path: &Path, traffic: Traffic, size: u64) -> Result<Written> {
    let doing = || format!("cannot write {}", path.display());
    let file = File::create(path).with_context(doing)?;
    let mut capture = Capture::new(BufWriter::with_capacity(1 << 20, file), traffic);
    capture.fill(size).with_context(doing)?;
    capture.out.flush().with_context(doing)?;
    Ok(capture.written)
}

struct Capture {
    out: BufWriter<File>,
    traffic: Traffic,
    written: Written,
    /// Nanoseconds since the capture began.
    clock: u64,
    connections: Vec<Connection>,
    payloads: Payloads,
    packet: Vec<u8>,
}

struct Connection {
    number: usize,
    /// Sequence numbers, by sender.
    next: [u32; 2],
    /// Written and not yet sent, by sender.
    queued: [Vec<u8>; 2],
    /// Turns taken.
    turns: usize,
}

impl Connection {
    /// Whether TCP joins and cuts what is written.
    fn joins(&self) -> bool {
        self.number % 2 == 1
    }
}

impl Capture {
    fn new(out: BufWriter<File>, traffic: Traffic) -> Self {
        let connections = (0..traffic.connections()).map(|number| Connection {
            number,
            // Some wrap on the way.
            next: [0xffff_f000, 0x7fff_f000].map(|first| first + number as u32),
            queued: Default::default(),
            turns: 0,
        });
        Self {
            out,
            traffic,
            written: Written::default(),
            clock: 0,
            connections: connections.collect(),
            payloads: Payloads::new(traffic.payload()),
            packet: Vec::new(),
        }
    }

    fn fill(&mut self, size: u64) -> std::io::Result<()> {
        let mut header = Vec::new();
        header.extend(0xa1b2_3c4d_u32.to_le_bytes());
        header.extend([2, 0, 4, 0]);
        for field in [0, 0, 262_144, 1_u32] {
            header.extend(field.to_le_bytes());
        }
        self.out.write_all(&header)?;
        self.written.size += header.len() as u64;
        for at in 0..self.connections.len() {
            self.open(at)?;
        }
        while self.written.size < size {
            for at in 0..self.connections.len() {
                self.turn(at)?;
            }
        }
        for at in 0..self.connections.len() {
            self.close(at)?;
        }
        Ok(())
    }

    fn open(&mut self, at: usize) -> std::io::Result<()> {
        self.written.connections += 1;
        self.flags(at, CLIENT, 0x02)?;
        self.flags(at, SERVER, 0x12)?;
        self.flags(at, CLIENT, 0x10)?;
        let request = format!(
            "GET /bench/{at} HTTP/1.1\r\nHost: bench.test:8080\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Version: 13\r\n\r\n"
        );
        self.segment(at, CLIENT, request.as_bytes())?;
        let response = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                        Connection: Upgrade\r\n\
                        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        self.segment(at, SERVER, response.as_bytes())
    }

    /// One connection sends for a while.
    fn turn(&mut self, at: usize) -> std::io::Result<()> {
        let Some(connection) = self.connections.get_mut(at) else {
            return Ok(());
        };
        connection.turns += 1;
        let (joins, side) = (connection.joins(), connection.turns % 2);
        match (self.traffic, joins) {
            (Traffic::Small, false) => {
                for _ in 0..BURST {
                    self.frame(at, side);
                    self.send(at, side, SEGMENT)?;
                }
            }
            (Traffic::Small, true) => {
                while self.queued(at, side) < 2 * SEGMENT {
                    self.frame(at, side);
                }
                self.send(at, side, SEGMENT)?;
                self.send(at, side, SEGMENT)?;
                self.flags(at, 1 - side, 0x10)?;
            }
            // One direction has its messages, then the other.
            (Traffic::Large, joins) => {
                let side = (self.connections[at].turns / 64 + at / 2) % 2;
                if self.queued(at, side) < TURN {
                    self.frame(at, side);
                }
                let size = if joins { SUPER_SEGMENT } else { SEGMENT };
                for segment in 1..=TURN / size {
                    self.send(at, side, size)?;
                    if joins || segment % 2 == 0 {
                        self.flags(at, 1 - side, 0x10)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn close(&mut self, at: usize) -> std::io::Result<()> {
        for side in [CLIENT, SERVER] {
            while self.queued(at, side) > 0 {
                self.send(at, side, SEGMENT)?;
            }
        }
        self.segment(at, CLIENT, &[0x88, 0x82, 1, 2, 3, 4, 0x03 ^ 1, 0xe8 ^ 2])?;
        self.segment(at, SERVER, &[0x88, 2, 0x03, 0xe8])?;
        self.flags(at, SERVER, 0x11)?;
        self.flags(at, CLIENT, 0x11)?;
        self.flags(at, SERVER, 0x10)
    }

    /// Queues a frame.
    fn frame(&mut self, at: usize, side: usize) {
        let n = self.written.frames;
        let payload = self.payloads.next(n);
        self.written.frames += 1;
        self.written.payload += payload.bytes.len() as u64;
        let queue = &mut self.connections[at].queued[side];
        queue.push(0x80 | payload.opcode);
        let masked = if side == CLIENT { 0x80 } else { 0 };
        match payload.bytes.len() {
            len @ ..=125 => queue.push(masked | len as u8),
            len => {
                queue.push(masked | 127);
                queue.extend((len as u64).to_be_bytes());
            }
        }
        if side == CLIENT {
            let mask = (n as u32).wrapping_mul(0x9e37_79b9) | 0x0101_0101;
            let mask = mask.to_be_bytes();
            queue.extend(mask);
            let begin = queue.len();
            queue.extend_from_slice(payload.bytes);
            for word in queue[begin..].chunks_exact_mut(4) {
                for (byte, key) in word.iter_mut().zip(mask) {
                    *byte ^= key;
                }
            }
        } else {
            queue.extend_from_slice(payload.bytes);
        }
    }

    fn queued(&self, at: usize, side: usize) -> usize {
        self.connections[at].queued[side].len()
    }

    /// Sends a segment of what is queued, `size` bytes at most.
    fn send(&mut self, at: usize, side: usize, size: usize) -> std::io::Result<()> {
        let mut queue = std::mem::take(&mut self.connections[at].queued[side]);
        let size = size.min(queue.len());
        let sent = self.segment(at, side, &queue[..size]);
        queue.drain(..size);
        self.connections[at].queued[side] = queue;
        sent
    }

    fn segment(&mut self, at: usize, side: usize, payload: &[u8]) -> std::io::Result<()> {
        self.packet(at, side, 0x18, payload)?;
        let next = &mut self.connections[at].next[side];
        *next = next.wrapping_add(payload.len() as u32);
        Ok(())
    }

    fn flags(&mut self, at: usize, side: usize, flags: u8) -> std::io::Result<()> {
        self.packet(at, side, flags, &[])?;
        if flags & 0x03 != 0 {
            let next = &mut self.connections[at].next[side];
            *next = next.wrapping_add(1);
        }
        Ok(())
    }

    /// Writes a packet: Ethernet, IPv4, TCP with time stamps. Checksums are left to the device.
    fn packet(&mut self, at: usize, side: usize, flags: u8, payload: &[u8]) -> std::io::Result<()> {
        let next = self.connections[at].next;
        let ends = [
            ([192, 0, 2, 1], 40_000 + at as u16),
            ([198, 51, 100, 1], 8080_u16),
        ];
        let (source, destination) = (ends[side], ends[1 - side]);
        self.clock += 1_000 + payload.len() as u64 / 4;
        self.written.packets += 1;
        let len = 14 + 20 + 32 + payload.len();
        let packet = &mut self.packet;
        packet.clear();
        let seconds = 1_700_000_000 + self.clock / 1_000_000_000;
        let nanos = self.clock % 1_000_000_000;
        for field in [seconds as u32, nanos as u32, len as u32, len as u32] {
            packet.extend(field.to_le_bytes());
        }
        packet.extend([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00, 0x45, 0]);
        packet.extend(((len - 14) as u16).to_be_bytes());
        packet.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
        packet.extend(source.0);
        packet.extend(destination.0);
        packet.extend(source.1.to_be_bytes());
        packet.extend(destination.1.to_be_bytes());
        packet.extend(next[side].to_be_bytes());
        let ack = if flags & 0x10 == 0 { 0 } else { next[1 - side] };
        packet.extend(ack.to_be_bytes());
        packet.extend([0x80, flags, 0x20, 0, 0, 0, 0, 0, 1, 1, 8, 10]);
        packet.extend(((self.clock >> 20) as u32).to_be_bytes());
        packet.extend([0; 4]);
        packet.extend_from_slice(payload);
        self.written.size += packet.len() as u64;
        self.out.write_all(packet)
    }
}

/// What frames carry.
struct Payloads {
    text: Vec<u8>,
    binary: Vec<u8>,
}

struct Payload<'a> {
    opcode: u8,
    bytes: &'a [u8],
}

impl Payloads {
    fn new(len: usize) -> Self {
        // Mostly ASCII, as text is.
        let mut text = Vec::with_capacity(len + 80);
        let mut n = 0;
        while text.len() < len {
            n += 1;
            let record =
                format!("{{\"n\":{n:07},\"place\":\"Zürich\",\"price\":{n}.25,\"ok\":true}},");
            text.extend(record.into_bytes());
        }
        text.truncate(len);
        // A character that the end cuts is none.
        while let Err(error) = std::str::from_utf8(&text) {
            for byte in &mut text[error.valid_up_to()..] {
                *byte = b'.';
            }
        }
        // Marsaglia's xorshift, from a fixed seed.
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut word = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        };
        let binary = (0..len.div_ceil(8))
            .flat_map(|_| word())
            .take(len)
            .collect();
        Self { text, binary }
    }

    /// That of the `n`th frame: text, and of large ones every other binary.
    fn next(&mut self, n: u64) -> Payload<'_> {
        if self.binary.len() > 125 && n % 2 == 1 {
            return Payload {
                opcode: 2,
                bytes: &self.binary,
            };
        }
        // No two are alike.
        if let Some(digits) = self.text.get_mut(5..12) {
            digits.copy_from_slice(format!("{:07}", n % 10_000_000).as_bytes());
        }
        Payload {
            opcode: 1,
            bytes: &self.text,
        }
    }
}
