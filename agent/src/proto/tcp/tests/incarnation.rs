//! What begins and ends a connection: SYN and RST.

use super::*;

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
fn data_that_overtakes_both_syns_leaves_the_start_known() {
    let mut bench = Bench::new(LIMITS);
    bench.send(wire(0, 2, ACK, 100, b"ab").ack(500));
    bench.send(wire(1, 1, SYN, 499, b"").ack(100));
    bench.expect(&[bytes(0, 2, 0, b"ab")]);
    assert!(bench.flow.saw_syn(0) && bench.flow.saw_syn(1));
}

#[test]
fn of_two_syn_acks_the_one_that_is_answered_counts() {
    let mut bench = Bench::new(LIMITS);
    bench.send(wire(1, 1, SYN, 9_000_000, b"").ack(8_000_000));
    bench.send(wire(0, 2, SYN, 99, b""));
    bench.send(wire(1, 3, SYN, 499, b"").ack(100));
    bench.send(wire(0, 4, ACK, 100, b"ab").ack(500));
    bench.expect(&[Got::Restart(0, 2), bytes(0, 4, 0, b"ab")]);
}
