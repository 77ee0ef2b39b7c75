//! What a model says of rows: the instruction-following difficulty of every row that is left, for
//! selection and curriculum. A row costs seconds, not microseconds, so every value is kept in the
//! work folder as soon as it is known, one line a row, and a run that was stopped or killed asks the
//! model only for the rest. Values do not depend on which rows were asked together.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use loar_artifact::ArtifactError;
use serde::{Deserialize, Serialize};

use super::map::{Mapped, files};
use super::{Control, CurateError, Plan, Progress};
use crate::batch::Row;
use crate::curriculum::ifd;
use crate::models::Scorer;
use crate::options::OptionFault;
use crate::shard::{ShardError, read_rows};

/// Rows that go to the scorer at once: enough to batch by length, few enough to lose little.
const TOGETHER: usize = 32;

/// One line of a shard's file of scores.
#[derive(Serialize, Deserialize)]
struct Line {
    /// Index among the shard's kept rows.
    row: u32,
    ifd: Option<f64>,
}

/// The IFD of every kept row that `wanted` names by its index; `None` for the others, and for rows
/// of which the model gives no loss.
pub(crate) fn run(
    plan: &Plan<'_>,
    mapped: &Mapped,
    scorer: &dyn Scorer,
    wanted: &[bool],
    control: &Control<'_>,
) -> Result<Vec<Option<f64>>, CurateError> {
    let mut all = vec![None; wanted.len()];
    let of = wanted.iter().filter(|wanted| **wanted).count();
    let (mut start, mut done) = (0, 0);
    for (shard, rows) in files(plan, mapped.shards.len(), "arrow").iter().enumerate() {
        let path = plan.work_file(shard, "ifd.jsonl");
        let known = known(&path).map_err(|source| ShardError::Read { path: path.clone(), source })?;
        let wrote = |source| ShardError::Write(unwritten(&path, source));
        let mut file = OpenOptions::new().create(true).append(true).open(&path).map_err(wrote)?;
        let batches = read_rows(rows)?;
        let numbered = (0_u32..).zip(batches.iter().flat_map(|batch| batch.rows()));
        let numbered = numbered.filter(|(row, _)| wanted[start + *row as usize]);
        let (have, ask): (Vec<_>, Vec<_>) = numbered.partition(|(row, _)| known.contains_key(row));
        have.iter().for_each(|(row, _)| all[start + *row as usize] = known[row]);
        done += have.len();
        for chunk in ask.chunks(TOGETHER) {
            if control.stopped() {
                return Err(CurateError::Stopped { finished: mapped.shards.len() });
            }
            let rows: Vec<Row<'_>> = chunk.iter().map(|(_, row)| *row).collect();
            let values = ifd(&rows, scorer);
            append(&mut file, chunk.iter().map(|(row, _)| *row).zip(&values)).map_err(wrote)?;
            for ((row, _), value) in chunk.iter().zip(values) {
                all[start + *row as usize] = value;
            }
            done += chunk.len();
            (control.progress)(Progress::Score { done, of });
        }
        start += mapped.shards[shard].kept as usize;
    }
    if of > 0 && all.iter().all(Option::is_none) {
        let found = format!(
            "{} gave no finite loss for any of {of} rows",
            plan.config.scorer.as_ref().map_or("the model".into(), |options| options.model.display().to_string())
        );
        return Err(CurateError::Stage(OptionFault::new(
            "scorer.model",
            found,
            "check the model with `loar generate`",
        )));
    }
    Ok(all)
}

fn append<'a>(file: &mut File, values: impl Iterator<Item = (u32, &'a Option<f64>)>) -> io::Result<()> {
    let mut lines = Vec::new();
    for (row, ifd) in values {
        serde_json::to_writer(&mut lines, &Line { row, ifd: *ifd })?;
        lines.push(b'\n');
    }
    file.write_all(&lines)?;
    file.sync_data()
}

/// As [`loar_artifact::write_atomic`] says it; what was scored before stays.
fn unwritten(path: &Path, source: io::Error) -> ArtifactError {
    let preserved = "what was scored before is kept".to_owned();
    let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded, io::ErrorKind::FileTooLarge];
    let path = path.to_owned();
    if full.contains(&source.kind()) {
        ArtifactError::NoSpace { path, preserved, source }
    } else {
        ArtifactError::Write { path, preserved, source }
    }
}

/// Values of an earlier run. A line that a kill cut off is taken away, so that the next begins
/// whole.
fn known(path: &Path) -> io::Result<HashMap<u32, Option<f64>>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(HashMap::new()),
        Err(error) => return Err(error),
    };
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    if whole < bytes.len() {
        OpenOptions::new().write(true).open(path)?.set_len(whole as u64)?;
    }
    let lines = bytes[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice::<Line>(line).map(|l| (l.row, l.ifd)).map_err(io::Error::from)).collect()
}
