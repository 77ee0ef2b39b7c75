//! A run in progress: its model, optimiser, place in the data, files and best result so far.
//!
//! Opens at the newest whole checkpoint or at the beginning; each method is one part of the recipe
//! in `run`. Whatever is not in [`State`] is computed again from the run, so that going on from a
//! checkpoint equals never having stopped.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use loar_artifact::ContentId;
use loar_model::Coverage;
use loar_tape::{AdamW, Grads, ParamRole};
use serde_json::{Map, json};

use crate::checkpoint::{Best, Checkpoints, State};
use crate::config::{Goal, ResolvedRun};
use crate::folder::Folder;
use crate::metrics::{Metrics, Offsets};
use crate::observer::{Event, Observer, StepEvent};
use crate::order::{BatchSize, Batches, Length, Order};
use crate::pack::pack;
use crate::plan::{Plan, PlanInputs, fit_memory, plan};
use crate::prepare::Inputs;
use crate::rows::rows_id;
use crate::run::Evaluator;
use crate::schedule::Schedule;
use crate::step::{StepReport, StepSettings, add_load, clip, gradients, optimizer, update};
use crate::{TrainError, memory};

/// Steps over which the time to go is estimated.
const PACE_STEPS: usize = 20;

/// What an evaluation measured.
pub(crate) struct Evaluation {
    /// Values by name, each beginning with `eval_`.
    pub metrics: BTreeMap<String, f64>,
    /// Better than all before.
    pub best: bool,
}

/// A run in progress.
pub(crate) struct Session<'a> {
    pub run: &'a ResolvedRun,
    pub inputs: Inputs,
    pub folder: Folder,
    pub checkpoints: Checkpoints,
    pub state: State,
    pub plan: Plan,
    pub coverage: Coverage,
    pub resumed_from: Option<u64>,
    batches: Batches,
    schedule: Schedule,
    settings: StepSettings,
    adamw: AdamW,
    metrics: Metrics,
    pace: VecDeque<f64>,
    eval_every: u64,
    checkpoint_every: u64,
}

/// The batches of a run over its rows, in stages where there are some.
pub(crate) fn batches(run: &ResolvedRun, inputs: &Inputs) -> Batches {
    let t = &run.train;
    let lengths: Vec<usize> = inputs.rows.iter().map(|r| r.ids.len()).collect();
    let order = match &inputs.stages {
        Some(stages) => Order::staged(stages.clone(), t.seed, t.shuffle),
        None => Order::new(lengths.len(), t.seed, t.shuffle),
    };
    let size = if t.batch_tokens > 0 { BatchSize::Tokens(t.batch_tokens) } else { BatchSize::Rows(t.batch_rows) };
    let length = if t.steps > 0 { Length::Steps(t.steps) } else { Length::Epochs(t.epochs) };
    Batches::new(lengths, order, size, length)
}

/// A tenth of the run where the run file leaves the distance open.
pub(crate) fn every(written: usize, steps: usize) -> u64 {
    if written > 0 { written as u64 } else { steps.div_ceil(10).max(1) as u64 }
}

impl<'a> Session<'a> {
    /// Goes on from the newest whole checkpoint, or begins.
    pub fn open(
        run: &'a ResolvedRun,
        mut inputs: Inputs,
        evaluates: bool,
        observer: &mut dyn Observer,
    ) -> Result<Session<'a>, TrainError> {
        let folder = Folder::new(&run.output.dir);
        let batches = batches(run, &inputs);
        let program = inputs.resident_before.unwrap_or(0);
        let settings = fit_memory(run, &inputs.model, &inputs.rows, &batches, program);
        let steps = batches.steps();
        let warmup = if run.train.warmup_steps > 0 {
            run.train.warmup_steps
        } else {
            (run.train.warmup_ratio * steps as f64).round() as usize
        };
        let schedule = Schedule {
            kind: run.train.schedule,
            peak: run.train.learning_rate,
            min_ratio: run.train.min_lr_ratio,
            warmup,
            steps,
        };
        let mut adamw = optimizer(run, &inputs.model);
        let mut coverage = inputs.model.coverage();
        let checkpoints = Checkpoints::new(&folder.dir, run.checkpoint.keep);
        checkpoints.clean();
        let begin = State {
            step: 0,
            micro_step: 0,
            cursor: 0,
            adamw_step: 0,
            best: None,
            evals_since_best: 0,
            finished: false,
            tokens: 0,
            labels: 0,
            expert_load: Vec::new(),
            gradients: None,
            offsets: Offsets::default(),
            seconds: 0.0,
            training_id: run.training_id(),
            base_id: inputs.base_id,
            rows_id: staged_id(rows_id([&inputs.rows, &inputs.eval_rows]), inputs.stages.as_deref()),
        };
        let (found, faults) = checkpoints.newest();
        for fault in &faults {
            let then = found
                .as_ref()
                .map_or("starting from the beginning".into(), |s| format!("going on from step {}", s.step));
            observer.on(&Event::Warning { message: format!("checkpoint {fault}; {then}") });
        }
        let resumed_from = found.as_ref().map(|s| s.step);
        observer.on(&Event::Started { run: run.output.name.clone(), dir: folder.dir.clone(), resumed_from });
        let state = match found {
            None => begin,
            Some(state) => {
                refuse_changes(&folder, run, &state, &begin)?;
                checkpoints.load(state.step, &mut inputs.model.params, Some(&mut adamw.state)).map_err(|fault| {
                    TrainError::Io {
                        path: checkpoints.path(state.step),
                        source: std::io::Error::new(std::io::ErrorKind::InvalidData, fault),
                    }
                })?;
                state
            }
        };
        restore_gradients(&mut coverage, state.gradients.as_deref());
        folder.write_json("ledger.json", &inputs.ledger)?;
        folder.write_json("coverage.json", &coverage)?;
        observer.on(&Event::Coverage { table: coverage.to_string() });
        let eval_every = every(run.eval.every_steps, steps);
        let evaluations = if evaluates { steps as u64 / eval_every + 1 } else { 0 };
        let plan = match folder.read_json::<Plan>("plan.json")? {
            Some(plan) if resumed_from.is_some() => plan,
            _ => {
                observer.on(&Event::Phase { name: "probe" });
                let plan = plan(
                    &PlanInputs {
                        model: &inputs.model,
                        rows: &inputs.rows,
                        eval_rows: &inputs.eval_rows,
                        batches: &batches,
                        settings: &settings,
                        evaluations,
                        program_bytes: inputs.resident_before.unwrap_or(0),
                    },
                    true,
                );
                folder.write_json("plan.json", &plan)?;
                plan
            }
        };
        observer.on(&Event::Plan(Box::new(plan.clone())));
        let metrics = Metrics::open(&folder.dir, state.offsets, run.output.tensorboard)?;
        Ok(Session {
            run,
            inputs,
            folder,
            checkpoints,
            state,
            plan,
            coverage,
            resumed_from,
            eval_every,
            checkpoint_every: every(run.checkpoint.every_steps, steps),
            batches,
            schedule,
            settings,
            adamw,
            metrics,
            pace: VecDeque::new(),
        })
    }

    /// Steps of the run.
    pub fn steps(&self) -> u64 {
        self.batches.steps() as u64
    }

    /// One optimizer step. The first one must move something in every component with trainable
    /// parameters.
    pub fn step(&mut self, observer: &mut dyn Observer) -> Result<(StepReport, f64), TrainError> {
        let start = Instant::now();
        let rate = self.schedule.rate(self.state.step as usize);
        // a run of a fixed number of steps has no end of rows, one by epochs has counted its steps
        let (chosen, next) = self.batches.at(self.state.cursor).unwrap_or_default();
        let Inputs { model, rows, .. } = &mut self.inputs;
        let (mut grads, report) =
            gradients(model, rows, &chosen, &self.settings, &mut self.state.micro_step).map_err(|fault| {
                let (newest, _) = self.checkpoints.newest();
                TrainError::NonFinite {
                    step: self.state.step + 1,
                    what: fault.what,
                    rows: fault.rows,
                    checkpoint: newest.map(|s| self.checkpoints.path(s.step)),
                }
            })?;
        if self.state.step == 0 {
            self.check_gradients(&grads, observer)?;
        }
        clip(&mut grads, report.grad_norm, self.settings.max_grad_norm);
        update(&mut self.inputs.model, &mut self.adamw, &grads, rate, self.settings.lora_plus_ratio);
        self.state.step += 1;
        self.state.adamw_step = self.adamw.state.step;
        self.state.cursor = next;
        self.state.tokens += report.tokens as u64;
        self.state.labels += report.labels as u64;
        let load: Vec<Vec<usize>> =
            report.expert_load.iter().map(|l| l.iter().map(|n| *n as usize).collect()).collect();
        add_load(&mut self.state.expert_load, &load);
        self.state.finished = self.state.step >= self.steps();
        let seconds = start.elapsed().as_secs_f64();
        self.state.seconds += seconds;
        self.pace.push_back(seconds);
        if self.pace.len() > PACE_STEPS {
            self.pace.pop_front();
        }
        Ok((report, rate))
    }

    fn check_gradients(&mut self, grads: &Grads, observer: &mut dyn Observer) -> Result<(), TrainError> {
        self.coverage.mark_gradients(grads);
        self.folder.write_json("coverage.json", &self.coverage)?;
        let marks =
            self.coverage.rows.iter().filter_map(|r| Some((r.component.clone(), r.tensors_with_gradient? as u64)));
        self.state.gradients = Some(marks.collect());
        let components: Vec<String> = self
            .coverage
            .rows
            .iter()
            .filter(|r| r.tensors > 0 && r.tensors_with_gradient == Some(0))
            .map(|r| r.component.clone())
            .collect();
        let idle = self.untouched_experts(grads);
        if idle > 0 {
            // not a fault: an expert learns when a token is routed to it
            let message =
                format!("{idle} matrices of routed experts got no gradient in step 1: no token was routed to them");
            observer.on(&Event::Warning { message });
        }
        if components.is_empty() {
            Ok(())
        } else {
            Err(TrainError::NoGradient { components, table: self.coverage.to_string() })
        }
    }

    /// B matrices of routed experts that no token reached.
    fn untouched_experts(&self, grads: &Grads) -> usize {
        self.inputs
            .model
            .params
            .iter()
            .filter(|(id, p)| {
                p.role == ParamRole::LoraB
                    && p.name.contains(".experts.")
                    && grads.get(*id).is_none_or(|g| g.data.iter().all(|x| *x == 0.0))
            })
            .count()
    }

    /// Whether an evaluation is due after the present step.
    pub fn eval_due(&self) -> bool {
        self.state.finished || self.state.step.is_multiple_of(self.eval_every)
    }

    /// Whether a checkpoint is due after the present step.
    pub fn checkpoint_due(&self) -> bool {
        self.state.finished || self.state.step.is_multiple_of(self.checkpoint_every)
    }

    /// Loss on the evaluation rows, and what the caller measures. Records the best. `None` when there is nothing to evaluate.
    pub fn evaluate(
        &mut self,
        evaluator: &mut Option<&mut dyn Evaluator>,
        observer: &mut dyn Observer,
    ) -> Result<Option<Evaluation>, TrainError> {
        if self.inputs.eval_rows.is_empty() && evaluator.is_none() {
            return Ok(None);
        }
        let step = self.state.step;
        observer.on(&Event::EvalBegin { step, rows: self.inputs.eval_rows.len() });
        let mut metrics = BTreeMap::new();
        let loss = eval_loss(&self.inputs, self.settings.capacity).map_err(|rows| TrainError::NonFinite {
            step,
            what: "the evaluation loss".into(),
            rows,
            checkpoint: self.checkpoints.steps().last().map(|s| self.checkpoints.path(*s)),
        })?;
        if let Some(loss) = loss {
            metrics.insert("eval_loss".to_owned(), loss);
        }
        if let Some(evaluator) = evaluator {
            let measured = evaluator.evaluate(&self.inputs.model, step).map_err(TrainError::Evaluation)?;
            if let Some((name, value)) = measured.iter().find(|(_, v)| !v.is_finite()) {
                return Err(TrainError::Evaluation(format!("`{name}` is {value} at step {step}")));
            }
            metrics.extend(
                measured.into_iter().map(|(k, v)| (if k.starts_with("eval_") { k } else { format!("eval_{k}") }, v)),
            );
        }
        let name = &self.run.eval.metric;
        let value = metrics.get(name).or_else(|| metrics.get(&format!("eval_{name}"))).copied();
        let Some(value) = value else {
            return Err(TrainError::Metric {
                metric: name.clone(),
                measured: metrics.into_keys().map(|k| format!("`{k}`")).collect(),
            });
        };
        // what was there before training is the baseline, not a result
        let best = step > 0 && self.state.best.as_ref().is_none_or(|b| self.better(value, b.value));
        if best {
            self.state.best = Some(Best { step, value });
            self.state.evals_since_best = 0;
        } else if step > 0 {
            self.state.evals_since_best += 1;
            let patience = self.run.eval.patience as u64;
            if patience > 0 && self.state.evals_since_best >= patience {
                self.state.finished = true;
            }
        }
        observer.on(&Event::Eval { step, metrics: metrics.clone(), best });
        Ok(Some(Evaluation { metrics, best }))
    }

    fn better(&self, value: f64, than: f64) -> bool {
        let smaller = match self.run.eval.goal {
            Goal::Min => true,
            Goal::Max => false,
            Goal::Auto => self.run.eval.metric.ends_with("loss"),
        };
        if smaller { value < than } else { value > than }
    }

    /// Appends the lines of the present step to the files and tells the observer.
    pub fn record(
        &mut self,
        step: Option<(&StepReport, f64)>,
        metrics: Option<&BTreeMap<String, f64>>,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        let (mut values, mut timing) = (Map::new(), Map::new());
        values.insert("step".into(), self.state.step.into());
        timing.insert("step".into(), self.state.step.into());
        if let Some((report, rate)) = step {
            let epoch = self.batches.epoch(self.state.cursor);
            let entries =
                [("epoch", epoch), ("loss", report.loss), ("learning_rate", rate), ("grad_norm", report.grad_norm)];
            values.extend(entries.map(|(k, v)| (k.to_owned(), json!(v))));
            let entries = [
                ("tokens", report.tokens),
                ("labels", report.labels),
                ("rows", report.rows),
                ("micro_batches", report.micro_batches),
            ];
            values.extend(entries.map(|(k, v)| (k.to_owned(), json!(v))));
            if let Some(imbalance) = imbalance(&report.expert_load) {
                values.insert("expert_imbalance".into(), json!(imbalance));
            }
            let seconds = self.pace.back().copied().unwrap_or(0.0);
            timing.insert("seconds".into(), json!(seconds));
            timing.insert("tokens_per_s".into(), json!(report.tokens as f64 / seconds.max(1e-9)));
            timing.insert("elapsed_s".into(), json!(self.state.seconds));
            let resident = memory::resident_bytes();
            timing.insert("resident_bytes".into(), json!(resident));
            let mean = self.pace.iter().sum::<f64>() / self.pace.len().max(1) as f64;
            observer.on(&Event::Step(StepEvent {
                step: self.state.step,
                steps: self.steps(),
                epoch,
                loss: report.loss,
                learning_rate: rate,
                grad_norm: report.grad_norm,
                tokens: report.tokens as u64,
                labels: report.labels as u64,
                seconds,
                eta_seconds: mean * self.steps().saturating_sub(self.state.step) as f64,
                resident_bytes: resident,
            }));
        }
        values.extend(metrics.into_iter().flatten().map(|(k, v)| (k.clone(), json!(v))));
        self.metrics.append(self.state.step, &values, &timing)
    }

    /// Writes a checkpoint of the present state.
    pub fn checkpoint(&mut self, observer: &mut dyn Observer) -> Result<(), TrainError> {
        let step = self.state.step;
        observer.on(&Event::CheckpointBegin { step });
        self.state.offsets = self.metrics.sync()?;
        let (path, bytes) = self.checkpoints.save(&self.state, &self.inputs.model.params, &self.adamw.state)?;
        observer.on(&Event::CheckpointEnd { step, path, bytes });
        Ok(())
    }

    /// Whether a checkpoint of the present step is on disk.
    pub fn is_saved(&self) -> bool {
        self.checkpoints.path(self.state.step).exists()
    }
}

/// Mean loss over the labelled tokens of the evaluation rows; `None` without rows, the ids of the
/// pass's rows when it is not finite.
fn eval_loss(inputs: &Inputs, capacity: usize) -> Result<Option<f64>, Vec<String>> {
    if inputs.eval_rows.is_empty() {
        return Ok(None);
    }
    let all: Vec<usize> = (0..inputs.eval_rows.len()).collect();
    let (mut sum, mut labels) = (0.0, 0usize);
    for micro in pack(&inputs.eval_rows, &all, capacity) {
        let loss = inputs.model.loss(&micro.batch).sum;
        if !loss.is_finite() {
            return Err(micro.rows.iter().map(|r| inputs.eval_rows[*r].id.clone()).collect());
        }
        sum += loss;
        labels += micro.batch.targets.len();
    }
    Ok(Some(sum / labels.max(1) as f64))
}

/// Largest over the layers of (load of the busiest expert) / (mean load); `None` without experts.
pub(crate) fn imbalance(load: &[Vec<u64>]) -> Option<f64> {
    let ratios = load.iter().filter(|l| !l.is_empty()).map(|l| {
        let (most, all) = (l.iter().copied().max().unwrap_or(0), l.iter().sum::<u64>());
        if all == 0 { 1.0 } else { most as f64 * l.len() as f64 / all as f64 }
    });
    ratios.reduce(f64::max)
}

/// Id over rows and the stages that they are taken in.
fn staged_id(rows: ContentId, stages: Option<&[Vec<usize>]>) -> ContentId {
    let Some(stages) = stages else { return rows };
    ContentId::of_bytes(format!("{rows} {stages:?}").as_bytes())
}

fn restore_gradients(coverage: &mut Coverage, marks: Option<&[(String, u64)]>) {
    for (component, n) in marks.unwrap_or_default() {
        if let Some(row) = coverage.rows.iter_mut().find(|r| r.component == *component) {
            row.tensors_with_gradient = Some(*n as usize);
        }
    }
}

fn refuse_changes(folder: &Folder, run: &ResolvedRun, saved: &State, now: &State) -> Result<(), TrainError> {
    let mut differences = Vec::new();
    if saved.training_id != now.training_id {
        let earlier = folder.run(&[])?;
        differences = run.differences(&earlier);
        if differences.is_empty() {
            differences.push("`resolved.toml` itself was edited after the run began".into());
        }
    }
    if saved.base_id != now.base_id {
        differences.push(format!(
            "the base `{}` was {} and is {}",
            run.model.path.display(),
            saved.base_id,
            now.base_id
        ));
    }
    if saved.rows_id != now.rows_id {
        differences.push(format!(
            "the token rows were {} and are {}: data, schedule, tokenizer or template changed",
            saved.rows_id, now.rows_id
        ));
    }
    if differences.is_empty() { Ok(()) } else { Err(TrainError::Changed { dir: folder.dir.clone(), differences }) }
}
