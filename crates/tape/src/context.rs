//! What every operation needs besides its operands: the threads and the precision of matrix products.
use loar_kernels::{Gemm, Matrix, Pool, Precision};
use std::sync::Arc;

#[derive(Clone)]
pub struct Context {
    pub pool: Arc<Pool>,
    /// How operands enter matrix products of the body and the head; the router always multiplies in f32.
    pub precision: Precision,
}

impl Context {
    pub fn new(threads: usize, precision: Precision) -> Context {
        Context { pool: Arc::new(Pool::new(threads)), precision }
    }

    /// Whether activations that are only operands of products are stored as bf16: rounding them on the way to memory or
    /// on the way into the product is the same.
    pub fn stores_bf16(&self) -> bool {
        self.precision == Precision::Bf16
    }

    /// `c[m, n] (+)= alpha * a[m, k] * b[k, n]` in a precision of its own (the router multiplies in f32); `c` is contiguous.
    #[allow(clippy::too_many_arguments)]
    pub fn gemm_in(
        &self,
        precision: Precision,
        m: usize,
        n: usize,
        k: usize,
        a: Matrix,
        b: Matrix,
        alpha: f32,
        accumulate: bool,
        c: &mut [f32],
    ) {
        Gemm { m, n, k, a, b, alpha, accumulate, precision }.run(&self.pool, c, n);
    }
}
