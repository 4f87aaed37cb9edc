//! What is said, in the words and the order of what has to be said.

use std::collections::BTreeMap;

use serde_json::Value;

use super::run::{DIRECTIONS, PREVIEW, payload};

/// The flags of `read` and `trace` for it.
pub fn flags() -> Vec<String> {
    let events = "--event=handshake,frame,message,violation,gap,close";
    let payload = format!("--payload={PREVIEW}");
    vec!["-o".into(), "json".into(), payload, events.into()]
}

/// What is said of each connection, by its path.
///
/// # Panics
///
/// Where a line is no object, or two connections have one path.
#[track_caller]
pub fn by_path(json: &str) -> BTreeMap<String, Said> {
    let mut connections: BTreeMap<String, Said> = BTreeMap::new();
    for line in json.lines() {
        let event: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let conn = event["conn"].as_str().expect("a connection").to_owned();
        connections.entry(conn).or_default().take(&event);
    }
    let mut paths = BTreeMap::new();
    for (conn, said) in connections {
        let path = said.path.clone().unwrap_or(conn);
        let other = paths.insert(path, said);
        assert!(other.is_none(), "twice: {other:?}");
    }
    paths
}

/// What is said of a connection.
#[derive(Debug, Default)]
pub struct Said {
    path: Option<String>,
    compressed: bool,
    /// By side.
    pub frames: [Vec<String>; 2],
    pub messages: [Vec<String>; 2],
    pub broken: Vec<String>,
    /// Gaps, handshakes that failed, counts that are wrong, the ending.
    pub rest: Vec<String>,
}

impl Said {
    fn take(&mut self, event: &Value) {
        let text = |name: &str| event[name].as_str().unwrap_or_default();
        let direction = text("dir");
        let side = usize::from(direction != DIRECTIONS[0]);
        match text("event") {
            "handshake" => {
                self.compressed = event["extensions"].is_string();
                self.path = event["path"].as_str().map(str::to_owned);
                if text("outcome") != "accepted" {
                    self.rest.push(format!("handshake {}", text("outcome")));
                }
            }
            "frame" => {
                let index = self.frames[side].len() as u64 + 1;
                if event["index"] != index {
                    let wrong = format!("{direction} index {} at {index}", event["index"]);
                    self.rest.push(wrong);
                }
                self.frames[side].push(self.frame(event));
            }
            "message" => {
                let inflated = match event["inflated_len"].as_u64() {
                    Some(len) => format!(", inflated {len}"),
                    None => String::new(),
                };
                self.messages[side].push(format!(
                    "{direction} message {} of {} bytes in {} frames, compressed {}{inflated}",
                    text("type"),
                    event["len"],
                    event["frames"],
                    event["compressed"]
                ));
            }
            "violation" => {
                let broken = format!("{direction} {} {}", text("rule"), event["count"]);
                self.broken.push(broken);
            }
            "gap" => self.rest.push("gap".to_owned()),
            "close" => {
                for (direction, frames) in DIRECTIONS.iter().zip(&self.frames) {
                    let counts = event["frames"][direction].as_object();
                    let counts = counts.into_iter().flat_map(|counts| counts.values());
                    let sum: u64 = counts.filter_map(Value::as_u64).sum();
                    if sum != frames.len() as u64 {
                        self.rest.push(format!("{direction} frames {sum} in all"));
                    }
                }
                self.rest.push(format!(
                    "{} {} {:?} by {}",
                    text("kind"),
                    event["code"],
                    text("reason"),
                    text("initiator"),
                ));
            }
            _ => {}
        }
    }

    fn frame(&self, event: &Value) -> String {
        let text = |name: &str| event[name].as_str().unwrap_or_default();
        let len = event["len"].as_u64().unwrap_or(u64::MAX);
        let bytes = match (&event["payload"], &event["payload_hex"]) {
            (Value::String(text), _) => text.as_bytes().to_vec(),
            (_, Value::String(hex)) => (0..hex.len() / 2)
                .filter_map(|i| u8::from_str_radix(hex.get(2 * i..2 * i + 2)?, 16).ok())
                .collect(),
            _ => Vec::new(),
        };
        let shown = if len as usize > PREVIEW {
            String::new()
        } else {
            payload(&bytes, self.compressed)
        };
        format!(
            "{} {} fin {} rsv {} masked {} len {len}{}{shown}",
            text("dir"),
            text("opcode"),
            event["fin"],
            event["rsv"],
            event["masked"],
            if event["rtt_ns"].is_u64() {
                " answers"
            } else {
                ""
            },
        )
    }

    /// All of it, in the order of [`super::run::Run::expected`].
    pub fn lines(&self) -> Vec<String> {
        let mut broken = self.broken.clone();
        broken.sort();
        [
            self.frames.concat(),
            self.messages.concat(),
            broken,
            self.rest.clone(),
        ]
        .concat()
    }
}
