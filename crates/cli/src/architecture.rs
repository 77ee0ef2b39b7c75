//! A decoder's configuration in a few words and numbers, for `inspect`.

use std::collections::BTreeMap;

use loar_formats::config::{ModelConfig, RopeScaling};
use loar_formats::names::Component;
use serde::Serialize;

/// The decoder in a few words and numbers.
#[derive(Debug, Serialize)]
pub struct ArchitectureFacts {
    /// `model_type` of `config.json`.
    pub model_type: String,
    /// Decoder layers.
    pub num_hidden_layers: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Longest sequence.
    pub max_position_embeddings: usize,
    /// The head is the embedding.
    pub tie_word_embeddings: bool,
    /// Attention in words.
    pub attention: String,
    /// Feed-forward in words.
    pub feed_forward: String,
    /// Rotary position in words.
    pub rope: String,
}

impl ArchitectureFacts {
    /// From a configuration.
    pub fn of(c: &ModelConfig) -> Self {
        let attention = match &c.mla {
            Some(m) => format!(
                "MLA, {} heads, latent {} (q latent {}), head {}+{}, value {}",
                c.num_attention_heads,
                m.kv_lora_rank,
                m.q_lora_rank.map_or("none".to_owned(), |r| r.to_string()),
                m.qk_nope_head_dim,
                m.qk_rope_head_dim,
                m.v_head_dim
            ),
            None => format!(
                "GQA, {} heads, {} key-value heads, head {}{}{}",
                c.num_attention_heads,
                c.num_key_value_heads,
                c.head_dim,
                if c.attention_bias { ", q/k/v bias" } else { "" },
                if c.qk_norm { ", q/k norm" } else { "" }
            ),
        };
        let feed_forward = match &c.moe {
            Some(m) => format!(
                "{} routed experts of {}, {} per token, {} shared; dense {} in the first {}",
                m.n_routed_experts,
                m.moe_intermediate_size,
                m.num_experts_per_tok,
                m.n_shared_experts,
                c.intermediate_size,
                m.first_k_dense_replace
            ),
            None => format!("dense, {}", c.intermediate_size),
        };
        Self {
            model_type: c.architecture.model_type().to_owned(),
            num_hidden_layers: c.num_hidden_layers,
            hidden_size: c.hidden_size,
            vocab_size: c.vocab_size,
            max_position_embeddings: c.max_position_embeddings,
            tie_word_embeddings: c.tie_word_embeddings,
            attention,
            feed_forward,
            rope: rope(c),
        }
    }
}

fn rope(c: &ModelConfig) -> String {
    let scaling = match &c.rope.scaling {
        RopeScaling::Default => "no scaling".to_owned(),
        RopeScaling::Linear { factor } => format!("linear, factor {factor}"),
        RopeScaling::Llama3 { factor, original_max_position_embeddings: o, .. } => {
            format!("llama3, factor {factor} from {o}")
        }
        RopeScaling::Yarn { factor, original_max_position_embeddings: o, .. } => {
            format!("yarn, factor {factor} from {o}")
        }
    };
    let pairs = if c.rope.interleaved { "interleaved" } else { "half-split" };
    format!(
        "theta {}, {scaling}, {} rotated dimensions, {pairs}, softmax scale {:.6}",
        c.rope.theta,
        c.rotary_dim(),
        c.softmax_scale()
    )
}

/// Parameters a token passes through: all but the routed experts it does not visit.
pub fn active(config: &ModelConfig, counts: &BTreeMap<Component, u64>) -> u64 {
    let total: u64 = counts.values().sum();
    let routed = counts.get(&Component::Routed).copied().unwrap_or(0);
    match &config.moe {
        Some(m) if m.n_routed_experts > 0 => {
            let visited = u128::from(routed) * m.num_experts_per_tok as u128 / m.n_routed_experts as u128;
            total - routed + u64::try_from(visited).unwrap_or(u64::MAX)
        }
        _ => total,
    }
}
