//! A decoder with random weights, for pre-training from nothing and for tests: matrices ~ N(0, initializer_range²),
//! norms 1, biases and the router's correction bias 0, as HF initialises.
use crate::build::build;
use crate::load::LoadOptions;
use crate::model::Model;
use crate::ModelError;
use loar_formats::config::ModelConfig;
use loar_kernels::rng::Stream;
use loar_tape::Frozen;

/// The random stream of a named tensor, so that its values do not depend on the order of creation (FNV-1a of the name).
pub(crate) fn stream_of(seed: u64, name: &str) -> Stream {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    Stream::new(seed ^ hash, PURPOSE_INIT, 0)
}

/// Keeps initial weights apart from every other use of the seed.
const PURPOSE_INIT: u32 = 0x1417;

impl Model {
    /// Weights drawn by `seed`; the same seed gives the same model on every machine.
    pub fn random(config: ModelConfig, seed: u64, options: &LoadOptions) -> Result<Model, ModelError> {
        let std = config.initializer_range as f32;
        build(config, options.context(), &mut |name, rows, cols| {
            let data = if name.ends_with("norm.weight") {
                vec![1.0; rows]
            } else if name.ends_with("bias") {
                vec![0.0; rows * cols]
            } else {
                let mut data = vec![0.0; rows * cols];
                stream_of(seed, name).fill_normal(0, std, &mut data);
                data
            };
            Ok(Frozen::from_f32(rows, cols, data))
        })
    }
}
