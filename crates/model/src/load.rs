//! A decoder from a checkpoint folder: config, shards, and every tensor where the file has it.
use crate::ModelError;
use crate::base::{BaseDtype, convert, fault};
use crate::build::{Source, build};
use crate::model::Model;
use loar_formats::config::{ModelConfig, Quantization};
use loar_formats::safetensors::{Checkpoint, DType};
use loar_formats::{Severity, names};
use loar_kernels::quant::FP8_BLOCK;
use loar_tape::{Context, Frozen, Pool, Precision, Storage};
use std::path::Path;
use std::sync::Arc;

#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// Threads of all parallel loops; 0 takes one a core.
    pub threads: usize,
    /// How operands enter matrix products.
    pub precision: Precision,
    /// What the linear layers are held in.
    pub base: BaseDtype,
}

impl Default for LoadOptions {
    fn default() -> Self {
        LoadOptions { threads: 0, precision: Precision::F32, base: BaseDtype::AsStored }
    }
}

impl LoadOptions {
    pub(crate) fn context(&self) -> Context {
        Context::new(self.threads, self.precision)
    }
}

impl Model {
    /// Opens a folder as Hugging Face ships it, or as `loar quantize` writes it. With `BaseDtype::AsStored` bf16, f32,
    /// int8, int4 and FP8 tensors (in blocks of 128 x 128) stay in the mapped file; FP8 in other blocks is dequantised
    /// once, to bf16 or f32 as the precision asks, and f16 widens to f32: the numbers that products see are those of
    /// the file in every case. MTP layers are not read.
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
        let faults = faults_of(&config, checkpoint, options.base);
        if !faults.is_empty() {
            return Err(ModelError::checkpoint(checkpoint.path(), faults));
        }
        let (context, quantization) = (options.context(), config.quantization.clone());
        let mut source = FileSource::new(checkpoint, options, quantization, context.clone());
        build(config, context, &mut source)
    }
}

/// Everything because of which `checkpoint` cannot be had as `base`, at once.
pub(crate) fn faults_of(config: &ModelConfig, checkpoint: &Checkpoint, base: BaseDtype) -> Vec<String> {
    let mut faults: Vec<String> = names::compare(config, checkpoint)
        .into_iter()
        .filter(|i| i.severity == Severity::Error)
        .map(|i| i.text)
        .collect();
    faults.extend(request_faults(config, checkpoint, base));
    if faults.is_empty() {
        faults.extend(scale_faults(checkpoint));
    }
    faults
}

/// What is asked of the base and cannot be had from this file.
fn request_faults(config: &ModelConfig, checkpoint: &Checkpoint, base: BaseDtype) -> Option<String> {
    let [rows, columns] = checkpoint.block_size();
    match (&config.quantization, base) {
        (Some(Quantization::Int4), BaseDtype::Int8 | BaseDtype::Fp8Block) => Some(format!(
            "the matrices are stored as int4, which {base} would only make larger: take `as-stored`, or the checkpoint they were made from"
        )),
        (Some(Quantization::Fp8 { .. }), BaseDtype::Fp8Block) if [rows, columns] != [FP8_BLOCK; 2] => Some(format!(
            "the FP8 blocks of this checkpoint are {rows} x {columns}; products take 128 x 128, and quantising again would round twice: take `as-stored` or `bf16`"
        )),
        _ => None,
    }
}

/// Scales that are no numbers, all of them.
fn scale_faults(checkpoint: &Checkpoint) -> Vec<String> {
    let scales = checkpoint.tensors().filter(|t| {
        let of = t.name.strip_suffix("_scale_inv").or_else(|| t.name.strip_suffix("_scale"));
        of.is_some_and(|name| checkpoint.info(name).is_some())
    });
    scales
        .filter_map(|t| {
            let values = checkpoint.to_f32(&t.name).ok()?;
            let at = values.iter().position(|v| !v.is_finite())?;
            Some(format!("tensor `{}`: scale {at} is {}", t.name, values[at]))
        })
        .collect()
}

pub(crate) struct FileSource<'a> {
    checkpoint: &'a Checkpoint,
    options: &'a LoadOptions,
    quantization: Option<Quantization>,
    context: Context,
}

impl<'a> FileSource<'a> {
    pub(crate) fn new(
        checkpoint: &'a Checkpoint,
        options: &'a LoadOptions,
        quantization: Option<Quantization>,
        context: Context,
    ) -> FileSource<'a> {
        FileSource { checkpoint, options, quantization, context }
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.context.pool
    }

    /// A matrix without a change of its numbers, mapped where this program computes with what the file has.
    pub(crate) fn stored(&self, name: &str, rows: usize, cols: usize) -> Result<Frozen, ModelError> {
        let file = self.checkpoint;
        let info =
            file.info(name).ok_or_else(|| ModelError::checkpoint(file.path(), vec![format!("`{name}` is missing")]))?;
        let storage = match (info.dtype, &self.quantization) {
            (DType::F32, _) => Storage::mapped_f32(Arc::new(file.bytes(name)?)),
            (DType::BF16, _) => Storage::mapped_bf16(Arc::new(file.bytes(name)?)),
            (DType::F8E4M3, _) if file.block_size() == [FP8_BLOCK; 2] => Storage::Fp8 {
                q: Arc::new(file.bytes(name)?),
                scales: Arc::new(file.to_f32(&format!("{name}_scale_inv"))?),
            },
            (DType::F8E4M3, _) if self.options.precision == Precision::Bf16 => {
                Storage::Bf16(Arc::new(file.to_bf16(name)?))
            }
            (DType::I8, Some(Quantization::Int8)) => Storage::Int8 {
                q: Arc::new(file.bytes(name)?),
                scales: Arc::new(file.to_f32(&format!("{name}_scale"))?),
            },
            (DType::U8, Some(Quantization::Int4)) => Storage::Int4 {
                q: Arc::new(file.bytes(name)?),
                scales: Arc::new(file.to_bf16(&format!("{name}_scale"))?),
            },
            _ => Storage::F32(Arc::new(file.to_f32(name)?)),
        };
        Ok(Frozen { rows, cols, storage })
    }

    pub(crate) fn converted(&self, name: &str, weight: Frozen, base: BaseDtype) -> Result<Frozen, ModelError> {
        let (pool, path) = (&self.context.pool, self.checkpoint.path());
        let converted = convert(pool, weight, base).map_err(|text| fault(path, name, text))?;
        if base != BaseDtype::AsStored {
            // What was read for the conversion alone is not to count as memory. A mapped tensor that stayed as it is
            // comes back page by page when it is used.
            self.checkpoint.bytes(name)?.release();
        }
        Ok(converted)
    }
}

impl Source for FileSource<'_> {
    fn other(&mut self, name: &str, rows: usize, cols: usize) -> Result<Frozen, ModelError> {
        self.stored(name, rows, cols)
    }

    fn embedding(&mut self, name: &str, rows: usize, cols: usize) -> Result<Frozen, ModelError> {
        let stored = self.stored(name, rows, cols)?;
        match self.options.base {
            BaseDtype::Bf16 => self.converted(name, stored, BaseDtype::Bf16),
            _ => Ok(stored),
        }
    }

    fn linear(&mut self, name: &str, rows: usize, cols: usize) -> Result<Frozen, ModelError> {
        let stored = self.stored(name, rows, cols)?;
        self.converted(name, stored, self.options.base)
    }

    fn head(&mut self, rows: usize, cols: usize) -> Result<Frozen, ModelError> {
        let stored = self.stored("lm_head.weight", rows, cols)?;
        match self.options.base {
            BaseDtype::Fp8Block => Ok(stored),
            base => self.converted("lm_head.weight", stored, base),
        }
    }

    fn tied_head(&mut self, embedding: &Frozen) -> Result<Frozen, ModelError> {
        let (rows, cols) = (embedding.rows, embedding.cols);
        let codes = match &self.quantization {
            Some(q @ (Quantization::Int8 | Quantization::Int4)) => {
                let info = self.checkpoint.info("lm_head.weight");
                info.filter(|i| i.dtype == q.stored(rows, cols).dtype).map(|_| q.word())
            }
            _ => None,
        };
        let base = self.options.base;
        if codes.is_some_and(|word| base == BaseDtype::AsStored || base.word() == word) {
            return self.stored("lm_head.weight", rows, cols);
        }
        if base.takes_head() {
            return self.converted("model.embed_tokens.weight", embedding.clone(), base);
        }
        Ok(embedding.clone())
    }
}
