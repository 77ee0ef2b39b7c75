//! The split is a function of content and seed alone.

mod common;

use std::collections::BTreeSet;

use common::*;
use loar_artifact::ContentId;
use loar_data::{Dataset, EvalSize, split};
use proptest::prelude::*;

fn texts(values: &[u8]) -> Dataset {
    ok("a.jsonl", values.iter().map(|v| format!("{{\"text\":\"t{v}\"}}\n")).collect::<String>())
}

fn contents(data: &Dataset, indices: &[usize]) -> BTreeSet<ContentId> {
    indices.iter().map(|&i| data.examples[i].content_id).collect()
}

proptest! {
    #[test]
    fn identical_rows_never_straddle(
        values in prop::collection::vec(0..20_u8, 3..60),
        share in 0.1..0.6_f64,
        seed in any::<u64>(),
    ) {
        let data = texts(&values);
        let distinct: BTreeSet<u8> = values.iter().copied().collect();
        prop_assert_eq!(data.exact_duplicates(), values.len() - distinct.len());
        let Ok(parts) = split(&data, EvalSize::Fraction(share), seed) else { return Ok(()) };
        prop_assert_eq!(parts.exact_duplicates, data.exact_duplicates());
        prop_assert!(contents(&data, &parts.train).is_disjoint(&contents(&data, &parts.eval)));
        let mut all = [parts.train.clone(), parts.eval.clone()].concat();
        all.sort_unstable();
        prop_assert_eq!(all, (0..values.len()).collect::<Vec<_>>());
        prop_assert!(parts.eval.len() <= ((values.len() as f64 * share).round() as usize).max(1));

        // The order of rows does not change who is held out.
        let reversed: Vec<u8> = values.iter().rev().copied().collect();
        let other = texts(&reversed);
        let again = split(&other, EvalSize::Fraction(share), seed).unwrap();
        prop_assert_eq!(contents(&data, &parts.eval), contents(&other, &again.eval));
    }
}

#[test]
fn distinct_rows_give_the_exact_number_and_seeds_differ() {
    let data = texts(&(0..100).collect::<Vec<_>>());
    let one = split(&data, EvalSize::Rows(10), 1).unwrap();
    assert_eq!((one.train.len(), one.eval.len()), (90, 10));
    assert_eq!(one, split(&data, EvalSize::Fraction(0.1), 1).unwrap());
    assert_ne!(one.eval, split(&data, EvalSize::Rows(10), 2).unwrap().eval);
    let (train, eval) = one.partition(data.examples.clone());
    assert_eq!((train.len(), eval.len()), (90, 10));
    assert!(eval.iter().zip(&one.eval).all(|(e, &i)| *e == data.examples[i]));
    // The larger evaluation part holds the smaller one.
    let more = split(&data, EvalSize::Rows(20), 1).unwrap();
    assert!(contents(&data, &more.eval).is_superset(&contents(&data, &one.eval)));
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    let data = texts(&[1, 1, 1]);
    for (size, text) in [
        (EvalSize::Rows(0), "`eval_rows` is 0"),
        (EvalSize::Rows(3), "3 evaluation rows of 3 leave nothing to train on; ask for at most 2"),
        (EvalSize::Fraction(1.0), "`eval_fraction` is 1"),
        (EvalSize::Fraction(f64::NAN), "`eval_fraction` is NaN"),
        (EvalSize::Rows(2), "no group of identical rows is small enough"),
    ] {
        let error = split(&data, size, 0).unwrap_err().to_string();
        assert!(error.starts_with(text), "{error}");
    }
}

#[test]
fn ids_are_stable_across_containers_and_releases() {
    let line = ok("a.jsonl", "{\"text\":\"t\"}\n");
    let list = ok("b.json", "[{\"text\": \"t\", \"id\": 1}]");
    assert_eq!(line.examples_id(), list.examples_id());
    assert_ne!(line.content_id(), list.content_id());
    assert_eq!(
        line.examples[0].content_id,
        ContentId::of_bytes(br#"{"text":"t"}"#),
        "the hash is that of the body's JSON form: a change breaks every lineage"
    );
}
