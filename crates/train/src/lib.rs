//! Examples and a model to an adapter: packing, loss, schedule, checkpoints, resume, report.
//!
//! Takes a [`RunConfig`] and a folder for results; gives a [`RunReport`] and the run folder with
//! adapter, metrics, ledger, coverage and report. A run that was killed and resumed gives the same
//! bytes as one that was not. Never renders text by other means than `text`, never touches the
//! network, never writes to the base.
#![forbid(unsafe_code)]

pub mod checkpoint;
pub mod config;
mod error;
mod export;
mod folder;
mod ledger;
pub mod memory;
mod metrics;
mod observer;
mod order;
mod pack;
mod plan;
mod prepare;
pub mod report;
mod row_loss;
mod rows;
mod run;
mod schedule;
mod session;
mod stages;
mod step;
pub mod tensorboard;

pub use config::{BaseFacts, ConfigError, ConfigFault, ResolvedRun, RunConfig};
pub use error::TrainError;
pub use folder::Folder;
pub use ledger::{Ledger, Line, Reasons, Side};
pub use metrics::{Metrics, Offsets, read_lines};
pub use observer::{Event, Observer, StepEvent};
pub use order::{BatchSize, Batches, Length, Order};
pub use pack::{MicroBatch, Row, first_fit_decreasing, pack};
pub use plan::{MemoryItem, Plan, PlanInputs, Probe, fit_memory, plan, weight_bytes};
pub use prepare::{Inputs, attach, base_facts, base_id, load_base, load_run, prepare, spec};
pub use row_loss::row_losses;
pub use rows::{encoder, load_rows, read_options, rows_id};
pub use run::{End, Evaluator, RunReport, plan_run, resume, resume_with, run, run_with, train};
pub use schedule::Schedule;
pub use step::{NonFinite, StepReport, StepSettings, clip, gradients, optimizer, update};
