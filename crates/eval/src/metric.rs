//! Figures with their uncertainty: shares (Wilson), macro-F1 with a confusion matrix (seeded bootstrap).
//!
//! Takes counts and class pairs, gives a number, its n and its 95 % interval. Never gives a number without its n.
use crate::rng::Draw;
use serde::{Deserialize, Serialize};
use std::fmt;

/// 97.5 % point of the normal distribution.
pub const Z95: f64 = 1.959_963_984_540_054;

/// A share of cases.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// Cases that hold.
    pub hits: usize,
    /// Cases in all.
    pub n: usize,
    /// Lower end of the 95 % interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Share {
    /// Wilson's score interval (1927), which stays within 0..1 and is right for shares near 0 and 1 too.
    pub fn new(hits: usize, n: usize) -> Share {
        if n == 0 {
            return Share { hits, n, low: 0.0, high: 1.0 };
        }
        let (count, p) = (n as f64, hits as f64 / n as f64);
        let z2 = Z95 * Z95;
        let centre = (p + z2 / (2.0 * count)) / (1.0 + z2 / count);
        let half = Z95 / (1.0 + z2 / count) * (p * (1.0 - p) / count + z2 / (4.0 * count * count)).sqrt();
        // At the ends the interval is closed exactly; floating point would leave 1e-17.
        let low = if hits == 0 { 0.0 } else { (centre - half).max(0.0) };
        let high = if hits == n { 1.0 } else { (centre + half).min(1.0) };
        Share { hits, n, low, high }
    }

    /// The share; 0 without cases.
    pub fn value(&self) -> f64 {
        if self.n == 0 { 0.0 } else { self.hits as f64 / self.n as f64 }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} [{:.3}, {:.3}]", self.value(), self.low, self.high)
    }
}

/// Counts of (true class, predicted class); the last column counts outputs without a class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confusion {
    /// Class names.
    pub classes: Vec<String>,
    /// `counts[true][predicted]`, `classes.len() + 1` columns.
    pub counts: Vec<Vec<usize>>,
}

/// A pair of class numbers; `None` when the output holds no class.
pub type ClassPair = (usize, Option<usize>);

impl Confusion {
    /// Counts pairs; a predicted class out of range counts as none, a true class out of range is left out.
    pub fn new(classes: &[&str], pairs: &[ClassPair]) -> Confusion {
        let k = classes.len();
        let mut counts = vec![vec![0; k + 1]; k];
        for &(truth, predicted) in pairs {
            let column = predicted.filter(|&p| p < k).unwrap_or(k);
            if let Some(cell) = counts.get_mut(truth).and_then(|row| row.get_mut(column)) {
                *cell += 1;
            }
        }
        Confusion { classes: classes.iter().map(ToString::to_string).collect(), counts }
    }

    /// Unweighted mean of the classes' F1; a class that neither occurs nor is predicted is left out.
    pub fn macro_f1(&self) -> f64 {
        let k = self.classes.len();
        let mut scores = Vec::new();
        for class in 0..k {
            let hit = self.counts[class][class];
            let truth: usize = self.counts[class].iter().sum();
            let predicted: usize = self.counts.iter().map(|row| row[class]).sum();
            if truth + predicted > 0 {
                scores.push(2.0 * hit as f64 / (truth + predicted) as f64);
            }
        }
        if scores.is_empty() { 0.0 } else { scores.iter().sum::<f64>() / scores.len() as f64 }
    }

    /// What always answering the most frequent true class would reach.
    pub fn majority_f1(&self) -> f64 {
        let truth: Vec<usize> = self.counts.iter().map(|row| row.iter().sum()).collect();
        let Some(top) = (0..truth.len()).max_by_key(|&c| (truth[c], std::cmp::Reverse(c))) else {
            return 0.0;
        };
        let mut counts = vec![vec![0; truth.len() + 1]; truth.len()];
        for (row, n) in counts.iter_mut().zip(truth) {
            row[top] = n;
        }
        Confusion { classes: self.classes.clone(), counts }.macro_f1()
    }
}

/// A figure without a closed-form interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The figure on all cases.
    pub value: f64,
    /// Cases.
    pub n: usize,
    /// 2.5 % point of the resampled figures.
    pub low: f64,
    /// 97.5 % point.
    pub high: f64,
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} [{:.3}, {:.3}]", self.value, self.low, self.high)
    }
}

/// Resamples of a bootstrap: enough that the ends of the interval move by less than a hundredth of its width.
pub const RESAMPLES: usize = 2_000;

/// Percentile bootstrap over cases (Efron 1979) of `figure` on `n` cases, given as case numbers with repetition.
pub fn bootstrap(n: usize, seed: u64, figure: impl Fn(&[usize]) -> f64) -> Estimate {
    let all: Vec<usize> = (0..n).collect();
    let value = figure(&all);
    if n == 0 {
        return Estimate { value, n, low: value, high: value };
    }
    let mut draws: Vec<f64> = (0..RESAMPLES)
        .map(|round| {
            let mut draw = Draw::new(seed, round as u64);
            let sample: Vec<usize> = (0..n).map(|_| draw.below(n)).collect();
            figure(&sample)
        })
        .collect();
    draws.sort_by(f64::total_cmp);
    let at = |q: f64| draws[((RESAMPLES - 1) as f64 * q).round() as usize];
    Estimate { value, n, low: at(0.025), high: at(0.975) }
}

/// Macro-F1 with its bootstrap interval. Where every class is right, or none is, all resamples agree and the bootstrap
/// knows no uncertainty: the open end is then Wilson's for the share of right classes.
pub fn macro_f1(classes: &[&str], pairs: &[ClassPair], seed: u64) -> Estimate {
    let mut estimate = bootstrap(pairs.len(), seed, |sample| {
        let picked: Vec<ClassPair> = sample.iter().filter_map(|&i| pairs.get(i).copied()).collect();
        Confusion::new(classes, &picked).macro_f1()
    });
    let right = pairs.iter().filter(|(truth, predicted)| *predicted == Some(*truth)).count();
    let share = Share::new(right, pairs.len());
    if right == pairs.len() {
        estimate.low = share.low;
    }
    if right == 0 {
        estimate.high = share.high;
    }
    estimate
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: f64, b: f64, tolerance: f64) {
        assert!((a - b).abs() <= tolerance, "{a} against {b}");
    }

    #[test]
    fn wilson_agrees_with_reference_values() {
        // statsmodels proportion_confint(method="wilson").
        for (hits, n, low, high) in [
            (992, 1000, 0.984_294, 0.995_941),
            (9920, 10_000, 0.990_055, 0.993_567),
            (248, 250, 0.971_305, 0.997_803),
            (500, 500, 0.992_376, 1.0),
        ] {
            let share = Share::new(hits, n);
            near(share.low, low, 1e-6);
            near(share.high, high, 1e-6);
        }
        let none = Share::new(0, 50);
        assert!(none.low == 0.0 && none.high > 0.05);
        assert_eq!(Share::new(0, 0).value(), 0.0);
    }

    #[test]
    fn macro_f1_by_hand() {
        // a: truth 3, predicted 2, hits 2 -> 4/5; b: truth 2, predicted 2, hits 1 -> 2/4; c: truth 1, predicted 1 -> 1.
        let pairs = [(0, Some(0)), (0, Some(0)), (0, Some(1)), (1, Some(1)), (1, None), (2, Some(2))];
        let confusion = Confusion::new(&["a", "b", "c"], &pairs);
        near(confusion.macro_f1(), (0.8 + 0.5 + 1.0) / 3.0, 1e-12);
        assert_eq!(confusion.counts[1], [0, 1, 0, 1]);
        // Always `a`: 2*3/(3+6) for a, 0 for the others.
        near(confusion.majority_f1(), (6.0 / 9.0) / 3.0, 1e-12);
    }

    #[test]
    fn the_bootstrap_is_seeded_and_holds_the_figure() {
        let pairs: Vec<ClassPair> =
            (0..100).map(|i| (i % 3, Some(if i % 10 == 0 { (i + 1) % 3 } else { i % 3 }))).collect();
        let first = macro_f1(&["a", "b", "c"], &pairs, 7);
        assert_eq!(first, macro_f1(&["a", "b", "c"], &pairs, 7));
        assert!(first.low < first.value && first.value < first.high);
        near(first.value, 0.9, 0.01);
        // The standard error of a share of 0.9 over 100 cases is 0.03.
        near(first.high - first.low, 4.0 * 0.03, 0.03);
    }

    #[test]
    fn a_perfect_or_empty_result_is_not_certain() {
        let right: Vec<ClassPair> = (0..200).map(|i| (i % 3, Some(i % 3))).collect();
        let all = macro_f1(&["a", "b", "c"], &right, 1);
        assert!(all.value == 1.0 && all.high == 1.0 && all.low > 0.97 && all.low < 1.0, "{all}");
        let wrong: Vec<ClassPair> = (0..200).map(|i| (i % 3, None)).collect();
        let none = macro_f1(&["a", "b", "c"], &wrong, 1);
        assert!(none.value == 0.0 && none.low == 0.0 && none.high > 0.0 && none.high < 0.03, "{none}");
    }
}
