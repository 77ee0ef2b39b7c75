//! Causal softmax attention over packed documents: softmax(q·kᵀ·scale)·v, no document sees another.
//! The output and the log-sum-exp are kept; scores are recomputed backward (Dao et al. 2022, algorithms 1 and 4).
use crate::{Activation, AttentionShape, Segment, Tape, Tensor, Var};
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
    /// `q [t, h*dqk]`, `k [t, kv*dqk]`, `v [t, kv*dv]` → `[t, h*dv]`, all stored alike.
    pub fn attention(&mut self, shape: AttentionShape, segments: &Arc<Vec<Segment>>, q: &Var, k: &Var, v: &Var) -> Var {
        let pool = &self.context.pool;
        let mut lse = vec![0f32; q.rows() * shape.num_heads];
        let width = shape.num_heads * shape.head_dim_v;
        let out: Activation = if q.value.is_bf16() {
            let mut out = Tensor::unfilled(q.rows(), width);
            let (q, k, v) = (q.value.bf16(), k.value.bf16(), v.value.bf16());
            attention::forward_bf16(pool, &shape, segments, &q.data, &k.data, &v.data, &mut out.data, &mut lse);
            out.into()
        } else {
            let mut out = Tensor::zeros(q.rows(), width);
            let (q, k, v) = (q.value.f32(), k.value.f32(), v.value.f32());
            attention::forward(pool, &shape, segments, &q.data, &k.data, &v.data, &mut out.data, &mut lse);
            out.into()
        };
        let wanted = q.needs_grad() || k.needs_grad() || v.needs_grad();
        if !(wanted && self.is_recording()) {
            return self.push(out, false, |_, _| {});
        }
        let (q, k, v, segments) = (q.clone(), k.clone(), v.clone(), segments.clone());
        self.push_with_output(out, move |back, dy, out| {
            let pool = &back.context.pool;
            macro_rules! run {
                ($kernel:path, $as:ident, $dy:expr) => {{
                    let (q_, k_, v_, dy) = (q.value.$as(), k.value.$as(), v.value.$as(), $dy);
                    let (mut dq, mut dk, mut dv) = (
                        Tensor::unfilled(q_.rows, q_.cols),
                        Tensor::unfilled(k_.rows, k_.cols),
                        Tensor::unfilled(v_.rows, v_.cols),
                    );
                    $kernel(
                        pool,
                        &shape,
                        &segments,
                        &q_.data,
                        &k_.data,
                        &v_.data,
                        &out.$as().data,
                        &lse,
                        &dy.data,
                        &mut dq.data,
                        &mut dk.data,
                        &mut dv.data,
                    );
                    back.give(&q, dq);
                    back.give(&k, dk);
                    back.give(&v, dv);
                }};
            }
            if q.value.is_bf16() {
                run!(attention::backward_bf16, bf16, dy.into_bf16(pool))
            } else {
                run!(attention::backward, f32, dy.into_f32(pool))
            }
        })
    }
}
