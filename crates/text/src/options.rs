//! Choices of an encoder, and the prompt it gives.
//!
//! Data only: read by [`crate::Encoder`] and by whoever configures it.

use serde::{Deserialize, Serialize};

/// What to do with a datum without reasoning on a template that thinks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EmptyThink {
    /// The closed, empty think block stands in the prompt, without loss.
    #[default]
    Mask,
    /// The model learns to close the block at once.
    Train,
    /// The row is an error.
    Refuse,
}

/// Whether the generation prompt opens the chain of thought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Thinking {
    /// As the template does by itself, or as `template_kwargs` say.
    #[default]
    Default,
    /// Open.
    On,
    /// Closed, also on templates that only know how to open it.
    Off,
}

/// Options of an [`Encoder`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Policy for data without reasoning.
    pub empty_think: EmptyThink,
    /// Control-token strings inside data become control tokens.
    pub allow_control_tokens: bool,
    /// Moment that templates with a date print, in seconds since 1970 UTC.
    pub now_unix: Option<u64>,
}

/// What generation feeds.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    /// Rendered text.
    pub text: String,
    /// Its ids, BOS included.
    pub ids: Vec<u32>,
    /// The model continues inside the chain of thought.
    pub starts_in_reasoning: bool,
}
