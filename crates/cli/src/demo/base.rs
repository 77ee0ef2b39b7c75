//! Makes the embedded base model from nothing: corpus, tokenizer, random start, full training.
//!
//! Takes the recipe and a folder, leaves the base as a checkpoint folder in `DIR/base`. One command, and the same bytes
//! for the same recipe on the same kind of processor; a run that was killed goes on where it stopped.
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use loar_artifact::write_atomic;
use loar_eval::credit::Policy;
use loar_formats::config::ModelConfig;
use loar_model::{LoadOptions, Model, StoredDtype};
use loar_text::{ChatTemplate, RenderRequest};
use loar_train::{Observer, RunReport, load_run, resume, run};
use serde::Deserialize;

use super::corpus::Corpus;
use super::{BASE_FILES, tokenizer};
use crate::console::Console;
use crate::diagnose::Failure;

/// `demo/recipe.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    corpus: CorpusPart,
    tokenizer: TokenizerPart,
    /// `config.json`.
    config: toml::Table,
    /// Sections of the run file.
    run: toml::Table,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CorpusPart {
    seed: u64,
    rows: u64,
    eval_rows: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenizerPart {
    vocab_size: usize,
    rows: u64,
}

/// Where evaluation rows start, so far away that no training row has their number.
const EVAL_ROWS_FROM: u64 = 1 << 40;
/// Where the tokenizer's rows start: the first training rows are easy ones and hold few words.
const TOKENIZER_ROWS_FROM: u64 = 1 << 41;

/// Makes the base in `dir`; gives its folder, `None` when it was stopped.
pub fn make(
    recipe: &str,
    policy: &Policy,
    dir: &Path,
    console: &Console,
    observer: &mut dyn Observer,
    stop: &AtomicBool,
) -> Result<Option<PathBuf>, Failure> {
    let recipe: Recipe = toml::from_str(recipe)?;
    let run_dir = dir.join("run");
    let report = if run_dir.join("resolved.toml").exists() {
        resume(&run_dir, &[], observer, stop)?
    } else {
        console
            .remark(console.pick("writing corpus, tokenizer and random start", "正在写出语料、分词器与随机初始模型"));
        let file = prepare(&recipe, policy, dir, &run_dir)?;
        run(&load_run(&file, &[])?, observer, stop)?
    };
    let RunReport { result: Some(result), .. } = report else {
        return Ok(None);
    };
    let base = dir.join("base");
    for name in BASE_FILES {
        copy(&run_dir.join(&result).join(name), &base.join(name))?;
    }
    Ok(Some(base))
}

/// Corpus, start and run file; gives the path of the run file.
fn prepare(recipe: &Recipe, policy: &Policy, dir: &Path, run_dir: &Path) -> Result<PathBuf, Failure> {
    let start = dir.join("start");
    std::fs::create_dir_all(&start).map_err(|e| Failure::file(&start, "made", &e))?;
    let corpus = Corpus::new(policy, recipe.corpus.seed);
    let template = ChatTemplate::builtin("v3")?;
    // Whole conversations as text: every token carries loss, the user's too. Which unit follows a number depends on the
    // field's name before it, so a model that has to foresee the unit learns to look back, which reading records needs.
    let write_rows = |name: &str, from: u64, count: u64| -> Result<PathBuf, Failure> {
        let path = dir.join(name);
        let mut text = String::new();
        for row in from..from + count {
            let row = template.render(&RenderRequest::of(&corpus.row(row).conversation(), false))?;
            writeln!(text, "{}", serde_json::json!({ "text": row }))?;
        }
        write_atomic(&path, text.as_bytes())?;
        Ok(path)
    };
    let train = write_rows("corpus.jsonl", 0, recipe.corpus.rows)?;
    let eval = write_rows("corpus-eval.jsonl", EVAL_ROWS_FROM, recipe.corpus.eval_rows)?;

    let config: serde_json::Value = serde_json::to_value(&recipe.config)?;
    let (model_config, issues) = ModelConfig::from_json(&config)?;
    if !issues.is_empty() {
        let faults = issues.iter().map(ToString::to_string).collect();
        return Err(Failure::usage("the recipe's [config] is not sound").with_faults(faults));
    }
    let rows: Vec<_> = (0..recipe.tokenizer.rows).map(|i| corpus.row(TOKENIZER_ROWS_FROM + i)).collect();
    let texts = rows.iter().flat_map(|row| [row.user.as_str(), row.assistant.as_str()]);
    let files =
        tokenizer::train(texts, recipe.tokenizer.vocab_size, template.source(), model_config.max_position_embeddings)
            .map_err(Failure::usage)?;
    if files.vocab_size > model_config.vocab_size {
        return Err(Failure::usage(format!(
            "the tokenizer has {} tokens, the recipe's config `vocab_size` = {}",
            files.vocab_size, model_config.vocab_size
        )));
    }
    let model = Model::random(model_config, recipe.corpus.seed, &LoadOptions::default())?;
    model.save_base(&start, StoredDtype::F32)?;
    // As released: the config of the recipe, not what this program would write by itself.
    write_atomic(&start.join("config.json"), (serde_json::to_string_pretty(&config)? + "\n").as_bytes())?;
    write_atomic(&start.join("tokenizer.json"), files.tokenizer.as_bytes())?;
    write_atomic(&start.join("tokenizer_config.json"), (files.config + "\n").as_bytes())?;
    let generation = serde_json::json!({
        "_from_model_config": true,
        "bos_token_id": tokenizer::BOS_ID,
        "eos_token_id": tokenizer::EOS_ID,
        "pad_token_id": tokenizer::PAD_ID,
        "do_sample": false,
    });
    write_atomic(
        &start.join("generation_config.json"),
        (serde_json::to_string_pretty(&generation)? + "\n").as_bytes(),
    )?;

    let mut sections = recipe.run.clone();
    set(&mut sections, "model", "path", text(&start))?;
    set(&mut sections, "data", "train", toml::Value::Array(vec![text(&train)]))?;
    set(&mut sections, "data", "eval", toml::Value::Array(vec![text(&eval)]))?;
    set(&mut sections, "output", "dir", text(run_dir))?;
    let file = dir.join("run.toml");
    write_atomic(&file, toml::to_string(&sections)?.as_bytes())?;
    Ok(file)
}

fn text(path: &Path) -> toml::Value {
    toml::Value::String(path.to_string_lossy().into_owned())
}

fn set(sections: &mut toml::Table, section: &str, key: &str, value: toml::Value) -> Result<(), Failure> {
    let entry = sections.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
    match entry.as_table_mut() {
        Some(table) => {
            table.insert(key.to_owned(), value);
            Ok(())
        }
        None => Err(Failure::usage(format!("`run.{section}` of the recipe is no table"))),
    }
}

fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    let bytes = std::fs::read(from).map_err(|e| Failure::file(from, "read", &e))?;
    if let Some(dir) = to.parent() {
        std::fs::create_dir_all(dir).map_err(|e| Failure::file(dir, "made", &e))?;
    }
    write_atomic(to, &bytes)?;
    Ok(())
}
