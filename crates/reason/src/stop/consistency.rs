//! Adaptive consistency (Aggarwal et al., EMNLP 2023) in closed form.
//!
//! With v₁ ≥ v₂ the two largest counts, the chance that the leader is the more likely answer of the two
//! is P(Beta(v₁ + 1, v₂ + 1) > ½) = P(Bin(v₁ + v₂ + 1, ½) ≤ v₁); the paper integrates it numerically. It says
//! that the majority is stable, not that it is right.

use std::collections::BTreeMap;

/// P(Bin(first + second + 1, ½) ≤ first): exact sums of logarithms, good for thousands of paths.
pub fn stability(first: usize, second: usize) -> f64 {
    let n = first + second + 1;
    // Sum the shorter tail: Bin > first is n − first terms.
    let mut term = (n as f64) * -std::f64::consts::LN_2;
    let mut tail = 0.0;
    for i in 0..=second {
        // C(n, i) = C(n, n − i): the upper tail first+1..=n mirrored to 0..=second.
        if i > 0 {
            term += ((n - i + 1) as f64).ln() - (i as f64).ln();
        }
        tail += term.exp();
    }
    1.0 - tail
}

/// Counts of answers and their two largest.
#[derive(Debug, Clone, Default)]
pub struct Lead {
    counts: BTreeMap<Option<usize>, usize>,
}

impl Lead {
    /// A path ended in `class`; without an answer is a class too.
    pub fn observe(&mut self, class: Option<usize>) {
        *self.counts.entry(class).or_default() += 1;
    }

    /// Probability that the lead is there to stay.
    pub fn stability(&self) -> f64 {
        let (mut first, mut second) = (0, 0);
        for &count in self.counts.values() {
            if count > first {
                (first, second) = (count, first);
            } else {
                second = second.max(count);
            }
        }
        stability(first, second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// P(Beta(a, b) > ½) by Simpson's rule.
    fn by_integral(first: usize, second: usize) -> f64 {
        let density = |x: f64| x.powi(first as i32) * (1.0 - x).powi(second as i32);
        let simpson = |low: f64, high: f64| {
            let n = 2000;
            let h = (high - low) / f64::from(n);
            let weight = |i: i32| {
                if i == 0 || i == n {
                    1.0
                } else if i % 2 == 1 {
                    4.0
                } else {
                    2.0
                }
            };
            (0..=n).map(|i| weight(i) * density(low + f64::from(i) * h)).sum::<f64>() * h / 3.0
        };
        simpson(0.5, 1.0) / simpson(0.0, 1.0)
    }

    #[test]
    fn the_closed_form_is_the_integral() {
        for (first, second) in [(1, 0), (4, 0), (3, 1), (5, 5), (12, 7), (30, 11)] {
            let (closed, integral) = (stability(first, second), by_integral(first, second));
            assert!((closed - integral).abs() < 1e-9, "{first}:{second} {closed} {integral}");
        }
        assert!((stability(4, 0) - 0.96875).abs() < 1e-15, "four of four: .969");
        assert!((stability(5, 5) - 0.5).abs() < 1e-12);
        assert!(stability(3000, 2000) > 0.999_999 && stability(3000, 2000) <= 1.0);
    }

    #[test]
    fn the_two_largest_count() {
        let mut lead = Lead::default();
        for class in [Some(1), Some(2), Some(1), None, Some(1), Some(2)] {
            lead.observe(class);
        }
        assert_eq!(lead.stability(), stability(3, 2));
    }
}
