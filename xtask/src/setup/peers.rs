//! What the tests run besides wstap: tools of the system, and WebSocket peers that are not Rust.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::say;
use crate::{process, workspace};

/// Namespaces, NAT, the kernel's own view of programs, captures, an independent dissector,
/// `promtool` and a Prometheus that scrapes, proxies in between and their certificates, a browser, containers,
/// and what makes the Python
/// peers.
pub const PACKAGES: &[&str] = &[
    "iproute2",
    "nftables",
    "bpftool",
    "tcpdump",
    "tshark",
    "prometheus",
    "nginx",
    "haproxy",
    "openssl",
    "chromium",
    "runc",
    "python3-venv",
];

/// Pinned, so that a failing test means a change of ours.
const REQUIREMENTS: &[&str] = &["websockets==15.0.1"];

const LIMIT: Duration = Duration::from_secs(300);

/// The Python with the peers' packages; makes it where it is not there.
pub fn ensure() -> Result<PathBuf> {
    environment(&workspace::target().join("peers"), REQUIREMENTS)
}

/// The Python in the folder `home` that has these packages and no others; makes it where it is not there.
pub fn environment(home: &Path, requirements: &[&str]) -> Result<PathBuf> {
    let python = home.join("bin/python");
    let stamp = home.join("requirements.txt");
    let wanted = requirements.join("\n");
    if python.exists() && fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        return Ok(python);
    }
    say(format!("installing with pip: {}", requirements.join(" ")));
    let mut venv = Command::new("python3");
    process::run(venv.args(["-m", "venv", "--clear"]).arg(home)).context(
        "cannot make a Python environment for the tests; Debian's package is python3-venv",
    )?;
    let mut pip = process::limited(LIMIT, &python);
    pip.args(["-m", "pip", "install", "--quiet", "--no-input"])
        .arg("--disable-pip-version-check")
        .args(requirements);
    process::run(&mut pip).with_context(|| {
        format!(
            "cannot install Python packages of the tests; by hand: `{} -m pip install {}`",
            python.display(),
            requirements.join(" ")
        )
    })?;
    fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))?;
    Ok(python)
}
