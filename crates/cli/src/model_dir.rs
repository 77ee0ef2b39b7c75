//! A checkpoint folder opened for use: weights, tokenizer, template, sampling defaults, end tokens.
//!
//! Takes the arguments every generating command shares. Gives one value that holds all of them, or
//! the failure that names the file. Never trains and never writes.

use std::path::{Path, PathBuf};

use loar_decode::Sampling;
use loar_formats::config::ModelConfig;
use loar_formats::generation::GenerationConfig;
use loar_model::{BaseDtype, LoadOptions, Model};
use loar_tape::Precision;
use loar_text::{ChatTemplate, EncodeOptions, Encoder, Tokenizer};

use crate::diagnose::Failure;

/// How matrix products are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Dtype {
    /// bfloat16 products, float32 sums
    #[default]
    Bf16,
    /// float32 throughout
    F32,
}

impl Dtype {
    /// As the engine names it.
    pub fn precision(self) -> Precision {
        match self {
            Self::Bf16 => Precision::Bf16,
            Self::F32 => Precision::F32,
        }
    }
}

/// What the linear layers of a model are held in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum BaseForm {
    /// As the checkpoint has it
    #[default]
    AsStored,
    /// bfloat16
    Bf16,
    /// One scale a row
    Int8,
    /// One scale for 64 numbers of a row
    Int4,
    /// E4M3 with one scale a block of 128 x 128
    Fp8Block,
}

impl BaseForm {
    /// As the engine names it.
    pub fn dtype(self) -> BaseDtype {
        match self {
            Self::AsStored => BaseDtype::AsStored,
            Self::Bf16 => BaseDtype::Bf16,
            Self::Int8 => BaseDtype::Int8,
            Self::Int4 => BaseDtype::Int4,
            Self::Fp8Block => BaseDtype::Fp8Block,
        }
    }
}

/// Which model, with which adapter, computed how.
#[derive(Debug, Clone, clap::Args)]
pub struct ModelArgs {
    /// Checkpoint folder: config.json, safetensors, tokenizer.json
    pub model: PathBuf,
    /// PEFT adapter folder to put on the model
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Precision of matrix products
    #[arg(long, value_enum, default_value_t)]
    pub dtype: Dtype,
    /// What attention, MLPs, experts and head are held in: quantised while loading
    #[arg(long, value_enum, default_value_t)]
    pub base_dtype: BaseForm,
    /// Threads; 0 takes every core. The result does not depend on it
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
    /// Built-in chat template to use instead of the checkpoint's own
    #[arg(long, value_name = "NAME")]
    pub template: Option<String>,
}

/// An opened checkpoint folder.
pub struct ModelDir {
    /// The folder.
    pub path: PathBuf,
    /// Weights, with the adapter when one was asked for.
    pub model: Model,
    /// Tokenizer and template.
    pub encoder: Encoder,
    /// Sampling defaults of the checkpoint.
    pub generation: GenerationConfig,
    /// Tokens that end an answer: the checkpoint's and the template's.
    pub end_ids: Vec<u32>,
    /// Whether the checkpoint, or the user, names a chat template.
    pub has_template: bool,
}

impl ModelDir {
    /// Opens everything that `args` name.
    pub fn open(args: &ModelArgs) -> Result<Self, Failure> {
        let path = args.model.clone();
        require_dir(&path)?;
        let (encoder, has_template) = open_encoder(&path, args.template.as_deref())?;
        let mut model = load(&path, args.dtype, args.base_dtype.dtype(), args.threads)?;
        if let Some(adapter) = &args.adapter {
            require_dir(adapter)?;
            model.load_adapter(adapter)?;
        }
        let generation = GenerationConfig::read(&path)?.unwrap_or_default();
        let mut end_ids = model.config.eos_token_ids.clone();
        for id in encoder.stop_ids() {
            if !end_ids.contains(&id) {
                end_ids.push(id);
            }
        }
        Ok(Self { path, model, encoder, generation, end_ids, has_template })
    }

    /// Sampling as the checkpoint suggests it.
    pub fn sampling(&self) -> Sampling {
        Sampling::of_checkpoint(&self.generation)
    }

    /// What to say when a conversation is given and there is no template.
    pub fn require_template(&self) -> Result<(), Failure> {
        if self.has_template {
            return Ok(());
        }
        Err(Failure::usage(format!(
            "`{}` has no chat template, and no built-in one fits its tokenizer for certain",
            self.path.display()
        ))
        .with_help(format!(
            "name one with `--template`: {}; or feed the text as it is with `--raw`",
            ChatTemplate::builtin_names().join(", ")
        )))
    }
}

/// Loads the weights of a folder.
pub fn load(path: &Path, dtype: Dtype, base: BaseDtype, threads: usize) -> Result<Model, Failure> {
    let options = LoadOptions { threads, precision: dtype.precision(), base };
    Ok(Model::load(path, &options)?)
}

/// Tokenizer and template of a folder; `template` names a built-in one. The flag says whether there
/// is a template at all.
pub fn open_encoder(path: &Path, template: Option<&str>) -> Result<(Encoder, bool), Failure> {
    let tokenizer = Tokenizer::from_dir(path)?;
    let template = match template {
        Some(name) => Some(ChatTemplate::builtin(name)?),
        None => match ChatTemplate::from_dir(path)? {
            Some(own) => Some(own),
            None => {
                let (config, _) = ModelConfig::read(path)?;
                ChatTemplate::detect(&tokenizer, config.architecture.model_type())
                    .map(ChatTemplate::builtin)
                    .transpose()?
            }
        },
    };
    let has_template = template.is_some();
    Ok((Encoder::new(tokenizer, template, EncodeOptions::default()), has_template))
}

/// Refuses a path that is not a folder, in words that help.
pub fn require_dir(path: &Path) -> Result<(), Failure> {
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_dir() => Ok(()),
        Ok(_) => Err(Failure::usage(format!("`{}` is a file; a folder is needed", path.display()))
            .with_help("name the folder that holds config.json or adapter_config.json")),
        Err(source) => Err(Failure::file(path, "read", &source)),
    }
}
