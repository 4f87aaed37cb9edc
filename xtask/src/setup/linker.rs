//! `bpf-linker`: links the compiler's LLVM bitcode into a BPF object.
//!
//! Bitcode is readable for the LLVM that wrote it and for later ones, so the linker's must be no
//! older than the compiler's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::toolchain::{self, Compiler};
use super::{apt, say};
use crate::{process, workspace};

const VERSION: &str = "0.13.0";
/// Major versions of LLVM that this `bpf-linker` can be built against.
const SUPPORTED: std::ops::RangeInclusive<u32> = 21..=23;

const LIMIT: Duration = Duration::from_secs(1800);

/// A program that does nothing, to see compiler and linker work together.
const PROBE: &str = r#"#![no_std]
#[unsafe(no_mangle)]
#[unsafe(link_section = "classifier")]
pub extern "C" fn probe(_: *const u8) -> i32 {
    -1
}
"#;

/// Finds or installs a `bpf-linker` that links what the compiler writes.
pub fn ensure(compiler: &Compiler) -> Result<PathBuf> {
    if let Some(path) = process::find("bpf-linker") {
        match works(&path, compiler) {
            Ok(()) => return Ok(path),
            Err(error) => say(format!("{} has to be replaced: {error:#}", path.display())),
        }
    }
    install(compiler)?;
    let Some(path) = process::find("bpf-linker") else {
        bail!("bpf-linker was installed, and its folder (~/.cargo/bin) is not on PATH: add it");
    };
    works(&path, compiler)
        .with_context(|| format!("{} was installed and does not work", path.display()))?;
    Ok(path)
}

fn works(path: &Path, compiler: &Compiler) -> Result<()> {
    if let Some(llvm) = llvm_of(path)
        && llvm < compiler.llvm
    {
        bail!(
            "it is linked against LLVM {llvm}, older than the compiler's {}",
            compiler.llvm
        );
    }
    link_probe("probe", PROBE, &["probe"]).map(drop)
}

/// Major version of the LLVM library that a program loads; `None` where LLVM is part of the
/// program itself, or cannot be told.
fn llvm_of(path: &Path) -> Option<u32> {
    let libraries = process::capture(Command::new("ldd").arg(path)).ok()?;
    llvm_in(&libraries)
}

/// `libLLVM.so.22.1` and, before LLVM 18, `libLLVM-17.so.1`.
fn llvm_in(libraries: &str) -> Option<u32> {
    let name = libraries.split("libLLVM").nth(1)?;
    let digits = name.trim_start_matches("-").trim_start_matches(".so.");
    let end = digits.find(|c: char| !c.is_ascii_digit());
    digits.get(..end.unwrap_or(digits.len()))?.parse().ok()
}

/// Compiles a source file without dependencies and links it into a BPF object with the `exported`
/// functions and statics; returns the object's path.
///
/// The compiler writes bitcode for this machine, for which it has a `core`; the linker turns it
/// into BPF. That takes a fraction of a second, where a `core` for BPF takes half a minute.
pub fn link_probe(name: &str, source: &str, exported: &[&str]) -> Result<PathBuf> {
    let dir = workspace::target().join("xtask").join(name);
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let file = |extension: &str| dir.join(name).with_extension(extension);
    let (source_file, bitcode, object) = (file("rs"), file("bc"), file("o"));
    fs::write(&source_file, source)
        .with_context(|| format!("cannot write {}", source_file.display()))?;

    let mut rustc = Command::new("rustup");
    rustc
        .env("RUSTUP_AUTO_INSTALL", "0")
        .env("RUSTC_BOOTSTRAP", "1")
        .args(["run", toolchain::NAME, "rustc", "-Zunstable-options"])
        .args(["--edition=2024", "--crate-type=lib", "--emit=llvm-bc"])
        .args(["-Copt-level=2", "-Cpanic=abort", "-Ccodegen-units=1", "-o"])
        .args([&bitcode, &source_file]);
    process::capture(&mut rustc).context("the compiler does not compile a program of one line")?;

    let mut linker = Command::new("bpf-linker");
    linker.args(["--target=bpfel-unknown-none", "--cpu=v2", "-O2"]);
    for symbol in exported {
        linker.args(["--export", symbol]);
    }
    process::capture(linker.arg("-o").args([&object, &bitcode]))
        .context("it does not link what the compiler writes")?;
    Ok(object)
}

fn prefix(llvm: u32) -> PathBuf {
    PathBuf::from(format!("/usr/lib/llvm-{llvm}"))
}

/// Whether LLVM can be linked against: its library is there, and not only its run-time part.
fn developed(llvm: u32) -> bool {
    prefix(llvm).join("lib/libLLVM.so").exists()
}

fn obtainable(llvm: u32) -> bool {
    developed(llvm) || (apt::present() && apt::candidate(&format!("llvm-{llvm}-dev")).is_some())
}

/// The newest LLVM that `bpf-linker` can be linked against on this machine. Without Debian's
/// packages that is for its owner to know, and nothing is ruled out.
pub fn newest_llvm() -> Result<u32> {
    if !apt::present() {
        return Ok(*SUPPORTED.end());
    }
    let newest = || SUPPORTED.rev().find(|llvm| obtainable(*llvm));
    if let Some(llvm) = newest() {
        return Ok(llvm);
    }
    apt::update()?;
    newest().with_context(|| {
        format!(
            "none of the packages llvm-{}-dev to llvm-{}-dev is known; `apt-get update` as root \
             brings the package lists up to date",
            SUPPORTED.start(),
            SUPPORTED.end()
        )
    })
}

/// The oldest LLVM that will do.
fn choose(compiler: &Compiler) -> Option<u32> {
    let mut fit = SUPPORTED.filter(|llvm| *llvm >= compiler.llvm);
    fit.find(|llvm| obtainable(*llvm))
}

fn install(compiler: &Compiler) -> Result<()> {
    if !apt::present() && !SUPPORTED.clone().any(developed) {
        let llvm = compiler.llvm.max(*SUPPORTED.start());
        bail!(
            "bpf-linker is missing. This is not a Debian system, so install LLVM {llvm}'s \
             development files (and those of zlib and zstd) with its package manager, then \
             `LLVM_PREFIX=$(llvm-config-{llvm} --prefix) cargo install bpf-linker --version \
             {VERSION} --locked --no-default-features --features llvm-{llvm}`"
        );
    }
    let mut llvm = choose(compiler);
    if llvm.is_none() && apt::present() {
        apt::update()?;
        llvm = choose(compiler);
    }
    let Some(llvm) = llvm else {
        bail!(
            "bpf-linker needs LLVM {} or later, up to {}, and there is no package llvm-{}-dev",
            compiler.llvm,
            SUPPORTED.end(),
            compiler.llvm
        );
    };
    let (dev, polly) = (format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev"));
    if apt::present() {
        let packages = [&dev, &polly, "zlib1g-dev", "libzstd-dev"];
        apt::ensure(&packages, "bpf-linker")?;
    }
    say(format!(
        "building bpf-linker {VERSION} against LLVM {llvm}, which takes a minute or two"
    ));
    let mut cargo = process::limited(LIMIT, "cargo");
    cargo
        .env("LLVM_PREFIX", prefix(llvm))
        .args(["install", "--quiet", "bpf-linker", "--version", VERSION])
        .args(["--locked", "--force", "--no-default-features", "--features"])
        .arg(format!("llvm-{llvm}"));
    process::run(&mut cargo).context("cannot build bpf-linker")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_which_llvm_is_loaded() {
        let new = "\tlibLLVM.so.22.1 => /usr/lib/llvm-22/lib/libLLVM.so.22.1 (0x7f)\n";
        let old = "\tlibLLVM-17.so.1 => /lib/libLLVM-17.so.1 (0x7f)\n";
        assert_eq!(llvm_in(new), Some(22));
        assert_eq!(llvm_in(old), Some(17));
        assert_eq!(llvm_in("\tlibc.so.6 => /lib/libc.so.6 (0x7f)\n"), None);
    }
}
