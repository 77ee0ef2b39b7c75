//! General matrix product over f32 or bf16 operands: `C (+)= alpha * op(A) * op(B)`.
use crate::Pool;

/// Matrix values as they lie in memory (bf16 as raw bits).
#[derive(Clone, Copy)]
pub enum Values<'a> {
    F32(&'a [f32]),
    Bf16(&'a [u16]),
}

/// A row-major matrix: element (r, c) is `values[r * stride + c]`; `transposed` says the product uses its transpose.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    pub values: Values<'a>,
    pub stride: usize,
    pub transposed: bool,
}

impl<'a> Matrix<'a> {
    pub fn f32(values: &'a [f32], stride: usize) -> Self {
        Matrix { values: Values::F32(values), stride, transposed: false }
    }
    pub fn bf16(values: &'a [u16], stride: usize) -> Self {
        Matrix { values: Values::Bf16(values), stride, transposed: false }
    }
    pub fn t(mut self) -> Self {
        self.transposed = !self.transposed;
        self
    }
}

/// How operands enter the multiplier: as f32, or rounded to bf16 (round to nearest even). Sums are f32 in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    F32,
    Bf16,
}

/// `c[m, n] = alpha * a[m, k] * b[k, n]`, added to `c` when `accumulate`.
/// Each output element is one sum over `k` in a fixed order that depends on `k` alone, never on `m`, `n` or the threads.
pub struct Gemm<'a> {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a: Matrix<'a>,
    pub b: Matrix<'a>,
    pub alpha: f32,
    pub accumulate: bool,
    pub precision: Precision,
}

impl Gemm<'_> {
    /// Writes into `c`, row-major with `c_stride >= n`.
    pub fn run(&self, _pool: &Pool, c: &mut [f32], c_stride: usize) {
        reference(self, c, c_stride);
    }
}

fn at(m: &Matrix, r: usize, c: usize, p: Precision) -> f32 {
    let i = if m.transposed { c * m.stride + r } else { r * m.stride + c };
    match m.values {
        Values::F32(v) if p == Precision::F32 => v[i],
        Values::F32(v) => half::bf16::from_f32(v[i]).to_f32(),
        Values::Bf16(v) => half::bf16::from_bits(v[i]).to_f32(),
    }
}

/// The obvious triple loop.
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
