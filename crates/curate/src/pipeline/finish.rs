//! What is made from the written set: the schedule that training follows, and the sheet that
//! people check a sample on.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use loar_artifact::write_atomic;
use serde_json::Value;

use super::global::Decided;
use super::map::{Mapped, files};
use super::write::{Lesson, Written};
use super::{CurateError, Plan};
use crate::compliance::{Item, Sampler, Sheet};
use crate::curriculum::{Features, schedule};
use crate::dataset::OutputFile;
use crate::shard::Rows;

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
            ifd: None,
        })
        .collect();
    let name = |at: usize| format!("{}:{}", lessons[at].0.file, lessons[at].1);
    let made = schedule(&features, options, name).map_err(|mut faults| CurateError::Stage(faults.swap_remove(0)))?;
    let path = plan.config.out.join(SCHEDULE);
    made.write(&path).map_err(|error| CurateError::Stage(unwritten(&path, &error)))?;
    Ok(serde_json::to_value(&made.report).ok())
}

/// Folders of the set that shards write to.
const FOLDERS: [&str; 6] = ["train", "eval", "test", "made", "dropped", "verdicts"];

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

fn unwritten(path: &Path, error: &std::io::Error) -> crate::OptionFault {
    crate::OptionFault::new("curriculum", format!("{}: {error}", path.display()), "make room or name another `out`")
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
