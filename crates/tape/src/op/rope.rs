//! Rotary position embedding (Su et al. 2021, eq. 34) on a range of columns of every head.
//! Llama-type checkpoints pair entry i with i + r/2 (`Halves`); MLA checkpoints pair 2i with 2i + 1 (`Interleaved`),
//! which HF rewrites to halves on the fly: q and k are permuted alike, so scores agree and no weight is moved.
use crate::{Activation, Pool, Tape, Tensor, Var};
use loar_kernels::elementwise as kernel;
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
    /// Row t of the tables belongs to row t of the batch.
    rows: Vec<u32>,
}

impl RopeTable {
    /// `inv_freq [r/2]` in radians per position; angles are formed in f32 as HF does.
    pub fn new(layout: RopeLayout, inv_freq: &[f32], factor: f32, positions: &[u32]) -> RopeTable {
        let (mut cos, mut sin) =
            (Tensor::zeros(positions.len(), inv_freq.len()), Tensor::zeros(positions.len(), inv_freq.len()));
        for (t, p) in positions.iter().enumerate() {
            for (i, f) in inv_freq.iter().enumerate() {
                let angle = *p as f32 * f;
                cos.row_mut(t)[i] = angle.cos() * factor;
                sin.row_mut(t)[i] = angle.sin() * factor;
            }
        }
        RopeTable { layout, cos, sin, rows: (0..positions.len() as u32).collect() }
    }

    fn rotate(&self, pool: &Pool, x: &mut Activation, head_dim: usize, offset: usize, inverse: bool) {
        let layout = kernel::RopeLayout {
            row_stride: x.cols(),
            offset,
            head_stride: head_dim,
            num_heads: x.cols() / head_dim,
            half: self.cos.cols,
            interleaved: self.layout == RopeLayout::Interleaved,
        };
        let (cos, sin) = (&self.cos.data, &self.sin.data);
        match x {
            Activation::F32(x) => kernel::rope(pool, &mut x.data, &layout, &self.rows, cos, sin, inverse),
            Activation::Bf16(x) => kernel::rope_bf16(pool, &mut x.data, &layout, &self.rows, cos, sin, inverse),
        }
    }
}

impl<'a> Tape<'a> {
    /// Rotates columns `offset .. offset + r` of each head of `x [t, heads * head_dim]`, in place when nobody else holds
    /// x; backward is the same rotation with the sine negated.
    pub fn rope(&mut self, x: Var, table: &Arc<RopeTable>, head_dim: usize, offset: usize) -> Var {
        let (wanted, node) = (x.needs_grad(), x.without_value());
        let mut y = Arc::unwrap_or_clone(x.value);
        table.rotate(&self.context.pool, &mut y, head_dim, offset, false);
        let table = table.clone();
        self.push(y, wanted, move |back, mut dy| {
            table.rotate(&back.context.pool, &mut dy, head_dim, offset, true);
            back.give(&node, dy);
        })
    }
}
