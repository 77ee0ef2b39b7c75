//! Why a folder is no encoder: the file, and all that is wrong with it at once.

use std::path::PathBuf;

use loar_formats::{Faults, FormatError};

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncoderError {
    /// The operating system refused.
    #[error("cannot read `{}`: {source}", path.display())]
    Io {
        /// The file that was asked for.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Files that cannot be used, with everything that is wrong with them.
    #[error("`{}`: {faults}", path.display())]
    Folder {
        /// The folder, or the file where one alone is at fault.
        path: PathBuf,
        /// All faults.
        faults: Faults,
    },
    /// The weights cannot be read.
    #[error(transparent)]
    Weights(#[from] FormatError),
    /// The folder cannot be hashed.
    #[error(transparent)]
    Artifact(#[from] loar_artifact::ArtifactError),
}
