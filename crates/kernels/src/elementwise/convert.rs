//! f32 ↔ bf16 (raw bits), round to nearest even; a NaN stays one.
use super::{TASK, same_len, sweep};
use crate::simd::simd_fn;
use crate::{Isa, Pool};

simd_fn! {
    pub(crate) fn narrow_slice<S>(s, x: &[f32], y: &mut [u16]) {
        let (p, o, n) = (x.as_ptr(), y.as_mut_ptr(), x.len().min(y.len()));
        // SAFETY: both slices hold n elements.
        unsafe { sweep!(s, S, n; a = p; => o, a) }
    }
}

simd_fn! {
    pub(crate) fn widen_slice<S>(s, x: &[u16], y: &mut [f32]) {
        let (p, o, n) = (x.as_ptr(), y.as_mut_ptr(), x.len().min(y.len()));
        // SAFETY: both slices hold n elements.
        unsafe { sweep!(s, S, n; a = p; => o, a) }
    }
}

/// Rounds every element of x to bf16.
pub fn narrow_into(pool: &Pool, x: &[f32], y: &mut [u16]) {
    same_len("x", x.len(), y.len());
    pool.pieces_mut(y, TASK, &|i, part| narrow_slice(Isa::best(), &x[i * TASK..i * TASK + part.len()], part));
}

/// Widens every element of x; exact.
pub fn widen_into(pool: &Pool, x: &[u16], y: &mut [f32]) {
    same_len("x", x.len(), y.len());
    pool.pieces_mut(y, TASK, &|i, part| widen_slice(Isa::best(), &x[i * TASK..i * TASK + part.len()], part));
}
