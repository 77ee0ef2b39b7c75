//! What can go wrong between a checkpoint, an adapter and the decoder they describe.
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error(transparent)]
    Format(#[from] loar_formats::FormatError),
    #[error("checkpoint `{}` does not fit its config ({} of {total} faults shown){}", path.display(), shown.len(), list(shown))]
    Checkpoint { path: PathBuf, shown: Vec<String>, total: usize },
    #[error("adapter `{}` does not fit the base ({} of {total} faults shown){}", path.display(), shown.len(), list(shown))]
    Adapter { path: PathBuf, shown: Vec<String>, total: usize },
    #[error("adapter settings: {}", faults.join("; "))]
    Spec { faults: Vec<String> },
    #[error(
        "token id {id} at position {position} is outside the vocabulary of {vocab_size}; the tokenizer does not belong to this model"
    )]
    Token { id: u32, position: usize, vocab_size: usize },
    #[error("golden fixture `{}`: {message}", path.display())]
    Golden { path: PathBuf, message: String },
    #[error("cannot write `{}`: {message}", path.display())]
    Write { path: PathBuf, message: String },
}

pub(crate) const SHOWN: usize = 20;

fn list(lines: &[String]) -> String {
    lines.iter().map(|l| format!("\n  {l}")).collect()
}

impl ModelError {
    pub(crate) fn adapter(path: &std::path::Path, mut faults: Vec<String>) -> ModelError {
        let total = faults.len();
        faults.truncate(SHOWN);
        ModelError::Adapter { path: path.to_owned(), shown: faults, total }
    }

    pub(crate) fn checkpoint(path: &std::path::Path, mut faults: Vec<String>) -> ModelError {
        let total = faults.len();
        faults.truncate(SHOWN);
        ModelError::Checkpoint { path: path.to_owned(), shown: faults, total }
    }
}
