//! A range of columns as a value of its own: MLA's latent and rotary parts of `kv_a_proj_with_mqa`.
use crate::{Activation, Tape, Tensor, Var};
use loar_kernels::Pool;
use loar_kernels::arena::Element;

impl<'a> Tape<'a> {
    /// `x[:, start .. start + len]`, stored as x is.
    pub fn columns(&mut self, x: &Var, start: usize, len: usize) -> Var {
        assert!(start + len <= x.cols(), "columns: {start}+{len} of {}", x.cols());
        let pool = &self.context.pool;
        let y: Activation = match &*x.value {
            Activation::F32(x) => cut(pool, x, start, len).into(),
            Activation::Bf16(x) => cut(pool, x, start, len).into(),
        };
        let (wanted, cols, x) = (x.needs_grad(), x.cols(), x.without_value());
        self.push(y, wanted, move |back, dy| {
            let pool = &back.context.pool;
            let dx: Activation = match &dy {
                Activation::F32(dy) => widen_back(pool, dy, start, cols).into(),
                Activation::Bf16(dy) => widen_back(pool, dy, start, cols).into(),
            };
            back.give(&x, dx);
        })
    }
}

fn cut<T: Element>(pool: &Pool, x: &Tensor<T>, start: usize, len: usize) -> Tensor<T> {
    let mut y = Tensor::unfilled(x.rows, len);
    y.fill_rows(pool, |r, row| row.copy_from_slice(&x.row(r)[start..start + len]));
    y
}

/// The gradient in its columns, zero elsewhere.
fn widen_back<T: Element>(pool: &Pool, dy: &Tensor<T>, start: usize, cols: usize) -> Tensor<T> {
    let mut dx = Tensor::zeroed(dy.rows, cols);
    dx.fill_rows(pool, |r, row| row[start..start + dy.cols].copy_from_slice(dy.row(r)));
    dx
}
