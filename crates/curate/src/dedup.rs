//! Rows that repeat one another: exactly, or nearly by the Jaccard similarity of their shingles
//! (MinHash with banding finds the candidates, the exact similarity decides). Chinese is compared
//! by characters, languages with spaces by words; short rows are compared too.

pub mod banding;
pub mod cluster;
pub mod keys;
pub mod shingle;

use serde::{Deserialize, Serialize};

use crate::options::OptionFault;
use banding::Banding;
use keys::Compared;

/// `[dedup]`: what counts as a repetition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DedupOptions {
    /// False: repetitions are counted and noted, none is dropped.
    pub drop: bool,
    /// Which texts are compared: `pair`, `request` or `response`.
    pub compare: Compared,
    /// Tokens in a shingle: characters of Chinese, words of English.
    pub shingle: usize,
    /// Jaccard similarity from which rows count as repeated; 1 finds exact repetitions only.
    pub similarity: f64,
    /// Share of pairs at exactly this similarity that must be found; more similar pairs are found
    /// more often.
    pub recall: f64,
    /// Hash functions in a signature.
    pub functions: usize,
    /// What happens to rows that ask the same and are answered differently: `note` or `drop` (all
    /// but the first).
    pub conflicts: Conflicts,
}

/// Rows with one request and several answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Conflicts {
    /// The rows stay, with a note that names the other.
    #[default]
    Note,
    /// All but the first are dropped.
    Drop,
}

impl Default for DedupOptions {
    fn default() -> Self {
        DedupOptions {
            drop: true,
            compare: Compared::Pair,
            shingle: 5,
            similarity: 0.8,
            recall: 0.9,
            functions: 128,
            conflicts: Conflicts::Note,
        }
    }
}

impl DedupOptions {
    /// All faults.
    pub fn check(&self) -> Vec<OptionFault> {
        let mut faults = Vec::new();
        if !(1..=64).contains(&self.shingle) {
            faults.push(OptionFault::new("dedup.shingle", self.shingle.to_string(), "write 1 to 64 tokens"));
        }
        if !(16..=1024).contains(&self.functions) {
            faults.push(OptionFault::new("dedup.functions", self.functions.to_string(), "write 16 to 1024"));
        }
        let share = |value: f64| value > 0.0 && value <= 1.0;
        if !share(self.similarity) {
            let found = self.similarity.to_string();
            faults.push(OptionFault::new("dedup.similarity", found, "write a number above 0, at most 1"));
        }
        if !(share(self.recall) && self.recall < 1.0) {
            let found = self.recall.to_string();
            faults.push(OptionFault::new("dedup.recall", found, "write a number above 0 and below 1"));
        }
        if faults.is_empty() && self.banding().is_none() {
            let found = format!("{} functions", self.functions);
            let mend = format!("a recall of {} at {} needs more", self.recall, self.similarity);
            faults.push(OptionFault::new("dedup.functions", found, mend));
        }
        faults
    }

    /// Bands that give the recall.
    pub fn banding(&self) -> Option<Banding> {
        Banding::solve(self.functions, self.similarity, self.recall)
    }
}

#[cfg(test)]
mod tests;
