//! First pass: one thread cuts files into shards, the others run each shard through the stages and
//! leave it in the work folder: rows that are kept, their keys, a record of every row read, and
//! last the summary that says the shard is finished.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Mutex, PoisonError};

use arrow_array::{Array, BooleanArray, FixedSizeListArray, UInt64Array};
use loar_artifact::write_atomic;
use loar_data::FileReport;
use loar_data::stream::{Flow, Part, parts};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::record::{RowRecord, StoredFinding, write_lines};
use super::{Control, CurateError, Plan, Progress, add_counts};
use crate::batch::{Batch, BatchBuilder};
use crate::dataset::StageCount;
use crate::dedup::keys::Keys;
use crate::embedding;
use crate::operator::{Action, Operator, Outcome};
use crate::shard::{ShardError, write_keys, write_rows};
use crate::training_row;

/// Bytes of the smallest shard; files and their syncs would cost more than the rows below that.
const SMALLEST: usize = 4 << 10;

/// What a finished shard says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// Index of its file among the inputs.
    pub input: usize,
    /// Number of its first row over all input.
    pub first_row: u64,
    /// Rows read.
    pub rows: u64,
    /// Rows that went through all stages.
    pub kept: u32,
    /// Bytes read, unpacked.
    pub bytes: u64,
    /// Stages in order, `read` first.
    pub stages: Vec<StageCount>,
}

/// What the first pass left.
pub(crate) struct Mapped {
    pub shards: Vec<Summary>,
    /// One for each input.
    pub files: Vec<FileReport>,
    pub stages: Vec<StageCount>,
}

struct Job {
    shard: usize,
    input: usize,
    first_row: u64,
    part: Part,
}

#[derive(Default)]
struct Done {
    shards: Vec<(usize, Summary)>,
    failed: Option<(usize, CurateError)>,
    rows: u64,
    bytes: u64,
}

pub(crate) fn run(plan: &Plan<'_>, control: &Control<'_>) -> Result<Mapped, CurateError> {
    let done = Mutex::new(Done::default());
    let lock = || done.lock().unwrap_or_else(PoisonError::into_inner);
    let of = plan.inputs.iter().map(|input| input.bytes).sum();
    let target = (plan.config.shard_mib << 20).max(SMALLEST);
    let (send, receive) = sync_channel::<Job>(1);
    let receive = Mutex::new(receive);
    let mut files = Vec::new();
    let ended = std::thread::scope(|scope| {
        for _ in 0..control.threads.max(1) {
            scope.spawn(|| {
                while let Some(job) = next(&receive) {
                    let shard = job.shard;
                    let summary = finished(plan, shard).map_or_else(|| work(plan, &job), Ok);
                    let mut done = lock();
                    match summary {
                        Ok(summary) => {
                            done.rows += summary.rows;
                            done.bytes += summary.bytes;
                            done.shards.push((shard, summary));
                            (control.progress)(Progress::Read { rows: done.rows, bytes: done.bytes, of });
                        }
                        Err(error) if done.failed.as_ref().is_none_or(|(other, _)| shard < *other) => {
                            done.failed = Some((shard, error));
                        }
                        Err(_) => {}
                    }
                }
            });
        }
        let (mut shard, mut first_row) = (0, 0);
        for (index, input) in plan.inputs.iter().enumerate() {
            let options = &plan.config.source[input.source].read;
            let report = parts(&input.path, options, target, &mut |part| {
                if control.stopped() || lock().failed.is_some() {
                    return Flow::Stop;
                }
                let job = Job { shard, input: index, first_row, part };
                shard += 1;
                first_row += job.part.rows as u64;
                if send.send(job).is_ok() { Flow::Next } else { Flow::Stop }
            });
            match report {
                Ok(Some(report)) => files.push(report),
                Ok(None) => break,
                Err(fault) => {
                    drop(send);
                    return Err(CurateError::File(fault));
                }
            }
        }
        drop(send);
        Ok(())
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, error)) = done.failed {
        return Err(error);
    }
    ended?;
    if files.len() < plan.inputs.len() {
        return Err(CurateError::Stopped { finished: done.shards.len() });
    }
    done.shards.sort_by_key(|(shard, _)| *shard);
    let shards: Vec<Summary> = done.shards.into_iter().map(|(_, summary)| summary).collect();
    let mut stages = Vec::new();
    for summary in &shards {
        add_counts(&mut stages, &summary.stages);
        let (read, kept) = (summary.stages.first(), &mut files[summary.input]);
        kept.dropped += read.map_or(0, |stage| stage.dropped as usize);
    }
    files.iter_mut().for_each(|file| file.kept = file.rows - file.dropped);
    Ok(Mapped { shards, files, stages })
}

fn next(jobs: &Mutex<Receiver<Job>>) -> Option<Job> {
    jobs.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

/// The summary of a shard that was finished before.
fn finished(plan: &Plan<'_>, shard: usize) -> Option<Summary> {
    let bytes = std::fs::read(plan.work_file(shard, "json")).ok()?;
    serde_json::from_slice(&bytes).ok()
}

fn work(plan: &Plan<'_>, job: &Job) -> Result<Summary, CurateError> {
    let source = &plan.config.source[plan.inputs[job.input].source];
    let read = job.part.read(&source.read);
    let record = |index: usize, line: usize| RowRecord {
        row: job.first_row + index as u64,
        at: job.part.id(line),
        source: source.name.clone(),
        verdict: "kept".into(),
        stage: None,
        findings: Vec::new(),
        content: None,
    };
    let mut records: Vec<Option<RowRecord>> = vec![None; job.part.rows];
    let mut count = StageCount::new("read", 1, job.part.rows as u64);
    for bad in read.bad {
        let finding = StoredFinding {
            stage: "read".into(),
            version: 1,
            rule: bad.kind.name().into(),
            action: Action::Drop,
            turn: None,
            field: None,
            span: None,
            value: None,
            bound: None,
            note: bad.reason,
            sides: None,
        };
        count.finding(&finding.rule, Action::Drop);
        count.dropped += 1;
        records[bad.index] = Some(RowRecord {
            verdict: "dropped".into(),
            stage: Some("read".into()),
            findings: vec![finding],
            content: (!bad.raw.is_empty()).then_some(Value::String(bad.raw)),
            ..record(bad.index, bad.line)
        });
    }
    let mut stages = vec![count];
    let mut builder = BatchBuilder::new();
    for (index, example) in &read.examples {
        let row = job.first_row + *index as u64;
        builder.push(row, plan.inputs[job.input].source as u32, example.line as u64, &example.body, &example.kept);
        records[*index] = Some(record(*index, example.line));
    }
    drop(read.examples);
    let mut batch = builder.finish();
    let mut records: Vec<RowRecord> = records.into_iter().flatten().collect();
    for stage in &plan.stages {
        let outcome = stage.apply(&batch);
        let (next, count) = settle(&**stage, batch, outcome, &mut records, job.first_row);
        batch = next;
        stages.push(count);
    }
    if let Some((vectors, _)) = embedding::column(&batch) {
        embedding::write(&plan.work_file(job.shard, "vectors"), vectors)?;
        batch = batch.without(embedding::COLUMN);
    }
    let summary = Summary {
        input: job.input,
        first_row: job.first_row,
        rows: job.part.rows as u64,
        kept: batch.len() as u32,
        bytes: job.part.bytes as u64,
        stages,
    };
    // In the order that `global` reads them in.
    let mut keys = vec![batch.rows().map(|row| row.line()).collect()];
    keys.extend(columns(&plan.dedup, &batch));
    keys.extend(columns(&plan.groups, &batch));
    write_keys(&plan.work_file(job.shard, "keys"), &keys)?;
    write_rows(&plan.work_file(job.shard, "arrow"), &batch)?;
    write_lines(&plan.work_file(job.shard, "records.jsonl.zst"), &records)?;
    let text = serde_json::to_vec(&summary).unwrap_or_default();
    write_atomic(&plan.work_file(job.shard, "json"), &text).map_err(ShardError::Write)?;
    Ok(summary)
}

/// Applies what a stage found: edits, columns, then the rows it drops leave the batch.
fn settle(
    stage: &dyn Operator,
    batch: Batch,
    outcome: Outcome,
    records: &mut [RowRecord],
    first_row: u64,
) -> (Batch, StageCount) {
    let mut count = StageCount::new(stage.name(), stage.version(), batch.len() as u64);
    let mut worst: Vec<Option<Action>> = vec![None; batch.len()];
    let numbers: Vec<usize> = batch.rows().map(|row| (row.number() - first_row) as usize).collect();
    for finding in outcome.findings {
        let row = finding.row;
        worst[row] = Some(worst[row].map_or(finding.action, |action| action.min(finding.action)));
        count.finding(&finding.rule, finding.action);
        records[numbers[row]].findings.push(StoredFinding::new(stage.name(), stage.version(), finding));
    }
    let batch = batch.with_edits(&outcome.edits).with_columns(outcome.columns);
    for (row, action) in worst.iter().enumerate() {
        match action {
            Some(Action::Drop) => {
                count.dropped += 1;
                let record = &mut records[numbers[row]];
                record.verdict = "dropped".into();
                record.stage = Some(stage.name().into());
                record.content = Some(training_row::value(&batch.row(row)));
            }
            Some(Action::Edit) => count.edited += 1,
            Some(Action::Note) => count.noted += 1,
            None => {}
        }
    }
    let keep: BooleanArray = worst.iter().map(|action| Some(*action != Some(Action::Drop))).collect();
    (if count.dropped == 0 { batch } else { batch.filter(&keep) }, count)
}

/// The key columns of a batch, the exact key first.
fn columns(keys: &Keys, batch: &Batch) -> Vec<Vec<u64>> {
    let columns = keys.apply(batch).columns;
    let mut out = Vec::with_capacity(1 + keys.bands());
    for (_, column) in &columns {
        if let Some(key) = column.as_any().downcast_ref::<UInt64Array>() {
            out.push(key.values().to_vec());
        }
        if let Some(bands) = column.as_any().downcast_ref::<FixedSizeListArray>()
            && let Some(values) = bands.values().as_any().downcast_ref::<UInt64Array>()
        {
            let width = keys.bands();
            out.extend((0..width).map(|band| values.values().iter().skip(band).step_by(width).copied().collect()));
        }
    }
    out
}

/// Row files of all shards.
pub(crate) fn files(plan: &Plan<'_>, shards: usize, end: &str) -> Vec<PathBuf> {
    (0..shards).map(|shard| plan.work_file(shard, end)).collect()
}
