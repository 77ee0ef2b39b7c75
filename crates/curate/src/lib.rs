//! Raw records → a curated, measured, traceable training set. Every stage is an operator: a pure
//! function of a batch of rows that gives findings with evidence, edits and columns; the pipeline
//! applies them, so that each row ends as kept or dropped with a reason and a place. Reads through
//! `loar_data`; never trains, never serves.
#![forbid(unsafe_code)]

pub mod augment;
pub mod batch;
pub mod compliance;
pub mod config;
pub mod control;
pub mod curriculum;
pub mod dataset;
pub mod decontaminate;
pub mod dedup;
pub mod embedding;
pub mod language;
pub mod models;
pub mod normalize;
pub mod operator;
pub mod options;
pub mod pii;
pub mod pipeline;
pub mod report;
pub mod rules;
pub mod select;
pub mod semantic;
pub mod shard;
pub mod split;
pub mod stats;
pub mod taxonomy;
pub mod terms;
#[cfg(test)]
mod testing;
pub mod training_row;

pub use batch::{Batch, BatchBuilder, Row, Turn};
pub use models::{Embedder, Models, NoModels, Scorer, ScorerOptions};
pub use operator::{Action, Edit, Field, Finding, Operator, Outcome, Place, Sides};
pub use options::OptionFault;
