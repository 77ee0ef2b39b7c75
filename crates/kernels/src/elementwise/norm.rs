//! RMSNorm: `y = x * inv_rms * weight`, `inv_rms = 1 / sqrt(mean(x²) + eps)`, row by row (Zhang & Sennrich 2019).
use super::reduce::dot_lanes;
use super::{rows_per_task, same_len, sweep};
use crate::pool::Shareable;
use crate::simd::simd_fn;
use crate::{Isa, Pool};

simd_fn! {
    /// One row; returns its inv_rms.
    pub(crate) fn rmsnorm_row<S>(s, x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) -> f32 {
        let n = y.len();
        assert!(x.len() == n && weight.len() == n);
        let (p, w, o) = (x.as_ptr(), weight.as_ptr(), y.as_mut_ptr());
        // SAFETY: all three slices hold n floats.
        unsafe {
            let inv = 1.0 / (dot_lanes(s, p, p, n) / n as f32 + eps).sqrt();
            let iv = s.splat(inv);
            sweep!(s, S, n; a = p, b = w; => o, s.mul(s.mul(a, iv), b));
            inv
        }
    }
}

simd_fn! {
    /// One row of dx = inv·(w∘dy) − x·inv³/n·Σ(w∘dy∘x).
    pub(crate) fn rmsnorm_dx_row<S>(s, x: &[f32], weight: &[f32], inv: f32, dy: &[f32], dx: &mut [f32]) {
        let n = dx.len();
        assert!(x.len() == n && weight.len() == n && dy.len() == n);
        let (p, w, d, o) = (x.as_ptr(), weight.as_ptr(), dy.as_ptr(), dx.as_mut_ptr());
        // SAFETY: all four slices hold n floats; dx serves first as the place of w∘dy.
        unsafe {
            sweep!(s, S, n; a = w, b = d; => o, s.mul(a, b));
            let c = dot_lanes(s, o, p, n) * inv * inv * inv / n as f32;
            let (iv, cv) = (s.splat(inv), s.splat(-c));
            sweep!(s, S, n; g = o, a = p; => o, s.fma(a, cv, s.mul(g, iv)));
        }
    }
}

simd_fn! {
    /// dw[c] += Σ over rows of dy·x·inv for the columns from `first` on.
    pub(crate) fn rmsnorm_dweight_columns<S>(s, x: &[f32], inv: &[f32], dy: &[f32], width: usize, first: usize, dw: &mut [f32]) {
        let n = dw.len();
        assert!(first + n <= width && x.len() == inv.len() * width && dy.len() == x.len());
        let o = dw.as_mut_ptr();
        for (r, inv) in inv.iter().enumerate() {
            let iv = s.splat(*inv);
            // SAFETY: row r and columns first..first+n lie inside x and dy by the assertion; dw holds n floats.
            unsafe {
                let (p, d) = (x.as_ptr().add(r * width + first), dy.as_ptr().add(r * width + first));
                sweep!(s, S, n; a = p, g = d, sum = o; => o, s.fma(s.mul(a, iv), g, sum));
            }
        }
    }
}

/// x `[t, width]`, weight `[width]` → y `[t, width]`, inv_rms `[t]`.
pub fn rmsnorm_forward(pool: &Pool, x: &[f32], weight: &[f32], eps: f32, y: &mut [f32], inv_rms: &mut [f32]) {
    let width = weight.len();
    same_len("x", x.len(), inv_rms.len() * width);
    same_len("y", y.len(), x.len());
    let rows = rows_per_task(width);
    let inv = Shareable(inv_rms.as_mut_ptr());
    pool.pieces_mut(y, rows * width.max(1), &|i, part| {
        for (j, row) in part.chunks_exact_mut(width).enumerate() {
            let r = i * rows + j;
            let value = rmsnorm_row(Isa::best(), &x[r * width..(r + 1) * width], weight, eps, row);
            // SAFETY: row r < t belongs to this task alone.
            unsafe { *inv.get().add(r) = value };
        }
    });
}

/// dx is overwritten; dweight, when given, is added to (rows in order, so independent of threads).
#[allow(clippy::too_many_arguments)]
pub fn rmsnorm_backward(
    pool: &Pool,
    x: &[f32],
    weight: &[f32],
    inv_rms: &[f32],
    dy: &[f32],
    dx: &mut [f32],
    dweight: Option<&mut [f32]>,
) {
    let width = weight.len();
    same_len("x", x.len(), inv_rms.len() * width);
    same_len("dy", dy.len(), x.len());
    same_len("dx", dx.len(), x.len());
    let rows = rows_per_task(width);
    pool.pieces_mut(dx, rows * width.max(1), &|i, part| {
        for (j, row) in part.chunks_exact_mut(width).enumerate() {
            let r = i * rows + j;
            let at = r * width..(r + 1) * width;
            rmsnorm_dx_row(Isa::best(), &x[at.clone()], weight, inv_rms[r], &dy[at], row);
        }
    });
    if let Some(dw) = dweight {
        same_len("dweight", dw.len(), width);
        const COLUMNS: usize = 128;
        pool.pieces_mut(dw, COLUMNS, &|i, part| {
            rmsnorm_dweight_columns(Isa::best(), x, inv_rms, dy, width, i * COLUMNS, part);
        });
    }
}
