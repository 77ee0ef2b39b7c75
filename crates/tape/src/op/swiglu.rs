//! SwiGLU gating, y = silu(g) ⊙ u with silu(g) = g·σ(g) (Shazeer 2020, eq. 6).
use crate::{Tape, Tensor, Var};
use loar_kernels::elementwise::{silu_mul_backward, silu_mul_forward};

impl<'a> Tape<'a> {
    pub fn swiglu(&mut self, gate: &Var, up: &Var) -> Var {
        let mut y = Tensor::zeros(gate.rows(), gate.cols());
        silu_mul_forward(&self.context.pool, &gate.value.data, &up.value.data, &mut y.data);
        let (gate, up) = (gate.clone(), up.clone());
        self.push(y, gate.needs_grad() || up.needs_grad(), move |back, dy| {
            let (mut dg, mut du) = (Tensor::zeros(dy.rows, dy.cols), Tensor::zeros(dy.rows, dy.cols));
            silu_mul_backward(
                &back.context.pool,
                &gate.value.data,
                &up.value.data,
                &dy.data,
                &mut dg.data,
                &mut du.data,
            );
            back.give(&gate, dg);
            back.give(&up, du);
        })
    }
}
