//! The bytes of a direction in order.

use super::*;

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
    // Whoever says so uses numbers again.
    assert_eq!(bench.counts(0), (3, 0, 0, 0));
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
fn a_fin_cuts_off_what_is_held_back_across_it() {
    let mut bench = Bench::open(LIMITS);
    bench.send(wire(0, 1, ACK, 102, b"cdef"));
    bench.send(wire(0, 2, ACK | FIN, 104, b""));
    bench.send(wire(0, 3, ACK, 100, b"ab"));
    bench.expect(&[bytes(0, 3, 0, b"ab"), bytes(0, 1, 2, b"cd"), Got::Fin(0, 2)]);
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
fn an_answer_begins_behind_what_the_question_acknowledges() {
    let mut bench = Bench::new(LIMITS);
    bench.send(wire(0, 1, ACK, 5000, b"GET").ack(700));
    bench.flow.expect_answer(0);
    bench.send(wire(1, 3, ACK, 703, b"ef").ack(5003));
    bench.expect(&[bytes(0, 1, 0, b"GET")]);
    bench.send(wire(1, 2, ACK, 700, b"abc").ack(5003));
    bench.expect(&[bytes(1, 2, 0, b"abc"), bytes(1, 3, 3, b"ef")]);
    // Where it has begun already, that is where it began.
    bench.flow.expect_answer(0);
    bench.send(wire(1, 4, ACK, 705, b"g").ack(5003));
    bench.expect(&[bytes(1, 4, 5, b"g")]);
    // Or where it does begin: the acknowledgement was an old one.
    let mut bench = Bench::new(LIMITS);
    bench.send(wire(0, 1, ACK, 5000, b"GET").ack(700));
    bench.flow.expect_answer(0);
    bench.send(wire(1, 3, ACK, 900, b"HTTP/1.1 ").ack(5003));
    bench.expect(&[bytes(0, 1, 0, b"GET"), bytes(1, 3, 0, b"HTTP/1.1 ")]);
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
    assert_eq!(bench.counts(0), (2, 1, 0, 0));
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
fn each_stretch_that_is_missing_is_counted_once() {
    let mut bench = Bench::open(LIMITS);
    for (ts, seq) in [(1, 102), (2, 104), (3, 110), (4, 112)] {
        bench.send(wire(0, ts, ACK, seq, b"ab"));
    }
    assert_eq!(bench.counts(0), (0, 2, 0, 0));
    // Sent again, and seen for the first time.
    bench.send(wire(0, 5, ACK, 106, b"abcd"));
    bench.send(wire(0, 6, ACK, 100, b"ab"));
    assert_eq!(bench.counts(0), (0, 2, 0, 0));
    bench.send(wire(0, 7, ACK, 110, b"ab"));
    assert_eq!(bench.counts(0), (1, 2, 0, 0));
    assert_eq!(bench.flow.next_seq(0), Some(SeqNumber(114)));
}

#[test]
fn the_pieces_of_a_segment_are_counted_once() {
    let mut bench = Bench::open(LIMITS);
    let pieces = [(100, b"abc", 6), (103, b"def", 3), (106, b"ghi", 0)];
    for ts in [1, 2] {
        for (seq, bytes, behind) in pieces {
            bench.send(wire(0, ts, ACK, seq, bytes).behind(behind));
        }
        assert_eq!(bench.counts(0), (ts - 1, 0, 0, 0));
    }
    // Only what is behind the first piece is a repetition.
    bench.send(wire(0, 3, ACK, 112, b"m"));
    bench.send(wire(0, 4, ACK, 109, b"jkl").behind(3));
    bench.send(wire(0, 4, ACK, 112, b"mno"));
    assert_eq!(bench.counts(0), (2, 1, 0, 0));
    // The second of another segment, whose first was lost.
    bench.send(wire(0, 5, ACK, 112, b"mno"));
    assert_eq!(bench.counts(0), (3, 1, 0, 0));
    bench.send(wire(0, 6, ACK | FIN, 115, b""));
    bench.send(wire(0, 7, ACK, 116, b"").ack(500));
    assert_eq!(bench.counts(0), (3, 1, 0, 0));
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
fn probes_of_a_closed_window_keep_nothing_alive() {
    let mut bench = Bench::open(LIMITS);
    bench.send(wire(0, 1, ACK, 100, b"abc"));
    bench.send(wire(1, 2, ACK, 500, b"").ack(103).window(0));
    bench.send(wire(0, 3, ACK, 102, b"").ack(500));
    bench.send(wire(1, 3, ACK, 500, b"").ack(103).window(0));
    bench.send(wire(0, 4, ACK, 102, b"").ack(500));
    assert_eq!(bench.counts(0), (0, 0, 0, 0));
    assert_eq!(bench.counts(1), (0, 0, 0, 2));
    // That it has opened may go unseen. Then there is data.
    bench.send(wire(0, 5, ACK, 103, b"d"));
    bench.send(wire(0, 6, ACK, 103, b"").ack(500));
    assert_eq!(bench.counts(0), (0, 0, 1, 0));
    bench.send(wire(1, 7, ACK, 500, b"").ack(104).window(0));
    bench.send(wire(1, 8, ACK, 500, b"").ack(104));
    bench.send(wire(0, 9, ACK, 103, b"").ack(500));
    assert_eq!(bench.counts(0), (0, 0, 2, 0));
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
fn what_was_captured_of_a_segment_says_nothing_about_order() {
    for limits in [LIMITS, CAUSAL] {
        let mut bench = Bench::open(limits);
        bench.send(
            wire(0, 1, ACK, 100, b"")
                .windows(9, &[(0, b"abc")])
                .ack(500),
        );
        bench.send(
            wire(0, 2, ACK, 109, b"")
                .windows(9, &[(1, b"b"), (4, b"e")])
                .ack(500),
        );
        // Has to wait, where bytes wait for what their sender has acknowledged.
        bench.send(wire(0, 3, ACK, 118, b"").windows(9, &[(0, b"ab")]).ack(600));
        assert_eq!(bench.counts(0), (0, 0, 0, 0));
        bench.send(wire(0, 4, ACK, 136, b"").windows(9, &[(0, b"ab")]).ack(600));
        assert_eq!(bench.counts(0), (0, 1, 0, 0));
    }
}
