//! `config.json` of a checkpoint folder as one typed description of a decoder.
//!
//! Takes the released files (rope_theta + rope_scaling) and those of transformers 5
//! (rope_parameters). Gives sizes that agree with each other. Never guesses a family it does not
//! know and never ignores a key that would change the mathematics.

mod keys;
mod moe;
mod quantization;
mod read;
mod rope;
mod write;

pub(crate) use keys::Keys;
pub use quantization::{INT4_GROUP, Quantization, StoredForm};
pub use rope::{RopeConfig, RopeScaling, yarn_mscale};

use std::path::Path;

use serde_json::Value;

use crate::{FormatError, Issue};

/// The decoder families of this version, named as `model_type` names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// `llama`: DeepSeek-LLM, Coder v1, Math, R1-Distill-Llama.
    Llama,
    /// `qwen2`: R1-Distill-Qwen.
    Qwen2,
    /// `qwen3`: R1-0528-Qwen3-8B.
    Qwen3,
    /// `deepseek`: DeepSeekMoE-16B.
    Deepseek,
    /// `deepseek_v2`: V2, V2-Lite, Coder-V2, V2.5.
    DeepseekV2,
    /// `deepseek_v3`: V3, V3.1, R1.
    DeepseekV3,
}

impl Architecture {
    /// The value of `model_type`.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Deepseek => "deepseek",
            Self::DeepseekV2 => "deepseek_v2",
            Self::DeepseekV3 => "deepseek_v3",
        }
    }

    /// The value of `architectures[0]`.
    pub fn class_name(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
            Self::Deepseek => "DeepseekForCausalLM",
            Self::DeepseekV2 => "DeepseekV2ForCausalLM",
            Self::DeepseekV3 => "DeepseekV3ForCausalLM",
        }
    }

    /// Whether attention goes through the low-rank key-value latent.
    pub fn is_mla(self) -> bool {
        matches!(self, Self::DeepseekV2 | Self::DeepseekV3)
    }
}

/// Sizes of multi-head latent attention.
#[derive(Debug, Clone, PartialEq)]
pub struct MlaConfig {
    /// Rank of the query latent; `None`: one full `q_proj` (V2-Lite).
    pub q_lora_rank: Option<usize>,
    /// Rank of the key-value latent.
    pub kv_lora_rank: usize,
    /// Key width of a head without position.
    pub qk_nope_head_dim: usize,
    /// Key width of a head with rotary position, shared by all heads.
    pub qk_rope_head_dim: usize,
    /// Value width of a head.
    pub v_head_dim: usize,
}

impl MlaConfig {
    /// Width of one query head: `qk_nope_head_dim + qk_rope_head_dim`.
    pub fn qk_head_dim(&self) -> usize {
        self.qk_nope_head_dim + self.qk_rope_head_dim
    }
    /// Epsilon of `q_a_layernorm` and `kv_a_layernorm`: the reference classes take their default,
    /// not `rms_norm_eps` (transformers `DeepseekV3RMSNorm(config.q_lora_rank)`).
    pub const LATENT_NORM_EPS: f64 = 1e-6;
}

/// How router logits become scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scoring {
    /// Over all experts (MoE-16B, V2).
    Softmax,
    /// Each expert alone (V3).
    Sigmoid,
}

/// How experts are chosen from scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopkMethod {
    /// The best `num_experts_per_tok` of all.
    Greedy,
    /// Best `topk_group` groups by their largest score first (V2).
    GroupLimitedGreedy,
    /// Groups by the sum of their two best biased scores; the bias only chooses (V3).
    NoauxTc,
}

/// Mixture-of-experts layers.
#[derive(Debug, Clone, PartialEq)]
pub struct MoeConfig {
    /// Routed experts of a layer.
    pub n_routed_experts: usize,
    /// Shared experts, stored as one MLP of this many times `moe_intermediate_size`; 0: none.
    pub n_shared_experts: usize,
    /// Routed experts a token visits.
    pub num_experts_per_tok: usize,
    /// Width of one expert.
    pub moe_intermediate_size: usize,
    /// Leading layers with a dense MLP.
    pub first_k_dense_replace: usize,
    /// Every how many layers a mixture stands (1 in all releases).
    pub moe_layer_freq: usize,
    /// Score function.
    pub scoring: Scoring,
    /// Choice of experts.
    pub topk_method: TopkMethod,
    /// Groups of experts (1: no groups).
    pub n_group: usize,
    /// Groups kept per token.
    pub topk_group: usize,
    /// Whether the chosen weights are divided by their sum.
    pub norm_topk_prob: bool,
    /// Factor on the weights.
    pub routed_scaling_factor: f64,
}

/// One decoder, in the field names of `config.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Family.
    pub architecture: Architecture,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of a dense MLP.
    pub intermediate_size: usize,
    /// Decoder layers, MTP layers not counted.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key-value heads; divides the query heads.
    pub num_key_value_heads: usize,
    /// Width of a head; not used with MLA.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Epsilon of every norm but the two of the MLA latents.
    pub rms_norm_eps: f64,
    /// The head is the embedding, and `lm_head.weight` is absent.
    pub tie_word_embeddings: bool,
    /// Bias on q, k and v (on `q_a_proj` and `kv_a_proj_with_mqa` with MLA).
    pub attention_bias: bool,
    /// Bias on `o_proj`.
    pub o_bias: bool,
    /// Bias on gate, up and down of dense MLPs.
    pub mlp_bias: bool,
    /// RMSNorm over each query and key head before the rotation (qwen3).
    pub qk_norm: bool,
    /// Longest sequence the model was made for, in tokens.
    pub max_position_embeddings: usize,
    /// Standard deviation of fresh weights.
    pub initializer_range: f64,
    /// Rotary position.
    pub rope: RopeConfig,
    /// Latent attention (deepseek_v2, deepseek_v3).
    pub mla: Option<MlaConfig>,
    /// Mixture of experts (deepseek, deepseek_v2, deepseek_v3).
    pub moe: Option<MoeConfig>,
    /// Multi-token-prediction layers stored after the decoder; ignored on load.
    pub num_nextn_predict_layers: usize,
    /// First token of a sequence.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a sequence, in file order, without repeats.
    pub eos_token_ids: Vec<u32>,
    /// Padding token.
    pub pad_token_id: Option<u32>,
    /// Quantisation of the stored weights.
    pub quantization: Option<Quantization>,
    /// The file as it was, unknown keys included.
    pub raw: Value,
}

impl ModelConfig {
    /// Reads `dir/config.json` and adds the end tokens of `generation_config.json` when that exists.
    ///
    /// # Errors
    /// Unreadable or oversized file, invalid JSON, unknown family, or all faults of the file at once.
    pub fn read(dir: &Path) -> Result<(Self, Vec<Issue>), FormatError> {
        read::read_dir(dir)
    }

    /// Reads the text of a `config.json`; `path` only names it in errors.
    ///
    /// # Errors
    /// As [`ModelConfig::read`].
    pub fn from_bytes(bytes: &[u8], path: &Path) -> Result<(Self, Vec<Issue>), FormatError> {
        read::from_bytes(bytes, path)
    }

    /// Reads a parsed `config.json`.
    ///
    /// # Errors
    /// Unknown family, or all faults of the value at once.
    pub fn from_json(value: &Value) -> Result<(Self, Vec<Issue>), FormatError> {
        read::from_value(value, Path::new("config.json"))
    }

    /// The configuration as a `config.json` that old and new readers of the field understand:
    /// unknown keys of the file kept, rope written both as `rope_parameters` and as `rope_theta`
    /// with `rope_scaling`, `quantization_config` only while [`ModelConfig::quantization`] is set.
    pub fn to_json(&self) -> Value {
        write::to_json(self)
    }

    /// Whether layer `layer` holds a mixture of experts.
    pub fn is_moe_layer(&self, layer: usize) -> bool {
        self.moe
            .as_ref()
            .is_some_and(|moe| layer >= moe.first_k_dense_replace && layer.is_multiple_of(moe.moe_layer_freq.max(1)))
    }

    /// Width of the rotated part of a head: `qk_rope_head_dim` with MLA, else `head_dim`.
    pub fn rotary_dim(&self) -> usize {
        self.mla.as_ref().map_or(self.head_dim, |mla| mla.qk_rope_head_dim)
    }

    /// Width of one query head and of one key.
    pub fn qk_head_dim(&self) -> usize {
        self.mla.as_ref().map_or(self.head_dim, MlaConfig::qk_head_dim)
    }

    /// Factor on `q·k` before the softmax: `qk_head_dim^-1/2`, and with MLA and yarn times the
    /// square of the yarn factor of `mscale_all_dim`.
    pub fn softmax_scale(&self) -> f64 {
        let scale = (self.qk_head_dim() as f64).powf(-0.5);
        if self.mla.is_some() { scale * self.rope.softmax_factor() } else { scale }
    }

    /// Sets the stored dtype by its PyTorch name (`bfloat16`, `float32`) for the next
    /// [`ModelConfig::to_json`], under the key(s) the file uses.
    pub fn set_dtype(&mut self, dtype: &str) {
        write::set_dtype(self, dtype);
    }
}
