//! One decoder layer: h = x + Attn(norm(x)); y = h + Mlp(norm(h)). Forward only: the tape derives the backward pass.
//! Shapes: t tokens, d hidden, h heads; MLA's n, r, v as in DeepSeek-V2 §2.1.
use crate::cache::CachedKeys;
use loar_formats::config::{MlaConfig, ModelConfig};
use loar_tape::op::{RopeTable, RouterRule, Store};
use loar_tape::{AttentionShape, Linear, Segment, Tape, Var, Weight};
use std::sync::{Arc, Mutex};

pub struct Layer {
    pub index: usize,
    pub input_layernorm: Weight,
    pub attention: Attention,
    pub post_attention_layernorm: Weight,
    pub mlp: Mlp,
}

pub enum Attention {
    Gqa(Gqa),
    Mla(Mla),
}

/// Grouped-query attention of llama, qwen2, qwen3 and MoE-16B.
pub struct Gqa {
    pub q_proj: Linear,
    pub k_proj: Linear,
    pub v_proj: Linear,
    pub o_proj: Linear,
    /// Qwen3 normalises each head of q and k before the rotation.
    pub q_norm: Option<Weight>,
    pub k_norm: Option<Weight>,
}

/// Multi-head latent attention of deepseek_v2 and deepseek_v3.
pub struct Mla {
    pub query: MlaQuery,
    pub kv_a_proj_with_mqa: Linear,
    pub kv_a_layernorm: Weight,
    pub kv_b_proj: Linear,
    pub o_proj: Linear,
}

#[allow(clippy::large_enum_variant)]
pub enum MlaQuery {
    Full(Linear),
    LowRank { q_a_proj: Linear, q_a_layernorm: Weight, q_b_proj: Linear },
}

pub struct SwigluMlp {
    pub gate_proj: Linear,
    pub up_proj: Linear,
    pub down_proj: Linear,
}

#[allow(clippy::large_enum_variant)]
pub enum Mlp {
    Dense(SwigluMlp),
    Moe(Moe),
}

pub struct Moe {
    pub gate: Weight,
    pub rule: RouterRule,
    pub experts: Vec<SwigluMlp>,
    pub shared_experts: Option<SwigluMlp>,
}

/// What all layers of one pass share.
#[derive(Clone)]
pub(crate) struct Pass<'a> {
    pub config: &'a ModelConfig,
    pub rope: Arc<RopeTable>,
    pub keys: Keys<'a>,
    /// Tokens routed to each expert, by layer (empty for dense layers).
    pub expert_load: Arc<Mutex<Vec<Vec<usize>>>>,
}

/// Where queries find their keys: in the packed batch itself, or in caches that first take the new ones.
#[derive(Clone)]
pub(crate) enum Keys<'a> {
    Packed(Arc<Vec<Segment>>),
    Cached(&'a CachedKeys),
}

impl Layer {
    /// The residual stream goes in and comes out in f32.
    pub(crate) fn forward<'a>(&'a self, tape: &mut Tape<'a>, x: &Var, pass: &Pass<'a>) -> Var {
        let eps = pass.config.rms_norm_eps as f32;
        let h = match &self.attention {
            Attention::Gqa(a) => a.forward(tape, x, &self.input_layernorm, pass, self.index),
            Attention::Mla(a) => a.forward(tape, x, &self.input_layernorm, pass, self.index),
        };
        match &self.mlp {
            Mlp::Dense(m) => {
                let lins = vec![(&m.gate_proj, Store::Context), (&m.up_proj, Store::Context)];
                let gate_up = tape.norm_linears(&h, &self.post_attention_layernorm, eps, lins);
                tape.swiglu_linear_add(&gate_up[0], &gate_up[1], &m.down_proj, &h)
            }
            Mlp::Moe(m) => {
                let normed = tape.rms_norm(&h, &self.post_attention_layernorm, eps);
                m.forward(tape, &normed, &h, pass, self.index)
            }
        }
    }

    pub(crate) fn is_trainable(&self) -> bool {
        let mut found = self.input_layernorm.param().is_some() || self.post_attention_layernorm.param().is_some();
        self.each_linear(&mut |l| found |= l.is_trainable());
        found
    }

    pub(crate) fn each_linear<'s>(&'s self, f: &mut dyn FnMut(&'s Linear)) {
        match &self.attention {
            Attention::Gqa(a) => [&a.q_proj, &a.k_proj, &a.v_proj, &a.o_proj].into_iter().for_each(&mut *f),
            Attention::Mla(a) => {
                match &a.query {
                    MlaQuery::Full(q) => f(q),
                    MlaQuery::LowRank { q_a_proj, q_b_proj, .. } => [q_a_proj, q_b_proj].into_iter().for_each(&mut *f),
                }
                [&a.kv_a_proj_with_mqa, &a.kv_b_proj, &a.o_proj].into_iter().for_each(&mut *f);
            }
        }
        let mut mlp = |m: &'s SwigluMlp| [&m.gate_proj, &m.up_proj, &m.down_proj].into_iter().for_each(&mut *f);
        match &self.mlp {
            Mlp::Dense(m) => mlp(m),
            Mlp::Moe(m) => m.experts.iter().chain(&m.shared_experts).for_each(mlp),
        }
    }

    pub(crate) fn each_linear_mut(&mut self, f: &mut dyn FnMut(&mut Linear)) {
        match &mut self.attention {
            Attention::Gqa(a) => {
                [&mut a.q_proj, &mut a.k_proj, &mut a.v_proj, &mut a.o_proj].into_iter().for_each(&mut *f)
            }
            Attention::Mla(a) => {
                match &mut a.query {
                    MlaQuery::Full(q) => f(q),
                    MlaQuery::LowRank { q_a_proj, q_b_proj, .. } => [q_a_proj, q_b_proj].into_iter().for_each(&mut *f),
                }
                [&mut a.kv_a_proj_with_mqa, &mut a.kv_b_proj, &mut a.o_proj].into_iter().for_each(&mut *f);
            }
        }
        let mut mlp =
            |m: &mut SwigluMlp| [&mut m.gate_proj, &mut m.up_proj, &mut m.down_proj].into_iter().for_each(&mut *f);
        match &mut self.mlp {
            Mlp::Dense(m) => mlp(m),
            Mlp::Moe(m) => m.experts.iter_mut().chain(&mut m.shared_experts).for_each(mlp),
        }
    }

    /// Norm weights by the module path they have in the checkpoint.
    pub(crate) fn each_norm<'s>(&'s self, f: &mut dyn FnMut(String, &'s Weight)) {
        let p = format!("model.layers.{}", self.index);
        f(format!("{p}.input_layernorm"), &self.input_layernorm);
        match &self.attention {
            Attention::Gqa(a) => {
                a.q_norm.iter().for_each(|w| f(format!("{p}.self_attn.q_norm"), w));
                a.k_norm.iter().for_each(|w| f(format!("{p}.self_attn.k_norm"), w));
            }
            Attention::Mla(a) => {
                if let MlaQuery::LowRank { q_a_layernorm, .. } = &a.query {
                    f(format!("{p}.self_attn.q_a_layernorm"), q_a_layernorm);
                }
                f(format!("{p}.self_attn.kv_a_layernorm"), &a.kv_a_layernorm);
            }
        }
        f(format!("{p}.post_attention_layernorm"), &self.post_attention_layernorm);
    }

    pub(crate) fn each_norm_mut(&mut self, f: &mut dyn FnMut(String, &mut Weight)) {
        let p = format!("model.layers.{}", self.index);
        f(format!("{p}.input_layernorm"), &mut self.input_layernorm);
        match &mut self.attention {
            Attention::Gqa(a) => {
                a.q_norm.iter_mut().for_each(|w| f(format!("{p}.self_attn.q_norm"), w));
                a.k_norm.iter_mut().for_each(|w| f(format!("{p}.self_attn.k_norm"), w));
            }
            Attention::Mla(a) => {
                if let MlaQuery::LowRank { q_a_layernorm, .. } = &mut a.query {
                    f(format!("{p}.self_attn.q_a_layernorm"), q_a_layernorm);
                }
                f(format!("{p}.self_attn.kv_a_layernorm"), &mut a.kv_a_layernorm);
            }
        }
        f(format!("{p}.post_attention_layernorm"), &mut self.post_attention_layernorm);
    }
}

fn attend<'a>(
    tape: &mut Tape<'a>,
    shape: AttentionShape,
    pass: &Pass<'a>,
    layer: usize,
    q: &Var,
    k: &Var,
    v: &Var,
) -> Var {
    match &pass.keys {
        Keys::Packed(segments) => tape.attention(shape, segments, q, k, v),
        Keys::Cached(c) => {
            let seen = c.append(&tape.context.pool, layer, k, v);
            tape.attention(shape, &seen.segments, q, &seen.keys, &seen.values)
        }
    }
}

impl Gqa {
    /// x + Attn(norm(x)).
    fn forward<'a>(&'a self, tape: &mut Tape<'a>, x: &Var, norm: &'a Weight, pass: &Pass<'a>, layer: usize) -> Var {
        let c = pass.config;
        let eps = c.rms_norm_eps as f32;
        // Heads that are normalised first come in f32.
        let store = if self.q_norm.is_some() { Store::F32 } else { Store::Context };
        let lins = vec![(&self.q_proj, store), (&self.k_proj, store), (&self.v_proj, Store::Context)];
        let mut qkv = tape.norm_linears(x, norm, eps, lins);
        let (v, mut k, mut q) = (qkv.remove(2), qkv.remove(1), qkv.remove(0));
        if let (Some(qn), Some(kn)) = (&self.q_norm, &self.k_norm) {
            q = tape.rms_norm(&q, qn, eps);
            k = tape.rms_norm(&k, kn, eps);
        }
        let q = tape.rope(q, &pass.rope, c.head_dim, 0);
        let k = tape.rope(k, &pass.rope, c.head_dim, 0);
        let shape = AttentionShape {
            num_heads: c.num_attention_heads,
            num_key_value_heads: c.num_key_value_heads,
            head_dim_qk: c.head_dim,
            head_dim_v: c.head_dim,
            scale: c.softmax_scale() as f32,
        };
        let o = attend(tape, shape, pass, layer, &q, &k, &v);
        drop((q, k, v));
        tape.linear_add(&o, &self.o_proj, x)
    }
}

impl Mla {
    /// x + Attn(norm(x)).
    fn forward<'a>(&'a self, tape: &mut Tape<'a>, x: &Var, norm: &'a Weight, pass: &Pass<'a>, layer: usize) -> Var {
        let heads = pass.config.num_attention_heads;
        let m = pass.config.mla.as_ref().expect("an MLA layer has an MLA config");
        let (n, r, v, latent) = (m.qk_nope_head_dim, m.qk_rope_head_dim, m.v_head_dim, m.kv_lora_rank);
        // The latents' norms are built with the default epsilon, whatever rms_norm_eps says.
        let eps = MlaConfig::LATENT_NORM_EPS as f32;
        let first = match &self.query {
            MlaQuery::Full(q) => (q, Store::Context),
            MlaQuery::LowRank { q_a_proj, .. } => (q_a_proj, Store::F32),
        };
        let lins = vec![first, (&self.kv_a_proj_with_mqa, Store::F32)];
        let mut projected = tape.norm_linears(x, norm, pass.config.rms_norm_eps as f32, lins);
        let (kv_a, first) = (projected.remove(1), projected.remove(0));
        let q = match &self.query {
            MlaQuery::Full(_) => first,
            MlaQuery::LowRank { q_a_layernorm, q_b_proj, .. } => {
                tape.norm_linears(&first, q_a_layernorm, eps, vec![(q_b_proj, Store::Context)]).remove(0)
            }
        };
        let q = tape.rope(q, &pass.rope, n + r, n);
        let shape = AttentionShape {
            num_heads: heads,
            num_key_value_heads: heads,
            head_dim_qk: n + r,
            head_dim_v: v,
            scale: pass.config.softmax_scale() as f32,
        };
        let k_pe = tape.columns(&kv_a, latent, r);
        let k_pe = tape.rope(k_pe, &pass.rope, r, 0);
        let c = tape.columns(&kv_a, 0, latent);
        drop(kv_a);
        // Keys and values of all heads out of the latents (prefill and training; token steps absorb instead).
        let expand = |tape: &mut Tape<'a>, kv_b: &Var, k_pe: &Var| {
            (tape.mla_keys(kv_b, k_pe, heads, n, v), tape.mla_values(kv_b, heads, n, v))
        };
        let o = match &pass.keys {
            Keys::Cached(cache) if cache.is_paged() => {
                let c = tape.rms_norm(&c, &self.kv_a_layernorm, eps);
                let seen = cache.append(&tape.context.pool, layer, &c, &k_pe);
                let kv_b = tape.linears(&seen.keys, vec![(&self.kv_b_proj, Store::Context)]).remove(0);
                let (k, values) = expand(tape, &kv_b, &seen.values);
                tape.attention(shape, &seen.segments, &q, &k, &values)
            }
            _ => {
                let lins = vec![(&self.kv_b_proj, Store::Context)];
                let kv_b = tape.norm_linears(&c, &self.kv_a_layernorm, eps, lins).remove(0);
                let (k, values) = expand(tape, &kv_b, &k_pe);
                drop((kv_b, c, k_pe));
                attend(tape, shape, pass, layer, &q, &k, &values)
            }
        };
        drop(q);
        tape.linear_add(&o, &self.o_proj, x)
    }
}

impl SwigluMlp {
    /// residual + down(silu(gate(x)) ⊙ up(x)).
    fn forward_add<'a>(&'a self, tape: &mut Tape<'a>, x: &Var, residual: &Var) -> Var {
        let gate_up = tape.linears(x, vec![(&self.gate_proj, Store::Context), (&self.up_proj, Store::Context)]);
        tape.swiglu_linear_add(&gate_up[0], &gate_up[1], &self.down_proj, residual)
    }
}

impl Moe {
    /// residual + Moe(x).
    fn forward<'a>(&'a self, tape: &mut Tape<'a>, x: &Var, residual: &Var, pass: &Pass<'a>, layer: usize) -> Var {
        let (assignment, weights) = tape.route(x, &self.gate, &self.rule);
        pass.expert_load.lock().expect("no pass panicked")[layer] = assignment.load();
        let rows = tape.dispatch(x, &assignment);
        let g = tape.grouped_linear(&rows, self.experts.iter().map(|e| &e.gate_proj).collect(), &assignment);
        let u = tape.grouped_linear(&rows, self.experts.iter().map(|e| &e.up_proj).collect(), &assignment);
        let a = tape.swiglu(&g, &u);
        drop((rows, g, u));
        let y = tape.grouped_linear(&a, self.experts.iter().map(|e| &e.down_proj).collect(), &assignment);
        let routed = tape.combine(&y, &weights, &assignment);
        let h = tape.add(residual, &routed);
        match &self.shared_experts {
            Some(s) => s.forward_add(tape, x, &h),
            None => h,
        }
    }
}
