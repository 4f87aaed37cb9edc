//! The segments of a connection as a network delivers them: cut anywhere, lost and sent again, late,
//! twice, and with all that TCP adds.

use std::time::Duration;

use etherparse::TcpHeader;
use wstap::proto::segment::TcpFlags;

use super::{
    conversation::{CLIENT, Conversation, End, SERVER},
    random::Random,
};
use crate::pcap;

/// A connection older than the agents is copied for a bounded number of segments, in which they have
/// to find out what it is: up to so many there is a pause now and then.
const PROBED: usize = 240;
/// See [`PROBED`].
const PROBES: usize = 20;
/// See [`PROBED`].
const PROBE: Duration = Duration::from_millis(30);

/// What may happen to a connection, in times of a thousand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rates {
    /// A segment is lost and sent again much later.
    pub lost: u64,
    /// It is overtaken by up to [`Self::depth`] others.
    pub late: u64,
    /// See [`Self::late`].
    pub depth: usize,
    /// It comes twice.
    pub twice: u64,
    /// It never passes, and nobody misses it; only within payload.
    pub unseen: u64,
    /// A keep-alive probe follows.
    pub probe: u64,
    /// An acknowledgement follows, maybe with the window closed.
    pub ack: u64,
}

impl Rates {
    /// Of one connection: most have some trouble, few have all.
    pub fn new(random: &mut Random) -> Self {
        let mut some = |rates: &[u64]| random.one(rates);
        Self {
            lost: some(&[0, 0, 0, 10, 100]),
            late: some(&[0, 0, 20, 200]),
            depth: some(&[1, 1, 3, 12]) as usize,
            twice: some(&[0, 0, 20, 100]),
            unseen: some(&[0, 0, 0, 100]),
            probe: some(&[0, 0, 10, 50]),
            ack: some(&[0, 100, 500]),
        }
    }
}

impl Rates {
    /// Whether something may be missing for a time, or for good.
    pub fn disturb(&self) -> bool {
        self.lost > 0 || self.late > 0 || self.unseen > 0
    }
}

/// A segment on the wire.
#[derive(Clone, Debug)]
pub struct Packet {
    /// The sender.
    pub side: usize,
    /// From the Ethernet header on.
    pub bytes: Vec<u8>,
    /// Not to be sent at the same time as another.
    pub is_alone: bool,
    /// It ends its direction, or the connection: what is still on its way to the other processor's programs must
    /// not come behind it for some agents only.
    pub is_end: bool,
    /// How long to wait behind it.
    pub pause: Duration,
    /// For the report of a difference.
    pub what: String,
}

/// All of a connection.
#[derive(Debug)]
pub struct Traffic {
    /// In the order of the wire.
    pub packets: Vec<Packet>,
    /// Something was missing for a time: what came behind it had to wait where segments are copied
    /// whole, and may then be read later than what the other side said meanwhile.
    pub waited: bool,
    /// Something passed unseen.
    pub unseen: bool,
    /// One segment had both what was known and what was not: which of two it is whose time counts
    /// cannot be told from headers.
    pub overlaps: bool,
}

/// A stretch of a stream, to be sent at some time.
#[derive(Clone, Copy, Debug)]
struct Piece {
    side: usize,
    from: usize,
    to: usize,
    fin: bool,
    reset: bool,
    seen: bool,
    /// When: nothing passes from one phase to another.
    at: (usize, usize),
}

/// Cuts, loses and shuffles.
pub fn deliver(conversation: &Conversation, rates: &Rates, random: &mut Random) -> Traffic {
    let pieces = shuffle(conversation, &cut(conversation, random), rates, random);
    Wire::new(conversation, random).play(&pieces, rates, random)
}

fn cut(conversation: &Conversation, random: &mut Random) -> Vec<Piece> {
    let profile = if conversation.is_long() {
        random.one(&[
            (1, 1448),
            (1448, 1448),
            (1, 60_000),
            (60_000, 60_000),
            (1, 9000),
        ])
    } else {
        random.one(&[(1, 1), (1, 20), (1, 200), (1448, 1448), (60_000, 60_000)])
    };
    let mut pieces = Vec::new();
    let mut sent = [0; 2];
    let mut phase = 0;
    for turn in &conversation.turns {
        if turn.answers {
            phase += 1;
        }
        while sent[turn.side] < turn.end {
            let len = random.len(profile.0..=profile.1);
            let from = sent[turn.side];
            let to = (from + len).min(turn.end);
            sent[turn.side] = to;
            pieces.push(Piece {
                side: turn.side,
                from,
                to,
                fin: false,
                reset: false,
                seen: true,
                at: (phase, 0),
            });
        }
    }
    let mut end = |side, fin, apart: bool| {
        if apart {
            phase += 1;
        }
        pieces.push(Piece {
            side,
            from: sent[side],
            to: sent[side],
            fin,
            reset: !fin,
            seen: true,
            at: (phase, 0),
        });
    };
    match conversation.end {
        End::Open => {}
        End::Reset(side) => end(side, false, true),
        End::Fin(side) => {
            end(side, true, random.of_thousand(700));
            end(1 - side, true, true);
        }
    }
    pieces
}

fn shuffle(
    conversation: &Conversation,
    pieces: &[Piece],
    rates: &Rates,
    random: &mut Random,
) -> Vec<Piece> {
    const STEP: usize = 8;
    let mut out: Vec<Piece> = Vec::new();
    // How far a side's stream goes in each phase: nothing is sent earlier than that.
    let limit = |piece: &Piece| {
        let same = |other: &&Piece| other.side == piece.side && other.at.0 <= piece.at.0;
        pieces
            .iter()
            .filter(same)
            .map(|other| other.to)
            .max()
            .unwrap_or(0)
    };
    let again = |piece: &Piece, random: &mut Random| {
        let mut piece = *piece;
        if random.of_thousand(300) && !piece.fin {
            piece.from -= random.len(0..=piece.from.min(700));
            piece.to += random.len(0..=(limit(&piece) - piece.to).min(700));
        }
        piece
    };
    for (i, piece) in pieces.iter().enumerate() {
        let mut piece = *piece;
        piece.at.1 = i * STEP;
        if piece.reset {
            out.push(piece);
            continue;
        }
        let within = |(begin, end): &(usize, usize)| {
            *begin <= piece.from && piece.to <= *end && piece.to > piece.from
        };
        if random.of_thousand(rates.unseen) && conversation.payloads[piece.side].iter().any(within)
        {
            piece.seen = false;
            out.push(piece);
        } else if random.of_thousand(rates.lost) {
            let mut piece = again(&piece, random);
            piece.at.1 += random.len(2..=30) * STEP + STEP / 2;
            out.push(piece);
        } else if random.of_thousand(rates.late) {
            piece.at.1 += random.len(1..=rates.depth) * STEP + STEP / 2;
            out.push(piece);
        } else {
            out.push(piece);
            if random.of_thousand(rates.twice) {
                let mut piece = again(&piece, random);
                piece.at.1 += random.len(0..=5) * STEP + STEP / 2;
                out.push(piece);
            }
        }
    }
    out.sort_by_key(|piece| piece.at);
    out
}

/// What the packets have in common, and how far each side has come.
struct Wire<'a> {
    conversation: &'a Conversation,
    isn: [u32; 2],
    /// By sender: behind the last byte on the wire.
    high: [usize; 2],
    /// By sender: what has arrived, as ascending stretches that do not touch.
    arrived: [Vec<(usize, usize)>; 2],
    acked: [u32; 2],
    traffic: Traffic,
}

impl<'a> Wire<'a> {
    fn new(conversation: &'a Conversation, random: &mut Random) -> Self {
        let mut isn = || match random.len(0..=3) {
            0 => u32::MAX - random.len(0..=5000) as u32,
            _ => random.bits() as u32,
        };
        Self {
            conversation,
            isn: [isn(), isn()],
            high: [0; 2],
            arrived: [vec![(0, 0)], vec![(0, 0)]],
            acked: [0; 2],
            traffic: Traffic {
                packets: Vec::new(),
                waited: false,
                unseen: false,
                overlaps: false,
            },
        }
    }

    fn play(mut self, pieces: &[Piece], rates: &Rates, random: &mut Random) -> Traffic {
        if !self.conversation.midstream {
            self.emit(CLIENT, -1, TcpFlags(0x02), 64_000, &[], "SYN");
            self.emit(SERVER, -1, TcpFlags(0x12), 64_000, &[], "SYN");
            self.emit(CLIENT, 0, TcpFlags(0x10), 64_000, &[], "");
        }
        let mut phase = 0;
        for piece in pieces {
            let side = piece.side;
            if piece.at.0 != phase {
                // Whoever answers has what he answers to.
                phase = piece.at.0;
                self.acked = [self.next_ack(CLIENT), self.next_ack(SERVER)];
            }
            if random.of_thousand(700) {
                self.acked[side] = self.next_ack(side);
            }
            if piece.seen {
                self.send(piece, random);
            }
            self.arrive(piece);
            // What comes behind the end counts for nobody, and may be counted before the end is told.
            if self.is_over(piece) {
                break;
            }
            if random.of_thousand(rates.probe) {
                let side = random.len(0..=1);
                self.probe(side, random);
            }
            if random.of_thousand(rates.ack) {
                let side = random.len(0..=1);
                self.acked[side] = self.next_ack(side);
                let window = if random.of_thousand(100) { 0 } else { 1000 };
                let at = self.high[side] as i64;
                self.emit(side, at, TcpFlags(0x10), window, &[], "ack");
            }
        }
        self.traffic
    }

    /// Whether the connection has come to its end.
    fn is_over(&self, last: &Piece) -> bool {
        let finished = |side: usize| self.high[side] > self.conversation.streams[side].len();
        last.reset || (finished(CLIENT) && finished(SERVER))
    }

    fn send(&mut self, piece: &Piece, random: &mut Random) {
        let side = piece.side;
        let payload = &self.conversation.streams[side][piece.from..piece.to];
        let mut flags = 0x10;
        if piece.fin {
            flags |= 0x01;
        }
        if piece.reset {
            flags |= 0x04;
        }
        if random.of_thousand(500) && !payload.is_empty() {
            flags |= 0x08;
        }
        let window = if random.of_thousand(5) { 0 } else { 2000 };
        let at = if piece.reset {
            self.high[side]
        } else {
            piece.from
        };
        self.emit(side, at as i64, TcpFlags(flags), window, payload, "");
    }

    fn probe(&mut self, side: usize, random: &mut Random) {
        // Of one who has sent, and not closed.
        let stream = &self.conversation.streams[side];
        let high = self.high[side];
        if high == 0 || high > stream.len() {
            return;
        }
        let len = random.len(0..=1);
        let payload = &stream[high - 1..high - 1 + len];
        self.emit(
            side,
            high as i64 - 1,
            TcpFlags(0x10),
            3000,
            payload,
            "probe",
        );
    }

    /// Notes that a piece has reached its receiver.
    fn arrive(&mut self, piece: &Piece) {
        if piece.reset {
            return;
        }
        let side = piece.side;
        let end = piece.to + usize::from(piece.fin);
        let arrived = &mut self.arrived[side];
        let touches = |(from, to): &(usize, usize)| *from < end && piece.from < *to;
        let within = |(from, to): &(usize, usize)| *from <= piece.from && end <= *to;
        self.traffic.unseen |= !piece.seen;
        self.traffic.overlaps |= arrived.iter().any(touches) && !arrived.iter().any(within);
        arrived.push((piece.from, end));
        arrived.sort_unstable();
        let mut merged: Vec<(usize, usize)> = Vec::new();
        for &(from, to) in arrived.iter() {
            match merged.last_mut() {
                Some(last) if last.1 >= from => last.1 = last.1.max(to),
                _ => merged.push((from, to)),
            }
        }
        *arrived = merged;
        self.traffic.waited |= arrived.len() > 1;
    }

    /// What `side` may acknowledge.
    fn next_ack(&self, side: usize) -> u32 {
        let other = 1 - side;
        self.seq(other, self.arrived[other][0].1 as i64)
    }

    fn seq(&self, side: usize, at: i64) -> u32 {
        self.isn[side].wrapping_add(1).wrapping_add(at as u32)
    }

    fn emit(
        &mut self,
        side: usize,
        at: i64,
        flags: TcpFlags,
        window: u16,
        payload: &[u8],
        what: &str,
    ) {
        let [source, destination] = [
            self.conversation.ends[side],
            self.conversation.ends[1 - side],
        ];
        if self.acked[side] == 0 && flags.ack() {
            self.acked[side] = self.next_ack(side);
        }
        let mut header = TcpHeader::new(
            source.port(),
            destination.port(),
            self.seq(side, at),
            window,
        );
        header.syn = flags.syn();
        header.fin = flags.fin();
        header.rst = flags.rst();
        header.ack = flags.ack();
        header.psh = flags.0 & 0x08 != 0;
        if header.ack {
            header.acknowledgment_number = self.acked[side];
        }
        let name = ["client", "server"][side];
        let end = at + payload.len() as i64;
        let named = [(header.fin, " FIN"), (header.rst, " RST")];
        let named: String = named
            .iter()
            .filter(|(is, _)| *is)
            .map(|(_, name)| *name)
            .collect();
        let acked = header
            .acknowledgment_number
            .wrapping_sub(self.seq(1 - side, 0));
        let packet = pcap::ip(source.ip(), destination.ip(), &pcap::tcp(&header, payload));
        let n = self.traffic.packets.len();
        let pause = if self.conversation.midstream && n < PROBED && n % PROBES == PROBES - 1 {
            PROBE
        } else {
            Duration::ZERO
        };
        let opened = self.conversation.opened[side] as i64;
        self.traffic.packets.push(Packet {
            side,
            is_end: flags.fin() || flags.rst(),
            pause,
            // Where a connection is only being recognised, it matters what came first.
            is_alone: flags.0 & 0x07 != 0
                || at < opened + 1
                || (self.conversation.midstream && n < PROBED),
            bytes: pcap::ethernet(&packet),
            what: format!("{name} {at}..{end}{named} {what} (has {acked})"),
        });
        if !flags.rst() && at >= 0 {
            let end = end as usize + usize::from(flags.fin());
            self.high[side] = self.high[side].max(end);
        }
    }
}
