//! Second pass: what only all rows together can tell. Reads keys, and of the text only rows that
//! share one. A kept row costs some tens of bytes here, whatever its length.

use std::sync::Arc;

use arrow_array::{BooleanArray, Float64Array};
use arrow_schema::{DataType, Field};
use loar_kernels::Pool;
use serde_json::Value;

use super::map::{Mapped, files};
use super::{Control, CurateError, KEY_BUDGET, Plan, Progress, score};
use crate::batch::Batch;
use crate::dataset::{Duplicates, StageCount};
use crate::dedup::Conflicts;
use crate::dedup::cluster::{Alike, Clusters, Stored};
use crate::embedding;
use crate::operator::Action;
use crate::options::OptionFault;
use crate::select::{self, IFD, Selector};
use crate::semantic::{self, Same};
use crate::shard::{read_keys, read_rows};
use crate::split::{Part, split};

/// Column of the key files that holds line numbers.
pub(crate) const LINE: usize = 0;
/// First column of the keys that repetitions are found by.
const DEDUP: usize = 1;

/// A row that repeats another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Repeat {
    pub row: u32,
    /// The row it is most like, of those it was compared with.
    pub of: u32,
    /// The first row of its cluster.
    pub first: u32,
    pub jaccard: f64,
}

/// What becomes of every row that went through the stages.
pub(crate) struct Decided {
    /// First kept row of each shard and, last, of all.
    pub starts: Vec<u32>,
    /// The part of every kept row; dropped rows have one too and are left out.
    pub parts: Vec<Part>,
    pub dropped: Vec<bool>,
    /// By row.
    pub repeats: Vec<Repeat>,
    /// (row, the earlier row that asks the same and is answered otherwise), by row.
    pub conflicts: Vec<(u32, u32)>,
    /// Rows that mean what an earlier one means, by row.
    pub same_meaning: Vec<Same>,
    /// Rows left out by selection, by row.
    pub unselected: Vec<u32>,
    pub stages: Vec<StageCount>,
    pub duplicates: Duplicates,
    /// How rows were selected, if they were.
    pub selection: Option<Value>,
    /// How rows of the same meaning were found, if they were looked for.
    pub semantic: Option<semantic::Report>,
    /// What the scorer said of every row; empty when it was not asked.
    pub ifd: Vec<Option<f64>>,
}

impl Decided {
    /// Rows of the training part that are left.
    pub fn trained(&self) -> Vec<bool> {
        self.dropped.iter().zip(&self.parts).map(|(dropped, part)| !dropped && *part == Part::Train).collect()
    }
}

pub(crate) fn run(plan: &Plan<'_>, mapped: &Mapped, control: &Control<'_>) -> Result<Decided, CurateError> {
    let shards = mapped.shards.len();
    let (key_files, row_files) = (files(plan, shards, "keys"), files(plan, shards, "arrow"));
    let mut starts = vec![0_u32];
    for shard in &mapped.shards {
        starts.push(starts.last().unwrap_or(&0) + shard.kept);
    }
    let rows = *starts.last().unwrap_or(&0) as usize;
    let stored = Stored { keys: &key_files, rows: &row_files, starts: &starts };
    let group = DEDUP + 1 + plan.dedup.bands();
    let held_out = plan.config.split.any();
    let of = group + if held_out { 1 + plan.groups.bands() } else { 0 };
    let step = |clusters: &mut Clusters, keys, column, threshold| -> Result<(), CurateError> {
        if control.stopped() {
            return Err(CurateError::Stopped { finished: shards });
        }
        clusters.join_alike(stored, column..column + 1, keys, threshold, KEY_BUDGET, control.threads)?;
        (control.progress)(Progress::Compare { done: column + 1, of });
        Ok(())
    };
    let mut clusters = Clusters::new(rows);
    for column in DEDUP..group {
        step(&mut clusters, &plan.dedup, column, plan.config.dedup.similarity)?;
    }
    let mut decided = Decided {
        parts: vec![Part::Train; rows],
        dropped: vec![false; rows],
        repeats: repeats(&mut clusters),
        conflicts: Vec::new(),
        unselected: Vec::new(),
        stages: Vec::new(),
        duplicates: Duplicates { compared: clusters.compared, ..Duplicates::default() },
        starts: starts.clone(),
        selection: None,
        ifd: Vec::new(),
        semantic: None,
        same_meaning: Vec::new(),
    };
    count_repeats(plan, &mut decided);

    let mut keys = Vec::with_capacity(rows);
    for (shard, path) in key_files.iter().enumerate() {
        keys.extend(read_keys(path, mapped.shards[shard].kept as usize, DEDUP)?);
    }
    let mut same = Clusters::new(rows);
    same.join_equal(stored, group, KEY_BUDGET)?;
    find_conflicts(plan, &same, &keys, &mut decided);
    drop(same);
    let vector_files = files(plan, shards, "vectors");
    let vectors = plan.config.encoder.as_ref().map(|_| embedding::Stored::open(&vector_files, &starts)).transpose()?;
    if let (Some(options), Some(vectors)) = (&plan.config.semantic, &vectors) {
        (control.progress)(Progress::Compare { done: group, of });
        compare_meaning(vectors, options, control.threads, &mut decided)?;
        // What is only noted must not lie on both sides of a split.
        for same in &decided.same_meaning {
            clusters.join(same.row, same.of);
        }
    }
    if let Some(options) = &plan.config.select {
        if let (Some(IFD), Some(scorer)) = (options.score.as_deref(), &plan.scorer) {
            let left: Vec<bool> = decided.dropped.iter().map(|dropped| !dropped).collect();
            decided.ifd = score::run(plan, mapped, &**scorer, &left, control)?;
        }
        choose(stored, vectors.as_ref(), options, &mut decided)?;
    }

    if held_out {
        let mut groups = clusters;
        for column in group..of {
            step(&mut groups, &plan.groups, column, plan.config.split.similarity)?;
        }
        let left: Vec<u32> = (0..rows as u32).filter(|row| !decided.dropped[*row as usize]).collect();
        // Groups are named by their first row that is left.
        let mut name = vec![u32::MAX; rows];
        let named: Vec<u32> = (0_u32..)
            .zip(&left)
            .map(|(at, row)| {
                let name = &mut name[groups.first(*row) as usize];
                *name = (*name).min(at);
                *name
            })
            .collect();
        let keys: Vec<u64> = left.iter().map(|row| keys[*row as usize]).collect();
        let parts = split(&named, &keys, &plan.config.split, plan.config.seed);
        for (row, part) in left.into_iter().zip(parts) {
            decided.parts[row as usize] = part;
        }
    }
    Ok(decided)
}

/// Every row that is not the first of its cluster, with the comparison that says so best.
fn repeats(clusters: &mut Clusters) -> Vec<Repeat> {
    let joined = std::mem::take(&mut clusters.joined);
    let both = |pair: Alike| [(pair.row, pair.of, pair.jaccard), (pair.of, pair.row, pair.jaccard)];
    let mut told: Vec<Repeat> = joined
        .into_iter()
        .flat_map(both)
        .map(|(row, of, jaccard)| Repeat { row, of, first: clusters.first(row), jaccard })
        .filter(|repeat| repeat.first != repeat.row)
        .collect();
    told.sort_unstable_by(|a, b| a.row.cmp(&b.row).then(b.jaccard.total_cmp(&a.jaccard)).then(a.of.cmp(&b.of)));
    told.dedup_by_key(|repeat| repeat.row);
    told
}

fn count_repeats(plan: &Plan<'_>, decided: &mut Decided) {
    let action = if plan.config.dedup.drop { Action::Drop } else { Action::Note };
    let mut count = StageCount::new("dedup", 1, decided.dropped.len() as u64);
    let found = &mut decided.duplicates;
    let mut firsts: Vec<u32> = Vec::with_capacity(decided.repeats.len());
    for repeat in &decided.repeats {
        count.finding(repeat.rule(), action);
        *(if repeat.jaccard == 1.0 { &mut found.exact } else { &mut found.near }) += 1;
        decided.dropped[repeat.row as usize] = action == Action::Drop;
        firsts.push(repeat.first);
    }
    *(if action == Action::Drop { &mut count.dropped } else { &mut count.noted }) += decided.repeats.len() as u64;
    firsts.sort_unstable();
    for cluster in firsts.chunk_by(|one, other| one == other) {
        found.cluster(cluster.len() as u64 + 1);
    }
    decided.stages.push(count);
}

impl Repeat {
    /// `exact` or `near`.
    pub fn rule(&self) -> &'static str {
        if self.jaccard == 1.0 { "exact" } else { "near" }
    }
}

/// Rows that are left, ask the same and answer otherwise: a detector of label noise.
fn find_conflicts(plan: &Plan<'_>, same: &Clusters, keys: &[u64], decided: &mut Decided) {
    let action = if plan.config.dedup.conflicts == Conflicts::Drop { Action::Drop } else { Action::Note };
    let seen = decided.dropped.iter().filter(|dropped| !**dropped).count() as u64;
    let mut count = StageCount::new("conflicts", 1, seen);
    let mut first_left = vec![u32::MAX; keys.len()];
    for row in (0..keys.len() as u32).filter(|row| !decided.dropped[*row as usize]).collect::<Vec<_>>() {
        let first = &mut first_left[same.first(row) as usize];
        if *first == u32::MAX {
            *first = row;
        } else if keys[*first as usize] != keys[row as usize] {
            decided.conflicts.push((row, *first));
            count.finding("same-request", action);
            decided.dropped[row as usize] = action == Action::Drop;
        }
    }
    *(if action == Action::Drop { &mut count.dropped } else { &mut count.noted }) += decided.conflicts.len() as u64;
    decided.duplicates.conflicts = decided.conflicts.len() as u64;
    decided.stages.push(count);
}

/// Drops, or notes, rows that mean what an earlier one means.
fn compare_meaning(
    vectors: &embedding::Stored<'_>,
    options: &semantic::Options,
    threads: usize,
    decided: &mut Decided,
) -> Result<(), CurateError> {
    let action = if options.drop { Action::Drop } else { Action::Note };
    let left: Vec<u32> = (0..decided.dropped.len() as u32).filter(|row| !decided.dropped[*row as usize]).collect();
    let mut count = StageCount::new("semantic", 1, left.len() as u64);
    let pool = Pool::new(threads);
    let (found, report) = semantic::find(&left, vectors.dimensions, options, &pool, |rows| vectors.read(rows))?;
    for same in &found {
        count.finding("same-meaning", action);
        decided.dropped[same.row as usize] = options.drop;
    }
    *(if options.drop { &mut count.dropped } else { &mut count.noted }) += found.len() as u64;
    (decided.same_meaning, decided.semantic) = (found, Some(report));
    decided.stages.push(count);
    Ok(())
}

/// Drops the rows that a diverse choice within the budget leaves.
fn choose(
    stored: Stored<'_>,
    vectors: Option<&embedding::Stored<'_>>,
    options: &select::Options,
    decided: &mut Decided,
) -> Result<(), CurateError> {
    let first = |mut faults: Vec<OptionFault>| CurateError::Stage(faults.swap_remove(0));
    let mut selector = Selector::new(options.clone(), None).map_err(first)?;
    let left = decided.dropped.iter().filter(|dropped| !**dropped).count() as u64;
    let mut count = StageCount::new("select", 1, left);
    let mut at = 0;
    // Numbers over all input of kept rows rise with their index.
    let mut numbers = Vec::with_capacity(decided.dropped.len());
    for path in stored.rows {
        for batch in read_rows(path)? {
            numbers.extend(batch.rows().map(|row| row.number()));
            let batch = match vectors {
                Some(vectors) => {
                    let rows: Vec<u32> = (at as u32..(at + batch.len()) as u32).collect();
                    batch.with_columns(vec![embedding::field(vectors.read(&rows)?, vectors.dimensions)])
                }
                None => batch,
            };
            let keep: BooleanArray =
                decided.dropped[at..at + batch.len()].iter().map(|dropped| Some(!dropped)).collect();
            let scored = decided.ifd.get(at..at + batch.len()).map(|values| with_ifd(&batch, values));
            at += batch.len();
            selector.add(&scored.as_ref().unwrap_or(&batch).filter(&keep)).map_err(CurateError::Stage)?;
        }
    }
    let selection = selector.finish();
    let mut taken: Vec<u64> = selection.rows.iter().map(|row| row.row).collect();
    taken.sort_unstable();
    for (row, number) in numbers.iter().enumerate() {
        if !decided.dropped[row] && taken.binary_search(number).is_err() {
            decided.dropped[row] = true;
            decided.unselected.push(row as u32);
            count.finding("not-selected", Action::Drop);
            count.dropped += 1;
        }
    }
    decided.selection = serde_json::to_value(&selection.report).ok();
    decided.stages.push(count);
    Ok(())
}

/// The batch with the column that `score = "ifd"` asks for. A request that hinders its answer has no
/// value.
fn with_ifd(batch: &Batch, values: &[Option<f64>]) -> Batch {
    let column: Float64Array = values.iter().map(|value| value.filter(|ifd| *ifd <= 1.0)).collect();
    let field = Arc::new(Field::new(IFD, DataType::Float64, true));
    batch.clone().with_columns(vec![(field, Arc::new(column))])
}
