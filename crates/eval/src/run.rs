//! Runs a task: every case is rendered, generated, judged and kept.
//!
//! Takes a task, a model and its encoder, gives an [`Evaluation`] with each output and the figures, and files of both.
//! Prompts are what serving would feed. An output depends on its own case only, however many run together.
use crate::metric::{Confusion, Estimate, Share, bootstrap, macro_f1};
use crate::paired::Paired;
use crate::scorer::Scorer;
use crate::task::Task;
use crate::{EvalError, metric::ClassPair};
use loar_artifact::write_atomic;
use loar_decode::{FinishReason, Generator, Request, Sampling};
use loar_model::Model;
use loar_text::{Encoder, Prompt};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// How outputs are generated.
#[derive(Clone, Debug)]
pub struct EvalOptions {
    /// Tokens a case may take.
    pub max_new_tokens: usize,
    /// Cases generated together; the outputs do not depend on it.
    pub max_batch: usize,
    /// Seed of the bootstrap.
    pub seed: u64,
}

impl Default for EvalOptions {
    fn default() -> Self {
        EvalOptions { max_new_tokens: 512, max_batch: 32, seed: 42 }
    }
}

/// One case with its output; a line of `<task>.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Case id.
    pub id: String,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Gold answer.
    pub gold: String,
    /// The answer of the model, without reasoning.
    pub output: String,
    /// Its chain of thought, if any.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reasoning: Option<String>,
    /// Tokens generated.
    pub output_tokens: usize,
    /// Why generation ended.
    pub finish_reason: FinishReason,
    /// Measure by measure.
    pub hits: Vec<bool>,
    /// True and predicted class.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub class: Option<ClassPair>,
    /// What is wrong with the output.
    pub notes: Vec<String>,
}

/// A share by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Measure.
    pub name: String,
    /// Its share.
    pub share: Share,
}

/// Figures of a task; `<task>.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Task name.
    pub task: String,
    /// Cases.
    pub n: usize,
    /// Shares, in the scorer's order.
    pub measures: Vec<Measured>,
    /// Macro-F1 of the class, for tasks that have one.
    pub macro_f1: Option<Estimate>,
    /// Macro-F1 of always naming the most frequent class.
    pub majority_f1: Option<f64>,
    /// Counts by true and predicted class.
    pub confusion: Option<Confusion>,
    /// Tokens generated.
    pub output_tokens: usize,
    /// Seconds of generation.
    pub seconds: f64,
}

/// Outputs and figures.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// One record a case, in order.
    pub records: Vec<Record>,
    /// Figures.
    pub figures: Figures,
}

/// Evaluates greedily; `progress` hears the number of finished cases.
///
/// # Errors
/// A case that cannot be rendered, all of them named; a model that gives no numbers.
pub fn evaluate(
    task: &Task,
    model: &Model,
    encoder: &Encoder,
    end_ids: &[u32],
    options: &EvalOptions,
    mut progress: impl FnMut(usize),
) -> Result<Evaluation, EvalError> {
    let prompts = prompts(task, encoder)?;
    let sampling = Sampling { temperature: 0.0, max_new_tokens: options.max_new_tokens, ..Sampling::default() };
    let requests: Vec<Request> = prompts
        .iter()
        .map(|prompt| Request { prompt_ids: prompt.ids.clone(), sampling: sampling.clone(), ..Request::default() })
        .collect();
    let generator = Generator::new(model, encoder.tokenizer(), end_ids).with_max_batch(options.max_batch);
    let start = Instant::now();
    let mut finished = 0;
    let completions = generator.generate(&requests, |event| {
        if event.finish_reason.is_some() {
            finished += 1;
            progress(finished);
        }
    })?;
    let seconds = start.elapsed().as_secs_f64();
    let records: Vec<Record> = task
        .cases
        .iter()
        .zip(&prompts)
        .zip(completions)
        .map(|((case, prompt), completion)| {
            let parsed = encoder.parser(prompt).parse_all(&completion.text);
            let score = task.scorer.score(&case.gold, &parsed.answer);
            Record {
                id: case.id.clone(),
                prompt_tokens: prompt.ids.len(),
                gold: case.gold.clone(),
                output: parsed.answer,
                reasoning: parsed.reasoning,
                output_tokens: completion.ids.len(),
                finish_reason: completion.finish_reason,
                hits: score.hits,
                class: score.class,
                notes: score.notes,
            }
        })
        .collect();
    let figures = figures(&task.scorer, &records, seconds, options.seed);
    Ok(Evaluation { records, figures })
}

fn prompts(task: &Task, encoder: &Encoder) -> Result<Vec<Prompt>, EvalError> {
    let (mut prompts, mut faults) = (Vec::new(), Vec::new());
    for case in &task.cases {
        match encoder.prompt(&case.prompt) {
            Ok(prompt) => prompts.push(prompt),
            Err(error) => faults.push(format!("case `{}`: {error}", case.id)),
        }
    }
    if faults.is_empty() { Ok(prompts) } else { Err(EvalError::prompts(faults, task.cases.len())) }
}

/// Figures of records.
pub fn figures(scorer: &Scorer, records: &[Record], seconds: f64, seed: u64) -> Figures {
    let measures = scorer
        .measures()
        .iter()
        .enumerate()
        .map(|(at, name)| {
            let hits = records.iter().filter(|record| record.hits.get(at) == Some(&true)).count();
            Measured { name: (*name).to_string(), share: Share::new(hits, records.len()) }
        })
        .collect();
    let classes = scorer.classes();
    let pairs: Vec<ClassPair> = records.iter().filter_map(|record| record.class).collect();
    let confusion = (!classes.is_empty()).then(|| Confusion::new(classes, &pairs));
    Figures {
        task: scorer.name().to_string(),
        n: records.len(),
        measures,
        macro_f1: (!classes.is_empty()).then(|| macro_f1(classes, &pairs, seed)),
        majority_f1: confusion.as_ref().map(Confusion::majority_f1),
        confusion,
        output_tokens: records.iter().map(|record| record.output_tokens).sum(),
        seconds,
    }
}

impl Evaluation {
    /// Writes `<task>.jsonl` with every output and `<task>.json` with the figures; gives their paths.
    ///
    /// # Errors
    /// What the system said.
    pub fn save(&self, dir: &Path) -> Result<(PathBuf, PathBuf), EvalError> {
        let mut lines = String::new();
        for record in &self.records {
            lines.push_str(&serde_json::to_string(record)?);
            lines.push('\n');
        }
        std::fs::create_dir_all(dir).map_err(|source| EvalError::Write { path: dir.into(), source })?;
        let outputs = dir.join(format!("{}.jsonl", self.figures.task));
        let figures = dir.join(format!("{}.json", self.figures.task));
        write_atomic(&outputs, lines.as_bytes())?;
        write_atomic(&figures, serde_json::to_string_pretty(&self.figures)?.as_bytes())?;
        Ok((outputs, figures))
    }

    /// The violations that occur, by the word before the colon of each note, most frequent first.
    pub fn note_counts(&self) -> Vec<(String, usize)> {
        let mut counts: Vec<(String, usize)> = Vec::new();
        for note in self.records.iter().flat_map(|record| &record.notes) {
            let rule = note.split(':').next().unwrap_or(note);
            match counts.iter_mut().find(|(name, _)| name == rule) {
                Some((_, count)) => *count += 1,
                None => counts.push((rule.to_string(), 1)),
            }
        }
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        counts
    }
}

/// Two evaluations of the same cases.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Comparison {
    /// Paired comparison of each measure.
    pub measures: Vec<(String, Paired)>,
    /// Gain of macro-F1 with its paired bootstrap interval.
    pub macro_f1: Option<Estimate>,
}

/// Compares what came before with what came after, case by case.
///
/// # Errors
/// [`EvalError::Unpaired`] when they are not of the same cases in the same order.
pub fn compare(scorer: &Scorer, before: &[Record], after: &[Record], seed: u64) -> Result<Comparison, EvalError> {
    if before.len() != after.len() || before.iter().zip(after).any(|(a, b)| a.id != b.id || a.gold != b.gold) {
        let shared = before.iter().filter(|a| after.iter().any(|b| a.id == b.id && a.gold == b.gold)).count();
        return Err(EvalError::Unpaired { first: before.len(), second: after.len(), shared });
    }
    let hits = |records: &[Record], at: usize| -> Vec<bool> {
        records.iter().map(|record| record.hits.get(at) == Some(&true)).collect()
    };
    let measures = scorer
        .measures()
        .iter()
        .enumerate()
        .map(|(at, name)| ((*name).to_string(), Paired::new(&hits(before, at), &hits(after, at))))
        .collect();
    let classes = scorer.classes();
    let f1 = (!classes.is_empty()).then(|| {
        bootstrap(before.len(), seed, |sample| {
            let of = |records: &[Record]| {
                let pairs: Vec<ClassPair> =
                    sample.iter().filter_map(|&i| records.get(i).and_then(|record| record.class)).collect();
                Confusion::new(classes, &pairs).macro_f1()
            };
            of(after) - of(before)
        })
    });
    Ok(Comparison { measures, macro_f1: f1 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credit::{Generator as Cases, Language, Policy};

    fn records(outputs: impl Fn(usize, &str) -> String) -> (Scorer, Vec<Record>) {
        let policy = Policy::from_toml(include_str!("../../../demo/policy.toml")).unwrap();
        let cases = Cases::new(&policy, 5).cases(60, &[Language::En]);
        let scorer = Scorer::Credit(policy);
        let records = cases
            .iter()
            .enumerate()
            .map(|(i, case)| {
                let output = outputs(i, &case.answer);
                let score = scorer.score(&case.answer, &output);
                Record {
                    id: case.id.clone(),
                    prompt_tokens: 1,
                    gold: case.answer.clone(),
                    output,
                    reasoning: None,
                    output_tokens: 2,
                    finish_reason: FinishReason::Stop,
                    hits: score.hits,
                    class: score.class,
                    notes: score.notes,
                }
            })
            .collect();
        (scorer, records)
    }

    #[test]
    fn figures_count_what_the_records_hold() {
        let (scorer, records) = records(|i, gold| if i % 3 == 0 { "no".into() } else { gold.into() });
        let figures = figures(&scorer, &records, 1.0, 1);
        assert_eq!(figures.measures.iter().map(|m| m.share.hits).collect::<Vec<_>>(), [40, 40, 40]);
        assert_eq!((figures.n, figures.output_tokens), (60, 120));
        let confusion = figures.confusion.unwrap();
        assert_eq!(confusion.counts.iter().map(|row| row[3]).sum::<usize>(), 20);
        let f1 = figures.macro_f1.unwrap();
        assert!(f1.low < 0.8 && f1.high > 0.8 && figures.majority_f1.unwrap() < 0.4, "{f1}");
    }

    #[test]
    fn a_comparison_is_of_the_same_cases() {
        let (scorer, before) = records(|_, _| "no".into());
        let (_, after) = records(|_, gold| gold.into());
        let comparison = compare(&scorer, &before, &after, 1).unwrap();
        assert!(comparison.measures.iter().all(|(_, paired)| paired.gained == 60 && paired.lost == 0));
        assert_eq!(comparison.macro_f1.unwrap().value, 1.0);
        assert!(matches!(
            compare(&scorer, &before, &after[1..], 1),
            Err(EvalError::Unpaired { first: 60, second: 59, shared: 59 })
        ));
    }

    #[test]
    fn saved_records_come_back() {
        let (scorer, records) = records(|i, gold| if i == 0 { "no".into() } else { gold.into() });
        let evaluation = Evaluation { figures: figures(&scorer, &records, 1.0, 1), records };
        assert_eq!(evaluation.note_counts(), [("schema".to_string(), 1)]);
        let dir = tempfile::tempdir().unwrap();
        let (outputs, figures) = evaluation.save(&dir.path().join("eval")).unwrap();
        let read: Vec<Record> =
            std::fs::read_to_string(outputs).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(read, evaluation.records);
        let read: Figures = serde_json::from_str(&std::fs::read_to_string(figures).unwrap()).unwrap();
        assert_eq!(read, evaluation.figures);
    }
}
