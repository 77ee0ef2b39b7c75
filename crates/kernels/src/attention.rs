//! Causal attention (for encoders: bidirectional) over packed documents of different lengths, with grouped key/value
//! heads and head sizes that differ between keys and values (MLA). softmax(q·kᵀ·scale)·v.
//!
//! Keys are taken in fixed blocks from the document's first, with a running maximum and sum (Milakov & Gimelshein
//! 2018; Dao 2022), so no matrix of scores over all pairs exists. A row's result depends on its own query and the
//! keys it sees, in that order: decoding with a cache gives the bits of a full recompute. Gradients are summed in a
//! fixed order whatever the threads. Values are expected to be finite: a masked key's weight is 0, and 0 times an
//! infinite value of the same block would be NaN.
//!
//! Over f32 (and over bf16 on machines without AMX) the products are those of [`crate::gemm`]; over bf16 on AMX they run
//! on matrix tiles with an order of work of their own (`tiles`). Both hold to the above.
mod backward;
mod forward;
mod half;
#[cfg(test)]
mod half_tests;
mod reference;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod tiles;

use crate::gemm::{Matrix, Precision};
use crate::isa::Level;
use crate::{Isa, Pool, elementwise};
pub use half::{backward_bf16, backward_bf16_on, forward_bf16, forward_bf16_on};
pub use reference::{reference_backward, reference_forward, reference_magnitudes};

#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    pub num_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim_qk: usize,
    pub head_dim_v: usize,
    pub scale: f32,
}

/// One document: its queries are rows `q_start..q_start+q_len` of q, its keys rows `k_start..k_start+k_len` of k and v.
/// Query i sees keys `0 ..= k_len - q_len + i` of its document (the queries are the last `q_len` positions).
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    pub q_start: usize,
    pub q_len: usize,
    pub k_start: usize,
    pub k_len: usize,
}

impl Segment {
    /// Keys that query `i` sees.
    #[inline]
    fn limit(&self, i: usize) -> usize {
        self.k_len - self.q_len + i + 1
    }
}

/// What the arrays hold: f32, or bf16 bits, of which only the outermost form differs.
trait Number: Copy + Send + Sync {
    fn matrix(values: &[Self], stride: usize) -> Matrix<'_>;
    /// How operands enter products. Over bf16, weights and their gradients are rounded to bf16 only where that buys the
    /// faster multiplier.
    fn precision(isa: Isa) -> Precision;
    fn dot(isa: Isa, a: &[Self], b: &[Self]) -> f32;
    /// x·factor → out.
    fn write(isa: Isa, x: &[f32], factor: f32, out: &mut [Self]);
}

impl Number for f32 {
    fn matrix(values: &[f32], stride: usize) -> Matrix<'_> {
        Matrix::f32(values, stride)
    }
    fn precision(_: Isa) -> Precision {
        Precision::F32
    }
    fn dot(isa: Isa, a: &[f32], b: &[f32]) -> f32 {
        elementwise::dot_slice(isa, a, b)
    }
    fn write(isa: Isa, x: &[f32], factor: f32, out: &mut [f32]) {
        elementwise::scale_into(isa, x, factor, out);
    }
}

impl Number for u16 {
    fn matrix(values: &[u16], stride: usize) -> Matrix<'_> {
        Matrix::bf16(values, stride)
    }
    fn precision(isa: Isa) -> Precision {
        if isa.level() == Level::Avx512Bf16 { Precision::Bf16 } else { Precision::F32 }
    }
    fn dot(isa: Isa, a: &[u16], b: &[u16]) -> f32 {
        elementwise::dot_slice_bf16(isa, a, b)
    }
    fn write(isa: Isa, x: &[f32], factor: f32, out: &mut [u16]) {
        elementwise::scale_into_bf16(isa, x, factor, out);
    }
}

/// Keys in a block. Part of the result's definition.
const KEYS: usize = 64;
/// Queries in a block; part of the definition of dk and dv only.
const QUERIES: usize = 128;

/// q `[Tq, H, dqk]`, k `[Tk, KV, dqk]`, v `[Tk, KV, dv]` → out `[Tq, H, dv]`, lse `[Tq, H]` (log-sum-exp of the scaled
/// scores). Rows of out and lse that belong to no segment are left alone.
///
/// # Panics
/// When heads do not divide into groups, a segment reaches past its rows or has more queries than keys, or two
/// segments share a query row.
#[allow(clippy::too_many_arguments)]
pub fn forward(
    pool: &Pool,
    s: &AttentionShape,
    segments: &[Segment],
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &mut [f32],
    lse: &mut [f32],
) {
    forward_on(Isa::best(), pool, s, segments, q, k, v, out, lse);
}

/// [`forward`] with a chosen instruction set, for tests and measurements.
#[allow(clippy::too_many_arguments)]
pub fn forward_on(
    isa: Isa,
    pool: &Pool,
    s: &AttentionShape,
    segments: &[Segment],
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &mut [f32],
    lse: &mut [f32],
) {
    check(s, segments, [q.len(), k.len(), v.len()], out.len(), lse.len());
    forward::run(isa, pool, s, segments, false, q, k, v, out, lse);
}

/// Attention of encoders: as [`forward`], but every query sees every key of its segment.
///
/// # Panics
/// As [`forward`].
pub fn forward_bidirectional(
    pool: &Pool,
    s: &AttentionShape,
    segments: &[Segment],
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &mut [f32],
) {
    forward_bidirectional_on(Isa::best(), pool, s, segments, q, k, v, out);
}

/// [`forward_bidirectional`] with a chosen instruction set, for tests and measurements.
#[allow(clippy::too_many_arguments)]
pub fn forward_bidirectional_on(
    isa: Isa,
    pool: &Pool,
    s: &AttentionShape,
    segments: &[Segment],
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &mut [f32],
) {
    let mut lse = vec![0.0; out.len() / s.head_dim_v.max(1)];
    check(s, segments, [q.len(), k.len(), v.len()], out.len(), lse.len());
    forward::run(isa, pool, s, segments, true, q, k, v, out, &mut lse);
}

/// Gradients of `forward` with respect to q, k and v; dq, dk, dv are overwritten.
///
/// # Panics
/// As [`forward`], and when two segments share a key row.
#[allow(clippy::too_many_arguments)]
pub fn backward(
    pool: &Pool,
    s: &AttentionShape,
    segments: &[Segment],
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &[f32],
    lse: &[f32],
    dout: &[f32],
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
) {
    backward_on(Isa::best(), pool, s, segments, q, k, v, out, lse, dout, dq, dk, dv);
}

/// [`backward`] with a chosen instruction set, for tests and measurements.
#[allow(clippy::too_many_arguments)]
pub fn backward_on(
    isa: Isa,
    pool: &Pool,
    s: &AttentionShape,
    segments: &[Segment],
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &[f32],
    lse: &[f32],
    dout: &[f32],
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
) {
    let inputs = backward::Inputs { q, k, v, out, lse, dout };
    inputs.check(s, segments, [dq.len(), dk.len(), dv.len()]);
    backward::run(isa, pool, s, segments, &inputs, dq, dk, dv);
}

/// Panics unless the segments fit the shape and arrays of these lengths, which fit each other.
#[track_caller]
fn check(s: &AttentionShape, segments: &[Segment], [q, k, v]: [usize; 3], out: usize, lse: usize) {
    let (h, kv) = (s.num_heads, s.num_key_value_heads);
    assert!(kv > 0 && h > 0 && h.is_multiple_of(kv), "{h} heads do not divide into groups over {kv} key/value heads");
    assert!(
        s.head_dim_qk > 0 && s.head_dim_v > 0,
        "head sizes {} and {} must be positive",
        s.head_dim_qk,
        s.head_dim_v
    );
    let (tokens, keys) = (q / (h * s.head_dim_qk), k / (kv * s.head_dim_qk));
    exact("q", q, tokens * h * s.head_dim_qk);
    exact("k", k, keys * kv * s.head_dim_qk);
    exact("v", v, keys * kv * s.head_dim_v);
    exact("out", out, tokens * h * s.head_dim_v);
    exact("lse", lse, tokens * h);
    for g in segments {
        assert!(
            g.q_len <= g.k_len && g.q_start + g.q_len <= tokens && g.k_start + g.k_len <= keys,
            "{g:?} does not fit {tokens} query and {keys} key rows, or has more queries than keys"
        );
    }
    apart("query", segments.iter().map(|g| (g.q_start, g.q_len)).collect());
}

/// Panics when two ranges (start, length) overlap: tasks write them in parallel.
#[track_caller]
fn apart(what: &str, mut ranges: Vec<(usize, usize)>) {
    ranges.retain(|r| r.1 > 0);
    ranges.sort_unstable();
    for w in ranges.windows(2) {
        assert!(w[0].0 + w[0].1 <= w[1].0, "segments share {what} row {}", w[1].0);
    }
}

#[track_caller]
fn exact(name: &str, actual: usize, expected: usize) {
    assert!(actual == expected, "{name} has {actual} elements, expected {expected}");
}

/// A pool without helpers, for the products inside one task.
fn inline_pool() -> &'static Pool {
    static INLINE: std::sync::OnceLock<Pool> = std::sync::OnceLock::new();
    INLINE.get_or_init(|| Pool::new(1))
}
