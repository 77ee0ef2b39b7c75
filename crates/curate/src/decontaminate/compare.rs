//! What each mode would remove, side by side, before one is chosen.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

use super::{Index, Mode};
use crate::batch::Batch;

/// Counts of one mode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModeCount {
    /// The mode.
    pub mode: Mode,
    /// Training rows that it would remove.
    pub train_rows: usize,
    /// Evaluation items that at least one of them leaks.
    pub eval_items: usize,
    /// Evaluation items more than half of whose words lie in n-grams of this length of any rows,
    /// all rows together; for the plain n-gram modes.
    pub half_covered: Option<usize>,
}

/// Length of the plain n-gram modes.
const LENGTHS: [(Mode, usize); 3] = [(Mode::Gpt3, 13), (Mode::DeepSeek, 10), (Mode::Words8, 8)];

/// All modes over the batches seen so far. Parts may be made apart and merged, in any order.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    rows: usize,
    items: usize,
    removed: [usize; Mode::ALL.len()],
    leaked: [BTreeSet<usize>; Mode::ALL.len()],
    /// (n, text) → which of its words are covered.
    covered: BTreeMap<(usize, usize), Vec<bool>>,
    /// (item, words) of every compared text.
    lengths: Vec<(usize, usize)>,
}

impl Comparison {
    /// Looks at one more batch under every mode.
    pub fn add(&mut self, index: &Index, batch: &Batch) {
        self.items = index.items();
        if self.lengths.is_empty() {
            self.lengths = index.lengths();
        }
        for row in batch.rows() {
            self.rows += 1;
            let found = index.scan(&row, &Mode::ALL);
            for (at, mode) in Mode::ALL.iter().enumerate() {
                let items: Vec<usize> = found.iter().filter(|m| m.mode == *mode).map(|m| m.item).collect();
                self.removed[at] += usize::from(!items.is_empty());
                self.leaked[at].extend(items);
            }
            for (_, n) in LENGTHS {
                index.shared(&row, n, |text, run| {
                    let words = self.lengths[text].1;
                    self.covered.entry((n, text)).or_insert_with(|| vec![false; words])[run].fill(true);
                });
            }
        }
    }

    /// Takes in the counts of other batches against the same index.
    pub fn merge(&mut self, other: Comparison) {
        self.rows += other.rows;
        self.items = self.items.max(other.items);
        for (mine, theirs) in self.removed.iter_mut().zip(other.removed) {
            *mine += theirs;
        }
        for (mine, theirs) in self.leaked.iter_mut().zip(other.leaked) {
            mine.extend(theirs);
        }
        for (key, theirs) in other.covered {
            let mine = self.covered.entry(key).or_insert_with(|| vec![false; theirs.len()]);
            mine.iter_mut().zip(theirs).for_each(|(mine, theirs)| *mine |= theirs);
        }
        if self.lengths.is_empty() {
            self.lengths = other.lengths;
        }
    }

    /// Items more than half of whose words are covered.
    fn half_covered(&self, n: usize) -> usize {
        let mut items: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
        for (text, (item, words)) in self.lengths.iter().enumerate() {
            let (all, covered) = items.entry(*item).or_default();
            *all += words;
            *covered += self.covered.get(&(n, text)).map_or(0, |words| words.iter().filter(|w| **w).count());
        }
        items.values().filter(|(all, covered)| 2 * covered > *all).count()
    }

    /// One count a mode.
    pub fn modes(&self) -> Vec<ModeCount> {
        let count = |(at, mode): (usize, &Mode)| ModeCount {
            mode: *mode,
            train_rows: self.removed[at],
            eval_items: self.leaked[at].len(),
            half_covered: LENGTHS.iter().find(|(m, _)| m == mode).map(|(_, n)| self.half_covered(*n)),
        };
        Mode::ALL.iter().enumerate().map(count).collect()
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<12}{:>16}{:>20}{:>20}", "mode", "rows removed", "evaluation items", "half covered")?;
        for count in self.modes() {
            let mode = count.mode.name();
            let of = |n: usize, all: usize| format!("{n} of {all}");
            let half = count.half_covered.map_or("-".into(), |n| n.to_string());
            let (rows, items) = (of(count.train_rows, self.rows), of(count.eval_items, self.items));
            writeln!(f, "{mode:<12}{rows:>16}{items:>20}{half:>20}")?;
        }
        Ok(())
    }
}
