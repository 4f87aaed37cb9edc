//! `cargo xtask fuzz`: the targets of `fuzz/`, each for some time.
//!
//! The folder is laid out as cargo-fuzz has it, and built here with the flags that it gives: the
//! standard compiler brings all that is needed, the address sanitizer's runtime included. Only where
//! that or a C++ compiler is missing, the kept inputs are played without a fuzzer.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::build::SKIP_EBPF;
use crate::{process, workspace};

/// The targets, of which `fuzz/src/lib.rs` is the list.
pub const TARGETS: [&str; 7] = [
    "capture_file",
    "deflate",
    "frame_stream",
    "http_head",
    "kernel_record",
    "observer",
    "packet",
];

/// Coverage for libFuzzer, and errors of memory. Separated by the unit separator for cargo.
const FLAGS: [&str; 9] = [
    "--cfg",
    "fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Zsanitizer=address",
    "-Ccodegen-units=1",
];

/// More than the limits that the targets set can account for is a finding.
const MEMORY_MIB: u32 = 512;
const ALLOCATION_MIB: u32 = 128;
/// Longer inputs find nothing that shorter ones do not.
const MAX_INPUT: u32 = 10_000;
/// Of what is found only inputs up to this length are kept in the repository: a few hundred KiB in
/// all. Longer ones that are there were put there by hand.
const MAX_KEPT: u32 = 400;
/// One input that takes so many seconds is a finding.
const SLOW: u32 = 10;

/// What was fuzzed, and how it went.
struct Run {
    target: &'static str,
    executions: u64,
    time: Duration,
    /// Coverage after the kept inputs, and at the end: edges, as libFuzzer counts them.
    edges: [u64; 2],
    peak_mib: u64,
    /// The input that does harm.
    finding: Option<PathBuf>,
}

/// Fuzzes `only`, or every target, each for `time`; then, where `keep` says so, reduces what has
/// been found to cover more to what is kept in the repository.
pub fn command(only: &[String], time: Duration, keep: bool) -> Result<()> {
    for name in only {
        if !TARGETS.contains(&name.as_str()) {
            bail!("there is no target `{name}`: {}", TARGETS.join(", "));
        }
    }
    if let Some(missing) = missing()? {
        println!("Not fuzzing, only playing the inputs that are kept: {missing}");
        return replay();
    }
    let folder = build()?;
    let mut runs = Vec::new();
    for target in TARGETS {
        if !only.is_empty() && !only.iter().any(|name| name == target) {
            continue;
        }
        println!("fuzzing {target} for {} s", time.as_secs());
        runs.push(fuzz(target, &folder, time)?);
        if keep && runs.last().is_some_and(|run| run.finding.is_none()) {
            minimise(target, &folder)?;
        }
    }
    print!("{}", table(&runs));
    let findings: Vec<_> = runs.iter().filter_map(|run| run.finding.as_ref()).collect();
    for path in &findings {
        println!("does harm: {}", path.display());
    }
    if !findings.is_empty() {
        bail!(
            "{} of {} targets found something",
            findings.len(),
            runs.len()
        );
    }
    Ok(())
}

/// What is not there, of what fuzzing needs beyond building.
fn missing() -> Result<Option<&'static str>> {
    if process::find("c++").is_none() && process::find("g++").is_none() {
        return Ok(Some("no C++ compiler (Debian's package g++)"));
    }
    let mut rustc = Command::new("rustc");
    let libraries = process::capture(rustc.args(["--print", "target-libdir"]))?;
    let entries = fs::read_dir(libraries.trim()).context("cannot list the compiler's libraries")?;
    let sanitizer = entries.filter_map(Result::ok).any(|entry| {
        let name = entry.file_name();
        name.to_string_lossy().ends_with("_rt.asan.a")
    });
    Ok((!sanitizer).then_some("the compiler has no address sanitizer for this machine"))
}

fn root() -> PathBuf {
    workspace::root().join("fuzz")
}

/// Cargo in the workspace of the targets.
fn cargo() -> Command {
    let mut cargo = process::cargo();
    cargo
        .current_dir(root())
        .env(SKIP_EBPF.0, SKIP_EBPF.1)
        .env_remove("CARGO_TARGET_DIR");
    cargo
}

/// Plays the kept inputs, on any compiler.
fn replay() -> Result<()> {
    process::run(cargo().args(["test", "--quiet", "--no-default-features"]))
}

/// Builds the targets. The folder of their programs.
fn build() -> Result<PathBuf> {
    let host = host()?;
    let mut cargo = cargo();
    cargo
        // For `-Zsanitizer`.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"))
        .args(["build", "--release", "--bins", "--target", &host]);
    process::run(&mut cargo)?;
    Ok(root().join("target").join(host).join("release"))
}

/// The triple of this machine. With `--target`, even of the same machine, what runs while building
/// is built without the flags.
fn host() -> Result<String> {
    let version = process::capture(Command::new("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not name its host")?.to_owned())
}

/// Inputs that were found and are not kept in the repository.
fn found(target: &str) -> PathBuf {
    root().join("target/corpus").join(target)
}

fn kept(target: &str) -> PathBuf {
    root().join("corpus").join(target)
}

fn limits(program: &mut Command, longest: u32) -> &mut Command {
    program
        // Leaks are no matter of safe code, and looking for them needs ptrace. What was freed is held
        // back for a while, and counts.
        .env("ASAN_OPTIONS", "detect_leaks=0:quarantine_size_mb=16")
        .arg(format!("-rss_limit_mb={MEMORY_MIB}"))
        .arg(format!("-malloc_limit_mb={ALLOCATION_MIB}"))
        .arg(format!("-max_len={longest}"))
        .arg(format!("-timeout={SLOW}"))
}

fn fuzz(target: &'static str, folder: &Path, time: Duration) -> Result<Run> {
    let artifacts = root().join("artifacts").join(target);
    for folder in [&found(target), &kept(target), &artifacts] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let mut program = Command::new(folder.join(target));
    limits(&mut program, MAX_INPUT)
        .arg(format!("-max_total_time={}", time.as_secs().max(1)))
        .arg("-print_final_stats=1")
        .arg(format!("-artifact_prefix={}/", artifacts.display()));
    let dictionary = root().join("dictionaries").join(format!("{target}.dict"));
    if dictionary.exists() {
        program.arg(format!("-dict={}", dictionary.display()));
    }
    // New ones go to the first folder.
    program.arg(found(target)).arg(kept(target));
    let begun = Instant::now();
    let mut child = program
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run `{}`", process::shown(&program)))?;
    let mut run = Run {
        target,
        executions: 0,
        time: Duration::ZERO,
        edges: [0; 2],
        peak_mib: 0,
        finding: None,
    };
    let mut said = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        for line in BufReader::new(stderr).split(b'\n') {
            let line = line.context("cannot read what the target says")?;
            let line = String::from_utf8_lossy(&line).into_owned();
            run.note(&line);
            // The end of it tells what happened; the rest is progress.
            if !line.starts_with('#') && said.len() < 10_000 {
                said.push(line);
            }
        }
    }
    let status = child.wait().context("cannot wait for the target")?;
    run.time = begun.elapsed();
    if !status.success() {
        for line in &said {
            eprintln!("{line}");
        }
        if run.finding.is_none() {
            bail!("`{}` failed ({status})", process::shown(&program));
        }
    }
    Ok(run)
}

impl Run {
    /// Takes what libFuzzer says into account.
    fn note(&mut self, line: &str) {
        let number = |text: &str| text.trim().parse::<u64>().ok();
        if let Some(path) = line.split("Test unit written to ").nth(1) {
            self.finding = Some(PathBuf::from(path.trim()));
        } else if let Some(stat) = line.strip_prefix("stat::") {
            let Some((name, value)) = stat.split_once(':') else {
                return;
            };
            match name {
                "number_of_executed_units" => self.executions = number(value).unwrap_or(0),
                "peak_rss_mb" => self.peak_mib = number(value).unwrap_or(0),
                _ => {}
            }
        } else if line.starts_with('#') {
            let mut words = line.split_whitespace();
            let is_start = line.contains("INITED");
            let edges = words
                .find(|word| *word == "cov:")
                .and_then(|_| words.next());
            if let Some(edges) = edges.and_then(number) {
                self.edges[1] = edges;
                if is_start {
                    self.edges[0] = edges;
                }
            }
        }
    }
}

/// Keeps, of all inputs, as few and as short ones as cover the same.
fn minimise(target: &str, folder: &Path) -> Result<()> {
    let reduced = root().join("target/reduced").join(target);
    if reduced.exists() {
        fs::remove_dir_all(&reduced)?;
    }
    fs::create_dir_all(&reduced)?;
    let mut program = Command::new(folder.join(target));
    // As few as cover all, where a plain merge takes the shortest first: half as many files.
    limits(&mut program, MAX_KEPT)
        .arg("-set_cover_merge=1")
        .arg(&reduced);
    process::capture(program.arg(kept(target)).arg(found(target)))?;
    let kept = kept(target);
    for entry in fs::read_dir(&kept)? {
        let entry = entry?;
        if entry.metadata()?.len() <= u64::from(MAX_KEPT) {
            fs::remove_file(entry.path())?;
        }
    }
    for entry in fs::read_dir(&reduced)? {
        let entry = entry?;
        fs::copy(entry.path(), kept.join(entry.file_name()))?;
    }
    Ok(())
}

fn table(runs: &[Run]) -> String {
    let mut out = format!(
        "{:<16}{:>14}{:>10}{:>12}{:>16}{:>10}\n",
        "target", "executions", "seconds", "a second", "edges", "MiB"
    );
    for run in runs {
        let seconds = run.time.as_secs_f64();
        let _ = writeln!(
            out,
            "{:<16}{:>14}{seconds:>10.0}{:>12.0}{:>16}{:>10}{}",
            run.target,
            run.executions,
            run.executions as f64 / seconds,
            format!("{} -> {}", run.edges[0], run.edges[1]),
            run.peak_mib,
            if run.finding.is_some() {
                "  FOUND SOMETHING"
            } else {
                ""
            },
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_targets_are_those_of_the_folder() {
        let entries = fs::read_dir(root().join("fuzz_targets")).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().path())
            .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        names.sort();
        assert_eq!(names, TARGETS);
    }

    #[test]
    fn notes_what_libfuzzer_says() {
        let mut run = Run {
            target: "packet",
            executions: 0,
            time: Duration::ZERO,
            edges: [0; 2],
            peak_mib: 0,
            finding: None,
        };
        run.note("#13\tINITED cov: 200 ft: 201 corp: 4/40b exec/s: 0 rss: 40Mb");
        run.note("#99\tNEW    cov: 205 ft: 301 corp: 5/40b lim: 4 exec/s: 0 rss: 40Mb L: 2/9");
        run.note("stat::number_of_executed_units: 4711");
        run.note("stat::peak_rss_mb:              88");
        assert_eq!(
            (run.executions, run.edges, run.peak_mib),
            (4711, [200, 205], 88)
        );
        assert_eq!(run.finding, None);
        run.note("artifact_prefix='a/'; Test unit written to a/crash-0123");
        assert_eq!(run.finding, Some(PathBuf::from("a/crash-0123")));
    }
}
