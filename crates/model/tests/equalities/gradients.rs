//! The gradient of the whole model against slopes of its loss, for adapters and for full training.
use super::*;
use crate::common::{Docs, KINDS, Tiny};
use loar_model::{LoadOptions, PackedBatch, Pass};

/// Slope of the mean loss along `u`, a direction in the space of all parameters, and the step it was measured over. The
/// choice of experts is constant under differentiation: a step that changes it is halved until it does not; `None` if it
/// always does.
fn slope(model: &mut Model, batch: &PackedBatch, u: &[Vec<f32>]) -> Option<(f64, f64)> {
    let start: Vec<Vec<f32>> = model.params.iter().map(|(_, p)| p.value.data.to_vec()).collect();
    let chosen = model.loss(batch).expert_load;
    for h in [2e-3f32, 5e-4, 1e-4] {
        let mut at = |by: f32| {
            for (i, u) in u.iter().enumerate() {
                for ((x, s), u) in model.params.get_mut(ParamId(i)).value.data.iter_mut().zip(&start[i]).zip(u) {
                    *x = s + by * u;
                }
            }
            let loss = model.loss(batch);
            (loss.sum / batch.targets.len() as f64, loss.expert_load == chosen)
        };
        let (up, down) = (at(h), at(-h));
        at(0.0);
        if up.1 && down.1 {
            return Some(((up.0 - down.0) / (2.0 * f64::from(h)), f64::from(h)));
        }
    }
    None
}

/// Rounding of a mean loss in f32: a few units in the last place of numbers of order four, over the step.
const ROUNDING: f64 = 5e-7;

fn check(kind: &str, what: &str, model: &mut Model) {
    let batch = Docs::new(&[20, 15], 3).batch();
    let mut grads = Grads::new(&model.params);
    model.loss_and_grads(&batch, &mut grads, 1.0 / batch.targets.len() as f32, &Pass::default());
    let norm = grads.norm();
    // Along its own gradient each tensor's slope is largest, so rounding matters least. Tensors that hardly matter are
    // left out; one at a time, so that no part hides behind another.
    let (mut compared, mut jumped) = (0, 0);
    for i in 0..model.params.len() {
        let Some(g) = grads.get(ParamId(i)) else { continue };
        let size = g.data.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        if size < 0.05 * norm {
            continue;
        }
        let mut u: Vec<Vec<f32>> = model.params.iter().map(|(_, p)| vec![0.0; p.value.data.len()]).collect();
        u[i] = g.data.iter().map(|x| x / size as f32).collect();
        let Some((s, h)) = slope(model, &batch, &u) else {
            jumped += 1;
            continue;
        };
        let name = &model.params.get(ParamId(i)).name;
        assert!(
            (s - size).abs() < 0.02 * size + ROUNDING / h,
            "{kind}, {what}, `{name}`: slope {s} over {h} along a gradient of norm {size}"
        );
        compared += 1;
    }
    assert!(
        compared > 4 && jumped < compared,
        "{kind}, {what}: {compared} tensors compared, {jumped} changed the choice of experts"
    );
}

#[test]
fn adapters_on_every_linear() {
    for kind in KINDS {
        let tiny = Tiny::new(kind, 2);
        let mut model = tiny.load();
        adapted(&mut model);
        check(kind, "all-linear", &mut model);
    }
}

#[test]
fn every_weight_in_full_training() {
    for kind in KINDS {
        let tiny = Tiny::new(kind, 2);
        let mut model = tiny.load();
        model.train_full().expect("a fresh model");
        check(kind, "full", &mut model);
    }
}

#[test]
fn full_training_moves_all_but_the_router() {
    for kind in KINDS {
        let tiny = Tiny::new(kind, 2);
        let mut model = tiny.load();
        model.train_full().expect("a fresh model");
        let mut expected: Vec<String> = loar_formats::names::expected_tensors(&model.config)
            .into_iter()
            .map(|(n, ..)| n)
            .filter(|n| !n.contains(".mlp.gate."))
            .collect();
        let mut names: Vec<String> = model.params.iter().map(|(_, p)| p.name.clone()).collect();
        expected.sort();
        names.sort();
        assert_eq!(names, expected, "{kind}");
        let frozen: usize = loar_formats::names::expected_tensors(&model.config)
            .iter()
            .filter(|(n, ..)| n.contains(".mlp.gate."))
            .map(|(_, s, _)| s.iter().product::<usize>())
            .sum();
        assert_eq!(model.trainable_count() + frozen, model.count());
        // Thawing changes nothing, and a second time is refused.
        let batch = Docs::new(&[20], 3).batch();
        assert!(model.logits(&batch).data == tiny.load().logits(&batch).data, "{kind}");
        assert!(model.train_full().is_err());
        // Gradient arrives everywhere.
        let mut grads = Grads::new(&model.params);
        model.loss_and_grads(&Docs::new(&[60, 60], 3).batch(), &mut grads, 1.0, &Pass::default());
        let mut coverage = model.coverage();
        coverage.mark_gradients(&grads);
        for row in &coverage.rows {
            if row.component.starts_with("router") {
                assert_eq!(row.tensors, 0, "{kind}: {}", row.component);
            } else {
                assert_eq!((row.adapted, row.trainable), (row.parameters, row.parameters), "{kind}: {}", row.component);
                assert_eq!(row.tensors_with_gradient, Some(row.tensors), "{kind}: {}", row.component);
            }
        }
    }
}

#[test]
fn dora_and_embedding_and_saved_modules_learn() {
    for kind in ["llama", "deepseek_v2_lite"] {
        let tiny = Tiny::new(kind, 2);
        let mut model = tiny.load();
        let targets = Targets::Modules(["embed_tokens", "o_proj", "down_proj", "lm_head"].map(str::to_owned).to_vec());
        adapted_by(
            &mut model,
            &AdapterSpec { modules_to_save: vec!["input_layernorm".into()], ..AdapterSpec::new(2, 4.0, targets) },
        );
        check(kind, "embedding, head and norms", &mut model);
        let mut model = tiny.load();
        adapted_by(
            &mut model,
            &AdapterSpec { use_dora: true, ..AdapterSpec::new(2, 4.0, Targets::Preset(Preset::Attention)) },
        );
        let batch = Docs::new(&[30, 25], 3).batch();
        let mut grads = Grads::new(&model.params);
        model.loss_and_grads(&batch, &mut grads, 1.0, &Pass::default());
        assert!(
            model.params.iter().all(|(id, _)| grads.get(id).is_some_and(|g| g.data.iter().any(|x| *x != 0.0))),
            "{kind}: DoRA's three parts learn"
        );
    }
}

/// bf16 activations and operands move the gradient a little and nothing else: its direction is the f32 one's.
#[test]
fn bf16_gradients_point_where_f32_ones_do() {
    for kind in KINDS {
        let tiny = Tiny::new(kind, 3);
        let batch = Docs::new(&[40, 25], 3).batch();
        let run = |precision| {
            let mut model = Model::load(tiny.path(), &LoadOptions { threads: 2, precision, ..LoadOptions::default() })
                .expect("loads");
            adapted(&mut model);
            let mut grads = Grads::new(&model.params);
            let loss = model.loss_and_grads(&batch, &mut grads, 1.0 / batch.targets.len() as f32, &Pass::default());
            let flat: Vec<f64> = grads.tensors.iter().flatten().flat_map(|t| t.data.to_vec()).map(f64::from).collect();
            (loss.sum / batch.targets.len() as f64, flat, loss.expert_load)
        };
        let (full, rounded) = (run(loar_tape::Precision::F32), run(loar_tape::Precision::Bf16));
        if full.2 != rounded.2 {
            // A token on the edge between two experts went the other way: another function, nothing to compare.
            assert!(kind.contains("deepseek"), "{kind} has no experts");
            continue;
        }
        assert!((full.0 - rounded.0).abs() < 0.02 * full.0.abs(), "{kind}: loss {} and {}", full.0, rounded.0);
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
        let cosine = dot(&full.1, &rounded.1) / (dot(&full.1, &full.1) * dot(&rounded.1, &rounded.1)).sqrt();
        assert!(cosine > 0.999, "{kind}: cosine {cosine}");
    }
}
