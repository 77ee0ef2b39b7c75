//! Folds that keep questions whole, and seeded orders.
//!
//! A random order comes from SplitMix64 (Steele, Lea and Flood 2014) of the seed and a stream number.

use std::collections::BTreeMap;

/// A source of draws; the same seed and stream give the same ones.
#[derive(Debug, Clone)]
pub struct Draw(u64);

impl Draw {
    /// The draws of a stream.
    pub fn new(seed: u64, stream: u64) -> Self {
        Self(mix(mix(seed ^ 0x9E37_79B9_7F4A_7C15) ^ stream))
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// Uniform in `0..bound`, 0 for 0.
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next_u64()) * bound as u128) >> 64) as usize
    }

    /// Uniform in `0..1`.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// `0..n` in random order.
    pub fn order(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i + 1));
        }
        order
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The fold of each row, in `0..folds`. Rows of one group (the same question) share a fold; groups are
/// shuffled by the seed and dealt out in turn.
pub fn by_group<G: Ord>(groups: &[G], folds: usize, seed: u64) -> Vec<usize> {
    let mut places: BTreeMap<&G, Vec<usize>> = BTreeMap::new();
    for (row, group) in groups.iter().enumerate() {
        places.entry(group).or_default().push(row);
    }
    let rows: Vec<Vec<usize>> = places.into_values().collect();
    let mut fold = vec![0; groups.len()];
    for (turn, group) in Draw::new(seed, 0xF01D).order(rows.len()).into_iter().enumerate() {
        for &row in &rows[group] {
            fold[row] = turn % folds.max(1);
        }
    }
    fold
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_never_in_two_folds_and_folds_are_even() {
        let groups: Vec<usize> = (0..1000).map(|i| i % 400).collect();
        let fold = by_group(&groups, 5, 1);
        assert!((0..1000).all(|i| fold[i] == fold[i % 400]));
        for f in 0..5 {
            let n = (0..400).filter(|&i| fold[i] == f).count();
            assert_eq!(n, 80);
        }
        assert_eq!(fold, by_group(&groups, 5, 1));
        assert_ne!(fold, by_group(&groups, 5, 2));
    }

    #[test]
    fn an_order_is_a_permutation() {
        let mut order = Draw::new(3, 4).order(100);
        assert_ne!(order, (0..100).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..100).collect::<Vec<_>>());
        assert_eq!(Draw::new(1, 1).below(0), 0);
    }
}
