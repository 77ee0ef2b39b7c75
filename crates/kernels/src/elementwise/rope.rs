//! Rotary position embedding (Su et al. 2021) on a strided range of columns, in place, from cos/sin tables.
use super::{rows_per_task, same_len};
use crate::simd::simd_fn;
use crate::{Isa, Pool};

/// Where the rotated columns lie: head `h` of row `t` starts at `t * row_stride + offset + h * head_stride` and has
/// `2 * half` of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RopeLayout {
    pub row_stride: usize,
    pub offset: usize,
    pub head_stride: usize,
    pub num_heads: usize,
    pub half: usize,
    /// Pairs are columns (2i, 2i+1) (DeepSeek) when true, (i, i + half) (Llama, Qwen) when false.
    pub interleaved: bool,
}

simd_fn! {
    /// One row of `row_stride` columns; `sign` is 1 forward and -1 for the transpose.
    pub(crate) fn rope_row<S>(s, x: &mut [f32], layout: &RopeLayout, cos: &[f32], sin: &[f32], sign: f32) {
        let half = layout.half;
        assert!(cos.len() >= half && sin.len() >= half);
        let _ = s;
        for h in 0..layout.num_heads {
            let first = layout.offset + h * layout.head_stride;
            let head = &mut x[first..first + 2 * half];
            if layout.interleaved {
                for ((pair, c), n) in head.chunks_exact_mut(2).zip(cos).zip(sin) {
                    let (a, b, n) = (pair[0], pair[1], n * sign);
                    pair[0] = a * c - b * n;
                    pair[1] = b * c + a * n;
                }
            } else {
                let (low, high) = head.split_at_mut(half);
                for (((a, b), c), n) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                    let (u, v, n) = (*a, *b, n * sign);
                    *a = u * c - v * n;
                    *b = v * c + u * n;
                }
            }
        }
    }
}

/// Rotates every pair (a, b) of row `t` by the angle of `positions[t]`: (a·c − b·s, b·c + a·s).
///
/// x `[t, row_stride]`; cos, sin `[positions, half]` (any attention scaling already multiplied in).
/// `inverse` applies the transposed matrix: the backward pass, and the inverse where cos² + sin² = 1.
pub fn rope(
    pool: &Pool,
    x: &mut [f32],
    layout: &RopeLayout,
    positions: &[u32],
    cos: &[f32],
    sin: &[f32],
    inverse: bool,
) {
    let (stride, half) = (layout.row_stride, layout.half);
    same_len("x", x.len(), positions.len() * stride);
    same_len("sin", sin.len(), cos.len());
    if x.is_empty() || layout.num_heads == 0 || half == 0 {
        return;
    }
    let last = layout.offset + (layout.num_heads - 1) * layout.head_stride + 2 * half;
    assert!(last <= stride, "the last head ends at column {last} of {stride}");
    assert!(
        layout.num_heads == 1 || layout.head_stride >= 2 * half,
        "heads are {} columns apart and {} wide",
        layout.head_stride,
        2 * half
    );
    let rows = cos.len() / half;
    if let Some(p) = positions.iter().find(|p| **p as usize >= rows) {
        panic!("position {p} is outside the rotary table of {rows} positions");
    }
    let sign = if inverse { -1.0 } else { 1.0 };
    let task = rows_per_task(layout.num_heads * half * 2);
    pool.pieces_mut(x, task * stride, &|i, part| {
        for (j, row) in part.chunks_exact_mut(stride).enumerate() {
            let p = positions[i * task + j] as usize * half;
            rope_row(Isa::best(), row, layout, &cos[p..p + half], &sin[p..p + half], sign);
        }
    });
}
