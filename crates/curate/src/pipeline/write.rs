//! Third pass: every shard writes its rows by part and form, what was dropped, and the verdict and
//! evidence of every row read. Files stand in the order of the input, whoever wrote them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use arrow_array::{Array, UInt16Array};
use loar_artifact::{ContentId, write_atomic};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::global::{Decided, LINE};
use super::map::Mapped;
use super::record::{Leak, RowRecord, StoredFinding, read_lines, write_lines};
use super::{Control, CurateError, Plan, Progress};
use crate::augment::{Augmenter, Made};
use crate::batch::{Batch, BatchBuilder, Row};
use crate::curriculum::features;
use crate::dataset::OutputFile;
use crate::dedup::Conflicts;
use crate::dedup::shingle::mix;
use crate::operator::{Action, Finding};
use crate::report::{Example, Examples};
use crate::shard::{ShardError, read_rows};
use crate::split::Part;
use crate::stats::Stats;
use crate::training_row::{Form, Provenance, line, object};

/// What a shard wrote.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Written {
    pub files: Vec<OutputFile>,
    /// Rows by part, before weights.
    pub parts: BTreeMap<String, u64>,
    /// Rows by part, repetitions by weight included.
    pub written: BTreeMap<String, u64>,
    pub stats: Stats,
    pub examples: Examples,
    /// Tried, fitted and accepted rows by transform, when rows are made from rows.
    pub augmented: BTreeMap<String, [u64; 3]>,
    /// Evaluation items that rows of the shard leak.
    pub leaked: BTreeSet<String>,
    /// The first leaks, for the report.
    pub leaks: Vec<Leak>,
    /// Rows to train on as a curriculum sees them, when there is one.
    pub lessons: Vec<Lesson>,
}

/// What decides where a row stands in a curriculum, and where it was written.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Lesson {
    pub row: u64,
    pub kind: u16,
    pub cjk: bool,
    pub tokens: u32,
    pub steps: u32,
    pub constraints: u32,
    pub ifd: Option<f64>,
    /// File of the set and line, from 1; the first of several repetitions.
    pub file: String,
    pub line: u64,
    pub times: u64,
}

pub(crate) fn run(
    plan: &Plan<'_>,
    mapped: &Mapped,
    decided: &Decided,
    control: &Control<'_>,
) -> Result<Vec<Written>, CurateError> {
    let shards = mapped.shards.len();
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let results: Mutex<Vec<(usize, Result<Written, CurateError>)>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..control.threads.max(1) {
            scope.spawn(|| {
                loop {
                    let shard = next.fetch_add(1, Ordering::Relaxed);
                    if shard >= shards || control.stopped() {
                        return;
                    }
                    let result = finished(plan, shard).map_or_else(|| work(plan, mapped, decided, shard), Ok);
                    let failed = result.is_err();
                    results.lock().unwrap_or_else(PoisonError::into_inner).push((shard, result));
                    if failed {
                        next.store(shards, Ordering::Relaxed);
                    }
                    let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                    (control.progress)(Progress::Write { done, of: shards });
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(shard, _)| *shard);
    let written: Vec<Written> = results.into_iter().map(|(_, result)| result).collect::<Result<_, _>>()?;
    if written.len() < shards {
        return Err(CurateError::Stopped { finished: shards });
    }
    Ok(written)
}

/// What a shard wrote before the run was stopped.
fn finished(plan: &Plan<'_>, shard: usize) -> Option<Written> {
    let bytes = std::fs::read(plan.work_file(shard, "written.json")).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// Lines that go to one file.
#[derive(Default)]
pub(crate) struct Lines {
    bytes: Vec<u8>,
    rows: u64,
}

fn work(plan: &Plan<'_>, mapped: &Mapped, decided: &Decided, shard: usize) -> Result<Written, CurateError> {
    let (start, end) = (decided.starts[shard], decided.starts[shard + 1]);
    let input = &plan.inputs[mapped.shards[shard].input];
    let source = &plan.config.source[input.source];
    let mut records: Vec<RowRecord> = read_lines(&plan.work_file(shard, "records.jsonl.zst"))?;
    let first_row = mapped.shards[shard].first_row;
    let passed: Vec<usize> = (0..records.len()).filter(|at| records[*at].verdict == "kept").collect();
    evidence(plan, mapped, decided, shard, |row, finding, drops| {
        let record = &mut records[passed[(row - start) as usize]];
        if drops {
            record.verdict = "dropped".into();
            record.stage = Some(finding.stage.clone());
        }
        record.findings.push(finding);
    })?;

    let mut out: BTreeMap<(Part, Form), Lines> = BTreeMap::new();
    let mut made: BTreeMap<String, Lines> = BTreeMap::new();
    let mut written = Written::default();
    let mut row_number = start;
    for batch in read_rows(&plan.work_file(shard, "arrow"))? {
        let mut told = Vec::with_capacity(batch.len());
        for row in batch.rows() {
            let part = decided.parts[row_number as usize];
            let record = &mut records[(row.number() - first_row) as usize];
            let mut times = 0;
            if decided.dropped[row_number as usize] {
                record.content = Some(Value::Object(object(&row).1));
            } else {
                record.verdict = part.name().into();
                times = if part == Part::Train { repetitions(&row, source.weight, plan.config.seed) } else { 1 };
                *written.parts.entry(part.name().into()).or_default() += 1;
                *written.written.entry(part.name().into()).or_default() += times;
                let provenance = Provenance {
                    row: record.row,
                    at: &record.at,
                    source: &record.source,
                    licence: source.licence.as_deref(),
                };
                let (form, line) = line(&row, &provenance);
                let lines = out.entry((part, form)).or_default();
                if plan.config.curriculum.is_some() && part == Part::Train && times > 0 {
                    let ifd = decided.ifd.get(row_number as usize).copied().flatten();
                    let features = features(&row, kind(&batch, row.index()), ifd);
                    written.lessons.push(Lesson {
                        row: features.row,
                        kind: features.kind,
                        cjk: features.cjk,
                        tokens: features.tokens,
                        steps: features.steps,
                        constraints: features.constraints,
                        ifd,
                        file: file_name(part, shard, form),
                        line: lines.rows + 1,
                        times,
                    });
                }
                lines.rows += times;
                (0..times).for_each(|_| lines.bytes.extend_from_slice(&line));
            }
            told.push((part, times));
            row_number += 1;
        }
        written.stats.count(&batch, &told);
        if let Some(augmenter) = &plan.augmenter {
            let parents = told.iter().map(|(part, times)| Some(*part == Part::Train && *times > 0));
            make(augmenter, &batch.filter(&parents.collect()), &records, first_row, &mut made, &mut written.augmented);
        }
    }
    debug_assert_eq!(row_number, end);
    let folder = &plan.config.out;
    let out = out.into_iter().map(|((part, form), lines)| (file_name(part, shard, form), lines));
    let made = made
        .into_iter()
        .map(|(kind, lines)| (format!("made/{}", kind.replacen('/', &format!("/{shard:05}-"), 1)), lines));
    for (name, lines) in out.chain(made) {
        written.files.extend(lines.write(folder, name)?);
    }
    if let Some(file) = leaks(folder, shard, &records, &mut written)? {
        written.files.push(file);
    }
    examples(&records, &mut written.examples);
    let dropped: Vec<&RowRecord> = records.iter().filter(|record| record.verdict == "dropped").collect();
    if !dropped.is_empty() {
        written.files.push(store(folder, &format!("dropped/{shard:05}.jsonl.zst"), &dropped)?);
    }
    records.iter_mut().for_each(|record| record.content = None);
    let all: Vec<&RowRecord> = records.iter().collect();
    written.files.push(store(folder, &format!("verdicts/{shard:05}.jsonl.zst"), &all)?);
    let text = serde_json::to_vec(&written).unwrap_or_default();
    write_atomic(&plan.work_file(shard, "written.json"), &text).map_err(ShardError::Write)?;
    Ok(written)
}

/// Leaks of one shard that a report shows at most.
pub(crate) const LEAKS: usize = 50;

/// The table of a shard's rows that leak evaluation items, both sides, one line a finding.
fn leaks(
    folder: &Path,
    shard: usize,
    records: &[RowRecord],
    written: &mut Written,
) -> Result<Option<OutputFile>, CurateError> {
    let mut lines = Lines::default();
    for record in records {
        for leak in record.findings.iter().filter_map(|finding| Leak::new(&record.at, finding)) {
            lines.push(&leak);
            written.leaked.insert(leak.eval.clone());
            if written.leaks.len() < LEAKS {
                written.leaks.push(leak);
            }
        }
    }
    lines.write(folder, format!("decontamination/{shard:05}.jsonl"))
}

impl Lines {
    pub fn push(&mut self, line: &impl Serialize) {
        self.bytes.extend(serde_json::to_vec(line).unwrap_or_default());
        self.bytes.push(b'\n');
        self.rows += 1;
    }

    /// Writes the lines as a file of the set, if there are any.
    pub fn write(self, folder: &Path, name: String) -> Result<Option<OutputFile>, CurateError> {
        if self.rows == 0 {
            return Ok(None);
        }
        write_atomic(&folder.join(&name), &self.bytes).map_err(ShardError::Write)?;
        let (bytes, content_id) = (self.bytes.len() as u64, ContentId::of_bytes(&self.bytes));
        Ok(Some(OutputFile { path: name, rows: self.rows, bytes, content_id }))
    }
}

/// Rows made from a batch, by `class/form`, each naming its parents and its transform.
fn make(
    augmenter: &Augmenter,
    batch: &Batch,
    records: &[RowRecord],
    first_row: u64,
    out: &mut BTreeMap<String, Lines>,
    counts: &mut BTreeMap<String, [u64; 3]>,
) {
    let (made, report) = augmenter.batch(batch);
    for (name, count) in report.transforms {
        let sums = counts.entry(name.to_owned()).or_default();
        for (sum, more) in sums.iter_mut().zip([count.tried, count.fitted, count.accepted]) {
            *sum += more;
        }
    }
    for row in made {
        let parents = row.parents.iter().map(|parent| records[(parent - first_row) as usize].at.clone()).collect();
        let (name, line) = made_line(&row, parents, Map::new());
        out.entry(name).or_default().push(&line);
    }
}

/// A made row as it is written, with its file within `made` as `class/form.jsonl`. `more` joins its
/// provenance.
pub(crate) fn made_line(row: &Made, parents: Vec<String>, more: Map<String, Value>) -> (String, Map<String, Value>) {
    let mut builder = BatchBuilder::new();
    builder.push(row.parents.first().copied().unwrap_or_default(), 0, 1, &row.body, &Map::new());
    let (form, mut fields) = object(&builder.finish().row(0));
    let class = serde_json::to_value(row.class).unwrap_or_default();
    let name = format!("{}/{}.jsonl", class.as_str().unwrap_or_default(), form.name());
    let mut provenance = json!({
        "parents": parents,
        "transform": row.transform,
        "class": class,
        "violates": row.violates,
        "evidence": row.evidence,
    });
    if let Some(provenance) = provenance.as_object_mut() {
        provenance.extend(more);
    }
    fields.insert("provenance".into(), provenance);
    (name, fields)
}

fn file_name(part: Part, shard: usize, form: Form) -> String {
    format!("{}/{shard:05}-{}.jsonl", part.name(), form.name())
}

/// Task type of a row, 0 for unknown.
fn kind(batch: &Batch, row: usize) -> u16 {
    let column = batch.added("task_type").and_then(|column| column.as_any().downcast_ref::<UInt16Array>());
    column.map_or(0, |types| if types.is_valid(row) { types.value(row) } else { 0 })
}

fn store(folder: &Path, name: &str, records: &[&RowRecord]) -> Result<OutputFile, CurateError> {
    let path = folder.join(name);
    write_lines(&path, records)?;
    let read = |source| ShardError::Read { path: path.clone(), source };
    let bytes = std::fs::metadata(&path).map_err(read)?.len();
    let content_id = ContentId::of_file(&path)?;
    Ok(OutputFile { path: name.into(), rows: records.len() as u64, bytes, content_id })
}

/// Characters of a row that an example shows.
const EXCERPT: usize = 160;

/// The first rows that each rule spoke about.
fn examples(records: &[RowRecord], into: &mut Examples) {
    for record in records {
        for finding in &record.findings {
            into.add(format!("{}/{}", finding.stage, finding.rule), || Example {
                at: record.at.clone(),
                note: evidence_of(finding),
                excerpt: record.content.as_ref().map(excerpt).unwrap_or_default(),
            });
        }
    }
}

/// The finding's words, or what was measured.
fn evidence_of(finding: &StoredFinding) -> String {
    let bound = finding.bound.map(|bound| format!(", bound {bound:.4}")).unwrap_or_default();
    let measured = finding.value.map(|value| format!("{value:.4}{bound}"));
    match measured {
        Some(measured) if finding.note.is_empty() => measured,
        Some(measured) => format!("{} ({measured})", finding.note),
        None => finding.note.clone(),
    }
}

/// The beginning of a row's texts.
fn excerpt(content: &Value) -> String {
    fn texts(value: &Value, out: &mut String) {
        match value {
            Value::String(text) => {
                out.push_str(if out.is_empty() { "" } else { " ⏎ " });
                out.push_str(text);
            }
            Value::Array(list) => list.iter().for_each(|value| texts(value, out)),
            Value::Object(map) => {
                map.iter().filter(|(key, _)| *key != "role").for_each(|(_, value)| texts(value, out));
            }
            _ => {}
        }
    }
    let mut all = String::new();
    texts(content, &mut all);
    let short: String = all.chars().take(EXCERPT).collect();
    if short.len() < all.len() { short + "…" } else { short }
}

/// How often a row is written: the weight's whole part, and once more with its fraction as the
/// chance, drawn by the row's number.
pub(crate) fn repetitions(row: &Row<'_>, weight: f64, seed: u64) -> u64 {
    let draw = mix(row.number() ^ mix(seed ^ 0x4d49_5800)) as f64 / u64::MAX as f64;
    weight.trunc() as u64 + u64::from(draw < weight.fract())
}

/// Findings of the second pass about a shard's rows: (row, finding, whether it drops).
fn evidence(
    plan: &Plan<'_>,
    mapped: &Mapped,
    decided: &Decided,
    shard: usize,
    mut take: impl FnMut(u32, StoredFinding, bool),
) -> Result<(), CurateError> {
    let range = decided.starts[shard]..decided.starts[shard + 1];
    let mut places = Places { plan, mapped, decided, open: None };
    let options = &plan.config.dedup;
    let action = if options.drop { Action::Drop } else { Action::Note };
    let within = decided.repeats.partition_point(|repeat| repeat.row < range.start);
    for repeat in decided.repeats[within..].iter().take_while(|repeat| repeat.row < range.end) {
        let mut note = format!("repeats {}", places.of(repeat.of)?);
        if repeat.of != repeat.first {
            note.push_str(&format!("; the first of its cluster is {}", places.of(repeat.first)?));
        }
        let finding = Finding::new(0, repeat.rule(), action).measured(repeat.jaccard, options.similarity).note(note);
        take(repeat.row, StoredFinding::new("dedup", 1, finding), options.drop);
    }
    let drop = options.conflicts == Conflicts::Drop;
    let action = if drop { Action::Drop } else { Action::Note };
    let within = decided.conflicts.partition_point(|(row, _)| *row < range.start);
    for (row, of) in decided.conflicts[within..].iter().take_while(|(row, _)| *row < range.end) {
        let note = format!("asks what {} asks and is answered otherwise", places.of(*of)?);
        let finding = Finding::new(0, "same-request", action).note(note);
        take(*row, StoredFinding::new("conflicts", 1, finding), drop);
    }
    if let Some(options) = &plan.config.semantic {
        let action = if options.drop { Action::Drop } else { Action::Note };
        let within = decided.same_meaning.partition_point(|same| same.row < range.start);
        for same in decided.same_meaning[within..].iter().take_while(|same| same.row < range.end) {
            let finding = Finding::new(0, "same-meaning", action)
                .measured(f64::from(same.cosine), options.cosine)
                .note(format!("means what {} means", places.of(same.of)?));
            take(same.row, StoredFinding::new("semantic", 1, finding), options.drop);
        }
    }
    let within = decided.unselected.partition_point(|row| *row < range.start);
    for row in decided.unselected[within..].iter().take_while(|row| **row < range.end) {
        let note = "better or more different rows fill the budget";
        let finding = Finding::new(0, "not-selected", Action::Drop).note(note);
        take(*row, StoredFinding::new("select", 1, finding), true);
    }
    Ok(())
}

/// `file:line` of rows that went through the stages.
pub(crate) struct Places<'a> {
    pub plan: &'a Plan<'a>,
    pub mapped: &'a Mapped,
    pub decided: &'a Decided,
    /// The key file at hand.
    pub open: Option<(usize, File)>,
}

impl Places<'_> {
    pub fn of(&mut self, row: u32) -> Result<String, CurateError> {
        let shard = self.decided.starts.partition_point(|start| *start <= row) - 1;
        let path = self.plan.work_file(shard, "keys");
        let read = |source| ShardError::Read { path: path.clone(), source };
        let file = match self.open.take() {
            Some((open, file)) if open == shard => file,
            _ => File::open(&path).map_err(read)?,
        };
        let (_, file) = self.open.insert((shard, file));
        let kept = self.mapped.shards[shard].kept as usize;
        let at = LINE * kept + (row - self.decided.starts[shard]) as usize;
        let mut line = [0; 8];
        file.seek(SeekFrom::Start(at as u64 * 8)).and_then(|_| file.read_exact(&mut line)).map_err(read)?;
        let path = &self.plan.inputs[self.mapped.shards[shard].input].path;
        Ok(format!("{}:{}", path.display(), u64::from_le_bytes(line)))
    }
}
