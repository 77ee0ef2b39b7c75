//! GELU in place: `x·Φ(x)` with the normal distribution function itself, not its tanh approximation (Hendrycks & Gimpel
//! 2016). With u = |x|/√2 and t = 1/(1 + 0.3·u), Φ(−|x|) = e^(−u²)·t·P(t); P is the polynomial of degree 8 with the
//! smallest relative error on [1/4, 1] (2e-8, fitted by reweighted least squares to erfc), in the variable that takes
//! that range to [−1, 1]. The negative tail keeps its relative accuracy: no 1 − (1 − ε).
use super::{TASK, sweep};
use crate::simd::{Simd, exp, simd_fn};
use crate::{Isa, Pool};

/// Coefficients of P in z = (8·t − 5) / 3, the highest first.
const P: [f32; 9] = [
    -2.532_600_2e-5,
    -8.449_701e-5,
    2.717_011_4e-4,
    0.003_110_886_3,
    0.013_654_816,
    0.040_023_63,
    0.087_923_26,
    0.150_808_99,
    0.204_316_54,
];

/// x·Φ(x): x − x·Φ(−x) from 0 on, x·Φ(x) below.
#[inline(always)]
fn gelu_lanes<S: Simd>(s: S, x: S::V) -> S::V {
    let zero = s.splat(0.0);
    let size = s.max(s.sub(zero, x), x);
    let t = s.reciprocal(s.fma(size, s.splat(0.3 * std::f32::consts::FRAC_1_SQRT_2), s.splat(1.0)));
    let z = s.fma(t, s.splat(8.0 / 3.0), s.splat(-5.0 / 3.0));
    let mut p = s.splat(P[0]);
    for c in &P[1..] {
        p = s.fma(p, z, s.splat(*c));
    }
    let tail = s.mul(s.mul(exp(s, s.mul(s.mul(x, x), s.splat(-0.5))), t), p);
    // beyond, the tail is 0 in f32 and an infinite x would make it NaN
    let tail = s.mul(s.min(size, s.splat(20.0)), tail);
    s.sub(s.max(zero, x), tail)
}

simd_fn! {
    pub(crate) fn gelu_slice<S>(s, x: &mut [f32]) {
        let (p, n) = (x.as_mut_ptr(), x.len());
        // SAFETY: the slice holds n floats.
        unsafe { sweep!(s, S, n; v = p; => p, gelu_lanes(s, v)) }
    }
}

/// Every element of x, in place.
pub fn gelu(pool: &Pool, x: &mut [f32]) {
    pool.pieces_mut(x, TASK, &|_, part| gelu_slice(Isa::best(), part));
}
