//! Coarse operations with hand-written backward passes, block checkpoints, frozen weights that stay off the tape,
//! trainable parameters and their optimiser. Takes slices of numbers from `kernels`; knows no model and no file.
//!
//! Letters: `t` tokens (rows), `d` width, `h` heads, `r` LoRA rank, `v` vocabulary. Activations are f32 matrices
//! `[rows, cols]`; matrix products round their operands to bf16 when the context says so and always sum in f32.
#![forbid(unsafe_code)]

mod adamw;
mod context;
pub mod op;
mod param;
mod tape;
mod tensor;
mod weight;

pub use adamw::{AdamW, AdamWConfig, AdamWState};
pub use context::Context;
pub use loar_kernels::{
    Pool, Precision,
    attention::{AttentionShape, Segment},
};
pub use param::{BlockMask, Grads, Param, ParamId, ParamRole, ParamStore};
pub use tape::{Backward, DropoutKey, Tape, Var};
pub use tensor::{Activation, Tensor};
pub use weight::{Bytes, Dora, Frozen, Linear, Lora, Storage, Weight};
