//! A capture file: pcap or pcapng, plain or compressed.
//!
//! Layout: the file.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Cursor, Read},
    ops::ControlFlow,
};

use wstap::{
    proto::{observer::Config, segment::Segment, time::Timestamp},
    source::capture::{CaptureCounts, CaptureFile},
};

use crate::judge::Judge;

/// What was found in a file.
#[derive(Debug, Default, Eq, PartialEq)]
struct Found {
    counts: Option<CaptureCounts>,
    /// What stands for each segment.
    segments: Vec<u64>,
    /// What was said at the end.
    error: String,
}

/// Reads without harm, and the same from a pipe that gives a few bytes at a time. Of a file that is
/// cut off, no more than was in it and nothing else.
pub fn run(data: &[u8]) {
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
    let whole = read(Box::new(Cursor::new(data.to_owned())), &mut |segment| {
        last = last.max(segment.ts);
        judge.observer.handle_segment(segment);
        judge.look();
    });
    judge.finish(last);
    let piped = read(Box::new(Pipe(Cursor::new(data.to_owned()))), &mut |_| {});
    assert_eq!(whole, piped);
    let missing = 1 + data.last().map_or(0, |last| usize::from(*last));
    let kept = data.get(..data.len().saturating_sub(missing));
    let cut = kept.unwrap_or_default().to_owned();
    let cut = read(Box::new(Cursor::new(cut)), &mut |_| {});
    assert!(
        whole.segments.starts_with(&cut.segments),
        "{whole:?} {cut:?}"
    );
}

fn read(input: Box<dyn Read>, each: &mut dyn FnMut(&Segment<'_>)) -> Found {
    let mut found = Found::default();
    let mut file = match CaptureFile::from_reader(input) {
        Ok(file) => file,
        Err(error) => {
            found.error = error.to_string();
            return found;
        }
    };
    let done = file.read(&mut |segment| {
        found.segments.push(digest(segment));
        let mut at = 0;
        for window in segment.windows {
            assert!(window.offset >= at && !window.bytes.is_empty());
            at = window.offset + window.bytes.len() as u32;
        }
        assert!(at <= segment.len);
        each(segment);
        ControlFlow::Continue(())
    });
    found.error = done.err().map(|e| e.to_string()).unwrap_or_default();
    assert!(!found.error.contains('\n'));
    let counts = file.counts();
    assert_eq!(counts.segments, found.segments.len() as u64);
    let others = counts.not_tcp + counts.fragments + counts.cut + counts.malformed;
    assert_eq!(
        counts.packets,
        counts.segments + others + counts.unsupported_link_type
    );
    found.counts = Some(counts);
    found
}

fn digest(segment: &Segment<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    let ends = (segment.source, segment.destination);
    let numbers = (segment.seq.0, segment.ack.map(|ack| ack.0), segment.len);
    let others = (segment.flags.0, segment.window, segment.interface);
    (segment.ts, ends, numbers, others).hash(&mut hasher);
    for window in segment.windows {
        (window.offset, window.bytes).hash(&mut hasher);
    }
    hasher.finish()
}

/// A pipe whose writer is slow.
struct Pipe(Cursor<Vec<u8>>);

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = buffer.len().min(7);
        self.0.read(buffer.get_mut(..n).unwrap_or_default())
    }
}
