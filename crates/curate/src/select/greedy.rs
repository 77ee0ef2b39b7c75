//! From candidates, best first, to the selection.

use std::collections::BTreeMap;

use loar_kernels::rng::Stream;
use serde::Serialize;

use super::Options;
use super::pool::Candidate;
use crate::terms::{HashKeyed, dot};

/// Taken rows up to which every cosine is computed.
pub const EXACT_UNTIL: usize = 8192;
/// Names the use of randomness.
const PURPOSE: u32 = 0x5E1E;
/// Tables of the neighbour search and hyperplanes of each.
const TABLES: usize = 24;
const PLANES: usize = 12;

/// A picked row.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Selected {
    /// Its number over all input.
    pub row: u64,
    /// Its score.
    pub score: f32,
    /// Its task type.
    pub kind: u16,
    /// Largest cosine to the rows taken before it.
    pub nearest: f32,
    /// Taken to fill its type's floor.
    pub for_floor: bool,
}

/// How the selection came about and what it covers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SelectionReport {
    /// Rows looked at.
    pub rows: u64,
    /// Rows that were in the pool.
    pub pool: usize,
    /// Rows asked for.
    pub budget: usize,
    /// Rows taken.
    pub taken: usize,
    /// Of these, for the floors of their types.
    pub for_floors: usize,
    /// Rows of the pool refused as too near to a taken one.
    pub too_near: usize,
    /// Rows of the pool refused since their type was full.
    pub type_full: usize,
    /// What the vectors are.
    pub vectors: String,
    /// What the score is.
    pub score: String,
    /// Share of neighbours at τ that the search finds: 1 while cosines are exact.
    pub recall_at_tau: f64,
    /// Mean over the pool of the largest cosine to a taken row: facility location, 1 is best.
    /// `None` beyond [`EXACT_UNTIL`] taken rows.
    pub facility_location: Option<f64>,
    /// 1 − the smallest such cosine: no row of the pool is farther from the selection.
    pub radius: Option<f64>,
    /// Rows taken of each type.
    pub types: BTreeMap<u16, usize>,
}

/// Picked rows, in the order they were taken, and the report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Selection {
    /// The rows.
    pub rows: Vec<Selected>,
    /// The report.
    pub report: SelectionReport,
}

/// Taken vectors, searched for the nearest.
struct Taken<'a> {
    vectors: Vec<&'a [f32]>,
    planes: Vec<Vec<f32>>,
    tables: Vec<HashKeyed<Vec<u32>>>,
    seed: u64,
}

impl<'a> Taken<'a> {
    fn new(seed: u64) -> Self {
        Taken { vectors: Vec::new(), planes: Vec::new(), tables: Vec::new(), seed }
    }

    /// Which side of each hyperplane, one key a table.
    fn keys(&self, vector: &[f32]) -> Vec<u64> {
        let side = |plane: &Vec<f32>| u64::from(dot(plane, vector) > 0.0);
        self.planes.chunks(PLANES).map(|planes| planes.iter().fold(0, |key, plane| key << 1 | side(plane))).collect()
    }

    fn push(&mut self, vector: &'a [f32]) {
        self.vectors.push(vector);
        if self.vectors.len() == EXACT_UNTIL {
            let plane = |at: usize| -> Vec<f32> {
                let stream = Stream::new(self.seed, PURPOSE, at as u32);
                (0..vector.len() as u64).map(|i| stream.normal(i)).collect()
            };
            self.planes = (0..TABLES * PLANES).map(plane).collect();
            self.tables = vec![HashKeyed::default(); TABLES];
            (0..self.vectors.len()).for_each(|at| self.enter(at));
        } else if self.vectors.len() > EXACT_UNTIL {
            self.enter(self.vectors.len() - 1);
        }
    }

    fn enter(&mut self, at: usize) {
        for (table, key) in self.keys(self.vectors[at]).into_iter().enumerate() {
            self.tables[table].entry(key).or_default().push(at as u32);
        }
    }

    fn nearest(&self, vector: &[f32]) -> f32 {
        if self.tables.is_empty() {
            return self.vectors.iter().map(|v| dot(v, vector)).fold(0.0, f32::max);
        }
        let mut near: Vec<u32> = Vec::new();
        for (table, key) in self.tables.iter().zip(self.keys(vector)) {
            near.extend(table.get(&key).into_iter().flatten());
        }
        near.sort_unstable();
        near.dedup();
        near.into_iter().map(|at| dot(self.vectors[at as usize], vector)).fold(0.0, f32::max)
    }

    /// 1 − (1 − pᵏ)ᵗ with p = 1 − acos τ / π the chance that a hyperplane does not part neighbours.
    fn recall(&self, tau: f64) -> f64 {
        if self.tables.is_empty() {
            return 1.0;
        }
        let together = (1.0 - tau.acos() / std::f64::consts::PI).powi(PLANES as i32);
        1.0 - (1.0 - together).powi(TABLES as i32)
    }
}

/// Picks from candidates that stand best first.
pub(super) fn select(pool: Vec<Candidate>, options: &Options, rows: u64, vectors: String, score: String) -> Selection {
    let tau = options.tau as f32;
    let full = ((options.max_share * options.budget as f64).floor() as usize).max(1);
    let mut types: BTreeMap<u16, usize> = BTreeMap::new();
    pool.iter().for_each(|c| *types.entry(c.kind).or_default() = 0);
    let known = types.keys().filter(|kind| **kind != 0).count();
    // floors never take more than the budget, nor a type beyond its share
    let floor = options.budget.checked_div(known).map_or(0, |each| options.floor.min(each).min(full));
    let mut taken = Taken::new(options.seed);
    let mut out: Vec<Selected> = Vec::new();
    let mut state = vec![false; pool.len()];
    let (mut near, mut crowded) = (0, 0);
    for for_floor in [true, false] {
        for (at, candidate) in pool.iter().enumerate() {
            if out.len() >= options.budget {
                break;
            }
            let count = types.entry(candidate.kind).or_default();
            let open = if for_floor { candidate.kind != 0 && *count < floor } else { *count < full };
            if state[at] || !open {
                crowded += usize::from(!for_floor && !state[at]);
                continue;
            }
            let nearest = taken.nearest(&candidate.vector);
            if nearest > tau {
                // what is too near now stays too near
                state[at] = true;
                near += 1;
                continue;
            }
            state[at] = true;
            *count += 1;
            taken.push(&candidate.vector);
            out.push(Selected { row: candidate.row, score: candidate.score, kind: candidate.kind, nearest, for_floor });
        }
    }
    let covers: Option<Vec<f64>> = (!taken.vectors.is_empty() && taken.tables.is_empty())
        .then(|| pool.iter().map(|c| f64::from(taken.nearest(&c.vector))).collect());
    let report = SelectionReport {
        rows,
        pool: pool.len(),
        budget: options.budget,
        taken: out.len(),
        for_floors: out.iter().filter(|s| s.for_floor).count(),
        too_near: near,
        type_full: crowded,
        vectors,
        score,
        recall_at_tau: taken.recall(options.tau),
        facility_location: covers.as_ref().map(|c| c.iter().sum::<f64>() / c.len() as f64),
        radius: covers.as_ref().map(|c| 1.0 - c.iter().copied().fold(1.0, f64::min)),
        types: types.into_iter().filter(|(_, count)| *count > 0).collect(),
    };
    Selection { rows: out, report }
}
