//! What is wrong with a stage's options: every fault at once, each with the key, the line where
//! there is one, what stands there and what to write instead.

/// One fault of the options of a stage.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{key}`{}: {found}; {mend}", line.map(|line| format!(" (line {line})")).unwrap_or_default())]
pub struct OptionFault {
    /// The option, dotted (`rules.min_chars`).
    pub key: String,
    /// Line in the file that holds it, from 1, where it is known.
    pub line: Option<usize>,
    /// What stands there.
    pub found: String,
    /// What to do.
    pub mend: String,
}

impl OptionFault {
    /// A fault without a line.
    pub fn new(key: impl Into<String>, found: impl Into<String>, mend: impl Into<String>) -> Self {
        OptionFault { key: key.into(), line: None, found: found.into(), mend: mend.into() }
    }
}
