//! `cargo xtask deploy`: what is under `deploy/` is current and valid, or is made current.
//!
//! The chart is rendered and held against the schemas of Kubernetes' API by `deploy/tests/chart.py`, the
//! dashboards against Grafana's by `deploy/tests/dashboards.mjs`, the alerts are tried by promtool.
//! That queries are answered by what an agent serves is a kernel test.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::setup::{self, DeploymentTools};
use crate::{process, workspace};

/// What to do.
#[derive(clap::Args)]
pub struct Args {
    /// Write what is made from other files: the dashboards, the chart's copies, the plain manifests
    #[arg(long)]
    write: bool,
}

/// Sets up, writes where that is asked for, and checks.
pub fn command(args: &Args) -> Result<()> {
    let tools = setup::ensure_deployment()?;
    if args.write {
        process::run(chart(&tools).arg("write"))?;
    }
    // Without asking for the kernel program: what there is of it may stay as it is.
    let mut cargo = process::cargo();
    process::run(cargo.args(["build", "--package", "wstap", "--bin", "wstap"]))?;
    check_with(&tools, &workspace::target().join("debug/wstap"))
}

/// Checks what is deployed; `wstap` is the agent's binary.
pub fn check(wstap: &Path) -> Result<()> {
    check_with(&setup::ensure_deployment()?, wstap)
}

fn check_with(tools: &DeploymentTools, wstap: &Path) -> Result<()> {
    process::run(chart(tools).args(["check", "--wstap"]).arg(wstap))
        .context("the chart, or what is made from it, is not as it should be")?;
    let deploy = workspace::root().join("deploy");
    let mut node = Command::new("node");
    node.arg(deploy.join("tests/dashboards.mjs"))
        .arg(&tools.modules);
    for name in ["operators.json", "agents.json"] {
        node.arg(deploy.join("grafana").join(name));
    }
    process::run(&mut node).context("a dashboard is not of Grafana's schema")?;
    println!("the dashboards are of Grafana's schema");
    let rules = deploy.join("prometheus");
    let promtool = |words: [&str; 2], file: &str| {
        let mut promtool = Command::new("promtool");
        process::run(promtool.current_dir(&rules).args(words).arg(file))
    };
    promtool(["check", "rules"], "rules.yaml")?;
    promtool(["test", "rules"], "rules_test.yaml").context("an alert does not fire as it should")
}

/// The program that knows the chart.
fn chart(tools: &DeploymentTools) -> Command {
    let mut command = Command::new(&tools.python);
    command.arg(workspace::root().join("deploy/tests/chart.py"));
    command
}
