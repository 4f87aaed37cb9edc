//! Debian's packages of a kernel: fetched by apt from sources of their own, which the system's apt
//! never sees, and unpacked.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::say;
use crate::{process, workspace};

/// The package that depends on the current one, of the flavour that is smallest.
const META: &str = "linux-image-cloud-amd64";
const FLAVOUR: &str = "-cloud-amd64";

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

const UPDATE_LIMIT: Duration = Duration::from_secs(180);
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(600);

/// A kernel that Debian has.
pub struct Release {
    /// As the command line calls it.
    pub name: &'static str,
    /// What its version begins with.
    pub version: &'static str,
    /// Archives and suites that have it.
    pub suites: &'static [(&'static str, &'static str)],
}

/// A kernel that has been unpacked.
pub struct Kernel {
    /// Name of its package.
    pub package: String,
    /// What is booted.
    pub image: PathBuf,
    /// Everything that its packages contain.
    pub root: PathBuf,
}

/// The kernel of a release; fetches it where it is not there yet, or is to be newer.
pub fn unpacked(release: &Release, mirror: Option<&str>, refresh: bool) -> Result<Kernel> {
    let home = workspace::target().join("kernels").join(release.name);
    let stamp = home.join("package");
    if refresh || !stamp.exists() {
        let mirror = match mirror {
            Some(mirror) => mirror.to_owned(),
            None => system_mirror()?,
        };
        let package = fetch(release, &mirror, &home).with_context(|| {
            format!(
                "cannot get Debian's kernel {} (--mirror URL names another mirror)",
                release.name
            )
        })?;
        fs::write(&stamp, package).with_context(|| format!("cannot write {}", stamp.display()))?;
    }
    let package =
        fs::read_to_string(&stamp).with_context(|| format!("cannot read {}", stamp.display()))?;
    let root = home.join("root");
    let image = find(&root, &|name| name.starts_with("vmlinuz"))?
        .with_context(|| format!("there is no kernel in {package}"))?;
    Ok(Kernel {
        package,
        image,
        root,
    })
}

/// Downloads and unpacks: the name of the package.
fn fetch(release: &Release, mirror: &str, home: &Path) -> Result<String> {
    say(format!("{}: fetching from {mirror}", release.name));
    let apt = Apt::new(release, mirror, home)?;
    process::capture(apt.command(UPDATE_LIMIT, "apt-get").arg("update"))?;
    let image = apt
        .dependencies(META)?
        .into_iter()
        .find(|name| name.starts_with("linux-image-"))
        .with_context(|| format!("{META} names no kernel"))?;
    // Since 6.17 the image package is empty and depends on the others.
    let mut packages = apt.dependencies(&image)?;
    packages.push(image.clone());
    let debs = apt.home.join("debs");
    fs::create_dir_all(&debs)?;
    let mut download = apt.command(DOWNLOAD_LIMIT, "apt-get");
    download.current_dir(&debs).arg("download").args(&packages);
    process::capture(&mut download)?;
    let next = apt.home.join("root");
    for deb in fs::read_dir(&debs)? {
        let mut unpack = Command::new("dpkg-deb");
        unpack.arg("-x").arg(deb?.path()).arg(&next);
        process::run(&mut unpack)?;
    }
    // Only now does the one before go.
    let root = home.join("root");
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| format!("cannot empty {}", root.display()))?;
    }
    fs::rename(&next, &root).with_context(|| format!("cannot make {}", root.display()))?;
    fs::remove_dir_all(&apt.home)?;
    Ok(image)
}

/// Where the system's own apt has Debian's packages from.
fn system_mirror() -> Result<String> {
    let mut targets = Command::new("apt-get");
    targets.args(["indextargets", "--format", "$(REPO_URI)"]);
    let listed = process::capture(&mut targets)?;
    let mirror = listed
        .lines()
        .find_map(|uri| uri.trim_end_matches('/').strip_suffix("/debian"));
    let mirror = mirror.context(
        "apt has no source of Debian's packages: run `apt-get update`, or give a mirror with --mirror URL",
    )?;
    Ok(mirror.to_owned())
}

/// apt with a configuration, lists and a cache of its own.
struct Apt {
    home: PathBuf,
}

impl Apt {
    fn new(release: &Release, mirror: &str, home: &Path) -> Result<Self> {
        let home = home.join("apt");
        if home.exists() {
            fs::remove_dir_all(&home)
                .with_context(|| format!("cannot empty {}", home.display()))?;
        }
        for folder in ["lists/partial", "cache/archives/partial"] {
            let folder = home.join(folder);
            fs::create_dir_all(&folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let sources: String = release
            .suites
            .iter()
            .map(|(archive, suite)| {
                format!("deb [arch=amd64 signed-by={KEYRING}] {mirror}/{archive} {suite} main\n")
            })
            .collect();
        fs::write(home.join("sources.list"), sources)?;
        let folder = home.display();
        let configuration = format!(
            "Dir::Etc::SourceList \"{folder}/sources.list\";\n\
             Dir::Etc::SourceParts \"-\";\n\
             Dir::Etc::Preferences \"-\";\n\
             Dir::Etc::PreferencesParts \"-\";\n\
             Dir::State::Lists \"{folder}/lists\";\n\
             Dir::Cache \"{folder}/cache\";\n\
             APT::Architecture \"amd64\";\n\
             APT::Sandbox::User \"\";\n\
             APT::Update::Error-Mode \"any\";\n\
             Acquire::Languages \"none\";\n\
             Acquire::Retries \"3\";\n\
             // What is signed stays signed after support has ended.\n\
             Acquire::Check-Valid-Until \"false\";\n\
             // The system's own, which is not what is updated.\n\
             #clear APT::Update::Pre-Invoke;\n\
             #clear APT::Update::Post-Invoke;\n\
             #clear APT::Update::Post-Invoke-Success;\n\
             #clear Acquire::IndexTargets::deb::DEP-11;\n\
             #clear Acquire::IndexTargets::deb::DEP-11-icons;\n\
             #clear Acquire::IndexTargets::deb::DEP-11-icons-small;\n\
             #clear Acquire::IndexTargets::deb::DEP-11-icons-large;\n\
             #clear Acquire::IndexTargets::deb::DEP-11-icons-hidpi;\n\
             #clear Acquire::IndexTargets::deb::DEP-11-icons-large-hidpi;\n"
        );
        fs::write(home.join("apt.conf"), configuration)?;
        Ok(Self { home })
    }

    fn command(&self, limit: Duration, program: &str) -> Command {
        let mut command = process::limited(limit, program);
        command
            .env("LC_ALL", "C")
            .arg("-qq")
            .arg("-c")
            .arg(self.home.join("apt.conf"));
        command
    }

    /// Packages of kernels that a package depends on.
    fn dependencies(&self, package: &str) -> Result<Vec<String>> {
        let mut command = self.command(UPDATE_LIMIT, "apt-cache");
        let listed = process::capture(command.args(["depends", package]))?;
        let dependencies = kernel_packages(&listed);
        if listed.trim().is_empty() {
            bail!("there is no package {package}");
        }
        Ok(dependencies)
    }
}

/// The packages of kernels among the dependencies that `apt-cache depends` lists.
fn kernel_packages(listed: &str) -> Vec<String> {
    let names = listed
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "));
    let ours = names.filter(|name| {
        let parts = name
            .strip_prefix("linux-")
            .and_then(|name| name.strip_suffix(FLAVOUR));
        // linux-base-cloud-amd64 is no part of a kernel.
        parts.is_some_and(|parts| parts.contains('-'))
    });
    ours.map(str::to_owned).collect()
}

/// The first file below a folder, in the order of names, that has such a name.
pub fn find(folder: &Path, is_it: &dyn Fn(&str) -> bool) -> Result<Option<PathBuf>> {
    let listed =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut entries = listed.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        if entry.file_type()?.is_dir() {
            if let Some(found) = find(&entry.path(), is_it)? {
                return Ok(Some(found));
            }
        } else if entry.file_name().to_str().is_some_and(is_it) {
            return Ok(Some(entry.path()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packages_of_a_kernel_are_told_from_others() {
        let listed = "linux-image-7.2.13+deb14-cloud-amd64\n  PreDepends: linux-base\n |Depends: dracut\n\
                      \x20 Depends: <linux-initramfs-tool>\n  Depends: linux-base-cloud-amd64\n\
                      \x20 Depends: linux-modules-7.2.13+deb14-cloud-amd64\n  Suggests: linux-doc-7.2\n";
        assert_eq!(
            kernel_packages(listed),
            ["linux-modules-7.2.13+deb14-cloud-amd64"]
        );
    }
}
