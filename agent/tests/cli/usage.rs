//! Words that are no capture's: help, versions, completions, and wrong ones.

use super::{misuse, run, status, stderr, stdout};

#[test]
fn it_says_its_version() {
    let output = run(&["--version"]);
    assert_eq!(status(&output), 0);
    assert_eq!(
        stdout(&output),
        concat!("wstap ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

#[test]
fn wrong_usage_ends_with_2_and_names_what_is_wrong() {
    for (args, named) in [
        (&["frobnicate"][..], "frobnicate"),
        (&["top"], "top"),
        (&["read"], "FILE"),
        (&["read", "--nonsense", "x"], "--nonsense"),
        (&["read", "--opcode", "hello", "x"], "--opcode"),
        (&["read", "--event", "hello", "x"], "--event"),
        (&["read", "--direction", "up", "x"], "--direction"),
        (&["read", "--client", "example.com", "x"], "--client"),
        (&["read", "--path", "[", "x"], "--path"),
        (&["read", "--duration", "10", "x"], "--duration"),
        (&["read", "--min-size", "1T", "x"], "--min-size"),
        (&["read", "--close-code", "70000", "x"], "--close-code"),
        (&["read", "-n", "0", "x"], "--count"),
        (&["read", "-o", "xml", "x"], "--output"),
        (&["read", "--summary", "--metrics", "x"], "--metrics"),
        (
            &["read", "--reassembly-bytes", "1G", "x"],
            "--reassembly-total",
        ),
        (&["trace", "-p", "0"], "--port"),
        (&["trace", "-p", "90-80"], "--port"),
        (&["trace", "--attach", "xdp"], "--attach"),
        (&["run", "--netns", "0"], "--netns"),
        (&["trace", "--netns", "."], "--netns"),
        (&["run", "--max-netns", "0"], "--max-netns"),
        (&["run", "--listen", "9466"], "--listen"),
        (&["run", "--ring-buffer", "1"], "--ring-buffer"),
        (&["run", "--max-connections", "0"], "--max-connections"),
        (&["run", "--path-label", "x"], "--path-label"),
        (&["completions", "cmd.exe"], "SHELL"),
        (&["man", "top"], "COMMAND"),
    ] {
        let output = run(args);
        let line = misuse(&output);
        assert_eq!(stdout(&output), "", "{args:?}");
        assert!(line.contains(named), "{args:?}: {line}");
    }
}

#[test]
fn wrong_usage_says_what_would_be_right() {
    for (args, line) in [
        (
            &["run", "--kernel-log", "loud"][..],
            "wstap: invalid value 'loud' for '--kernel-log <LEVEL>' [possible values: off, error, \
             warn, info, debug, trace]; see `wstap run --help`",
        ),
        (
            &["read", "--sumary", "x"],
            "wstap: unexpected argument '--sumary' found; tip: a similar argument exists: \
             '--summary'; see `wstap read --help`",
        ),
        (
            &["run", "--snap-length", "257K"],
            "wstap: invalid value '257K' for '--snap-length <SIZE>': 263168 bytes: must be from 128 \
             to 262144 bytes; see `wstap run --help`",
        ),
        (
            &["--nonsense"],
            "wstap: unexpected argument '--nonsense' found; see `wstap --help`",
        ),
    ] {
        assert_eq!(misuse(&run(args)), line);
    }
}

#[test]
fn without_a_command_it_says_what_there_is() {
    let output = run(&[]);
    assert_eq!(status(&output), 2);
    assert!(stderr(&output).contains("Usage: wstap <COMMAND>"));
}

#[test]
fn help_lists_what_the_contract_lists() {
    let output = run(&["--help"]);
    assert_eq!(status(&output), 0);
    for command in ["run", "trace", "read", "check", "completions", "man"] {
        assert!(
            stdout(&output).contains(&format!("\n  {command} ")),
            "{command}"
        );
    }
    for (command, flags) in [
        (
            "run",
            &[
                "--interface <GLOB>",
                "--listen <ADDR:PORT>",
                "[env: WSTAP_LISTEN]",
            ][..],
        ),
        (
            "trace",
            &[
                "-p, --port",
                "-n, --count <N>",
                "--payload[=<BYTES>]",
                "-o, --output",
            ],
        ),
        (
            "read",
            &[
                "<FILE>",
                "--summary",
                "--metrics",
                "--close-code <CODE>",
                "--color",
            ],
        ),
    ] {
        let output = run(&[command, "--help"]);
        assert_eq!(status(&output), 0);
        for flag in flags {
            assert!(stdout(&output).contains(flag), "{command} {flag}");
        }
        let widest = stdout(&output)
            .lines()
            .map(|line| line.chars().count())
            .max();
        assert!(widest <= Some(100), "{command}: {widest:?}");
    }
}

#[test]
fn every_shell_gets_its_completions() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run(&["completions", shell]);
        assert_eq!(status(&output), 0);
        assert!(stdout(&output).contains("close-code"), "{shell}");
    }
}

#[test]
fn man_pages_are_roff() {
    for (args, title, word) in [
        (&["man"][..], ".TH wstap 1", "completions"),
        (&["man", "trace"], ".TH wstap-trace 1", "exclude"),
    ] {
        let output = run(args);
        assert_eq!(status(&output), 0);
        assert!(
            stdout(&output).lines().any(|line| line.starts_with(title)),
            "{title}"
        );
        assert!(stdout(&output).contains(word));
        assert!(stdout(&output).contains("\n.SH EXAMPLES\n"));
    }
}
