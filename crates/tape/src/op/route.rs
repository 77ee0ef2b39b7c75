//! The router: which experts a token goes to, and with what weight (DeepSeek-V2 §2.1.2, DeepSeek-V3 §2.1.2).
//! s = softmax or sigmoid of x·Wᵀ in f32; choice by s + bias, limited to the best groups; weight = s of the chosen,
//! normalised or not, times `routed_scaling_factor`. The choice is constant under differentiation, the weights are not:
//! the frozen router still passes a gradient to x.
use crate::{Tape, Tensor, Var, Weight};
use loar_kernels::{Matrix, Precision};
use std::sync::Arc;

use super::Assignment;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scoring {
    Softmax,
    Sigmoid,
}

/// How experts are chosen and weighted; every field is the checkpoint's.
#[derive(Clone, Debug)]
pub struct RouterRule {
    pub scoring: Scoring,
    pub num_experts_per_tok: usize,
    /// Groups and how many of them are kept; (1, 1) is no limit.
    pub n_group: usize,
    pub topk_group: usize,
    /// V3: a group's score is the sum of its two best, and other groups are out. V2: its best, and other groups get 0.
    pub noaux_tc: bool,
    pub norm_topk_prob: bool,
    pub routed_scaling_factor: f32,
    /// `e_score_correction_bias [E]`, for the choice only; never trained.
    pub bias: Option<Arc<Vec<f32>>>,
}

impl RouterRule {
    fn scores(&self, z: &mut [f32]) {
        match self.scoring {
            Scoring::Sigmoid => z.iter_mut().for_each(|x| *x = 1.0 / (1.0 + (-*x).exp())),
            Scoring::Softmax => {
                let max = z.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let mut sum = 0f32;
                for x in z.iter_mut() {
                    *x = (*x - max).exp();
                    sum += *x;
                }
                z.iter_mut().for_each(|x| *x /= sum);
            }
        }
    }

    /// Indices of the chosen experts, best first; equal scores choose the lower index.
    fn choose(&self, s: &[f32]) -> Vec<u32> {
        let mut c: Vec<f32> = match &self.bias {
            Some(b) => s.iter().zip(b.iter()).map(|(s, b)| s + b).collect(),
            None => s.to_vec(),
        };
        if self.n_group > 1 {
            let size = c.len() / self.n_group;
            let group_scores: Vec<f32> = c
                .chunks_exact(size)
                .map(|g| {
                    let best = top(g, if self.noaux_tc { 2 } else { 1 });
                    best.iter().map(|i| g[*i as usize]).sum()
                })
                .collect();
            let kept = top(&group_scores, self.topk_group);
            let out = if self.noaux_tc { f32::NEG_INFINITY } else { 0.0 };
            for (g, chunk) in c.chunks_exact_mut(size).enumerate() {
                if !kept.contains(&(g as u32)) {
                    chunk.fill(out);
                }
            }
        }
        top(&c, self.num_experts_per_tok)
    }
}

/// Indices of the `k` largest, largest first, lower index first among equals.
fn top(x: &[f32], k: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..x.len() as u32).collect();
    order.sort_by(|a, b| x[*b as usize].total_cmp(&x[*a as usize]).then(a.cmp(b)));
    order.truncate(k);
    order
}

impl<'a> Tape<'a> {
    /// `x [t, d]`, `weight [E, d]` → the assignment and the weights `[t, k]`.
    pub fn route(&mut self, x: &Var, weight: &'a Weight, rule: &'a RouterRule) -> (Arc<Assignment>, Var) {
        let (experts, d) = weight.shape(self.params);
        let (t, k) = (x.rows(), rule.num_experts_per_tok);
        let mut s = Tensor::zeros(t, experts);
        let wide = x.value.widened(&self.context.pool);
        self.context.gemm_in(
            Precision::F32,
            t,
            experts,
            d,
            Matrix::f32(&wide.data, d),
            weight.matrix(self.params).t(),
            1.0,
            false,
            &mut s.data,
        );
        drop(wide);
        let mut chosen = Vec::with_capacity(t * k);
        let mut w = Tensor::zeros(t, k);
        for r in 0..t {
            let row = s.row_mut(r);
            rule.scores(row);
            let idx = rule.choose(row);
            let sum: f32 =
                if rule.norm_topk_prob { idx.iter().map(|i| row[*i as usize]).sum::<f32>() + 1e-20 } else { 1.0 };
            for (w, i) in w.row_mut(r).iter_mut().zip(&idx) {
                *w = row[*i as usize] / sum * rule.routed_scaling_factor;
            }
            chosen.extend(idx);
        }
        let assignment = Arc::new(Assignment::new(chosen, k, experts));
        let (wanted, kept, x) = (x.needs_grad() || weight.param().is_some(), assignment.clone(), x.clone());
        let w = self.push(w, wanted, move |back, dw| {
            let c = rule.routed_scaling_factor;
            let dw = dw.into_f32(&back.context.pool);
            let mut dz = Tensor::zeros(t, experts);
            for r in 0..t {
                let (s, g, dz) = (s.row(r), dw.row(r), dz.row_mut(r));
                let idx = &kept.experts[r * k..(r + 1) * k];
                // ∂L/∂s of the chosen: (c/S)(g_j − Σ g_i s_i / S) when normalised, c·g_j when not.
                let sum: f32 = idx.iter().map(|i| s[*i as usize]).sum::<f32>() + 1e-20;
                let mean: f32 = idx.iter().zip(g).map(|(i, g)| g * s[*i as usize]).sum::<f32>() / sum;
                for (i, g) in idx.iter().zip(g) {
                    dz[*i as usize] = if rule.norm_topk_prob { c / sum * (g - mean) } else { c * g };
                }
                match rule.scoring {
                    Scoring::Sigmoid => dz.iter_mut().zip(s).for_each(|(d, s)| *d *= s * (1.0 - s)),
                    Scoring::Softmax => {
                        let dot: f32 = dz.iter().zip(s).map(|(d, s)| d * s).sum();
                        dz.iter_mut().zip(s).for_each(|(d, s)| *d = s * (*d - dot));
                    }
                }
            }
            if let Some(id) = weight.param() {
                let mut dweight = Tensor::zeros(experts, d);
                back.context.gemm_in(
                    Precision::F32,
                    experts,
                    d,
                    t,
                    Matrix::f32(&dz.data, experts).t(),
                    Matrix::f32(&x.value.widened(&back.context.pool).data, d),
                    1.0,
                    false,
                    &mut dweight.data,
                );
                back.give_param(id, dweight);
            }
            if x.needs_grad() {
                let mut dx = Tensor::zeros(t, d);
                back.context.gemm_in(
                    Precision::F32,
                    t,
                    d,
                    experts,
                    Matrix::f32(&dz.data, experts),
                    weight.matrix(back.params),
                    1.0,
                    false,
                    &mut dx.data,
                );
                back.give(&x, dx);
            }
        });
        (assignment, w)
    }
}
