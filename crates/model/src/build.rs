//! The decoder from its config and a source of named weights: the one place that knows which tensors exist.
use crate::ModelError;
use crate::layer::{Attention, Gqa, Layer, Mla, MlaQuery, Mlp, Moe, SwigluMlp};
use crate::model::Model;
use crate::rope::Rope;
use loar_formats::config::{ModelConfig, Scoring as ConfigScoring, TopkMethod};
use loar_tape::op::{RouterRule, Scoring};
use loar_tape::{Context, Frozen, Linear, ParamStore, Weight};
use std::sync::Arc;

/// Gives the frozen matrix `[rows, cols]` of a tensor name (a vector is `[n, 1]`).
pub(crate) trait Source {
    /// Norms, biases and the router.
    fn other(&mut self, name: &str, rows: usize, cols: usize) -> Result<Frozen, ModelError>;
    fn embedding(&mut self, name: &str, rows: usize, cols: usize) -> Result<Frozen, ModelError> {
        self.other(name, rows, cols)
    }
    /// The matrix of a linear layer of the body.
    fn linear(&mut self, name: &str, rows: usize, cols: usize) -> Result<Frozen, ModelError> {
        self.other(name, rows, cols)
    }
    fn head(&mut self, rows: usize, cols: usize) -> Result<Frozen, ModelError> {
        self.linear("lm_head.weight", rows, cols)
    }
    /// The head of a model whose head is its embedding.
    fn tied_head(&mut self, embedding: &Frozen) -> Result<Frozen, ModelError> {
        Ok(embedding.clone())
    }
}

impl<F: FnMut(&str, usize, usize) -> Result<Frozen, ModelError>> Source for F {
    fn other(&mut self, name: &str, rows: usize, cols: usize) -> Result<Frozen, ModelError> {
        self(name, rows, cols)
    }
}

struct Builder<'b> {
    config: &'b ModelConfig,
    source: &'b mut dyn Source,
}

pub(crate) fn build(config: ModelConfig, context: Context, source: &mut dyn Source) -> Result<Model, ModelError> {
    let mut b = Builder { config: &config, source };
    let (vocab, d) = (config.vocab_size, config.hidden_size);
    let embedding = b.source.embedding("model.embed_tokens.weight", vocab, d)?;
    let layers = (0..config.num_hidden_layers).map(|i| b.layer(i)).collect::<Result<Vec<_>, _>>()?;
    let norm = b.weight("model.norm.weight", d, 1)?;
    let head = if config.tie_word_embeddings { b.source.tied_head(&embedding)? } else { b.source.head(vocab, d)? };
    let lm_head = Linear {
        name: "lm_head".into(),
        in_features: d,
        out_features: vocab,
        weight: Weight::Frozen(head),
        bias: None,
        lora: None,
    };
    let rope = Rope::new(&config);
    Ok(Model {
        config,
        params: ParamStore::default(),
        context,
        embed_tokens: Weight::Frozen(embedding),
        embed_lora: None,
        layers,
        norm,
        lm_head,
        rope,
        attached: None,
    })
}

impl Builder<'_> {
    fn weight(&mut self, name: &str, rows: usize, cols: usize) -> Result<Weight, ModelError> {
        Ok(Weight::Frozen(self.source.other(name, rows, cols)?))
    }

    fn linear(
        &mut self,
        name: String,
        out_features: usize,
        in_features: usize,
        bias: bool,
    ) -> Result<Linear, ModelError> {
        let weight = Weight::Frozen(self.source.linear(&format!("{name}.weight"), out_features, in_features)?);
        let bias = if bias { Some(self.weight(&format!("{name}.bias"), out_features, 1)?) } else { None };
        Ok(Linear { name, in_features, out_features, weight, bias, lora: None })
    }

    fn layer(&mut self, index: usize) -> Result<Layer, ModelError> {
        let d = self.config.hidden_size;
        let p = format!("model.layers.{index}");
        Ok(Layer {
            index,
            input_layernorm: self.weight(&format!("{p}.input_layernorm.weight"), d, 1)?,
            attention: if self.config.mla.is_some() {
                Attention::Mla(self.mla(&format!("{p}.self_attn"))?)
            } else {
                Attention::Gqa(self.gqa(&format!("{p}.self_attn"))?)
            },
            post_attention_layernorm: self.weight(&format!("{p}.post_attention_layernorm.weight"), d, 1)?,
            mlp: if self.config.is_moe_layer(index) {
                Mlp::Moe(self.moe(&format!("{p}.mlp"))?)
            } else {
                Mlp::Dense(self.mlp(&format!("{p}.mlp"), self.config.intermediate_size, self.config.mlp_bias)?)
            },
        })
    }

    fn gqa(&mut self, p: &str) -> Result<Gqa, ModelError> {
        let c = self.config;
        let (d, q, kv) = (c.hidden_size, c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim);
        Ok(Gqa {
            q_proj: self.linear(format!("{p}.q_proj"), q, d, c.attention_bias)?,
            k_proj: self.linear(format!("{p}.k_proj"), kv, d, c.attention_bias)?,
            v_proj: self.linear(format!("{p}.v_proj"), kv, d, c.attention_bias)?,
            o_proj: self.linear(format!("{p}.o_proj"), d, q, c.o_bias)?,
            q_norm: if c.qk_norm { Some(self.weight(&format!("{p}.q_norm.weight"), c.head_dim, 1)?) } else { None },
            k_norm: if c.qk_norm { Some(self.weight(&format!("{p}.k_norm.weight"), c.head_dim, 1)?) } else { None },
        })
    }

    fn mla(&mut self, p: &str) -> Result<Mla, ModelError> {
        let c = self.config;
        let m = c.mla.as_ref().expect("called for MLA configs only");
        let (d, heads, latent) = (c.hidden_size, c.num_attention_heads, m.kv_lora_rank);
        let q_out = heads * m.qk_head_dim();
        Ok(Mla {
            query: match m.q_lora_rank {
                None => MlaQuery::Full(self.linear(format!("{p}.q_proj"), q_out, d, false)?),
                Some(rank) => MlaQuery::LowRank {
                    q_a_proj: self.linear(format!("{p}.q_a_proj"), rank, d, c.attention_bias)?,
                    q_a_layernorm: self.weight(&format!("{p}.q_a_layernorm.weight"), rank, 1)?,
                    q_b_proj: self.linear(format!("{p}.q_b_proj"), q_out, rank, false)?,
                },
            },
            kv_a_proj_with_mqa: self.linear(
                format!("{p}.kv_a_proj_with_mqa"),
                latent + m.qk_rope_head_dim,
                d,
                c.attention_bias,
            )?,
            kv_a_layernorm: self.weight(&format!("{p}.kv_a_layernorm.weight"), latent, 1)?,
            kv_b_proj: self.linear(
                format!("{p}.kv_b_proj"),
                heads * (m.qk_nope_head_dim + m.v_head_dim),
                latent,
                false,
            )?,
            o_proj: self.linear(format!("{p}.o_proj"), d, heads * m.v_head_dim, c.o_bias)?,
        })
    }

    fn mlp(&mut self, p: &str, width: usize, bias: bool) -> Result<SwigluMlp, ModelError> {
        let d = self.config.hidden_size;
        Ok(SwigluMlp {
            gate_proj: self.linear(format!("{p}.gate_proj"), width, d, bias)?,
            up_proj: self.linear(format!("{p}.up_proj"), width, d, bias)?,
            down_proj: self.linear(format!("{p}.down_proj"), d, width, bias)?,
        })
    }

    fn moe(&mut self, p: &str) -> Result<Moe, ModelError> {
        let m = self.config.moe.as_ref().expect("called for MoE layers only").clone();
        let d = self.config.hidden_size;
        let gate = self.weight(&format!("{p}.gate.weight"), m.n_routed_experts, d)?;
        let noaux_tc = m.topk_method == TopkMethod::NoauxTc;
        let bias = if noaux_tc {
            let b = self.weight(&format!("{p}.gate.e_score_correction_bias"), m.n_routed_experts, 1)?;
            Some(Arc::new(b.to_f32(&ParamStore::default())))
        } else {
            None
        };
        let experts = (0..m.n_routed_experts)
            .map(|e| self.mlp(&format!("{p}.experts.{e}"), m.moe_intermediate_size, false))
            .collect::<Result<Vec<_>, _>>()?;
        let shared_experts = if m.n_shared_experts > 0 {
            Some(self.mlp(&format!("{p}.shared_experts"), m.n_shared_experts * m.moe_intermediate_size, false)?)
        } else {
            None
        };
        Ok(Moe {
            gate,
            rule: RouterRule {
                scoring: match m.scoring {
                    ConfigScoring::Softmax => Scoring::Softmax,
                    ConfigScoring::Sigmoid => Scoring::Sigmoid,
                },
                num_experts_per_tok: m.num_experts_per_tok,
                n_group: m.n_group,
                topk_group: m.topk_group,
                noaux_tc,
                norm_topk_prob: m.norm_topk_prob,
                routed_scaling_factor: m.routed_scaling_factor as f32,
                bias,
            },
            experts,
            shared_experts,
        })
    }
}
