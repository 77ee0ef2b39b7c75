//! One decoder described by `config.json`: grouped-query or latent attention, dense or mixture-of-experts MLPs, with
//! adapters attached from outside. Takes token ids and gives losses, logits and gradients; knows no text and no file
//! of training data. Weights keep the names, shapes and places they have in the checkpoint.
#![forbid(unsafe_code)]

mod adapter;
mod base;
mod batch;
mod build;
mod cache;
mod coverage;
mod decode;
mod error;
pub mod golden;
mod layer;
mod load;
mod memory;
mod merge;
mod model;
mod peft;
mod quantize;
mod random;
mod rope;

pub use adapter::{AdapterSpec, Preset, Targets};
pub use base::{BaseDtype, BaseForm};
pub use batch::PackedBatch;
pub use cache::{CacheDtype, KvCache};
pub use coverage::{Coverage, CoverageRow};
pub use error::ModelError;
pub use layer::{Attention, Gqa, Layer, Mla, MlaQuery, Mlp, Moe, SwigluMlp};
pub use load::LoadOptions;
pub use memory::PassBytes;
pub use merge::{MAX_SHARD_BYTES, MergeReport, StoredDtype};
pub use model::{BatchLoss, Model, Pass};
pub use peft::{AdapterTensor, ExpertsLayout};
pub use quantize::{KindError, QuantizeReport, quantize};
pub use random::write_random;
