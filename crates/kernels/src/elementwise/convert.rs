//! f32 ↔ bf16 (raw bits), round to nearest even; a NaN stays one.
use super::{TASK, same_len};
use crate::simd::simd_fn;
use crate::{Isa, Pool};

/// One value; the same bits as `half::bf16::from_f32`.
#[inline(always)]
pub(crate) fn narrow(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16;
    if bits & 0x7fff_ffff > 0x7f80_0000 { (bits >> 16) as u16 | 0x40 } else { rounded }
}

#[inline(always)]
pub(crate) fn widen(x: u16) -> f32 {
    f32::from_bits(u32::from(x) << 16)
}

simd_fn! {
    pub(crate) fn narrow_slice<S>(s, x: &[f32], y: &mut [u16]) {
        let _ = s;
        for (x, y) in x.iter().zip(y) {
            *y = narrow(*x);
        }
    }
}

simd_fn! {
    pub(crate) fn widen_slice<S>(s, x: &[u16], y: &mut [f32]) {
        let _ = s;
        for (x, y) in x.iter().zip(y) {
            *y = widen(*x);
        }
    }
}

/// Rounds every element to bf16.
pub fn f32_to_bf16(pool: &Pool, x: &[f32], y: &mut [u16]) {
    same_len("x", x.len(), y.len());
    pool.pieces_mut(y, TASK, &|i, part| narrow_slice(Isa::best(), &x[i * TASK..i * TASK + part.len()], part));
}

/// Widens every element; exact.
pub fn bf16_to_f32(pool: &Pool, x: &[u16], y: &mut [f32]) {
    same_len("x", x.len(), y.len());
    pool.pieces_mut(y, TASK, &|i, part| widen_slice(Isa::best(), &x[i * TASK..i * TASK + part.len()], part));
}
