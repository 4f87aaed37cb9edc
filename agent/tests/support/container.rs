//! The container image, run by `runc` as a node's container runtime would: with what
//! `deploy/security-context.json` asks for, no more and no less.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    agent::WSTAP,
    netns::{self, Netns},
};

/// What a container is given.
#[derive(Clone, Debug)]
pub struct Context {
    /// Its `securityContext`.
    pub security: Value,
    /// Whether the seccomp profile allows bpf() to `CAP_BPF`, as that of older runtimes does not.
    pub profile_knows_bpf: bool,
    /// What clone3() is refused with: `ENOSYS`, upon which the C library goes without it, or by older
    /// runtimes `EPERM`, which leaves a process without threads.
    pub clone3: i32,
    /// Whether all of /sys is there, as runtimes have it, or only how many processors there are.
    pub whole_sys: bool,
}

impl Context {
    /// That which is shipped.
    #[track_caller]
    pub fn shipped() -> Self {
        let path = repository().join("deploy/security-context.json");
        let text = fs::read_to_string(path).expect("the security context");
        let shipped: Value = serde_json::from_str(&text).expect("JSON");
        Self {
            security: shipped["securityContext"].clone(),
            profile_knows_bpf: true,
            clone3: libc::ENOSYS,
            whole_sys: true,
        }
    }

    /// The capabilities that it adds, as Kubernetes calls them.
    pub fn added(&self) -> Vec<String> {
        let added = self.security["capabilities"]["add"].as_array();
        let added = added.expect("a list of capabilities");
        let name = |name: &Value| name.as_str().expect("a name").to_owned();
        added.iter().map(name).collect()
    }

    /// The same without one capability.
    pub fn without(&self, capability: &str) -> Self {
        let mut less = self.clone();
        let left: Vec<_> = self
            .added()
            .into_iter()
            .filter(|c| c != capability)
            .collect();
        less.security["capabilities"]["add"] = json!(left);
        less
    }

    /// What a container runtime makes of it for `args` of the image's entry point. Without a namespace
    /// the network is the machine's.
    fn bundle(&self, ns: Option<&Netns>, args: &[&str]) -> Value {
        let security = &self.security;
        assert_eq!(security["privileged"], false);
        assert_eq!(security["capabilities"]["drop"], json!(["ALL"]));
        assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault");
        let added = self.added();
        let capabilities: Vec<_> = added.iter().map(|name| format!("CAP_{name}")).collect();
        let mut namespaces = vec![
            json!({"type": "pid"}),
            json!({"type": "ipc"}),
            json!({"type": "uts"}),
            json!({"type": "mount"}),
        ];
        if let Some(ns) = ns {
            namespaces.push(json!({"type": "network", "path": ns.path()}));
        }
        let mut mounts = vec![
            json!({"destination": "/proc", "type": "proc", "source": "proc",
                   "options": ["nosuid", "noexec", "nodev"]}),
            json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                   "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
        ];
        mounts.push(if self.whole_sys {
            json!({"destination": "/sys", "type": "sysfs", "source": "sysfs",
                   "options": ["nosuid", "noexec", "nodev", "ro"]})
        } else {
            let processors = "/sys/devices/system/cpu";
            json!({"destination": processors, "type": "bind", "source": processors,
                   "options": ["bind", "nosuid", "noexec", "nodev", "ro"]})
        });
        let args: Vec<_> = ["/usr/bin/wstap"].iter().chain(args).collect();
        json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": security["runAsUser"], "gid": security["runAsGroup"]},
                "args": args,
                "env": ["PATH=/usr/bin", "KUBERNETES_SERVICE_HOST=10.96.0.1"],
                "cwd": "/",
                // Ambient ones are given to nobody.
                "capabilities": {
                    "bounding": capabilities, "permitted": capabilities, "effective": capabilities,
                },
                "noNewPrivileges": security["allowPrivilegeEscalation"] == false,
            },
            "root": {
                "path": &*IMAGE,
                "readonly": security["readOnlyRootFilesystem"],
            },
            "mounts": mounts,
            "linux": {
                "namespaces": namespaces,
                "seccomp": self.runtime_default(&added),
                "maskedPaths": [
                    "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                    "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware",
                    "/proc/scsi",
                ],
                "readonlyPaths": [
                    "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
                ],
            },
        })
    }

    /// The default seccomp profile for a container with these capabilities.
    fn runtime_default(&self, added: &[String]) -> Value {
        let lines = include_str!("runtime_default.txt").lines();
        let lines = lines.filter(|line| !line.starts_with('#'));
        let mut names: Vec<_> = lines.flat_map(str::split_whitespace).collect();
        let has = |name: &str| added.iter().any(|added| added == name);
        if has("BPF") && self.profile_knows_bpf {
            names.push("bpf");
        }
        if has("PERFMON") {
            names.push("perf_event_open");
        }
        let namespaces = libc::CLONE_NEWNS
            | libc::CLONE_NEWUTS
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWUSER
            | libc::CLONE_NEWPID
            | libc::CLONE_NEWNET
            | libc::CLONE_NEWCGROUP;
        let allowed = |names: &[&str], args: Value| json!({"names": names, "action": "SCMP_ACT_ALLOW", "args": args});
        json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "syscalls": [
                allowed(&names, json!([])),
                allowed(&["clone"], json!([
                    {"index": 0, "value": namespaces, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"},
                ])),
                // Its flags are in memory, where a filter cannot look.
                {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": self.clone3},
                allowed(&["personality"], json!([{"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}])),
                allowed(&["socket"], json!([
                    {"index": 0, "value": libc::AF_VSOCK, "op": "SCMP_CMP_NE"},
                ])),
            ],
        })
    }
}

/// A container that is yet to be run, or has been. It goes when this is dropped.
pub struct Container {
    folder: TempDir,
    id: String,
}

impl Container {
    /// Makes its bundle.
    #[track_caller]
    pub fn new(context: &Context, ns: Option<&Netns>, args: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let config = context.bundle(ns, args).to_string();
        fs::write(folder.path().join("config.json"), config).expect("a written bundle");
        let name = folder.path().file_name().expect("a name").to_string_lossy();
        let id = format!("wstap-test-{}", name.trim_start_matches('.'));
        Self { folder, id }
    }

    fn runc(&self) -> Command {
        let mut command = Command::new("runc");
        command.arg("--root").arg(self.folder.path().join("state"));
        command
    }

    /// What runs it in the foreground: signals are passed on, and its status is that of the command.
    pub fn command(&self) -> Command {
        let mut command = self.runc();
        command
            .arg("run")
            .arg("--bundle")
            .arg(self.folder.path())
            .arg("--pid-file")
            .arg(self.folder.path().join("pid"))
            .arg(&self.id);
        command
    }

    /// Its first process, once it runs.
    #[track_caller]
    pub fn pid(&self) -> Pid {
        let text = fs::read_to_string(self.folder.path().join("pid")).expect("it runs");
        Pid::from_raw(text.trim().parse().expect("a process id"))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let mut command = self.runc();
        let _ = command.args(["delete", "--force", &self.id]).output();
    }
}

/// The image's root file system, laid out once.
static IMAGE: LazyLock<PathBuf> = LazyLock::new(|| {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("image-root");
    let _ = fs::remove_dir_all(&root);
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .current_dir(repository())
        .args(["xtask", "image-root"])
        .arg(&root);
    netns::run(cargo.arg("--binary").arg(WSTAP));
    root
});

/// Where that is.
pub fn image() -> &'static Path {
    &IMAGE
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
