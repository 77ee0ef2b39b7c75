//! Rotary position embedding (Su et al. 2021) on a strided range of columns, in place, from cos/sin tables.
use super::convert::{narrow_into, narrow_slice};
use super::{rows_per_task, same_len};
use crate::scratch::{LOCAL, with_f32};
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

simd_fn! {
    /// As `rope_row` over bf16: widened, rotated, rounded once.
    pub(crate) fn rope_row_bf16<S>(s, x: &mut [u16], layout: &RopeLayout, cos: &[f32], sin: &[f32], sign: f32) {
        let half = layout.half;
        assert!(cos.len() >= half && sin.len() >= half);
        let (c, n, sign) = (cos.as_ptr(), sin.as_ptr(), s.splat(sign));
        for h in 0..layout.num_heads {
            let first = layout.offset + h * layout.head_stride;
            let head = x[first..first + 2 * half].as_mut_ptr();
            let mut i = 0;
            while i < half {
                let m = (half - i).min(S::LANES);
                // SAFETY: the head holds 2·half elements and the tables at least half; i + m <= half.
                unsafe {
                    let (c, n) = (s.load_n(c.add(i), m), s.mul(s.load_n(n.add(i), m), sign));
                    let (low, high) = (head.add(i), head.add(half + i));
                    let (a, b) = if layout.interleaved {
                        s.load_pairs(head.add(2 * i), m)
                    } else {
                        (s.load_bf16(low, m), s.load_bf16(high, m))
                    };
                    let (u, v) = (s.sub(s.mul(a, c), s.mul(b, n)), s.add(s.mul(b, c), s.mul(a, n)));
                    if layout.interleaved {
                        s.store_pairs(head.add(2 * i), m, u, v);
                    } else {
                        s.store_bf16(low, m, u);
                        s.store_bf16(high, m, v);
                    }
                }
                i += m;
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
    in_place(pool, rope_row, x, layout, positions, cos, sin, inverse);
}

/// As [`rope`], over bf16; q and k lying side by side in one buffer are one call when their heads have one size.
pub fn rope_bf16(
    pool: &Pool,
    x: &mut [u16],
    layout: &RopeLayout,
    positions: &[u32],
    cos: &[f32],
    sin: &[f32],
    inverse: bool,
) {
    in_place(pool, rope_row_bf16, x, layout, positions, cos, sin, inverse);
}

/// y = [`rope`] of x, rounded to bf16; columns outside the heads are rounded as they are.
#[allow(clippy::too_many_arguments)]
pub fn rope_narrow(
    pool: &Pool,
    x: &[f32],
    layout: &RopeLayout,
    positions: &[u32],
    cos: &[f32],
    sin: &[f32],
    inverse: bool,
    y: &mut [u16],
) {
    same_len("y", y.len(), x.len());
    let (stride, half) = (layout.row_stride, layout.half);
    if !check(layout, x.len(), positions, cos, sin) {
        return narrow_into(pool, x, y);
    }
    let sign = if inverse { -1.0 } else { 1.0 };
    let task = rows_per_task(stride);
    pool.pieces_mut(y, task * stride, &|i, part| {
        with_f32(&LOCAL, stride, |turned| {
            for (j, row) in part.chunks_exact_mut(stride).enumerate() {
                let t = i * task + j;
                let p = positions[t] as usize * half;
                turned.copy_from_slice(&x[t * stride..(t + 1) * stride]);
                rope_row(Isa::best(), turned, layout, &cos[p..p + half], &sin[p..p + half], sign);
                narrow_slice(Isa::best(), turned, row);
            }
        });
    });
}

/// Whether there is anything to turn.
#[track_caller]
fn check(layout: &RopeLayout, len: usize, positions: &[u32], cos: &[f32], sin: &[f32]) -> bool {
    let (stride, half) = (layout.row_stride, layout.half);
    same_len("x", len, positions.len() * stride);
    same_len("sin", sin.len(), cos.len());
    if len == 0 || layout.num_heads == 0 || half == 0 {
        return false;
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
    true
}

/// isa, row, layout, cos, sin, sign
type Turn<E> = fn(Isa, &mut [E], &RopeLayout, &[f32], &[f32], f32);

#[allow(clippy::too_many_arguments)]
fn in_place<E: Send>(
    pool: &Pool,
    one: Turn<E>,
    x: &mut [E],
    layout: &RopeLayout,
    positions: &[u32],
    cos: &[f32],
    sin: &[f32],
    inverse: bool,
) {
    if !check(layout, x.len(), positions, cos, sin) {
        return;
    }
    let (stride, half) = (layout.row_stride, layout.half);
    let sign = if inverse { -1.0 } else { 1.0 };
    let task = rows_per_task(layout.num_heads * half * 2);
    pool.pieces_mut(x, task * stride, &|i, part| {
        for (j, row) in part.chunks_exact_mut(stride).enumerate() {
            let p = positions[i * task + j] as usize * half;
            one(Isa::best(), row, layout, &cos[p..p + half], &sin[p..p + half], sign);
        }
    });
}
