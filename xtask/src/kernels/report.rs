//! The table.

use std::collections::BTreeSet;

use serde_json::Value;

use super::debian::Release;

const HEADINGS: [&str; 8] = [
    "kernel",
    "attached",
    "over",
    "",
    "copied",
    "instructions",
    "counts",
    "seconds",
];

/// What all kernels told.
#[derive(Default)]
pub struct Report {
    rows: Vec<[String; 8]>,
    /// Why something was left out.
    notes: BTreeSet<String>,
    failures: Vec<String>,
}

impl Report {
    /// Adds what one told.
    pub fn add(&mut self, release: &Release, told: &[Value]) {
        let mut kernel = release.name.to_owned();
        let mut instructions = String::new();
        let mut rows = 0;
        for value in told {
            if let Some(name) = value["kernel"].as_str() {
                name.clone_into(&mut kernel);
                if !name.starts_with(release.version) {
                    self.fail(release.name, &format!("the kernel is {name}"));
                }
            }
            if let Some(counts) = value["instructions"].as_object() {
                // The verifier's limit is on each program.
                let most = counts.values().filter_map(Value::as_u64).max();
                instructions = most.unwrap_or_default().to_string();
            }
            if let Some(failure) = value["failure"].as_str() {
                self.fail(&kernel, failure);
            }
            if value["row"].is_object() {
                rows += 1;
                self.row(&kernel, &instructions, &value["row"]);
            }
        }
        if rows == 0 {
            self.fail(&kernel, "nothing was counted");
        }
    }

    fn row(&mut self, kernel: &str, instructions: &str, row: &Value) {
        let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        let (difference, left_out) = (row["difference"].as_str(), row["left_out"].as_str());
        let counts = match (difference, left_out) {
            (Some(_), _) => "wrong",
            (None, Some(_)) => "left out",
            (None, None) => "exact",
        };
        if let Some(reason) = left_out {
            self.notes.insert(format!("Left out: {reason}."));
        }
        if let Some(difference) = difference {
            let what = ["attach", "device", "family", "copy"].map(text).join(" ");
            self.fail(kernel, &format!("{what}: {difference}"));
        }
        self.rows.push([
            kernel.to_owned(),
            text("attach"),
            text("device"),
            text("family"),
            text("copy"),
            instructions.to_owned(),
            counts.to_owned(),
            row["seconds"]
                .as_f64()
                .map_or_else(String::new, |seconds| format!("{seconds:.1}")),
        ]);
    }

    /// Adds a failure.
    pub fn fail(&mut self, kernel: &str, what: &str) {
        self.failures.push(format!("{kernel}: {what}"));
    }

    /// How many there are.
    pub fn failures(&self) -> usize {
        self.failures.len()
    }

    /// Prints all of it.
    pub fn print(&self) {
        let headings = HEADINGS.map(str::to_owned);
        let lines = || std::iter::once(&headings).chain(&self.rows);
        let width = |column: usize| lines().map(|line| line[column].len()).max().unwrap_or(0);
        let widths: [usize; 8] = std::array::from_fn(width);
        for line in lines() {
            let cells = line.iter().zip(widths).zip(HEADINGS);
            let cells = cells.map(|((cell, width), heading)| match heading {
                "instructions" | "seconds" => format!("{cell:>width$}"),
                _ => format!("{cell:<width$}"),
            });
            println!("{}", cells.collect::<Vec<_>>().join("  ").trim_end());
        }
        for note in &self.notes {
            println!("{note}");
        }
        for failure in &self.failures {
            println!("\n{failure}");
        }
    }
}
