//! PEFT adapters: every fixture parses, the rules are PEFT's, and unsupported parts are refused by name.

mod common;

use std::path::Path;

use loar_formats::peft::{AdapterConfig, AdapterKey, Side, Targets, format_key, parse_key, parse_keys, read, write};
use loar_formats::safetensors::TensorOut;
use loar_formats::{FormatError, config::ModelConfig, names::expected_tensors};
use serde_json::{Value, json};

use common::outs;

fn config(changes: Value) -> Result<AdapterConfig, FormatError> {
    let mut value = json!({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]});
    value.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    AdapterConfig::from_bytes(value.to_string().as_bytes(), Path::new("adapter_config.json"))
}

fn faults(changes: Value) -> Vec<String> {
    match config(changes) {
        Err(FormatError::Adapter { faults, .. }) => faults.0,
        other => panic!("expected faults, got {other:?}"),
    }
}

#[test]
fn every_fixture_is_read_and_written_back_the_same() {
    for dir in common::adapters() {
        let (config, tensors) = read(&dir).unwrap_or_else(|e| panic!("{e}"));
        let keys = parse_keys(&config, tensors.names()).unwrap();
        assert_eq!(keys.len(), tensors.len());
        let matcher = config.matcher().unwrap();
        for (name, key) in &keys {
            assert_eq!(format_key(&matcher, key), *name, "{}", dir.display());
        }
        let copy = tempfile::tempdir().unwrap();
        write(copy.path(), &config, &outs(&tensors)).unwrap();
        let bytes = |dir: &Path, name: &str| std::fs::read(dir.join(name)).unwrap();
        let weights = "adapter_model.safetensors";
        assert!(bytes(&dir, weights) == bytes(copy.path(), weights), "{}", dir.display());
        let text = |dir: &Path| String::from_utf8(bytes(dir, "adapter_config.json")).unwrap();
        assert_eq!(text(&dir).trim_end(), text(copy.path()).trim_end(), "{}", dir.display());
    }
}

/// The modules with factors are exactly those the rules choose among the linear layers.
#[test]
fn the_rules_choose_the_modules_that_peft_chose() {
    let Some(base) = common::fixture("llama") else {
        return;
    };
    let (model, _) = ModelConfig::read(&base).unwrap();
    let linear: Vec<String> = expected_tensors(&model)
        .into_iter()
        .filter(|(name, shape, _)| shape.len() == 2 && name != "lm_head.weight")
        .filter_map(|(name, _, _)| name.strip_suffix(".weight").map(str::to_owned))
        .collect();
    for variant in common::VARIANTS {
        let (config, tensors) = read(&base.with_file_name("peft_variants").join(variant)).unwrap();
        let matcher = config.matcher().unwrap();
        let mut chosen: Vec<String> = linear.iter().filter(|m| matcher.matches_target(m)).cloned().collect();
        let mut stored: Vec<String> = parse_keys(&config, tensors.names())
            .unwrap()
            .into_iter()
            .filter_map(|(_, key)| match key {
                AdapterKey::LoraA { module } | AdapterKey::EmbeddingA { module } => Some(module),
                _ => None,
            })
            .collect();
        chosen.sort();
        stored.sort();
        assert_eq!(chosen, stored, "{variant}");
        assert!(!chosen.is_empty());
    }
}

#[test]
fn patterns_give_rank_alpha_and_scale() {
    let Some(dir) = common::fixture("peft_variants/rank_alpha_pattern") else {
        return;
    };
    let config = AdapterConfig::read(&dir).unwrap();
    let matcher = config.matcher().unwrap();
    let q = "model.layers.0.self_attn.q_proj";
    assert_eq!(matcher.rank_alpha_for(q), (8, 8.0));
    assert_eq!(matcher.scaling_for(q), 1.0);
    assert_eq!(matcher.rank_alpha_for("model.layers.1.mlp.down_proj"), (2, 8.0));
    assert_eq!(matcher.rank_alpha_for("model.layers.0.mlp.down_proj"), (4, 8.0));
    assert_eq!(matcher.rank_alpha_for("model.layers.0.self_attn.o_proj"), (4, 3.0));
    assert_eq!(matcher.scaling_for("model.layers.1.self_attn.v_proj"), 8.0);
    // a name is whole: `xq_proj` is not `q_proj`
    assert_eq!(matcher.rank_alpha_for("model.layers.0.self_attn.xq_proj"), (4, 8.0));
    let rslora = AdapterConfig::read(&dir.with_file_name("rslora")).unwrap();
    assert_eq!(rslora.matcher().unwrap().scaling_for(q), 4.0);
    assert_eq!(rslora.scaling(16, 8.0), 2.0);
}

#[test]
fn the_first_pattern_that_fits_counts() {
    let config = config(json!({"rank_pattern": {"layers\\.1\\..*": 2, "q_proj": 16}})).unwrap();
    let matcher = config.matcher().unwrap();
    assert_eq!(matcher.rank_alpha_for("model.layers.1.self_attn.q_proj").0, 2);
    assert_eq!(matcher.rank_alpha_for("model.layers.0.self_attn.q_proj").0, 16);
    // and stays first when written
    let keys: Vec<String> = config.to_json()["rank_pattern"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["layers\\.1\\..*", "q_proj"]);
}

/// Entries that are names take a shorter way than regular expressions; both must agree.
#[test]
fn names_and_expressions_match_alike() {
    let paths = [
        "model.layers.1.mlp.down_proj",
        "model.layers.11.mlp.down_proj",
        "model.layers.1.mlp.xdown_proj",
        "down_proj",
        "xdown_proj",
        "mlp_down_proj",
        "layers.1.mlp.down_proj",
        "",
    ];
    for name in ["down_proj", "mlp.down_proj", "layers.1.mlp.down_proj", "1.mlp.down_proj", ".down_proj", ""] {
        let matcher = |pattern: String| config(json!({"rank_pattern": {pattern: 2}})).unwrap().matcher().unwrap();
        let (plain, expression) = (matcher(name.to_owned()), matcher(format!("(?:{name})")));
        for path in paths {
            assert_eq!(plain.rank_alpha_for(path), expression.rank_alpha_for(path), "{name} {path}");
        }
    }
    assert_eq!(
        config(json!({"rank_pattern": {"mlp.down_proj": 2}}))
            .unwrap()
            .matcher()
            .unwrap()
            .rank_alpha_for("mlp_down_proj")
            .0,
        2,
        "a dot is any character, as in PEFT"
    );
}

#[test]
fn a_rank_for_every_expert_is_cheap_and_endless_expressions_are_refused() {
    let many = |n: usize, tail: &str| -> Value {
        let entry = |i: usize| (format!("layers.{}.mlp.experts.{}.up_proj{tail}", i / 256, i % 256), json!(i % 64 + 1));
        json!({"rank_pattern": (0..n).map(entry).collect::<serde_json::Map<_, _>>()})
    };
    let matcher = config(many(15_000, "")).unwrap().matcher().unwrap();
    assert_eq!(matcher.rank_alpha_for("model.layers.58.mlp.experts.100.up_proj").0, (58 * 256 + 100) % 64 + 1);
    assert!(faults(many(3_000, "$"))[0].contains("3000 of them regular expressions"));
}

#[test]
fn names_patterns_exclusions_and_layers_follow_peft() {
    let check = |changes: Value, path: &str| config(changes).unwrap().matcher().unwrap().matches_target(path);
    let q = "model.layers.1.self_attn.q_proj";
    assert!(check(json!({}), q));
    assert!(check(json!({"target_modules": ["self_attn.q_proj"]}), q));
    assert!(check(json!({"target_modules": [q]}), q));
    assert!(!check(json!({"target_modules": ["proj"]}), q), "an end of a name is not a name");
    // a pattern must fit the whole path
    assert!(check(json!({"target_modules": r".*\.q_proj"}), q));
    assert!(!check(json!({"target_modules": "q_proj"}), q));
    assert!(!check(json!({"target_modules": r".*\.q"}), q));
    assert!(check(json!({"target_modules": r"x|.*q_proj"}), q), "alternatives stay inside");
    // exclusion wins
    assert!(!check(json!({"exclude_modules": ["q_proj"]}), q));
    assert!(!check(json!({"exclude_modules": r".*layers\.1\..*"}), q));
    assert!(!check(json!({"modules_to_save": ["self_attn"]}), q), "inside a saved module");
    // layers
    assert!(check(json!({"layers_to_transform": [1]}), q));
    assert!(check(json!({"layers_to_transform": 1}), q));
    assert!(!check(json!({"layers_to_transform": [0]}), q));
    assert!(check(json!({"layers_to_transform": [1], "layers_pattern": "layers"}), q));
    assert!(!check(json!({"layers_to_transform": [1], "layers_pattern": "blocks"}), q));
    assert!(check(json!({"layers_to_transform": []}), q), "an empty list restricts nothing");
    // all-linear leaves head and router out
    let all = json!({"target_modules": "all-linear"});
    assert!(check(all.clone(), q));
    assert!(check(all.clone(), "model.layers.0.self_attn.kv_a_proj_with_mqa"));
    for path in ["lm_head", "model.embed_tokens", "model.layers.3.mlp.gate", "model.norm"] {
        assert!(!check(all.clone(), path), "{path}");
    }
}

#[test]
fn saved_modules_are_compared_by_their_ends() {
    let config = config(json!({"modules_to_save": ["norm", "lm_head"]})).unwrap();
    let matcher = config.matcher().unwrap();
    assert!(matcher.is_saved("model.norm") && matcher.is_saved("lm_head"));
    assert!(matcher.is_saved("model.layers.0.input_layernorm"));
    assert!(!matcher.is_saved("model.layers.0.mlp.up_proj"));
}

#[test]
fn fused_experts_are_told_apart_by_what_is_targeted() {
    let key = |parameters: Value, name: &str| {
        let config = config(json!({"target_parameters": parameters})).unwrap();
        parse_key(&config.matcher().unwrap(), &format!("base_model.model.model.layers.1.mlp.{name}"))
    };
    let both = json!(["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]);
    let is = |key: Result<AdapterKey, String>, parameter: &str, side: Side| {
        let expected = "model.layers.1.mlp.experts";
        matches!(key.unwrap(), AdapterKey::FusedExperts { module, parameter: p, side: s }
            if module == expected && p == parameter && s == side)
    };
    assert!(is(key(both.clone(), "experts.lora_A.weight"), "down_proj", Side::A));
    assert!(is(key(both.clone(), "experts.base_layer.lora_B.weight"), "gate_up_proj", Side::B));
    let up = json!(["gate_up_proj"]);
    assert!(is(key(up.clone(), "experts.lora_A.weight"), "gate_up_proj", Side::A));
    assert!(key(up, "experts.base_layer.lora_A.weight").is_err());
    assert!(key(json!(null), "experts.lora_A.weight").is_err());
    assert!(key(both, "experts.base_layer.base_layer.lora_A.weight").is_err());
    // routed experts one by one are plain modules
    let plain = key(json!(null), "experts.7.up_proj.lora_A.weight").unwrap();
    assert_eq!(plain.module(), "model.layers.1.mlp.experts.7.up_proj");
}

#[test]
fn everything_unsupported_is_named_at_once() {
    let found = faults(json!({
        "bias": "all", "fan_in_fan_out": true, "lora_bias": true, "use_qalora": true,
        "trainable_token_indices": [1], "layer_replication": [[0, 1]], "init_lora_weights": "pissa_niter_4",
        "loftq_config": {"loftq_bits": 4}, "megatron_config": {"a": 1}, "corda_config": {"a": 1},
        "something_new": 3, "kasa_config": {"x": 1}, "alora_invocation_tokens": [5]
    }));
    for part in [
        "`bias` is `\"all\"`",
        "`fan_in_fan_out`",
        "`lora_bias`",
        "`use_qalora`",
        "`trainable_token_indices`",
        "`layer_replication`",
        "`init_lora_weights` is `pissa_niter_4`",
        "`loftq_config`",
        "`megatron_config`",
        "`corda_config`",
        "`something_new`",
        "`kasa_config`",
        "`alora_invocation_tokens`",
    ] {
        assert!(found.iter().any(|f| f.contains(part)), "no `{part}` in {found:#?}");
    }
    assert_eq!(found.len(), 13);
    for (change, part) in [
        (json!({"r": 0}), "at least 1"),
        (json!({"r": 100000}), "at most 65536"),
        (json!({"lora_alpha": -1}), "above 0"),
        (json!({"lora_dropout": 1.0}), "lora_dropout"),
        (json!({"peft_type": "IA3"}), "`IA3`"),
        (json!({"target_modules": null}), "names anything"),
        (json!({"target_modules": [1]}), "non-empty strings"),
        (json!({"rank_pattern": {"x": "y"}}), "`rank_pattern.x`"),
        (json!({"target_parameters": ["a"], "use_dora": true}), "cannot go with"),
        (json!({"layers_pattern": "layers"}), "without `layers_to_transform`"),
        (json!({"layers_to_transform": [1], "target_modules": ".*"}), "as a list"),
        (json!({"layers_to_transform": ["a"]}), "layer index"),
    ] {
        let found = faults(change);
        assert!(found.iter().any(|f| f.contains(part)), "no `{part}` in {found:?}");
    }
    for harmless in [
        json!({"init_lora_weights": "gaussian"}),
        json!({"init_lora_weights": "eva", "eva_config": {"rho": 2.0}}),
        json!({"init_lora_weights": false, "something_new": null, "other_new": false}),
        json!({"auto_mapping": {"base_model_class": "X"}, "bias": null}),
    ] {
        config(harmless).unwrap();
    }
}

#[test]
fn python_only_patterns_are_refused_with_the_way_out() {
    for (key, pattern) in [
        ("target_modules", r"^(?!.*vision).*q_proj$"),
        ("exclude_modules", r"(a)\1"),
        ("target_modules", "a)(b"),
        ("target_modules", "(((a{1000}){1000}){1000})"),
    ] {
        let found = faults(json!({key: pattern}));
        assert!(found[0].contains(key) && found[0].contains("look-around"), "{found:?}");
    }
    let found = faults(json!({"rank_pattern": {"(?<=x)y": 2}, "alpha_pattern": {"(": 1}}));
    assert_eq!(found.len(), 2, "{found:?}");
}

fn damaged(variant: &str, damage: impl Fn(&mut AdapterConfig, &mut Vec<TensorOut<'static>>)) -> Option<Vec<String>> {
    let dir = common::fixture(&format!("peft_variants/{variant}"))?;
    let (mut config, tensors) = read(&dir).unwrap();
    let mut tensors = outs(&tensors);
    damage(&mut config, &mut tensors);
    let copy = tempfile::tempdir().unwrap();
    match write(copy.path(), &config, &tensors) {
        Err(FormatError::Adapter { faults, .. }) => {
            assert_eq!(std::fs::read_dir(copy.path()).unwrap().count(), 0);
            Some(faults.0)
        }
        other => panic!("expected faults, got {other:?}"),
    }
}

#[test]
fn incomplete_or_disagreeing_adapters_are_refused() {
    let layer = "base_model.model.model.layers.0";
    let Some(found) = damaged("rslora", |_, tensors| {
        tensors.retain(|t| t.name != format!("{layer}.self_attn.q_proj.lora_B.weight"));
        tensors.push(TensorOut::f32(format!("{layer}.x.lora_C.weight"), vec![1], &[0.0]));
        tensors.push(TensorOut::f32("model.norm.weight", vec![1], &[0.0]));
        tensors.push(TensorOut::f32("base_model.model.model.norm.weight", vec![1], &[0.0]));
        tensors.push(TensorOut::f32(format!("{layer}.mlp.up_proj.lora_B.bias"), vec![1], &[0.0]));
        tensors.push(TensorOut::f32(format!("{layer}.mlp.up_proj.lora_magnitude_vector"), vec![64], &[0.0; 64]));
    }) else {
        return;
    };
    for part in [
        "q_proj`: factor B is missing",
        "lora_C.weight`: its name is not one that PEFT saves",
        "`model.norm.weight`: its name does not start with",
        "`base_model.model.model.norm.weight`: a whole tensor whose module `modules_to_save`",
        "`lora_bias`, which is not supported",
        "has a magnitude, but `use_dora` is false",
    ] {
        assert!(found.iter().any(|f| f.contains(part)), "no `{part}` in {found:#?}");
    }
    let found = damaged("dora", |config, tensors| {
        config.target_modules = Targets::Names(vec!["q_proj".into()]);
        tensors.retain(|t| !t.name.contains("0.self_attn.q_proj.lora_magnitude"));
    })
    .unwrap();
    assert!(found.iter().any(|f| f.contains("its magnitude is missing")), "{found:#?}");
    assert!(found.iter().filter(|f| f.contains("does not target it")).count() == 12, "{found:#?}");
    let found = damaged("rank_alpha_pattern", |config, _| config.rank_pattern.clear()).unwrap();
    assert_eq!(found.iter().filter(|f| f.contains("expected rank 4")).count(), 3, "{found:#?}");
}

#[test]
fn a_missing_or_pickled_weight_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let text = json!({"peft_type": "LORA", "target_modules": ["q_proj"]}).to_string();
    std::fs::write(dir.path().join("adapter_config.json"), text).unwrap();
    let found = read(dir.path()).unwrap_err().to_string();
    assert!(found.contains("`adapter_model.safetensors` is missing"), "{found}");
    std::fs::write(dir.path().join("adapter_model.bin"), b"").unwrap();
    let found = read(dir.path()).unwrap_err().to_string();
    assert!(found.contains("pickle"), "{found}");
}

#[test]
fn fixtures_with_fused_experts_have_both_levels() {
    for name in ["deepseek_v3_all", "deepseek_v3_experts"] {
        let Some(dir) = common::fixture(&format!("{name}/adapter")) else {
            return;
        };
        let (config, tensors) = read(&dir).unwrap();
        let keys = parse_keys(&config, tensors.names()).unwrap();
        let count = |wanted: &str| {
            let is =
                |key: &AdapterKey| matches!(key, AdapterKey::FusedExperts { parameter, .. } if *parameter == wanted);
            keys.iter().filter(|(_, key)| is(key)).count()
        };
        assert_eq!((count("gate_up_proj"), count("down_proj")), (4, 4), "{name}");
        let matcher = config.matcher().unwrap();
        let rank = if name == "deepseek_v3_all" { 8 } else { 4 };
        let path = "model.layers.1.mlp.experts.gate_up_proj";
        assert_eq!(matcher.rank_alpha_for(path), (rank, 2.0 * rank as f64));
    }
}
