//! `loar quantize`: a checkpoint folder with its matrices in int8, int4 or FP8 blocks.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};
use loar_artifact::{ContentId, Manifest, Parent};
use loar_model::{BaseDtype, MAX_SHARD_BYTES, QuantizeReport, quantize};
use serde_json::json;

use super::export::{copy_companions, partial_path};
use crate::console::{Console, Lang, Style, bytes};
use crate::diagnose::Failure;
use crate::model_dir::require_dir;
use crate::table::Table;

/// Quantise a checkpoint
///
/// Writes what `--base-dtype` (or `[base] dtype`) would make of the folder while loading, bit for bit, so that it loads
/// at once and from half or a quarter of the bytes. int8 and int4 are this program's own format; fp8-block is that of
/// DeepSeek-V3's release, which others read. Tokenizer, template and licences are copied. The folder is written whole or
/// not at all.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Checkpoint folder
    model: PathBuf,
    /// What attention, MLPs, experts and head become
    #[arg(long, value_enum)]
    dtype: Form,
    /// Folder to write; must be empty or absent
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Largest weight file, in MB (10^6 bytes)
    #[arg(long, default_value_t = MAX_SHARD_BYTES / 1_000_000)]
    max_shard_mb: u64,
    /// Threads; 0 takes every core. The result does not depend on it
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    /// One scale a row
    Int8,
    /// One scale for 64 numbers of a row
    Int4,
    /// E4M3 with one scale a block of 128 x 128; the head stays
    Fp8Block,
}

impl Form {
    fn dtype(self) -> BaseDtype {
        match self {
            Self::Int8 => BaseDtype::Int8,
            Self::Int4 => BaseDtype::Int4,
            Self::Fp8Block => BaseDtype::Fp8Block,
        }
    }
}

/// Runs the command.
pub fn run(args: Args, console: &mut Console) -> Result<ExitCode, Failure> {
    require_dir(&args.model)?;
    require_free(&args.out)?;
    let partial = partial_path(&args.out);
    let result = write(&args, &partial, console);
    if result.is_err() {
        // Whatever was begun is of no use; failing to remove it must not hide the reason.
        let _ = std::fs::remove_dir_all(&partial);
    }
    let report = result?;
    if args.json {
        console.line(json!({"out": args.out, "quantization": report}))?;
    } else {
        console.write(shown(&report, console))?;
        console.line(format_args!(
            "\n{} {}",
            console.paint(Style::Green, console.pick("written:", "已写入：")),
            args.out.display()
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Refuses a folder that holds anything.
fn require_free(out: &Path) -> Result<(), Failure> {
    match std::fs::read_dir(out) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Failure::file(out, "written", &e)),
        Ok(entries) => match entries.count() {
            0 => Ok(()),
            _ => Err(Failure::usage(format!("`{}` is not empty", out.display())).with_help("name a new folder")),
        },
    }
}

fn write(args: &Args, partial: &Path, console: &Console) -> Result<QuantizeReport, Failure> {
    std::fs::create_dir_all(partial).map_err(|e| Failure::file(partial, "created", &e))?;
    let bar = bar(console, args.json);
    let shard = args.max_shard_mb.saturating_mul(1_000_000);
    let report = quantize(&args.model, partial, args.dtype.dtype(), args.threads, shard, &mut |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let report = report?;
    copy_companions(&args.model, partial)?;
    let parent =
        Parent { role: "base".to_owned(), path: args.model.display().to_string(), id: ContentId::of_dir(&args.model)? };
    Manifest::describe(partial, "model", vec![parent], json!({"quantization": report}))?.write(partial)?;
    std::fs::rename(partial, &args.out).map_err(|e| Failure::file(&args.out, "written", &e))?;
    Ok(report)
}

fn bar(console: &Console, json: bool) -> ProgressBar {
    if json || !console.err_is_tty {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(1);
    if let Ok(style) =
        ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes}  {bytes_per_sec}  {elapsed} < {eta}")
    {
        bar.set_style(style);
    }
    bar
}

fn shown(report: &QuantizeReport, console: &Console) -> String {
    let mut table = Table::new(&[
        console.pick("component", "组成").to_owned(),
        format!(">{}", console.pick("matrices", "矩阵")),
        format!(">{}", console.pick("mean error", "平均误差")),
        format!(">{}", console.pick("worst error", "最大误差")),
        console.pick("worst", "最大者").to_owned(),
    ]);
    for k in &report.kinds {
        table.row([
            k.component.clone(),
            k.matrices.to_string(),
            format!("{:.3} %", 100.0 * k.mean),
            format!("{:.3} %", 100.0 * k.worst),
            k.worst_tensor.clone(),
        ]);
    }
    let (before, after) = (bytes(report.bytes_before), bytes(report.bytes_after));
    let share = 100.0 * report.bytes_after as f64 / report.bytes_before.max(1) as f64;
    let mut out = table.render(0);
    out.push_str(&match console.lang {
        Lang::En => format!(
            "\n{} matrices as {}, {} tensors as they were; {before} before, {after} after ({share:.0} %)\n\
             errors are |W - Q| / |W| of a matrix, over all its numbers\n",
            report.matrices, report.dtype, report.unchanged_tensors
        ),
        Lang::Zh => format!(
            "\n{} 个矩阵转为 {}，{} 个张量原样保留；之前 {before}，之后 {after}（{share:.0} %）\n\
             误差为单个矩阵全部数值的 |W - Q| / |W|\n",
            report.matrices, report.dtype, report.unchanged_tensors
        ),
    });
    if report.tied_head_bytes > 0 {
        let head = bytes(report.tied_head_bytes);
        out.push_str(&match console.lang {
            Lang::En => {
                format!("the head is the embedding: lookups keep it in full, the head is a quantised copy of {head}\n")
            }
            Lang::Zh => format!("输出头与词嵌入共享：查表保留原精度，输出头为 {head} 的量化副本\n"),
        });
    }
    out
}
