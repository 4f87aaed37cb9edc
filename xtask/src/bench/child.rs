//! Processes of a measurement: they do not outlive their owner, and what they take is known.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, killpg};
use nix::sys::time::TimeValLike;
use nix::time::ClockId;
use nix::unistd::Pid;

use crate::{interrupt, process};

/// How often a process is looked at that should end.
const LOOK: Duration = Duration::from_millis(5);
/// The page behind which a ring buffer's producer has its position.
const PRODUCER_OFFSET: &str = "00001000";
/// How `/proc` names a map that is mapped.
const MAP: &str = "anon_inode:bpf-map";
/// `BPF_TCX_INGRESS`, by its number.
const INGRESS: &str = "46";

/// A process that does not outlive its owner.
pub struct Guarded {
    child: Child,
    shown: String,
}

impl Guarded {
    /// Starts it in a process group of its own: Ctrl-C comes here alone, and the order in which things
    /// end is ours.
    pub fn spawn(command: &mut Command) -> Result<Self> {
        command.process_group(0);
        let shown = process::shown(command);
        let child = command
            .spawn()
            .with_context(|| format!("cannot run `{shown}`"))?;
        Ok(Self { child, shown })
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// An error where it has ended already.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait().context("cannot look at a process")? {
            Some(status) => bail!("`{}` ended by itself ({status})", self.shown),
            None => Ok(()),
        }
    }

    /// Sends a signal and waits for the end, which must be a good one. Returns the processor time of
    /// its whole life, that of its own children included.
    pub fn stop(&mut self, signal: Signal, limit: Duration) -> Result<Duration> {
        self.check()?;
        // To the whole group, as Ctrl-C on a terminal does: some have children that capture for them.
        killpg(self.pid(), signal).with_context(|| format!("cannot end `{}`", self.shown))?;
        let begun = Instant::now();
        // Of all children that were waited for: nobody waits for another meanwhile.
        let before = of_children()?;
        while begun.elapsed() < limit {
            match self.child.try_wait().context("cannot wait for a process")? {
                Some(status) if status.success() => {
                    return Ok(of_children()?.saturating_sub(before));
                }
                Some(status) => bail!("`{}` did not end well ({status})", self.shown),
                None => std::thread::sleep(LOOK),
            }
        }
        bail!("`{}` does not end", self.shown)
    }

    /// Waits for the end of one that ends by itself.
    pub fn finish(&mut self, limit: Duration) -> Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < limit {
            match self.child.try_wait().context("cannot wait for a process")? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("`{}` failed ({status})", self.shown),
                None => interrupt::pause(LOOK)?,
            }
        }
        bail!("`{}` does not end", self.shown)
    }

    /// Its standard output, where it is piped.
    pub fn stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }

    /// Processor time of all its threads so far.
    pub fn cpu(&self) -> Result<Duration> {
        let clock = ClockId::pid_cpu_clock_id(self.pid()).context("it has no clock")?;
        Ok(clock.now().context("cannot read its clock")?.into())
    }

    /// What it holds at the moment.
    pub fn memory(&self) -> Result<Memory> {
        let pid = self.pid();
        let status = fs::read_to_string(format!("/proc/{pid}/status"))
            .context("cannot read the process's status")?;
        let status = fields(&status);
        let bytes = |name: &str| {
            let kib = status.get(name)?.strip_suffix(" kB")?.parse::<u64>().ok()?;
            Some(kib << 10)
        };
        let files = fs::read_dir(format!("/proc/{pid}/fd")).context("cannot list its files")?;
        Ok(Memory {
            anonymous: bytes("RssAnon").context("its status has no anonymous memory")?,
            resident: bytes("VmRSS").context("its status has no memory")?,
            files: files.count(),
        })
    }

    /// What the kernel says of each of its files: the lines `name: value`.
    fn files(&self) -> Result<Vec<BTreeMap<String, String>>> {
        let folder = format!("/proc/{}/fdinfo", self.pid());
        let entries = fs::read_dir(&folder).with_context(|| format!("cannot list {folder}"))?;
        // One may be closed meanwhile.
        let texts = entries.filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok());
        Ok(texts.map(|text| fields(&text)).collect())
    }

    /// The program that it has linked to ingress by TCX.
    pub fn at_ingress(&self) -> Result<Option<u64>> {
        let files = self.files()?;
        let mut links = files.iter().filter(|file| {
            file.get("link_type").is_some_and(|kind| kind == "tcx")
                && file
                    .get("attach_type")
                    .is_some_and(|kind| kind.contains(INGRESS))
        });
        Ok(links.find_map(|link| link.get("prog_id")?.parse().ok()))
    }

    /// Numbers of the programs and maps that it holds.
    pub fn objects(&self) -> Result<[BTreeSet<u64>; 2]> {
        let files = self.files()?;
        Ok(["prog_id", "map_id"].map(|name| {
            let numbers = files.iter().filter_map(|file| file.get(name)?.parse().ok());
            numbers.collect()
        }))
    }

    /// Bytes that have been written to its ring buffer of this size since that was made, headers,
    /// padding and all: the producer's position, which every reader has mapped.
    pub fn ring_position(&self, size: u64) -> Result<u64> {
        let pid = self.pid();
        let maps = fs::read_to_string(format!("/proc/{pid}/maps"))
            .context("cannot read the process's mappings")?;
        let at = maps
            .lines()
            .find_map(|line| producer(line, size))
            .context("the process has no ring buffer of this size mapped")?;
        let memory =
            fs::File::open(format!("/proc/{pid}/mem")).context("cannot open its memory")?;
        let mut position = [0; 8];
        memory
            .read_exact_at(&mut position, at)
            .context("cannot read the ring buffer's position")?;
        Ok(u64::from_ne_bytes(position))
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // It may have ended just now.
            let _ = killpg(self.pid(), Signal::SIGKILL);
            drop(self.child.wait());
        }
    }
}

/// What a process holds.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Bytes of its own.
    pub anonymous: u64,
    /// Bytes that are mapped, with what is of files and of the kernel's maps.
    pub resident: u64,
    /// Open files.
    pub files: usize,
}

/// Where a line of `/proc/PID/maps` has the producer's page of a ring buffer: it is mapped with the data
/// behind it, twice.
fn producer(line: &str, size: u64) -> Option<u64> {
    let mut words = line.split_whitespace();
    let (from, to) = words.next()?.split_once('-')?;
    let (from, to) = (
        u64::from_str_radix(from, 16).ok()?,
        u64::from_str_radix(to, 16).ok()?,
    );
    let (_, offset) = (words.next()?, words.next()?);
    let is_ring = line.ends_with(MAP) && offset == PRODUCER_OFFSET;
    (is_ring && to.checked_sub(from)? >= 2 * size).then_some(from)
}

/// The lines `name: value` of a text.
fn fields(text: &str) -> BTreeMap<String, String> {
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    let pairs = pairs.map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
    pairs.collect()
}

/// Processor time of the children that were waited for.
fn of_children() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("cannot ask what was used")?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(u64::try_from(micros).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read() {
        let fields = fields("link_type:\ttcx\nprog_id:\t41\nattach_type:\t46 (ingress)\n");
        assert_eq!(fields["link_type"], "tcx");
        assert_eq!(fields["prog_id"], "41");
    }

    #[test]
    fn the_rings_producer_is_found_among_mappings() {
        let line = "7f0000000000-7f0002001000 r--s 00001000 00:0f 1063   anon_inode:bpf-map";
        assert_eq!(producer(line, 16 << 20), Some(0x7f00_0000_0000));
        assert_eq!(producer(line, 32 << 20), None);
        let consumer = "7f0000000000-7f0000001000 rw-s 00000000 00:0f 1063  anon_inode:bpf-map";
        assert_eq!(producer(consumer, 16 << 20), None);
    }
}
