//! Builds the eBPF object, or leaves an empty stub in its place.
//!
//! `WSTAP_EBPF=skip` leaves the stub, `WSTAP_EBPF=require` makes it an error where the object cannot
//! be built; without either the object is built where its toolchain is found, so that check, clippy
//! and the tests of the protocol core need stable Rust alone.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, anyhow, bail};
use aya_build::{Package, Toolchain};

/// Name of the package, and of the first object in `OUT_DIR`.
const OBJECT: &str = "wstap-ebpf";
/// Names of the objects in `OUT_DIR`, which are those of the eBPF crate's binaries.
const OBJECTS: [&str; 2] = [OBJECT, "wstap-ebpf-inner"];
/// The rustup toolchain that `cargo xtask setup` installs or links.
const TOOLCHAIN: &str = "wstap-ebpf";
/// Set for the run of this script that only builds the object.
const BUILDING: &str = "WSTAP_EBPF_BUILDING";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let manifest_dir = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let workspace = manifest_dir
        .parent()
        .context("the package has no parent directory")?;
    let ebpf_dir = workspace.join("agent-ebpf");
    if env::var_os(BUILDING).is_some() {
        return build(&ebpf_dir);
    }

    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=WSTAP_EBPF");
    for dir in ["agent-ebpf", "agent-common"] {
        let dir = workspace.join(dir);
        println!("cargo:rerun-if-changed={}", dir.join("src").display());
        println!(
            "cargo:rerun-if-changed={}",
            dir.join("Cargo.toml").display()
        );
    }
    let profile = workspace.join("Cargo.toml");
    println!("cargo:rerun-if-changed={}", profile.display());
    emit_revision(workspace);

    let wish = env::var("WSTAP_EBPF").unwrap_or_default();
    let outcome = match wish.as_str() {
        "skip" => Err(anyhow!("WSTAP_EBPF=skip")),
        "" | "require" => toolchain().and_then(|()| build_in_child()),
        other => bail!("WSTAP_EBPF={other}: neither `skip` nor `require`"),
    };
    let Err(error) = outcome else { return Ok(()) };
    if wish == "require" {
        return Err(error.context("building the eBPF program; run `cargo xtask setup`"));
    }
    println!(
        "cargo:warning=built without the eBPF program ({error:#}): `wstap run` and `trace` \
         will not work; `cargo xtask build --release` sets up what is missing and builds with it"
    );
    let out = PathBuf::from(variable("OUT_DIR")?);
    for object in OBJECTS {
        let stub = out.join(object);
        fs::write(&stub, []).with_context(|| format!("writing {}", stub.display()))?;
    }
    Ok(())
}

fn variable(name: &str) -> Result<String> {
    env::var(name).with_context(|| format!("{name} is not set: cargo sets it"))
}

/// Whether what the build needs is there. Asks nobody but this machine.
fn toolchain() -> Result<()> {
    let rustc = Command::new("rustup")
        .args(["run", TOOLCHAIN, "rustc", "-V"])
        .env("RUSTUP_AUTO_INSTALL", "0")
        .output();
    match rustc {
        Ok(output) if output.status.success() => {}
        Ok(_) => bail!("rustup has no toolchain `{TOOLCHAIN}`"),
        Err(error) => bail!("running rustup: {error}"),
    }
    match Command::new("bpf-linker").arg("--version").output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => bail!("bpf-linker --version: {}", output.status),
        Err(error) => bail!("running bpf-linker: {error}"),
    }
}

/// Builds the object in a process of its own, because `RUSTC_BOOTSTRAP` must be in the environment
/// of the one that calls `aya_build`: that is how it knows that a toolchain which is no nightly
/// takes `-Z build-std`. The user-space build never sees it.
fn build_in_child() -> Result<()> {
    let itself = env::current_exe().context("finding the build script")?;
    let status = Command::new(itself)
        .env(BUILDING, "1")
        .env("RUSTC_BOOTSTRAP", "1")
        .env_remove("AYA_BUILD_SKIP")
        // Else aya_build makes a warning of each line of progress.
        .env("CARGO_TERM_QUIET", "true")
        .status()
        .context("running the build script again")?;
    if !status.success() {
        bail!("the build of agent-ebpf failed");
    }
    Ok(())
}

fn build(ebpf_dir: &Path) -> Result<()> {
    let root_dir = ebpf_dir
        .to_str()
        .with_context(|| format!("{} is not UTF-8", ebpf_dir.display()))?;
    let package = Package {
        name: OBJECT,
        root_dir,
        ..Package::default()
    };
    aya_build::build_ebpf([package], Toolchain::Custom(TOOLCHAIN))
}

/// Tells the crate which commit it is built from; `unknown` outside a git repository.
fn emit_revision(workspace: &Path) {
    let git = |args: &[&str]| {
        let output = Command::new("git")
            .arg("-C")
            .arg(workspace)
            .args(args)
            .output()
            .ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    let revision = git(&["rev-parse", "--short=12", "HEAD"])
        .filter(|revision| !revision.is_empty())
        .unwrap_or_else(|| String::from("unknown"));
    println!("cargo:rustc-env=WSTAP_REVISION={revision}");
    // The reflog of HEAD grows with each commit and each checkout.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        let log = workspace.join(log);
        if log.exists() {
            println!("cargo:rerun-if-changed={}", log.display());
        }
    }
}
