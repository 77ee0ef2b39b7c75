//! Which part a row belongs to: groups of alike rows are never divided, so that a held-out part
//! holds nothing of which a near-duplicate is trained on. Groups are drawn by a seeded hash of
//! their content until a part has its size; a group that would pass it goes to training.

use serde::{Deserialize, Serialize};

use crate::dedup::shingle::mix;
use crate::options::OptionFault;

/// `[split]`: shares of held-out parts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SplitOptions {
    /// Share of rows for evaluation while training.
    pub eval: f64,
    /// Share of rows that are kept for the last test.
    pub test: f64,
    /// Rows whose requests are at least so similar (Jaccard of shingles) stay in one part.
    pub similarity: f64,
    /// Share of such pairs that must be found.
    pub recall: f64,
}

impl Default for SplitOptions {
    fn default() -> Self {
        SplitOptions { eval: 0.02, test: 0.0, similarity: 0.7, recall: 0.95 }
    }
}

impl SplitOptions {
    /// All faults.
    pub fn check(&self) -> Vec<OptionFault> {
        let mut faults = Vec::new();
        for (key, share) in [("split.eval", self.eval), ("split.test", self.test)] {
            if !(0.0..1.0).contains(&share) {
                faults.push(OptionFault::new(key, share.to_string(), "write a share from 0 to below 1"));
            }
        }
        if self.eval + self.test >= 1.0 {
            let found = format!("eval and test take {}", self.eval + self.test);
            faults.push(OptionFault::new("split", found, "leave something to train on"));
        }
        for (key, value) in [("split.similarity", self.similarity), ("split.recall", self.recall)] {
            if !(value > 0.0 && value < 1.0) {
                faults.push(OptionFault::new(key, value.to_string(), "write a number above 0 and below 1"));
            }
        }
        faults
    }

    /// True when some row is held out.
    pub fn any(&self) -> bool {
        self.eval > 0.0 || self.test > 0.0
    }
}

/// The part of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// To train on.
    Train,
    /// To evaluate on while training.
    Eval,
    /// For the last test.
    Test,
}

impl Part {
    /// All parts, in report order.
    pub const ALL: [Part; 3] = [Part::Train, Part::Eval, Part::Test];

    /// The name of its folder.
    pub fn name(self) -> &'static str {
        match self {
            Part::Train => "train",
            Part::Eval => "eval",
            Part::Test => "test",
        }
    }
}

/// Divides rows. `groups[i]` is the group of row `i` (the index of its first row) and `keys[i]` a
/// hash of the row's content.
///
/// # Panics
/// When the lengths differ.
pub fn split(groups: &[u32], keys: &[u64], options: &SplitOptions, seed: u64) -> Vec<Part> {
    assert_eq!(groups.len(), keys.len(), "one key a row");
    // A group is drawn by the smallest key of its rows, whatever order they came in.
    let mut drawn: Vec<(u64, u32)> = Vec::new();
    let mut sizes = vec![0_u32; groups.len()];
    let mut least = vec![u64::MAX; groups.len()];
    for (group, key) in groups.iter().zip(keys) {
        let group = *group as usize;
        sizes[group] += 1;
        least[group] = least[group].min(mix(key ^ mix(seed ^ 0x5350_4c49_5400)));
    }
    drawn.extend((0..groups.len()).filter(|group| sizes[*group] > 0).map(|group| (least[group], group as u32)));
    drawn.sort_unstable();
    let mut part_of = vec![Part::Train; groups.len()];
    let mut left = drawn.into_iter();
    for (part, share) in [(Part::Test, options.test), (Part::Eval, options.eval)] {
        let wanted = (groups.len() as f64 * share).round() as u32;
        let mut have = 0;
        while have < wanted
            && let Some((_, group)) = left.next()
        {
            let size = sizes[group as usize];
            if have + size <= wanted {
                part_of[group as usize] = part;
                have += size;
            }
        }
    }
    groups.iter().map(|group| part_of[*group as usize]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// No group stands in two parts, parts keep within their size, and the order of the rows
        /// does not matter.
        #[test]
        fn groups_are_whole_and_order_is_nothing(sizes in prop::collection::vec(1_usize..6, 1..60), seed in any::<u64>()) {
            let mut rows = Vec::new();
            for (group, size) in sizes.iter().enumerate() {
                rows.extend((0..*size).map(|at| (group, mix((group * 10 + at) as u64))));
            }
            let options = SplitOptions { eval: 0.2, test: 0.1, ..SplitOptions::default() };
            let run = |order: &[(usize, u64)]| {
                let first = |group: usize| order.iter().position(|(other, _)| *other == group).unwrap() as u32;
                let groups: Vec<u32> = order.iter().map(|(group, _)| first(*group)).collect();
                let keys: Vec<u64> = order.iter().map(|(_, key)| *key).collect();
                let mut out: Vec<(usize, u64, Part)> =
                    order.iter().zip(split(&groups, &keys, &options, seed)).map(|((g, k), part)| (*g, *k, part)).collect();
                out.sort_unstable();
                out
            };
            let out = run(&rows);
            for pair in out.windows(2) {
                prop_assert!(pair[0].0 != pair[1].0 || pair[0].2 == pair[1].2);
            }
            let count = |part| out.iter().filter(|row| row.2 == part).count();
            prop_assert!(count(Part::Eval) <= (rows.len() as f64 * 0.2).round() as usize);
            prop_assert!(count(Part::Test) <= (rows.len() as f64 * 0.1).round() as usize);
            rows.reverse();
            prop_assert_eq!(out, run(&rows));
        }
    }

    #[test]
    fn rows_of_their_own_are_divided_to_the_row() {
        let groups: Vec<u32> = (0..1000).collect();
        let keys: Vec<u64> = (0..1000).map(mix).collect();
        let options = SplitOptions { eval: 0.05, test: 0.1, ..SplitOptions::default() };
        let parts = split(&groups, &keys, &options, 1);
        let count = |part| parts.iter().filter(|other| **other == part).count();
        assert_eq!([count(Part::Test), count(Part::Eval), count(Part::Train)], [100, 50, 850]);
        assert_ne!(parts, split(&groups, &keys, &options, 2));
    }
}
