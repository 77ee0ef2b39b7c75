//! Orders rows from easy to hard and writes the schedule that training takes.
//!
//! Difficulty is the mean of ranks within language × task type, so that hard never means "long
//! Chinese mathematics": length of the answer, steps in it, constraints of the request, and IFD =
//! loss(answer | request) / loss(answer) where a scorer is given (Li et al., 2024). A prior of the
//! type shifts it. Rows are cut into stages of equal tokens. `replay`: stage k takes bin k whole
//! and bin j < k with chance ρ^(k−j), drawn from (seed, stage, row). `competence`: stage k takes
//! rows up to difficulty λ = √(t(1−λ₀²) + λ₀²), t = k/S (Platanios et al., 2019), each with the
//! chance that keeps stages equally long.

mod features;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;

use loar_kernels::rng::Stream;
use serde::{Deserialize, Serialize};

pub use features::{Features, features, ifd};

use crate::options::OptionFault;

/// Names the use of randomness.
const PURPOSE: u32 = 0xC0_22;

/// How earlier rows come back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pacing {
    /// A stage has its own rows and some of every earlier stage.
    #[default]
    Replay,
    /// A stage draws from all rows that the competence so far allows.
    Competence,
}

/// Options of `curriculum`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Number of stages. Default 4.
    pub stages: usize,
    /// Default `replay`.
    pub pacing: Pacing,
    /// ρ: chance of a row one stage later. Default 0.5; 0 replays nothing.
    pub replay: f64,
    /// λ₀: share of rows, easiest first, that competence begins with. Default 0.1.
    pub start: f64,
    /// Added to the difficulty (0 to 1) of rows of a task type, by its number. None by default.
    pub prior: BTreeMap<u16, f64>,
    /// Seed of the draws. Default 0.
    pub seed: u64,
    /// Least Spearman correlation of stage and difficulty. Default 0.9.
    pub least_correlation: f64,
    /// Least share of all task types in every stage. Default 0.8.
    pub least_coverage: f64,
    /// Most tokens of a stage, in mean stages. Default 1.5.
    pub most_tokens: f64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            stages: 4,
            pacing: Pacing::Replay,
            replay: 0.5,
            start: 0.1,
            prior: BTreeMap::new(),
            seed: 0,
            least_correlation: 0.9,
            least_coverage: 0.8,
            most_tokens: 1.5,
        }
    }
}

impl Options {
    /// Looks at every value.
    ///
    /// # Errors
    /// All that are out of their range.
    pub fn check(&self) -> Result<(), Vec<OptionFault>> {
        let mut faults = Vec::new();
        let mut fault = |key: &str, found: String, mend: &str| faults.push(OptionFault::new(key, found, mend));
        if !(1..=1000).contains(&self.stages) {
            fault("stages", self.stages.to_string(), "give 1 to 1000");
        }
        if !(0.0..=1.0).contains(&self.replay) {
            fault("replay", self.replay.to_string(), "give 0 to 1");
        }
        if !(self.start > 0.0 && self.start <= 1.0) {
            fault("start", self.start.to_string(), "give a share above 0 and up to 1");
        }
        if let Some((kind, value)) = self.prior.iter().find(|(_, value)| !value.is_finite()) {
            fault("prior", format!("{kind} = {value}"), "give a finite number");
        }
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }
}

/// One line of `schedule.jsonl`: a row that a stage takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Stage, from 1.
    pub stage: usize,
    /// Name of the row: `file:line` of the written set.
    pub row: String,
    /// Expected number of times, before the draw: 1 for the stage's own rows, less for replay.
    pub weight: f64,
}

/// What a stage holds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StageReport {
    /// From 1.
    pub stage: usize,
    /// Rows.
    pub rows: usize,
    /// Of these, seen in an earlier stage.
    pub replayed: usize,
    /// Expected tokens.
    pub tokens: u64,
    /// Mean difficulty, 0 to 1.
    pub difficulty: f64,
    /// Share of all task types that it holds.
    pub coverage: f64,
}

/// The schedule and whether it is what it promises.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CurriculumReport {
    /// Rows.
    pub rows: usize,
    /// What difficulty was made of.
    pub measures: Vec<String>,
    /// The stages.
    pub stages: Vec<StageReport>,
    /// Spearman correlation of a row's first stage and its difficulty.
    pub correlation: f64,
    /// Checks that failed, in words. Empty when all hold.
    pub failed: Vec<String>,
}

/// A schedule with its report.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// Lines in order of stages, within a stage in order of rows.
    pub entries: Vec<Entry>,
    /// Difficulty of every row, 0 to 1, as given in.
    pub difficulty: Vec<f64>,
    /// The report.
    pub report: CurriculumReport,
}

/// Mean ranks, 0 to 1; equal values share their mean rank. One value alone has 0.5.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.5; values.len()];
    let mut start = 0;
    for run in order.chunk_by(|a, b| values[*a] == values[*b]) {
        let middle = start as f64 + (run.len() - 1) as f64 / 2.0;
        for at in run {
            ranks[*at] = if values.len() > 1 { middle / (values.len() - 1) as f64 } else { 0.5 };
        }
        start += run.len();
    }
    ranks
}

/// Pearson correlation of mean ranks; 1 where one side is constant, as nothing is out of order.
fn spearman(a: &[f64], b: &[f64]) -> f64 {
    let (a, b) = (ranks(a), ranks(b));
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len().max(1) as f64;
    let (ma, mb) = (mean(&a), mean(&b));
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (x, y) in a.iter().zip(&b) {
        ab += (x - ma) * (y - mb);
        aa += (x - ma) * (x - ma);
        bb += (y - mb) * (y - mb);
    }
    if aa == 0.0 || bb == 0.0 { 1.0 } else { ab / (aa * bb).sqrt() }
}

/// Difficulty of every row, 0 to 1.
fn difficulties(rows: &[Features], options: &Options) -> Vec<f64> {
    let mut groups: BTreeMap<(bool, u16), Vec<usize>> = BTreeMap::new();
    rows.iter().enumerate().for_each(|(at, row)| groups.entry((row.cjk, row.kind)).or_default().push(at));
    let mut difficulty = vec![0.0; rows.len()];
    for ((_, kind), members) in groups {
        let mut measures: Vec<Vec<f64>> = vec![
            members.iter().map(|at| f64::from(rows[*at].tokens)).collect(),
            members.iter().map(|at| f64::from(rows[*at].steps)).collect(),
            members.iter().map(|at| f64::from(rows[*at].constraints)).collect(),
        ];
        let scored: Vec<f64> = members.iter().filter_map(|at| rows[*at].ifd).collect();
        if scored.len() == members.len() {
            // the model's own view weighs as much as all others
            measures.extend([scored.clone(), scored.clone(), scored]);
        }
        let ranked: Vec<Vec<f64>> = measures.iter().map(|m| ranks(m)).collect();
        let means: Vec<f64> =
            (0..members.len()).map(|at| ranked.iter().map(|r| r[at]).sum::<f64>() / ranked.len() as f64).collect();
        // ranked again, so that every group spreads over the whole range
        for (at, rank) in members.iter().zip(ranks(&means)) {
            difficulty[*at] = (rank + options.prior.get(&kind).copied().unwrap_or(0.0)).clamp(0.0, 1.0);
        }
    }
    difficulty
}

/// Makes the schedule. `name` gives the name of a row by its index in `rows`.
///
/// # Errors
/// Options out of their range.
pub fn schedule(
    rows: &[Features],
    options: &Options,
    name: impl Fn(usize) -> String,
) -> Result<Schedule, Vec<OptionFault>> {
    options.check()?;
    let difficulty = difficulties(rows, options);
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by(|a, b| difficulty[*a].total_cmp(&difficulty[*b]).then(rows[*a].row.cmp(&rows[*b].row)));
    let total: f64 = rows.iter().map(|r| f64::from(r.tokens)).sum();
    // where each row lies on the line of all tokens, 0 to 1
    let mut place = vec![0.0; rows.len()];
    let mut before = 0.0;
    for at in &order {
        place[*at] = if total > 0.0 { (before + f64::from(rows[*at].tokens) / 2.0) / total } else { 0.0 };
        before += f64::from(rows[*at].tokens);
    }
    let stages = options.stages;
    let bin = |at: usize| ((place[at] * stages as f64) as usize).min(stages - 1);
    let mut entries = Vec::new();
    let mut reports = Vec::new();
    let mut first = vec![usize::MAX; rows.len()];
    let types: BTreeSet<u16> = rows.iter().map(|r| r.kind).collect();
    for stage in 0..stages {
        let t = (stage + 1) as f64 / stages as f64;
        let competence = (t * (1.0 - options.start.powi(2)) + options.start.powi(2)).sqrt().min(1.0);
        let chance = |at: usize| match options.pacing {
            Pacing::Replay => match stage.checked_sub(bin(at)) {
                Some(0) => 1.0,
                Some(ago) => options.replay.powi(ago as i32),
                None => 0.0,
            },
            // as many expected tokens as the easiest share has
            Pacing::Competence if place[at] <= competence => {
                (options.start.max(1.0 / stages as f64) / competence).min(1.0)
            }
            Pacing::Competence => 0.0,
        };
        let stream = Stream::new(options.seed, PURPOSE, stage as u32);
        let mut report =
            StageReport { stage: stage + 1, rows: 0, replayed: 0, tokens: 0, difficulty: 0.0, coverage: 0.0 };
        let mut seen = BTreeSet::new();
        for (at, row) in rows.iter().enumerate() {
            let weight = chance(at);
            // the last stage brings in what competence has never drawn
            let never = stage + 1 == stages && first[at] == usize::MAX && weight > 0.0;
            if weight <= 0.0 || !(never || weight >= 1.0 || f64::from(stream.uniform(row.row)) < weight) {
                continue;
            }
            report.replayed += usize::from(first[at] != usize::MAX);
            first[at] = first[at].min(stage);
            report.rows += 1;
            report.tokens += u64::from(row.tokens);
            report.difficulty += difficulty[at];
            seen.insert(row.kind);
            entries.push(Entry { stage: stage + 1, row: name(at), weight });
        }
        report.difficulty /= report.rows.max(1) as f64;
        report.coverage = if types.is_empty() { 1.0 } else { seen.len() as f64 / types.len() as f64 };
        reports.push(report);
    }
    let stage_of: Vec<f64> = first.iter().map(|s| *s as f64).collect();
    let correlation = spearman(&stage_of, &difficulty);
    let mean = reports.iter().map(|r| r.tokens as f64).sum::<f64>() / stages as f64;
    let mut failed = Vec::new();
    if options.pacing == Pacing::Replay && stages > 1 && correlation < options.least_correlation {
        failed
            .push(format!("Spearman(stage, difficulty) is {correlation:.3}, asked for {}", options.least_correlation));
    }
    for report in &reports {
        let stage = report.stage;
        if report.coverage < options.least_coverage {
            failed.push(format!(
                "stage {stage} holds {:.0} % of the task types, asked for {:.0} %",
                100.0 * report.coverage,
                100.0 * options.least_coverage
            ));
        }
        if report.tokens as f64 > options.most_tokens * mean {
            failed.push(format!(
                "stage {stage} has {:.2} times the mean tokens, at most {}",
                report.tokens as f64 / mean,
                options.most_tokens
            ));
        }
    }
    let mut measures = vec!["answer length".to_owned(), "steps".to_owned(), "constraints".to_owned()];
    let scored = rows.iter().filter(|r| r.ifd.is_some()).count();
    if scored > 0 {
        measures.push(format!("IFD of {scored} of {} rows, weight 3 within groups where all have one", rows.len()));
    }
    let report = CurriculumReport { rows: rows.len(), measures, stages: reports, correlation, failed };
    Ok(Schedule { entries, difficulty, report })
}

impl Schedule {
    /// Writes `schedule.jsonl`, whole or not at all.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        let mut lines = Vec::new();
        for entry in &self.entries {
            serde_json::to_writer(&mut lines, entry)?;
            lines.write_all(b"\n")?;
        }
        loar_artifact::write_atomic(path, &lines).map_err(std::io::Error::other)
    }
}

#[cfg(test)]
mod tests;
