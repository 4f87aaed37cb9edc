//! wstap at the server's end: as the agent, or tracing.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use super::child::Guarded;
use super::namespace::Side;
use super::program::{OURS, attached};
use super::traffic::Sent;
use crate::{http, interrupt, workspace};

/// How long wstap may take to attach, and to end.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long the agent may take to have counted what was sent.
const SETTLE: Duration = Duration::from_secs(5);
/// Of the agent, in the server's namespace.
const LISTEN: ([u8; 4], u16) = ([127, 0, 0, 1], 9466);
/// The default ring buffer.
pub const RING: u64 = 16 << 20;

/// Names of the metric's label, by opcode.
const OPCODES: [(&str, u8); 6] = [
    ("continuation", 0),
    ("text", 1),
    ("binary", 2),
    ("close", 8),
    ("ping", 9),
    ("pong", 10),
];

/// A running wstap.
pub struct Wstap<'a> {
    pub process: Guarded,
    /// The program at ingress.
    pub program: u64,
    side: &'a Side,
    log: PathBuf,
}

impl<'a> Wstap<'a> {
    /// `wstap run`, copying headers alone, attached and ready.
    pub fn run(side: &'a Side, binary: &Path, more: &[&str]) -> Result<Self> {
        let listen = SocketAddr::from(LISTEN).to_string();
        let args = ["run", "--copy", "headers", "--listen", &listen];
        let mut wstap = Self::start(
            side,
            binary,
            &[&args[..], more].concat(),
            Path::new("/dev/null"),
        )?;
        let begun = Instant::now();
        while !side.within(|| Ok(matches!(http::get(LISTEN.into(), "/readyz"), Ok((200, _)))))? {
            wstap.wait(begun)?;
        }
        Ok(wstap)
    }

    /// `wstap trace -o json`, copying headers alone, with its events to a file.
    pub fn trace(side: &'a Side, binary: &Path, events: &Path, more: &[&str]) -> Result<Self> {
        let args = ["trace", "--copy", "headers", "-o", "json"];
        Self::start(side, binary, &[&args[..], more].concat(), events)
    }

    fn start(side: &'a Side, binary: &Path, args: &[&str], out: &Path) -> Result<Self> {
        let log = workspace::target().join(format!("{}-wstap.log", side.device));
        let errors =
            File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let out = File::create(out).with_context(|| format!("cannot write {}", out.display()))?;
        let mut command = side.command(binary);
        command
            .args(args)
            .args(["--interface", &side.device])
            .stdout(out)
            .stderr(Stdio::from(errors));
        let mut wstap = Self {
            process: Guarded::spawn(&mut command)?,
            program: 0,
            side,
            log,
        };
        let begun = Instant::now();
        loop {
            // By a link where there is TCX, else by a filter.
            let linked = wstap.process.at_ingress().ok().flatten();
            let program = match linked {
                Some(program) => Some(program),
                None => attached(side, OURS)?,
            };
            if let Some(program) = program {
                wstap.program = program;
                return Ok(wstap);
            }
            wstap.wait(begun)?;
        }
    }

    fn wait(&mut self, begun: Instant) -> Result<()> {
        interrupt::pause(Duration::from_millis(20))?;
        self.process.check().with_context(|| self.said())?;
        if begun.elapsed() > PATIENCE {
            bail!("wstap is not ready after {PATIENCE:?}: {}", self.said());
        }
        Ok(())
    }

    /// What it said on standard error.
    pub fn said(&self) -> String {
        let said = fs::read_to_string(&self.log).unwrap_or_default();
        said.trim().to_owned()
    }

    /// What `/metrics` says.
    pub fn metrics(&self) -> Result<Metrics> {
        let (status, text) = self.side.within(|| http::get(LISTEN.into(), "/metrics"))?;
        if status != 200 {
            bail!("/metrics answers {status}");
        }
        Ok(Metrics { text })
    }

    /// What `/metrics` says once it has counted these frames of both directions, or after some seconds
    /// in which it has not.
    pub fn settled(&self, sent: &[Sent; 2]) -> Result<Metrics> {
        let begun = Instant::now();
        loop {
            let metrics = self.metrics()?;
            if metrics.counted() == *sent || begun.elapsed() > SETTLE {
                return Ok(metrics);
            }
            interrupt::pause(Duration::from_millis(50))?;
        }
    }

    /// Ends it in order. Returns what it said.
    pub fn stop(mut self, signal: Signal) -> Result<String> {
        self.process
            .stop(signal, PATIENCE)
            .with_context(|| self.said())?;
        Ok(self.said())
    }
}

/// An exposition.
pub struct Metrics {
    text: String,
}

impl Metrics {
    /// Sum of a metric's samples that have all these labels.
    pub fn sum(&self, metric: &str, labels: &[(&str, &str)]) -> f64 {
        let wanted: Vec<_> = labels
            .iter()
            .map(|(name, value)| format!("{name}=\"{value}\""))
            .collect();
        let samples = self.text.lines().filter_map(|line| {
            let rest = line.strip_prefix(metric)?;
            let (labels, value) = rest.rsplit_once(' ')?;
            let is_metric = labels.is_empty() || labels.starts_with('{');
            (is_metric && wanted.iter().all(|label| labels.contains(label)))
                .then(|| value.parse::<f64>().ok())?
        });
        samples.sum()
    }

    /// Frames and payload bytes of both directions, the client's first.
    pub fn counted(&self) -> [Sent; 2] {
        ["client_to_server", "server_to_client"].map(|direction| {
            let mut counted = Sent::default();
            for (name, opcode) in OPCODES {
                let labels = [("direction", direction), ("opcode", name)];
                let sum = |metric| self.sum(metric, &labels) as u64;
                counted.add(
                    opcode,
                    sum("websocket_frames_total"),
                    sum("websocket_frame_payload_bytes_total"),
                );
            }
            counted
        })
    }

    /// Packets by what the kernel program did with them.
    pub fn packets(&self) -> BTreeMap<&'static str, f64> {
        let verdicts = [
            "not_tcp",
            "ignored",
            "undecided",
            "passed",
            "walked",
            "set_aside",
            "sampled",
            "missed",
        ];
        let of = |verdict| self.sum("wstap_kernel_packets_total", &[("verdict", verdict)]);
        verdicts
            .into_iter()
            .map(|verdict| (verdict, of(verdict)))
            .collect()
    }

    /// Directions that have lost their place and not found it again.
    pub fn places(&self) -> (f64, f64) {
        (
            self.sum("wstap_kernel_places_lost_total", &[]),
            self.sum("wstap_kernel_places_found_total", &[]),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_samples_by_their_labels() {
        let text = "# TYPE lost counter\nlost{reason=\"a b\",way=\"x\"} 2\nlost{reason=\"c\"} 3\n\
                    losses 9\nplain 7\n";
        let metrics = Metrics {
            text: text.to_owned(),
        };
        assert_eq!(metrics.sum("lost", &[]), 5.0);
        assert_eq!(metrics.sum("lost", &[("reason", "a b")]), 2.0);
        assert_eq!(metrics.sum("plain", &[]), 7.0);
        assert_eq!(metrics.sum("found", &[]), 0.0);
    }

    #[test]
    fn counts_are_read_by_direction_and_opcode() {
        let line = |direction, opcode, value| {
            format!("{{server=\"s\",direction=\"{direction}\",opcode=\"{opcode}\"}} {value}\n")
        };
        let mut text = String::new();
        for (metric, value) in [
            ("websocket_frames_total", 3),
            ("websocket_frame_payload_bytes_total", 192),
        ] {
            text += metric;
            text += &line("client_to_server", "binary", value);
        }
        let [client, server] = Metrics { text }.counted();
        assert_eq!((client.frames[2], client.bytes[2]), (3, 192));
        assert_eq!(server, Sent::default());
    }
}
