//! Tiny random models of each kind and a byte tokenizer for them.

use loar_formats::config::ModelConfig;
use loar_model::{LoadOptions, Model};
use loar_tape::Precision;
use loar_text::Tokenizer;
use serde_json::{Value, json};

/// End token of [`tokenizer`]; 0–255 are the bytes in the order of [`byte_chars`].
pub const END: u32 = 256;
/// Rows of the models' embedding.
pub const VOCAB: usize = 264;

/// GPT-2's printable stand-in for each byte.
pub fn byte_chars() -> Vec<char> {
    let plain = |b: u32| (33..=126).contains(&b) || (161..=172).contains(&b) || (174..=255).contains(&b);
    let mut next = 256;
    (0..256u32)
        .map(|b| {
            let code = if plain(b) {
                b
            } else {
                next += 1;
                next - 1
            };
            char::from_u32(code).expect("in the Latin blocks")
        })
        .collect()
}

pub fn tokenizer() -> Tokenizer {
    let vocab: serde_json::Map<String, Value> =
        byte_chars().iter().enumerate().map(|(id, c)| (c.to_string(), json!(id))).collect();
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [{"id": END, "content": "<END>", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true}],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": []}
    });
    Tokenizer::from_bytes(file.to_string().as_bytes(), None).expect("a valid tokenizer")
}

/// Grouped-query attention with biases (qwen2) and latent attention with experts (deepseek_v3).
pub fn models() -> Vec<(&'static str, Model)> {
    models_in(Precision::F32, 2)
}

pub fn models_in(precision: Precision, threads: usize) -> Vec<(&'static str, Model)> {
    let base = json!({
        "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6, "initializer_range": 0.4, "hidden_act": "silu", "rope_theta": 10000.0,
        "tie_word_embeddings": false, "bos_token_id": null, "eos_token_id": END
    });
    let with = |more: Value| {
        let mut all = base.clone();
        for (k, v) in more.as_object().expect("an object") {
            all[k] = v.clone();
        }
        all
    };
    let qwen2 = with(json!({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}));
    let v3 = with(json!({
        "model_type": "deepseek_v3", "architectures": ["DeepseekV3ForCausalLM"],
        "num_key_value_heads": 4, "q_lora_rank": 12, "kv_lora_rank": 16, "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 4, "v_head_dim": 8, "n_routed_experts": 8, "n_shared_experts": 1,
        "num_experts_per_tok": 2, "moe_intermediate_size": 16, "first_k_dense_replace": 1,
        "moe_layer_freq": 1, "scoring_func": "sigmoid", "topk_method": "noaux_tc", "n_group": 4,
        "topk_group": 2, "norm_topk_prob": true, "routed_scaling_factor": 2.5,
        "num_nextn_predict_layers": 0
    }));
    [("qwen2", qwen2), ("deepseek_v3", v3)]
        .into_iter()
        .map(|(name, value)| {
            let (config, _) = ModelConfig::from_json(&value).expect("a valid config");
            let options = LoadOptions { threads, precision, ..LoadOptions::default() };
            (name, Model::random(config, 5, &options).expect("a model"))
        })
        .collect()
}
