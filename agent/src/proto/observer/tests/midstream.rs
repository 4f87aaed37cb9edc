//! Connections that are older than the observation.

use std::time::Duration;

use super::config;
use crate::proto::{
    flow::Role,
    observer::{
        Config, Decision,
        script::{Script, frame, masked, plain},
    },
};

/// Random numbers that are the same each time (Marsaglia, xorshift).
pub(super) struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| (self.next() >> 32) as u8).collect()
    }
}

#[test]
fn an_exchange_is_recognised() {
    let mut s = Script::new(config());
    s.client(&masked(0x82, b"\x01\x02\x03"));
    s.server(&plain(0x82, b"\x01\x02\x03\x04"));
    assert!(s.lines().is_empty());
    let first = s.now.0 - 1_000_000;
    s.client(&masked(0x82, b"\x01\x02\x03"));
    s.server(&plain(0x82, b"\x01\x02\x03\x04"));
    s.server(&plain(0x89, b"?"));
    s.client(&masked(0x8a, b"?"));
    let events = s.events();
    assert_eq!(events[0].ts.0, first);
    assert_eq!(events[0].connection.client, s.client);
    let lines: Vec<_> = events
        .iter()
        .filter_map(super::super::script::line)
        .collect();
    assert_eq!(
        lines,
        [
            "handshake midstream",
            "c2s 1 binary 3",
            "message c2s binary 3 in 1",
            "s2c 1 binary 4",
            "message s2c binary 4 in 1",
            "c2s 2 binary 3",
            "message c2s binary 3 in 1",
            "s2c 2 binary 4",
            "message s2c binary 4 in 1",
            "s2c 3 ping 1",
            "c2s 3 pong 1 rtt 1ms",
        ]
    );
    assert_eq!(s.decisions(), [Decision::Follow]);
    s.shut();
    assert!(s.lines()[0].starts_with("close fin by client 1006"));
}

#[test]
fn one_direction_is_enough() {
    for (role, mask) in [(Role::Client, Some([9, 7, 1, 3])), (Role::Server, None)] {
        let mut s = Script::new(config());
        for _ in 0..3 {
            s.segment(role, 0x10, &frame(0x81, mask, b"some text"));
        }
        let events = s.events();
        assert_eq!(events[0].connection.client, s.client, "{role:?}");
        assert_eq!(events.len(), 1 + 3 * 3);
    }
}

#[test]
fn many_frames_in_one_segment() {
    let mut s = Script::new(config());
    let bytes: Vec<u8> = (0..40)
        .flat_map(|n| plain(0x82, &vec![0xee; 3 + n]))
        .collect();
    s.server(&bytes);
    // The first could be the end of something that leads to the second by chance.
    assert_eq!(s.lines().len(), 79);
}

#[test]
fn it_begins_in_the_midst_of_a_payload() {
    let mut s = Script::new(config());
    s.server(&[0xff; 1448]);
    s.server(&[0xff; 300]);
    for _ in 0..3 {
        s.server(&plain(0x82, &[0xff; 300]));
    }
    assert_eq!(s.lines().len(), 7);
}

#[test]
fn the_first_message_is_left_out_where_it_began_before() {
    let mut s = Script::new(config());
    s.server(&plain(0x00, b"12345678"));
    s.server(&plain(0x80, b"12345678"));
    for _ in 0..4 {
        s.server(&plain(0xc1, b"12345678"));
    }
    let lines = s.lines();
    let messages: Vec<_> = lines.iter().filter(|l| l.starts_with("message")).collect();
    assert_eq!(messages, [&"message s2c text 8 in 1 compressed"; 4]);
    assert!(!lines.iter().any(|line| line.contains("violation")));
}

#[test]
fn two_that_do_not_mask_are_no_websocket() {
    let mut s = Script::new(config());
    for _ in 0..9 {
        s.client(&plain(0x82, b"12345678"));
        s.server(&plain(0x82, b"12345678"));
    }
    assert_eq!(s.decisions(), [Decision::Ignore]);
    assert!(s.lines().is_empty());
}

#[test]
fn other_protocols_are_not_taken_for_one() {
    // Zeros, bytes repeated, two-byte lengths (DNS over TCP), numbers, text.
    let dns = [&[0, 29][..], &[7; 29]].concat();
    let numbers: Vec<u8> = (0..300u32).flat_map(u32::to_le_bytes).collect();
    for bytes in [
        vec![0; 1000],
        vec![1; 1000],
        vec![2; 1000],
        vec![0x80; 1000],
        vec![0x81; 1000],
        vec![0x82; 1000],
        vec![0x88; 1000],
        dns.repeat(9),
        numbers,
        b"A user@example.com, B user@example.com\n".repeat(30),
    ] {
        let mut s = Script::new(config());
        for _ in 0..100 {
            s.server(&bytes);
        }
        assert!(s.lines().is_empty(), "{:02x?}", &bytes[..8]);
    }
}

#[test]
fn random_bytes_are_not_taken_for_one() {
    let mut random = Random(0x1234_5678_9abc_def1);
    let trials = 2_000;
    let mut ignored = 0;
    for _ in 0..trials {
        let mut s = Script::new(config());
        for _ in 0..140 {
            let longest = if random.below(2) == 0 { 1448 } else { 60 };
            let len = 1 + random.below(longest);
            let bytes = random.bytes(len as usize);
            if random.below(2) == 0 {
                s.client(&bytes);
            } else {
                s.server(&bytes);
            }
        }
        assert!(s.events().is_empty());
        ignored += u32::from(s.decisions() == [Decision::Ignore]);
    }
    assert!(ignored > trials * 9 / 10, "{ignored}");
}

#[test]
fn a_resync_on_random_payload_is_right() {
    // Masked and random: the worst that a search can be in.
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..100 {
        let mut s = Script::accepted(Config::default());
        s.lose(Role::Client, 500);
        s.client(&random.bytes(1448));
        let mut stream = Vec::new();
        let mut sizes = Vec::new();
        for _ in 0..40 {
            let len = random.below(400) as usize;
            let mask = (random.next() as u32).to_be_bytes();
            sizes.push(len.to_string());
            stream.extend(frame(0x82, Some(mask), &random.bytes(len)));
        }
        for piece in stream.chunks(1448) {
            s.client(piece);
        }
        s.give_up();
        let lines = s.lines();
        assert!(lines[0].starts_with("gap c2s 500 resynced"), "{lines:#?}");
        let seen: Vec<_> = (lines.iter())
            .filter(|line| line.starts_with("c2s"))
            .map(|line| line.rsplit(' ').next().unwrap_or_default().to_owned())
            .collect();
        assert!(seen.len() >= 36, "{}", seen.len());
        assert_eq!(seen[seen.len() - 36..], sizes[4..]);
        assert!(seen.len() <= 40);
    }
}

#[test]
fn idle_for_long_and_then_found_again() {
    let mut s = Script::accepted(config());
    s.wait(Duration::from_secs(7200));
    for _ in 0..3 {
        s.server(&plain(0x81, b"good morning"));
    }
    let lines = s.lines();
    assert!(lines[0].starts_with("close idle"), "{lines:?}");
    assert_eq!(lines[1], "handshake midstream");
}

#[test]
fn nothing_but_acknowledgements_takes_no_place() {
    let mut s = Script::new(config());
    s.client(&[]);
    s.fin(Role::Client);
    assert_eq!(s.observer.stats().tracked, 0);
}

/// Frames back to back, from somewhere in the first on, in segments of a size.
fn stream(random: &mut Random, mask: bool, size: usize, frames: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..frames {
        let mask = mask.then(|| (random.next() as u32).to_be_bytes());
        bytes.extend(frame(0x82, mask, &random.bytes(size)));
    }
    bytes.split_off(size / 3)
}

#[test]
fn large_frames_that_no_segment_begins_with() {
    let mut random = Random(0x0dd_ba11);
    for (size, frames, segment) in [
        (1 << 20, 4, 65_160),
        (1 << 20, 4, 1448),
        (100_000, 8, 1448),
        (16_384, 12, 65_160),
    ] {
        for (role, mask) in [(Role::Client, true), (Role::Server, false)] {
            let mut s = Script::new(config());
            for piece in stream(&mut random, mask, size, frames).chunks(segment) {
                s.segment(role, 0x10, piece);
            }
            let events = s.events();
            assert!(!events.is_empty(), "{size} in {segment}");
            assert_eq!(events[0].connection.client, s.client, "{role:?}");
        }
    }
}

#[test]
fn messages_that_look_like_frames_in_one_direction() {
    // MQTT 3.1.1, sections 3.8 and 3.9: SUBSCRIBE and SUBACK.
    let mut s = Script::new(config());
    for id in 0..60u8 {
        let topic = format!("devices/{id}/state");
        let mut subscribe = vec![0x82, topic.len() as u8 + 5, 0, id, 0, topic.len() as u8];
        subscribe.extend(topic.bytes());
        subscribe.push(0);
        s.client(&subscribe);
        s.server(&[0x90, 3, 0, id, 0]);
    }
    assert!(s.lines().is_empty());
}
