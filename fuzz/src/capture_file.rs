//! A capture file: pcap or pcapng, plain or compressed.
//!
//! Layout: the file.

use std::{
    io::{self, Cursor, Read},
    ops::ControlFlow,
};

use wstap::{
    proto::{observer::Config, time::Timestamp},
    source::capture::{CaptureCounts, CaptureFile},
};

use crate::judge::Judge;

/// Reads without harm, and the same from a pipe that gives a few bytes at a time.
pub fn run(data: &[u8]) {
    let whole = read(Box::new(Cursor::new(data.to_owned())));
    let piped = read(Box::new(Pipe(Cursor::new(data.to_owned()))));
    assert_eq!(whole, piped);
}

/// What was found, and what was said at the end.
fn read(input: Box<dyn Read>) -> (Option<CaptureCounts>, String) {
    let mut file = match CaptureFile::from_reader(input) {
        Ok(file) => file,
        Err(error) => return (None, error.to_string()),
    };
    let mut judge = Judge::new(
        Config {
            max_connections: 4,
            max_candidates: 6,
            preview: 32,
            ..Config::default()
        },
        false,
    );
    let mut last = Timestamp(0);
    let mut segments = 0;
    let done = file.read(&mut |segment| {
        segments += 1;
        last = last.max(segment.ts);
        let mut at = 0;
        for window in segment.windows {
            assert!(window.offset >= at && !window.bytes.is_empty());
            at = window.offset + window.bytes.len() as u32;
        }
        assert!(at <= segment.len);
        judge.observer.handle_segment(segment);
        judge.look();
        ControlFlow::Continue(())
    });
    judge.finish(last);
    let counts = file.counts();
    assert_eq!(counts.segments, segments);
    let others = counts.not_tcp + counts.fragments + counts.cut + counts.malformed;
    assert_eq!(
        counts.packets,
        segments + others + counts.unsupported_link_type
    );
    (
        Some(counts),
        done.err().map(|e| e.to_string()).unwrap_or_default(),
    )
}

/// A pipe whose writer is slow.
struct Pipe(Cursor<Vec<u8>>);

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = buffer.len().min(7);
        self.0.read(buffer.get_mut(..n).unwrap_or_default())
    }
}
