//! The real binary: what a person or a script gets from it, with its exit status.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::{Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use serde_json::Value;

#[path = "support/conversation.rs"]
mod conversation;
#[path = "support/pcap.rs"]
mod pcap;

use conversation::{CLIENT, Capture, Conversation, masked};

const WSTAP: &str = env!("CARGO_BIN_EXE_wstap");

/// How long a line may take that is to be printed at once.
const PATIENCE: Duration = Duration::from_secs(20);

/// The command, without any variable that it might listen to.
fn wstap() -> Command {
    let mut command = Command::new(WSTAP);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("WSTAP_") {
            command.env_remove(name);
        }
    }
    command.env_remove("NO_COLOR").stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    wstap().args(args).output().unwrap()
}

fn status(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stdout(output: &Output) -> &str {
    str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    str::from_utf8(&output.stderr).unwrap()
}

/// The one line on standard error of a command that failed.
#[track_caller]
fn failure(output: &Output) -> &str {
    error(output, 1)
}

/// The one line on standard error of a command that was used wrongly.
#[track_caller]
fn misuse(output: &Output) -> &str {
    error(output, 2)
}

#[track_caller]
fn error(output: &Output, expected: i32) -> &str {
    assert_eq!(status(output), expected, "{output:?}");
    let line = stderr(output).strip_suffix('\n').unwrap();
    assert!(!line.contains('\n'), "more than one line: {line}");
    assert!(line.starts_with("wstap: "), "{line}");
    line
}

fn events(output: &Output) -> Vec<Value> {
    assert_eq!(status(output), 0, "{output:?}");
    assert_eq!(stderr(output), "");
    stdout(output)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The names of the events, and of frames their opcode.
fn kinds(events: &[Value]) -> Vec<&str> {
    let kind = |event: &Value| {
        if event["event"] == "frame" {
            "opcode"
        } else {
            "event"
        }
    };
    events
        .iter()
        .filter_map(|event| event[kind(event)].as_str())
        .collect()
}

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

#[test]
fn run_listens_to_the_environment() {
    for (name, value, flag) in [
        ("WSTAP_LISTEN", "nowhere", "--listen"),
        ("WSTAP_PORT", "80,http", "--port"),
        ("WSTAP_INTERFACE", "lo,[", "--interface"),
        ("WSTAP_PATH_LABEL", "maybe", "--path-label"),
        ("WSTAP_IDLE_TIMEOUT", "1", "--idle-timeout"),
    ] {
        let output = wstap().arg("run").env(name, value).output().unwrap();
        let line = misuse(&output);
        assert!(line.contains(flag) && line.contains(name), "{name}: {line}");
    }
    // One that is empty says nothing.
    let mut command = wstap();
    command.args(["run", "--listen", "elsewhere"]);
    for name in ["WSTAP_PORT", "WSTAP_IDLE_TIMEOUT", "WSTAP_ATTACH"] {
        command.env(name, "");
    }
    assert!(misuse(&command.output().unwrap()).contains("elsewhere"));
    // A flag overrides; what is wrong then is the flag's value.
    let mut command = wstap();
    command
        .args(["run", "--listen", "elsewhere"])
        .env("WSTAP_LISTEN", "127.0.0.1:1");
    let output = command.output().unwrap();
    let line = misuse(&output);
    assert!(
        line.contains("elsewhere") && !line.contains("WSTAP_LISTEN"),
        "{line}"
    );
}

#[test]
fn other_commands_do_not() {
    let capture = Conversation::whole().write();
    let mut command = wstap();
    command.args(["read", "-o", "json", capture.path()]);
    command
        .env("WSTAP_MAX_CONNECTIONS", "x")
        .env("WSTAP_VERBOSE", "x");
    assert!(!events(&command.output().unwrap()).is_empty());
}

#[test]
fn a_missing_file_is_named() {
    let output = run(&["read", "/nonexistent/x.pcap"]);
    let line = failure(&output);
    assert!(line.contains("/nonexistent/x.pcap"), "{line}");
    assert!(line.contains("No such file"), "{line}");
    assert_eq!(stdout(&output), "");
}

#[test]
fn what_is_no_capture_is_refused() {
    for (bytes, reason) in [(&b"#!/bin/sh\necho\n"[..], "not a capture"), (b"", "empty")] {
        let capture = Capture::of(bytes);
        let output = run(&["read", capture.path()]);
        let line = failure(&output);
        assert!(
            line.contains(capture.path()) && line.contains(reason),
            "{line}"
        );
        assert_eq!(stdout(&output), "");
    }
    let output = run(&["read", "/"]);
    let line = failure(&output);
    assert!(line.contains("a directory; name a file in it"), "{line}");
}

#[test]
fn up_to_the_damage_everything_is_told() {
    let mut conversation = Conversation::open();
    conversation.send(CLIENT, &masked(0x81, b"one"));
    let intact = conversation.pcap.bytes().len();
    conversation.send(CLIENT, &masked(0x81, b"two"));
    let mut bytes = conversation.pcap.bytes();
    bytes.pop();
    let capture = Capture::of(&bytes);

    let output = run(&["read", "-o", "json", capture.path()]);
    let line = failure(&output);
    assert!(line.contains(&format!("byte {intact}")), "{line}");
    let lines: Vec<Value> = stdout(&output)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(kinds(&lines), ["handshake", "text", "close"]);
    assert_eq!(lines[2]["kind"], "eof");

    // The other reports too.
    let output = run(&["read", "--summary", capture.path()]);
    failure(&output);
    assert!(stdout(&output).contains("192.0.2.1:40000"));
}

#[test]
fn a_reader_that_has_had_enough_is_no_failure() {
    let capture = Conversation::whole().write();
    for args in [
        &["read", capture.path()][..],
        &["read", "-o", "json", capture.path()],
        &["read", "--summary", capture.path()],
        &["read", "--metrics", capture.path()],
        &["completions", "bash"],
        &["man"],
    ] {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let output = wstap().args(args).stdout(writer).output().unwrap();
        assert_eq!(status(&output), 0, "{args:?}: {output:?}");
        assert_eq!(stderr(&output), "", "{args:?}");
    }
}

#[test]
fn a_full_disk_is_one() {
    let capture = Conversation::whole().write();
    let full = File::options().write(true).open("/dev/full").unwrap();
    for args in [
        &["read", capture.path()][..],
        &["read", "--metrics", capture.path()],
        &["check"],
        &["completions", "bash"],
        &["man"],
    ] {
        let full = full.try_clone().unwrap();
        let output = wstap().args(args).stdout(full).output().unwrap();
        let line = failure(&output);
        assert!(
            line.contains("standard output") && line.contains("No space"),
            "{args:?}: {line}"
        );
    }
}

/// Runs the command as a user without any privilege.
fn unprivileged(args: &[&str]) -> Output {
    let nobody = 65_534;
    // Where the build is, nobody may be allowed to look.
    let dir = tempfile::tempdir().unwrap();
    let binary = dir.path().join("wstap");
    fs::copy(WSTAP, &binary).unwrap();
    for path in [dir.path(), Path::new(&binary)] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut command = Command::new(&binary);
    command.args(args).stdin(Stdio::null()).current_dir("/");
    if nix::unistd::Uid::effective().is_root() {
        command.uid(nobody).gid(nobody);
    }
    command.output().unwrap()
}

#[test]
fn a_missing_capability_is_named_with_its_remedy() {
    for command in ["run", "trace"] {
        let output = unprivileged(&[command]);
        let line = failure(&output);
        for word in ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON", "root", "setcap"] {
            assert!(line.contains(word), "{command}: {line}");
        }
        assert_eq!(stdout(&output), "");
    }
}

#[test]
fn a_capture_becomes_events() {
    let capture = Conversation::whole().write();
    let events = events(&run(&["read", "-o", "json", "--payload", capture.path()]));
    let expected = [
        "handshake",
        "text",
        "binary",
        "ping",
        "pong",
        "close",
        "close",
        "close",
    ];
    assert_eq!(kinds(&events), expected);
    for event in &events {
        assert_eq!(event["client"], "192.0.2.1:40000");
        assert_eq!(event["server"], "192.0.2.2:80");
        assert_eq!(event["conn"], events[0]["conn"]);
        assert!(event.get("interface").is_none());
    }
    let handshake = &events[0];
    assert_eq!(handshake["ts"], "2026-03-01T09:05:07.004000000Z");
    for (field, value) in [
        ("outcome", "accepted"),
        ("method", "GET"),
        ("path", "/chat?room=1"),
        ("host", "server.example.com"),
        ("origin", "http://example.com"),
        ("subprotocol", "chat"),
    ] {
        assert_eq!(handshake[field], value, "{field}");
    }
    assert_eq!(handshake["status"], 101);
    assert_eq!(
        handshake["offered_subprotocols"],
        serde_json::json!(["chat", "superchat"])
    );
    assert_eq!(handshake["latency_ns"], 1_000_000);
    assert!(handshake.get("extensions").is_none());

    let text = &events[1];
    assert_eq!(
        (&text["dir"], &text["index"]),
        (&"client_to_server".into(), &1.into())
    );
    assert_eq!(
        (&text["masked"], &text["mask"]),
        (&true.into(), &"12345678".into())
    );
    assert_eq!(text["payload"], "Hello, \u{4e16}\u{1b}[2J");
    let binary = &events[2];
    assert_eq!(
        (&binary["len"], &binary["masked"]),
        (&256.into(), &false.into())
    );
    assert_eq!(binary["payload_hex"], "ee".repeat(256));
    assert_eq!(events[4]["rtt_ns"], 1_000_000);
    assert_eq!(
        (&events[5]["code"], &events[5]["reason"]),
        (&1001.into(), &"bye".into())
    );

    let close = &events[7];
    assert_eq!(
        (&close["kind"], &close["initiator"]),
        (&"clean".into(), &"server".into())
    );
    assert_eq!(
        (&close["code"], &close["reason"]),
        (&1001.into(), &"bye".into())
    );
    assert_eq!(
        close["frames"],
        serde_json::json!({
            "client_to_server": { "text": 1, "close": 1, "pong": 1 },
            "server_to_client": { "binary": 1, "close": 1, "ping": 1 },
        })
    );
    assert_eq!(close["bytes"]["server_to_client"]["binary"], 256);
    assert_eq!(close["tcp"]["client_to_server"]["retransmitted"], 0);
}

#[test]
fn a_selection_selects() {
    let capture = Conversation::whole().write();
    let selected = |flags: &[&str]| {
        let args = [&["read", "-o", "json", capture.path()], flags].concat();
        let events = events(&run(&args));
        kinds(&events).join(" ")
    };
    assert_eq!(selected(&["--opcode", "ping,pong"]), "ping pong");
    assert_eq!(selected(&["--event", "message"]), "message message");
    assert_eq!(selected(&["-n", "2"]), "handshake text");
    assert_eq!(selected(&["--direction", "c2s"]), "text pong close");
    assert_eq!(
        selected(&["--close-code", "1001", "--event", "close"]),
        "close"
    );
    assert_eq!(selected(&["--host", "other.example"]), "");
    assert_eq!(
        selected(&["--path", "/chat", "--min-size", "256"]),
        "binary"
    );
    // The capture's time: the request is sent 3 ms, the answer 4 ms after its beginning.
    assert_eq!(selected(&["--duration", "3ms"]), "handshake");
    assert_eq!(selected(&["--duration", "5ms"]), "handshake text close");
}

#[test]
fn text_is_for_eyes_and_harmless() {
    let capture = Conversation::whole().write();
    let output = run(&["read", "--payload", capture.path()]);
    assert_eq!(status(&output), 0);
    assert!(!output.stdout.contains(&0x1b), "{}", stdout(&output));
    let lines: Vec<_> = stdout(&output).lines().collect();
    assert_eq!(lines.len(), 8);
    assert!(
        lines[0].contains("accepted 101 GET /chat?room=1"),
        "{}",
        lines[0]
    );
    assert!(
        lines[1].contains("\"Hello, \u{4e16}\\u{1b}[2J\""),
        "{}",
        lines[1]
    );
    assert!(
        lines[7].contains("clean by server  1001 Going Away \"bye\""),
        "{}",
        lines[7]
    );

    let output = run(&["read", "--color", "always", capture.path()]);
    assert!(output.stdout.contains(&0x1b));
}

#[test]
fn a_summary_has_a_row_for_each_connection() {
    let capture = Conversation::whole().write();
    let output = run(&["read", "--summary", capture.path()]);
    assert_eq!(status(&output), 0);
    let lines: Vec<_> = stdout(&output).lines().collect();
    assert!(lines[0].starts_with("CLIENT"), "{}", lines[0]);
    assert!(
        lines[1].contains("server.example.com/chat?room=1"),
        "{}",
        lines[1]
    );
    assert!(
        stdout(&output).contains("-> 3 frames, 1 message"),
        "{}",
        stdout(&output)
    );
}

#[test]
fn metrics_are_those_that_run_would_serve() {
    let capture = Conversation::whole().write();
    let output = run(&["read", "--metrics", capture.path()]);
    assert_eq!(status(&output), 0);
    let text = stdout(&output);
    assert!(
        text.contains("# TYPE websocket_frames_total counter"),
        "{text}"
    );
    let closed = text
        .lines()
        .find(|line| line.starts_with("websocket_connections_closed_total{"));
    let closed = closed.unwrap();
    assert!(
        closed.contains("code=\"1001\"") && closed.ends_with(" 1"),
        "{closed}"
    );
}

#[test]
fn two_runs_print_the_same_bytes() {
    let capture = Conversation::whole().write();
    for args in [
        &["-o", "json"][..],
        &["-o", "text"],
        &["--summary"],
        &["--metrics"],
    ] {
        let args = [&["read", capture.path()], args].concat();
        assert_eq!(run(&args).stdout, run(&args).stdout, "{args:?}");
    }
}

#[test]
fn standard_input_is_read_and_answered_while_it_goes_on() {
    let mut conversation = Conversation::open();
    let mut child = wstap()
        .args(["read", "-o", "json", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        stdout
            .lines()
            .try_for_each(|line| sender.send(line.unwrap()))
    });
    let mut written = 0;
    let mut exchange = |conversation: &Conversation, expected: &str| {
        let bytes = conversation.pcap.bytes();
        stdin.write_all(&bytes[written..]).unwrap();
        written = bytes.len();
        // Standard input stays open: what is printed is printed now.
        let line = lines
            .recv_timeout(PATIENCE)
            .expect("a line while standard input is open");
        assert!(line.contains(expected), "{line}");
    };
    exchange(&conversation, r#""event":"handshake""#);
    conversation.send(CLIENT, &masked(0x81, b"hi"));
    exchange(&conversation, r#""opcode":"text""#);
    drop(stdin);
    assert!(
        lines
            .recv_timeout(PATIENCE)
            .unwrap()
            .contains(r#""kind":"eof""#)
    );
    assert!(lines.recv_timeout(PATIENCE).is_err());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_big_capture_stops_early_when_its_reader_goes() {
    let mut conversation = Conversation::open();
    for _ in 0..20_000 {
        conversation.send(CLIENT, &masked(0x81, b"hello"));
    }
    let capture = conversation.write();
    let mut child = wstap()
        .args(["read", capture.path()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 100];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(status(&output), 0);
    assert_eq!(stderr(&output), "");
}
