//! Debian's packages: which are there, and how those come that are not.

use std::collections::HashSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::say;
use crate::process;

const UPDATE_LIMIT: Duration = Duration::from_secs(180);
/// Some hundred megabytes over a slow line.
const INSTALL_LIMIT: Duration = Duration::from_secs(1200);

/// Whether the lists were brought up to date by this process.
static UPDATED: AtomicBool = AtomicBool::new(false);

/// Whether this is a system with Debian's package manager.
pub fn present() -> bool {
    process::find("apt-get").is_some() && process::find("dpkg-query").is_some()
}

/// Which of `packages` are not installed.
pub fn missing<'a>(packages: &[&'a str]) -> Vec<&'a str> {
    // Fails when it does not know one of them, and still lists the others.
    let output = Command::new("dpkg-query")
        .args(["-W", "-f=${Package} ${db:Status-Status}\\n"])
        .args(packages)
        .output();
    let listed = output.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).into_owned(),
    );
    let installed: HashSet<_> = listed
        .lines()
        .filter_map(|line| line.strip_suffix(" installed"))
        .collect();
    let absent = packages.iter().filter(|name| !installed.contains(*name));
    absent.copied().collect()
}

/// The version that would be installed, as far as the lists on this machine tell.
pub fn candidate(package: &str) -> Option<String> {
    let mut command = Command::new("apt-cache");
    command.env("LC_ALL", "C").args(["policy", package]);
    let listed = process::capture(&mut command).ok()?;
    let version = listed
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (version != "(none)").then(|| version.to_owned())
}

/// Brings the lists up to date, once in the life of this process. Only root can.
pub fn update() -> Result<()> {
    if !process::is_root() || UPDATED.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    say("updating the package lists");
    let mut command = process::limited(UPDATE_LIMIT, "apt-get");
    process::run(command.args(["-qq", "update"])).context("cannot update the package lists")
}

/// Installs those of `packages` that are not there, which `purpose` needs.
pub fn ensure(packages: &[&str], purpose: &str) -> Result<()> {
    if !present() {
        // Another distribution has other package names: what counts is there or turns out missing.
        say(format!(
            "not a Debian system: {purpose} needs what Debian calls {}",
            packages.join(" ")
        ));
        return Ok(());
    }
    let absent = missing(packages);
    if absent.is_empty() {
        return Ok(());
    }
    let names = absent.join(" ");
    if !process::is_root() {
        bail!(
            "{purpose} needs packages that are not installed; install them with \
             `sudo apt-get install --no-install-recommends {names}`"
        );
    }
    if absent.iter().any(|name| candidate(name).is_none()) {
        update()?;
    }
    say(format!("installing for {purpose}: {names}"));
    let mut done = install(&absent);
    if done.is_err() && !UPDATED.load(Ordering::Relaxed) {
        // Old lists name files that the mirror no longer has.
        update()?;
        done = install(&absent);
    }
    done.with_context(|| {
        format!("`apt-get install --no-install-recommends {names}`, for {purpose}, failed")
    })?;
    keep_stopped(&absent);
    Ok(())
}

/// Some packages begin to serve as soon as they are unpacked. `policy-rc.d` is how Debian is told
/// not to start anything; it is ours for the length of the installation and goes with it.
const INSTALL: &str = r#"
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi
apt-get -qq -y --no-install-recommends -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=120 install "$@"
"#;

fn install(packages: &[&str]) -> Result<()> {
    let mut command = process::limited(INSTALL_LIMIT, "sh");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["-ec", INSTALL, "apt-install"])
        .args(packages);
    // Hundreds of lines that nobody reads, unless it fails.
    let output = command
        .stdin(Stdio::null())
        .output()
        .context("cannot run apt-get")?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let tail: Vec<_> = said.lines().rev().take(5).collect();
    let tail: Vec<_> = tail.into_iter().rev().collect();
    bail!("{}: {}", output.status, tail.join("; "))
}

/// Keeps the services of packages that the tests only take a program from away from the next boot.
fn keep_stopped(installed: &[&str]) {
    if !Path::new("/run/systemd/system").is_dir() {
        return;
    }
    for service in ["prometheus", "nginx", "haproxy"] {
        if !installed.contains(&service) {
            continue;
        }
        let mut command = Command::new("systemctl");
        command.args(["--quiet", "disable", &format!("{service}.service")]);
        if let Err(error) = process::run(&mut command) {
            say(format!("the service {service} stays enabled: {error:#}"));
        }
    }
}
