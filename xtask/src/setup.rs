//! `cargo xtask setup`: what the build of the kernel program needs, and what the tests need.
//!
//! The result is a rustup toolchain named [`toolchain::NAME`], whose compiler can build `core` for a
//! BPF target, and a `bpf-linker` on `PATH` that reads what this compiler writes. `agent/build.rs`
//! uses these two and looks for nothing else.

mod apt;
mod deployment;
mod linker;
mod node;
mod peers;
mod toolchain;

pub use deployment::Tools as DeploymentTools;
pub use linker::link_probe;
pub use toolchain::{Compiler, NAME as TOOLCHAIN};

use std::time::Instant;

use anyhow::Result;

/// Says on standard error what is being done.
fn say(what: impl AsRef<str>) {
    eprintln!("setup: {}", what.as_ref());
}

/// Sets up, and says what came of it.
pub fn command(tests: bool, kernels: bool) -> Result<()> {
    let begun = Instant::now();
    ensure()?;
    if tests {
        ensure_tests()?;
    }
    if kernels {
        ensure_kernels()?;
    }
    say(format!("ready ({:.1} s)", begun.elapsed().as_secs_f64()));
    Ok(())
}

/// What the build of the kernel program needs.
pub fn ensure() -> Result<Compiler> {
    let compiler = toolchain::ensure()?;
    say(format!(
        "toolchain `{}`: {} with LLVM {}",
        toolchain::NAME,
        compiler.release,
        compiler.llvm
    ));
    let linker = linker::ensure(&compiler)?;
    say(format!("bpf-linker: {}", linker.display()));
    Ok(compiler)
}

/// What the tests need besides.
pub fn ensure_tests() -> Result<()> {
    apt::ensure(peers::PACKAGES, "the tests")?;
    let python = peers::ensure()?;
    say(format!("peers for the tests: {}", python.display()));
    let modules = node::ensure()?;
    say(format!("peers on Node: {}", modules.display()));
    ensure_deployment()?;
    Ok(())
}

/// What the checks of what is deployed need.
pub fn ensure_deployment() -> Result<DeploymentTools> {
    let tools = deployment::ensure()?;
    say(format!("Helm and schemas: {}", tools.python.display()));
    Ok(tools)
}

/// An emulator, what a kernel is booted with, and what its packages are unpacked with.
const KERNEL_PACKAGES: &[&str] = &[
    "qemu-system-x86",
    "busybox-static",
    "iproute2",
    "kmod",
    "xz-utils",
    "zstd",
    "debian-archive-keyring",
];

/// What booting other kernels needs.
pub fn ensure_kernels() -> Result<()> {
    apt::ensure(KERNEL_PACKAGES, "other kernels")
}
