//! What a run will need: memory by component, tokens, steps, and time from a short probe of real
//! passes. The report sets it beside what was measured.

use std::fmt;
use std::time::Instant;

use loar_formats::config::ModelConfig;
use loar_model::Model;
use serde::{Deserialize, Serialize};

use crate::memory::human;
use crate::order::Batches;
use crate::pack::{Row, pack};
use crate::step::{StepSettings, gradients};

/// Seconds after which the probe takes no further pass.
const PROBE_SECONDS: f64 = 3.0;
/// Passes of the probe at most.
const PROBE_PASSES: usize = 4;
/// Logits held at a time by the loss, in numbers (`tape::op::head_loss`).
const LOGIT_CHUNK: u64 = 16 << 20;

/// One line of the memory table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryItem {
    /// `base weights`, `adapter`, `gradients`, `optimizer`, `activations`, `logits`, `program and rows`.
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

/// Numbers that one layer keeps for its backward pass, per token, and the width of its input.
fn layer_numbers(config: &ModelConfig, layer: usize) -> u64 {
    let h = config.hidden_size;
    let attention = match &config.mla {
        Some(m) => {
            let heads = config.num_attention_heads;
            let qk = m.qk_nope_head_dim + m.qk_rope_head_dim;
            // latent query and its norm, q, latent kv and its norm, expanded keys and values, output
            2 * m.q_lora_rank.unwrap_or(0)
                + 2 * heads * qk
                + 2 * m.kv_lora_rank
                + m.qk_rope_head_dim
                + heads * (m.qk_nope_head_dim + m.v_head_dim)
                + heads * qk
                + 2 * heads * m.v_head_dim
        }
        None => {
            let q = config.num_attention_heads * config.head_dim;
            let kv = config.num_key_value_heads * config.head_dim;
            3 * q + 4 * kv // before and after rope, output
        }
    };
    let mlp = match &config.moe {
        Some(moe) if config.is_moe_layer(layer) => {
            let active = moe.num_experts_per_tok + moe.n_shared_experts;
            3 * active * moe.moe_intermediate_size + 2 * moe.num_experts_per_tok * h + moe.n_routed_experts
        }
        _ => 3 * config.intermediate_size,
    };
    // two norms, two residual sums, the outputs of attention and MLP
    (attention + mlp + 6 * h) as u64
}

/// Bytes of activations of one pass over `tokens` tokens.
pub fn activation_bytes(config: &ModelConfig, tokens: u64, checkpointing: bool) -> u64 {
    let layers: Vec<u64> = (0..config.num_hidden_layers).map(|l| layer_numbers(config, l)).collect();
    let largest = layers.iter().copied().max().unwrap_or(0);
    let h = config.hidden_size as u64;
    let per_token = if checkpointing {
        // inputs of all blocks; one block's values and their gradients
        layers.len() as u64 * h + 2 * largest
    } else {
        layers.iter().sum::<u64>() + largest
    };
    4 * tokens * (per_token + 2 * h)
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
    let longest = rows.iter().map(|r| r.ids.len()).max().unwrap_or(0);
    let pass_tokens = micro.iter().map(|m| m.batch.tokens()).max().unwrap_or(0).max(longest) as u64;
    let pass_labels = micro.iter().map(|m| m.batch.targets.len()).max().unwrap_or(0) as u64;
    let vocab = model.config.vocab_size as u64;
    let trainable = model.trainable_count() as u64;
    let mut memory = Vec::new();
    let mut item = |component: &str, bytes: u64| memory.push(MemoryItem { component: component.into(), bytes });
    item("base weights", weight_bytes(model));
    item("trainable weights", 4 * trainable);
    item("gradients", 4 * trainable);
    item("optimizer", 8 * trainable);
    item("activations", activation_bytes(&model.config, pass_tokens, settings.activation_checkpointing));
    item("logits", 4 * (LOGIT_CHUNK / vocab.max(1)).clamp(1, pass_labels.max(1)) * vocab);
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
