//! What a run will need: memory by component, tokens, steps, and time from a short probe of real
//! passes. The report sets it beside what was measured.

use std::fmt;
use std::time::Instant;

use loar_model::Model;
use serde::{Deserialize, Serialize};

use crate::config::{Checkpointing, ResolvedRun};
use crate::memory::{available_bytes, human};
use crate::order::Batches;
use crate::pack::{Row, pack};
use crate::step::{StepSettings, gradients};

/// Seconds after which the probe takes no further pass.
const PROBE_SECONDS: f64 = 3.0;
/// Passes of the probe at most.
const PROBE_PASSES: usize = 4;
/// Panels that products keep between calls, all threads together.
const SCRATCH: u64 = 64 << 20;

/// One line of the memory table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryItem {
    /// `base weights`, `trainable weights`, `gradients`, `optimizer`, `activations`, `logits`, `kernel scratch`,
    /// `program and rows`.
    pub component: String,
    /// Bytes.
    pub bytes: u64,
}

/// A short run of real passes without updates.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// Tokens.
    pub tokens: u64,
    /// Seconds.
    pub seconds: f64,
}

impl Probe {
    /// Tokens per second.
    pub fn rate(&self) -> f64 {
        self.tokens as f64 / self.seconds.max(1e-9)
    }
}

/// What to expect.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Memory by component.
    pub memory: Vec<MemoryItem>,
    /// Parameters of the base.
    pub parameters: u64,
    /// Parameters that train.
    pub trainable: u64,
    /// Rows to train on.
    pub rows: u64,
    /// Tokens of one epoch.
    pub epoch_tokens: u64,
    /// Labelled tokens of one epoch.
    pub epoch_labels: u64,
    /// Optimizer steps.
    pub steps: u64,
    /// Epochs.
    pub epochs: f64,
    /// Tokens over all steps.
    pub tokens: u64,
    /// Layers computed again during backward.
    #[serde(default)]
    pub recomputed_layers: u64,
    /// Passes of the first step.
    pub micro_batches: u64,
    /// Tokens of one evaluation, and how many there are.
    pub eval_tokens: u64,
    /// Evaluations.
    pub evaluations: u64,
    /// The probe.
    pub probe: Option<Probe>,
}

impl Plan {
    /// Sum of the memory.
    pub fn peak_bytes(&self) -> u64 {
        self.memory.iter().map(|m| m.bytes).sum()
    }

    /// Seconds that training and evaluating take at the probe's pace; an evaluation pass costs a
    /// third of a training pass (no backward).
    pub fn seconds(&self) -> Option<f64> {
        let rate = self.probe?.rate();
        Some((self.tokens as f64 + (self.evaluations * self.eval_tokens) as f64 / 3.0) / rate)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for item in &self.memory {
            writeln!(f, "{:<20}{:>14}", item.component, human(item.bytes))?;
        }
        writeln!(f, "{:<20}{:>14}", "memory", human(self.peak_bytes()))?;
        writeln!(f, "{:<20}{:>14}  computed again during backward", "layers", self.recomputed_layers)?;
        writeln!(f, "{:<20}{:>14}  of {}", "trainable", self.trainable, self.parameters)?;
        writeln!(
            f,
            "{:<20}{:>14}  {} labelled tokens of {} an epoch",
            "rows", self.rows, self.epoch_labels, self.epoch_tokens
        )?;
        writeln!(
            f,
            "{:<20}{:>14}  {:.2} epochs, {} passes in the first",
            "steps", self.steps, self.epochs, self.micro_batches
        )?;
        write!(f, "{:<20}{:>14}", "tokens", self.tokens)?;
        if let (Some(probe), Some(seconds)) = (self.probe, self.seconds()) {
            write!(
                f,
                "\n{:<20}{:>12.0} s  at {:.0} tokens/s, measured over {} tokens",
                "time",
                seconds,
                probe.rate(),
                probe.tokens
            )?;
        }
        Ok(())
    }
}

/// Bytes of everything frozen, in the form it lies in: codes with their scales, embedding, norms.
pub fn weight_bytes(model: &Model) -> u64 {
    model.base_bytes()
}

/// Tokens and labels of the largest pass that the batches can ask for.
fn largest_pass(rows: &[Row], batches: &Batches, settings: &StepSettings) -> (usize, usize) {
    let longest = rows.iter().map(|r| r.ids.len()).max().unwrap_or(0);
    let mut batches = batches.clone();
    let (mut cursor, mut tokens, mut labels) = (0, 0, 0);
    for _ in 0..batches.steps() {
        let Some((chosen, next)) = batches.at(cursor) else { break };
        for m in pack(rows, &chosen, settings.capacity) {
            tokens = tokens.max(m.batch.tokens());
            labels = labels.max(m.batch.targets.len());
        }
        cursor = next;
    }
    (tokens.max(longest), labels)
}

/// Settles how many layers are computed again: as the run says, or as few as its memory allows.
pub fn fit_memory(run: &ResolvedRun, model: &Model, rows: &[Row], batches: &Batches, program: u64) -> StepSettings {
    let mut settings = StepSettings::of(run);
    if run.train.activation_checkpointing == Checkpointing::Auto {
        let limit = match run.train.memory_gib {
            0.0 => available_bytes().map_or(u64::MAX, |b| b / 5 * 4),
            gib => (gib * (1u64 << 30) as f64) as u64,
        };
        let trainable = model.trainable_count() as u64;
        let fixed = weight_bytes(model) + 12 * trainable + program + SCRATCH;
        let (tokens, labels) = largest_pass(rows, batches, &settings);
        // Gradients of an earlier pass are there when a step has several.
        settings.recomputed_layers = model.layers_to_recompute(tokens, labels, true, limit.saturating_sub(fixed));
    }
    settings
}

/// What [`plan`] looks at.
pub struct PlanInputs<'a> {
    /// The model with its trainable parameters.
    pub model: &'a Model,
    /// Rows to train on.
    pub rows: &'a [Row],
    /// Rows to evaluate on.
    pub eval_rows: &'a [Row],
    /// The batches of the run.
    pub batches: &'a Batches,
    /// How steps are made.
    pub settings: &'a StepSettings,
    /// Evaluations of the run.
    pub evaluations: u64,
    /// Memory of program and rows before the model was loaded.
    pub program_bytes: u64,
}

/// Computes the plan and, if asked, measures a few passes; the model is not changed.
pub fn plan(inputs: &PlanInputs<'_>, with_probe: bool) -> Plan {
    let PlanInputs { model, rows, eval_rows, settings, .. } = *inputs;
    let mut batches = inputs.batches.clone();
    let steps = batches.steps();
    let (mut cursor, mut tokens) = (0, 0u64);
    let lengths = |chosen: &[usize]| chosen.iter().map(|r| rows[*r].ids.len() as u64).sum::<u64>();
    for _ in 0..steps {
        let Some((chosen, next)) = batches.at(cursor) else { break };
        tokens += lengths(&chosen);
        cursor = next;
    }
    let first = batches.at(0).map(|(chosen, _)| chosen).unwrap_or_default();
    let micro = pack(rows, &first, settings.capacity);
    let (pass_tokens, pass_labels) = largest_pass(rows, inputs.batches, settings);
    let pass = model.pass_bytes(pass_tokens, pass_labels, settings.recomputed_layers, micro.len() > 1);
    let trainable = model.trainable_count() as u64;
    let mut memory = Vec::new();
    let mut item = |component: &str, bytes: u64| memory.push(MemoryItem { component: component.into(), bytes });
    item("base weights", weight_bytes(model));
    item("trainable weights", 4 * trainable);
    item("gradients", pass.gradients);
    item("optimizer", 8 * trainable);
    item("activations", pass.activations);
    item("logits", pass.logits);
    item("kernel scratch", SCRATCH);
    item("program and rows", inputs.program_bytes);
    Plan {
        memory,
        parameters: model.count() as u64,
        trainable,
        rows: rows.len() as u64,
        epoch_tokens: rows.iter().map(|r| r.ids.len() as u64).sum(),
        epoch_labels: rows.iter().map(|r| r.labels() as u64).sum(),
        steps: steps as u64,
        epochs: batches.epoch(cursor),
        tokens,
        recomputed_layers: settings.recomputed_layers.min(model.layers().len()) as u64,
        micro_batches: micro.len() as u64,
        eval_tokens: eval_rows.iter().map(|r| r.ids.len() as u64).sum(),
        evaluations: inputs.evaluations,
        probe: with_probe.then(|| probe(model, rows, &first, settings)),
    }
}

/// Times passes over rows of the first step. Gradients are thrown away, and so is a fault: the
/// training loop will meet it and name the rows.
fn probe(model: &Model, rows: &[Row], first: &[usize], settings: &StepSettings) -> Probe {
    let mut probe = Probe { tokens: 0, seconds: 0.0 };
    for micro in pack(rows, first, settings.capacity).iter().take(PROBE_PASSES) {
        let start = Instant::now();
        let _ = gradients(model, rows, &micro.rows, settings, &mut 0);
        probe.seconds += start.elapsed().as_secs_f64();
        probe.tokens += micro.batch.tokens() as u64;
        if probe.seconds > PROBE_SECONDS {
            break;
        }
    }
    probe
}
