//! The last thing done to a block of sums: scale, bias, residual, addition to C, rounding to bf16, while it is in L1.
//! Takes four tiles of f32, writes up to 32 x 32 elements of the output. Multiply and add are never fused, so the value
//! is the same on every instruction set's epilogue.
use super::pack_avx512::transpose;
use super::product::{Finish, Target};
use crate::simd::mask16;
use std::arch::x86_64::*;

/// Writes the block whose first element is (row, column). `turned`: the tiles hold the block's transpose.
/// # Safety
/// The machine has AVX-512 with BF16, `tiles` holds four tiles, the block starts inside C, and the output, bias and
/// residual are those of a checked product whose block nobody else touches.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")]
pub(super) unsafe fn write(f: &Finish, tiles: *const f32, turned: bool, row: usize, column: usize) {
    let columns = f.n - column;
    let (left, right) = (mask16(columns), mask16(columns.saturating_sub(16)));
    let alpha = _mm512_set1_ps(f.alpha);
    // SAFETY: masked to columns inside n; addresses past them are not followed.
    let load =
        |p: *const f32| unsafe { (_mm512_maskz_loadu_ps(left, p), _mm512_maskz_loadu_ps(right, p.wrapping_add(16))) };
    let bias = f.bias.map(|b| load(b.as_ptr().wrapping_add(column)));
    for half in 0..2 {
        let first = row + half * 16;
        let rows = f.m.saturating_sub(first).min(16);
        // SAFETY: one of the four tiles.
        let tile = |i: usize| unsafe { read(tiles.add(i * 256)) };
        let (x, y) = if turned {
            (transpose(tile(half)), transpose(tile(2 + half)))
        } else {
            (tile(2 * half), tile(2 * half + 1))
        };
        for (i, (x, y)) in x.into_iter().zip(y).enumerate() {
            if i >= rows {
                break;
            }
            let r = first + i;
            let mut x = _mm512_mul_ps(alpha, _mm512_castsi512_ps(x));
            let mut y = _mm512_mul_ps(alpha, _mm512_castsi512_ps(y));
            if let Some((b, c)) = bias {
                (x, y) = (_mm512_add_ps(x, b), _mm512_add_ps(y, c));
            }
            if let Some(p) = f.residual {
                let (b, c) = load(p.as_ptr().wrapping_add(r * f.n + column));
                (x, y) = (_mm512_add_ps(x, b), _mm512_add_ps(y, c));
            }
            match f.c {
                Target::F32(c) => {
                    let p = c.get().wrapping_add(r * f.c_stride + column);
                    if f.accumulate {
                        let (b, c) = load(p);
                        (x, y) = (_mm512_add_ps(x, b), _mm512_add_ps(y, c));
                    }
                    // SAFETY: row r and the masked columns are inside C.
                    unsafe {
                        _mm512_mask_storeu_ps(p, left, x);
                        _mm512_mask_storeu_ps(p.wrapping_add(16), right, y);
                    }
                }
                Target::Bf16(c) => {
                    let p = c.get().wrapping_add(r * f.c_stride + column);
                    let mask = u32::from(left) | u32::from(right) << 16;
                    // SAFETY: row r and the masked columns are inside C; both types are 64 plain bytes.
                    unsafe {
                        let both = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(y, x));
                        _mm512_mask_storeu_epi16(p.cast(), mask, both);
                    }
                }
            }
        }
    }
}

/// A tile's 16 rows.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn read(tile: *const f32) -> [__m512i; 16] {
    let mut v = [_mm512_setzero_si512(); 16];
    for (i, x) in v.iter_mut().enumerate() {
        // SAFETY: the caller vouches for 16 rows of 16.
        *x = unsafe { _mm512_loadu_si512(tile.add(i * 16).cast()) };
    }
    v
}
