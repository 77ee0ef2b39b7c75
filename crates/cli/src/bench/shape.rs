//! The shapes that are measured: configurations of released checkpoints, and a tiny one for tests.

use loar_formats::config::ModelConfig;
use serde_json::{Value, json};

use crate::diagnose::Failure;

/// A released checkpoint's sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Shape {
    /// 24 layers of 896, tied head
    #[value(name = "qwen2-0.5b")]
    Qwen2Half,
    /// 28 layers of 1536
    #[value(name = "r1-distill-qwen-1.5b")]
    R1DistillQwen,
    /// Latent attention and 64 experts, top 6; 4 layers unless `--layers` says otherwise
    #[value(name = "deepseek-v2-lite")]
    V2Lite,
    /// A few thousand weights, for tests of the command
    #[value(name = "tiny", hide = true)]
    Tiny,
    /// The tiny one with latent attention and experts
    #[value(name = "tiny-moe", hide = true)]
    TinyMoe,
}

impl Shape {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Qwen2Half => "qwen2-0.5b",
            Self::R1DistillQwen => "r1-distill-qwen-1.5b",
            Self::V2Lite => "deepseek-v2-lite",
            Self::Tiny => "tiny",
            Self::TinyMoe => "tiny-moe",
        }
    }

    /// Layers that are measured unless told otherwise: all, but 4 of V2-Lite's 27 (one dense, three with experts),
    /// whose 31 GB of bf16 weights no desktop holds.
    fn layers(self) -> usize {
        match self {
            Self::Qwen2Half => 24,
            Self::R1DistillQwen => 28,
            Self::V2Lite => 4,
            Self::Tiny | Self::TinyMoe => 2,
        }
    }

    /// `config.json` with this depth; the released depth, or 4 for V2-Lite, without one.
    ///
    /// # Errors
    /// A depth of 0, or one beyond what the shape has.
    pub fn config(self, layers: Option<usize>) -> Result<ModelConfig, Failure> {
        let layers = layers.unwrap_or(self.layers());
        if layers == 0 || layers > 1000 {
            return Err(Failure::usage(format!("a model has between 1 and 1000 layers, not {layers}")));
        }
        let mut value = self.json();
        value["num_hidden_layers"] = json!(layers);
        value["initializer_range"] = json!(0.02);
        Ok(ModelConfig::from_json(&value)?.0)
    }

    fn json(self) -> Value {
        match self {
            // huggingface.co/Qwen/Qwen2-0.5B
            Self::Qwen2Half => qwen2(896, 4864, 14, true, 1_000_000.0),
            // huggingface.co/deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B
            Self::R1DistillQwen => qwen2(1536, 8960, 12, false, 10_000.0),
            // huggingface.co/deepseek-ai/DeepSeek-V2-Lite
            Self::V2Lite => json!({
                "model_type": "deepseek_v2", "architectures": ["DeepseekV2ForCausalLM"], "hidden_act": "silu",
                "vocab_size": 102_400, "hidden_size": 2048, "intermediate_size": 10_944,
                "num_attention_heads": 16, "num_key_value_heads": 16, "attention_bias": false,
                "q_lora_rank": null, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
                "v_head_dim": 128, "moe_intermediate_size": 1408, "n_routed_experts": 64, "n_shared_experts": 2,
                "num_experts_per_tok": 6, "first_k_dense_replace": 1, "moe_layer_freq": 1, "n_group": 1,
                "topk_group": 1, "topk_method": "greedy", "scoring_func": "softmax", "norm_topk_prob": false,
                "routed_scaling_factor": 1.0, "max_position_embeddings": 163_840, "rms_norm_eps": 1e-6,
                "rope_theta": 10_000.0, "tie_word_embeddings": false, "bos_token_id": 100_000,
                "eos_token_id": 100_001,
                "rope_scaling": {"type": "yarn", "factor": 40, "beta_fast": 32, "beta_slow": 1, "mscale": 0.707,
                    "mscale_all_dim": 0.707, "original_max_position_embeddings": 4096},
            }),
            Self::Tiny => {
                let mut tiny = qwen2(64, 96, 4, true, 10_000.0);
                tiny["vocab_size"] = json!(320);
                tiny["bos_token_id"] = json!(300);
                tiny["eos_token_id"] = json!(301);
                tiny
            }
            Self::TinyMoe => json!({
                "model_type": "deepseek_v2", "architectures": ["DeepseekV2ForCausalLM"], "hidden_act": "silu",
                "vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2,
                "num_key_value_heads": 2, "q_lora_rank": null, "kv_lora_rank": 16, "qk_nope_head_dim": 16,
                "qk_rope_head_dim": 8, "v_head_dim": 16, "moe_intermediate_size": 32, "n_routed_experts": 8,
                "n_shared_experts": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1, "moe_layer_freq": 1,
                "n_group": 1, "topk_group": 1, "topk_method": "greedy", "scoring_func": "softmax",
                "norm_topk_prob": false, "routed_scaling_factor": 1.0, "max_position_embeddings": 1024,
                "rms_norm_eps": 1e-6, "rope_theta": 10_000.0, "tie_word_embeddings": false, "bos_token_id": 300,
                "eos_token_id": 301,
            }),
        }
    }
}

fn qwen2(hidden: usize, intermediate: usize, heads: usize, tied: bool, theta: f64) -> Value {
    json!({
        "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "hidden_act": "silu", "vocab_size": 151_936,
        "hidden_size": hidden, "intermediate_size": intermediate, "num_attention_heads": heads,
        "num_key_value_heads": 2, "max_position_embeddings": 131_072, "rms_norm_eps": 1e-6, "rope_theta": theta,
        "tie_word_embeddings": tied, "bos_token_id": 151_643, "eos_token_id": 151_643,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum as _;

    #[test]
    fn names_are_those_of_the_command_line() {
        for shape in Shape::value_variants() {
            let value = shape.to_possible_value().expect("no variant is skipped");
            assert_eq!(value.get_name(), shape.name());
            assert!(shape.config(None).is_ok(), "{shape:?}");
        }
        assert!(Shape::Tiny.config(Some(0)).is_err());
    }

    /// Parameter counts of the released checkpoints (V2-Lite: 4 of its 27 layers, by hand).
    #[test]
    fn shapes_have_the_released_sizes() {
        let count = |shape: Shape| -> usize {
            let config = shape.config(None).expect("a valid shape");
            loar_formats::names::expected_tensors(&config).iter().map(|t| t.1.iter().product::<usize>()).sum()
        };
        assert_eq!(count(Shape::Qwen2Half), 494_032_768);
        assert_eq!(count(Shape::R1DistillQwen), 1_777_088_000);
        let attention = 16 * 192 * 2048 + 576 * 2048 + 512 + 16 * 256 * 512 + 2048 * 2048 + 2 * 2048;
        let moe = 64 * 2048 + 66 * 3 * 1408 * 2048;
        let dense = 3 * 10_944 * 2048;
        assert_eq!(count(Shape::V2Lite), 2 * 102_400 * 2048 + 2048 + 4 * attention + dense + 3 * moe);
    }
}
