//! A sequence of segments of a few TCP connections, as a network, or someone hostile, may give them.
//!
//! Layout: a byte of settings (bits 6 and 7: how segments are cut into pieces, where bit 5 says
//! that they are), then steps of one byte (bits 0-2: what; bit 3: from the server; bits
//! 4-5: of which connection) and what the step needs:
//!
//! | step | needs | does |
//! |---|---|---|
//! | 0 | a run | sends it |
//! | 1 | a run, a signed distance of two bytes | sends it at another place; the next goes on as before |
//! | 2 | two bytes | that many bytes are sent and not seen |
//! | 3 | a byte | a segment with these flags and no payload; the acknowledgement is right |
//! | 4 | two bytes | milliseconds pass; the highest bit: seconds |
//! | 5 | a run, two bytes | sends it, and so many of its bytes are captured |
//! | 6 | a byte | sends a request, an answer, or the header of a frame |
//! | 7 | six bytes | anything: flags, sequence number, a byte of settings |

use std::time::Duration;

use wstap::proto::{
    event::{Event, EventKind},
    observer::{Config, Exceeded, Stats},
    segment::{Segment, TcpFlags, Window},
    seq::SeqNumber,
    time::Timestamp,
};

use crate::{
    conversation::{ACK, DEFLATING, FIN, REQUEST, RESPONSE, SYN},
    input::Input,
    judge::{Judge, essence},
};

/// Frame headers that a hostile peer sends, and some of a kind one.
const HEADERS: [&[u8]; 8] = [
    &[0x82, 0x7f, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    &[0x82, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    &[0x02, 0x7e, 0x00, 0x01, 0x00],
    &[0x81, 0x80, 1, 2, 3, 4],
    &[0x88, 0x80, 1, 2, 3, 4],
    &[0x88, 0x00],
    &[0xc1, 0x7f, 0x00, 0x00, 0x00, 0x00, 0x80, 0x00, 0x00, 0x00],
    &[
        0x89, 0xff, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x00, 9, 9, 9, 9,
    ],
];

/// Connections at the same time.
const CONNECTIONS: u16 = 4;

struct Network {
    judge: Judge,
    now: Timestamp,
    /// Next sequence number by connection and side.
    next: [[SeqNumber; 2]; CONNECTIONS as usize],
    causal: bool,
    run: Run,
}

/// Where a segment belongs, and what is special about it.
#[derive(Clone, Copy)]
struct Place {
    connection: u8,
    side: usize,
    flags: u8,
    seq: SeqNumber,
    /// Bytes captured at most.
    snap: usize,
    /// Bytes on the wire beyond those that are given.
    beyond: u32,
    epoch: u32,
}

/// What is done with the input.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Run {
    First,
    Again,
    /// The payload of each segment is captured in pieces, cut so.
    InPieces(u8),
}

/// Whatever comes: events that make sense, bounded memory that is given back, and the same again
/// the next time; with bit 5 of the settings, where each segment is captured in pieces.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let settings = input.u8();
    let (stats, events) = observe(settings, input, Run::First);
    if settings & 32 == 0 {
        let (same_stats, same_events) = observe(settings, input, Run::Again);
        assert_eq!(stats, same_stats);
        let times = |events: &[Event]| events.iter().map(|event| event.ts).collect::<Vec<_>>();
        assert_eq!(times(&events), times(&same_events));
        assert_eq!(essence(events), essence(same_events));
        return;
    }
    let (other_stats, in_pieces) = observe(settings, input, Run::InPieces(settings >> 6));
    // Pieces take memory of their own, and limits may be met that were not before. Where frames are
    // searched for, it is in what there is of a segment.
    let unlimited = [stats.exceeded, other_stats.exceeded] == [Exceeded::default(); 2];
    if unlimited && !events.iter().chain(&in_pieces).any(is_of_search) {
        assert_eq!(essence(events), essence(in_pieces));
    }
}

/// What comes of it.
fn observe(settings: u8, mut input: Input<'_>, run: Run) -> (Stats, Vec<Event>) {
    let mut network = Network::new(settings, run);
    while !input.is_empty() {
        network.step(&mut input);
        network.judge.look();
    }
    let stats = network.judge.observer.stats();
    (stats, network.judge.finish(network.now))
}

/// Whether the event says that frames were searched for.
fn is_of_search(event: &Event) -> bool {
    match &event.kind {
        EventKind::Gap(_) => true,
        EventKind::Handshake(_) => {
            event.connection.outcome.opens() && event.connection.path.is_none()
        }
        _ => false,
    }
}

impl Network {
    fn new(settings: u8, run: Run) -> Self {
        let small = settings & 1 != 0;
        let causal = settings & 4 != 0;
        let config = Config {
            max_connections: if small { 2 } else { 100 },
            max_candidates: if small { 2 } else { 100 },
            idle_timeout: Duration::from_secs(if settings & 2 != 0 { 5 } else { 3600 }),
            preview: if settings & 8 != 0 { 100 } else { 0 },
            max_buffered_per_direction: if small { 2_000 } else { 1 << 16 },
            max_buffered: if small { 5_000 } else { 1 << 18 },
            max_head: if small { 600 } else { 1 << 14 },
            max_pings: if small { 2 } else { 64 },
            causal_order: causal,
            inflate: settings & 16 != 0,
            max_inflated: 1 << 16,
            max_inflaters: if small { 1 } else { 100 },
            max_searched: if small { 2_000 } else { 1 << 20 },
            ..Config::default()
        };
        Self {
            judge: match run {
                Run::First => Judge::new(config, true),
                Run::Again | Run::InPieces(_) => Judge::again(config),
            },
            run,
            now: Timestamp(1_000_000_000),
            next: [[SeqNumber(u32::MAX - 300), SeqNumber(7)]; CONNECTIONS as usize],
            causal,
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let step = input.u8();
        let connection = step >> 4 & 3;
        let side = usize::from(step >> 3 & 1);
        let place = Place {
            connection,
            side,
            flags: ACK,
            seq: self.next[usize::from(connection)][side],
            snap: usize::MAX,
            beyond: 0,
            epoch: u32::from(self.causal),
        };
        match step & 7 {
            0 => self.send(place, input.run()),
            1 => {
                let bytes = input.run();
                let distance = i32::from(input.u16().cast_signed());
                let seq = SeqNumber(place.seq.0.wrapping_add_signed(distance));
                self.segment(Place { seq, ..place }, bytes);
            }
            2 => self.advance(place, u32::from(input.u16())),
            3 => {
                let flags = input.u8();
                self.segment(Place { flags, ..place }, &[]);
                let more = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
                self.advance(place, more);
            }
            4 => {
                let n = input.u16();
                let unit = if n & 0x8000 != 0 {
                    1_000_000_000
                } else {
                    1_000_000
                };
                let time = Duration::from_nanos(u64::from(n & 0x7fff) * unit);
                self.now = self.now.saturating_add(time);
                self.judge.observer.handle_timeout(self.now);
            }
            5 => {
                let bytes = input.run();
                let snap = usize::from(input.u16());
                self.send(Place { snap, ..place }, bytes);
            }
            6 => {
                let what = input.u8();
                let bytes = match what {
                    0 => REQUEST,
                    1 => RESPONSE,
                    2 => DEFLATING,
                    n => HEADERS[usize::from(n) % HEADERS.len()],
                };
                self.send(place, bytes);
            }
            _ => {
                let flags = input.u8();
                let seq = SeqNumber(input.u32());
                let settings = input.u8();
                let place = Place {
                    flags,
                    seq,
                    beyond: 1 << (settings & 31),
                    epoch: u32::from(settings >> 5),
                    ..place
                };
                self.segment(place, &[]);
            }
        }
    }

    fn send(&mut self, place: Place, bytes: &[u8]) {
        self.segment(place, bytes);
        self.advance(place, bytes.len() as u32);
    }

    fn advance(&mut self, place: Place, n: u32) {
        let next = &mut self.next[usize::from(place.connection)][place.side];
        *next = *next + n;
    }

    fn segment(&mut self, place: Place, bytes: &[u8]) {
        let connection = u16::from(place.connection);
        let ends = [
            ([192, 0, 2, 7], 40_000 + connection).into(),
            ([192, 0, 2, 1], 80).into(),
        ];
        self.now = self.now.saturating_add(Duration::from_micros(100));
        let captured = bytes.get(..place.snap).unwrap_or(bytes);
        let mut windows = Vec::new();
        let mut rest = captured;
        while !rest.is_empty() {
            let size = match self.run {
                Run::First | Run::Again => rest.len(),
                Run::InPieces(how) => (rest.len() / (2 + usize::from(how))).max(1),
            };
            let (bytes, after) = rest.split_at(size);
            let offset = (captured.len() - rest.len()) as u32;
            windows.push(Window { offset, bytes });
            rest = after;
        }
        let ack = self.next[usize::from(connection)][1 - place.side];
        self.judge.observer.handle_segment(&Segment {
            ts: self.now,
            source: ends[place.side],
            destination: ends[1 - place.side],
            seq: place.seq,
            ack: (place.flags & ACK != 0).then_some(ack),
            flags: TcpFlags(place.flags),
            window: 1000,
            len: (bytes.len() as u32).saturating_add(place.beyond),
            behind: 0,
            windows: &windows,
            interface: None,
            scope: 0,
            epoch: place.epoch,
        });
    }
}
