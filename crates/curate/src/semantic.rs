//! Rows that mean the same in other words, by the cosine of their vectors (after SemDeDup, Abbas et
//! al. 2023). Spherical k-means over a sample cuts the space into cells, each row lies in its
//! nearest few cells, and within a cell every row is compared with the rows before it that stay: the
//! cosine is exact, only pairs without a common cell are missed. A row is left out when an earlier
//! one reaches the bound; it names the nearest of those and the cosine.
//!
//! Memory: [`STATE_BYTES`] a row and cell, the centroids, and the vectors of one cell's rows that
//! stay. Neither threads nor shards change the result: cells are taken in order, rows in order.

use loar_kernels::{Gemm, Matrix, Pool, Precision};
use serde::{Deserialize, Serialize};

use crate::options::OptionFault;
use crate::shard::ShardError;
use crate::terms::normalise;

/// Bytes of state for a row and each cell it lies in.
pub const STATE_BYTES: usize = 8;
/// Rows of the sample for each cell, and in all.
const SAMPLE: usize = 64;
const SAMPLED: usize = 1 << 16;
/// Cells at most.
const CELLS: usize = 4096;
/// Rounds of k-means.
const ROUNDS: usize = 8;
/// Rows compared with centroids, and with a cell's rows, at a time.
const ASSIGNED: usize = 2048;
const BLOCK: usize = 256;

/// Options of `semantic`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Cosine from which a row repeats an earlier one. Default 0.95.
    pub cosine: f64,
    /// False: such rows are noted, none is dropped. Default true.
    pub drop: bool,
    /// Mean rows of a cell: fewer are faster, more miss less. Up to so many rows in all, every pair
    /// is compared. Default 2048.
    pub cell: usize,
    /// Cells a row lies in. Default 2.
    pub probes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options { cosine: 0.95, drop: true, cell: 2048, probes: 2 }
    }
}

impl Options {
    /// All faults.
    pub fn check(&self) -> Vec<OptionFault> {
        let mut faults = Vec::new();
        if !(self.cosine > 0.0 && self.cosine <= 1.0) {
            let found = self.cosine.to_string();
            faults.push(OptionFault::new("semantic.cosine", found, "give a number above 0, at most 1"));
        }
        if self.cell < 16 {
            faults.push(OptionFault::new("semantic.cell", self.cell.to_string(), "give at least 16 rows"));
        }
        if !(1..=16).contains(&self.probes) {
            faults.push(OptionFault::new("semantic.probes", self.probes.to_string(), "give 1 to 16 cells"));
        }
        faults
    }
}

/// A row that means what an earlier one means.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Same {
    /// The later row.
    pub row: u32,
    /// The earlier one that is nearest.
    pub of: u32,
    /// Cosine of their vectors.
    pub cosine: f32,
}

/// How it was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Rows compared.
    pub rows: u64,
    /// Those that repeat an earlier one.
    pub same: u64,
    /// The bound.
    pub cosine: f64,
    /// Cells, and rows of the largest.
    pub cells: u64,
    /// See [`Report::cells`].
    pub largest_cell: u64,
    /// Cells a row lies in.
    pub probes: u64,
    /// Pairs whose cosine was computed; every pair has one when there is one cell.
    pub pairs: u64,
}

/// Rows (rising) that repeat an earlier one, by row. `read` gives vectors of length 1 and of
/// `width` numbers, of rising rows, one after another.
///
/// # Errors
/// What `read` says.
pub fn find(
    rows: &[u32],
    width: usize,
    options: &Options,
    pool: &Pool,
    read: impl Fn(&[u32]) -> Result<Vec<f32>, ShardError>,
) -> Result<(Vec<Same>, Report), ShardError> {
    let mut report = Report { rows: rows.len() as u64, cosine: options.cosine, ..Report::default() };
    if rows.len() < 2 || width == 0 {
        return Ok((Vec::new(), report));
    }
    let cells = rows.len().div_ceil(options.cell).min(CELLS);
    let probes = options.probes.min(cells);
    let centroids = if cells == 1 { Vec::new() } else { centroids(rows, cells, width, pool, &read)? };
    let (starts, members) = assign(rows, cells, probes, width, &centroids, pool, &read)?;
    (report.cells, report.probes) = (cells as u64, probes as u64);
    let mut found: Vec<Same> = Vec::new();
    let mut gone = vec![false; rows.len()];
    for cell in starts.windows(2) {
        let members = &members[cell[0]..cell[1]];
        report.largest_cell = report.largest_cell.max(members.len() as u64);
        let compare = Cell { rows, width, bound: options.cosine as f32, pool };
        report.pairs += compare.run(members, &mut gone, &mut found, &read)?;
    }
    found.sort_unstable_by_key(|same| same.row);
    report.same = found.len() as u64;
    Ok((found, report))
}

/// `c [m, n]`: cosines of m vectors with n.
fn cosines(pool: &Pool, width: usize, a: &[f32], b: &[f32]) -> Vec<f32> {
    let (m, n) = (a.len() / width, b.len() / width);
    let mut c = vec![0.0; m * n];
    if !c.is_empty() {
        let (a, b) = (Matrix::f32(a, width), Matrix::f32(b, width).t());
        Gemm { m, n, k: width, a, b, alpha: 1.0, accumulate: false, precision: Precision::F32 }.run(pool, &mut c, n);
    }
    c
}

/// The place of the largest; of equals the first.
fn largest(row: &[f32]) -> usize {
    row.iter().enumerate().fold(0, |best, (at, value)| if *value > row[best] { at } else { best })
}

/// Spherical k-means over rows taken evenly, beginning with rows taken evenly of those.
fn centroids(
    rows: &[u32],
    cells: usize,
    width: usize,
    pool: &Pool,
    read: &impl Fn(&[u32]) -> Result<Vec<f32>, ShardError>,
) -> Result<Vec<f32>, ShardError> {
    let count = rows.len().min(cells * SAMPLE).min(SAMPLED.max(cells));
    let sampled: Vec<u32> = (0..count).map(|at| rows[at * rows.len() / count]).collect();
    let sample = read(&sampled)?;
    let mut centroids: Vec<f32> =
        (0..cells).flat_map(|at| sample[at * count / cells * width..][..width].iter().copied()).collect();
    for _ in 0..ROUNDS {
        let mut sums = vec![0.0; cells * width];
        for part in sample.chunks(ASSIGNED * width) {
            let near = cosines(pool, width, part, &centroids);
            for (vector, near) in part.chunks_exact(width).zip(near.chunks_exact(cells)) {
                let sum = &mut sums[largest(near) * width..][..width];
                sum.iter_mut().zip(vector).for_each(|(sum, value)| *sum += value);
            }
        }
        for (centroid, sum) in centroids.chunks_exact_mut(width).zip(sums.chunks_exact_mut(width)) {
            normalise(sum);
            // a cell that nobody is nearest to stays where it is
            if sum.iter().any(|value| *value != 0.0) {
                centroid.copy_from_slice(sum);
            }
        }
    }
    Ok(centroids)
}

/// Where each cell's members begin, and the members: places in `rows`, rising within a cell.
fn assign(
    rows: &[u32],
    cells: usize,
    probes: usize,
    width: usize,
    centroids: &[f32],
    pool: &Pool,
    read: &impl Fn(&[u32]) -> Result<Vec<f32>, ShardError>,
) -> Result<(Vec<usize>, Vec<u32>), ShardError> {
    if cells == 1 {
        return Ok((vec![0, rows.len()], (0..rows.len() as u32).collect()));
    }
    let mut nearest: Vec<u32> = Vec::with_capacity(rows.len() * probes);
    for part in rows.chunks(ASSIGNED) {
        for near in cosines(pool, width, &read(part)?, centroids).chunks_exact_mut(cells) {
            for _ in 0..probes {
                let best = largest(near);
                near[best] = f32::NEG_INFINITY;
                nearest.push(best as u32);
            }
        }
    }
    let mut starts = vec![0; cells + 1];
    nearest.iter().for_each(|cell| starts[*cell as usize + 1] += 1);
    (0..cells).for_each(|cell| starts[cell + 1] += starts[cell]);
    let (mut next, mut members) = (starts.clone(), vec![0; nearest.len()]);
    for (at, cell) in nearest.iter().enumerate() {
        members[next[*cell as usize]] = (at / probes) as u32;
        next[*cell as usize] += 1;
    }
    Ok((starts, members))
}

struct Cell<'a> {
    rows: &'a [u32],
    width: usize,
    bound: f32,
    pool: &'a Pool,
}

impl Cell<'_> {
    /// Compares the members that are not gone; gives the number of pairs.
    fn run(
        &self,
        members: &[u32],
        gone: &mut [bool],
        found: &mut Vec<Same>,
        read: &impl Fn(&[u32]) -> Result<Vec<f32>, ShardError>,
    ) -> Result<u64, ShardError> {
        let left: Vec<u32> = members.iter().copied().filter(|at| !gone[*at as usize]).collect();
        let (mut stay, mut vectors): (Vec<u32>, Vec<f32>) = (Vec::new(), Vec::new());
        let mut pairs = 0;
        for block in left.chunks(BLOCK) {
            let rows: Vec<u32> = block.iter().map(|at| self.rows[*at as usize]).collect();
            let own = read(&rows)?;
            let before = cosines(self.pool, self.width, &own, &vectors);
            let among = cosines(self.pool, self.width, &own, &own);
            let (earlier, size) = (stay.len(), block.len());
            // Places within the block of its rows that stay.
            let mut kept: Vec<usize> = Vec::new();
            for (at, place) in block.iter().enumerate() {
                let old = before[at * earlier..(at + 1) * earlier].iter().copied().zip(stay.iter().copied());
                let new = kept.iter().map(|of| (among[at * size + of], block[*of]));
                pairs += (earlier + kept.len()) as u64;
                let best = old.chain(new).reduce(|best, next| if next.0 > best.0 { next } else { best });
                match best.filter(|(cosine, _)| *cosine >= self.bound) {
                    Some((cosine, of)) => {
                        gone[*place as usize] = true;
                        let (row, of) = (self.rows[*place as usize], self.rows[of as usize]);
                        found.push(Same { row, of, cosine: cosine.min(1.0) });
                    }
                    None => kept.push(at),
                }
            }
            for at in kept {
                stay.push(block[at]);
                vectors.extend_from_slice(&own[at * self.width..(at + 1) * self.width]);
            }
        }
        Ok(pairs)
    }
}

#[cfg(test)]
mod tests;
