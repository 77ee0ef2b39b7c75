//! What a run tells while it goes: one typed event after another, for a progress bar, for
//! `--events json`, for tests. Events never change the run.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use crate::plan::Plan;

/// Something that happened.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The run folder is ready.
    Started {
        /// Name of the run.
        run: String,
        /// The run folder.
        dir: PathBuf,
        /// Step of the checkpoint that the run goes on from.
        resumed_from: Option<u64>,
    },
    /// A part of the preparation begins.
    Phase {
        /// `hash`, `load`, `data`, `probe`, `export`, `report`.
        name: &'static str,
    },
    /// Rows are rendered and counted.
    Ledger {
        /// The table.
        table: String,
    },
    /// What the adapter reaches.
    Coverage {
        /// The table.
        table: String,
    },
    /// Memory, tokens, steps and time to expect.
    Plan(Box<Plan>),
    /// An optimizer step is done.
    Step(StepEvent),
    /// An evaluation begins.
    EvalBegin {
        /// Step.
        step: u64,
        /// Rows.
        rows: usize,
    },
    /// An evaluation is done.
    Eval {
        /// Step.
        step: u64,
        /// Values by name.
        metrics: BTreeMap<String, f64>,
        /// Whether it is the best so far.
        best: bool,
    },
    /// A checkpoint is being written.
    CheckpointBegin {
        /// Step.
        step: u64,
    },
    /// A checkpoint is on disk.
    CheckpointEnd {
        /// Step.
        step: u64,
        /// Its folder.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// Something the user should know.
    Warning {
        /// In words.
        message: String,
    },
    /// The run was asked to stop and can be resumed.
    Interrupted {
        /// Step of the checkpoint.
        step: u64,
        /// The command that resumes it.
        resume: String,
    },
    /// The run is complete.
    Finished {
        /// Steps done.
        steps: u64,
        /// Folder of the adapter.
        adapter: PathBuf,
        /// The report.
        report: PathBuf,
    },
}

/// One optimizer step.
#[derive(Clone, Debug, Serialize)]
pub struct StepEvent {
    /// Step, from 1.
    pub step: u64,
    /// Steps of the run.
    pub steps: u64,
    /// Epochs done.
    pub epoch: f64,
    /// Mean loss of the labelled tokens.
    pub loss: f64,
    /// Learning rate.
    pub learning_rate: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Tokens.
    pub tokens: u64,
    /// Tokens with loss.
    pub labels: u64,
    /// Seconds of this step.
    pub seconds: f64,
    /// Seconds to go, at the pace of the last steps.
    pub eta_seconds: f64,
    /// Resident memory in bytes.
    pub resident_bytes: Option<u64>,
}

/// Takes events.
pub trait Observer {
    /// One event; return soon, the run waits.
    fn on(&mut self, event: &Event);
}

impl<F: FnMut(&Event)> Observer for F {
    fn on(&mut self, event: &Event) {
        self(event);
    }
}
