//! Attention over bf16 arrays: the operands are the bf16 numbers, scores, softmax and every sum are f32, results are
//! rounded once. With AMX and with AVX512-BF16 the weights and their gradients are rounded to bf16 as well, for they are
//! operands of products there; on other sets they stay f32, and the kernels are those of the f32 form.
#[cfg(target_arch = "x86_64")]
use super::tiles;
use super::{AttentionShape, Segment, backward, check, forward};
use crate::elementwise::narrow_into;
#[cfg(target_arch = "x86_64")]
use crate::isa::Level;
use crate::{Isa, Pool};

/// [`super::forward`] over bf16: q, k, v and out are bf16 bits, lse stays f32.
///
/// # Panics
/// As [`super::forward`], and when the scale is not positive.
#[allow(clippy::too_many_arguments)]
pub fn forward_bf16(
    pool: &Pool,
    s: &AttentionShape,
    segments: &[Segment],
    q: &[u16],
    k: &[u16],
    v: &[u16],
    out: &mut [u16],
    lse: &mut [f32],
) {
    forward_bf16_on(Isa::best(), pool, s, segments, q, k, v, out, lse);
}

/// [`forward_bf16`] with a chosen instruction set, for tests and measurements.
#[allow(clippy::too_many_arguments)]
pub fn forward_bf16_on(
    isa: Isa,
    pool: &Pool,
    s: &AttentionShape,
    segments: &[Segment],
    q: &[u16],
    k: &[u16],
    v: &[u16],
    out: &mut [u16],
    lse: &mut [f32],
) {
    check(s, segments, [q.len(), k.len(), v.len()], out.len(), lse.len());
    positive(s);
    #[cfg(target_arch = "x86_64")]
    if isa.level() == Level::Amx {
        // SAFETY: an `Isa` of this level exists only where AMX and the AVX-512 sets were detected; `check` passed.
        return unsafe { tiles::forward(pool, s, segments, q, k, v, out, lse) };
    }
    forward::run(isa, pool, s, segments, false, q, k, v, out, lse);
}

/// [`super::backward`] over bf16: every array but lse is bf16 bits; dq, dk, dv are overwritten, rounded once from their
/// f32 sums.
///
/// # Panics
/// As [`super::backward`], and when the scale is not positive.
#[allow(clippy::too_many_arguments)]
pub fn backward_bf16(
    pool: &Pool,
    s: &AttentionShape,
    segments: &[Segment],
    q: &[u16],
    k: &[u16],
    v: &[u16],
    out: &[u16],
    lse: &[f32],
    dout: &[u16],
    dq: &mut [u16],
    dk: &mut [u16],
    dv: &mut [u16],
) {
    backward_bf16_on(Isa::best(), pool, s, segments, q, k, v, out, lse, dout, dq, dk, dv);
}

/// [`backward_bf16`] with a chosen instruction set, for tests and measurements.
#[allow(clippy::too_many_arguments)]
pub fn backward_bf16_on(
    isa: Isa,
    pool: &Pool,
    s: &AttentionShape,
    segments: &[Segment],
    q: &[u16],
    k: &[u16],
    v: &[u16],
    out: &[u16],
    lse: &[f32],
    dout: &[u16],
    dq: &mut [u16],
    dk: &mut [u16],
    dv: &mut [u16],
) {
    let inputs = backward::Inputs { q, k, v, out, lse, dout };
    inputs.check(s, segments, [dq.len(), dk.len(), dv.len()]);
    positive(s);
    #[cfg(target_arch = "x86_64")]
    if isa.level() == Level::Amx {
        // SAFETY: an `Isa` of this level exists only where AMX and the AVX-512 sets were detected; the
        // arguments were checked.
        return unsafe { tiles::backward(pool, s, segments, &inputs, dq, dk, dv) };
    }
    let [mut wide_q, mut wide_k, mut wide_v] = [q, k, v].map(|x| vec![0f32; x.len()]);
    backward::run(isa, pool, s, segments, &inputs, &mut wide_q, &mut wide_k, &mut wide_v);
    for (wide, narrow) in [(wide_q, dq), (wide_k, dk), (wide_v, dv)] {
        narrow_into(pool, &wide, narrow);
    }
}

#[track_caller]
fn positive(s: &AttentionShape) {
    assert!(s.scale > 0.0, "the scale of scores is {}, not positive", s.scale);
}
