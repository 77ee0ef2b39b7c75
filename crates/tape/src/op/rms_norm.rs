//! Root-mean-square normalisation, y = x / sqrt(mean(x²) + eps) ⊙ w (Zhang & Sennrich 2019, eq. 4).
//! Works on groups of `w.len()` columns: the whole row, or each head for Qwen3's q and k norms.
use crate::{Tape, Tensor, Var, Weight};

impl<'a> Tape<'a> {
    /// `x [t, groups * w]`, `weight [w, 1]`.
    pub fn rms_norm(&mut self, x: &Var, weight: &'a Weight, eps: f32) -> Var {
        let width = weight.shape(self.params).0;
        assert_eq!(x.cols() % width, 0, "rms_norm: width {width} does not divide {}", x.cols());
        let w = weight.to_f32(self.params);
        let groups = x.value.data.len() / width;
        let mut y = Tensor::zeros(x.rows(), x.cols());
        let mut inv_rms = vec![0f32; groups];
        for (g, (x, y)) in x.value.data.chunks_exact(width).zip(y.data.chunks_exact_mut(width)).enumerate() {
            let inv = 1.0 / (sum_of_squares(x) / width as f32 + eps).sqrt();
            inv_rms[g] = inv;
            for ((y, x), w) in y.iter_mut().zip(x).zip(&w) {
                *y = x * inv * w;
            }
        }
        let wanted = x.needs_grad() || weight.param().is_some();
        let x = x.clone();
        self.push(y, wanted, move |back, dy| {
            if let Some(id) = weight.param() {
                let mut dw = Tensor::zeros(width, 1);
                for (g, (x, dy)) in x.value.data.chunks_exact(width).zip(dy.data.chunks_exact(width)).enumerate() {
                    for ((dw, x), dy) in dw.data.iter_mut().zip(x).zip(dy) {
                        *dw += dy * x * inv_rms[g];
                    }
                }
                back.give_param(id, dw);
            }
            if x.needs_grad() {
                // dx = inv·(w⊙dy) − x·inv³·mean(x⊙w⊙dy)
                let mut dx = dy;
                for (g, (x, dx)) in x.value.data.chunks_exact(width).zip(dx.data.chunks_exact_mut(width)).enumerate() {
                    let inv = inv_rms[g];
                    let mut dot = 0f32;
                    for ((d, x), w) in dx.iter_mut().zip(x).zip(&w) {
                        *d *= w;
                        dot += *d * x;
                    }
                    let c = inv * inv * inv * dot / width as f32;
                    for (d, x) in dx.iter_mut().zip(x) {
                        *d = *d * inv - x * c;
                    }
                }
                back.give(&x, dx);
            }
        })
    }
}

/// Eight running sums, joined in fixed order: vectorises and is the same for every caller.
fn sum_of_squares(x: &[f32]) -> f32 {
    let mut lanes = [0f32; 8];
    let chunks = x.chunks_exact(8);
    let tail: f32 = chunks.remainder().iter().map(|v| v * v).sum();
    for c in chunks {
        for (l, v) in lanes.iter_mut().zip(c) {
            *l += v * v;
        }
    }
    lanes.iter().sum::<f32>() + tail
}
