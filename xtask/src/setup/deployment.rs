//! What the chart, the alerts and the dashboards are checked with.

use std::path::PathBuf;

use anyhow::Result;

use super::{apt, node, peers};
use crate::workspace;

/// `promtool`, and what makes the Python environment.
const PACKAGES: &[&str] = &["prometheus", "python3-venv"];

/// Helm, as a library; the schemas of Kubernetes' API. Pinned, so that a failing check means a change of ours.
const REQUIREMENTS: &[&str] = &[
    "helm-python-sdk==0.2.2",
    "kubernetes-validate==1.37.0",
    "jsonschema==4.26.0",
    "PyYAML==6.0.3",
];

/// Where it is.
pub struct Tools {
    /// A Python that has Helm and the schemas of Kubernetes' API.
    pub python: PathBuf,
    /// The Node packages: Grafana's schema, and a compiler to read it.
    pub modules: PathBuf,
}

/// Finds or installs it.
pub fn ensure() -> Result<Tools> {
    apt::ensure(PACKAGES, "the checks of what is deployed")?;
    let home = workspace::target().join("deployment");
    Ok(Tools {
        python: peers::environment(&home, REQUIREMENTS)?,
        modules: node::packages(&workspace::root().join("deploy/tests"), &home.join("node"))?,
    })
}
