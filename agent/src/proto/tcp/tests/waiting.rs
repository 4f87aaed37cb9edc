//! What is held back, and for how long.

use super::*;

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
fn tiny_pieces_in_reverse_order_cost_neither_time_nor_memory() {
    let mut bench = Bench::open(LIMITS);
    for i in (1..100_000).rev() {
        bench.send(wire(0, 1, ACK, 100 + i, b"x"));
        assert!(bench.shared.buffered <= LIMITS.buffered_per_direction);
    }
    bench.flush();
    assert!(bench.shared.exceeded_per_direction > 0);
    assert_eq!(bench.flow.next_seq(0), Some(SeqNumber(100_100)));
    assert_eq!(bench.shared.buffered, 0);
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
