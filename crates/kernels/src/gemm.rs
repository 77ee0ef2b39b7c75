//! General matrix products over f32, bf16 and quantised operands: `C (+)= alpha * Σ A_i * B_i`, with epilogues.
//!
//! Operands are packed into panels (transposed, widened, rounded or dequantised on the way) and multiplied tile by tile:
//! bf16 products on matrix tiles where the core has them ([`tiled`]), everything else on vector registers ([`blocked`]).
//! Every element of C is a sum over the terms and their k in an order that is a function of the k_i alone, so m, n, the
//! tile an element falls in, its neighbours and the number of threads cannot change a bit of it.
#[cfg(target_arch = "x86_64")]
mod amx_pack;
#[cfg(target_arch = "x86_64")]
mod amx_write;
mod blocked;
mod dequant;
mod pack;
#[cfg(target_arch = "x86_64")]
mod pack_avx2;
#[cfg(target_arch = "x86_64")]
mod pack_avx512;
mod product;
#[cfg(test)]
mod product_tests;
mod reference;
#[cfg(test)]
mod tests;
mod tile;
#[cfg(target_arch = "x86_64")]
mod tiled;

use crate::pool::Shareable;
use crate::{Isa, Pool, quant};
pub use product::{Grouped, Left, Output, Packed, Product, Term, run_grouped, run_grouped_on};
pub use reference::{product_f64, reference, reference_f64};

/// Matrix values as they lie in memory (bf16 as raw bits; the quantised forms as [`crate::quant`] describes them, whose
/// matrix has `stride` columns exactly).
#[derive(Clone, Copy, Debug)]
pub enum Values<'a> {
    F32(&'a [f32]),
    Bf16(&'a [u16]),
    /// One scale a row.
    Int8 {
        q: &'a [i8],
        scales: &'a [f32],
    },
    /// One bf16 scale a group.
    Int4 {
        q: &'a [u8],
        scales: &'a [u16],
    },
    /// E4M3, one scale a 128 x 128 block.
    Fp8 {
        q: &'a [u8],
        scales: &'a [f32],
    },
}

impl Values<'_> {
    /// Elements held, in rows of `stride`.
    fn len(&self, stride: usize) -> usize {
        match self {
            Values::F32(v) => v.len(),
            Values::Bf16(v) => v.len(),
            Values::Int8 { q, .. } => q.len(),
            Values::Int4 { q, .. } => q.len() / quant::int4_row_bytes(stride).max(1) * stride,
            Values::Fp8 { q, .. } => q.len(),
        }
    }

    pub fn is_quantized(&self) -> bool {
        !matches!(self, Values::F32(_) | Values::Bf16(_))
    }

    /// Row `r` of a matrix whose rows lie `stride` apart, widened to f32: the first `out.len()` elements. Quantised
    /// rows come whole.
    pub fn row_into(&self, stride: usize, r: usize, out: &mut [f32]) {
        match *self {
            Values::F32(v) => out.copy_from_slice(&v[r * stride..r * stride + out.len()]),
            Values::Bf16(v) => {
                for (o, b) in out.iter_mut().zip(&v[r * stride..]) {
                    // bf16 is the upper half of an f32; said so, the loop is a few vector instructions
                    *o = f32::from_bits(u32::from(*b) << 16);
                }
            }
            Values::Int8 { q, scales } => quant::dequantize_int8(q, scales, r, out),
            Values::Int4 { q, scales } => quant::dequantize_int4(q, scales, r, out),
            Values::Fp8 { q, scales } => quant::dequantize_fp8(q, scales, r, out),
        }
    }
}

/// A row-major matrix: element (r, c) is `values[r * stride + c]`; `transposed` says the product uses its transpose.
#[derive(Clone, Copy, Debug)]
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
    /// The matrix from row `first` on. Of fp8 blocks only whole ones can be left out.
    ///
    /// # Panics
    /// When the matrix is transposed, or `first` lies inside a block.
    pub fn from_row(mut self, first: usize) -> Self {
        assert!(!self.transposed, "rows are cut before transposing");
        let stride = self.stride;
        self.values = match self.values {
            Values::F32(v) => Values::F32(&v[first * stride..]),
            Values::Bf16(v) => Values::Bf16(&v[first * stride..]),
            Values::Int8 { q, scales } => Values::Int8 { q: &q[first * stride..], scales: &scales[first..] },
            Values::Int4 { q, scales } => Values::Int4 {
                q: &q[first * quant::int4_row_bytes(stride)..],
                scales: &scales[first * stride.div_ceil(quant::INT4_GROUP)..],
            },
            Values::Fp8 { q, scales } => {
                assert!(first.is_multiple_of(quant::FP8_BLOCK), "row {first} lies inside a block");
                let blocks = first / quant::FP8_BLOCK * stride.div_ceil(quant::FP8_BLOCK);
                Values::Fp8 { q: &q[first * stride..], scales: &scales[blocks..] }
            }
        };
        self
    }

    /// The transpose of this matrix (no data moves).
    pub fn t(mut self) -> Self {
        self.transposed = !self.transposed;
        self
    }
}

/// How operands enter the multiplier: as f32, or rounded to bf16 (round to nearest even). Sums are f32 in both.
/// With AVX512-BF16, bf16 products flush denormals to zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    F32,
    Bf16,
}

/// `c[m, n] = alpha * a[m, k] * b[k, n]`, added to `c` when `accumulate`.
/// Each output element is one sum over `k` in a fixed order that depends on `k` alone, never on `m`, `n` or the threads.
#[derive(Clone, Copy, Debug)]
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
    /// Writes into `c`, row-major with `c_stride >= n`; columns from `n` on are left alone, and without `accumulate`
    /// `c` is not read.
    ///
    /// # Panics
    /// When an operand or `c` is too short for the sizes and strides given.
    pub fn run(&self, pool: &Pool, c: &mut [f32], c_stride: usize) {
        self.run_on(Isa::best(), pool, c, c_stride);
    }

    /// [`Gemm::run`] with a chosen instruction set, for tests and measurements.
    pub fn run_on(&self, isa: Isa, pool: &Pool, c: &mut [f32], c_stride: usize) {
        if self.m == 0 || self.n == 0 {
            return;
        }
        assert!(
            (self.m == 1 || c_stride >= self.n) && (self.m - 1) * c_stride + self.n <= c.len(),
            "c of {} elements with stride {c_stride} is too short for {} x {}",
            c.len(),
            self.m,
            self.n
        );
        // SAFETY: C has just been checked, and the borrow keeps everybody else out of it.
        unsafe { self.run_at(isa, pool, c.as_mut_ptr(), c_stride) }
    }

    /// [`Gemm::run_on`] for callers whose tasks write interleaved rows of one matrix.
    ///
    /// # Safety
    /// `c` is valid for `m` rows of `n` elements at `c_stride`, and nobody else accesses those meanwhile.
    pub(crate) unsafe fn run_at(&self, isa: Isa, pool: &Pool, c: *mut f32, c_stride: usize) {
        if self.m == 0 || self.n == 0 {
            return;
        }
        check("a", &self.a, self.m, self.k);
        check("b", &self.b, self.k, self.n);
        let terms = [Term { k: self.k, a: Left::Matrix(self.a), b: self.b }];
        let product = Product {
            m: self.m,
            n: self.n,
            terms: &terms,
            alpha: self.alpha,
            bias: None,
            residual: None,
            accumulate: self.accumulate,
            precision: self.precision,
        };
        // SAFETY: the operands have just been checked, and C is the caller's word.
        unsafe { product.run_at(isa, pool, product::Target::F32(Shareable(c)), c_stride) };
    }
}

/// Panics unless the matrix, seen as `rows x columns` after its transposition, lies inside its values.
#[track_caller]
fn check(name: &str, matrix: &Matrix, rows: usize, columns: usize) {
    let (r, c) = if matrix.transposed { (columns, rows) } else { (rows, columns) };
    let needed = if r == 0 || c == 0 { 0 } else { (r - 1) * matrix.stride + c };
    assert!(
        needed <= matrix.values.len(matrix.stride),
        "{name} of {} elements with stride {} is too short for {r} x {c}",
        matrix.values.len(matrix.stride),
        matrix.stride
    );
}
