//! A tiny random model with a byte tokenizer that knows the tokens of R1's template, and setups for it.

#![allow(dead_code)] // each test file uses its own part

use loar_decode::Generator;
use loar_formats::config::ModelConfig;
use loar_model::{LoadOptions, Model};
use loar_reason::generate::Source;
use loar_reason::generate::local::Local;
use loar_reason::policy::{Nature, Policies};
use loar_reason::setup::{Question, Setup, Strategy};
use loar_text::{ChatTemplate, EncodeOptions, Encoder, Tokenizer};
use serde_json::{Value, json};

/// Control tokens behind the 256 bytes.
const CONTROL: [&str; 6] =
    ["<｜end▁of▁sentence｜>", "<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"];
/// End of a reply.
pub const END: u32 = 256;
/// `</think>`.
pub const CLOSE: u32 = 261;

/// GPT-2's printable stand-in for each byte.
fn byte_chars() -> Vec<char> {
    let plain = |b: u32| (33..=126).contains(&b) || (161..=172).contains(&b) || (174..=255).contains(&b);
    let mut next = 255;
    let code = |b: u32, next: &mut u32| {
        if plain(b) {
            b
        } else {
            *next += 1;
            *next
        }
    };
    (0..256).map(|b| char::from_u32(code(b, &mut next)).unwrap()).collect()
}

pub fn tokenizer() -> Tokenizer {
    let vocab: serde_json::Map<String, Value> =
        byte_chars().iter().enumerate().map(|(id, c)| (c.to_string(), json!(id))).collect();
    let added: Vec<Value> = CONTROL
        .iter()
        .enumerate()
        .map(|(i, t)| {
            json!({"id": 256 + i, "content": t, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": !t.contains("think")})
        })
        .collect();
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": []}
    });
    let config = json!({"bos_token": CONTROL[1], "eos_token": CONTROL[0]});
    Tokenizer::from_bytes(file.to_string().as_bytes(), Some(config.to_string().as_bytes())).unwrap()
}

pub fn model() -> Model {
    let config = json!({
        "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"],
        "vocab_size": 264, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-6, "initializer_range": 0.4, "hidden_act": "silu", "rope_theta": 10000.0,
        "tie_word_embeddings": false, "bos_token_id": null, "eos_token_id": END
    });
    let (config, _) = ModelConfig::from_json(&config).unwrap();
    Model::random(config, 5, &LoadOptions { threads: 2, ..LoadOptions::default() }).unwrap()
}

/// With R1's template, or none.
pub fn encoder(nature: Nature) -> Encoder {
    let template = (nature != Nature::Text).then(|| ChatTemplate::builtin("r1").unwrap());
    Encoder::new(tokenizer(), template, EncodeOptions::default())
}

pub fn source() -> Source {
    Source { kind: "local".into(), model: "sha256:test".into(), ..Source::default() }
}

pub fn setup(strategy: Strategy, nature: Nature) -> Setup {
    let policy = Policies::read(None).unwrap().resolve(nature, None).unwrap();
    let mut setup = Setup::of(strategy, nature, policy, 11);
    setup.sampling.max_new_tokens = 40;
    setup
}

pub fn question(text: &str) -> Question {
    Question { text: text.into(), ..Question::default() }
}

/// Runs `f` with an engine over a model.
pub fn with_local<T>(model: &Model, nature: Nature, batch: usize, f: impl FnOnce(&mut Local<'_>) -> T) -> T {
    let encoder = encoder(nature);
    let generator = Generator::new(model, encoder.tokenizer(), [END]).with_max_batch(batch);
    f(&mut Local::new(&generator, &encoder, &[END], source()))
}
