//! Names, shapes and components of the six families, from one description.

use std::collections::BTreeMap;
use std::fmt;

use crate::config::{Architecture, MlaConfig, ModelConfig, MoeConfig};

/// What part of the decoder a tensor belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Component {
    /// Token embedding.
    Embed,
    /// Output head.
    Head,
    /// All RMSNorm weights.
    Norm,
    /// Query projection without a latent: `q_proj`.
    AttnQ,
    /// Key and value projections without a latent.
    AttnKv,
    /// Output projection of attention.
    AttnO,
    /// Query projections of latent attention: `q_proj`, or `q_a_proj` and `q_b_proj`.
    MlaQ,
    /// `kv_a_proj_with_mqa` and `kv_b_proj`.
    MlaKv,
    /// MLP of a layer without experts.
    Dense,
    /// Shared experts.
    Shared,
    /// Routed experts.
    Routed,
    /// Router weight.
    Router,
    /// `e_score_correction_bias`.
    RouterBias,
    /// Multi-token-prediction layers, ignored on load.
    Mtp,
}

impl Component {
    /// Short name for tables.
    pub fn label(self) -> &'static str {
        match self {
            Self::Embed => "embed",
            Self::Head => "head",
            Self::Norm => "norm",
            Self::AttnQ => "attention q",
            Self::AttnKv => "attention kv",
            Self::AttnO => "attention o",
            Self::MlaQ => "mla q",
            Self::MlaKv => "mla kv",
            Self::Dense => "dense",
            Self::Shared => "shared",
            Self::Routed => "routed",
            Self::Router => "router",
            Self::RouterBias => "router bias",
            Self::Mtp => "mtp",
        }
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.label())
    }
}

/// Whether a tensor of [`expected_tensors`] is the matrix of a linear layer: what an adapter can target
/// and what quantisation takes. Embedding, router, norms and biases are not.
pub fn is_linear_weight(name: &str, component: Component) -> bool {
    use Component::{Embed, Norm, Router, RouterBias};
    name.ends_with(".weight") && !matches!(component, Embed | Norm | Router | RouterBias)
}

struct Table<'a> {
    config: &'a ModelConfig,
    sink: &'a mut dyn FnMut(String, &[usize], Component),
}

impl Table<'_> {
    fn put(&mut self, name: String, shape: &[usize], component: Component) {
        (self.sink)(name, shape, component);
    }

    /// A linear layer: weight `[out, in]` and perhaps a bias `[out]`.
    fn linear(&mut self, path: &str, shape: [usize; 2], bias: bool, component: Component) {
        self.put(format!("{path}.weight"), &shape, component);
        if bias {
            self.put(format!("{path}.bias"), &shape[..1], component);
        }
    }

    fn norm(&mut self, path: &str, width: usize) {
        self.put(format!("{path}.weight"), &[width], Component::Norm);
    }

    fn mlp(&mut self, path: &str, width: usize, bias: bool, component: Component) {
        let hidden = self.config.hidden_size;
        self.linear(&format!("{path}.gate_proj"), [width, hidden], bias, component);
        self.linear(&format!("{path}.up_proj"), [width, hidden], bias, component);
        self.linear(&format!("{path}.down_proj"), [hidden, width], bias, component);
    }

    fn attention(&mut self, path: &str) {
        let c = self.config;
        let (hidden, head) = (c.hidden_size, c.head_dim);
        let query = c.num_attention_heads.saturating_mul(head);
        let kv = c.num_key_value_heads.saturating_mul(head);
        self.linear(&format!("{path}.q_proj"), [query, hidden], c.attention_bias, Component::AttnQ);
        self.linear(&format!("{path}.k_proj"), [kv, hidden], c.attention_bias, Component::AttnKv);
        self.linear(&format!("{path}.v_proj"), [kv, hidden], c.attention_bias, Component::AttnKv);
        self.linear(&format!("{path}.o_proj"), [hidden, query], c.o_bias, Component::AttnO);
        if c.qk_norm {
            self.norm(&format!("{path}.q_norm"), head);
            self.norm(&format!("{path}.k_norm"), head);
        }
    }

    fn latent_attention(&mut self, path: &str, mla: &MlaConfig) {
        let c = self.config;
        let (hidden, heads) = (c.hidden_size, c.num_attention_heads);
        let query = heads.saturating_mul(mla.qk_head_dim());
        match mla.q_lora_rank {
            // the reference classes give a full-rank q_proj no bias
            None => self.linear(&format!("{path}.q_proj"), [query, hidden], false, Component::MlaQ),
            Some(rank) => {
                let q_a = format!("{path}.q_a_proj");
                self.linear(&q_a, [rank, hidden], c.attention_bias, Component::MlaQ);
                self.norm(&format!("{path}.q_a_layernorm"), rank);
                self.linear(&format!("{path}.q_b_proj"), [query, rank], false, Component::MlaQ);
            }
        }
        let latent = mla.kv_lora_rank.saturating_add(mla.qk_rope_head_dim);
        let kv_a = format!("{path}.kv_a_proj_with_mqa");
        self.linear(&kv_a, [latent, hidden], c.attention_bias, Component::MlaKv);
        self.norm(&format!("{path}.kv_a_layernorm"), mla.kv_lora_rank);
        let key_value = heads.saturating_mul(mla.qk_nope_head_dim.saturating_add(mla.v_head_dim));
        let kv_b = format!("{path}.kv_b_proj");
        self.linear(&kv_b, [key_value, mla.kv_lora_rank], false, Component::MlaKv);
        let value = heads.saturating_mul(mla.v_head_dim);
        self.linear(&format!("{path}.o_proj"), [hidden, value], c.o_bias, Component::AttnO);
    }

    fn mixture(&mut self, path: &str, moe: &MoeConfig) {
        let (experts, hidden) = (moe.n_routed_experts, self.config.hidden_size);
        self.linear(&format!("{path}.gate"), [experts, hidden], false, Component::Router);
        if self.config.architecture == Architecture::DeepseekV3 {
            let name = format!("{path}.gate.e_score_correction_bias");
            self.put(name, &[experts], Component::RouterBias);
        }
        for expert in 0..experts {
            let path = format!("{path}.experts.{expert}");
            self.mlp(&path, moe.moe_intermediate_size, false, Component::Routed);
        }
        if moe.n_shared_experts > 0 {
            let width = moe.n_shared_experts.saturating_mul(moe.moe_intermediate_size);
            self.mlp(&format!("{path}.shared_experts"), width, false, Component::Shared);
        }
    }

    fn walk(&mut self) {
        let c = self.config;
        let hidden = c.hidden_size;
        let vocab_by_hidden = [c.vocab_size, hidden];
        self.put("model.embed_tokens.weight".into(), &vocab_by_hidden, Component::Embed);
        for layer in 0..c.num_hidden_layers {
            let path = format!("model.layers.{layer}");
            self.norm(&format!("{path}.input_layernorm"), hidden);
            let attention = format!("{path}.self_attn");
            match &c.mla {
                Some(mla) => self.latent_attention(&attention, mla),
                None => self.attention(&attention),
            }
            self.norm(&format!("{path}.post_attention_layernorm"), hidden);
            let mlp = format!("{path}.mlp");
            match c.moe.as_ref().filter(|_| c.is_moe_layer(layer)) {
                Some(moe) => self.mixture(&mlp, moe),
                None => self.mlp(&mlp, c.intermediate_size, c.mlp_bias, Component::Dense),
            }
        }
        self.norm("model.norm", hidden);
        if !c.tie_word_embeddings {
            self.put("lm_head.weight".into(), &vocab_by_hidden, Component::Head);
        }
    }
}

/// Every tensor of the decoder in the order of the forward pass: name, shape `[out, in]` or
/// `[width]`, component. Multi-token-prediction layers are not listed; see [`is_mtp`].
pub fn expected_tensors(config: &ModelConfig) -> Vec<(String, Vec<usize>, Component)> {
    let mut list = Vec::new();
    let mut sink = |name: String, shape: &[usize], component| list.push((name, shape.to_vec(), component));
    Table { config, sink: &mut sink }.walk();
    list
}

/// Number of parameters of each component, the router bias included, multi-token prediction not.
pub fn parameters(config: &ModelConfig) -> BTreeMap<Component, u64> {
    let mut counts = BTreeMap::new();
    let mut sink = |_: String, shape: &[usize], component| {
        let count = shape.iter().fold(1u64, |n, s| n.saturating_mul(*s as u64));
        let sum: &mut u64 = counts.entry(component).or_insert(0);
        *sum = sum.saturating_add(count);
    };
    Table { config, sink: &mut sink }.walk();
    counts
}

/// Index of the decoder layer a name belongs to.
pub(super) fn layer_of(name: &str) -> Option<usize> {
    let digits = name.strip_prefix("model.layers.")?.split('.').next()?;
    digits.parse().ok()
}

/// Whether a tensor belongs to a multi-token-prediction layer of this model (`deepseek_v3`: the
/// layers after the last decoder layer). Such tensors are ignored on load and passed on by exports.
pub fn is_mtp(config: &ModelConfig, name: &str) -> bool {
    // a config that says 0 may still come with the one layer all V3 releases have
    let extra = config.num_nextn_predict_layers.max(1);
    config.architecture == Architecture::DeepseekV3
        && layer_of(name)
            .is_some_and(|layer| layer >= config.num_hidden_layers && layer - config.num_hidden_layers < extra)
}

/// Component of a tensor by its name, scales counted with their weight; `None` for a name no
/// family here has.
pub fn component_of(config: &ModelConfig, name: &str) -> Option<Component> {
    if is_mtp(config, name) {
        return Some(Component::Mtp);
    }
    let scaled = |suffix| name.strip_suffix(suffix).filter(|head| head.ends_with(".weight"));
    let name = scaled("_scale_inv").or_else(|| scaled("_scale")).unwrap_or(name);
    if name.ends_with(".e_score_correction_bias") {
        return Some(Component::RouterBias);
    }
    let module = name.strip_suffix(".weight").or_else(|| name.strip_suffix(".bias"))?;
    let (parent, leaf) = module.rsplit_once('.').unwrap_or(("", module));
    let mla = config.mla.is_some();
    Some(match leaf {
        "embed_tokens" => Component::Embed,
        "lm_head" => Component::Head,
        "q_proj" if mla => Component::MlaQ,
        "q_proj" => Component::AttnQ,
        "k_proj" | "v_proj" => Component::AttnKv,
        "o_proj" => Component::AttnO,
        "q_a_proj" | "q_b_proj" => Component::MlaQ,
        "kv_a_proj_with_mqa" | "kv_b_proj" => Component::MlaKv,
        "gate" => Component::Router,
        "gate_proj" | "up_proj" | "down_proj" => {
            if parent.ends_with(".shared_experts") {
                Component::Shared
            } else if parent.contains(".experts.") {
                Component::Routed
            } else {
                Component::Dense
            }
        }
        "norm" | "q_norm" | "k_norm" => Component::Norm,
        _ if leaf.ends_with("layernorm") => Component::Norm,
        _ => return None,
    })
}
