//! Near-duplicates, quotas, order, the search at scale, and wrong options.

use loar_text::{Body, Conversation, Message};
use proptest::prelude::*;
use serde_json::Map;

use super::*;
use crate::batch::BatchBuilder;

fn unit(values: &[f32]) -> Vec<f32> {
    let mut v = values.to_vec();
    normalise(&mut v);
    v
}

fn pick(options: &Options, candidates: Vec<Candidate>) -> Selection {
    let mut pool = Pool::new(options.budget * options.pool, options.floor * 4);
    let rows = candidates.len() as u64;
    for c in candidates {
        if pool.takes(c.score, c.row, c.kind) {
            pool.offer(c);
        }
    }
    greedy::select(pool.finish(), options, rows, "test".into(), "test".into())
}

fn candidate(row: u64, score: f32, kind: u16, vector: &[f32]) -> Candidate {
    Candidate { row, score, kind, vector: unit(vector) }
}

#[test]
fn the_better_of_two_alike_is_taken_and_the_quota_of_types_holds() {
    let options = Options { budget: 4, tau: 0.9, floor: 1, max_share: 0.5, ..Options::default() };
    let selection = pick(
        &options,
        vec![
            candidate(0, 9.0, 1, &[1.0, 0.0, 0.0, 0.0]),
            candidate(1, 8.0, 1, &[1.0, 0.01, 0.0, 0.0]), // too near to 0
            candidate(2, 7.0, 1, &[0.0, 1.0, 0.0, 0.0]),
            candidate(3, 6.0, 1, &[0.0, 0.0, 1.0, 0.0]), // type 1 is full
            candidate(4, 0.5, 2, &[0.0, 0.0, 0.0, 1.0]), // low, but its type's only one
        ],
    );
    let rows: Vec<u64> = selection.rows.iter().map(|s| s.row).collect();
    assert_eq!(rows, [0, 4, 2]);
    let report = &selection.report;
    assert_eq!((report.too_near, report.type_full, report.for_floors), (1, 1, 2));
    assert_eq!(report.types, BTreeMap::from([(1, 2), (2, 1)]));
    assert!((report.facility_location.unwrap() - 0.8).abs() < 0.01 && (report.radius.unwrap() - 1.0).abs() < 1e-6);
}

use std::collections::BTreeMap;

#[test]
fn rare_types_survive_a_flood_of_better_rows() {
    let options = Options { budget: 10, pool: 1, floor: 2, max_share: 1.0, ..Options::default() };
    let mut all: Vec<Candidate> = (0..500)
        .map(|n| candidate(n, 5.0 + n as f32, 1, &[(n as f32).sin(), (n as f32).cos(), (n as f32 * 1.7).sin(), 1.0]))
        .collect();
    all.insert(0, candidate(900, 0.1, 7, &[0.0, 0.0, 0.0, -1.0]));
    let selection = pick(&Options { tau: 1.0, ..options }, all);
    assert!(selection.rows.iter().any(|s| s.row == 900));
    assert_eq!(selection.report.taken, 10);
}

#[test]
fn many_vectors_go_through_hyperplanes_and_near_ones_are_still_refused() {
    let count = EXACT_UNTIL + 800;
    let vector = |n: u64| -> Vec<f32> {
        let stream = loar_kernels::rng::Stream::new(3, 9, n as u32);
        (0..32).map(|i| stream.normal(i)).collect()
    };
    let mut all: Vec<Candidate> = (0..count as u64).map(|n| candidate(n, 1e6 - n as f32, 0, &vector(n))).collect();
    // planted: the first 400 again, slightly moved, at the end
    for n in 0..400u64 {
        let mut v = vector(n);
        v.iter_mut().enumerate().for_each(|(at, x)| *x += if at % 2 == 0 { 0.02 } else { -0.02 });
        all.push(candidate(100_000 + n, -(n as f32), 0, &v));
    }
    let options = Options { budget: 2 * count, pool: 1, tau: 0.95, max_share: 1.0, ..Options::default() };
    let selection = pick(&options, all);
    let passed = selection.rows.iter().filter(|s| s.row >= 100_000).count();
    assert!(selection.report.recall_at_tau > 0.99 && selection.report.recall_at_tau < 1.0);
    assert!(passed <= 4, "{passed} of 400 planted near-duplicates passed");
    assert!(selection.report.taken > EXACT_UNTIL);
}

fn chat(question: &str, answer: &str) -> Body {
    let messages = vec![Message::user(question), Message::assistant(answer)];
    Body::Chat(Conversation { messages, ..Conversation::default() })
}

fn batch(bodies: &[Body]) -> Batch {
    let mut builder = BatchBuilder::new();
    for (at, body) in bodies.iter().enumerate() {
        builder.push(at as u64, 0, at as u64 + 1, body, &Map::new());
    }
    builder.finish()
}

#[test]
fn rows_are_scored_and_told_apart_without_a_model() {
    let bodies = [
        chat("请解释光合作用的过程和意义", "光合作用是植物利用光能把二氧化碳和水转化为有机物并释放氧气的过程。"),
        chat("请解释光合作用的过程和意义。", "光合作用是植物利用光能合成有机物的过程。"),
        chat(
            "Write a function that reverses a linked list",
            "def reverse(head): prev = None; walk the list and turn each pointer",
        ),
        chat("hi", "hi hi hi hi hi hi hi hi"),
    ];
    let options = Options { budget: 3, max_share: 1.0, floor: 0, ..Options::default() };
    let mut selector = Selector::new(options, None).unwrap();
    selector.add(&batch(&bodies)).unwrap();
    let selection = selector.finish();
    let rows: Vec<u64> = selection.rows.iter().map(|s| s.row).collect();
    assert_eq!(rows.iter().filter(|r| **r < 2).count(), 1, "{rows:?}: only one of the two alike");
    assert_eq!(*rows.last().unwrap(), 3, "repetition scores low");
    assert!(selection.report.vectors.starts_with("lexical") && selection.report.score.starts_with("lexical"));
}

#[test]
fn wrong_options_and_columns_are_named() {
    let options = Options { budget: 0, tau: 1.5, max_share: 0.0, pool: 0, dims: 1, ..Options::default() };
    assert_eq!(Selector::new(options, None).err().unwrap().len(), 5);
    let options = Options { score: Some("ifd".into()), ..Options::default() };
    let mut selector = Selector::new(options, None).unwrap();
    assert!(selector.add(&batch(&[chat("a", "b")])).unwrap_err().found.contains("`ifd`"));
}

proptest! {
    /// Whatever the order of rows, the selection is the same; no two picked rows are nearer than
    /// tau; no quota is passed.
    #[test]
    fn order_does_not_matter_and_bounds_hold(
        rows in prop::collection::vec((0u16..5, 0u8..6, prop::array::uniform4(-1.0f32..1.0)), 1..60),
        budget in 1usize..20,
        floor in 0usize..4,
    ) {
        let all: Vec<Candidate> = rows.iter().enumerate()
            .map(|(at, (kind, score, v))| candidate(at as u64, f32::from(*score), *kind, v)).collect();
        let options = Options { budget, floor, pool: 2, max_share: 0.5, tau: 0.8, ..Options::default() };
        let selection = pick(&options, all.clone());
        let mut turned = all.clone();
        turned.reverse();
        prop_assert_eq!(&selection, &pick(&options, turned));
        prop_assert!(selection.report.taken <= budget);
        let full = (budget / 2).max(1);
        prop_assert!(selection.report.types.values().all(|n| *n <= full));
        for (at, a) in selection.rows.iter().enumerate() {
            for b in &selection.rows[..at] {
                let cosine = crate::terms::dot(&all[a.row as usize].vector, &all[b.row as usize].vector);
                prop_assert!(cosine <= 0.8 + 1e-6);
            }
        }
    }
}
