//! The error of this crate.

use std::path::PathBuf;

use crate::config::ConfigError;

/// Why a run did not start, stopped or could not be resumed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The run file or its overrides are wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The base or the adapter settings are wrong.
    #[error(transparent)]
    Model(#[from] loar_model::ModelError),
    /// A file of the base is wrong.
    #[error(transparent)]
    Format(#[from] loar_formats::FormatError),
    /// The data cannot be read.
    #[error(transparent)]
    Data(#[from] loar_data::DataError),
    /// The tokenizer is wrong.
    #[error(transparent)]
    Tokenizer(#[from] loar_text::TokenizerError),
    /// The chat template is wrong or absent.
    #[error("chat template: {0}")]
    Template(String),
    /// Rows that cannot be rendered or tokenised.
    #[error("{total} of {rows} rows cannot be rendered{}{}\nset `data.on_bad_row = \"drop\"` to go on without them", shown_of(.shown.len(), *.total), lines(.shown))]
    Rows {
        /// The first of them, each with its row id and reason.
        shown: Vec<String>,
        /// How many there are.
        total: usize,
        /// Rows in all.
        rows: usize,
    },
    /// A schedule names what is not there.
    #[error("{total} faults in `data.schedule`{}{}", shown_of(.shown.len(), *.total), lines(.shown))]
    Schedule {
        /// The first of them, each with file and line.
        shown: Vec<String>,
        /// How many there are.
        total: usize,
    },
    /// The ledger does not add up: a bug of this program, not of the data.
    #[error("the token ledger does not add up{}\nplease report this as a bug, with the data if you can", lines(.faults))]
    Ledger {
        /// Sums that do not agree.
        faults: Vec<String>,
    },
    /// More was lost than `data.max_lost_fraction` allows.
    #[error("{:.2} % of the data is lost, more than `data.max_lost_fraction` = {:.2} % allows\n{table}\nraise `data.max_seq_len`, mend the rows, or raise `data.max_lost_fraction` if this is intended", 100.0 * .lost, 100.0 * .allowed)]
    Lost {
        /// Largest lost share.
        lost: f64,
        /// Allowed share.
        allowed: f64,
        /// The ledger.
        table: String,
    },
    /// A row is too long and `data.on_too_long` says stop.
    #[error("{total} rows are longer than `data.max_seq_len` = {limit} tokens{}{}\nraise the limit, or set `data.on_too_long` to `drop` or `cut`", shown_of(.shown.len(), *.total), lines(.shown))]
    TooLong {
        /// The first of them, each with its length.
        shown: Vec<String>,
        /// How many there are.
        total: usize,
        /// The limit.
        limit: usize,
    },
    /// Nothing is left to train or evaluate on.
    #[error("no {side} row is left; the ledger says why\n{table}")]
    NoRows {
        /// `training` or `evaluation`.
        side: &'static str,
        /// The ledger.
        table: String,
    },
    /// A named target got no gradient in the first step.
    #[error("after the first step no gradient reached {}: nothing would be trained there\n{table}\nremove it from `adapter.targets`, or report this as a bug", .components.iter().map(|c| format!("`{c}`")).collect::<Vec<_>>().join(", "))]
    NoGradient {
        /// Components.
        components: Vec<String>,
        /// The coverage table.
        table: String,
    },
    /// A loss or a gradient is not a number.
    #[error("step {step}: {what} is not finite; rows of the pass: {}{}", .rows.join(", "), last_good(.checkpoint.as_deref()))]
    NonFinite {
        /// Optimizer step, from 1.
        step: u64,
        /// `the loss`, or the parameter whose gradient it is.
        what: String,
        /// Ids of the rows, narrowed as far as possible.
        rows: Vec<String>,
        /// Newest checkpoint.
        checkpoint: Option<PathBuf>,
    },
    /// The run folder already holds a run.
    #[error("`{}` already holds a run; resume it with `loar train --resume {}`, or choose another `output.dir`", dir.display(), dir.display())]
    RunExists {
        /// The run folder.
        dir: PathBuf,
    },
    /// The folder holds no run.
    #[error("`{}` holds no run to resume: `resolved.toml` is missing", dir.display())]
    NoRun {
        /// The folder.
        dir: PathBuf,
    },
    /// Something that decides the result changed since the checkpoint was made.
    #[error("the run in `{}` cannot be resumed: {} changed since it began{}\nrestore what changed, or start a new run in another `output.dir`", dir.display(), if .differences.len() == 1 { "one thing" } else { "things" }, lines(.differences))]
    Changed {
        /// The run folder.
        dir: PathBuf,
        /// What differs.
        differences: Vec<String>,
    },
    /// A checkpoint cannot be written; the run can be resumed from the one before.
    #[error("cannot write checkpoint `{}`: {source}; earlier checkpoints are untouched; free some space or mend the folder, then resume", path.display())]
    Checkpoint {
        /// The checkpoint's folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file of the run folder cannot be read or written.
    #[error("`{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// An artifact cannot be read or written.
    #[error(transparent)]
    Artifact(#[from] loar_artifact::ArtifactError),
    /// The metric that decides is not among those that were measured.
    #[error("`eval.metric` is `{metric}`, but the evaluation measures {}", .measured.join(", "))]
    Metric {
        /// The name in the run file.
        metric: String,
        /// What there is.
        measured: Vec<String>,
    },
    /// The evaluation of the caller failed.
    #[error("evaluation: {0}")]
    Evaluation(String),
}

impl TrainError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> TrainError {
        let path = path.into();
        move |source| TrainError::Io { path, source }
    }
}

/// Entries of a list that an error shows.
pub(crate) const SHOWN: usize = 20;

fn lines(entries: &[String]) -> String {
    entries.iter().map(|l| format!("\n  {l}")).collect()
}

fn shown_of(shown: usize, total: usize) -> String {
    if total > shown { format!(" (the first {shown} are shown)") } else { String::new() }
}

fn last_good(checkpoint: Option<&std::path::Path>) -> String {
    match checkpoint {
        Some(path) => format!("; the last good checkpoint is `{}`", path.display()),
        None => "; there is no checkpoint yet".into(),
    }
}
