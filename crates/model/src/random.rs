//! A decoder with random weights, for pre-training from nothing and for tests: matrices ~ N(0, initializer_range²),
//! norms 1, biases and the router's correction bias 0, as HF initialises.
use crate::ModelError;
use crate::base::{BaseDtype, convert};
use crate::build::{Source, build};
use crate::load::LoadOptions;
use crate::merge::{StoredDtype, base_specs, encode, pt_metadata, write_config};
use crate::model::Model;
use loar_formats::config::ModelConfig;
use loar_formats::safetensors::ShardWriter;
use loar_kernels::rng::Stream;
use loar_tape::{Context, Frozen};
use std::borrow::Cow;
use std::path::Path;

/// The random stream of a named tensor, so that its values do not depend on the order of creation (FNV-1a of the name).
pub(crate) fn stream_of(seed: u64, name: &str) -> Stream {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    Stream::new(seed ^ hash, PURPOSE_INIT, 0)
}

/// Keeps initial weights apart from every other use of the seed.
const PURPOSE_INIT: u32 = 0x1417;

/// The values of one tensor.
fn values(name: &str, count: usize, std: f32, seed: u64) -> Vec<f32> {
    if name.ends_with("norm.weight") {
        vec![1.0; count]
    } else if name.ends_with("bias") {
        vec![0.0; count]
    } else {
        let mut data = vec![0.0; count];
        stream_of(seed, name).fill_normal(0, std, &mut data);
        data
    }
}

/// Writes a checkpoint folder of random weights under release names, one tensor in memory at a time: the start of
/// pre-training, and a stand-in of a released checkpoint's exact shape where its weights cannot be had.
pub fn write_random(
    config: &ModelConfig,
    seed: u64,
    out: &Path,
    dtype: StoredDtype,
    max_shard_bytes: u64,
) -> Result<(), ModelError> {
    let std = config.initializer_range as f32;
    let specs = base_specs(config, dtype);
    ShardWriter::new(out, specs, max_shard_bytes, pt_metadata())?.write(|spec| {
        Ok(Cow::Owned(encode(&values(&spec.name, spec.shape.iter().product(), std, seed), spec.dtype)))
    })?;
    write_config(config, out, dtype)
}

impl Model {
    /// Weights drawn by `seed`; the same seed gives the same model on every machine. Equal to writing them with
    /// [`write_random`] in f32 and loading that with the same options.
    pub fn random(config: ModelConfig, seed: u64, options: &LoadOptions) -> Result<Model, ModelError> {
        let (std, context) = (config.initializer_range as f32, options.context());
        let mut source = RandomSource { std, seed, base: options.base, context: context.clone() };
        build(config, context, &mut source)
    }
}

struct RandomSource {
    std: f32,
    seed: u64,
    base: BaseDtype,
    context: Context,
}

impl RandomSource {
    fn converted(&self, weight: Frozen, base: BaseDtype) -> Frozen {
        convert(&self.context.pool, weight, base).expect("drawn numbers are finite")
    }
}

impl Source for RandomSource {
    fn other(&mut self, name: &str, rows: usize, cols: usize) -> Result<Frozen, ModelError> {
        Ok(Frozen::from_f32(rows, cols, values(name, rows * cols, self.std, self.seed)))
    }

    fn embedding(&mut self, name: &str, rows: usize, cols: usize) -> Result<Frozen, ModelError> {
        let drawn = self.other(name, rows, cols)?;
        Ok(if self.base == BaseDtype::Bf16 { self.converted(drawn, self.base) } else { drawn })
    }

    fn linear(&mut self, name: &str, rows: usize, cols: usize) -> Result<Frozen, ModelError> {
        let drawn = self.other(name, rows, cols)?;
        Ok(self.converted(drawn, self.base))
    }

    fn head(&mut self, rows: usize, cols: usize) -> Result<Frozen, ModelError> {
        let drawn = self.other("lm_head.weight", rows, cols)?;
        Ok(if self.base == BaseDtype::Fp8Block { drawn } else { self.converted(drawn, self.base) })
    }

    fn tied_head(&mut self, embedding: &Frozen) -> Result<Frozen, ModelError> {
        let embedding = embedding.clone();
        Ok(if self.base.takes_head() { self.converted(embedding, self.base) } else { embedding })
    }
}
