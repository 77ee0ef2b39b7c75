//! add, columns, swiglu, rms_norm, rope, mla_keys, mla_values.
use super::*;
use crate::Frozen;
use crate::Weight;
use crate::op::{RopeLayout, RopeTable};

#[test]
fn add() {
    Case::new("add", vec![normal(1, 3, 5), normal(2, 3, 5)], &[])
        .check(|tape, x| tape.add(&x[0], &x[1]), |x, _| x[0].iter().zip(&x[1]).map(|(a, b)| a + b).collect());
}

#[test]
fn add_with_one_constant_side_gives_the_other_the_whole_gradient() {
    for constant_first in [false, true] {
        Case::new("add constant", vec![normal(1, 3, 5)], &[]).check(
            |tape, x| {
                let c = Var::constant(normal(3, 3, 5));
                if constant_first { tape.add(&c, &x[0]) } else { tape.add(&x[0], &c) }
            },
            |x, _| x[0].iter().zip(wide(&normal(3, 3, 5))).map(|(a, b)| a + b).collect(),
        );
    }
}

#[test]
fn columns() {
    for (start, len) in [(0, 3), (3, 4), (6, 1), (0, 7)] {
        Case::new("columns", vec![normal(1, 4, 7)], &[]).check(
            |tape, x| tape.columns(&x[0], start, len),
            |x, _| (0..4).flat_map(|r| x[0][r * 7 + start..r * 7 + start + len].to_vec()).collect(),
        );
    }
}

#[test]
fn swiglu() {
    let mut gate = normal(1, 3, 6);
    // Far tails: silu goes to 0 on the left and to the identity on the right.
    gate.data[0] = -40.0;
    gate.data[1] = 40.0;
    Case::new("swiglu", vec![gate, normal(2, 3, 6)], &[]).check(
        |tape, x| tape.swiglu(&x[0], &x[1]),
        |x, _| x[0].iter().zip(&x[1]).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect(),
    );
}

fn rms(x: &[f64], w: &[f64], eps: f64) -> Vec<f64> {
    x.chunks_exact(w.len())
        .flat_map(|g| {
            let mean = g.iter().map(|v| v * v).sum::<f64>() / w.len() as f64;
            g.iter().zip(w).map(move |(v, w)| v / (mean + eps).sqrt() * w).collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn rms_norm_frozen_and_grouped() {
    for (cols, width) in [(11, 11), (12, 4), (16, 16)] {
        let w = normal(2, width, 1);
        let weight = leak(Weight::Frozen(Frozen::from_f32(width, 1, w.data.clone())));
        let w = wide(&w);
        Case::new("rms_norm", vec![normal(1, 3, cols)], &[])
            .check(|tape, x| tape.rms_norm(&x[0], weight, 1e-2), move |x, _| rms(&x[0], &w, f64::from(1e-2f32)));
    }
}

#[test]
fn rms_norm_trainable() {
    for (cols, width) in [(7, 7), (12, 4)] {
        let weight = leak(Weight::Param(crate::ParamId(0)));
        Case::new("rms_norm", vec![normal(1, 3, cols)], &[normal(2, width, 1)])
            .check(|tape, x| tape.rms_norm(&x[0], weight, 1e-6), |x, p| rms(&x[0], &p[0], f64::from(1e-6f32)));
    }
}

#[test]
fn rms_norm_keeps_zero_rows_finite() {
    let weight = leak(Weight::Frozen(Frozen::from_f32(4, 1, vec![1.0; 4])));
    let context = Context::new(1, Precision::F32);
    let params = ParamStore::default();
    let mut tape = Tape::new(&context, &params, None);
    let x = tape.leaf(Arc::new(Tensor::zeros(2, 4).into()));
    let y = tape.rms_norm(&x, weight, 1e-6);
    assert!(y.value.f32().data.iter().all(|v| *v == 0.0));
    let dx = tape.backward_into(&mut Grads::new(&params), &y, normal(1, 2, 4), &[&x]);
    assert!(dx[0].as_ref().is_some_and(|d| d.f32().data.iter().all(|v| v.is_finite())));
}

/// Rotation of pair (a, b) by position · inv_freq, on columns offset .. offset + 2·half of each head.
#[allow(clippy::too_many_arguments)]
fn rotated(
    x: &[f64],
    layout: RopeLayout,
    inv_freq: &[f32],
    factor: f64,
    positions: &[u32],
    heads: usize,
    head_dim: usize,
    offset: usize,
) -> Vec<f64> {
    let half = inv_freq.len();
    let mut y = x.to_vec();
    for (t, p) in positions.iter().enumerate() {
        for h in 0..heads {
            for i in 0..half {
                let (a, b) = match layout {
                    RopeLayout::Halves => (i, i + half),
                    RopeLayout::Interleaved => (2 * i, 2 * i + 1),
                };
                let at = |j: usize| (t * heads + h) * head_dim + offset + j;
                // The angle is formed in f32, as HF does; its sine is exact here.
                let angle = f64::from(*p as f32 * inv_freq[i]);
                let (c, s) = (angle.cos() * factor, angle.sin() * factor);
                y[at(a)] = x[at(a)] * c - x[at(b)] * s;
                y[at(b)] = x[at(b)] * c + x[at(a)] * s;
            }
        }
    }
    y
}

#[test]
fn rope_both_layouts() {
    let positions = [0u32, 1, 5, 0, 1000];
    let inv_freq = [1.0f32, 0.3, 0.01];
    for layout in [RopeLayout::Halves, RopeLayout::Interleaved] {
        for (heads, head_dim, offset) in [(2, 6, 0), (3, 10, 4), (1, 6, 0)] {
            let table = Arc::new(RopeTable::new(layout, &inv_freq, 1.25, &positions));
            Case::new("rope", vec![normal(1, 5, heads * head_dim)], &[]).check(
                |tape, x| tape.rope(x[0].clone(), &table, head_dim, offset),
                |x, _| rotated(&x[0], layout, &inv_freq, 1.25, &positions, heads, head_dim, offset),
            );
        }
    }
}

#[test]
fn rope_layouts_are_one_rotation_of_permuted_columns() {
    let (positions, inv_freq) = ([3u32, 17], [1.0f32, 0.1]);
    let x = normal(1, 2, 4);
    let context = Context::new(1, Precision::F32);
    let params = ParamStore::default();
    let mut tape = Tape::eval(&context, &params);
    let interleaved = Arc::new(RopeTable::new(RopeLayout::Interleaved, &inv_freq, 1.0, &positions));
    let halves = Arc::new(RopeTable::new(RopeLayout::Halves, &inv_freq, 1.0, &positions));
    // even entries first, then odd ones
    let permute = |x: &Tensor| Tensor::new(2, 4, (0..2).flat_map(|r| [0, 2, 1, 3].map(|c| x.row(r)[c])).collect());
    let a = tape.rope(Var::constant(x.clone()), &interleaved, 4, 0);
    let b = tape.rope(Var::constant(permute(&x)), &halves, 4, 0);
    assert_eq!(permute(a.value.f32()).data, b.value.f32().data);
}

#[test]
fn mla_keys_and_values() {
    let (t, heads, n, r, v) = (4, 3, 5, 2, 4);
    Case::new("mla_keys", vec![normal(1, t, heads * (n + v)), normal(2, t, r)], &[]).check(
        |tape, x| tape.mla_keys(&x[0], &x[1], heads, n, v),
        |x, _| {
            let mut y = Vec::new();
            for row in 0..t {
                for h in 0..heads {
                    y.extend((0..n).map(|i| x[0][row * heads * (n + v) + h * (n + v) + i]));
                    y.extend((0..r).map(|i| x[1][row * r + i]));
                }
            }
            y
        },
    );
    Case::new("mla_values", vec![normal(1, t, heads * (n + v))], &[]).check(
        |tape, x| tape.mla_values(&x[0], heads, n, v),
        |x, _| {
            let mut y = Vec::new();
            for row in 0..t {
                for h in 0..heads {
                    y.extend((0..v).map(|i| x[0][row * heads * (n + v) + h * (n + v) + n + i]));
                }
            }
            y
        },
    );
}
