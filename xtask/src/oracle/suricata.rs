//! What Suricata says: version 8 and later dissect WebSockets.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Dissection, Frame};
use crate::{process, workspace};

/// The first version that is asked.
const OLDEST: u32 = 8;

/// Nothing but frames, and HTTP to find them.
pub const CONFIGURATION: &str = "%YAML 1.1
---
outputs:
  - eve-log:
      enabled: yes
      filetype: regular
      filename: eve.json
      types:
        - websocket
app-layer:
  protocols:
    http:
      enabled: yes
    websocket:
      enabled: yes
";

/// Its version, or why it is not asked.
pub fn version() -> Result<Result<String, String>> {
    if process::find("suricata").is_none() {
        return Ok(Err("it is not installed".to_owned()));
    }
    let said = process::capture(Command::new("suricata").arg("-V"))?;
    let line = said.lines().next().unwrap_or_default().to_owned();
    Ok(if major(&line).is_some_and(|major| major >= OLDEST) {
        Ok(line)
    } else {
        Err(format!("{line} knows no WebSocket, {OLDEST} does"))
    })
}

/// Of `This is Suricata version 8.0.1 RELEASE`.
fn major(line: &str) -> Option<u32> {
    let (_, version) = line.split_once("version ")?;
    version.split('.').next()?.parse().ok()
}

/// Lets it read a capture, and reads its log.
pub fn dissect(capture: &Path, ours: &Dissection) -> Result<Dissection> {
    let folder = workspace::target().join("xtask/suricata");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let configuration = folder.join("suricata.yaml");
    let log = folder.join("eve.json");
    fs::write(&configuration, CONFIGURATION)?;
    if log.exists() {
        fs::remove_file(&log)?;
    }
    let mut command = Command::new("suricata");
    command.arg("-r").arg(capture).arg("-l").arg(&folder);
    command.arg("-c").arg(&configuration);
    process::capture(command.args(["-S", "/dev/null", "-k", "none", "--runmode", "single"]))?;
    let lines =
        fs::read_to_string(&log).with_context(|| format!("suricata wrote no {}", log.display()))?;
    events(&lines, ours)
}

/// Collects frames from `eve.json`. A line's addresses are those of the packet that made Suricata
/// write it, so that the mask tells the direction: an unmasked client cannot be compared.
pub fn events(lines: &str, ours: &Dissection) -> Result<Dissection> {
    let mut dissection = Dissection::new();
    for line in lines.lines() {
        let event: Value = serde_json::from_str(line).context("cannot read a line of eve.json")?;
        if event["event_type"] != "websocket" {
            continue;
        }
        let end = |which: &str| {
            let ip = event[format!("{which}_ip")].as_str().unwrap_or_default();
            let port = &event[format!("{which}_port")];
            if ip.contains(':') {
                format!("[{ip}]:{port}")
            } else {
                format!("{ip}:{port}")
            }
        };
        let (one, other) = (end("src"), end("dest"));
        let ends = if ours.contains_key(&(one.clone(), other.clone())) {
            (one, other)
        } else {
            (other, one)
        };
        let said = &event["websocket"];
        let mut frame = Frame::new();
        let opcode = said["opcode"].as_str().unwrap_or_default();
        let opcode = match (opcode, opcode.strip_prefix("unknown-")) {
            ("connection_close", _) => "close".to_owned(),
            (_, Some(bits)) => super::opcode(bits.parse().unwrap_or(u64::MAX)),
            (known, None) => known.to_owned(),
        };
        frame.insert("opcode", opcode);
        frame.insert("fin", said["fin"].to_string());
        let mask = said["mask"].as_u64();
        frame.insert("masked", mask.is_some().to_string());
        frame.extend(mask.map(|mask| ("mask", format!("{mask:08x}"))));
        let direction = usize::from(mask.is_none());
        dissection.entry(ends).or_default().frames[direction].push(frame);
    }
    Ok(dissection)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(major("This is Suricata version 8.0.1 RELEASE"), Some(8));
        assert_eq!(major("something else"), None);
    }
}
