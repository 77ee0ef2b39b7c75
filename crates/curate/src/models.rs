//! What a stage may ask of a model, when one is given. Stages work without: then they name the
//! lexical measure that stands in.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Texts to vectors. Equal texts give equal vectors, whatever stands beside them.
pub trait Embedder: Send + Sync {
    /// One vector a text, all of one length; they need not be normalised.
    fn embed(&self, texts: &[&str]) -> Vec<Vec<f32>>;
}

/// The vectors of a sentence encoder's folder.
impl Embedder for loar_encoder::Encoder {
    fn embed(&self, texts: &[&str]) -> Vec<Vec<f32>> {
        self.encode(texts)
    }
}

/// How well a model foresees an answer.
pub trait Scorer: Send + Sync {
    /// For each (prompt, answer) the mean loss in nats a token over the answer's tokens after the
    /// prompt, which may be empty; `None` where the pair gives no finite loss, such as a prompt that
    /// fills the model's context. A pair's value does not depend on the pairs beside it.
    fn losses(&self, asked: &[(&str, &str)]) -> Vec<Option<f64>>;
}

/// Opens the models that sections of a config name. The pipeline itself knows no model.
pub trait Models: Sync {
    /// A model that gives losses.
    ///
    /// # Errors
    /// What is wrong with the folder, in words.
    fn scorer(&self, options: &ScorerOptions) -> Result<Arc<dyn Scorer>, String>;
}

/// For callers without models: a section that names one is refused.
pub struct NoModels;

impl Models for NoModels {
    fn scorer(&self, _: &ScorerOptions) -> Result<Arc<dyn Scorer>, String> {
        Err("this program was started without models".into())
    }
}

/// Options of `scorer`: the model whose losses `curriculum`, `select` and `augment.dialogues` use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScorerOptions {
    /// A checkpoint folder.
    pub model: PathBuf,
    /// Tokens of a row that the model reads; what lies beyond is cut off. Default 2048, and no more
    /// than the model's context.
    #[serde(default = "max_tokens")]
    pub max_tokens: usize,
}

fn max_tokens() -> usize {
    2048
}
