//! SwiGLU gating, y = silu(g) ⊙ u with silu(g) = g·σ(g) (Shazeer 2020, eq. 6).
use crate::{Activation, Context, Tape, Tensor, Var};
use loar_kernels::elementwise::{silu_mul_backward, silu_mul_backward_bf16, silu_mul_forward, silu_mul_forward_bf16};

/// y of gate and up, which are stored alike.
pub(crate) fn forward(ctx: &Context, gate: &Activation, up: &Activation) -> Activation {
    match (gate, up) {
        (Activation::Bf16(g), Activation::Bf16(u)) => {
            let mut y = Tensor::unfilled(g.rows, g.cols);
            silu_mul_forward_bf16(&ctx.pool, &g.data, &u.data, &mut y.data);
            y.into()
        }
        (g, u) => {
            let (g, u) = (g.widened(&ctx.pool), u.widened(&ctx.pool));
            let mut y = Tensor::unfilled(g.rows, g.cols);
            silu_mul_forward(&ctx.pool, &g.data, &u.data, &mut y.data);
            y.into()
        }
    }
}

/// The gradients of gate and up.
pub(crate) fn backward(ctx: &Context, gate: &Activation, up: &Activation, dy: Activation) -> (Activation, Activation) {
    let (rows, cols) = (gate.rows(), gate.cols());
    match (gate, up) {
        (Activation::Bf16(g), Activation::Bf16(u)) => {
            let dy = dy.into_bf16(&ctx.pool);
            let (mut dg, mut du) = (Tensor::unfilled(rows, cols), Tensor::unfilled(rows, cols));
            silu_mul_backward_bf16(&ctx.pool, &g.data, &u.data, &dy.data, &mut dg.data, &mut du.data);
            (dg.into(), du.into())
        }
        (g, u) => {
            let (g, u, dy) = (g.widened(&ctx.pool), u.widened(&ctx.pool), dy.into_f32(&ctx.pool));
            let (mut dg, mut du) = (Tensor::unfilled(rows, cols), Tensor::unfilled(rows, cols));
            silu_mul_backward(&ctx.pool, &g.data, &u.data, &dy.data, &mut dg.data, &mut du.data);
            (dg.into(), du.into())
        }
    }
}

impl<'a> Tape<'a> {
    pub fn swiglu(&mut self, gate: &Var, up: &Var) -> Var {
        let y = forward(self.context, &gate.value, &up.value);
        let (gate, up) = (gate.clone(), up.clone());
        self.push(y, gate.needs_grad() || up.needs_grad(), move |back, dy| {
            let (dg, du) = backward(back.context, &gate.value, &up.value, dy);
            back.give(&gate, dg);
            back.give(&up, du);
        })
    }
}
