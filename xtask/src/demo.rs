//! `cargo xtask run --demo`: something to see. A WebSocket server and its clients on loopback, the
//! agent with `/metrics` behind them, the trace in the terminal before them.

mod clients;
mod server;

use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command as StdCommand, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::{build, http, process, run, workspace};

/// Where the agent serves by default.
const METRICS_PORT: u16 = 9466;
/// Where the demonstration's server listens, if nobody else does.
const CHAT_PORT: u16 = 7681;

/// How long the agent may take to attach.
const READY_LIMIT: Duration = Duration::from_secs(15);
/// How long wstap may take to end when it is asked to.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// Metrics of which the excerpt at the end shows every series.
const EXCERPT: [&str; 5] = [
    "websocket_handshakes_total",
    "websocket_connections_active",
    "websocket_connections_closed_total",
    "websocket_frames_total",
    "websocket_protocol_violations_total",
];
const EXCERPT_LINES: usize = 40;

/// Sets up and builds unless that is done, then demonstrates for `duration` or until Ctrl-C.
pub fn command(duration: Option<Duration>, built: bool) -> Result<()> {
    if !built {
        build::release_binary()?;
    }
    if !process::is_root() {
        let this = std::env::current_exe().context("cannot tell which program this is")?;
        let mut again = StdCommand::new(this);
        again.args(["run", "--demo", "--built"]);
        if let Some(duration) = duration {
            again.arg("--for").arg(duration.as_secs_f64().to_string());
        }
        match run::become_command(again, true)? {}
    }
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")?
        .block_on(demonstrate(&workspace::release_binary(), duration))
}

async fn demonstrate(wstap: &Path, duration: Option<Duration>) -> Result<()> {
    // From here on both signals come as events: nothing is left running.
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot catch SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot catch SIGTERM")?;

    let metrics = free_address(METRICS_PORT)?;
    let chat = server::Listeners::bind(CHAT_PORT).await?;
    let log = workspace::target().join("demo-agent.log");

    let mut agent = Wstap::agent(wstap, metrics, &log)?;
    let ready = tokio::select! {
        ready = agent.ready(metrics) => ready,
        _ = interrupt.recv() => return agent.stop("TERM").await,
        _ = terminate.recv() => return agent.stop("TERM").await,
    };
    if let Err(error) = ready {
        agent.stop("TERM").await?;
        let said = fs::read_to_string(&log).unwrap_or_default();
        bail!(
            "{error:#}. Its log, {}:\n{}",
            log.display(),
            said.trim_end()
        );
    }
    banner(metrics, &chat, &log, duration);

    let mut trace = Wstap::trace(wstap, chat.port())?;
    // It attaches meanwhile, and so sees the first handshakes.
    sleep(Duration::from_secs(1)).await;
    let mut tasks = JoinSet::new();
    let addresses = chat.addresses();
    chat.serve(&mut tasks);
    let endings = clients::start(&mut tasks, &addresses);
    let ended = tokio::select! {
        status = trace.child.wait() => Some(status),
        () = elapsed(duration) => None,
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
    };
    let excerpt = excerpt(metrics);
    // Aborts and awaits: no socket of the demonstration outlives it.
    tasks.shutdown().await;
    let traced = match ended {
        Some(status) => {
            let status = status.context("cannot wait for `wstap trace`")?;
            (!status.success()).then(|| format!("`wstap trace` ended by itself ({status})"))
        }
        None => trace.stop("INT").await.err().map(|e| format!("{e:#}")),
    };
    agent.stop("TERM").await?;
    println!("\nWhat the clients did, sessions by their end:\n");
    for (end, count) in endings.counts() {
        println!("{end:<20}{count:>4}");
    }
    match excerpt {
        Ok(lines) => println!("\nFrom http://{metrics}/metrics at the end:\n\n{lines}"),
        Err(error) => eprintln!("xtask: no metrics at the end: {error:#}"),
    }
    match traced {
        Some(error) => bail!(error),
        None => Ok(()),
    }
}

async fn elapsed(duration: Option<Duration>) {
    match duration {
        Some(duration) => sleep(duration).await,
        None => std::future::pending().await,
    }
}

/// A loopback address with this port, or another if it is taken.
fn free_address(port: u16) -> Result<SocketAddr> {
    let wanted = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    match TcpListener::bind(wanted) {
        Ok(_) => Ok(wanted),
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
                .context("cannot find a free port for /metrics")?;
            let other = listener.local_addr().context("cannot ask for a port")?;
            println!("Port {port} is taken: /metrics is on port {}", other.port());
            Ok(other)
        }
        Err(error) => Err(error).with_context(|| format!("cannot listen on {wanted}")),
    }
}

fn banner(metrics: SocketAddr, chat: &server::Listeners, log: &Path, duration: Option<Duration>) {
    let addresses: Vec<_> = chat
        .addresses()
        .iter()
        .map(|a| format!("ws://{a}"))
        .collect();
    println!("WebSockets  {}", addresses.join("  "));
    println!("Metrics     http://{metrics}/metrics");
    println!("Agent's log {}", log.display());
    match duration {
        Some(duration) => println!("Ends after {} s or on Ctrl-C\n", duration.as_secs_f64()),
        None => println!("Ctrl-C ends it\n"),
    }
}

/// A running wstap. It is in a process group of its own, so that Ctrl-C on the terminal comes here
/// first and the order in which things end is ours.
struct Wstap {
    child: Child,
}

impl Wstap {
    fn agent(wstap: &Path, metrics: SocketAddr, log: &Path) -> Result<Self> {
        let out = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let err = out.try_clone().context("cannot share the log")?;
        let mut command = Command::new(wstap);
        command
            .args(["run", "--interface", "lo", "--listen", &metrics.to_string()])
            .stdout(out)
            .stderr(err);
        Self::start(command)
    }

    fn trace(wstap: &Path, port: u16) -> Result<Self> {
        let mut command = Command::new(wstap);
        command.args(["trace", "--interface", "lo", "--port", &port.to_string()]);
        Self::start(command)
    }

    fn start(mut command: Command) -> Result<Self> {
        let child = command
            .stdin(Stdio::null())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot run `{}`", process::shown(command.as_std())))?;
        Ok(Self { child })
    }

    /// Waits until the agent answers that it is attached.
    async fn ready(&mut self, metrics: SocketAddr) -> Result<()> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().context("cannot look at the agent")? {
                bail!("`wstap run` ended by itself ({status})");
            }
            let said = match http::get(metrics, "/readyz") {
                Ok((200, _)) => return Ok(()),
                Ok((status, body)) => format!("it answers {status}, {}", body.trim()),
                Err(error) => format!("{error:#}"),
            };
            if begun.elapsed() > READY_LIMIT {
                bail!("`wstap run` is not ready after {READY_LIMIT:?}: {said}");
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Asks it to end with a signal, and waits until it has.
    async fn stop(&mut self, signal: &str) -> Result<()> {
        let Some(pid) = self.child.id() else {
            return Ok(());
        };
        let mut kill = StdCommand::new("sh");
        kill.args([
            "-c",
            "kill -s \"$1\" \"$2\"",
            "sh",
            signal,
            &pid.to_string(),
        ]);
        process::capture(&mut kill)?;
        match timeout(STOP_LIMIT, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => bail!("wstap did not end well after SIG{signal}: {status}"),
            Ok(Err(error)) => Err(error).context("cannot wait for wstap"),
            Err(_) => {
                self.child.kill().await.context("cannot kill wstap")?;
                bail!("wstap did not end within {STOP_LIMIT:?} of SIG{signal} and was killed");
            }
        }
    }
}

/// The lines of the exposition that tell most.
fn excerpt(metrics: SocketAddr) -> Result<String> {
    let (status, body) = http::get(metrics, "/metrics")?;
    if status != 200 {
        bail!("/metrics answers {status}");
    }
    let shown: Vec<_> = body.lines().filter(|line| is_excerpt(line)).collect();
    let mut text = shown[..shown.len().min(EXCERPT_LINES)].join("\n");
    if shown.len() > EXCERPT_LINES {
        text += &format!("\n... and {} more like these", shown.len() - EXCERPT_LINES);
    }
    Ok(text)
}

fn is_excerpt(line: &str) -> bool {
    let name = line.split(['{', ' ']).next().unwrap_or_default();
    EXCERPT.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_excerpt_leaves_out_comments_and_buckets() {
        assert!(is_excerpt("websocket_frames_total{opcode=\"text\"} 3"));
        assert!(is_excerpt("websocket_connections_active 3"));
        assert!(!is_excerpt("# HELP websocket_frames_total Frames."));
        assert!(!is_excerpt("websocket_frames_totals 3"));
        assert!(!is_excerpt("process_open_fds 9"));
    }

    /// Every kind of ending that the demonstration promises happens soon.
    #[tokio::test(flavor = "multi_thread")]
    async fn every_client_reaches_its_end() {
        let listeners = server::Listeners::bind(0).await.unwrap();
        let addresses = listeners.addresses();
        let mut tasks = JoinSet::new();
        listeners.serve(&mut tasks);
        let endings = clients::start(&mut tasks, &addresses);
        let wait = async {
            while endings.counts().any(|(_, count)| count == 0) {
                sleep(Duration::from_millis(20)).await;
            }
        };
        let all = timeout(Duration::from_secs(30), wait).await;
        let seen: Vec<_> = endings.counts().collect();
        assert!(all.is_ok(), "sessions by their ends: {seen:?}");
        tasks.shutdown().await;
        assert!(tasks.is_empty());
    }
}
