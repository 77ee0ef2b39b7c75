//! Why an evaluation could not be set up or run.
use std::path::PathBuf;

/// Errors of the eval crate. A wrong answer of a model is never an error: it is a score.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// A policy file that cannot be used; all faults at once.
    #[error("policy: {} fault(s): {}", faults.len(), faults.join("; "))]
    Policy {
        /// One sentence each.
        faults: Vec<String>,
    },
    /// A file could not be read.
    #[error("cannot read `{}`: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Reason of the system.
        source: std::io::Error,
    },
    /// Rows of a task file that are not cases; the first 20 with the total.
    #[error("`{}`: {total} of {rows} rows are not cases of task `{task}`: {}", path.display(), faults.join("; "))]
    Cases {
        /// The file.
        path: PathBuf,
        /// Task name.
        task: String,
        /// Rows in the file.
        rows: usize,
        /// Rows at fault.
        total: usize,
        /// Line and fault of the first 20.
        faults: Vec<String>,
    },
    /// A task name that does not exist.
    #[error("task `{task}` does not exist; there are: {}", known.join(", "))]
    UnknownTask {
        /// As given.
        task: String,
        /// Names that exist.
        known: Vec<String>,
    },
    /// Cases whose prompt cannot be rendered; the first 20 with the total.
    #[error("{total} of {cases} prompts cannot be rendered: {}", faults.join("; "))]
    Prompts {
        /// Cases in all.
        cases: usize,
        /// Cases at fault.
        total: usize,
        /// Case and fault of the first 20.
        faults: Vec<String>,
    },
    /// Generation failed.
    #[error(transparent)]
    Decode(#[from] loar_decode::DecodeError),
    /// A record or its figures could not be written as JSON.
    #[error("cannot write the result as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A folder could not be made.
    #[error("cannot write `{}`: {source}", path.display())]
    Write {
        /// The folder.
        path: PathBuf,
        /// Reason of the system.
        source: std::io::Error,
    },
    /// Two results that do not belong to the same cases cannot be paired.
    #[error("cannot pair: the first result has {first} cases, the second {second}, {shared} in common")]
    Unpaired {
        /// Cases before.
        first: usize,
        /// Cases after.
        second: usize,
        /// Ids in both.
        shared: usize,
    },
    /// The result file could not be written.
    #[error(transparent)]
    Artifact(#[from] loar_artifact::ArtifactError),
}

impl EvalError {
    /// The first 20 faults with their total.
    pub(crate) fn prompts(mut faults: Vec<String>, cases: usize) -> EvalError {
        let total = faults.len();
        faults.truncate(20);
        EvalError::Prompts { cases, total, faults }
    }
}
