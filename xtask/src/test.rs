//! `cargo xtask test`: what has to hold before anything is merged.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::build::{REQUIRE_EBPF, SKIP_EBPF};
use crate::setup::{self, Compiler, TOOLCHAIN};
use crate::{bench, bench_read, deploy, fuzz, kernels, oracle, process, workspace};

/// The kernel program's package: it links for a BPF target only.
const EBPF: &str = "wstap-ebpf";
const EBPF_TARGET: &str = "bpfel-unknown-none";

/// How long each target is fuzzed: enough to see that what has been found before stays fixed, and
/// that the targets work.
const FUZZING: Duration = Duration::from_secs(10);

/// Bytes of the captures that are made to be read, of each kind.
const GENERATED: u64 = 8 << 20;

/// Tells the kernel tests to step aside.
const NO_KERNEL_TESTS: (&str, &str) = ("WSTAP_TEST_KERNEL", "0");
/// Tells the tests where their Python is.
const PEERS: &str = "WSTAP_PEERS";

/// Runs every step, up to the first that fails.
pub fn command(no_kernel: bool) -> Result<()> {
    if !no_kernel && !process::is_root() {
        bail!(
            "the tests that load the kernel program need root: run it as root, or leave them out \
             with --no-kernel"
        );
    }
    let mut steps = Steps::default();
    let mut tally = Tally::default();
    let done = all(&mut steps, &mut tally, no_kernel);
    steps.print();
    if no_kernel {
        println!("The tests that load the kernel program were left out (--no-kernel).");
    }
    if tally != Tally::default() {
        println!("{}", tally.line());
    }
    done
}

fn all(steps: &mut Steps, tally: &mut Tally, no_kernel: bool) -> Result<()> {
    // Cheap steps first, and those that do without the kernel program before those that need it, so
    // that the agent's build script changes its mind once.
    let compiler = steps.take("set-up", || {
        let compiler = setup::ensure()?;
        setup::ensure_tests()?;
        if !no_kernel && kernels::runs_here() {
            setup::ensure_kernels()?;
        }
        Ok(compiler)
    })?;
    steps.take("format", format)?;
    steps.take("clippy", clippy)?;
    steps.take("clippy, kernel program", || clippy_ebpf(&compiler))?;
    steps.take("documentation", documentation)?;
    steps.take("build", build)?;
    steps.take("tests", || tests(tally, no_kernel))?;
    // The binary is the one that the tests ran.
    steps.take("judges", || {
        let root = workspace::root();
        let wstap = workspace::target().join("debug/wstap");
        oracle::compare(&root.join("agent/tests/golden"), &wstap, None)
    })?;
    steps.take("deployment", || {
        deploy::check(&workspace::target().join("debug/wstap"))
    })?;
    steps.take("throughput", || {
        let wstap = workspace::target().join("debug/wstap");
        bench_read::check_all(&wstap, GENERATED)
    })?;
    steps.take("fuzzing", || fuzz::command(&[], FUZZING, false))?;
    if no_kernel {
        return Ok(());
    }
    steps.take("counts at full speed", || {
        let wstap = workspace::target().join("debug/wstap");
        bench::check(&wstap)
    })?;
    if !kernels::runs_here() {
        println!("No other kernels are booted: they are x86-64's, and this machine is not.");
        return Ok(());
    }
    steps.take("old and new kernel", || {
        kernels::command(&kernels::Args::short())
    })
}

fn format() -> Result<()> {
    process::run(process::cargo().args(["fmt", "--all", "--check"]))
        .context("rustfmt would write it otherwise: run `cargo fmt` (component rustfmt)")
}

fn clippy() -> Result<()> {
    let mut cargo = process::cargo();
    cargo.env(SKIP_EBPF.0, SKIP_EBPF.1);
    cargo.args(["clippy", "--workspace", "--exclude", EBPF, "--all-targets"]);
    process::run(cargo.args(["--", "-D", "warnings"]))
        .context("clippy has something to say, or is missing (`rustup component add clippy`)")
}

/// Lints the kernel program.
///
/// For its own target where the linked toolchain brings clippy. Debian's does not, and clippy reads
/// no `core` but that of its own compiler; then the clippy at hand reads the package for this
/// machine, for which it compiles as well, and the linked compiler's own lints read it for BPF.
fn clippy_ebpf(compiler: &Compiler) -> Result<()> {
    if compiler.has_clippy() {
        return process::run(&mut ebpf_cargo("clippy"));
    }
    println!("Toolchain `{TOOLCHAIN}` has no clippy: linting for this machine, checking for BPF");
    let mut cargo = process::cargo();
    // Without the standard library there is no unwinding.
    cargo.env("CARGO_PROFILE_DEV_PANIC", "abort");
    cargo.args(["clippy", "--package", EBPF, "--all-targets"]);
    process::run(cargo.args(["--", "-D", "warnings"]))?;
    process::run(&mut ebpf_cargo("check"))
}

/// Cargo of the linked toolchain, for the BPF target, with warnings as errors.
fn ebpf_cargo(subcommand: &str) -> Command {
    // `aya-ebpf` has to be told of the machine on which the program will run. Flags are separated
    // by the unit separator.
    let arch = std::env::consts::ARCH;
    let flags = format!("--cfg=bpf_target_arch=\"{arch}\"\x1f-Dwarnings");
    let mut cargo = Command::new("rustup");
    cargo
        .current_dir(workspace::root())
        .env("RUSTUP_AUTO_INSTALL", "0")
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags)
        .args(["run", TOOLCHAIN, "cargo", subcommand, "--package", EBPF])
        .args(["--target", EBPF_TARGET, "-Zbuild-std=core", "--target-dir"])
        .arg(workspace::target().join("xtask/check-ebpf"));
    cargo
}

fn documentation() -> Result<()> {
    let mut cargo = process::cargo();
    cargo
        .env(SKIP_EBPF.0, SKIP_EBPF.1)
        .env("RUSTDOCFLAGS", "-D warnings")
        .args([
            "doc",
            "--quiet",
            "--no-deps",
            "--workspace",
            "--exclude",
            EBPF,
        ]);
    process::run(&mut cargo)
}

/// Everything that the tests run: by itself, so that its time and its errors stand apart.
fn build() -> Result<()> {
    process::run(test_command().arg("--no-run"))?;
    process::run(ebpf_test_command().arg("--no-run"))
}

/// The development profile: most of the dependencies are built in it already, for this program.
fn test_command() -> Command {
    let mut cargo = process::cargo();
    cargo
        .env(REQUIRE_EBPF.0, REQUIRE_EBPF.1)
        .env(PEERS, workspace::target().join("peers"))
        .args(["test", "--workspace", "--exclude", EBPF]);
    cargo
}

/// What of the kernel program can be tested without a kernel.
fn ebpf_test_command() -> Command {
    let mut cargo = process::cargo();
    cargo.args(["test", "--package", EBPF, "--lib"]);
    cargo
}

fn tests(tally: &mut Tally, no_kernel: bool) -> Result<()> {
    counted(&mut ebpf_test_command(), tally)?;
    let mut cargo = test_command();
    if no_kernel {
        cargo.env(NO_KERNEL_TESTS.0, NO_KERNEL_TESTS.1);
    }
    // All of them, whatever fails: one run tells everything.
    counted(cargo.arg("--no-fail-fast"), tally)?;
    if tally.passed == 0 {
        bail!("no test ran");
    }
    Ok(())
}

/// Runs tests, shows what they print, and adds up their results.
fn counted(cargo: &mut Command, tally: &mut Tally) -> Result<()> {
    let mut child = cargo
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run `{}`", process::shown(cargo)))?;
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line.context("cannot read what the tests say")?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            tally.add(&line);
        }
    }
    let status = child.wait().context("cannot wait for the tests")?;
    if !status.success() {
        bail!("`{}` failed ({status})", process::shown(cargo));
    }
    Ok(())
}

/// The steps that were taken, with their times.
#[derive(Default)]
struct Steps(Vec<(&'static str, Duration, bool)>);

impl Steps {
    fn take<T>(&mut self, name: &'static str, step: impl FnOnce() -> Result<T>) -> Result<T> {
        println!("\n== {name}");
        let begun = Instant::now();
        let done = step();
        self.0.push((name, begun.elapsed(), done.is_ok()));
        done.with_context(|| format!("step `{name}` failed"))
    }

    fn print(&self) {
        println!();
        for (name, time, well) in &self.0 {
            let outcome = if *well { "" } else { "  FAILED" };
            println!("{name:<24}{:>8.1} s{outcome}", time.as_secs_f64());
        }
        let total: Duration = self.0.iter().map(|(_, time, _)| *time).sum();
        println!("{:<24}{:>8.1} s", "together", total.as_secs_f64());
    }
}

/// Sums of the lines with which each test binary ends.
#[derive(Debug, Default, Eq, PartialEq)]
struct Tally {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Tally {
    /// `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0s`
    fn add(&mut self, line: &str) {
        let Some(counts) = line.trim().strip_prefix("test result: ") else {
            return;
        };
        let words: Vec<_> = counts.split([' ', ';']).filter(|w| !w.is_empty()).collect();
        for pair in words.windows(2) {
            let &[count, what] = pair else { continue };
            let Ok(count) = count.parse::<u64>() else {
                continue;
            };
            match what {
                "passed" => self.passed += count,
                "failed" => self.failed += count,
                "ignored" => self.ignored += count,
                _ => {}
            }
        }
    }

    fn line(&self) -> String {
        let Self {
            passed,
            failed,
            ignored,
        } = self;
        format!("tests: {passed} passed, {failed} failed, {ignored} skipped")
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn sums_what_the_test_binaries_say() {
        let mut tally = Tally::default();
        tally.add("running 3 tests");
        tally.add("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out");
        tally.add("test result: FAILED. 40 passed; 2 failed; 0 ignored; 0 measured; finished");
        assert_eq!(tally.line(), "tests: 43 passed, 2 failed, 1 skipped");
    }
}
