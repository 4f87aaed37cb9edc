//! What `wstap read` says of the captures in `golden/`, byte for byte.
//!
//! The captures are taken by `golden/generate.py`. `WSTAP_BLESS=1` writes what the tests compare
//! with; look at `git diff` before it is committed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const WSTAP: &str = env!("CARGO_BIN_EXE_wstap");

/// Every kind of event, also those that are not shown by default.
const EVENTS: [&str; 6] = ["handshake", "frame", "message", "close", "violation", "gap"];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn captures() -> Vec<PathBuf> {
    let entries = fs::read_dir(folder()).expect("the folder of goldens");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut captures: Vec<_> = paths
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "pcap")
        })
        .collect();
    captures.sort();
    assert!(
        !captures.is_empty(),
        "no captures in {}",
        folder().display()
    );
    captures
}

/// Standard output of `wstap read` with these flags.
fn read(capture: &Path, flags: &[&str]) -> String {
    let mut command = Command::new(WSTAP);
    command.arg("read").arg(capture).args(flags);
    let output = command.output().expect("the binary runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{stderr}",
        output.status
    );
    assert!(stderr.is_empty(), "{command:?}\n{stderr}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Compares with what is kept beside each capture under `extension`.
fn compare(extension: &str, flags: &[&str]) {
    let bless = std::env::var_os("WSTAP_BLESS").is_some_and(|value| value == "1");
    let mut wrong = Vec::new();
    for capture in captures() {
        let kept = capture.with_extension(extension);
        let said = read(&capture, flags);
        if bless {
            fs::write(&kept, said).expect("a writable folder");
            continue;
        }
        let expected = fs::read_to_string(&kept)
            .unwrap_or_else(|error| panic!("{}: {error}; WSTAP_BLESS=1 writes it", kept.display()));
        if said != expected {
            let differs = |(_, (a, b)): &(usize, (&str, &str))| a != b;
            let line = (1..).zip(said.lines().zip(expected.lines())).find(differs);
            let (n, (said, expected)) = line.unwrap_or((0, ("another number of lines", "")));
            let name = kept.display();
            wrong.push(format!(
                "{name}, line {n}\n  expected {expected}\n  said     {said}"
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "(WSTAP_BLESS=1 accepts)\n{}",
        wrong.join("\n")
    );
}

#[test]
fn json() {
    let events = EVENTS.map(|event| format!("--event={event}"));
    let flags: Vec<_> = ["-o", "json"]
        .into_iter()
        .chain(events.iter().map(String::as_str))
        .collect();
    compare("jsonl", &flags);
}

#[test]
fn text() {
    compare("txt", &["-o", "text", "--color", "never"]);
}

#[test]
fn previews() {
    compare(
        "payload.jsonl",
        &["-o", "json", "--payload=24", "--event=frame"],
    );
}

#[test]
fn the_same_twice() {
    for capture in captures() {
        assert_eq!(
            read(&capture, &["-o", "json"]),
            read(&capture, &["-o", "json"])
        );
    }
}

#[test]
fn nothing_is_kept_without_its_capture() {
    let captures = captures();
    for entry in fs::read_dir(folder()).expect("the folder of goldens") {
        let path = entry.expect("an entry").path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .expect("UTF-8")
            .to_owned();
        let (case, _) = name.split_once('.').unwrap_or((&name, ""));
        let is_case = captures
            .iter()
            .any(|capture| capture.file_stem().is_some_and(|stem| stem == case));
        assert!(
            is_case || name == "generate.py" || path.is_dir(),
            "{name} belongs to no capture"
        );
    }
}
