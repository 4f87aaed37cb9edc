//! The virtual machine: QEMU, with the processor's help where there is KVM and it works.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::say;

const QEMU: &str = "qemu-system-x86_64";

/// An emulated timer is not in time where the machine is busy: a kernel that checks gives up.
const PARAMETERS: &str = "console=ttyS0 quiet panic=-1 no_timer_check";

/// How long a kernel may take to come up and to say so. Emulated, it is some five seconds.
const BOOT_LIMIT: Duration = Duration::from_secs(60);
/// How long one boot may take with all that is done in it.
const LIMIT: Duration = Duration::from_secs(600);
/// Lines of the console that a failure shows.
const SHOWN: usize = 40;

/// How the machine's processor is made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Emulator {
    /// By this machine's, through KVM.
    Kvm,
    /// By QEMU itself.
    Tcg,
}

impl Emulator {
    /// KVM where it can be opened. Whether it works is seen when the first kernel is booted.
    pub fn choose() -> Self {
        let kvm = fs::File::options().read(true).write(true).open("/dev/kvm");
        if kvm.is_ok() { Self::Kvm } else { Self::Tcg }
    }

    /// Boots a kernel with an archive: what the guest tells. `folder` is for files on the way.
    pub fn boot(&mut self, kernel: &Path, archive: &[u8], folder: &Path) -> Result<Vec<Value>> {
        let initrd = folder.join("initramfs.cpio");
        fs::write(&initrd, archive)
            .with_context(|| format!("cannot write {}", initrd.display()))?;
        let console = folder.join("console.log");
        let mut told = self.run(kernel, &initrd, &console);
        if *self == Self::Kvm && told.as_ref().map_or(true, Vec::is_empty) {
            say("KVM does not work here: emulating");
            *self = Self::Tcg;
            told = self.run(kernel, &initrd, &console);
        }
        fs::remove_file(&initrd)?;
        let told = told?;
        match told.last().map(|last| &last["done"]) {
            Some(Value::Bool(_)) => Ok(told),
            _ => bail!(
                "the machine ended before its work was done; its console:\n{}",
                tail(&console)
            ),
        }
    }

    fn run(self, kernel: &Path, initrd: &Path, console: &Path) -> Result<Vec<Value>> {
        let accelerator = match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        };
        // QEMU's own words come before the kernel's, in a file that the serial port appends to.
        let complaints = fs::File::create(console)
            .with_context(|| format!("cannot write {}", console.display()))?;
        let mut command = Command::new(QEMU);
        command
            .args([
                "-accel",
                accelerator,
                "-cpu",
                "max",
                "-smp",
                "2",
                "-m",
                "1G",
            ])
            .args(["-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none", "-monitor", "none"])
            .arg("-chardev")
            .arg(format!(
                "file,id=console,append=on,path={}",
                console.display()
            ))
            .args(["-serial", "chardev:console", "-serial", "stdio"])
            .arg("-kernel")
            .arg(kernel)
            .arg("-initrd")
            .arg(initrd)
            .args(["-append", PARAMETERS])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(complaints);
        let mut machine = Machine(
            command
                .spawn()
                .with_context(|| format!("cannot run {QEMU}"))?,
        );
        let stdout = machine.0.stdout.take().context("QEMU has no output")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let begun = Instant::now();
        let mut told = Vec::new();
        loop {
            let limit = if told.is_empty() { BOOT_LIMIT } else { LIMIT };
            match lines.recv_timeout(limit.saturating_sub(begun.elapsed())) {
                Ok(line) if line.trim().is_empty() => {}
                Ok(line) => {
                    let value = serde_json::from_str(line.trim()).with_context(|| {
                        format!("what the guest tells is not understood: {line}")
                    })?;
                    told.push(value);
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(told),
                Err(RecvTimeoutError::Timeout) => bail!(
                    "the machine was stopped after {} s; its console:\n{}",
                    limit.as_secs(),
                    tail(console)
                ),
            }
        }
    }
}

/// QEMU, which ends with this.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn tail(console: &Path) -> String {
    let bytes = fs::read(console).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let skipped = text.lines().count().saturating_sub(SHOWN);
    let lines = text.lines().skip(skipped).map(str::trim_end);
    lines.collect::<Vec<_>>().join("\n")
}
