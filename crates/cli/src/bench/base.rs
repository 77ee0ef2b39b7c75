//! A checkpoint of random weights of a shape, written once and kept: a mapped file, as in a real run.
//!
//! The files are written by `loar init` and `loar quantize` in other processes, so that their buffers do not count as
//! memory of the measurement, and appear under their names only when they are whole.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use loar_formats::config::ModelConfig;
use loar_model::BaseDtype;

use crate::bench::shape::Shape;
use crate::console::{Console, bytes};
use crate::diagnose::Failure;

/// Stored type of the weights that are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Dtype {
    #[default]
    Bf16,
    F32,
}

impl Dtype {
    pub fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::F32 => "f32",
        }
    }

    fn size(self) -> u64 {
        match self {
            Self::Bf16 => 2,
            Self::F32 => 4,
        }
    }
}

/// Where checkpoints are kept when nobody says: the user's cache folder, else that for temporary files.
pub fn default_dir() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    cache.unwrap_or_else(std::env::temp_dir).join("loar").join("bench")
}

/// The folder of a shape's checkpoint within `dir`, written first if it is not there.
///
/// # Errors
/// A folder that cannot be written.
pub fn checkpoint(
    shape: Shape,
    config: &ModelConfig,
    dtype: Dtype,
    dir: &Path,
    console: &Console,
) -> Result<PathBuf, Failure> {
    let out = dir.join(format!("{}-{}-layers-{}", shape.name(), config.num_hidden_layers, dtype.name()));
    if out.join("config.json").exists() {
        return Ok(out);
    }
    let parameters: usize =
        loar_formats::names::expected_tensors(config).iter().map(|t| t.1.iter().product::<usize>()).sum();
    console.remark(format_args!(
        "{} {}, {} → {}",
        console.pick("writing random weights, once:", "写入随机权重（仅一次）："),
        shape.name(),
        bytes(parameters as u64 * dtype.size()),
        out.display()
    ));
    let unfinished = dir.join(format!(".unfinished-{}", std::process::id()));
    let written = write(config, dtype, &unfinished)
        .and_then(|weights| std::fs::rename(&weights, &out).map_err(|e| Failure::file(&out, "written", &e)));
    let cleared = std::fs::remove_dir_all(&unfinished);
    // another process may have been first; its file is the same
    if !out.join("config.json").exists() {
        written?;
    }
    cleared.map_err(|e| Failure::file(&unfinished, "removed", &e))?;
    Ok(out)
}

/// The folder with the same weights quantised, written first if it is not there. What is no quantised form is the
/// folder itself: loading turns it.
///
/// # Errors
/// A folder that cannot be written.
pub fn quantised(base: PathBuf, dtype: BaseDtype, console: &Console) -> Result<PathBuf, Failure> {
    if matches!(dtype, BaseDtype::AsStored | BaseDtype::Bf16) {
        return Ok(base);
    }
    let mut name = base.file_name().unwrap_or_default().to_owned();
    name.push(format!("-{}", dtype.word()));
    let out = base.with_file_name(name);
    if !out.join("config.json").exists() {
        let word = console.pick("quantising, once:", "量化（仅一次）：");
        console.remark(format_args!("{word} {} → {}", dtype.word(), out.display()));
        run_self(&[
            "quantize".as_ref(),
            base.as_os_str(),
            "--dtype".as_ref(),
            dtype.word().as_ref(),
            "--out".as_ref(),
            out.as_os_str(),
        ])?;
    }
    Ok(out)
}

fn write(config: &ModelConfig, dtype: Dtype, unfinished: &Path) -> Result<PathBuf, Failure> {
    let (source, weights) = (unfinished.join("config"), unfinished.join("weights"));
    std::fs::create_dir_all(&source).map_err(|e| Failure::file(&source, "made", &e))?;
    let file = source.join("config.json");
    std::fs::write(&file, config.to_json().to_string()).map_err(|e| Failure::file(&file, "written", &e))?;
    run_self(&[
        "init".as_ref(),
        source.as_os_str(),
        "--out".as_ref(),
        weights.as_os_str(),
        "--dtype".as_ref(),
        dtype.name().as_ref(),
    ])?;
    Ok(weights)
}

/// Another command of this program, in a process of its own.
fn run_self(args: &[&std::ffi::OsStr]) -> Result<(), Failure> {
    let program = std::env::current_exe().map_err(|e| Failure::environment(format!("no path to this program: {e}")))?;
    let done = Command::new(&program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| Failure::file(&program, "started", &e))?;
    if done.status.success() {
        return Ok(());
    }
    Err(Failure::environment("the checkpoint to measure on could not be made")
        .with_faults(vec![String::from_utf8_lossy(&done.stderr).trim().to_owned()]))
}
