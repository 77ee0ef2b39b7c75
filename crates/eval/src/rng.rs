//! Random draws by position: the value at (seed, stream, index) depends on nothing else.
//!
//! Takes a seed and a stream number, gives uniform draws (SplitMix64 over a counter; Steele, Lea and
//! Flood, OOPSLA 2014). Never keeps global state, so case 17 of a data set is the same whatever was
//! drawn before it.

/// One independent sequence of draws.
#[derive(Clone, Debug)]
pub struct Draw {
    key: u64,
    index: u64,
}

/// The SplitMix64 finaliser: a bijection of 64-bit words with full avalanche.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Draw {
    /// The sequence `stream` of `seed`.
    pub fn new(seed: u64, stream: u64) -> Draw {
        Draw { key: mix(mix(seed.wrapping_add(0x9E37_79B9_7F4A_7C15)) ^ stream), index: 0 }
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.index = self.index.wrapping_add(1);
        mix(self.key.wrapping_add(self.index.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
    }

    /// Uniform in `0..bound`; 0 when `bound` is 0. Bias below `bound / 2^64`.
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next_u64()) * bound as u128) >> 64) as usize
    }

    /// Uniform in `low..=high` (`low` when the range is empty).
    pub fn between(&mut self, low: u32, high: u32) -> u32 {
        low + self.below(high.saturating_sub(low) as usize + 1) as u32
    }

    /// True with probability `percent / 100`.
    pub fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of `items`; `None` when there are none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.below(items.len()))
    }

    /// Shuffles in place (Fisher–Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draw_depends_on_its_position_only() {
        let mut a = Draw::new(7, 3);
        let mut b = Draw::new(7, 3);
        let first: Vec<u64> = (0..5).map(|_| a.next_u64()).collect();
        assert_eq!(first, (0..5).map(|_| b.next_u64()).collect::<Vec<_>>());
        assert_ne!(first[0], Draw::new(7, 4).next_u64());
        assert_ne!(first[0], Draw::new(8, 3).next_u64());
    }

    #[test]
    fn draws_are_uniform() {
        let mut draw = Draw::new(1, 0);
        let mut counts = [0_u32; 10];
        for _ in 0..10_000 {
            counts[draw.below(10)] += 1;
        }
        // Chi-square with 9 degrees of freedom: 27.9 is the 99.9 % point.
        let chi: f64 = counts.iter().map(|&c| (f64::from(c) - 1000.0).powi(2) / 1000.0).sum();
        assert!(chi < 27.9, "chi-square {chi}");
    }

    #[test]
    fn shuffling_keeps_every_item() {
        let mut items: Vec<u32> = (0..20).collect();
        Draw::new(5, 5).shuffle(&mut items);
        assert_ne!(items, (0..20).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..20).collect::<Vec<_>>());
    }

    #[test]
    fn between_covers_both_ends() {
        let mut draw = Draw::new(2, 2);
        let seen: std::collections::BTreeSet<u32> = (0..200).map(|_| draw.between(3, 5)).collect();
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [3, 4, 5]);
        assert_eq!(draw.below(0), 0);
    }
}
