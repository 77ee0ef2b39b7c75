//! The error of this crate. Lists every fault of a file, the first twenty with the total.

use std::fmt;
use std::path::PathBuf;

/// Faults shown before the rest is only counted.
const SHOWN: usize = 20;

/// All faults found in one file, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
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

/// Why a checkpoint or adapter file could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The operating system refused.
    #[error("cannot read `{}`: {source}", path.display())]
    Io {
        /// File that was asked for.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is larger than anything of its kind can honestly be.
    #[error("`{}` has {bytes} bytes; a {kind} of more than {limit} bytes is not read", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// What the file should be.
        kind: &'static str,
        /// Its size in bytes.
        bytes: u64,
        /// The bound in bytes.
        limit: u64,
    },
    /// Not JSON, or JSON of the wrong shape.
    #[error("`{}` line {line}, column {column}: {message}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// 1-based line, 0 when unknown.
        line: usize,
        /// 1-based column, 0 when unknown.
        column: usize,
        /// What the parser said.
        message: String,
    },
    /// `config.json` is understood but cannot be used.
    #[error("`{}`: {faults}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Everything that is wrong with it.
        faults: Faults,
    },
    /// A family of models this version does not implement.
    #[error("`{}`: {message}", path.display())]
    Unsupported {
        /// The file that names the family.
        path: PathBuf,
        /// One sentence.
        message: String,
    },
    /// A safetensors file or its index is damaged.
    #[error("`{}`: {faults}", path.display())]
    Checkpoint {
        /// File or folder.
        path: PathBuf,
        /// Everything that is wrong with it.
        faults: Faults,
    },
    /// A tensor that is not in the checkpoint.
    #[error("`{}` has no tensor `{tensor}`", path.display())]
    NoTensor {
        /// File or folder.
        path: PathBuf,
        /// The name asked for.
        tensor: String,
    },
    /// A tensor is there, but not in the form that was asked for.
    #[error("tensor `{tensor}` of `{}`: expected {expected}, found {actual}", path.display())]
    Tensor {
        /// File or folder.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What was needed.
        expected: String,
        /// What is there.
        actual: String,
    },
    /// An adapter that cannot be loaded as a whole.
    #[error("`{}`: {faults}", path.display())]
    Adapter {
        /// File or folder.
        path: PathBuf,
        /// Everything that is wrong with it.
        faults: Faults,
    },
    /// Writing failed; the message says what is preserved.
    #[error(transparent)]
    Artifact(#[from] loar_artifact::ArtifactError),
}
