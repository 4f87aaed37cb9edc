//! What the commands that watch a machine need, and what they listen to.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::{Command, Output, Stdio},
};

use super::{WSTAP, conversation::Conversation, events, failure, misuse, stdout, wstap};

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

/// Runs the command as a user without any privilege.
fn unprivileged(args: &[&str]) -> Output {
    let nobody = 65_534;
    // Where the build is, nobody may be allowed to look.
    let dir = tempfile::tempdir().unwrap();
    let binary = dir.path().join("wstap");
    // By a process of its own: what this one writes, its other threads' children may still hold open
    // when it is to be run (ETXTBSY).
    let copied = Command::new("cp").arg(WSTAP).arg(&binary).status();
    assert!(copied.unwrap().success());
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
fn kubernetes_that_is_asked_for_has_to_be_configured() {
    let nowhere = tempfile::tempdir().unwrap();
    let broken = nowhere.path().join("broken");
    fs::write(&broken, "clusters: [").unwrap();
    let missing = nowhere.path().join("missing");
    for command in ["run", "trace"] {
        for (kubeconfig, words) in [
            (None, ["no service account", "--kubernetes off"]),
            (Some(&missing), ["missing", "--kubernetes off"]),
            (Some(&broken), ["broken", "--kubernetes off"]),
        ] {
            let mut wstap = wstap();
            wstap.args([command, "--kubernetes", "on", "-i", "none"]);
            if command == "run" {
                wstap.args(["--listen", "127.0.0.1:0"]);
            }
            wstap
                .env_remove("KUBERNETES_SERVICE_HOST")
                .env("HOME", nowhere.path());
            match kubeconfig {
                Some(path) => wstap.env("KUBECONFIG", path),
                None => wstap.env_remove("KUBECONFIG"),
            };
            let output = wstap.output().unwrap();
            let line = failure(&output);
            for word in words {
                assert!(line.contains(word), "{command}: {line}");
            }
        }
    }
    let output = super::run(&["trace", "--node-name", "a,b"]);
    assert!(misuse(&output).contains("--node-name"));
}
