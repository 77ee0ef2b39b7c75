//! LayerNorm in place: `x = (x − mean) / sqrt(variance + eps) * weight + bias`, row by row (Ba et al. 2016). The variance
//! is that of the centred row, a second pass over what is in the first-level cache: no cancellation.
use super::{rows_per_task, same_len, sweep};
use crate::simd::simd_fn;
use crate::{Isa, Pool};

simd_fn! {
    pub(crate) fn layernorm_row<S>(s, x: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) {
        let n = x.len();
        assert!(weight.len() == n && bias.len() == n);
        let (p, w, b) = (x.as_mut_ptr(), weight.as_ptr(), bias.as_ptr());
        let mut acc = [s.splat(0.0); 4];
        let mut i = 0;
        // SAFETY: all three slices hold n floats, and no access reaches past n.
        unsafe {
            while i < n {
                for a in &mut acc {
                    let c = (n - i.min(n)).min(S::LANES);
                    *a = s.add(*a, s.load_n(p.add(i.min(n)), c));
                    i += S::LANES;
                }
            }
            let sum = s.sum(s.add(s.add(acc[0], acc[1]), s.add(acc[2], acc[3])));
            let mean = s.splat(sum / n as f32);
            sweep!(s, S, n; v = p; => p, s.sub(v, mean));
            let inv = s.splat(1.0 / (super::reduce::dot_lanes(s, p.cast_const(), p.cast_const(), n) / n as f32 + eps).sqrt());
            sweep!(s, S, n; v = p, g = w, c = b; => p, s.fma(s.mul(v, inv), g, c));
        }
    }
}

/// x `[t, width]` in place, weight and bias `[width]`.
pub fn layernorm(pool: &Pool, x: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) {
    let width = weight.len();
    same_len("bias", bias.len(), width);
    assert!(width > 0 && x.len().is_multiple_of(width), "x has {} elements, not whole rows of {width}", x.len());
    pool.pieces_mut(x, rows_per_task(width) * width, &|_, part| {
        part.chunks_exact_mut(width).for_each(|row| layernorm_row(Isa::best(), row, weight, bias, eps));
    });
}
