//! Rows of one file → examples, drops and faults. Holds the first rows until the schema is
//! settled, then passes every row on as it comes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use loar_text::Body;
use serde_json::{Map, Value};

use crate::body::body;
use crate::dataset::{Dataset, Dropped, Example};
use crate::error::Faults;
use crate::fault::{Fault, FaultKind, RowFault};
use crate::options::{Format, OnBadRow, ReadOptions};
use crate::rows::RawRow;
use crate::schema::{PROBE, detect, no_schema};
use crate::turns::Reading;

/// Counts of one file.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub rows: usize,
    pub kept: usize,
    pub bad: usize,
}

pub(crate) struct Collector<'a> {
    options: &'a ReadOptions,
    file: &'a Path,
    dataset: &'a mut Dataset,
    faults: &'a mut Faults,
    waiting: Vec<RawRow>,
    /// Settled schema; the inner option is absent when the first rows fit none.
    schema: Option<Option<(Format, String)>>,
    pub counts: Counts,
    pub ignored: BTreeMap<String, usize>,
}

impl<'a> Collector<'a> {
    pub fn new(
        options: &'a ReadOptions,
        file: &'a Path,
        known: Option<(Format, String)>,
        dataset: &'a mut Dataset,
        faults: &'a mut Faults,
    ) -> Self {
        Collector {
            options,
            file,
            dataset,
            faults,
            waiting: Vec::new(),
            schema: known.map(Some),
            counts: Counts::default(),
            ignored: BTreeMap::new(),
        }
    }

    pub fn push(&mut self, row: RawRow) {
        self.counts.rows += 1;
        if self.schema.is_some() {
            return self.take(row);
        }
        self.waiting.push(row);
        if self.waiting.len() >= PROBE {
            self.settle();
        }
    }

    fn settle(&mut self) {
        let whole = self.waiting.iter().filter_map(|row| row.value.as_ref().ok());
        self.schema = Some(detect(whole, self.options));
        for row in std::mem::take(&mut self.waiting) {
            self.take(row);
        }
    }

    /// Ends the file; gives the schema and how it was told.
    pub fn finish(&mut self) -> Option<(Format, String)> {
        if self.schema.is_none() {
            self.settle();
        }
        self.schema.take().flatten()
    }

    fn take(&mut self, row: RawRow) {
        let line = row.line;
        let format = self.schema.as_ref().and_then(|schema| schema.as_ref().map(|(format, _)| *format));
        match example(row, format, self.file, self.options, &mut self.ignored) {
            Ok(example) => {
                self.counts.kept += 1;
                self.dataset.examples.push(example);
            }
            Err(faults) => self.bad(line, faults),
        }
    }

    fn bad(&mut self, line: usize, faults: Vec<RowFault>) {
        self.counts.bad += 1;
        let kind = faults.first().map_or(FaultKind::UnknownSchema, |fault| fault.kind);
        let placed: Vec<Fault> = faults.into_iter().map(|f| f.at(PathBuf::from(self.file), Some(line))).collect();
        if self.options.on_bad_row == OnBadRow::Drop {
            let reason: Vec<String> = placed.iter().map(Fault::reason).collect();
            let reason = reason.join("; ");
            self.dataset.dropped.push(Dropped { id: id_of(self.file, line), kind, reason });
        } else {
            placed.into_iter().for_each(|fault| self.faults.add(fault));
        }
    }
}

/// `file:line`.
pub(crate) fn id_of(file: &Path, line: usize) -> String {
    format!("{}:{line}", file.display())
}

/// What a row is read as.
#[derive(Clone, Debug, PartialEq)]
pub struct Read {
    /// Line or row number, from 1.
    pub line: usize,
    /// What is rendered.
    pub body: Body,
    /// The fields named in `keep`, as the file has them.
    pub kept: Map<String, Value>,
}

/// One row of a file with a settled schema → an example with its ids, or all its faults.
fn example(
    row: RawRow,
    format: Option<Format>,
    file: &Path,
    options: &ReadOptions,
    ignored: &mut BTreeMap<String, usize>,
) -> Result<Example, Vec<RowFault>> {
    let Read { line, body, kept } = read(row, format, options, ignored)?;
    let content_id = Example::id_of(&body);
    Ok(Example { id: id_of(file, line), source: file.to_path_buf(), line, body, content_id, kept })
}

/// One row of a file with a settled schema (`None`: it fits none) → what it says, or all its faults.
pub(crate) fn read(
    row: RawRow,
    format: Option<Format>,
    options: &ReadOptions,
    ignored: &mut BTreeMap<String, usize>,
) -> Result<Read, Vec<RowFault>> {
    let line = row.line;
    let row = row.value.map_err(|fault| vec![fault])?;
    let format = format.ok_or_else(|| vec![no_schema(&row)])?;
    let mut kept = Map::new();
    for name in &options.keep {
        if let Some(value) = row.get(name) {
            kept.insert(name.clone(), value.clone());
        }
    }
    let mut reading = Reading { options, faults: Vec::new(), ignored };
    let body = body(row, format, &mut reading);
    match body {
        Some(body) if reading.faults.is_empty() => Ok(Read { line, body, kept }),
        _ => Err(reading.faults),
    }
}
