//! What a run of all cases comes to.

use std::collections::{BTreeMap, BTreeSet};

use super::run::Run;

/// Agreements and differences by group.
#[derive(Default)]
pub struct Table {
    groups: BTreeMap<u32, Group>,
    differences: Vec<String>,
}

#[derive(Default)]
struct Group {
    cases: BTreeSet<String>,
    runs: u64,
    differ: u64,
}

impl Table {
    /// Holds what was said of a run against what has to be said.
    pub fn add(&mut self, run: &Run, expected: &[String], said: &[String]) {
        let id = &run.case.id;
        let number = id.split(['.', ',']).next().unwrap_or_default();
        let group = self.groups.entry(number.parse().expect("a number"));
        let group = group.or_default();
        group.cases.insert(id.clone());
        group.runs += 1;
        if expected != said {
            group.differ += 1;
            let place = (expected.iter().zip(said)).position(|(one, other)| one != other);
            let place = place.unwrap_or(expected.len().min(said.len()));
            let at = |lines: &[String]| lines.get(place).cloned().unwrap_or_default();
            self.differences.push(format!(
                "{}: line {place}: expected `{}`, said `{}`",
                run.path(),
                at(expected),
                at(said),
            ));
        }
    }

    /// Prints it.
    ///
    /// # Panics
    ///
    /// Where there are differences, with all of them.
    #[track_caller]
    pub fn settle(&self, title: &str) {
        println!("{title}");
        println!("group  cases   runs  agree  differ");
        let row = |name: &str, cases: usize, runs: u64, differ: u64| {
            let agree = runs - differ;
            println!("{name:>5}{cases:>7}{runs:>7}{agree:>7}{differ:>8}");
        };
        let (mut cases, mut runs, mut differ) = (0, 0, 0);
        for (number, group) in &self.groups {
            row(
                &number.to_string(),
                group.cases.len(),
                group.runs,
                group.differ,
            );
            cases += group.cases.len();
            runs += group.runs;
            differ += group.differ;
        }
        row("all", cases, runs, differ);
        assert!(
            self.differences.is_empty(),
            "{title}: {differ} of {runs} differ\n{}",
            self.differences.join("\n")
        );
    }
}
