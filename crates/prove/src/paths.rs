//! What many paths of a half-trained model show: voting, checking steps, probability.
//!
//! The model is kept at the first look at which a path sampled at temperature 1 is right more often
//! than [`EARLY_FROM`]: good enough to be worth asking again, bad enough to need it.

use std::path::Path as FilePath;
use std::time::Instant;

use loar_artifact::write_atomic;
use loar_eval::Share;
use loar_eval::rng::Draw;
use loar_model::{LoadOptions, Model};
use loar_reason::fuse::Ballot;
use loar_reason::fuse::calibrate::Labelled;
use loar_reason::verify::Verdict;
use loar_text::Encoder;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::ProveError;
use crate::assess::{Path, ask};
use crate::evidence::{self, Evidence};
use crate::proof::{Plan, read_json, write_json};
use crate::task::{Sample, Task};
use crate::training::Form;

/// Steps between two looks.
pub(crate) const PROBE_STEPS: usize = 10;
/// Share of right paths from which a model is kept.
const EARLY_FROM: f64 = 0.70;
/// Questions of a look.
const PROBE_QUESTIONS: usize = 128;
/// Stream of draws for the questions of a look, and for those of the figures.
const PROBE_STREAM: u64 = 3;
const PATH_STREAM: u64 = 4;
/// Seed of all of it.
const SEED: u64 = 1;

/// The model that was kept; `early.json`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Early {
    /// Optimizer step.
    pub step: usize,
    /// Share of right paths at temperature 1 when it was looked at.
    pub right: Share,
}

/// What paths show.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PathFigures {
    /// The model that wrote them.
    pub early: Early,
    /// Questions.
    pub questions: usize,
    /// Paths of each.
    pub paths: usize,
    /// Right among all paths.
    pub right: Share,
    /// Paths without an answer.
    pub unanswered: usize,
    /// Of wrong paths, how many the step checker rejects.
    pub rejected_wrong: Share,
    /// Of right paths, how many it rejects.
    pub rejected_right: Share,
    /// Of the wrong paths that it rejects, how many go wrong first at the step it names.
    pub located: Share,
    /// Mean tokens of a path.
    pub tokens_per_path: f64,
    /// What fusion makes of the first n paths.
    pub evidence: Vec<Evidence>,
    /// Seconds of sampling.
    pub seconds: f64,
}

/// Looks at a model in training; gives what was seen when it is to be kept.
pub(crate) fn early_enough(
    model: &Model,
    encoder: &Encoder,
    task: &dyn Task,
    step: usize,
) -> Result<Option<Early>, ProveError> {
    let samples = samples(task, PROBE_STREAM, PROBE_QUESTIONS);
    let paths = ask(model, encoder, &samples, Form::Chain, 1, 1.0, SEED)?;
    let right = paths.iter().zip(&samples).filter(|(p, s)| p.answer.as_deref() == Some(&s.answer)).count();
    let right = Share::new(right, samples.len());
    Ok((right.value() >= EARLY_FROM).then_some(Early { step, right }))
}

fn samples(task: &dyn Task, stream: u64, n: usize) -> Vec<Sample> {
    let mut draw = Draw::new(SEED, stream);
    (0..n).map(|_| task.sample(&mut draw)).collect()
}

/// The checker's verdict on a path, and the first step that fails.
fn check(task: &dyn Task, path: &Path) -> (Verdict, Option<usize>) {
    let steps: Vec<&str> = path.reasoning.lines().collect();
    let wrong = (0..steps.len()).find(|i| task.holds(&steps, *i) == Some(false));
    let any = (0..steps.len()).any(|i| task.holds(&steps, i).is_some());
    let verdict = match (wrong, any) {
        (Some(_), _) => Verdict::Fail,
        (None, true) => Verdict::Pass,
        (None, false) => Verdict::Unsure,
    };
    (verdict, wrong)
}

/// Samples paths of the kept model, writes them as `paths-<task>.jsonl` (what `loar fuse` reads), and measures.
pub(crate) fn measure(
    plan: &Plan,
    task: &dyn Task,
    encoder: &Encoder,
    dir: &FilePath,
) -> Result<PathFigures, ProveError> {
    let early: Early = read_json(&dir.join("early.json"))?;
    let model = Model::load(dir, &LoadOptions { threads: plan.threads, ..LoadOptions::default() })?;
    let samples = samples(task, PATH_STREAM, plan.path_questions);
    let start = Instant::now();
    let paths = ask(&model, encoder, &samples, Form::Chain, plan.paths, 1.0, SEED)?;
    let seconds = start.elapsed().as_secs_f64();

    let mut lines = String::new();
    let mut ballots = Vec::with_capacity(samples.len());
    // Wrong and right paths, those the checker rejects, those it places rightly.
    let (mut n, mut rejected, mut located) = ([0, 0], [0, 0], 0);
    for (i, (sample, of)) in samples.iter().zip(paths.chunks(plan.paths as usize)).enumerate() {
        let mut classes: Vec<&str> = Vec::new();
        let mut ballot = Ballot::default();
        let mut verdicts = Vec::new();
        for path in of {
            let right = path.answer.as_deref() == Some(sample.answer.as_str());
            let (verdict, wrong) = check(task, path);
            n[usize::from(right)] += 1;
            if verdict == Verdict::Fail {
                rejected[usize::from(right)] += 1;
                let first = path.reasoning.lines().zip(&sample.steps).position(|(said, step)| said != step);
                located += usize::from(!right && first == wrong);
            }
            ballot.classes.push(path.answer.as_deref().map(|answer| {
                classes.iter().position(|c| *c == answer).unwrap_or_else(|| {
                    classes.push(answer);
                    classes.len() - 1
                })
            }));
            verdicts.push(verdict);
        }
        ballot.verdicts.insert("steps".into(), verdicts);
        let truth = classes.iter().position(|c| *c == sample.answer);
        let labelled = Labelled { ballot, truth, group: sample.question.clone() };
        ballots.push(evidence::Case { labelled, tokens: of.iter().map(|p| p.tokens).collect() });
        let rows: Vec<_> = of
            .iter()
            .map(|p| json!({"text": p.reasoning, "answer": p.answer, "logprob": p.logprob, "features": {"tokens": p.tokens}}))
            .collect();
        let line = json!({"id": i, "question": sample.question, "gold": sample.answer, "type": "text", "paths": rows});
        lines.push_str(&format!("{line}\n"));
    }
    write_atomic(&plan.out.join(format!("paths-{}.jsonl", task.name())), lines.as_bytes())?;
    let tokens: usize = paths.iter().map(|p| p.tokens).sum();
    let figures = PathFigures {
        early,
        questions: samples.len(),
        paths: plan.paths as usize,
        right: Share::new(n[1], paths.len()),
        unanswered: paths.iter().filter(|p| p.answer.is_none()).count(),
        rejected_wrong: Share::new(rejected[0], n[0]),
        rejected_right: Share::new(rejected[1], n[1]),
        located: Share::new(located, rejected[0]),
        tokens_per_path: tokens as f64 / paths.len().max(1) as f64,
        evidence: evidence::measure(&ballots),
        seconds,
    };
    write_json(&plan.out.join(format!("paths-{}.json", task.name())), &figures)?;
    Ok(figures)
}
