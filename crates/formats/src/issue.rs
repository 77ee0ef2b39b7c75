//! Remarks about a file that could be read: what the user should know, from note to error.

use std::fmt;

/// How much a remark matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// A choice that was made and that other tools make differently.
    Note,
    /// Probably not what the user wants, but the result is defined.
    Warning,
    /// The checkpoint cannot be used as it is.
    Error,
}

/// One remark, ready to print.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issue {
    /// How much it matters.
    pub severity: Severity,
    /// One sentence without a final stop: where, what was found, what it means.
    pub text: String,
}

impl Issue {
    /// A choice worth telling.
    pub fn note(text: impl Into<String>) -> Self {
        Self { severity: Severity::Note, text: text.into() }
    }
    /// Something suspicious.
    pub fn warning(text: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, text: text.into() }
    }
    /// Something that stops the use of the file.
    pub fn error(text: impl Into<String>) -> Self {
        Self { severity: Severity::Error, text: text.into() }
    }
}

impl fmt::Display for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.severity {
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        write!(f, "{word}: {}", self.text)
    }
}
