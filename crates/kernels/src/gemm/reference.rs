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

/// The operand as `rows x columns` numbers that enter the product.
fn widened(m: &Matrix, rows: usize, columns: usize, p: Precision) -> Vec<f64> {
    let (stored, width) = if m.transposed { (columns, rows) } else { (rows, columns) };
    let mut out = vec![0f64; rows * columns];
    let mut row = vec![0f32; if m.values.is_quantized() { m.stride } else { width }];
    for r in 0..stored {
        m.values.row_into(m.stride, r, &mut row);
        for (c, x) in row[..width].iter().enumerate() {
            let x = if p == Precision::F32 { *x } else { half::bf16::from_f32(*x).to_f32() };
            out[if m.transposed { c * columns + r } else { r * columns + c }] = f64::from(x);
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
    let mut out = vec![(0f64, 0f64); p.m * p.n];
    for t in p.terms {
        let Left::Matrix(a) = t.a else { panic!("the reference reads operands where they lie") };
        let (a, b) = (widened(&a, p.m, t.k, p.precision), widened(&t.b, t.k, p.n, p.precision));
        for i in 0..p.m {
            for l in 0..t.k {
                let x = a[i * t.k + l];
                for (o, y) in out[i * p.n..(i + 1) * p.n].iter_mut().zip(&b[l * p.n..(l + 1) * p.n]) {
                    *o = (o.0 + x * y, o.1 + (x * y).abs());
                }
            }
        }
    }
    for (i, row) in out.chunks_exact_mut(p.n.max(1)).enumerate() {
        for (j, o) in row.iter_mut().enumerate() {
            *o = (o.0 * f64::from(p.alpha), o.1 * f64::from(p.alpha.abs()));
            let after = [
                p.bias.map_or(0.0, |b| b[j]),
                p.residual.map_or(0.0, |r| r[i * p.n + j]),
                if p.accumulate { c[i * c_stride + j] } else { 0.0 },
            ];
            for x in after {
                *o = (o.0 + f64::from(x), o.1 + f64::from(x.abs()));
            }
        }
    }
    out
}
