//! `loar eval`: a model, with or without an adapter, scored on a task file.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};
use loar_eval::credit::Policy;
use loar_eval::{EvalOptions, Evaluation, Record, Scorer, Task, compare, evaluate};

use crate::console::{Console, Lang, duration};
use crate::demo;
use crate::diagnose::Failure;
use crate::model_dir::{ModelArgs, ModelDir};
use crate::table::Table;

/// Which rules judge the outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum TaskName {
    /// The demo's credit policy: schema, decision, written policy
    Credit,
    /// The same policy, answered without steps: decision and reasons
    CreditDirect,
    /// ESFT's intent recognition: exact match of intent and slots
    Intent,
    /// The output equals the gold text
    Exact,
}

/// Score a model on held-out cases
///
/// The file holds conversations, one a line, whose last assistant message is the gold answer; for `intent` also ESFT's
/// evaluation rows. Outputs are greedy and kept, every figure comes with its 95 % interval.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Rules that judge the outputs
    #[arg(long, value_enum)]
    task: TaskName,
    /// Cases
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Policy file for `credit`; the demo's own without it
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// First cases only
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Tokens a case may take
    #[arg(long, default_value_t = 512)]
    max_new_tokens: usize,
    /// Cases generated together; changes time and memory, never an output
    #[arg(long, default_value_t = 32)]
    batch: usize,
    /// Seed of the bootstrap
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Folder for outputs and figures
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Outputs of an earlier `--out` (`<task>.jsonl`) to compare with, case by case
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// Print the figures as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args, console: &mut Console) -> Result<ExitCode, Failure> {
    let scorer = match args.task {
        TaskName::Credit => Scorer::Credit(policy(args.policy.as_deref())?),
        TaskName::CreditDirect => Scorer::CreditDirect(policy(args.policy.as_deref())?),
        TaskName::Intent => Scorer::Intent,
        TaskName::Exact => Scorer::Exact,
    };
    let task = Task::read(&args.data, scorer, args.limit)?;
    let before = args.against.as_deref().map(records).transpose()?;
    let dir = ModelDir::open(&args.model)?;
    dir.require_template()?;
    let options = EvalOptions { max_new_tokens: args.max_new_tokens, max_batch: args.batch, seed: args.seed };
    let bar = bar(task.cases.len(), console);
    let evaluation =
        evaluate(&task, &dir.model, &dir.encoder, &dir.end_ids, &options, |done| bar.set_position(done as u64))?;
    bar.finish_and_clear();
    let comparison = match &before {
        Some(before) => Some(compare(&task.scorer, before, &evaluation.records, args.seed)?),
        None => None,
    };
    let saved = args.out.as_deref().map(|out| evaluation.save(out)).transpose()?;
    if args.json {
        let figures = serde_json::json!({ "figures": evaluation.figures, "comparison": comparison });
        console.line(figures)?;
        return Ok(ExitCode::SUCCESS);
    }
    console.write(shown(&evaluation, console))?;
    if let Some(comparison) = comparison {
        let mut table = Table::new(&[console.pick("gain", "提升"), console.pick("paired, 95 %", "配对，95%")]);
        for (name, paired) in &comparison.measures {
            table.row([name.clone(), paired.to_string()]);
        }
        if let Some(f1) = comparison.macro_f1 {
            table.row(["macro-F1".to_owned(), f1.to_string()]);
        }
        console.write(format!("\n{}", table.render(0)))?;
    }
    if let Some((outputs, figures)) = saved {
        console.line(format!("\n{}\n{}", outputs.display(), figures.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn policy(path: Option<&Path>) -> Result<Policy, Failure> {
    let Some(path) = path else {
        return demo::policy();
    };
    let text = std::fs::read_to_string(path).map_err(|e| Failure::file(path, "read", &e))?;
    Ok(Policy::from_toml(&text)?)
}

fn records(path: &Path) -> Result<Vec<Record>, Failure> {
    let text = std::fs::read_to_string(path).map_err(|e| Failure::file(path, "read", &e))?;
    let (mut records, mut faults) = (Vec::new(), Vec::new());
    for (number, line) in text.lines().enumerate() {
        match serde_json::from_str(line) {
            Ok(record) => records.push(record),
            Err(error) => faults.push(format!("line {}: {error}", number + 1)),
        }
    }
    if faults.is_empty() {
        return Ok(records);
    }
    Err(Failure::usage(format!("`{}` holds no outputs of `loar eval`", path.display())).with_faults(faults))
}

fn bar(cases: usize, console: &Console) -> ProgressBar {
    if !console.err_is_tty {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(cases as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len}  {elapsed} < {eta}") {
        bar.set_style(style);
    }
    bar
}

fn shown(evaluation: &Evaluation, console: &Console) -> String {
    let figures = &evaluation.figures;
    let mut table =
        Table::new(&[console.pick("measure", "指标"), console.pick(">value", ">数值"), console.pick(">hits", ">命中")]);
    for measured in &figures.measures {
        let hits = format!("{}/{}", measured.share.hits, measured.share.n);
        table.row([measured.name.clone(), measured.share.to_string(), hits]);
    }
    if let Some(f1) = figures.macro_f1 {
        table.row(["macro-F1".to_owned(), f1.to_string(), String::new()]);
    }
    if let Some(majority) = figures.majority_f1 {
        let name = console.pick("F1 of the majority class", "多数类的 F1");
        table.row([name.to_owned(), format!("{majority:.3}"), String::new()]);
    }
    let mut out = table.render(0);
    if let Some(confusion) = &figures.confusion {
        let mut titles = vec![console.pick("true \\ predicted", "真实 \\ 预测").to_owned()];
        titles.extend(confusion.classes.iter().map(|class| format!(">{class}")));
        titles.push(console.pick(">none", ">无").to_owned());
        let mut table = Table::new(&titles);
        for (class, row) in confusion.classes.iter().zip(&confusion.counts) {
            table.row(std::iter::once(class.clone()).chain(row.iter().map(ToString::to_string)));
        }
        out.push_str(&format!("\n{}", table.render(0)));
    }
    let notes = evaluation.note_counts();
    if !notes.is_empty() {
        let list: Vec<String> = notes.iter().take(8).map(|(name, count)| format!("{name} {count}")).collect();
        out.push_str(&format!("\n{}: {}\n", console.pick("faults", "错误"), list.join(", ")));
    }
    let (n, seconds) = (figures.n, duration(figures.seconds));
    out.push_str(&match console.lang {
        Lang::En => format!("\n{n} cases, {} tokens in {seconds}; 95 % intervals\n", figures.output_tokens),
        Lang::Zh => format!("\n{n} 个案例，{} 个词元，用时 {seconds}；95% 区间\n", figures.output_tokens),
    });
    out
}
