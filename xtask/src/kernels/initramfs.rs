//! The file system from which a kernel is booted: busybox, the agent and what tests it with their
//! libraries, and the kernel's own modules.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::debian::{self, Kernel};
use crate::{process, workspace};

const BUSYBOX: &str = "/bin/busybox";

/// What the program is attached with and to, as far as the kernel has it as modules.
const MODULES: [&str; 4] = ["veth", "sit", "sch_ingress", "cls_bpf"];

/// The console takes what goes wrong, the second serial port what the guest tells.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev
for module in /modules/*; do
    /bin/busybox insmod $module
done
PATH=/bin /bin/guest /bin/wstap >/dev/ttyS1
/bin/busybox poweroff -f
";

/// What every kernel is given, by the path that it has there.
pub struct Binaries(BTreeMap<PathBuf, Vec<u8>>);

impl Binaries {
    /// Reads them and the libraries that they are linked against.
    pub fn gather(wstap: &Path, guest: &Path) -> Result<Self> {
        let ip = process::find("ip").context("ip is missing: install the package iproute2")?;
        let mut files = BTreeMap::from([(PathBuf::from(BUSYBOX), read(Path::new(BUSYBOX))?)]);
        for (path, name) in [(wstap, "wstap"), (guest, "guest"), (&*ip, "ip")] {
            files.insert(Path::new("/bin").join(name), stripped(path)?);
            for library in libraries(path)? {
                let content = read(&library)?;
                files.insert(library, content);
            }
        }
        Ok(Self(files))
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Without debug information, which is most of it, where there is a `strip`.
fn stripped(path: &Path) -> Result<Vec<u8>> {
    if process::find("strip").is_none() {
        return read(path);
    }
    let to = workspace::target().join("kernels/stripped");
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut strip = Command::new("strip");
    process::run(strip.args(["--strip-debug", "-o"]).arg(&to).arg(path))?;
    let content = read(&to)?;
    fs::remove_file(&to)?;
    Ok(content)
}

/// The shared libraries of a program, its loader among them.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let listed = process::capture(Command::new("ldd").arg(program))?;
    if let Some(line) = listed.lines().find(|line| line.contains("not found")) {
        bail!("{} lacks a library: {}", program.display(), line.trim());
    }
    Ok(paths(&listed))
}

/// The files that `ldd` lists: `libc.so.6 => /lib/libc.so.6 (0x7f)`, `/lib64/ld.so.2 (0x7f)`.
fn paths(listed: &str) -> Vec<PathBuf> {
    let words = listed.split_whitespace();
    words
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect()
}

/// The archive for a kernel.
pub fn build(kernel: &Kernel, binaries: &Binaries) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in ["proc", "sys", "dev", "run", "tmp", "modules", "var"] {
        archive.folder(Path::new(folder));
    }
    // Where `ip` keeps the names of network namespaces.
    archive.link(Path::new("var/run"), "../run");
    archive.file(Path::new("init"), INIT.as_bytes());
    for (path, content) in &binaries.0 {
        archive.file(path, content);
    }
    let mut modules = Vec::new();
    for name in MODULES {
        load_order(kernel, name, &mut modules)?;
    }
    for (n, (name, path)) in modules.iter().enumerate() {
        let to = PathBuf::from(format!("modules/{n:02}-{name}.ko"));
        archive.file(&to, &decompressed(path)?);
    }
    Ok(archive.finish())
}

/// Appends a module, behind those that it needs. One that the packages do not have is built in, or
/// the guest finds out.
fn load_order(kernel: &Kernel, name: &str, order: &mut Vec<(String, PathBuf)>) -> Result<()> {
    if order.iter().any(|(known, _)| known == name) {
        return Ok(());
    }
    let is_it = |file: &str| {
        let stem = file.split_once(".ko").map(|(stem, _)| stem);
        stem.is_some_and(|stem| stem.replace('-', "_") == name)
    };
    let Some(path) = debian::find(&kernel.root, &is_it)? else {
        return Ok(());
    };
    let mut modinfo = Command::new("modinfo");
    let needs = process::capture(modinfo.args(["-F", "depends"]).arg(&path))?;
    for need in needs.trim().split(',').filter(|need| !need.is_empty()) {
        load_order(kernel, need, order)?;
    }
    order.push((name.to_owned(), path));
    Ok(())
}

fn decompressed(path: &Path) -> Result<Vec<u8>> {
    let tool = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return read(path),
    };
    let mut command = Command::new(tool);
    command.arg("-dc").arg(path);
    let output = command
        .output()
        .with_context(|| format!("cannot run {tool}"))?;
    if !output.status.success() {
        bail!("`{}` failed ({})", process::shown(&command), output.status);
    }
    Ok(output.stdout)
}

/// An archive in the format `newc` of cpio, as the kernel's
/// Documentation/driver-api/early-userspace/buffer-format.rst has it.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    folders: Vec<PathBuf>,
}

impl Archive {
    fn folder(&mut self, path: &Path) {
        if path.as_os_str().is_empty() || self.folders.iter().any(|known| known == path) {
            return;
        }
        if let Some(parent) = path.parent() {
            self.folder(parent);
        }
        self.folders.push(path.to_owned());
        self.entry(path, 0o040_755, &[]);
    }

    /// A file that may be executed, and the folders on the way.
    fn file(&mut self, path: &Path, content: &[u8]) {
        let path = path.strip_prefix("/").unwrap_or(path);
        if let Some(parent) = path.parent() {
            self.folder(parent);
        }
        self.entry(path, 0o100_755, content);
    }

    fn link(&mut self, path: &Path, to: &str) {
        self.entry(path, 0o120_777, to.as_bytes());
    }

    fn entry(&mut self, path: &Path, mode: u32, content: &[u8]) {
        let name = path.as_os_str().as_encoded_bytes();
        self.entries += 1;
        let fields = [
            self.entries as usize,
            mode as usize,
            0,
            0,
            1,
            0,
            content.len(),
            0,
            0,
            0,
            0,
            name.len() + 1,
            0,
        ];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(name);
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry(Path::new("TRAILER!!!"), 0, &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_as_the_kernel_reads_it() {
        let mut archive = Archive::default();
        archive.file(Path::new("/a/b"), b"12345");
        let bytes = archive.finish();
        let text = String::from_utf8_lossy(&bytes);
        let entries: Vec<_> = text.split("070701").skip(1).collect();
        // The folder, the file, the end; the name is padded with the header before it.
        assert_eq!(entries.len(), 3);
        assert!(entries[0].ends_with("00000000a\0"), "{:?}", entries[0]);
        assert_eq!(&entries[1][48..56], "00000005");
        assert!(
            entries[1].ends_with("a/b\0\0\x0012345\0\0\0"),
            "{:?}",
            entries[1]
        );
        assert_eq!(bytes.len() % 4, 0);
    }

    #[test]
    fn libraries_are_found_in_what_ldd_says() {
        let listed = "\tlinux-vdso.so.1 (0x7f)\n\tlibc.so.6 => /lib/libc.so.6 (0x7f)\n\
                      \t/lib64/ld-linux-x86-64.so.2 (0x7f)\n\tstatically linked\n";
        let paths = paths(listed);
        assert_eq!(
            paths,
            ["/lib/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from)
        );
    }
}
