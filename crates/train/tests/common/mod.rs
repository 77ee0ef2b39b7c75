//! A tiny DeepSeek-V3 base with its own byte-level tokenizer, data, and runs over them.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use loar_formats::config::ModelConfig;
use loar_model::{LoadOptions, Model, StoredDtype};
use loar_train::{Event, ResolvedRun, Row, RunReport, TrainError, load_run};
use serde_json::{Value, json};

/// GPT-2's byte alphabet.
fn alphabet() -> Vec<char> {
    let mut next = 0x100u32;
    (0..=255u8)
        .map(|b| match b {
            b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => char::from(b),
            _ => {
                next += 1;
                char::from_u32(next - 1).unwrap()
            }
        })
        .collect()
}

const CONTROL: [&str; 7] = [
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
    "<｜▁pad▁｜>",
    "<｜User｜>",
    "<｜Assistant｜>",
    "<think>",
    "</think>",
];

pub const VOCAB: usize = 256 + CONTROL.len();
pub const EOS: u32 = 257;

fn tokenizer_json() -> Value {
    let vocab: serde_json::Map<String, Value> =
        alphabet().iter().enumerate().map(|(i, c)| (c.to_string(), json!(i))).collect();
    let added: Vec<Value> = CONTROL
        .iter()
        .enumerate()
        .map(|(i, c)| {
            json!({"id": 256 + i, "content": c, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": !c.contains("think>")})
        })
        .collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []}
    })
}

/// A two-layer DeepSeek-V3: latent attention, one dense and one expert layer.
pub fn config() -> ModelConfig {
    let value = json!({
        "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "hidden_act": "silu",
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 2, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4,
        "v_head_dim": 8, "moe_intermediate_size": 8, "n_routed_experts": 4, "n_shared_experts": 1,
        "num_experts_per_tok": 2, "n_group": 2, "topk_group": 2, "first_k_dense_replace": 1, "norm_topk_prob": true,
        "routed_scaling_factor": 1.0, "scoring_func": "sigmoid", "topk_method": "noaux_tc", "moe_layer_freq": 1,
        "vocab_size": VOCAB, "rms_norm_eps": 1e-6, "tie_word_embeddings": false, "attention_bias": false,
        "max_position_embeddings": 128, "initializer_range": 0.2, "rope_theta": 10000.0,
        "bos_token_id": 256, "eos_token_id": 257, "dtype": "float32"
    });
    ModelConfig::from_json(&value).unwrap().0
}

pub fn model(threads: usize) -> Model {
    Model::random(config(), 5, &LoadOptions { threads, ..LoadOptions::default() }).unwrap()
}

/// Writes the base folder.
pub fn base(dir: &Path) -> PathBuf {
    let base = dir.join("base");
    std::fs::create_dir_all(&base).unwrap();
    model(1).save_base(&base, StoredDtype::F32).unwrap();
    std::fs::write(base.join("tokenizer.json"), tokenizer_json().to_string()).unwrap();
    let config = json!({"bos_token": CONTROL[0], "eos_token": CONTROL[1], "pad_token": CONTROL[2], "add_bos_token": false,
                        "tokenizer_class": "PreTrainedTokenizerFast"});
    std::fs::write(base.join("tokenizer_config.json"), config.to_string()).unwrap();
    base
}

/// `n` rows of chat: letters in, the same letters reversed out.
pub fn data(dir: &Path, name: &str, n: usize) -> PathBuf {
    let lines: Vec<String> = (0..n)
        .map(|i| {
            let word: String = (0..3 + i % 7).map(|k| char::from(b'a' + ((i * 7 + k * 3) % 26) as u8)).collect();
            let back: String = word.chars().rev().collect();
            json!({"messages": [{"role": "user", "content": word}, {"role": "assistant", "content": back}]}).to_string()
        })
        .collect();
    let path = dir.join(name);
    std::fs::write(&path, lines.join("\n") + "\n").unwrap();
    path
}

/// A folder with base and data, and the text of a run file over them.
pub struct Bench {
    pub dir: tempfile::TempDir,
    pub text: String,
}

impl Bench {
    pub fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let (base, train) = (base(dir.path()), data(dir.path(), "train.jsonl", 40));
        let text = format!(
            "[model]\npath = {base:?}\ndtype = \"f32\"\nthreads = 1\n[data]\ntrain = [{train:?}]\ntemplate = \"v3\"\nmax_seq_len = 64\n\
             [adapter]\nrank = 4\nalpha = 8\n[train]\nsteps = 6\nbatch_rows = 4\nmicro_batch_tokens = 48\nlearning_rate = 0.01\n"
        );
        Bench { dir, text }
    }

    /// The run `name` with overrides.
    pub fn run(&self, name: &str, set: &[&str]) -> ResolvedRun {
        let path = self.dir.path().join(format!("{name}.toml"));
        std::fs::write(&path, &self.text).unwrap();
        let out = self.dir.path().join("runs").join(name);
        let mut set: Vec<String> = set.iter().map(|s| s.to_string()).collect();
        set.push(format!("output.dir={out:?}"));
        load_run(&path, &set).unwrap()
    }
}

/// Runs to the end and gives the events besides.
pub fn go(run: &ResolvedRun) -> (Result<RunReport, TrainError>, Vec<Event>) {
    let mut events = Vec::new();
    let result = loar_train::run(run, &mut |e: &Event| events.push(e.clone()), &AtomicBool::new(false));
    (result, events)
}

pub fn bytes(path: impl AsRef<Path>) -> Vec<u8> {
    std::fs::read(path.as_ref()).unwrap_or_else(|e| panic!("{}: {e}", path.as_ref().display()))
}

/// Rows of random ids, the last two thirds labelled.
pub fn rows(n: usize, seed: u64) -> Vec<Row> {
    let random = loar_kernels::rng::Stream::new(seed, 1, 0);
    (0..n)
        .map(|i| {
            let len = 4 + random.below(i as u64, 12) as usize;
            Row {
                id: format!("rows.jsonl:{}", i + 1),
                ids: (0..len).map(|k| random.below((1000 + i * 64 + k) as u64, 256) as u32).collect(),
                train: (0..len).map(|k| k > len / 3).collect(),
            }
        })
        .collect()
}
