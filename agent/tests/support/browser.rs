//! A browser as client: headless Chromium, and the server that it talks to,
//! `tests/peers/browser.py`.

use std::{net::SocketAddr, os::unix::process::CommandExt as _, time::Duration};

use nix::sys::signal::{Signal, killpg};
use serde_json::Value;
use tempfile::TempDir;

use super::{agent::Process, eventually, machine, netns::Netns, tally::Report};

/// Its processes, which are killed when this is dropped.
pub struct Browser {
    process: Process,
    _folder: TempDir,
}

impl Browser {
    /// Opens a page.
    #[track_caller]
    pub fn open(ns: &Netns, url: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = ns.command("chromium");
        command
            .args(["--headless", "--disable-gpu", "--disable-breakpad"])
            // It refuses to run as root in a sandbox.
            .arg("--no-sandbox")
            .args([
                "--disable-background-networking",
                "--disable-component-update",
            ])
            .args([
                "--no-first-run",
                "--disable-sync",
                // Containers have little shared memory.
                "--disable-dev-shm-usage",
                // A page that is left would be kept, and its WebSocket with it.
                "--disable-features=BackForwardCache",
                "--remote-debugging-port=0",
            ])
            .arg(format!("--user-data-dir={}", folder.path().display()))
            .arg(url)
            .env("HOME", folder.path())
            .env("TMPDIR", folder.path())
            .process_group(0);
        Self {
            process: Process::spawn(command),
            _folder: folder,
        }
    }

    /// Sends a signal: one that asks to the process that governs the others, SIGKILL to all at once.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        match signal {
            Signal::SIGKILL => killpg(self.process.pid(), signal).expect("a group of processes"),
            _ => self.process.signal(signal),
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The process that was started is one of many.
        let _ = killpg(self.process.pid(), Signal::SIGKILL);
    }
}

/// What a page's server saw.
pub struct Seen {
    /// In frames.
    pub report: Report,
    /// What the page said of itself.
    pub page: Value,
    /// Lengths of the messages that the page sent, and got back, in bytes.
    pub sizes: Vec<u64>,
}

/// The server of a page.
pub struct Site(Process);

impl Site {
    /// Serves until the WebSocket is over, and where the page lives so long, until it has said what
    /// it saw.
    #[track_caller]
    pub fn serve(ns: &Netns, on: SocketAddr, reports: bool) -> Self {
        let mut command = ns.command(machine::python());
        command.arg(machine::script("browser.py"));
        command.args(["--host", &on.ip().to_string()]);
        command.args(["--port", &on.port().to_string()]);
        command.args(reports.then_some("--report"));
        let site = Self(Process::spawn(command));
        site.must_say("ready");
        site
    }

    /// Waits for a word on its standard output.
    #[track_caller]
    pub fn must_say(&self, word: &str) {
        eventually(
            &format!("the page's server says {word}"),
            Duration::from_secs(20),
            || {
                let said = self.0.stdout().lines().any(|line| line == word);
                said.then_some(()).ok_or_else(|| self.0.stderr())
            },
        );
    }

    /// Waits for its end.
    #[track_caller]
    pub fn seen(self) -> Seen {
        let (status, stdout) = self.0.wait(Duration::from_secs(30));
        assert!(status.success(), "the page's server ended with {status}");
        let json = stdout
            .lines()
            .find(|line| line.starts_with('{'))
            .expect("a report");
        let mut json: Value = serde_json::from_str(json).expect("JSON");
        let sizes = json["sizes"].as_array().expect("a list");
        Seen {
            report: Report::from_json(&json),
            sizes: sizes.iter().filter_map(Value::as_u64).collect(),
            page: json["page"].take(),
        }
    }
}
