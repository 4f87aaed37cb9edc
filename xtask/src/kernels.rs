//! `cargo xtask kernels`: boots kernels that Debian has packaged, old and new, in a virtual machine
//! and holds what wstap counts there against what a client and a server have sent
//! (`agent/examples/guest`).
//!
//! Nothing is installed but the emulator: the kernels are unpacked into the build folder.

mod debian;
mod initramfs;
mod machine;
mod report;

use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::builder::PossibleValuesParser;

use self::{debian::Release, initramfs::Binaries, report::Report};
use crate::build::REQUIRE_EBPF;
use crate::{process, setup, workspace};

/// Distributions' kernels from the oldest that is supported on, one for each that differs in what it
/// offers, and the newest.
const RELEASES: [Release; 4] = [
    Release {
        name: "5.10",
        version: "5.10.",
        suites: &[
            ("debian", "bullseye"),
            ("debian-security", "bullseye-security"),
        ],
    },
    Release {
        name: "6.1",
        version: "6.1.",
        suites: &[
            ("debian", "bookworm"),
            ("debian-security", "bookworm-security"),
        ],
    },
    Release {
        name: "6.12",
        version: "6.12.",
        suites: &[("debian", "trixie"), ("debian-security", "trixie-security")],
    },
    Release {
        name: "newest",
        version: "",
        suites: &[("debian", "sid")],
    },
];

/// The oldest and the newest, for `--short`.
const SHORT: [&str; 2] = ["5.10", "newest"];

/// What is booted.
#[derive(clap::Args)]
pub struct Args {
    /// Only this kernel (repeatable)
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(RELEASES.map(|r| r.name)))]
    kernel: Vec<String>,
    /// Only the oldest and the newest
    #[arg(long, conflicts_with = "kernel")]
    short: bool,
    /// Ask for newer packages where there are some already
    #[arg(long)]
    refresh: bool,
    /// Where Debian's packages come from; by default where apt has them from
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
}

impl Args {
    /// Those of `--short`.
    pub fn short() -> Self {
        Self {
            kernel: Vec::new(),
            short: true,
            refresh: false,
            mirror: None,
        }
    }

    fn selects(&self, name: &str) -> bool {
        if self.short {
            SHORT.contains(&name)
        } else {
            self.kernel.is_empty() || self.kernel.iter().any(|wanted| wanted == name)
        }
    }
}

/// Whether this machine is of the kind whose kernels these are.
pub fn runs_here() -> bool {
    cfg!(target_arch = "x86_64")
}

/// Builds, boots each kernel, and prints the table. Any difference is an error.
pub fn command(args: &Args) -> Result<()> {
    if !runs_here() {
        bail!(
            "the kernels are x86-64's, and so must be the binaries that run on them: this machine is {}",
            std::env::consts::ARCH
        );
    }
    setup::ensure()?;
    setup::ensure_kernels()?;
    let binaries = build()?;
    let mut report = Report::default();
    let mut emulator = machine::Emulator::choose();
    for release in RELEASES.iter().filter(|release| args.selects(release.name)) {
        let begun = Instant::now();
        let booted =
            debian::unpacked(release, args.mirror.as_deref(), args.refresh).and_then(|kernel| {
                say(format!("{}: booting {}", release.name, kernel.package));
                let archive = initramfs::build(&kernel, &binaries)?;
                let folder = workspace::target().join("kernels").join(release.name);
                emulator.boot(&kernel.image, &archive, &folder)
            });
        match booted {
            Ok(told) => report.add(release, &told),
            // The others are tried all the same.
            Err(error) => report.fail(release.name, &format!("{error:#}")),
        }
        let seconds = begun.elapsed().as_secs_f64();
        say(format!("{}: {seconds:.0} s", release.name));
    }
    report.print();
    match report.failures() {
        0 => Ok(()),
        1 => bail!("there is a failure"),
        n => bail!("there are {n} failures"),
    }
}

/// Says on standard error what is being done.
fn say(what: impl AsRef<str>) {
    eprintln!("kernels: {}", what.as_ref());
}

/// In the development profile, which the tests build too.
fn build() -> Result<Binaries> {
    let mut cargo = process::cargo();
    cargo.env(REQUIRE_EBPF.0, REQUIRE_EBPF.1).args([
        "build",
        "--quiet",
        "--package",
        "wstap",
        "--bin",
        "wstap",
        "--example",
        "guest",
    ]);
    process::run(&mut cargo).context("cannot build wstap")?;
    let built = workspace::target().join("debug");
    Binaries::gather(&built.join("wstap"), &built.join("examples/guest"))
}
