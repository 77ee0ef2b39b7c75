//! The whole proof: legs of every task, form and seed, then what paths of an early model show.
//!
//! A finished leg is a file; a proof that was stopped goes on with the legs that are missing, and a leg
//! of other settings is run again.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use loar_artifact::write_atomic;
use loar_model::{Model, StoredDtype};
use loar_text::Encoder;
use serde::{Deserialize, Serialize};

use crate::ProveError;
use crate::leg::{self, Form, Leg, Recipe, Setup};
use crate::model::{Shape, config_json, encoder, tokenizer_files};
use crate::paths::{self, Early, PathFigures};
use crate::report;
use crate::task::{Equations, Parity, Task};

/// A task with the model that learns it.
pub struct TaskPlan {
    /// The task.
    pub task: Box<dyn Task>,
    /// Size of the model.
    pub shape: Shape,
    /// How it is trained, in every form.
    pub recipe: Recipe,
}

impl TaskPlan {
    /// Parity of 8 hidden bits of 20.
    pub fn parity() -> TaskPlan {
        TaskPlan {
            task: Box::new(Parity::new(20, 8, 1)),
            shape: Shape { hidden: 64, layers: 2, heads: 2, experts: 4 },
            recipe: Recipe { steps: 600, rows: 128, rate: 3e-3, warmup: 50 },
        }
    }

    /// Two equations modulo 7.
    pub fn equations() -> TaskPlan {
        TaskPlan {
            task: Box::new(Equations::new(7)),
            shape: Shape { hidden: 96, layers: 2, heads: 3, experts: 4 },
            recipe: Recipe { steps: 600, rows: 128, rate: 3e-3, warmup: 50 },
        }
    }
}

/// What is done.
pub struct Plan {
    /// Folder of all results.
    pub out: PathBuf,
    /// Tasks in order.
    pub tasks: Vec<TaskPlan>,
    /// Random starts of the two forms that are compared: seeds 1 to this.
    pub seeds: u64,
    /// Whether the controls (filler, another question's chain) are run, with seed 1.
    pub controls: bool,
    /// Test questions of a leg.
    pub questions: usize,
    /// Questions that the early model is asked many times.
    pub path_questions: usize,
    /// Paths of each of them.
    pub paths: u32,
    /// Threads; 0 takes one a core.
    pub threads: usize,
}

/// Where the proof stands.
#[derive(Clone, Debug)]
pub struct Progress {
    /// `parity chain, seed 2`.
    pub leg: String,
    /// Optimizer steps done in all legs, legs of an earlier start included.
    pub done: u64,
    /// Optimizer steps of the whole proof.
    pub of: u64,
}

/// What a task came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskProof {
    /// `parity` or `equations`.
    pub name: String,
    /// The task with its sizes.
    pub about: String,
    /// Share of questions that a guess gets right.
    pub chance: f64,
    /// All legs.
    pub legs: Vec<Leg>,
    /// What many paths of the early model show.
    pub paths: Option<PathFigures>,
}

impl TaskProof {
    /// Lowest, mean and highest share of exact answers over the seeds of a form; none without a leg.
    pub fn answer_exact(&self, form: Form) -> Option<(f64, f64, f64)> {
        let of: Vec<f64> =
            self.legs.iter().filter(|l| l.setup.form == form).map(|l| l.assessment.answer_exact.value()).collect();
        let mean = of.iter().sum::<f64>() / of.len() as f64;
        (!of.is_empty())
            .then(|| (of.iter().copied().fold(f64::INFINITY, f64::min), mean, of.iter().copied().fold(0.0, f64::max)))
    }
}

/// The proof; `proof.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Proof {
    /// Version of the program.
    pub version: String,
    /// Tasks in order.
    pub tasks: Vec<TaskProof>,
    /// Seconds of training and asking, of earlier starts too.
    pub seconds: f64,
}

/// Runs what is missing, writes `legs/`, `early/`, `paths-*.jsonl`, `proof.json` and `report.html`.
pub fn run(plan: &Plan, lang: &str, stop: &AtomicBool, tell: &dyn Fn(Progress)) -> Result<Proof, ProveError> {
    let encoder = encoder()?;
    let mut done = 0;
    let forms = |seed: u64| match (seed, plan.controls) {
        (1, true) => vec![Form::Direct, Form::Chain, Form::Filler, Form::Shuffled],
        _ => vec![Form::Direct, Form::Chain],
    };
    let legs_of_a_task: usize = (1..=plan.seeds).map(|s| forms(s).len()).sum();
    let of: u64 = plan.tasks.iter().map(|t| (t.recipe.steps * legs_of_a_task) as u64).sum();
    let mut tasks = Vec::new();
    for t in &plan.tasks {
        let mut legs = Vec::new();
        for seed in 1..=plan.seeds {
            for form in forms(seed) {
                let name = format!("{} {}, seed {seed}", t.task.name(), form.name());
                legs.push(leg_of(plan, t, form, seed, &encoder, stop, &mut |step| {
                    tell(Progress { leg: name.clone(), done: done + step, of });
                })?);
                done += t.recipe.steps as u64;
            }
        }
        tell(Progress { leg: format!("{} paths", t.task.name()), done, of });
        let early = early_dir(plan, t);
        let paths = if early.join("early.json").exists() {
            Some(paths::measure(plan, &*t.task, &encoder, &early)?)
        } else {
            None
        };
        tasks.push(TaskProof {
            name: t.task.name().into(),
            about: t.task.about(),
            chance: t.task.chance(),
            legs,
            paths,
        });
    }
    let leg_seconds = |l: &Leg| l.train_seconds + l.assessment.seconds;
    let seconds = tasks
        .iter()
        .map(|t| t.legs.iter().map(leg_seconds).sum::<f64>() + t.paths.as_ref().map_or(0.0, |p| p.seconds))
        .sum();
    let proof = Proof { version: env!("CARGO_PKG_VERSION").into(), tasks, seconds };
    write_json(&plan.out.join("proof.json"), &proof)?;
    write_atomic(&plan.out.join("report.html"), report::page(&proof, lang).as_bytes())?;
    Ok(proof)
}

fn early_dir(plan: &Plan, t: &TaskPlan) -> PathBuf {
    plan.out.join("early").join(t.task.name())
}

/// Reads the leg's file, or runs it.
fn leg_of(
    plan: &Plan,
    t: &TaskPlan,
    form: Form,
    seed: u64,
    encoder: &Encoder,
    stop: &AtomicBool,
    step: &mut dyn FnMut(u64),
) -> Result<Leg, ProveError> {
    let setup = Setup { task: t.task.about(), form, shape: t.shape, recipe: t.recipe, seed, questions: plan.questions };
    let early_dir = early_dir(plan, t);
    let keeps_early = form == Form::Chain && seed == 1;
    let path = plan.out.join("legs").join(format!("{}-{}-{seed}.json", t.task.name(), form.name()));
    if path.exists() && (!keeps_early || early_dir.join("early.json").exists()) {
        let leg: Leg = read_json(&path)?;
        if leg.setup == setup {
            return Ok(leg);
        }
    }
    let mut early: Option<Early> = None;
    if keeps_early && early_dir.exists() {
        fs::remove_dir_all(&early_dir)
            .map_err(|e| ProveError::Part { path: early_dir.clone(), reason: format!("not removed: {e}") })?;
    }
    let leg = leg::run(&setup, &*t.task, encoder, plan.threads, stop, &mut |n, model: &Model| {
        step(n as u64);
        if keeps_early && early.is_none() && n % paths::PROBE_STEPS == 0 {
            early = paths::early_enough(model, encoder, &*t.task, n)?;
            if let Some(found) = &early {
                save(model, t.shape, &early_dir)?;
                write_json(&early_dir.join("early.json"), found)?;
            }
        }
        Ok(())
    })?;
    write_json(&path, &leg)?;
    Ok(leg)
}

/// Writes a model as a checkpoint folder.
fn save(model: &Model, shape: Shape, dir: &Path) -> Result<(), ProveError> {
    fs::create_dir_all(dir).map_err(|e| ProveError::Part { path: dir.into(), reason: e.to_string() })?;
    model.save_base(dir, StoredDtype::F32)?;
    write_json(&dir.join("config.json"), &config_json(shape))?;
    for (name, text) in tokenizer_files()? {
        write_atomic(&dir.join(name), text.as_bytes())?;
    }
    Ok(())
}

pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), ProveError> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(|e| ProveError::Part { path: dir.into(), reason: e.to_string() })?;
    }
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| ProveError::Part { path: path.into(), reason: e.to_string() })?;
    Ok(write_atomic(path, (text + "\n").as_bytes())?)
}

pub(crate) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, ProveError> {
    let part = |reason: String| ProveError::Part { path: path.into(), reason };
    let text = fs::read_to_string(path).map_err(|e| part(e.to_string()))?;
    serde_json::from_str(&text).map_err(|e| part(e.to_string()))
}
