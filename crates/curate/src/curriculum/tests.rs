//! Stages from easy to hard, replay, competence, the artefact on disk, checks that fail.

use loar_text::{Body, Conversation, Message};
use proptest::prelude::*;
use serde_json::Map;

use super::*;
use crate::batch::BatchBuilder;
use crate::models::Scorer;

fn rows(n: u64) -> Vec<Features> {
    (0..n)
        .map(|row| Features {
            row,
            kind: (row % 5) as u16,
            cjk: row % 2 == 0,
            tokens: 100 + (row * 37 % 100) as u32,
            steps: (row * 37 % 100) as u32 / 10,
            constraints: (row * 37 % 100) as u32 / 25,
            ifd: None,
        })
        .collect()
}

fn made(rows: &[Features], options: &Options) -> Schedule {
    schedule(rows, options, |at| format!("set.jsonl:{}", at + 1)).unwrap()
}

#[test]
fn stages_go_from_easy_to_hard_and_hold_all_checks() {
    let rows = rows(2000);
    let schedule = made(&rows, &Options::default());
    let report = &schedule.report;
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    assert!(report.correlation >= 0.9, "{}", report.correlation);
    for pair in report.stages.windows(2) {
        assert!(pair[1].difficulty > pair[0].difficulty, "{pair:?}");
    }
    // every row is new exactly once
    let new: usize = report.stages.iter().map(|s| s.rows - s.replayed).sum();
    assert_eq!(new, rows.len());
    // the second stage has half of the first again
    let share = report.stages[1].replayed as f64 / report.stages[0].rows as f64;
    assert!((share - 0.5).abs() < 0.06, "{share}");
    assert_eq!(schedule, made(&rows, &Options::default()));
    assert_ne!(schedule.entries, made(&rows, &Options { seed: 1, ..Options::default() }).entries);
}

#[test]
fn competence_grows_and_every_row_is_seen() {
    let rows = rows(1000);
    let schedule = made(&rows, &Options { pacing: Pacing::Competence, ..Options::default() });
    let names: BTreeSet<&str> = schedule.entries.iter().map(|e| e.row.as_str()).collect();
    assert_eq!(names.len(), rows.len());
    let stages = &schedule.report.stages;
    assert!(stages[0].difficulty < stages[3].difficulty);
}

#[test]
fn the_file_reads_back_line_by_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("schedule.jsonl");
    let schedule = made(&rows(40), &Options { stages: 2, ..Options::default() });
    schedule.write(&path).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let back: Vec<Entry> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(back, schedule.entries);
    assert!(text.starts_with(r#"{"stage":1,"row":"set.jsonl:"#), "{text}");
}

#[test]
fn broken_promises_are_told() {
    // a rare type that fits into one stage only
    let mut rows = rows(100);
    rows.iter_mut().for_each(|r| r.kind = 0);
    rows[3].kind = 9;
    let report = made(&rows, &Options { replay: 0.0, least_coverage: 1.0, ..Options::default() }).report;
    assert_eq!(report.failed.len(), 3, "{:?}", report.failed);
    let faults = Options { stages: 0, replay: 2.0, start: 0.0, ..Options::default() }.check().unwrap_err();
    assert_eq!(faults.len(), 3);
}

/// Foresees answers that the request holds.
struct Copier;

impl Scorer for Copier {
    fn losses(&self, asked: &[(&str, &str)]) -> Vec<Option<f64>> {
        asked.iter().map(|(prompt, answer)| Some(if prompt.contains(answer) { 0.2 } else { 2.0 })).collect()
    }
}

#[test]
fn a_scorer_tells_copying_from_knowing() {
    let mut builder = BatchBuilder::new();
    for (at, (question, answer)) in [("say abc", "abc"), ("say it", "xyz")].into_iter().enumerate() {
        let messages = vec![Message::user(question), Message::assistant(answer)];
        let body = Body::Chat(Conversation { messages, ..Conversation::default() });
        builder.push(at as u64, 0, 1, &body, &Map::new());
    }
    let batch = builder.finish();
    let scored = ifd(&batch.rows().collect::<Vec<_>>(), &Copier);
    assert!((scored[0].unwrap() - 0.1).abs() < 1e-12 && (scored[1].unwrap() - 1.0).abs() < 1e-12);
    let rows: Vec<Features> = (0..2).map(|at| features(&batch.row(at), 0, scored[at])).collect();
    let schedule = made(&rows, &Options { stages: 2, replay: 0.0, ..Options::default() });
    assert!(schedule.difficulty[0] < schedule.difficulty[1]);
    assert!(schedule.report.measures.iter().any(|m| m.starts_with("IFD")));
}

proptest! {
    /// Any rows: none is lost, weights are chances, stages stand in order.
    #[test]
    fn no_row_is_lost(
        shapes in prop::collection::vec((0u16..4, any::<bool>(), 1u32..500, 0u32..9), 1..80),
        stages in 1usize..6,
        competence in any::<bool>(),
    ) {
        let rows: Vec<Features> = shapes.iter().enumerate().map(|(at, (kind, cjk, tokens, steps))| Features {
            row: at as u64, kind: *kind, cjk: *cjk, tokens: *tokens, steps: *steps, constraints: 0, ifd: None,
        }).collect();
        let pacing = if competence { Pacing::Competence } else { Pacing::Replay };
        let schedule = made(&rows, &Options { stages, pacing, ..Options::default() });
        let names: BTreeSet<&str> = schedule.entries.iter().map(|e| e.row.as_str()).collect();
        prop_assert_eq!(names.len(), rows.len());
        prop_assert!(schedule.entries.windows(2).all(|p| p[0].stage <= p[1].stage));
        prop_assert!(schedule.entries.iter().all(|e| e.weight > 0.0 && e.weight <= 1.0));
        prop_assert!(schedule.difficulty.iter().all(|d| (0.0..=1.0).contains(d)));
    }
}
