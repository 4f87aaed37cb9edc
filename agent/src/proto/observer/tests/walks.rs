//! Connections whose frames the source follows: what is said of them is what is said of the same
//! bytes handed over whole.

mod source;

use std::iter;

use super::*;
use crate::proto::{
    flow::Role,
    observer::script::{ACK, FIN, RST, header, line},
    seq::SeqNumber,
    walk::MessageState,
};

use source::{Source, TALLY};

/// What is said, in words, but for the handshake.
fn lines_behind_handshake(events: &[Event]) -> Vec<String> {
    events.iter().filter_map(line).skip(1).collect()
}

/// What both sides send, each part a segment.
fn conversation() -> Vec<(Role, Vec<u8>)> {
    use Role::{Client, Server};
    let mut parts = vec![
        (Client, masked(0x81, b"Hello")),
        (Server, plain(0x01, b"Hel")),
        (Server, [plain(0x89, b"ping"), plain(0x00, b"lo")].concat()),
        (Client, masked(0x8a, b"ping")),
        (Server, plain(0x80, b"!")),
    ];
    // A frame that goes on for some segments, and then more frames in its last one.
    let long = plain(0x82, &[7; 3000]);
    for part in long.chunks(1000) {
        parts.push((Server, part.to_vec()));
    }
    parts[8].1.extend(plain(0x81, b"x"));
    // Headers and control payloads that are cut.
    let cut = [masked(0x82, &[1; 200]), masked(0x89, b"again")].concat();
    for part in [&cut[..1], &cut[1..5], &cut[5..9], &cut[9..210], &cut[210..]] {
        parts.push((Client, part.to_vec()));
    }
    parts.push((Server, plain(0x8a, b"again")));
    parts.push((Client, masked(0x88, &close_body(1000, "bye"))));
    parts.push((Server, plain(0x88, &close_body(1000, ""))));
    parts
}

/// The conversation, handed over whole.
fn reference() -> Vec<String> {
    let mut s = Script::accepted(config());
    for (role, part) in conversation() {
        s.segment(role, ACK, &part);
    }
    s.shut();
    s.lines()
}

#[test]
fn says_what_whole_segments_say() {
    let mut s = Source::new(true);
    assert_eq!(s.lines(), ["handshake accepted 101 /chat"]);
    for (role, part) in conversation() {
        s.send(role, ACK, &part);
        s.script.observer.handle_tallies(s.script.now);
    }
    s.send(Role::Client, FIN | ACK, &[]);
    s.send(Role::Server, FIN | ACK, &[]);
    assert_eq!(s.lines(), reference());
    assert_eq!(s.script.observer.stats().walks_lost, 0);
    let verdicts: Vec<_> = iter::from_fn(|| s.script.observer.poll_verdict()).collect();
    let last = verdicts.last().expect("a verdict");
    assert_eq!(
        (last.decision, last.tally / 2),
        (Decision::Ended, TALLY / 2)
    );
}

#[test]
fn what_is_silent_is_put_away() {
    let mut s = Source::new(false);
    for (role, part) in conversation().into_iter().take(1) {
        s.send(role, ACK, &part);
    }
    s.script.observer.handle_tallies(s.script.now);
    assert_eq!(s.script.observer.dozing, 1);
    s.send(Role::Client, FIN | ACK, &[]);
    assert_eq!(s.script.observer.dozing, 0);
}

#[test]
fn what_was_counted_during_a_look_is_found_at_the_next() {
    let mut s = Source::new(false);
    let mut counted = Vec::new();
    let mut look = |s: &mut Source, later: u64| {
        let now = s.script.now.saturating_add(Duration::from_secs(later));
        s.script.observer.handle_tallies(now);
        assert_eq!(s.script.observer.dozing, 1);
        let events = s.script.events();
        let frames = events.iter().map(|event| match &event.kind {
            EventKind::Counted(counted) => counted.frames.iter().sum(),
            _ => 0,
        });
        counted.push(frames.sum::<u64>());
    };
    s.script.events();
    s.server(&plain(0x81, b"one"));
    look(&mut s, 0);
    let seen = s.shared.with(TALLY + 1, |tally| tally.last_seen);
    s.server(&plain(0x81, b"two"));
    s.shared.with(TALLY + 1, |tally| tally.last_seen = seen);
    look(&mut s, 2);
    look(&mut s, 4);
    s.script.wait(Duration::from_secs(5));
    s.server(&plain(0x81, b"three"));
    look(&mut s, 0);
    look(&mut s, 2);
    look(&mut s, 4);
    assert_eq!(counted, [1, 1, 0, 1, 0, 0]);
}

#[test]
fn tallies_are_looked_at_in_parts() {
    let mut s = Source::new(false);
    let client = s.script.client;
    for port in 1..=3 {
        s.script.client.set_port(port);
        s.script.connect();
    }
    s.script.client = client;
    s.script.events();
    let mut counted = Vec::new();
    for _ in 0..2 {
        s.server(&plain(0x81, b"x"));
        while !s.script.observer.handle_tallies(s.script.now) {
            counted.push(s.script.events().len());
        }
        counted.push(s.script.events().len());
    }
    assert_eq!(counted, [1, 0, 1, 0]);
}

#[test]
fn control_frames_alone_count_as_much() {
    let mut s = Source::new(false);
    for (role, part) in conversation() {
        s.send(role, ACK, &part);
    }
    s.script.observer.handle_tallies(s.script.now);
    s.send(Role::Client, FIN | ACK, &[]);
    s.send(Role::Server, FIN | ACK, &[]);
    let events = s.script.events();
    let lines: Vec<_> = events.iter().filter_map(line).collect();
    let is_control = |line: &&String| {
        let controls = ["ping", "pong", "close"];
        controls.iter().any(|control| line.contains(control)) || line.contains("handshake")
    };
    let expected = reference();
    let expected: Vec<_> = expected.iter().filter(is_control).collect();
    assert_eq!(lines.iter().skip(1).collect::<Vec<_>>(), expected);
    let [client, server] = Source::counted(&events);
    assert_eq!((client.total(), server.total()), (5, 8));
}

#[test]
fn walks_may_come_in_the_wrong_order() {
    let mut s = Source::new(true);
    let mut held = None;
    for (role, part) in conversation() {
        let record = s.walk(role, ACK, &part);
        let Some(record) = record else { continue };
        match held.take() {
            Some(before) if record.walk.tally == TALLY + 1 => {
                s.hand_over(&record);
                s.hand_over(&before);
            }
            Some(before) => {
                s.hand_over(&before);
                s.hand_over(&record);
            }
            None if record.walk.tally == TALLY + 1 => held = Some(record),
            None => s.hand_over(&record),
        }
    }
    if let Some(record) = held {
        s.hand_over(&record);
    }
    s.send(Role::Client, FIN | ACK, &[]);
    s.send(Role::Server, FIN | ACK, &[]);
    let sorted = |mut lines: Vec<String>| {
        // The directions may be told in another order.
        lines.retain(|line| !line.contains("handshake"));
        lines.sort();
        lines
    };
    let (lines, expected) = (sorted(s.lines()), sorted(reference()));
    assert_eq!(lines.len(), expected.len());
    for (line, expected) in lines.iter().zip(&expected) {
        // So a round trip may be known too late.
        assert!(expected.starts_with(line.as_str()), "{line}: {expected}");
    }
    assert_eq!(s.script.observer.stats().walks_lost, 0);
}

#[test]
fn a_lost_walk_costs_its_detail_alone() {
    let mut s = Source::new(true);
    s.server(&plain(0x81, b"one"));
    assert!(s.walk(Role::Server, ACK, &plain(0x81, b"two")).is_some());
    assert!(s.walk(Role::Server, ACK, &plain(0x01, b"th")).is_some());
    s.server(&plain(0x80, b"ree"));
    s.server(&plain(0x81, b"four"));
    s.script.observer.handle_tallies(s.script.now);
    let events = s.script.events();
    let lines = lines_behind_handshake(&events);
    assert_eq!(
        lines,
        [
            "s2c 1 text 3",
            "message s2c text 3 in 1",
            "s2c 4 continuation 3",
            "message s2c text 5 in 2",
            "s2c 5 text 4",
            "message s2c text 4 in 1",
        ]
    );
    let [_, server] = Source::counted(&events);
    assert_eq!(server.0[..3], [1, 4, 0]);
    assert_eq!(s.script.observer.stats().walks_lost, 2);
    assert_eq!(s.script.observer.stats().gaps, 0);
}

#[test]
fn a_walk_twice_is_a_walk() {
    let mut s = Source::new(true);
    let record = s
        .walk(Role::Server, ACK, &plain(0x81, b"one"))
        .expect("a record");
    s.hand_over(&record);
    s.hand_over(&record);
    assert_eq!(s.lines()[1..], ["s2c 1 text 3", "message s2c text 3 in 1"]);
}

#[test]
fn a_place_that_is_lost_and_found() {
    let mut s = Source::new(true);
    s.server(&plain(0x01, b"Hel"));
    let lost = s.lose(Role::Server);
    s.hand_over(&lost);
    assert_eq!(s.server_cursor(), None);
    let long = plain(0x80, &[b'l'; 500]);
    s.whole(Role::Server, ACK, &long[..100]);
    // The next header is ahead.
    let cursor = s.server_cursor().expect("a cursor");
    assert_eq!(cursor.next.0.wrapping_sub(s.script.next[1].0), 404);
    assert_eq!(cursor.place.message, MessageState::Between);
    assert_eq!(cursor.place.index, 2);
    assert!(!cursor.is_client && !cursor.compresses);
    assert_eq!(s.server_cursor(), None);
    s.resume(&cursor, Role::Server);
    s.server(&long[100..]);
    s.server(&plain(0x82, b"behind"));
    s.send(Role::Server, FIN | ACK, &[]);
    s.send(Role::Client, FIN | ACK, &[]);
    let events = s.script.events();
    let lines = lines_behind_handshake(&events);
    assert_eq!(
        lines[..5],
        [
            "s2c 1 text 3 -",
            "s2c 2 continuation 500",
            "message s2c text 503 in 2",
            "s2c 3 binary 6",
            "message s2c binary 6 in 1",
        ]
    );
    let EventKind::Close(close) = &events.last().expect("events").kind else {
        panic!("{events:?}")
    };
    assert_eq!(close.frames.server_to_client.0[..3], [1, 1, 1]);
    assert_eq!(close.bytes.server_to_client.0[..3], [500, 3, 6]);
    assert_eq!(s.script.observer.stats().gaps, 0);
}

#[test]
fn a_trial_is_confirmed_once_what_was_missing_before_it_is_there() {
    let mut s = Source::new(true);
    let lost = s.lose(Role::Server);
    s.hand_over(&lost);
    let [first, second] = [plain(0x82, b"first"), plain(0x82, b"second")];
    let begin = s.script.next[1];
    s.script.next[1] = begin + first.len() as u32;
    let trial = s.script.next[1];
    s.script.sample = Sample {
        tally: TALLY + 1,
        boundary: None,
        is_trial: true,
    };
    s.script.segment(Role::Server, ACK, &second);
    assert_ne!(s.server_cursor().map(|cursor| cursor.next), Some(trial));
    s.script.next[1] = begin;
    s.whole(Role::Server, ACK, &first);
    let cursor = s.server_cursor().expect("a cursor");
    assert_eq!((cursor.next, cursor.place.index), (trial, 1));
}

#[test]
fn a_place_behind_a_control_frame_is_told_once_all_of_it_is_there() {
    let mut s = Source::new(true);
    s.server(&plain(0x81, b"one"));
    let lost = s.lose(Role::Server);
    s.hand_over(&lost);
    let close = plain(0x88, b"\x03\xe8");
    for piece in [&close[..2], &close[2..3]] {
        s.whole(Role::Server, ACK, piece);
        assert_eq!(s.server_cursor(), None);
    }
    s.whole(Role::Server, ACK, &close[3..]);
    let cursor = s.server_cursor().expect("a cursor");
    assert_eq!(cursor.next, s.script.next[1]);
}

#[test]
fn the_payload_of_a_control_frame_is_waited_for_where_the_tally_is_ahead() {
    let mut s = Source::new(true);
    let close = plain(0x88, b"\x03\xe8bye");
    let pieces = [&close[..5], &close[5..]];
    let records = pieces.map(|piece| s.walk(Role::Server, ACK, piece).expect("a record"));
    s.hand_over(&records[0]);
    let now = s.script.now;
    s.script.observer.handle_tallies(now);
    s.hand_over(&records[1]);
    let events = s.script.events();
    let reason = events.iter().find_map(|event| match &event.kind {
        EventKind::Frame(frame) => Some(frame.close.as_ref()?.reason.clone()),
        _ => None,
    });
    assert_eq!(reason.as_deref(), Some("bye"));
}

#[test]
fn payload_behind_a_place_that_was_told_counts_until_a_reset() {
    let mut s = Source::new(true);
    let lost = s.lose(Role::Server);
    s.hand_over(&lost);
    let long = plain(0x82, &[b'l'; 500]);
    s.whole(Role::Server, ACK, &long[..100]);
    let cursor = s.server_cursor().expect("a cursor");
    s.resume(&cursor, Role::Server);
    s.server(&long[100..]);
    s.send(Role::Client, RST | ACK, &[]);
    let events = s.script.events();
    let Some(EventKind::Close(close)) = events.last().map(|event| &event.kind) else {
        panic!("{events:?}")
    };
    assert_eq!(close.bytes.server_to_client.0[2], 500);
}

#[test]
fn where_what_says_that_the_place_is_lost_is_lost() {
    let mut s = Source::new(true);
    s.server(&plain(0x81, b"one"));
    assert!(s.lose(Role::Server).walk.lost.is_some());
    for n in 0..40 {
        s.whole(Role::Server, ACK, &plain(0x82, &[n; 300]));
    }
    let lines = s.lines();
    assert_eq!(lines[1..3], ["s2c 1 text 3", "message s2c text 3 in 1"]);
    assert!(
        lines
            .iter()
            .filter(|line| line.contains("binary 300"))
            .count()
            >= 60
    );
}

#[test]
fn a_late_segment_of_a_walked_direction_says_nothing() {
    let mut s = Source::new(true);
    let bytes = plain(0x81, b"one");
    let seq = s.script.next[1];
    s.server(&bytes);
    s.script.sample = Sample {
        tally: TALLY + 1,
        boundary: None,
        is_trial: false,
    };
    s.script.segment_at(Role::Server, ACK, seq, &bytes);
    s.script.sample = Sample::default();
    s.server(&plain(0x81, b"two"));
    let lines = s.lines();
    let frames = ["s2c 1 text 3", "message s2c text 3 in 1", "s2c 2 text 3"];
    assert_eq!(lines[1..4], frames);
}

#[test]
fn an_opening_that_was_not_seen() {
    let mut s = Source::new(true);
    // As if nothing of it had been handed over.
    let shared = s.shared.clone();
    s.script.observer = Observer::new(config()).with_tallies(Box::new(shared));
    s.client(&masked(0x81, b"one"));
    s.server(&plain(0x89, b"two"));
    assert!(s.lines().is_empty());
    s.script.observer.handle_tallies(s.script.now);
    let lines = s.lines();
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert!(lines[0].starts_with("handshake midstream"), "{lines:?}");
    assert_eq!(lines[1], "c2s 1 text 3");
    assert_eq!(lines[3], "s2c 1 ping 3");
}

#[test]
fn silence_is_what_no_tally_has_heard() {
    let mut s = Source::new(false);
    let timeout = config().idle_timeout;
    let header = header(0x82, None, 1 << 20);
    s.server(&header);
    for _ in 0..3 {
        s.script.wait(timeout / 2);
        s.server(&[0; 1000]);
        s.script.observer.handle_timeout(s.script.now);
    }
    assert_eq!(s.lines(), ["handshake accepted 101 /chat"]);
    s.script.wait(timeout + Duration::from_secs(1));
    s.script.observer.handle_timeout(s.script.now);
    let events = s.script.events();
    let Some(EventKind::Close(close)) = events.last().map(|event| &event.kind) else {
        panic!("{events:?}")
    };
    assert_eq!(close.kind.as_str(), "idle");
    assert_eq!(close.silence, Some(timeout));
    assert_eq!(close.frames.server_to_client.total(), 1);
    assert_eq!(close.bytes.server_to_client.total(), 3000);
}

#[test]
fn a_reset_ends_it_where_it_is_credible() {
    let mut s = Source::new(true);
    s.server(&header(0x82, None, 100));
    s.server(&[0; 30]);
    let mut stray = s.walk(Role::Client, RST, &[]).expect("a record");
    stray.walk.segment.seq = stray.walk.segment.seq + (1 << 24);
    s.hand_over(&stray);
    assert_eq!(s.lines()[1..], ["s2c 1 binary 100"]);
    s.send(Role::Client, RST, &[]);
    let events = s.script.events();
    let Some(EventKind::Close(close)) = events.last().map(|event| &event.kind) else {
        panic!("{events:?}")
    };
    assert_eq!(close.kind.as_str(), "rst");
    assert_eq!(close.bytes.server_to_client.total(), 30);
}

#[test]
fn a_frame_under_way_is_over_where_one_behind_it_was_counted() {
    let mut s = Source::new(false);
    let lost = s.lose(Role::Server);
    s.hand_over(&lost);
    let long = plain(0x82, &[b'l'; 500]);
    s.whole(Role::Server, ACK, &long[..100]);
    s.confirm(Role::Server, 404, 1);
    s.server(&long[100..]);
    s.server(&plain(0x82, b"behind"));
    s.script.observer.handle_tallies(s.script.now);
    s.send(Role::Client, RST | ACK, &[]);
    let events = s.script.events();
    let Some(EventKind::Close(close)) = events.last().map(|event| &event.kind) else {
        panic!("{events:?}")
    };
    assert_eq!(close.bytes.server_to_client.0[2], 506);
    assert_eq!(close.messages.server_to_client.count, 2);
}

#[test]
fn the_header_that_ends_a_frame_under_way_may_be_cut() {
    for confirmed in [true, false] {
        let mut s = Source::new(true);
        let lost = s.lose(Role::Server);
        s.hand_over(&lost);
        let long = plain(0x82, &[b'l'; 500]);
        s.whole(Role::Server, ACK, &long[..100]);
        if confirmed {
            s.confirm(Role::Server, 404, 1);
        } else {
            let cursor = s.server_cursor().expect("a cursor");
            s.resume(&cursor, Role::Server);
        }
        s.server(&long[100..]);
        s.server(&plain(0x82, b"behind")[..1]);
        s.send(Role::Client, RST | ACK, &[]);
        let events = s.script.events();
        let Some(EventKind::Close(close)) = events.last().map(|event| &event.kind) else {
            panic!("{events:?}")
        };
        assert_eq!(close.bytes.server_to_client.0[2], 500, "{confirmed}");
    }
}

#[test]
fn what_waits_for_missing_bytes_is_read_once_a_trial_is_confirmed() {
    let mut s = Source::new(true);
    let lost = s.lose(Role::Server);
    s.hand_over(&lost);
    let long = plain(0x82, &[b'l'; 500]);
    s.whole(Role::Server, ACK, &long[..100]);
    let missing = s.script.next[1];
    s.script.next[1] = missing + 100;
    let rest = [
        &long[200..],
        &plain(0x81, b"next"),
        &plain(0x82, &[0; 10])[..5],
    ]
    .concat();
    s.whole(Role::Server, ACK, &rest);
    s.confirm(Role::Server, 7, 3);
    // It goes by late, and nobody hands it over.
    s.server(&[0; 7]);
    s.server(&plain(0x81, b"last"));
    s.send(Role::Client, RST | ACK, &[]);
    let events = s.script.events();
    let lines = lines_behind_handshake(&events);
    assert_eq!(
        lines[..8],
        [
            "s2c 1 binary 500",
            "message s2c binary 500 in 1",
            "s2c 2 text 4",
            "message s2c text 4 in 1",
            "s2c 3 binary 10",
            "message s2c binary 10 in 1",
            "s2c 4 text 4",
            "message s2c text 4 in 1",
        ]
    );
}

#[test]
fn payload_behind_a_place_that_was_told_counts_as_it_goes_by() {
    let frames = Config {
        interest: Interest {
            frames: false,
            ..config().interest
        },
        ..config()
    };
    let mut s = Source::with(false, frames);
    let lost = s.lose(Role::Server);
    s.hand_over(&lost);
    let long = plain(0x82, &[b'l'; 500]);
    s.whole(Role::Server, ACK, &long[..100]);
    let cursor = s.server_cursor().expect("a cursor");
    s.resume(&cursor, Role::Server);
    s.server(&long[100..300]);
    s.script.observer.handle_tallies(s.script.now);
    let progress = |events: Vec<Event>| {
        let bytes = events.iter().map(|event| match &event.kind {
            EventKind::Progress(progress) => progress.bytes,
            _ => 0,
        });
        bytes.sum::<u64>()
    };
    assert_eq!(progress(s.script.events()), 296);
    // One that was copied before comes late.
    let seq = SeqNumber(s.script.next[1].0.wrapping_sub(100));
    s.script.sample.tally = TALLY + 1;
    s.script.segment_at(Role::Server, ACK, seq, &long[200..300]);
    s.script.sample = Sample::default();
    s.server(&long[300..]);
    s.script.observer.handle_tallies(s.script.now);
    assert_eq!(progress(s.script.events()), 204);
    assert_eq!(s.script.observer.stats().gaps, 0);
}

#[test]
fn what_waits_in_the_other_direction_is_read_before_a_reset() {
    let mut s = Source::new(true);
    let lost = s.lose(Role::Client);
    s.hand_over(&lost);
    let long = masked(0x82, &[b'l'; 500]);
    s.whole(Role::Client, ACK, &long[..100]);
    s.script.next[0] = s.script.next[0] + 100;
    let rest = [&long[200..], &masked(0x81, b"next")].concat();
    s.whole(Role::Client, ACK, &rest);
    s.send(Role::Server, RST | ACK, &[]);
    let events = s.script.events();
    let lines = lines_behind_handshake(&events);
    assert_eq!(
        lines[..4],
        [
            "c2s 1 binary 500",
            "message c2s binary 500 in 1",
            "c2s 2 text 4",
            "message c2s text 4 in 1",
        ]
    );
}
