//! The checks of operations over bf16: operands are bf16 numbers, so the f64 reference sees what the kernel sees, and
//! what is left is the rounding of the result (and, in attention, of the weights).
use super::checks::{EPS, LENGTHS, documents, gates, larger, mixed, normal};
use crate::attention::{self, Segment};
use crate::elementwise::{self as ew, RopeLayout, narrow, reference, widen};
use crate::{Isa, Pool};

fn bits(x: &[f32]) -> Vec<u16> {
    x.iter().map(|x| narrow(*x)).collect()
}

fn wide(x: &[u16]) -> Vec<f32> {
    x.iter().map(|x| widen(*x)).collect()
}

/// Largest |got − want| / (2^-8·|want| + 2e-6): one rounding to bf16 is below 1.
fn rounded(got: &[u16], want: &[f64]) -> f64 {
    if got.len() != want.len() {
        return f64::INFINITY;
    }
    let error = |(g, w): (&u16, &f64)| (f64::from(widen(*g)) - w).abs() / (w.abs() / 256.0 + 2e-6);
    got.iter().zip(want).map(error).fold(0.0, larger)
}

pub(super) fn rmsnorm_forward_bf16(isa: Isa) -> f64 {
    LENGTHS.iter().fold(0.0, |e, n| {
        let (x, w) = (normal(*n, 1), normal(*n, 2));
        let mut y = vec![0u16; *n];
        let inv = ew::rmsnorm_row_bf16(isa, &x, &w, EPS, &mut y);
        let (want, want_inv) = reference::rmsnorm(&x, &w, EPS);
        // The statistic itself is f32.
        let fault = if mixed(&[inv], &[want_inv]) <= 1e-6 { 0.0 } else { f64::INFINITY };
        larger(e, larger(rounded(&y, &want), fault))
    })
}

pub(super) fn silu_mul_forward_bf16(isa: Isa) -> f64 {
    LENGTHS.iter().fold(0.0, |e, n| {
        let (g, u) = (bits(&gates(*n)), bits(&normal(*n, 2)));
        let mut y = vec![0u16; *n];
        ew::silu_mul_slice_bf16(isa, &g, &u, &mut y);
        let want: Vec<f64> = wide(&g).iter().zip(&wide(&u)).map(|(g, u)| reference::silu_mul(*g, *u)).collect();
        larger(e, rounded(&y, &want))
    })
}

pub(super) fn silu_mul_backward_bf16(isa: Isa) -> f64 {
    LENGTHS.iter().fold(0.0, |e, n| {
        let [g, u, dy] = [gates(*n), normal(*n, 2), normal(*n, 3)].map(|x| bits(&x));
        let (mut dg, mut du) = (vec![0u16; *n], vec![0u16; *n]);
        ew::silu_mul_backward_slice_bf16(isa, &g, &u, &dy, &mut dg, &mut du);
        let want = (0..*n).map(|i| reference::silu_mul_backward(widen(g[i]), widen(u[i]), widen(dy[i])));
        let (want_g, want_u): (Vec<f64>, Vec<f64>) = want.unzip();
        larger(e, larger(rounded(&dg, &want_g), rounded(&du, &want_u)))
    })
}

pub(super) fn rope_bf16(isa: Isa) -> f64 {
    let mut worst = 0.0;
    for half in [1, 4, 16, 33, 64] {
        let angles = normal(half, 1);
        let (cos, sin): (Vec<f32>, Vec<f32>) = angles.iter().map(|a| (a.cos(), a.sin())).unzip();
        for choice in 0..4 {
            let (interleaved, inverse) = (choice & 1 != 0, choice & 2 != 0);
            let head_stride = 2 * half + 3;
            let row_stride = 2 + 3 * head_stride;
            let layout = RopeLayout { row_stride, offset: 2, head_stride, num_heads: 3, half, interleaved };
            let x = bits(&normal(row_stride, 2));
            let mut y = x.clone();
            ew::rope_row_bf16(isa, &mut y, &layout, &cos, &sin, if inverse { -1.0 } else { 1.0 });
            worst = larger(worst, rounded(&y, &reference::rope_row(&wide(&x), &layout, &cos, &sin, inverse)));
        }
    }
    worst
}

/// |got − want| of each row of `width` over 2^-8·|want| + 2^-9·|magnitudes|, norms of the row.
pub(crate) fn rows(got: &[u16], want: &[f64], magnitudes: &[f64], width: usize) -> f64 {
    if got.len() != want.len() || got.len() != magnitudes.len() {
        return f64::INFINITY;
    }
    let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
    let mut worst = 0.0;
    for i in (0..got.len()).step_by(width) {
        let (want, magnitudes) = (&want[i..i + width], &magnitudes[i..i + width]);
        let error: Vec<f64> = got[i..i + width].iter().zip(want).map(|(g, w)| f64::from(widen(*g)) - w).collect();
        worst = larger(worst, norm(&error) / (norm(want) / 256.0 + norm(magnitudes) / 512.0 + 1e-6));
    }
    worst
}

/// (q, k, v) as bf16, out, lse.
type Forward = ([Vec<u16>; 3], Vec<u16>, Vec<f32>);

fn forward(isa: Isa, d: &super::checks::Documents) -> Forward {
    let [q, k, v] = [&d.q, &d.k, &d.v].map(|x| bits(x));
    let rows = q.len() / d.s.head_dim_qk;
    let (mut out, mut lse) = (vec![0x7fc0u16; rows * d.s.head_dim_v], vec![f32::NAN; rows]);
    attention::forward_bf16_on(isa, &Pool::new(2), &d.s, &d.segments, &q, &k, &v, &mut out, &mut lse);
    ([q, k, v], out, lse)
}

pub(super) fn attention_forward_bf16(isa: Isa) -> f64 {
    let d = documents();
    let (qkv, out, lse) = forward(isa, &d);
    let [q, k, v] = qkv.map(|x| wide(&x));
    let (want, want_lse) = attention::reference_forward(&d.s, &d.segments, &q, &k, &v);
    let zero = vec![0f32; out.len()];
    let [magnitudes, ..] = attention::reference_magnitudes(&d.s, &d.segments, &q, &k, &v, &zero);
    let fault = if mixed(&lse, &want_lse) <= 3e-6 { 0.0 } else { f64::INFINITY };
    larger(rows(&out, &want, &magnitudes, d.s.head_dim_v), fault)
}

pub(super) fn attention_backward_bf16(isa: Isa) -> f64 {
    let d = documents();
    let (qkv, out, lse) = forward(isa, &d);
    let [q, k, v] = &qkv;
    let dout = bits(&normal(out.len(), 4));
    let [mut dq, mut dk, mut dv] = [q, k, v].map(|x| vec![0x7fc0u16; x.len()]);
    let (s, segments): (_, &[Segment]) = (&d.s, &d.segments);
    let pool = Pool::new(2);
    attention::backward_bf16_on(isa, &pool, s, segments, q, k, v, &out, &lse, &dout, &mut dq, &mut dk, &mut dv);
    let [q, k, v, dout] = [q, k, v, &dout].map(|x| wide(x));
    let (want_q, want_k, want_v) = attention::reference_backward(s, segments, &q, &k, &v, &dout);
    let [_, mq, mk, mv] = attention::reference_magnitudes(s, segments, &q, &k, &v, &dout);
    let errors = [
        rows(&dq, &want_q, &mq, s.head_dim_qk),
        rows(&dk, &want_k, &mk, s.head_dim_qk),
        rows(&dv, &want_v, &mv, s.head_dim_v),
    ];
    errors.into_iter().fold(0.0, larger)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_measures_see_faults() {
        let x: Vec<f64> = (0..40).map(|i| f64::from(i) * 0.37 - 7.0).collect();
        let y: Vec<f32> = x.iter().map(|x| *x as f32).collect();
        let mut got = bits(&y);
        assert!(rounded(&got, &x) <= 1.0 && rows(&got, &x, &x, 20) <= 1.0);
        got[33] += 2;
        assert!(rounded(&got, &x) > 1.0);
        got[33] += 20;
        assert!(rows(&got, &x, &x, 20) > 1.0);
        got[33] = 0x7fc0;
        assert!(rounded(&got, &x).is_infinite() && rows(&got, &x, &x, 20).is_infinite());
    }
}
