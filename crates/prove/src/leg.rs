//! One leg of the proof: a model from a random start, trained in one form, asked fresh questions.

use std::collections::HashSet;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use loar_artifact::ContentId;
use loar_eval::rng::Draw;
use loar_model::{LoadOptions, Model};
use loar_text::Encoder;
use serde::{Deserialize, Serialize};

use crate::ProveError;
pub use crate::assess::Assessment;
use crate::assess::assess;
use crate::model::{Shape, config};
use crate::task::{Sample, Task};
pub use crate::training::{Form, Recipe};
use crate::training::{TEST_STREAM, train};

/// What decides a leg.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    /// The task, with its sizes.
    pub task: String,
    /// What stands before the answer.
    pub form: Form,
    /// Size of the model.
    pub shape: Shape,
    /// How it is trained.
    pub recipe: Recipe,
    /// Seed of the random start and of the training questions.
    pub seed: u64,
    /// Test questions.
    pub questions: usize,
}

/// What a leg came to; `legs/<task>-<form>-<seed>.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Leg {
    /// What decided it.
    pub setup: Setup,
    /// Parameters, all trained.
    pub parameters: usize,
    /// Tokens fed in training.
    pub train_tokens: u64,
    /// Seconds of training.
    pub train_seconds: f64,
    /// (step, mean loss of labelled tokens).
    pub losses: Vec<(usize, f64)>,
    /// SHA-256 of all training rows.
    pub rows_sha256: String,
    /// SHA-256 of the test questions and answers.
    pub test_sha256: String,
    /// Greedy answers to the test questions.
    pub assessment: Assessment,
}

/// The test questions of a task and seed, no two the same where the task has that many.
pub fn test_samples(task: &dyn Task, n: usize, seed: u64) -> Vec<Sample> {
    let mut draw = Draw::new(seed, TEST_STREAM);
    let (mut seen, mut samples) = (HashSet::new(), Vec::with_capacity(n));
    for _ in 0..n.saturating_mul(100) {
        if samples.len() == n {
            break;
        }
        let sample = task.sample(&mut draw);
        if seen.insert(sample.question.clone()) {
            samples.push(sample);
        }
    }
    samples
}

/// Runs a leg. `each` sees the model after every step (and may keep an early one).
pub fn run(
    setup: &Setup,
    task: &dyn Task,
    encoder: &Encoder,
    threads: usize,
    stop: &AtomicBool,
    each: &mut dyn FnMut(usize, &Model) -> Result<(), ProveError>,
) -> Result<Leg, ProveError> {
    let test = test_samples(task, setup.questions, setup.seed);
    let held_out: HashSet<String> = test.iter().map(|s| s.question.clone()).collect();
    let options = LoadOptions { threads, ..LoadOptions::default() };
    let mut model = Model::random(config(setup.shape)?, setup.seed, &options)?;
    model.train_full()?;
    let start = Instant::now();
    let trained = train(&mut model, encoder, task, setup.form, &setup.recipe, setup.seed, &held_out, stop, each)?;
    let train_seconds = start.elapsed().as_secs_f64();
    let assessment = assess(&model, encoder, &test, setup.form)?;
    let text: String = test.iter().map(|s| format!("{} {}\n", s.question, s.answer)).collect();
    Ok(Leg {
        setup: setup.clone(),
        parameters: model.count(),
        train_tokens: trained.tokens,
        train_seconds,
        losses: trained.losses,
        rows_sha256: trained.rows_id.map(|id| id.hex()).unwrap_or_default(),
        test_sha256: ContentId::of_bytes(text.as_bytes()).hex(),
        assessment,
    })
}
