//! Head and cross-entropy: frozen, trainable and adapted heads, rows used twice or not at all, several chunks.
use super::*;
use crate::{Frozen, Linear, Lora, ParamId, Weight};

const D: usize = 4;
const V: usize = 6;
/// Row 1 carries two targets, rows 0 and 4 none.
const TARGETS: [(usize, u32); 4] = [(1, 5), (1, 0), (2, 3), (3, 3)];

fn head(weight: Weight, lora: Option<Lora>) -> &'static Linear {
    leak(Linear { name: "lm_head".into(), in_features: D, out_features: V, weight, bias: None, lora })
}

fn nll(z: &[f64], target: u32) -> f64 {
    let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    max + z.iter().map(|x| (x - max).exp()).sum::<f64>().ln() - z[target as usize]
}

fn loss(z: &[f64]) -> Vec<f64> {
    vec![TARGETS.iter().map(|(row, target)| nll(&z[row * V..(row + 1) * V], *target)).sum()]
}

#[test]
fn frozen_trainable_and_adapted_heads() {
    let (h, w) = (normal(1, 5, D), normal(2, V, D));
    let frozen = || Weight::Frozen(Frozen::from_f32(V, D, w.data.clone()));
    let plain = head(frozen(), None);
    Case::new("frozen head", vec![h.clone()], &[]).check(
        |tape, x| tape.head_loss(&x[0], plain, &TARGETS).total,
        |x, _| loss(&times_transposed(&x[0], &wide(&w), 5, D, V)),
    );
    let trainable = head(Weight::Param(ParamId(0)), None);
    Case::new("trainable head", vec![h.clone()], std::slice::from_ref(&w)).check(
        |tape, x| tape.head_loss(&x[0], trainable, &TARGETS).total,
        |x, p| loss(&times_transposed(&x[0], &p[0], 5, D, V)),
    );
    let lora = Lora { a: ParamId(0), b: ParamId(1), rank: 2, scaling: 0.5, dropout: 0.0, dora: None, stream: 0 };
    let adapted = head(frozen(), Some(lora));
    Case::new("adapted head", vec![h], &[normal(3, 2, D), normal(4, V, 2)]).check(
        |tape, x| tape.head_loss(&x[0], adapted, &TARGETS).total,
        |x, p| {
            let u = times_transposed(&x[0], &p[0], 5, D, 2);
            let delta = times_transposed(&u, &p[1], 5, 2, V);
            loss(
                &times_transposed(&x[0], &wide(&w), 5, D, V)
                    .iter()
                    .zip(delta)
                    .map(|(z, d)| z + 0.5 * d)
                    .collect::<Vec<_>>(),
            )
        },
    );
}

#[test]
fn per_token_losses_come_in_the_order_of_the_targets() {
    let (h, w) = (normal(1, 5, D), normal(2, V, D));
    let z = times_transposed(&wide(&h), &wide(&w), 5, D, V);
    let head = head(Weight::Frozen(Frozen::from_f32(V, D, w.data)), None);
    let (context, params) = (Context::new(1, Precision::F32), ParamStore::default());
    let mut recorded = Tape::new(&context, &params, None);
    let leaf = recorded.leaf(Arc::new(h.clone().into()));
    let with_gradient = recorded.head_loss(&leaf, head, &TARGETS);
    let without = Tape::eval(&context, &params).head_loss(&Var::constant(h), head, &TARGETS);
    for (i, (row, target)) in TARGETS.iter().enumerate() {
        let want = nll(&z[row * V..(row + 1) * V], *target);
        assert!((f64::from(with_gradient.per_token[i]) - want).abs() < 1e-5);
        assert!((f64::from(without.per_token[i]) - want).abs() < 1e-5);
    }
    assert!((with_gradient.sum() - f64::from(with_gradient.total.value.f32().data[0])).abs() < 1e-5);
    assert!(!without.total.needs_grad());
}

#[test]
fn no_targets_is_no_loss_and_no_gradient() {
    let head = head(Weight::Frozen(Frozen::from_f32(V, D, normal(2, V, D).data)), None);
    let (context, params) = (Context::new(1, Precision::F32), ParamStore::default());
    let mut tape = Tape::new(&context, &params, None);
    let h = tape.leaf(Arc::new(normal(1, 3, D).into()));
    let loss = tape.head_loss(&h, head, &[]);
    assert_eq!(loss.sum(), 0.0);
    let dh = tape.backward_into(&mut Grads::new(&params), &loss.total, Tensor::new(1, 1, vec![1.0]), &[&h]);
    assert!(dh[0].as_ref().is_none_or(|d| d.f32().data.iter().all(|x| *x == 0.0)));
}

#[test]
fn large_logits_neither_overflow_nor_lose_the_loss() {
    let mut w = normal(2, V, D);
    w.scale(1e4);
    let (h, wide_w) = (normal(1, 5, D), wide(&w));
    let head = head(Weight::Frozen(Frozen::from_f32(V, D, w.data)), None);
    let z = times_transposed(&wide(&h), &wide_w, 5, D, V);
    let (context, params) = (Context::new(1, Precision::F32), ParamStore::default());
    let loss = Tape::eval(&context, &params).head_loss(&Var::constant(h), head, &TARGETS);
    for (got, (row, target)) in loss.per_token.iter().zip(TARGETS) {
        let want = nll(&z[row * V..(row + 1) * V], target);
        assert!(got.is_finite() && (f64::from(*got) - want).abs() <= 1e-5 * want.abs().max(1e4), "{got} for {want}");
    }
}

/// A vocabulary so large that a chunk holds three rows: seven targets are three chunks, two of one row each share a row
/// of h across a border.
#[test]
fn several_chunks_are_one_loss() {
    const BIG: usize = 5 << 20;
    let (d, rank) = (2, 1);
    let targets: [(usize, u32); 7] = [(0, 7), (1, BIG as u32 - 1), (2, 0), (2, 99), (3, 1234), (4, 5), (4, 4_000_000)];
    let (h, w) = (normal(1, 5, d), normal(2, BIG, d));
    let (a, b) = (normal(3, rank, d), normal(4, BIG, rank));
    let lora = Lora { a: ParamId(0), b: ParamId(1), rank, scaling: 0.5, dropout: 0.0, dora: None, stream: 0 };
    let head = Linear {
        name: "lm_head".into(),
        in_features: d,
        out_features: BIG,
        weight: Weight::Frozen(Frozen::from_f32(BIG, d, w.data.clone())),
        bias: None,
        lora: Some(lora),
    };
    let params = store(&[a.clone(), b.clone()]);
    let context = Context::new(2, Precision::F32);
    let mut tape = Tape::new(&context, &params, None);
    let leaf = tape.leaf(Arc::new(h.clone().into()));
    let loss = tape.head_loss(&leaf, &head, &targets);
    let mut grads = Grads::new(&params);
    let dh = tape
        .backward_into(&mut grads, &loss.total, Tensor::new(1, 1, vec![0.5]), &[&leaf])
        .remove(0)
        .expect("h wants a gradient");

    // dz = (softmax − onehot) / 2; dh = dz·W', dB = s·dzᵀ·(h·Aᵀ), dA = s·(dz·B)ᵀ·h with W' = W + s·B·A.
    let (mut want_h, mut want_a, mut want_b) = (vec![0f64; 5 * d], vec![0f64; d], vec![0f64; BIG]);
    for (i, (row, target)) in targets.iter().enumerate() {
        let x = [f64::from(h.row(*row)[0]), f64::from(h.row(*row)[1])];
        let u = x[0] * f64::from(a.data[0]) + x[1] * f64::from(a.data[1]);
        let z: Vec<f64> = (0..BIG)
            .map(|v| {
                x[0] * f64::from(w.data[2 * v]) + x[1] * f64::from(w.data[2 * v + 1]) + 0.5 * f64::from(b.data[v]) * u
            })
            .collect();
        let expected = nll(&z, *target);
        assert!(
            (f64::from(loss.per_token[i]) - expected).abs() < 1e-5 * expected,
            "token {i}: {} for {expected}",
            loss.per_token[i]
        );
        let lse = expected + z[*target as usize];
        let mut through_b = 0.0;
        for (v, z) in z.iter().enumerate() {
            let dz = 0.5 * ((z - lse).exp() - f64::from(u8::from(v == *target as usize)));
            let bv = f64::from(b.data[v]);
            want_h[row * 2] += dz * (f64::from(w.data[2 * v]) + 0.5 * bv * f64::from(a.data[0]));
            want_h[row * 2 + 1] += dz * (f64::from(w.data[2 * v + 1]) + 0.5 * bv * f64::from(a.data[1]));
            want_b[v] += 0.5 * dz * u;
            through_b += dz * bv;
        }
        want_a[0] += 0.5 * through_b * x[0];
        want_a[1] += 0.5 * through_b * x[1];
    }
    // Sums over five million entries in f32.
    close("dh", &wide(dh.f32()), &want_h, 1e-4);
    close("dA", &wide(grads.get(ParamId(0)).expect("A")), &want_a, 1e-4);
    close("dB", &wide(grads.get(ParamId(1)).expect("B")), &want_b, 1e-5);
}
