//! What is kept of every row between passes and at the end: where it came from, what every stage
//! found, and what became of it. One JSON object a line, compressed.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;

use loar_artifact::write_atomic_with;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::operator::{Action, Field, Finding};
use crate::shard::ShardError;

/// Level of the compression: fast, and half of what the best would save.
const LEVEL: i32 = 3;

/// A finding with the stage it came from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredFinding {
    /// The stage.
    pub stage: String,
    /// Its version.
    pub version: u32,
    /// The rule within the stage.
    pub rule: String,
    /// What it means for the row.
    pub action: Action,
    /// Turn, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<usize>,
    /// Which text of the turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<Field>,
    /// First byte and the byte after the last, in the text as the stage saw it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub span: Option<[usize; 2]>,
    /// What was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// The bound it was held against.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<f64>,
    /// Evidence in words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

impl StoredFinding {
    /// Of a stage's finding.
    pub fn new(stage: &str, version: u32, finding: Finding) -> Self {
        StoredFinding {
            stage: stage.to_owned(),
            version,
            rule: finding.rule.into_owned(),
            action: finding.action,
            turn: finding.at.map(|at| at.turn),
            field: finding.at.map(|at| at.field),
            span: finding.at.map(|at| [at.start, at.end]),
            value: finding.value,
            bound: finding.bound,
            note: finding.note,
        }
    }
}

/// One row read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RowRecord {
    /// Number over all input, from 0.
    pub row: u64,
    /// `file:line`.
    pub at: String,
    /// Name of the source.
    pub source: String,
    /// `train`, `eval`, `test` or `dropped`; before the last pass `kept` or `dropped`.
    pub verdict: String,
    /// The stage that dropped it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// What every stage found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<StoredFinding>,
    /// A dropped row as it would be trained on, with the edits up to there; or the row as written,
    /// when it is no example. Verdict files leave it out, `dropped` files hold it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Value>,
}

/// Writes lines.
///
/// # Errors
/// [`ShardError::Write`].
pub fn write_lines<T: Serialize>(path: &Path, records: impl IntoIterator<Item = T>) -> Result<(), ShardError> {
    let written = write_atomic_with(path, |file| {
        let mut packed = zstd::stream::write::Encoder::new(file, LEVEL)?;
        for record in records {
            serde_json::to_writer(&mut packed, &record)?;
            packed.write_all(b"\n")?;
        }
        packed.finish().map(drop)
    });
    Ok(written?)
}

/// Reads lines that [`write_lines`] wrote.
///
/// # Errors
/// [`ShardError::Read`].
pub fn read_lines<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Vec<T>, ShardError> {
    let read = || -> io::Result<Vec<T>> {
        let lines = BufReader::new(zstd::stream::read::Decoder::new(File::open(path)?)?).lines();
        lines.map(|line| Ok(serde_json::from_str(&line?)?)).collect()
    };
    read().map_err(|source| ShardError::Read { path: path.into(), source })
}
