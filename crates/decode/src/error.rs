//! The error of this crate.

use std::fmt;

/// Faults shown before the rest is only counted.
const SHOWN: usize = 20;

/// Everything wrong with a set of requests, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults(pub Vec<String>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [only] = self.0.as_slice() {
            return write!(f, "{only}");
        }
        write!(f, "{} faults", self.0.len())?;
        for fault in self.0.iter().take(SHOWN) {
            write!(f, "\n  - {fault}")?;
        }
        if self.0.len() > SHOWN {
            write!(f, "\n  - and {} more", self.0.len() - SHOWN)?;
        }
        Ok(())
    }
}

/// Why tokens could not be generated.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Requests that cannot be run: empty or oversized prompts, ids outside the vocabulary,
    /// sampling settings out of range. Nothing was generated.
    #[error("cannot generate: {0}")]
    Requests(Faults),
    /// A sequence that was to be continued is not there.
    #[error("sequence {sequence} has not ended, was cancelled or was released; only one that ended is continued")]
    Gone {
        /// Its number.
        sequence: usize,
    },
    /// The model gave a logit that is NaN or plus infinity.
    #[error(
        "request {request}: the model gave logit {value} for token {token} at position {position}; its weights are damaged or its precision too low"
    )]
    NonFinite {
        /// Index of the request.
        request: usize,
        /// Position of the token that was to be chosen, prompt included.
        position: usize,
        /// First such token id.
        token: usize,
        /// The logit.
        value: f32,
    },
}
