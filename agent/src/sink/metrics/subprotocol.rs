//! The `subprotocol` label: what servers agree on, as far as it is a name and no secret.

use std::{collections::BTreeSet, fmt, sync::Arc};

/// Distinct subprotocols that become label values. The registry has some seventy, few of which meet
/// on one machine.
pub const MAX_SUBPROTOCOLS: usize = 50;

/// A longer one is no name.
const MAX_LENGTH: usize = 64;

/// So many characters in a row of an alphabet in which secrets are written are one. A UUID has 36.
const MAX_RUN: usize = 40;

/// As [`MAX_RUN`], of hexadecimal digits.
const MAX_HEX_RUN: usize = 24;

/// The label.
#[derive(Clone, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct SubprotocolLabel(Option<Arc<str>>);

impl SubprotocolLabel {
    fn new(value: &str) -> Self {
        Self(Some(value.into()))
    }
}

impl fmt::Display for SubprotocolLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_deref().unwrap_or_default())
    }
}

/// The subprotocols that have a label value of their own.
#[derive(Clone, Debug, Default)]
pub(super) struct Subprotocols {
    seen: BTreeSet<SubprotocolLabel>,
    exceeded: u64,
}

impl Subprotocols {
    /// The label of a handshake.
    pub(super) fn label(&mut self, subprotocol: Option<&str>) -> SubprotocolLabel {
        const OTHER: &str = "other";
        let Some(name) = subprotocol else {
            return SubprotocolLabel::default();
        };
        if !is_name(name) {
            return SubprotocolLabel::new(OTHER);
        }
        let label = SubprotocolLabel::new(name);
        if let Some(seen) = self.seen.get(&label) {
            return seen.clone();
        }
        if self.seen.len() >= MAX_SUBPROTOCOLS {
            self.exceeded += 1;
            return SubprotocolLabel::new(OTHER);
        }
        self.seen.insert(label.clone());
        label
    }

    /// How often a subprotocol went without a value of its own.
    pub(super) fn exceeded(&self) -> u64 {
        self.exceeded
    }
}

/// Whether it may be shown: some send credentials as a subprotocol, since browsers let them send
/// nothing else.
fn is_name(name: &str) -> bool {
    let longest = |of: fn(&u8) -> bool| {
        let runs = name.as_bytes().split(|byte| !of(byte));
        runs.map(<[u8]>::len).max().unwrap_or(0)
    };
    let is_secret = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=_-".contains(byte);
    // A JSON Web Token (RFC 7519) begins with a JSON object in base64url.
    let has_jwt = name.match_indices("eyJ").any(|(at, _)| {
        let before = name.as_bytes().get(at.wrapping_sub(1));
        !before.is_some_and(u8::is_ascii_alphanumeric)
    });
    !name.is_empty()
        && name.len() <= MAX_LENGTH
        && name.bytes().all(|byte| byte.is_ascii_graphic())
        && longest(is_secret) <= MAX_RUN
        && longest(u8::is_ascii_hexdigit) <= MAX_HEX_RUN
        && !has_jwt
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_they_are() {
        let mut subprotocols = Subprotocols::default();
        assert_eq!(subprotocols.label(None).to_string(), "");
        for name in [
            "chat",
            "graphql-transport-ws",
            "v12.stomp",
            "wamp.2.json.batched",
            "v4.channel.k8s.io",
            "com.example:a/b",
        ] {
            assert_eq!(subprotocols.label(Some(name)).to_string(), name);
        }
        assert_eq!(subprotocols.exceeded(), 0);
    }

    #[test]
    fn secrets_and_what_is_no_name_are_other() {
        let mut subprotocols = Subprotocols::default();
        for name in [
            "",
            "two words",
            "caf\u{e9}",
            "eyJhbGciOiJIUzI1NiJ9.e30.x",
            "bearer.eyJhbGciOiJIUzI1NiJ9",
            "d41d8cd98f00b204e9800998ecf8427e",
            "base64url.bearer.authorization.k8s.io.QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY",
            &"a.".repeat(40),
        ] {
            assert_eq!(
                subprotocols.label(Some(name)).to_string(),
                "other",
                "{name}"
            );
        }
        assert!(subprotocols.seen.is_empty());
    }

    #[test]
    fn distinct_ones_are_bounded() {
        let mut subprotocols = Subprotocols::default();
        let mut labels = BTreeSet::new();
        for n in 0..200 {
            labels.insert(subprotocols.label(Some(&format!("v{n}"))));
        }
        assert_eq!(labels.len(), MAX_SUBPROTOCOLS + 1);
        assert_eq!(subprotocols.exceeded(), 200 - MAX_SUBPROTOCOLS as u64);
        assert_eq!(subprotocols.label(Some("v0")).to_string(), "v0");
    }
}
