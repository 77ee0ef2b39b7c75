//! The router: both scorings, with and without normalisation, groups of V2 and V3, the choice bias, ties.
use super::*;
use crate::op::{RouterRule, Scoring};
use crate::{Frozen, ParamId, Weight};

const T: usize = 5;
const D: usize = 6;
const E: usize = 8;

fn rule(scoring: Scoring, k: usize) -> RouterRule {
    RouterRule {
        scoring,
        num_experts_per_tok: k,
        n_group: 1,
        topk_group: 1,
        noaux_tc: false,
        norm_topk_prob: false,
        routed_scaling_factor: 1.0,
        bias: None,
    }
}

fn scores(rule: &RouterRule, x: &[f64], w: &[f64], t: usize) -> Vec<f64> {
    let z = times_transposed(x, w, t, D, E);
    match rule.scoring {
        Scoring::Sigmoid => z.iter().map(|z| 1.0 / (1.0 + (-z).exp())).collect(),
        Scoring::Softmax => z
            .chunks_exact(E)
            .flat_map(|z| {
                let total: f64 = z.iter().map(|z| z.exp()).sum();
                z.iter().map(move |z| z.exp() / total).collect::<Vec<_>>()
            })
            .collect(),
    }
}

/// The best `k` of the allowed entries, best first, by repeated search.
fn best(c: &[f64], k: usize) -> Vec<usize> {
    let mut taken: Vec<usize> = Vec::new();
    for _ in 0..k {
        let mut winner = None;
        for i in (0..c.len()).filter(|i| !taken.contains(i)) {
            if winner.is_none_or(|w: usize| c[i] > c[w]) {
                winner = Some(i);
            }
        }
        taken.extend(winner);
    }
    taken
}

fn chosen(rule: &RouterRule, s: &[f64]) -> Vec<usize> {
    let mut c: Vec<f64> =
        s.iter().enumerate().map(|(i, s)| s + rule.bias.as_ref().map_or(0.0, |b| f64::from(b[i]))).collect();
    if rule.n_group > 1 {
        let size = E / rule.n_group;
        let groups: Vec<f64> = c
            .chunks_exact(size)
            .map(|g| {
                let mut g = g.to_vec();
                g.sort_by(|a, b| b.total_cmp(a));
                if rule.noaux_tc { g[0] + g[1] } else { g[0] }
            })
            .collect();
        let kept = best(&groups, rule.topk_group);
        for (i, c) in c.iter_mut().enumerate() {
            if !kept.contains(&(i / size)) {
                *c = if rule.noaux_tc { f64::NEG_INFINITY } else { 0.0 };
            }
        }
    }
    best(&c, rule.num_experts_per_tok)
}

fn weights(rule: &RouterRule, x: &[f64], w: &[f64], t: usize) -> (Vec<u32>, Vec<f64>) {
    let s = scores(rule, x, w, t);
    let (mut experts, mut out) = (Vec::new(), Vec::new());
    for s in s.chunks_exact(E) {
        let idx = chosen(rule, s);
        let total: f64 = if rule.norm_topk_prob { idx.iter().map(|i| s[*i]).sum::<f64>() + 1e-20 } else { 1.0 };
        out.extend(idx.iter().map(|i| s[*i] / total * f64::from(rule.routed_scaling_factor)));
        experts.extend(idx.iter().map(|i| *i as u32));
    }
    (experts, out)
}

fn check(name: &'static str, rule: RouterRule) {
    let rule = leak(rule);
    let gate = normal(2, E, D);
    let frozen = leak(Weight::Frozen(Frozen::from_f32(E, D, gate.data.clone())));
    let x = normal(1, T, D);
    let context = Context::new(1, Precision::F32);
    let params = ParamStore::default();
    let mut tape = Tape::eval(&context, &params);
    let (assignment, _) = tape.route(&Var::constant(x.clone()), frozen, rule);
    assert_eq!(assignment.experts, weights(rule, &wide(&x), &wide(&gate), T).0, "{name}: chosen experts");
    let w = wide(&gate);
    // The frozen router still passes a gradient to x.
    Case::new(name, vec![x.clone()], &[])
        .check(|tape, x| tape.route(&x[0], frozen, rule).1, |x, _| weights(rule, &x[0], &w, T).1);
    let trainable = leak(Weight::Param(ParamId(0)));
    Case::new(name, vec![x], &[gate])
        .check(|tape, x| tape.route(&x[0], trainable, rule).1, |x, p| weights(rule, &x[0], &p[0], T).1);
}

#[test]
fn softmax_and_sigmoid_normalised_or_not() {
    for scoring in [Scoring::Softmax, Scoring::Sigmoid] {
        for norm_topk_prob in [false, true] {
            for k in [1, 3, E] {
                check("route", RouterRule { norm_topk_prob, routed_scaling_factor: 2.5, ..rule(scoring, k) });
            }
        }
    }
}

#[test]
fn groups_as_v2_and_v3_limit_them() {
    for topk_group in 1..=4 {
        check(
            "v2 groups",
            RouterRule { n_group: 4, topk_group, routed_scaling_factor: 16.0, ..rule(Scoring::Softmax, 2) },
        );
        let bias = Some(Arc::new(normal(7, E, 1).data.iter().map(|b| 0.3 * b - 1.0).collect::<Vec<f32>>()));
        let v3 = RouterRule {
            n_group: 4,
            topk_group,
            noaux_tc: true,
            norm_topk_prob: true,
            routed_scaling_factor: 2.5,
            bias,
            ..rule(Scoring::Sigmoid, 2)
        };
        check("v3 groups", v3);
    }
}

#[test]
fn the_bias_chooses_and_does_not_weigh() {
    let mut bias = vec![0f32; E];
    bias[5] = 10.0;
    let biased = RouterRule { noaux_tc: true, bias: Some(Arc::new(bias)), ..rule(Scoring::Sigmoid, 2) };
    check("bias", biased.clone());
    let (context, params) = (Context::new(1, Precision::F32), ParamStore::default());
    let gate = Weight::Frozen(Frozen::from_f32(E, D, normal(2, E, D).data));
    let mut tape = Tape::eval(&context, &params);
    let (assignment, w) = tape.route(&Var::constant(normal(1, T, D)), &gate, &biased);
    for r in 0..T {
        assert_eq!(assignment.experts[2 * r], 5);
        assert!(w.value.f32().row(r)[0] < 1.0, "a sigmoid score, not the biased one");
    }
}

#[test]
fn equal_scores_choose_the_lower_index() {
    let (context, params) = (Context::new(1, Precision::F32), ParamStore::default());
    let gate = Weight::Frozen(Frozen::from_f32(E, D, vec![0.0; E * D]));
    for scoring in [Scoring::Softmax, Scoring::Sigmoid] {
        let rule = rule(scoring, 3);
        let mut tape = Tape::eval(&context, &params);
        let (assignment, _) = tape.route(&Var::constant(normal(1, 1, D)), &gate, &rule);
        assert_eq!(assignment.experts, [0, 1, 2]);
    }
}

#[test]
fn the_router_multiplies_in_f32_even_when_the_body_runs_in_bf16() {
    let (params, rule) = (ParamStore::default(), rule(Scoring::Softmax, 3));
    let gate = Weight::Frozen(Frozen::from_f32(E, D, normal(2, E, D).data));
    let run = |precision| {
        let context = Context::new(1, precision);
        let mut tape = Tape::eval(&context, &params);
        tape.route(&Var::constant(normal(1, T, D)), &gate, &rule).1.value.f32().data.clone()
    };
    assert_eq!(run(Precision::F32), run(Precision::Bf16));
}
