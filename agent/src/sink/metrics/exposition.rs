//! The Prometheus text format, version 0.0.4, written straight into a string.
//!
//! Metrics here are plain numbers under one lock, because one thread writes them: a registry of
//! atomic series, each found by hashing its labels, would cost more a frame than the frame itself.

use std::fmt::{self, Display, Write};

use super::{histogram::Histogram, names::Metric};
use crate::sink::escape::is_hostile;

/// An exposition in the making.
#[derive(Debug, Default)]
pub(super) struct Exposition {
    text: String,
}

impl Exposition {
    /// Begins a metric. Its `HELP` and `TYPE` lines appear with the first sample.
    pub(super) fn family(&mut self, metric: &'static Metric) -> Family<'_> {
        Family {
            text: &mut self.text,
            metric,
            begun: false,
        }
    }

    /// The whole text.
    pub(super) fn finish(self) -> String {
        self.text
    }
}

/// The samples of one metric.
#[derive(Debug)]
pub(super) struct Family<'a> {
    text: &'a mut String,
    metric: &'static Metric,
    begun: bool,
}

impl Family<'_> {
    /// Writes a sample: the labels of the scope as [`labels`] rendered them, the values of the
    /// metric's own labels in their order, the value.
    pub(super) fn sample(&mut self, scope: &str, values: &[&dyn Display], value: impl Display) {
        self.begin();
        self.series("", scope, values, None);
        self.value(value);
    }

    /// Writes a count, and nothing where there is nothing to count.
    pub(super) fn count(&mut self, scope: &str, values: &[&dyn Display], count: u64) {
        if count > 0 {
            self.sample(scope, values, count);
        }
    }

    /// Writes a histogram, and nothing where nothing was observed.
    pub(super) fn histogram(
        &mut self,
        scope: &str,
        values: &[&dyn Display],
        histogram: &Histogram,
    ) {
        if histogram.count() == 0 {
            return;
        }
        self.begin();
        for (bound, count) in histogram.cumulative() {
            self.series("_bucket", scope, values, Some(bound));
            self.value(count);
        }
        self.series("_sum", scope, values, None);
        self.value(histogram.sum());
        self.series("_count", scope, values, None);
        self.value(histogram.count());
    }

    fn begin(&mut self) {
        if self.begun {
            return;
        }
        self.begun = true;
        let Metric {
            name, help, kind, ..
        } = self.metric;
        self.write(format_args!(
            "# HELP {name} {help}\n# TYPE {name} {}\n",
            kind.as_str()
        ));
    }

    fn series(&mut self, suffix: &str, scope: &str, values: &[&dyn Display], le: Option<f64>) {
        debug_assert_eq!(self.metric.labels.len(), values.len());
        self.text.push_str(self.metric.name);
        self.text.push_str(suffix);
        let mut separator = '{';
        if !scope.is_empty() {
            self.text.push(separator);
            self.text.push_str(scope);
            separator = ',';
        }
        for (name, value) in self.metric.labels.iter().zip(values) {
            self.text.push(separator);
            label(self.text, name, value);
            separator = ',';
        }
        if let Some(bound) = le {
            self.text.push(separator);
            if bound.is_finite() {
                label(self.text, "le", &bound);
            } else {
                label(self.text, "le", &"+Inf");
            }
            separator = ',';
        }
        if separator == ',' {
            self.text.push('}');
        }
    }

    fn value(&mut self, value: impl Display) {
        self.write(format_args!(" {value}\n"));
    }

    fn write(&mut self, arguments: fmt::Arguments<'_>) {
        // Writing to a string fails only where a `Display` does, and those here do not.
        let _ = self.text.write_fmt(arguments);
    }
}

/// Renders the labels of a scope once, for many samples: `server="...",path="..."`.
pub(super) fn labels(names: &[&str], values: &[&dyn Display]) -> String {
    debug_assert_eq!(names.len(), values.len());
    let mut text = String::new();
    for (name, value) in names.iter().zip(values) {
        if !text.is_empty() {
            text.push(',');
        }
        label(&mut text, name, value);
    }
    text
}

fn label(text: &mut String, name: &str, value: &dyn Display) {
    text.push_str(name);
    text.push_str("=\"");
    let _ = write!(Escaped(text), "{value}");
    text.push('"');
}

/// Escapes a label value as the format asks. What a terminal or a dashboard would obey is replaced,
/// and Prometheus refuses a whole scrape for one NUL in a value.
struct Escaped<'a>(&'a mut String);

impl Write for Escaped<'_> {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        for c in part.chars() {
            match c {
                '\\' => self.0.push_str("\\\\"),
                '"' => self.0.push_str("\\\""),
                '\n' => self.0.push_str("\\n"),
                c if is_hostile(c) => self.0.push(char::REPLACEMENT_CHARACTER),
                c => self.0.push(c),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::metrics::{histogram, names};

    #[test]
    fn a_family_without_samples_leaves_no_trace() {
        let mut out = Exposition::default();
        out.family(&names::FRAMES)
            .count("", &[&"client_to_server", &"text"], 0);
        out.family(&names::PING_RTT).histogram(
            "",
            &[&"client_to_server"],
            &Histogram::new(histogram::SIZES),
        );
        assert_eq!(out.finish(), "");
    }

    #[test]
    fn labels_of_scope_and_metric_are_joined_and_escaped() {
        let mut out = Exposition::default();
        let scope = labels(&["path"], &[&"/a\"b\\c\nd\0\u{202e}e"]);
        out.family(&names::UNANSWERED_PINGS)
            .sample(&scope, &[&"server_to_client"], 3);
        let text = out.finish();
        let line = text.lines().last().unwrap();
        assert_eq!(
            line,
            "websocket_unanswered_pings_total{path=\"/a\\\"b\\\\c\\nd\u{fffd}\u{fffd}e\",direction=\"server_to_client\"} 3"
        );
    }

    #[test]
    fn a_metric_without_labels_has_no_braces() {
        let mut out = Exposition::default();
        out.family(&names::GAPS).sample("", &[], 0);
        assert!(out.finish().ends_with("\nwstap_gaps_total 0\n"));
    }

    #[test]
    fn buckets_are_cumulative() {
        let mut sizes = Histogram::new(&[1.0, 4.0]);
        for value in [1.0, 2.0, 9.0] {
            sizes.observe(value);
        }
        let mut out = Exposition::default();
        out.family(&names::HANDSHAKE_DURATION)
            .histogram("", &[], &sizes);
        let text = out.finish();
        let samples: Vec<_> = text.lines().skip(2).collect();
        assert_eq!(
            samples,
            [
                "websocket_handshake_duration_seconds_bucket{le=\"1\"} 1",
                "websocket_handshake_duration_seconds_bucket{le=\"4\"} 2",
                "websocket_handshake_duration_seconds_bucket{le=\"+Inf\"} 3",
                "websocket_handshake_duration_seconds_sum 12",
                "websocket_handshake_duration_seconds_count 3",
            ]
        );
    }
}
