//! Bytes that one forward and backward pass needs besides weights, gradients and moments, from the shapes of what the
//! tape keeps. The same arithmetic decides how many layers must be computed again to stay within a limit.
use crate::layer::{Attention, Layer, MlaQuery, Mlp};
use crate::model::Model;
use loar_tape::Linear;
use loar_tape::op::head_chunk;

/// One layer's bytes a token.
#[derive(Clone, Copy, Debug, Default)]
struct LayerBytes {
    /// Kept from its forward to its backward pass.
    kept: u64,
    /// Of it, what the MLP's half keeps: gone when the attention's backward pass runs.
    mlp_kept: u64,
    /// Alive at most within the backward pass of the MLP's and of the attention's half beyond what was kept.
    mlp_working: u64,
    attention_working: u64,
    /// Gradients of its parameters (not a token's, the layer's).
    gradients: u64,
}

/// Bytes of one pass by what needs them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassBytes {
    /// Activations and their gradients at the peak.
    pub activations: u64,
    /// Logits of one chunk of the head.
    pub logits: u64,
    /// Gradients of parameters alive at the peak.
    pub gradients: u64,
}

impl PassBytes {
    pub fn total(&self) -> u64 {
        self.activations + self.logits + self.gradients
    }
}

impl Model {
    /// Bytes at the peak of a pass over `tokens` tokens of which `labels` carry loss, when the first `recomputed` layers
    /// keep only their input. `accumulated` says that gradients of an earlier pass are already there.
    pub fn pass_bytes(&self, tokens: usize, labels: usize, recomputed: usize, accumulated: bool) -> PassBytes {
        let (t, d) = (tokens as u64, self.config.hidden_size as u64);
        let layers: Vec<LayerBytes> = self.layers().iter().map(|l| self.layer_bytes(l)).collect();
        let input = 4 * d;
        let kept = |i: usize| if i < recomputed { input } else { layers[i].kept };
        let all: u64 = 4 * self.params.iter().map(|(_, p)| p.value.data.len() as u64).sum::<u64>();
        let mut before: u64 = t * (0..layers.len()).map(kept).sum::<u64>();
        // End of the forward pass: everything kept, the last stream, its norm, the head's gradient of it, and a chunk.
        let vocab = self.config.vocab_size as u64;
        let head = &self.lm_head;
        let frozen = head.lora.is_none() && head.bias.is_none() && head.weight.param().is_none();
        let (chunk, logits) = head_chunk(labels, vocab as usize, frozen && self.context.stores_bf16());
        let (chunk, logits) = (chunk as u64, logits as u64);
        let width = self.activation_bytes();
        let mut peak = PassBytes {
            activations: before + t * (8 * d + width * d) + chunk * (4 + width) * d,
            logits,
            gradients: if accumulated { all } else { 0 },
        };
        let mut gradients = if accumulated { all } else { 0 };
        for (i, l) in layers.iter().enumerate().rev() {
            if !accumulated {
                gradients += l.gradients;
            }
            // What the second run keeps; its input is there already.
            let again = if i < recomputed { l.kept - input } else { 0 };
            let working = (again + l.mlp_working).max((again + l.attention_working).saturating_sub(l.mlp_kept));
            let now = PassBytes { activations: before + t * (working + 4 * d), logits: 0, gradients };
            if now.total() > peak.total() {
                peak = now;
            }
            before -= t * kept(i);
        }
        peak
    }

    /// The fewest layers to compute again so that a pass stays within `limit` bytes; all of them if none suffices.
    pub fn layers_to_recompute(&self, tokens: usize, labels: usize, accumulated: bool, limit: u64) -> usize {
        let n = self.layers().len();
        (0..n).find(|r| self.pass_bytes(tokens, labels, *r, accumulated).total() <= limit).unwrap_or(n)
    }

    /// Bytes of a number that is only an operand.
    fn activation_bytes(&self) -> u64 {
        if self.context.stores_bf16() { 2 } else { 4 }
    }

    fn layer_bytes(&self, layer: &Layer) -> LayerBytes {
        let (c, b) = (&self.config, self.activation_bytes());
        let d = c.hidden_size as u64;
        let of = |l: &Linear| (l.in_features as u64, l.out_features as u64);
        let rank = |l: &Linear| l.lora.as_ref().map_or(0, |l| b * l.rank as u64);
        let mut bytes = LayerBytes::default();
        layer.each_linear(&mut |l| {
            let sizes = l.lora.iter().map(|a| a.rank * (l.in_features + l.out_features)).sum::<usize>();
            let full = if l.weight.param().is_some() { l.in_features * l.out_features } else { 0 };
            bytes.gradients += 4 * (sizes + full) as u64;
        });
        // The two streams: the layer's input and the one between attention and MLP.
        bytes.kept += 8 * d;
        let attention = match &layer.attention {
            Attention::Gqa(a) => {
                let (q, k, v) = (of(&a.q_proj).1, of(&a.k_proj).1, of(&a.v_proj).1);
                let normed = if a.q_norm.is_some() { 4 * (q + k) } else { 0 };
                bytes.kept += normed + b * (2 * q + k + v) + 4 * c.num_attention_heads as u64;
                bytes.kept += rank(&a.q_proj) + rank(&a.k_proj) + rank(&a.v_proj) + rank(&a.o_proj);
                // dq, dk, dv and the packed copies of two of them, beside the gradient of the output.
                b * (3 * q + 2 * (k + v)) + 4 * d
            }
            Attention::Mla(a) => {
                let (heads, m) =
                    (c.num_attention_heads as u64, c.mla.as_ref().expect("an MLA layer has an MLA config"));
                let (n, r, v) = (m.qk_nope_head_dim as u64, m.qk_rope_head_dim as u64, m.v_head_dim as u64);
                let latent = m.kv_lora_rank as u64;
                let (qk, kv_b) = (heads * (n + r), heads * (n + v));
                bytes.kept += b * (2 * qk + 2 * heads * v) + 4 * (latent + heads);
                bytes.kept += rank(&a.kv_a_proj_with_mqa) + rank(&a.kv_b_proj) + rank(&a.o_proj);
                match &a.query {
                    MlaQuery::Full(q) => bytes.kept += rank(q),
                    MlaQuery::LowRank { q_a_proj, q_b_proj, .. } => {
                        bytes.kept += 4 * of(q_a_proj).1 + rank(q_a_proj) + rank(q_b_proj);
                    }
                }
                b * (3 * qk + heads * v + 3 * kv_b) + 4 * d
            }
        };
        let before_mlp = bytes.kept;
        let mlp = match &layer.mlp {
            Mlp::Dense(m) => {
                let inter = of(&m.gate_proj).1;
                bytes.kept += 2 * b * inter + rank(&m.gate_proj) + rank(&m.up_proj) + rank(&m.down_proj);
                // The recomputed product's gradient, then those of gate and up, packed.
                3 * b * inter + (4 + b) * d
            }
            Mlp::Moe(m) => {
                let moe = c.moe.as_ref().expect("a MoE layer has a MoE config");
                let (k, inter) = (moe.num_experts_per_tok as u64, moe.moe_intermediate_size as u64);
                // The norm; scores and weights; gate, up and the output of every chosen expert.
                bytes.kept += b * d + 4 * (moe.n_routed_experts as u64 + k) + k * b * (2 * inter + d);
                if m.experts.iter().any(|e| [&e.gate_proj, &e.up_proj, &e.down_proj].iter().any(|l| l.is_trainable())) {
                    bytes.kept += k * b * (d + inter);
                    let first = &m.experts[0];
                    bytes.kept += k * (rank(&first.gate_proj) + rank(&first.up_proj) + rank(&first.down_proj));
                }
                // First the gradient of the sum over experts and its rounded copy, then those of the experts' insides.
                let summed = 4 * d + if b == 2 { 2 * d } else { 0 };
                let mut own = k * summed.max(b * d + 3 * b * inter);
                if let Some(s) = &m.shared_experts {
                    let inter = of(&s.gate_proj).1;
                    bytes.kept += 2 * b * inter + rank(&s.gate_proj) + rank(&s.up_proj) + rank(&s.down_proj);
                    own = own.max(3 * b * inter);
                }
                own + 8 * d
            }
        };
        bytes.mlp_kept = bytes.kept - before_mlp;
        (bytes.attention_working, bytes.mlp_working) = (attention, mlp);
        bytes
    }
}
