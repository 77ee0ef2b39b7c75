//! Texts to token ids by the folder's `tokenizer.json`, with its special tokens, cut to the length the network was made
//! for. Padding that the file asks for is taken out: texts stand side by side without any.

use std::path::Path;

use loar_formats::Faults;
use tokenizers::{Tokenizer, TruncationDirection, TruncationParams, TruncationStrategy};

use crate::EncoderError;
use crate::config::Config;

pub(crate) struct Tokens {
    inner: Tokenizer,
    lowercase: bool,
}

/// Characters that no vocabulary has: the tokenizer must have a token for the unknown.
const UNKNOWN: &str = "\u{10fffd} \u{e000}\u{0}a";

impl Tokens {
    pub fn read(dir: &Path, config: &Config, max_tokens: usize) -> Result<Tokens, EncoderError> {
        let path = dir.join("tokenizer.json");
        let bytes = std::fs::read(&path).map_err(|source| EncoderError::Io { path: path.clone(), source })?;
        let wrong = |fault: String| EncoderError::Folder { path: path.clone(), faults: Faults(vec![fault]) };
        let mut inner = Tokenizer::from_bytes(&bytes).map_err(|error| wrong(error.to_string()))?;
        inner.with_padding(None);
        let truncation = TruncationParams {
            direction: TruncationDirection::Right,
            max_length: max_tokens,
            strategy: TruncationStrategy::LongestFirst,
            stride: 0,
        };
        inner.with_truncation(Some(truncation)).map_err(|error| wrong(error.to_string()))?;
        let largest = inner.get_vocab(true).into_iter().max_by_key(|(_, id)| *id);
        if let Some((token, id)) = largest.filter(|(_, id)| *id as usize >= config.vocabulary) {
            let rows = config.vocabulary;
            return Err(wrong(format!("token `{token}` has id {id}, but config.json has `vocab_size` {rows}")));
        }
        let tokens = Tokens { inner, lowercase: config.lowercase };
        for text in ["", UNKNOWN] {
            let ids = tokens.try_ids(text).map_err(|error| wrong(format!("a text cannot be encoded: {error}")))?;
            if text.is_empty() && ids.is_empty() {
                return Err(wrong("an empty text has no token: the post-processor adds none".into()));
            }
        }
        Ok(tokens)
    }

    /// At least one id.
    ///
    /// # Panics
    /// When the tokenizer refuses a text, which only one without a token for the unknown does; [`Tokens::read`] lets
    /// none of those in.
    pub fn ids(&self, text: &str) -> Vec<u32> {
        self.try_ids(text).unwrap_or_else(|error| panic!("the tokenizer refuses {text:?}: {error}"))
    }

    fn try_ids(&self, text: &str) -> tokenizers::Result<Vec<u32>> {
        let encoding = if self.lowercase {
            self.inner.encode_fast(text.to_lowercase(), true)?
        } else {
            self.inner.encode_fast(text, true)?
        };
        Ok(encoding.get_ids().to_vec())
    }
}
