//! The encoder as its users see it: opened once from a folder, then texts in, vectors out, from any thread.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use loar_artifact::{ContentId, IdHasher};
use loar_formats::Faults;
use loar_kernels::{Pool, Precision};

use crate::EncoderError;
use crate::config::Config;
use crate::forward::{Network, Scratch};
use crate::pooling::pool;
use crate::tokens::Tokens;
use crate::weights::Weights;

/// Tokens that go through the network together: enough for the weights of a layer to be read and packed once for many
/// rows, few enough that a layer's activations stay in the caches.
const BATCH_TOKENS: usize = 2048;

/// How an encoder is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Put before every text: the name of a prompt of the folder, or, when it has none of that name, the words
    /// themselves (`"query: "`). `None` takes the folder's default prompt, if it names one.
    pub prompt: Option<String>,
    /// Tokens read of a text, the special ones included; at most what the folder says.
    pub max_tokens: Option<usize>,
    /// `Bf16` rounds the operands of products, sums stay f32: several times faster where the processor has matrix
    /// tiles, cosines differ by about 1e-3.
    pub precision: Precision,
    /// Threads; 0 takes every core. Encoders that many threads share are best opened with 1.
    pub threads: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options { prompt: None, max_tokens: None, precision: Precision::F32, threads: 0 }
    }
}

/// A sentence encoder.
pub struct Encoder {
    config: Config,
    weights: Weights,
    tokens: Tokens,
    prompt: String,
    precision: Precision,
    pool: Pool,
    id: ContentId,
    /// Memory of batches that ended, for those to come.
    scratch: Mutex<Vec<Scratch>>,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Encoder({} layers, {} dimensions, {})", self.config.layers, self.dimensions(), self.id)
    }
}

/// Files that decide what a vector is, as far as they are there. Model cards and vocabularies in older forms do not.
const FILES: [&str; 5] =
    ["config.json", "modules.json", "sentence_bert_config.json", "tokenizer.json", "config_sentence_transformers.json"];

impl Encoder {
    /// Opens a folder as sentence-transformers writes it.
    ///
    /// # Errors
    /// A file that cannot be read; every fault of the JSON files, or every missing tensor and wrong shape, at once.
    pub fn open(dir: &Path, options: &Options) -> Result<Encoder, EncoderError> {
        let config = Config::read(dir)?;
        let max_tokens = options.max_tokens.unwrap_or(config.max_tokens);
        if !(3..=config.max_tokens).contains(&max_tokens) {
            let fault = format!("{max_tokens} tokens a text were asked for; 3 to {} are possible", config.max_tokens);
            return Err(EncoderError::Folder { path: dir.into(), faults: Faults(vec![fault]) });
        }
        let tokens = Tokens::read(dir, &config, max_tokens)?;
        let weights = Weights::read(dir, &config, options.precision)?;
        let name = options.prompt.as_ref().or(config.default_prompt.as_ref());
        let prompt = name.map(|name| config.prompts.get(name).unwrap_or(name).clone()).unwrap_or_default();
        let id = digest(dir, &format!("{prompt:?} {max_tokens} {:?}", options.precision))?;
        Ok(Encoder {
            config,
            weights,
            tokens,
            prompt,
            precision: options.precision,
            pool: Pool::new(options.threads),
            id,
            scratch: Mutex::default(),
        })
    }

    /// Numbers of a vector.
    pub fn dimensions(&self) -> usize {
        self.config.dimensions()
    }

    /// Whether vectors have length 1: what the folder says.
    pub fn is_normalised(&self) -> bool {
        self.config.normalise
    }

    /// What is put before every text of [`Encoder::encode`].
    pub fn prompt(&self) -> &str {
        &self.prompt
    }

    /// The words of a prompt that the folder names, such as `query` or `passage`.
    pub fn named_prompt(&self, name: &str) -> Option<&str> {
        self.config.prompts.get(name).map(String::as_str)
    }

    /// Hash of the files that decide vectors and of the options that do: equal ids, equal vectors on one instruction
    /// set. Vectors that are stored are stored under it.
    pub fn id(&self) -> ContentId {
        self.id
    }

    /// One vector of [`Encoder::dimensions`] numbers a text, in order.
    pub fn encode(&self, texts: &[&str]) -> Vec<Vec<f32>> {
        self.encode_as(&self.prompt, texts)
    }

    /// [`Encoder::encode`] with other words before every text: retrieval encoders read questions and passages so.
    pub fn encode_as(&self, prompt: &str, texts: &[&str]) -> Vec<Vec<f32>> {
        let mut ids: Vec<Vec<u32>> = vec![Vec::new(); texts.len()];
        self.pool.pieces_mut(&mut ids, 1, &|at, ids| {
            ids[0] = if prompt.is_empty() {
                self.tokens.ids(texts[at])
            } else {
                self.tokens.ids(&format!("{prompt}{}", texts[at]))
            };
        });
        let mut scratch = self.lock().pop().unwrap_or_default();
        let network =
            Network { config: &self.config, weights: &self.weights, precision: self.precision, pool: &self.pool };
        let mut vectors = Vec::with_capacity(texts.len());
        let mut rest = &ids[..];
        while !rest.is_empty() {
            let mut tokens = 0;
            let fits = rest.iter().take_while(|text| {
                tokens += text.len();
                tokens <= BATCH_TOKENS
            });
            let (batch, after) = rest.split_at(fits.count().max(1));
            let mut states = network.states(batch, &mut scratch);
            for text in batch {
                let (own, others) = states.split_at(text.len() * self.config.hidden);
                vectors.push(pool(&self.config.pooling, self.config.normalise, own, self.config.hidden));
                states = others;
            }
            rest = after;
        }
        self.lock().push(scratch);
        vectors
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Scratch>> {
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hash over the names and contents of the files that count, and the options.
fn digest(dir: &Path, options: &str) -> Result<ContentId, EncoderError> {
    let mut names: Vec<PathBuf> = FILES.iter().map(PathBuf::from).collect();
    let entries = std::fs::read_dir(dir).map_err(|source| EncoderError::Io { path: dir.into(), source })?;
    for entry in entries.flatten() {
        let name = PathBuf::from(entry.file_name());
        if name.extension().is_some_and(|end| end == "safetensors") || name.to_string_lossy().ends_with("_Pooling") {
            names.push(name);
        }
    }
    names.sort();
    let mut hasher = IdHasher::new();
    for name in names {
        let path = dir.join(&name);
        let id = match (path.is_dir(), path.exists()) {
            (true, _) => ContentId::of_dir(&path)?,
            (false, true) => ContentId::of_file(&path)?,
            (false, false) => continue,
        };
        hasher.update(format!("{} {id}\n", name.display()).as_bytes());
    }
    hasher.update(options.as_bytes());
    Ok(hasher.finish())
}
