//! What holds for any segmentation, any order, and any nonsense.

use proptest::prelude::*;

use super::{
    tests::{ACK, Bench, CAUSAL, FIN, Got, LIMITS, SYN, Wire, wire},
    *,
};

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// What became of a byte of the stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fate {
    Captured { byte: u8, ts: u64 },
    Uncaptured { ts: u64 },
    Lost,
}

/// The stream as one vector: the first byte at a place stays, unless it was not captured and is not
/// delivered yet.
struct Model {
    fates: Vec<Option<Fate>>,
    highest: usize,
}

impl Model {
    fn apply(&mut self, segment: &Piece, ts: u64) {
        let behind = segment.at + segment.bytes.len();
        let is_probe = segment.bytes.len() == 1 && behind == self.highest;
        if is_probe {
            return;
        }
        self.highest = self.highest.max(behind);
        let delivered = self.fates.iter().take_while(|fate| fate.is_some()).count();
        for (i, &byte) in segment.bytes.iter().enumerate() {
            let is_captured = i < segment.captured;
            let fate = &mut self.fates[segment.at + i];
            match fate {
                None if is_captured => *fate = Some(Fate::Captured { byte, ts }),
                None => *fate = Some(Fate::Uncaptured { ts }),
                Some(Fate::Uncaptured { .. }) if is_captured && segment.at + i >= delivered => {
                    *fate = Some(Fate::Captured { byte, ts });
                }
                Some(_) => {}
            }
        }
    }
}

/// A range of the stream in a segment, of which the first `captured` bytes were captured.
#[derive(Clone, Debug)]
struct Piece {
    at: usize,
    bytes: Vec<u8>,
    captured: usize,
}

impl Piece {
    fn wire(&self, side: usize, ts: u64, start: u32) -> Wire {
        let seq = start.wrapping_add(self.at as u32);
        let mut wire = wire(side, ts, ACK, seq, &self.bytes);
        wire.windows[0].1.truncate(self.captured);
        wire
    }
}

const STREAM: usize = 400;

/// Ranges of a stream, overlapping at will; of a few the bytes differ from the stream's.
fn pieces() -> impl Strategy<Value = Vec<Piece>> {
    let piece = (
        0..STREAM,
        1..60usize,
        0..100usize,
        prop::bool::weighted(0.1),
    );
    let piece = piece.prop_map(|(at, len, captured, differs)| {
        let len = len.min(STREAM - at);
        let salt = u8::from(differs) * 100;
        let bytes = (at..at + len).map(|i| (i as u8).wrapping_mul(37) ^ salt);
        let bytes: Vec<_> = bytes.collect();
        // A good half are captured whole.
        let captured = captured.min(len);
        Piece {
            at,
            bytes,
            captured,
        }
    });
    prop::collection::vec(piece, 1..60)
}

/// Sequence numbers, half of them near the wrap.
fn start() -> impl Strategy<Value = u32> {
    prop_oneof![any::<u32>(), (u32::MAX - 500)..=u32::MAX]
}

/// What was delivered of `side`, byte by byte; that the offsets have no gap is checked on the way.
fn fates(got: &[Got], side: usize) -> Vec<Fate> {
    let mut fates = Vec::new();
    for event in got {
        match event {
            Got::Bytes(from, ts, offset, bytes, _) if *from == side => {
                assert_eq!(*offset, fates.len() as u64);
                let captured = |&byte| Fate::Captured { byte, ts: *ts };
                fates.extend(bytes.iter().map(captured));
            }
            Got::Missing(from, ts, offset, len, lost) if *from == side => {
                assert_eq!(*offset, fates.len() as u64);
                let fate = if *lost {
                    Fate::Lost
                } else {
                    Fate::Uncaptured { ts: *ts }
                };
                fates.resize(fates.len() + *len as usize, fate);
            }
            _ => {}
        }
    }
    fates
}

/// A stream in segments, with their times, in the order of the wire.
fn segmented(start: u32, cuts: &[usize]) -> Vec<Wire> {
    let bytes: Vec<u8> = (0..STREAM).map(|i| (i as u8).wrapping_mul(37)).collect();
    let mut wires = Vec::new();
    let mut at = 0;
    for (i, &len) in cuts.iter().enumerate() {
        let len = len.min(STREAM - at);
        let seq = start.wrapping_add(at as u32);
        wires.push(wire(0, i as u64 + 1, ACK, seq, &bytes[at..at + len]));
        at += len;
    }
    let seq = start.wrapping_add(at as u32);
    wires.push(wire(0, 999, ACK | FIN, seq, &bytes[at..]));
    wires
}

/// Each byte with its time and whether it begins a segment.
fn timed(got: &[Got]) -> Vec<(u8, u64, bool)> {
    let mut all = Vec::new();
    for event in got {
        if let &Got::Bytes(_, ts, _, ref bytes, starts) = event {
            let timed = |(i, &byte)| (byte, ts, starts && i == 0);
            all.extend(bytes.iter().enumerate().map(timed));
        }
    }
    all
}

/// A conversation in which who speaks has heard all that was said before: its order is known from
/// the acknowledgements.
fn conversation(starts: [u32; 2], turns: &[(usize, Vec<u8>)]) -> Vec<Wire> {
    let mut next = starts;
    let mut wires = Vec::new();
    for (i, (side, payload)) in turns.iter().enumerate() {
        let seq = next[*side];
        wires.push(wire(*side, i as u64 + 1, ACK, seq, payload).ack(next[1 - side]));
        next[*side] = seq.wrapping_add(payload.len() as u32);
    }
    for side in [0, 1] {
        let (seq, ack) = (next[side], next[1 - side]);
        wires.push(wire(side, 1000 + side as u64, ACK | FIN, seq, b"").ack(ack));
        next[side] = seq.wrapping_add(1);
    }
    wires
}

fn opened(limits: Limits, starts: [u32; 2]) -> Bench {
    let mut bench = Bench::new(limits);
    bench.send(wire(0, 0, SYN, starts[0].wrapping_sub(1), b""));
    bench.send(wire(1, 0, SYN, starts[1].wrapping_sub(1), b"").ack(starts[0]));
    bench
}

/// A segment that may be anything, near enough to others that it is not just ignored.
fn nonsense() -> impl Strategy<Value = Wire> {
    let near = || {
        let far = prop_oneof![
            8 => Just(0u32),
            1 => Just(1 << 30),
            1 => Just(1 << 31),
            1 => Just(3 << 30),
            1 => any::<u32>(),
        ];
        let close = prop_oneof![4 => 0..40u32, 2 => 0..3000u32, 1 => 0..(3u32 << 20)];
        (far, close).prop_map(|(far, close)| far.wrapping_add(close).wrapping_sub(20))
    };
    let len = prop_oneof![
        4 => 0..3u32,
        4 => 0..300u32,
        1 => 0..(1u32 << 30),
        1 => any::<u32>(),
    ];
    let window = (
        prop_oneof![8 => 0..300u32, 1 => any::<u32>()],
        prop::collection::vec(any::<u8>(), 0..40),
    );
    let flags = prop_oneof![6 => Just(ACK), 1 => Just(SYN), 1 => Just(FIN), 1 => any::<u8>()];
    (
        0..2usize,
        prop_oneof![6 => 0..3_000_000_000u64, 1 => any::<u64>()],
        near(),
        prop::option::of(near()),
        flags,
        0..2u16,
        (len, prop_oneof![4 => Just(0u32), 1 => any::<u32>()]),
        prop::collection::vec(window, 0..4),
    )
        .prop_map(
            |(side, ts, seq, ack, flags, window, (len, behind), windows)| Wire {
                side,
                ts,
                seq,
                ack,
                flags,
                window,
                len,
                behind,
                windows,
            },
        )
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn reassembly_equals_a_naive_model(start in start(), pieces in pieces(), has_fin: bool) {
        let mut bench = opened(LIMITS, [start, 7]);
        let mut model = Model { fates: vec![None; STREAM], highest: 0 };
        for (i, piece) in pieces.iter().enumerate() {
            let ts = i as u64 + 1;
            bench.send(piece.wire(0, ts, start));
            model.apply(piece, ts);
            let delivered = model.fates.iter().map_while(|&fate| fate).collect::<Vec<_>>();
            prop_assert_eq!(&fates(&bench.got, 0), &delivered);
        }
        if has_fin {
            bench.send(wire(0, 999, ACK | FIN, start.wrapping_add(STREAM as u32), b""));
        } else {
            let seen = model.fates.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
            model.fates.truncate(seen);
        }
        bench.flush();
        let all: Vec<_> = model.fates.iter().map(|fate| fate.unwrap_or(Fate::Lost)).collect();
        prop_assert_eq!(fates(&bench.got, 0), all);
        prop_assert_eq!(bench.got.last() == Some(&Got::Fin(0, 999)), has_fin);
        prop_assert_eq!(bench.shared.buffered, 0);
    }

    #[test]
    fn in_any_order_the_stream_is_the_same(
        (start, ordered, shuffled) in (start(), prop::collection::vec(1..40usize, 0..30))
            .prop_map(|(start, cuts)| (start, segmented(start, &cuts)))
            .prop_flat_map(|(start, wires)| {
                (Just(start), Just(wires.clone()), Just(wires).prop_shuffle())
            }),
        repeated in any::<prop::sample::Index>(),
    ) {
        let mut expected = opened(LIMITS, [start, 7]);
        for wire in ordered {
            expected.send(wire);
        }
        let mut bench = opened(LIMITS, [start, 7]);
        let repeated = shuffled[repeated.index(shuffled.len())].clone();
        for wire in shuffled {
            bench.send(wire);
        }
        bench.send(repeated);
        prop_assert_eq!(timed(&bench.got), timed(&expected.got));
        prop_assert_eq!(bench.got.last(), Some(&Got::Fin(0, 999)));
        prop_assert_eq!(bench.shared.buffered, 0);
    }

    #[test]
    fn acknowledgements_restore_the_order_between_the_directions(
        starts in [start(), start()],
        (turns, order) in prop::collection::vec(
            (0..2usize, prop::collection::vec(any::<u8>(), 1..30)),
            0..40,
        )
        .prop_flat_map(|turns| {
            let order: Vec<usize> = (0..turns.len() + 2).collect();
            (Just(turns), Just(order).prop_shuffle())
        }),
    ) {
        let wires = conversation(starts, &turns);
        let mut expected = opened(LIMITS, starts);
        for wire in &wires {
            expected.send(wire.clone());
        }
        let mut bench = opened(CAUSAL, starts);
        for i in order {
            bench.send(wires[i].clone());
        }
        prop_assert_eq!(&bench.got, &expected.got);
        prop_assert!(bench.flow.finished());
        prop_assert_eq!(bench.shared.buffered, 0);
    }

    #[test]
    fn nothing_overtakes_what_it_acknowledges(
        starts in [start(), start()],
        (turns, order) in prop::collection::vec(
            (0..2usize, prop::collection::vec(any::<u8>(), 1..30), any::<prop::sample::Index>()),
            1..40,
        )
        .prop_flat_map(|turns| {
            let order: Vec<usize> = (0..turns.len()).collect();
            (Just(turns), Just(order).prop_shuffle())
        }),
    ) {
        // Who speaks has heard any part of what was said before, and never less than earlier.
        let (mut sent, mut heard) = ([0; 2], [0; 2]);
        let mut wires = Vec::new();
        let mut acked = Vec::new();
        for (i, (side, payload, news)) in turns.iter().enumerate() {
            heard[*side] += news.index(sent[1 - side] - heard[*side] + 1);
            let seq = starts[*side].wrapping_add(sent[*side] as u32);
            let ack = starts[1 - side].wrapping_add(heard[*side] as u32);
            wires.push(wire(*side, i as u64, ACK, seq, payload).ack(ack));
            acked.push(heard[*side]);
            sent[*side] += payload.len();
        }
        let mut bench = opened(CAUSAL, starts);
        for i in order {
            bench.send(wires[i].clone());
        }
        let mut delivered = [0; 2];
        for event in &bench.got {
            if let Got::Bytes(side, ts, _, bytes, _) = event {
                prop_assert!(delivered[1 - side] >= acked[*ts as usize]);
                delivered[*side] += bytes.len();
            }
        }
        prop_assert_eq!(delivered, sent);
        prop_assert_eq!(bench.shared.buffered, 0);
        prop_assert_eq!(bench.flow.poll_timeout(&CAUSAL), None);
    }

    #[test]
    fn nonsense_is_survived_in_bounded_memory(
        wires in prop::collection::vec(nonsense(), 1..80),
        causal_order: bool,
        buffered_per_direction in prop_oneof![Just(0usize), 0..3000usize],
        buffered_total in prop_oneof![Just(usize::MAX), 0..4000usize],
        flushed: bool,
    ) {
        let limits = Limits { buffered_per_direction, buffered_total, causal_order, ..LIMITS };
        let mut bench = Bench::new(limits);
        for wire in wires {
            bench.send(wire);
            prop_assert!(bench.shared.buffered <= buffered_total);
            prop_assert!(bench.shared.buffered <= 2 * buffered_per_direction);
            if let Some(at) = bench.flow.poll_timeout(&limits)
                && bench.got.len().is_multiple_of(3)
                && at < Timestamp(u64::MAX)
            {
                bench.timeout(at.0);
                prop_assert!(bench.flow.poll_timeout(&limits).is_none_or(|next| next > at));
            }
        }
        if flushed {
            bench.flush();
            prop_assert_eq!(bench.flow.poll_timeout(&limits), None);
        } else {
            bench.flow.discard(&mut bench.shared);
        }
        prop_assert_eq!(bench.shared.buffered, 0);

        // Offsets have no gap, and nothing comes after an end but a new beginning.
        let (mut next, mut over) = ([0; 2], [false; 2]);
        for event in &bench.got {
            match *event {
                Got::Bytes(side, _, offset, ref bytes, _) => {
                    prop_assert!(!bytes.is_empty() && !over[side]);
                    prop_assert_eq!(offset, next[side]);
                    next[side] += bytes.len() as u64;
                }
                Got::Missing(side, _, offset, len, _) => {
                    prop_assert!(len > 0 && !over[side]);
                    prop_assert_eq!(offset, next[side]);
                    next[side] += len;
                }
                Got::Fin(side, _) => {
                    prop_assert!(!over[side]);
                    over[side] = true;
                }
                Got::Reset(..) => over = [true; 2],
                Got::Restart(..) => (next, over) = ([0; 2], [false; 2]),
            }
        }
    }
}
