//! Rotary position embedding (Su et al. 2021, eq. 34) on a range of columns of every head.
//! Llama-type checkpoints pair entry i with i + r/2 (`Halves`); MLA checkpoints pair 2i with 2i + 1 (`Interleaved`),
//! which HF rewrites to halves on the fly: q and k are permuted alike, so scores agree and no weight is moved.
use crate::{Tape, Tensor, Var};
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeLayout {
    Halves,
    Interleaved,
}

/// cos and sin of every row's angles, `[t, r/2]` each, already times the attention factor of yarn.
#[derive(Debug)]
pub struct RopeTable {
    pub layout: RopeLayout,
    pub cos: Tensor,
    pub sin: Tensor,
}

impl RopeTable {
    /// `inv_freq [r/2]` in radians per position; angles are formed in f32 as HF does.
    pub fn new(layout: RopeLayout, inv_freq: &[f32], factor: f32, positions: &[u32]) -> RopeTable {
        let (mut cos, mut sin) = (Tensor::zeros(positions.len(), inv_freq.len()), Tensor::zeros(positions.len(), inv_freq.len()));
        for (t, p) in positions.iter().enumerate() {
            for (i, f) in inv_freq.iter().enumerate() {
                let angle = *p as f32 * f;
                cos.row_mut(t)[i] = angle.cos() * factor;
                sin.row_mut(t)[i] = angle.sin() * factor;
            }
        }
        RopeTable { layout, cos, sin }
    }

    fn rotate(&self, x: &mut Tensor, head_dim: usize, offset: usize, sign: f32) {
        let half = self.cos.cols;
        let heads = x.cols / head_dim;
        for t in 0..x.rows {
            let (cos, sin) = (self.cos.row(t), self.sin.row(t));
            let row = &mut x.data[t * heads * head_dim..(t + 1) * heads * head_dim];
            for head in row.chunks_exact_mut(head_dim) {
                let part = &mut head[offset..offset + 2 * half];
                for i in 0..half {
                    let (a, b) = match self.layout {
                        RopeLayout::Halves => (i, i + half),
                        RopeLayout::Interleaved => (2 * i, 2 * i + 1),
                    };
                    let (c, s) = (cos[i], sign * sin[i]);
                    let (xa, xb) = (part[a], part[b]);
                    part[a] = xa * c - xb * s;
                    part[b] = xb * c + xa * s;
                }
            }
        }
    }
}

impl<'a> Tape<'a> {
    /// Rotates columns `offset .. offset + r` of each head of `x [t, heads * head_dim]`; backward is the same rotation
    /// with the sine negated.
    pub fn rope(&mut self, x: &Var, table: &Arc<RopeTable>, head_dim: usize, offset: usize) -> Var {
        let mut y = (*x.value).clone();
        table.rotate(&mut y, head_dim, offset, 1.0);
        let (wanted, table, x) = (x.needs_grad(), table.clone(), x.without_value());
        self.push(y, wanted, move |back, dy| {
            let mut dx = dy;
            table.rotate(&mut dx, head_dim, offset, -1.0);
            back.give(&x, dx);
        })
    }
}
