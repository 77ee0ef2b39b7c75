//! Two results on the same cases: exact McNemar test and the difference with its interval.
//!
//! Takes hits before and after, case by case; gives how many cases changed sides, how likely that is by chance, and how
//! large the gain is. Never compares results of different cases.
use serde::{Deserialize, Serialize};
use std::fmt;

/// A paired comparison of one measure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Paired {
    /// Cases.
    pub n: usize,
    /// Right after, wrong before.
    pub gained: usize,
    /// Right before, wrong after.
    pub lost: usize,
    /// Right both times.
    pub both: usize,
    /// Share after minus share before.
    pub difference: f64,
    /// Lower end of its 95 % interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Exact two-sided p of McNemar's test; 1 when no case changed.
    pub p: f64,
}

impl Paired {
    /// Compares hits; pairs beyond the shorter list are left out.
    pub fn new(before: &[bool], after: &[bool]) -> Paired {
        let (mut gained, mut lost, mut both, mut neither) = (0, 0, 0, 0);
        for pair in before.iter().zip(after) {
            match pair {
                (false, true) => gained += 1,
                (true, false) => lost += 1,
                (true, true) => both += 1,
                (false, false) => neither += 1,
            }
        }
        let n = gained + lost + both + neither;
        let (low, high) = interval(both, gained, lost, neither);
        Paired {
            n,
            gained,
            lost,
            both,
            difference: if n == 0 { 0.0 } else { (gained as f64 - lost as f64) / n as f64 },
            low,
            high,
            p: mcnemar(gained, lost),
        }
    }
}

impl fmt::Display for Paired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let p = if self.p < 1e-4 { "< 0.0001".to_string() } else { format!("= {:.4}", self.p) };
        write!(f, "{:+.3} [{:+.3}, {:+.3}], p {p}", self.difference, self.low, self.high)
    }
}

/// Exact McNemar: `min(1, 2·P(X <= min(b, c)))` with X binomial of b + c fair coins.
pub fn mcnemar(b: usize, c: usize) -> f64 {
    let n = b + c;
    // log of the binomial coefficients, so that thousands of changes do not underflow.
    let mut log_term = -(n as f64) * std::f64::consts::LN_2;
    let mut tail = 0.0;
    for k in 0..=b.min(c) {
        if k > 0 {
            log_term += ((n - k + 1) as f64 / k as f64).ln();
        }
        tail += log_term.exp();
    }
    (2.0 * tail).min(1.0)
}

/// Newcombe's square-and-add interval of a paired difference (Statistics in Medicine 17, 1998, method 10): Wilson
/// intervals of both shares, joined with their correlation.
fn interval(both: usize, gained: usize, lost: usize, neither: usize) -> (f64, f64) {
    let n = both + gained + lost + neither;
    if n == 0 {
        return (-1.0, 1.0);
    }
    let after = crate::metric::Share::new(both + gained, n);
    let before = crate::metric::Share::new(both + lost, n);
    let (a, b, c, d) = (both as f64, gained as f64, lost as f64, neither as f64);
    let margins = ((a + b) * (c + d) * (a + c) * (b + d)).sqrt();
    let mut numerator = a * d - b * c;
    if numerator > 0.0 {
        // Continuity correction of the method for positive association.
        numerator = (numerator - n as f64 / 2.0).max(0.0);
    }
    let phi = if margins == 0.0 { 0.0 } else { numerator / margins };
    let theta = after.value() - before.value();
    let width = |x: f64, y: f64| (x * x - 2.0 * phi * x * y + y * y).max(0.0).sqrt();
    let low = theta - width(after.value() - after.low, before.high - before.value());
    let high = theta + width(after.high - after.value(), before.value() - before.low);
    (low.max(-1.0), high.min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paired(both: usize, gained: usize, lost: usize, neither: usize) -> Paired {
        let mut before = Vec::new();
        let mut after = Vec::new();
        for (count, x, y) in [(both, true, true), (gained, false, true), (lost, true, false), (neither, false, false)] {
            before.extend(std::iter::repeat_n(x, count));
            after.extend(std::iter::repeat_n(y, count));
        }
        Paired::new(&before, &after)
    }

    #[test]
    fn mcnemar_agrees_with_reference_values() {
        // statsmodels mcnemar(exact=True).
        for (b, c, p) in [(30, 15, 0.035_698), (6, 16, 0.052_479), (12, 28, 0.016_589)] {
            assert!((mcnemar(b, c) - p).abs() < 1e-6, "({b}, {c}): {}", mcnemar(b, c));
        }
        assert_eq!(mcnemar(0, 0), 1.0);
        assert_eq!(mcnemar(5, 5), 1.0);
        assert!((mcnemar(0, 10) - 2.0 / 1024.0).abs() < 1e-15);
        assert!(mcnemar(0, 5_000) >= 0.0);
    }

    #[test]
    fn the_interval_agrees_with_newcombes_examples() {
        // Newcombe 1998, table III, method 10: (e, f, g, h) = (36, 12, 2, 0): 0.2000, 0.0569 to 0.3404.
        let a = paired(36, 12, 2, 0);
        assert!((a.difference - 0.2).abs() < 1e-12);
        assert!((a.low - 0.0569).abs() < 1e-3 && (a.high - 0.3404).abs() < 1e-3, "{} {}", a.low, a.high);
    }

    #[test]
    fn equal_results_have_no_difference() {
        let same = paired(30, 0, 0, 20);
        assert!(same.low <= 0.0 && same.high >= 0.0 && same.p == 1.0 && same.difference == 0.0);
        let empty = Paired::new(&[], &[]);
        assert_eq!((empty.n, empty.low, empty.high), (0, -1.0, 1.0));
    }

    #[test]
    fn from_nothing_to_everything() {
        let all = paired(0, 100, 0, 0);
        assert_eq!((all.difference, all.high), (1.0, 1.0));
        assert!(all.low > 0.93 && all.p < 1e-20);
    }
}
