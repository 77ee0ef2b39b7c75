//! `loar bench`: how fast this machine trains and generates, on random weights of released shapes.

use std::path::PathBuf;
use std::process::ExitCode;

use loar_kernels::{Pool, Precision};
use loar_model::{BaseDtype, LoadOptions, Model};
use serde_json::{Map, Value, json};

use crate::bench::base::{Dtype, checkpoint, default_dir, quantised};
use crate::bench::record::Record;
use crate::bench::shape::Shape;
use crate::bench::{decode, gemm, lengths, train};
use crate::console::Console;
use crate::diagnose::Failure;

/// Measure training, prefill and decoding on random weights of a released shape
///
/// Rates come with the peaks of this machine, measured in the same process after the work, and with a hash of what was
/// computed. Exits with 1 when paths decoded together differ from one decoded alone.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Optimiser steps of LoRA: forward, backward, clipping, AdamW
    Train(TrainArgs),
    /// Seconds of a training step against the tokens of its pack
    Growth(GrowthArgs),
    /// A prompt to its first token
    Prefill(PrefillArgs),
    /// One sequence after its prompt
    Decode(DecodeArgs),
    /// Several paths of one prompt against one path
    Paths(PathsArgs),
    /// Matrix products of a training step
    Gemm(GemmArgs),
}

/// What every measurement takes.
#[derive(Debug, clap::Args)]
struct Common {
    /// How operands enter matrix products, and how the base is stored
    #[arg(long, value_enum, default_value_t)]
    dtype: Dtype,
    /// Threads; 0 for one a core
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Seed of tokens, adapter and draws; the weights are always those of seed 0
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What every measurement of a model takes.
#[derive(Debug, clap::Args)]
struct ModelArgs {
    #[arg(long, value_enum)]
    shape: Shape,
    /// Depth, where the shape's own is not wanted (deepseek-v2-lite: 4 of 27)
    #[arg(long)]
    layers: Option<usize>,
    /// What the linear layers are held in: as-stored, bf16, int8, int4 or fp8-block; quantised files are kept too
    #[arg(long, default_value = "as-stored", value_parser = base_dtype)]
    base_dtype: BaseDtype,
    /// Where random checkpoints are kept [default: loar/bench in the user's cache folder]
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// What training measurements take.
#[derive(Debug, clap::Args)]
struct AdapterArgs {
    #[arg(long, default_value_t = 32)]
    rank: usize,
    /// Modules with an adapter
    #[arg(long, value_enum, default_value_t)]
    targets: Targets,
    /// Recompute layers in the backward pass instead of keeping their values
    #[arg(long)]
    checkpointing: bool,
    /// Recompute this many layers only
    #[arg(long, value_name = "LAYERS", conflicts_with = "checkpointing")]
    recompute: Option<usize>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum Targets {
    /// Every linear layer of the body, routed experts too
    #[default]
    AllLinear,
    /// Projections of attention
    Attention,
}

#[derive(Debug, clap::Args)]
struct TrainArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    adapter: AdapterArgs,
    /// Document lengths, comma-separated, `--batch` of them a step [default: the mix of the PEFT peer]
    #[arg(long, value_delimiter = ',', conflicts_with_all = ["tokens"])]
    lengths: Vec<usize>,
    /// Documents a step
    #[arg(long, default_value_t = lengths::MIX_ROWS, conflicts_with_all = ["tokens"])]
    batch: usize,
    /// Tokens a step, instead of a length list
    #[arg(long)]
    tokens: Option<usize>,
    /// Tokens a document, with --tokens
    #[arg(long, default_value_t = 512, requires = "tokens")]
    document: usize,
    /// Share of each document, from its front, that carries no loss
    #[arg(long, default_value_t = 0.0)]
    masked: f64,
    /// Steps that are timed, after one that is not
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
struct GrowthArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    adapter: AdapterArgs,
    /// Tokens of the packs
    #[arg(long, value_delimiter = ',', default_values_t = [512, 1024, 2048, 4096, 8192, 16_384, 32_768])]
    tokens: Vec<usize>,
    /// Tokens a document
    #[arg(long, default_value_t = 512)]
    document: usize,
    /// Share of each document, from its front, that carries no loss
    #[arg(long, default_value_t = 0.9)]
    masked: f64,
    /// Steps that are timed for each pack, after one that is not
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
struct PrefillArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Tokens of the prompt
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    prompt: u32,
    /// Requests that are timed, after one that is not
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
struct DecodeArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Tokens of the prompt
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    prompt: u32,
    /// Tokens generated
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(2..))]
    new: u32,
    /// Requests that are timed, after one that is not
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
struct PathsArgs {
    #[command(flatten)]
    decode: DecodeArgs,
    /// Answers to each prompt
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    paths: u32,
}

#[derive(Debug, clap::Args)]
struct GemmArgs {
    /// Whose attention output, gate and down projections are multiplied
    #[arg(long, value_enum, default_value_t = Shape::R1DistillQwen)]
    shape: Shape,
    /// Rows
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..))]
    tokens: u32,
    #[command(flatten)]
    common: Common,
}

/// Runs the command.
pub fn run(args: Args, console: &mut Console) -> Result<ExitCode, Failure> {
    let json = args.what.common().json;
    let mut record = args.what.measure(console)?;
    record.set("options", args.what.options());
    let differs = record.get("identical") == Some(&json!(false));
    record.write(json, console)?;
    Ok(ExitCode::from(u8::from(differs)))
}

impl What {
    fn common(&self) -> &Common {
        match self {
            Self::Train(a) => &a.common,
            Self::Growth(a) => &a.common,
            Self::Prefill(a) => &a.common,
            Self::Decode(a) => &a.common,
            Self::Paths(a) => &a.decode.common,
            Self::Gemm(a) => &a.common,
        }
    }

    fn measure(&self, console: &Console) -> Result<Record, Failure> {
        match self {
            Self::Train(a) => {
                let batches = a.batches()?;
                let trainer = trainer(&a.model, &a.adapter, a.masked, &a.common, console)?;
                train::steps(trainer, &batches, console)
            }
            Self::Growth(a) => {
                positive(&a.tokens, "tokens")?;
                positive(&[a.document], "document")?;
                let trainer = trainer(&a.model, &a.adapter, a.masked, &a.common, console)?;
                train::growth(trainer, &a.tokens, a.document, a.steps as usize, console)
            }
            Self::Prefill(a) => {
                let plan = plan(a.prompt, 1, 1, a.steps, &a.common);
                decode::prefill(&load(&a.model, &a.common, console)?, plan, console)
            }
            Self::Decode(a) => {
                let plan = plan(a.prompt, a.new, 1, a.steps, &a.common);
                decode::decode(&load(&a.model, &a.common, console)?, plan, console)
            }
            Self::Paths(PathsArgs { decode: a, paths }) => {
                let plan = plan(a.prompt, a.new, *paths, a.steps, &a.common);
                decode::paths(&load(&a.model, &a.common, console)?, plan, console)
            }
            Self::Gemm(a) => {
                let config = a.shape.config(None)?;
                let sizes = (config.hidden_size, config.intermediate_size);
                let pool = Pool::new(a.common.threads);
                Ok(gemm::run(&pool, a.tokens as usize, sizes, precision(&a.common), a.common.seed, console))
            }
        }
    }

    /// Every option that shapes the result, defaults filled in.
    fn options(&self) -> Value {
        let common = self.common();
        let mut all = match self {
            Self::Train(a) => merged(&[
                a.model.options(),
                a.adapter.options(),
                json!({"masked": a.masked, "steps": a.steps}),
                match a.tokens {
                    Some(tokens) => json!({"tokens": tokens, "document": a.document}),
                    None if a.lengths.is_empty() => json!({"lengths": "mix", "batch": a.batch}),
                    None => json!({"lengths": a.lengths, "batch": a.batch}),
                },
            ]),
            Self::Growth(a) => merged(&[
                a.model.options(),
                a.adapter.options(),
                json!({"masked": a.masked, "steps": a.steps, "tokens": a.tokens, "document": a.document}),
            ]),
            Self::Prefill(a) => merged(&[a.model.options(), json!({"prompt": a.prompt, "steps": a.steps})]),
            Self::Decode(a) => {
                merged(&[a.model.options(), json!({"prompt": a.prompt, "new": a.new, "steps": a.steps})])
            }
            Self::Paths(PathsArgs { decode: a, paths }) => merged(&[
                a.model.options(),
                json!({"prompt": a.prompt, "new": a.new, "paths": paths, "steps": a.steps}),
            ]),
            Self::Gemm(a) => merged(&[json!({"shape": a.shape.name(), "tokens": a.tokens})]),
        };
        all.insert("dtype".into(), json!(common.dtype.name()));
        all.insert("seed".into(), json!(common.seed));
        Value::Object(all)
    }
}

impl ModelArgs {
    fn options(&self) -> Value {
        let layers = self.shape.config(self.layers).map_or(0, |c| c.num_hidden_layers);
        json!({"shape": self.shape.name(), "layers": layers, "base_dtype": self.base_dtype.word()})
    }
}

impl AdapterArgs {
    fn options(&self) -> Value {
        let targets = if self.targets == Targets::Attention { "attention" } else { "all-linear" };
        json!({"rank": self.rank, "targets": targets, "checkpointing": self.checkpointing, "recompute": self.recompute})
    }
}

impl TrainArgs {
    /// The documents of the warm-up step and of every timed one.
    fn batches(&self) -> Result<Vec<Vec<usize>>, Failure> {
        positive(&self.lengths, "lengths")?;
        positive(&[self.batch, self.document, self.tokens.unwrap_or(1)], "batch, document and tokens")?;
        let lengths = if self.lengths.is_empty() { &lengths::MIX[..] } else { &self.lengths };
        Ok((0..=self.steps as usize)
            .map(|step| match self.tokens {
                Some(tokens) => lengths::pack_of(tokens, self.document),
                None => lengths::batch(lengths, self.batch, step),
            })
            .collect())
    }
}

fn base_dtype(word: &str) -> Result<BaseDtype, String> {
    BaseDtype::ALL
        .into_iter()
        .find(|dtype| dtype.word() == word)
        .ok_or_else(|| format!("it is one of {}", BaseDtype::ALL.map(BaseDtype::word).join(", ")))
}

fn positive(values: &[usize], name: &str) -> Result<(), Failure> {
    if values.contains(&0) { Err(Failure::usage(format!("{name} must be at least 1"))) } else { Ok(()) }
}

fn merged(parts: &[Value]) -> Map<String, Value> {
    parts.iter().filter_map(Value::as_object).flatten().map(|(k, v)| (k.clone(), v.clone())).collect()
}

fn precision(common: &Common) -> Precision {
    match common.dtype {
        Dtype::Bf16 => Precision::Bf16,
        Dtype::F32 => Precision::F32,
    }
}

fn plan(prompt: u32, new: u32, paths: u32, steps: u32, common: &Common) -> decode::Plan {
    decode::Plan {
        prompt: prompt as usize,
        new: new as usize,
        paths: paths as usize,
        repetitions: steps as usize,
        seed: common.seed,
    }
}

fn load(model: &ModelArgs, common: &Common, console: &Console) -> Result<Model, Failure> {
    let config = model.shape.config(model.layers)?;
    let dir = model.dir.clone().unwrap_or_else(default_dir);
    let path = checkpoint(model.shape, &config, common.dtype, &dir, console)?;
    let path = quantised(path, model.base_dtype, console)?;
    let options = LoadOptions { threads: common.threads, precision: precision(common), base: model.base_dtype };
    Ok(Model::load(&path, &options)?)
}

fn trainer(
    model: &ModelArgs,
    adapter: &AdapterArgs,
    masked: f64,
    common: &Common,
    console: &Console,
) -> Result<train::Trainer, Failure> {
    if !(0.0..1.0).contains(&masked) {
        return Err(Failure::usage(format!("`--masked {masked}` is no share of tokens; give 0 or more, below 1")));
    }
    let plan = train::Plan {
        rank: adapter.rank,
        attention_only: adapter.targets == Targets::Attention,
        recomputed_layers: adapter.recompute.unwrap_or(if adapter.checkpointing { usize::MAX } else { 0 }),
        masked,
        seed: common.seed,
    };
    train::Trainer::new(load(model, common, console)?, plan)
}
