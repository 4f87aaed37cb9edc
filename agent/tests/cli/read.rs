//! Capture files: what becomes of them, and of those that are damaged or none.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Write},
    process::Stdio,
    sync::mpsc,
    thread,
    time::Duration,
};

use serde_json::Value;

use super::{
    conversation::{CLIENT, Capture, Conversation, masked},
    events, failure, kinds, run, status, stderr, stdout, wstap,
};

/// How long a line may take that is to be printed at once.
const PATIENCE: Duration = Duration::from_secs(20);

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
