//! SwiGLU's gate: `y = silu(gate) * up`, `silu(g) = g / (1 + e^-g)` (Shazeer 2020).
use super::{TASK, same_len, sweep};
use crate::pool::Shareable;
use crate::simd::{sigmoid, simd_fn};
use crate::{Isa, Pool};

simd_fn! {
    pub(crate) fn silu_mul_slice<S>(s, gate: &[f32], up: &[f32], y: &mut [f32]) {
        let n = y.len();
        assert!(gate.len() == n && up.len() == n);
        let (p, q, o) = (gate.as_ptr(), up.as_ptr(), y.as_mut_ptr());
        // SAFETY: all three slices hold n floats.
        unsafe { sweep!(s, S, n; g = p, u = q; => o, s.mul(s.mul(g, sigmoid(s, g)), u)) }
    }
}

simd_fn! {
    /// dup = dy·silu(g); dgate = dy·up·σ(g)·(1 + g·(1 − σ(g))).
    pub(crate) fn silu_mul_backward_slice<S>(s, gate: &[f32], up: &[f32], dy: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
        let n = dgate.len();
        assert!(gate.len() == n && up.len() == n && dy.len() == n && dup.len() == n);
        let (p, q, d) = (gate.as_ptr(), up.as_ptr(), dy.as_ptr());
        let (dg, du, one) = (dgate.as_mut_ptr(), dup.as_mut_ptr(), s.splat(1.0));
        // SAFETY: all five slices hold n floats.
        unsafe {
            sweep!(s, S, n; g = p, u = q, e = d;
                f = sigmoid(s, g);
                slope = s.mul(f, s.fma(g, s.sub(one, f), one));
                => dg, s.mul(s.mul(e, u), slope);
                => du, s.mul(e, s.mul(g, f)))
        }
    }
}

/// gate, up → y, all of one length.
pub fn silu_mul_forward(pool: &Pool, gate: &[f32], up: &[f32], y: &mut [f32]) {
    same_len("gate", gate.len(), y.len());
    same_len("up", up.len(), y.len());
    pool.pieces_mut(y, TASK, &|i, part| {
        let at = i * TASK..i * TASK + part.len();
        silu_mul_slice(Isa::best(), &gate[at.clone()], &up[at], part);
    });
}

/// Gradients of [`silu_mul_forward`]; dgate and dup are overwritten.
pub fn silu_mul_backward(pool: &Pool, gate: &[f32], up: &[f32], dy: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
    for (what, len) in [("gate", gate.len()), ("up", up.len()), ("dy", dy.len()), ("dup", dup.len())] {
        same_len(what, len, dgate.len());
    }
    let out = Shareable(dup.as_mut_ptr());
    pool.pieces_mut(dgate, TASK, &|i, part| {
        let at = i * TASK..i * TASK + part.len();
        // SAFETY: the pieces of dup follow those of dgate, which has the same length.
        let dup = unsafe { std::slice::from_raw_parts_mut(out.get().add(i * TASK), part.len()) };
        silu_mul_backward_slice(Isa::best(), &gate[at.clone()], &up[at.clone()], &dy[at], part, dup);
    });
}
