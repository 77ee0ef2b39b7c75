//! Errors at the edge: what failed, where, and what to do about it.
//!
//! Takes the errors of the library crates, gives one drawn report and an exit code: 2 for usage and
//! configuration, 3 for the environment (files, disk). Never prints a Rust type name, and never the
//! same sentence twice when an error repeats its cause.

use std::error::Error;
use std::fmt;
use std::io;
use std::ops::Range;

use loar_model::ModelError;
use loar_train::{ConfigError, TrainError};
use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode};

/// Faults listed before the rest is only counted.
pub const SHOWN: usize = 20;

/// Who can mend it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The command line, a configuration or the input data: exit code 2.
    Usage,
    /// Files, disk, memory: exit code 3.
    Environment,
    /// Whoever read the output has gone (`| head`): exit code 0, nothing is said.
    ClosedPipe,
}

/// Why a command could not do its work. Boxed: results of commands stay small.
pub struct Failure(Box<Inner>);

struct Inner {
    kind: Kind,
    message: String,
    causes: Vec<String>,
    faults: Vec<String>,
    help: Option<String>,
    snippet: Option<Snippet>,
}

/// A place in a text the user wrote.
struct Snippet {
    source: NamedSource<String>,
    labels: Vec<LabeledSpan>,
}

impl Failure {
    /// Something the user can mend in the command line, a configuration or the data.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// Something the machine refused.
    pub fn environment(message: impl Into<String>) -> Self {
        Self::new(Kind::Environment, message)
    }

    fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            causes: Vec::new(),
            faults: Vec::new(),
            help: None,
            snippet: None,
        }))
    }

    /// A file that could not be `read` or `written` (the verb).
    pub fn file(path: &std::path::Path, verb: &str, source: &io::Error) -> Self {
        Self::environment(format!("`{}` cannot be {verb}: {source}", path.display()))
    }

    /// What to do about it.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.0.help = Some(help.into());
        self
    }

    /// Everything that is wrong, one sentence each; the first twenty are shown with the total.
    #[must_use]
    pub fn with_faults(mut self, faults: Vec<String>) -> Self {
        self.0.faults = faults;
        self
    }

    /// Underlines byte ranges of `text`, the content of the file `name`.
    #[must_use]
    pub fn with_snippet(
        mut self,
        name: &str,
        text: &str,
        places: impl IntoIterator<Item = (Range<usize>, String)>,
    ) -> Self {
        let labels: Vec<LabeledSpan> = places
            .into_iter()
            .take(SHOWN)
            .map(|(range, label)| {
                let start = floor_boundary(text, range.start);
                let end = floor_boundary(text, range.end).max(start);
                LabeledSpan::new(Some(label), start, end - start)
            })
            .collect();
        if !labels.is_empty() {
            self.0.snippet = Some(Snippet { source: NamedSource::new(name, text.to_owned()), labels });
        }
        self
    }

    /// Faults of a run file: each place in the file underlined, overrides and missing values listed.
    fn of_config(error: &ConfigError) -> Self {
        let n = error.faults.len();
        let mut failure = Self::usage(format!("{n} fault{} in the run configuration", if n == 1 { "" } else { "s" }));
        let mut places = Vec::new();
        for fault in &error.faults {
            let help = fault.help.as_deref().map(|h| format!("; {h}")).unwrap_or_default();
            match &fault.place {
                Some(place) if place.text == 0 => places.push((place.span.clone(), format!("{}{help}", fault.message))),
                Some(place) => {
                    let set = error.texts.get(place.text).map_or("", |t| t.text.as_str());
                    failure.0.faults.push(format!("--set {set}: {}{help}", fault.message));
                }
                None => failure.0.faults.push(format!("{}{help}", fault.message)),
            }
        }
        if places.len() > SHOWN {
            failure.0.help = Some(format!("the first {SHOWN} of {} places are shown", places.len()));
        }
        match error.texts.first() {
            Some(file) => failure.with_snippet(&file.name, &file.text, places),
            None => failure,
        }
    }

    /// Message and causes in one line, for a report that has its own form.
    pub fn in_words(&self) -> String {
        std::iter::once(&self.0.message).chain(&self.0.causes).cloned().collect::<Vec<_>>().join(": ")
    }

    /// The exit code of the process.
    pub fn exit_code(&self) -> u8 {
        match self.0.kind {
            Kind::Usage => 2,
            Kind::Environment => 3,
            Kind::ClosedPipe => 0,
        }
    }

    /// The report as text; empty for a closed pipe.
    pub fn render(&self, colour: bool, unicode: bool) -> String {
        if self.0.kind == Kind::ClosedPipe {
            return String::new();
        }
        let theme = match (unicode, colour) {
            (true, true) => GraphicalTheme::unicode(),
            (true, false) => GraphicalTheme::unicode_nocolor(),
            (false, _) => GraphicalTheme::none(),
        };
        let mut out = String::new();
        let handler =
            GraphicalReportHandler::new_themed(theme).with_width(100).with_context_lines(1).with_cause_chain();
        if handler.render_report(&mut out, &Report(&self.0)).is_err() {
            out.clone_from(&self.0.message);
        }
        out
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false, true))
    }
}

/// The nearest character boundary at or before `at`.
fn floor_boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// Every library error becomes a failure: environment when an operating-system error is among its
/// causes, usage otherwise.
impl<E: Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        if let Some(config) = config_error(&error) {
            return Self::of_config(config);
        }
        let message = error.to_string();
        let mut failure = Self::usage("");
        let dynamic: &(dyn Error + 'static) = &error;
        if let Some(ModelError::Write { .. }) = dynamic.downcast_ref::<ModelError>() {
            failure.0.kind = Kind::Environment;
        }
        let mut shown = message.clone();
        let mut cause: Option<&(dyn Error + 'static)> = Some(&error);
        while let Some(e) = cause {
            if let Some(system) = e.downcast_ref::<io::Error>() {
                failure.0.kind = match system.kind() {
                    io::ErrorKind::BrokenPipe => Kind::ClosedPipe,
                    _ => Kind::Environment,
                };
            }
            let text = e.to_string();
            if !shown.contains(&text) {
                shown.push_str(&text);
                failure.0.causes.push(text);
            }
            cause = e.source();
        }
        // Libraries list faults below their message, one a line; here they become a list of its own.
        let mut lines = message.lines();
        failure.0.message = lines.next().unwrap_or_default().trim_end_matches(':').to_owned();
        failure.0.faults =
            lines.map(|l| l.trim_start().trim_start_matches("- ").to_owned()).filter(|l| !l.is_empty()).collect();
        failure
    }
}

/// The faults of a run file, where the error is about one. A transparent error hides what it holds
/// from `source`, so both types are looked for.
fn config_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a ConfigError> {
    if let Some(TrainError::Config(config)) = error.downcast_ref::<TrainError>() {
        return Some(config);
    }
    error.downcast_ref::<ConfigError>()
}

/// A failure as miette sees it.
struct Report<'a>(&'a Inner);

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        for cause in &self.0.causes {
            write!(f, ": {cause}")?;
        }
        for fault in self.0.faults.iter().take(SHOWN) {
            write!(f, "\n- {fault}")?;
        }
        if self.0.faults.len() > SHOWN {
            write!(f, "\n- and {} more", self.0.faults.len() - SHOWN)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Error for Report<'_> {}

impl Diagnostic for Report<'_> {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        let help = self.0.help.as_ref()?;
        Some(Box::new(help))
    }
    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.0.snippet.as_ref().map(|s| &s.source as &dyn SourceCode)
    }
    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let snippet = self.0.snippet.as_ref()?;
        Some(Box::new(snippet.labels.iter().cloned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read `x`: {source}")]
    struct Wrapped {
        source: io::Error,
    }

    #[test]
    fn operating_system_errors_exit_3_and_are_said_once() {
        let failure = Failure::from(Wrapped { source: io::Error::other("disk on fire") });
        assert_eq!(failure.exit_code(), 3);
        assert_eq!(failure.render(false, true).matches("disk on fire").count(), 1);
        let usage: Failure = "x".parse::<u32>().unwrap_err().into();
        assert_eq!(usage.exit_code(), 2);
        let gone: Failure = io::Error::from(io::ErrorKind::BrokenPipe).into();
        assert_eq!((gone.exit_code(), gone.render(false, true).len()), (0, 0));
    }

    #[test]
    fn the_place_is_underlined_with_file_and_line() {
        let text = "[train]\nlearning_rate = \"fast\"\n";
        let at = text.find("\"fast\"").unwrap();
        let drawn = Failure::usage("`learning_rate` is not a number")
            .with_help("write it like `1e-4`")
            .with_snippet("run.toml", text, [(at..at + 6, "a string".to_owned())])
            .render(false, true);
        for part in ["run.toml:2:17", "learning_rate = \"fast\"", "a string", "write it like `1e-4`"] {
            assert!(drawn.contains(part), "{part} in\n{drawn}");
        }
    }

    #[test]
    fn long_lists_are_cut_with_their_total() {
        let faults: Vec<String> = (0..33).map(|i| format!("fault {i}")).collect();
        let drawn = Failure::usage("bad data").with_faults(faults).render(false, true);
        assert!(drawn.contains("fault 19") && !drawn.contains("fault 20"), "{drawn}");
        assert!(drawn.contains("and 13 more"), "{drawn}");
    }

    #[test]
    fn ranges_beyond_the_text_or_inside_a_character_do_not_panic() {
        for range in [0..99, 99..100, 1..2, 2..2] {
            let drawn = Failure::usage("x").with_snippet("f", "中文", [(range, "here".into())]);
            assert!(!drawn.render(false, true).is_empty());
        }
    }
}
