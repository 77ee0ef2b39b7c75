//! Which of 112 task types a row is. Three voices add up, per type: cue phrases in the request
//! (with those at its beginning counting more), BM25 of the request over the descriptions of the
//! types, and the form of the request and of the answer (code, JSON, a number at the end, a table,
//! turns). With an embedding model, the cosine to the descriptions is a fourth. The best two types
//! and a confidence become columns; 0 is a row that nothing speaks for.
//!
//! Only the beginning and the end of a request are read, so that a pasted document costs nothing
//! and does not vote.

mod classify;
mod coverage;
mod types;

use std::path::PathBuf;
use std::sync::Arc;

use arrow_array::{ArrayRef, Float32Array, UInt16Array};
use arrow_schema::{DataType, Field as ArrowField};
use serde::{Deserialize, Serialize};

pub use classify::{Classifier, Verdict};
pub use coverage::{Counts, CoverageReport, Gap};
pub use types::{TaskType, Taxonomy};

use crate::batch::Batch;
use crate::models::Embedder;
use crate::operator::{Operator, Outcome};
use crate::options::OptionFault;

/// Options of `taxonomy`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// A TOML file with further cues: `[[type]]` with `number` and `cues`. None by default.
    pub cues: Option<PathBuf>,
    /// Rows whose best type scores less are unknown (0). Default 0.5.
    pub least: f64,
    /// Bytes read at the beginning of a request. Default 600.
    pub head: usize,
    /// Bytes read at its end, where it is longer. Default 200.
    pub tail: usize,
    /// Samples a type needs to count as covered. Default 20.
    pub samples: u64,
    /// Types that are to be covered. Default 80.
    pub types: usize,
    /// Largest share of one type. Default 0.15.
    pub max_share: f64,
}

impl Default for Options {
    fn default() -> Self {
        Options { cues: None, least: 0.5, head: 600, tail: 200, samples: 20, types: 80, max_share: 0.15 }
    }
}

/// The stage: adds the columns `task_type`, `task_second` (UInt16) and `task_confidence` (Float32).
pub struct TaskTypes {
    classifier: Classifier,
}

impl TaskTypes {
    /// Without an embedding model.
    ///
    /// # Errors
    /// Every option out of its range; every fault of the user's cues, with its line.
    pub fn new(options: Options) -> Result<Self, Vec<OptionFault>> {
        Self::with_embedder(options, None)
    }

    /// With an embedding model, when one is given.
    ///
    /// # Errors
    /// As [`TaskTypes::new`].
    pub fn with_embedder(options: Options, embedder: Option<Arc<dyn Embedder>>) -> Result<Self, Vec<OptionFault>> {
        let mut faults = Vec::new();
        let mut fault = |key: &str, found: String, mend: &str| faults.push(OptionFault::new(key, found, mend));
        if !(options.least >= 0.0 && options.least.is_finite()) {
            fault("least", options.least.to_string(), "give a number from 0");
        }
        if options.head < 40 {
            fault("head", options.head.to_string(), "give at least 40 bytes");
        }
        if !(1..=Taxonomy::TYPES).contains(&options.types) {
            fault("types", options.types.to_string(), "give 1 to 112");
        }
        if !(options.max_share > 0.0 && options.max_share <= 1.0) {
            fault("max_share", options.max_share.to_string(), "give a share above 0 and up to 1");
        }
        let mut taxonomy = Taxonomy::builtin();
        if let Some(path) = &options.cues {
            match std::fs::read_to_string(path) {
                Ok(text) => faults.extend(taxonomy.extend(&path.to_string_lossy(), &text)),
                Err(error) => faults.push(OptionFault::new(
                    "cues",
                    format!("{}: {error}", path.display()),
                    "name a TOML file with `[[type]]` entries",
                )),
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(TaskTypes { classifier: Classifier::new(taxonomy, options, embedder) })
    }

    /// The classifier.
    pub fn classifier(&self) -> &Classifier {
        &self.classifier
    }
}

impl Operator for TaskTypes {
    fn name(&self) -> &'static str {
        "taxonomy"
    }

    fn version(&self) -> u32 {
        1
    }

    fn apply(&self, batch: &Batch) -> Outcome {
        let verdicts = self.classifier.batch(batch);
        let column =
            |name: &str, data: DataType, array: ArrayRef| (Arc::new(ArrowField::new(name, data, false)), array);
        let first = UInt16Array::from_iter_values(verdicts.iter().map(|v| v.first));
        let second = UInt16Array::from_iter_values(verdicts.iter().map(|v| v.second));
        let confidence = Float32Array::from_iter_values(verdicts.iter().map(|v| v.confidence));
        let columns = vec![
            column("task_type", DataType::UInt16, Arc::new(first)),
            column("task_second", DataType::UInt16, Arc::new(second)),
            column("task_confidence", DataType::Float32, Arc::new(confidence)),
        ];
        Outcome { columns, ..Outcome::default() }
    }
}

#[cfg(test)]
mod tests;
