//! Packed = unpacked, accumulated = large batch, checkpointed = kept, cached = recomputed, batched = single, one
//! thread = many.
use super::*;
use crate::common::{Docs, KINDS, Tiny};
use loar_model::{PackedBatch, Pass};
use loar_tape::{DropoutKey, Precision, Tensor};

/// Every architecture in both precisions.
fn cases() -> impl Iterator<Item = (&'static str, Precision)> {
    KINDS.iter().flat_map(|k| [(*k, Precision::F32), (*k, Precision::Bf16)])
}

fn plain() -> Pass {
    Pass::default()
}

#[test]
fn packed_equals_unpacked() {
    for (kind, precision) in cases() {
        let tiny = Tiny::new(kind, 2);
        let mut model = tiny.load_in(precision, 2);
        adapted(&mut model);
        let docs = Docs::new(&[13, 2, 27, 1, 8], 3);
        let (mut together, mut apart) = (Grads::new(&model.params), Grads::new(&model.params));
        let batch = docs.batch();
        let weight = 1.0 / batch.targets.len() as f32;
        let packed = model.loss_and_grads(&batch, &mut together, weight, &plain());
        let mut per_token = Vec::new();
        for d in 0..docs.ids.len() {
            per_token.extend(model.loss_and_grads(&docs.batch_of(&[d]), &mut apart, weight, &plain()).per_token);
        }
        assert_eq!(
            packed.per_token, per_token,
            "{kind}: a token's loss depends on its own document alone, bit for bit"
        );
        let gap = grads_gap(&together, &apart);
        assert!(gap < 2e-5, "{kind}: gradients differ by {gap:e}");
        // Order in the pack does not matter either.
        let turned = model.loss(&docs.batch_of(&[4, 2, 0, 3, 1]));
        let mut sorted = (turned.per_token.clone(), packed.per_token.clone());
        sorted.0.sort_by(f32::total_cmp);
        sorted.1.sort_by(f32::total_cmp);
        assert_eq!(sorted.0, sorted.1, "{kind}");
        assert_eq!(model.loss(&batch).per_token.len(), packed.per_token.len());
    }
}

#[test]
fn the_loss_without_gradients_is_the_loss_with_them() {
    for kind in ["qwen2", "deepseek_v3"] {
        let tiny = Tiny::new(kind, 2);
        let mut model = tiny.load();
        adapted(&mut model);
        let batch = Docs::new(&[13, 20], 3).batch();
        let with = model.loss_and_grads(&batch, &mut Grads::new(&model.params), 1.0, &plain());
        let without = model.loss(&batch);
        for (a, b) in with.per_token.iter().zip(&without.per_token) {
            assert!((a - b).abs() <= 2e-6 * b.abs().max(1.0), "{kind}: {a} and {b}");
        }
        assert_eq!(with.expert_load, without.expert_load);
        // And it is −log softmax of the logits at the target.
        let logits = model.logits(&batch);
        for ((row, token), loss) in batch.targets.iter().zip(&without.per_token) {
            let z: Vec<f64> = logits.row(*row).iter().map(|x| f64::from(*x)).collect();
            let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let want = max + z.iter().map(|x| (x - max).exp()).sum::<f64>().ln() - z[*token as usize];
            assert!((f64::from(*loss) - want).abs() < 1e-5, "{kind}: {loss} for {want}");
        }
        assert!((without.sum - without.per_token.iter().map(|x| f64::from(*x)).sum::<f64>()).abs() < 1e-9);
    }
}

#[test]
fn accumulated_micro_batches_equal_the_large_batch() {
    for kind in ["llama", "deepseek_v2_lite", "deepseek_v3"] {
        let tiny = Tiny::new(kind, 2);
        let mut model = tiny.load();
        adapted(&mut model);
        let docs = Docs::new(&[13, 5, 27, 9], 3);
        let large = docs.batch();
        let weight = 1.0 / large.targets.len() as f32;
        let mut whole = Grads::new(&model.params);
        let sum = model.loss_and_grads(&large, &mut whole, weight, &plain()).sum;
        for cut in [&[&[0, 1][..], &[2, 3]][..], &[&[0], &[1, 2], &[3]], &[&[3], &[2], &[1], &[0]]] {
            let mut parts = Grads::new(&model.params);
            let total: f64 = cut
                .iter()
                .map(|which| model.loss_and_grads(&docs.batch_of(which), &mut parts, weight, &plain()).sum)
                .sum();
            assert!((total - sum).abs() < 1e-5, "{kind}");
            let gap = grads_gap(&parts, &whole);
            assert!(gap < 2e-5, "{kind}, {cut:?}: gradients differ by {gap:e}");
        }
    }
}

/// Loss and gradients as bits.
fn bits(model: &Model, batch: &PackedBatch, pass: &Pass) -> (Vec<f32>, Vec<Option<Tensor>>) {
    let mut grads = Grads::new(&model.params);
    let loss = model.loss_and_grads(batch, &mut grads, 0.125, pass);
    (loss.per_token, grads.tensors)
}

#[test]
fn activation_checkpoints_change_no_bit() {
    for (kind, precision) in cases() {
        for dropout in [0.0, 0.25] {
            let tiny = Tiny::new(kind, 2);
            let mut model = tiny.load_in(precision, 2);
            adapted_by(
                &mut model,
                &AdapterSpec { dropout, ..AdapterSpec::new(3, 6.0, Targets::Preset(Preset::AllLinear)) },
            );
            let batch = Docs::new(&[13, 20], 3).batch();
            let key = Some(DropoutKey { seed: 3, micro_step: 8 });
            let kept = bits(&model, &batch, &Pass { dropout: key, checkpoint: 0 });
            let again = bits(&model, &batch, &Pass { dropout: key, checkpoint: usize::MAX });
            assert!(kept == again, "{kind}, {precision:?}, dropout {dropout}");
            let some = bits(&model, &batch, &Pass { dropout: key, checkpoint: 1 });
            assert!(kept == some, "{kind}, {precision:?}, dropout {dropout}, the first layer only");
            let dry = bits(&model, &batch, &plain());
            assert_eq!(kept.0 == dry.0, dropout == 0.0, "{kind}: dropout {dropout} acts");
            if dropout > 0.0 {
                let next =
                    bits(&model, &batch, &Pass { dropout: Some(DropoutKey { seed: 3, micro_step: 9 }), checkpoint: 0 });
                assert_ne!(kept.0, next.0, "{kind}: masks change from step to step");
            }
        }
    }
}

#[test]
fn one_thread_and_three_agree_bit_for_bit() {
    for (kind, precision) in cases() {
        let tiny = Tiny::new(kind, 2);
        let batch = Docs::new(&[13, 20, 70], 3).batch();
        let run = |threads| {
            let mut model = tiny.load_in(precision, threads);
            adapted_by(
                &mut model,
                &AdapterSpec { dropout: 0.1, ..AdapterSpec::new(3, 6.0, Targets::Preset(Preset::AllLinear)) },
            );
            let pass = Pass { dropout: Some(DropoutKey { seed: 3, micro_step: 8 }), checkpoint: usize::MAX };
            (bits(&model, &batch, &pass), model.logits(&batch).data)
        };
        let one = run(1);
        assert!(one == run(2) && one == run(3), "{kind}, {precision:?}");
    }
}

#[test]
fn cached_steps_equal_recomputation_bit_for_bit() {
    for kind in KINDS {
        let tiny = Tiny::new(kind, 2);
        let mut model = tiny.load();
        adapted(&mut model);
        let docs = Docs::new(&[75], 3);
        let ids = &docs.ids[0];
        let full = model.logits(&docs.batch());
        for pieces in [vec![1; 75], vec![40, 1, 1, 1, 20, 12], vec![75], vec![64, 1, 10]] {
            let mut cache = model.new_cache();
            let mut at = 0;
            for n in pieces {
                let logits = model.step(&mut [(&ids[at..at + n], &mut cache)]);
                at += n;
                assert_eq!(cache.len(), at);
                assert!(logits.row(0) == full.row(at - 1), "{kind}: after {at} tokens, a step of {n}");
            }
        }
        // Prefixes of the document give the same rows: what comes later is not seen.
        let flags = vec![false; 30];
        let prefix = model.logits(&PackedBatch::pack(&[(&ids[..30], &flags)]));
        assert!(prefix.data[..] == full.data[..prefix.data.len()], "{kind}: a prefix");
    }
}

#[test]
fn a_batched_step_equals_single_ones_bit_for_bit() {
    for kind in KINDS {
        let tiny = Tiny::new(kind, 2);
        let mut model = tiny.load();
        adapted(&mut model);
        let docs = Docs::new(&[17, 3, 30, 9], 5);
        let mut alone = Vec::new();
        for ids in &docs.ids {
            let mut cache = model.new_cache();
            let first = model.step(&mut [(&ids[..2], &mut cache)]);
            let rest = model.step(&mut [(&ids[2..], &mut cache)]);
            alone.push((first.data, rest.data, cache.bytes()));
        }
        let mut caches: Vec<_> = docs.ids.iter().map(|_| model.new_cache()).collect();
        for part in 0..2 {
            let mut sequences: Vec<(&[u32], &mut loar_model::KvCache)> = docs
                .ids
                .iter()
                .zip(&mut caches)
                .map(|(ids, c)| (if part == 0 { &ids[..2] } else { &ids[2..] }, c))
                .collect();
            let together = model.step(&mut sequences);
            for (i, a) in alone.iter().enumerate() {
                let want = if part == 0 { &a.0 } else { &a.1 };
                assert!(together.row(i) == &want[..], "{kind}: sequence {i}, part {part}");
            }
        }
        assert!(caches.iter().zip(&alone).all(|(c, a)| c.bytes() == a.2));
    }
}

#[test]
fn documents_start_at_position_zero_and_their_first_token_is_no_target() {
    let batch =
        PackedBatch::pack(&[(&[5, 6, 7], &[true, true, false]), (&[], &[]), (&[8], &[true]), (&[9, 9], &[true, true])]);
    assert_eq!(*batch.ids, [5, 6, 7, 8, 9, 9]);
    assert_eq!(batch.positions, [0, 1, 2, 0, 0, 1]);
    assert_eq!(batch.targets, [(0, 6), (4, 9)]);
    assert_eq!(batch.target_document, [0, 3]);
    assert_eq!(batch.segments.len(), 3);
    assert_eq!(batch.tokens(), 6);
}

#[test]
fn expert_load_counts_every_choice_once() {
    let tiny = Tiny::new("deepseek_v3", 2);
    let model = tiny.load();
    let batch = Docs::new(&[13, 20], 3).batch();
    let load = model.loss(&batch).expert_load;
    assert_eq!(load.len(), 3);
    assert!(load[0].is_empty(), "the first layer is dense");
    for l in &load[1..] {
        assert_eq!((l.len(), l.iter().sum::<usize>()), (8, 33 * 3));
    }
}

#[test]
fn ids_outside_the_vocabulary_are_named() {
    let model = Tiny::new("llama", 2).load();
    assert!(model.check_ids(&[0, 60]).is_ok());
    let error = model.check_ids(&[0, 61]).expect_err("61 tokens").to_string();
    assert!(error.contains("61") && error.contains("position 1"), "{error}");
}
