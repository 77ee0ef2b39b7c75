//! The model that is trained: DeepSeek-V3's architecture, small, reading and writing bytes.
//!
//! Latent attention, a dense first layer, then routed experts with a shared one, as released. The
//! tokenizer is byte-level BPE without merges, with DeepSeek-V3's control tokens, so that the trained
//! folder is a checkpoint like any other: it loads, serves and reasons by the same commands.

use loar_formats::config::ModelConfig;
use loar_text::{ChatTemplate, EncodeOptions, Encoder, Tokenizer};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::ProveError;

/// Control tokens in the order of their ids.
const CONTROL: [&str; 7] = [
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
    "<｜▁pad▁｜>",
    "<｜User｜>",
    "<｜Assistant｜>",
    "<think>",
    "</think>",
];
/// Id of the end of a sequence.
pub const EOS_ID: u32 = 1;
/// Tokens: control tokens and bytes.
const VOCAB: usize = CONTROL.len() + 256;

/// Size of the model.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shape {
    /// `hidden_size`.
    pub hidden: usize,
    /// `num_hidden_layers`: one dense, the rest with routed experts.
    pub layers: usize,
    /// `num_attention_heads`.
    pub heads: usize,
    /// `n_routed_experts`, two of them a token.
    pub experts: usize,
}

/// `config.json` of a shape.
pub fn config_json(shape: Shape) -> Value {
    let head = shape.hidden / shape.heads;
    json!({
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3",
        "vocab_size": VOCAB,
        "hidden_size": shape.hidden,
        "intermediate_size": 2 * shape.hidden,
        "moe_intermediate_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "q_lora_rank": null,
        "kv_lora_rank": shape.hidden / 2,
        "qk_nope_head_dim": head / 2,
        "qk_rope_head_dim": head,
        "v_head_dim": head,
        "n_routed_experts": shape.experts,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "first_k_dense_replace": 1,
        "moe_layer_freq": 1,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
        "n_group": 1,
        "topk_group": 1,
        "norm_topk_prob": true,
        "routed_scaling_factor": 1.0,
        "num_nextn_predict_layers": 0,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000.0,
        "max_position_embeddings": 256,
        "attention_bias": false,
        "attention_dropout": 0.0,
        "tie_word_embeddings": false,
        "initializer_range": 0.05,
        "bos_token_id": 0,
        "eos_token_id": EOS_ID,
        "pad_token_id": 2,
        "use_cache": true,
        "dtype": "float32"
    })
}

/// The config of a shape, checked.
pub fn config(shape: Shape) -> Result<ModelConfig, ProveError> {
    let (config, issues) = ModelConfig::from_json(&config_json(shape)).map_err(|e| ProveError::Shape(e.to_string()))?;
    match issues.first() {
        None => Ok(config),
        Some(issue) => Err(ProveError::Shape(issue.to_string())),
    }
}

/// `tokenizer.json` and `tokenizer_config.json`.
pub fn tokenizer_files() -> Result<[(&'static str, String); 2], ProveError> {
    let template = ChatTemplate::builtin("r1")?;
    let mut vocab = serde_json::Map::new();
    let mut added = Vec::new();
    for (id, token) in CONTROL.iter().enumerate() {
        added.push(json!({
            "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": id < 3
        }));
        vocab.insert((*token).to_string(), json!(id));
    }
    for byte in 0..=255u8 {
        vocab.insert(byte_char(byte).to_string(), json!(CONTROL.len() + usize::from(byte)));
    }
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": []
        }
    });
    let config = json!({
        "add_bos_token": false, "add_eos_token": false, "bos_token": CONTROL[0], "eos_token": CONTROL[1],
        "pad_token": CONTROL[2], "unk_token": null, "clean_up_tokenization_spaces": false,
        "model_max_length": 256, "tokenizer_class": "PreTrainedTokenizerFast", "chat_template": template.source()
    });
    Ok([("tokenizer.json", format!("{tokenizer}\n")), ("tokenizer_config.json", format!("{config:#}\n"))])
}

/// Byte-level BPE writes a byte as this character: printable ones as themselves, the others, in
/// order, from U+0100.
fn byte_char(byte: u8) -> char {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if printable(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|b| !printable(*b)).count() as u32;
    char::from_u32(0x100 + before).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// What turns samples into ids, the same for training and for asking.
pub fn encoder() -> Result<Encoder, ProveError> {
    let [(_, tokenizer), (_, config)] = tokenizer_files()?;
    let tokenizer = Tokenizer::from_bytes(tokenizer.as_bytes(), Some(config.as_bytes()))?;
    Ok(Encoder::new(tokenizer, Some(ChatTemplate::builtin("r1")?), EncodeOptions::default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use loar_text::Special;

    #[test]
    fn any_text_comes_back_a_byte_a_token() {
        let encoder = encoder().unwrap();
        for text in ["0110^=\n x=3,y=5", "年龄\u{1F600}\t\u{0}", "</think>"] {
            let ids = encoder.tokenizer().encode(text, Special::AsText).unwrap();
            assert_eq!(encoder.tokenizer().decode(&ids, false), text);
            assert_eq!(ids.len(), text.len());
        }
    }

    #[test]
    fn the_shape_is_sound() {
        let config = config(Shape { hidden: 64, layers: 2, heads: 2, experts: 4 }).unwrap();
        assert_eq!(config.vocab_size, encoder().unwrap().tokenizer().vocab_size());
    }
}
