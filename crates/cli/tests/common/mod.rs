//! A tiny checkpoint folder, data and run files for it, and the built binary.
#![allow(dead_code)] // each test file uses its part

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use loar_formats::config::ModelConfig;
use loar_model::{StoredDtype, write_random};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

pub const BOS: &str = "<｜begin▁of▁sentence｜>";
pub const EOS: &str = "<｜end▁of▁sentence｜>";
const SPECIAL: [&str; 7] = [BOS, EOS, "<｜▁pad▁｜>", "<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"];
pub const VOCAB: usize = 264;

/// `loar` with arguments, without colour or a terminal.
pub fn loar<I: IntoIterator<Item = S>, S: AsRef<std::ffi::OsStr>>(args: I) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loar"));
    command.args(args).stdin(Stdio::null()).env_remove("NO_COLOR");
    command
}

/// Runs to the end.
pub fn run<I: IntoIterator<Item = S>, S: AsRef<std::ffi::OsStr>>(args: I) -> Output {
    loar(args).output().expect("the binary starts")
}

/// Runs to the end and expects an exit code.
pub fn expect<I: IntoIterator<Item = S>, S: AsRef<std::ffi::OsStr>>(code: i32, args: I) -> (String, String) {
    let out = run(args);
    let (stdout, stderr) = (text(&out.stdout), text(&out.stderr));
    assert_eq!(out.status.code(), Some(code), "stdout:\n{stdout}\nstderr:\n{stderr}");
    assert!(!stdout.contains('\x1b') && !stderr.contains('\x1b'), "colour on a pipe");
    (stdout, stderr)
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8 output")
}

/// `../shared/NAME`, or a loud note that the test did not run.
pub fn shared(name: &str) -> Option<PathBuf> {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared")).join(name);
    if !path.exists() {
        println!("skipped: ../shared/{name} is absent");
        return None;
    }
    Some(path)
}

fn byte_chars() -> Vec<char> {
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

/// A byte tokenizer with DeepSeek's control tokens.
pub fn write_tokenizer(dir: &Path) {
    let vocab: Map<String, Value> = byte_chars().iter().enumerate().map(|(id, c)| (c.to_string(), json!(id))).collect();
    let added: Vec<Value> = SPECIAL
        .iter()
        .enumerate()
        .map(|(i, s)| {
            json!({"id": 256 + i, "content": s, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": i < 3})
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
    write(&dir.join("tokenizer.json"), &file.to_string());
    let config = json!({"add_bos_token": true, "add_eos_token": false, "bos_token": BOS, "eos_token": EOS,
        "pad_token": SPECIAL[2], "clean_up_tokenization_spaces": false});
    write(&dir.join("tokenizer_config.json"), &config.to_string());
}

pub fn write(path: &Path, text: &str) {
    std::fs::write(path, text).expect("a writable folder");
}

/// Latent attention and experts, a few thousand parameters.
pub fn v3_config() -> Value {
    json!({
        "model_type": "deepseek_v3", "architectures": ["DeepseekV3ForCausalLM"], "hidden_act": "silu",
        "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6, "initializer_range": 0.2, "rope_theta": 10000.0, "tie_word_embeddings": false,
        "bos_token_id": 256, "eos_token_id": 257, "q_lora_rank": 12, "kv_lora_rank": 16,
        "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8, "n_routed_experts": 4,
        "n_shared_experts": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
        "first_k_dense_replace": 1, "moe_layer_freq": 1, "scoring_func": "sigmoid",
        "topk_method": "noaux_tc", "n_group": 2, "topk_group": 1, "norm_topk_prob": true,
        "routed_scaling_factor": 2.5, "num_nextn_predict_layers": 0
    })
}

/// A checkpoint folder as a hub ships it.
pub fn checkpoint(config: &Value, dtype: StoredDtype) -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (config, _) = ModelConfig::from_json(config).expect("a valid config");
    write_random(&config, 3, dir.path(), dtype, 5 << 30).expect("a checkpoint");
    write_tokenizer(dir.path());
    let generation = json!({"do_sample": true, "temperature": 0.6, "top_p": 0.95, "eos_token_id": 257});
    write(&dir.path().join("generation_config.json"), &generation.to_string());
    write(&dir.path().join("LICENSE"), "MIT\n");
    dir
}

/// Rows that a tiny model can learn something from.
pub fn write_data(path: &Path, rows: usize) {
    let lines: Vec<String> = (0..rows)
        .map(|i| {
            let (a, b) = (i % 7, i % 5);
            json!({"messages": [
                {"role": "user", "content": format!("{a}+{b}?")},
                {"role": "assistant", "content": format!("{}", a + b)}
            ]})
            .to_string()
        })
        .collect();
    write(path, &(lines.join("\n") + "\n"));
}

/// A run file; `more` is added to it.
pub fn write_run(path: &Path, model: &Path, data: &Path, out: &Path, more: &str) {
    let quoted = |p: &Path| serde_json::to_string(&p.display().to_string()).expect("a string");
    let text = format!(
        "[model]\npath = {}\ndtype = \"f32\"\nthreads = 1\n\n[data]\ntrain = [{}]\n\n[output]\ndir = {}\n\n{more}",
        quoted(model),
        quoted(data),
        quoted(out)
    );
    write(path, &text);
}
