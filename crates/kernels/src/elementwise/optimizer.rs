//! AdamW on one slice, in the order of operations of PyTorch's `torch.optim.AdamW` (single-tensor path).
use super::{TASK, same_len, sweep};
use crate::pool::Shareable;
use crate::simd::simd_fn;
use crate::{Isa, Pool};

/// Hyper-parameters of one update; `step` counts from 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    pub lr: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
    pub step: u64,
}

/// The factors of one update, worked out in f64 as Python does and rounded once.
#[derive(Clone, Copy)]
pub(crate) struct Scalars {
    decay: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    root_correction2: f32,
    eps: f32,
    minus_step_size: f32,
}

impl AdamW {
    pub(crate) fn scalars(&self) -> Scalars {
        let step = self.step as i32;
        Scalars {
            decay: (1.0 - self.lr * self.weight_decay) as f32,
            one_minus_beta1: (1.0 - self.beta1) as f32,
            beta2: self.beta2 as f32,
            one_minus_beta2: (1.0 - self.beta2) as f32,
            root_correction2: (1.0 - self.beta2.powi(step)).sqrt() as f32,
            eps: self.eps as f32,
            minus_step_size: (-self.lr / (1.0 - self.beta1.powi(step))) as f32,
        }
    }
}

simd_fn! {
    pub(crate) fn adamw_slice<S>(s, k: &Scalars, param: &mut [f32], grad: &[f32], exp_avg: &mut [f32], exp_avg_sq: &mut [f32]) {
        let n = param.len();
        assert!(grad.len() == n && exp_avg.len() == n && exp_avg_sq.len() == n);
        let (p, g, m, v) = (param.as_mut_ptr(), grad.as_ptr(), exp_avg.as_mut_ptr(), exp_avg_sq.as_mut_ptr());
        let (decay, w1) = (s.splat(k.decay), s.splat(k.one_minus_beta1));
        let (b2, w2) = (s.splat(k.beta2), s.splat(k.one_minus_beta2));
        let (root, eps, step) = (s.splat(k.root_correction2), s.splat(k.eps), s.splat(k.minus_step_size));
        // SAFETY: all four slices hold n floats.
        unsafe {
            sweep!(s, S, n; x = p, d = g, a = m, q = v;
                x = s.mul(x, decay);
                a = s.fma(w1, s.sub(d, a), a);
                q = s.add(s.mul(q, b2), s.mul(s.mul(w2, d), d));
                denom = s.add(s.div(s.sqrt(q), root), eps);
                => m, a;
                => v, q;
                => p, s.add(x, s.div(s.mul(step, a), denom)))
        }
    }
}

/// Updates param, exp_avg and exp_avg_sq, all as long as grad. Weight decay is decoupled (Loshchilov & Hutter 2019).
pub fn adamw(
    pool: &Pool,
    options: &AdamW,
    param: &mut [f32],
    grad: &[f32],
    exp_avg: &mut [f32],
    exp_avg_sq: &mut [f32],
) {
    assert!(options.step > 0, "the optimiser's step counts from 1");
    same_len("grad", grad.len(), param.len());
    same_len("exp_avg", exp_avg.len(), param.len());
    same_len("exp_avg_sq", exp_avg_sq.len(), param.len());
    let k = options.scalars();
    let (m, v) = (Shareable(exp_avg.as_mut_ptr()), Shareable(exp_avg_sq.as_mut_ptr()));
    pool.pieces_mut(param, TASK, &|i, part| {
        let (first, n) = (i * TASK, part.len());
        // SAFETY: the pieces of the two moments follow those of param, which has the same length.
        let (m, v) = unsafe {
            (
                std::slice::from_raw_parts_mut(m.get().add(first), n),
                std::slice::from_raw_parts_mut(v.get().add(first), n),
            )
        };
        adamw_slice(Isa::best(), &k, part, &grad[first..first + n], m, v);
    });
}
