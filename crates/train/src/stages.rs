//! The stages of a curriculum: `schedule.jsonl` → which rows each stage takes.
//!
//! Each line names a stage and a row as `file:line` (`{"stage": 1, "row": "train.jsonl:17"}`; the
//! folder may be left out), drawn once where the schedule was made. The order of lines within a
//! stage is not kept: training shuffles inside stages. Rows that were held out or dropped are told,
//! rows of no data file are faults.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;

use crate::TrainError;
use crate::error::SHOWN;
use crate::observer::{Event, Observer};
use crate::pack::Row;

#[derive(Deserialize)]
struct Line {
    stage: usize,
    row: String,
}

/// Highest stage that is believed.
const MOST_STAGES: usize = 10_000;

/// `file:line` of a row id without its folder and turn.
fn short(id: &str) -> &str {
    let base = id.rsplit('/').next().unwrap_or(id);
    base.split('#').next().unwrap_or(base)
}

/// Reads the stages of `rows`; `files` are the data files.
///
/// # Errors
/// [`TrainError::Io`]; [`TrainError::Schedule`] with every line that names no row of the data.
pub(crate) fn read(
    path: &Path,
    rows: &[Row],
    files: &[String],
    observer: &mut dyn Observer,
) -> Result<Vec<Vec<usize>>, TrainError> {
    let text = std::fs::read_to_string(path).map_err(TrainError::io(path))?;
    let mut by_name: HashMap<&str, Vec<usize>> = HashMap::new();
    for (at, row) in rows.iter().enumerate() {
        by_name.entry(short(&row.id)).or_default().push(at);
        let whole = row.id.split('#').next().unwrap_or(&row.id);
        if whole != short(&row.id) {
            by_name.entry(whole).or_default().push(at);
        }
    }
    let file_of = |name: &str| name.rsplit_once(':').map_or(name, |(file, _)| file).to_owned();
    let (mut stages, mut faults, mut absent) = (Vec::<Vec<usize>>::new(), Vec::new(), 0usize);
    let mut scheduled = vec![false; rows.len()];
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let place = format!("{}:{}", path.display(), number + 1);
        let Line { stage, row } = match serde_json::from_str(line) {
            Ok(line) => line,
            Err(error) => {
                faults.push(format!("{place}: {error}; a line is {{\"stage\": 1, \"row\": \"file:line\"}}"));
                continue;
            }
        };
        if !(1..=MOST_STAGES).contains(&stage) {
            faults.push(format!("{place}: stage {stage}; stages are 1 to {MOST_STAGES}"));
            continue;
        }
        match by_name.get(row.as_str()) {
            Some(found) => {
                let whole = |at: &usize| rows[*at].id.split('#').next().unwrap_or_default();
                if found.iter().any(|at| whole(at) != whole(&found[0])) {
                    faults.push(format!("{place}: `{row}` is in several files; write its folder too"));
                    continue;
                }
                if stages.len() < stage {
                    stages.resize(stage, Vec::new());
                }
                stages[stage - 1].extend(found);
                found.iter().for_each(|at| scheduled[*at] = true);
            }
            None if files.iter().any(|f| *f == file_of(&row) || f.ends_with(&format!("/{}", file_of(&row)))) => {
                absent += 1
            }
            None => faults.push(format!("{place}: `{row}` is of no file of `data.train`")),
        }
    }
    stages.retain(|stage| !stage.is_empty());
    if stages.is_empty() && faults.is_empty() {
        faults.push(format!("{}: names no training row", path.display()));
    }
    if !faults.is_empty() {
        let total = faults.len();
        faults.truncate(SHOWN);
        return Err(TrainError::Schedule { shown: faults, total });
    }
    let left_out = scheduled.iter().filter(|s| !**s).count();
    if absent + left_out > 0 {
        let message = format!(
            "schedule: {absent} lines name rows that were held out or dropped, {left_out} training rows are in no stage"
        );
        observer.on(&Event::Warning { message });
    }
    for stage in &mut stages {
        // the order of lines must not matter
        stage.sort_unstable();
    }
    Ok(stages)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str) -> Row {
        Row { id: id.into(), ids: vec![1, 2], train: vec![false, true] }
    }

    fn stages(text: &str) -> (Result<Vec<Vec<usize>>, TrainError>, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("schedule.jsonl");
        std::fs::write(&path, text).unwrap();
        let rows =
            [row("d/a.jsonl:1"), row("d/a.jsonl:2#1"), row("d/a.jsonl:2#3"), row("d/b.jsonl:1"), row("e/b.jsonl:1")];
        let files = ["d/a.jsonl", "d/b.jsonl", "e/b.jsonl"].map(String::from);
        let mut said = Vec::new();
        let read = read(&path, &rows, &files, &mut |e: &Event| {
            if let Event::Warning { message } = e {
                said.push(message.clone());
            }
        });
        (read, said)
    }

    #[test]
    fn rows_are_found_by_name_with_all_their_turns() {
        let (read, said) = stages(
            "{\"stage\":2,\"row\":\"a.jsonl:2\",\"weight\":1.0}\n{\"stage\":1,\"row\":\"a.jsonl:1\"}\n\n{\"stage\":2,\"row\":\"d/b.jsonl:1\"}\n{\"stage\":2,\"row\":\"a.jsonl:9\"}\n",
        );
        assert_eq!(read.unwrap(), [vec![0], vec![1, 2, 3]]);
        assert!(said[0].contains("1 lines") && said[0].contains("1 training rows"), "{said:?}");
    }

    #[test]
    fn every_bad_line_is_named() {
        let (read, _) = stages(
            "{\"stage\":0,\"row\":\"a.jsonl:1\"}\n{\"stage\":1,\"row\":\"z.jsonl:1\"}\nno\n{\"stage\":1,\"row\":\"b.jsonl:1\"}\n",
        );
        let Err(TrainError::Schedule { shown, total: 4 }) = read else { panic!("four faults") };
        for (line, fault) in shown.iter().enumerate() {
            assert!(fault.contains(&format!("schedule.jsonl:{}: ", line + 1)), "{fault}");
        }
        assert!(matches!(stages("").0, Err(TrainError::Schedule { .. })));
    }
}
