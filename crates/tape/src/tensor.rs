//! Dense matrices, row-major and contiguous: f32 ones for sums, parameters and gradients, bf16 ones for activations
//! that are only operands of the next product.
use loar_kernels::arena::{Buf, Element};
use loar_kernels::{Matrix, Pool, Values, elementwise};
use std::borrow::Cow;

/// `[rows, cols]` numbers; element (r, c) is `data[r * cols + c]`. A `Tensor<u16>` holds the bits of bf16 numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor<T: Element = f32> {
    pub rows: usize,
    pub cols: usize,
    pub data: Buf<T>,
}

impl<T: Element> Tensor<T> {
    /// Zeros of any type ([`Tensor::zeros`] is the f32 one).
    pub fn zeroed(rows: usize, cols: usize) -> Tensor<T> {
        Tensor { rows, cols, data: Buf::zeros(rows * cols) }
    }

    /// Unspecified numbers, for results that are written whole.
    pub fn unfilled(rows: usize, cols: usize) -> Tensor<T> {
        Tensor { rows, cols, data: Buf::unfilled(rows * cols) }
    }

    /// Panics when `data` does not hold exactly `rows * cols` numbers: a bug of the caller.
    pub fn from_buf(rows: usize, cols: usize, data: impl Into<Buf<T>>) -> Tensor<T> {
        let data = data.into();
        assert_eq!(data.len(), rows * cols, "tensor data does not fit [{rows}, {cols}]");
        Tensor { rows, cols, data }
    }

    pub fn row(&self, r: usize) -> &[T] {
        &self.data[r * self.cols..(r + 1) * self.cols]
    }

    pub fn row_mut(&mut self, r: usize) -> &mut [T] {
        &mut self.data[r * self.cols..(r + 1) * self.cols]
    }

    /// Calls `task(r, row)` for every row of the result, a few rows a task.
    pub(crate) fn fill_rows(&mut self, pool: &Pool, task: impl Fn(usize, &mut [T]) + Sync) {
        let cols = self.cols.max(1);
        let rows = (16384 / cols).max(1);
        pool.pieces_mut(&mut self.data, rows * cols, &|i, part| {
            for (j, row) in part.chunks_exact_mut(cols).enumerate() {
                task(i * rows + j, row);
            }
        });
    }
}

impl Tensor {
    /// Panics when `data` does not hold exactly `rows * cols` numbers: a bug of the caller.
    pub fn new(rows: usize, cols: usize, data: Vec<f32>) -> Tensor {
        Tensor::from_buf(rows, cols, data)
    }

    pub fn zeros(rows: usize, cols: usize) -> Tensor {
        Tensor::zeroed(rows, cols)
    }

    /// `self += other`, elementwise.
    pub fn add_assign(&mut self, other: &Tensor) {
        assert_eq!((self.rows, self.cols), (other.rows, other.cols), "added tensors differ in shape");
        for (a, b) in self.data.iter_mut().zip(&other.data) {
            *a += b;
        }
    }

    pub fn scale(&mut self, factor: f32) {
        for a in &mut self.data {
            *a *= factor;
        }
    }
}

/// A value or a gradient on the tape, in the type it is stored in.
#[derive(Clone, Debug, PartialEq)]
pub enum Activation {
    F32(Tensor),
    Bf16(Tensor<u16>),
}

impl From<Tensor> for Activation {
    fn from(t: Tensor) -> Activation {
        Activation::F32(t)
    }
}

impl From<Tensor<u16>> for Activation {
    fn from(t: Tensor<u16>) -> Activation {
        Activation::Bf16(t)
    }
}

impl Activation {
    pub fn rows(&self) -> usize {
        match self {
            Activation::F32(t) => t.rows,
            Activation::Bf16(t) => t.rows,
        }
    }

    pub fn cols(&self) -> usize {
        match self {
            Activation::F32(t) => t.cols,
            Activation::Bf16(t) => t.cols,
        }
    }

    pub fn is_bf16(&self) -> bool {
        matches!(self, Activation::Bf16(_))
    }

    /// The f32 tensor; panics for bf16, where a caller must widen: a bug.
    pub fn f32(&self) -> &Tensor {
        match self {
            Activation::F32(t) => t,
            Activation::Bf16(_) => panic!("an f32 activation was expected"),
        }
    }

    pub fn bf16(&self) -> &Tensor<u16> {
        match self {
            Activation::Bf16(t) => t,
            Activation::F32(_) => panic!("a bf16 activation was expected"),
        }
    }

    /// As f32, without a copy where it is.
    pub fn widened(&self, pool: &Pool) -> Cow<'_, Tensor> {
        match self {
            Activation::F32(t) => Cow::Borrowed(t),
            Activation::Bf16(t) => {
                let mut w = Tensor::unfilled(t.rows, t.cols);
                elementwise::widen_into(pool, &t.data, &mut w.data);
                Cow::Owned(w)
            }
        }
    }

    pub fn into_f32(self, pool: &Pool) -> Tensor {
        match self {
            Activation::F32(t) => t,
            bf16 => bf16.widened(pool).into_owned(),
        }
    }

    /// As bf16, rounded to nearest even.
    pub fn into_bf16(self, pool: &Pool) -> Tensor<u16> {
        match self {
            Activation::Bf16(t) => t,
            Activation::F32(t) => narrowed(pool, &t),
        }
    }

    /// A copy as products take it.
    pub(crate) fn operand(&self, bf16: bool, pool: &Pool) -> Activation {
        match self {
            Activation::F32(t) if bf16 => Activation::Bf16(narrowed(pool, t)),
            other => other.clone(),
        }
    }

    /// As it is stored.
    pub(crate) fn stored(t: Tensor, bf16: bool, pool: &Pool) -> Activation {
        if bf16 { Activation::Bf16(narrowed(pool, &t)) } else { Activation::F32(t) }
    }

    /// The whole as an operand of a product.
    pub fn matrix(&self) -> Matrix<'_> {
        let values = match self {
            Activation::F32(t) => Values::F32(&t.data),
            Activation::Bf16(t) => Values::Bf16(&t.data),
        };
        Matrix { values, stride: self.cols(), transposed: false }
    }

    pub(crate) fn unfilled(rows: usize, cols: usize, bf16: bool) -> Activation {
        if bf16 { Tensor::<u16>::unfilled(rows, cols).into() } else { Tensor::<f32>::unfilled(rows, cols).into() }
    }
}

fn narrowed(pool: &Pool, t: &Tensor) -> Tensor<u16> {
    let mut n = Tensor::unfilled(t.rows, t.cols);
    elementwise::narrow_into(pool, &t.data, &mut n.data);
    n
}
