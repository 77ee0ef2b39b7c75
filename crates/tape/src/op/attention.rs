//! Causal softmax attention over packed documents: softmax(q·kᵀ·scale)·v, no document sees another.
//! The output and the log-sum-exp are kept; scores are recomputed backward (Dao et al. 2022, algorithms 1 and 4).
use crate::{AttentionShape, Segment, Tape, Tensor, Var};
use loar_kernels::{Pool, attention};
use std::sync::Arc;

/// Attention without a tape: queries against keys and values that may be longer (a cache).
pub fn attend(pool: &Pool, shape: &AttentionShape, segments: &[Segment], q: &Tensor, k: &[f32], v: &[f32]) -> Tensor {
    let mut out = Tensor::zeros(q.rows, shape.num_heads * shape.head_dim_v);
    let mut lse = vec![0f32; q.rows * shape.num_heads];
    attention::forward(pool, shape, segments, &q.data, k, v, &mut out.data, &mut lse);
    out
}

impl<'a> Tape<'a> {
    /// `q [t, h*dqk]`, `k [t, kv*dqk]`, `v [t, kv*dv]` → `[t, h*dv]`.
    pub fn attention(&mut self, shape: AttentionShape, segments: &Arc<Vec<Segment>>, q: &Var, k: &Var, v: &Var) -> Var {
        let mut out = Tensor::zeros(q.rows(), shape.num_heads * shape.head_dim_v);
        let mut lse = vec![0f32; q.rows() * shape.num_heads];
        attention::forward(
            &self.context.pool,
            &shape,
            segments,
            &q.value.data,
            &k.value.data,
            &v.value.data,
            &mut out.data,
            &mut lse,
        );
        let wanted = q.needs_grad() || k.needs_grad() || v.needs_grad();
        if !(wanted && self.is_recording()) {
            return self.push(out, false, |_, _| {});
        }
        let (q, k, v, segments) = (q.clone(), k.clone(), v.clone(), segments.clone());
        self.push_with_output(out, move |back, dy, out| {
            let zeros = |x: &Var| Tensor::zeros(x.rows(), x.cols());
            let (mut dq, mut dk, mut dv) = (zeros(&q), zeros(&k), zeros(&v));
            attention::backward(
                &back.context.pool,
                &shape,
                &segments,
                &q.value.data,
                &k.value.data,
                &v.value.data,
                &out.data,
                &lse,
                &dy.data,
                &mut dq.data,
                &mut dk.data,
                &mut dv.data,
            );
            back.give(&q, dq);
            back.give(&k, dk);
            back.give(&v, dv);
        })
    }
}
