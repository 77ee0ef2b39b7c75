//! What a spec selects, and every way it can be wrong: named, all at once, leaving the model as it was.
use super::*;
use crate::common::{Docs, KINDS, Tiny};
use std::collections::{BTreeMap, BTreeSet};

/// Adapted modules with their rank and scale.
fn adapted_modules(model: &Model) -> BTreeMap<String, (usize, f32)> {
    model.linears().iter().filter_map(|l| l.lora.as_ref().map(|a| (l.name.clone(), (a.rank, a.scaling)))).collect()
}

fn attach(kind: &str, spec: &AdapterSpec) -> Model {
    let mut model = Tiny::new(kind, 2).load();
    model.attach(spec, 1).unwrap_or_else(|e| panic!("{kind}: {e}"));
    model
}

fn leaves(model: &Model) -> BTreeSet<String> {
    adapted_modules(model).keys().map(|p| p.rsplit('.').next().expect("a name").to_owned()).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|n| (*n).to_owned()).collect()
}

fn preset(p: Preset) -> AdapterSpec {
    AdapterSpec::new(4, 8.0, Targets::Preset(p))
}

fn modules(names: &[&str]) -> AdapterSpec {
    AdapterSpec::new(4, 8.0, Targets::Modules(names.iter().map(|n| (*n).to_owned()).collect()))
}

#[test]
fn presets_reach_what_they_say() {
    assert_eq!(leaves(&attach("llama", &preset(Preset::Attention))), set(&["q_proj", "k_proj", "v_proj", "o_proj"]));
    assert_eq!(
        leaves(&attach("deepseek_v3", &preset(Preset::Attention))),
        set(&["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "o_proj"])
    );
    assert_eq!(
        leaves(&attach("deepseek_v2_lite", &preset(Preset::Attention))),
        set(&["q_proj", "kv_a_proj_with_mqa", "o_proj"])
    );
    for kind in KINDS {
        // All linears of the body: everything but the head, the embedding, norms and the router.
        let model = attach(kind, &preset(Preset::AllLinear));
        let all: BTreeSet<String> = model.linears().iter().map(|l| l.name.clone()).filter(|n| n != "lm_head").collect();
        assert_eq!(adapted_modules(&model).into_keys().collect::<BTreeSet<_>>(), all, "{kind}");
        assert!(
            all.iter().all(|n| !n.contains("norm") && !n.ends_with(".gate")),
            "{kind}: the router and norms stay frozen"
        );
        let mlp = adapted_modules(&attach(kind, &preset(Preset::Mlp)));
        assert!(mlp.keys().all(|n| n.contains(".mlp.") && !n.contains(".experts.")), "{kind}");
    }
    let experts = adapted_modules(&attach("deepseek_v2", &preset(Preset::Experts)));
    // Two mixtures of eight experts of three matrices.
    assert_eq!(experts.len(), 2 * 8 * 3);
    assert!(experts.keys().all(|n| n.contains(".mlp.experts.")));
}

#[test]
fn names_match_whole_last_parts_and_regexes_whole_paths() {
    // `gate_proj` is in dense, shared and routed MLPs; `experts.0.gate_proj` in one expert a layer.
    assert_eq!(adapted_modules(&attach("deepseek_v3", &modules(&["experts.0.gate_proj"]))).len(), 2);
    assert_eq!(adapted_modules(&attach("deepseek_v3", &modules(&["model.layers.2.self_attn.o_proj"]))).len(), 1);
    // `proj` is no whole part of any path.
    let mut model = Tiny::new("llama", 2).load();
    assert!(model.attach(&modules(&["proj"]), 1).is_err());
    let regex = AdapterSpec::new(4, 8.0, Targets::Regex(r".*\.layers\.[01]\.self_attn\.(q|v)_proj".into()));
    assert_eq!(adapted_modules(&attach("llama", &regex)).len(), 4);
    let partial = AdapterSpec::new(4, 8.0, Targets::Regex(r"layers\.0\.self_attn\.q_proj".into()));
    assert!(Tiny::new("llama", 2).load().attach(&partial, 1).is_err(), "a regex must match the whole path");
}

#[test]
fn layers_exclude_and_patterns() {
    let spec = AdapterSpec {
        layers: Some(vec![1]),
        exclude: vec!["v_proj".into(), "model.layers.1.self_attn.k_proj".into()],
        rank_pattern: BTreeMap::from([("q_proj".into(), 2)]),
        alpha_pattern: BTreeMap::from([("self_attn.o_proj".into(), 2.0)]),
        ..preset(Preset::Attention)
    };
    let got = adapted_modules(&attach("llama", &spec));
    let p = |n: &str| format!("model.layers.1.self_attn.{n}");
    assert_eq!(got, BTreeMap::from([(p("q_proj"), (2, 4.0)), (p("o_proj"), (4, 0.5))]));
    // A pattern's key matches whole parts: `proj` alone matches nothing, `.*_proj` everything.
    let spec = AdapterSpec { rank_pattern: BTreeMap::from([("proj".into(), 2)]), ..preset(Preset::Attention) };
    assert!(adapted_modules(&attach("llama", &spec)).values().all(|v| v.0 == 4));
    let spec = AdapterSpec { rank_pattern: BTreeMap::from([(".*_proj".into(), 2)]), ..preset(Preset::Attention) };
    assert!(adapted_modules(&attach("llama", &spec)).values().all(|v| v.0 == 2));
}

#[test]
fn starting_values_are_those_of_peft() {
    let model = attach("deepseek_v3", &AdapterSpec { use_dora: true, ..preset(Preset::AllLinear) });
    for l in model.linears().iter().filter(|l| l.lora.is_some()) {
        let lora = l.lora.as_ref().expect("filtered");
        let (a, b) = (&model.params.get(lora.a).value, &model.params.get(lora.b).value);
        assert!(b.data.iter().all(|x| *x == 0.0));
        let bound = 1.0 / (l.in_features as f32).sqrt();
        let largest = a.data.iter().fold(0f32, |m, x| m.max(x.abs()));
        assert!(largest <= bound && largest > 0.8 * bound, "`{}`: A reaches {largest} of {bound}", l.name);
        let mean = a.data.iter().sum::<f32>() / a.data.len() as f32;
        // Standard error of a uniform's mean: bound / √(3n).
        assert!(mean.abs() < 5.0 * bound / (3.0 * a.data.len() as f32).sqrt(), "`{}`: mean {mean}", l.name);
        let m = &model.params.get(lora.dora.as_ref().expect("DoRA").magnitude).value;
        let w = l.weight.to_f32(&model.params);
        for (m, row) in m.data.iter().zip(w.chunks_exact(l.in_features)) {
            let norm = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
            assert!((f64::from(*m) - norm).abs() < 1e-6 * norm.max(1.0));
        }
    }
    // The same seed gives the same start, another one another.
    let values = |seed| {
        let mut model = Tiny::new("llama", 2).load();
        model.attach(&preset(Preset::Attention), seed).expect("fits");
        model.params.iter().flat_map(|(_, p)| p.value.data.to_vec()).collect::<Vec<_>>()
    };
    assert!(values(1) == values(1) && values(1) != values(2));
}

/// The faults of a spec; the model must be as it was.
fn faults(kind: &str, spec: &AdapterSpec) -> String {
    let tiny = Tiny::new(kind, 2);
    let mut model = tiny.load();
    let error = model.attach(spec, 1).expect_err("a fault").to_string();
    assert!(model.params.is_empty() && adapted_modules(&model).is_empty(), "a refused spec leaves no trace");
    let batch = Docs::new(&[9], 3).batch();
    assert!(model.logits(&batch).data == tiny.load().logits(&batch).data);
    assert!(model.attach(&preset(Preset::AllLinear), 1).is_ok(), "and a good one can follow");
    error
}

#[test]
fn all_faults_of_a_spec_come_at_once() {
    let spec = AdapterSpec {
        rank: 0,
        dropout: 1.0,
        layers: Some(vec![0, 7]),
        rank_pattern: BTreeMap::from([("q_proj(".into(), 2)]),
        modules_to_save: vec!["nothing_such".into()],
        ..modules(&["q_proj", "w_q", "kv_b_proj"])
    };
    let e = faults("llama", &spec);
    for part in ["rank 0", "dropout 1", "layer 7", "q_proj(", "nothing_such", "`w_q`", "`kv_b_proj`", "`k_proj`"] {
        assert!(e.contains(part), "`{part}` is missing in: {e}");
    }
}

#[test]
fn names_that_do_not_exist_on_this_architecture_are_errors() {
    // The list that fits MHA and is silent elsewhere (finetune.md §5c): k_proj and v_proj do not exist with MLA.
    let names = modules(&["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]);
    let e = faults("deepseek_v2_lite", &names);
    assert!(e.contains("`k_proj`") && e.contains("`v_proj`") && e.contains("`kv_a_proj_with_mqa`"), "{e}");
    assert!(!e.contains("target `o_proj`"), "{e}");
    assert!(faults("llama", &preset(Preset::Experts)).contains("match no module"));
    assert!(faults("llama", &AdapterSpec::new(4, 8.0, Targets::Regex("q_proj".into()))).contains("match no module"));
    assert!(faults("llama", &AdapterSpec::new(4, 8.0, Targets::Regex("(".into()))).contains('('));
}

#[test]
fn a_named_target_left_without_modules_is_an_error() {
    // shared_experts exist in layers 1 and 2 only; layer 0 is dense.
    let spec = AdapterSpec { layers: Some(vec![0]), ..modules(&["o_proj", "shared_experts.gate_proj"]) };
    assert!(faults("deepseek_v3", &spec).contains("`shared_experts.gate_proj`"));
    let spec = AdapterSpec { exclude: vec!["o_proj".into()], ..modules(&["q_proj", "o_proj"]) };
    assert!(faults("llama", &spec).contains("`o_proj`"));
}

#[test]
fn blocks_that_do_not_cut_are_errors() {
    for (blocks, preset_) in [(0, Preset::Mlp), (41, Preset::Mlp), (2, Preset::Attention)] {
        let e = faults("llama", &AdapterSpec { ffn_blocks: Some(blocks), ..preset(preset_) });
        assert!(e.contains("ffn_blocks"), "{e}");
    }
    // 13 blocks do not cut experts of width 12.
    assert!(faults("deepseek_v3", &AdapterSpec { ffn_blocks: Some(13), ..preset(Preset::AllLinear) }).contains("12"));
    assert!(
        faults("llama", &AdapterSpec { ffn_blocks: Some(2), use_dora: true, ..preset(Preset::Mlp) }).contains("DoRA")
    );
}

#[test]
fn a_second_adapter_is_refused() {
    let mut model = attach("llama", &preset(Preset::Mlp));
    assert!(model.attach(&preset(Preset::Mlp), 1).is_err());
    assert!(model.train_full().is_err());
}

#[test]
fn parameter_counts_are_r_times_in_plus_out() {
    for kind in KINDS {
        for (p, dora) in [(Preset::AllLinear, false), (Preset::Attention, true)] {
            let model = attach(kind, &AdapterSpec { use_dora: dora, ..preset(p) });
            let expected: usize = model
                .linears()
                .iter()
                .filter(|l| l.lora.is_some())
                .map(|l| 4 * (l.in_features + l.out_features) + if dora { l.out_features } else { 0 })
                .sum();
            assert_eq!(model.trainable_count(), expected, "{kind}");
            let coverage = model.coverage();
            assert_eq!(coverage.trainable(), expected, "{kind}");
            assert_eq!(coverage.parameters(), model.count(), "{kind}");
        }
    }
}

#[test]
fn coverage_shows_what_is_reached_and_what_learns() {
    let mut model = attach("deepseek_v3", &modules(&["o_proj", "kv_b_proj", "shared_experts.up_proj"]));
    let row = |c: &loar_model::Coverage, name: &str| {
        c.rows.iter().find(|r| r.component == name).cloned().unwrap_or_else(|| panic!("no row `{name}`"))
    };
    let before = model.coverage();
    assert_eq!(row(&before, "mla q").modules_adapted, 0);
    assert_eq!((row(&before, "mla kv").modules_adapted, row(&before, "mla kv").modules), (3, 6));
    assert_eq!(
        (row(&before, "attention o").adapted, row(&before, "attention o").parameters),
        (3 * 32 * 36, 3 * 32 * 36)
    );
    assert_eq!((row(&before, "shared").modules_adapted, row(&before, "shared").modules), (2, 6));
    assert_eq!(row(&before, "routed").trainable, 0);
    assert_eq!(row(&before, "attention o").tensors_with_gradient, None);
    let text = before.to_string();
    assert!(text.contains("frozen") && text.contains("3/6"), "{text}");
    // With B = 0 only B learns in the first step; afterwards both do.
    let batch = Docs::new(&[30], 3).batch();
    for (moved, factor) in [(false, 1), (true, 2)] {
        if moved {
            stir(&mut model);
        }
        let mut grads = Grads::new(&model.params);
        model.loss_and_grads(&batch, &mut grads, 1.0, &Default::default());
        let mut c = model.coverage();
        c.mark_gradients(&grads);
        assert_eq!((row(&c, "mla kv").tensors_with_gradient, row(&c, "mla kv").tensors), (Some(3 * factor), 6));
        assert_eq!(row(&c, "attention o").tensors_with_gradient, Some(3 * factor));
        assert_eq!(row(&c, "routed").tensors_with_gradient, Some(0));
    }
}
