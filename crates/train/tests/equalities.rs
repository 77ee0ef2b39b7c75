//! The equalities a trainer lives by, on a tiny DeepSeek-V3 with random rows.

mod common;

use common::{model, rows};
use loar_model::{AdapterSpec, Model, PackedBatch, Preset, Targets};
use loar_tape::{AdamW, AdamWConfig, Grads, ParamRole};
use loar_train::{Row, StepReport, StepSettings, gradients, pack, row_losses, update};

fn settings(capacity: usize) -> StepSettings {
    StepSettings { capacity, max_grad_norm: 1.0, lora_plus_ratio: 1.0, dropout_seed: None, recomputed_layers: 0 }
}

/// A model with an adapter whose B is not zero, so that A has a gradient too.
fn adapted(threads: usize, dropout: f32) -> Model {
    let mut model = model(threads);
    let spec = AdapterSpec { dropout, ..AdapterSpec::new(3, 6.0, Targets::Preset(Preset::AllLinear)) };
    model.attach(&spec, 9).unwrap();
    let ids: Vec<_> = model.params.iter().map(|(id, _)| id).collect();
    for id in ids {
        let stream = loar_kernels::rng::Stream::new(77, 2, id.0 as u32);
        stream.fill_normal(0, 0.05, &mut model.params.get_mut(id).value.data);
    }
    model
}

fn all(rows: &[Row]) -> Vec<usize> {
    (0..rows.len()).collect()
}

fn step(model: &Model, rows: &[Row], settings: &StepSettings) -> (Grads, StepReport) {
    gradients(model, rows, &all(rows), settings, &mut 0).unwrap()
}

/// Largest difference over the largest gradient.
fn difference(a: &Grads, b: &Grads) -> f64 {
    let (mut largest, mut worst) = (0f64, 0f64);
    for (a, b) in a.tensors.iter().zip(&b.tensors) {
        let zeros = |n: usize| vec![0.0; n];
        let n = a.as_ref().or(b.as_ref()).map_or(0, |t| t.data.len());
        let (a, b) =
            (a.as_ref().map_or(zeros(n), |t| t.data.to_vec()), b.as_ref().map_or(zeros(n), |t| t.data.to_vec()));
        for (a, b) in a.iter().zip(&b) {
            largest = largest.max(f64::from(a.abs()));
            worst = worst.max(f64::from((a - b).abs()));
        }
    }
    assert!(largest > 0.0);
    worst / largest
}

fn bits(grads: &Grads) -> Vec<Option<Vec<u32>>> {
    grads.tensors.iter().map(|t| t.as_ref().map(|t| t.data.iter().map(|x| x.to_bits()).collect())).collect()
}

#[test]
fn accumulated_equals_the_large_batch() {
    let (model, rows) = (adapted(1, 0.0), rows(12, 3));
    let (one, large) = step(&model, &rows, &settings(1000));
    let (many, small) = step(&model, &rows, &settings(1)); // a pass for each row
    assert_eq!((large.micro_batches, small.micro_batches), (1, 12));
    assert_eq!(large.labels, small.labels);
    assert!((large.loss - small.loss).abs() <= 1e-6 * large.loss, "{} {}", large.loss, small.loss);
    // the same sums in another order, in f32
    assert!(difference(&one, &many) <= 1e-5, "{}", difference(&one, &many));
}

/// Losses of rows one by one are the losses that training steps on them have, whatever they are
/// packed with.
#[test]
fn row_losses_are_those_of_training() {
    let (model, mut rows) = (adapted(1, 0.0), rows(12, 3));
    let expected: Vec<Option<f64>> =
        rows.iter().map(|row| Some(step(&model, std::slice::from_ref(row), &settings(1000)).1.loss)).collect();
    let close = |found: &[Option<f64>]| {
        found.iter().zip(&expected).all(|(a, b)| (a.unwrap() - b.unwrap()).abs() <= 1e-12 * b.unwrap())
    };
    let together = row_losses(&model, &rows, 1000);
    assert!(close(&together), "{together:?} but {expected:?}");
    assert_eq!(row_losses(&model, &rows, 1), together);
    assert_eq!(row_losses(&model, &rows[3..5], 20), together[3..5]);
    rows[0].train.fill(false);
    assert_eq!(row_losses(&model, &rows, 1000)[0], None);
}

#[test]
fn a_mean_of_means_would_be_found() {
    // rows of unequal label counts: the mistake this guards against is far outside the tolerance
    let (model, rows) = (adapted(1, 0.0), rows(12, 3));
    let (_, large) = step(&model, &rows, &settings(1000));
    let each = rows.iter().map(|r| step(&model, std::slice::from_ref(r), &settings(1)).1.loss);
    let wrong = each.sum::<f64>() / rows.len() as f64;
    assert!((large.loss - wrong).abs() > 1e-3 * large.loss, "{} {wrong}", large.loss);
}

#[test]
fn packed_equals_alone_for_every_token() {
    let (model, rows) = (adapted(1, 0.0), rows(9, 4));
    for micro in pack(&rows, &all(&rows), 40) {
        let packed = model.loss(&micro.batch);
        let alone: Vec<f32> = micro
            .rows
            .iter()
            .flat_map(|r| model.loss(&PackedBatch::pack(&[(&rows[*r].ids, &rows[*r].train)])).per_token)
            .collect();
        assert_eq!(packed.per_token.len(), alone.len());
        for (a, b) in packed.per_token.iter().zip(&alone) {
            assert!((a - b).abs() <= 2e-6 * a.abs().max(1.0), "{a} {b}");
        }
    }
}

#[test]
fn recomputing_blocks_changes_no_bit_and_keeps_the_dropout_masks() {
    let (model, rows) = (adapted(1, 0.3), rows(8, 5));
    let kept = StepSettings { dropout_seed: Some(3), ..settings(40) };
    let again = StepSettings { recomputed_layers: usize::MAX, ..kept.clone() };
    let ((a, ra), (b, rb)) = (step(&model, &rows, &kept), step(&model, &rows, &again));
    assert_eq!(ra.loss.to_bits(), rb.loss.to_bits());
    assert!(bits(&a) == bits(&b));
    let other = StepSettings { dropout_seed: Some(4), ..kept };
    assert!(bits(&a) != bits(&step(&model, &rows, &other).0), "another seed drops others");
}

#[test]
fn threads_change_no_bit() {
    let rows = rows(8, 6);
    let kept = StepSettings { dropout_seed: Some(3), ..settings(40) };
    let (a, _) = step(&adapted(1, 0.3), &rows, &kept);
    for threads in [2, 3] {
        assert!(bits(&a) == bits(&step(&adapted(threads, 0.3), &rows, &kept).0), "{threads} threads");
    }
}

#[test]
fn lora_plus_moves_b_by_its_ratio_and_a_as_before() {
    let rows = rows(6, 7);
    let moved = |ratio: f64| {
        let mut model = adapted(1, 0.0);
        let before: Vec<Vec<f32>> = model.params.iter().map(|(_, p)| p.value.data.to_vec()).collect();
        let (grads, _) = step(&model, &rows, &settings(100));
        let config = AdamWConfig { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 };
        let mut adamw = AdamW::new(config, &model.params);
        update(&mut model, &mut adamw, &grads, 1e-2, ratio);
        let sums = |role: ParamRole| {
            let of = model.params.iter().zip(&before).filter(|((_, p), _)| p.role == role);
            of.map(|((_, p), b)| p.value.data.iter().zip(b).map(|(x, y)| f64::from((x - y).abs())).sum::<f64>())
                .sum::<f64>()
        };
        (sums(ParamRole::LoraA), sums(ParamRole::LoraB))
    };
    let ((a1, b1), (a16, b16)) = (moved(1.0), moved(16.0));
    assert!(a1 > 0.0 && b1 > 0.0);
    assert_eq!(a1.to_bits(), a16.to_bits());
    assert!((b16 / b1 - 16.0).abs() < 1e-3, "{}", b16 / b1);
}

#[test]
fn the_first_row_token_and_the_prompt_carry_no_loss() {
    let model = adapted(1, 0.0);
    let mut row = rows(1, 8).remove(0);
    row.train[0] = true;
    let (_, with) = step(&model, std::slice::from_ref(&row), &settings(100));
    row.train[0] = false;
    let (_, without) = step(&model, std::slice::from_ref(&row), &settings(100));
    assert_eq!((with.labels, with.loss.to_bits()), (without.labels, without.loss.to_bits()));
    assert_eq!(with.labels, row.labels());
}
