//! Row and element operations: norms, gates, rotary positions, losses, the optimiser, conversions, reductions.
//! Every function takes whole slices, works through the pool, and gives the same bits for any thread count and any
//! number of neighbouring rows. Shapes are checked on entry; a wrong length panics with the numbers.
//! `reference` holds the same operations as plain loops in f64.
mod activation;
mod convert;
mod dropout;
mod gelu;
mod layernorm;
mod loss;
mod norm;
mod optimizer;
mod reduce;
pub mod reference;
mod rope;
mod strips;
#[cfg(test)]
mod tests;

pub use activation::{silu_mul_backward, silu_mul_backward_bf16, silu_mul_forward, silu_mul_forward_bf16};
pub use convert::{narrow_into, widen_into};
pub use dropout::dropout;
pub use gelu::gelu;
pub use layernorm::layernorm;
pub use loss::{IGNORE, cross_entropy, cross_entropy_gradient, softmax_rows};
pub use norm::{rmsnorm_backward, rmsnorm_backward_add, rmsnorm_forward, rmsnorm_forward_bf16};
pub use optimizer::{AdamW, adamw};
pub use reduce::{add, add_bf16, add_rows, axpy, dot, scale, sum_rows, sum_squares};
pub use rope::{RopeLayout, rope, rope_bf16, rope_narrow};
pub use strips::{StripSum, exp_strip, exp_to_gradient};

pub(crate) use variants::*;

/// The single-threaded, instruction-set-explicit forms: for the registry and the tests.
mod variants {
    pub(crate) use super::activation::{
        silu_mul_backward_slice, silu_mul_backward_slice_bf16, silu_mul_slice, silu_mul_slice_bf16,
    };
    pub(crate) use super::convert::{narrow_slice, widen_slice};
    pub(crate) use super::dropout::dropout_slice;
    pub(crate) use super::gelu::gelu_slice;
    pub(crate) use super::layernorm::layernorm_row;
    pub(crate) use super::loss::{ce_gradient_row, ce_row, softmax_row};
    pub(crate) use super::norm::{
        rmsnorm_dweight_columns, rmsnorm_dx_add_row, rmsnorm_dx_row, rmsnorm_row, rmsnorm_row_bf16,
    };
    pub(crate) use super::optimizer::adamw_slice;
    pub(crate) use super::reduce::{dot_slice, dot_slice_bf16, scale_into, scale_into_bf16};
    pub(crate) use super::rope::{rope_row, rope_row_bf16};
    pub(crate) use crate::simd::{narrow, widen};
}

/// Elements one task handles: 64 KiB of f32, some microseconds of work against about one for handing it out.
pub(crate) const TASK: usize = 16 * 1024;

/// Rows of `width` one task handles.
pub(crate) fn rows_per_task(width: usize) -> usize {
    (TASK / width.max(1)).max(1)
}

/// Loads lanes of each input (f32 or bf16, by the pointer's type), runs the statements, stores each output; whole vectors first, then one partial one.
/// Expands to unsafe pointer reads: every pointer must be good for `n` elements.
macro_rules! sweep {
    ($s:ident, $S:ident, $n:expr; $($in:ident = $src:expr),* ; $($st:ident = $sv:expr;)* $(=> $dst:expr, $val:expr);* $(;)?) => {{
        let n: usize = $n;
        let mut i = 0;
        while i + <$S as $crate::simd::Simd>::LANES <= n {
            $(let $in = $crate::simd::Element::load($s, $src.add(i), <$S as $crate::simd::Simd>::LANES);)*
            $(let $st = $sv;)*
            $($crate::simd::Element::store($s, $dst.add(i), <$S as $crate::simd::Simd>::LANES, $val);)*
            i += <$S as $crate::simd::Simd>::LANES;
        }
        if i < n {
            let c = n - i;
            $(let $in = $crate::simd::Element::load($s, $src.add(i), c);)*
            $(let $st = $sv;)*
            $($crate::simd::Element::store($s, $dst.add(i), c, $val);)*
        }
    }};
}
pub(crate) use sweep;

/// Panics with both numbers unless they agree.
#[track_caller]
pub(crate) fn same_len(what: &str, actual: usize, expected: usize) {
    assert!(actual == expected, "{what} has {actual} elements, expected {expected}");
}
