//! dispatch, grouped_linear, combine: experts with adapters, experts nobody chose, and the whole mixture at once.
use super::*;
use crate::op::{Assignment, RouterRule, Scoring};
use crate::{Frozen, Linear, Lora, ParamId, Weight};

const T: usize = 5;
const K: usize = 2;
const D: usize = 4;
const E: usize = 4;

/// Expert 2 gets no token; token 3 goes to the same experts as token 0 in the other order.
fn assignment() -> Arc<Assignment> {
    Arc::new(Assignment::new(vec![3, 0, 0, 1, 1, 3, 0, 3, 3, 1], K, E))
}

#[test]
fn an_assignment_sorts_slots_by_expert_and_back() {
    let a = assignment();
    assert_eq!(a.load(), [3, 3, 0, 4]);
    assert_eq!(a.offsets, [0, 3, 6, 6, 10]);
    // Stable: slots of an expert stay in token order.
    assert_eq!(a.order, [1, 2, 6, 3, 4, 9, 0, 5, 7, 8]);
    for (slot, p) in a.place.iter().enumerate() {
        assert_eq!(a.order[*p as usize] as usize, slot);
    }
}

#[test]
fn dispatch() {
    let a = assignment();
    Case::new("dispatch", vec![normal(1, T, D)], &[]).check(
        |tape, x| tape.dispatch(&x[0], &a),
        |x, _| {
            a.order
                .iter()
                .flat_map(|slot| x[0][*slot as usize / K * D..(*slot as usize / K + 1) * D].to_vec())
                .collect()
        },
    );
}

#[test]
fn combine() {
    let a = assignment();
    Case::new("combine", vec![normal(1, T * K, D), normal(2, T, K)], &[]).check(
        |tape, x| tape.combine(&x[0], &x[1], &a),
        |x, _| {
            let mut y = vec![0.0; T * D];
            for slot in 0..T * K {
                for i in 0..D {
                    y[slot / K * D + i] += x[1][slot] * x[0][a.place[slot] as usize * D + i];
                }
            }
            y
        },
    );
}

struct Experts {
    layers: &'static [Linear],
    weights: Vec<Vec<f64>>,
    rank: usize,
    inp: usize,
    out: usize,
    first: usize,
}

/// E layers `[out, inp]`; those of rank > 0 take parameters A, B from `first` on.
fn experts(seed: u64, inp: usize, out: usize, rank: usize, first: usize) -> Experts {
    let mut weights = Vec::new();
    let layers: Vec<Linear> = (0..E)
        .map(|e| {
            let w = normal(seed + e as u64, out, inp);
            weights.push(wide(&w));
            let lora = (rank > 0).then(|| Lora {
                a: ParamId(first + 2 * e),
                b: ParamId(first + 2 * e + 1),
                rank,
                scaling: 0.5,
                dropout: 0.0,
                dora: None,
                stream: 0,
            });
            Linear {
                name: format!("experts.{e}"),
                in_features: inp,
                out_features: out,
                weight: Weight::Frozen(Frozen::from_f32(out, inp, w.data)),
                bias: None,
                lora,
            }
        })
        .collect();
    Experts { layers: Vec::leak(layers), weights, rank, inp, out, first }
}

impl Experts {
    fn params(&self, seed: u64) -> Vec<Tensor> {
        (0..E as u64)
            .flat_map(|e| [normal(seed + 2 * e, self.rank, self.inp), normal(seed + 2 * e + 1, self.out, self.rank)])
            .collect()
    }

    fn apply(&self, e: usize, x: &[f64], p: &[Vec<f64>]) -> Vec<f64> {
        let mut y = times_transposed(x, &self.weights[e], 1, self.inp, self.out);
        if self.rank > 0 {
            let u = times_transposed(x, &p[self.first + 2 * e], 1, self.inp, self.rank);
            for (y, d) in y.iter_mut().zip(times_transposed(&u, &p[self.first + 2 * e + 1], 1, self.rank, self.out)) {
                *y += 0.5 * d;
            }
        }
        y
    }

    fn grouped(&self, a: &Assignment, x: &[f64], p: &[Vec<f64>]) -> Vec<f64> {
        a.order
            .iter()
            .enumerate()
            .flat_map(|(row, slot)| {
                self.apply(a.experts[*slot as usize] as usize, &x[row * self.inp..(row + 1) * self.inp], p)
            })
            .collect()
    }
}

#[test]
fn grouped_linear_frozen_and_with_adapters() {
    let a = assignment();
    for rank in [0, 2] {
        let e = experts(10, D, 3, rank, 0);
        let params = if rank > 0 { e.params(50) } else { Vec::new() };
        Case::new("grouped_linear", vec![normal(1, T * K, D)], &params)
            .check(|tape, x| tape.grouped_linear(&x[0], e.layers.iter().collect(), &a), |x, p| e.grouped(&a, &x[0], p));
    }
}

#[test]
fn an_expert_without_tokens_has_no_gradient() {
    let a = assignment();
    let e = experts(10, D, 3, 2, 0);
    let params = store(&e.params(50));
    let context = Context::new(2, Precision::F32);
    let mut tape = Tape::new(&context, &params, None);
    let y = tape.grouped_linear(&Var::constant(normal(1, T * K, D)), e.layers.iter().collect(), &a);
    let mut grads = Grads::new(&params);
    tape.backward(&mut grads, &y, normal(2, T * K, 3));
    let present: Vec<bool> = grads.tensors.iter().map(|g| g.is_some()).collect();
    assert_eq!(present, [true, true, true, true, false, false, true, true]);
}

#[test]
fn one_adapter_shared_by_two_layers_gets_both_gradients() {
    // PEFT's fused experts: gate and up of an expert point to the same A.
    let a = assignment();
    let layer = |seed: u64, b: usize| -> &'static [Linear] {
        let layers: Vec<Linear> = (0..E)
            .map(|e| {
                let lora =
                    Lora { a: ParamId(0), b: ParamId(b), rank: 2, scaling: 0.5, dropout: 0.0, dora: None, stream: 0 };
                let weight = Weight::Frozen(Frozen::from_f32(3, D, normal(seed + e as u64, 3, D).data));
                Linear {
                    name: format!("experts.{e}"),
                    in_features: D,
                    out_features: 3,
                    weight,
                    bias: None,
                    lora: Some(lora),
                }
            })
            .collect();
        Vec::leak(layers)
    };
    let (gate, up) = (layer(10, 1), layer(20, 2));
    let apply = |seed: u64, b: usize, x: &[f64], p: &[Vec<f64>]| -> Vec<f64> {
        a.order
            .iter()
            .enumerate()
            .flat_map(|(row, slot)| {
                let (x, e) = (&x[row * D..(row + 1) * D], u64::from(a.experts[*slot as usize]));
                let u = times_transposed(x, &p[0], 1, D, 2);
                let delta = times_transposed(&u, &p[b], 1, 2, 3);
                times_transposed(x, &wide(&normal(seed + e, 3, D)), 1, D, 3)
                    .into_iter()
                    .zip(delta)
                    .map(|(y, d)| y + 0.5 * d)
                    .collect::<Vec<_>>()
            })
            .collect()
    };
    Case::new("shared A", vec![normal(1, T * K, D)], &[normal(2, 2, D), normal(3, 3, 2), normal(4, 3, 2)]).check(
        |tape, x| {
            let g = tape.grouped_linear(&x[0], gate.iter().collect(), &a);
            let u = tape.grouped_linear(&x[0], up.iter().collect(), &a);
            tape.add(&g, &u)
        },
        |x, p| apply(10, 1, &x[0], p).iter().zip(apply(20, 2, &x[0], p)).map(|(g, u)| g + u).collect(),
    );
}

fn silu(g: f64) -> f64 {
    g / (1.0 + (-g).exp())
}

#[test]
fn the_whole_mixture_with_adapters_in_every_expert() {
    let (f, rank) = (3, 2);
    let gate = experts(10, D, f, rank, 0);
    let up = experts(20, D, f, rank, 2 * E);
    let down = experts(30, f, D, rank, 4 * E);
    let params: Vec<Tensor> = [gate.params(100), up.params(200), down.params(300)].concat();
    let router = normal(7, E, D);
    let rule = leak(RouterRule {
        scoring: Scoring::Sigmoid,
        num_experts_per_tok: K,
        n_group: 1,
        topk_group: 1,
        noaux_tc: true,
        norm_topk_prob: true,
        routed_scaling_factor: 2.5,
        bias: Some(Arc::new(vec![0.1, -0.2, 0.05, 0.0])),
    });
    let weight = leak(Weight::Frozen(Frozen::from_f32(E, D, router.data.clone())));
    Case::new("mixture", vec![normal(1, T, D)], &params).check(
        |tape, x| {
            let (a, w) = tape.route(&x[0], weight, rule);
            let rows = tape.dispatch(&x[0], &a);
            let g = tape.grouped_linear(&rows, gate.layers.iter().collect(), &a);
            let u = tape.grouped_linear(&rows, up.layers.iter().collect(), &a);
            let h = tape.swiglu(&g, &u);
            let y = tape.grouped_linear(&h, down.layers.iter().collect(), &a);
            tape.combine(&y, &w, &a)
        },
        |x, p| {
            let mut out = Vec::new();
            for x in x[0].chunks_exact(D) {
                let s: Vec<f64> =
                    times_transposed(x, &wide(&router), 1, D, E).iter().map(|z| 1.0 / (1.0 + (-z).exp())).collect();
                let mut order: Vec<usize> = (0..E).collect();
                let bias = rule.bias.as_ref().expect("set above");
                order.sort_by(|a, b| (s[*b] + f64::from(bias[*b])).total_cmp(&(s[*a] + f64::from(bias[*a]))));
                let total: f64 = order[..K].iter().map(|e| s[*e]).sum();
                let mut y = vec![0.0; D];
                for e in &order[..K] {
                    let h: Vec<f64> =
                        gate.apply(*e, x, p).iter().zip(up.apply(*e, x, p)).map(|(g, u)| silu(*g) * u).collect();
                    for (y, v) in y.iter_mut().zip(down.apply(*e, &h, p)) {
                        *y += s[*e] / total * 2.5 * v;
                    }
                }
                out.extend(y);
            }
            out
        },
    );
}
