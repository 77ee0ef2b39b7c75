//! What every rule would leave out, before it does: reads like a run, writes nothing.

use std::path::Path;

use loar_data::stream::{Flow, parts};
use serde::Serialize;

use super::{Control, CurateError, Progress, Stages, inputs};
use crate::batch::BatchBuilder;
use crate::config::{ConfigFaults, CurateConfig};
use crate::rules::{Killed, Op, Preview};

/// What the rules would do.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RulePreview {
    /// Rows looked at; rows that are no examples are not among them.
    pub rows: u64,
    /// Rows that at least one rule drops.
    pub dropped: u64,
    /// Every rule, with examples.
    pub rules: Vec<Killed>,
    /// Files by number, as examples name them.
    pub files: Vec<String>,
}

/// Looks at the first `limit` rows of every file with every rule.
///
/// # Errors
/// As [`super::run`], but for those of writing.
pub fn preview(
    config: &CurateConfig,
    path: &Path,
    limit: u64,
    examples: usize,
    control: &Control<'_>,
) -> Result<RulePreview, CurateError> {
    let config_faults = |faults| CurateError::Config(ConfigFaults { path: path.into(), faults });
    let stages = Stages::new(config);
    if !stages.faults.is_empty() {
        return Err(config_faults(stages.faults));
    }
    let op = Op::new(config.rules.clone()).map_err(config_faults)?;
    let mut preview = Preview::new(&op, examples);
    let (inputs, _) = inputs(config)?;
    let of = inputs.iter().map(|input| input.bytes).sum();
    let mut bytes = 0;
    for (number, input) in inputs.iter().enumerate() {
        let options = &config.source[input.source].read;
        let report = parts(&input.path, options, config.shard_mib << 20, &mut |part| {
            let mut builder = BatchBuilder::new();
            let room = limit.saturating_sub(part.first_row) as usize;
            for (index, example) in part.read(options).examples.iter().take_while(|(index, _)| *index < room) {
                let row = part.first_row + *index as u64;
                builder.push(row, number as u32, example.line as u64, &example.body, &example.kept);
            }
            let mut batch = builder.finish();
            // Stages before the rules give columns that rules ask for.
            for stage in stages.operators.iter().take_while(|stage| stage.name() != "rules") {
                let outcome = stage.apply(&batch);
                batch = batch.with_edits(&outcome.edits).with_columns(outcome.columns);
            }
            preview.add(&batch);
            bytes += part.bytes as u64;
            (control.progress)(Progress::Read { rows: preview.rows().0, bytes, of });
            let enough = part.first_row + part.rows as u64 >= limit;
            if enough || control.stopped() { Flow::Stop } else { Flow::Next }
        });
        report.map_err(CurateError::File)?;
        if control.stopped() {
            return Err(CurateError::Stopped { finished: 0 });
        }
    }
    let (rows, dropped) = preview.rows();
    let files = inputs.iter().map(|input| input.path.display().to_string()).collect();
    Ok(RulePreview { rows, dropped, rules: preview.finish(), files })
}
