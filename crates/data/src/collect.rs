//! Rows of one file → examples, drops and faults. Holds the first rows until the schema is
//! settled, then passes every row on as it comes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Map;

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
        let mut kept = Map::new();
        let read = row.value.map_err(|fault| vec![fault]).and_then(|row| {
            let Some(Some((format, _))) = &self.schema else {
                return Err(vec![no_schema(&row)]);
            };
            for name in &self.options.keep {
                if let Some(value) = row.get(name) {
                    kept.insert(name.clone(), value.clone());
                }
            }
            let mut reading = Reading { options: self.options, faults: Vec::new(), ignored: &mut self.ignored };
            let body = body(row, *format, &mut reading);
            let faults = reading.faults;
            match body {
                Some(body) if faults.is_empty() => Ok(body),
                _ => Err(faults),
            }
        });
        match read {
            Ok(body) => {
                self.counts.kept += 1;
                let content_id = Example::id_of(&body);
                let source = self.file.to_path_buf();
                let id = self.id(line);
                self.dataset.examples.push(Example { id, source, line, body, content_id, kept });
            }
            Err(faults) => self.bad(line, faults),
        }
    }

    fn id(&self, line: usize) -> String {
        format!("{}:{line}", self.file.display())
    }

    fn bad(&mut self, line: usize, faults: Vec<RowFault>) {
        self.counts.bad += 1;
        let kind = faults.first().map_or(FaultKind::UnknownSchema, |fault| fault.kind);
        let placed: Vec<Fault> = faults.into_iter().map(|f| f.at(PathBuf::from(self.file), Some(line))).collect();
        if self.options.on_bad_row == OnBadRow::Drop {
            let reason: Vec<String> = placed.iter().map(Fault::reason).collect();
            let reason = reason.join("; ");
            self.dataset.dropped.push(Dropped { id: self.id(line), kind, reason });
        } else {
            placed.into_iter().for_each(|fault| self.faults.add(fault));
        }
    }
}
