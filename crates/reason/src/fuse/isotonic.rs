//! Isotonic regression by pooling adjacent violators: the non-decreasing curve closest to the labels.
//!
//! Turns a score of unknown scale into the share of right paths among those with that score. Between the
//! means of two blocks the curve is linear, outside of them flat. Each block is drawn towards the overall
//! share as if one more path with that share stood in it, so no block says 0 or 1.

use serde::{Deserialize, Serialize};

/// A fitted curve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Isotonic {
    /// (score, probability), both non-decreasing; empty when nothing was there to fit.
    pub knots: Vec<(f64, f64)>,
}

impl Isotonic {
    /// Fits (score, right) pairs; scores that are not finite are left out.
    pub fn fit(pairs: &[(f64, bool)]) -> Self {
        let mut sorted: Vec<(f64, bool)> = pairs.iter().copied().filter(|(s, _)| s.is_finite()).collect();
        sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
        let share = sorted.iter().filter(|(_, right)| *right).count() as f64 / sorted.len().max(1) as f64;
        // A block: (sum of scores, right ones, size). Equal scores are one block from the start.
        let mut blocks: Vec<(f64, f64, f64)> = Vec::new();
        let mut last = f64::NAN;
        for (score, right) in sorted {
            let right = f64::from(u8::from(right));
            match blocks.last_mut() {
                Some(block) if score == last => *block = (block.0 + score, block.1 + right, block.2 + 1.0),
                _ => blocks.push((score, right, 1.0)),
            }
            last = score;
        }
        let mut pooled: Vec<(f64, f64, f64)> = Vec::new();
        for mut block in blocks {
            while let Some(&before) = pooled.last()
                && before.1 * block.2 >= block.1 * before.2
            {
                block = (block.0 + before.0, block.1 + before.1, block.2 + before.2);
                pooled.pop();
            }
            pooled.push(block);
        }
        let mut floor = 0.0_f64;
        let knots = pooled.into_iter().map(|(scores, right, size)| {
            // Small blocks at the ends could be drawn past their neighbours: the curve stays monotone.
            floor = floor.max((right + share) / (size + 1.0));
            (scores / size, floor)
        });
        Self { knots: knots.collect() }
    }

    /// Probability at a score; none when the curve is empty or the score is not a number.
    pub fn at(&self, score: f64) -> Option<f64> {
        let (first, last) = (self.knots.first()?, self.knots.last()?);
        if score.is_nan() {
            return None;
        }
        let above = self.knots.partition_point(|(s, _)| *s <= score);
        Some(match above {
            0 => first.1,
            n if n == self.knots.len() => last.1,
            n => {
                let ((s0, p0), (s1, p1)) = (self.knots[n - 1], self.knots[n]);
                p0 + (p1 - p0) * (score - s0) / (s1 - s0)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn violators_are_pooled() {
        // 1, 0 violate and become one block of ½; the rest is in order.
        let pairs = [(1.0, false), (2.0, true), (3.0, false), (4.0, true), (5.0, true)];
        let curve = Isotonic::fit(&pairs);
        let share = 0.6;
        let expected = [(1.0, share / 2.0), (2.5, (1.0 + share) / 3.0), (4.5, (2.0 + share) / 3.0)];
        for ((s, p), (es, ep)) in curve.knots.iter().zip(expected) {
            assert!((s - es).abs() < 1e-12 && (p - ep).abs() < 1e-12, "{:?}", curve.knots);
        }
        assert_eq!(curve.at(-1e9), curve.at(1.0));
        assert!((curve.at(3.5).unwrap() - ((1.0 + share) / 3.0 + (2.0 + share) / 3.0) / 2.0).abs() < 1e-12);
    }

    #[test]
    fn the_curve_never_falls_and_finds_a_known_probability() {
        // Score s in 0..1 is right with probability s²; hits are spread evenly.
        let pairs: Vec<(f64, bool)> = (0..20_000_u64)
            .map(|i| (i as f64 / 20_000.0, (i * 7919 % 10_007) as f64 / 10_007.0))
            .map(|(s, u)| (s, u < s * s))
            .collect();
        let curve = Isotonic::fit(&pairs);
        assert!(curve.knots.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 <= w[1].1));
        for s in [0.2_f64, 0.5, 0.8] {
            assert!((curve.at(s).unwrap() - s * s).abs() < 0.04, "{s}: {:?}", curve.at(s));
        }
    }

    #[test]
    fn nothing_to_fit_is_no_opinion() {
        assert_eq!(Isotonic::fit(&[(f64::NAN, true)]).at(1.0), None);
        let same = Isotonic::fit(&[(1.0, true), (1.0, false)]);
        assert_eq!(same.at(0.0), Some(0.5));
    }
}
