//! Byte-level BPE tokenizer of a checkpoint (signatures; body follows).
use std::path::Path;

/// How strings that look like control tokens are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// Control-token strings become their control ids.
    Parse,
    /// Control-token strings stay ordinary text.
    AsText,
}

/// Why a tokenizer could not be read or used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// Unreadable.
    #[error("tokenizer: {0}")]
    Bad(String),
}

/// Special-token facts for `inspect`.
#[derive(Clone, Debug, Default)]
pub struct TokenizerFacts {
    /// Beginning-of-sequence string and id.
    pub bos: Option<(String, u32)>,
    /// End-of-sequence string and id.
    pub eos: Option<(String, u32)>,
    /// Padding string and id.
    pub pad: Option<(String, u32)>,
    /// Whether the tokenizer itself puts BOS in front.
    pub add_bos: bool,
    /// Ids known, added tokens included (highest id + 1).
    pub vocab_size: usize,
    /// Suspicious points, one sentence each.
    pub warnings: Vec<String>,
}

/// A checkpoint's tokenizer.
#[derive(Clone, Debug)]
pub struct Tokenizer;

impl Tokenizer {
    /// Reads `tokenizer.json` and, when there, `tokenizer_config.json`.
    pub fn from_dir(_dir: &Path) -> Result<Self, TokenizerError> {
        Err(TokenizerError::Bad("not built yet".into()))
    }
    /// Reads one `tokenizer.json`.
    pub fn from_file(_path: &Path) -> Result<Self, TokenizerError> {
        Err(TokenizerError::Bad("not built yet".into()))
    }
    /// Reads `tokenizer.json` bytes and optional `tokenizer_config.json` bytes.
    pub fn from_bytes(_json: &[u8], _config: Option<&[u8]>) -> Result<Self, TokenizerError> {
        Err(TokenizerError::Bad("not built yet".into()))
    }
    /// Ids of a text; never adds BOS or EOS.
    pub fn encode(&self, _text: &str, _special: Special) -> Result<Vec<u32>, TokenizerError> {
        Err(TokenizerError::Bad("not built yet".into()))
    }
    /// Text of ids; unknown ids are left out, broken UTF-8 becomes U+FFFD.
    pub fn decode(&self, _ids: &[u32], _skip_special: bool) -> String {
        String::new()
    }
    /// Id of a token by its string.
    pub fn id(&self, _token: &str) -> Option<u32> {
        None
    }
    /// Highest id + 1.
    pub fn vocab_size(&self) -> usize {
        0
    }
    /// BOS id.
    pub fn bos_id(&self) -> Option<u32> {
        None
    }
    /// EOS id.
    pub fn eos_id(&self) -> Option<u32> {
        None
    }
    /// Padding id.
    pub fn pad_id(&self) -> Option<u32> {
        None
    }
    /// Special-token facts; `config_vocab_size` is the model's `vocab_size`.
    pub fn facts(&self, _config_vocab_size: Option<usize>) -> TokenizerFacts {
        TokenizerFacts::default()
    }
    /// Incremental decoder for streaming.
    pub fn stream_decoder(&self, skip_special: bool) -> StreamDecoder<'_> {
        StreamDecoder {
            tokenizer: self,
            skip_special,
        }
    }
}

/// Decodes token by token; incomplete UTF-8 is held back.
#[derive(Clone, Debug)]
pub struct StreamDecoder<'a> {
    #[allow(dead_code)]
    tokenizer: &'a Tokenizer,
    #[allow(dead_code)]
    skip_special: bool,
}

impl StreamDecoder<'_> {
    /// Text that became complete with this token.
    pub fn push(&mut self, _id: u32) -> String {
        String::new()
    }
    /// What is left at the end; a cut character becomes U+FFFD.
    pub fn finish(&mut self) -> String {
        String::new()
    }
}
