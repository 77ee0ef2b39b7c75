//! RMSNorm: `y = x * inv_rms * weight`, `inv_rms = 1 / sqrt(mean(x²) + eps)`, row by row (Zhang & Sennrich 2019).
use super::reduce::dot_lanes;
use super::{rows_per_task, same_len, sweep};
use crate::pool::Shareable;
use crate::simd::{Element, Simd, simd_fn};
use crate::{Isa, Pool};

/// isa, x, weight, eps, y → inv_rms
type ForwardRow<E> = fn(Isa, &[f32], &[f32], f32, &mut [E]) -> f32;
/// isa, x, weight, inv_rms, dy, dx
type BackwardRow = fn(Isa, &[f32], &[f32], f32, &[f32], &mut [f32]);

#[inline(always)]
fn row<S: Simd, E: Element>(s: S, x: &[f32], weight: &[f32], eps: f32, y: &mut [E]) -> f32 {
    let n = y.len();
    assert!(x.len() == n && weight.len() == n);
    let (p, w, o) = (x.as_ptr(), weight.as_ptr(), y.as_mut_ptr());
    // SAFETY: all three slices hold n elements.
    unsafe {
        let inv = 1.0 / (dot_lanes(s, p, p, n) / n as f32 + eps).sqrt();
        let iv = s.splat(inv);
        sweep!(s, S, n; a = p, b = w; => o, s.mul(s.mul(a, iv), b));
        inv
    }
}

simd_fn! {
    /// One row; returns its inv_rms.
    pub(crate) fn rmsnorm_row<S>(s, x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) -> f32 {
        row(s, x, weight, eps, y)
    }
}

simd_fn! {
    /// As `rmsnorm_row`, y rounded to bf16.
    pub(crate) fn rmsnorm_row_bf16<S>(s, x: &[f32], weight: &[f32], eps: f32, y: &mut [u16]) -> f32 {
        row(s, x, weight, eps, y)
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

/// Σ a[i]·b[i]·c[i] with four vectors of partial sums; the order depends on `n` alone.
/// # Safety
/// All three are valid for reading `n` floats.
#[inline(always)]
unsafe fn dot3<S: Simd>(s: S, a: *const f32, b: *const f32, c: *const f32, n: usize) -> f32 {
    let mut acc = [s.splat(0.0); 4];
    let mut i = 0;
    // SAFETY: every access ends at or before n.
    unsafe {
        while i + 4 * S::LANES <= n {
            for (j, sum) in acc.iter_mut().enumerate() {
                let at = i + j * S::LANES;
                *sum = s.fma(s.mul(s.load(a.add(at)), s.load(b.add(at))), s.load(c.add(at)), *sum);
            }
            i += 4 * S::LANES;
        }
        while i < n {
            let m = (n - i).min(S::LANES);
            acc[0] = s.fma(s.mul(s.load_n(a.add(i), m), s.load_n(b.add(i), m)), s.load_n(c.add(i), m), acc[0]);
            i += m;
        }
    }
    s.sum(s.add(s.add(acc[0], acc[1]), s.add(acc[2], acc[3])))
}

simd_fn! {
    /// As `rmsnorm_dx_row`, added to what dx holds.
    pub(crate) fn rmsnorm_dx_add_row<S>(s, x: &[f32], weight: &[f32], inv: f32, dy: &[f32], dx: &mut [f32]) {
        let n = dx.len();
        assert!(x.len() == n && weight.len() == n && dy.len() == n);
        let (p, w, d, o) = (x.as_ptr(), weight.as_ptr(), dy.as_ptr(), dx.as_mut_ptr());
        // SAFETY: all four slices hold n floats.
        unsafe {
            let c = dot3(s, w, d, p, n) * inv * inv * inv / n as f32;
            let (iv, cv) = (s.splat(inv), s.splat(-c));
            sweep!(s, S, n; a = p, b = w, g = d, sum = o; => o, s.add(sum, s.fma(a, cv, s.mul(s.mul(b, g), iv))));
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
    forward(pool, rmsnorm_row, x, weight, eps, y, inv_rms);
}

/// As [`rmsnorm_forward`], y rounded to bf16.
pub fn rmsnorm_forward_bf16(pool: &Pool, x: &[f32], weight: &[f32], eps: f32, y: &mut [u16], inv_rms: &mut [f32]) {
    forward(pool, rmsnorm_row_bf16, x, weight, eps, y, inv_rms);
}

fn forward<E: Send>(
    pool: &Pool,
    one: ForwardRow<E>,
    x: &[f32],
    weight: &[f32],
    eps: f32,
    y: &mut [E],
    inv_rms: &mut [f32],
) {
    let width = weight.len();
    same_len("x", x.len(), inv_rms.len() * width);
    same_len("y", y.len(), x.len());
    let rows = rows_per_task(width);
    let inv = Shareable(inv_rms.as_mut_ptr());
    pool.pieces_mut(y, rows * width.max(1), &|i, part| {
        for (j, row) in part.chunks_exact_mut(width).enumerate() {
            let r = i * rows + j;
            let value = one(Isa::best(), &x[r * width..(r + 1) * width], weight, eps, row);
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
    backward(pool, rmsnorm_dx_row, x, weight, inv_rms, dy, dx, dweight);
}

/// As [`rmsnorm_backward`], but dx is added to: the gradient that went around the norm stays where it is.
#[allow(clippy::too_many_arguments)]
pub fn rmsnorm_backward_add(
    pool: &Pool,
    x: &[f32],
    weight: &[f32],
    inv_rms: &[f32],
    dy: &[f32],
    dx: &mut [f32],
    dweight: Option<&mut [f32]>,
) {
    backward(pool, rmsnorm_dx_add_row, x, weight, inv_rms, dy, dx, dweight);
}

#[allow(clippy::too_many_arguments)]
fn backward(
    pool: &Pool,
    one: BackwardRow,
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
            one(Isa::best(), &x[at.clone()], weight, inv_rms[r], &dy[at], row);
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
