//! `generation_config.json`: the sampling defaults of a checkpoint and its end tokens.

use std::path::Path;

use serde_json::Value;

use crate::config::ModelConfig;
use crate::{Faults, FormatError, Issue};

/// Bound on the file; released ones have 200 bytes.
const MAX_BYTES: u64 = 4 << 20;

/// What `generation_config.json` says; absent keys are `None` or empty.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GenerationConfig {
    /// First token of a sequence.
    pub bos_token_id: Option<u32>,
    /// Tokens that end generation.
    pub eos_token_ids: Vec<u32>,
    /// Padding token.
    pub pad_token_id: Option<u32>,
    /// Sample (true) or take the best token (false).
    pub do_sample: Option<bool>,
    /// Softmax temperature, above 0.
    pub temperature: Option<f64>,
    /// Nucleus mass, in (0, 1].
    pub top_p: Option<f64>,
    /// Candidates kept; 0: all.
    pub top_k: Option<usize>,
    /// Smallest probability kept, relative to the best.
    pub min_p: Option<f64>,
    /// Factor against repeated tokens.
    pub repetition_penalty: Option<f64>,
}

impl GenerationConfig {
    /// Reads `dir/generation_config.json`; `None` when there is no such file.
    ///
    /// # Errors
    /// Unreadable file, invalid JSON, or all faults of the file at once.
    pub fn read(dir: &Path) -> Result<Option<Self>, FormatError> {
        let path = dir.join("generation_config.json");
        match path.try_exists() {
            Ok(false) => return Ok(None),
            Ok(true) => {}
            Err(source) => return Err(FormatError::Io { path, source }),
        }
        let bytes = crate::json::read_file(&path, "generation_config.json", MAX_BYTES)?;
        Self::from_bytes(&bytes, &path).map(Some)
    }

    /// Reads the text of the file; `path` only names it in errors.
    ///
    /// # Errors
    /// As [`GenerationConfig::read`].
    pub fn from_bytes(bytes: &[u8], path: &Path) -> Result<Self, FormatError> {
        let value = crate::json::parse(bytes, path)?;
        let fail = |faults| FormatError::Config { path: path.to_owned(), faults: Faults(faults) };
        let Value::Object(map) = &value else {
            return Err(fail(vec!["expected an object at the top".into()]));
        };
        let mut keys = crate::config::Keys::new(map);
        let first = |ids: Vec<u32>| ids.first().copied();
        let config = Self {
            bos_token_id: first(keys.token_ids("bos_token_id")),
            eos_token_ids: keys.token_ids("eos_token_id"),
            pad_token_id: first(keys.token_ids("pad_token_id")),
            do_sample: keys.has("do_sample").then(|| keys.bool_or("do_sample", false)),
            temperature: keys.opt_f64("temperature"),
            top_p: keys.opt_f64("top_p"),
            top_k: keys.opt_count("top_k"),
            min_p: keys.opt_f64("min_p"),
            repetition_penalty: keys.opt_f64("repetition_penalty"),
        };
        if config.temperature.is_some_and(|t| t < 0.0) {
            keys.fault("`temperature` is below 0".into());
        }
        if config.top_p.is_some_and(|p| !(0.0..=1.0).contains(&p)) {
            keys.fault("`top_p` must lie between 0 and 1".into());
        }
        if config.min_p.is_some_and(|p| !(0.0..=1.0).contains(&p)) {
            keys.fault("`min_p` must lie between 0 and 1".into());
        }
        let faults = keys.faults();
        if faults.is_empty() { Ok(config) } else { Err(fail(faults)) }
    }

    /// Adds the end tokens to those of the model, and fills absent bos and pad tokens.
    pub fn merge_into(&self, model: &mut ModelConfig, issues: &mut Vec<Issue>) {
        for id in &self.eos_token_ids {
            if *id as usize >= model.vocab_size {
                issues.push(Issue::warning(format!(
                    "generation_config.json: `eos_token_id` {id} is outside the vocabulary of {}, not used",
                    model.vocab_size
                )));
            } else if !model.eos_token_ids.contains(id) {
                if !model.eos_token_ids.is_empty() {
                    issues.push(Issue::note(format!(
                        "generation_config.json adds end token {id} to {:?} of config.json",
                        model.eos_token_ids
                    )));
                }
                model.eos_token_ids.push(*id);
            }
        }
        model.bos_token_id = model.bos_token_id.or(self.bos_token_id);
        model.pad_token_id = model.pad_token_id.or(self.pad_token_id);
    }
}
