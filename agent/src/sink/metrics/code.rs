//! Labels for numbers that peers choose: the close code and the HTTP status.

use std::{collections::BTreeSet, fmt};

use crate::proto::{
    event::{Close, CloseKind, Outcome},
    frame::CloseCode,
};

/// Distinct close codes at most, the protocol's own included. These are few and always kept, so
/// that no peer can push 1000 or 1006 out with codes of its own making.
pub const MAX_CLOSE_CODES: usize = 100;

/// The `code` label.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum CodeLabel {
    /// As it is.
    Code(u16),
    /// May be sent, and too many others were.
    Other,
    /// No code that the protocol knows.
    Invalid,
    /// The observation ended before the connection.
    None,
}

impl fmt::Display for CodeLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => code.fmt(f),
            Self::Other => f.write_str("other"),
            Self::Invalid => f.write_str("invalid"),
            Self::None => f.write_str("none"),
        }
    }
}

/// The close codes that have a label value of their own.
#[derive(Clone, Debug, Default)]
pub(super) struct CloseCodes {
    seen: BTreeSet<u16>,
    exceeded: u64,
}

impl CloseCodes {
    /// The label for the end of a connection.
    pub(super) fn label(&mut self, close: &Close) -> CodeLabel {
        let Some(CloseCode(code)) = close.code else {
            return CodeLabel::None;
        };
        if matches!(close.kind, CloseKind::Eof | CloseKind::Evicted) {
            return CodeLabel::None;
        }
        let own = match code {
            1000..=1015 => true,
            3000..=4999 => self.seen.contains(&code) || self.seen.len() < MAX_CLOSE_CODES,
            _ => return CodeLabel::Invalid,
        };
        if own {
            self.seen.insert(code);
            CodeLabel::Code(code)
        } else {
            self.exceeded += 1;
            CodeLabel::Other
        }
    }

    /// How often a code went without a value of its own.
    pub(super) fn exceeded(&self) -> u64 {
        self.exceeded
    }
}

/// The `status` label.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum StatusLabel {
    /// There was no answer, or none was seen.
    Empty,
    /// A registered one.
    Status(u16),
    /// Any other.
    Other,
}

impl StatusLabel {
    /// The label of a handshake.
    pub(super) fn new(outcome: Outcome, status: Option<u16>) -> Self {
        match (outcome, status) {
            (Outcome::Unanswered | Outcome::Midstream, _) | (_, None) => Self::Empty,
            (_, Some(status)) if is_registered(status) => Self::Status(status),
            _ => Self::Other,
        }
    }
}

impl fmt::Display for StatusLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => Ok(()),
            Self::Status(status) => status.fmt(f),
            Self::Other => f.write_str("other"),
        }
    }
}

/// Whether IANA's registry of HTTP status codes gives it a meaning.
fn is_registered(status: u16) -> bool {
    matches!(
        status,
        100..=104
            | 200..=208
            | 226
            | 300..=305
            | 307
            | 308
            | 400..=417
            | 421..=426
            | 428
            | 429
            | 431
            | 451
            | 500..=508
            | 510
            | 511
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::metrics::tests::close;

    fn text(codes: &mut CloseCodes, kind: CloseKind, code: Option<u16>) -> String {
        codes.label(&close(kind, code, None)).to_string()
    }

    #[test]
    fn codes_are_as_they_are_or_invalid_or_none() {
        let mut codes = CloseCodes::default();
        for (kind, code, label) in [
            (CloseKind::Clean, Some(1000), "1000"),
            (CloseKind::Half, Some(1015), "1015"),
            (CloseKind::Fin, Some(1006), "1006"),
            (CloseKind::Clean, Some(3000), "3000"),
            (CloseKind::Clean, Some(4999), "4999"),
            (CloseKind::Clean, Some(0), "invalid"),
            (CloseKind::Clean, Some(999), "invalid"),
            (CloseKind::Clean, Some(1016), "invalid"),
            (CloseKind::Clean, Some(2999), "invalid"),
            (CloseKind::Clean, Some(5000), "invalid"),
            (CloseKind::Clean, Some(65535), "invalid"),
            (CloseKind::Eof, None, "none"),
            (CloseKind::Evicted, Some(1006), "none"),
        ] {
            assert_eq!(text(&mut codes, kind, code), label);
        }
        assert_eq!(codes.exceeded(), 0);
    }

    #[test]
    fn distinct_codes_are_bounded_and_the_protocols_own_stay() {
        let mut codes = CloseCodes::default();
        let mut labels = BTreeSet::new();
        for code in 3000..=4999 {
            labels.insert(text(&mut codes, CloseKind::Clean, Some(code)));
        }
        assert_eq!(labels.len(), MAX_CLOSE_CODES + 1);
        assert!(labels.contains("3000") && labels.contains("other"));
        assert_eq!(codes.exceeded(), 2000 - MAX_CLOSE_CODES as u64);
        assert_eq!(text(&mut codes, CloseKind::Fin, Some(1006)), "1006");
        assert_eq!(text(&mut codes, CloseKind::Clean, Some(3000)), "3000");
    }

    #[test]
    fn status_is_empty_registered_or_other() {
        for (outcome, status, label) in [
            (Outcome::Accepted, Some(101), "101"),
            (Outcome::Rejected, Some(426), "426"),
            (Outcome::Rejected, Some(499), "other"),
            (Outcome::Rejected, Some(65535), "other"),
            (Outcome::Midstream, None, ""),
            (Outcome::Unanswered, Some(200), ""),
        ] {
            assert_eq!(StatusLabel::new(outcome, status).to_string(), label);
        }
    }
}
