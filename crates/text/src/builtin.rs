//! Built-in chat templates, one for each DeepSeek generation and the families of its distils.
//!
//! Takes a name, or a tokenizer and `model_type`, gives a template. The Jinja texts are this
//! project's own, in `templates/`; never used in place of a checkpoint's template unless asked.

use crate::template::{ChatTemplate, TemplateError};
use crate::tokenizer::Tokenizer;

const BOS: &str = "<｜begin▁of▁sentence｜>";
const EOS: &str = "<｜end▁of▁sentence｜>";

/// Names that [`ChatTemplate::builtin`] takes.
pub(crate) const NAMES: [&str; 11] =
    ["llm", "moe", "v2", "coder", "v2.5", "v3", "r1", "v3.1", "v3.1-empty-think", "qwen2", "qwen3"];

const USER_ASSISTANT: &str = include_str!("../templates/user_assistant.jinja");
const V3: &str = include_str!("../templates/v3.jinja");
const V3_1: &str = include_str!("../templates/v3_1.jinja");
const CHATML: &str = include_str!("../templates/chatml_parts.jinja");

impl ChatTemplate {
    /// A built-in template by name; see [`ChatTemplate::builtin_names`].
    ///
    /// `v3.1` closes thinking with `</think>` as DeepSeek's model card has it, `v3.1-empty-think`
    /// with `<think></think>` as the widespread GGUF template has it.
    pub fn builtin(name: &str) -> Result<Self, TemplateError> {
        let (source, bos, eos) = match name {
            "llm" | "moe" | "v2" => (USER_ASSISTANT.to_string(), BOS, EOS),
            "coder" => (include_str!("../templates/coder.jinja").to_string(), BOS, "<|EOT|>"),
            "v2.5" | "v3" => (V3.to_string(), BOS, EOS),
            "r1" => (include_str!("../templates/r1.jinja").to_string(), BOS, EOS),
            "v3.1" => (format!("{{%- set no_think = '</think>' -%}}{V3_1}"), BOS, EOS),
            "v3.1-empty-think" => (format!("{{%- set no_think = '<think></think>' -%}}{V3_1}"), BOS, EOS),
            "qwen2" => (format!("{CHATML}{}", include_str!("../templates/qwen2.jinja")), "", "<|im_end|>"),
            "qwen3" => (format!("{CHATML}{}", include_str!("../templates/qwen3.jinja")), "", "<|im_end|>"),
            _ => return Err(TemplateError::UnknownBuiltin { name: name.into() }),
        };
        Self::named(&format!("builtin:{name}"), &source, bos, eos)
    }

    /// Names of the built-in templates.
    pub fn builtin_names() -> &'static [&'static str] {
        &NAMES
    }

    /// Name of the built-in template that fits a tokenizer and the config's `model_type`; `None`
    /// where nothing fits for certain (then ask the user).
    pub fn detect(tokenizer: &Tokenizer, model_type: &str) -> Option<&'static str> {
        let has = |token: &str| tokenizer.id(token).is_some_and(|id| tokenizer.is_control(id));
        let bos = has(BOS);
        match model_type {
            // Other encodings, with their own renderers.
            "deepseek_v32" | "deepseek_v4" => None,
            _ if has("<｜User｜>") && has("<｜Assistant｜>") => Some(match model_type {
                "deepseek_v2" => "v2.5",
                "deepseek_v3" if has("<｜search▁begin｜>") => "v3.1",
                _ if has("<think>") => "r1",
                _ => "v3",
            }),
            "qwen3" if has("<|im_start|>") => Some("qwen3"),
            _ if has("<|im_start|>") && has("<|im_end|>") => Some("qwen2"),
            "llama" if has("<|EOT|>") => Some("coder"),
            "llama" if bos => Some("llm"),
            "deepseek" if bos => Some("moe"),
            "deepseek_v2" if bos => Some("v2"),
            _ => None,
        }
    }
}
