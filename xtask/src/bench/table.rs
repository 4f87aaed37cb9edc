//! The table: figures, what they have to be, and whether they are.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// What a figure has to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Required {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
    /// This, to the last frame.
    Exactly(f64),
}

impl Required {
    fn is_met(self, measured: f64) -> bool {
        match self {
            Self::AtMost(most) => measured <= most,
            Self::AtLeast(least) => measured >= least,
            Self::Exactly(wanted) => measured == wanted,
        }
    }

    fn shown(self) -> String {
        match self {
            Self::AtMost(most) => format!("<= {}", number(most)),
            Self::AtLeast(least) => format!(">= {}", number(least)),
            Self::Exactly(wanted) => format!("= {}", number(wanted)),
        }
    }

    fn json(self) -> Value {
        match self {
            Self::AtMost(most) => json!({ "at_most": most }),
            Self::AtLeast(least) => json!({ "at_least": least }),
            Self::Exactly(wanted) => json!({ "exactly": wanted }),
        }
    }
}

/// A figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// What was measured, and with what.
    pub figure: String,
    /// The figure; no number where it could not be measured, which meets no requirement.
    pub measured: f64,
    /// Where the true value is with 95 %, where several values were taken.
    pub interval: Option<(f64, f64)>,
    /// Of the three above; empty for a ratio.
    pub unit: &'static str,
    /// What it has to be, if it has to be something.
    pub required: Option<Required>,
    /// What one has to know in order to read it; may be empty.
    pub note: String,
}

impl Row {
    /// Whether it is what it has to be; `None` where nothing is required.
    pub fn is_reached(&self) -> Option<bool> {
        self.required.map(|required| required.is_met(self.measured))
    }

    fn cells(&self) -> [String; 6] {
        let interval = self
            .interval
            .map(|(low, high)| format!("{} to {}", number(low), number(high)));
        let reached = self
            .is_reached()
            .map(|reached| if reached { "yes" } else { "NO" });
        [
            self.figure.clone(),
            format!("{} {}", number(self.measured), self.unit)
                .trim_end()
                .to_owned(),
            interval.unwrap_or_default(),
            self.required.map(Required::shown).unwrap_or_default(),
            reached.unwrap_or_default().to_owned(),
            self.note.clone(),
        ]
    }

    fn json(&self) -> Value {
        json!({
            "figure": self.figure,
            // JSON has no value for what is no number: null.
            "measured": self.measured,
            "interval": self.interval.map(|(low, high)| [low, high]),
            "unit": self.unit,
            "required": self.required.map(Required::json),
            "reached": self.is_reached(),
            "note": self.note,
        })
    }
}

/// As many digits as tell something: four, and those of whole numbers.
fn number(value: f64) -> String {
    let size = value.abs();
    if !value.is_finite() {
        return "?".to_owned();
    }
    if value.fract() == 0.0 && size < 1e15 {
        return format!("{value:.0}");
    }
    match size {
        1000.0.. => format!("{value:.0}"),
        100.0.. => format!("{value:.1}"),
        10.0.. => format!("{value:.2}"),
        1.0.. => format!("{value:.3}"),
        0.001.. => format!("{value:.4}"),
        _ => format!("{value:.2e}"),
    }
}

const HEADINGS: [&str; 6] = [
    "figure", "measured", "interval", "required", "reached", "note",
];

/// The rows as a table.
pub fn text(rows: &[Row]) -> String {
    let headings = HEADINGS.map(str::to_owned);
    let lines: Vec<_> = std::iter::once(headings)
        .chain(rows.iter().map(Row::cells))
        .collect();
    let mut text = String::new();
    for line in &lines {
        let mut shown = String::new();
        for (column, cell) in line.iter().enumerate() {
            let widths = lines.iter().map(|line| line[column].chars().count());
            let width = widths.max().unwrap_or_default();
            shown += &format!("{cell:<width$}  ");
        }
        text += shown.trim_end();
        text.push('\n');
    }
    text
}

/// Writes the rows, and `about` what they were taken on, as one object.
pub fn write_json(path: &Path, about: &Value, rows: &[Row]) -> Result<()> {
    let rows: Vec<_> = rows.iter().map(Row::json).collect();
    let all = json!({ "about": about, "rows": rows });
    fs::write(path, format!("{all:#}\n"))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(measured: f64, required: Option<Required>) -> Row {
        Row {
            figure: "a figure".to_owned(),
            measured,
            interval: Some((0.5, 1234.5)),
            unit: "ns",
            required,
            note: "as it is".to_owned(),
        }
    }

    #[test]
    fn says_whether_a_requirement_is_met() {
        let reached = |measured, required| row(measured, Some(required)).is_reached();
        assert_eq!(reached(12.0, Required::AtMost(12.0)), Some(true));
        assert_eq!(reached(12.1, Required::AtMost(12.0)), Some(false));
        assert_eq!(reached(0.96, Required::AtLeast(0.97)), Some(false));
        assert_eq!(reached(1.0, Required::Exactly(1.0)), Some(true));
        assert_eq!(reached(f64::NAN, Required::AtMost(1.0)), Some(false));
        assert_eq!(row(1.0, None).is_reached(), None);
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [row(1.5, Some(Required::AtMost(1.0))), row(0.0, None)];
        assert_eq!(
            text(&rows),
            "figure    measured  interval        required  reached  note\n\
             a figure  1.500 ns  0.5000 to 1234  <= 1      NO       as it is\n\
             a figure  0 ns      0.5000 to 1234                     as it is\n"
        );
    }

    #[test]
    fn numbers_are_short() {
        let shown = [5.0, 0.97123, 12.345, 0.000_012_3, 123_456.7, f64::NAN].map(number);
        assert_eq!(shown, ["5", "0.9712", "12.35", "1.23e-5", "123457", "?"]);
    }
}
