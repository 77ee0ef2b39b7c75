//! An answer: the part of a path that is compared with others and with the truth.

/// An answer as it was written and in its canonical form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What the path wrote, without markup around it.
    pub written: String,
}
