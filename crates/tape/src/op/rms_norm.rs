//! Root-mean-square normalisation, y = x / sqrt(mean(x²) + eps) ⊙ w (Zhang & Sennrich 2019, eq. 4).
//! Works on groups of `w.len()` columns: the whole row, or each head for Qwen3's q and k norms. Statistics are f32; the
//! result is stored as the context stores activations.
use crate::{Activation, Context, Tape, Tensor, Var, Weight};
use loar_kernels::elementwise::{rmsnorm_backward, rmsnorm_forward, rmsnorm_forward_bf16};

/// y, and 1 / rms of each group.
pub(crate) fn forward(ctx: &Context, x: &Tensor, w: &[f32], eps: f32) -> (Activation, Vec<f32>) {
    let mut inv_rms = vec![0f32; x.data.len() / w.len()];
    let y = if ctx.stores_bf16() {
        let mut y = Tensor::unfilled(x.rows, x.cols);
        rmsnorm_forward_bf16(&ctx.pool, &x.data, w, eps, &mut y.data, &mut inv_rms);
        Activation::Bf16(y)
    } else {
        let mut y = Tensor::unfilled(x.rows, x.cols);
        rmsnorm_forward(&ctx.pool, &x.data, w, eps, &mut y.data, &mut inv_rms);
        Activation::F32(y)
    };
    (y, inv_rms)
}

impl<'a> Tape<'a> {
    /// `x [t, groups * w]`, `weight [w, 1]`.
    pub fn rms_norm(&mut self, x: &Var, weight: &'a Weight, eps: f32) -> Var {
        let width = weight.shape(self.params).0;
        assert_eq!(x.cols() % width, 0, "rms_norm: width {width} does not divide {}", x.cols());
        let w = weight.to_f32(self.params);
        let (y, inv_rms) = forward(self.context, &x.value.widened(&self.context.pool), &w, eps);
        let wanted = x.needs_grad() || weight.param().is_some();
        let x = x.clone();
        self.push(y, wanted, move |back, dy| {
            let pool = &back.context.pool;
            let (dy, wide) = (dy.into_f32(pool), x.value.widened(pool));
            let mut dx = Tensor::unfilled(dy.rows, dy.cols);
            let mut dw = weight.param().map(|_| Tensor::zeros(width, 1));
            let dw_data = dw.as_mut().map(|t| &mut t.data[..]);
            rmsnorm_backward(pool, &wide.data, &w, &inv_rms, &dy.data, &mut dx.data, dw_data);
            if let (Some(id), Some(dw)) = (weight.param(), dw) {
                back.give_param(id, dw);
            }
            back.give(&x, dx);
        })
    }
}
