//! What tshark says: the one that is installed, or rows that were written before.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{Dissection, Ends, Frame, opcode};
use crate::process;

/// Its version, where it is installed.
pub fn version() -> Result<Option<String>> {
    if process::find("tshark").is_none() {
        return Ok(None);
    }
    let said = process::capture(Command::new("tshark").arg("--version"))?;
    Ok(Some(said.lines().next().unwrap_or_default().to_owned()))
}

/// Asks the tshark that is installed.
pub fn dissect(capture: &Path, ours: &Dissection) -> Result<Dissection> {
    let mut ports = answering(capture)?;
    // Where the capture does not show who answered.
    ports.extend(ours.keys().filter_map(|(_, server)| port(server)));
    let mut command = tshark(capture);
    command.args(["-Y", "websocket", "-T", "pdml"]);
    command.args(["-o", "tcp.reassemble_out_of_order:TRUE"]);
    for port in ports {
        command.arg("-d").arg(format!("tcp.port=={port},http"));
    }
    pdml(&process::capture(&mut command)?, ours)
}

fn tshark(capture: &Path) -> Command {
    let mut command = Command::new("tshark");
    command.arg("-n").arg("-r").arg(capture);
    command
}

fn port(end: &str) -> Option<String> {
    end.rsplit_once(':').map(|(_, port)| port.to_owned())
}

/// Ports that accepted a connection: tshark looks for HTTP only on some that it knows.
fn answering(capture: &Path) -> Result<BTreeSet<String>> {
    let mut command = tshark(capture);
    command.args(["-Y", "tcp.flags.syn==1 && tcp.flags.ack==1"]);
    command.args(["-T", "fields", "-e", "tcp.srcport"]);
    let said = process::capture(&mut command)?;
    Ok(said
        .lines()
        .map(|line| line.trim().to_owned())
        .filter(|port| !port.is_empty())
        .collect())
}

/// Collects frames from tshark's XML. It escapes what begins an element, but not line breaks.
pub fn pdml(xml: &str, ours: &Dissection) -> Result<Dissection> {
    let mut dissection = Dissection::new();
    let mut packet = BTreeMap::new();
    let mut frame: Option<BTreeMap<String, Shown>> = None;
    for element in xml.split('<') {
        if element.starts_with("packet>") {
            packet.clear();
        } else if element.starts_with("proto ") {
            frame = (attribute(element, "name") == Some("websocket")).then(BTreeMap::new);
        } else if element.starts_with("/proto>") {
            if let Some(shown) = frame.take() {
                let (ends, direction) = place(&packet, &shown, ours)?;
                let connection = dissection.entry(ends).or_default();
                connection.frames[direction].push(dissected(&shown)?);
            }
        } else if element.starts_with("field ") {
            let Some(name) = attribute(element, "name") else {
                continue;
            };
            let fields = frame.as_mut().unwrap_or(&mut packet);
            // The first counts: those of an inner packet, or of a part, come later.
            fields.entry(name.to_owned()).or_insert_with(|| Shown {
                show: attribute(element, "show").unwrap_or_default().to_owned(),
                value: attribute(element, "value").unwrap_or_default().to_owned(),
            });
        }
    }
    Ok(dissection)
}

/// A field: as a person reads it, and its bytes in hex.
#[derive(Clone, Default)]
struct Shown {
    show: String,
    value: String,
}

fn attribute<'a>(element: &'a str, name: &str) -> Option<&'a str> {
    let mut rest = element;
    loop {
        let (before, after) = rest.split_once("=\"")?;
        let (value, behind) = after.split_once('"')?;
        if before.ends_with(name) && before.trim_end_matches(name).ends_with(' ') {
            return Some(value);
        }
        rest = behind;
    }
}

/// Whose frame it is. Who is the client, wstap says where it knows the connection: the mask bit is
/// part of what is compared.
fn place(
    packet: &BTreeMap<String, Shown>,
    frame: &BTreeMap<String, Shown>,
    ours: &Dissection,
) -> Result<(Ends, usize)> {
    let end = |which: &str| -> Result<String> {
        let ip = match packet.get(&format!("ip.{which}")) {
            Some(ip) => ip.show.clone(),
            None => {
                let ip = packet.get(&format!("ipv6.{which}"));
                format!("[{}]", ip.context("a packet without an address")?.show)
            }
        };
        let port = packet.get(&format!("tcp.{which}port"));
        Ok(format!(
            "{ip}:{}",
            port.context("a packet without a port")?.show
        ))
    };
    let sent = (end("src")?, end("dst")?);
    let back = (sent.1.clone(), sent.0.clone());
    Ok(if ours.contains_key(&sent) {
        (sent, 0)
    } else if ours.contains_key(&back) {
        (back, 1)
    } else if frame
        .get("websocket.mask")
        .is_some_and(|mask| truth(&mask.show) == Some(true))
    {
        (sent, 0)
    } else {
        (back, 1)
    })
}

/// Of tshark 4.0, and of 4.2 and later.
fn truth(show: &str) -> Option<bool> {
    match show {
        "1" | "True" => Some(true),
        "0" | "False" => Some(false),
        _ => None,
    }
}

fn number(show: &str) -> Option<u64> {
    match show.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => show.parse().ok(),
    }
}

fn dissected(shown: &BTreeMap<String, Shown>) -> Result<Frame> {
    let field = |name: &str| shown.get(&format!("websocket.{name}"));
    let numeric = |name: &str| field(name).and_then(|field| number(&field.show));
    let flag = |name: &str| field(name).and_then(|field| truth(&field.show));
    let len = ["_ext_64", "_ext_16", ""]
        .into_iter()
        .find_map(|form| numeric(&format!("payload_length{form}")));
    let (Some(bits), Some(len)) = (numeric("opcode"), len) else {
        bail!("a frame without an opcode or a length");
    };
    let mut frame = Frame::new();
    frame.insert("opcode", opcode(bits));
    frame.insert("len", len.to_string());
    frame.extend(flag("fin").map(|fin| ("fin", fin.to_string())));
    frame.extend(numeric("rsv").map(|rsv| ("rsv", rsv.to_string())));
    frame.extend(flag("mask").map(|masked| ("masked", masked.to_string())));
    frame.extend(field("masking_key").map(|key| ("mask", key.value.clone())));
    if bits == 8 {
        let code = numeric("payload.close.status_code");
        let code = code.map_or("none".to_owned(), |code| code.to_string());
        frame.insert("code", code);
        let reason = field("payload.close.reason").map(|reason| bytes(&reason.value));
        let reason = reason.unwrap_or_default();
        frame.insert("reason", String::from_utf8_lossy(&reason).into_owned());
    }
    let text = ["text", "continue", "ping", "pong"]
        .into_iter()
        .find_map(|kind| field(&format!("payload.{kind}")));
    if let Some(text) = text {
        let size = text.value.len() as u64 / 2;
        let what = if field("pmc").is_some_and(|pmc| truth(&pmc.show) == Some(true)) {
            frame.insert("inflated_len", size.to_string());
            Some("inflated")
        } else if size == len {
            Some("payload")
        } else {
            // A message that was put together is shown with its last frame.
            Some("message")
        };
        frame.extend(what.map(|what| (what, text.value.clone())));
    }
    Ok(frame)
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks_exact(2);
    digits
        .filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

/// Rows that were written before: an object a frame. They number streams; these are taken for the
/// connections in the order in which both have frames.
pub fn rows(folder: &Path, capture: &Path, ours: &Dissection) -> Result<Dissection> {
    let name = capture.file_name().unwrap_or_default().to_string_lossy();
    let path = folder.join(format!("{name}.jsonl"));
    let lines = fs::read_to_string(&path)
        .with_context(|| format!("cannot read the rows {}", path.display()))?;
    let mut streams: BTreeMap<u64, [Vec<Frame>; 2]> = BTreeMap::new();
    for line in lines.lines() {
        let row: Value = serde_json::from_str(line).context("cannot read a row")?;
        let mut frame = Frame::new();
        frame.insert("opcode", opcode(row["opcode"].as_u64().unwrap_or(u64::MAX)));
        frame.insert("len", row["len"].to_string());
        frame.insert("fin", row["fin"].to_string());
        frame.insert("masked", row["mask"].to_string());
        let rsv = row["rsv"].as_str().and_then(number);
        frame.extend(rsv.map(|rsv| ("rsv", rsv.to_string())));
        if row["opcode"] == 8 {
            let code = row["close"].as_str().unwrap_or("none");
            frame.insert("code", code.to_owned());
        }
        let direction = usize::from(row["dir"] == "s2c");
        let stream = row["stream"].as_u64().unwrap_or(u64::MAX);
        streams.entry(stream).or_default()[direction].push(frame);
    }
    let mut left: Vec<_> = ours
        .iter()
        .filter(|(_, c)| c.frames != <[Vec<Frame>; 2]>::default())
        .collect();
    // tshark finds no frames without a handshake.
    left.sort_by_key(|(_, c)| c.midstream);
    let mut dissection = Dissection::new();
    for (stream, frames) in streams {
        // With one stream and one connection there is no doubt; with more, the numbers decide.
        let numbers = |frames: &[Vec<Frame>; 2]| [frames[0].len(), frames[1].len()];
        let at = left
            .iter()
            .position(|(_, c)| numbers(&c.frames) == numbers(&frames));
        let ends = match at.or((!left.is_empty()).then_some(0)) {
            Some(at) => left.remove(at).0.clone(),
            None => (format!("stream {stream}"), String::new()),
        };
        dissection.entry(ends).or_default().frames = frames;
    }
    Ok(dissection)
}
