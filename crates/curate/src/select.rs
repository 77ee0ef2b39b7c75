//! Picks a budget of rows by score first and diversity second (Deita, Liu et al., 2024): from the
//! best score down, a row is taken when its largest cosine to all taken rows is at most τ. Task
//! types bound the choice as a partition matroid: first every type is filled to its floor, then the
//! rest of the budget goes by score, no type above its share. Greedy is a 1/2-approximation of the
//! best sum of scores under such quotas.
//!
//! One pass over any number of rows: a pool keeps the best rows, and of every type its best few
//! beyond; only they have vectors. What the pool holds at the end does not depend on the order of
//! rows. Without an embedding model the vector is lexical (hashed terms) and is named so. Cosines
//! are exact up to [`EXACT_UNTIL`] taken rows; beyond, random hyperplanes propose neighbours and
//! the report says with what recall at τ.

mod greedy;
mod pool;

use std::sync::Arc;

use arrow_array::{Array, Float32Array, Float64Array, UInt16Array};
use serde::{Deserialize, Serialize};

pub use greedy::{EXACT_UNTIL, Selected, Selection, SelectionReport};
pub use pool::{Candidate, Pool};

use crate::batch::{Batch, Row};
use crate::dedup::keys::Compared;
use crate::embedding;
use crate::models::Embedder;
use crate::options::OptionFault;
use crate::terms::{lexical_vector, normalise, terms};

/// The score that a model gives: loss(answer | request) / loss(answer), see [`crate::curriculum`].
pub const IFD: &str = "ifd";

/// Bytes of a row that a lexical vector reads.
const READ: usize = 4000;

/// Options of `select`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Rows to pick. Default 10 000.
    pub budget: usize,
    /// Largest cosine between two picked rows. Default 0.9.
    pub tau: f64,
    /// Column with the score, higher is better; built from the text when absent (see
    /// [`lexical_score`]). `ifd` is the difficulty that the model of the section `scorer` measures;
    /// above 1 the request hinders the answer, and such a row comes last (Li et al., 2024).
    pub score: Option<String>,
    /// Rows that every task type gets first, as far as it has them. Default 20.
    pub floor: usize,
    /// Largest share of the budget for one task type. Default 0.15.
    pub max_share: f64,
    /// Candidates in memory for each row to pick. Default 4.
    pub pool: usize,
    /// Places of a lexical vector. Default 256.
    pub dims: usize,
    /// Seed of the random hyperplanes. Default 0.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options { budget: 10_000, tau: 0.9, score: None, floor: 20, max_share: 0.15, pool: 4, dims: 256, seed: 0 }
    }
}

/// Score of a row without a model: Σ over turns of ln(1 + terms asked) · ln(1 + terms answered) ·
/// share of distinct terms in the answer. Long and plain repetition gain nothing.
pub fn lexical_score(row: &Row<'_>) -> f32 {
    let mut score = 0.0;
    let mut asked = 0usize;
    for turn in row.turns() {
        let mut all = Vec::new();
        terms(turn.content, READ, |term| all.push(term));
        if turn.is_request() {
            asked = all.len();
        } else if turn.is_response() {
            let answered = all.len();
            all.sort_unstable();
            all.dedup();
            let distinct = all.len() as f32 / answered.max(1) as f32;
            // a plain text answers a question of one term
            score += (1.0 + asked.max(1) as f32).ln() * (1.0 + answered as f32).ln() * distinct;
        }
    }
    score
}

/// Takes batches, gives the selection.
pub struct Selector {
    options: Options,
    embedder: Option<Arc<dyn Embedder>>,
    pool: Pool,
    rows: u64,
    /// Vectors came as a column.
    embedded: bool,
}

impl Selector {
    /// Without rows yet.
    ///
    /// # Errors
    /// Every option out of its range.
    pub fn new(options: Options, embedder: Option<Arc<dyn Embedder>>) -> Result<Self, Vec<OptionFault>> {
        let mut faults = Vec::new();
        let mut fault = |key: &str, found: String, mend: &str| faults.push(OptionFault::new(key, found, mend));
        for (key, value, least) in
            [("budget", options.budget, 1), ("pool", options.pool, 1), ("dims", options.dims, 16)]
        {
            if value < least {
                fault(key, value.to_string(), &format!("give at least {least}"));
            }
        }
        for (key, value) in [("tau", options.tau), ("max_share", options.max_share)] {
            if !(value > 0.0 && value <= 1.0) {
                fault(key, value.to_string(), "give a number above 0 and up to 1");
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let pool = Pool::new(options.budget.saturating_mul(options.pool), options.floor.saturating_mul(4));
        Ok(Selector { options, embedder, pool, rows: 0, embedded: false })
    }

    /// Looks at one more batch. Columns `task_type`, the score's and the model's vectors
    /// ([`embedding::COLUMN`]), when there are.
    ///
    /// # Errors
    /// The score's column is missing or no number.
    pub fn add(&mut self, batch: &Batch) -> Result<(), OptionFault> {
        let scores = self.scores(batch)?;
        let types = batch.added("task_type").and_then(|c| c.as_any().downcast_ref::<UInt16Array>());
        let wanted: Vec<usize> = (0..batch.len())
            .filter(|at| self.pool.takes(scores[*at], batch.row(*at).number(), kind(types, *at)))
            .collect();
        let texts: Vec<String> = wanted.iter().map(|at| embedding::text(&batch.row(*at), Compared::Request)).collect();
        let column = embedding::column(batch);
        self.embedded |= column.is_some();
        let vectors: Vec<Vec<f32>> = match (column, &self.embedder) {
            (Some((values, width)), _) => {
                let mut vectors: Vec<Vec<f32>> =
                    wanted.iter().map(|at| values[at * width..(at + 1) * width].to_vec()).collect();
                vectors.iter_mut().for_each(|v| normalise(v));
                vectors
            }
            (None, Some(embedder)) => {
                let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                let mut vectors = embedder.embed(&texts);
                vectors.iter_mut().for_each(|v| normalise(v));
                vectors
            }
            (None, None) => texts.iter().map(|t| lexical_vector(t, self.options.dims, READ)).collect(),
        };
        for (at, vector) in wanted.into_iter().zip(vectors) {
            let (row, score, kind) = (batch.row(at).number(), scores[at], kind(types, at));
            self.pool.offer(Candidate { row, score, kind, vector });
        }
        self.rows += batch.len() as u64;
        Ok(())
    }

    /// Picks.
    pub fn finish(self) -> Selection {
        let vectors = match self.embedded || self.embedder.is_some() {
            true => "embedding model".to_owned(),
            false => format!("lexical: {} hashed places for words and CJK character pairs", self.options.dims),
        };
        let score = self.options.score.clone().unwrap_or_else(|| "lexical score".into());
        greedy::select(self.pool.finish(), &self.options, self.rows, vectors, score)
    }

    fn scores(&self, batch: &Batch) -> Result<Vec<f32>, OptionFault> {
        let Some(name) = &self.options.score else { return Ok(batch.rows().map(|row| lexical_score(&row)).collect()) };
        let column = batch.added(name).ok_or_else(|| {
            OptionFault::new("score", format!("no column `{name}`"), "name a column that an earlier stage adds")
        })?;
        // a missing score is the lowest, so that it never passes for a middling one
        let or_lowest = |value: Option<f32>| value.filter(|v| v.is_finite()).unwrap_or(f32::MIN);
        if let Some(column) = column.as_any().downcast_ref::<Float32Array>() {
            Ok(column.iter().map(or_lowest).collect())
        } else if let Some(column) = column.as_any().downcast_ref::<Float64Array>() {
            Ok(column.iter().map(|v| or_lowest(v.map(|v| v as f32))).collect())
        } else {
            let found = format!("column `{name}` is {}", column.data_type());
            Err(OptionFault::new("score", found, "name a column of Float32 or Float64"))
        }
    }
}

fn kind(types: Option<&UInt16Array>, at: usize) -> u16 {
    types.map_or(0, |types| if types.is_null(at) { 0 } else { types.value(at) })
}

#[cfg(test)]
mod tests;
