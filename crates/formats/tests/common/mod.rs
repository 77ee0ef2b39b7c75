//! What the tests of this crate share: where the fixtures lie, and small checkpoints.
#![allow(dead_code)]

use std::borrow::Cow;
use std::path::PathBuf;

use loar_formats::safetensors::{Checkpoint, TensorOut};

/// A file or folder of the fixtures, or `None` with a line that says so.
pub fn fixture(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/fixtures"));
    if path.is_dir() {
        Some(path.join(name))
    } else {
        println!("skipped: ../shared/fixtures is absent");
        None
    }
}

/// The fixtures of the six families.
pub const MODELS: [&str; 9] = [
    "llama",
    "llama_linear_rope",
    "qwen2",
    "qwen3",
    "deepseek_v2_lite",
    "deepseek_v2",
    "deepseek_v3",
    "deepseek_v3_experts",
    "deepseek_v3_all",
];

/// Adapters of PEFT's variants.
pub const VARIANTS: [&str; 9] = [
    "dora",
    "dora_rslora",
    "embedding",
    "exclude",
    "layers_subset",
    "modules_to_save",
    "rank_alpha_pattern",
    "regex",
    "rslora",
];

/// Every adapter folder of the fixtures.
pub fn adapters() -> Vec<PathBuf> {
    let models = MODELS.iter().map(|m| format!("{m}/adapter"));
    let variants = VARIANTS.iter().map(|v| format!("peft_variants/{v}"));
    models.chain(variants).filter_map(|name| fixture(&name)).collect()
}

/// A safetensors file from a header text and data.
pub fn file(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(data);
    bytes
}

/// All tensors of a checkpoint, to be changed and written.
pub fn outs(checkpoint: &Checkpoint) -> Vec<TensorOut<'static>> {
    checkpoint
        .tensors()
        .map(|info| TensorOut {
            name: info.name.clone(),
            dtype: info.dtype,
            shape: info.shape.clone(),
            data: Cow::Owned(checkpoint.bytes(&info.name).unwrap().to_vec()),
        })
        .collect()
}
