//! `cargo xtask bench`: what wstap costs, in one table.
//!
//! Client and server are in two network namespaces with a veth pair between them, wstap is at the
//! server's end. Every figure is a ratio of two things that were measured one after the other in this
//! run, a count, or a statistic that the kernel keeps: what else the machine does changes all figures a
//! little and none by much. `docs/performance.md` says what each means.

pub mod agent;
mod application;
pub mod child;
mod first;
pub mod namespace;
mod others;
mod packet;
pub mod program;
mod quick;
mod scale;
pub mod statistics;
pub mod table;
mod traced;
pub mod traffic;
mod whole;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde_json::{Value, json};

use self::namespace::Pair;
use self::table::{Required, Row};
use self::traffic::{Amount, Done, Load, Plain, Sent, Server};
use crate::{build, interrupt, process, workspace};

/// Where the server listens.
const PORT: u16 = 9000;

/// What is measured.
#[derive(clap::Args)]
pub struct Args {
    /// Only this group of figures (repeatable)
    #[arg(long, value_name = "NAME")]
    only: Vec<Group>,
    /// With and without wstap, so often; fewer than 15 pairs tell little
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pairs: u16,
    /// How long one load is sent
    #[arg(long, value_name = "SECONDS", default_value = "0.4", value_parser = crate::seconds)]
    sample: Duration,
    /// How long directions are watched at full speed in the group `whole`, in all
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = crate::seconds)]
    full_speed: Duration,
    /// Only see that everything is counted, in less than a minute: no figure, no judgement of speed
    #[arg(long, conflicts_with_all = ["only", "json"])]
    quick: bool,
    /// Write the table as JSON, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The binary; built with optimisations if not given
    #[arg(long, value_name = "PATH")]
    wstap: Option<PathBuf>,
}

/// Figures that are taken together.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Group {
    /// Kernel time a packet
    Kernel,
    /// Throughput left to the application; what `run` counts, copies and takes
    Application,
    /// Time that a direction is copied whole
    Whole,
    /// What `trace` reports, copies and takes
    Trace,
    /// Time to the first event
    First,
    /// A hundred thousand connections
    Scale,
    /// Others beside wstap
    Others,
}

/// What all groups need.
pub struct Bench<'a> {
    pair: &'a Pair,
    server: &'a Server,
    wstap: &'a Path,
    /// For files that are large.
    folder: &'a Path,
    pairs: usize,
    sample: Duration,
    full_speed: Duration,
}

impl Bench<'_> {
    /// Where the server listens.
    fn address(&self) -> SocketAddr {
        Pair::watched(PORT)
    }

    /// Plays a client.
    fn client(&self, load: Load) -> Result<Done> {
        self.client_to(self.address(), load)
    }

    /// Plays a client over the pair at which nothing is attached.
    fn bare_client(&self, load: Load) -> Result<Done> {
        self.client_to(Pair::bare(PORT), load)
    }

    fn client_to(&self, address: SocketAddr, load: Load) -> Result<Done> {
        interrupt::check()?;
        let done = self.pair.client.within(|| traffic::client(address, load))?;
        interrupt::check()?;
        Ok(done)
    }

    /// Sends what is no WebSocket.
    fn plain(&self, kind: Plain, size: usize, amount: Amount) -> Result<()> {
        interrupt::check()?;
        let address = self.address();
        let client = &self.pair.client;
        client.within(|| traffic::plain(address, kind, size, amount))?;
        interrupt::check()
    }

    fn progress(&self, what: &str, round: usize) {
        eprintln!("{what}: {} of {}", round + 1, self.pairs);
    }
}

/// What both ends have sent since it was opened.
struct Ledger {
    client: Sent,
    server_before: Sent,
}

impl Ledger {
    fn new(bench: &Bench<'_>) -> Self {
        Self {
            client: Sent::default(),
            server_before: bench.server.sent(),
        }
    }

    fn add(&mut self, done: &Done) {
        self.client += done.sent;
    }

    /// The clients' and the server's.
    fn sent(&self, bench: &Bench<'_>) -> [Sent; 2] {
        [self.client, bench.server.sent() - self.server_before]
    }
}

/// Frames counted / sent, both directions, all opcodes, and the bytes with them.
fn counted(name: &str, sent: &[Sent; 2], counted: &[Sent; 2]) -> Row {
    let frames = |of: &[Sent; 2]| of.iter().map(Sent::all_frames).sum::<u64>();
    let bytes = |of: &[Sent; 2]| of.iter().map(Sent::all_bytes).sum::<u64>();
    // The sums may agree by accident: each opcode of each direction has to.
    let ratio = frames(counted) as f64 / frames(sent) as f64;
    let same = sent == counted;
    Row {
        figure: format!("frames counted / sent: {name}"),
        measured: if same || ratio != 1.0 {
            ratio
        } else {
            f64::NAN
        },
        interval: None,
        unit: "",
        required: Some(Required::Exactly(1.0)),
        note: format!(
            "frames {} of {}, payload bytes {} of {}",
            frames(counted),
            frames(sent),
            bytes(counted),
            bytes(sent)
        ),
    }
}

/// Folder that goes with what is in it.
struct Folder(PathBuf);

impl Folder {
    fn make() -> Result<Self> {
        let path = workspace::target().join(format!("xtask/bench-{}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What stays is seen.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What is needed besides wstap.
pub fn require_tools() -> Result<()> {
    if !process::is_root() {
        bail!("namespaces and programs need root: run it as root, or with `sudo -E`");
    }
    for (program, package) in [
        ("ip", "iproute2"),
        ("tc", "iproute2"),
        ("bpftool", "bpftool"),
    ] {
        if process::find(program).is_none() {
            bail!("{program} is missing: install the package {package}");
        }
    }
    Ok(())
}

/// The binary that is meant: this one, or the one that is built now.
pub fn binary(given: Option<&Path>) -> Result<PathBuf> {
    match given {
        Some(path) => fs::canonicalize(path).with_context(|| format!("no {}", path.display())),
        None => {
            build::release_binary()?;
            Ok(workspace::release_binary())
        }
    }
}

/// Measures and prints a table.
pub fn command(args: &Args) -> Result<()> {
    require_tools()?;
    let wstap = binary(args.wstap.as_deref())?;
    if args.quick {
        return check(&wstap);
    }
    interrupt::catch()?;
    let mut rows = Vec::new();
    let done = with_bench(&wstap, args, |bench| groups(bench, &args.only, &mut rows));
    // What was measured before something failed is not lost.
    let about = about()?;
    println!("{}", table::text(&rows));
    println!("{}", about_text(&about));
    if let Some(path) = &args.json {
        table::write_json(path, &about, &rows)?;
    }
    done
}

/// Sees that everything is counted: what `cargo xtask test` runs.
pub fn check(wstap: &Path) -> Result<()> {
    interrupt::catch()?;
    let args = Args {
        only: Vec::new(),
        pairs: 1,
        sample: Duration::from_millis(300),
        full_speed: Duration::from_secs(1),
        quick: true,
        json: None,
        wstap: None,
    };
    with_bench(wstap, &args, quick::check)
}

fn with_bench<T>(
    wstap: &Path,
    args: &Args,
    work: impl FnOnce(&Bench<'_>) -> Result<T>,
) -> Result<T> {
    let folder = Folder::make()?;
    let pair = Pair::make("wsben")?;
    let server = Server::start(&pair.server, PORT)?;
    work(&Bench {
        pair: &pair,
        server: &server,
        wstap,
        folder: &folder.0,
        pairs: usize::from(args.pairs),
        sample: args.sample,
        full_speed: args.full_speed,
    })
}

/// All groups, or some of them.
fn groups(bench: &Bench<'_>, only: &[Group], rows: &mut Vec<Row>) -> Result<()> {
    type Take = fn(&Bench<'_>) -> Result<Vec<Row>>;
    let all: [(Group, Take); 7] = [
        (Group::Kernel, packet::rows),
        (Group::Application, application::rows),
        (Group::Whole, whole::rows),
        (Group::Trace, traced::rows),
        (Group::First, first::rows),
        (Group::Scale, scale::rows),
        (Group::Others, others::rows),
    ];
    for (group, take) in all {
        if only.is_empty() || only.contains(&group) {
            rows.extend(take(bench).with_context(|| format!("the group {group:?} failed"))?);
        }
    }
    Ok(())
}

/// On what it was measured.
fn about() -> Result<Value> {
    let mut git = Command::new("git");
    git.current_dir(workspace::root());
    let commit = process::capture(git.args(["describe", "--always", "--dirty", "--abbrev=12"]));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("no kernel release")?;
    let load = fs::read_to_string("/proc/loadavg").context("no load average")?;
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    Ok(json!({
        "commit": commit.unwrap_or_else(|_| "unknown".to_owned()).trim(),
        "kernel": kernel.trim(),
        "cores": cores,
        "load_average": load.trim(),
    }))
}

fn about_text(about: &Value) -> String {
    let text = |name: &str| about[name].as_str().unwrap_or_default().to_owned();
    format!(
        "Commit {}, Linux {}, {} cores, load average at the end {}.\n\
         Medians, with the intervals that hold the true median with 95 %.",
        text("commit"),
        text("kernel"),
        about["cores"],
        text("load_average"),
    )
}
