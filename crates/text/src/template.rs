//! Chat templates (signatures; body follows).
use crate::conversation::Conversation;
use serde_json::{Map, Value};
use std::path::Path;

/// Why a template could not be read or rendered.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// Unreadable.
    #[error("template: {0}")]
    Bad(String),
}

/// One rendering.
#[derive(Clone, Debug, Default)]
pub struct RenderRequest {
    /// Messages as the template sees them.
    pub messages: Vec<Value>,
    /// `tools`.
    pub tools: Option<Value>,
    /// `add_generation_prompt`.
    pub add_generation_prompt: bool,
    /// Further variables.
    pub kwargs: Map<String, Value>,
}

impl RenderRequest {
    /// The conversation as is.
    pub fn of(_conversation: &Conversation, add_generation_prompt: bool) -> Self {
        RenderRequest {
            add_generation_prompt,
            ..Self::default()
        }
    }
}

/// A compiled chat template.
#[derive(Clone, Debug)]
pub struct ChatTemplate;

impl ChatTemplate {
    /// `chat_template.jinja`, else `chat_template` of `tokenizer_config.json`; `None` when the folder has none.
    pub fn from_dir(_dir: &Path) -> Result<Option<Self>, TemplateError> {
        Ok(None)
    }
    /// Template text with its bos and eos strings.
    pub fn from_source(_source: &str, _bos: &str, _eos: &str) -> Result<Self, TemplateError> {
        Err(TemplateError::Bad("not built yet".into()))
    }
    /// A built-in template by name; see [`ChatTemplate::builtin_names`].
    pub fn builtin(_name: &str) -> Result<Self, TemplateError> {
        Err(TemplateError::Bad("not built yet".into()))
    }
    /// Names of the built-in templates.
    pub fn builtin_names() -> &'static [&'static str] {
        &[
            "llm", "moe", "v2", "coder", "v2.5", "v3", "r1", "v3.1", "qwen2", "qwen3",
        ]
    }
    /// Name of the built-in template that fits a tokenizer and `model_type`, if one does.
    pub fn detect(_tokenizer: &crate::Tokenizer, _model_type: &str) -> Option<&'static str> {
        None
    }
    /// Renders.
    pub fn render(&self, _request: &RenderRequest) -> Result<String, TemplateError> {
        Err(TemplateError::Bad("not built yet".into()))
    }
}
