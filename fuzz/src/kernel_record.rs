//! What comes from the ring buffer: records, decoded and handed to an observer as the agent does.
//!
//! Layout: runs, each a record.

use std::sync::OnceLock;

use wstap::{
    proto::{observer::Config, time::Timestamp, walk::Sample},
    source::kernel::{
        clock::Clock,
        reader::{Record, with_record},
    },
};

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
        let taken = with_record(input.run(), clock, &mut |record| match record {
            Record::Sample(segment, sample) => {
                last = last.max(segment.ts);
                let mut at = 0;
                for window in segment.windows {
                    assert!(window.offset >= at && !window.bytes.is_empty());
                    at = window.offset + window.bytes.len() as u32;
                }
                assert!(at <= segment.len);
                if sample != Sample::default() {
                    judge.trust_source();
                }
                judge.observer.handle_sample(segment, sample);
            }
            Record::Walk(walk, entries) => {
                last = last.max(walk.segment.ts);
                judge.trust_source();
                judge.observer.handle_walk(walk, entries);
            }
        });
        if taken.is_ok() {
            judge.look();
        }
    }
    judge.finish(last);
}
