//! What reading gives: examples with ids, dropped rows with reasons, one report per file, and the
//! ids that lineage rests on.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use loar_artifact::{ContentId, IdHasher};
use loar_text::Body;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::fault::FaultKind;
use crate::options::{Container, Format};

/// One row to train or evaluate on.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// `file:line`, the line as in [`crate::Fault::line`].
    pub id: String,
    /// The file as the caller named it.
    pub source: PathBuf,
    /// Line or row number, from 1.
    pub line: usize,
    /// What is rendered.
    pub body: Body,
    /// SHA-256 of the body's JSON form: equal bodies, equal ids, whatever file they come from.
    pub content_id: ContentId,
    /// The fields named in `keep`, as the file has them.
    pub kept: Map<String, Value>,
}

impl Example {
    pub(crate) fn id_of(body: &Body) -> ContentId {
        let mut hasher = IdHasher::new();
        // Writing to a hasher cannot fail, and a body holds no map with keys other than text.
        let written = serde_json::to_writer(&mut hasher, body);
        debug_assert!(written.is_ok());
        hasher.finish()
    }
}

/// A row that was left out under `on_bad_row = "drop"`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Dropped {
    /// `file:line`.
    pub id: String,
    /// The kind of its first fault.
    pub kind: FaultKind,
    /// Its faults in words.
    pub reason: String,
}

/// What was read from one file, and how.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FileReport {
    /// The file as the caller named it.
    pub path: PathBuf,
    /// Size on disk in bytes.
    pub bytes: u64,
    /// SHA-256 of the bytes on disk.
    pub content_id: ContentId,
    /// The container.
    pub container: Container,
    /// How the container was told.
    pub container_why: String,
    /// The schema of the rows.
    pub format: Format,
    /// How the schema was told.
    pub format_why: String,
    /// Rows seen.
    pub rows: usize,
    /// Rows that became examples.
    pub kept: usize,
    /// Rows left out.
    pub dropped: usize,
    /// Fields that no schema uses, with how often they hold a value. At most 256 names.
    pub ignored_fields: BTreeMap<String, usize>,
}

/// Everything that was read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dataset {
    /// Examples in file and line order.
    pub examples: Vec<Example>,
    /// Rows left out, in the same order.
    pub dropped: Vec<Dropped>,
    /// One report per file, in reading order.
    pub files: Vec<FileReport>,
    /// Files of a folder that were not read, with the reason.
    pub passed_over: Vec<(PathBuf, String)>,
}

impl Dataset {
    /// Rows seen over all files: `examples.len() + dropped.len()` after reading.
    pub fn rows_read(&self) -> usize {
        self.files.iter().map(|file| file.rows).sum()
    }

    /// Id over the bytes of all files in order; names and places do not count.
    pub fn content_id(&self) -> ContentId {
        let mut hasher = IdHasher::new();
        for file in &self.files {
            hasher.update(file.content_id.to_string().as_bytes());
            hasher.update(b"\n");
        }
        hasher.finish()
    }

    /// Id over the bodies of all examples in order: what options made of the files.
    pub fn examples_id(&self) -> ContentId {
        let mut hasher = IdHasher::new();
        for example in &self.examples {
            hasher.update(example.content_id.to_string().as_bytes());
            hasher.update(b"\n");
        }
        hasher.finish()
    }

    /// Examples whose body occurred before, so that `examples.len() - exact_duplicates()` are
    /// distinct.
    pub fn exact_duplicates(&self) -> usize {
        let distinct: HashSet<ContentId> = self.examples.iter().map(|e| e.content_id).collect();
        self.examples.len() - distinct.len()
    }

    /// Dropped rows by the kind of their first fault.
    pub fn dropped_by_kind(&self) -> BTreeMap<FaultKind, usize> {
        let mut counts = BTreeMap::new();
        for dropped in &self.dropped {
            *counts.entry(dropped.kind).or_default() += 1;
        }
        counts
    }
}
