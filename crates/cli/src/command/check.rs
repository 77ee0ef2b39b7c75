//! `loar check`: a golden fixture against what this decoder computes, tensor by tensor.

use std::path::PathBuf;
use std::process::ExitCode;

use loar_formats::config::ModelConfig;
use loar_formats::peft;
use loar_formats::safetensors::Checkpoint;
use loar_model::LoadOptions;
use loar_model::golden::{self, Comparison};
use loar_tape::Precision;

use crate::console::{Console, Style};
use crate::diagnose::Failure;
use crate::model_dir::require_dir;
use crate::table::Table;

/// Compare this program with golden fixtures of transformers and PEFT
///
/// A fixture folder holds a checkpoint, `adapter/`, `golden.safetensors` and `golden.json`; with `--base`, an adapter
/// folder with goldens is checked on a base given beside it. Exits with 1 when any tensor is beyond its tolerance.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Fixture folders
    #[arg(required = true)]
    dirs: Vec<PathBuf>,
    /// Base checkpoint of an adapter folder that has none of its own
    #[arg(long)]
    base: Option<PathBuf>,
    /// Threads; 0 takes one a core
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Print only what is beyond its tolerance, and the summary
    #[arg(long)]
    quiet: bool,
    /// Print one JSON object a folder
    #[arg(long, conflicts_with = "quiet")]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args, console: &mut Console) -> Result<ExitCode, Failure> {
    let mut failed = 0;
    for dir in &args.dirs {
        require_dir(dir)?;
        let base = args.base.as_deref().unwrap_or(dir);
        let options = LoadOptions { threads: args.threads, precision: Precision::F32, ..LoadOptions::default() };
        let report = golden::check(dir, args.base.as_deref(), &options)?;
        failed += usize::from(!report.passed());
        if args.json {
            console.line(serde_json::to_string(&report)?)?;
            continue;
        }
        console.line(console.heading(dir.display()))?;
        for remark in adapter_remarks(dir, base) {
            console.warn(remark);
        }
        let shown: Vec<&Comparison> = report.comparisons.iter().filter(|c| !args.quiet || !c.ok).collect();
        if !shown.is_empty() {
            console.write(table(&shown, console).render(2))?;
        }
        for c in shown.iter().filter(|c| c.note.is_some()) {
            console.line(format_args!("  {}: {}", c.name, c.note.as_deref().unwrap_or_default()))?;
        }
        let bad = report.comparisons.iter().filter(|c| !c.ok).count();
        let total = report.comparisons.len();
        let verdict = if report.passed() {
            console.paint(Style::Green, format_args!("pass: {total} of {total} within tolerance"))
        } else {
            console.paint(Style::Red, format_args!("FAIL: {bad} of {total} beyond tolerance"))
        };
        console.line(format_args!("  {verdict}"))?;
    }
    Ok(ExitCode::from(u8::from(failed > 0)))
}

/// What the adapter's file says that a reader should know; faults surface when it is loaded.
fn adapter_remarks(dir: &std::path::Path, base: &std::path::Path) -> Vec<String> {
    let adapter = if dir.join("adapter").is_dir() { dir.join("adapter") } else { dir.to_owned() };
    let (Ok((config, tensors)), Ok((model, _))) = (peft::read(&adapter), ModelConfig::read(base)) else {
        return Vec::new();
    };
    let checkpoint = Checkpoint::open_dir(base).ok().map(|(c, _)| c);
    peft::compare(&config, &tensors, &model, checkpoint.as_ref()).into_iter().map(|issue| issue.text).collect()
}

fn table(rows: &[&Comparison], console: &Console) -> Table {
    let mut table = Table::new(&["<tensor", ">max |Δ|", ">relative", ">tolerance", "<verdict"]);
    for c in rows {
        let kind = if c.relative { "rel" } else { "abs" };
        let verdict = match (c.ok, c.note.is_some()) {
            (true, false) => "ok".to_owned(),
            (true, true) => console.paint(Style::Yellow, "ok, widened"),
            (false, _) => console.paint(Style::Red, "FAIL"),
        };
        table.row([
            c.name.clone(),
            format!("{:.2e}", c.max_abs),
            format!("{:.2e}", c.max_rel),
            format!("{:.1e} {kind}", c.tolerance),
            verdict,
        ]);
    }
    table
}
