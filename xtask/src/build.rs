//! `cargo xtask build`: everything, the kernel program included.

use anyhow::{Context, Result};

use crate::{process, setup};

/// Tells `agent/build.rs` that a stub in place of the kernel program will not do.
pub const REQUIRE_EBPF: (&str, &str) = ("WSTAP_EBPF", "require");
/// Tells it that a stub will do.
pub const SKIP_EBPF: (&str, &str) = ("WSTAP_EBPF", "skip");

/// Sets up and builds.
pub fn command(release: bool) -> Result<()> {
    setup::ensure()?;
    let mut cargo = process::cargo();
    cargo.env(REQUIRE_EBPF.0, REQUIRE_EBPF.1).arg("build");
    if release {
        cargo.arg("--release");
    }
    process::run(&mut cargo)
}

/// Sets up and builds the binary with optimisations.
pub fn release_binary() -> Result<()> {
    setup::ensure()?;
    let mut cargo = process::cargo();
    cargo
        .env(REQUIRE_EBPF.0, REQUIRE_EBPF.1)
        .args(["build", "--release", "--package", "wstap"]);
    process::run(&mut cargo).context("cannot build wstap")
}
