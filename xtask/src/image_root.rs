//! `cargo xtask image-root`: the root file system of the container image, in a folder.
//!
//! `deploy/Dockerfile` has it made by this command too, so that there is one image, whether an engine
//! builds it or not. It holds the binary and the libraries that it is linked with, and nothing else: no
//! shell, no user database, since user 0 needs no name, and no certificates, since a cluster mounts those
//! of its API server.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{build, process, workspace};

/// Where the binary is in the image.
const BINARY: &str = "/usr/bin/wstap";

/// What each file of the image is made from, by its path there.
type Layout = BTreeMap<PathBuf, PathBuf>;

/// Lays the files out in `dir`, which is new or empty, and says how large they are. Builds the binary,
/// unless it is given.
pub fn command(dir: &Path, binary: Option<&Path>) -> Result<()> {
    let binary = match binary {
        Some(binary) => binary.to_owned(),
        None => {
            build::release_binary()?;
            workspace::release_binary()
        }
    };
    let mut total = 0;
    for (path, size) in lay_out(dir, &binary)? {
        println!("{:>9.1} KiB  {}", kib(size), path.display());
        total += size;
    }
    println!("{:>9.1} KiB  in all", kib(total));
    Ok(())
}

fn kib(bytes: u64) -> f64 {
    bytes as f64 / 1024.0
}

/// Copies the files; their paths in the image, and their sizes.
fn lay_out(dir: &Path, binary: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let is_empty = fs::read_dir(dir).map_or(true, |mut entries| entries.next().is_none());
    if !is_empty {
        bail!("{} is not empty: name a folder that is new", dir.display());
    }
    let mut sizes = Vec::new();
    for (path, source) in layout(binary)? {
        let target = dir.join(path.strip_prefix("/").unwrap_or(&path));
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)
                .with_context(|| format!("cannot create {}", parent.display()))?;
        }
        let size = fs::copy(&source, &target)
            .with_context(|| format!("cannot copy {} to {}", source.display(), target.display()))?;
        // Whatever the builder's umask is. The loader is executed, libraries may be.
        fs::set_permissions(&target, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("cannot set the mode of {}", target.display()))?;
        sizes.push((path, size));
    }
    Ok(sizes)
}

fn layout(binary: &Path) -> Result<Layout> {
    let mut layout = Layout::new();
    layout.insert(BINARY.into(), binary.to_owned());
    let mut ldd = Command::new("ldd");
    // Of what is linked statically it says so, and fails.
    let output = ldd.arg(binary).env("LC_ALL", "C").output().context(
        "cannot run ldd, which tells the libraries of the binary (Debian package libc-bin)",
    )?;
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        for library in libraries(&said)? {
            layout.insert(library.clone(), library);
        }
    } else if !complaint.contains("not a dynamic executable") {
        bail!("`{}` failed: {}", process::shown(&ldd), complaint.trim());
    }
    Ok(layout)
}

/// The paths in what ldd prints: `libc.so.6 => /lib/libc.so.6 (0x7f..)` or `/lib64/ld-linux.so.2 (0x7f..)`;
/// what the kernel provides has none.
fn libraries(said: &str) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for line in said.lines().map(str::trim) {
        if line.ends_with("=> not found") {
            bail!("a library of the binary is missing: {line}");
        }
        let place = line.split_once("=> ").map_or(line, |(_, place)| place);
        let path = place.split_once(" (").map_or(place, |(path, _)| path);
        if path.starts_with('/') {
            paths.push(path.into());
        }
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use std::env;

    use super::*;

    /// A folder that goes with the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            let name = format!("wstap-image-root-{}", std::process::id());
            let path = env::temp_dir().join(name);
            let _ = fs::remove_dir_all(&path);
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn files(folder: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                found.extend(files(&entry.path()));
            } else {
                found.push(entry.path());
            }
        }
        found.sort();
        found
    }

    #[test]
    fn libraries_are_found() {
        let said = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x00007f6e)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f6f)\n";
        let found = libraries(said).unwrap();
        let wanted = ["/lib/x/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(found, wanted);
        assert!(libraries("\tlibz.so.1 => not found\n").is_err());
        assert!(libraries("\tstatically linked\n").unwrap().is_empty());
    }

    #[test]
    fn what_is_laid_out_runs_by_itself() {
        let folder = Folder::new();
        // Any binary will do, and this one is at hand.
        let binary = env::current_exe().unwrap();
        let listed = lay_out(&folder.0, &binary).unwrap();
        let listed: Vec<_> = listed
            .iter()
            .map(|(path, _)| folder.0.join(path.strip_prefix("/").unwrap()))
            .collect();
        assert_eq!(listed, files(&folder.0));
        assert!(listed.contains(&folder.0.join("usr/bin/wstap")));
        // Nothing is overwritten.
        assert!(lay_out(&folder.0, &binary).is_err());
    }

    /// The instructions of a Dockerfile by stage, each on one line.
    fn stages(text: &str) -> Vec<Vec<(String, String)>> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let text = lines.collect::<Vec<_>>().join("\n").replace("\\\n", " ");
        let mut stages = vec![Vec::new()];
        for line in text.lines().map(str::trim) {
            let Some((word, rest)) = line.split_once(' ') else {
                continue;
            };
            if word == "FROM" {
                stages.push(Vec::new());
            }
            let rest = rest.split_whitespace().collect::<Vec<_>>().join(" ");
            stages.last_mut().unwrap().push((word.to_owned(), rest));
        }
        stages
    }

    /// What is in the image of an engine is what is laid out here: its last stage starts from nothing
    /// and takes the folder that this command made in the stage before, and no more.
    #[test]
    fn the_dockerfile_lays_out_the_same_files() {
        let path = workspace::root().join("deploy/Dockerfile");
        let stages = stages(&fs::read_to_string(path).unwrap());
        let [_, build, image] = stages.as_slice() else {
            panic!("two stages are meant: {stages:?}");
        };
        let of = |stage: &[(String, String)], word: &str| -> Vec<String> {
            let found = stage.iter().filter(|(name, _)| name == word);
            found.map(|(_, rest)| rest.clone()).collect()
        };
        let made = of(build, "RUN");
        assert!(
            made.last()
                .unwrap()
                .ends_with("cargo xtask image-root /image"),
            "{made:?}"
        );
        assert_eq!(of(image, "FROM"), ["scratch"]);
        assert_eq!(of(image, "COPY"), ["--from=build /image/ /"]);
        assert_eq!(of(image, "USER"), ["0:0"]);
        assert_eq!(of(image, "ENTRYPOINT"), [format!("[\"{BINARY}\"]")]);
        assert_eq!(of(image, "CMD"), ["[\"run\"]"]);
        for word in ["ADD", "RUN", "VOLUME"] {
            assert!(of(image, word).is_empty(), "{word}");
        }
        let version = format!("VERSION={}", env!("CARGO_PKG_VERSION"));
        assert!(of(image, "ARG").contains(&version));
    }
}
