//! The best rows seen so far in bounded memory.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap};

/// A row that may be picked.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Its number over all input.
    pub row: u64,
    /// Higher is better.
    pub score: f32,
    /// Task type, 0 for unknown.
    pub kind: u16,
    /// Length 1.
    pub vector: Vec<f32>,
}

/// Better first: higher score, then lower row.
fn rank(score: f32, row: u64, other: (f32, u64)) -> Ordering {
    score.total_cmp(&other.0).then(other.1.cmp(&row))
}

struct Ranked(Candidate);

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> Ordering {
        rank(self.0.score, self.0.row, (other.0.score, other.0.row))
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Ranked {}

/// The best `all` rows, and of every type the best `each` of the others.
pub struct Pool {
    all: usize,
    each: usize,
    best: BinaryHeap<Reverse<Ranked>>,
    of_type: BTreeMap<u16, BinaryHeap<Reverse<Ranked>>>,
}

impl Pool {
    /// Without rows.
    pub fn new(all: usize, each: usize) -> Self {
        Pool { all, each, best: BinaryHeap::new(), of_type: BTreeMap::new() }
    }

    /// Whether a row would be kept: asked before its vector is made.
    pub fn takes(&self, score: f32, row: u64, kind: u16) -> bool {
        let beats = |heap: Option<&BinaryHeap<Reverse<Ranked>>>, bound: usize| match heap {
            Some(heap) if heap.len() >= bound => {
                heap.peek().is_some_and(|least| rank(score, row, (least.0.0.score, least.0.0.row)).is_gt())
            }
            _ => bound > 0,
        };
        beats(Some(&self.best), self.all) || beats(self.of_type.get(&kind), self.each)
    }

    /// Takes a row in, if it is good enough.
    pub fn offer(&mut self, candidate: Candidate) {
        self.best.push(Reverse(Ranked(candidate)));
        if self.best.len() <= self.all {
            return;
        }
        let Some(Reverse(Ranked(out))) = self.best.pop() else { return };
        let heap = self.of_type.entry(out.kind).or_default();
        heap.push(Reverse(Ranked(out)));
        if heap.len() > self.each {
            heap.pop();
        }
    }

    /// All that was kept, best first.
    pub fn finish(self) -> Vec<Candidate> {
        let heaps = std::iter::once(self.best).chain(self.of_type.into_values());
        let mut all: Vec<Ranked> = heaps.flatten().map(|Reverse(ranked)| ranked).collect();
        all.sort_by(|a, b| b.cmp(a));
        all.into_iter().map(|ranked| ranked.0).collect()
    }
}
