//! `loar inspect` on whole, broken, huge and golden folders.

mod common;

use std::io::Write;

use common::{checkpoint, expect, shared, v3_config, write};
use loar_formats::config::ModelConfig;
use loar_formats::names::expected_tensors;
use loar_model::StoredDtype;
use serde_json::{Value, json};

fn inspect(code: i32, dir: &std::path::Path) -> Value {
    let (stdout, _) = expect(code, ["inspect", dir.to_str().unwrap(), "--json"]);
    serde_json::from_str(&stdout).unwrap()
}

fn texts(found: &Value, severity: &str) -> Vec<String> {
    let issues = found["issues"].as_array().unwrap();
    let of = issues.iter().filter(|i| i["severity"] == severity);
    of.map(|i| i["text"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_whole_checkpoint_is_described() {
    let dir = checkpoint(&v3_config(), StoredDtype::Bf16);
    let found = inspect(0, dir.path());
    let (config, _) = ModelConfig::read(dir.path()).unwrap();
    let count: usize = expected_tensors(&config).iter().map(|(_, s, _)| s.iter().product::<usize>()).sum();
    assert_eq!(found["parameters"], count);
    assert_eq!(found["architecture"]["model_type"], "deepseek_v3");
    assert!(found["active_parameters"].as_u64() < found["parameters"].as_u64());
    assert_eq!(found["tokenizer"]["bos"], json!([common::BOS, 256]));
    assert_eq!(found["template"]["origin"], "builtin:r1");
    assert_eq!(found["generation"]["temperature"], 0.6);
    assert_eq!(found["licences"], json!(["LICENSE"]));
    let sum: u64 = found["components"].as_array().unwrap().iter().map(|c| c["parameters"].as_u64().unwrap()).sum();
    assert_eq!(sum as usize, count);
    let (text, _) = expect(0, ["inspect", dir.path().to_str().unwrap()]);
    for part in ["MLA, 4 heads", "4 routed experts", "mla kv", "BF16"] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
}

#[test]
fn everything_suspicious_is_listed_at_once() {
    let dir = checkpoint(&v3_config(), StoredDtype::F32);
    let mut config = v3_config();
    config["kv_lora_rank"] = json!(20);
    config["bos_token_id"] = json!(5);
    config["hyper_sparsity"] = json!(true);
    write(&dir.path().join("config.json"), &config.to_string());
    let tokenizer = json!({"add_bos_token": true, "bos_token": common::BOS, "eos_token": common::EOS, "pad_token": common::EOS,
        "chat_template": "{{ bos_token }}{% for m in messages %}<|User|>{{ m.content }}{% endfor %}"});
    write(&dir.path().join("tokenizer_config.json"), &tokenizer.to_string());
    let found = inspect(1, dir.path());
    let errors = texts(&found, "error");
    assert!(errors.len() >= 4, "both layers' latent projections: {errors:?}");
    assert!(errors.iter().all(|e| e.contains("expected shape")), "{errors:?}");
    let warnings = texts(&found, "warning").join("\n");
    for part in ["feed two", "pad_token = eos_token", "`<|User|>`", "`hyper_sparsity`", "`bos_token_id` 5"] {
        assert!(warnings.contains(part), "{part} in\n{warnings}");
    }
}

#[test]
fn a_missing_shard_and_a_broken_config_do_not_hide_each_other() {
    let dir = checkpoint(&v3_config(), StoredDtype::F32);
    std::fs::rename(dir.path().join("model.safetensors"), dir.path().join("model-00001-of-00002.safetensors")).unwrap();
    let index = json!({"metadata": {"total_size": 1}, "weight_map": {
        "model.norm.weight": "model-00001-of-00002.safetensors", "lm_head.weight": "model-00002-of-00002.safetensors"}});
    write(&dir.path().join("model.safetensors.index.json"), &index.to_string());
    let mut config = v3_config();
    config["num_attention_heads"] = json!("four");
    config["hidden_size"] = json!(-1);
    write(&dir.path().join("config.json"), &config.to_string());
    let errors = texts(&inspect(1, dir.path()), "error").join("\n");
    for part in ["num_attention_heads", "hidden_size", "model-00002-of-00002.safetensors"] {
        assert!(errors.contains(part), "{part} in\n{errors}");
    }
}

#[test]
fn unknown_families_are_refused_in_one_sentence() {
    let dir = checkpoint(&v3_config(), StoredDtype::F32);
    let mut config = v3_config();
    config["model_type"] = json!("deepseek_v4");
    write(&dir.path().join("config.json"), &config.to_string());
    let errors = texts(&inspect(1, dir.path()), "error");
    assert_eq!(errors.iter().filter(|e| e.contains("deepseek_v4")).count(), 1, "{errors:?}");
}

/// A header with 32 GB of weights behind it, of which not a byte is stored: reading them would not
/// end within the test.
#[test]
fn weights_are_never_read() {
    let dir = checkpoint(&v3_config(), StoredDtype::F32);
    let mut config = v3_config();
    config["vocab_size"] = json!(1_000_000);
    config["hidden_size"] = json!(8192);
    write(&dir.path().join("config.json"), &config.to_string());
    let (parsed, _) = ModelConfig::from_json(&config).unwrap();
    let mut header = serde_json::Map::new();
    let mut at = 0u64;
    for (name, shape, _) in expected_tensors(&parsed) {
        let end = at + 2 * shape.iter().product::<usize>() as u64;
        header.insert(name, json!({"dtype": "BF16", "shape": shape, "data_offsets": [at, end]}));
        at = end;
    }
    assert!(at > 32_000_000_000);
    let header = Value::Object(header).to_string();
    let mut file = std::fs::File::create(dir.path().join("model.safetensors")).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    if file.set_len(8 + header.len() as u64 + at).is_err() {
        println!("skipped: the file system has no sparse files");
        return;
    }
    let found = inspect(0, dir.path());
    assert_eq!(found["memory"]["stored_bytes"], at);
}

#[test]
fn golden_fixtures_are_described() {
    let Some(root) = shared("fixtures") else {
        return;
    };
    for name in ["llama", "llama_linear_rope", "qwen2", "qwen3", "deepseek_v2_lite", "deepseek_v2", "deepseek_v3"] {
        // they have no tokenizer, and that is all that is wrong with them
        let found = inspect(1, &root.join(name));
        let errors = texts(&found, "error");
        assert_eq!(errors.len(), 1, "{name}: {errors:?}");
        assert!(errors[0].contains("tokenizer.json"), "{name}: {errors:?}");
        let adapter = inspect(0, &root.join(name).join("adapter"));
        assert_eq!((&adapter["kind"], &adapter["r"]), (&json!("adapter"), &json!(4)), "{name}");
    }
    for name in ["deepseek_v32", "deepseek_v4"] {
        assert!(texts(&inspect(1, &root.join(name)), "error").iter().any(|e| e.contains(name)));
    }
}
