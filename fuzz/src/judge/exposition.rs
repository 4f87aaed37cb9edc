//! A reader of the Prometheus text format, version 0.0.4, as strict as a scraper is.

use std::collections::{HashMap, HashSet};

use wstap::sink::{
    escape::is_hostile,
    metrics::{MAX_PATH_LABEL_LENGTH, names},
};

/// Bytes of a label's value at most: what the path has, a Unicode replacement character for each of
/// its bytes.
const MAX_VALUE: usize = MAX_PATH_LABEL_LENGTH;

/// What was exposed.
pub(super) struct Exposition {
    /// Sums over all series by name.
    sums: HashMap<String, f64>,
    /// Sets of labels by name.
    series: HashMap<String, HashSet<Vec<(String, String)>>>,
}

impl Exposition {
    /// Reads `text`, of which every line has to be right.
    pub(super) fn parse(text: &str) -> Self {
        let mut exposition = Self {
            sums: HashMap::new(),
            series: HashMap::new(),
        };
        let mut family = "";
        let mut begun = HashSet::new();
        assert!(text.ends_with('\n'));
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                family = help.split(' ').next().unwrap_or_default();
                assert!(begun.insert(family), "a family twice: {line}");
                continue;
            }
            if let Some(kind) = line.strip_prefix("# TYPE ") {
                assert_eq!(kind.split(' ').next(), Some(family), "{line}");
                continue;
            }
            exposition.sample(line, family);
        }
        exposition
    }

    /// The sum of all series of a metric that is no histogram.
    pub(super) fn sum(&self, name: &str) -> f64 {
        self.sums.get(name).copied().unwrap_or(0.0)
    }

    /// How many series a metric has.
    pub(super) fn scopes(&self, name: &str) -> usize {
        self.series.get(name).map_or(0, HashSet::len)
    }

    fn sample(&mut self, line: &str, family: &str) {
        let end = line.find(['{', ' ']).unwrap_or(line.len());
        let (name, rest) = line.split_at(end);
        let metric = names::ALL.iter().find(|metric| metric.name == family);
        let metric = metric.unwrap_or_else(|| panic!("no metric of ours: {line}"));
        let suffix = name.strip_prefix(family).expect("a sample of its family");
        let is_histogram = metric.kind == names::Kind::Histogram;
        let suffixes: &[_] = if is_histogram {
            &["_bucket", "_sum", "_count"]
        } else {
            &[""]
        };
        assert!(suffixes.contains(&suffix), "{line}");
        let (labels, value) = labels(rest);
        let value: f64 = value.trim().parse().expect("a number");
        assert!(value.is_finite() && value >= 0.0, "{line}");
        let mut expected = [metric.scope.labels(), metric.labels].concat();
        if suffix == "_bucket" {
            expected.push("le");
        }
        let given: Vec<_> = labels.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(given, expected, "{line}");
        for (name, value) in &labels {
            assert!(!value.contains(is_hostile), "{name} of {line:?}");
            assert!(value.len() <= MAX_VALUE, "{name} of {line:?}");
        }
        let series = self.series.entry(name.to_owned()).or_default();
        assert!(series.insert(labels), "a series twice: {line}");
        *self.sums.entry(name.to_owned()).or_default() += value;
    }
}

/// The labels at the beginning of `text`, and what follows them.
fn labels(text: &str) -> (Vec<(String, String)>, &str) {
    let mut labels = Vec::new();
    let Some(mut rest) = text.strip_prefix('{') else {
        return (labels, text);
    };
    loop {
        let (name, after) = rest.split_once("=\"").expect("a label");
        let mut value = String::new();
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next().expect("a value that ends") {
                (at, '"') => break at,
                (_, '\\') => match chars.next().expect("an escape").1 {
                    'n' => value.push('\n'),
                    c @ ('\\' | '"') => value.push(c),
                    c => panic!("\\{c} in {text:?}"),
                },
                (_, c) => value.push(c),
            }
        };
        assert!(!value.contains('\n'));
        labels.push((name.to_owned(), value));
        rest = &after[end + 1..];
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => break,
        }
    }
    (
        labels,
        rest.strip_prefix('}').expect("the end of the labels"),
    )
}
