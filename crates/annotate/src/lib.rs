//! Human judgement as data: experts label and correct rows in a local page, three blind checks and an
//! adjudicator decide, statistics say how far to trust them.
//!
//! Takes a task file and rows that crate `data` reads. Gives an event log that cannot be changed
//! unseen, a report of agreement, and the accepted rows as JSONL. Never shows one expert another's
//! label before their own, and never lets a model's verdict stand for a person's.
#![forbid(unsafe_code)]

pub mod agreement;
pub mod dawid_skene;
mod error;
pub mod export;
pub mod judge;
pub mod kappa;
pub mod log;
pub mod proportion;
mod random;
pub mod report;
pub mod server;
pub mod store;
pub mod task;
mod task_file;
pub mod workflow;

pub use error::AnnotateError;
pub use report::Report;
pub use store::Store;
pub use task::Task;
