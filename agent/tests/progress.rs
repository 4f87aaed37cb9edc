//! The progress of `wstap read`: seen on a terminal, by nobody else, and never in the way of what is
//! printed.

use std::{
    fs::{self, File},
    io::{Read, Write},
    process::{ChildStdin, Command, Stdio},
    thread,
    time::Duration,
};

use nix::pty::{Winsize, openpty};

#[path = "support/conversation.rs"]
mod conversation;
#[path = "support/pcap.rs"]
mod pcap;

use conversation::Conversation;

/// Longer than what is read without a bar.
const LONG: Duration = Duration::from_millis(1300);

fn wstap(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wstap"));
    command.args(args).arg("-").env("TERM", "xterm");
    command.stdin(Stdio::piped());
    command
}

/// Sends the capture in two pieces, of which the second is late and comes with its own last byte.
fn send_slowly(mut stdin: ChildStdin, capture: &[u8]) {
    let (last, most) = capture.split_last().unwrap();
    let (first, second) = most.split_at(most.len() / 2);
    stdin.write_all(first).unwrap();
    thread::sleep(LONG);
    stdin.write_all(second).unwrap();
    thread::sleep(LONG / 4);
    stdin.write_all(&[*last]).unwrap();
}

fn capture() -> Vec<u8> {
    fs::read(Conversation::whole().write().path()).unwrap()
}

/// What a terminal gets that is standard error, and standard output where `both` says so; and what
/// standard output got elsewhere.
fn on_a_terminal(args: &[&str], both: bool) -> (String, String) {
    let size = Winsize {
        ws_row: 24,
        ws_col: 80,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let pty = openpty(Some(&size), None).unwrap();
    let stdout = if both {
        Stdio::from(pty.slave.try_clone().unwrap())
    } else {
        Stdio::piped()
    };
    let mut command = wstap(args);
    let mut child = command.stdout(stdout).stderr(pty.slave).spawn().unwrap();
    // The terminal is over when nobody has it any more.
    drop(command);
    let stdin = child.stdin.take().unwrap();
    let sender = thread::spawn(move || send_slowly(stdin, &capture()));
    let mut screen = Vec::new();
    let mut terminal = File::from(pty.master);
    let mut piece = [0; 4096];
    while let Ok(n @ 1..) = terminal.read(&mut piece) {
        screen.extend_from_slice(&piece[..n]);
    }
    let mut printed = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_string(&mut printed).unwrap();
    }
    sender.join().unwrap();
    assert!(child.wait().unwrap().success());
    (String::from_utf8(screen).unwrap(), printed)
}

/// Erases the line that the cursor is in.
const ERASED: &str = "\r\u{1b}[2K";

#[test]
fn nobody_sees_it_where_there_is_no_terminal() {
    let mut child = wstap(&["read", "--summary"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stdin = child.stdin.take().unwrap();
    send_slowly(stdin, &capture());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(printed.contains("1 handshake: 1 accepted"), "{printed}");
}

#[test]
fn it_is_shown_and_erased() {
    let (screen, printed) = on_a_terminal(&["read", "-o", "json"], false);
    assert!(screen.contains(" read, "), "{screen:?}");
    let (_, behind) = screen.rsplit_once(" read, ").unwrap();
    assert!(behind.ends_with(ERASED), "{screen:?}");
    assert_eq!(printed.lines().count(), 8);
    assert!(!printed.contains('\u{1b}'), "{printed:?}");
}

#[test]
fn it_makes_way_for_what_is_printed() {
    let (screen, _) = on_a_terminal(&["read", "--summary"], true);
    let (progress, table) = screen.split_once("CLIENT").unwrap();
    assert!(progress.contains(" read, "), "{screen:?}");
    assert!(progress.ends_with(ERASED), "{screen:?}");
    assert!(!table.contains(" read, "), "{screen:?}");
}

#[test]
fn events_that_scroll_by_are_enough() {
    let (screen, _) = on_a_terminal(&["read", "-o", "json"], true);
    assert_eq!(screen.lines().count(), 8, "{screen:?}");
    assert!(!screen.contains(" read, "), "{screen:?}");
}
