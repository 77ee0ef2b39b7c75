//! What can go wrong.

use std::path::PathBuf;

/// Why a proof ended.
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    /// The model's sizes do not fit together.
    #[error("the model's shape is not sound: {0}")]
    Shape(String),
    /// The model.
    #[error(transparent)]
    Model(#[from] loar_model::ModelError),
    /// The tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] loar_text::TokenizerError),
    /// The template.
    #[error(transparent)]
    Template(#[from] loar_text::TemplateError),
    /// A sample that the template does not take.
    #[error(transparent)]
    Row(#[from] loar_text::RowError),
    /// Generation.
    #[error(transparent)]
    Decode(#[from] loar_decode::DecodeError),
    /// A file.
    #[error(transparent)]
    Artifact(#[from] loar_artifact::ArtifactError),
    /// A file of an earlier, interrupted proof.
    #[error("`{}` cannot be read: {reason}; remove it to run that part again", path.display())]
    Part {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Training diverged.
    #[error("{what} is not finite at step {step}; lower the learning rate")]
    NonFinite {
        /// The loss, or a gradient.
        what: String,
        /// Optimizer step.
        step: usize,
    },
    /// The caller's flag was raised.
    #[error("stopped; the parts that are finished are kept, start the same command again to go on")]
    Stopped,
}
