//! Special-token facts of a tokenizer, for `inspect`.
//!
//! Takes `tokenizer_config.json`, the vocabulary and the chat template, gives BOS, EOS and padding
//! and everything suspicious about them. Never changes how a text is encoded.

use crate::template::ChatTemplate;
use crate::tokenizer::{Tokenizer, TokenizerError};
use serde_json::Value;
use std::collections::HashMap;

/// What `tokenizer_config.json` says.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConfigStrings {
    pub bos: Option<String>,
    pub eos: Option<String>,
    pub pad: Option<String>,
    pub add_bos: Option<bool>,
    pub add_eos: Option<bool>,
    pub clean_up: Option<bool>,
    /// No file was given: the usual strings are looked for in the vocabulary.
    pub guess: bool,
}

/// A token string: plain, or as an object with `content`.
pub(crate) fn token_string(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(s) => Some(s.clone()),
        Value::Object(o) => o.get("content")?.as_str().map(str::to_string),
        _ => None,
    }
}

pub(crate) fn read_config(bytes: Option<&[u8]>) -> Result<ConfigStrings, TokenizerError> {
    let Some(bytes) = bytes else {
        return Ok(ConfigStrings::default());
    };
    let value: Value = serde_json::from_slice(bytes)
        .map_err(|e| TokenizerError::Parse { file: "tokenizer_config.json".into(), reason: e.to_string() })?;
    let flag = |name: &str| value.get(name).and_then(Value::as_bool);
    Ok(ConfigStrings {
        bos: token_string(value.get("bos_token")),
        eos: token_string(value.get("eos_token")),
        pad: token_string(value.get("pad_token")),
        add_bos: flag("add_bos_token"),
        add_eos: flag("add_eos_token"),
        clean_up: flag("clean_up_tokenization_spaces"),
        guess: false,
    })
}

/// Special-token facts for `inspect`.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct TokenizerFacts {
    /// Beginning-of-sequence string and id.
    pub bos: Option<(String, u32)>,
    /// End-of-sequence string and id.
    pub eos: Option<(String, u32)>,
    /// Padding string and id.
    pub pad: Option<(String, u32)>,
    /// Whether the tokenizer itself puts BOS in front.
    pub add_bos: bool,
    /// The template writes BOS and the tokenizer adds one: naive use gives two.
    pub double_bos: bool,
    /// Padding and EOS share an id: masking labels by id would unlearn EOS.
    pub pad_is_eos: bool,
    /// Control tokens, special or markup-like.
    pub control_tokens: usize,
    /// Highest id + 1.
    pub vocab_size: usize,
    /// `vocab_size` of the model's config, if given.
    pub config_vocab_size: Option<usize>,
    /// Suspicious points, one sentence each.
    pub warnings: Vec<String>,
}

impl Tokenizer {
    /// Special-token facts; `config_vocab_size` is the model's `vocab_size`, `template` the one
    /// that will be used.
    pub fn facts(&self, config_vocab_size: Option<usize>, template: Option<&ChatTemplate>) -> TokenizerFacts {
        let parts = self.parts();
        let pair = |name: &Option<String>, id: Option<u32>| name.clone().zip(id);
        let mut warnings = Vec::new();
        for (what, name) in
            [("bos_token", &parts.config.bos), ("eos_token", &parts.config.eos), ("pad_token", &parts.config.pad)]
        {
            if let Some(name) = name.as_deref().filter(|n| self.id(n).is_none()) {
                warnings.push(format!("{what} `{name}` is not in the vocabulary"));
            }
        }
        if parts.eos.is_none() {
            warnings.push("no eos_token: generation has no end of its own".into());
        }
        let writes_bos = template.is_some_and(ChatTemplate::writes_bos);
        let double_bos = parts.add_bos && writes_bos;
        if double_bos {
            warnings.push(
                "the template writes BOS and the tokenizer adds one: tools that do both feed two (here exactly one is fed)"
                    .into(),
            );
        }
        let pad_is_eos = parts.pad.is_some() && parts.pad == parts.eos;
        if pad_is_eos {
            warnings.push("pad_token = eos_token: labels must be masked by position, never by id (done here)".into());
        }
        if let Some(size) = config_vocab_size
            && self.vocab_size() > size
        {
            warnings.push(format!(
                "tokenizer has ids up to {}, the model's vocab_size is {size}: {} ids have no embedding",
                self.vocab_size().saturating_sub(1),
                self.vocab_size() - size
            ));
        }
        if parts.config.clean_up == Some(true) {
            warnings.push("clean_up_tokenization_spaces = true: other tools change spaces when decoding".into());
        }
        if parts.config.add_eos == Some(true) {
            warnings.push("add_eos_token = true: other tools end every prompt with EOS".into());
        }
        warnings.extend(self.bar_warnings(template));
        TokenizerFacts {
            bos: pair(&parts.config.bos, parts.bos),
            eos: pair(&parts.config.eos, parts.eos),
            pad: pair(&parts.config.pad, parts.pad),
            add_bos: parts.add_bos,
            double_bos,
            pad_is_eos,
            control_tokens: parts.control.strings().count(),
            vocab_size: self.vocab_size(),
            config_vocab_size,
            warnings,
        }
    }

    /// Strings of a text that look like control tokens of this vocabulary but are not, each with
    /// the token it resembles (`<|User|>` with ASCII bars for `<｜User｜>`).
    pub fn look_alikes(&self, text: &str) -> Vec<(String, String)> {
        let known = self.canonical();
        let mut found: Vec<(String, String)> = Vec::new();
        for candidate in bar_strings(text) {
            if self.id(candidate).is_some() {
                continue;
            }
            if let Some(real) = known.get(&canonical(candidate)) {
                let pair = (candidate.to_string(), real.clone());
                if !found.contains(&pair) {
                    found.push(pair);
                }
            }
        }
        found
    }

    fn canonical(&self) -> HashMap<String, String> {
        self.parts().control.strings().map(|(s, _)| (canonical(s), s.to_string())).collect()
    }

    fn bar_warnings(&self, template: Option<&ChatTemplate>) -> Vec<String> {
        let mut warnings = Vec::new();
        let mut ascii: Vec<&str> = Vec::new();
        let mut wide: Option<&str> = None;
        for (_, token) in &self.parts().added {
            let content = token.content.as_str();
            if content.starts_with("<|") {
                ascii.push(content);
            } else if content.starts_with("<｜") && !content.contains("place▁holder") {
                wide = wide.or(Some(content));
            }
        }
        if let (false, Some(wide)) = (ascii.is_empty(), wide) {
            let shown = ascii.iter().take(5).map(|s| format!("`{s}`")).collect::<Vec<_>>().join(", ");
            warnings.push(format!(
                "look-alike bars: {shown} have ASCII `|`, `{wide}` and others full-width `｜`; the wrong bar is silently plain text"
            ));
        }
        if let Some(template) = template {
            let alike = self.look_alikes(template.source());
            let mut seen: Vec<&str> = Vec::new();
            for literal in bar_strings(template.source()) {
                if self.id(literal).is_some() || seen.contains(&literal) {
                    continue;
                }
                seen.push(literal);
                warnings.push(match alike.iter().find(|(wrong, _)| wrong == literal) {
                    Some((_, right)) => {
                        format!("the template writes `{literal}`, which is plain text; the vocabulary has `{right}`")
                    }
                    None => format!("the template writes `{literal}`, which is no token of this vocabulary"),
                });
            }
        }
        warnings
    }
}

/// One spelling for all look-alikes of a control token.
fn canonical(token: &str) -> String {
    token
        .chars()
        .map(|c| match c {
            '｜' | '│' | '∣' | '❘' => '|',
            '▁' | ' ' => '_',
            '＜' => '<',
            '＞' => '>',
            c => c.to_ascii_lowercase(),
        })
        .collect()
}

/// Substrings of the form `<|…|>` with any kind of bar, at most 64 characters long.
fn bar_strings(text: &str) -> Vec<&str> {
    const BARS: [char; 5] = ['|', '｜', '│', '∣', '❘'];
    let mut found = Vec::new();
    for (start, open) in text.char_indices().filter(|(_, c)| matches!(c, '<' | '＜')) {
        let inner = start + open.len_utf8();
        if !text.get(inner..).is_some_and(|rest| rest.starts_with(BARS)) {
            continue;
        }
        let end = text[inner..].char_indices().take(64).find(|(_, c)| matches!(c, '>' | '＞'));
        if let Some((offset, close)) = end {
            found.extend(text.get(start..inner + offset + close.len_utf8()));
        }
    }
    found
}
