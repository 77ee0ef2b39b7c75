//! A run from beginning to end, on one page.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use loar_model::Model;
use serde::{Deserialize, Serialize};

use crate::checkpoint::Best;
use crate::config::ResolvedRun;
use crate::folder::Folder;
use crate::memory;
use crate::observer::{Event, Observer};
use crate::plan::{Plan, PlanInputs, fit_memory, plan};
use crate::prepare::{Inputs, prepare};
use crate::session::{Session, batches, every};
use crate::{TrainError, report};

/// Scores a task during training, beside the loss: what the caller knows and this crate does not.
pub trait Evaluator {
    /// Values by name. Must depend on the model alone, or a resumed run will differ.
    ///
    /// # Errors
    /// A text; the run stops with it.
    fn evaluate(&mut self, model: &Model, step: u64) -> Result<BTreeMap<String, f64>, String>;
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// All steps done.
    Completed,
    /// The metric stopped getting better.
    EarlyStopped,
    /// Asked to stop; can be resumed.
    Interrupted,
}

/// What a run came to; `summary.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunReport {
    /// Name of the run.
    pub run: String,
    /// How it ended.
    pub end: End,
    /// Optimizer steps done.
    pub steps: u64,
    /// The step that the result is of.
    pub result_step: u64,
    /// Best evaluation.
    pub best: Option<Best>,
    /// Tokens trained on.
    pub tokens: u64,
    /// Labelled tokens trained on.
    pub labels: u64,
    /// Seconds of optimizer steps.
    pub seconds: f64,
    /// Largest resident memory of the (last) process.
    pub peak_bytes: Option<u64>,
    /// Memory that the plan expected.
    pub planned_bytes: u64,
    /// Seconds that the plan expected.
    pub planned_seconds: Option<f64>,
    /// Folder of the adapter or, after full training, of the model; relative to the run folder.
    pub result: Option<PathBuf>,
    /// Tokens routed to each expert, by layer.
    pub expert_load: Vec<Vec<u64>>,
}

/// Runs from the beginning. `stop` ends it with a checkpoint at the next step.
///
/// # Errors
/// Any [`TrainError`]; the newest checkpoint stays.
pub fn run(run: &ResolvedRun, observer: &mut dyn Observer, stop: &AtomicBool) -> Result<RunReport, TrainError> {
    run_with(run, None, observer, stop)
}

/// As [`run`], with a task that is scored at each evaluation.
///
/// # Errors
/// As [`run`].
pub fn run_with(
    run: &ResolvedRun,
    evaluator: Option<&mut dyn Evaluator>,
    observer: &mut dyn Observer,
    stop: &AtomicBool,
) -> Result<RunReport, TrainError> {
    let folder = Folder::new(&run.output.dir);
    if folder.dir.join("resolved.toml").exists() {
        return Err(TrainError::RunExists { dir: folder.dir });
    }
    let inputs = prepare(run, observer)?;
    folder.begin(run)?;
    train(run, inputs, evaluator, observer, stop)
}

/// Goes on with the run in `dir` from its newest whole checkpoint.
///
/// # Errors
/// As [`run`], and [`TrainError::Changed`] when base, data or deciding values are not as they were.
pub fn resume(
    dir: &Path,
    overrides: &[String],
    observer: &mut dyn Observer,
    stop: &AtomicBool,
) -> Result<RunReport, TrainError> {
    resume_with(dir, overrides, None, observer, stop)
}

/// As [`resume`], with a task that is scored at each evaluation.
///
/// # Errors
/// As [`resume`].
pub fn resume_with(
    dir: &Path,
    overrides: &[String],
    evaluator: Option<&mut dyn Evaluator>,
    observer: &mut dyn Observer,
    stop: &AtomicBool,
) -> Result<RunReport, TrainError> {
    let run = Folder::new(dir).run(overrides)?;
    let inputs = prepare(&run, observer)?;
    train(&run, inputs, evaluator, observer, stop)
}

/// What a run would need: the same preparation and probe as a run, and nothing written. The ledger
/// and the coverage go to the observer.
///
/// # Errors
/// As [`run`].
pub fn plan_run(run: &ResolvedRun, observer: &mut dyn Observer) -> Result<Plan, TrainError> {
    let inputs = prepare(run, observer)?;
    observer.on(&Event::Coverage { table: inputs.model.coverage().to_string() });
    observer.on(&Event::Phase { name: "probe" });
    let batches = batches(run, &inputs);
    let evaluations = if inputs.eval_rows.is_empty() {
        0
    } else {
        batches.steps() as u64 / every(run.eval.every_steps, batches.steps()) + 1
    };
    let plan = plan(
        &PlanInputs {
            model: &inputs.model,
            rows: &inputs.rows,
            eval_rows: &inputs.eval_rows,
            batches: &batches,
            settings: &fit_memory(run, &inputs.model, &inputs.rows, &batches, inputs.resident_before.unwrap_or(0)),
            evaluations,
            program_bytes: inputs.resident_before.unwrap_or(0),
        },
        true,
    );
    observer.on(&Event::Plan(Box::new(plan.clone())));
    Ok(plan)
}

/// Trains on prepared inputs in the run's folder, going on from a checkpoint if one is there.
///
/// # Errors
/// As [`run`].
pub fn train(
    run: &ResolvedRun,
    inputs: Inputs,
    mut evaluator: Option<&mut dyn Evaluator>,
    observer: &mut dyn Observer,
    stop: &AtomicBool,
) -> Result<RunReport, TrainError> {
    let evaluates = evaluator.is_some() || !inputs.eval_rows.is_empty();
    let mut session = Session::open(run, inputs, evaluates, observer)?;
    if session.resumed_from.is_none()
        && let Some(baseline) = session.evaluate(&mut evaluator, observer)?
    {
        session.record(None, Some(&baseline.metrics), observer)?;
    }
    while !session.state.finished {
        if stop.load(Ordering::SeqCst) {
            return interrupt(&mut session, observer);
        }
        let (report, rate) = session.step(observer)?;
        let measured = if session.eval_due() { session.evaluate(&mut evaluator, observer)? } else { None };
        let best = measured.as_ref().is_some_and(|m| m.best);
        session.record(Some((&report, rate)), measured.as_ref().map(|m| &m.metrics), observer)?;
        if session.checkpoint_due() || best {
            session.checkpoint(observer)?;
        }
    }
    finish(&mut session, observer)
}

fn interrupt(session: &mut Session<'_>, observer: &mut dyn Observer) -> Result<RunReport, TrainError> {
    if !session.is_saved() {
        session.checkpoint(observer)?;
    }
    let resume = format!("loar train --resume {}", session.folder.dir.display());
    observer.on(&Event::Interrupted { step: session.state.step, resume });
    Ok(summary(session, End::Interrupted, session.state.step, None))
}

fn finish(session: &mut Session<'_>, observer: &mut dyn Observer) -> Result<RunReport, TrainError> {
    observer.on(&Event::Phase { name: "export" });
    let of_step = session.choose()?;
    let result = session.export(of_step)?;
    let end = if session.state.step < session.steps() { End::EarlyStopped } else { End::Completed };
    let summary = summary(session, end, of_step, result.file_name().map(PathBuf::from));
    session.folder.write_json("summary.json", &summary)?;
    observer.on(&Event::Phase { name: "report" });
    let report = report::write(&session.folder.dir)?;
    let facts = serde_json::json!({ "end": summary.end, "steps": summary.steps, "result_step": of_step });
    session.folder.write_manifest(session.parents(), facts)?;
    observer.on(&Event::Finished { steps: summary.steps, adapter: result, report });
    Ok(summary)
}

fn summary(session: &Session<'_>, end: End, result_step: u64, result: Option<PathBuf>) -> RunReport {
    RunReport {
        run: session.run.output.name.clone(),
        end,
        steps: session.state.step,
        result_step,
        best: session.state.best.clone(),
        tokens: session.state.tokens,
        labels: session.state.labels,
        seconds: session.state.seconds,
        peak_bytes: memory::peak_bytes(),
        planned_bytes: session.plan.peak_bytes(),
        planned_seconds: session.plan.seconds(),
        result,
        expert_load: session.state.expert_load.clone(),
    }
}
