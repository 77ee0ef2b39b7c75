//! The obvious loops, in f64: what every variant is measured against.
use super::{AdamW, RopeLayout};

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// One row → (y, inv_rms).
pub fn rmsnorm(x: &[f32], weight: &[f32], eps: f32) -> (Vec<f64>, f64) {
    let mean = x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / x.len() as f64;
    let inv = 1.0 / (mean + f64::from(eps)).sqrt();
    (x.iter().zip(weight).map(|(x, w)| f64::from(*x) * inv * f64::from(*w)).collect(), inv)
}

/// One row → (dx, this row's share of dweight).
pub fn rmsnorm_backward(x: &[f32], weight: &[f32], eps: f32, dy: &[f32]) -> (Vec<f64>, Vec<f64>) {
    let (_, inv) = rmsnorm(x, weight, eps);
    let n = x.len() as f64;
    let wd: Vec<f64> = weight.iter().zip(dy).map(|(w, d)| f64::from(*w) * f64::from(*d)).collect();
    let c = wd.iter().zip(x).map(|(g, x)| g * f64::from(*x)).sum::<f64>() * inv.powi(3) / n;
    let dx = wd.iter().zip(x).map(|(g, x)| g * inv - f64::from(*x) * c).collect();
    (dx, dy.iter().zip(x).map(|(d, x)| f64::from(*d) * f64::from(*x) * inv).collect())
}

pub fn silu_mul(gate: f32, up: f32) -> f64 {
    f64::from(gate) * sigmoid(gate.into()) * f64::from(up)
}

/// (dgate, dup)
pub fn silu_mul_backward(gate: f32, up: f32, dy: f32) -> (f64, f64) {
    let (g, f) = (f64::from(gate), sigmoid(gate.into()));
    (f64::from(dy) * f64::from(up) * f * (1.0 + g * (1.0 - f)), f64::from(dy) * g * f)
}

/// One row of `row_stride` columns, rotated.
pub fn rope_row(x: &[f32], layout: &RopeLayout, cos: &[f32], sin: &[f32], inverse: bool) -> Vec<f64> {
    let mut y: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
    for h in 0..layout.num_heads {
        let first = layout.offset + h * layout.head_stride;
        for i in 0..layout.half {
            let (a, b) = if layout.interleaved { (2 * i, 2 * i + 1) } else { (i, i + layout.half) };
            let (u, v) = (f64::from(x[first + a]), f64::from(x[first + b]));
            let (c, s) = (f64::from(cos[i]), f64::from(sin[i]) * if inverse { -1.0 } else { 1.0 });
            y[first + a] = u * c - v * s;
            y[first + b] = v * c + u * s;
        }
    }
    y
}

pub fn softmax(x: &[f32]) -> Vec<f64> {
    let top = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let e: Vec<f64> = x.iter().map(|v| (f64::from(*v) - f64::from(top)).exp()).collect();
    let total: f64 = e.iter().sum();
    e.iter().map(|v| v / total).collect()
}

/// (loss, gradient)
pub fn cross_entropy(logits: &[f32], target: usize, scale: f32) -> (f64, Vec<f64>) {
    let p = softmax(logits);
    let loss = -p[target].ln();
    let grad = p.iter().enumerate().map(|(i, p)| (p - f64::from(u8::from(i == target))) * f64::from(scale)).collect();
    (loss, grad)
}

/// One element → (param, exp_avg, exp_avg_sq).
pub fn adamw(k: &AdamW, param: f32, grad: f32, exp_avg: f32, exp_avg_sq: f32) -> (f64, f64, f64) {
    let (p, g) = (f64::from(param), f64::from(grad));
    let m = f64::from(exp_avg) * k.beta1 + (1.0 - k.beta1) * g;
    let v = f64::from(exp_avg_sq) * k.beta2 + (1.0 - k.beta2) * g * g;
    let (c1, c2) = (1.0 - k.beta1.powi(k.step as i32), 1.0 - k.beta2.powi(k.step as i32));
    (p * (1.0 - k.lr * k.weight_decay) - k.lr / c1 * m / ((v / c2).sqrt() + k.eps), m, v)
}

pub fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

pub fn layernorm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32) -> Vec<f64> {
    let n = x.len() as f64;
    let mean = x.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
    let variance = x.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n;
    let inv = 1.0 / (variance + f64::from(eps)).sqrt();
    let each = x.iter().zip(weight).zip(bias);
    each.map(|((x, w), b)| (f64::from(*x) - mean) * inv * f64::from(*w) + f64::from(*b)).collect()
}

/// x·Φ(x) by Simpson's rule over the density from 0 to x, 2000 steps.
pub fn gelu(x: f32) -> f64 {
    let x = f64::from(x);
    if x.abs() > 12.0 {
        return x.max(0.0);
    }
    let density = |t: f64| (-t * t / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let step = x / 2000.0;
    let inner: f64 = (1..2000).map(|i| density(f64::from(i) * step) * if i % 2 == 1 { 4.0 } else { 2.0 }).sum();
    x * (0.5 + step / 3.0 * (density(0.0) + inner + density(x)))
}
