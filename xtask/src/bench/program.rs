//! Programs in the kernel: which are there, and what they cost.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::namespace::Side;
use crate::{process, setup};

/// Switches the kernel's statistics of programs.
const STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// The program of wstap that sees what arrives.
pub const OURS: &str = "wstap_eth_in";
/// The one that only returns.
const EMPTY: &str = "wstap_nothing";

/// Returns `TC_ACT_UNSPEC`, -1: the packet goes on to whatever comes next.
const EMPTY_SOURCE: &str = r#"#![no_std]
#[unsafe(no_mangle)]
#[unsafe(link_section = "classifier")]
pub extern "C" fn wstap_nothing(_: *const u8) -> i32 {
    -1
}
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
pub static LICENSE: [u8; 4] = *b"GPL\0";
"#;

/// What a program has done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Runs {
    pub packets: u64,
    pub nanoseconds: u64,
}

impl Runs {
    /// Since a program was loaded, as far as the statistics were on.
    pub fn of(program: u64) -> Result<Self> {
        let shown = bpftool(&["prog", "show", "id", &program.to_string()])?;
        // Without a run there is nothing to show.
        let field = |name: &str| shown[name].as_u64().unwrap_or(0);
        Ok(Self {
            packets: field("run_cnt"),
            nanoseconds: field("run_time_ns"),
        })
    }

    /// What was done since `before`.
    pub fn since(self, before: Self) -> Self {
        Self {
            packets: self.packets.saturating_sub(before.packets),
            nanoseconds: self.nanoseconds.saturating_sub(before.nanoseconds),
        }
    }

    /// Nanoseconds a packet; no number where there was none.
    pub fn mean(self) -> f64 {
        self.nanoseconds as f64 / self.packets as f64
    }
}

/// Runs bpftool and reads its JSON.
fn bpftool(args: &[&str]) -> Result<Value> {
    let said = process::capture(Command::new("bpftool").arg("-j").args(args))?;
    serde_json::from_str(&said).context("cannot read what bpftool says")
}

/// What the kernel has loaded of an object: `prog` or `map`.
fn loaded(object: &str) -> Result<Vec<Value>> {
    match bpftool(&[object, "show"])? {
        Value::Array(all) => Ok(all),
        _ => Ok(Vec::new()),
    }
}

/// Numbers of all that the kernel has loaded of an object.
pub fn numbers(object: &str) -> Result<Vec<u64>> {
    let all = loaded(object)?;
    Ok(all.iter().filter_map(|one| one["id"].as_u64()).collect())
}

/// Numbers of the programs of this name.
fn named(name: &str) -> Result<Vec<u64>> {
    let all = loaded("prog")?;
    let named = all.iter().filter(|one| one["name"] == name);
    Ok(named.filter_map(|one| one["id"].as_u64()).collect())
}

/// The number of the program of this name that a filter of a side's device has.
pub fn attached(side: &Side, name: &str) -> Result<Option<u64>> {
    let mut command = side.command("bpftool");
    command.args(["-j", "net", "show", "dev", &side.device]);
    let said = process::capture(&mut command)?;
    let shown: Value = serde_json::from_str(&said).context("cannot read what bpftool says")?;
    Ok(find(&shown, name))
}

/// Looks for the program wherever bpftool has it: below `tc`, whether by TCX or clsact.
fn find(shown: &Value, name: &str) -> Option<u64> {
    match shown {
        Value::Array(all) => all.iter().find_map(|one| find(one, name)),
        Value::Object(fields) => {
            let number = fields.get("prog_id").or_else(|| fields.get("id"));
            // A filter's name is that of the program, or of the object's section with it.
            let named = fields.get("name").and_then(Value::as_str);
            if named.is_some_and(|named| named.contains(name)) {
                return number?.as_u64();
            }
            fields.values().find_map(|one| find(one, name))
        }
        _ => None,
    }
}

/// The kernel's statistics of programs, on; put back as they were.
pub struct Statistics {
    before: String,
}

impl Statistics {
    pub fn on() -> Result<Self> {
        let before = fs::read_to_string(STATISTICS)
            .with_context(|| format!("cannot read {STATISTICS}, which Linux 5.1 and later have"))?;
        fs::write(STATISTICS, "1").with_context(|| format!("cannot write {STATISTICS}"))?;
        Ok(Self { before })
    }

    /// Switches them on again, where somebody else has switched them off meanwhile.
    pub fn insist(&self) -> Result<()> {
        fs::write(STATISTICS, "1").with_context(|| format!("cannot write {STATISTICS}"))
    }
}

impl Drop for Statistics {
    fn drop(&mut self) {
        if let Err(error) = fs::write(STATISTICS, self.before.trim()) {
            eprintln!("{STATISTICS} stays at 1: {error}");
        }
    }
}

/// The object of the program that only returns.
pub fn empty_object() -> Result<PathBuf> {
    setup::link_probe("empty", EMPTY_SOURCE, &[EMPTY, "LICENSE"])
}

/// The program that only returns, at ingress of a side's device and behind whatever TCX has there, which
/// lets packets go on: both see the same ones.
pub struct Empty<'a> {
    side: &'a Side,
    pub program: u64,
}

impl<'a> Empty<'a> {
    pub fn attach(side: &'a Side, object: &Path) -> Result<Self> {
        let before = named(EMPTY)?;
        side.tc("qdisc", "add", &["clsact"])?;
        // From here on the qdisc goes with it, and the filter with the qdisc.
        let mut filter = Self { side, program: 0 };
        let object = object.to_str().context("the object's path is not UTF-8")?;
        side.tc(
            "filter",
            "add",
            &["ingress", "bpf", "da", "obj", object, "sec", "classifier"],
        )?;
        let new = named(EMPTY)?;
        let new = new.iter().find(|program| !before.contains(program));
        filter.program = *new.context("the empty program is not there after it was attached")?;
        Ok(filter)
    }
}

impl Drop for Empty<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.side.tc("qdisc", "del", &["clsact"]) {
            eprintln!("{error:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_where_it_is_attached() {
        let said = r#"[{"xdp":[],"tc":[{"devname":"eth0","ifindex":2,"kind":"tcx/ingress",
            "name":"wstap_eth_in","prog_id":41,"prog_flags":[],"link_id":5},
            {"devname":"eth0","ifindex":2,"kind":"clsact/egress","name":"wstap_eth_out:[42]",
            "id":42}],"flow_dissector":[]}]"#;
        let shown = serde_json::from_str(said).unwrap();
        assert_eq!(find(&shown, "wstap_eth_in"), Some(41));
        assert_eq!(find(&shown, "wstap_eth_out"), Some(42));
        assert_eq!(find(&shown, "another"), None);
    }
}
