//! Adapter = base at the start, adapter = merged, saved = loaded in both layouts of experts.
use super::*;
use crate::common::{Docs, KINDS, Tiny, gap, logits_agree};
use loar_model::{ExpertsLayout, StoredDtype};

fn all_linear() -> AdapterSpec {
    AdapterSpec::new(3, 6.0, Targets::Preset(Preset::AllLinear))
}

#[test]
fn a_fresh_adapter_is_the_base_bit_for_bit() {
    for kind in KINDS {
        let tiny = Tiny::new(kind, 2);
        let batch = Docs::new(&[13, 20], 3).batch();
        let base = tiny.load().logits(&batch);
        for spec in [
            all_linear(),
            AdapterSpec { use_rslora: true, dropout: 0.1, ..all_linear() },
            AdapterSpec { use_dora: true, ..all_linear() },
        ] {
            let mut model = tiny.load();
            model.attach(&spec, 1).expect("the spec fits");
            assert!(model.logits(&batch).data == base.data, "{kind}, {spec:?}");
        }
        let targets = Targets::Modules(vec!["embed_tokens".into(), "lm_head".into()]);
        let mut model = tiny.load();
        model.attach(&AdapterSpec::new(2, 4.0, targets), 1).expect("the spec fits");
        assert!(model.logits(&batch).data == base.data, "{kind}: embedding and head");
    }
}

#[test]
fn an_adapter_equals_its_merged_weights() {
    for kind in KINDS {
        let tiny = Tiny::new(kind, 2);
        let batch = Docs::new(&[13, 20], 3).batch();
        let base = tiny.load().logits(&batch);
        let specs = [
            ("lora", all_linear()),
            ("dora", AdapterSpec { use_dora: true, ..all_linear() }),
            (
                "blocks",
                AdapterSpec { ffn_blocks: Some(4), ..AdapterSpec::new(2, 4.0, Targets::Preset(Preset::AllLinear)) },
            ),
            (
                "embedding and norms",
                AdapterSpec {
                    modules_to_save: vec!["norm".into()],
                    ..AdapterSpec::new(2, 4.0, Targets::Modules(vec!["embed_tokens".into(), "o_proj".into()]))
                },
            ),
        ];
        for (what, spec) in specs {
            if what == "embedding and norms" && kind == "qwen2" {
                // PEFT adapts the embedding's output only; a tied head keeps the base weight, which no merged tied
                // checkpoint can hold.
                continue;
            }
            let mut model = tiny.load();
            adapted_by(&mut model, &spec);
            let adapter = model.logits(&batch);
            assert!(!logits_agree(&adapter.data, &base.data).0, "{kind}, {what}: the adapter does something");

            // Stored merged weights, f32: the same numbers as folding in memory.
            let out = tempfile::tempdir().expect("a scratch folder");
            let report = model.save_merged(&open(tiny.path()), out.path(), StoredDtype::F32).expect("merges");
            assert!(
                report.merged_tensors > 0 && report.changed_entries > 0 && report.lost.is_empty(),
                "{kind}, {what}: {report:?}"
            );
            let stored =
                Model::load(out.path(), &common::options(2)).expect("a merged checkpoint loads").logits(&batch);
            let narrow = tempfile::tempdir().expect("a scratch folder");
            model.save_merged(&open(tiny.path()), narrow.path(), StoredDtype::Bf16).expect("merges");
            let rounded =
                Model::load(narrow.path(), &common::options(2)).expect("a merged checkpoint loads").logits(&batch);

            model.fold_adapter();
            assert_eq!(model.trainable_count(), 0);
            let folded = model.logits(&batch);
            let (ok, d) = logits_agree(&folded.data, &adapter.data);
            assert!(ok, "{kind}, {what}: folded differs by {d:e}");
            assert!(stored.data == folded.data, "{kind}, {what}: stored in f32 = folded, bit for bit");
            let (d, largest) = gap(&rounded.data, &adapter.data);
            // Eight bits of mantissa on a few tensors; a router near a tie may flip, so only the bulk is bounded.
            let mean = rounded.data.iter().zip(&adapter.data).map(|(a, b)| f64::from((a - b).abs())).sum::<f64>()
                / adapter.data.len() as f64;
            assert!(
                mean < 0.01 * largest && d > 0.0,
                "{kind}, {what}: bf16 differs by {mean:e} on average, {d:e} at most, logits up to {largest}"
            );
        }
    }
}

#[test]
fn merging_passes_other_tensors_on_byte_for_byte() {
    let tiny = Tiny::new("deepseek_v3", 2);
    let mut model = tiny.load();
    adapted_by(&mut model, &AdapterSpec::new(2, 4.0, Targets::Modules(vec!["o_proj".into()])));
    let out = tempfile::tempdir().expect("a scratch folder");
    let source = open(tiny.path());
    let report = model.save_merged(&source, out.path(), StoredDtype::F32).expect("merges");
    let merged = open(out.path());
    assert_eq!(report.merged_tensors, 3);
    assert_eq!(report.unchanged_tensors, source.len() - 3);
    for name in source.names() {
        let same = *source.bytes(name).expect("source") == *merged.bytes(name).expect("merged");
        assert_eq!(same, !name.ends_with("o_proj.weight"), "{name}");
    }
}

#[test]
fn a_saved_adapter_loads_with_identical_logits() {
    for kind in KINDS {
        let tiny = Tiny::new(kind, 2);
        let batch = Docs::new(&[13, 20], 3).batch();
        let specs = [
            all_linear(),
            AdapterSpec { use_rslora: true, dropout: 0.05, ..all_linear() },
            AdapterSpec { use_dora: true, ..all_linear() },
            AdapterSpec { ffn_blocks: Some(3), ..AdapterSpec::new(2, 4.0, Targets::Preset(Preset::Mlp)) },
            AdapterSpec {
                rank_pattern: [("o_proj".to_string(), 5)].into(),
                alpha_pattern: [(r"layers\.1\..*".to_string(), 3.0)].into(),
                layers: Some(vec![1]),
                exclude: vec!["down_proj".into()],
                ..all_linear()
            },
            AdapterSpec {
                modules_to_save: vec!["lm_head".into()],
                ..AdapterSpec::new(2, 4.0, Targets::Modules(vec!["embed_tokens".into(), "o_proj".into()]))
            },
        ];
        for spec in specs {
            if kind == "qwen2" && !spec.modules_to_save.is_empty() {
                continue; // a tied head cannot be saved apart
            }
            let mut model = tiny.load();
            adapted_by(&mut model, &spec);
            let dir = tempfile::tempdir().expect("a scratch folder");
            model.save_adapter(dir.path(), ExpertsLayout::PerExpert, "base").expect("saves");
            let mut loaded = tiny.load();
            loaded.load_adapter(dir.path()).unwrap_or_else(|e| panic!("{kind}, {spec:?}: {e}"));
            assert!(loaded.logits(&batch).data == model.logits(&batch).data, "{kind}, {spec:?}");
            assert!(loaded.trainable_count() >= model.trainable_count());
            // Saved again it is the same file.
            let again = tempfile::tempdir().expect("a scratch folder");
            loaded.save_adapter(again.path(), ExpertsLayout::PerExpert, "base").expect("saves");
            for file in ["adapter_model.safetensors", "adapter_config.json"] {
                let read = |d: &tempfile::TempDir| std::fs::read(d.path().join(file)).expect("written");
                assert!(read(&dir) == read(&again), "{kind}, {spec:?}: {file} changed on the way");
            }
        }
    }
}

#[test]
fn fused_experts_carry_the_same_product() {
    for kind in ["deepseek", "deepseek_v2", "deepseek_v3"] {
        let tiny = Tiny::new(kind, 2);
        let batch = Docs::new(&[13, 20], 3).batch();
        let specs = [
            all_linear(),
            AdapterSpec::new(2, 4.0, Targets::Preset(Preset::Experts)),
            AdapterSpec { use_rslora: true, ..AdapterSpec::new(2, 4.0, Targets::Preset(Preset::Experts)) },
            AdapterSpec::new(2, 4.0, Targets::Regex(r".*\.experts\.\d+\.down_proj".into())),
            AdapterSpec::new(2, 4.0, Targets::Regex(r".*\.experts\.\d+\.gate_proj".into())),
            AdapterSpec { ffn_blocks: Some(3), ..AdapterSpec::new(2, 4.0, Targets::Preset(Preset::AllLinear)) },
            // Ranks and scales that differ inside a layer's fused matrices.
            AdapterSpec {
                rank_pattern: [(r"experts\.[0-3]\.up_proj".to_string(), 4)].into(),
                alpha_pattern: [(r"experts\.\d+\.up_proj".to_string(), 1.0)].into(),
                ..all_linear()
            },
        ];
        for spec in specs {
            let mut model = tiny.load();
            adapted_by(&mut model, &spec);
            let want = model.logits(&batch);
            let dir = tempfile::tempdir().expect("a scratch folder");
            model.save_adapter(dir.path(), ExpertsLayout::Fused, "base").expect("saves");
            let mut loaded = tiny.load();
            loaded.load_adapter(dir.path()).unwrap_or_else(|e| panic!("{kind}, {spec:?}: {e}"));
            let (ok, d) = logits_agree(&loaded.logits(&batch).data, &want.data);
            assert!(ok, "{kind}, {spec:?}: fused differs by {d:e}");
            // From fused to per-expert and back nothing changes any more.
            let fused_logits = loaded.logits(&batch);
            for layout in [ExpertsLayout::PerExpert, ExpertsLayout::Fused] {
                let next = tempfile::tempdir().expect("a scratch folder");
                loaded.save_adapter(next.path(), layout, "base").expect("saves");
                let mut again = tiny.load();
                again.load_adapter(next.path()).unwrap_or_else(|e| panic!("{kind}, {spec:?}, {layout:?}: {e}"));
                assert!(again.logits(&batch).data == fused_logits.data, "{kind}, {spec:?}, {layout:?}");
            }
        }
    }
}

#[test]
fn what_the_fused_layout_cannot_hold_is_refused() {
    let tiny = Tiny::new("deepseek_v3", 2);
    for spec in [AdapterSpec { use_dora: true, ..all_linear() }, AdapterSpec { dropout: 0.1, ..all_linear() }] {
        let mut model = tiny.load();
        adapted_by(&mut model, &spec);
        let dir = tempfile::tempdir().expect("a scratch folder");
        let result = model.save_adapter(dir.path(), ExpertsLayout::Fused, "base");
        assert!(result.is_err(), "{spec:?}: the fused layout has no magnitudes and no dropout");
        assert!(!dir.path().join("adapter_model.safetensors").exists(), "nothing is written in part");
    }
}

#[test]
fn rslora_is_alpha_over_the_square_root_of_the_rank() {
    let tiny = Tiny::new("llama", 2);
    let batch = Docs::new(&[20], 3).batch();
    let run = |use_rslora, alpha| {
        let mut model = tiny.load();
        adapted_by(
            &mut model,
            &AdapterSpec { use_rslora, ..AdapterSpec::new(4, alpha, Targets::Preset(Preset::AllLinear)) },
        );
        model.logits(&batch).data
    };
    // 8/√4 = 16/4
    assert!(run(true, 8.0) == run(false, 16.0));
    assert!(run(true, 8.0) != run(false, 8.0));
}

#[test]
fn a_tied_matrix_is_not_merged_for_one_of_its_uses() {
    let tiny = Tiny::new("qwen2", 2);
    let specs = [
        AdapterSpec::new(2, 4.0, Targets::Modules(vec!["embed_tokens".into()])),
        AdapterSpec::new(2, 4.0, Targets::Modules(vec!["lm_head".into()])),
        AdapterSpec {
            modules_to_save: vec!["lm_head".into()],
            ..AdapterSpec::new(2, 4.0, Targets::Modules(vec!["o_proj".into()]))
        },
    ];
    for spec in specs {
        let mut model = tiny.load();
        adapted_by(&mut model, &spec);
        let out = tempfile::tempdir().expect("a scratch folder");
        let error = model
            .save_merged(&open(tiny.path()), out.path(), StoredDtype::F32)
            .expect_err("one matrix for both")
            .to_string();
        assert!(error.contains("tie_word_embeddings"), "{error}");
        assert!(model.save_base(out.path(), StoredDtype::F32).is_err(), "{spec:?}");
    }
    // Trained together it stays one matrix.
    let mut model = tiny.load();
    model.train_full().expect("fresh");
    stir(&mut model);
    let out = tempfile::tempdir().expect("a scratch folder");
    assert!(model.save_merged(&open(tiny.path()), out.path(), StoredDtype::F32).is_ok());
    let batch = Docs::new(&[9], 3).batch();
    assert!(
        Model::load(out.path(), &common::options(2)).expect("loads").logits(&batch).data == model.logits(&batch).data
    );
}
