//! The proof of every operation: its value against a plain f64 reference written here from the formula, and its
//! gradients against central differences, of that reference (every entry, tight) and of the operation itself (one
//! random direction a tensor, as far as f32 allows).
#![allow(clippy::needless_range_loop)] // the references are index loops, as the formulas are written

mod attention;
mod embed;
mod experts;
mod head_loss;
mod linear;
mod pointwise;
mod route;

use crate::{Activation, Context, DropoutKey, Grads, ParamRole, ParamStore, Precision, Tape, Tensor, Var};
use loar_kernels::rng::Stream;
use std::sync::Arc;

/// Normal numbers, the same for the same seed.
fn normal(seed: u64, rows: usize, cols: usize) -> Tensor {
    let mut t = Tensor::zeros(rows, cols);
    Stream::new(seed, 0x7e57, 0).fill_normal(0, 1.0, &mut t.data);
    t
}

/// Gradients of leaves as f32 tensors.
fn of(grads: Vec<Option<Activation>>) -> Vec<Option<Tensor>> {
    grads.into_iter().map(|g| g.map(|g| g.f32().clone())).collect()
}

/// Layers must outlive any tape, whatever its lifetime: tests let them live forever.
fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

fn wide(t: &Tensor) -> Vec<f64> {
    t.data.iter().map(|x| f64::from(*x)).collect()
}

fn store(values: &[Tensor]) -> ParamStore {
    let mut params = ParamStore::default();
    for (i, v) in values.iter().enumerate() {
        params.add(format!("p{i}"), ParamRole::Full, v.clone(), None);
    }
    params
}

/// `x [t, n] · wᵀ`, `w [m, n]`.
fn times_transposed(x: &[f64], w: &[f64], t: usize, n: usize, m: usize) -> Vec<f64> {
    let mut y = vec![0.0; t * m];
    for r in 0..t {
        for o in 0..m {
            y[r * m + o] = (0..n).map(|i| x[r * n + i] * w[o * n + i]).sum();
        }
    }
    y
}

/// One operation under test: values of its inputs (all wanting gradients) and of its parameters.
struct Case {
    name: &'static str,
    inputs: Vec<Tensor>,
    params: ParamStore,
    dropout: Option<DropoutKey>,
}

impl Case {
    fn new(name: &'static str, inputs: Vec<Tensor>, params: &[Tensor]) -> Case {
        Case { name, inputs, params: store(params), dropout: None }
    }

    /// `build` runs the operation; `reference(inputs, params)` is the same function in f64.
    fn check(
        &self,
        build: impl for<'a> Fn(&mut Tape<'a>, &[Var]) -> Var,
        reference: impl Fn(&[Vec<f64>], &[Vec<f64>]) -> Vec<f64>,
    ) {
        self.compare(build, reference, true);
    }

    /// As `check` without slopes of the operation itself, for operations that hold a part of themselves constant.
    fn check_entries(
        &self,
        build: impl for<'a> Fn(&mut Tape<'a>, &[Var]) -> Var,
        reference: impl Fn(&[Vec<f64>], &[Vec<f64>]) -> Vec<f64>,
    ) {
        self.compare(build, reference, false);
    }

    fn compare(
        &self,
        build: impl for<'a> Fn(&mut Tape<'a>, &[Var]) -> Var,
        reference: impl Fn(&[Vec<f64>], &[Vec<f64>]) -> Vec<f64>,
        slopes: bool,
    ) {
        let context = Context::new(2, Precision::F32);
        let run = |inputs: &[Tensor], params: &ParamStore| {
            let mut tape = Tape::new(&context, params, self.dropout);
            let vars: Vec<Var> = inputs.iter().map(|x| tape.leaf(Arc::new(x.clone().into()))).collect();
            build(&mut tape, &vars).value.f32().clone()
        };
        let mut x: Vec<Vec<f64>> = self.inputs.iter().map(wide).collect();
        let mut p: Vec<Vec<f64>> = self.params.iter().map(|(_, p)| wide(&p.value)).collect();
        let want = reference(&x, &p);
        let got = run(&self.inputs, &self.params);
        assert_eq!(got.data.len(), want.len(), "{}: size of the output", self.name);
        close(&format!("{}: value", self.name), &wide(&got), &want, 1e-5);
        // An inference tape runs the same code and gives the same bits.
        if self.dropout.is_none() {
            let mut tape = Tape::eval(&context, &self.params);
            let vars: Vec<Var> = self.inputs.iter().map(|x| Var::constant(x.clone())).collect();
            let y = build(&mut tape, &vars);
            assert!(!y.needs_grad() && y.value.f32().data == got.data, "{}: inference differs", self.name);
        }

        let projection = normal(0x5eed, got.rows, got.cols);
        let pw = wide(&projection);
        let (dx, dp) = {
            let mut tape = Tape::new(&context, &self.params, self.dropout);
            let vars: Vec<Var> = self.inputs.iter().map(|x| tape.leaf(Arc::new(x.clone().into()))).collect();
            let y = build(&mut tape, &vars);
            assert!(y.needs_grad(), "{}: the output wants a gradient", self.name);
            let mut grads = Grads::new(&self.params);
            let leaves: Vec<&Var> = vars.iter().collect();
            let dx = tape.backward_into(&mut grads, &y, projection.clone(), &leaves);
            (of(dx), grads.tensors)
        };
        let project = |y: Vec<f64>| -> f64 { y.iter().zip(&pw).map(|(y, p)| y * p).sum() };
        let h = 1e-5;
        for i in 0..x.len() + p.len() {
            let is_input = i < x.len();
            let k = if is_input { i } else { i - x.len() };
            let grad = if is_input { &dx[k] } else { &dp[k] };
            let shape = if is_input { &self.inputs[k] } else { &self.params.get(crate::ParamId(k)).value };
            let grad = grad.clone().unwrap_or_else(|| Tensor::zeros(shape.rows, shape.cols));
            assert_eq!((grad.rows, grad.cols), (shape.rows, shape.cols), "{}: shape of a gradient", self.name);
            let what = format!("{}: gradient of {} {k}", self.name, if is_input { "input" } else { "parameter" });
            let fd: Vec<f64> = (0..grad.data.len())
                .map(|j| {
                    let mut at = |d: f64| {
                        if is_input {
                            x[k][j] += d
                        } else {
                            p[k][j] += d
                        }
                        let y = project(reference(&x, &p));
                        if is_input {
                            x[k][j] -= d
                        } else {
                            p[k][j] -= d
                        }
                        y
                    };
                    (at(h) - at(-h)) / (2.0 * h)
                })
                .collect();
            close(&what, &wide(&grad), &fd, 5e-5);
            if slopes {
                self.check_direction(&what, is_input, k, &wide(&grad), &|inputs, params| {
                    project(wide(&run(inputs, params)))
                });
            }
        }
    }

    /// The operation's own f32 values along one random direction.
    fn check_direction(
        &self,
        what: &str,
        is_input: bool,
        k: usize,
        grad: &[f64],
        loss: &dyn Fn(&[Tensor], &ParamStore) -> f64,
    ) {
        let u = normal(0xd1 + k as u64, 1, grad.len());
        let h = 2e-3f32;
        let at = |sign: f32| {
            let (mut inputs, mut params) = (self.inputs.clone(), self.params.clone());
            let target = if is_input { &mut inputs[k].data } else { &mut params.get_mut(crate::ParamId(k)).value.data };
            for (x, u) in target.iter_mut().zip(&u.data) {
                *x += sign * h * u;
            }
            loss(&inputs, &params)
        };
        let slope = (at(1.0) - at(-1.0)) / (2.0 * f64::from(h));
        let expected: f64 = grad.iter().zip(&u.data).map(|(g, u)| g * f64::from(*u)).sum();
        let size = grad.iter().map(|g| g * g).sum::<f64>().sqrt() * (grad.len() as f64).sqrt();
        assert!(
            (slope - expected).abs() <= 0.01 * size + 1e-3,
            "{what}: slope {slope} of the operation, {expected} of the gradient"
        );
    }
}

/// Largest difference within `tolerance` of the largest expected entry (or of one, for tensors near zero).
fn close(what: &str, got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    let largest = want.iter().fold(1e-2f64, |m, x| m.max(x.abs()));
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= tolerance * largest, "{what}: entry {i} is {g}, expected {w}; largest {largest}");
    }
}

#[test]
fn the_harness_sees_a_wrong_gradient() {
    let failed = std::panic::catch_unwind(|| {
        Case::new("wrong", vec![normal(1, 2, 3)], &[]).check(
            |tape, x| {
                let y = Tensor::new(2, 3, x[0].value.f32().data.iter().map(|v| v * v).collect());
                let x = x[0].clone();
                tape.push(y, true, move |back, dy| back.give(&x, dy))
            },
            |x, _| x[0].iter().map(|v| v * v).collect(),
        );
    });
    assert!(failed.is_err());
}
