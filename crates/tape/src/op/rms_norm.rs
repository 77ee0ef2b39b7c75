//! Root-mean-square normalisation, y = x / sqrt(mean(x²) + eps) ⊙ w (Zhang & Sennrich 2019, eq. 4).
//! Works on groups of `w.len()` columns: the whole row, or each head for Qwen3's q and k norms.
use crate::{Tape, Tensor, Var, Weight};
use loar_kernels::elementwise::{rmsnorm_backward, rmsnorm_forward};

impl<'a> Tape<'a> {
    /// `x [t, groups * w]`, `weight [w, 1]`.
    pub fn rms_norm(&mut self, x: &Var, weight: &'a Weight, eps: f32) -> Var {
        let width = weight.shape(self.params).0;
        assert_eq!(x.cols() % width, 0, "rms_norm: width {width} does not divide {}", x.cols());
        let w = weight.to_f32(self.params);
        let mut y = Tensor::zeros(x.rows(), x.cols());
        let mut inv_rms = vec![0f32; x.value.data.len() / width];
        rmsnorm_forward(&self.context.pool, &x.value.data, &w, eps, &mut y.data, &mut inv_rms);
        let wanted = x.needs_grad() || weight.param().is_some();
        let x = x.clone();
        self.push(y, wanted, move |back, dy| {
            let mut dx = Tensor::zeros(dy.rows, dy.cols);
            let mut dw = weight.param().map(|_| Tensor::zeros(width, 1));
            let dw_data = dw.as_mut().map(|t| &mut t.data[..]);
            rmsnorm_backward(&back.context.pool, &x.value.data, &w, &inv_rms, &dy.data, &mut dx.data, dw_data);
            if let (Some(id), Some(dw)) = (weight.param(), dw) {
                back.give_param(id, dw);
            }
            back.give(&x, dx);
        })
    }
}
