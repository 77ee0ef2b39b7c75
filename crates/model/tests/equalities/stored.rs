//! Bases written and read again, and files that do not fit: every misfit listed at once.
use super::*;
use crate::common::{Docs, KINDS, Tiny, config, options};
use loar_formats::safetensors::{TensorOut, write_file};
use loar_model::{ExpertsLayout, StoredDtype};

#[test]
fn a_saved_base_is_the_same_model() {
    for kind in KINDS {
        let tiny = Tiny::new(kind, 2);
        let batch = Docs::new(&[13, 20], 3).batch();
        let model = tiny.load();
        let out = tempfile::tempdir().expect("a scratch folder");
        model.save_base(out.path(), StoredDtype::F32).expect("saves");
        let again = Model::load(out.path(), &options(2)).expect("loads");
        assert!(again.logits(&batch).data == model.logits(&batch).data, "{kind}");
        assert_eq!(again.count(), model.count());
        // bf16: the same as rounding each weight.
        let narrow = tempfile::tempdir().expect("a scratch folder");
        model.save_base(narrow.path(), StoredDtype::Bf16).expect("saves");
        let (wide, rounded) = (open(out.path()), open(narrow.path()));
        for name in wide.names() {
            let exact = name.ends_with("e_score_correction_bias");
            let want: Vec<f32> = wide
                .to_f32(name)
                .expect("f32")
                .into_iter()
                .map(|x| if exact { x } else { half::bf16::from_f32(x).to_f32() })
                .collect();
            assert!(rounded.to_f32(name).expect("a float") == want, "{kind}: {name}");
        }
        assert!(Model::load(narrow.path(), &options(2)).is_ok());
        // An adapter on top is folded in.
        let mut model = tiny.load();
        adapted(&mut model);
        let out = tempfile::tempdir().expect("a scratch folder");
        model.save_base(out.path(), StoredDtype::F32).expect("saves");
        model.fold_adapter();
        assert!(
            Model::load(out.path(), &options(2)).expect("loads").logits(&batch).data == model.logits(&batch).data,
            "{kind}"
        );
    }
}

#[test]
fn full_training_is_saved_with_its_new_values() {
    for kind in ["qwen2", "deepseek_v3"] {
        let tiny = Tiny::new(kind, 2);
        let mut model = tiny.load();
        model.train_full().expect("fresh");
        stir(&mut model);
        let batch = Docs::new(&[13], 3).batch();
        let out = tempfile::tempdir().expect("a scratch folder");
        model.save_base(out.path(), StoredDtype::F32).expect("saves");
        assert!(
            Model::load(out.path(), &options(2)).expect("loads").logits(&batch).data == model.logits(&batch).data,
            "{kind}"
        );
    }
}

#[test]
fn random_models_depend_on_their_seed_alone() {
    for kind in KINDS {
        let batch = Docs::new(&[9], 3).batch();
        let run =
            |seed, threads| Model::random(config(kind), seed, &options(threads)).expect("builds").logits(&batch).data;
        assert!(run(1, 1) == run(1, 3), "{kind}");
        assert!(run(1, 1) != run(2, 1), "{kind}");
        assert!(run(1, 1).iter().all(|x| x.is_finite()), "{kind}");
    }
}

#[test]
fn a_written_random_checkpoint_is_the_random_model_in_any_number_of_shards() {
    for kind in KINDS {
        let batch = Docs::new(&[9], 3).batch();
        let want = Model::random(config(kind), 5, &options(2)).expect("builds").logits(&batch).data;
        for max_shard_bytes in [u64::MAX, 20_000] {
            let out = tempfile::tempdir().expect("a scratch folder");
            loar_model::write_random(&config(kind), 5, out.path(), StoredDtype::F32, max_shard_bytes).expect("writes");
            let sharded = out.path().join("model.safetensors.index.json").exists();
            assert_eq!(sharded, max_shard_bytes < u64::MAX, "{kind}");
            assert!(
                Model::load(out.path(), &options(2)).expect("loads").logits(&batch).data == want,
                "{kind}, shards of {max_shard_bytes}"
            );
        }
    }
}

#[test]
fn bf16_products_stay_near_f32_ones_and_keep_the_equalities() {
    for kind in ["llama", "qwen3"] {
        let tiny = Tiny::new(kind, 2);
        let docs = Docs::new(&[13, 20], 3);
        let load = |precision, threads| {
            let mut model = Model::load(
                tiny.path(),
                &loar_model::LoadOptions { threads, precision, ..loar_model::LoadOptions::default() },
            )
            .expect("loads");
            adapted(&mut model);
            model
        };
        let (wide, narrow) = (load(loar_tape::Precision::F32, 2), load(loar_tape::Precision::Bf16, 2));
        let (a, b) = (wide.logits(&docs.batch()), narrow.logits(&docs.batch()));
        let (gap, largest) = crate::common::gap(&b.data, &a.data);
        assert!(gap > 0.0 && gap < 0.05 * largest, "{kind}: {gap} of {largest}");
        let (mut g, mut h) = (Grads::new(&wide.params), Grads::new(&wide.params));
        wide.loss_and_grads(&docs.batch(), &mut g, 0.05, &Default::default());
        narrow.loss_and_grads(&docs.batch(), &mut h, 0.05, &Default::default());
        let gap = grads_gap(&h, &g);
        assert!(gap > 0.0 && gap < 0.15, "{kind}: gradients differ by {gap}");
        // Rows still depend on nothing but themselves, whatever the threads.
        assert!(load(loar_tape::Precision::Bf16, 1).logits(&docs.batch()).data == b.data, "{kind}");
        let single = narrow.logits(&docs.batch_of(&[1]));
        assert!(single.data[..] == b.data[13 * b.cols..], "{kind}: packed = single in bf16");
    }
}

/// Rewrites a checkpoint or adapter file with some tensors changed, dropped or added.
fn rewrite(
    path: &std::path::Path,
    change: impl Fn(&str, &[usize]) -> Option<Vec<usize>>,
    extra: &[(&str, Vec<usize>)],
) {
    let file = Checkpoint::open_file(path).expect("readable");
    let mut tensors: Vec<TensorOut<'static>> = file
        .tensors()
        .filter_map(|i| {
            let shape = change(&i.name, &i.shape)?;
            let data = if shape == i.shape {
                file.to_f32(&i.name).expect("a float")
            } else {
                vec![0.5; shape.iter().product()]
            };
            Some(TensorOut::f32(i.name.clone(), shape, &data))
        })
        .collect();
    tensors.extend(extra.iter().map(|(n, s)| TensorOut::f32(*n, s.clone(), &vec![0.0; s.iter().product()])));
    let metadata = file.metadata().clone();
    drop(file);
    write_file(path, &tensors, &metadata).expect("writable");
}

#[test]
fn every_wrong_tensor_of_a_checkpoint_is_listed_at_once() {
    let tiny = Tiny::new("deepseek_v3", 2);
    rewrite(
        &tiny.path().join("model.safetensors"),
        |name, shape| match name {
            "model.layers.0.self_attn.o_proj.weight" => Some(vec![shape[1], shape[0]]),
            "model.layers.1.mlp.gate.e_score_correction_bias" => Some(vec![7]),
            "model.layers.2.mlp.experts.3.up_proj.weight" | "model.norm.weight" => None,
            _ => Some(shape.to_vec()),
        },
        &[("model.layers.0.self_attn.q_proj.weight", vec![4, 4])],
    );
    let error = Model::load(tiny.path(), &options(1)).err().expect("faults").to_string();
    for name in [
        "model.layers.0.self_attn.o_proj.weight",
        "model.layers.1.mlp.gate.e_score_correction_bias",
        "model.layers.2.mlp.experts.3.up_proj.weight",
        "model.norm.weight",
        "model.layers.0.self_attn.q_proj.weight",
    ] {
        assert!(error.contains(name), "`{name}` is missing in: {error}");
    }
    assert!(error.contains("[32, 36]") && error.contains("[36, 32]"), "expected and found: {error}");
}

#[test]
fn every_wrong_tensor_of_an_adapter_is_listed_at_once() {
    let tiny = Tiny::new("llama", 2);
    let mut model = tiny.load();
    adapted(&mut model);
    let dir = tempfile::tempdir().expect("a scratch folder");
    model.save_adapter(dir.path(), ExpertsLayout::PerExpert, "base").expect("saves");
    let base = "base_model.model.model.layers";
    rewrite(
        &dir.path().join("adapter_model.safetensors"),
        |name, shape| match name.strip_prefix(base) {
            Some(".0.self_attn.q_proj.lora_A.weight") => Some(vec![shape[0], shape[1] + 1]),
            Some(".1.mlp.up_proj.lora_B.weight") => Some(vec![shape[0] - 1, shape[1]]),
            _ => Some(shape.to_vec()),
        },
        &[
            ("base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight", vec![3, 32]),
            ("base_model.model.model.layers.9.self_attn.q_proj.lora_B.weight", vec![32, 3]),
        ],
    );
    let mut fresh = tiny.load();
    let error = fresh.load_adapter(dir.path()).expect_err("faults").to_string();
    for part in ["layers.0.self_attn.q_proj", "[3, 33]", "layers.1.mlp.up_proj", "[39, 3]", "layers.9.self_attn.q_proj"]
    {
        assert!(error.contains(part), "`{part}` is missing in: {error}");
    }
    // Nothing is loaded in part.
    assert!(fresh.linears().iter().all(|l| l.lora.is_none()));
}

#[test]
fn half_a_pair_is_refused() {
    let tiny = Tiny::new("llama", 2);
    let mut model = tiny.load();
    adapted(&mut model);
    let dir = tempfile::tempdir().expect("a scratch folder");
    model.save_adapter(dir.path(), ExpertsLayout::PerExpert, "base").expect("saves");
    let gone = ["layers.1.self_attn.o_proj.lora_B.weight", "layers.0.mlp.up_proj.lora_A.weight"];
    rewrite(
        &dir.path().join("adapter_model.safetensors"),
        |name, shape| (!gone.iter().any(|g| name.ends_with(g))).then(|| shape.to_vec()),
        &[],
    );
    let error = tiny.load().load_adapter(dir.path()).expect_err("faults").to_string();
    assert!(error.contains("layers.1.self_attn.o_proj") && error.contains("layers.0.mlp.up_proj"), "{error}");
}

#[test]
fn an_adapter_of_another_architecture_is_refused() {
    let dir = tempfile::tempdir().expect("a scratch folder");
    let mut model = Tiny::new("llama", 2).load();
    adapted(&mut model);
    model.save_adapter(dir.path(), ExpertsLayout::PerExpert, "base").expect("saves");
    let error = Tiny::new("deepseek_v3", 2).load().load_adapter(dir.path()).expect_err("another model").to_string();
    assert!(error.contains("k_proj"), "{error}");
    assert!(
        Tiny::new("qwen2", 2).load().load_adapter(dir.path()).is_ok(),
        "names and shapes fit: nothing more can be known"
    );
}
