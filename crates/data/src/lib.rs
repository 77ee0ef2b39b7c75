//! Raw records → examples. Takes files and folders (JSON, JSONL, CSV, Parquet, text; gzip and zstd)
//! in any of the usual row schemas, gives conversations and texts with an id and a content hash
//! each. Every row becomes an example, a counted drop with its reason, or a fault with file, line,
//! field and mend: never drops silently, never guesses a value, never renders.
#![forbid(unsafe_code)]

mod body;
mod collect;
mod dataset;
mod error;
mod expand;
mod fault;
mod input;
mod json_stream;
mod lines;
mod options;
mod order;
mod pairs;
mod parquet_guard;
mod parquet_layout;
mod parquet_rows;
mod plain;
mod read;
mod rows;
mod schema;
mod split;
pub mod stream;
mod strict;
mod table;
mod think;
mod turns;

pub use dataset::{Dataset, Dropped, Example, FileReport};
pub use error::{DataError, Faults, SHOWN_FAULTS};
pub use fault::{Fault, FaultKind};
pub use options::{Container, FIELD_NAMES, Format, OnBadRow, PairStyle, ROLES, ReadOptions, TextUnit, ThinkTags};
pub use read::{read, read_bytes};
pub use split::{EvalSize, Split, split};
