//! What is made from the written set: the schedule that training follows, and the sheet that
//! people check a sample on.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use loar_artifact::write_atomic;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::global::Decided;
use super::map::{Mapped, files};
use super::write::{Lesson, Lines, Places, Written, made_line, repetitions};
use super::{Control, CurateError, Plan};
use crate::augment::{Dialogues, Linked, measure};
use crate::compliance::{Item, Sampler, Sheet};
use crate::curriculum::{Features, schedule};
use crate::dataset::OutputFile;
use crate::options::OptionFault;
use crate::shard::{Rows, read_rows};

/// Name of the schedule in the set.
const SCHEDULE: &str = "schedule.jsonl";
/// Name of the sheet in the set.
const SHEET: &str = "review.json";

/// Writes the schedule, if one is asked for, and gives its report.
pub(crate) fn curriculum(plan: &Plan<'_>, written: &[Written]) -> Result<Option<Value>, CurateError> {
    let Some(options) = &plan.config.curriculum else {
        return Ok(None);
    };
    // A row that its weight repeats stands in the schedule once for each line.
    let lessons: Vec<(&Lesson, u64)> = written
        .iter()
        .flat_map(|shard| &shard.lessons)
        .flat_map(|lesson| (0..lesson.times).map(move |time| (lesson, lesson.line + time)))
        .collect();
    let features: Vec<Features> = lessons
        .iter()
        .map(|(lesson, _)| Features {
            row: lesson.row,
            kind: lesson.kind,
            cjk: lesson.cjk,
            tokens: lesson.tokens,
            steps: lesson.steps,
            constraints: lesson.constraints,
            ifd: lesson.ifd,
        })
        .collect();
    let name = |at: usize| format!("{}:{}", lessons[at].0.file, lessons[at].1);
    let made = schedule(&features, options, name).map_err(|mut faults| CurateError::Stage(faults.swap_remove(0)))?;
    let path = plan.config.out.join(SCHEDULE);
    made.write(&path).map_err(|error| CurateError::Stage(unwritten(&path, &error)))?;
    Ok(serde_json::to_value(&made.report).ok())
}

/// Dialogues made of the training part's single rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DialogueReport {
    /// Single rows that could be linked.
    pub rows: u64,
    /// Chains of two rows and more that share rare terms.
    pub chains: u64,
    /// Those with enough linked turns: the dialogues.
    pub kept: u64,
    /// Rows in dialogues; each in one at most.
    pub linked_rows: u64,
    /// What a link's strength is.
    pub measure: String,
    /// Mean strength of the dialogues' links.
    pub mean: f64,
    /// Links of dialogues by strength, from 0 in tenths; the first bin holds what is below, the last
    /// what is above.
    pub strengths: [u64; 10],
}

impl DialogueReport {
    /// Of what was linked.
    pub(crate) fn new(linked: &Linked, scorer: bool) -> DialogueReport {
        let kept = linked.made.len() as u64;
        let links: Vec<f64> = linked.made.iter().flat_map(|(_, chain)| &chain.links).copied().collect();
        let mut strengths = [0; 10];
        links.iter().for_each(|link| strengths[(link * 10.0).floor().clamp(0.0, 9.0) as usize] += 1);
        DialogueReport {
            rows: linked.rows,
            chains: kept + linked.rejected.len() as u64,
            kept,
            linked_rows: linked.made.iter().map(|(made, _)| made.parents.len() as u64).sum(),
            measure: measure(scorer).to_owned(),
            mean: links.iter().sum::<f64>() / links.len().max(1) as f64,
            strengths,
        }
    }
}

/// Links rows to train on to dialogues and writes them, if that is asked for. Rows are held in
/// memory up to the bound of the options.
pub(crate) fn dialogues(
    plan: &Plan<'_>,
    mapped: &Mapped,
    decided: &Decided,
    control: &Control<'_>,
) -> Result<Option<(Option<OutputFile>, DialogueReport)>, CurateError> {
    let Some(options) = plan.config.augment.as_ref().and_then(|options| options.dialogues.as_ref()) else {
        return Ok(None);
    };
    let seed = plan.config.augment.as_ref().map_or(0, |options| options.seed);
    let (mut gathered, mut at) = (Dialogues::new(options.clone(), seed), 0);
    // Numbers over all input of kept rows rise with their index.
    let mut numbers = Vec::with_capacity(decided.dropped.len());
    let trained = decided.trained();
    for (shard, path) in files(plan, mapped.shards.len(), "arrow").iter().enumerate() {
        let source = &plan.config.source[plan.inputs[mapped.shards[shard].input].source];
        for batch in read_rows(path)? {
            for row in batch.rows() {
                numbers.push(row.number());
                if trained[at] && repetitions(&row, source.weight, plan.config.seed) > 0 {
                    gathered.add(&row);
                }
                at += 1;
            }
        }
        if control.stopped() {
            return Err(CurateError::Stopped { finished: mapped.shards.len() });
        }
    }
    let linked = gathered.link(plan.scorer.as_deref());
    let report = DialogueReport::new(&linked, plan.scorer.is_some());
    let mut places = Places { plan, mapped, decided, open: None };
    let (mut lines, mut name) = (Lines::default(), String::new());
    for (made, chain) in &linked.made {
        let index = |number: &u64| numbers.binary_search(number).map_or(u32::MAX, |at| at as u32);
        let parents = made.parents.iter().map(|number| places.of(index(number))).collect::<Result<_, _>>()?;
        let more = json!({ "links": chain.links, "linked": chain.linked, "measure": report.measure });
        let (file, line) = made_line(made, parents, more.as_object().cloned().unwrap_or_default());
        name = format!("made/{}", file.replacen('/', "/00000-", 1));
        lines.push(&line);
    }
    Ok(Some((lines.write(&plan.config.out, name)?, report)))
}

/// Agreement of the people who checked rows, on one rubric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    /// Name of the task.
    #[serde(default)]
    pub task: String,
    /// Name of the rubric.
    pub name: String,
    /// Rows with two checks or more.
    pub units: u64,
    /// Krippendorff's alpha; undefined where only one label occurs.
    pub alpha: Option<f64>,
    /// Its bootstrap interval.
    pub interval: Option<AgreementInterval>,
    /// Fleiss' kappa.
    pub fleiss: Option<f64>,
    /// Gwet's AC1.
    pub gwet_ac1: Option<f64>,
}

/// Bounds of an interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgreementInterval {
    /// Lower.
    pub low: f64,
    /// Upper.
    pub high: f64,
}

/// Reads `agreement.json` files of `loar annotate export`.
pub(crate) fn agreement(paths: &[PathBuf]) -> Result<Vec<Agreement>, OptionFault> {
    #[derive(Deserialize)]
    struct File {
        task: String,
        rubrics: Vec<Agreement>,
    }
    let mut all = Vec::new();
    for path in paths {
        let fault = |found: String| {
            let mend = "name the `agreement.json` that `loar annotate export` writes";
            OptionFault::new("agreement", format!("{}: {found}", path.display()), mend)
        };
        let bytes = std::fs::read(path).map_err(|error| fault(error.to_string()))?;
        let file: File = serde_json::from_slice(&bytes).map_err(|error| fault(error.to_string()))?;
        all.extend(file.rubrics.into_iter().map(|rubric| Agreement { task: file.task.clone(), ..rubric }));
    }
    Ok(all)
}

/// Folders of the set that shards write to.
const FOLDERS: [&str; 7] = ["train", "eval", "test", "made", "dropped", "verdicts", "decontamination"];

/// Removes what a killed run left half written under a temporary name: temporary files in the
/// folders of the set. Failing to remove one harms no reader, so nothing is said.
pub(crate) fn sweep(out: &Path, files: &[OutputFile]) {
    let named: HashSet<PathBuf> = files.iter().map(|file| out.join(&file.path)).collect();
    let mut open: Vec<PathBuf> = FOLDERS.iter().map(|folder| out.join(folder)).collect();
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if !named.contains(&path) && is_temporary(&path) {
                std::fs::remove_file(&path).ok();
            }
        }
    }
}

/// A name that atomic writing gives; a person's own files stay.
fn is_temporary(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    name.starts_with('.') && name.ends_with(".tmp")
}

fn unwritten(path: &Path, error: &std::io::Error) -> OptionFault {
    OptionFault::new("curriculum", format!("{}: {error}", path.display()), "make room or name another `out`")
}

/// Draws the sample that people check, if a compliance section asks for it.
pub(crate) fn review(plan: &Plan<'_>, mapped: &Mapped, decided: &Decided) -> Result<(), CurateError> {
    let Some(options) = &plan.config.compliance else {
        return Ok(());
    };
    let mut sampler = Sampler::new(options.plan.seed, usize::try_from(options.plan.manual).unwrap_or(usize::MAX));
    let left = (0..decided.dropped.len() as u32).filter(|row| !decided.dropped[*row as usize]);
    let mut rows = 0;
    left.for_each(|row| {
        rows += 1;
        sampler.offer(u64::from(row), || row);
    });
    let paths = files(plan, mapped.shards.len(), "arrow");
    let mut stored = Rows::new(&paths, &decided.starts);
    let mut items = Vec::new();
    for (_, row) in sampler.finish() {
        let (shard, _) = stored.place(row);
        let source = &plan.config.source[plan.inputs[mapped.shards[shard].input].source];
        let (batch, index) = stored.get(row)?;
        items.push(Item::new(&batch.row(index), &source.name));
    }
    let sheet = Sheet::new(options.plan.clone(), rows, items);
    let bytes = serde_json::to_vec_pretty(&sheet).unwrap_or_default();
    write_atomic(&plan.config.out.join(SHEET), &bytes)?;
    Ok(())
}
