//! The check of each operation: its variant over odd, tail and larger shapes against the f64 reference.
use crate::attention::{self, AttentionShape, Segment};
use crate::elementwise::{self as ew, AdamW, RopeLayout, reference};
use crate::gemm::{self, Gemm, Left, Matrix, Output, Precision, Product, Term, Values};
use crate::quant;
use crate::rng::Stream;
use crate::{Isa, Pool};

/// Shorter than a vector, whole vectors, tails, more than one unrolled step, more than one 4096 piece.
pub(super) const LENGTHS: [usize; 9] = [1, 3, 8, 16, 33, 64, 130, 1001, 5000];
pub(super) const EPS: f32 = 1e-6;

pub(super) fn normal(n: usize, purpose: u32) -> Vec<f32> {
    let mut v = vec![0f32; n];
    Stream::new(2024, purpose, 0).fill_normal(0, 1.0, &mut v);
    v
}

/// The larger; a NaN counts as infinite.
pub(super) fn larger(a: f64, b: f64) -> f64 {
    if b.is_nan() { f64::INFINITY } else { a.max(b) }
}

/// Largest |got − want| / (1 + |want|); infinite when the lengths differ.
pub(super) fn mixed(got: &[f32], want: &[f64]) -> f64 {
    if got.len() != want.len() {
        return f64::INFINITY;
    }
    got.iter().zip(want).fold(0.0, |e, (g, w)| larger(e, (f64::from(*g) - w).abs() / (1.0 + w.abs())))
}

/// Elements whose bits differ.
pub(super) fn differing(a: &[f32], b: &[f32]) -> f64 {
    let differ = a.iter().zip(b).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
    (differ + a.len().abs_diff(b.len())) as f64
}

pub(super) fn gemm_f32(isa: Isa) -> f64 {
    products(isa, Precision::F32)
}

pub(super) fn gemm_bf16(isa: Isa) -> f64 {
    products(isa, Precision::Bf16)
}

fn products(isa: Isa, precision: Precision) -> f64 {
    let pool = Pool::new(2);
    let mut worst = 0f64;
    for (m, n, k) in [(1, 1, 1), (1, 40, 33), (3, 17, 129), (15, 33, 770), (40, 70, 31), (64, 96, 385)] {
        let (a, b) = (normal(m.max(k) * (m.max(k) + 1), 1), normal(n.max(k) * (n.max(k) + 1), 2));
        let bits = |v: &[f32]| -> Vec<u16> { v.iter().map(|x| half::bf16::from_f32(*x).to_bits()).collect() };
        let (a16, b16) = (bits(&a), bits(&b));
        for choice in 0..16 {
            let [ta, tb, wa, wb] = [1, 2, 4, 8].map(|bit| choice & bit != 0);
            let (sa, sb) = (if ta { m } else { k } + 1, if tb { k } else { n } + 1);
            let mut left = if wa { Matrix::f32(&a, sa) } else { Matrix::bf16(&a16, sa) };
            let mut right = if wb { Matrix::f32(&b, sb) } else { Matrix::bf16(&b16, sb) };
            (left.transposed, right.transposed) = (ta, tb);
            let g = Gemm { m, n, k, a: left, b: right, alpha: 0.5, accumulate: choice % 3 == 0, precision };
            let mut c = vec![0.25f32; m * n];
            let want = gemm::reference_f64(&g, &c, n);
            g.run_on(isa, &pool, &mut c, n);
            for (got, (value, magnitude)) in c.iter().zip(want) {
                let bound = (k + 3) as f64 * 2f64.powi(-24) * magnitude + 1e-37;
                worst = larger(worst, (f64::from(*got) - value).abs() / bound);
            }
        }
    }
    worst
}

/// Two terms, the first over a quantised weight, with scale, bias and residual.
pub(super) fn gemm_terms(isa: Isa) -> f64 {
    let pool = Pool::new(2);
    let (m, n, r) = (70, 90, 8);
    let mut worst = 0f64;
    for k in [160, 290] {
        let (x, w, u, b) = (normal(m * k, 1), normal(n * k, 2), normal(m * r, 3), normal(n * r, 4));
        let (bias, residual) = (normal(n, 5), normal(m * n, 6));
        let row = |i: usize, out: &mut [f32]| out.copy_from_slice(&w[i * k..(i + 1) * k]);
        let (eight, four) = (quant::quantize_int8(&pool, n, k, &row), quant::quantize_int4(&pool, n, k, &row));
        // NaNs are the bytes whose lower seven bits are all set.
        let bytes: Vec<u8> = w.iter().map(|x| (x.to_bits() >> 20) as u8 & 0xfe).collect();
        let scales = normal(n.div_ceil(quant::FP8_BLOCK) * k.div_ceil(quant::FP8_BLOCK), 7);
        let kinds = [
            Values::Int8 { q: &eight.q, scales: &eight.scales },
            Values::Int4 { q: &four.q, scales: &four.scales },
            Values::Fp8 { q: &bytes, scales: &scales },
        ];
        for values in kinds {
            for precision in [Precision::F32, Precision::Bf16] {
                let weight = Matrix { values, stride: k, transposed: true };
                let terms = [
                    Term { k, a: Left::Matrix(Matrix::f32(&x, k)), b: weight },
                    Term { k: r, a: Left::Matrix(Matrix::f32(&u, r)), b: Matrix::f32(&b, r).t() },
                ];
                let (bias, residual) = (Some(&bias[..]), Some(&residual[..]));
                let p = Product { m, n, terms: &terms, alpha: 0.5, bias, residual, accumulate: false, precision };
                let mut c = vec![0f32; m * n];
                p.run_on(isa, &pool, Output::F32(&mut c), n);
                for (got, (value, magnitude)) in c.iter().zip(gemm::product_f64(&p, &[], n)) {
                    let bound = (k + r + 6) as f64 * 2f64.powi(-24) * magnitude + 1e-37;
                    worst = larger(worst, (f64::from(*got) - value).abs() / bound);
                }
            }
        }
    }
    worst
}

/// Rows alone, columns alone and other thread counts must give the bits of the whole product.
pub(super) fn gemm_invariance(isa: Isa) -> f64 {
    let (m, n, k) = (100, 90, 900);
    let (a, b) = (normal(m * k, 1), normal(n * k, 2));
    let mut differ = 0.0;
    for precision in [Precision::F32, Precision::Bf16] {
        let g = Gemm {
            m,
            n,
            k,
            a: Matrix::f32(&a, k),
            b: Matrix::f32(&b, k).t(),
            alpha: 1.0,
            accumulate: false,
            precision,
        };
        let whole = |g: &Gemm, threads: usize| {
            let mut c = vec![0f32; g.m * g.n];
            g.run_on(isa, &Pool::new(threads), &mut c, g.n);
            c
        };
        let one = whole(&g, 1);
        differ += differing(&one, &whole(&g, 2)) + differing(&one, &whole(&g, 3));
        for rows in [1, 2, 5, 8, 20] {
            differ += differing(&one[..rows * n], &whole(&Gemm { m: rows, ..g }, 2));
        }
        let narrow = whole(&Gemm { n: 9, ..g }, 2);
        for i in 0..m {
            differ += differing(&one[i * n..i * n + 9], &narrow[i * 9..(i + 1) * 9]);
        }
    }
    differ
}

pub(super) struct Documents {
    pub(super) s: AttentionShape,
    pub(super) segments: Vec<Segment>,
    pub(super) q: Vec<f32>,
    pub(super) k: Vec<f32>,
    pub(super) v: Vec<f32>,
}

pub(super) fn documents() -> Documents {
    let s = AttentionShape { num_heads: 6, num_key_value_heads: 2, head_dim_qk: 40, head_dim_v: 24, scale: 0.158 };
    let (mut segments, mut q_start, mut k_start) = (vec![], 0, 0);
    for (q_len, k_len) in [(1, 1), (140, 140), (2, 70), (65, 100)] {
        segments.push(Segment { q_start, q_len, k_start, k_len });
        q_start += q_len;
        k_start += k_len;
    }
    Documents {
        q: normal(q_start * s.num_heads * s.head_dim_qk, 1),
        k: normal(k_start * s.num_key_value_heads * s.head_dim_qk, 2),
        v: normal(k_start * s.num_key_value_heads * s.head_dim_v, 3),
        s,
        segments,
    }
}

impl Documents {
    fn forward(&self, isa: Isa) -> (Vec<f32>, Vec<f32>) {
        let rows = self.q.len() / self.s.head_dim_qk;
        let (mut out, mut lse) = (vec![f32::NAN; rows * self.s.head_dim_v], vec![f32::NAN; rows]);
        let pool = Pool::new(2);
        attention::forward_on(isa, &pool, &self.s, &self.segments, &self.q, &self.k, &self.v, &mut out, &mut lse);
        (out, lse)
    }
}

pub(super) fn attention_forward(isa: Isa) -> f64 {
    let d = documents();
    let (out, lse) = d.forward(isa);
    let (want, want_lse) = attention::reference_forward(&d.s, &d.segments, &d.q, &d.k, &d.v);
    larger(mixed(&out, &want), mixed(&lse, &want_lse))
}

/// Each query as a document of its own sees all keys: what the causal reference computes then.
pub(super) fn attention_bidirectional(isa: Isa) -> f64 {
    let d = documents();
    let alone = |g: &Segment| {
        let g = *g;
        (0..g.q_len).map(move |i| Segment { q_start: g.q_start + i, q_len: 1, ..g })
    };
    let segments: Vec<Segment> = d.segments.iter().flat_map(alone).collect();
    let (want, _) = attention::reference_forward(&d.s, &segments, &d.q, &d.k, &d.v);
    let mut out = vec![f32::NAN; want.len()];
    let pool = Pool::new(2);
    attention::forward_bidirectional_on(isa, &pool, &d.s, &d.segments, &d.q, &d.k, &d.v, &mut out);
    mixed(&out, &want)
}

pub(super) fn attention_backward(isa: Isa) -> f64 {
    let d = documents();
    let (out, lse) = d.forward(isa);
    let dout = normal(out.len(), 4);
    let (mut dq, mut dk, mut dv) = (vec![f32::NAN; d.q.len()], vec![f32::NAN; d.k.len()], vec![f32::NAN; d.v.len()]);
    let Documents { s, segments, q, k, v } = &d;
    let pool = Pool::new(2);
    attention::backward_on(isa, &pool, s, segments, q, k, v, &out, &lse, &dout, &mut dq, &mut dk, &mut dv);
    let (want_q, want_k, want_v) = attention::reference_backward(s, segments, q, k, v, &dout);
    larger(larger(mixed(&dq, &want_q), mixed(&dk, &want_k)), mixed(&dv, &want_v))
}

/// The queries of the longest document one by one against its keys.
pub(super) fn attention_decode(isa: Isa) -> f64 {
    let d = documents();
    let (out, _) = d.forward(isa);
    let (g, width, out_width) = (d.segments[1], d.s.num_heads * d.s.head_dim_qk, d.s.num_heads * d.s.head_dim_v);
    let mut differ = 0.0;
    for i in (0..g.q_len).step_by(9) {
        let row = g.q_start + i;
        let one = Documents {
            s: d.s,
            segments: vec![Segment { q_start: 0, q_len: 1, k_start: g.k_start, k_len: i + 1 }],
            q: d.q[row * width..(row + 1) * width].to_vec(),
            k: d.k.clone(),
            v: d.v.clone(),
        };
        differ += differing(&one.forward(isa).0, &out[row * out_width..(row + 1) * out_width]);
    }
    differ
}

pub(super) fn exp(isa: Isa) -> f64 {
    let x: Vec<f32> = (0..40_000).map(|i| -87.0 + i as f32 * (175.0 / 40_000.0)).collect();
    let mut y = x.clone();
    crate::simd::exp_slice(isa, &mut y);
    x.iter().zip(&y).fold(0.0, |e, (x, y)| {
        let want = f64::from(*x).exp();
        larger(e, (f64::from(*y) - want).abs() / want)
    })
}

pub(super) fn rmsnorm_forward(isa: Isa) -> f64 {
    LENGTHS.iter().fold(0.0, |e, n| {
        let (x, w) = (normal(*n, 1), normal(*n, 2));
        let mut y = vec![0f32; *n];
        let inv = ew::rmsnorm_row(isa, &x, &w, EPS, &mut y);
        let (want, want_inv) = reference::rmsnorm(&x, &w, EPS);
        larger(e, larger(mixed(&y, &want), mixed(&[inv], &[want_inv])))
    })
}

pub(super) fn rmsnorm_backward(isa: Isa) -> f64 {
    LENGTHS.iter().fold(0.0, |e, n| {
        let (x, w, dy) = (normal(*n, 1), normal(*n, 2), normal(*n, 3));
        let inv = reference::rmsnorm(&x, &w, EPS).1 as f32;
        let (mut dx, mut dw) = (vec![0f32; *n], vec![0f32; *n]);
        ew::rmsnorm_dx_row(isa, &x, &w, inv, &dy, &mut dx);
        ew::rmsnorm_dweight_columns(isa, &x, &[inv], &dy, *n, 0, &mut dw);
        let (want_x, want_w) = reference::rmsnorm_backward(&x, &w, EPS, &dy);
        larger(e, larger(mixed(&dx, &want_x), mixed(&dw, &want_w)))
    })
}

pub(super) fn rmsnorm_backward_add(isa: Isa) -> f64 {
    LENGTHS.iter().fold(0.0, |e, n| {
        let (x, w, dy, mut dx) = (normal(*n, 1), normal(*n, 2), normal(*n, 3), normal(*n, 4));
        let inv = reference::rmsnorm(&x, &w, EPS).1 as f32;
        let mut want = reference::rmsnorm_backward(&x, &w, EPS, &dy).0;
        want.iter_mut().zip(&dx).for_each(|(w, before)| *w += f64::from(*before));
        ew::rmsnorm_dx_add_row(isa, &x, &w, inv, &dy, &mut dx);
        larger(e, mixed(&dx, &want))
    })
}

/// Gates from -40 to 40: both tails of the sigmoid.
pub(super) fn gates(n: usize) -> Vec<f32> {
    normal(n, 1).iter().map(|x| x * 10.0).collect()
}

pub(super) fn layernorm(isa: Isa) -> f64 {
    LENGTHS.iter().fold(0.0, |e, n| {
        let (w, b) = (normal(*n, 2), normal(*n, 3));
        // a row far from 0, where a one-pass variance would cancel
        let mut x: Vec<f32> = normal(*n, 1).iter().map(|v| v + 3.0).collect();
        let want = reference::layernorm(&x, &w, &b, EPS);
        ew::layernorm_row(isa, &mut x, &w, &b, EPS);
        larger(e, mixed(&x, &want))
    })
}

pub(super) fn gelu(isa: Isa) -> f64 {
    let mut x: Vec<f32> = (0..2401).map(|i| -12.0 + i as f32 * 0.01).collect();
    let want: Vec<f64> = x.iter().map(|x| reference::gelu(*x)).collect();
    ew::gelu_slice(isa, &mut x);
    let mut edge = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -0.0, 1e30, -1e30];
    ew::gelu_slice(isa, &mut edge);
    let fits = edge[0] == f32::INFINITY && edge[1..2] == [0.0] && edge[2].is_nan() && edge[3..] == [0.0, 1e30, 0.0];
    if fits { mixed(&x, &want) } else { f64::INFINITY }
}

pub(super) fn silu_mul_forward(isa: Isa) -> f64 {
    LENGTHS.iter().fold(0.0, |e, n| {
        let (g, u) = (gates(*n), normal(*n, 2));
        let mut y = vec![0f32; *n];
        ew::silu_mul_slice(isa, &g, &u, &mut y);
        let want: Vec<f64> = g.iter().zip(&u).map(|(g, u)| reference::silu_mul(*g, *u)).collect();
        larger(e, mixed(&y, &want))
    })
}

pub(super) fn silu_mul_backward(isa: Isa) -> f64 {
    LENGTHS.iter().fold(0.0, |e, n| {
        let (g, u, dy) = (gates(*n), normal(*n, 2), normal(*n, 3));
        let (mut dg, mut du) = (vec![0f32; *n], vec![0f32; *n]);
        ew::silu_mul_backward_slice(isa, &g, &u, &dy, &mut dg, &mut du);
        let want = (0..*n).map(|i| reference::silu_mul_backward(g[i], u[i], dy[i]));
        let (want_g, want_u): (Vec<f64>, Vec<f64>) = want.unzip();
        larger(e, larger(mixed(&dg, &want_g), mixed(&du, &want_u)))
    })
}

pub(super) fn rope(isa: Isa) -> f64 {
    let mut worst = 0.0;
    for half in [1, 4, 16, 33, 64] {
        let angles = normal(half, 1);
        let cos: Vec<f32> = angles.iter().map(|a| a.cos()).collect();
        let sin: Vec<f32> = angles.iter().map(|a| a.sin()).collect();
        for interleaved in [false, true] {
            for inverse in [false, true] {
                let head_stride = 2 * half + 3;
                let row_stride = 2 + 3 * head_stride;
                let layout = RopeLayout { row_stride, offset: 2, head_stride, num_heads: 3, half, interleaved };
                let x = normal(row_stride, 2);
                let mut y = x.clone();
                ew::rope_row(isa, &mut y, &layout, &cos, &sin, if inverse { -1.0 } else { 1.0 });
                worst = larger(worst, mixed(&y, &reference::rope_row(&x, &layout, &cos, &sin, inverse)));
            }
        }
    }
    worst
}

pub(super) fn softmax(isa: Isa) -> f64 {
    LENGTHS.iter().filter(|n| **n > 1).fold(0.0, |e, n| {
        let x = gates(*n);
        let mut y = x.clone();
        ew::softmax_row(isa, &mut y);
        larger(e, mixed(&y, &reference::softmax(&x)))
    })
}

pub(super) fn cross_entropy(isa: Isa) -> f64 {
    LENGTHS.iter().filter(|n| **n > 1).fold(0.0, |e, n| {
        let (x, target) = (gates(*n), n / 2);
        let mut y = x.clone();
        let losses = [ew::ce_row(isa, &x, target), ew::ce_gradient_row(isa, &mut y, target, 0.5)];
        let (loss, gradient) = reference::cross_entropy(&x, target, 0.5);
        larger(e, larger(mixed(&losses, &[loss, loss]), mixed(&y, &gradient)))
    })
}

pub(super) fn adamw(isa: Isa) -> f64 {
    let k = AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1, step: 7 };
    LENGTHS.iter().fold(0.0, |e, n| {
        let (mut p, g, mut m) = (normal(*n, 1), normal(*n, 2), normal(*n, 3));
        let mut v: Vec<f32> = normal(*n, 4).iter().map(|x| x * x).collect();
        let want: Vec<_> = (0..*n).map(|i| reference::adamw(&k, p[i], g[i], m[i], v[i])).collect();
        ew::adamw_slice(isa, &k.scalars(), &mut p, &g, &mut m, &mut v);
        let column = |f: fn(&(f64, f64, f64)) -> f64| want.iter().map(f).collect::<Vec<_>>();
        let errors = [mixed(&p, &column(|w| w.0)), mixed(&m, &column(|w| w.1)), mixed(&v, &column(|w| w.2))];
        errors.into_iter().fold(e, larger)
    })
}

pub(super) fn convert(isa: Isa) -> f64 {
    let mut x = normal(5000, 1);
    // Ties both ways, overflow to infinity, denormals, infinities, NaN.
    let special =
        [0x3f80_8000, 0x3f81_8000, 0x7f7f_ffff, 0x0000_8001, 0x7f80_0000, 0xff80_0000, 0x7f80_0001, 0x8000_0000];
    x.extend(special.map(f32::from_bits));
    let mut y = vec![0u16; x.len()];
    ew::narrow_slice(isa, &x, &mut y);
    let mut z = vec![0f32; x.len()];
    ew::widen_slice(isa, &y, &mut z);
    let differ = x.iter().zip(&y).zip(&z).filter(|((x, y), z)| {
        let want = half::bf16::from_f32(**x);
        want.to_bits() != **y || want.to_f32().to_bits() != z.to_bits()
    });
    differ.count() as f64
}

/// Against the stream word by word, from positions inside a block.
pub(super) fn dropout(isa: Isa) -> f64 {
    let (stream, below) = (Stream::new(77, 1, 2), 1u64 << 30);
    LENGTHS.iter().fold(0.0, |e, n| {
        let (x, first) = (normal(*n, 1), 4_294_967_290 + *n as u64);
        let mut y = vec![0f32; *n];
        ew::dropout_slice(isa, &x, below, 2.0, stream, first, &mut y);
        let keep = |i: usize| u64::from(stream.u32_at(first + i as u64)) >= below;
        let want: Vec<f32> = x.iter().enumerate().map(|(i, x)| if keep(i) { 2.0 * x } else { 0.0 }).collect();
        e + differing(&y, &want)
    })
}

pub(super) fn dot(isa: Isa) -> f64 {
    LENGTHS.iter().fold(0.0, |e, n| {
        let (a, b) = (normal(*n, 1), normal(*n, 2));
        let magnitude: f64 = a.iter().zip(&b).map(|(a, b)| (f64::from(*a) * f64::from(*b)).abs()).sum();
        let error = (f64::from(ew::dot_slice(isa, &a, &b)) - reference::dot(&a, &b)).abs();
        larger(e, error / ((n + 2) as f64 * 2f64.powi(-24) * magnitude))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_measures_see_faults() {
        assert!(mixed(&[1.0, 2.1], &[1.0, 2.0]) > 0.03 && mixed(&[f32::NAN], &[0.0]).is_infinite());
        assert!(mixed(&[1.0], &[1.0, 2.0]).is_infinite());
        assert_eq!(differing(&[1.0, -0.0], &[1.0, 0.0]), 1.0);
    }
}
