//! The compiler for the kernel program, known to rustup as [`NAME`].
//!
//! There is no prebuilt `core` for a BPF target, so the compiler has to come with the source of its
//! own `core`, and has to accept unstable flags: a nightly does, any other with `RUSTC_BOOTSTRAP=1`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{apt, linker, say};
use crate::process;

/// What the toolchain is called. `agent/build.rs` asks for it by this name.
pub const NAME: &str = "wstap-ebpf";

/// The oldest compiler that can build the workspace, its `rust-version`.
const OLDEST: (u32, u32) = (1, 90);

/// What is installed where rustup reaches its server: a nightly whose LLVM is one that
/// distributions package, so that `bpf-linker` can be built to match.
const PINNED: &str = "nightly-2026-05-20";

/// Debian's compiler that keeps up with browsers, with its cargo and its source.
const PACKAGES: &[&str] = &["rustc-web", "cargo-web", "rust-web-src"];
const PACKAGES_SYSROOT: &str = "/usr";

/// Without an answer rustup tries for very long.
const RUSTUP_LIMIT: Duration = Duration::from_secs(300);

/// A compiler that was looked at and found fit.
pub struct Compiler {
    /// Its sysroot.
    pub sysroot: PathBuf,
    /// As it names itself, `rustc 1.96.0 (...)`.
    pub release: String,
    /// Major version of its LLVM.
    pub llvm: u32,
}

impl Compiler {
    /// Whether it brings clippy, and so can lint for the BPF target.
    pub fn has_clippy(&self) -> bool {
        self.sysroot.join("bin/clippy-driver").exists()
            && self.sysroot.join("bin/cargo-clippy").exists()
    }
}

/// Finds or installs the toolchain, in this order: what is linked already, an installed toolchain
/// that has its source, the distribution's packages, rustup's server.
pub fn ensure() -> Result<Compiler> {
    if process::find("rustup").is_none() {
        bail!(
            "rustup is missing: it runs the compiler of the kernel program; install it from rustup.rs"
        );
    }
    let installed = installed()?;
    let mut tried = Vec::new();
    if installed.iter().any(|name| name == NAME) {
        match inspect(&mut rustc(NAME)) {
            Ok(compiler) => return Ok(compiler),
            Err(error) => tried.push(format!("toolchain `{NAME}`: {error:#}")),
        }
    }
    say(format!(
        "looking for a compiler to link as toolchain `{NAME}`"
    ));
    let newest_llvm = linker::newest_llvm()?;

    let mut others: Vec<_> = installed.iter().filter(|name| *name != NAME).collect();
    // The newest nightly first: that is what its user builds kernel programs with.
    others.sort_by_key(|name| (name.starts_with("nightly"), *name));
    for name in others.into_iter().rev() {
        match inspect(&mut rustc(name)).and_then(|compiler| fits(compiler, newest_llvm)) {
            Ok(compiler) => return link(compiler),
            Err(error) => tried.push(format!("toolchain `{name}`: {error:#}")),
        }
    }

    match packaged(newest_llvm) {
        Ok(compiler) => return link(compiler),
        Err(error) => tried.push(format!("packages {}: {error:#}", PACKAGES.join(" "))),
    }

    match pinned(newest_llvm) {
        Ok(compiler) => return link(compiler),
        Err(error) => tried.push(format!("rustup: {error:#}")),
    }

    bail!(
        "there is no compiler that can build the kernel program. Tried:\n  {}\nAny one of these helps:\n  \
         rustup component add rust-src --toolchain nightly\n  \
         rustup toolchain install {PINNED} --profile minimal --component rust-src\n  \
         sudo apt-get install --no-install-recommends {}",
        tried.join("\n  "),
        PACKAGES.join(" ")
    )
}

/// A command of rustup that installs nothing on the way.
fn rustup() -> Command {
    let mut command = Command::new("rustup");
    command.env("RUSTUP_AUTO_INSTALL", "0");
    command
}

/// The compiler of a toolchain.
fn rustc(toolchain: &str) -> Command {
    let mut command = rustup();
    command.args(["run", toolchain, "rustc"]);
    command
}

fn installed() -> Result<Vec<String>> {
    let listed = process::capture(rustup().args(["toolchain", "list"]))
        .context("cannot list the toolchains of rustup")?;
    // `stable-x86_64-unknown-linux-gnu (active, default)`, and `no installed toolchains`.
    let names = listed.lines().filter(|line| !line.starts_with("no "));
    let names = names.filter_map(|line| line.split_whitespace().next());
    Ok(names.map(str::to_owned).collect())
}

/// Looks whether a compiler, given as the command that runs it, can build the kernel program.
fn inspect(rustc: &mut Command) -> Result<Compiler> {
    // `--print` wins over `-vV`, so it takes two calls.
    let sysroot = Command::new(rustc.get_program())
        .args(rustc.get_args())
        .env("RUSTUP_AUTO_INSTALL", "0")
        .args(["--print", "sysroot"])
        .output();
    let said = process::capture(rustc.arg("-vV"))?;
    let sysroot = sysroot.context("cannot ask for the sysroot")?;
    let sysroot = PathBuf::from(String::from_utf8_lossy(&sysroot.stdout).trim());
    let (release, version, llvm) = parse(&said)
        .with_context(|| format!("`{}` says nothing understood", process::shown(rustc)))?;
    if version < OLDEST {
        bail!("{release} is older than {}.{}", OLDEST.0, OLDEST.1);
    }
    let core = sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml");
    if !core.exists() {
        bail!(
            "the source of `core` is missing (rustup's component rust-src, Debian's package rust-web-src)"
        );
    }
    if !sysroot.join("bin/cargo").exists() {
        bail!("there is no cargo beside the compiler (Debian's package cargo-web)");
    }
    Ok(Compiler {
        sysroot,
        release,
        llvm,
    })
}

/// Refuses a compiler for which no `bpf-linker` can be built here.
fn fits(compiler: Compiler, newest_llvm: u32) -> Result<Compiler> {
    if compiler.llvm > newest_llvm {
        bail!(
            "it uses LLVM {}, and the newest that bpf-linker can be linked against here is {newest_llvm}",
            compiler.llvm
        );
    }
    Ok(compiler)
}

/// Release, version and LLVM's major version from what `rustc -vV` prints.
fn parse(said: &str) -> Option<(String, (u32, u32), u32)> {
    let field = |name: &str| said.lines().find_map(|line| line.strip_prefix(name));
    let mut version = field("release: ")?.split('.').map(str::parse);
    let version = (version.next()?.ok()?, version.next()?.ok()?);
    let llvm = field("LLVM version: ")?.split('.').next()?.parse().ok()?;
    let release = said.lines().next()?.trim();
    Some((release.to_owned(), version, llvm))
}

fn link(compiler: Compiler) -> Result<Compiler> {
    say(format!(
        "linking {} as toolchain `{NAME}`",
        compiler.sysroot.display()
    ));
    process::capture(
        rustup()
            .args(["toolchain", "link", NAME])
            .arg(&compiler.sysroot),
    )
    .with_context(|| format!("cannot link toolchain `{NAME}`"))?;
    Ok(compiler)
}

/// The distribution's compiler, installed where it is not and can be.
fn packaged(newest_llvm: u32) -> Result<Compiler> {
    if !apt::present() {
        bail!("this is no Debian system");
    }
    let found = || {
        let rustc = Path::new(PACKAGES_SYSROOT).join("bin/rustc");
        inspect(&mut Command::new(rustc)).and_then(|compiler| fits(compiler, newest_llvm))
    };
    if apt::missing(PACKAGES).is_empty()
        && let Ok(compiler) = found()
    {
        return Ok(compiler);
    }
    // Old lists may know an older version only, which is too old.
    apt::update()?;
    for package in PACKAGES {
        let Some(version) = apt::candidate(package) else {
            bail!("{package} is not in the package lists");
        };
        if debian_version(&version).is_some_and(|version| version < OLDEST) {
            bail!(
                "{package} {version} is older than {}.{}",
                OLDEST.0,
                OLDEST.1
            );
        }
    }
    apt::ensure(PACKAGES, "the build of the kernel program")?;
    found()
}

/// Major and minor of a Debian version such as `1.96.0+dfsg1-1~deb12u2`.
fn debian_version(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.').map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

/// A toolchain from rustup's server.
fn pinned(newest_llvm: u32) -> Result<Compiler> {
    say(format!(
        "installing {PINNED} with rustup (at most {} s)",
        RUSTUP_LIMIT.as_secs()
    ));
    let mut command = process::limited(RUSTUP_LIMIT, "rustup");
    command.args(["toolchain", "install", PINNED, "--profile", "minimal"]);
    command.args(["--component", "rust-src,clippy", "--no-self-update"]);
    process::run(&mut command)?;
    inspect(&mut rustc(PINNED)).and_then(|compiler| fits(compiler, newest_llvm))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_compilers_say_of_themselves() {
        let said = "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)\nbinary: rustc\n\
                    release: 1.97.0-nightly\nLLVM version: 22.1.4\n";
        let (release, version, llvm) = parse(said).unwrap();
        assert_eq!(release, "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)");
        assert_eq!((version, llvm), ((1, 97), 22));
        assert!(parse("rustc 1.97.0\n").is_none());
    }

    #[test]
    fn reads_debian_versions() {
        assert_eq!(debian_version("1.96.0+dfsg1-1~deb12u2"), Some((1, 96)));
        assert_eq!(debian_version("unknown"), None);
    }
}
