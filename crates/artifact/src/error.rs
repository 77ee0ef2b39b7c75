//! The error of this crate.

use std::path::PathBuf;

/// Why an artifact could not be written, read or identified.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArtifactError {
    /// Reading failed.
    #[error("cannot read `{}`: {source}", path.display())]
    Read {
        /// File or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Writing failed; nothing was replaced.
    #[error("cannot write `{}`: {source}; {preserved}", path.display())]
    Write {
        /// The file that was to be written.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
        /// What is on disk now.
        preserved: String,
    },
    /// The disk is full; nothing was replaced.
    #[error("no space left to write `{}`; {preserved}; free some space and run again", path.display())]
    NoSpace {
        /// The file that was to be written.
        path: PathBuf,
        /// What is on disk now.
        preserved: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A manifest that is not one.
    #[error("`{}`: {message}", path.display())]
    Manifest {
        /// The manifest file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// Something in a folder that a manifest cannot describe.
    #[error("`{}` cannot be part of an artifact: {message}", path.display())]
    Entry {
        /// The entry.
        path: PathBuf,
        /// Why.
        message: String,
    },
}
