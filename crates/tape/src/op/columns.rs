//! A range of columns as a value of its own: MLA's latent and rotary parts of `kv_a_proj_with_mqa`.
use crate::{Tape, Tensor, Var};

impl<'a> Tape<'a> {
    /// `x[:, start .. start + len]`.
    pub fn columns(&mut self, x: &Var, start: usize, len: usize) -> Var {
        assert!(start + len <= x.cols(), "columns: {start}+{len} of {}", x.cols());
        let mut y = Tensor::zeros(x.rows(), len);
        for r in 0..x.rows() {
            y.row_mut(r).copy_from_slice(&x.value.row(r)[start..start + len]);
        }
        let (wanted, cols, x) = (x.needs_grad(), x.cols(), x.without_value());
        self.push(y, wanted, move |back, dy| {
            let mut dx = Tensor::zeros(dy.rows, cols);
            for r in 0..dy.rows {
                dx.row_mut(r)[start..start + len].copy_from_slice(dy.row(r));
            }
            back.give(&x, dx);
        })
    }
}
