//! Optimiser steps of LoRA: forward, backward, clipping and AdamW, on random tokens of given lengths.

use std::time::Instant;

use loar_artifact::IdHasher;
use loar_kernels::machine;
use loar_model::{AdapterSpec, Model, Preset, Targets};
use loar_tape::{AdamW, AdamWConfig};
use loar_train::{Row, StepSettings, clip, gradients, update};
use serde_json::json;

use crate::bench::meter::Meter;
use crate::bench::record::Record;
use crate::bench::{lengths, median, random_ids, work};
use crate::console::{Console, bytes};
use crate::diagnose::Failure;
use crate::table::Table;

/// The same for every step of PEFT's peer script.
const LEARNING_RATE: f64 = 1e-4;
const MAX_GRAD_NORM: f64 = 1.0;

/// What is trained and how.
pub struct Plan {
    pub rank: usize,
    pub attention_only: bool,
    /// Layers computed again in the backward pass.
    pub recomputed_layers: usize,
    /// Share of a document's tokens that are prompt: no loss.
    pub masked: f64,
    pub seed: u64,
}

/// A model with a fresh adapter and everything a step needs.
pub struct Trainer {
    pub model: Model,
    adamw: AdamW,
    plan: Plan,
    draws: u32,
}

/// One step.
pub struct Step {
    pub tokens: usize,
    pub labels: usize,
    pub seconds: f64,
    pub flop: f64,
    pub loss: f64,
}

impl Trainer {
    pub fn new(mut model: Model, plan: Plan) -> Result<Self, Failure> {
        let preset = if plan.attention_only { Preset::Attention } else { Preset::AllLinear };
        let spec = AdapterSpec::new(plan.rank, 2.0 * plan.rank as f64, Targets::Preset(preset));
        model.attach(&spec, plan.seed)?;
        let config = AdamWConfig { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 };
        let adamw = AdamW::new(config, &model.params);
        Ok(Self { model, adamw, plan, draws: 0 })
    }

    /// One optimiser step over documents of these lengths, all in one pass.
    pub fn step(&mut self, documents: &[usize]) -> Result<Step, Failure> {
        let vocab = self.model.config.vocab_size;
        let rows: Vec<Row> = documents
            .iter()
            .map(|length| {
                self.draws += 1;
                let prompt = lengths::masked(*length, self.plan.masked);
                Row {
                    id: format!("row {}", self.draws),
                    ids: random_ids(self.plan.seed, self.draws, *length, vocab),
                    train: (0..*length).map(|i| i >= prompt).collect(),
                }
            })
            .collect();
        let settings = StepSettings {
            capacity: documents.iter().sum(),
            max_grad_norm: MAX_GRAD_NORM,
            lora_plus_ratio: 1.0,
            dropout_seed: None,
            recomputed_layers: self.plan.recomputed_layers,
        };
        let chosen: Vec<usize> = (0..rows.len()).collect();
        let start = Instant::now();
        let (mut grads, report) = gradients(&self.model, &rows, &chosen, &settings, &mut 0)
            .map_err(|e| Failure::environment(format!("{} is not finite in {}", e.what, e.rows.join(", "))))?;
        clip(&mut grads, report.grad_norm, settings.max_grad_norm);
        update(&mut self.model, &mut self.adamw, &grads, LEARNING_RATE, settings.lora_plus_ratio);
        Ok(Step {
            tokens: report.tokens,
            labels: report.labels,
            seconds: start.elapsed().as_secs_f64(),
            flop: work::train_flop(&self.model, documents, report.labels),
            loss: report.loss,
        })
    }

    /// Hash of the adapter as it stands.
    fn id(&self) -> String {
        let mut hash = IdHasher::new();
        for (_, p) in self.model.params.iter() {
            p.value.data.iter().for_each(|x| hash.update(&x.to_le_bytes()));
        }
        hash.finish().to_string()
    }
}

/// A warm-up step and then one for each of the remaining batches.
pub fn steps(mut trainer: Trainer, batches: &[Vec<usize>], console: &Console) -> Result<Record, Failure> {
    let mut meter = Meter::new(console, batches.len());
    let (mut all, mut losses) = (Vec::new(), Vec::new());
    for (i, documents) in batches.iter().enumerate() {
        let step = trainer.step(documents)?;
        let warm = if i == 0 { console.pick(" (warm-up)", "（预热）") } else { "" };
        meter.tick(format_args!("{} tokens, {:.2} s, loss {:.3}{warm}", step.tokens, step.seconds, step.loss));
        losses.push(step.loss);
        if i > 0 {
            all.push(step);
        }
    }
    drop(meter);
    let peak = loar_train::memory::peak_bytes();
    let pool = &trainer.model.context.pool;
    let peaks = machine::peaks(pool);
    let seconds: Vec<f64> = all.iter().map(|s| s.seconds).collect();
    let total: f64 = seconds.iter().sum();
    let tokens: usize = all.iter().map(|s| s.tokens).sum();
    let labels: usize = all.iter().map(|s| s.labels).sum();
    let mut record = Record::new("train");
    record.set("useful_tokens_per_s", tokens as f64 / total);
    record.set("tokens_per_s", tokens as f64 / total);
    record.set("labelled_tokens_per_s", labels as f64 / total);
    record.set("peak_rss_bytes", peak);
    let rate = all.iter().map(|s| s.flop).sum::<f64>() / total / 1e9;
    record.set_gflops(rate, trainer.model.context.precision, &peaks);
    record.set("median_step_seconds", median(&seconds));
    record.set("step_seconds", seconds);
    record.set("step_tokens", all.iter().map(|s| s.tokens).collect::<Vec<_>>());
    record.set("losses", losses);
    record.set("trainable", trainer.model.trainable_count());
    record.set("weight_bytes", loar_train::weight_bytes(&trainer.model));
    record.set("result", trainer.id());
    record.set_machine(pool, &peaks);
    Ok(record)
}

/// Seconds of a step against the tokens of its pack, documents of one length.
pub fn growth(
    mut trainer: Trainer,
    packs: &[usize],
    document: usize,
    repetitions: usize,
    console: &Console,
) -> Result<Record, Failure> {
    let mut meter = Meter::new(console, packs.len() * (repetitions + 1));
    let mut points = Vec::new();
    for tokens in packs {
        let documents = lengths::pack_of(*tokens, document);
        let mut seconds = Vec::new();
        for i in 0..=repetitions {
            let step = trainer.step(&documents)?;
            meter.tick(format_args!("{tokens} tokens, {:.2} s", step.seconds));
            if i > 0 {
                seconds.push(step.seconds);
            }
        }
        points.push((*tokens, median(&seconds), loar_train::memory::resident_bytes()));
    }
    drop(meter);
    let peak = loar_train::memory::peak_bytes();
    let pool = &trainer.model.context.pool;
    let peaks = machine::peaks(pool);
    let mut record = Record::new("growth");
    let mut table = Table::new(&[">tokens", ">seconds", ">tokens/s", ">µs a token", ">resident after it"]);
    for (tokens, seconds, resident) in &points {
        table.row([
            tokens.to_string(),
            format!("{seconds:.3}"),
            format!("{:.0}", *tokens as f64 / seconds),
            format!("{:.1}", 1e6 * seconds / *tokens as f64),
            resident.map_or("–".into(), bytes),
        ]);
    }
    record.set("exponent", exponent(&points.iter().map(|p| (p.0 as f64, p.1)).collect::<Vec<_>>()));
    record.set(
        "points",
        points
            .iter()
            .map(|(t, s, r)| json!({"tokens": t, "seconds": s, "tokens_per_s": *t as f64 / s, "resident_bytes": r}))
            .collect::<Vec<_>>(),
    );
    record.set("document", document);
    record.set("peak_rss_bytes", peak);
    record.set_machine(pool, &peaks);
    record.table = Some(table);
    Ok(record)
}

/// The p of seconds ≈ c · tokens^p, by least squares on logarithms: 1 is linear growth.
fn exponent(points: &[(f64, f64)]) -> f64 {
    let n = points.len() as f64;
    let (sx, sy) = points.iter().fold((0.0, 0.0), |(x, y), p| (x + p.0.ln(), y + p.1.ln()));
    let (mx, my) = (sx / n, sy / n);
    let cov: f64 = points.iter().map(|p| (p.0.ln() - mx) * (p.1.ln() - my)).sum();
    let var: f64 = points.iter().map(|p| (p.0.ln() - mx).powi(2)).sum();
    if var == 0.0 { 1.0 } else { cov / var }
}

#[cfg(test)]
mod tests {
    use super::exponent;

    #[test]
    fn growth_is_told_by_its_power() {
        let line: Vec<(f64, f64)> = (1..8).map(|i| (f64::from(i), 3.0 * f64::from(i))).collect();
        let square: Vec<(f64, f64)> = (1..8).map(|i| (f64::from(i), 0.1 * f64::from(i * i))).collect();
        assert!((exponent(&line) - 1.0).abs() < 1e-12);
        assert!((exponent(&square) - 2.0).abs() < 1e-12);
        assert_eq!(exponent(&[(512.0, 1.0)]), 1.0);
    }
}
