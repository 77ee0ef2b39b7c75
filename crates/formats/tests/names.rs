//! Name tables against the fixtures, the known sizes of releases, and damaged checkpoints.

mod common;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use loar_formats::config::ModelConfig;
use loar_formats::names::{Component, compare, component_of, expected_tensors, is_mtp, parameters};
use loar_formats::safetensors::{Checkpoint, DType, TensorOut, write_file};
use loar_formats::{Issue, Severity};
use serde_json::json;

use common::outs;

fn fixture(name: &str) -> Option<(ModelConfig, Checkpoint)> {
    let dir = common::fixture(name)?;
    let (config, _) = ModelConfig::read(&dir).unwrap();
    Some((config, Checkpoint::open_dir(&dir).unwrap().0))
}

fn rewritten(dir: &Path, tensors: &[TensorOut<'_>]) -> Checkpoint {
    let path = dir.join("model.safetensors");
    write_file(&path, tensors, &BTreeMap::new()).unwrap();
    Checkpoint::open_file(&path).unwrap()
}

fn errors(issues: &[Issue]) -> Vec<&str> {
    issues.iter().filter(|i| i.severity == Severity::Error).map(|i| i.text.as_str()).collect()
}

#[test]
fn fixtures_hold_exactly_the_expected_tensors() {
    for name in common::MODELS {
        let Some((config, checkpoint)) = fixture(name) else {
            return;
        };
        assert_eq!(compare(&config, &checkpoint), [], "{name}");
        let table = expected_tensors(&config);
        assert_eq!(table.len(), checkpoint.len(), "{name}");
        for (tensor, _, component) in &table {
            assert_eq!(component_of(&config, tensor), Some(*component), "{name} {tensor}");
        }
        let total: u64 = parameters(&config).values().sum();
        let stored: u64 = checkpoint.tensors().map(|t| t.numel() as u64).sum();
        assert_eq!(total, stored, "{name}");
    }
}

#[test]
fn every_disagreement_is_listed() {
    let Some((config, checkpoint)) = fixture("deepseek_v3") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let mut tensors = outs(&checkpoint);
    tensors.retain(|t| t.name != "model.norm.weight" && t.name != "lm_head.weight");
    for tensor in &mut tensors {
        if tensor.name == "model.layers.1.mlp.gate.weight" {
            tensor.shape = vec![32, 8];
        }
        if tensor.name == "model.layers.0.input_layernorm.weight" {
            tensor.dtype = DType::I32;
        }
        if tensor.name == "model.layers.0.mlp.up_proj.weight" {
            tensor.dtype = DType::F8E4M3;
            tensor.shape = vec![64, 32];
            tensor.data = Cow::Owned(vec![0; 64 * 32]);
        }
    }
    tensors.push(TensorOut::f32("model.layers.0.self_attn.q_a_proj.bias", vec![24], &[0.0; 24]));
    tensors.push(TensorOut::f32("model.layers.3.eh_proj.weight", vec![2], &[0.0; 2]));
    tensors.push(TensorOut::f32("model.layers.4.eh_proj.weight", vec![2], &[0.0; 2]));
    tensors.push(TensorOut::f32("model.layers.0.self_attn.rotary_emb.inv_freq", vec![4], &[0.0; 4]));
    let issues = compare(&config, &rewritten(dir.path(), &tensors));
    let errors = errors(&issues);
    assert_eq!(errors.len(), 7, "{errors:#?}");
    for part in [
        "`model.norm.weight` of shape [32] is missing",
        "`lm_head.weight` of shape [256, 32] is missing; if the head is the embedding",
        "`model.layers.1.mlp.gate.weight`: expected shape [8, 32], found [32, 8]",
        "`model.layers.0.input_layernorm.weight`: expected a float type, found I32",
        "`model.layers.0.mlp.up_proj.weight_scale_inv` of shape [1, 1] are missing",
        "`model.layers.0.self_attn.q_a_proj.bias` of shape [24] is not part of deepseek_v3",
        "`model.layers.4.eh_proj.weight` of shape [2] is not part",
    ] {
        assert!(errors.iter().any(|e| e.contains(part)), "no `{part}` in {errors:#?}");
    }
    let notes: Vec<_> = issues.iter().filter(|i| i.severity == Severity::Note).collect();
    assert!(notes.iter().any(|n| n.text.contains("1 tensors of multi-token")), "{notes:?}");
    assert!(notes.iter().any(|n| n.text.contains("inv_freq")), "{notes:?}");
    assert!(is_mtp(&config, "model.layers.3.eh_proj.weight"));
    assert!(!is_mtp(&config, "model.layers.2.mlp.gate.weight"));
}

#[test]
fn a_stored_tied_head_is_told() {
    let Some((config, checkpoint)) = fixture("qwen3") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let mut tensors = outs(&checkpoint);
    let mut head = tensors.iter().find(|t| t.name == "model.embed_tokens.weight").unwrap().clone();
    head.name = "lm_head.weight".into();
    tensors.push(head);
    let issues = compare(&config, &rewritten(dir.path(), &tensors));
    assert!(matches!(issues.as_slice(), [i] if i.severity == Severity::Note), "{issues:?}");
    tensors.last_mut().unwrap().data.to_mut()[0] ^= 1;
    let issues = compare(&config, &rewritten(dir.path(), &tensors));
    assert!(matches!(issues.as_slice(), [i] if i.severity == Severity::Warning), "{issues:?}");
}

#[test]
fn parameter_counts_are_those_of_the_releases() {
    let base = json!({"max_position_embeddings": 4096});
    let count = |changes: serde_json::Value| -> f64 {
        let mut value = base.clone();
        value.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        let (config, _) = ModelConfig::from_json(&value).unwrap();
        parameters(&config).values().sum::<u64>() as f64 / 1e9
    };
    let close = |billions: f64, expected: f64| {
        assert!((billions - expected).abs() < expected * 0.005, "{billions} against {expected}");
    };
    // research/deepseek.md §1.2, §2.8
    close(
        count(json!({"model_type": "deepseek_v2", "hidden_size": 2048, "intermediate_size": 10944,
            "num_hidden_layers": 27, "num_attention_heads": 16, "vocab_size": 102400,
            "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
            "q_lora_rank": null, "n_routed_experts": 64, "n_shared_experts": 2,
            "num_experts_per_tok": 6, "moe_intermediate_size": 1408, "first_k_dense_replace": 1})),
        15.7,
    );
    close(
        count(json!({"model_type": "deepseek_v3", "hidden_size": 7168, "intermediate_size": 18432,
            "num_hidden_layers": 61, "num_attention_heads": 128, "vocab_size": 129280,
            "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128,
            "qk_rope_head_dim": 64, "v_head_dim": 128, "n_routed_experts": 256,
            "n_shared_experts": 1, "num_experts_per_tok": 8, "moe_intermediate_size": 2048,
            "n_group": 8, "topk_group": 4})),
        671.0,
    );
    close(
        count(json!({"model_type": "qwen2", "hidden_size": 1536, "intermediate_size": 8960,
            "num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2,
            "vocab_size": 151936})),
        1.78,
    );
    close(
        count(json!({"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
            "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
            "vocab_size": 128256})),
        8.03,
    );
}

#[test]
fn biases_follow_the_family() {
    let dense = json!({"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 2, "vocab_size": 8, "max_position_embeddings": 8});
    let biases = |changes: serde_json::Value| -> Vec<String> {
        let mut value = dense.clone();
        value.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        let (config, _) = ModelConfig::from_json(&value).unwrap();
        let names = expected_tensors(&config).into_iter().map(|(name, _, _)| name);
        names.filter_map(|n| Some(n.strip_suffix(".bias")?.rsplit('.').next()?.to_owned())).collect()
    };
    assert_eq!(biases(json!({"model_type": "qwen2"})), ["q_proj", "k_proj", "v_proj"]);
    let all = json!({"model_type": "llama", "attention_bias": true, "mlp_bias": true});
    assert_eq!(biases(all), ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]);
    let mla = json!({"model_type": "deepseek_v2", "attention_bias": true, "q_lora_rank": 4,
        "kv_lora_rank": 4, "qk_nope_head_dim": 4, "qk_rope_head_dim": 2, "v_head_dim": 4});
    assert_eq!(biases(mla), ["q_a_proj", "kv_a_proj_with_mqa", "o_proj"]);
    assert_eq!(Component::MlaQ.label(), "mla q");
}
