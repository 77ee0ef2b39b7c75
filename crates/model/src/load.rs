//! A decoder from a checkpoint folder: config, shards, and every tensor where the file has it.
use crate::ModelError;
use crate::build::build;
use crate::model::Model;
use loar_formats::config::ModelConfig;
use loar_formats::safetensors::{Checkpoint, DType};
use loar_formats::{Severity, names};
use loar_tape::{Context, Frozen, Precision, Storage};
use std::path::Path;
use std::sync::Arc;

#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// Threads of all parallel loops; 0 takes one a core.
    pub threads: usize,
    /// How operands enter matrix products.
    pub precision: Precision,
}

impl Default for LoadOptions {
    fn default() -> Self {
        LoadOptions { threads: 0, precision: Precision::F32 }
    }
}

impl LoadOptions {
    pub(crate) fn context(&self) -> Context {
        Context::new(self.threads, self.precision)
    }
}

impl Model {
    /// Opens a folder as Hugging Face ships it. bf16 and f32 tensors stay in the mapped file; f16 widens to f32; FP8
    /// blocks are dequantised once, to bf16 or f32 as the precision asks. MTP layers are not read.
    pub fn load(dir: &Path, options: &LoadOptions) -> Result<Model, ModelError> {
        let (config, _) = ModelConfig::read(dir)?;
        let (checkpoint, _) = Checkpoint::open_dir(dir)?;
        Model::from_checkpoint(config, &checkpoint, options)
    }

    pub fn from_checkpoint(
        config: ModelConfig,
        checkpoint: &Checkpoint,
        options: &LoadOptions,
    ) -> Result<Model, ModelError> {
        let faults: Vec<String> = names::compare(&config, checkpoint)
            .into_iter()
            .filter(|i| i.severity == Severity::Error)
            .map(|i| i.text)
            .collect();
        if !faults.is_empty() {
            return Err(ModelError::checkpoint(checkpoint.path(), faults));
        }
        build(config, options.context(), &mut |name, rows, cols| {
            let info = checkpoint
                .info(name)
                .ok_or_else(|| ModelError::checkpoint(checkpoint.path(), vec![format!("`{name}` is missing")]))?;
            let storage = match info.dtype {
                DType::F32 => Storage::mapped_f32(Arc::new(checkpoint.bytes(name)?)),
                DType::BF16 => Storage::mapped_bf16(Arc::new(checkpoint.bytes(name)?)),
                DType::F8E4M3 if options.precision == Precision::Bf16 => {
                    Storage::Bf16(Arc::new(checkpoint.to_bf16(name)?))
                }
                _ => Storage::F32(Arc::new(checkpoint.to_f32(name)?)),
            };
            Ok(Frozen { rows, cols, storage })
        })
    }
}
