//! Logistic regression of a few features with a ridge; with one feature it is Platt's scaling.
//!
//! Features are standardised, a missing one counts as its mean. Targets are Platt's, (N₊ + 1)/(N₊ + 2) and
//! 1/(N₋ + 2), so that separable data has a finite answer. Newton's method on a concave function.

use super::special::sigmoid;
use serde::{Deserialize, Serialize};

/// A fitted regression.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Logistic {
    /// Mean and spread of each feature.
    pub scale: Vec<(f64, f64)>,
    /// The weight of each standardised feature.
    pub weights: Vec<f64>,
    /// The constant.
    pub bias: f64,
}

impl Logistic {
    /// Fits rows of features (all of the same width) to outcomes.
    pub fn fit(rows: &[(Vec<Option<f64>>, bool)]) -> Self {
        let width = rows.first().map_or(0, |(row, _)| row.len());
        let scale: Vec<(f64, f64)> = (0..width)
            .map(|j| {
                let known: Vec<f64> = rows.iter().filter_map(|(row, _)| row[j].filter(|x| x.is_finite())).collect();
                let n = known.len().max(1) as f64;
                let mean = known.iter().sum::<f64>() / n;
                let spread = (known.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt();
                (mean, if spread > 0.0 { spread } else { 1.0 })
            })
            .collect();
        let right = rows.iter().filter(|(_, right)| *right).count() as f64;
        let target =
            |hit: bool| if hit { (right + 1.0) / (right + 2.0) } else { 1.0 / (rows.len() as f64 - right + 2.0) };
        let data: Vec<(Vec<f64>, f64)> =
            (rows.iter()).map(|(row, hit)| ([vec![1.0], standard(row, &scale)].concat(), target(*hit))).collect();
        let mut at = vec![0.0; width + 1];
        for _ in 0..50 {
            // Gradient and Hessian of the mean log-likelihood less a ridge of ½·1e-3·w² on the weights.
            let mut gradient = vec![0.0; width + 1];
            let mut hessian = vec![vec![0.0; width + 1]; width + 1];
            for (x, t) in &data {
                let p = sigmoid(dot(&at, x));
                for i in 0..=width {
                    gradient[i] += (t - p) * x[i] / data.len() as f64;
                    for j in 0..=width {
                        hessian[i][j] += p * (1.0 - p) * x[i] * x[j] / data.len() as f64;
                    }
                }
            }
            for i in 0..=width {
                let ridge = if i == 0 { 1e-9 } else { 1e-3 };
                gradient[i] -= ridge * at[i];
                hessian[i][i] += ridge;
            }
            let step = solve(hessian, gradient);
            let size = step.iter().fold(0.0_f64, |m, s| m.max(s.abs()));
            // A step of more than 4 is cut: the start is far from a separating direction.
            let cut = if size > 4.0 { 4.0 / size } else { 1.0 };
            at.iter_mut().zip(&step).for_each(|(a, s)| *a += s * cut);
            if size < 1e-10 {
                break;
            }
        }
        Self { scale, bias: at[0], weights: at[1..].to_vec() }
    }

    /// The log-odds that the regression gives.
    pub fn log_odds(&self, row: &[Option<f64>]) -> f64 {
        self.bias + dot(&self.weights, &standard(row, &self.scale))
    }
}

fn standard(row: &[Option<f64>], scale: &[(f64, f64)]) -> Vec<f64> {
    let one = |(x, (mean, spread)): (&Option<f64>, &(f64, f64))| {
        x.filter(|x| x.is_finite()).map_or(0.0, |x| (x - mean) / spread)
    };
    row.iter().zip(scale).map(one).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Gaussian elimination with pivots; the matrix is positive definite by its ridge.
fn solve(mut a: Vec<Vec<f64>>, mut b: Vec<f64>) -> Vec<f64> {
    let n = b.len();
    for i in 0..n {
        let pivot = (i..n).max_by(|&x, &y| a[x][i].abs().total_cmp(&a[y][i].abs())).unwrap_or(i);
        a.swap(i, pivot);
        b.swap(i, pivot);
        for r in i + 1..n {
            let f = a[r][i] / a[i][i];
            let (above, below) = a.split_at_mut(r);
            for (x, y) in below[0][i..].iter_mut().zip(&above[i][i..]) {
                *x -= f * y;
            }
            b[r] -= f * b[i];
        }
    }
    for i in (0..n).rev() {
        let known: f64 = (i + 1..n).map(|j| a[i][j] * b[j]).sum();
        b[i] = (b[i] - known) / a[i][i];
    }
    b
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_weights_are_recovered() {
        let mut state = 1_u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1_u64 << 53) as f64
        };
        let rows: Vec<_> = (0..20_000)
            .map(|_| {
                let (x, y) = (uniform() * 4.0 - 2.0, uniform() * 10.0);
                let hit = uniform() < sigmoid(1.5 * x - 0.3 * (y - 5.0) + 0.5);
                (vec![Some(x), Some(y)], hit)
            })
            .collect();
        let fit = Logistic::fit(&rows);
        for (x, y) in [(0.0, 5.0), (1.0, 2.0), (-1.5, 9.0)] {
            let truth = 1.5 * x - 0.3 * (y - 5.0) + 0.5;
            assert!((fit.log_odds(&[Some(x), Some(y)]) - truth).abs() < 0.15);
        }
    }

    #[test]
    fn separable_data_stays_finite_and_a_constant_says_nothing() {
        let rows: Vec<_> = (0..40).map(|i| (vec![Some(f64::from(i)), Some(3.0), None], i >= 20)).collect();
        let fit = Logistic::fit(&rows);
        assert!(fit.weights[0] > 0.0 && fit.weights[0].is_finite() && fit.weights[1].abs() < 1e-9);
        assert!(fit.log_odds(&[Some(30.0), Some(3.0), None]) > 1.0);
        assert!((fit.log_odds(&[None, None, None]) - fit.bias).abs() < 1e-12, "missing is the mean");
    }
}
