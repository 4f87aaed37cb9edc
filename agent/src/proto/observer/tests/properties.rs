//! What holds for any input.

use proptest::prelude::*;

use std::collections::BTreeMap;

use super::{config, midstream::Random};
use crate::{
    proto::{
        event::{Event, EventKind},
        flow::{Direction, Role},
        observer::{
            Config, Observer,
            script::{KEY, REQUEST, RESPONSE, Script, frame, header, line},
        },
        segment::{Segment, TcpFlags, Window},
        seq::SeqNumber,
        time::Timestamp,
    },
    source::capture::CaptureFile,
};

/// Frames as they may come, with all that is forbidden.
fn any_frame(mask: bool) -> impl Strategy<Value = Vec<u8>> {
    let mask = prop_oneof![
        9 => Just(mask.then_some(KEY)),
        1 => any::<[u8; 4]>().prop_map(Some),
        1 => Just(None)
    ];
    let first = prop_oneof![
        4 => prop::sample::select(vec![0x81, 0x82, 0x01, 0x00, 0x80, 0x89, 0x8a]),
        1 => any::<u8>(),
    ];
    let len = prop_oneof![5 => 0usize..20, 1 => 120usize..130, 1 => 0usize..3000];
    (first, mask, len, any::<u8>()).prop_map(|(first, mask, len, fill)| {
        let payload: Vec<u8> = (0..len).map(|n| fill.wrapping_add(n as u8)).collect();
        frame(first, mask, &payload)
    })
}

fn stream(mask: bool) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any_frame(mask), 0..12).prop_map(|frames| frames.concat())
}

/// Shows both streams, cut at `cuts`, first the client's.
fn show(config: Config, client: &[u8], server: &[u8], cuts: &[usize]) -> Vec<Event> {
    let mut s = Script::new(config);
    s.connect();
    let mut sizes = cuts.iter().copied().cycle();
    let mut send = |s: &mut Script, role: Role, bytes: &[u8]| {
        let mut rest = bytes;
        while !rest.is_empty() {
            let n = sizes.next().unwrap_or(1000).clamp(1, rest.len());
            s.segment(role, 0x10, &rest[..n]);
            rest = &rest[n..];
        }
    };
    send(&mut s, Role::Client, REQUEST.as_bytes());
    send(&mut s, Role::Server, RESPONSE.as_bytes());
    send(&mut s, Role::Client, client);
    send(&mut s, Role::Server, server);
    s.shut();
    s.events()
}

/// The events without what depends on the cuts: times, and how progress is cut.
fn essence(events: &[Event]) -> (Vec<String>, Vec<u64>) {
    let lines = events
        .iter()
        .filter_map(line)
        .map(|line| {
            let line = line.split(" after ").next().unwrap_or_default();
            line.split(" rtt ").next().unwrap_or_default().to_owned()
        })
        .collect();
    let totals = events
        .iter()
        .filter_map(|event| match event.kind {
            EventKind::Progress(progress) => progress.total,
            _ => None,
        })
        .collect();
    (lines, totals)
}

fn sum(events: &[Event]) -> (u64, u64, u64) {
    let mut parts = 0;
    let mut totals = 0;
    let mut closed = 0;
    for event in events {
        match &event.kind {
            EventKind::Progress(progress) => {
                parts += progress.bytes;
                totals += progress.total.unwrap_or(0);
            }
            EventKind::Close(close) => {
                closed += close.bytes.client_to_server.total();
                closed += close.bytes.server_to_client.total();
            }
            _ => {}
        }
    }
    (parts, totals, closed)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_split_gives_the_same_events(
        client in stream(true),
        server in stream(false),
        cuts in prop::collection::vec(1usize..200, 1..8),
        preview in prop_oneof![Just(0usize), 1usize..300],
    ) {
        let config = Config { preview, ..config() };
        let whole = show(config.clone(), &client, &server, &[usize::MAX]);
        let cut = show(config, &client, &server, &cuts);
        prop_assert_eq!(essence(&whole), essence(&cut));
        let (parts, totals, closed) = sum(&cut);
        prop_assert_eq!(parts, totals);
        prop_assert_eq!(parts, closed);
    }

    #[test]
    fn hostile_bytes_do_no_harm(
        segments in prop::collection::vec(
            (any::<bool>(), any::<u8>(), -3000i32..3000, prop::collection::vec(any::<u8>(), 0..400), 0usize..500),
            1..60,
        ),
        begin in 0usize..3,
    ) {
        let mut s = Script::new(Config {
            max_buffered: 100_000,
            max_buffered_per_direction: 50_000,
            ..config()
        });
        if begin > 0 {
            s.connect();
            s.client(REQUEST.as_bytes());
        }
        if begin > 1 {
            s.server(RESPONSE.as_bytes());
            s.server(&header(0x82, None, u64::MAX >> 1));
        }
        for (client, flags, shift, bytes, snap) in segments {
            let role = if client { Role::Client } else { Role::Server };
            let at = usize::from(!client);
            let seq = s.next[at].0.wrapping_add_signed(shift / 3 * i32::from(shift % 3 == 0));
            s.snap = snap;
            s.segment_at(role, flags, SeqNumber(seq), &bytes);
            s.lose(role, bytes.len());
            prop_assert!(s.observer.held <= 100_000 + (1 << 20));
        }
        s.finish();
        let events = s.events();
        let opened = events.iter().filter(|event| {
            matches!(event.kind, EventKind::Handshake(_)) && event.connection.outcome.opens()
        });
        let closed = events.iter().filter(|event| matches!(event.kind, EventKind::Close(_)));
        prop_assert_eq!(opened.count(), closed.count());
        prop_assert_eq!(s.observer.stats().active, 0);
        prop_assert_eq!(s.observer.stats().tracked, 0);
        prop_assert_eq!(s.observer.held, 0);
    }
}

/// A segment of a real conversation.
#[derive(Clone, Debug)]
struct Sent {
    source: std::net::SocketAddr,
    destination: std::net::SocketAddr,
    seq: SeqNumber,
    ack: Option<SeqNumber>,
    flags: TcpFlags,
    bytes: Vec<u8>,
}

/// Conversations with real peers, as the goldens have them: classic pcap files with Ethernet.
fn real(name: &str) -> Vec<Sent> {
    let path = format!("{}/tests/golden/{name}.pcap", env!("CARGO_MANIFEST_DIR"));
    let file = std::fs::File::open(&path).unwrap();
    let mut capture = CaptureFile::from_reader(Box::new(file)).unwrap();
    let mut sent = Vec::new();
    let read = capture.read(&mut |segment| {
        let bytes: Vec<u8> = segment
            .windows
            .iter()
            .flat_map(|w| w.bytes.to_vec())
            .collect();
        assert_eq!(bytes.len(), segment.len as usize);
        sent.push(Sent {
            source: segment.source,
            destination: segment.destination,
            seq: segment.seq,
            ack: segment.ack,
            flags: segment.flags,
            bytes,
        });
        std::ops::ControlFlow::Continue(())
    });
    read.unwrap();
    sent
}

/// Shows segments, a millisecond apart; all events, and those before the observation's end.
fn observe(sent: &[Sent]) -> (Vec<Event>, usize) {
    let mut observer = Observer::new(Config {
        causal_order: true,
        preview: 100,
        ..config()
    });
    let mut now = Timestamp(1_000_000_000);
    let mut events = Vec::new();
    for sent in sent {
        now = Timestamp(now.0 + 1_000_000);
        let window = [Window {
            offset: 0,
            bytes: &sent.bytes,
        }];
        observer.handle_segment(&Segment {
            ts: now,
            source: sent.source,
            destination: sent.destination,
            seq: sent.seq,
            ack: sent.ack,
            flags: sent.flags,
            window: 500,
            len: sent.bytes.len() as u32,
            behind: 0,
            windows: if sent.bytes.is_empty() { &[] } else { &window },
            interface: None,
            scope: 0,
            epoch: 0,
        });
        events.extend(std::iter::from_fn(|| observer.poll_event()));
    }
    let before = events.len();
    observer.finish(now);
    events.extend(std::iter::from_fn(|| observer.poll_event()));
    (events, before)
}

/// What each connection says in each direction, in its order, and how it opens and closes; without
/// what depends on times and cuts.
fn by_direction(events: &[Event]) -> BTreeMap<(String, u8), Vec<String>> {
    let mut lines: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for event in events {
        let Some(line) = line(event) else { continue };
        let line = line.split(" after ").next().unwrap_or_default();
        let line = line.split(" rtt ").next().unwrap_or_default().to_owned();
        let direction = match &event.kind {
            EventKind::Frame(frame) => Some(frame.direction),
            EventKind::Message(message) => Some(message.direction),
            EventKind::Violation(violation) => Some(violation.direction),
            EventKind::Gap(gap) => Some(gap.direction),
            _ => None,
        };
        let place = match direction {
            None => 0,
            Some(Direction::ClientToServer) => 1,
            Some(Direction::ServerToClient) => 2,
        };
        let connection = event.connection.client.to_string();
        lines.entry((connection, place)).or_default().push(line);
    }
    lines
}

const REAL: [&str; 8] = [
    "messages",
    "fragments",
    "compressed",
    "server_closes",
    "subprotocol",
    "two_at_once",
    "refused",
    "fin",
];

/// The same bytes in other segments: cut, repeated, overlapping, late.
fn disturb(sent: &[Sent], random: &mut Random, late: u64) -> Vec<Sent> {
    let mut out: Vec<(u64, Sent)> = Vec::new();
    let mut place = 0;
    for whole in sent {
        let mut at = 0;
        loop {
            place += 10;
            let rest = whole.bytes.len() - at;
            let n = if random.below(3) == 0 {
                rest
            } else {
                rest.min(1 + random.below(300) as usize)
            };
            // Some begin again in what came before.
            let from = at - (random.below(20) as usize).min(at);
            let last = at + n == whole.bytes.len();
            let mut flags = whole.flags;
            if !last {
                flags.0 &= !0x01;
            }
            let shift = if flags.syn() || from == 0 {
                0
            } else {
                from as u32
            };
            let piece = Sent {
                seq: whole.seq + shift,
                flags,
                bytes: whole.bytes[from..at + n].to_vec(),
                ..whole.clone()
            };
            let delay = if whole.flags.syn() || random.below(4) > 0 {
                0
            } else {
                random.below(late + 1)
            };
            if random.below(6) == 0 && !whole.flags.syn() {
                out.push((place + 5 + random.below(late + 1), piece.clone()));
            }
            out.push((place + delay, piece));
            at += n;
            if last {
                break;
            }
        }
    }
    out.sort_by_key(|(place, _)| *place);
    out.into_iter().map(|(_, sent)| sent).collect()
}

#[test]
fn real_conversations_are_the_same_however_they_are_sent() {
    let mut random = Random(0x7ea1_c0de);
    for name in REAL {
        let sent = real(name);
        let whole = by_direction(&observe(&sent).0);
        assert!(!whole.is_empty(), "{name}");
        for trial in 0..60 {
            let late = [0, 15, 60][trial % 3];
            let disturbed = disturb(&sent, &mut random, late);
            let seen = by_direction(&observe(&disturbed).0);
            assert_eq!(seen, whole, "{name}, trial {trial}");
        }
    }
}

#[test]
fn a_conversation_that_is_cut_off_begins_the_same() {
    let mut random = Random(0xc0ff_ee11);
    for name in REAL {
        let sent = real(name);
        let disturbed = disturb(&sent, &mut random, 0);
        let whole = by_direction(&observe(&disturbed).0);
        for _ in 0..30 {
            let cut = random.below(disturbed.len() as u64) as usize;
            let (events, before) = observe(&disturbed[..cut]);
            for (place, lines) in by_direction(&events[..before]) {
                assert_eq!(lines, whole[&place][..lines.len()], "{name} cut at {cut}");
            }
            let count = |wanted: fn(&Event) -> bool| events.iter().filter(|e| wanted(e)).count();
            let opened = count(|event| {
                matches!(event.kind, EventKind::Handshake(_)) && event.connection.outcome.opens()
            });
            assert_eq!(
                opened,
                count(|event| matches!(event.kind, EventKind::Close(_)))
            );
            assert_eq!(count(|event| matches!(event.kind, EventKind::Gap(_))), 0);
        }
    }
}
