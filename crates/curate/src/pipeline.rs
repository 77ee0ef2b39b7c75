//! The recipe of `loar data`, in three passes whose memory does not grow with the text:
//! 1. [`map`]: files are cut into shards, and every shard runs through the stages by itself;
//! 2. [`global`]: keys of all rows say which repeat one another and which part a row belongs to;
//! 3. [`write`]: every shard writes its rows, its verdicts and what was dropped.
//!
//! A shard is finished when its summary lies in the work folder, so a run that was stopped goes on
//! from there. Nothing depends on time, on the number of threads or on the order in which they end.

mod finish;
mod global;
mod map;
mod preview;
mod record;
mod score;
mod write;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use loar_artifact::{ArtifactError, ContentId, write_atomic};
use loar_data::stream::files;
use loar_data::{DataError, Fault};
use serde::{Deserialize, Serialize};

use crate::augment::Augmenter;
use crate::config::{ConfigFaults, CurateConfig, ReportLanguage};
use crate::dataset::{Dataset, Parts, StageCount};
use crate::decontaminate::Decontaminate;
use crate::dedup::banding::Banding;
use crate::dedup::keys::{Compared, Keys};
use crate::models::{Models, Scorer};
use crate::operator::Operator;
use crate::options::OptionFault;
use crate::report::report;
use crate::shard::ShardError;
use crate::taxonomy::TaskTypes;
use crate::{compliance, control, embedding, language, pii, rules};

pub use finish::{Agreement, DialogueReport};
pub use preview::{DialoguePreview, LeakPreview, RulePreview, preview};
pub use record::{Leak, RowRecord, StoredFinding, read_lines};
pub(crate) use write::{LEAKS, Written};

/// Name of the folder inside the output that holds shards between passes.
const WORK: &str = "work";

/// Bytes of keys that are sorted at a time.
const KEY_BUDGET: usize = 512 << 20;

/// Hash functions for the groups of a split: requests are short, so this is cheap.
const SPLIT_FUNCTIONS: usize = 128;

/// Why no curated set came out.
#[derive(Debug, thiserror::Error)]
pub enum CurateError {
    /// The config file has faults.
    #[error(transparent)]
    Config(#[from] ConfigFaults),
    /// The inputs cannot be listed.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A file cannot be read to its end.
    #[error("{0}; mend the file or take it out of the sources, then start again: finished shards are kept")]
    File(Box<Fault>),
    /// A shard cannot be written or read.
    #[error(transparent)]
    Shard(#[from] ShardError),
    /// A result cannot be written.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// A stage cannot work with what earlier stages gave.
    #[error("{0}")]
    Stage(OptionFault),
    /// The work folder belongs to something else.
    #[error("{work} holds shards of another run ({why}); remove the folder to start again, or name another `out`")]
    OtherRun {
        /// The work folder.
        work: PathBuf,
        /// What differs.
        why: String,
    },
    /// A finished set is there already.
    #[error("{0} holds a finished set of other inputs or options; name another `out` or remove it")]
    Finished(PathBuf),
    /// No row is left.
    #[error("all {rows} rows were dropped, most of them ({most}) by `{rule}`; see {verdicts}")]
    NothingLeft {
        /// Rows read.
        rows: u64,
        /// Rows of the commonest rule.
        most: u64,
        /// The rule.
        rule: String,
        /// Where the verdicts lie.
        verdicts: PathBuf,
    },
    /// Somebody asked to stop.
    #[error("stopped; run the same command again to go on: {finished} shards are finished")]
    Stopped {
        /// Shards that need not be read again.
        finished: usize,
    },
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A shard went through the stages: rows and bytes of input so far, files' bytes on disk.
    Read {
        /// Rows so far.
        rows: u64,
        /// Bytes of rows so far, unpacked.
        bytes: u64,
        /// Bytes of all files on disk.
        of: u64,
    },
    /// A column of keys is being compared.
    Compare {
        /// Columns done.
        done: usize,
        /// Columns in all.
        of: usize,
    },
    /// The model gave its losses of some rows.
    Score {
        /// Rows done, those of an earlier run among them.
        done: usize,
        /// Rows in all.
        of: usize,
    },
    /// A shard was written.
    Write {
        /// Shards done.
        done: usize,
        /// Shards in all.
        of: usize,
    },
}

/// How a run is watched and stopped.
pub struct Control<'a> {
    /// Threads that work.
    pub threads: usize,
    /// Set from outside to stop after the shards in work.
    pub stop: &'a AtomicBool,
    /// Told after every piece of work, from any thread.
    pub progress: &'a (dyn Fn(Progress) + Sync),
}

impl Control<'_> {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// One input file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Input {
    /// Index of its source in the config.
    pub source: usize,
    pub path: PathBuf,
    pub bytes: u64,
    /// Nanoseconds; only to notice that a file changed between two runs.
    modified: u128,
}

/// Everything that decides what a shard becomes.
pub(crate) struct Plan<'a> {
    pub config: &'a CurateConfig,
    pub inputs: Vec<Input>,
    /// Stages that look at a row by itself, in order.
    pub stages: Vec<Box<dyn Operator>>,
    pub dedup: Keys,
    /// Keys of requests: rows that ask alike stay in one part.
    pub groups: Keys,
    /// Makes rows from rows to train on.
    pub augmenter: Option<Augmenter>,
    /// The model of the section `scorer`.
    pub scorer: Option<Arc<dyn Scorer>>,
    pub work: PathBuf,
}

impl Plan<'_> {
    fn work_file(&self, shard: usize, end: &str) -> PathBuf {
        self.work.join(format!("{shard:05}.{end}"))
    }
}

/// What a work folder was made from; equal texts, equal shards.
#[derive(Serialize, Deserialize, PartialEq)]
struct Identity {
    program: String,
    config: serde_json::Value,
    stages: Vec<(String, u32)>,
    /// Files that stages were given.
    files: Vec<(String, ContentId)>,
    inputs: Vec<Input>,
}

/// Stages that look at a row by itself.
struct Stages {
    operators: Vec<Box<dyn Operator>>,
    /// Files they were given besides options, by content.
    files: Vec<(String, ContentId)>,
    augmenter: Option<Augmenter>,
    decontaminate: Option<Arc<Decontaminate>>,
    faults: Vec<OptionFault>,
}

impl Stages {
    /// In the order they run in: what must not reach a row's text comes first, what only reads it
    /// later. Holds every fault of every section.
    fn new(config: &CurateConfig) -> Self {
        let mut stages = Stages {
            operators: Vec::new(),
            files: Vec::new(),
            augmenter: None,
            decontaminate: None,
            faults: Vec::new(),
        };
        stages.add("control", control::Op::new(config.control.clone()));
        stages.add("language", language::Op::new(config.language.clone()));
        let mut embedder = None;
        if let Some(options) = &config.encoder {
            stages.files(std::slice::from_ref(&options.model));
            match options.open() {
                Ok(model) => {
                    embedder = Some(Arc::clone(&model));
                    stages.operators.push(Box::new(embedding::Op::new(model, options.text)));
                }
                Err(fault) => stages.fault("encoder", vec![fault]),
            }
        }
        stages.add("taxonomy", TaskTypes::with_embedder(config.taxonomy.clone(), embedder.clone()));
        stages.files(config.taxonomy.cues.as_slice());
        if !(config.rules.presets.is_empty() && config.rules.files.is_empty()) {
            stages.files(&config.rules.files);
            stages.add("rules", rules::Op::new(config.rules.clone()));
        }
        if let Some(options) = &config.compliance {
            stages.files(&options.files);
            stages.add("compliance", compliance::Op::new(options.clone()));
        }
        if let Some(options) = &config.pii {
            stages.add("pii", pii::Op::new(options.clone()));
        }
        if let Some(options) = &config.decontaminate {
            stages.files(&options.against);
            let stage = Decontaminate::new(options.clone()).map(Arc::new);
            stages.decontaminate = stage.as_ref().ok().map(Arc::clone);
            stages.add("decontaminate", stage);
        }
        if let Some(options) = &config.augment {
            stages.files(options.lexicon.as_slice());
            match Augmenter::new(options.clone(), embedder) {
                Ok(augmenter) => stages.augmenter = Some(augmenter),
                Err(faults) => stages.fault("augment", faults),
            }
        }
        if let Some(options) = &config.scorer {
            stages.files(std::slice::from_ref(&options.model));
        }
        stages.files(&config.agreement);
        stages
    }

    fn fault(&mut self, section: &str, faults: Vec<OptionFault>) {
        let named = |fault: OptionFault| OptionFault { key: format!("{section}.{}", fault.key), ..fault };
        self.faults.extend(faults.into_iter().map(named));
    }

    fn add<T: Operator + 'static>(&mut self, section: &str, stage: Result<T, Vec<OptionFault>>) {
        match stage {
            Ok(stage) => self.operators.push(Box::new(stage)),
            Err(faults) => self.fault(section, faults),
        }
    }

    fn files(&mut self, paths: &[PathBuf]) {
        // A path that cannot be read is a fault that the stage itself tells.
        for path in paths {
            let id = if path.is_dir() { ContentId::of_dir(path) } else { ContentId::of_file(path) };
            if let Ok(id) = id {
                self.files.push((path.display().to_string(), id));
            }
        }
    }
}

/// Curates. Goes on where a stopped run of the same config ended.
///
/// # Errors
/// Any [`CurateError`]; finished shards are kept.
pub fn run(
    config: &CurateConfig,
    path: &Path,
    models: &dyn Models,
    control: &Control<'_>,
) -> Result<Dataset, CurateError> {
    let mut stages = Stages::new(config);
    let scorer = config.scorer.as_ref().map(|options| models.scorer(options)).transpose();
    let scorer = scorer.unwrap_or_else(|found| {
        let mend = "name a checkpoint folder, or leave the section out";
        stages.faults.push(OptionFault::new("scorer.model", found, mend));
        None
    });
    let agreement = finish::agreement(&config.agreement).unwrap_or_else(|fault| {
        stages.faults.push(fault);
        Vec::new()
    });
    if !stages.faults.is_empty() {
        return Err(CurateError::Config(ConfigFaults { path: path.into(), faults: stages.faults }));
    }
    let banding = config.dedup.banding().unwrap_or(Banding { bands: 1, rows: 1 });
    let dedup = Keys::new("dedup", config.dedup.compare, config.dedup.shingle, banding, config.seed);
    let split = &config.split;
    let banding = Banding::solve(SPLIT_FUNCTIONS, split.similarity, split.recall);
    let banding = banding.unwrap_or(Banding { bands: SPLIT_FUNCTIONS, rows: 1 });
    let groups = Keys::new("group", Compared::Request, config.dedup.shingle, banding, config.seed);
    let (inputs, passed_over) = inputs(config)?;
    let eval_items = stages.decontaminate.map(|stage| stage.index().items() as u64);
    let (stages, stage_files, augmenter) = (stages.operators, stages.files, stages.augmenter);
    let plan = Plan { config, inputs, stages, dedup, groups, augmenter, scorer, work: config.out.join(WORK) };
    claim(&plan, &stage_files)?;

    let mapped = map::run(&plan, control)?;
    let mut decided = global::run(&plan, &mapped, control)?;
    if let (Some(scorer), Some(_), true) = (&plan.scorer, &config.curriculum, decided.ifd.is_empty()) {
        let trained = decided.trained();
        decided.ifd = score::run(&plan, &mapped, &**scorer, &trained, control)?;
    }
    let written = write::run(&plan, &mapped, &decided, control)?;
    let dialogues = finish::dialogues(&plan, &mapped, &decided, control)?;
    let curriculum = finish::curriculum(&plan, &written)?;
    finish::review(&plan, &mapped, &decided)?;

    let inputs = mapped.shards.iter().map(|shard| shard.input);
    let mut counts = mapped.stages;
    counts.extend(decided.stages);
    let (dataset, examples) = Dataset::new(Parts {
        config,
        sources: plan.inputs.iter().map(|input| input.source).collect(),
        reports: mapped.files,
        stages: counts,
        stage_files,
        duplicates: decided.duplicates,
        semantic: decided.semantic,
        selection: decided.selection,
        curriculum,
        dialogues,
        eval_items,
        agreement,
        passed_over,
        written: inputs.zip(written).collect(),
    });
    let mismatches = dataset.mismatches();
    assert!(mismatches.is_empty(), "counts that do not add up: {}", mismatches.join("; "));
    if dataset.parts.values().sum::<u64>() == 0 {
        let rules = dataset.stages.iter().flat_map(|stage| {
            stage.rules.iter().map(move |(rule, count)| (count.drop, format!("{}/{rule}", stage.name)))
        });
        let (most, rule) = rules.max().unwrap_or_default();
        let verdicts = config.out.join("verdicts");
        return Err(CurateError::NothingLeft { rows: dataset.rows, most, rule, verdicts });
    }
    let zh = config.language_of_report == ReportLanguage::Zh;
    write_atomic(&config.out.join("report.html"), report(&dataset, &examples, zh).as_bytes())?;
    let bytes = serde_json::to_vec_pretty(&dataset).unwrap_or_default();
    write_atomic(&config.out.join("dataset.json"), &bytes)?;
    finish::sweep(&config.out, &dataset.files);
    std::fs::remove_dir_all(&plan.work).ok();
    Ok(dataset)
}

type Inputs = (Vec<Input>, Vec<(PathBuf, String)>);

fn inputs(config: &CurateConfig) -> Result<Inputs, CurateError> {
    let (mut inputs, mut passed_over) = (Vec::new(), Vec::new());
    for (source, options) in config.source.iter().enumerate() {
        options.read.check().map_err(DataError::Options)?;
        let found = files(&options.paths)?;
        passed_over.extend(found.passed_over);
        for path in found.files {
            let meta = std::fs::metadata(&path).ok();
            let modified = meta.as_ref().and_then(|meta| meta.modified().ok());
            let modified = modified.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
            inputs.push(Input {
                source,
                path,
                bytes: meta.map_or(0, |meta| meta.len()),
                modified: modified.map_or(0, |time| time.as_nanos()),
            });
        }
    }
    Ok((inputs, passed_over))
}

/// Makes the work folder ours, or refuses one that is not.
fn claim(plan: &Plan<'_>, files: &[(String, ContentId)]) -> Result<(), CurateError> {
    let mut config = serde_json::to_value(plan.config).unwrap_or_default();
    if let Some(config) = config.as_object_mut() {
        config.remove("out");
    }
    let identity = Identity {
        program: env!("CARGO_PKG_VERSION").to_owned(),
        config,
        stages: plan.stages.iter().map(|stage| (stage.name().to_owned(), stage.version())).collect(),
        files: files.to_vec(),
        inputs: plan.inputs.clone(),
    };
    let text = serde_json::to_vec_pretty(&identity).unwrap_or_default();
    let path = plan.work.join("run.json");
    if plan.config.out.join("dataset.json").exists() && !path.exists() {
        return Err(CurateError::Finished(plan.config.out.clone()));
    }
    if let Ok(found) = std::fs::read(&path) {
        let why = match serde_json::from_slice::<Identity>(&found) {
            Err(_) => Some("its run.json is not readable"),
            Ok(found) if found.inputs != identity.inputs => Some("the input files differ or were changed"),
            Ok(found) if found.files != identity.files => Some("files that a stage reads were changed"),
            Ok(found) if found.config != identity.config => Some("the config differs"),
            Ok(found) if found != identity => Some("another version of the program"),
            Ok(_) => None,
        };
        if let Some(why) = why {
            return Err(CurateError::OtherRun { work: plan.work.clone(), why: why.into() });
        }
    } else {
        write_atomic(&path, &text)?;
    }
    Ok(())
}

/// Adds the counts of `more` to `counts`, stage by stage.
fn add_counts(counts: &mut Vec<StageCount>, more: &[StageCount]) {
    for stage in more {
        match counts.iter_mut().find(|have| have.name == stage.name) {
            Some(have) => have.add(stage),
            None => counts.push(stage.clone()),
        }
    }
}

#[cfg(test)]
mod tests;
