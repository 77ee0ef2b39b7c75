//! From the JSON of `config.json` to [`ModelConfig`], all faults at once.

use std::path::Path;

use serde_json::Value;

use super::keys::Keys;
use super::{Architecture, MlaConfig, ModelConfig, moe, quantization, rope};
use crate::{Faults, FormatError, Issue};

/// Bound on `config.json`; the largest released one has 12 kB.
const MAX_CONFIG_BYTES: u64 = 16 << 20;
/// Bound on layers; 95 in the deepest release (LLM-67B).
const MAX_LAYERS: usize = 4096;

pub(super) fn read_dir(dir: &Path) -> Result<(ModelConfig, Vec<Issue>), FormatError> {
    let path = dir.join("config.json");
    let bytes = crate::json::read_file(&path, "config.json", MAX_CONFIG_BYTES)?;
    let (mut config, mut issues) = from_bytes(&bytes, &path)?;
    if let Some(generation) = crate::generation::GenerationConfig::read(dir)? {
        generation.merge_into(&mut config, &mut issues);
    }
    Ok((config, issues))
}

pub(super) fn from_bytes(bytes: &[u8], path: &Path) -> Result<(ModelConfig, Vec<Issue>), FormatError> {
    from_value(&crate::json::parse(bytes, path)?, path)
}

fn architecture(value: &Value, path: &Path) -> Result<Architecture, FormatError> {
    let unsupported = |message: String| FormatError::Unsupported { path: path.to_owned(), message };
    const KNOWN: &str = "llama, qwen2, qwen3, deepseek, deepseek_v2 and deepseek_v3";
    let Some(model_type) = value.get("model_type").and_then(Value::as_str) else {
        return Err(unsupported(format!("`model_type` is missing; this version reads {KNOWN}")));
    };
    Ok(match model_type {
        "llama" => Architecture::Llama,
        "qwen2" => Architecture::Qwen2,
        "qwen3" => Architecture::Qwen3,
        "deepseek" => Architecture::Deepseek,
        "deepseek_v2" => Architecture::DeepseekV2,
        "deepseek_v3" => Architecture::DeepseekV3,
        "deepseek_v32" => {
            return Err(unsupported(
                "model type `deepseek_v32` (V3.2) needs sparse attention with its indexer, which this \
                 version does not have"
                    .into(),
            ));
        }
        "deepseek_v4" | "deepseek_v41" => {
            return Err(unsupported(format!(
                "model type `{model_type}` (V4 family) needs hyper-connections and compressed attention, \
                 which this version does not have"
            )));
        }
        other => {
            let other: String = other.chars().take(60).collect();
            return Err(unsupported(format!("model type `{other}` is not supported; this version reads {KNOWN}")));
        }
    })
}

pub(super) fn from_value(value: &Value, path: &Path) -> Result<(ModelConfig, Vec<Issue>), FormatError> {
    let Value::Object(map) = value else {
        return Err(FormatError::Config {
            path: path.to_owned(),
            faults: Faults(vec!["expected an object at the top".into()]),
        });
    };
    let architecture = architecture(value, path)?;
    let mut issues = Vec::new();
    let mut keys = Keys::new(map);
    let config = read_keys(&mut keys, architecture, value, &mut issues);
    check(&mut keys, &config);
    refuse_variants(&mut keys, &config);
    let faults = keys.faults();
    if faults.is_empty() {
        Ok((config, issues))
    } else {
        Err(FormatError::Config { path: path.to_owned(), faults: Faults(faults) })
    }
}

fn read_keys(keys: &mut Keys<'_>, architecture: Architecture, value: &Value, issues: &mut Vec<Issue>) -> ModelConfig {
    let hidden_size = keys.size("hidden_size");
    let num_hidden_layers = keys.size("num_hidden_layers");
    let num_attention_heads = keys.size("num_attention_heads");
    let mla = read_mla(keys, architecture);
    let head_dim = match (&mla, keys.has("head_dim")) {
        (Some(mla), _) => mla.qk_head_dim(), // the key holds the rope width in MLA files
        (None, true) => keys.size("head_dim"),
        (None, false) => {
            if !hidden_size.is_multiple_of(num_attention_heads) {
                keys.fault(format!(
                    "`hidden_size` {hidden_size} is not a multiple of `num_attention_heads` \
                     {num_attention_heads} and `head_dim` is missing"
                ));
            }
            (hidden_size / num_attention_heads).max(1)
        }
    };
    let max_position_embeddings = keys.size("max_position_embeddings");
    let interleaved = match architecture {
        Architecture::DeepseekV3 => keys.bool_or("rope_interleave", true),
        Architecture::DeepseekV2 => true,
        _ => false,
    };
    let rope = rope::read(keys, interleaved, max_position_embeddings, issues);
    let moe = moe::read(keys, architecture, num_hidden_layers, issues);
    let attention_bias = keys.bool_or("attention_bias", false);
    let qwen2 = architecture == Architecture::Qwen2; // biased q, k, v whatever the key says
    let single = |ids: Vec<u32>| ids.first().copied();
    ModelConfig {
        architecture,
        hidden_size,
        intermediate_size: keys.size("intermediate_size"),
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads: keys.size_or("num_key_value_heads", num_attention_heads),
        head_dim,
        vocab_size: keys.size("vocab_size"),
        rms_norm_eps: keys.positive_or("rms_norm_eps", 1e-6),
        tie_word_embeddings: keys.bool_or("tie_word_embeddings", false),
        attention_bias: attention_bias || qwen2,
        o_bias: attention_bias && !qwen2,
        mlp_bias: keys.bool_or("mlp_bias", false),
        qk_norm: architecture == Architecture::Qwen3,
        max_position_embeddings,
        initializer_range: keys.positive_or("initializer_range", 0.02),
        rope,
        mla,
        moe,
        num_nextn_predict_layers: if architecture == Architecture::DeepseekV3 {
            keys.count_or("num_nextn_predict_layers", 0)
        } else {
            0
        },
        bos_token_id: single(keys.token_ids("bos_token_id")),
        eos_token_ids: keys.token_ids("eos_token_id"),
        pad_token_id: single(keys.token_ids("pad_token_id")),
        quantization: quantization::read(keys),
        raw: value.clone(),
    }
}

fn read_mla(keys: &mut Keys<'_>, architecture: Architecture) -> Option<MlaConfig> {
    if !architecture.is_mla() {
        return None;
    }
    let mla = MlaConfig {
        q_lora_rank: keys.opt_size("q_lora_rank"),
        kv_lora_rank: keys.size("kv_lora_rank"),
        qk_nope_head_dim: keys.size("qk_nope_head_dim"),
        qk_rope_head_dim: keys.size("qk_rope_head_dim"),
        v_head_dim: keys.size("v_head_dim"),
    };
    if let Some(said) = keys.opt_count("qk_head_dim")
        && said != mla.qk_head_dim()
    {
        keys.fault(format!(
            "`qk_head_dim` is {said}; `qk_nope_head_dim` + `qk_rope_head_dim` is {}",
            mla.qk_head_dim()
        ));
    }
    Some(mla)
}

fn check(keys: &mut Keys<'_>, config: &ModelConfig) {
    let (heads, kv) = (config.num_attention_heads, config.num_key_value_heads);
    if config.mla.is_none() && !heads.is_multiple_of(kv) {
        keys.fault(format!("`num_key_value_heads` {kv} does not divide `num_attention_heads` {heads}"));
    }
    if !config.rotary_dim().is_multiple_of(2) {
        let key = if config.mla.is_some() { "qk_rope_head_dim" } else { "head_dim" };
        keys.fault(format!("`{key}` is {}; rotary position needs an even width", config.rotary_dim()));
    }
    if config.num_hidden_layers > MAX_LAYERS {
        keys.fault(format!("`num_hidden_layers` is {}; more than {MAX_LAYERS} are not read", config.num_hidden_layers));
    }
    let vocab = config.vocab_size as u64;
    let named = [("bos_token_id", config.bos_token_id)]
        .into_iter()
        .chain(config.eos_token_ids.iter().map(|id| ("eos_token_id", Some(*id))));
    for (key, id) in named {
        if let Some(id) = id
            && u64::from(id) >= vocab
        {
            keys.fault(format!("`{key}` {id} is outside the vocabulary of {vocab}"));
        }
    }
}

/// Keys that change the mathematics in a way this version does not compute.
fn refuse_variants(keys: &mut Keys<'_>, config: &ModelConfig) {
    if let Some(act) = keys.opt_str("hidden_act").filter(|act| act != "silu" && act != "swish") {
        keys.fault(format!("`hidden_act` is `{act}`; only silu is supported"));
    }
    if keys.bool_or("use_sliding_window", false) {
        keys.fault("`use_sliding_window` is true; sliding windows are not supported".into());
    }
    if config.moe.is_some() && config.mlp_bias {
        keys.fault("`mlp_bias` is true; a mixture of experts with biases is not supported".into());
    }
    if keys.opt_f64("partial_rotary_factor").is_some_and(|f| f != 1.0) {
        keys.fault("`partial_rotary_factor` other than 1 is not supported".into());
    }
    if let Some(Value::Array(kinds)) = keys.get("layer_types")
        && let Some(other) = kinds.iter().find(|k| k.as_str() != Some("full_attention"))
    {
        let other: String = other.to_string().chars().take(60).collect();
        keys.fault(format!("`layer_types` holds `{other}`; only full_attention is supported"));
    }
    if let Some(Value::Array(kinds)) = keys.get("mlp_layer_types") {
        let agrees = kinds.len() == config.num_hidden_layers
            && kinds.iter().enumerate().all(|(layer, kind)| {
                kind.as_str() == Some(if config.is_moe_layer(layer) { "sparse" } else { "dense" })
            });
        if !agrees {
            keys.fault("`mlp_layer_types` disagrees with `first_k_dense_replace` and `moe_layer_freq`".into());
        }
    }
}
