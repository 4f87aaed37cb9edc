//! Node, and what of the tests runs on it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::{apt, say};
use crate::{process, workspace};

/// What names the packages, in exactly one version each.
const FILES: [&str; 2] = ["package.json", "package-lock.json"];

const LIMIT: Duration = Duration::from_secs(300);

/// The folder with the peers' packages; makes it where it is not there.
pub fn ensure() -> Result<PathBuf> {
    packages(
        &workspace::root().join("agent/tests/peers"),
        &workspace::target().join("peers/node"),
    )
}

/// The folder in `home` that has the packages which the files in `source` name; makes it where it is not
/// there.
pub fn packages(source: &Path, home: &Path) -> Result<PathBuf> {
    let modules = home.join("node_modules");
    let stamp = home.join("installed");
    let mut wanted = String::new();
    for name in FILES {
        let path = source.join(name);
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        wanted.push_str(&text);
    }
    let installed =
        modules.exists() && fs::read_to_string(&stamp).is_ok_and(|found| found == wanted);
    // Whoever brings their own Node keeps it.
    let needed = [("node", "nodejs"), ("npm", "npm")];
    let needed = needed.iter().filter(|(command, _)| {
        !(installed && *command == "npm") && process::find(command).is_none()
    });
    let packages: Vec<_> = needed.map(|(_, package)| *package).collect();
    apt::ensure(&packages, "what of the tests runs on Node")?;
    if installed {
        return Ok(modules);
    }
    say("installing the Node packages of the tests");
    fs::create_dir_all(home).with_context(|| format!("cannot make {}", home.display()))?;
    for name in FILES {
        fs::copy(source.join(name), home.join(name))
            .with_context(|| format!("cannot copy {name} to {}", home.display()))?;
    }
    let mut npm = process::limited(LIMIT, "npm");
    npm.current_dir(home)
        .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
        .args(["--loglevel", "error"]);
    process::run(&mut npm).with_context(|| {
        format!(
            "cannot install the Node packages of the tests; by hand: `npm ci` in {}",
            home.display()
        )
    })?;
    fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))?;
    Ok(modules)
}
