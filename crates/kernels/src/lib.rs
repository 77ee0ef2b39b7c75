//! Slices and shapes in, numbers out: every hot operation's obvious `reference` and its CPU variants.
//! Depends on no other crate of this workspace, knows no model, and is the only crate with `unsafe` numeric code.
//!
//! Conventions: matrices are row-major; `t` tokens, `h` heads, `k`/`n`/`m` matrix sizes; sums are kept in f32 and
//! reduced in a fixed order, so one thread and many agree bit for bit and a row's result does not depend on its
//! neighbours in the batch. Variants for different instruction sets may differ in the last bits.
#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
pub mod arena;
pub mod attention;
pub mod elementwise;
pub mod gemm;
pub mod isa;
pub mod machine;
pub mod minhash;
pub mod paged;
pub mod pool;
pub mod quant;
pub mod registry;
pub mod rng;
pub(crate) mod scratch;
pub(crate) mod simd;
pub mod streamed;

pub use gemm::{Gemm, Grouped, Left, Matrix, Output, Packed, Precision, Product, Term, Values, run_grouped};
pub use isa::Isa;
pub use pool::Pool;
