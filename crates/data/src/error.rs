//! The error of the crate: all faults of all files in one value, with a text that shows the first
//! twenty and counts the rest.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::fault::{Fault, FaultKind};

/// How many faults are kept with their full text.
pub const SHOWN_FAULTS: usize = 20;

/// Everything that was wrong, over all files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Faults {
    /// The first [`SHOWN_FAULTS`] faults in reading order.
    pub first: Vec<Fault>,
    /// Number of faults.
    pub total: usize,
    /// Number of faults by kind.
    pub by_kind: BTreeMap<FaultKind, usize>,
    /// Rows that have at least one fault.
    pub bad_rows: usize,
    /// Files that could not be read to their end.
    pub bad_files: usize,
    /// Rows without fault.
    pub good_rows: usize,
    /// Rows seen.
    pub rows_read: usize,
}

impl Faults {
    pub(crate) fn add(&mut self, fault: Fault) {
        self.total += 1;
        *self.by_kind.entry(fault.kind).or_default() += 1;
        if self.first.len() < SHOWN_FAULTS {
            self.first.push(fault);
        }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let many = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        let (faults, rows) = (many(self.total, "fault"), many(self.rows_read, "row"));
        write!(f, "{faults} in {} of {rows}", self.bad_rows)?;
        if self.bad_files > 0 {
            write!(f, ", {} not read to the end", many(self.bad_files, "file"))?;
        }
        if self.total > self.first.len() {
            write!(f, " (the first {} are shown)", self.first.len())?;
        }
        for fault in &self.first {
            write!(f, "\n  {fault}")?;
        }
        if self.by_kind.len() > 1 {
            let mut counts: Vec<_> = self.by_kind.iter().collect();
            counts.sort_by_key(|(kind, n)| (std::cmp::Reverse(**n), kind.name()));
            let counts: Vec<String> = counts.iter().map(|(k, n)| format!("{k} {n}")).collect();
            write!(f, "\nby kind: {}", counts.join(", "))?;
        }
        if self.bad_files == 0 && self.good_rows > 0 {
            let rest = many(self.good_rows, "row");
            write!(f, "\nto go on with the other {rest}, set `on_bad_row = \"drop\"`")?;
        }
        Ok(())
    }
}

/// Why no data set came out.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The options contradict themselves.
    #[error("{}", .0.join("\n"))]
    Options(Vec<String>),
    /// No path was given, or the folders given hold no data.
    #[error("no data files: {0}")]
    NoFiles(String),
    /// Rows or files with faults.
    #[error("{0}")]
    Rows(Box<Faults>),
    /// Dropping bad rows left nothing.
    #[error("all {rows} rows were dropped, the first at `{first}`: {reason}")]
    NothingLeft {
        /// Rows read.
        rows: usize,
        /// Id of the first dropped row.
        first: String,
        /// Why it was dropped.
        reason: String,
    },
    /// A split that cannot be made.
    #[error("{0}")]
    Split(String),
}
