//! The demo: an embedded DeepSeek-V3-architecture base becomes a credit assessor, measured before and after.
//!
//! Takes nothing but an empty folder; leaves base, data, run files, adapter, reports and scored outputs in it. The base
//! never saw the policy. Training runs are child processes of this program (`loar train RUN.toml`), so that each has its
//! own peak memory. No figure comes from anywhere but this run.
pub mod base;
pub mod corpus;
mod table;
pub mod tokenizer;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use loar_artifact::write_atomic;
use loar_eval::credit::{Answer, CreditCase, Generator, Language, Policy};
use loar_eval::{EvalOptions, Evaluation, Scorer, Task, compare, evaluate};
use loar_train::RunReport;

use crate::console::{Console, Lang, duration};
use crate::diagnose::Failure;
use crate::model_dir::{BaseForm, Dtype, ModelArgs, ModelDir};

/// The written policy.
pub const POLICY: &str = include_str!("../../../demo/policy.toml");
/// How the base is made.
pub const RECIPE: &str = include_str!("../../../demo/recipe.toml");
/// Settings of the two training runs, without paths.
const FINETUNE: &str = include_str!("../../../demo/finetune.toml");

/// Files of the embedded base.
pub const BASE_FILES: [&str; 5] =
    ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "generation_config.json"];

const BASE: [&[u8]; 5] = [
    include_bytes!("../../../demo/base/config.json"),
    include_bytes!("../../../demo/base/model.safetensors"),
    include_bytes!("../../../demo/base/tokenizer.json"),
    include_bytes!("../../../demo/base/tokenizer_config.json"),
    include_bytes!("../../../demo/base/generation_config.json"),
];

/// Seed of applications; the base's corpus has another.
const SEED: u64 = 20_240_611;
/// The longest answer of the form has 85 tokens.
const MAX_NEW_TOKENS: usize = 112;

/// The policy of the demo.
pub fn policy() -> Result<Policy, Failure> {
    Ok(Policy::from_toml(POLICY)?)
}

/// How much is done.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Folder for everything; must not exist yet.
    pub dir: PathBuf,
    /// Held-out cases.
    pub cases: usize,
    /// Training rows.
    pub rows: usize,
    /// Whether the base is fully fine-tuned too, for comparison.
    pub full: bool,
    /// Whether a second adapter learns the answers without their steps, for comparison.
    pub direct: bool,
}

/// Everything that the table needs; `demo.json`.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Outcome {
    /// Parameters of the base.
    pub parameters: usize,
    /// Held-out figures of the base.
    pub before: loar_eval::Figures,
    /// LoRA.
    pub lora: Tuned,
    /// LoRA on the same rows, answered without steps.
    pub direct: Option<Tuned>,
    /// What the steps are worth: LoRA with them.
    pub chain: Chain,
    /// Full fine-tuning.
    pub full: Option<Tuned>,
    /// LoRA against the base, case by case.
    pub gain: loar_eval::Comparison,
    /// Seconds of the whole demo.
    pub seconds: f64,
}

/// What stands in the answers of the adapter that writes steps.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Chain {
    /// Mean steps of an answer.
    pub steps_per_answer: f64,
    /// Steps whose value, points and sum are those of the policy, of all that were due.
    pub steps_right: loar_eval::Share,
}

/// A fine-tuned model.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Tuned {
    /// Trainable parameters.
    pub trainable: usize,
    /// Bytes of the result on disk.
    pub result_bytes: u64,
    /// What the run came to.
    pub run: RunReport,
    /// Held-out figures.
    pub figures: loar_eval::Figures,
}

/// Runs the demo and prints its table.
pub fn run(plan: &Plan, console: &Console) -> Result<(), Failure> {
    let start = Instant::now();
    let policy = policy()?;
    let dir = &plan.dir;
    let base = dir.join("base");
    write_base(&base)?;
    let languages: &[Language] = match console.lang {
        Lang::En => &[Language::En],
        Lang::Zh => &[Language::Zh],
    };
    let mut generator = Generator::new(&policy, SEED);
    let held_out = generator.cases(plan.cases, languages);
    let train = generator.cases(plan.rows, languages);
    let data = dir.join("data");
    write_rows(&data.join("train.jsonl"), &train, CreditCase::to_row)?;
    write_rows(&data.join("held_out.jsonl"), &held_out, CreditCase::to_row)?;
    write_atomic(&dir.join("policy.toml"), POLICY.as_bytes())?;
    console.remark(table::opening(console, &policy, &held_out, plan));

    let task = Task::read(&data.join("held_out.jsonl"), Scorer::Credit(policy.clone()), None)?;
    let (before, parameters) = assess(&base, Use::Base, &task, console, &dir.join("eval/base"))?;

    let lora = tune(plan, "lora", console)?;
    let adapter = dir.join("lora").join(result(&lora)?);
    let (after, _) = assess(&base, Use::Adapter(&adapter), &task, console, &dir.join("eval/lora"))?;
    let gain = compare(&task.scorer, &before.records, &after.records, SEED)?;
    let direct = if plan.direct {
        write_rows(&data.join("train-direct.jsonl"), &train, |case| case.to_direct_row(&policy))?;
        let task = Task::read(&data.join("held_out.jsonl"), Scorer::CreditDirect(policy.clone()), None)?;
        let run = tune(plan, "direct", console)?;
        let adapter = dir.join("direct").join(result(&run)?);
        let (assessed, _) = assess(&base, Use::Direct(&adapter), &task, console, &dir.join("eval/direct"))?;
        Some(tuned(&adapter, run, assessed.figures)?)
    } else {
        None
    };
    let full = if plan.full {
        let full = tune(plan, "full", console)?;
        let model = dir.join("full").join(result(&full)?);
        let (assessed, _) = assess(&model, Use::Full, &task, console, &dir.join("eval/full"))?;
        Some(tuned(&model, full, assessed.figures)?)
    } else {
        None
    };
    let example = table::example(console, &task, &before, &after);
    let outcome = Outcome {
        parameters,
        before: before.figures,
        chain: chain(&after)?,
        direct,
        lora: tuned(&adapter, lora, after.figures)?,
        full,
        gain,
        seconds: start.elapsed().as_secs_f64(),
    };
    write_atomic(&dir.join("demo.json"), serde_json::to_string_pretty(&outcome)?.as_bytes())?;
    console.write(example)?;
    console.write(table::results(console, &outcome))?;
    console.write(table::places(console, dir, &adapter))?;
    Ok(())
}

/// The first of `runs/demo`, `runs/demo-2`, … that does not exist.
pub fn free_dir(wanted: &Path) -> PathBuf {
    let mut dir = wanted.to_path_buf();
    let mut number = 2;
    while dir.exists() {
        dir = PathBuf::from(format!("{}-{number}", wanted.display()));
        number += 1;
    }
    dir
}

/// Writes the embedded base as a checkpoint folder.
pub fn write_base(dir: &Path) -> Result<(), Failure> {
    make_dir(dir)?;
    for (name, bytes) in BASE_FILES.iter().zip(BASE) {
        write_atomic(&dir.join(name), bytes)?;
    }
    Ok(())
}

fn make_dir(dir: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(dir).map_err(|e| Failure::file(dir, "made", &e))
}

fn write_rows(path: &Path, cases: &[CreditCase], row: impl Fn(&CreditCase) -> String) -> Result<(), Failure> {
    if let Some(dir) = path.parent() {
        make_dir(dir)?;
    }
    let text: String = cases.iter().map(|case| row(case) + "\n").collect();
    write_atomic(path, text.as_bytes())?;
    Ok(())
}

enum Use<'a> {
    Base,
    Adapter(&'a Path),
    Direct(&'a Path),
    Full,
}

/// Scores a model on the held-out cases; gives the outputs and the number of parameters of the base.
fn assess(
    model: &Path,
    what: Use<'_>,
    task: &Task,
    console: &Console,
    out: &Path,
) -> Result<(Evaluation, usize), Failure> {
    let name = match what {
        Use::Base => console.pick("the base", "基座模型"),
        Use::Adapter(_) => console.pick("base + adapter", "基座模型 + 适配器"),
        Use::Direct(_) => console.pick("base + adapter that writes no steps", "基座模型 + 不写步骤的适配器"),
        Use::Full => console.pick("the fully tuned model", "全参数微调模型"),
    };
    let n = task.cases.len();
    console.remark(match console.lang {
        Lang::En => format!("\nassessing {name} on {n} held-out cases"),
        Lang::Zh => format!("\n在 {n} 个留出案例上评测{name}"),
    });
    let opened = ModelDir::open(&ModelArgs {
        model: model.to_path_buf(),
        adapter: match what {
            Use::Adapter(dir) | Use::Direct(dir) => Some(dir.to_path_buf()),
            _ => None,
        },
        dtype: Dtype::Bf16,
        base_dtype: BaseForm::AsStored,
        threads: 0,
        template: None,
    })?;
    let options = EvalOptions { max_new_tokens: MAX_NEW_TOKENS, max_batch: 64, seed: SEED };
    let evaluation = evaluate(task, &opened.model, &opened.encoder, &opened.end_ids, &options, |_| {})?;
    evaluation.save(out)?;
    let (share, seconds) = (&evaluation.figures.measures, duration(evaluation.figures.seconds));
    let shares: Vec<String> = share.iter().map(|m| format!("{} {:.3}", m.name, m.share.value())).collect();
    console.remark(format!("  {}  ({seconds})", shares.join("  ")));
    Ok((evaluation, opened.model.count()))
}

/// Counts the steps of the scored outputs against those of their gold answers.
fn chain(evaluation: &Evaluation) -> Result<Chain, Failure> {
    let (mut written, mut right, mut due) = (0, 0, 0);
    for record in &evaluation.records {
        let gold = Answer::parse(&record.gold).map_err(Failure::environment)?;
        due += gold.steps.len();
        if let Ok(answer) = Answer::parse(record.output.trim()) {
            written += answer.steps.len();
            right += answer.steps.iter().zip(&gold.steps).filter(|(a, b)| a == b).count();
        }
    }
    let steps_per_answer = written as f64 / evaluation.records.len().max(1) as f64;
    Ok(Chain { steps_per_answer, steps_right: loar_eval::Share::new(right, due) })
}

/// Trains in a child process of this program; gives what the run came to.
fn tune(plan: &Plan, method: &str, console: &Console) -> Result<RunReport, Failure> {
    let dir = plan.dir.join(method);
    let file = plan.dir.join(format!("{method}.toml"));
    write_atomic(&file, run_file(plan, method, console.lang)?.as_bytes())?;
    console.remark(format!("\nloar train {}", file.display()));
    let program =
        std::env::current_exe().map_err(|e| Failure::environment(format!("this program is not found: {e}")))?;
    let status = Command::new(program)
        .args(["--lang", console.lang.code(), "train"])
        .arg(&file)
        .stdout(Stdio::null())
        .status()
        .map_err(|e| Failure::environment(format!("`loar train` cannot be started: {e}")))?;
    if !status.success() {
        return Err(Failure::environment(format!("`loar train {}` ended with {status}", file.display())));
    }
    let summary = dir.join("summary.json");
    let text = std::fs::read_to_string(&summary).map_err(|e| Failure::file(&summary, "read", &e))?;
    Ok(serde_json::from_str(&text)?)
}

/// The run file of a method: the settings of `demo/finetune.toml` with paths.
fn run_file(plan: &Plan, method: &str, lang: Lang) -> Result<String, Failure> {
    let settings: toml::Table = toml::from_str(FINETUNE)?;
    let mut sections = toml::Table::new();
    let settings_of = if method == "full" { "full" } else { "lora" };
    for part in ["both", settings_of] {
        for (name, section) in settings.get(part).and_then(toml::Value::as_table).into_iter().flatten() {
            let entry = sections.entry(name.clone()).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            if let (Some(into), Some(from)) = (entry.as_table_mut(), section.as_table()) {
                into.extend(from.clone());
            }
        }
    }
    let text = |path: PathBuf| toml::Value::String(path.to_string_lossy().into_owned());
    let mut set = |section: &str, key: &str, value: toml::Value| {
        let entry = sections.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        if let Some(table) = entry.as_table_mut() {
            table.insert(key.to_owned(), value);
        }
    };
    set("model", "path", text(plan.dir.join("base")));
    let rows = if method == "direct" { "data/train-direct.jsonl" } else { "data/train.jsonl" };
    set("data", "train", toml::Value::Array(vec![text(plan.dir.join(rows))]));
    set("output", "dir", text(plan.dir.join(method)));
    set("output", "lang", toml::Value::String(lang.code().to_owned()));
    Ok(toml::to_string(&sections)?)
}

fn result(report: &RunReport) -> Result<&Path, Failure> {
    report.result.as_deref().ok_or_else(|| Failure::environment(format!("run `{}` gave no result", report.run)))
}

fn tuned(result: &Path, run: RunReport, figures: loar_eval::Figures) -> Result<Tuned, Failure> {
    let manifest = loar_artifact::Manifest::read(result)?;
    let trainable = manifest.facts.get("trainable").and_then(serde_json::Value::as_u64).unwrap_or(0) as usize;
    let result_bytes =
        manifest.files.iter().filter(|file| file.path.ends_with(".safetensors")).map(|file| file.bytes).sum();
    Ok(Tuned { trainable, result_bytes, run, figures })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_base_is_small_and_whole() {
        let bytes: usize = BASE.iter().map(|file| file.len()).sum();
        assert!(bytes < 8_000_000, "{bytes} bytes");
        let dir = tempfile::tempdir().unwrap();
        write_base(dir.path()).unwrap();
        let (config, issues) = loar_formats::config::ModelConfig::read(dir.path()).unwrap();
        assert!(issues.is_empty(), "{issues:?}");
        assert!(config.mla.as_ref().is_some_and(|mla| mla.q_lora_rank.is_some()) && config.moe.is_some());
        let tokenizer = loar_text::Tokenizer::from_dir(dir.path()).unwrap();
        assert!(tokenizer.vocab_size() <= config.vocab_size);
        assert!(loar_text::ChatTemplate::from_dir(dir.path()).unwrap().is_some());
    }

    #[test]
    fn the_docs_show_the_policy_as_it_is() {
        let docs = include_str!("../../../docs/demo.md");
        assert!(docs.contains(policy().unwrap().to_markdown(Language::En).trim()), "run `loar demo --policy`");
    }

    #[test]
    fn held_out_records_are_not_trained_on() {
        let policy = policy().unwrap();
        let mut generator = Generator::new(&policy, SEED);
        let held_out = generator.cases(120, &[Language::En]);
        let train = generator.cases(2_000, &[Language::En]);
        assert!(held_out.iter().all(|case| train.iter().all(|row| row.application != case.application)));
    }

    #[test]
    fn both_run_files_are_valid_and_differ_in_the_method() {
        let plan = Plan { dir: PathBuf::from("demo"), cases: 1, rows: 1, full: true, direct: true };
        for method in ["lora", "direct", "full"] {
            let text = run_file(&plan, method, Lang::Zh).unwrap();
            let config = loar_train::RunConfig::parse("run.toml", &text, &[]).unwrap_or_else(|e| panic!("{e}: {text}"));
            assert_eq!(config.output.lang.as_ref().map(|l| l.value), Some(loar_train::config::Lang::Zh));
            let written = if method == "full" { "full" } else { "lora" };
            assert!(text.contains(&format!("method = \"{written}\"")), "{text}");
            assert_eq!(text.contains("train-direct.jsonl"), method == "direct", "{text}");
        }
    }

    #[test]
    fn a_taken_folder_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let wanted = dir.path().join("demo");
        assert_eq!(free_dir(&wanted), wanted);
        std::fs::create_dir(&wanted).unwrap();
        assert_eq!(free_dir(&wanted), dir.path().join("demo-2"));
    }
}
