//! Output head and cross-entropy in one, on labelled tokens only and a chunk of rows at a time:
//! L = Σ_t logsumexp(z_t) − z_t[target], z = h·Wᵀ. Logits of a chunk turn into their gradient softmax(z) − onehot in
//! place, so the whole `[t, vocab]` matrix never exists (as in Liger's fused linear cross-entropy; Hsu et al. 2024).
use super::linear::{self, Input};
use crate::{Activation, Linear, ParamId, Tape, Tensor, Var};
use loar_kernels::Pool;
use loar_kernels::arena::Element;
use loar_kernels::elementwise::{cross_entropy, cross_entropy_gradient};
use loar_kernels::gemm::Output;

/// Logit entries of one chunk: 192 MiB in f32. Every chunk reads the whole head twice, so few large ones are faster.
pub const CHUNK_ENTRIES: usize = 48 << 20;

pub struct HeadLoss {
    /// Sum of the losses, to be seeded with the weight of one token (`[1, 1]`).
    pub total: Var,
    /// Negative log-likelihood of each labelled token, in the order of the targets.
    pub per_token: Vec<f32>,
}

impl HeadLoss {
    pub fn sum(&self) -> f64 {
        self.per_token.iter().map(|x| f64::from(*x)).sum()
    }
}

impl<'a> Tape<'a> {
    /// `h [t, d]`; `targets`: (row of h, token that should follow).
    pub fn head_loss(&mut self, h: &Var, head: &'a Linear, targets: &[(usize, u32)]) -> HeadLoss {
        let (d, vocab, n) = (h.cols(), head.out_features, targets.len());
        let wanted = (h.needs_grad() || head.is_trainable()) && self.is_recording();
        let chunk = (CHUNK_ENTRIES / vocab).clamp(1, n.max(1));
        let (ctx, params) = (self.context, self.params);
        let mut per_token = Vec::with_capacity(n);
        let mut dh = Tensor::zeros(if wanted && h.needs_grad() { h.rows() } else { 0 }, d);
        let mut param_grads: Vec<(ParamId, Tensor)> = Vec::new();
        for part in targets.chunks(chunk) {
            let x: Activation = match &*h.value {
                Activation::F32(h) => gathered(&ctx.pool, h, part).into(),
                Activation::Bf16(h) => gathered(&ctx.pool, h, part).into(),
            };
            let input = Input { rows: part.len(), matrix: x.matrix(), packed: None };
            let mut z = Tensor::unfilled(part.len(), vocab);
            let saved = linear::forward(ctx, params, head, input, Output::F32(&mut z.data), None, self.dropout, wanted);
            let tokens: Vec<u32> = part.iter().map(|(_, token)| *token).collect();
            let mut losses = vec![0f32; part.len()];
            if wanted {
                cross_entropy_gradient(&ctx.pool, &mut z.data, vocab, &tokens, &vec![1.0; part.len()], &mut losses);
            } else {
                cross_entropy(&ctx.pool, &z.data, vocab, &tokens, &mut losses);
            }
            per_token.extend(losses);
            if wanted {
                let dz = vec![Activation::F32(z)];
                let (dx, grads) = linear::backward(ctx, params, &[head], input, &[saved], dz, h.needs_grad(), false);
                if let Some(dx) = dx {
                    for (i, (row, _)) in part.iter().enumerate() {
                        for (a, b) in dh.row_mut(*row).iter_mut().zip(dx.f32().row(i)) {
                            *a += b;
                        }
                    }
                }
                for (id, g) in grads {
                    match param_grads.iter_mut().find(|(i, _)| *i == id) {
                        Some((_, sum)) => sum.add_assign(&g),
                        None => param_grads.push((id, g)),
                    }
                }
            }
        }
        let total = Tensor::new(1, 1, vec![per_token.iter().map(|x| f64::from(*x)).sum::<f64>() as f32]);
        let h = h.without_value();
        let total = self.push(total, wanted, move |back, seed| {
            let s = seed.f32().data[0];
            if h.needs_grad() {
                dh.scale(s);
                back.give(&h, dh);
            }
            for (id, mut g) in param_grads {
                g.scale(s);
                back.give_param(id, g);
            }
        });
        HeadLoss { total, per_token }
    }
}

/// The rows that carry a target.
fn gathered<T: Element>(pool: &Pool, h: &Tensor<T>, targets: &[(usize, u32)]) -> Tensor<T> {
    let mut x = Tensor::unfilled(targets.len(), h.cols);
    x.fill_rows(pool, |i, row| row.copy_from_slice(h.row(targets[i].0)));
    x
}
