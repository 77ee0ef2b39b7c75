//! SwiGLU's gate: `y = silu(gate) * up`, `silu(g) = g / (1 + e^-g)` (Shazeer 2020), over f32 or over bf16 that is
//! widened to f32, worked on and rounded once.
use super::{TASK, same_len, sweep};
use crate::pool::Shareable;
use crate::simd::{Element, Simd, sigmoid, simd_fn};
use crate::{Isa, Pool};

#[inline(always)]
fn forward<S: Simd, E: Element>(s: S, gate: &[E], up: &[E], y: &mut [E]) {
    let n = y.len();
    assert!(gate.len() == n && up.len() == n);
    let (p, q, o) = (gate.as_ptr(), up.as_ptr(), y.as_mut_ptr());
    // SAFETY: all three slices hold n elements.
    unsafe { sweep!(s, S, n; g = p, u = q; => o, s.mul(s.mul(g, sigmoid(s, g)), u)) }
}

/// dup = dy·silu(g); dgate = dy·up·σ(g)·(1 + g·(1 − σ(g))).
#[inline(always)]
fn backward<S: Simd, E: Element>(s: S, gate: &[E], up: &[E], dy: &[E], dgate: &mut [E], dup: &mut [E]) {
    let n = dgate.len();
    assert!(gate.len() == n && up.len() == n && dy.len() == n && dup.len() == n);
    let (p, q, d) = (gate.as_ptr(), up.as_ptr(), dy.as_ptr());
    let (dg, du, one) = (dgate.as_mut_ptr(), dup.as_mut_ptr(), s.splat(1.0));
    // SAFETY: all five slices hold n elements.
    unsafe {
        sweep!(s, S, n; g = p, u = q, e = d;
            f = sigmoid(s, g);
            slope = s.mul(f, s.fma(g, s.sub(one, f), one));
            => dg, s.mul(s.mul(e, u), slope);
            => du, s.mul(e, s.mul(g, f)))
    }
}

simd_fn! {
    pub(crate) fn silu_mul_slice<S>(s, gate: &[f32], up: &[f32], y: &mut [f32]) {
        forward(s, gate, up, y);
    }
}

simd_fn! {
    pub(crate) fn silu_mul_slice_bf16<S>(s, gate: &[u16], up: &[u16], y: &mut [u16]) {
        forward(s, gate, up, y);
    }
}

simd_fn! {
    pub(crate) fn silu_mul_backward_slice<S>(s, gate: &[f32], up: &[f32], dy: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
        backward(s, gate, up, dy, dgate, dup);
    }
}

simd_fn! {
    pub(crate) fn silu_mul_backward_slice_bf16<S>(s, gate: &[u16], up: &[u16], dy: &[u16], dgate: &mut [u16], dup: &mut [u16]) {
        backward(s, gate, up, dy, dgate, dup);
    }
}

/// gate, up → y, all of one length.
pub fn silu_mul_forward(pool: &Pool, gate: &[f32], up: &[f32], y: &mut [f32]) {
    forward_pieces(pool, silu_mul_slice, gate, up, y);
}

/// As [`silu_mul_forward`], over bf16.
pub fn silu_mul_forward_bf16(pool: &Pool, gate: &[u16], up: &[u16], y: &mut [u16]) {
    forward_pieces(pool, silu_mul_slice_bf16, gate, up, y);
}

/// Gradients of [`silu_mul_forward`]; dgate and dup are overwritten.
pub fn silu_mul_backward(pool: &Pool, gate: &[f32], up: &[f32], dy: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
    backward_pieces(pool, silu_mul_backward_slice, gate, up, dy, dgate, dup);
}

/// As [`silu_mul_backward`], over bf16.
pub fn silu_mul_backward_bf16(pool: &Pool, gate: &[u16], up: &[u16], dy: &[u16], dgate: &mut [u16], dup: &mut [u16]) {
    backward_pieces(pool, silu_mul_backward_slice_bf16, gate, up, dy, dgate, dup);
}

fn forward_pieces<E: Send + Sync>(
    pool: &Pool,
    slice: fn(Isa, &[E], &[E], &mut [E]),
    gate: &[E],
    up: &[E],
    y: &mut [E],
) {
    same_len("gate", gate.len(), y.len());
    same_len("up", up.len(), y.len());
    pool.pieces_mut(y, TASK, &|i, part| {
        let at = i * TASK..i * TASK + part.len();
        slice(Isa::best(), &gate[at.clone()], &up[at], part);
    });
}

#[allow(clippy::type_complexity)]
fn backward_pieces<E: Send + Sync>(
    pool: &Pool,
    slice: fn(Isa, &[E], &[E], &[E], &mut [E], &mut [E]),
    gate: &[E],
    up: &[E],
    dy: &[E],
    dgate: &mut [E],
    dup: &mut [E],
) {
    for (what, len) in [("gate", gate.len()), ("up", up.len()), ("dy", dy.len()), ("dup", dup.len())] {
        same_len(what, len, dgate.len());
    }
    let out = Shareable(dup.as_mut_ptr());
    pool.pieces_mut(dgate, TASK, &|i, part| {
        let at = i * TASK..i * TASK + part.len();
        // SAFETY: the pieces of dup follow those of dgate, which has the same length.
        let dup = unsafe { std::slice::from_raw_parts_mut(out.get().add(i * TASK), part.len()) };
        slice(Isa::best(), &gate[at.clone()], &up[at.clone()], &dy[at], part, dup);
    });
}
