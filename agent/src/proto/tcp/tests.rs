//! One test a behaviour; the names say which.

use std::time::Duration;

use super::*;
use crate::proto::{
    flow::FlowKey,
    segment::{TcpFlags, Window},
};

pub(super) const FIN: u8 = 0x01;
pub(super) const SYN: u8 = 0x02;
const RST: u8 = 0x04;
pub(super) const ACK: u8 = 0x10;

const PATIENCE: Duration = Duration::from_secs(1);
const SECOND: u64 = 1_000_000_000;

pub(super) const LIMITS: Limits = Limits {
    buffered_per_direction: 4 << 20,
    buffered_total: 256 << 20,
    gap_patience: PATIENCE,
    causal_order: false,
};

pub(super) const CAUSAL: Limits = Limits {
    causal_order: true,
    ..LIMITS
};

/// A segment that owns what it carries.
#[derive(Clone, Debug)]
pub(super) struct Wire {
    pub(super) side: usize,
    pub(super) ts: u64,
    pub(super) seq: u32,
    pub(super) ack: Option<u32>,
    pub(super) flags: u8,
    pub(super) window: u16,
    pub(super) len: u32,
    pub(super) windows: Vec<(u32, Vec<u8>)>,
}

pub(super) fn wire(side: usize, ts: u64, flags: u8, seq: u32, payload: &[u8]) -> Wire {
    Wire {
        side,
        ts,
        seq,
        ack: None,
        flags,
        window: 1000,
        len: payload.len() as u32,
        windows: vec![(0, payload.to_vec())],
    }
}

impl Wire {
    pub(super) fn ack(mut self, ack: u32) -> Self {
        self.ack = Some(ack);
        self.flags |= ACK;
        self
    }

    fn windows(mut self, len: u32, windows: &[(u32, &[u8])]) -> Self {
        self.len = len;
        self.windows = windows.iter().map(|&(at, b)| (at, b.to_vec())).collect();
        self
    }

    fn window(mut self, window: u16) -> Self {
        self.window = window;
        self
    }
}

/// What a stream yielded, in words.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Got {
    Bytes(usize, u64, u64, Vec<u8>, bool),
    Missing(usize, u64, u64, u64, bool),
    Fin(usize, u64),
    Reset(usize, u64),
    Restart(usize, u64),
}

pub(super) struct Bench {
    pub(super) flow: TcpFlow,
    pub(super) limits: Limits,
    pub(super) shared: Shared,
    pub(super) got: Vec<Got>,
}

fn record(got: &mut Vec<Got>) -> impl FnMut(StreamEvent<'_>) {
    |event| {
        got.push(match event {
            StreamEvent::Bytes {
                side,
                ts,
                offset,
                bytes,
                starts_segment,
            } => Got::Bytes(side, ts.0, offset, bytes.to_vec(), starts_segment),
            StreamEvent::Missing {
                side,
                ts,
                offset,
                len,
                lost,
            } => Got::Missing(side, ts.0, offset, len, lost),
            StreamEvent::Fin { side, ts } => Got::Fin(side, ts.0),
            StreamEvent::Reset { side, ts } => Got::Reset(side, ts.0),
            StreamEvent::Restart { side, ts } => Got::Restart(side, ts.0),
        });
    }
}

impl Bench {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            flow: TcpFlow::new(),
            limits,
            shared: Shared::default(),
            got: Vec::new(),
        }
    }

    /// Both SYNs seen: side 0 sends from 100 on, side 1 from 500 on.
    fn open(limits: Limits) -> Self {
        let mut bench = Self::new(limits);
        bench.send(wire(0, 0, SYN, 99, b""));
        bench.send(wire(1, 0, SYN, 499, b"").ack(100));
        bench.expect(&[]);
        bench
    }

    #[allow(clippy::needless_pass_by_value)]
    pub(super) fn send(&mut self, wire: Wire) {
        let ends = [
            "10.0.0.1:1000".parse().expect("an address"),
            "10.0.0.2:80".parse().expect("an address"),
        ];
        let windows: Vec<_> = wire
            .windows
            .iter()
            .map(|(offset, bytes)| Window {
                offset: *offset,
                bytes,
            })
            .collect();
        let segment = Segment {
            ts: Timestamp(wire.ts),
            source: ends[wire.side],
            destination: ends[1 - wire.side],
            seq: SeqNumber(wire.seq),
            ack: wire.ack.map(SeqNumber),
            flags: TcpFlags(wire.flags),
            window: wire.window,
            len: wire.len,
            windows: &windows,
            interface: None,
            scope: 0,
            epoch: 0,
        };
        let (_, side) = FlowKey::new(segment.source, segment.destination, 0);
        let deliver = &mut record(&mut self.got);
        let (limits, shared) = (&self.limits, &mut self.shared);
        self.flow
            .handle_segment(side, &segment, limits, shared, deliver);
    }

    pub(super) fn timeout(&mut self, now: u64) {
        let deliver = &mut record(&mut self.got);
        let (limits, shared) = (&self.limits, &mut self.shared);
        self.flow
            .handle_timeout(Timestamp(now), limits, shared, deliver);
    }

    pub(super) fn flush(&mut self) {
        let deliver = &mut record(&mut self.got);
        let (limits, shared) = (&self.limits, &mut self.shared);
        self.flow.flush(limits, shared, deliver);
    }

    #[track_caller]
    fn expect(&mut self, expected: &[Got]) {
        assert_eq!(std::mem::take(&mut self.got), expected);
    }

    fn counts(&self, side: usize) -> (u64, u64, u64, u64) {
        let counts = self.flow.counts(side);
        (
            counts.retransmitted,
            counts.out_of_order,
            counts.keepalive_probes,
            counts.zero_windows,
        )
    }
}

fn bytes(side: usize, ts: u64, offset: u64, bytes: &[u8]) -> Got {
    Got::Bytes(side, ts, offset, bytes.to_vec(), true)
}

fn rest(side: usize, ts: u64, offset: u64, bytes: &[u8]) -> Got {
    Got::Bytes(side, ts, offset, bytes.to_vec(), false)
}

fn lost(side: usize, ts: u64, offset: u64, len: u64) -> Got {
    Got::Missing(side, ts, offset, len, true)
}

fn uncaptured(side: usize, ts: u64, offset: u64, len: u64) -> Got {
    Got::Missing(side, ts, offset, len, false)
}

#[test]
fn bytes_in_order_are_delivered_at_once() {
    let mut bench = Bench::open(LIMITS);
    bench.send(wire(0, 1, ACK, 100, b"abc"));
    bench.expect(&[bytes(0, 1, 0, b"abc")]);
    bench.send(wire(0, 2, ACK, 103, b"de"));
    bench.expect(&[bytes(0, 2, 3, b"de")]);
    assert_eq!(bench.counts(0), (0, 0, 0, 0));
    assert_eq!(bench.flow.next_seq(0), Some(SeqNumber(105)));
    assert_eq!(bench.flow.seq_at(0, 3), Some(SeqNumber(103)));
    assert_eq!(bench.flow.poll_timeout(&LIMITS), None);
}

#[test]
fn the_sequence_number_wraps() {
    let mut bench = Bench::new(LIMITS);
    bench.send(wire(0, 0, SYN, u32::MAX - 2, b""));
    bench.send(wire(0, 1, ACK, u32::MAX - 1, b"abcd"));
    bench.send(wire(0, 3, ACK, 4, b"gh"));
    bench.send(wire(0, 2, ACK, 2, b"ef"));
    bench.expect(&[
        bytes(0, 1, 0, b"abcd"),
        bytes(0, 2, 4, b"ef"),
        bytes(0, 3, 6, b"gh"),
    ]);
    assert_eq!(bench.flow.seq_at(0, 2), Some(SeqNumber(0)));
}

#[test]
fn a_stream_may_be_longer_than_the_sequence_space() {
    let mut bench = Bench::open(LIMITS);
    let step = 1 << 29;
    for i in 0..40u64 {
        let seq = 100u32.wrapping_add((i as u32).wrapping_mul(step));
        bench.send(wire(0, i, ACK, seq, b"").windows(step, &[]));
        bench.expect(&[uncaptured(0, i, i << 29, 1 << 29)]);
    }
    let seq = 100u32.wrapping_add(40u32.wrapping_mul(step));
    bench.send(wire(0, 99, ACK, seq, b"x"));
    bench.expect(&[bytes(0, 99, 40 << 29, b"x")]);
    assert_eq!(bench.flow.seq_at(0, 40 << 29), Some(SeqNumber(seq)));
    bench.send(wire(0, 99, RST, seq, b""));
    bench.expect(&[Got::Reset(0, 99)]);
}

#[test]
fn a_syn_may_carry_data() {
    let mut bench = Bench::new(LIMITS);
    bench.send(wire(0, 1, SYN, 99, b"GET"));
    bench.send(wire(1, 2, SYN, 499, b"HTTP").ack(103));
    bench.send(wire(0, 3, ACK, 103, b" /").ack(504));
    bench.expect(&[
        bytes(0, 1, 0, b"GET"),
        bytes(1, 2, 0, b"HTTP"),
        bytes(0, 3, 3, b" /"),
    ]);
    assert!(bench.flow.saw_syn(0) && bench.flow.saw_syn(1));
}

#[test]
fn a_syn_may_be_retransmitted() {
    let mut bench = Bench::open(LIMITS);
    bench.send(wire(0, 1, SYN, 99, b""));
    bench.send(wire(1, 1, SYN, 499, b"").ack(100));
    bench.send(wire(0, 2, ACK, 100, b"a").ack(500));
    bench.send(wire(1, 3, SYN, 499, b"").ack(100));
    bench.expect(&[bytes(0, 2, 0, b"a")]);
    assert_eq!(bench.counts(0), (0, 0, 0, 0));
    assert_eq!(bench.counts(1), (0, 0, 0, 0));
}

#[test]
fn a_syn_without_its_data_again_is_followed_by_the_data() {
    let mut bench = Bench::new(LIMITS);
    bench.send(wire(0, 1, SYN, 99, b"GET"));
    bench.send(wire(1, 2, SYN, 499, b"").ack(100));
    bench.send(wire(0, 3, ACK, 100, b"GET").ack(500));
    bench.expect(&[bytes(0, 1, 0, b"GET")]);
    assert_eq!(bench.counts(0), (1, 0, 0, 0));
}

#[test]
fn a_syn_ack_tells_where_the_other_stream_begins() {
    let mut bench = Bench::new(LIMITS);
    bench.send(wire(1, 0, SYN, 499, b"").ack(100));
    assert!(bench.flow.saw_syn(0) && !bench.flow.seen(0));
    bench.send(wire(0, 2, ACK, 102, b"cd"));
    bench.expect(&[]);
    bench.send(wire(0, 1, ACK, 100, b"ab"));
    bench.expect(&[bytes(0, 1, 0, b"ab"), bytes(0, 2, 2, b"cd")]);
    bench.send(wire(0, 0, SYN, 99, b""));
    bench.expect(&[]);
}

#[test]
fn a_syn_with_data_may_come_behind_the_syn_ack() {
    let mut bench = Bench::new(CAUSAL);
    bench.send(wire(1, 2, SYN, 499, b"").ack(103));
    bench.send(wire(0, 1, SYN, 99, b"GET"));
    bench.expect(&[bytes(0, 1, 0, b"GET")]);
}

#[test]
fn data_may_come_with_the_fin() {
    let mut bench = Bench::open(LIMITS);
    bench.send(wire(0, 1, ACK | FIN, 100, b"bye"));
    bench.expect(&[bytes(0, 1, 0, b"bye"), Got::Fin(0, 1)]);
    assert!(!bench.flow.finished());
}

#[test]
fn a_fin_alone_ends_the_stream_once() {
    let mut bench = Bench::open(LIMITS);
    bench.send(wire(0, 1, ACK | FIN, 100, b""));
    bench.send(wire(0, 2, ACK | FIN, 100, b""));
    bench.expect(&[Got::Fin(0, 1)]);
    assert_eq!(bench.counts(0), (0, 0, 0, 0));
}

#[test]
fn a_fin_waits_for_missing_bytes() {
    let mut bench = Bench::open(LIMITS);
    bench.send(wire(0, 2, ACK | FIN, 102, b""));
    bench.expect(&[]);
    assert_eq!(bench.counts(0), (0, 1, 0, 0));
    bench.send(wire(0, 1, ACK, 100, b"ab"));
    bench.expect(&[bytes(0, 1, 0, b"ab"), Got::Fin(0, 2)]);
}

#[test]
fn the_other_side_goes_on_after_a_half_close() {
    let mut bench = Bench::open(LIMITS);
    bench.send(wire(0, 1, ACK | FIN, 100, b""));
    bench.send(wire(1, 2, ACK, 500, b"more").ack(101));
    bench.send(wire(1, 3, ACK | FIN, 504, b"").ack(101));
    bench.expect(&[Got::Fin(0, 1), bytes(1, 2, 0, b"more"), Got::Fin(1, 3)]);
    assert!(bench.flow.finished());
}

#[test]
fn what_comes_behind_a_fin_is_ignored() {
    let mut bench = Bench::open(LIMITS);
    bench.send(wire(0, 1, ACK | FIN, 100, b"ab"));
    bench.send(wire(0, 2, ACK, 102, b"zz"));
    bench.send(wire(0, 3, ACK, 103, b"zz"));
    bench.send(wire(0, 4, ACK, 100, b"ab"));
    bench.expect(&[bytes(0, 1, 0, b"ab"), Got::Fin(0, 1)]);
    assert_eq!(bench.counts(0), (1, 0, 0, 0));
    assert_eq!(bench.shared.buffered, 0);
}

#[test]
fn what_is_held_back_behind_a_fin_is_dropped() {
    let mut bench = Bench::open(LIMITS);
    bench.send(wire(0, 1, ACK, 105, b"zz"));
    assert!(bench.shared.buffered > 0);
    bench.send(wire(0, 2, ACK | FIN, 100, b"ab"));
    bench.expect(&[bytes(0, 2, 0, b"ab"), Got::Fin(0, 2)]);
    assert_eq!(bench.shared.buffered, 0);
}

#[test]
fn the_first_segment_seen_midstream_is_the_start() {
    let mut bench = Bench::new(LIMITS);
    bench.send(wire(0, 1, ACK, 5000, b"ab").ack(700));
    bench.send(wire(0, 2, ACK, 5002, b"cd").ack(700));
    bench.send(wire(0, 3, ACK, 4990, b"0123456789"));
    bench.expect(&[bytes(0, 1, 0, b"ab"), bytes(0, 2, 2, b"cd")]);
    assert!(!bench.flow.saw_syn(0));
    assert_eq!(bench.counts(0), (1, 0, 0, 0));
}

#[test]
fn midstream_an_acknowledgement_is_a_start_too() {
    let mut bench = Bench::new(LIMITS);
    bench.send(wire(0, 1, ACK, 5000, b"").ack(700));
    bench.send(wire(0, 3, ACK, 5002, b"cd"));
    bench.expect(&[]);
    bench.send(wire(0, 2, ACK, 5000, b"ab"));
    bench.expect(&[bytes(0, 2, 0, b"ab"), bytes(0, 3, 2, b"cd")]);
}

#[test]
fn midstream_a_keepalive_probe_costs_no_gap() {
    let mut bench = Bench::new(LIMITS);
    bench.send(wire(0, 1, ACK, 4999, b"").ack(700));
    bench.send(wire(0, 2, ACK, 5000, b"ab").ack(700));
    bench.send(wire(0, 3, ACK, 5001, b"b").ack(700));
    bench.expect(&[bytes(0, 2, 0, b"ab")]);
    assert_eq!(bench.counts(0), (0, 0, 1, 0));
}

#[test]
fn midstream_what_an_acknowledgement_overtook_is_the_start() {
    let mut bench = Bench::new(LIMITS);
    bench.send(wire(0, 2, ACK, 5004, b"").ack(700));
    bench.send(wire(0, 1, ACK, 5000, b"abcd").ack(700));
    bench.expect(&[bytes(0, 1, 0, b"abcd")]);
    assert_eq!(bench.counts(0), (0, 0, 0, 0));
}

#[test]
fn midstream_the_start_moves_back_while_nothing_was_delivered() {
    let mut bench = Bench::new(CAUSAL);
    bench.send(wire(1, 0, ACK, 700, b"").ack(5000));
    bench.send(wire(0, 3, ACK, 5002, b"cd").ack(702));
    bench.send(wire(0, 1, ACK, 5000, b"ab").ack(700));
    bench.expect(&[bytes(0, 1, 0, b"ab")]);
    bench.send(wire(1, 2, ACK, 700, b"xy").ack(5002));
    bench.expect(&[bytes(1, 2, 0, b"xy"), bytes(0, 3, 2, b"cd")]);
}

#[test]
fn a_syn_that_was_overtaken_by_its_data_is_no_new_incarnation() {
    let mut bench = Bench::new(LIMITS);
    bench.send(wire(0, 2, ACK, 100, b"ab").ack(500));
    bench.send(wire(0, 1, SYN, 99, b""));
    bench.send(wire(1, 1, SYN, 499, b"").ack(100));
    bench.send(wire(0, 3, ACK, 102, b"cd").ack(500));
    bench.expect(&[bytes(0, 2, 0, b"ab"), bytes(0, 3, 2, b"cd")]);
    assert!(bench.flow.saw_syn(0) && bench.flow.saw_syn(1));
}

#[test]
fn a_retransmission_is_counted_and_nothing_else() {
    let mut bench = Bench::open(LIMITS);
    bench.send(wire(0, 1, ACK, 100, b"abc"));
    bench.send(wire(0, 2, ACK, 100, b"abc"));
    bench.send(wire(0, 3, ACK, 101, b"b"));
    bench.expect(&[bytes(0, 1, 0, b"abc")]);
    assert_eq!(bench.counts(0), (2, 0, 0, 0));
}

#[test]
fn of_a_partial_overlap_the_new_part_is_delivered() {
    let mut bench = Bench::open(LIMITS);
    bench.send(wire(0, 1, ACK, 100, b"abc"));
    bench.send(wire(0, 2, ACK, 101, b"bcde"));
    bench.expect(&[bytes(0, 1, 0, b"abc"), rest(0, 2, 3, b"de")]);
    assert_eq!(bench.counts(0), (1, 0, 0, 0));
}

#[test]
fn of_conflicting_bytes_the_first_win_and_the_conflict_is_counted() {
    let mut bench = Bench::open(LIMITS);
    bench.send(wire(0, 1, ACK, 102, b"cde"));
    bench.send(wire(0, 2, ACK, 101, b"bXYZfg"));
    assert_eq!(bench.shared.conflicts, 1);
    bench.send(wire(0, 3, ACK, 100, b"abcde"));
    assert_eq!(bench.shared.conflicts, 1);
    bench.expect(&[
        bytes(0, 3, 0, b"a"),
        bytes(0, 2, 1, b"b"),
        bytes(0, 1, 2, b"cde"),
        rest(0, 2, 5, b"fg"),
    ]);
    assert_eq!(bench.counts(0), (2, 2, 0, 0));
}

#[test]
fn bytes_take_the_place_of_uncaptured_ones_that_are_held_back() {
    let mut bench = Bench::open(LIMITS);
    bench.send(wire(0, 1, ACK, 101, b"").windows(8, &[(0, b"b"), (7, b"i")]));
    bench.send(wire(0, 2, ACK, 103, b"def"));
    bench.send(wire(0, 3, ACK, 100, b"a"));
    bench.expect(&[
        bytes(0, 3, 0, b"a"),
        bytes(0, 1, 1, b"b"),
        uncaptured(0, 1, 2, 1),
        bytes(0, 2, 3, b"def"),
        uncaptured(0, 1, 6, 2),
        rest(0, 1, 8, b"i"),
    ]);
    assert_eq!(bench.shared.buffered, 0);
    assert_eq!(bench.shared.conflicts, 0);
}

#[test]
fn keepalive_probes_are_counted_as_such() {
    let mut bench = Bench::open(LIMITS);
    bench.send(wire(0, 1, ACK, 100, b"abc"));
    bench.got.clear();
    bench.send(wire(0, 2, ACK, 102, b"").ack(500));
    bench.send(wire(0, 3, ACK, 102, b"\0").ack(500));
    bench.send(wire(1, 3, ACK, 500, b"").ack(103));
    bench.expect(&[]);
    assert_eq!(bench.counts(0), (0, 0, 2, 0));
    assert_eq!(bench.counts(1), (0, 0, 0, 0));
}

#[test]
fn windows_of_zero_are_counted() {
    let mut bench = Bench::open(LIMITS);
    bench.send(wire(0, 1, ACK, 100, b"").ack(500).window(0));
    bench.send(wire(0, 1, ACK, 100, b"a").ack(500).window(0));
    bench.send(wire(0, 2, RST, 101, b"").window(0));
    assert_eq!(bench.counts(0), (0, 0, 0, 1));
}

#[test]
fn a_segment_ahead_is_counted_once_and_held_back() {
    let mut bench = Bench::open(LIMITS);
    bench.send(wire(0, 1, ACK, 102, b"").windows(6, &[(0, b"c"), (3, b"f")]));
    assert_eq!(bench.counts(0), (0, 1, 0, 0));
    bench.expect(&[]);
    bench.send(wire(0, 2, ACK, 100, b"ab"));
    bench.expect(&[
        bytes(0, 2, 0, b"ab"),
        bytes(0, 1, 2, b"c"),
        uncaptured(0, 1, 3, 2),
        rest(0, 1, 5, b"f"),
        uncaptured(0, 1, 6, 2),
    ]);
    assert_eq!(bench.counts(0), (0, 1, 0, 0));
    assert_eq!(bench.shared.buffered, 0);
}

#[test]
fn what_was_not_captured_is_reported_in_order() {
    let mut bench = Bench::open(LIMITS);
    bench.send(wire(0, 1, ACK, 100, b"").windows(10, &[(2, b"cd"), (7, b"h")]));
    bench.expect(&[
        uncaptured(0, 1, 0, 2),
        rest(0, 1, 2, b"cd"),
        uncaptured(0, 1, 4, 3),
        rest(0, 1, 7, b"h"),
        uncaptured(0, 1, 8, 2),
    ]);
}

#[test]
fn windows_may_be_nonsense() {
    let mut bench = Bench::open(LIMITS);
    let windows: &[(u32, &[u8])] = &[
        (4, b"ef"),
        (1, b"b"),
        (5, b"Fgh"),
        (u32::MAX, b"x"),
        (9, b"jkl"),
        (3, b""),
    ];
    bench.send(wire(0, 1, ACK, 100, b"").windows(10, windows));
    bench.expect(&[
        uncaptured(0, 1, 0, 4),
        rest(0, 1, 4, b"ef"),
        rest(0, 1, 6, b"gh"),
        uncaptured(0, 1, 8, 1),
        rest(0, 1, 9, b"j"),
    ]);
}

#[test]
fn uncaptured_bytes_cost_no_memory_while_held_back() {
    let mut bench = Bench::open(LIMITS);
    bench.send(wire(0, 1, ACK, 101, b"").windows(60_000, &[]));
    assert!(bench.shared.buffered < 1000);
}

#[test]
fn a_reset_near_the_next_byte_is_credible() {
    for seq in [100, 101, 100 + (1 << 20), 100u32.wrapping_sub(1 << 20)] {
        let mut bench = Bench::open(LIMITS);
        bench.send(wire(0, 1, RST, seq, b""));
        bench.send(wire(0, 2, RST, seq, b""));
        bench.expect(&[Got::Reset(0, 1)]);
        assert!(bench.flow.finished());
    }
}

#[test]
fn a_reset_far_away_ends_nothing() {
    let mut bench = Bench::open(LIMITS);
    bench.send(wire(0, 1, RST, 101 + (1 << 20), b""));
    bench.send(wire(1, 1, RST, 1 << 31, b""));
    bench.send(wire(1, 1, RST, 0x9000_0000, b"").ack(100));
    bench.expect(&[]);
    assert!(!bench.flow.finished());
    bench.send(wire(0, 1, ACK, 100, b"a"));
    bench.expect(&[bytes(0, 1, 0, b"a")]);
}

#[test]
fn a_syn_may_be_refused() {
    let mut bench = Bench::new(LIMITS);
    bench.send(wire(0, 1, SYN, 99, b""));
    bench.send(wire(1, 2, RST, 0, b"").ack(7_000_000));
    bench.expect(&[]);
    bench.send(wire(1, 2, RST, 0, b"").ack(100));
    bench.expect(&[Got::Reset(1, 2)]);

    let mut bench = Bench::new(LIMITS);
    bench.send(wire(0, 1, SYN, 99, b""));
    bench.send(wire(1, 2, RST, 0, b""));
    bench.expect(&[Got::Reset(1, 2)]);
}

#[test]
fn before_a_reset_comes_what_is_held_back() {
    let mut bench = Bench::open(LIMITS);
    bench.send(wire(0, 1, ACK, 102, b"cd"));
    bench.send(wire(1, 2, RST, 500, b""));
    bench.expect(&[lost(0, 1, 0, 2), bytes(0, 1, 2, b"cd"), Got::Reset(1, 2)]);
    bench.send(wire(0, 3, ACK, 104, b"ef"));
    bench.expect(&[]);
    assert_eq!(bench.shared.buffered, 0);
}

#[test]
fn a_segment_out_of_reach_is_ignored() {
    let mut bench = Bench::open(LIMITS);
    bench.send(wire(0, 1, ACK, 101 + (1 << 30), b"far"));
    bench.send(wire(0, 1, ACK, 99u32.wrapping_sub(1 << 30), b"far"));
    bench.send(wire(0, 1, ACK, 100, b"").windows(u32::MAX, &[]));
    bench.expect(&[]);
    assert_eq!(bench.shared.buffered, 0);
    bench.send(wire(0, 1, ACK, 100, b"a"));
    bench.expect(&[bytes(0, 1, 0, b"a")]);
}

#[test]
fn where_segments_out_of_reach_are_acknowledged_the_stream_goes_on_behind_them() {
    let mut bench = Bench::open(LIMITS);
    let far = 100 + 3 * (1u32 << 29);
    bench.send(wire(0, 1, ACK, far, b"far"));
    bench.send(wire(1, 2, ACK, 500, b"").ack(far));
    bench.expect(&[]);
    bench.send(wire(0, 3, ACK, far + 3, b"far"));
    bench.send(wire(1, 4, ACK, 500, b"").ack(far + 3));
    let offset = 3 * (1 << 29) + 6;
    bench.expect(&[lost(0, 4, 0, offset)]);
    bench.send(wire(0, 5, ACK, far + 6, b"near"));
    bench.expect(&[bytes(0, 5, offset, b"near")]);
}

#[test]
fn the_next_incarnation_begins_at_once_where_this_one_is_over() {
    let mut bench = Bench::open(LIMITS);
    bench.send(wire(0, 1, RST, 100, b""));
    bench.expect(&[Got::Reset(0, 1)]);
    bench.send(wire(0, 2, SYN, 99, b""));
    bench.expect(&[]);
    bench.send(wire(0, 3, SYN, 5_000_000, b""));
    bench.expect(&[Got::Restart(0, 3)]);
    assert!(!bench.flow.finished() && bench.flow.saw_syn(0) && !bench.flow.seen(1));
    bench.send(wire(1, 4, SYN, 77, b"").ack(5_000_001));
    bench.send(wire(0, 5, ACK, 5_000_001, b"new").ack(78));
    bench.expect(&[bytes(0, 5, 0, b"new")]);

    let mut bench = Bench::open(LIMITS);
    bench.send(wire(0, 1, ACK | FIN, 100, b""));
    bench.send(wire(1, 1, ACK | FIN, 500, b""));
    bench.got.clear();
    bench.send(wire(1, 2, SYN, 5_000_000, b"").ack(6_000_000));
    bench.expect(&[Got::Restart(1, 2)]);
    bench.send(wire(0, 3, SYN, 5_999_999, b""));
    bench.send(wire(0, 4, ACK, 6_000_000, b"a"));
    bench.expect(&[bytes(0, 4, 0, b"a")]);
}

#[test]
fn the_next_incarnation_begins_at_once_where_the_only_side_seen_has_finished() {
    let mut bench = Bench::new(LIMITS);
    bench.send(wire(0, 1, SYN, 99, b""));
    bench.send(wire(0, 1, ACK | FIN, 100, b"a").ack(500));
    bench.send(wire(0, 2, SYN, 7_000_000, b""));
    bench.expect(&[bytes(0, 1, 0, b"a"), Got::Fin(0, 1), Got::Restart(0, 2)]);
}

#[test]
fn a_stray_syn_ends_nothing() {
    let mut bench = Bench::open(LIMITS);
    bench.send(wire(0, 1, SYN, 5_000_000, b"x"));
    bench.send(wire(1, 2, ACK, 500, b"a").ack(100));
    bench.send(wire(1, 3, SYN, 9_000_000, b"").ack(8_000_000));
    bench.send(wire(0, 4, ACK, 100, b"b").ack(501));
    bench.expect(&[bytes(1, 2, 0, b"a"), bytes(0, 4, 0, b"b")]);
}

#[test]
fn an_unfinished_connection_ends_where_a_new_syn_is_answered() {
    let mut bench = Bench::open(LIMITS);
    bench.send(wire(0, 1, ACK, 102, b"cd"));
    bench.send(wire(0, 2, SYN, 5_000_000, b""));
    bench.expect(&[]);
    bench.send(wire(1, 3, SYN, 6_000_000, b"").ack(5_000_001));
    bench.expect(&[lost(0, 1, 0, 2), bytes(0, 1, 2, b"cd"), Got::Restart(0, 2)]);
    bench.send(wire(0, 4, ACK, 5_000_001, b"x").ack(6_000_001));
    bench.send(wire(1, 5, ACK, 6_000_001, b"y").ack(5_000_002));
    bench.expect(&[bytes(0, 4, 0, b"x"), bytes(1, 5, 0, b"y")]);
    assert!(bench.flow.saw_syn(0) && bench.flow.saw_syn(1));
    assert_eq!(bench.counts(0), (0, 0, 0, 0));
}

#[test]
fn data_of_a_remembered_syn_is_missing() {
    let mut bench = Bench::open(LIMITS);
    bench.send(wire(0, 2, SYN, 5_000_000, b"early"));
    bench.send(wire(1, 3, SYN, 6_000_000, b"").ack(5_000_006));
    bench.send(wire(0, 4, ACK, 5_000_006, b"x").ack(6_000_001));
    bench.expect(&[
        Got::Restart(0, 2),
        uncaptured(0, 2, 0, 5),
        bytes(0, 4, 5, b"x"),
    ]);
}

#[test]
fn an_unfinished_connection_ends_where_data_behind_a_new_syn_is_acknowledged() {
    let mut bench = Bench::open(LIMITS);
    bench.send(wire(0, 2, SYN, 5_000_000, b""));
    bench.send(wire(1, 3, ACK, 6_000_000, b"y").ack(5_000_100));
    bench.expect(&[Got::Restart(0, 2), bytes(1, 3, 0, b"y")]);
}

#[test]
fn an_unfinished_connection_ends_where_a_new_syn_ack_is_answered() {
    let mut bench = Bench::open(LIMITS);
    bench.send(wire(1, 2, SYN, 6_000_000, b"").ack(5_000_001));
    bench.send(wire(0, 3, ACK, 100, b"").ack(500));
    bench.send(wire(0, 4, ACK, 5_000_001, b"").ack(500));
    bench.expect(&[]);
    bench.send(wire(0, 5, ACK, 5_000_001, b"x").ack(6_000_001));
    bench.expect(&[Got::Restart(1, 2), bytes(0, 5, 0, b"x")]);
    assert!(bench.flow.saw_syn(0) && bench.flow.saw_syn(1));
}

#[test]
fn a_stale_direction_does_not_hide_a_new_connection() {
    let mut bench = Bench::new(LIMITS);
    bench.send(wire(1, 1, ACK, 700, b"old").ack(80_000_000));
    bench.send(wire(0, 2, SYN, 99, b""));
    bench.send(wire(1, 3, SYN, 499, b"").ack(100));
    bench.send(wire(1, 4, ACK, 500, b"new").ack(100));
    bench.expect(&[
        bytes(1, 1, 0, b"old"),
        Got::Restart(0, 2),
        bytes(1, 4, 0, b"new"),
    ]);
}

#[test]
fn an_acknowledged_hole_is_given_up_after_patience() {
    let mut bench = Bench::open(LIMITS);
    bench.send(wire(0, SECOND, ACK, 102, b"cd"));
    bench.send(wire(1, SECOND, ACK, 500, b"").ack(101));
    assert_eq!(bench.flow.poll_timeout(&LIMITS), None);
    bench.send(wire(1, SECOND, ACK, 500, b"").ack(104));
    assert_eq!(
        bench.flow.poll_timeout(&LIMITS),
        Some(Timestamp(2 * SECOND))
    );
    bench.timeout(2 * SECOND - 1);
    bench.expect(&[]);
    bench.timeout(2 * SECOND);
    bench.expect(&[lost(0, SECOND, 0, 2), bytes(0, SECOND, 2, b"cd")]);
    assert_eq!(bench.flow.poll_timeout(&LIMITS), None);
    bench.send(wire(0, 3 * SECOND, ACK, 100, b"ab"));
    bench.expect(&[]);
    assert_eq!(bench.counts(0), (1, 1, 0, 0));
}

#[test]
fn patience_runs_by_the_segments_too() {
    let mut bench = Bench::open(LIMITS);
    bench.send(wire(0, 0, ACK, 102, b"cd"));
    bench.send(wire(1, SECOND, ACK, 500, b"").ack(104));
    bench.expect(&[lost(0, 0, 0, 2), bytes(0, 0, 2, b"cd")]);
}

#[test]
fn an_unacknowledged_hole_is_waited_for() {
    let mut bench = Bench::open(LIMITS);
    bench.send(wire(1, 0, ACK, 500, b"").ack(100));
    bench.send(wire(0, 0, ACK, 102, b"cd"));
    bench.timeout(1000 * SECOND);
    bench.expect(&[]);
    bench.send(wire(0, 1001 * SECOND, ACK, 100, b"ab"));
    bench.expect(&[bytes(0, 1001 * SECOND, 0, b"ab"), bytes(0, 0, 2, b"cd")]);
}

#[test]
fn without_any_acknowledgement_patience_is_longer() {
    let mut bench = Bench::new(LIMITS);
    bench.send(wire(0, 0, SYN, 99, b""));
    bench.send(wire(0, 0, ACK, 102, b"cd"));
    bench.timeout(5 * SECOND - 1);
    bench.expect(&[]);
    bench.timeout(5 * SECOND);
    bench.expect(&[lost(0, 0, 0, 2), bytes(0, 0, 2, b"cd")]);
}

#[test]
fn the_age_of_a_hole_is_that_of_its_notice() {
    let mut bench = Bench::open(LIMITS);
    bench.send(wire(0, 0, ACK, 108, b"i"));
    bench.send(wire(0, 5, ACK, 104, b"e"));
    bench.send(wire(0, 7, ACK, 102, b"c"));
    bench.send(wire(1, 8, ACK, 500, b"").ack(109));
    bench.timeout(SECOND);
    let expected = [
        lost(0, 7, 0, 2),
        bytes(0, 7, 2, b"c"),
        lost(0, 5, 3, 1),
        bytes(0, 5, 4, b"e"),
        lost(0, 0, 5, 3),
        bytes(0, 0, 8, b"i"),
    ];
    bench.expect(&expected);
}

#[test]
fn beyond_a_directions_limit_the_oldest_holes_are_given_up() {
    let limits = Limits {
        buffered_per_direction: 1000,
        ..LIMITS
    };
    let mut bench = Bench::open(limits);
    for i in 0..4u32 {
        bench.send(wire(0, 1, ACK, 101 + 400 * i, &[7; 200]));
    }
    let first = lost(0, 1, 0, 1);
    assert_eq!(bench.got.first(), Some(&first));
    assert_eq!(bench.shared.exceeded_per_direction, 1);
    assert_eq!(bench.shared.exceeded_total, 0);
    assert!(bench.shared.buffered <= 1000);
    assert_eq!(bench.got.len(), 2);
}

#[test]
fn beyond_the_common_limit_the_oldest_holes_are_given_up() {
    let limits = Limits {
        buffered_total: 1000,
        ..LIMITS
    };
    let mut bench = Bench::open(limits);
    bench.shared.buffered = 900;
    bench.send(wire(0, 1, ACK, 101, b"b"));
    bench.expect(&[lost(0, 1, 0, 1), bytes(0, 1, 1, b"b")]);
    assert_eq!(bench.shared.exceeded_total, 1);
    assert_eq!(bench.shared.buffered, 900);
}

#[test]
fn tiny_pieces_are_charged_for_their_bookkeeping() {
    let mut bench = Bench::open(LIMITS);
    for i in 0..10u32 {
        bench.send(wire(0, 1, ACK, 101 + 2 * i, b"x"));
    }
    assert!(bench.shared.buffered > 1000);
    bench.flow.discard(&mut bench.shared);
    assert_eq!(bench.shared.buffered, 0);
    bench.expect(&[]);
}

#[test]
fn flush_delivers_all_that_is_held_back() {
    let mut bench = Bench::open(CAUSAL);
    bench.send(wire(0, 1, ACK | FIN, 102, b"cd").ack(502));
    bench.send(wire(1, 2, ACK, 501, b"y").ack(100));
    bench.expect(&[]);
    bench.flush();
    bench.expect(&[
        lost(0, 1, 0, 2),
        lost(1, 2, 0, 1),
        bytes(1, 2, 1, b"y"),
        bytes(0, 1, 2, b"cd"),
        Got::Fin(0, 1),
    ]);
    assert_eq!(bench.shared.buffered, 0);
}

#[test]
fn in_causal_order_bytes_wait_for_those_they_acknowledge() {
    let mut bench = Bench::open(CAUSAL);
    bench.send(wire(1, 3, ACK, 500, b"answer").ack(107));
    bench.send(wire(1, 4, ACK | FIN, 506, b"").ack(108));
    bench.send(wire(0, 1, ACK, 100, b"request"));
    bench.expect(&[bytes(0, 1, 0, b"request"), bytes(1, 3, 0, b"answer")]);
    bench.send(wire(0, 2, ACK | FIN, 107, b""));
    bench.expect(&[Got::Fin(0, 2), Got::Fin(1, 4)]);
    assert_eq!(bench.counts(1), (0, 0, 0, 0));
    assert!(bench.flow.finished());
}

#[test]
fn in_causal_order_nothing_waits_for_a_direction_that_was_not_seen() {
    let mut bench = Bench::new(CAUSAL);
    bench.send(wire(1, 3, ACK, 500, b"answer").ack(107));
    bench.expect(&[bytes(1, 3, 0, b"answer")]);
}

#[test]
fn in_causal_order_patience_ends_the_wait() {
    let mut bench = Bench::open(CAUSAL);
    bench.send(wire(1, 3, ACK, 500, b"answer").ack(107));
    let end = 3 + SECOND;
    assert_eq!(bench.flow.poll_timeout(&CAUSAL), Some(Timestamp(end)));
    bench.timeout(end);
    bench.expect(&[bytes(1, 3, 0, b"answer")]);
    bench.send(wire(0, end, ACK, 100, b"request"));
    bench.expect(&[bytes(0, end, 0, b"request")]);
}

#[test]
fn in_causal_order_missing_bytes_are_given_up_before_the_wait_for_them() {
    let mut bench = Bench::open(CAUSAL);
    bench.send(wire(0, 3, ACK, 103, b"uest"));
    bench.send(wire(1, 3, ACK, 500, b"answer").ack(107));
    bench.timeout(3 + SECOND);
    bench.expect(&[
        lost(0, 3, 0, 3),
        bytes(0, 3, 3, b"uest"),
        bytes(1, 3, 0, b"answer"),
    ]);
}

#[test]
fn in_causal_order_two_that_wait_for_each_other_do_not_wait_for_ever() {
    let mut bench = Bench::open(CAUSAL);
    bench.send(wire(0, 1, ACK, 100, b"a").ack(501));
    bench.send(wire(1, 2, ACK, 500, b"b").ack(101));
    bench.expect(&[]);
    bench.timeout(1 + SECOND);
    bench.expect(&[bytes(0, 1, 0, b"a"), bytes(1, 2, 0, b"b")]);
}

#[test]
fn in_causal_order_limits_end_the_wait() {
    let limits = Limits {
        buffered_per_direction: 200,
        ..CAUSAL
    };
    let mut bench = Bench::open(limits);
    bench.send(wire(1, 3, ACK, 500, &[1; 100]).ack(107));
    bench.expect(&[bytes(1, 3, 0, &[1; 100])]);
    assert_eq!(bench.shared.exceeded_per_direction, 1);
    assert_eq!(bench.shared.buffered, 0);
}

#[test]
fn an_impossible_acknowledgement_is_not_waited_for() {
    let mut bench = Bench::open(CAUSAL);
    bench.send(wire(1, 3, ACK, 500, b"a").ack(101 + (1 << 30)));
    bench.expect(&[bytes(1, 3, 0, b"a")]);
}
