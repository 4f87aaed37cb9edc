//! The `path` label: from a request target, which the client chooses, to a value that names a
//! route.

use std::borrow::Cow;

use crate::sink::escape::is_hostile;

/// Bytes of a path label at most.
pub const MAX_LENGTH: usize = 200;

/// What stands for a part of the path that differs from request to request.
const PLACEHOLDER: &str = "{id}";

/// Ends a label that was cut off.
const ELLIPSIS: &str = "...";

/// How request targets become labels.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum PathLabel {
    /// Without the query; segments that are numbers, UUIDs or long hex become `{id}`.
    #[default]
    Template,
    /// As sent, query included.
    Raw,
    /// Always empty.
    None,
}

impl PathLabel {
    /// The label of a request target; empty where none was seen. At most [`MAX_LENGTH`] bytes.
    #[must_use]
    pub fn apply(self, target: Option<&str>) -> Cow<'_, str> {
        let target = target.unwrap_or_default();
        match self {
            Self::Template => bounded(visible(template(target))),
            Self::Raw => bounded(visible(Cow::Borrowed(target))),
            Self::None => Cow::Borrowed(""),
        }
    }
}

fn template(target: &str) -> Cow<'_, str> {
    let path = target.split(['?', '#']).next().unwrap_or_default();
    // RFC 9112, section 3.2.2: a target may be a whole URI.
    let path = match path.split_once("://") {
        Some((_, rest)) if !path.starts_with('/') => rest.find('/').map_or("/", |at| &rest[at..]),
        _ => path,
    };
    if !path.split('/').any(is_variable) {
        return Cow::Borrowed(path);
    }
    let mut label = String::with_capacity(path.len());
    for (i, segment) in path.split('/').enumerate() {
        if i > 0 {
            label.push('/');
        }
        label.push_str(if is_variable(segment) {
            PLACEHOLDER
        } else {
            segment
        });
        // What follows would be cut off anyway, and a target may have thousands of segments.
        if label.len() > MAX_LENGTH {
            break;
        }
    }
    Cow::Owned(label)
}

/// Whether a segment is a number, a UUID, or hex too long to be a word: 8 digits with a decimal
/// one among them, or 16.
fn is_variable(segment: &str) -> bool {
    let bytes = segment.as_bytes();
    let hex = bytes.iter().all(u8::is_ascii_hexdigit);
    let decimal = bytes.iter().filter(|b| b.is_ascii_digit()).count();
    match bytes.len() {
        0 => false,
        len if decimal == len => true,
        36 => is_uuid(bytes),
        len => hex && (len >= 16 || (len >= 8 && decimal > 0)),
    }
}

fn is_uuid(bytes: &[u8]) -> bool {
    bytes.iter().enumerate().all(|(i, b)| match i {
        8 | 13 | 18 | 23 => *b == b'-',
        _ => b.is_ascii_hexdigit(),
    })
}

/// The label as the exposition shows it. Endpoints are told apart by it: two whose labels only look
/// the same would be one series twice, which no scrape may have.
fn visible(label: Cow<'_, str>) -> Cow<'_, str> {
    if label.contains(is_hostile) {
        Cow::Owned(label.replace(is_hostile, "\u{fffd}"))
    } else {
        label
    }
}

fn bounded(label: Cow<'_, str>) -> Cow<'_, str> {
    if label.len() <= MAX_LENGTH {
        return label;
    }
    let end = (0..=MAX_LENGTH - ELLIPSIS.len())
        .rev()
        .find(|&end| label.is_char_boundary(end))
        .unwrap_or(0);
    let mut cut = String::from(&label[..end]);
    cut.push_str(ELLIPSIS);
    Cow::Owned(cut)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(target: &str) -> Cow<'_, str> {
        PathLabel::Template.apply(Some(target))
    }

    #[test]
    fn variable_segments_become_placeholders() {
        for (target, expected) in [
            ("/", "/"),
            ("", ""),
            ("*", "*"),
            ("/chat", "/chat"),
            ("/chat/?EIO=4&transport=websocket", "/chat/"),
            ("/room/42", "/room/{id}"),
            ("/room/42/", "/room/{id}/"),
            ("/v1/feed", "/v1/feed"),
            ("/facade/decade", "/facade/decade"),
            ("/defaced0/x", "/{id}/x"),
            ("/deadbeefdeadbeef", "/{id}"),
            ("/u/123e4567-e89b-12d3-a456-426614174000/ws", "/u/{id}/ws"),
            (
                "/u/123e4567-e89b-12d3-a456-42661417400g/ws",
                "/u/123e4567-e89b-12d3-a456-42661417400g/ws",
            ),
            ("ws://example.com:80/a/7?x", "/a/{id}"),
            ("http://example.com", "/"),
            ("/proxy/http://x/1", "/proxy/http://x/{id}"),
            ("/a#b", "/a"),
        ] {
            assert_eq!(label(target), expected, "{target}");
        }
    }

    #[test]
    fn raw_and_none() {
        assert_eq!(PathLabel::Raw.apply(Some("/room/42?t=1")), "/room/42?t=1");
        assert_eq!(PathLabel::None.apply(Some("/room/42")), "");
        assert_eq!(PathLabel::Raw.apply(None), "");
    }

    #[test]
    fn length_is_bounded_on_a_character_boundary() {
        for target in [
            "/".repeat(10_000),
            "/7".repeat(10_000),
            "ä".repeat(10_000),
            format!("/{}", "\u{fffd}".repeat(10_000)),
        ] {
            for how in [PathLabel::Template, PathLabel::Raw] {
                let label = how.apply(Some(&target));
                assert!(label.len() <= MAX_LENGTH && label.len() > MAX_LENGTH - 8);
                assert!(label.ends_with(ELLIPSIS));
            }
        }
    }
}
