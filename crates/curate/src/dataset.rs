//! `dataset.json`: what a curated set is made of. Counts of every stage that add up, contents of
//! every file by hash, licences, and an id that depends on nothing but inputs, options and rows.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use loar_artifact::{ContentId, IdHasher};
use loar_data::FileReport;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::augment::DIALOGUE;
use crate::config::CurateConfig;
use crate::operator::Action;
use crate::pipeline::{Agreement, DialogueReport, LEAKS, Leak, Written};
use crate::report::Examples;
use crate::semantic;
use crate::split::Part;
use crate::stats::Stats;
use crate::taxonomy::{self, Counts, Taxonomy};

/// What one stage did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageCount {
    /// The stage.
    pub name: String,
    /// Its version.
    pub version: u32,
    /// Rows it looked at.
    pub seen: u64,
    /// Rows it dropped.
    pub dropped: u64,
    /// Rows it changed and kept.
    pub edited: u64,
    /// Rows it only spoke about.
    pub noted: u64,
    /// Findings by rule.
    pub rules: BTreeMap<String, RuleCount>,
}

/// Findings of one rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleCount {
    /// Findings that drop.
    pub drop: u64,
    /// Findings that edit.
    pub edit: u64,
    /// Findings that note.
    pub note: u64,
}

impl StageCount {
    /// A stage that looked at `seen` rows and said nothing yet.
    pub fn new(name: &str, version: u32, seen: u64) -> Self {
        StageCount { name: name.to_owned(), version, seen, dropped: 0, edited: 0, noted: 0, rules: BTreeMap::new() }
    }

    /// Counts one finding.
    pub fn finding(&mut self, rule: &str, action: Action) {
        if !self.rules.contains_key(rule) {
            self.rules.insert(rule.to_owned(), RuleCount::default());
        }
        if let Some(count) = self.rules.get_mut(rule) {
            match action {
                Action::Drop => count.drop += 1,
                Action::Edit => count.edit += 1,
                Action::Note => count.note += 1,
            }
        }
    }

    /// Adds the counts of the same stage elsewhere.
    pub fn add(&mut self, other: &StageCount) {
        self.seen += other.seen;
        self.dropped += other.dropped;
        self.edited += other.edited;
        self.noted += other.noted;
        for (rule, more) in &other.rules {
            let count = self.rules.entry(rule.clone()).or_default();
            count.drop += more.drop;
            count.edit += more.edit;
            count.note += more.note;
        }
    }
}

/// What the comparison of rows found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Duplicates {
    /// Rows that repeat an earlier one word for word (case, width and punctuation aside).
    pub exact: u64,
    /// Rows that nearly do.
    pub near: u64,
    /// Clusters of two rows and more.
    pub clusters: u64,
    /// Rows of the largest cluster.
    pub largest: u64,
    /// Pairs that shared a key and were compared.
    pub compared: u64,
    /// Rows that ask what an earlier row asks and answer otherwise.
    pub conflicts: u64,
    /// Clusters of 2, 3, 4, 5 to 9, 10 to 99, and 100 rows and more.
    pub sizes: [u64; 6],
}

impl Duplicates {
    /// Counts a cluster of `size` rows.
    pub fn cluster(&mut self, size: u64) {
        self.clusters += 1;
        self.largest = self.largest.max(size);
        let bin = match size {
            0..=4 => size.saturating_sub(2) as usize,
            5..=9 => 3,
            10..=99 => 4,
            _ => 5,
        };
        self.sizes[bin] += 1;
    }
}

/// A source with what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceReport {
    /// Its name.
    pub name: String,
    /// Its licence as the config says.
    pub licence: Option<String>,
    /// How often each of its rows stands in the training part.
    pub weight: f64,
    /// Rows read.
    pub rows: u64,
    /// Rows in each part, repetitions by weight included.
    pub written: BTreeMap<String, u64>,
    /// Its files.
    pub files: Vec<Value>,
}

/// One written file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OutputFile {
    /// Relative to the set's folder.
    pub path: String,
    /// Lines.
    pub rows: u64,
    /// Size.
    pub bytes: u64,
    /// SHA-256.
    pub content_id: ContentId,
}

/// What `decontaminate` kept out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Leaks {
    /// Evaluation items compared with.
    pub eval_items: u64,
    /// Of these, leaked by some row.
    pub leaked_items: u64,
    /// Rows that leak one and were dropped.
    pub rows: u64,
    /// Findings by mode.
    pub modes: BTreeMap<String, u64>,
    /// The first findings, both sides; all of them are in `decontamination/`.
    pub shown: Vec<Leak>,
}

/// The whole set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dataset {
    /// Hash of the files written, in order; equal sets, equal ids.
    pub id: ContentId,
    /// Hash of inputs' contents, options and stages' versions: what the set was made from.
    pub made_from: ContentId,
    /// Version of this program.
    pub program: String,
    /// The config with all defaults.
    pub config: Value,
    /// Rows read.
    pub rows: u64,
    /// Rows in each part before weights.
    pub parts: BTreeMap<String, u64>,
    /// Rows dropped.
    pub dropped: u64,
    /// Stages in order.
    pub stages: Vec<StageCount>,
    /// Files that stages were given besides options (evaluation data, word lists), by content.
    pub stage_files: Vec<(String, ContentId)>,
    /// Repetitions.
    pub duplicates: Duplicates,
    /// Which of the 112 task types the training part covers, and what it lacks.
    pub coverage: Value,
    /// Leaks of evaluation data, if the stage was on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decontamination: Option<Leaks>,
    /// How rows of the same meaning were found, if they were looked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub semantic: Option<semantic::Report>,
    /// How rows were selected, if they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selection: Option<Value>,
    /// Dialogues linked from rows, if that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dialogues: Option<DialogueReport>,
    /// How far people agree who checked rows, as `agreement` files tell it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub agreement: Vec<Agreement>,
    /// Rows made from rows by transform: tried, fitted, accepted. Of `dialogue`: rows that could be
    /// linked, chains, dialogues.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub augmented: BTreeMap<String, [u64; 3]>,
    /// The stages of `schedule.jsonl`, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub curriculum: Option<Value>,
    /// Sources with their files.
    pub sources: Vec<SourceReport>,
    /// Files of a folder that were not read, with the reason.
    pub passed_over: Vec<(PathBuf, String)>,
    /// Lengths, languages, types.
    pub stats: Stats,
    /// All files written but this one.
    pub files: Vec<OutputFile>,
}

impl Dataset {
    /// Everything in the counts that does not add up; empty when all does.
    pub fn mismatches(&self) -> Vec<String> {
        let mut out = Vec::new();
        let mut must = |what: String, one: u64, other: u64| {
            if one != other {
                out.push(format!("{what}: {one} and {other}"));
            }
        };
        let kept: u64 = self.parts.values().sum();
        must("rows read, and kept + dropped".into(), self.rows, kept + self.dropped);
        let dropped: u64 = self.stages.iter().map(|stage| stage.dropped).sum();
        must("rows dropped, and the sum over stages".into(), self.dropped, dropped);
        let mut left = self.rows;
        for stage in &self.stages {
            must(format!("rows before and in stage `{}`", stage.name), left, stage.seen);
            left = left.saturating_sub(stage.dropped);
        }
        let rows: u64 = self.sources.iter().map(|source| source.rows).sum();
        must("rows read, and the sum over sources".into(), self.rows, rows);
        let written: u64 = self.sources.iter().flat_map(|source| source.written.values()).sum();
        let in_parts = |file: &&OutputFile| ["train/", "eval/", "test/"].iter().any(|part| file.path.starts_with(part));
        let lines: u64 = self.files.iter().filter(in_parts).map(|file| file.rows).sum();
        must("rows written by source, and lines of the files".into(), written, lines);
        let lines_of = |folder: &str| -> u64 {
            self.files.iter().filter(|file| file.path.starts_with(folder)).map(|file| file.rows).sum()
        };
        let accepted: u64 = self.augmented.values().map(|[_, _, accepted]| accepted).sum();
        must("rows made by transform, and lines of `made`".into(), accepted, lines_of("made/"));
        let found: u64 = self.decontamination.iter().flat_map(|leaks| leaks.modes.values()).sum();
        must("leaks by mode, and lines of `decontamination`".into(), found, lines_of("decontamination/"));
        out
    }
}

/// Counts of everything in a set, before its files are hashed.
pub(crate) struct Parts<'a> {
    pub config: &'a CurateConfig,
    /// Index of each file's source.
    pub sources: Vec<usize>,
    pub reports: Vec<FileReport>,
    pub stages: Vec<StageCount>,
    /// Files that stages were given, by content.
    pub stage_files: Vec<(String, ContentId)>,
    pub duplicates: Duplicates,
    pub semantic: Option<semantic::Report>,
    pub selection: Option<Value>,
    pub curriculum: Option<Value>,
    pub dialogues: Option<(Option<OutputFile>, DialogueReport)>,
    /// Evaluation items, when the set was compared with some.
    pub eval_items: Option<u64>,
    pub agreement: Vec<Agreement>,
    pub passed_over: Vec<(PathBuf, String)>,
    /// What each shard wrote, with the index of its file.
    pub written: Vec<(usize, Written)>,
}

impl Dataset {
    /// Puts the counts together.
    pub(crate) fn new(parts: Parts<'_>) -> (Self, Examples) {
        let config = serde_json::to_value(parts.config).unwrap_or_default();
        let made_from = made_from(&parts, &config);
        let (mut kept, mut stats, mut files) = (BTreeMap::new(), Stats::default(), Vec::new());
        let mut examples = Examples::default();
        let (mut leaked, mut leaks) = (BTreeSet::new(), Vec::new());
        let mut augmented: BTreeMap<String, [u64; 3]> = BTreeMap::new();
        let mut sources: Vec<SourceReport> = parts
            .config
            .source
            .iter()
            .map(|source| SourceReport {
                name: source.name.clone(),
                licence: source.licence.clone(),
                weight: source.weight,
                rows: 0,
                written: BTreeMap::new(),
                files: Vec::new(),
            })
            .collect();
        for (source, report) in parts.sources.iter().zip(&parts.reports) {
            sources[*source].rows += report.rows as u64;
            sources[*source].files.push(serde_json::to_value(report).unwrap_or_default());
        }
        for (input, written) in parts.written {
            let source = &mut sources[parts.sources[input]];
            written.written.into_iter().for_each(|(part, rows)| *source.written.entry(part).or_default() += rows);
            written.parts.into_iter().for_each(|(part, rows)| *kept.entry(part).or_default() += rows);
            stats.add(&written.stats);
            examples.extend(written.examples);
            for (transform, more) in written.augmented {
                let sums = augmented.entry(transform).or_default();
                sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
            }
            files.extend(written.files);
            leaked.extend(written.leaked);
            leaks.extend(written.leaks.into_iter().take(LEAKS.saturating_sub(leaks.len())));
        }
        let dialogues = parts.dialogues.map(|(file, report)| {
            files.extend(file);
            augmented.insert(DIALOGUE.into(), [report.rows, report.chains, report.kept]);
            report
        });
        let stage = parts.stages.iter().find(|stage| stage.name == "decontaminate");
        let decontamination = parts.eval_items.zip(stage).map(|(eval_items, stage)| Leaks {
            eval_items,
            leaked_items: leaked.len() as u64,
            rows: stage.dropped,
            modes: stage.rules.iter().map(|(mode, count)| (mode.clone(), count.drop)).collect(),
            shown: leaks,
        });
        files.sort_by(|one, other| one.path.cmp(&other.path));
        let set = Dataset {
            id: id_of(&files),
            made_from,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            config,
            rows: sources.iter().map(|source| source.rows).sum(),
            parts: kept,
            dropped: parts.stages.iter().map(|stage| stage.dropped).sum(),
            stages: parts.stages,
            stage_files: parts.stage_files,
            duplicates: parts.duplicates,
            coverage: coverage(&stats, &parts.config.taxonomy),
            decontamination,
            semantic: parts.semantic,
            selection: parts.selection,
            dialogues,
            agreement: parts.agreement,
            augmented,
            curriculum: parts.curriculum,
            sources,
            passed_over: parts.passed_over,
            stats,
            files,
        };
        (set, examples)
    }
}

/// Coverage of the task types by the training part.
fn coverage(stats: &Stats, options: &taxonomy::Options) -> Value {
    let mut counts = Counts::default();
    if let Some(train) = stats.0.get(&Part::Train) {
        train.task_types.iter().for_each(|(number, rows)| counts.count(*number, *rows));
    }
    serde_json::to_value(counts.report(&Taxonomy::builtin(), options)).unwrap_or_default()
}

/// The id over all files written.
fn id_of(files: &[OutputFile]) -> ContentId {
    let mut hasher = IdHasher::new();
    for file in files {
        hasher.update(file.path.as_bytes());
        hasher.update(b"\0");
        hasher.update(file.content_id.to_string().as_bytes());
        hasher.update(b"\n");
    }
    hasher.finish()
}

/// Hash of what a set is made from; names and places of files do not count.
fn made_from(parts: &Parts<'_>, config: &Value) -> ContentId {
    let mut hasher = IdHasher::new();
    let inputs = parts.reports.iter().map(|file| file.content_id);
    for id in inputs.chain(parts.stage_files.iter().map(|(_, id)| *id)) {
        hasher.update(id.to_string().as_bytes());
        hasher.update(b"\n");
    }
    let mut config = config.clone();
    if let Some(config) = config.as_object_mut() {
        config.remove("out");
        for source in config.get_mut("source").and_then(Value::as_array_mut).into_iter().flatten() {
            source.as_object_mut().map(|source| source.remove("paths"));
        }
        if let Some(stage) = config.get_mut("encoder").and_then(Value::as_object_mut) {
            stage.remove("model");
        }
        if let Some(stage) = config.get_mut("decontaminate").and_then(Value::as_object_mut) {
            stage.remove("against");
        }
        if let Some(scorer) = config.get_mut("scorer").and_then(Value::as_object_mut) {
            scorer.remove("model");
        }
        config.remove("agreement");
    }
    hasher.update(config.to_string().as_bytes());
    for stage in &parts.stages {
        hasher.update(format!("\n{} {}", stage.name, stage.version).as_bytes());
    }
    hasher.finish()
}
