//! AdamW against torch's formula computed here in f64, gradient bookkeeping, and block masks through training.
use loar_tape::{AdamW, AdamWConfig, BlockMask, Grads, ParamId, ParamRole, ParamStore, Pool, Tensor};

fn tensor(seed: u32, rows: usize, cols: usize) -> Tensor {
    let data = (0..rows * cols).map(|i| ((i as f32 + 1.3 * seed as f32) * 12.9898).sin()).collect();
    Tensor::new(rows, cols, data)
}

const CONFIG: AdamWConfig = AdamWConfig { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1 };

/// `torch.optim.AdamW`, `_single_tensor_adamw`, in f64.
struct Torch {
    p: Vec<f64>,
    m: Vec<f64>,
    v: Vec<f64>,
    step: i32,
}

impl Torch {
    fn new(t: &Tensor) -> Torch {
        let zeros = vec![0.0; t.data.len()];
        Torch { p: t.data.iter().map(|x| f64::from(*x)).collect(), m: zeros.clone(), v: zeros, step: 0 }
    }

    fn step(&mut self, c: &AdamWConfig, g: &[f64], lr: f64, decay: f64) {
        self.step += 1;
        for (((p, m), v), g) in self.p.iter_mut().zip(&mut self.m).zip(&mut self.v).zip(g) {
            *p *= 1.0 - lr * decay;
            *m = c.beta1 * *m + (1.0 - c.beta1) * g;
            *v = c.beta2 * *v + (1.0 - c.beta2) * g * g;
            let denominator = v.sqrt() / (1.0 - c.beta2.powi(self.step)).sqrt() + c.eps;
            *p -= lr / (1.0 - c.beta1.powi(self.step)) * *m / denominator;
        }
    }
}

#[test]
fn three_steps_are_those_of_torch() {
    for config in [CONFIG, AdamWConfig { beta1: 0.8, beta2: 0.95, eps: 1e-3, weight_decay: 0.0 }] {
        let mut params = ParamStore::default();
        let ids: Vec<ParamId> =
            (0..3).map(|i| params.add(format!("p{i}"), ParamRole::LoraA, tensor(i, 3, 4), None)).collect();
        let mut torch: Vec<Torch> = ids.iter().map(|id| Torch::new(&params.get(*id).value)).collect();
        let mut adam = AdamW::new(config, &params);
        for step in 0..3u32 {
            let mut grads = Grads::new(&params);
            let (rate, decays) = (|id: ParamId| if id.0 == 1 { 2e-2 } else { 1e-2 }, |id: ParamId| id.0 != 1);
            for id in &ids {
                // Parameter 2 has a gradient in the first step only: later ones count as zero and its moments decay.
                let g = tensor(10 * step + id.0 as u32 + 50, 3, 4);
                let zero = id.0 == 2 && step > 0;
                let wide: Vec<f64> = g.data.iter().map(|x| if zero { 0.0 } else { f64::from(*x) }).collect();
                torch[id.0].step(&config, &wide, rate(*id), if decays(*id) { config.weight_decay } else { 0.0 });
                if !zero {
                    grads.add(*id, g);
                }
            }
            adam.step(&Pool::new(2), &mut params, &grads, &rate, &decays);
            for id in &ids {
                for (i, (p, want)) in params.get(*id).value.data.iter().zip(&torch[id.0].p).enumerate() {
                    assert!(
                        (f64::from(*p) - want).abs() < 1e-6,
                        "step {step}, parameter {}, entry {i}: {p} for {want}",
                        id.0
                    );
                }
                for (m, want) in adam.state.first[id.0].data.iter().zip(&torch[id.0].m) {
                    assert!((f64::from(*m) - want).abs() < 1e-6);
                }
                for (v, want) in adam.state.second[id.0].data.iter().zip(&torch[id.0].v) {
                    assert!((f64::from(*v) - want).abs() < 1e-6 * want.abs().max(1e-3));
                }
            }
        }
        assert_eq!(adam.state.step, 3);
    }
}

#[test]
fn the_first_step_moves_by_the_learning_rate_and_decay_is_decoupled() {
    // By hand: m̂ = g, √v̂ = |g|, so p = 2·(1 − 0.01·0.1) − 0.01·sign(g).
    let mut params = ParamStore::default();
    let id = params.add("p".into(), ParamRole::Full, Tensor::new(1, 2, vec![2.0, 2.0]), None);
    let mut adam = AdamW::new(CONFIG, &params);
    let mut grads = Grads::new(&params);
    grads.add(id, Tensor::new(1, 2, vec![1e-3, -7.0]));
    adam.step(&Pool::new(2), &mut params, &grads, &|_| 0.01, &|_| true);
    assert!((params.get(id).value.data[0] - 1.988).abs() < 1e-5);
    assert!((params.get(id).value.data[1] - 2.008).abs() < 1e-5);
}

#[test]
fn without_any_gradient_only_decay_moves_a_parameter() {
    let mut params = ParamStore::default();
    let a = params.add("decayed".into(), ParamRole::Full, Tensor::new(1, 1, vec![1.0]), None);
    let b = params.add("kept".into(), ParamRole::FullVector, Tensor::new(1, 1, vec![1.0]), None);
    let mut adam = AdamW::new(CONFIG, &params);
    for _ in 0..2 {
        let grads = Grads::new(&params);
        adam.step(&Pool::new(2), &mut params, &grads, &|_| 0.5, &|id| id == a);
    }
    assert!((params.get(a).value.data[0] - 0.95 * 0.95).abs() < 1e-6);
    assert_eq!(params.get(b).value.data[0], 1.0);
}

#[test]
fn a_restored_state_goes_on_with_the_same_bits() {
    let run = |restore: bool| {
        let mut params = ParamStore::default();
        let id = params.add("p".into(), ParamRole::LoraA, tensor(1, 2, 3), None);
        let mut adam = AdamW::new(CONFIG, &params);
        for step in 0..6u32 {
            if restore && step == 3 {
                let state = adam.state.clone();
                adam = AdamW::new(CONFIG, &params);
                adam.state = state;
            }
            let mut grads = Grads::new(&params);
            grads.add(id, tensor(step + 7, 2, 3));
            adam.step(&Pool::new(2), &mut params, &grads, &|_| 1e-2, &|_| true);
        }
        params.get(id).value.data.clone()
    };
    assert_eq!(run(true), run(false));
}

#[test]
fn one_thread_and_four_step_alike() {
    let run = |threads: usize| {
        let mut params = ParamStore::default();
        // Long enough to be cut among threads.
        let id = params.add("p".into(), ParamRole::LoraA, tensor(1, 300, 700), None);
        let mut adam = AdamW::new(CONFIG, &params);
        let pool = Pool::new(threads);
        for step in 0..2u32 {
            let mut grads = Grads::new(&params);
            grads.add(id, tensor(step + 7, 300, 700));
            adam.step(&pool, &mut params, &grads, &|_| 1e-2, &|_| true);
        }
        params.get(id).value.data.clone()
    };
    assert_eq!(run(1), run(4));
}

#[test]
fn gradients_add_scale_and_measure() {
    let mut params = ParamStore::default();
    let ids: Vec<ParamId> =
        (0..3).map(|i| params.add(format!("p{i}"), ParamRole::LoraA, Tensor::zeros(1, 2), None)).collect();
    let mut grads = Grads::new(&params);
    assert_eq!(grads.norm(), 0.0);
    grads.add(ids[0], Tensor::new(1, 2, vec![1.0, 2.0]));
    grads.add(ids[0], Tensor::new(1, 2, vec![2.0, 2.0]));
    grads.add(ids[2], Tensor::new(1, 2, vec![0.0, 12.0]));
    // √(3² + 4² + 12²) = 13
    assert_eq!(grads.norm(), 13.0);
    grads.scale(0.5);
    assert_eq!(grads.get(ids[0]).map(|t| t.data.to_vec()), Some(vec![1.5, 2.0]));
    assert!(grads.get(ids[1]).is_none());
    assert_eq!(grads.non_finite(&Pool::new(2)), None);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut grads = grads.clone();
        grads.add(ids[2], Tensor::new(1, 2, vec![bad, 0.0]));
        assert_eq!(grads.non_finite(&Pool::new(2)), Some(ids[2]));
    }
}

#[test]
fn parameters_are_found_by_name_and_counted_without_masked_entries() {
    let mut params = ParamStore::default();
    assert!(params.is_empty());
    let a = params.add("a".into(), ParamRole::LoraA, tensor(1, 4, 6), None);
    let b = params.add("b".into(), ParamRole::LoraB, tensor(2, 6, 4), Some(BlockMask { blocks: 2 }));
    assert_eq!((params.find("a"), params.find("b"), params.find("c")), (Some(a), Some(b), None));
    assert_eq!((params.len(), params.count()), (2, 24 + 12));
}

#[test]
fn bands_tile_any_size_and_count_what_is_inside() {
    for blocks in 1..6 {
        let mask = BlockMask { blocks };
        for n in blocks..23 {
            let bands: Vec<(usize, usize)> = (0..blocks).map(|i| mask.band(n, i)).collect();
            assert_eq!((bands[0].0, bands[blocks - 1].1), (0, n));
            assert!(bands.windows(2).all(|w| w[0].1 == w[1].0 && w[0].1 - w[0].0 >= w[1].1 - w[1].0));
            assert!(bands.iter().all(|(a, b)| (n / blocks..=n / blocks + 1).contains(&(b - a))));
            for cols in [blocks, 2 * blocks + 1] {
                let mut t = Tensor::new(n, cols, vec![1.0; n * cols]);
                mask.apply(&mut t);
                let kept = t.data.iter().filter(|x| **x == 1.0).count();
                assert_eq!(mask.count(n, cols), kept);
                assert_eq!(t.data.iter().filter(|x| **x == 0.0).count(), n * cols - kept);
            }
        }
    }
    // [5, 4] in two blocks: rows 0..3 with columns 0..2, rows 3..5 with columns 2..4.
    assert_eq!(BlockMask { blocks: 2 }.count(5, 4), 3 * 2 + 2 * 2);
}

#[test]
fn masked_entries_stay_exactly_zero_through_training() {
    let mask = BlockMask { blocks: 3 };
    let mut params = ParamStore::default();
    let id = params.add("masked".into(), ParamRole::LoraB, tensor(1, 7, 6), Some(mask));
    let free = params.add("free".into(), ParamRole::LoraA, tensor(2, 2, 3), None);
    let inside = |r: usize, c: usize| {
        (0..3).any(|i| {
            (mask.band(7, i).0..mask.band(7, i).1).contains(&r) && (mask.band(6, i).0..mask.band(6, i).1).contains(&c)
        })
    };
    let start = params.get(id).value.clone();
    let mut adam = AdamW::new(CONFIG, &params);
    for step in 0..5u32 {
        let mut grads = Grads::new(&params);
        grads.add(id, tensor(step + 3, 7, 6));
        grads.add(free, tensor(step + 4, 2, 3));
        grads.apply_masks(&params);
        assert!(grads.get(free).is_some_and(|g| g.data == tensor(step + 4, 2, 3).data), "unmasked gradients pass");
        adam.step(&Pool::new(2), &mut params, &grads, &|_| 1e-2, &|_| true);
    }
    let end = &params.get(id).value;
    for r in 0..7 {
        for c in 0..6 {
            let (a, b) = (start.row(r)[c], end.row(r)[c]);
            if inside(r, c) {
                assert_ne!(a, b, "entry ({r}, {c}) trains");
            } else {
                assert_eq!((a.to_bits(), b.to_bits()), (0, 0), "entry ({r}, {c}) is +0");
                assert_eq!(adam.state.first[id.0].row(r)[c].to_bits(), 0);
                assert_eq!(adam.state.second[id.0].row(r)[c].to_bits(), 0);
            }
        }
    }
}
