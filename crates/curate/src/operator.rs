//! What a stage is: a pure function of a [`Batch`] that says what it found, never what becomes of
//! the row. The same batch and options give the same outcome on any thread, in any order, so the
//! pipeline may run stages in parallel, and a distributed engine could run them as functions over
//! Arrow arrays.

use std::borrow::Cow;
use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_schema::FieldRef;
use serde::{Deserialize, Serialize};

use crate::batch::Batch;

/// A stage of the pipeline with its options inside.
pub trait Operator: Send + Sync {
    /// The name in run files, verdicts and reports.
    fn name(&self) -> &'static str;

    /// Rises whenever the same options may give another outcome.
    fn version(&self) -> u32;

    /// Looks at every row of the batch.
    fn apply(&self, batch: &Batch) -> Outcome;
}

impl<T: Operator + ?Sized> Operator for Arc<T> {
    fn name(&self) -> &'static str {
        (**self).name()
    }

    fn version(&self) -> u32 {
        (**self).version()
    }

    fn apply(&self, batch: &Batch) -> Outcome {
        (**self).apply(batch)
    }
}

/// What a stage found in a batch.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Findings, by row.
    pub findings: Vec<Finding>,
    /// New texts for turns. At most one for a place; the pipeline puts them in.
    pub edits: Vec<Edit>,
    /// Columns with one value a row, added to the batch.
    pub columns: Vec<(FieldRef, ArrayRef)>,
}

/// What a finding means for its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// The row is left out; it is kept beside the set with all findings.
    Drop,
    /// The row stays, its text was changed.
    Edit,
    /// The row stays as it is.
    Note,
}

/// Which text of a turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Field {
    /// What is said.
    #[default]
    Content,
    /// The chain of thought before it.
    Reasoning,
}

/// Where in a row. Bytes of the text as the stage saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// Turn, from 0.
    pub turn: usize,
    /// Which of its texts.
    pub field: Field,
    /// First byte.
    pub start: usize,
    /// Byte after the last.
    pub end: usize,
}

/// Both texts of a finding that holds a row against one elsewhere; excerpts of bounded length.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sides {
    /// The other row, `file:line`.
    pub other: String,
    /// Its text around what is shared.
    pub other_text: String,
    /// This row's text around it.
    pub own_text: String,
    /// What is shared.
    pub shared: String,
}

/// Characters of context that an [`excerpt`] shows on each side.
const CONTEXT: usize = 40;
/// Characters of the place itself that an [`excerpt`] shows.
const SHOWN: usize = 160;

/// A place of a text with its surroundings, of bounded length; what is left out is `…`.
///
/// # Panics
/// The range is not one of the text.
pub fn excerpt(text: &str, place: std::ops::Range<usize>) -> String {
    let (before, after) = (&text[..place.start], &text[place.end..]);
    let start = before.char_indices().rev().nth(CONTEXT - 1).map_or(0, |(at, _)| at);
    let end = after.char_indices().nth(CONTEXT).map_or(after.len(), |(at, _)| at);
    let mut out = String::from(if start > 0 { "…" } else { "" });
    out.push_str(&before[start..]);
    out.push_str(&shortened(&text[place]));
    out.push_str(&after[..end]);
    out.push_str(if end < after.len() { "…" } else { "" });
    out
}

/// The beginning of a text, of bounded length.
pub fn shortened(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => Cow::Borrowed(text),
    }
}

/// One rule that spoke about one row, with its evidence.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// Index in the batch.
    pub row: usize,
    /// The rule within the stage, such as `answer-too-short`.
    pub rule: Cow<'static, str>,
    /// What it means for the row.
    pub action: Action,
    /// Where.
    pub at: Option<Place>,
    /// What was measured.
    pub value: Option<f64>,
    /// The bound it was held against.
    pub bound: Option<f64>,
    /// Evidence in words: the matched text, the row it repeats. Empty when value and bound say all.
    pub note: String,
    /// Both texts, where the row was held against another.
    pub sides: Option<Box<Sides>>,
}

impl Finding {
    /// A finding without evidence yet.
    pub fn new(row: usize, rule: impl Into<Cow<'static, str>>, action: Action) -> Self {
        Finding { row, rule: rule.into(), action, at: None, value: None, bound: None, note: String::new(), sides: None }
    }

    /// With the measured value and its bound.
    pub fn measured(self, value: f64, bound: f64) -> Self {
        Finding { value: Some(value), bound: Some(bound), ..self }
    }

    /// With a place.
    pub fn at(self, turn: usize, field: Field, span: std::ops::Range<usize>) -> Self {
        Finding { at: Some(Place { turn, field, start: span.start, end: span.end }), ..self }
    }

    /// With both texts.
    pub fn sides(self, sides: Sides) -> Self {
        Finding { sides: Some(Box::new(sides)), ..self }
    }

    /// With words.
    pub fn note(self, note: impl Into<String>) -> Self {
        Finding { note: note.into(), ..self }
    }
}

/// A new text for one turn of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// Index in the batch.
    pub row: usize,
    /// Turn, from 0.
    pub turn: usize,
    /// Which of its texts.
    pub field: Field,
    /// The whole new text.
    pub text: String,
}
