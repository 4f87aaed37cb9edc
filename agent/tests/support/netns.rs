//! Network namespaces that live as long as a test, and the devices in them.

use std::{
    fs::File,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use nix::sched::{CloneFlags, setns};

const PREFIX: &str = "wstap-test-";
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A network namespace with `lo` up. It goes, with the processes in it, when this is dropped.
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes one.
    #[track_caller]
    pub fn new(role: &str) -> Self {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{n}-{role}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &name]));
        let ns = Self { name };
        // Addresses are usable at once, and nothing but the tests' own traffic is sent.
        let settings = [
            "ipv6/conf/all/accept_dad 0",
            "ipv6/conf/default/accept_dad 0",
            "ipv6/conf/default/router_solicitations 0",
            "ipv4/ip_forward 1",
            "ipv6/conf/all/forwarding 1",
        ]
        .map(|setting| {
            let (name, value) = setting.split_once(' ').expect("a name and a value");
            format!("echo {value} > /proc/sys/net/{name}")
        });
        ns.run("sh", &["-ec", &settings.join("\n")]);
        ns.ip("link set lo up");
        ns
    }

    /// The file that stands for it.
    pub fn path(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    /// Its name, as `ip netns` has it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that will run inside.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs a command inside to its end: its standard output.
    #[track_caller]
    pub fn run(&self, program: &str, args: &[&str]) -> String {
        run(self.command(program).args(args))
    }

    /// Runs `ip` with the words of `args`: `ns.ip("link set lo up")`.
    #[track_caller]
    pub fn ip(&self, args: &str) -> String {
        run(Command::new("ip")
            .args(["-n", &self.name])
            .args(args.split(' ')))
    }

    /// Runs `tc` with the words of `args`.
    #[track_caller]
    pub fn tc(&self, args: &str) -> String {
        run(Command::new("tc")
            .args(["-n", &self.name])
            .args(args.split(' ')))
    }

    /// Joins two namespaces (or one with itself) by a pair of devices with addresses; each address
    /// is given with its prefix length.
    #[track_caller]
    pub fn veth(a: (&Self, &str, &[&str]), b: (&Self, &str, &[&str])) {
        run(Command::new("ip").args([
            "link", "add", "name", a.1, "netns", &a.0.name, "type", "veth", "peer", "name", b.1,
            "netns", &b.0.name,
        ]));
        for (ns, device, addresses) in [a, b] {
            for address in addresses {
                let nodad = if address.contains(':') { " nodad" } else { "" };
                ns.ip(&format!("address add {address} dev {device}{nodad}"));
            }
            ns.ip(&format!("link set {device} up"));
        }
    }

    /// Does `work` on a thread of its own inside the namespace: sockets that it opens belong here.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> thread::JoinHandle<T> {
        let path = self.path();
        thread::Builder::new()
            .name(self.name.clone())
            .spawn(move || {
                let ns = File::open(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
                setns(&ns, CloneFlags::CLONE_NEWNET)
                    .unwrap_or_else(|error| panic!("entering {path}: {error}"));
                work()
            })
            .expect("a thread")
    }

    /// Opens a TCP connection from inside.
    pub fn connect(&self, to: SocketAddr) -> std::io::Result<TcpStream> {
        self.spawn(move || {
            let stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            stream.set_nodelay(true)?;
            Ok(stream)
        })
        .join()
        .expect("the connecting thread")
    }

    /// Listens inside; port 0 takes a free one.
    pub fn listen(&self, on: SocketAddr) -> std::net::TcpListener {
        self.spawn(move || std::net::TcpListener::bind(on))
            .join()
            .expect("the listening thread")
            .unwrap_or_else(|error| panic!("listening on {on}: {error}"))
    }

    /// A TCP port of `ip` that was free a moment ago.
    pub fn free_port(&self, ip: IpAddr) -> u16 {
        self.listen(SocketAddr::new(ip, 0))
            .local_addr()
            .expect("a bound address")
            .port()
    }

    /// `GET path` over HTTP/1.0: status and body.
    pub fn http_get(&self, from: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
        let mut stream = self.connect(from)?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {from}\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| std::io::Error::other(format!("no HTTP: {head}")))?;
        Ok((status, body.to_owned()))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Removes what earlier runs left behind when they were killed.
pub fn sweep() {
    let Ok(folder) = std::fs::read_dir("/run/netns") else {
        return;
    };
    for entry in folder.filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(rest) = name.strip_prefix(PREFIX) else {
            continue;
        };
        let pid: Option<u32> = rest.split('-').next().and_then(|pid| pid.parse().ok());
        if pid.is_some_and(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists()) {
            remove(&name);
        }
    }
}

/// Ends the processes inside and deletes the namespace. Quiet: it runs while tests unwind.
fn remove(name: &str) {
    if let Ok(pids) = Command::new("ip").args(["netns", "pids", name]).output() {
        // Threads of this very process may still be inside.
        for pid in String::from_utf8_lossy(&pids.stdout).split_whitespace() {
            if let Ok(pid) = pid.parse::<i32>()
                && pid.unsigned_abs() != std::process::id()
            {
                let pid = nix::unistd::Pid::from_raw(pid);
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            }
        }
    }
    let _ = Command::new("ip").args(["netns", "delete", name]).output();
}

/// Runs a command that must succeed: its standard output.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
