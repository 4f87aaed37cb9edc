//! The sink that `trace` and `read` print with: a selection, then text or JSON, until as many are
//! shown as were asked for.

use std::{
    env,
    io::{self, IsTerminal, Write},
};

use super::{InterfaceNames, Sink, json::Json, peer::Naming, text::Text};
use crate::{
    config::{Color, Format, OutputConfig, Selection},
    proto::event::Event,
};

/// Prints the events that a selection shows.
pub struct Printer<W> {
    selection: Selection,
    shown: u64,
    form: Form<W>,
}

enum Form<W> {
    Text(Text<W>),
    Json(Json<W>),
}

impl<W: Write> Printer<W> {
    /// Prints to `out`, which stands for standard output and should be buffered: it is flushed by
    /// [`Sink::flush`] and when nothing more is to be shown.
    pub fn new(
        config: &OutputConfig,
        selection: Selection,
        interfaces: InterfaceNames,
        out: W,
    ) -> Self {
        Self {
            selection,
            shown: 0,
            form: match config.format {
                Format::Text => Form::Text(Text::new(out, interfaces, is_colored(config.color))),
                Format::Json => Form::Json(Json::new(out, interfaces)),
            },
        }
    }

    /// The same with names of pods, which JSON shows.
    #[must_use]
    pub fn with_names(mut self, naming: Naming) -> Self {
        if let Form::Json(json) = self.form {
            self.form = Form::Json(json.with_names(naming));
        }
        self
    }

    /// How many events were shown.
    #[must_use]
    pub fn shown(&self) -> u64 {
        self.shown
    }
}

impl<W: Write> Sink for Printer<W> {
    fn event(&mut self, event: &Event) -> io::Result<()> {
        if self.is_done() {
            return Ok(());
        }
        if !self.selection.shows(event) {
            if let Form::Json(json) = &mut self.form {
                json.pass_over(event);
            }
            return Ok(());
        }
        self.shown += 1;
        match &mut self.form {
            Form::Text(text) => text.event(event)?,
            Form::Json(json) => json.event(event)?,
        }
        if self.is_done() { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.form {
            Form::Text(text) => text.flush(),
            Form::Json(json) => json.flush(),
        }
    }

    fn is_done(&self) -> bool {
        self.selection
            .count
            .is_some_and(|count| self.shown >= count)
    }
}

/// Whether to colour what goes to standard output (<https://no-color.org>).
fn is_colored(color: Color) -> bool {
    let is_set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
    match color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => {
            io::stdout().is_terminal()
                && !is_set("NO_COLOR")
                && env::var_os("TERM").is_none_or(|term| term != "dumb")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::{no_interfaces, sample};

    #[test]
    fn stops_after_as_many_as_were_asked_for() {
        let config = OutputConfig {
            format: Format::Json,
            color: Color::Never,
            payload: None,
        };
        let selection = Selection {
            count: Some(2),
            ..Selection::default()
        };
        let mut out = Vec::new();
        let mut printer = Printer::new(&config, selection, no_interfaces(), &mut out);
        for done in [false, false, true, true] {
            assert_eq!(printer.is_done(), done);
            printer.event(&sample::event(sample::gap(true))).unwrap();
            // Not shown, so not counted.
            printer
                .event(&sample::event(sample::message(
                    crate::proto::frame::Opcode::Text,
                    1,
                )))
                .unwrap();
        }
        assert_eq!(printer.shown(), 2);
        assert_eq!(String::from_utf8(out).unwrap().lines().count(), 2);
    }
}
