//! Tiny models of every architecture with lively weights: norms that are not 1, biases that are not 0, a router that
//! has opinions, a choice bias below zero. Fresh initialisation would hide half the mistakes a decoder can make.
#![allow(dead_code)] // each test binary uses a part

use loar_formats::config::ModelConfig;
use loar_formats::names::expected_tensors;
use loar_formats::safetensors::{TensorOut, write_file};
use loar_kernels::rng::Stream;
use loar_model::{LoadOptions, Model, PackedBatch};
use loar_tape::Precision;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub const KINDS: [&str; 9] =
    ["llama", "llama3", "llama_linear", "qwen2", "qwen3", "deepseek", "deepseek_v2_lite", "deepseek_v2", "deepseek_v3"];
pub const VOCAB: usize = 61;

fn yarn(mscale: f64) -> Value {
    json!({"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": 32, "beta_slow": 1, "mscale": mscale, "mscale_all_dim": mscale})
}

/// `config.json` of a tiny model.
pub fn config_json(kind: &str) -> Value {
    let mut c = json!({
        "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": false,
        "initializer_range": 0.12, "bos_token_id": 0, "eos_token_id": 1, "rope_theta": 10000.0,
    });
    let extra = match kind {
        "llama" => json!({"model_type": "llama", "num_key_value_heads": 2}),
        // θ = 100 puts one wavelength between the two bounds, where Llama 3 blends.
        "llama3" => {
            json!({"model_type": "llama", "num_key_value_heads": 1, "rope_theta": 100.0, "attention_bias": true, "mlp_bias": true, "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}})
        }
        "llama_linear" => {
            json!({"model_type": "llama", "num_key_value_heads": 4, "rope_scaling": {"type": "linear", "factor": 4.0}})
        }
        "qwen2" => json!({"model_type": "qwen2", "num_key_value_heads": 2, "tie_word_embeddings": true}),
        "qwen3" => {
            json!({"model_type": "qwen3", "num_key_value_heads": 2, "head_dim": 12, "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "attn_factor": 0.9}})
        }
        "deepseek" => json!({"model_type": "deepseek", "num_key_value_heads": 4, "num_hidden_layers": 3}),
        "deepseek_v2_lite" | "deepseek_v2" => {
            json!({"model_type": "deepseek_v2", "num_hidden_layers": 3, "rms_norm_eps": 1e-3, "rope_scaling": yarn(0.707)})
        }
        "deepseek_v3" => {
            json!({"model_type": "deepseek_v3", "num_hidden_layers": 3, "rms_norm_eps": 1e-3, "rope_scaling": yarn(1.0), "num_nextn_predict_layers": 1})
        }
        other => panic!("no tiny config `{other}`"),
    };
    let moe = json!({"n_routed_experts": 8, "num_experts_per_tok": 3, "n_shared_experts": 2, "moe_intermediate_size": 12, "first_k_dense_replace": 1, "moe_layer_freq": 1});
    let mla = json!({"kv_lora_rank": 16, "qk_nope_head_dim": 10, "qk_rope_head_dim": 6, "v_head_dim": 9, "num_key_value_heads": 4});
    let rest = match kind {
        "deepseek" => vec![moe, json!({"scoring_func": "softmax", "norm_topk_prob": false})],
        "deepseek_v2_lite" => vec![
            moe,
            mla,
            json!({"q_lora_rank": null, "topk_method": "greedy", "norm_topk_prob": false, "routed_scaling_factor": 1.0}),
        ],
        "deepseek_v2" => vec![
            moe,
            mla,
            json!({"q_lora_rank": 20, "topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2, "norm_topk_prob": false, "routed_scaling_factor": 4.0}),
        ],
        "deepseek_v3" => vec![
            moe,
            mla,
            json!({"q_lora_rank": 20, "n_group": 4, "topk_group": 2, "norm_topk_prob": true, "routed_scaling_factor": 2.5}),
        ],
        _ => vec![],
    };
    for part in std::iter::once(extra).chain(rest) {
        for (k, v) in part.as_object().expect("an object") {
            c[k] = v.clone();
        }
    }
    c
}

pub fn config(kind: &str) -> ModelConfig {
    config_of(&config_json(kind))
}

pub fn config_of(json: &Value) -> ModelConfig {
    ModelConfig::from_json(json).expect("a tiny config is valid").0
}

pub fn options(threads: usize) -> LoadOptions {
    LoadOptions { threads, precision: Precision::F32, ..LoadOptions::default() }
}

fn values(name: &str, index: u32, seed: u64, count: usize) -> Vec<f32> {
    let (mean, std) = if name.ends_with("norm.weight") {
        (1.0, 0.2)
    } else if name.ends_with("e_score_correction_bias") {
        // Below zero, so that a mask of 0.0 instead of −∞ shows.
        (-1.5, 0.3)
    } else if name.ends_with(".bias") {
        (0.0, 0.3)
    } else if name.ends_with("mlp.gate.weight") {
        (0.0, 0.4)
    } else if name.ends_with("embed_tokens.weight") {
        (0.0, 0.6)
    } else {
        (0.0, 0.18)
    };
    let mut v = vec![0f32; count];
    Stream::new(seed, index, 0x11fe).fill_normal(0, std, &mut v);
    v.iter_mut().for_each(|x| *x += mean);
    v
}

/// A checkpoint folder with lively weights.
pub fn write_checkpoint(dir: &Path, config: &ModelConfig, seed: u64) {
    let tensors: Vec<TensorOut<'static>> = expected_tensors(config)
        .into_iter()
        .enumerate()
        .map(|(i, (name, shape, _))| {
            let v = values(&name, i as u32, seed, shape.iter().product());
            TensorOut::f32(name, shape, &v)
        })
        .collect();
    write_file(&dir.join("model.safetensors"), &tensors, &BTreeMap::from([("format".into(), "pt".into())]))
        .expect("the scratch folder is writable");
    std::fs::write(dir.join("config.json"), serde_json::to_vec_pretty(&config.to_json()).expect("JSON"))
        .expect("the scratch folder is writable");
}

/// A lively model, and the folder it lies in.
pub struct Tiny {
    pub dir: tempfile::TempDir,
}

impl Tiny {
    pub fn new(kind: &str, seed: u64) -> Tiny {
        Tiny::of(&config(kind), seed)
    }

    pub fn of(config: &ModelConfig, seed: u64) -> Tiny {
        let dir = tempfile::tempdir().expect("a scratch folder");
        write_checkpoint(dir.path(), config, seed);
        Tiny { dir }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn load(&self) -> Model {
        self.load_on(2)
    }

    pub fn load_in(&self, precision: Precision, threads: usize) -> Model {
        let options = LoadOptions { precision, ..options(threads) };
        Model::load(self.path(), &options).expect("a tiny checkpoint loads")
    }

    pub fn load_on(&self, threads: usize) -> Model {
        Model::load(self.path(), &options(threads)).expect("a tiny checkpoint loads")
    }
}

/// Documents of the given lengths; every third token carries no loss.
pub struct Docs {
    pub ids: Vec<Vec<u32>>,
    pub train: Vec<Vec<bool>>,
}

impl Docs {
    pub fn new(lengths: &[usize], seed: u64) -> Docs {
        let ids = lengths
            .iter()
            .enumerate()
            .map(|(d, n)| {
                (0..*n).map(|i| Stream::new(seed, d as u32, 0xd0c).below(i as u64, VOCAB as u64) as u32).collect()
            })
            .collect();
        let train = lengths.iter().map(|n| (0..*n).map(|i| i % 3 != 2).collect()).collect();
        Docs { ids, train }
    }

    pub fn batch(&self) -> PackedBatch {
        self.batch_of(&(0..self.ids.len()).collect::<Vec<_>>())
    }

    pub fn batch_of(&self, which: &[usize]) -> PackedBatch {
        let docs: Vec<(&[u32], &[bool])> = which.iter().map(|d| (&self.ids[*d][..], &self.train[*d][..])).collect();
        PackedBatch::pack(&docs)
    }
}

/// `../shared`, or nothing with a loud word.
pub fn shared(what: &str) -> Option<PathBuf> {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared")).join(what);
    if path.exists() {
        Some(path)
    } else {
        println!("skipped: ../shared/{what} is absent");
        None
    }
}

/// Largest absolute difference, and the largest expected entry.
pub fn gap(got: &[f32], want: &[f32]) -> (f64, f64) {
    assert_eq!(got.len(), want.len());
    let mut max = 0f64;
    for (g, w) in got.iter().zip(want) {
        let d = (f64::from(*g) - f64::from(*w)).abs();
        max = if d.is_nan() { f64::INFINITY } else { max.max(d) };
    }
    (max, want.iter().fold(0f64, |m, w| m.max(f64::from(w.abs()))))
}

/// The rule by which `golden::check` judges logits: 2e-5, growing with logits larger than one.
pub fn logits_agree(got: &[f32], want: &[f32]) -> (bool, f64) {
    let (max, largest) = gap(got, want);
    (max <= 2e-5 * largest.max(1.0), max)
}
