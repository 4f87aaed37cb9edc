//! Counts of what went over a wire: what peers say, and what the metrics say, in one shape that can
//! be compared.

use std::{
    collections::BTreeMap,
    fmt,
    ops::{Add, Sub},
};

use serde_json::Value;

use super::exposition::Exposition;

/// One direction. Keys that did not occur are absent, so that two of these are equal exactly when
/// they count the same.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// Frames by opcode.
    pub frames: BTreeMap<String, u64>,
    /// Payload bytes on the wire by opcode; an opcode whose frames were all empty is absent.
    pub bytes: BTreeMap<String, u64>,
    /// Complete messages by type, with `+deflate` behind it where they were compressed.
    pub messages: BTreeMap<String, u64>,
}

impl Counts {
    /// Counts a frame.
    pub fn frame(&mut self, opcode: &str, len: u64) {
        *self.frames.entry(opcode.to_owned()).or_default() += 1;
        if len > 0 {
            *self.bytes.entry(opcode.to_owned()).or_default() += len;
        }
    }

    /// All frames.
    pub fn total(&self) -> u64 {
        self.frames.values().sum()
    }

    fn combine(self, other: &Self, with: impl Fn(u64, u64) -> u64) -> Self {
        let merge = |mut a: BTreeMap<String, u64>, b: &BTreeMap<String, u64>| {
            for (key, n) in b {
                let value = a.entry(key.clone()).or_default();
                *value = with(*value, *n);
            }
            a.retain(|_, n| *n > 0);
            a
        };
        Self {
            frames: merge(self.frames, &other.frames),
            bytes: merge(self.bytes, &other.bytes),
            messages: merge(self.messages, &other.messages),
        }
    }

    fn from_json(value: &Value) -> Self {
        let map = |key: &str| {
            let entries = value[key].as_object().into_iter().flatten();
            entries
                .filter_map(|(name, n)| Some((name.clone(), n.as_u64().filter(|n| *n > 0)?)))
                .collect()
        };
        Self {
            frames: map("frames"),
            bytes: map("bytes"),
            messages: map("messages"),
        }
    }
}

impl Add<&Self> for Counts {
    type Output = Self;

    fn add(self, other: &Self) -> Self {
        self.combine(other, |a, b| a + b)
    }
}

impl Sub<&Self> for Counts {
    type Output = Self;

    fn sub(self, other: &Self) -> Self {
        self.combine(other, u64::saturating_sub)
    }
}

/// What one peer counted at its end.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Report {
    /// What it wrote.
    pub sent: Counts,
    /// What it read.
    pub received: Counts,
    /// Connections by the code of the first close frame (1005 for one without a code).
    pub closed: BTreeMap<u64, u64>,
}

impl Report {
    /// The object that the scripts of `tests/peers` print at their end.
    pub fn from_json(value: &Value) -> Self {
        let closed = value["closed"].as_object().into_iter().flatten();
        Self {
            sent: Counts::from_json(&value["sent"]),
            received: Counts::from_json(&value["received"]),
            closed: closed
                .filter_map(|(code, n)| Some((code.parse().ok()?, n.as_u64()?)))
                .collect(),
        }
    }
}

impl Add for Report {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        for (code, n) in other.closed {
            *self.closed.entry(code).or_default() += n;
        }
        Self {
            sent: self.sent + &other.sent,
            received: self.received + &other.received,
            closed: self.closed,
        }
    }
}

/// Both directions.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Tally {
    /// Sent by clients.
    pub client_to_server: Counts,
    /// Sent by servers.
    pub server_to_client: Counts,
    /// Connections that are over, as `kind code initiator`.
    pub closed: BTreeMap<String, u64>,
}

impl Tally {
    /// One direction, by its name.
    #[track_caller]
    pub fn direction(&mut self, name: &Value) -> &mut Counts {
        match name.as_str() {
            Some("client_to_server") => &mut self.client_to_server,
            Some("server_to_client") => &mut self.server_to_client,
            _ => panic!("no direction: {name}"),
        }
    }

    /// What two peers agree on. `initiator` is who sent the close frames first.
    ///
    /// # Panics
    ///
    /// Where one received something else than the other sent: then they are no measure.
    #[track_caller]
    pub fn agreed(client: &Report, server: &Report, initiator: &str) -> Self {
        assert_eq!(
            client.sent, server.received,
            "sent by the client, received by the server"
        );
        assert_eq!(
            server.sent, client.received,
            "sent by the server, received by the client"
        );
        assert_eq!(
            client.closed, server.closed,
            "close codes at client and server"
        );
        let closed = client.closed.iter();
        Self {
            client_to_server: client.sent.clone(),
            server_to_client: server.sent.clone(),
            closed: closed
                .map(|(code, n)| (format!("clean {code} {initiator}"), *n))
                .collect(),
        }
    }

    /// What `run` has counted, whatever the endpoints.
    pub fn of_metrics(metrics: &Exposition) -> Self {
        let counts = |direction: &str| {
            let of = |name: &str, label: &[&str]| {
                let mut sums = BTreeMap::new();
                for sample in metrics.of(name) {
                    if sample.label("direction") == direction && sample.value > 0.0 {
                        let key: Vec<_> = label.iter().map(|label| sample.label(label)).collect();
                        *sums.entry(key.join(" ")).or_default() += sample.count();
                    }
                }
                sums
            };
            let mut messages = BTreeMap::new();
            for (key, n) in of("websocket_messages_total", &["type", "compressed"]) {
                let key = match key.split_once(' ') {
                    Some((kind, "true")) => format!("{kind}+deflate"),
                    Some((kind, "false")) => kind.to_owned(),
                    _ => key,
                };
                *messages.entry(key).or_default() += n;
            }
            Counts {
                frames: of("websocket_frames_total", &["opcode"]),
                bytes: of("websocket_frame_payload_bytes_total", &["opcode"]),
                messages,
            }
        };
        let mut closed = BTreeMap::new();
        for sample in metrics.of("websocket_connections_closed_total") {
            let key = ["kind", "code", "initiator"]
                .map(|label| sample.label(label))
                .join(" ");
            if sample.value > 0.0 {
                *closed.entry(key.trim_end().to_owned()).or_default() += sample.count();
            }
        }
        Self {
            client_to_server: counts("client_to_server"),
            server_to_client: counts("server_to_client"),
            closed,
        }
    }
}

impl Add<&Self> for Tally {
    type Output = Self;

    fn add(mut self, other: &Self) -> Self {
        for (key, n) in &other.closed {
            *self.closed.entry(key.clone()).or_default() += n;
        }
        Self {
            client_to_server: self.client_to_server + &other.client_to_server,
            server_to_client: self.server_to_client + &other.server_to_client,
            closed: self.closed,
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (direction, counts) in [
            ("c2s", &self.client_to_server),
            ("s2c", &self.server_to_client),
        ] {
            writeln!(f, "  {direction} frames   {:?}", counts.frames)?;
            writeln!(f, "  {direction} bytes    {:?}", counts.bytes)?;
            writeln!(f, "  {direction} messages {:?}", counts.messages)?;
        }
        write!(f, "  closed       {:?}", self.closed)
    }
}
