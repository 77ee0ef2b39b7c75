//! The error of the crate, but for task files and statistics, which have their own.

use std::path::{Path, PathBuf};

use crate::workflow::Refusal;

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum AnnotateError {
    /// The task file.
    #[error(transparent)]
    Task(#[from] crate::task::TaskReadError),
    /// The rows.
    #[error(transparent)]
    Data(#[from] loar_data::DataError),
    /// The database.
    #[error("`{}`: {message}", path.display())]
    Store {
        /// Its file.
        path: PathBuf,
        /// SQLite's words.
        message: String,
    },
    /// The store belongs to other rubrics.
    #[error("`{}` holds events under other rubrics; put them back, or name a new `store`", path.display())]
    OtherRubrics {
        /// Its file.
        path: PathBuf,
    },
    /// A log that the state machine refuses.
    #[error("`{}`: event {seq}: {why}; `loar annotate verify` finds every such place", path.display())]
    Log {
        /// The store.
        path: PathBuf,
        /// The event.
        seq: u64,
        /// In words.
        why: String,
    },
    /// The state machine.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The page was older than the guideline.
    #[error("the guideline changed while this was open; read it again and confirm again")]
    OldGuideline,
    /// Not a row.
    #[error("there is no row {0}")]
    NoRow(u64),
    /// A gold row.
    #[error("{place}: {why}")]
    Gold {
        /// File and line.
        place: String,
        /// In words.
        why: String,
    },
    /// A text that was meant to be edited and cannot be.
    #[error("row {0} has no answer that a correction could replace")]
    NothingToCorrect(u64),
    /// A file or the network.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why not.
        source: std::io::Error,
    },
    /// A result that could not be written.
    #[error(transparent)]
    Artifact(#[from] loar_artifact::ArtifactError),
    /// The judge.
    #[error(transparent)]
    Judge(#[from] crate::judge::JudgeError),
}

impl AnnotateError {
    pub(crate) fn store(path: &Path, error: &rusqlite::Error) -> Self {
        AnnotateError::Store { path: path.to_owned(), message: error.to_string() }
    }
}
