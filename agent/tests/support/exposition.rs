//! Reads the Prometheus text format 0.0.4, as far as the tests need it.

use std::{collections::BTreeMap, str::Chars};

/// One line of it that has a value.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The metric's name, `_bucket`, `_sum`, `_count` included.
    pub name: String,
    /// The labels.
    pub labels: BTreeMap<String, String>,
    /// The value.
    pub value: f64,
}

impl Sample {
    /// The value of a label; empty where it has none, which is the same thing to Prometheus.
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }

    /// The value of something that is counted in whole numbers.
    #[track_caller]
    pub fn count(&self) -> u64 {
        assert!(
            self.value >= 0.0 && self.value.fract() == 0.0,
            "no count: {self:?}"
        );
        self.value as u64
    }
}

/// A whole scrape.
#[derive(Clone, Debug, Default)]
pub struct Exposition {
    /// In the order of the text.
    pub samples: Vec<Sample>,
}

impl Exposition {
    /// Parses it.
    ///
    /// # Panics
    ///
    /// Where a line is not of the format.
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        let lines = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        let samples = lines
            .map(|line| sample(line).unwrap_or_else(|| panic!("not of the text format: {line}")))
            .collect();
        Self { samples }
    }

    /// All samples of this name.
    pub fn of(&self, name: &str) -> impl Iterator<Item = &Sample> {
        self.samples
            .iter()
            .filter(move |sample| sample.name == name)
    }

    /// The sum over those of this name that have these labels; 0 where there is none.
    #[track_caller]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        self.of(name)
            .filter(|sample| {
                labels
                    .iter()
                    .all(|(label, value)| sample.label(label) == *value)
            })
            .map(Sample::count)
            .sum()
    }
}

fn sample(line: &str) -> Option<Sample> {
    let end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    let rest = match rest.strip_prefix('{') {
        None => rest,
        Some(rest) => {
            let mut chars = rest.chars();
            while let Some((label, value)) = label(&mut chars)? {
                labels.insert(label, value);
            }
            chars.as_str()
        }
    };
    let value = match rest.split_whitespace().next()? {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        number => number.parse().ok()?,
    };
    Some(Sample {
        name: name.to_owned(),
        labels,
        value,
    })
}

/// The next label, or that the closing brace came instead; `None` where it is neither.
fn label(chars: &mut Chars<'_>) -> Option<Option<(String, String)>> {
    let rest = chars.as_str().trim_start_matches([',', ' ']);
    if let Some(rest) = rest.strip_prefix('}') {
        *chars = rest.chars();
        return Some(None);
    }
    let (name, rest) = rest.split_once("=\"")?;
    *chars = rest.chars();
    let mut value = String::new();
    loop {
        match chars.next()? {
            '"' => return Some(Some((name.to_owned(), value))),
            '\\' => value.push(match chars.next()? {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
}

mod tests {
    use super::Exposition;

    #[test]
    fn reads_labels_escapes_and_values() {
        let text = concat!(
            "# HELP a Something.\n# TYPE a counter\n",
            "a{x=\"1\",path=\"/a\\\"b\\\\c\\nd, e}\"} 3\n",
            "a{x=\"2\",} 4 1700000000000\n",
            "b 1.5e3\n",
            "h_bucket{le=\"+Inf\"} +Inf\n",
        );
        let parsed = Exposition::parse(text);
        assert_eq!(parsed.samples.len(), 4);
        assert_eq!(parsed.samples[0].label("path"), "/a\"b\\c\nd, e}");
        assert_eq!(parsed.sum("a", &[]), 7);
        assert_eq!(parsed.sum("a", &[("x", "2")]), 4);
        assert_eq!(parsed.sum("b", &[]), 1500);
        assert_eq!(parsed.sum("absent", &[]), 0);
        assert!(parsed.samples[3].value.is_infinite());
    }
}
