//! How far a merged checkpoint is from base and adapter.
//!
//! Takes two models and token sequences; gives the largest and mean gap of their logits, the
//! divergence of their next-token distributions and how often they agree on the best token. Runs
//! both in float32, so that what is measured is the rounding of the merged weights and nothing else.

use loar_model::{Model, PackedBatch};
use serde::Serialize;

use crate::merge_base::BaseStatement;

/// Distance of model B from model A over every position of some sequences.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Distance {
    /// Positions compared.
    pub positions: usize,
    /// Largest |difference| of two logits.
    pub max_logit_gap: f64,
    /// Mean |difference| over all logits.
    pub mean_logit_gap: f64,
    /// Mean over positions of KL(A ‖ B), in nats.
    pub mean_kl: f64,
    /// Largest KL(A ‖ B) of a position, in nats.
    pub max_kl: f64,
    /// Share of positions with the same best token.
    pub same_best_token: f64,
}

/// Sums of a [`Distance`] while it is measured.
#[derive(Debug, Default)]
pub struct Measure {
    positions: usize,
    logits: usize,
    max_gap: f64,
    sum_gap: f64,
    sum_kl: f64,
    max_kl: f64,
    same: usize,
}

impl Measure {
    /// Compares the logits `[vocab]` of one position.
    pub fn add(&mut self, a: &[f32], b: &[f32]) {
        for (x, y) in a.iter().zip(b) {
            let gap = f64::from((x - y).abs());
            self.max_gap = self.max_gap.max(gap);
            self.sum_gap += gap;
        }
        let kl = divergence(a, b);
        self.sum_kl += kl;
        self.max_kl = self.max_kl.max(kl);
        self.positions += 1;
        self.logits += a.len();
        self.same += usize::from(best(a) == best(b));
    }

    /// The distance so far.
    pub fn done(&self) -> Distance {
        let per = |sum: f64, n: usize| if n == 0 { 0.0 } else { sum / n as f64 };
        Distance {
            positions: self.positions,
            max_logit_gap: self.max_gap,
            mean_logit_gap: per(self.sum_gap, self.logits),
            mean_kl: per(self.sum_kl, self.positions),
            max_kl: self.max_kl,
            same_best_token: per(self.same as f64, self.positions),
        }
    }
}

/// KL(softmax a ‖ softmax b) in nats. Rounding may give a little below 0; it is 0 then.
fn divergence(a: &[f32], b: &[f32]) -> f64 {
    let (za, zb) = (log_sum(a), log_sum(b));
    a.iter()
        .zip(b)
        .map(|(x, y)| {
            let (p, q) = (f64::from(*x) - za, f64::from(*y) - zb);
            p.exp() * (p - q)
        })
        .sum::<f64>()
        .max(0.0)
}

fn log_sum(logits: &[f32]) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|l| f64::from(l - max).exp()).sum();
    f64::from(max) + sum.ln()
}

fn best(logits: &[f32]) -> usize {
    let mut best = 0;
    for (i, l) in logits.iter().enumerate() {
        if *l > logits[best] {
            best = i;
        }
    }
    best
}

/// Logits of every position of each sequence.
pub fn all_logits(model: &Model, sequences: &[Vec<u32>]) -> Vec<loar_tape::Tensor> {
    sequences
        .iter()
        .map(|ids| {
            let train = vec![false; ids.len()];
            model.logits(&PackedBatch::pack(&[(ids, &train)]))
        })
        .collect()
}

/// Distance of `b` from `a`, two results of [`all_logits`] on the same sequences.
pub fn distance(a: &[loar_tape::Tensor], b: &[loar_tape::Tensor]) -> Distance {
    let mut measure = Measure::default();
    for (x, y) in a.iter().zip(b) {
        for row in 0..x.rows {
            measure.add(x.row(row), y.row(row));
        }
    }
    measure.done()
}

/// What an export of a merged checkpoint certifies.
#[derive(Debug, Clone, Serialize)]
pub struct Certificate {
    /// Where the compared sequences come from.
    pub prompts: String,
    /// Sequences compared.
    pub sequences: usize,
    /// Stored type of merged tensors.
    pub dtype: &'static str,
    /// Which base the update was added to.
    pub base: BaseStatement,
    /// Base and adapter against merged: what merging lost.
    pub merged: Distance,
    /// Base and adapter against the bare base: what the adapter does.
    pub adapter_effect: Distance,
    /// What merging did to the weights.
    pub weights: loar_model::MergeReport,
}

impl Certificate {
    /// Why the merged checkpoint is not what was trained; `None` when it is.
    pub fn refusal(&self) -> Option<String> {
        /// A merge that loses more than half of what the adapter does is nearer to the base than to
        /// the trained model.
        const LOST: f64 = 0.5;
        /// Below this divergence (nats) an adapter does nothing that could be lost: f32 noise.
        const NOTHING: f64 = 1e-9;
        if let Some(first) = self.weights.lost.first() {
            return Some(format!(
                "rounding to {} undoes the whole update of {} of {} merged tensors (`{first}` first)",
                self.dtype,
                self.weights.lost.len(),
                self.weights.merged_tensors
            ));
        }
        let (lost, effect) = (self.merged.mean_kl, self.adapter_effect.mean_kl);
        (effect > NOTHING && lost > LOST * effect).then(|| {
            format!(
                "rounding to {} loses most of what was learnt: merged is {lost:.3e} nats from the trained model, the base {effect:.3e}",
                self.dtype
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_at_no_distance_from_itself() {
        let a = [0.1f32, -2.0, 3.5];
        let mut m = Measure::default();
        m.add(&a, &a);
        let d = m.done();
        assert_eq!((d.max_logit_gap, d.mean_kl, d.same_best_token), (0.0, 0.0, 1.0));
    }

    #[test]
    fn divergence_is_that_of_the_definition() {
        // p = (1/4, 3/4), q = (1/2, 1/2): KL = 1/4 ln 1/2 + 3/4 ln 3/2
        let (a, b) = ([0.0f32, 3f32.ln()], [7.0f32, 7.0]);
        let want = 0.25 * 0.5f64.ln() + 0.75 * 1.5f64.ln();
        assert!((divergence(&a, &b) - want).abs() < 1e-6);
        let mut m = Measure::default();
        m.add(&a, &b);
        m.add(&a, &a);
        let d = m.done();
        assert!((d.mean_kl - want / 2.0).abs() < 1e-6 && (d.max_kl - want).abs() < 1e-6);
        assert_eq!(d.max_logit_gap, 7.0);
        assert_eq!(d.same_best_token, 0.5);
    }

    fn certificate(lost: Vec<String>, merged: f64, effect: f64) -> Certificate {
        let at = |mean_kl| Distance { mean_kl, ..Distance::default() };
        Certificate {
            prompts: "test".into(),
            sequences: 1,
            dtype: "bfloat16",
            base: BaseStatement {
                trained_on: None,
                stored: "bf16".into(),
                onto: crate::merge_base::Onto::Trained,
                between: None,
            },
            merged: at(merged),
            adapter_effect: at(effect),
            weights: loar_model::MergeReport { merged_tensors: 3, lost, ..loar_model::MergeReport::default() },
        }
    }

    #[test]
    fn an_update_lost_to_rounding_is_refused() {
        assert_eq!(certificate(vec![], 1e-6, 1e-2).refusal(), None);
        assert_eq!(certificate(vec![], 0.0, 0.0).refusal(), None);
        assert!(certificate(vec![], 0.6e-2, 1e-2).refusal().is_some());
        let tensor = certificate(vec!["model.x.weight".into()], 0.0, 1.0).refusal();
        assert!(tensor.is_some_and(|t| t.contains("model.x.weight") && t.contains("1 of 3")));
    }
}
