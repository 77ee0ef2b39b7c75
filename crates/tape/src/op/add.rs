//! y = a + b, the residual stream.
use crate::{Tape, Var};

impl<'a> Tape<'a> {
    /// The sum, in f32.
    pub fn add(&mut self, a: &Var, b: &Var) -> Var {
        assert_eq!((a.rows(), a.cols()), (b.rows(), b.cols()), "add: shapes differ");
        let pool = &self.context.pool;
        let mut y = a.value.widened(pool).into_owned();
        loar_kernels::elementwise::add(pool, &b.value.widened(pool).data, &mut y.data);
        let wanted = a.needs_grad() || b.needs_grad();
        // Only the nodes are needed backward, not the values.
        let (a, b) = (a.without_value(), b.without_value());
        self.push(y, wanted, move |back, dy| {
            if a.needs_grad() && b.needs_grad() {
                back.give(&a, dy.clone());
                back.give(&b, dy);
            } else if a.needs_grad() {
                back.give(&a, dy);
            } else {
                back.give(&b, dy);
            }
        })
    }
}
