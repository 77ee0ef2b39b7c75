//! What is kept of every row between passes and at the end: where it came from, what every stage
//! found, and what became of it. One JSON object a line, compressed.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;

use loar_artifact::write_atomic_with;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::operator::{Action, Field, Finding, Sides};
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
    /// Both texts, where the row was held against another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sides: Option<Box<Sides>>,
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
            sides: finding.sides,
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

/// A row that leaks an evaluation item, both sides: one line of `decontamination/`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Leak {
    /// What counted as a leak.
    pub mode: String,
    /// The evaluation item, `file:line`.
    pub eval: String,
    /// Its text around what is shared, of bounded length.
    pub eval_text: String,
    /// The training row, `file:line`.
    pub train: String,
    /// Turn, from 0.
    pub turn: usize,
    /// Which of its texts.
    pub field: Field,
    /// The row's text around what is shared, of bounded length.
    pub train_text: String,
    /// What both share: the run of words or characters, of bounded length.
    pub shared: String,
    /// Words or characters of the run, or the covered share, as the mode has it.
    pub value: f64,
    /// The bound that it reaches.
    pub bound: f64,
}

impl Leak {
    /// Of a finding of `decontaminate` about the row at `at`.
    pub fn new(at: &str, finding: &StoredFinding) -> Option<Leak> {
        let sides = finding.sides.as_ref().filter(|_| finding.stage == "decontaminate")?;
        Some(Leak {
            mode: finding.rule.clone(),
            eval: sides.other.clone(),
            eval_text: sides.other_text.clone(),
            train: at.to_owned(),
            turn: finding.turn.unwrap_or_default(),
            field: finding.field.unwrap_or_default(),
            train_text: sides.own_text.clone(),
            shared: sides.shared.clone(),
            value: finding.value.unwrap_or_default(),
            bound: finding.bound.unwrap_or_default(),
        })
    }
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
