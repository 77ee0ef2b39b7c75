//! How a signature is cut into bands, so that similar rows meet: two rows with Jaccard similarity s
//! agree in at least one of b bands of r values with probability 1 − (1 − sʳ)ᵇ (Leskovec, Rajaraman
//! and Ullman, ch. 3). The usual "threshold" of such a curve is its knee, where recall is about a
//! half; here the user says the similarity and the recall wanted there, and gets the steepest
//! curve that gives it.

/// b bands of r values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Banding {
    /// Number of bands.
    pub bands: usize,
    /// Values in a band.
    pub rows: usize,
}

impl Banding {
    /// The most values a band can have while `functions` of them still give `recall` at
    /// `threshold`; `None` when even bands of one value do not.
    pub fn solve(functions: usize, threshold: f64, recall: f64) -> Option<Self> {
        let curves = (1..=functions).rev().map(|rows| Banding { bands: functions / rows, rows });
        curves.into_iter().find(|curve| curve.probability(threshold) >= recall)
    }

    /// The probability that two rows of this similarity meet.
    pub fn probability(&self, similarity: f64) -> f64 {
        1.0 - (1.0 - similarity.powi(self.rows as i32)).powi(self.bands as i32)
    }

    /// Values of a signature that are used.
    pub fn functions(&self) -> usize {
        self.bands * self.rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of the S-curve that others publish: datatrove's 14 × 8, 16 × 8, NeMo's 20 × 13.
    #[test]
    fn the_curve_has_its_known_values() {
        let published = [
            (14, 8, [0.053, 0.565, 0.924, 0.9996]),
            (16, 8, [0.061, 0.613, 0.947, 0.9999]),
            (20, 13, [0.002, 0.177, 0.677, 0.997]),
        ];
        for (bands, rows, values) in published {
            for (similarity, value) in [0.5, 0.7, 0.8, 0.9].into_iter().zip(values) {
                let probability = Banding { bands, rows }.probability(similarity);
                assert!((probability - value).abs() < 6e-4, "{bands} x {rows} at {similarity}: {probability}");
            }
        }
    }

    #[test]
    fn the_steepest_curve_with_the_recall_is_chosen() {
        assert_eq!(Banding::solve(128, 0.8, 0.9), Some(Banding { bands: 16, rows: 8 }));
        for (threshold, recall) in [(0.5, 0.9), (0.7, 0.95), (0.9, 0.99)] {
            let chosen = Banding::solve(128, threshold, recall).unwrap();
            assert!(chosen.probability(threshold) >= recall);
            let steeper = Banding { rows: chosen.rows + 1, bands: 128 / (chosen.rows + 1) };
            assert!(steeper.probability(threshold) < recall);
        }
        assert_eq!(Banding::solve(2, 0.1, 0.99), None);
    }
}
