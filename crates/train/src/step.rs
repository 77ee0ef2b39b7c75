//! One optimizer step: accumulate micro-batches, clip, AdamW.
//!
//! The loss is the sum over the labelled tokens of all micro-batches divided by their number in the
//! whole step, so that accumulation equals the large batch. Stops at the first number that is not
//! finite and names the rows of that pass.

use loar_model::{Model, Pass};
use loar_tape::{AdamW, AdamWConfig, DropoutKey, Grads, ParamId, ParamRole};

use crate::config::{Checkpointing, ResolvedRun};
use crate::pack::{MicroBatch, Row, pack};

/// What decides a step besides model and rows.
#[derive(Clone, Debug)]
pub struct StepSettings {
    /// Tokens of a micro-batch.
    pub capacity: usize,
    /// Bound of the gradient's norm; 0 for none.
    pub max_grad_norm: f64,
    /// Learning rate of B over that of A.
    pub lora_plus_ratio: f64,
    /// Whether adapter inputs are dropped at random, and the seed for it.
    pub dropout_seed: Option<u64>,
    /// Layers computed again during backward, the first ones.
    pub recomputed_layers: usize,
}

impl StepSettings {
    /// As a run says; `Auto` is settled by [`fit_memory`](crate::plan::fit_memory) once the model is there.
    pub fn of(run: &ResolvedRun) -> StepSettings {
        StepSettings {
            capacity: run.train.micro_batch_tokens,
            max_grad_norm: run.train.max_grad_norm,
            lora_plus_ratio: run.adapter.lora_plus_ratio,
            dropout_seed: (run.adapter.dropout > 0.0).then_some(run.train.seed),
            recomputed_layers: match run.train.activation_checkpointing {
                Checkpointing::All => usize::MAX,
                Checkpointing::Layers(n) => n,
                Checkpointing::None | Checkpointing::Auto => 0,
            },
        }
    }
}

/// What a step did.
#[derive(Clone, Debug, PartialEq)]
pub struct StepReport {
    /// Mean loss of the labelled tokens.
    pub loss: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Tokens.
    pub tokens: usize,
    /// Tokens with loss.
    pub labels: usize,
    /// Rows.
    pub rows: usize,
    /// Passes.
    pub micro_batches: usize,
    /// Tokens routed to each expert, by layer.
    pub expert_load: Vec<Vec<u64>>,
}

/// A number that is not finite.
#[derive(Clone, Debug, PartialEq)]
pub struct NonFinite {
    /// `the loss`, or the gradient of which parameter.
    pub what: String,
    /// Ids of the rows.
    pub rows: Vec<String>,
}

/// AdamW as a run configures it.
pub fn optimizer(run: &ResolvedRun, model: &Model) -> AdamW {
    let t = &run.train;
    let config = AdamWConfig { beta1: t.betas.0, beta2: t.betas.1, eps: t.eps, weight_decay: t.weight_decay };
    AdamW::new(config, &model.params)
}

/// Adds the counts of one pass.
pub(crate) fn add_load(total: &mut Vec<Vec<u64>>, load: &[Vec<usize>]) {
    if total.len() < load.len() {
        total.resize(load.len(), Vec::new());
    }
    for (sum, layer) in total.iter_mut().zip(load) {
        if sum.len() < layer.len() {
            sum.resize(layer.len(), 0);
        }
        for (s, n) in sum.iter_mut().zip(layer) {
            *s += *n as u64;
        }
    }
}

/// Gradients of the mean loss over the labelled tokens of `chosen`, and what was done for them.
/// `micro_step` counts the passes of the whole run and keys the dropout masks.
///
/// # Errors
/// [`NonFinite`] at the first pass whose loss or gradient is not finite.
pub fn gradients(
    model: &Model,
    rows: &[Row],
    chosen: &[usize],
    settings: &StepSettings,
    micro_step: &mut u64,
) -> Result<(Grads, StepReport), NonFinite> {
    let micro = pack(rows, chosen, settings.capacity);
    let labels: usize = micro.iter().map(|m| m.batch.targets.len()).sum();
    let mut report = StepReport {
        loss: 0.0,
        grad_norm: 0.0,
        tokens: micro.iter().map(|m| m.batch.tokens()).sum(),
        labels,
        rows: chosen.len(),
        micro_batches: micro.len(),
        expert_load: Vec::new(),
    };
    let mut grads = Grads::new(&model.params);
    let token_weight = 1.0 / labels.max(1) as f32;
    for m in &micro {
        let dropout = settings.dropout_seed.map(|seed| DropoutKey { seed, micro_step: *micro_step });
        let pass = Pass { dropout, checkpoint: settings.recomputed_layers };
        let loss = model.loss_and_grads(&m.batch, &mut grads, token_weight, &pass);
        *micro_step += 1;
        if let Some(fault) = non_finite_loss(rows, m, &loss.per_token, loss.sum) {
            return Err(fault);
        }
        if let Some(id) = grads.non_finite(&model.context.pool) {
            let what = format!("the gradient of `{}`", model.params.get(id).name);
            return Err(NonFinite { what, rows: ids(rows, &m.rows) });
        }
        report.loss += loss.sum;
        add_load(&mut report.expert_load, &loss.expert_load);
    }
    report.loss /= labels.max(1) as f64;
    grads.apply_masks(&model.params);
    report.grad_norm = grads.norm_on(&model.context.pool);
    Ok((grads, report))
}

fn ids(rows: &[Row], members: &[usize]) -> Vec<String> {
    members.iter().map(|r| rows[*r].id.clone()).collect()
}

/// The rows whose own tokens have a loss that is not finite.
fn non_finite_loss(rows: &[Row], m: &MicroBatch, per_token: &[f32], sum: f64) -> Option<NonFinite> {
    if sum.is_finite() {
        return None;
    }
    let mut bad: Vec<usize> = per_token
        .iter()
        .zip(&m.batch.target_document)
        .filter(|(loss, _)| !loss.is_finite())
        .filter_map(|(_, document)| m.rows.get(*document).copied())
        .collect();
    bad.dedup();
    let members = if bad.is_empty() { &m.rows } else { &bad };
    Some(NonFinite { what: "the loss".into(), rows: ids(rows, members) })
}

/// Scales the gradient down to the bound, as `torch.nn.utils.clip_grad_norm_` does.
pub fn clip(grads: &mut Grads, norm: f64, bound: f64) {
    if bound > 0.0 {
        let factor = bound / (norm + 1e-6);
        if factor < 1.0 {
            grads.scale(factor as f32);
        }
    }
}

/// One AdamW update. The B matrices learn at `lora_plus_ratio` times the rate (LoRA+, Hayou et al.
/// 2024); vectors (norms, biases, DoRA's magnitudes) have no weight decay.
pub fn update(model: &mut Model, adamw: &mut AdamW, grads: &Grads, rate: f64, lora_plus_ratio: f64) {
    let roles: Vec<ParamRole> = model.params.iter().map(|(_, p)| p.role).collect();
    let rate_of = |id: ParamId| match roles[id.0] {
        ParamRole::LoraB | ParamRole::EmbeddingB => rate * lora_plus_ratio,
        _ => rate,
    };
    let decays = |id: ParamId| !matches!(roles[id.0], ParamRole::FullVector | ParamRole::Magnitude);
    adamw.step(&model.context.pool, &mut model.params, grads, &rate_of, &decays);
}
