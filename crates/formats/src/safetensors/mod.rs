//! The safetensors container: one file or an index with shards, read by memory map, written whole.
//!
//! Takes files nobody vouches for; every length, offset, name and shape is checked before use.
//! Gives tensors as bytes that outlive the checkpoint, or as f32 or bf16 with FP8 blocks applied.
//! Never reads a file with holes, overlaps, doubles or a wrong end, and never leaves the folder.

mod checkpoint;
mod convert;
mod dtype;
mod header;
mod index;
mod open;
mod shards;
mod storage;
mod write;

pub use checkpoint::{Checkpoint, INDEX_NAME, SINGLE_NAME};
pub use convert::e8m0_to_f32;
pub use dtype::DType;
pub use header::{Header, MAX_HEADER_BYTES, TensorInfo, parse_header};
pub use index::{Index, parse_index};
pub use shards::{ShardWriter, TensorSpec};
pub use storage::TensorBytes;
pub use write::{TensorOut, encode, write_file};
