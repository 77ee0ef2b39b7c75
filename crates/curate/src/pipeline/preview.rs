//! What every rule and every mode of decontamination would leave out, and which dialogues would be
//! linked, before it is done: reads like a run, writes nothing.

use std::path::Path;

use loar_data::stream::{Flow, Part, parts};
use loar_text::Body;
use serde::Serialize;

use super::finish::DialogueReport;
use super::record::Leak;
use super::{Control, CurateError, Progress, Stages, inputs};
use crate::augment::{Dialogues, Made};
use crate::batch::{Batch, BatchBuilder};
use crate::config::{ConfigFaults, CurateConfig};
use crate::decontaminate::{Comparison, Index, Mode, ModeCount};
use crate::operator::shortened;
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
    /// What each mode of decontamination would do, when evaluation files are named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decontamination: Option<LeakPreview>,
    /// Dialogues that would be linked of these rows, when that is asked for. Strengths are lexical: a
    /// preview asks no model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dialogues: Option<DialoguePreview>,
}

/// All modes side by side, whether the config asks for them or not.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LeakPreview {
    /// Evaluation items compared with.
    pub eval_items: usize,
    /// One count a mode.
    pub modes: Vec<ModeCount>,
    /// The first leaks under each mode, both sides.
    pub examples: Vec<Leak>,
}

/// Dialogues of the rows looked at.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DialoguePreview {
    /// Counts and strengths.
    pub report: DialogueReport,
    /// The first dialogues.
    pub examples: Vec<DialogueExample>,
}

/// One dialogue.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DialogueExample {
    /// Strength of the link of every turn but the first.
    pub links: Vec<f64>,
    /// The beginnings of its requests.
    pub requests: Vec<String>,
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
    let (mut comparison, mut leaks) = (Comparison::default(), Vec::new());
    let mut dialogues =
        config.augment.as_ref().and_then(|options| Some(Dialogues::new(options.dialogues.clone()?, options.seed)));
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
            if let Some(stage) = &stages.decontaminate {
                comparison.add(stage.index(), &batch);
                show_leaks(stage.index(), &batch, &part, examples, &mut leaks);
            }
            if let Some(dialogues) = &mut dialogues {
                batch.rows().for_each(|row| dialogues.add(&row));
            }
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
    let decontamination = stages.decontaminate.as_ref().map(|stage| LeakPreview {
        eval_items: stage.index().items(),
        modes: comparison.modes(),
        examples: leaks,
    });
    let dialogues = dialogues.map(|dialogues| {
        let linked = dialogues.link(None);
        let shown = linked.made.iter().take(examples);
        let examples = shown.map(|(made, chain)| DialogueExample { links: chain.links.clone(), requests: asked(made) });
        DialoguePreview { report: DialogueReport::new(&linked, false), examples: examples.collect() }
    });
    Ok(RulePreview { rows, dropped, rules: preview.finish(), files, decontamination, dialogues })
}

/// Keeps up to so many leaks a mode.
fn show_leaks(index: &Index, batch: &Batch, part: &Part, examples: usize, into: &mut Vec<Leak>) {
    let have = |into: &[Leak], mode: Mode| into.iter().filter(|leak| leak.mode == mode.name()).count();
    let open: Vec<Mode> = Mode::ALL.into_iter().filter(|mode| have(into, *mode) < examples).collect();
    if open.is_empty() {
        return;
    }
    for row in batch.rows() {
        for found in index.scan(&row, &open) {
            if have(into, found.mode) < examples {
                let sides = found.sides(&row);
                into.push(Leak {
                    mode: found.mode.name().to_owned(),
                    eval: sides.other,
                    eval_text: sides.other_text,
                    train: part.id(row.line() as usize),
                    turn: found.train.turn,
                    field: found.train.field,
                    train_text: sides.own_text,
                    shared: sides.shared,
                    value: found.value,
                    bound: found.bound,
                });
            }
        }
    }
}

/// The beginnings of a dialogue's requests.
fn asked(made: &Made) -> Vec<String> {
    let Body::Chat(chat) = &made.body else { return Vec::new() };
    let requests = chat.messages.iter().filter(|message| !message.is_assistant());
    requests.map(|message| shortened(&message.content).into_owned()).collect()
}
