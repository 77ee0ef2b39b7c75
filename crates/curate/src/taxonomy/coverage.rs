//! How well a set covers the task types, and what is missing.

use arrow_array::{Array, UInt16Array};
use serde::Serialize;

use super::{Options, Taxonomy};
use crate::batch::Batch;

/// Rows of each type; counts of parts add up in any order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts([u64; Taxonomy::TYPES + 1]);

impl Default for Counts {
    fn default() -> Self {
        Counts([0; Taxonomy::TYPES + 1])
    }
}

/// A type with fewer rows than asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// Number of the type.
    pub number: u16,
    /// English name.
    pub en: String,
    /// Chinese name.
    pub zh: String,
    /// Rows there are.
    pub rows: u64,
    /// Rows that are missing.
    pub missing: u64,
}

/// Coverage of the types by a set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CoverageReport {
    /// Rows of the set.
    pub rows: u64,
    /// Rows of no known type; more than 5 % of the set ask for further cues.
    pub unknown: u64,
    /// Rows of each type, by number from 1.
    pub counts: Vec<u64>,
    /// Types with enough rows.
    pub covered: usize,
    /// Types that were asked for.
    pub asked: usize,
    /// Rows that a type needs.
    pub samples: u64,
    /// `covered` / 112.
    pub coverage: f64,
    /// H / ln 112, H the entropy of known types: 1 when all are equally frequent.
    pub normalised_entropy: f64,
    /// e^H: so many equally frequent types would be as diverse.
    pub effective_types: f64,
    /// Inequality over the 112 counts: 0 all equal, near 1 one type alone.
    pub gini: f64,
    /// Share of the most frequent type among known rows.
    pub max_share: f64,
    /// That type, 0 without rows.
    pub largest: u16,
    /// `max_share` is within the bound.
    pub balanced: bool,
    /// Types that lack rows, the fullest first: filling the first `asked - covered` of them meets
    /// the quota with least work.
    pub gaps: Vec<Gap>,
}

impl Counts {
    /// Counts the column `task_type` of a batch; a batch without it counts as unknown.
    pub fn add(&mut self, batch: &Batch) {
        match batch.added("task_type").and_then(|c| c.as_any().downcast_ref::<UInt16Array>()) {
            Some(types) => types.iter().for_each(|t| self.count(t.unwrap_or(0), 1)),
            None => self.count(0, batch.len() as u64),
        }
    }

    /// Counts rows of one type, 0 for unknown. Numbers beyond the table count as unknown.
    pub fn count(&mut self, number: u16, rows: u64) {
        let at = if usize::from(number) <= Taxonomy::TYPES { usize::from(number) } else { 0 };
        self.0[at] += rows;
    }

    /// Takes in another part's counts.
    pub fn merge(&mut self, other: &Counts) {
        self.0.iter_mut().zip(other.0).for_each(|(mine, theirs)| *mine += theirs);
    }

    /// The measures and the gaps.
    pub fn report(&self, taxonomy: &Taxonomy, options: &Options) -> CoverageReport {
        let counts = &self.0[1..];
        let known: u64 = counts.iter().sum();
        let shares: Vec<f64> = counts.iter().map(|c| if known == 0 { 0.0 } else { *c as f64 / known as f64 }).collect();
        let entropy: f64 = shares.iter().filter(|p| **p > 0.0).map(|p| -p * p.ln()).sum();
        let (largest, most) =
            counts.iter().enumerate().fold((0, 0), |best, (at, c)| if *c > best.1 { (at + 1, *c) } else { best });
        let max_share = if known == 0 { 0.0 } else { most as f64 / known as f64 };
        let covered = counts.iter().filter(|c| **c >= options.samples).count();
        let mut gaps: Vec<Gap> = taxonomy
            .types()
            .iter()
            .zip(counts)
            .filter(|(_, rows)| **rows < options.samples)
            .map(|(kind, rows)| Gap {
                number: kind.number,
                en: kind.en.clone(),
                zh: kind.zh.clone(),
                rows: *rows,
                missing: options.samples - rows,
            })
            .collect();
        gaps.sort_by_key(|gap| (gap.missing, gap.number));
        CoverageReport {
            rows: known + self.0[0],
            unknown: self.0[0],
            counts: counts.to_vec(),
            covered,
            asked: options.types,
            samples: options.samples,
            coverage: covered as f64 / Taxonomy::TYPES as f64,
            normalised_entropy: entropy / (Taxonomy::TYPES as f64).ln(),
            effective_types: if known == 0 { 0.0 } else { entropy.exp() },
            gini: gini(counts),
            max_share,
            largest: largest as u16,
            balanced: max_share <= options.max_share,
            gaps,
        }
    }
}

/// Gini coefficient Σ (2i − n − 1)·xᵢ / (n·Σx) of sorted counts; 0 without any.
fn gini(counts: &[u64]) -> f64 {
    let mut sorted = counts.to_vec();
    sorted.sort_unstable();
    let (n, total) = (sorted.len() as f64, sorted.iter().sum::<u64>() as f64);
    if total == 0.0 {
        return 0.0;
    }
    let weighted: f64 = sorted.iter().enumerate().map(|(at, x)| (2.0 * (at + 1) as f64 - n - 1.0) * *x as f64).sum();
    weighted / (n * total)
}
