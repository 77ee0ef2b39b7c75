//! The obvious triple loop, in f32 and in f64.
use super::{Gemm, Left, Matrix, Precision, Product, Values};

fn at(m: &Matrix, r: usize, c: usize, p: Precision) -> f32 {
    let (r, c) = if m.transposed { (c, r) } else { (r, c) };
    let value = match m.values {
        Values::F32(v) => v[r * m.stride + c],
        Values::Bf16(v) => half::bf16::from_bits(v[r * m.stride + c]).to_f32(),
        quantised => {
            let mut row = vec![0f32; m.stride];
            quantised.row_into(m.stride, r, &mut row);
            row[c]
        }
    };
    if p == Precision::F32 { value } else { half::bf16::from_f32(value).to_f32() }
}

/// The product with f32 sums in the order of k.
pub fn reference(g: &Gemm, c: &mut [f32], c_stride: usize) {
    for i in 0..g.m {
        for j in 0..g.n {
            let mut s = 0f32;
            for l in 0..g.k {
                s += at(&g.a, i, l, g.precision) * at(&g.b, l, j, g.precision);
            }
            let d = &mut c[i * c_stride + j];
            *d = if g.accumulate { *d + g.alpha * s } else { g.alpha * s };
        }
    }
}

/// For every element `[m, n]`: the exact product's value (f64 sums) and the sum of the magnitudes of its terms, which
/// bounds the rounding error of any f32 order: |error| ≤ (k + 2)·2^-24·magnitude.
pub fn reference_f64(g: &Gemm, c: &[f32], c_stride: usize) -> Vec<(f64, f64)> {
    let mut out = Vec::with_capacity(g.m * g.n);
    for i in 0..g.m {
        for j in 0..g.n {
            let (mut s, mut magnitude) = (0f64, 0f64);
            for l in 0..g.k {
                let t = f64::from(at(&g.a, i, l, g.precision)) * f64::from(at(&g.b, l, j, g.precision));
                s += t;
                magnitude += t.abs();
            }
            let alpha = f64::from(g.alpha);
            let before = if g.accumulate { f64::from(c[i * c_stride + j]) } else { 0.0 };
            out.push((before + alpha * s, before.abs() + alpha.abs() * magnitude));
        }
    }
    out
}

/// [`reference_f64`] of a [`Product`] whose left operands are matrices; `c` is the output before (empty unless it
/// accumulates).
///
/// # Panics
/// For a packed left operand: the reference reads operands where they lie.
pub fn product_f64(p: &Product, c: &[f32], c_stride: usize) -> Vec<(f64, f64)> {
    let mut out = Vec::with_capacity(p.m * p.n);
    for i in 0..p.m {
        for j in 0..p.n {
            let (mut s, mut magnitude) = (0f64, 0f64);
            for t in p.terms {
                let Left::Matrix(a) = t.a else { panic!("the reference reads operands where they lie") };
                for l in 0..t.k {
                    let x = f64::from(at(&a, i, l, p.precision)) * f64::from(at(&t.b, l, j, p.precision));
                    s += x;
                    magnitude += x.abs();
                }
            }
            s *= f64::from(p.alpha);
            magnitude *= f64::from(p.alpha.abs());
            let mut add = |x: f32| {
                s += f64::from(x);
                magnitude += f64::from(x.abs());
            };
            if let Some(b) = p.bias {
                add(b[j]);
            }
            if let Some(r) = p.residual {
                add(r[i * p.n + j]);
            }
            if p.accumulate {
                add(c[i * c_stride + j]);
            }
            out.push((s, magnitude));
        }
    }
    out
}
