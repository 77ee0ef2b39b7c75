//! config.json and generation_config.json: released and transformers-5 spelling, faults all at once.

mod common;

use std::path::Path;

use loar_formats::config::{Architecture, ModelConfig, RopeScaling, Scoring, TopkMethod, yarn_mscale};
use loar_formats::{FormatError, Severity};
use serde_json::{Value, json};

fn v3() -> Value {
    json!({
        "model_type": "deepseek_v3", "hidden_size": 7168, "intermediate_size": 18432,
        "num_hidden_layers": 61, "num_attention_heads": 128, "num_key_value_heads": 128,
        "vocab_size": 129280, "rms_norm_eps": 1e-6, "max_position_embeddings": 163840,
        "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
        "v_head_dim": 128, "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8,
        "moe_intermediate_size": 2048, "first_k_dense_replace": 3, "moe_layer_freq": 1,
        "n_group": 8, "topk_group": 4, "scoring_func": "sigmoid", "topk_method": "noaux_tc",
        "norm_topk_prob": true, "routed_scaling_factor": 2.5, "num_nextn_predict_layers": 1,
        "rope_theta": 10000, "hidden_act": "silu", "bos_token_id": 0, "eos_token_id": 1,
        "rope_scaling": {"type": "yarn", "factor": 40, "beta_fast": 32, "beta_slow": 1,
            "mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 4096},
        "quantization_config": {"quant_method": "fp8", "fmt": "e4m3",
            "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
    })
}

fn llama() -> Value {
    json!({
        "model_type": "llama", "hidden_size": 2048, "intermediate_size": 5504,
        "num_hidden_layers": 24, "num_attention_heads": 16, "vocab_size": 32256,
        "max_position_embeddings": 16384, "rope_theta": 100000, "hidden_act": "silu",
        "rope_scaling": {"type": "linear", "factor": 4.0}, "bos_token_id": 32013,
        "eos_token_id": [32014, 32021], "pad_token_id": -1
    })
}

fn with(mut value: Value, changes: Value) -> Value {
    for (key, change) in changes.as_object().unwrap() {
        value[key] = change.clone();
    }
    value
}

fn faults(value: &Value) -> Vec<String> {
    match ModelConfig::from_json(value) {
        Err(FormatError::Config { faults, .. }) => faults.0,
        other => panic!("expected faults, got {other:?}"),
    }
}

#[test]
fn every_fixture_is_read() {
    for name in common::MODELS {
        let Some(dir) = common::fixture(name) else {
            return;
        };
        let (config, issues) = ModelConfig::read(&dir).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(name.starts_with(config.architecture.model_type()), "{name}");
        assert!(issues.is_empty(), "{name}: {issues:?}");
        assert_eq!(config.eos_token_ids, [1]);
        assert_eq!(config.initializer_range, 0.08);
        assert_eq!(config.mla.is_some(), name.starts_with("deepseek"), "{name}");
        assert_eq!(config.rope.interleaved, name.starts_with("deepseek"), "{name}");
        assert_eq!(config.attention_bias, name == "qwen2", "{name}");
        assert!(!config.o_bias);
        assert_eq!(config.qk_norm, name == "qwen3");
        assert_eq!(config.tie_word_embeddings, name == "qwen3");
        // writing and reading again changes nothing but the raw text
        let (again, _) = ModelConfig::from_json(&config.to_json()).unwrap();
        assert_eq!(ModelConfig { raw: Value::Null, ..again }, ModelConfig { raw: Value::Null, ..config });
    }
}

#[test]
fn fixture_scalings_are_those_of_the_files() {
    let Some(dir) = common::fixture("llama") else {
        return;
    };
    let (config, _) = ModelConfig::read(&dir).unwrap();
    let expected = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 32,
    };
    assert_eq!((config.rope.theta, config.rope.scaling), (5e5, expected));
    // research/deepseek.md §2.2: nope 16, rope 8 and factor 40 give these scales; the fixtures have 4
    for (name, scale) in [("deepseek_v2", 0.324481), ("deepseek_v3", 0.382499)] {
        let (mut config, _) = ModelConfig::read(&dir.with_file_name(name)).unwrap();
        let RopeScaling::Yarn { factor, .. } = &mut config.rope.scaling else { panic!("{name}") };
        assert_eq!(std::mem::replace(factor, 40.0), 4.0);
        assert!((config.softmax_scale() - scale).abs() < 1e-6, "{}", config.softmax_scale());
        assert!((config.rope.attention_factor() - 1.0).abs() < 1e-12);
    }
    let (config, _) = ModelConfig::read(&dir.with_file_name("deepseek_v2_lite")).unwrap();
    let moe = config.moe.unwrap();
    assert_eq!((moe.topk_method, moe.n_group, moe.scoring), (TopkMethod::Greedy, 1, Scoring::Softmax));
    assert_eq!(config.mla.unwrap().q_lora_rank, None);
}

#[test]
fn released_v3_and_its_transformers_5_spelling_are_the_same_model() {
    let (released, _) = ModelConfig::from_json(&v3()).unwrap();
    assert_eq!(released.architecture, Architecture::DeepseekV3);
    assert_eq!(released.quantization.as_ref().unwrap().stored(300, 128).scale_shape, [3, 1]);
    // research/deepseek.md §2.2
    assert!((released.softmax_scale() - 0.13523).abs() < 1e-5);
    assert!(released.is_moe_layer(3) && !released.is_moe_layer(2));
    let mut new = v3();
    let table = new.as_object_mut().unwrap();
    let mut rope = table.remove("rope_scaling").unwrap();
    table.remove("rope_theta");
    rope["rope_theta"] = json!(10000.0);
    let kind = rope.as_object_mut().unwrap().remove("type").unwrap();
    rope["rope_type"] = kind;
    new["rope_parameters"] = rope;
    new["head_dim"] = json!(64); // the rope width, as transformers writes it
    let (new, _) = ModelConfig::from_json(&new).unwrap();
    assert_eq!(ModelConfig { raw: Value::Null, ..new }, ModelConfig { raw: Value::Null, ..released });
}

#[test]
fn coder_v1_reads_with_negative_pad_and_two_end_tokens() {
    let (config, _) = ModelConfig::from_json(&llama()).unwrap();
    assert_eq!(config.rope.scaling, RopeScaling::Linear { factor: 4.0 });
    assert_eq!((config.head_dim, config.num_key_value_heads), (128, 16));
    assert_eq!(config.eos_token_ids, [32014, 32021]);
    assert_eq!(config.pad_token_id, None);
}

#[test]
fn attn_factor_of_the_qwen3_distil_multiplies_and_is_told() {
    let rope = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768,
        "attn_factor": 0.8782488562869419});
    let base = with(
        llama(),
        json!({"model_type": "qwen3", "head_dim": 128, "num_key_value_heads": 8,
            "max_position_embeddings": 131072, "rope_scaling": rope}),
    );
    let (config, issues) = ModelConfig::from_json(&base).unwrap();
    assert!((config.rope.attention_factor() - 1.0).abs() < 1e-12);
    assert!(issues.iter().any(|i| i.severity == Severity::Note && i.text.contains("`attn_factor`")));
    // an explicit attention_factor wins
    let mut both = base.clone();
    both["rope_scaling"]["attention_factor"] = json!(1.25);
    let (config, issues) = ModelConfig::from_json(&both).unwrap();
    assert_eq!(config.rope.attention_factor(), 1.25);
    assert!(issues.iter().any(|i| i.text.contains("not used")), "{issues:?}");
    // neither: the plain yarn factor
    let mut none = base;
    none["rope_scaling"].as_object_mut().unwrap().remove("attn_factor");
    let (config, issues) = ModelConfig::from_json(&none).unwrap();
    assert!((config.rope.attention_factor() - 1.1386294).abs() < 1e-6);
    assert!(issues.is_empty());
    assert_eq!(yarn_mscale(1.0, 1.0), 1.0);
}

#[test]
fn yarn_factor_is_derived_when_missing() {
    let mut value = v3();
    value["rope_scaling"].as_object_mut().unwrap().remove("factor");
    let (config, _) = ModelConfig::from_json(&value).unwrap();
    assert!(matches!(config.rope.scaling, RopeScaling::Yarn { factor, .. } if factor == 40.0));
}

#[test]
fn other_families_are_refused_in_one_sentence() {
    for name in ["deepseek_v32", "deepseek_v4", "deepseek_v41", "mamba", ""] {
        let error = ModelConfig::from_json(&with(llama(), json!({"model_type": name}))).unwrap_err();
        assert!(matches!(error, FormatError::Unsupported { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(name) && text.lines().count() == 1, "{text}");
    }
    let text = ModelConfig::from_json(&json!({})).unwrap_err().to_string();
    assert!(text.contains("`model_type` is missing"), "{text}");
}

#[test]
fn all_faults_are_listed_at_once() {
    let mut value = with(
        v3(),
        json!({"n_group": 7, "num_experts_per_tok": 300, "qk_rope_head_dim": 63, "hidden_act": "gelu",
            "vocab_size": "many", "routed_scaling_factor": -1, "eos_token_id": 1.5}),
    );
    value.as_object_mut().unwrap().remove("kv_lora_rank");
    value["rope_scaling"]["type"] = json!("longrope");
    let faults = faults(&value);
    for part in [
        "`n_group` 7 does not divide",
        "`num_experts_per_tok` 300 is more than",
        "`qk_rope_head_dim` is 63",
        "`hidden_act` is `gelu`",
        "`vocab_size` is `\"many\"`",
        "`routed_scaling_factor` is -1",
        "`eos_token_id` is `1.5`",
        "`kv_lora_rank` is missing",
        "rope type `longrope`",
    ] {
        assert!(faults.iter().any(|f| f.contains(part)), "no `{part}` in {faults:#?}");
    }
}

#[test]
fn variants_of_the_mathematics_are_refused() {
    for (change, part) in [
        (json!({"use_sliding_window": true}), "use_sliding_window"),
        (json!({"num_attention_heads": 15}), "not a multiple"),
        (json!({"num_key_value_heads": 3}), "does not divide"),
        (json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor"),
        (json!({"layer_types": ["full_attention", "sliding_attention"]}), "layer_types"),
        (json!({"quantization_config": {"quant_method": "bitsandbytes"}}), "bitsandbytes"),
        (json!({"eos_token_id": 40000}), "outside the vocabulary"),
        (json!({"num_hidden_layers": 100000}), "num_hidden_layers"),
        (json!({"hidden_size": 0}), "at least 1"),
        (json!({"rope_theta": 0}), "rope_theta"),
        (json!({"rope_scaling": {"factor": 2.0}}), "no `rope_type`"),
        (json!({"rope_scaling": {"type": "linear"}}), "`rope_scaling.factor` is missing"),
    ] {
        let found = faults(&with(llama(), change));
        assert!(found.iter().any(|f| f.contains(part)), "no `{part}` in {found:?}");
    }
    let off = with(llama(), json!({"use_sliding_window": false, "sliding_window": 4096}));
    assert!(ModelConfig::from_json(&off).is_ok());
    for (change, part) in [
        (json!({"topk_method": "greedy"}), "topk_method"),
        (json!({"scoring_func": "softmax"}), "scoring_func"),
        (json!({"topk_group": 9}), "`topk_group` 9"),
        (json!({"topk_group": 0}), "at least 1"),
        (json!({"n_group": 256}), "sums the best two"),
        (json!({"n_routed_experts": 4096}), "experts in all"),
        (json!({"qk_head_dim": 100}), "qk_head_dim"),
        (json!({"mlp_bias": true}), "mlp_bias"),
    ] {
        let found = faults(&with(v3(), change));
        assert!(found.iter().any(|f| f.contains(part)), "no `{part}` in {found:?}");
    }
}

#[test]
fn moe_16b_has_plain_attention_and_half_split_rope() {
    let value = with(
        llama(),
        json!({"model_type": "deepseek", "n_routed_experts": 64, "n_shared_experts": 2,
            "num_experts_per_tok": 6, "moe_intermediate_size": 1408, "first_k_dense_replace": 1,
            "norm_topk_prob": false, "scoring_func": "softmax", "rope_scaling": null}),
    );
    let (config, _) = ModelConfig::from_json(&value).unwrap();
    assert!(config.mla.is_none() && !config.rope.interleaved && !config.attention_bias);
    assert_eq!(config.rope.scaling, RopeScaling::Default);
    let moe = config.moe.as_ref().unwrap();
    assert_eq!((moe.scoring, moe.topk_method), (Scoring::Softmax, TopkMethod::Greedy));
    assert!(!config.is_moe_layer(0) && config.is_moe_layer(1));
}

#[test]
fn end_tokens_of_generation_config_are_added() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), llama().to_string()).unwrap();
    std::fs::write(
        dir.path().join("generation_config.json"),
        r#"{"eos_token_id": [32021, 7], "temperature": 0.6, "top_p": 0.95, "do_sample": true, "pad_token_id": 3}"#,
    )
    .unwrap();
    let (config, issues) = ModelConfig::read(dir.path()).unwrap();
    assert_eq!(config.eos_token_ids, [32014, 32021, 7]);
    assert_eq!(config.pad_token_id, Some(3));
    assert!(issues.iter().any(|i| i.text.contains("adds end token 7")));
    let generation = loar_formats::generation::GenerationConfig::read(dir.path()).unwrap().unwrap();
    assert_eq!((generation.temperature, generation.top_p), (Some(0.6), Some(0.95)));
    assert_eq!(generation.do_sample, Some(true));
    std::fs::write(dir.path().join("generation_config.json"), r#"{"top_p": 2}"#).unwrap();
    assert!(ModelConfig::read(dir.path()).unwrap_err().to_string().contains("top_p"));
}

#[test]
fn syntax_faults_have_a_place() {
    let text = ModelConfig::from_bytes(b"{\n \"model_type\": }", Path::new("x.json")).unwrap_err().to_string();
    assert!(text.contains("`x.json` line 2"), "{text}");
    let deep = "[".repeat(100_000);
    assert!(ModelConfig::from_bytes(deep.as_bytes(), Path::new("x.json")).is_err());
}

#[test]
fn exported_config_drops_quantisation_and_names_its_dtype() {
    let (mut config, _) = ModelConfig::from_json(&v3()).unwrap();
    config.quantization = None;
    config.set_dtype("bfloat16");
    let value = config.to_json();
    assert!(value.get("quantization_config").is_none());
    assert_eq!(value["torch_dtype"], "bfloat16");
    assert_eq!(value["rope_parameters"]["rope_type"], "yarn");
    assert_eq!(value["rope_scaling"]["type"], "yarn");
    assert_eq!(value["rope_theta"], 10000.0);
}
