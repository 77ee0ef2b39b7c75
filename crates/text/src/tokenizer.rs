//! Byte-level BPE tokenizer of a checkpoint.
//!
//! Takes `tokenizer.json` (and `tokenizer_config.json`), gives ids and text, with control-token
//! strings read as control tokens or as plain text. Never adds BOS or EOS by itself and never
//! reads a tokenizer that is not byte-level: the DeepSeek family has no other.

use crate::decoder::StreamDecoder;
use crate::facts::{ConfigStrings, read_config};
use crate::kind::check_kind;
use crate::vocab::{ByteTable, ControlSet, is_text_token};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokenizers::{AddedToken, AddedVocabulary, Tokenizer as Inner};

/// Largest id accepted: eight times the largest released vocabulary, so that a hostile file
/// cannot make the byte table huge.
pub const MAX_ID: u32 = 1 << 20;

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
    /// The file cannot be opened.
    #[error("cannot read `{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The bytes are not a tokenizer.
    #[error("`{file}` is not a tokenizer: {reason}")]
    Parse {
        /// `tokenizer.json` or `tokenizer_config.json`.
        file: String,
        /// Parser's words.
        reason: String,
    },
    /// A tokenizer of another kind.
    #[error(
        "tokenizer has {part} `{found}`; only byte-level BPE is read, as every DeepSeek-family checkpoint ships it"
    )]
    NotByteLevel {
        /// `model` or `decoder`.
        part: &'static str,
        /// As in the file.
        found: String,
    },
    /// An id beyond [`MAX_ID`].
    #[error("token `{token}` has id {id}, more than the largest accepted id {MAX_ID}")]
    IdTooLarge {
        /// Its string.
        token: String,
        /// As in the file.
        id: u32,
    },
    /// Two ids for one text, or a control token that cannot be kept out of text.
    #[error("cannot encode the text: {reason}")]
    Encode {
        /// What happened.
        reason: String,
    },
}

/// A checkpoint's tokenizer. Cheap to clone and safe to share between threads.
#[derive(Clone)]
pub struct Tokenizer(Arc<Parts>);

pub(crate) struct Parts {
    /// As released: control-token strings match.
    pub full: Inner,
    /// The same model with only text-like added tokens (single characters of the older
    /// vocabularies): control-token strings do not match.
    text: Inner,
    /// Ids that `text` gives to added tokens → ids of the file.
    remap: HashMap<u32, u32>,
    pub bytes: ByteTable,
    pub control: ControlSet,
    pub config: ConfigStrings,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub pad: Option<u32>,
    pub add_bos: bool,
    pub added: Vec<(u32, AddedToken)>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("bos", &self.0.bos)
            .field("eos", &self.0.eos)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Reads `tokenizer.json` and, when there, `tokenizer_config.json` of a checkpoint folder.
    pub fn from_dir(dir: &Path) -> Result<Self, TokenizerError> {
        let json = read(&dir.join("tokenizer.json"))?;
        let config_path = dir.join("tokenizer_config.json");
        let config = if config_path.exists() { Some(read(&config_path)?) } else { None };
        Self::from_bytes(&json, config.as_deref())
    }

    /// Reads one `tokenizer.json`; special tokens are then guessed from their usual strings.
    pub fn from_file(path: &Path) -> Result<Self, TokenizerError> {
        Self::from_bytes(&read(path)?, None)
    }

    /// Reads `tokenizer.json` bytes and optional `tokenizer_config.json` bytes.
    pub fn from_bytes(json: &[u8], config: Option<&[u8]>) -> Result<Self, TokenizerError> {
        let bad = |reason: String| TokenizerError::Parse { file: "tokenizer.json".into(), reason };
        check_kind(json)?;
        // The library asserts on some malformed files instead of returning an error.
        let full = catch_unwind(AssertUnwindSafe(|| Inner::from_bytes(json)))
            .map_err(|_| bad("the tokenizers library gave up on it".into()))?
            .map_err(|e| bad(e.to_string()))?;
        let config = read_config(config)?;
        let parts = catch_unwind(AssertUnwindSafe(|| Parts::build(full, config)))
            .map_err(|_| bad("its added tokens contradict its vocabulary".into()))??;
        Ok(Tokenizer(Arc::new(parts)))
    }

    /// Ids of a text; never adds BOS or EOS.
    ///
    /// With [`Special::AsText`] no id of the result is a control token, whatever the text holds.
    pub fn encode(&self, text: &str, special: Special) -> Result<Vec<u32>, TokenizerError> {
        match special {
            Special::Parse => encode_with(&self.0.full, text),
            Special::AsText => self.encode_as_text(text),
        }
    }

    fn encode_as_text(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = encode_with(&self.0.text, text)?;
        for id in &mut ids {
            if let Some(real) = self.0.remap.get(id) {
                *id = *real;
            }
        }
        if !ids.iter().any(|&id| self.is_control(id)) {
            return Ok(ids);
        }
        // A vocabulary may hold a control string as an ordinary piece (`ignore_merges`): cut the
        // text inside that piece and try the halves.
        let Some(hit) = self.0.control.find(text) else {
            return Err(TokenizerError::Encode {
                reason: format!("plain text {text:?} gives a control token of this vocabulary"),
            });
        };
        let first = text[hit.range.clone()].chars().next().map_or(0, char::len_utf8);
        let cut = hit.range.start + first;
        if cut == 0 || cut >= text.len() {
            return Err(TokenizerError::Encode {
                reason: format!("`{text}` is a control token of one character and cannot be read as text"),
            });
        }
        let (left, right) = text.split_at(cut);
        let mut out = self.encode_as_text(left)?;
        out.extend(self.encode_as_text(right)?);
        Ok(out)
    }

    /// Text of ids; unknown ids are left out and broken UTF-8 becomes U+FFFD. `skip_special`
    /// leaves out tokens that the file marks `special`, as `transformers` does.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        String::from_utf8_lossy(&self.decode_bytes(ids, skip_special)).into_owned()
    }

    /// Bytes of ids, which need not be whole characters.
    pub fn decode_bytes(&self, ids: &[u32], skip_special: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        for &id in ids {
            if !(skip_special && self.is_special(id)) {
                bytes.extend_from_slice(self.token_bytes(id));
            }
        }
        bytes
    }

    /// Bytes of one token; empty for unknown ids.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.0.bytes.get(id)
    }

    /// Incremental decoder for streaming.
    pub fn stream_decoder(&self, skip_special: bool) -> StreamDecoder<'_> {
        StreamDecoder::new(self, skip_special)
    }

    /// Id of a token by its string (added tokens verbatim, pieces in the file's spelling).
    pub fn id(&self, token: &str) -> Option<u32> {
        self.0.full.token_to_id(token)
    }

    /// Highest known id + 1: the rows a model's embedding must have at least.
    pub fn vocab_size(&self) -> usize {
        self.0.bytes.len()
    }

    /// BOS id.
    pub fn bos_id(&self) -> Option<u32> {
        self.0.bos
    }

    /// EOS id.
    pub fn eos_id(&self) -> Option<u32> {
        self.0.eos
    }

    /// Padding id.
    pub fn pad_id(&self) -> Option<u32> {
        self.0.pad
    }

    /// Whether the tokenizer itself puts BOS in front of a text.
    pub fn adds_bos(&self) -> bool {
        self.0.add_bos
    }

    /// True for ids that steer the model: special tokens and markup-like added tokens (`<think>`
    /// of the distils is not marked special, and is one all the same).
    pub fn is_control(&self, id: u32) -> bool {
        self.0.control.has_id(id)
    }

    /// True for tokens that the file marks `special`.
    pub fn is_special(&self, id: u32) -> bool {
        self.0.control.is_special(id)
    }

    /// Whether the normaliser changes a text, which then cannot come back by decoding.
    pub(crate) fn normalizes(&self, text: &str) -> bool {
        use tokenizers::Normalizer;
        self.0.full.get_normalizer().is_some_and(|n| {
            let mut normal = tokenizers::NormalizedString::from(text);
            n.normalize(&mut normal).is_err() || normal.get() != text
        })
    }

    pub(crate) fn parts(&self) -> &Parts {
        &self.0
    }
}

impl Parts {
    fn build(full: Inner, mut config: ConfigStrings) -> Result<Self, TokenizerError> {
        if config.guess {
            let known = |names: &[&str]| names.iter().find(|n| full.token_to_id(n).is_some()).map(|n| n.to_string());
            config.bos = known(&["<｜begin▁of▁sentence｜>", "<|begin_of_text|>"]);
            config.eos = known(&["<｜end▁of▁sentence｜>", "<|im_end|>", "<|eot_id|>", "<|endoftext|>"]);
            config.pad = known(&["<｜▁pad▁｜>", "<|endoftext|>"]);
        }
        let mut added: Vec<(u32, AddedToken)> = full.get_added_tokens_decoder().into_iter().collect();
        added.sort_by_key(|(id, _)| *id);
        let vocab = full.get_vocab(true);
        if let Some((token, id)) = vocab.iter().find(|(_, id)| **id > MAX_ID) {
            return Err(TokenizerError::IdTooLarge { token: token.clone(), id: *id });
        }
        let bytes = ByteTable::new(&vocab, &added);
        let control = ControlSet::new(added.iter().filter(|(_, t)| !is_text_token(t)));
        let kept: Vec<(u32, AddedToken)> = added.iter().filter(|(_, t)| is_text_token(t)).cloned().collect();
        let mut text = full.clone();
        text.with_added_vocabulary(AddedVocabulary::new());
        text.add_tokens(&kept.iter().map(|(_, t)| t.clone()).collect::<Vec<_>>());
        let remap = kept
            .iter()
            .filter_map(|(id, token)| text.token_to_id(&token.content).map(|now| (now, *id)))
            .filter(|(now, id)| now != id)
            .collect();
        let id_of = |name: &Option<String>| name.as_deref().and_then(|s| full.token_to_id(s));
        let (bos, eos, pad) = (id_of(&config.bos), id_of(&config.eos), id_of(&config.pad));
        // LlamaTokenizerFast and post-processors disagree in the wild: either makes a BOS.
        let processed = full.encode_fast("", true).map(|e| e.get_ids().first().copied()).ok().flatten();
        let add_bos = config.add_bos.unwrap_or(bos.is_some() && processed == bos);
        Ok(Parts { full, text, remap, bytes, control, config, bos, eos, pad, add_bos, added })
    }
}

fn encode_with(inner: &Inner, text: &str) -> Result<Vec<u32>, TokenizerError> {
    match inner.encode_fast(text, false) {
        Ok(encoding) => Ok(encoding.get_ids().to_vec()),
        Err(e) => Err(TokenizerError::Encode { reason: e.to_string() }),
    }
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, TokenizerError> {
    std::fs::read(path).map_err(|source| TokenizerError::Io { path: path.to_path_buf(), source })
}
