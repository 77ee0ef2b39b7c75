//! What an adapter touches and how it scales: all that decides how other programs read it.
//!
//! Takes its configuration and tensor keys, and the base's configuration where that is at hand. Never
//! reads a file.

use std::collections::{BTreeMap, BTreeSet};

use loar_formats::config::{Architecture, ModelConfig};
use loar_formats::peft::{AdapterConfig, AdapterKey};
use serde::Serialize;

use crate::console::Lang;

/// A part of the decoder, as consumers tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// q, k, v and the latent projections but `kv_b_proj`.
    AttentionIn,
    /// `kv_b_proj` of latent attention.
    KvB,
    /// `o_proj`.
    AttentionOut,
    /// MLP of a layer without experts.
    Dense,
    /// Shared experts.
    Shared,
    /// Routed experts.
    Routed,
    /// Router weight.
    Router,
    /// `embed_tokens`.
    Embedding,
    /// `lm_head`.
    Head,
}

impl Part {
    fn of(module: &str) -> Option<Self> {
        let leaf = module.rsplit('.').next().unwrap_or(module);
        Some(match leaf {
            "kv_b_proj" => Self::KvB,
            "o_proj" => Self::AttentionOut,
            "embed_tokens" => Self::Embedding,
            "lm_head" => Self::Head,
            _ if module.contains(".self_attn.") => Self::AttentionIn,
            _ if module.contains(".mlp.experts") => Self::Routed,
            _ if module.contains(".shared_experts.") => Self::Shared,
            "gate" => Self::Router,
            _ if module.contains(".mlp.") => Self::Dense,
            _ => return None,
        })
    }

    /// For sentences.
    pub fn name(self, lang: Lang) -> &'static str {
        match self {
            Self::AttentionIn => lang.pick("attention q, k, v and latents", "注意力 q、k、v 与潜变量投影"),
            Self::KvB => "kv_b_proj",
            Self::AttentionOut => "o_proj",
            Self::Dense => lang.pick("dense MLP", "稠密 MLP"),
            Self::Shared => lang.pick("shared experts", "共享专家"),
            Self::Routed => lang.pick("routed experts", "路由专家"),
            Self::Router => lang.pick("router", "路由器"),
            Self::Embedding => "embed_tokens",
            Self::Head => "lm_head",
        }
    }
}

/// What decides how an adapter is read elsewhere.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Profile {
    /// `model_type` of the base, where known.
    pub model_type: Option<String>,
    /// Modules by part.
    pub modules: BTreeMap<Part, usize>,
    /// Routed experts are stored fused, one tensor pair a layer.
    pub fused_experts: bool,
    /// Some expert of an adapted layer has no adapter.
    pub partial_experts: bool,
    /// `use_rslora`.
    pub use_rslora: bool,
    /// `use_dora`.
    pub use_dora: bool,
    /// `rank_pattern` or `alpha_pattern`.
    pub patterns: bool,
    /// Modules stored whole.
    pub modules_to_save: Vec<String>,
    /// `q_proj` is adapted and `v_proj` is not.
    pub q_without_v: bool,
    /// Largest rank.
    pub rank: usize,
}

impl Profile {
    /// From an adapter's configuration and tensor keys; `base` sharpens what its names leave open.
    pub fn of<'a>(
        config: &AdapterConfig,
        keys: impl IntoIterator<Item = &'a AdapterKey>,
        base: Option<&ModelConfig>,
    ) -> Self {
        let mut modules = BTreeSet::new();
        let mut this = Self {
            model_type: base.map(|b| b.architecture.model_type().to_owned()),
            use_rslora: config.use_rslora,
            use_dora: config.use_dora,
            patterns: !config.rank_pattern.is_empty() || !config.alpha_pattern.is_empty(),
            modules_to_save: config.modules_to_save.clone(),
            rank: config.rank_pattern.iter().map(|(_, r)| *r).chain([config.r]).max().unwrap_or(0),
            ..Self::default()
        };
        for key in keys {
            match key {
                AdapterKey::FusedExperts { .. } => {
                    this.fused_experts = true;
                    modules.insert(key.pattern_path());
                }
                AdapterKey::Saved { .. } | AdapterKey::EmbeddingBase { .. } => {}
                other => {
                    modules.insert(other.module().to_owned());
                }
            }
        }
        let mut experts: BTreeMap<&str, usize> = BTreeMap::new();
        for module in &modules {
            if let Some(part) = Part::of(module) {
                *this.modules.entry(part).or_default() += 1;
            }
            if let Some((layer, _)) = module.split_once(".mlp.experts.") {
                *experts.entry(layer).or_default() += 1;
            }
        }
        let has = |leaf: &str| modules.iter().any(|m| m.ends_with(leaf));
        this.q_without_v = has(".q_proj") && !has(".v_proj") && !has("kv_a_proj_with_mqa");
        if let Some(moe) = base.and_then(|b| b.moe.as_ref())
            && !this.fused_experts
        {
            // every expert has gate, up and down when all are adapted
            this.partial_experts = experts.values().any(|n| *n != 3 * moe.n_routed_experts);
        }
        this
    }

    /// Whether anything of this part is adapted.
    pub fn has(&self, part: Part) -> bool {
        self.modules.contains_key(&part)
    }

    /// Whether the base is of one of these families.
    pub fn is(&self, architectures: &[Architecture]) -> bool {
        architectures.iter().any(|a| self.model_type.as_deref() == Some(a.model_type()))
    }

    /// Latent attention by its base, or by modules that only it has.
    pub fn is_mla(&self) -> bool {
        self.is(&[Architecture::DeepseekV2, Architecture::DeepseekV3]) || self.has(Part::KvB)
    }

    /// Whether the scale is anything but `alpha / r` for every module.
    pub fn scaling_differs(&self) -> bool {
        self.use_rslora || self.patterns
    }
}

#[cfg(test)]
mod tests {
    use super::Part;

    #[test]
    fn parts_follow_the_module_path() {
        for (module, part) in [
            ("model.layers.0.self_attn.q_a_proj", Part::AttentionIn),
            ("model.layers.0.self_attn.kv_b_proj", Part::KvB),
            ("model.layers.3.mlp.experts.7.up_proj", Part::Routed),
            ("model.layers.3.mlp.experts.gate_up_proj", Part::Routed),
            ("model.layers.3.mlp.shared_experts.up_proj", Part::Shared),
            ("model.layers.3.mlp.gate", Part::Router),
            ("model.layers.0.mlp.gate_proj", Part::Dense),
            ("lm_head", Part::Head),
            ("model.embed_tokens", Part::Embedding),
        ] {
            assert_eq!(Part::of(module), Some(part), "{module}");
        }
        assert_eq!(Part::of("model.norm"), None);
    }
}
