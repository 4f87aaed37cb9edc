//! What comes from the ring buffer: records, decoded and handed to an observer as the agent does.
//!
//! Layout: runs, each a record.

use std::sync::OnceLock;

use wstap::{
    proto::{observer::Config, time::Timestamp},
    source::kernel::{clock::Clock, reader::with_segment},
};
use wstap_common::record::RecordHeader;

use crate::{input::Input, judge::Judge};

/// Decodes without harm, and observes without harm.
pub fn run(data: &[u8]) {
    static CLOCK: OnceLock<Clock> = OnceLock::new();
    let clock = CLOCK.get_or_init(Clock::new);
    let mut input = Input::new(data);
    let mut judge = Judge::new(
        Config {
            max_connections: 4,
            max_candidates: 6,
            causal_order: true,
            ..Config::default()
        },
        false,
    );
    let mut last = Timestamp(0);
    while !input.is_empty() {
        let Ok((header, captured)) = RecordHeader::decode(input.run()) else {
            continue;
        };
        assert_eq!(captured.len(), header.captured as usize);
        with_segment(&header, captured, clock, &mut |segment| {
            last = last.max(segment.ts);
            let mut at = 0;
            for window in segment.windows {
                assert!(window.offset >= at && !window.bytes.is_empty());
                at = window.offset + window.bytes.len() as u32;
            }
            assert!(at <= segment.len);
            judge.observer.handle_segment(segment);
        });
        judge.look();
    }
    judge.finish(last);
}
