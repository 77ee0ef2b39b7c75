//! `loar init`: a checkpoint of random weights from a config.

use std::path::PathBuf;
use std::process::ExitCode;

use loar_formats::config::ModelConfig;
use loar_model::{StoredDtype, write_random};

use crate::console::Console;
use crate::diagnose::Failure;
use crate::model_dir::require_dir;

/// Files that belong to a checkpoint beside its weights and config.
const TEXT_FILES: [&str; 5] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
];

/// Write a checkpoint of random weights under release names
///
/// The start of pre-training (`method = "full"`), or a stand-in of a released checkpoint's exact shape. The same seed
/// gives the same bytes on every machine.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder with `config.json`; its tokenizer, template and generation files are copied
    config: PathBuf,
    /// Folder to write
    #[arg(long)]
    out: PathBuf,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Stored type
    #[arg(long, value_enum, default_value_t = Dtype::Bf16)]
    dtype: Dtype,
    /// Largest weight file, in MB (10^6 bytes)
    #[arg(long, default_value_t = loar_model::MAX_SHARD_BYTES / 1_000_000)]
    max_shard_mb: u64,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Dtype {
    Bf16,
    F32,
}

/// Runs the command.
pub fn run(args: Args, console: &mut Console) -> Result<ExitCode, Failure> {
    require_dir(&args.config)?;
    if args.out.join("config.json").exists() {
        return Err(Failure::usage(format!("`{}` already holds a checkpoint", args.out.display()))
            .with_help("name a new folder"));
    }
    let (config, _) = ModelConfig::read(&args.config)?;
    let dtype = match args.dtype {
        Dtype::Bf16 => StoredDtype::Bf16,
        Dtype::F32 => StoredDtype::F32,
    };
    write_random(&config, args.seed, &args.out, dtype, args.max_shard_mb.saturating_mul(1_000_000))?;
    for name in TEXT_FILES {
        let from = args.config.join(name);
        if from.exists() {
            std::fs::copy(&from, args.out.join(name)).map_err(|e| Failure::file(&from, "copied", &e))?;
        }
    }
    console.line(args.out.display())?;
    Ok(ExitCode::SUCCESS)
}
