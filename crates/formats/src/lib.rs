//! Reads and writes the files of a Hugging Face checkpoint folder and of a PEFT adapter folder.
//!
//! Takes bytes nobody vouches for: config.json, safetensors, index files, adapter_config.json.
//! Gives typed configurations, memory-mapped tensors and tensor-name tables, with every fault of a
//! file listed at once. Never trusts a length, an offset or a file name of a file, never panics on
//! one, and never loads a part of something it does not understand.
#![deny(unsafe_code)] // one exception, with its reason: the memory map in `safetensors::storage`

pub mod config;
mod error;
pub mod generation;
mod issue;
mod json;
pub mod names;
pub mod peft;
pub mod safetensors;

pub use error::{Faults, FormatError};
pub use issue::{Issue, Severity};
