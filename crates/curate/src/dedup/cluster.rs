//! Keys of all rows → clusters of rows that are alike. Rows that share a key of some column meet;
//! whether they are alike is decided by the exact Jaccard similarity of their shingles, so a chance
//! meeting costs time and never a row. Clusters are connected components (union-find), named by
//! their first row.
//!
//! Memory: one column at a time is sorted, in slices of the key space when it exceeds the budget,
//! and 4 bytes a row hold the components.

use std::collections::HashSet;
use std::path::PathBuf;

use super::keys::Keys;
use super::shingle::{Tokens, jaccard};
use crate::operator::Operator;
use crate::shard::{Rows, ShardError, read_keys};

/// How often rows of one key that were not alike are compared again among themselves.
const ROUNDS: usize = 4;
/// Pairs found not to be alike that are remembered: rows of one template meet in many bands.
const REMEMBERED: usize = 8 << 20;
/// Pairs that a thread takes at once.
const CHUNK: usize = 256;

/// Where the keys and the rows lie.
#[derive(Clone, Copy, Debug)]
pub struct Stored<'a> {
    /// Key file of each shard.
    pub keys: &'a [PathBuf],
    /// Row file of each shard.
    pub rows: &'a [PathBuf],
    /// Number of each shard's first row and, last, of all rows.
    pub starts: &'a [u32],
}

/// Two rows that were found alike.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Alike {
    /// The later one.
    pub row: u32,
    /// The earlier one it was compared with.
    pub of: u32,
    /// Jaccard similarity of their shingles.
    pub jaccard: f64,
}

/// Components of rows that are alike.
#[derive(Clone, Debug)]
pub struct Clusters {
    parent: Vec<u32>,
    /// The comparisons that joined components: one for every row but the first of each.
    pub joined: Vec<Alike>,
    /// Pairs compared, and how many of them were alike.
    pub compared: u64,
    /// See [`Clusters::compared`].
    pub alike: u64,
    /// Pairs (later row, earlier row) that were found not to be alike.
    unlike: HashSet<(u32, u32)>,
    /// The keys and the threshold that `unlike` was found with.
    judged_by: (&'static str, f64),
}

impl Clusters {
    /// Every row alone.
    pub fn new(rows: usize) -> Self {
        Clusters {
            parent: (0..rows as u32).collect(),
            joined: Vec::new(),
            compared: 0,
            alike: 0,
            unlike: HashSet::new(),
            judged_by: ("", 0.0),
        }
    }

    /// The first row of the row's cluster.
    pub fn first(&self, mut row: u32) -> u32 {
        while self.parent[row as usize] != row {
            row = self.parent[row as usize];
        }
        row
    }

    /// Joins two clusters; false when they were one.
    pub fn join(&mut self, one: u32, other: u32) -> bool {
        let (one, other) = (self.shorten(one), self.shorten(other));
        let (low, high) = (one.min(other), one.max(other));
        self.parent[high as usize] = low;
        low != high
    }

    /// [`Clusters::first`], halving the path on the way.
    fn shorten(&mut self, mut row: u32) -> u32 {
        while self.parent[row as usize] != row {
            let next = self.parent[self.parent[row as usize] as usize];
            self.parent[row as usize] = next;
            row = next;
        }
        row
    }

    /// Joins rows that share a key of one of `columns` and whose similarity reaches `threshold`.
    /// Keys take at most `budget` bytes at a time. The result does not depend on `threads`.
    ///
    /// # Errors
    /// Any [`ShardError`] of reading.
    pub fn join_alike(
        &mut self,
        stored: Stored<'_>,
        columns: std::ops::Range<usize>,
        keys: &Keys,
        threshold: f64,
        budget: usize,
        threads: usize,
    ) -> Result<(), ShardError> {
        if (keys.name(), threshold) != self.judged_by {
            self.judged_by = (keys.name(), threshold);
            self.unlike.clear();
        }
        for column in columns {
            each_bucket(stored, column, budget, |buckets| {
                self.join_buckets(stored, buckets, keys, threshold, threads)
            })?;
        }
        Ok(())
    }

    fn join_buckets(
        &mut self,
        stored: Stored<'_>,
        mut buckets: Vec<Vec<u32>>,
        keys: &Keys,
        threshold: f64,
        threads: usize,
    ) -> Result<(), ShardError> {
        for _ in 0..ROUNDS {
            let mut pairs = Vec::new();
            for bucket in &buckets {
                let first = self.shorten(bucket[0]);
                pairs.extend(bucket[1..].iter().filter(|row| self.first(**row) != first).map(|row| (*row, bucket[0])));
            }
            // In storage order, so that a block is read once.
            pairs.sort_unstable();
            pairs.dedup();
            pairs.retain(|pair| !self.unlike.contains(pair));
            let similar = compare(stored, &pairs, keys, threads)?;
            self.compared += pairs.len() as u64;
            for ((row, of), jaccard) in pairs.into_iter().zip(similar) {
                if jaccard >= threshold {
                    self.alike += 1;
                    if self.join(row, of) {
                        self.joined.push(Alike { row, of, jaccard });
                    }
                } else if self.unlike.len() < REMEMBERED {
                    self.unlike.insert((row, of));
                }
            }
            buckets.retain_mut(|bucket| {
                let first = self.first(bucket[0]);
                bucket.retain(|row| self.first(*row) != first);
                bucket.len() > 1
            });
        }
        Ok(())
    }

    /// Joins rows whose keys of one column are equal, without looking at them.
    ///
    /// # Errors
    /// Any [`ShardError`] of reading.
    pub fn join_equal(&mut self, stored: Stored<'_>, column: usize, budget: usize) -> Result<(), ShardError> {
        each_bucket(stored, column, budget, |buckets| {
            for bucket in buckets {
                bucket[1..].iter().for_each(|row| {
                    self.join(bucket[0], *row);
                });
            }
            Ok(())
        })
    }
}

/// Rows that share a key of one column, each list in order and of two rows at least.
fn each_bucket(
    stored: Stored<'_>,
    column: usize,
    budget: usize,
    mut take: impl FnMut(Vec<Vec<u32>>) -> Result<(), ShardError>,
) -> Result<(), ShardError> {
    let rows = stored.starts.last().map_or(0, |end| *end as usize);
    let slices = (rows * size_of::<(u64, u32)>()).div_ceil(budget.max(1)).max(1) as u64;
    let width = (u64::MAX / slices).saturating_add(1);
    for slice in 0..slices {
        let mut keyed: Vec<(u64, u32)> = Vec::new();
        for (shard, path) in stored.keys.iter().enumerate() {
            let (start, end) = (stored.starts[shard], stored.starts[shard + 1]);
            let keys = read_keys(path, (end - start) as usize, column)?;
            let inside = keys.into_iter().zip(start..).filter(|(key, _)| slices == 1 || key / width == slice);
            keyed.extend(inside);
        }
        keyed.sort_unstable();
        let same = keyed.chunk_by(|one, other| one.0 == other.0).filter(|bucket| bucket.len() > 1);
        take(same.map(|bucket| bucket.iter().map(|(_, row)| *row).collect()).collect())?;
    }
    Ok(())
}

/// The similarity of each pair, in order.
fn compare(stored: Stored<'_>, pairs: &[(u32, u32)], keys: &Keys, threads: usize) -> Result<Vec<f64>, ShardError> {
    let share = pairs.len().div_ceil(threads.max(1)).max(CHUNK);
    let work = |pairs: &[(u32, u32)]| -> Result<Vec<f64>, ShardError> {
        let mut rows = Rows::new(stored.rows, stored.starts);
        let mut tokens = Tokens::default();
        let mut last: Option<(u32, Vec<u32>)> = None;
        pairs
            .iter()
            .map(|(row, of)| {
                let mut shingles = |row: u32| -> Result<Vec<u32>, ShardError> {
                    let (batch, index) = rows.get(row)?;
                    Ok(keys.shingles(&batch.row(index), &mut tokens))
                };
                let one = match last.take() {
                    Some((known, shingles)) if known == *row => shingles,
                    _ => shingles(*row)?,
                };
                let similarity = jaccard(&one, &shingles(*of)?);
                last = Some((*row, one));
                Ok(similarity)
            })
            .collect()
    };
    std::thread::scope(|scope| {
        let parts: Vec<_> = pairs.chunks(share).map(|part| scope.spawn(move || work(part))).collect();
        let mut all = Vec::with_capacity(pairs.len());
        for part in parts {
            all.extend(part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(all)
    })
}
