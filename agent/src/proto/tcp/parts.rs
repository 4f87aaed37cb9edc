//! The payload of a segment as a sequence of captured and uncaptured ranges.

use crate::proto::segment::{Segment, Window};

/// The bytes between two places, `None` if there are not so many.
pub(super) fn slice(bytes: &[u8], from: u64, to: u64) -> Option<&[u8]> {
    bytes.get(usize::try_from(from).ok()?..usize::try_from(to).ok()?)
}

/// A range of a segment's payload that was captured, or was not.
pub(super) struct Part<'a> {
    pub(super) begin: u32,
    pub(super) end: u32,
    pub(super) bytes: Option<&'a [u8]>,
}

/// The payload of a segment in ascending parts without gaps or overlaps, whatever its windows are:
/// what one repeats of those before it, or has beyond the length on the wire, is left out.
pub(super) struct Parts<'a> {
    windows: std::slice::Iter<'a, Window<'a>>,
    /// A window whose turn is next.
    window: Option<Part<'a>>,
    at: u32,
    len: u32,
}

impl<'a> Parts<'a> {
    pub(super) fn new(segment: &Segment<'a>) -> Self {
        Self {
            windows: segment.windows.iter(),
            window: None,
            at: 0,
            len: segment.len,
        }
    }

    /// The rest of the next window that has any.
    fn next_window(&mut self) -> Option<Part<'a>> {
        let (at, len) = (self.at, self.len);
        self.windows.find_map(|window| {
            let size = u32::try_from(window.bytes.len()).unwrap_or(u32::MAX);
            let end = window.offset.saturating_add(size).min(len);
            let begin = window.offset.max(at);
            if begin >= end {
                return None;
            }
            let skipped = u64::from(begin - window.offset);
            let bytes = slice(window.bytes, skipped, u64::from(end - window.offset))?;
            Some(Part {
                begin,
                end,
                bytes: Some(bytes),
            })
        })
    }
}

impl<'a> Iterator for Parts<'a> {
    type Item = Part<'a>;

    fn next(&mut self) -> Option<Part<'a>> {
        if self.at >= self.len {
            return None;
        }
        let window = self.window.take().or_else(|| self.next_window());
        let part = match window {
            Some(window) if window.begin == self.at => window,
            window => {
                let begin = self.at;
                let end = window.as_ref().map_or(self.len, |window| window.begin);
                self.window = window;
                Part {
                    begin,
                    end,
                    bytes: None,
                }
            }
        };
        self.at = part.end;
        Some(part)
    }
}
