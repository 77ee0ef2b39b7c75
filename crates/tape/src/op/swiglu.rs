//! SwiGLU gating, y = silu(g) ⊙ u with silu(g) = g·σ(g) (Shazeer 2020, eq. 6).
use crate::{Tape, Tensor, Var};

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

impl<'a> Tape<'a> {
    pub fn swiglu(&mut self, gate: &Var, up: &Var) -> Var {
        let data = gate.value.data.iter().zip(&up.value.data).map(|(g, u)| g * sigmoid(*g) * u).collect();
        let y = Tensor::new(gate.rows(), gate.cols(), data);
        let (gate, up) = (gate.clone(), up.clone());
        self.push(y, gate.needs_grad() || up.needs_grad(), move |back, dy| {
            let (mut dg, mut du) = (dy.clone(), dy);
            for (i, (g, u)) in gate.value.data.iter().zip(&up.value.data).enumerate() {
                let s = sigmoid(*g);
                dg.data[i] *= u * s * (1.0 + g * (1.0 - s));
                du.data[i] *= g * s;
            }
            back.give(&gate, dg);
            back.give(&up, du);
        })
    }
}
