//! Adapters against models: fixtures fit theirs, others are refused tensor by tensor.

mod common;

use common::outs;
use loar_formats::Severity;
use loar_formats::config::ModelConfig;
use loar_formats::peft::{AdapterConfig, compare, read, write};
use loar_formats::safetensors::{Checkpoint, TensorOut};

fn on_base(base: &str, adapter: &str) -> Option<(AdapterConfig, Checkpoint, ModelConfig, Checkpoint)> {
    let dir = common::fixture(base)?;
    let (config, tensors) = read(&common::fixture(adapter)?).unwrap();
    let model = ModelConfig::read(&dir).unwrap().0;
    Some((config, tensors, model, Checkpoint::open_dir(&dir).unwrap().0))
}

#[test]
fn fixtures_fit_their_models() {
    let models = common::MODELS.map(|m| (m.to_owned(), format!("{m}/adapter")));
    let variants = common::VARIANTS.map(|v| ("llama".to_owned(), format!("peft_variants/{v}")));
    for (base, adapter) in models.into_iter().chain(variants) {
        let Some((config, tensors, model, base)) = on_base(&base, &adapter) else {
            return;
        };
        let issues = compare(&config, &tensors, &model, Some(&base));
        // PEFT's defect that the fixtures document, and nothing else
        let expected =
            usize::from(adapter.starts_with("deepseek_v3_all") || adapter.starts_with("deepseek_v3_experts"));
        assert_eq!(issues.len(), expected, "{adapter}: {issues:?}");
        assert!(issues.iter().all(|i| i.severity == Severity::Note && i.text.contains("PEFT 0.21")));
    }
}

#[test]
fn an_adapter_of_another_model_is_refused_tensor_by_tensor() {
    let Some((config, tensors, model, _)) = on_base("qwen3", "llama/adapter") else {
        return;
    };
    let issues = compare(&config, &tensors, &model, None);
    // two layers: B of q, k and v and A of o have other widths; the MLP fits
    let errors = issues.iter().filter(|i| i.severity == Severity::Error).count();
    assert_eq!(errors, 8, "{issues:#?}");
    let Some((config, tensors, model, _)) = on_base("llama", "deepseek_v3/adapter") else {
        return;
    };
    let issues = compare(&config, &tensors, &model, None);
    assert!(issues.iter().any(|i| { i.text.contains("no linear layer or embedding `model.layers.0.self_attn.kv_a") }));
    assert!(
        issues.iter().any(|i| i.severity == Severity::Warning && i.text.contains("3 modules are targeted")),
        "{issues:#?}"
    );
}

#[test]
fn exchanged_factors_of_fused_experts_are_recognised() {
    let Some((config, tensors, model, _)) = on_base("deepseek_v3_experts", "deepseek_v3_experts/adapter") else {
        return;
    };
    let mut outs = outs(&tensors);
    for tensor in &mut outs {
        // down_proj: A [4·8, 16] and B [32, 4·8] become A [4·8, 32] and B [16, 4·8]
        if tensor.name.ends_with("1.mlp.experts.lora_A.weight") {
            *tensor = TensorOut::f32(tensor.name.clone(), vec![32, 32], &[0.0; 1024]);
        } else if tensor.name.ends_with("1.mlp.experts.lora_B.weight") {
            *tensor = TensorOut::f32(tensor.name.clone(), vec![16, 32], &[0.0; 512]);
        }
    }
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &config, &outs).unwrap();
    let issues = compare(&config, &read(dir.path()).unwrap().1, &model, None);
    let found = issues.iter().filter(|i| i.text.contains("PEFT 0.18 and 0.19")).count();
    assert_eq!(found, 2, "{issues:#?}");
}

#[test]
fn a_changed_copy_of_the_embedding_is_found() {
    let Some((config, tensors, model, base)) = on_base("llama", "peft_variants/embedding") else {
        return;
    };
    let mut outs = outs(&tensors);
    let copy = outs.iter_mut().find(|t| t.name.ends_with("base_layer.weight")).unwrap();
    copy.data.to_mut()[3] ^= 1;
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &config, &outs).unwrap();
    let changed = read(dir.path()).unwrap().1;
    let issues = compare(&config, &changed, &model, Some(&base));
    assert!(matches!(issues.as_slice(), [i] if i.text.contains("differs from the base's")), "{issues:?}");
    assert!(compare(&config, &changed, &model, None).is_empty());
}
