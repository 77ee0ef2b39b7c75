//! From [`ModelConfig`] back to the JSON of `config.json`.

use serde_json::{Map, Value, json};

use super::{ModelConfig, RopeScaling, Scoring, TopkMethod, quantization, rope};

/// Writes over the keys of the original file, keeping its unknown keys and its key order.
pub(super) fn to_json(config: &ModelConfig) -> Value {
    let mut map = match &config.raw {
        Value::Object(map) => map.clone(),
        _ => Map::new(),
    };
    let mut put = |key: &str, value: Value| {
        map.insert(key.to_owned(), value);
    };
    put("architectures", json!([config.architecture.class_name()]));
    put("model_type", config.architecture.model_type().into());
    put("hidden_act", "silu".into());
    put("hidden_size", config.hidden_size.into());
    put("intermediate_size", config.intermediate_size.into());
    put("num_hidden_layers", config.num_hidden_layers.into());
    put("num_attention_heads", config.num_attention_heads.into());
    put("num_key_value_heads", config.num_key_value_heads.into());
    // MLA readers size the rotary table by `head_dim`
    put("head_dim", config.rotary_dim().into());
    put("vocab_size", config.vocab_size.into());
    put("rms_norm_eps", config.rms_norm_eps.into());
    put("tie_word_embeddings", config.tie_word_embeddings.into());
    put("attention_bias", config.o_bias.into());
    put("mlp_bias", config.mlp_bias.into());
    put("max_position_embeddings", config.max_position_embeddings.into());
    put("initializer_range", config.initializer_range.into());
    put("bos_token_id", json!(config.bos_token_id));
    put(
        "eos_token_id",
        match config.eos_token_ids.as_slice() {
            [] => Value::Null,
            [one] => (*one).into(),
            many => json!(many),
        },
    );
    put("pad_token_id", json!(config.pad_token_id));
    put("rope_theta", config.rope.theta.into());
    put(
        "rope_scaling",
        match config.rope.scaling {
            RopeScaling::Default => Value::Null,
            _ => rope::to_table(&config.rope, false).into(),
        },
    );
    put("rope_parameters", rope::to_table(&config.rope, true).into());
    if let Some(mla) = &config.mla {
        put("q_lora_rank", json!(mla.q_lora_rank));
        put("kv_lora_rank", mla.kv_lora_rank.into());
        put("qk_nope_head_dim", mla.qk_nope_head_dim.into());
        put("qk_rope_head_dim", mla.qk_rope_head_dim.into());
        put("qk_head_dim", mla.qk_head_dim().into());
        put("v_head_dim", mla.v_head_dim.into());
        put("rope_interleave", config.rope.interleaved.into());
    }
    if let Some(moe) = &config.moe {
        put("n_routed_experts", moe.n_routed_experts.into());
        put("n_shared_experts", if moe.n_shared_experts == 0 { Value::Null } else { moe.n_shared_experts.into() });
        put("num_experts_per_tok", moe.num_experts_per_tok.into());
        put("moe_intermediate_size", moe.moe_intermediate_size.into());
        put("first_k_dense_replace", moe.first_k_dense_replace.into());
        put("moe_layer_freq", moe.moe_layer_freq.into());
        put("n_group", moe.n_group.into());
        put("topk_group", moe.topk_group.into());
        put("norm_topk_prob", moe.norm_topk_prob.into());
        put("routed_scaling_factor", moe.routed_scaling_factor.into());
        put(
            "scoring_func",
            match moe.scoring {
                Scoring::Softmax => "softmax",
                Scoring::Sigmoid => "sigmoid",
            }
            .into(),
        );
        put(
            "topk_method",
            match moe.topk_method {
                TopkMethod::Greedy => "greedy",
                TopkMethod::GroupLimitedGreedy => "group_limited_greedy",
                TopkMethod::NoauxTc => "noaux_tc",
            }
            .into(),
        );
        put("num_nextn_predict_layers", config.num_nextn_predict_layers.into());
    }
    quantization::write(config.quantization.as_ref(), &mut map);
    Value::Object(map)
}

pub(super) fn set_dtype(config: &mut ModelConfig, dtype: &str) {
    if !config.raw.is_object() {
        config.raw = Value::Object(Map::new());
    }
    if let Value::Object(map) = &mut config.raw {
        // released files say `torch_dtype`, transformers 5 says `dtype` and reads both
        let new_style = map.contains_key("dtype");
        if new_style {
            map.insert("dtype".into(), dtype.into());
        }
        if !new_style || map.contains_key("torch_dtype") {
            map.insert("torch_dtype".into(), dtype.into());
        }
    }
}
