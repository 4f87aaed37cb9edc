//! Whether this machine can run the kernel tests, and the turn that each of them takes.

use std::{
    path::PathBuf,
    process::Command,
    sync::Arc,
    sync::{
        LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::netns;

/// Longest that one test may take. It is far above what any of them needs: whoever reaches it
/// hangs.
const LIMIT: Duration = Duration::from_secs(120);

/// One test at a time: they compete for the processors, and what they compare is exact.
static TURN: Mutex<()> = Mutex::new(());

/// The right to run; the next test waits until it is dropped.
pub struct Turn {
    over: Arc<AtomicBool>,
    _turn: MutexGuard<'static, ()>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
    }
}

/// Waits for this test's turn. `None` where `WSTAP_TEST_KERNEL=0` says that kernel tests are to be
/// skipped.
///
/// # Panics
///
/// Where the machine lacks what the tests need, with the remedy.
#[track_caller]
pub fn turn() -> Option<Turn> {
    let name = thread::current().name().unwrap_or("test").to_owned();
    if std::env::var_os("WSTAP_TEST_KERNEL").is_some_and(|value| value == "0") {
        eprintln!("{name}: SKIPPED, because WSTAP_TEST_KERNEL=0");
        return None;
    }
    if let Err(reason) = &*READY {
        panic!("kernel tests cannot run here: {reason}\n(WSTAP_TEST_KERNEL=0 skips them)");
    }
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let over = Arc::new(AtomicBool::new(false));
    let watched = Arc::clone(&over);
    thread::spawn(move || {
        let start = Instant::now();
        while start.elapsed() < LIMIT {
            if watched.load(Ordering::Acquire) {
                return;
            }
            thread::sleep(Duration::from_millis(100));
        }
        // A hanging thread cannot be unwound. What is left behind is swept by the next run.
        eprintln!("{name}: still running after {LIMIT:?}, giving up");
        std::process::abort();
    });
    Some(Turn { over, _turn: turn })
}

static READY: LazyLock<Result<(), String>> = LazyLock::new(|| {
    if !nix::unistd::geteuid().is_root() {
        return Err("they make network namespaces and load programs, which takes root".into());
    }
    for (command, package) in [
        ("ip", "iproute2"),
        ("tc", "iproute2"),
        ("nft", "nftables"),
        ("bpftool", "bpftool"),
        ("tcpdump", "tcpdump"),
        ("prometheus", "prometheus"),
        ("promtool", "prometheus"),
        ("nginx", "nginx"),
        ("haproxy", "haproxy"),
        ("openssl", "openssl"),
        ("chromium", "chromium"),
        ("node", "nodejs"),
        ("runc", "runc"),
    ] {
        // That it starts is enough: `ip` and `tc` do not know this flag.
        if Command::new(command).arg("--version").output().is_err() {
            return Err(format!(
                "`{command}` is missing (Debian package {package}); `cargo xtask setup --tests` \
                 installs it"
            ));
        }
    }
    let import = Command::new(python())
        .args(["-c", "import websockets"])
        .output();
    if !import.is_ok_and(|output| output.status.success()) {
        return Err(format!(
            "{} has no module `websockets`; `cargo xtask setup --tests` makes that environment, \
             or WSTAP_PEERS names another (the folder that holds bin/python3)",
            python().display()
        ));
    }
    if !node_modules().join("ws").is_dir() {
        return Err(format!(
            "{} has no package `ws`; `cargo xtask setup --tests` installs it",
            node_modules().display()
        ));
    }
    netns::sweep();
    Ok(())
});

/// Where the peers in other languages are.
fn peers() -> PathBuf {
    std::env::var_os("WSTAP_PEERS").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/peers"),
        PathBuf::from,
    )
}

/// The interpreter that has the `websockets` package.
pub fn python() -> PathBuf {
    peers().join("bin/python3")
}

/// The folder that has Node's `ws`.
pub fn node_modules() -> PathBuf {
    peers().join("node/node_modules")
}

/// A script of `tests/peers`.
pub fn script(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/peers")
        .join(name)
}
