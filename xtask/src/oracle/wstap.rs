//! What `wstap read` says.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{DIRECTIONS, Dissection, Frame, hex};
use crate::process;

/// More than any payload of a capture that is compared.
const PAYLOAD: &str = "--payload=16M";

pub fn dissect(wstap: &Path, capture: &Path) -> Result<Dissection> {
    let mut command = Command::new(wstap);
    command.args(["read", "-o", "json", PAYLOAD]);
    for event in ["handshake", "frame", "message"] {
        command.arg(format!("--event={event}"));
    }
    events(&process::capture(command.arg(capture))?)
}

/// Collects frames from events, a line each.
pub fn events(lines: &str) -> Result<Dissection> {
    let mut dissection = Dissection::new();
    for line in lines.lines() {
        let event: Value = serde_json::from_str(line).context("cannot read an event")?;
        let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
        let ends = (text("client"), text("server"));
        let direction = DIRECTIONS.iter().position(|name| *name == event["dir"]);
        match event["event"].as_str() {
            // A refused attempt has no frames and is nothing to a dissector of frames.
            Some("handshake")
                if matches!(
                    event["outcome"].as_str(),
                    Some("accepted" | "invalid" | "midstream")
                ) =>
            {
                let connection = dissection.entry(ends).or_default();
                connection.midstream |= event["outcome"] == "midstream";
            }
            Some("frame") => {
                let connection = dissection.entry(ends).or_default();
                if let Some(direction) = direction {
                    connection.frames[direction].push(frame(&event));
                }
            }
            Some("message") => {
                let Some(direction) = direction else { continue };
                let frames = &mut dissection.entry(ends).or_default().frames[direction];
                conclude(frames, &event);
            }
            _ => {}
        }
    }
    Ok(dissection)
}

fn frame(event: &Value) -> Frame {
    let mut frame = Frame::new();
    for name in [
        "ts", "opcode", "mask", "fin", "rsv", "masked", "len", "code",
    ] {
        match &event[name] {
            Value::Null => {}
            Value::String(text) => drop(frame.insert(name, text.clone())),
            other => drop(frame.insert(name, other.to_string())),
        }
    }
    if event["opcode"] == "close" {
        // Without a body the code is 1005, which no dissector invents.
        if event["len"].as_u64().is_some_and(|len| len < 2) {
            frame.insert("code", "none".to_owned());
        }
        let reason = event["reason"].as_str().unwrap_or_default();
        frame.insert("reason", reason.to_owned());
    }
    let payload = match (&event["payload"], &event["payload_hex"]) {
        _ if event["payload_truncated"] == true => None,
        (Value::String(text), _) => Some(hex(text.as_bytes())),
        (_, Value::String(hex)) => Some(hex.clone()),
        _ if event["len"] == 0 => Some(String::new()),
        _ => None,
    };
    frame.extend(payload.map(|payload| ("payload", payload)));
    frame
}

/// What a message says goes to the last of its frames, where a dissector puts it.
fn conclude(frames: &mut [Frame], event: &Value) {
    let is_data =
        |frame: &Frame| matches!(frame["opcode"].as_str(), "text" | "binary" | "continuation");
    let count = event["frames"].as_u64().unwrap_or(0);
    let count = usize::try_from(count).unwrap_or(0);
    let parts: Vec<_> = (0..frames.len())
        .rev()
        .filter(|&i| is_data(&frames[i]))
        .take(count)
        .collect();
    let whole: Option<String> = parts
        .iter()
        .rev()
        .map(|&i| frames[i].get("payload").map(String::as_str))
        .collect();
    let Some(&last) = parts.first() else { return };
    if event["compressed"] == true {
        // Their payload is inflated or is not: either way it is not what the judge has of a frame.
        for &part in &parts {
            frames[part].remove("payload");
        }
        if let Some(len) = event["inflated_len"].as_u64() {
            frames[last].insert("inflated_len", len.to_string());
            frames[last].extend(whole.map(|whole| ("inflated", whole)));
        }
    } else if let Some(whole) = whole {
        frames[last].insert("message", whole);
    }
}
