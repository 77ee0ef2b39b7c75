//! Sums over slices in fixed pieces of 4096 (f32 inside a piece, f64 across), and element-wise add and scale.
use super::{TASK, rows_per_task, same_len, sweep};
use crate::simd::{Element, Simd, simd_fn};
use crate::{Isa, Pool};

/// Elements summed in f32 before the sum moves to f64; part of the result's definition, so never tuned at run time.
const PIECE: usize = 4096;

/// Σ p[i]·q[i] with four vectors of partial sums; the order depends on `n` alone.
/// # Safety
/// `p` and `q` are valid for reading `n` elements.
#[inline(always)]
pub(crate) unsafe fn dot_lanes<S: Simd, E: Element>(s: S, p: *const E, q: *const E, n: usize) -> f32 {
    let zero = s.splat(0.0);
    let mut acc = [zero; 4];
    let mut i = 0;
    // SAFETY: every access ends at or before n.
    unsafe {
        while i + 4 * S::LANES <= n {
            for (j, a) in acc.iter_mut().enumerate() {
                let at = i + j * S::LANES;
                *a = s.fma(E::load(s, p.add(at), S::LANES), E::load(s, q.add(at), S::LANES), *a);
            }
            i += 4 * S::LANES;
        }
        while i < n {
            let c = (n - i).min(S::LANES);
            acc[0] = s.fma(E::load(s, p.add(i), c), E::load(s, q.add(i), c), acc[0]);
            i += c;
        }
    }
    s.sum(s.add(s.add(acc[0], acc[1]), s.add(acc[2], acc[3])))
}

simd_fn! {
    /// Σ a[i]·b[i] over equally long slices, in one f32 sum.
    pub(crate) fn dot_slice<S>(s, a: &[f32], b: &[f32]) -> f32 {
        let n = a.len().min(b.len());
        // SAFETY: both slices hold n floats.
        unsafe { dot_lanes(s, a.as_ptr(), b.as_ptr(), n) }
    }
}

simd_fn! {
    /// As `dot_slice`, over bf16.
    pub(crate) fn dot_slice_bf16<S>(s, a: &[u16], b: &[u16]) -> f32 {
        let n = a.len().min(b.len());
        // SAFETY: both slices hold n elements.
        unsafe { dot_lanes(s, a.as_ptr(), b.as_ptr(), n) }
    }
}

simd_fn! {
    fn axpy_slice<S>(s, alpha: f32, x: &[f32], y: &mut [f32]) {
        let (p, q, n, a) = (x.as_ptr(), y.as_mut_ptr(), x.len().min(y.len()), s.splat(alpha));
        // SAFETY: both slices hold n floats.
        unsafe { sweep!(s, S, n; u = p, v = q; => q, s.fma(a, u, v)) }
    }
}

simd_fn! {
    /// y = x·alpha.
    pub(crate) fn scale_into<S>(s, x: &[f32], alpha: f32, y: &mut [f32]) {
        let (p, q, n, a) = (x.as_ptr(), y.as_mut_ptr(), x.len().min(y.len()), s.splat(alpha));
        // SAFETY: both slices hold n elements.
        unsafe { sweep!(s, S, n; v = p; => q, s.mul(v, a)) }
    }
}

simd_fn! {
    /// As `scale_into`, rounded to bf16.
    pub(crate) fn scale_into_bf16<S>(s, x: &[f32], alpha: f32, y: &mut [u16]) {
        let (p, q, n, a) = (x.as_ptr(), y.as_mut_ptr(), x.len().min(y.len()), s.splat(alpha));
        // SAFETY: both slices hold n elements.
        unsafe { sweep!(s, S, n; v = p; => q, s.mul(v, a)) }
    }
}

simd_fn! {
    fn scale_slice<S>(s, alpha: f32, x: &mut [f32]) {
        let (p, n, a) = (x.as_mut_ptr(), x.len(), s.splat(alpha));
        // SAFETY: the slice holds n floats.
        unsafe { sweep!(s, S, n; v = p; => p, s.mul(v, a)) }
    }
}

simd_fn! {
    fn add_slice<S>(s, x: &[f32], y: &mut [f32]) {
        let (p, q, n) = (x.as_ptr(), y.as_mut_ptr(), x.len().min(y.len()));
        // SAFETY: both slices hold n floats.
        unsafe { sweep!(s, S, n; u = p, v = q; => q, s.add(u, v)) }
    }
}

simd_fn! {
    fn add_slice_bf16<S>(s, x: &[u16], y: &mut [f32]) {
        let (p, q, n) = (x.as_ptr(), y.as_mut_ptr(), x.len().min(y.len()));
        // SAFETY: both slices hold n elements.
        unsafe { sweep!(s, S, n; u = p, v = q; => q, s.add(u, v)) }
    }
}

/// `y += x` where x is bf16.
pub fn add_bf16(pool: &Pool, x: &[u16], y: &mut [f32]) {
    same_len("x", x.len(), y.len());
    pool.pieces_mut(y, TASK, &|i, part| add_slice_bf16(Isa::best(), &x[i * TASK..i * TASK + part.len()], part));
}

/// `y += x`.
pub fn add(pool: &Pool, x: &[f32], y: &mut [f32]) {
    same_len("x", x.len(), y.len());
    pool.pieces_mut(y, TASK, &|i, part| add_slice(Isa::best(), &x[i * TASK..i * TASK + part.len()], part));
}

/// `y += alpha * x`.
pub fn axpy(pool: &Pool, alpha: f32, x: &[f32], y: &mut [f32]) {
    same_len("x", x.len(), y.len());
    pool.pieces_mut(y, TASK, &|i, part| axpy_slice(Isa::best(), alpha, &x[i * TASK..i * TASK + part.len()], part));
}

/// `x *= alpha`.
pub fn scale(pool: &Pool, alpha: f32, x: &mut [f32]) {
    pool.pieces_mut(x, TASK, &|_, part| scale_slice(Isa::best(), alpha, part));
}

/// Adds `row` `[width]` to every row of `y` `[t, width]` (a bias).
pub fn add_rows(pool: &Pool, row: &[f32], y: &mut [f32]) {
    let width = row.len();
    assert!(width > 0 && y.len().is_multiple_of(width), "y has {} elements, not whole rows of {width}", y.len());
    pool.pieces_mut(y, rows_per_task(width) * width, &|_, part| {
        part.chunks_exact_mut(width).for_each(|r| add_slice(Isa::best(), row, r));
    });
}

/// Adds the sum of the rows of `x` `[t, width]` to `sum` `[width]` (a bias gradient), row by row from the first.
pub fn sum_rows(pool: &Pool, x: &[f32], sum: &mut [f32]) {
    let width = sum.len();
    assert!(width > 0 && x.len().is_multiple_of(width), "x has {} elements, not whole rows of {width}", x.len());
    pool.pieces_mut(sum, 256, &|i, part| {
        for row in x.chunks_exact(width) {
            add_slice(Isa::best(), &row[i * 256..i * 256 + part.len()], part);
        }
    });
}

/// Σ a[i]·b[i].
pub fn dot(pool: &Pool, a: &[f32], b: &[f32]) -> f64 {
    same_len("b", b.len(), a.len());
    let pieces = a.len().div_ceil(PIECE);
    if pieces <= 1 {
        return f64::from(dot_slice(Isa::best(), a, b));
    }
    let mut sums = vec![0f64; pieces];
    pool.pieces_mut(&mut sums, 8, &|i, part| {
        for (j, sum) in part.iter_mut().enumerate() {
            let first = (i * 8 + j) * PIECE;
            let last = (first + PIECE).min(a.len());
            *sum = f64::from(dot_slice(Isa::best(), &a[first..last], &b[first..last]));
        }
    });
    sums.iter().sum()
}

/// Σ a[i]².
pub fn sum_squares(pool: &Pool, a: &[f32]) -> f64 {
    dot(pool, a, a)
}
