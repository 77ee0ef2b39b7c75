//! The linear layer: frozen, trainable, with bias, LoRA, dropout, DoRA, and the storages a frozen weight may have.
use super::*;
use crate::op::Store;
use crate::{Dora, Frozen, Linear, Lora, ParamId, Storage, Weight};

const T: usize = 4;
const INP: usize = 6;
const OUT: usize = 5;

fn frozen(seed: u64, rows: usize, cols: usize) -> (Weight, Vec<f64>) {
    let w = normal(seed, rows, cols);
    let values = wide(&w);
    (Weight::Frozen(Frozen::from_f32(rows, cols, w.data)), values)
}

fn layer(weight: Weight, bias: Option<Weight>, lora: Option<Lora>) -> &'static Linear {
    leak(Linear { name: "m.proj".into(), in_features: INP, out_features: OUT, weight, bias, lora })
}

fn lora(a: usize, rank: usize, dropout: f32, dora: Option<Dora>) -> Lora {
    Lora { a: ParamId(a), b: ParamId(a + 1), rank, scaling: 1.75, dropout, dora, stream: 42 }
}

/// x·Wᵀ + s·(masked x)·Aᵀ·Bᵀ
fn low_rank(x: &[f64], masked: &[f64], w: &[f64], a: &[f64], b: &[f64], rank: usize) -> Vec<f64> {
    let u = times_transposed(masked, a, T, INP, rank);
    let delta = times_transposed(&u, b, T, rank, OUT);
    times_transposed(x, w, T, INP, OUT).iter().zip(delta).map(|(y, d)| y + 1.75 * d).collect()
}

fn add_bias(mut y: Vec<f64>, b: &[f64]) -> Vec<f64> {
    y.iter_mut().enumerate().for_each(|(i, y)| *y += b[i % OUT]);
    y
}

#[test]
fn frozen_weight_and_bias() {
    let (weight, w) = frozen(1, OUT, INP);
    let (bias, b) = frozen(2, OUT, 1);
    let plain = layer(weight.clone(), None, None);
    Case::new("frozen", vec![normal(3, T, INP)], &[])
        .check(|tape, x| tape.linear(&x[0], plain), |x, _| times_transposed(&x[0], &w, T, INP, OUT));
    let biased = layer(weight, Some(bias), None);
    Case::new("frozen with bias", vec![normal(3, T, INP)], &[])
        .check(|tape, x| tape.linear(&x[0], biased), |x, _| add_bias(times_transposed(&x[0], &w, T, INP, OUT), &b));
}

#[test]
fn every_storage_of_a_frozen_weight_is_widened_exactly() {
    let w = normal(1, OUT, INP);
    let bits: Vec<u16> = w.data.iter().map(|x| half::bf16::from_f32(*x).to_bits()).collect();
    let rounded: Vec<f64> = w.data.iter().map(|x| half::bf16::from_f32(*x).to_f64()).collect();
    let bytes32: Vec<u8> = w.data.iter().flat_map(|x| x.to_le_bytes()).collect();
    let bytes16: Vec<u8> = bits.iter().flat_map(|x| x.to_le_bytes()).collect();
    // A view one byte into its buffer: never aligned for f32 or u16 when the buffer itself is, and the other way round.
    struct Shifted(Vec<u8>, usize);
    impl AsRef<[u8]> for Shifted {
        fn as_ref(&self) -> &[u8] {
            &self.0[self.1..]
        }
    }
    let shifted = |b: &[u8], by: usize| Arc::new(Shifted([&vec![0u8; by], b].concat(), by));
    for by in 0..3 {
        let storages = [
            (Storage::mapped_f32(shifted(&bytes32, by)), wide(&w)),
            (Storage::mapped_bf16(shifted(&bytes16, by)), rounded.clone()),
            (Storage::Bf16(Arc::new(bits.clone())), rounded.clone()),
        ];
        for (storage, w) in storages {
            let l = layer(Weight::Frozen(Frozen { rows: OUT, cols: INP, storage }), None, None);
            Case::new("storage", vec![normal(3, T, INP)], &[])
                .check(|tape, x| tape.linear(&x[0], l), |x, _| times_transposed(&x[0], &w, T, INP, OUT));
        }
    }
}

#[test]
fn trainable_weight_and_bias() {
    let l = layer(Weight::Param(ParamId(0)), Some(Weight::Param(ParamId(1))), None);
    Case::new("trainable", vec![normal(3, T, INP)], &[normal(1, OUT, INP), normal(2, OUT, 1)])
        .check(|tape, x| tape.linear(&x[0], l), |x, p| add_bias(times_transposed(&x[0], &p[0], T, INP, OUT), &p[1]));
}

#[test]
fn trainable_bias_alone() {
    let (weight, w) = frozen(1, OUT, INP);
    let l = layer(weight, Some(Weight::Param(ParamId(0))), None);
    Case::new("bias", vec![normal(3, T, INP)], &[normal(2, OUT, 1)])
        .check(|tape, x| tape.linear(&x[0], l), |x, p| add_bias(times_transposed(&x[0], &w, T, INP, OUT), &p[0]));
}

#[test]
fn lora_over_a_frozen_weight_of_both_types() {
    for rank in [1, 3, 8] {
        let (weight, w) = frozen(1, OUT, INP);
        let (bias, b) = frozen(2, OUT, 1);
        let l = layer(weight, Some(bias), Some(lora(0, rank, 0.0, None)));
        Case::new("lora", vec![normal(3, T, INP)], &[normal(4, rank, INP), normal(5, OUT, rank)]).check(
            |tape, x| tape.linear(&x[0], l),
            |x, p| add_bias(low_rank(&x[0], &x[0], &w, &p[0], &p[1], rank), &b),
        );
    }
    let w: Vec<half::bf16> = normal(1, OUT, INP).data.iter().map(|x| half::bf16::from_f32(*x)).collect();
    let storage = Storage::Bf16(Arc::new(w.iter().map(|x| x.to_bits()).collect()));
    let w: Vec<f64> = w.iter().map(|x| x.to_f64()).collect();
    let l = layer(Weight::Frozen(Frozen { rows: OUT, cols: INP, storage }), None, Some(lora(0, 2, 0.0, None)));
    Case::new("lora over bf16", vec![normal(3, T, INP)], &[normal(4, 2, INP), normal(5, OUT, 2)])
        .check(|tape, x| tape.linear(&x[0], l), |x, p| low_rank(&x[0], &x[0], &w, &p[0], &p[1], 2));
}

#[test]
fn lora_beside_a_trainable_weight() {
    let l = layer(Weight::Param(ParamId(0)), None, Some(lora(1, 2, 0.0, None)));
    Case::new("lora and weight", vec![normal(3, T, INP)], &[normal(1, OUT, INP), normal(4, 2, INP), normal(5, OUT, 2)])
        .check(|tape, x| tape.linear(&x[0], l), |x, p| low_rank(&x[0], &x[0], &p[0], &p[1], &p[2], 2));
}

/// The factors (0 or 1/(1-p)) that dropout puts on an input of `rows x cols`, read through a layer that is nothing
/// but the adapter path: W = 0, A = B = identity, s = 1, x = 1.
pub(super) fn dropout_factors(rows: usize, cols: usize, dropout: f32, stream: u64, key: DropoutKey) -> Vec<f64> {
    let identity =
        || Tensor::new(cols, cols, (0..cols * cols).map(|i| f32::from(u8::from(i / cols == i % cols))).collect());
    let params = store(&[identity(), identity()]);
    let lora = Lora { a: ParamId(0), b: ParamId(1), rank: cols, scaling: 1.0, dropout, dora: None, stream };
    let weight = Weight::Frozen(Frozen::from_f32(cols, cols, vec![0.0; cols * cols]));
    let l =
        Linear { name: "probe".into(), in_features: cols, out_features: cols, weight, bias: None, lora: Some(lora) };
    let context = Context::new(1, Precision::F32);
    let mut tape = Tape::new(&context, &params, Some(key));
    let x = Var::constant(Tensor::new(rows, cols, vec![1.0; rows * cols]));
    wide(tape.linear(&x, &l).value.f32())
}

#[test]
fn lora_with_dropout_on_its_own_path() {
    let (weight, w) = frozen(1, OUT, INP);
    let l = layer(weight, None, Some(lora(0, 3, 0.4, None)));
    let key = DropoutKey { seed: 7, micro_step: 3 };
    let factors = dropout_factors(T, INP, 0.4, 42, key);
    assert!(factors.contains(&0.0) && factors.iter().any(|f| *f > 1.0), "the mask should do something: {factors:?}");
    let mut case = Case::new("dropout", vec![normal(3, T, INP)], &[normal(4, 3, INP), normal(5, OUT, 3)]);
    case.dropout = Some(key);
    case.check(
        |tape, x| tape.linear(&x[0], l),
        |x, p| {
            let masked: Vec<f64> = x[0].iter().zip(&factors).map(|(x, f)| x * f).collect();
            low_rank(&x[0], &masked, &w, &p[0], &p[1], 3)
        },
    );
}

#[test]
fn dropout_has_the_right_mean_and_depends_on_its_key_alone() {
    let key = DropoutKey { seed: 1, micro_step: 2 };
    for p in [0.05f32, 0.1, 0.5, 0.9] {
        let f = dropout_factors(2000, 10, p, 9, key);
        let zeros = f.iter().filter(|x| **x == 0.0).count() as f64 / f.len() as f64;
        // Five standard deviations of a binomial share over 20,000 draws.
        let sigma = (f64::from(p) * (1.0 - f64::from(p)) / f.len() as f64).sqrt();
        assert!((zeros - f64::from(p)).abs() < 5.0 * sigma, "p = {p}: {zeros} zeroed");
        let kept = f64::from(1.0 / (1.0 - p));
        assert!(f.iter().all(|x| *x == 0.0 || (x - kept).abs() < 1e-5 * kept), "kept entries are scaled by 1/(1-p)");
        // No row or column is favoured: every column's share is near p.
        for c in 0..10 {
            let z = (0..2000).filter(|r| f[r * 10 + c] == 0.0).count() as f64 / 2000.0;
            assert!(
                (z - f64::from(p)).abs() < 6.0 * (f64::from(p) * (1.0 - f64::from(p)) / 2000.0).sqrt(),
                "column {c} of p = {p}: {z}"
            );
        }
    }
    let f = |seed, micro_step, stream| dropout_factors(50, 10, 0.5, stream, DropoutKey { seed, micro_step });
    assert_eq!(f(1, 2, 9), f(1, 2, 9));
    for other in [f(2, 2, 9), f(1, 3, 9), f(1, 2, 10)] {
        let same = other.iter().zip(f(1, 2, 9)).filter(|(a, b)| **a == *b).count();
        assert!((190..=310).contains(&same), "masks of other keys agree by chance only: {same} of 500");
    }
    // Rows of a larger input keep the masks of the smaller one: the counter is the entry's index.
    assert_eq!(dropout_factors(3, 10, 0.5, 9, key)[..], dropout_factors(6, 10, 0.5, 9, key)[..30]);
}

#[test]
fn dropout_is_off_without_a_key_and_at_zero() {
    let (weight, _) = frozen(1, OUT, INP);
    let params = store(&[normal(4, 3, INP), normal(5, OUT, 3)]);
    let context = Context::new(1, Precision::F32);
    let x = Var::constant(normal(3, T, INP));
    let run = |p: f32, key: Option<DropoutKey>| {
        let l = Linear {
            name: "m".into(),
            in_features: INP,
            out_features: OUT,
            weight: weight.clone(),
            bias: None,
            lora: Some(lora(0, 3, p, None)),
        };
        let mut tape = Tape::new(&context, &params, key);
        let y = tape.linear(&x, &l);
        y.value.f32().data.clone()
    };
    let key = Some(DropoutKey { seed: 1, micro_step: 1 });
    assert_eq!(run(0.5, None), run(0.0, key));
    assert_ne!(run(0.5, None), run(0.5, key));
}

#[test]
fn dora_with_and_without_bias() {
    for with_bias in [false, true] {
        let (weight, w) = frozen(1, OUT, INP);
        let (bias, b) = frozen(2, OUT, 1);
        let rank = 2;
        let (a0, b0) = (normal(4, rank, INP), normal(5, OUT, rank));
        let base: Vec<f32> = w.chunks_exact(INP).map(|r| r.iter().map(|x| x * x).sum::<f64>() as f32).collect();
        let dora = Dora { magnitude: ParamId(2), base_norm2: Arc::new(base) };
        let l = layer(weight, with_bias.then_some(bias), Some(lora(0, rank, 0.0, Some(dora))));
        // The norm carries no gradient (Liu et al. 2024, §4.3): the reference holds it at the starting values.
        let (wa, wb) = (wide(&a0), wide(&b0));
        let norms: Vec<f64> = (0..OUT)
            .map(|o| {
                (0..INP)
                    .map(|i| w[o * INP + i] + 1.75 * (0..rank).map(|j| wb[o * rank + j] * wa[j * INP + i]).sum::<f64>())
                    .map(|x| x * x)
                    .sum::<f64>()
                    .sqrt()
            })
            .collect();
        // Directions of A and B move the norm of the operation itself, so only entries are compared, not slopes.
        let case = Case::new("dora", vec![normal(3, T, INP)], &[a0, b0, normal(6, OUT, 1)]);
        case.check_entries(
            |tape, x| tape.linear(&x[0], l),
            |x, p| {
                let mut y = low_rank(&x[0], &x[0], &w, &p[0], &p[1], rank);
                y.iter_mut().enumerate().for_each(|(i, y)| *y *= p[2][i % OUT] / norms[i % OUT]);
                if with_bias { add_bias(y, &b) } else { y }
            },
        );
    }
}

#[test]
fn merged_weight_is_the_layer_without_its_adapter() {
    let (weight, w) = frozen(1, OUT, INP);
    let base: Vec<f32> = w.chunks_exact(INP).map(|r| r.iter().map(|x| x * x).sum::<f64>() as f32).collect();
    for dora in [None, Some(Dora { magnitude: ParamId(2), base_norm2: Arc::new(base) })] {
        let l = layer(weight.clone(), None, Some(lora(0, 2, 0.3, dora)));
        let params = store(&[normal(4, 2, INP), normal(5, OUT, 2), normal(6, OUT, 1)]);
        let merged = l.merged(&params);
        let context = Context::new(1, Precision::F32);
        let x = normal(3, T, INP);
        let mut tape = Tape::eval(&context, &params);
        let y = tape.linear(&Var::constant(x.clone()), l);
        close("merged", &wide(y.value.f32()), &times_transposed(&wide(&x), &wide(&merged), T, INP, OUT), 1e-5);
    }
}

#[test]
fn bf16_products_round_their_operands_and_sum_in_f32() {
    let (t, inp, out) = (3, 70, 9);
    let (x, w) = (normal(1, t, inp), normal(2, out, inp));
    let round = |t: &Tensor| t.data.iter().map(|x| half::bf16::from_f32(*x).to_f64()).collect::<Vec<_>>();
    let l = Linear {
        name: "m".into(),
        in_features: inp,
        out_features: out,
        weight: Weight::Frozen(Frozen::from_f32(out, inp, w.data.clone())),
        bias: None,
        lora: None,
    };
    let params = ParamStore::default();
    let context = Context::new(1, Precision::Bf16);
    let mut tape = Tape::eval(&context, &params);
    let want = times_transposed(&round(&x), &round(&w), t, inp, out);
    let y = tape.linears(&Var::constant(x.clone()), vec![(&l, Store::F32)]).remove(0);
    close("bf16", &wide(y.value.f32()), &want, 1e-5);
    // Stored as an activation, the sum is rounded once more: half a step of 8 bits.
    let y = tape.linear(&Var::constant(x.clone()), &l);
    close("bf16, stored", &wide(&y.value.widened(&context.pool)), &want, 1.01 / 256.0);
}

#[test]
fn one_thread_and_three_give_the_same_bits() {
    let (weight, _) = frozen(1, OUT, INP);
    let l = layer(weight, None, Some(lora(0, 3, 0.2, None)));
    let params = store(&[normal(4, 3, INP), normal(5, OUT, 3)]);
    let run = |threads| {
        let context = Context::new(threads, Precision::F32);
        let mut tape = Tape::new(&context, &params, Some(DropoutKey { seed: 5, micro_step: 0 }));
        let x = tape.leaf(Arc::new(normal(3, T, INP).into()));
        let y = tape.linear(&x, l);
        let value = y.value.f32().data.clone();
        let mut grads = Grads::new(&params);
        let dx = tape.backward_into(&mut grads, &y, normal(6, T, OUT), &[&x]);
        (value, dx, grads.tensors)
    };
    assert_eq!(run(1), run(3));
}
