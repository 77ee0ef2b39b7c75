//! Rotary position: the scalings of the released checkpoints and the two factors yarn adds.
//!
//! Takes `rope_parameters` or `rope_theta` + `rope_scaling`; `type` and `rope_type` are the same.
//! Never accepts a scaling it cannot compute (dynamic, longrope, ...).

use serde_json::{Map, Value};

use super::keys::Keys;
use crate::Issue;

/// Rotary position of a decoder.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    /// Base of the frequencies.
    pub theta: f64,
    /// Pairs are `(2i, 2i+1)` (MLA checkpoints); otherwise `(i, i + dim/2)`.
    pub interleaved: bool,
    /// Change of the frequencies for long sequences.
    pub scaling: RopeScaling,
}

/// Changes of the rotary frequencies.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// None.
    Default,
    /// All frequencies divided by `factor`.
    Linear {
        /// Divisor.
        factor: f64,
    },
    /// Low frequencies divided, high ones kept, blended between (Llama 3).
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Wavelengths above `original / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Sequence length of pre-training.
        original_max_position_embeddings: usize,
    },
    /// YaRN (arXiv 2309.00071), with DeepSeek's two mscale keys.
    Yarn {
        /// Extension factor.
        factor: f64,
        /// Sequence length of pre-training.
        original_max_position_embeddings: usize,
        /// Rotations above which a dimension is kept (32).
        beta_fast: f64,
        /// Rotations below which a dimension is divided (1).
        beta_slow: f64,
        /// Weight of the logarithmic factor on cos and sin.
        mscale: Option<f64>,
        /// The same for all dimensions; also scales the MLA softmax.
        mscale_all_dim: Option<f64>,
        /// Explicit factor on cos and sin; wins over everything else.
        attention_factor: Option<f64>,
        /// Multiplies the computed factor (R1-0528-Qwen3-8B).
        attn_factor: Option<f64>,
        /// Whether the two correction bounds are rounded to whole dimensions (default true).
        truncate: bool,
    },
}

/// `0.1 · weight · ln(factor) + 1`, 1 for factors up to 1 (YaRN §3.4 and DeepSeek-V2 code).
pub fn yarn_mscale(factor: f64, weight: f64) -> f64 {
    if factor > 1.0 { 0.1 * weight * factor.ln() + 1.0 } else { 1.0 }
}

fn non_zero(value: Option<f64>) -> Option<f64> {
    value.filter(|v| *v != 0.0)
}

impl RopeConfig {
    /// Factor on cos and sin.
    pub fn attention_factor(&self) -> f64 {
        let RopeScaling::Yarn { factor, mscale, mscale_all_dim, attention_factor, attn_factor, .. } = self.scaling
        else {
            return 1.0;
        };
        if let Some(explicit) = attention_factor {
            return explicit;
        }
        let computed = match (non_zero(mscale), non_zero(mscale_all_dim)) {
            (Some(m), Some(all)) => yarn_mscale(factor, m) / yarn_mscale(factor, all),
            _ => yarn_mscale(factor, 1.0),
        };
        attn_factor.unwrap_or(1.0) * computed
    }

    /// Factor on the MLA softmax scale: `yarn_mscale(factor, mscale_all_dim)²`, 1 without yarn or
    /// without `mscale_all_dim`.
    pub fn softmax_factor(&self) -> f64 {
        match self.scaling {
            RopeScaling::Yarn { factor, mscale_all_dim, .. } => {
                non_zero(mscale_all_dim).map_or(1.0, |all| yarn_mscale(factor, all).powi(2))
            }
            _ => 1.0,
        }
    }
}

/// Reads the rope keys of a config; faults go to `keys`.
pub(super) fn read(keys: &mut Keys<'_>, interleaved: bool, max_position: usize, issues: &mut Vec<Issue>) -> RopeConfig {
    let flat_theta = keys.opt_f64("rope_theta");
    let (name, table) = match (keys.opt_object("rope_parameters"), keys.opt_object("rope_scaling")) {
        (Some(new), _) => ("rope_parameters", Some(new)),
        (None, Some(old)) => ("rope_scaling", Some(old)),
        (None, None) => ("rope_scaling", None),
    };
    let Some(table) = table else {
        let theta = theta(keys, flat_theta, None);
        return RopeConfig { theta, interleaved, scaling: RopeScaling::Default };
    };
    if table.values().any(Value::is_object) {
        keys.fault(format!("`{name}` gives one table per layer type; only one rope for all layers is supported"));
        return RopeConfig { theta: 1e4, interleaved, scaling: RopeScaling::Default };
    }
    let mut inner = Keys::nested(table, name);
    let inner_theta = inner.opt_f64("rope_theta");
    let scaling = scaling(&mut inner, name, max_position, issues);
    if inner.opt_f64("partial_rotary_factor").is_some_and(|f| f != 1.0) {
        inner.fault("`partial_rotary_factor` other than 1 is not supported".into());
    }
    keys.take_faults(inner);
    let theta = theta(keys, flat_theta, inner_theta);
    RopeConfig { theta, interleaved, scaling }
}

fn theta(keys: &mut Keys<'_>, flat: Option<f64>, inner: Option<f64>) -> f64 {
    // 1e4 is the default of every family here in the reference implementation
    let theta = inner.or(flat).unwrap_or(1e4);
    if let (Some(a), Some(b)) = (inner, flat)
        && a != b
    {
        keys.fault(format!("`rope_theta` is {b} at the top and {a} in the rope table; keep one"));
    }
    if !(theta.is_finite() && theta > 1.0) {
        keys.fault(format!("`rope_theta` is {theta}; it must be a number above 1"));
        return 1e4;
    }
    theta
}

fn scaling(keys: &mut Keys<'_>, name: &str, max_position: usize, issues: &mut Vec<Issue>) -> RopeScaling {
    let kind = keys.opt_str("rope_type").or_else(|| keys.opt_str("type"));
    match kind.as_deref() {
        None | Some("default") => {
            if kind.is_none() && keys.has("factor") {
                keys.fault(format!("`{name}` has a `factor` but no `rope_type`"));
            }
            RopeScaling::Default
        }
        Some("linear") => RopeScaling::Linear { factor: keys.positive("factor") },
        Some("llama3") => {
            let low = keys.positive("low_freq_factor");
            let high = keys.positive("high_freq_factor");
            if high <= low {
                keys.fault(format!("`high_freq_factor` {high} must be above `low_freq_factor` {low}"));
            }
            RopeScaling::Llama3 {
                factor: keys.positive("factor"),
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings: keys.size("original_max_position_embeddings"),
            }
        }
        Some("yarn") => yarn(keys, max_position, issues),
        Some(other) => {
            keys.fault(format!(
                "`{name}` asks for rope type `{other}`; supported are default, linear, llama3 and yarn"
            ));
            RopeScaling::Default
        }
    }
}

fn yarn(keys: &mut Keys<'_>, max_position: usize, issues: &mut Vec<Issue>) -> RopeScaling {
    let original = keys.size_or("original_max_position_embeddings", max_position.max(1));
    let implied = max_position as f64 / original as f64;
    let factor = match keys.opt_f64("factor") {
        Some(_) => keys.positive("factor"),
        None => implied,
    };
    let attention_factor = keys.opt_f64("attention_factor");
    let attn_factor = keys.opt_f64("attn_factor");
    for (key, value) in [("attention_factor", attention_factor), ("attn_factor", attn_factor)] {
        if value.is_some_and(|v| !(v.is_finite() && v > 0.0)) {
            keys.fault(format!("`{key}` must be a number above 0"));
        }
    }
    let scaling = RopeScaling::Yarn {
        factor,
        original_max_position_embeddings: original,
        beta_fast: keys.positive_or("beta_fast", 32.0),
        beta_slow: keys.positive_or("beta_slow", 1.0),
        mscale: keys.opt_f64("mscale"),
        mscale_all_dim: keys.opt_f64("mscale_all_dim"),
        attention_factor,
        attn_factor,
        truncate: keys.bool_or("truncate", true),
    };
    let effective = RopeConfig { theta: 1e4, interleaved: false, scaling: scaling.clone() };
    match (attention_factor, attn_factor) {
        (Some(a), Some(b)) => issues.push(Issue::note(format!(
            "yarn: cos and sin are multiplied by `attention_factor` {a}; `attn_factor` {b} is not used"
        ))),
        (Some(a), None) => {
            issues.push(Issue::note(format!("yarn: cos and sin are multiplied by the file's `attention_factor` {a}")))
        }
        (None, Some(b)) => issues.push(Issue::note(format!(
            "yarn: cos and sin are multiplied by `attn_factor` {b} times the yarn factor, {:.6} in all, \
             as vLLM, SGLang and llama.cpp do; transformers ignores `attn_factor`",
            effective.attention_factor()
        ))),
        (None, None) => {}
    }
    scaling
}

/// The rope table as transformers 5 (`with_theta`) or the released files write it.
pub(super) fn to_table(rope: &RopeConfig, with_theta: bool) -> Map<String, Value> {
    let mut table = Map::new();
    let mut put = |key: &str, value: Value| {
        table.insert(key.to_owned(), value);
    };
    if with_theta {
        put("rope_theta", rope.theta.into());
    }
    let kind = match &rope.scaling {
        RopeScaling::Default => "default",
        RopeScaling::Linear { factor } => {
            put("factor", (*factor).into());
            "linear"
        }
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
            put("factor", (*factor).into());
            put("low_freq_factor", (*low_freq_factor).into());
            put("high_freq_factor", (*high_freq_factor).into());
            put("original_max_position_embeddings", (*original_max_position_embeddings).into());
            "llama3"
        }
        RopeScaling::Yarn {
            factor,
            original_max_position_embeddings,
            beta_fast,
            beta_slow,
            mscale,
            mscale_all_dim,
            attention_factor,
            attn_factor,
            truncate,
        } => {
            put("factor", (*factor).into());
            put("original_max_position_embeddings", (*original_max_position_embeddings).into());
            put("beta_fast", (*beta_fast).into());
            put("beta_slow", (*beta_slow).into());
            for (key, value) in [
                ("mscale", mscale),
                ("mscale_all_dim", mscale_all_dim),
                ("attention_factor", attention_factor),
                ("attn_factor", attn_factor),
            ] {
                if let Some(value) = value {
                    put(key, (*value).into());
                }
            }
            if !truncate {
                put("truncate", false.into());
            }
            "yarn"
        }
    };
    put("rope_type", kind.into());
    if !with_theta {
        put("type", kind.into());
    }
    table
}
