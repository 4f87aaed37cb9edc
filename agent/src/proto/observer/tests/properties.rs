//! What holds for any input.

use proptest::prelude::*;

use super::config;
use crate::proto::{
    event::{Event, EventKind},
    flow::Role,
    observer::{
        Config,
        script::{KEY, REQUEST, RESPONSE, Script, frame, header, line},
    },
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
            s.segment_at(role, flags, crate::proto::seq::SeqNumber(seq), &bytes);
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
