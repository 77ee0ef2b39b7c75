//! Frequencies of the rotary embedding for every scaling the released configs use (research: YaRN, Peng et al. 2023,
//! §3; Llama 3 scaling as in HF's `_compute_llama3_parameters`).
use loar_formats::config::{ModelConfig, RopeScaling};
use loar_tape::op::{RopeLayout, RopeTable};
use std::f64::consts::PI;

/// Everything needed to rotate: radians per position of each pair, and the factor on cos and sin.
#[derive(Clone, Debug)]
pub struct Rope {
    pub layout: RopeLayout,
    pub inv_freq: Vec<f32>,
    pub factor: f32,
}

impl Rope {
    pub fn new(config: &ModelConfig) -> Rope {
        let layout = if config.rope.interleaved { RopeLayout::Interleaved } else { RopeLayout::Halves };
        Rope { layout, inv_freq: inv_freq(config), factor: config.rope.attention_factor() as f32 }
    }

    pub fn table(&self, positions: &[u32]) -> RopeTable {
        RopeTable::new(self.layout, &self.inv_freq, self.factor, positions)
    }
}

fn inv_freq(config: &ModelConfig) -> Vec<f32> {
    let dim = config.rotary_dim();
    let theta = config.rope.theta;
    let plain = (0..dim / 2).map(|i| theta.powf(-(2.0 * i as f64) / dim as f64));
    let scaled: Vec<f64> = match &config.rope.scaling {
        RopeScaling::Default => plain.collect(),
        RopeScaling::Linear { factor } => plain.map(|f| f / factor).collect(),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
            let original = *original_max_position_embeddings as f64;
            plain
                .map(|f| {
                    let wavelength = 2.0 * PI / f;
                    if wavelength < original / high_freq_factor {
                        f
                    } else if wavelength > original / low_freq_factor {
                        f / factor
                    } else {
                        let s = (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                        (1.0 - s) * f / factor + s * f
                    }
                })
                .collect()
        }
        RopeScaling::Yarn { factor, original_max_position_embeddings, beta_fast, beta_slow, truncate, .. } => {
            let original = *original_max_position_embeddings as f64;
            // Dimension that makes `rotations` turns over the original length (YaRN §3.2).
            let correction =
                |rotations: f64| dim as f64 * (original / (rotations * 2.0 * PI)).ln() / (2.0 * theta.ln());
            let (mut low, mut high) = (correction(*beta_fast), correction(*beta_slow));
            if *truncate {
                (low, high) = (low.floor(), high.ceil());
            }
            let (low, mut high) = (low.max(0.0), high.min(dim as f64 - 1.0));
            if low == high {
                high += 0.001;
            }
            plain
                .enumerate()
                .map(|(i, f)| {
                    let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                    f / factor * ramp + f * (1.0 - ramp)
                })
                .collect()
        }
    };
    scaled.into_iter().map(|f| f as f32).collect()
}
