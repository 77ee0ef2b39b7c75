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
    /// A prompt that cannot be rendered.
    #[error("case `{id}`: {reason}")]
    Prompt {
        /// Case id.
        id: String,
        /// Why.
        reason: String,
    },
    /// Generation failed.
    #[error("generation: {0}")]
    Generate(String),
    /// Two results that do not belong to the same cases cannot be paired.
    #[error(
        "cannot pair: the first result has {first} cases, the second {second}, {shared} in common"
    )]
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
