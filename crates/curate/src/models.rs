//! What a stage may ask of a model, when one is given. Stages work without: then they name the
//! lexical measure that stands in.

/// Texts to vectors. Equal texts give equal vectors, whatever stands beside them.
pub trait Embedder: Send + Sync {
    /// One vector a text, all of one length; they need not be normalised.
    fn embed(&self, texts: &[&str]) -> Vec<Vec<f32>>;
}

/// How well a model foresees an answer.
pub trait Scorer: Send + Sync {
    /// Mean loss in nats a token over the tokens of `answer` after `prompt` (may be empty).
    fn loss(&self, prompt: &str, answer: &str) -> f64;
}
