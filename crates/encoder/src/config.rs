//! What the JSON files of a folder say: sizes of the network (`config.json`), the modules behind it (`modules.json`,
//! `1_Pooling/config.json`), how long a text may be and what stands before it (`sentence_bert_config.json`,
//! `tokenizer_config.json`, `config_sentence_transformers.json`). Reads both the older keys of these files and those of
//! sentence-transformers 6. Every fault of every file is told at once; what would change vectors and is not understood
//! is a fault, never passed over.

use std::collections::BTreeMap;
use std::path::Path;

use loar_formats::Faults;
use serde_json::{Map, Value};

use crate::EncoderError;
use crate::pooling::Mode;

/// The network and what is done with its output.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Config {
    pub hidden: usize,
    pub layers: usize,
    pub heads: usize,
    pub intermediate: usize,
    pub vocabulary: usize,
    pub positions: usize,
    pub types: usize,
    pub eps: f32,
    /// Position of a text's first token: 0, or behind the padding id in the RoBERTa family.
    pub first_position: usize,
    /// Tokens of a text, the special ones included.
    pub max_tokens: usize,
    /// The text is made lower case before the tokenizer sees it.
    pub lowercase: bool,
    pub pooling: Vec<Mode>,
    /// The vector is brought to length 1.
    pub normalise: bool,
    /// Name → what is put before a text.
    pub prompts: BTreeMap<String, String>,
    pub default_prompt: Option<String>,
}

/// Architectures of one post-norm network; they differ in the first position.
const ARCHITECTURES: [&str; 3] = ["bert", "roberta", "xlm-roberta"];

struct Files<'a> {
    dir: &'a Path,
    faults: Vec<String>,
}

impl Files<'_> {
    /// A JSON object, empty where an optional file is not there.
    fn object(&mut self, name: &str, required: bool) -> Map<String, Value> {
        match self.value(name, required) {
            Some(Value::Object(map)) => map,
            Some(_) => {
                self.faults.push(format!("{name} is no JSON object"));
                Map::new()
            }
            None => Map::new(),
        }
    }

    fn value(&mut self, name: &str, required: bool) -> Option<Value> {
        let text = match std::fs::read(self.dir.join(name)) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !required => return None,
            Err(error) => {
                self.faults.push(format!("{name} cannot be read: {error}"));
                return None;
            }
        };
        match serde_json::from_slice(&text) {
            Ok(value) => Some(value),
            Err(error) => {
                self.faults.push(format!("{name}: {error}"));
                None
            }
        }
    }

    /// A positive whole number.
    fn size(&mut self, file: &str, map: &Map<String, Value>, key: &str, default: Option<usize>) -> usize {
        let found = map.get(key).filter(|value| !value.is_null());
        let number = found.and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
        match (found, number.filter(|n| *n > 0 && *n <= 1 << 30), default) {
            (_, Some(n), _) => n,
            (None, _, Some(default)) => default,
            (None, _, None) => {
                self.faults.push(format!("{file}: `{key}` is missing"));
                1
            }
            (Some(found), ..) => {
                self.faults.push(format!("{file}: `{key}` is {found}, expected a positive whole number"));
                1
            }
        }
    }

    fn flag(&mut self, file: &str, map: &Map<String, Value>, key: &str, default: bool) -> bool {
        match map.get(key) {
            None | Some(Value::Null) => default,
            Some(Value::Bool(flag)) => *flag,
            Some(found) => {
                self.faults.push(format!("{file}: `{key}` is {found}, expected true or false"));
                default
            }
        }
    }

    /// A text that must be one of `known`.
    fn one_of<'m>(&mut self, file: &str, map: &'m Map<String, Value>, key: &str, known: &[&'m str]) -> &'m str {
        match map.get(key) {
            None | Some(Value::Null) => known[0],
            Some(Value::String(text)) if known.contains(&text.as_str()) => text,
            Some(found) => {
                self.faults.push(format!("{file}: `{key}` is {found}; {} is supported", known.join(", ")));
                known[0]
            }
        }
    }
}

impl Config {
    /// Reads the JSON files of a folder.
    pub fn read(dir: &Path) -> Result<Config, EncoderError> {
        let mut files = Files { dir, faults: Vec::new() };
        let file = "config.json";
        let map = files.object(file, true);
        let roberta = if map.is_empty() {
            false
        } else if map.contains_key("model_type") {
            files.one_of(file, &map, "model_type", &ARCHITECTURES) != "bert"
        } else {
            files.faults.push(format!("{file}: `model_type` is missing; {} are supported", ARCHITECTURES.join(", ")));
            false
        };
        let mut size = |key: &str, default| if map.is_empty() { 1 } else { files.size(file, &map, key, default) };
        let (hidden, heads) = (size("hidden_size", None), size("num_attention_heads", None));
        let (layers, intermediate) = (size("num_hidden_layers", None), size("intermediate_size", None));
        let (vocabulary, positions) = (size("vocab_size", None), size("max_position_embeddings", None));
        let types = size("type_vocab_size", Some(if roberta { 1 } else { 2 }));
        files.one_of(file, &map, "hidden_act", &["gelu"]);
        files.one_of(file, &map, "position_embedding_type", &["absolute"]);
        for key in ["is_decoder", "add_cross_attention"] {
            if files.flag(file, &map, key, false) {
                files.faults.push(format!("{file}: `{key}` is true: this is a decoder, not an encoder"));
            }
        }
        if !hidden.is_multiple_of(heads) {
            files
                .faults
                .push(format!("{file}: `hidden_size` {hidden} is no multiple of {heads} `num_attention_heads`"));
        }
        let eps = match map.get("layer_norm_eps") {
            None => 1e-12,
            Some(found) => found.as_f64().filter(|eps| *eps > 0.0 && *eps < 1.0).unwrap_or_else(|| {
                files.faults.push(format!("{file}: `layer_norm_eps` is {found}, expected a number between 0 and 1"));
                1e-12
            }),
        };
        let padding = map.get("pad_token_id").and_then(Value::as_u64).map_or(1, |id| id as usize);
        let first_position = if roberta { padding + 1 } else { 0 };
        if !map.is_empty() && positions < first_position + 2 {
            files.faults.push(format!("{file}: `max_position_embeddings` {positions} leaves no room for a text"));
        }
        let (pooling, normalise) = files.modules(hidden, map.is_empty());
        let (max_tokens, lowercase) = files.length(positions.saturating_sub(first_position));
        let (prompts, default_prompt) = files.prompts();
        if !files.faults.is_empty() {
            return Err(EncoderError::Folder { path: dir.into(), faults: Faults(files.faults) });
        }
        Ok(Config {
            hidden,
            layers,
            heads,
            intermediate,
            vocabulary,
            positions,
            types,
            eps: eps as f32,
            first_position,
            max_tokens,
            lowercase,
            pooling,
            normalise,
            prompts,
            default_prompt,
        })
    }

    /// Numbers of a vector.
    pub fn dimensions(&self) -> usize {
        self.hidden * self.pooling.len()
    }
}

impl Files<'_> {
    /// Pooling modes and whether vectors are normalised. A folder without `modules.json` is a bare network, whose
    /// vector is the normalised mean of its tokens.
    fn modules(&mut self, hidden: usize, unknown: bool) -> (Vec<Mode>, bool) {
        let file = "modules.json";
        let bare = (vec![Mode::Mean], true);
        let Some(list) = self.value(file, false) else { return bare };
        let (mut pooling, mut normalise) = (None, false);
        let modules = list.as_array().map(Vec::as_slice).unwrap_or_default();
        for (at, module) in modules.iter().enumerate() {
            let kind = module.get("type").and_then(Value::as_str).unwrap_or_default();
            let path = module.get("path").and_then(Value::as_str).unwrap_or_default();
            // `sentence_transformers.models.Pooling` and, later, `….modules.pooling.Pooling`
            match (at, kind.rsplit('.').next().unwrap_or_default()) {
                (0, "Transformer") if path.is_empty() => {}
                (0, "Transformer") => {
                    self.faults.push(format!("{file}: the network lies in `{path}`; expected the folder itself"));
                }
                (1, "Pooling") => pooling = Some(self.pooling(&format!("{path}/config.json"), hidden, unknown)),
                (2.., "Normalize") => normalise = true,
                (_, "Dropout") if at > 1 => {}
                _ => self.faults.push(format!(
                    "{file}: module {at} is `{kind}`; Transformer, Pooling and, if there, Normalize are supported, in \
                     this order"
                )),
            }
        }
        if let Some(pooling) = pooling {
            return (pooling, normalise);
        }
        self.faults.push(format!("{file}: no Pooling module"));
        bare
    }

    fn pooling(&mut self, file: &str, hidden: usize, unknown: bool) -> Vec<Mode> {
        let map = self.object(file, true);
        for key in ["word_embedding_dimension", "embedding_dimension"] {
            let width = self.size(file, &map, key, Some(hidden));
            if width != hidden && !unknown {
                self.faults.push(format!("{file}: `{key}` is {width}, but `hidden_size` is {hidden}"));
            }
        }
        if !self.flag(file, &map, "include_prompt", true) {
            self.faults
                .push(format!("{file}: `include_prompt` is false; leaving prompts out of the mean is not supported"));
        }
        let mut modes = Vec::new();
        let mut add = |name: &str, faults: &mut Vec<String>| match Mode::by_name(name) {
            Some(mode) => modes.push(mode),
            None => faults.push(format!("{file}: pooling `{name}` is not supported; {} are", Mode::names())),
        };
        match map.get("pooling_mode") {
            Some(Value::String(name)) => add(name, &mut self.faults),
            Some(Value::Array(names)) => names.iter().for_each(|name| {
                add(name.as_str().unwrap_or_default(), &mut self.faults);
            }),
            Some(other) => self.faults.push(format!("{file}: `pooling_mode` is {other}, expected a name or a list")),
            None => {
                for (key, value) in map.iter().filter(|(_, value)| value.as_bool() == Some(true)) {
                    if let Some(name) = key.strip_prefix("pooling_mode_") {
                        let name = name.trim_end_matches("_tokens").trim_end_matches("_token");
                        let name = if name == "mean_sqrt_len" { "mean_sqrt_len_tokens" } else { name };
                        let _ = value;
                        add(name, &mut self.faults);
                    }
                }
            }
        }
        if modes.is_empty() && !map.is_empty() {
            self.faults.push(format!("{file}: no pooling mode is on"));
        }
        // several are put side by side, in this order
        modes.sort();
        modes
    }

    /// Tokens of a text, and whether it is made lower case first.
    fn length(&mut self, room: usize) -> (usize, bool) {
        let file = "sentence_bert_config.json";
        let map = self.object(file, false);
        let mut limit = self.size(file, &map, "max_seq_length", Some(room));
        if map.get("max_seq_length").is_none_or(Value::is_null) {
            // written as 1e30 where nobody set it
            let tokenizer = self.object("tokenizer_config.json", false);
            let said = tokenizer.get("model_max_length").and_then(Value::as_f64).filter(|n| *n >= 1.0 && *n < 1e9);
            limit = said.map_or(limit, |n| n as usize);
        }
        (limit.min(room), self.flag(file, &map, "do_lower_case", false))
    }

    fn prompts(&mut self) -> (BTreeMap<String, String>, Option<String>) {
        let file = "config_sentence_transformers.json";
        let map = self.object(file, false);
        let mut prompts = BTreeMap::new();
        for (name, text) in map.get("prompts").and_then(Value::as_object).into_iter().flatten() {
            match text {
                Value::String(text) => drop(prompts.insert(name.clone(), text.clone())),
                Value::Null => {}
                other => self.faults.push(format!("{file}: prompt `{name}` is {other}, expected a text")),
            }
        }
        let default = map.get("default_prompt_name").and_then(Value::as_str).map(str::to_owned);
        if let Some(name) = default.as_ref().filter(|name| !prompts.contains_key(*name)) {
            self.faults.push(format!("{file}: `default_prompt_name` is `{name}`, which is none of its prompts"));
        }
        (prompts, default)
    }
}
