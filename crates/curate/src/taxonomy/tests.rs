//! The table, hand-written requests of every type, real rows of known type, measures, properties.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::OnceLock;

use loar_text::{Body, Conversation, Message};
use proptest::prelude::*;
use serde_json::Map;

use super::*;
use crate::batch::BatchBuilder;

fn chat(question: &str, answer: &str) -> Body {
    let messages = vec![Message::user(question), Message::assistant(answer)];
    Body::Chat(Conversation { messages, ..Conversation::default() })
}

fn batch<'a>(bodies: impl IntoIterator<Item = &'a Body>) -> Batch {
    let mut builder = BatchBuilder::new();
    for (at, body) in bodies.into_iter().enumerate() {
        builder.push(at as u64, 0, at as u64 + 1, body, &Map::new());
    }
    builder.finish()
}

fn classify(bodies: &[Body]) -> Vec<Verdict> {
    static STAGE: OnceLock<TaskTypes> = OnceLock::new();
    STAGE.get_or_init(|| TaskTypes::new(Options::default()).unwrap()).classifier().batch(&batch(bodies))
}

#[test]
fn the_table_is_whole() {
    let taxonomy = Taxonomy::builtin();
    assert_eq!(taxonomy.types().len(), Taxonomy::TYPES);
    let mut names = BTreeSet::new();
    for (at, kind) in taxonomy.types().iter().enumerate() {
        assert_eq!(usize::from(kind.number), at + 1);
        assert!(names.insert(kind.en.clone()) && names.insert(kind.zh.clone()), "{}", kind.en);
        assert!(kind.contract.bytes().all(|c| b"LSTJCNDR+".contains(&c)), "{}", kind.contract);
        assert!(kind.cues.len() >= 2, "{}", kind.en);
        assert!(kind.cues.iter().all(|c| *c == c.to_lowercase()), "{}: cues are in lower case", kind.en);
        assert!(!kind.about.is_ascii() && kind.about.bytes().any(|b| b.is_ascii_alphabetic()), "{}", kind.en);
    }
    assert!(taxonomy.get(0).is_none() && taxonomy.get(113).is_none());
    assert_eq!(taxonomy.get(19).unwrap().zh, "意图识别");
}

/// (type, row) of the hand-written requests.
fn cases() -> Vec<(u16, Body)> {
    include_str!("cases.tsv")
        .lines()
        .map(|line| {
            let mut parts = line.split('\t');
            let mut next = || parts.next().unwrap();
            let number = next().parse().unwrap();
            let question = next();
            (number, chat(question, &next().replace("\\n", "\n")))
        })
        .collect()
}

/// The requests were written by the author of the cues, so this bounds the accuracy from above.
#[test]
fn hand_written_requests_of_every_type_are_told_apart() {
    let cases = cases();
    let types: BTreeSet<u16> = cases.iter().map(|(number, _)| *number).collect();
    assert_eq!(types.len(), Taxonomy::TYPES, "a request for each type");
    let bodies: Vec<Body> = cases.iter().map(|(_, body)| body.clone()).collect();
    let verdicts = classify(&bodies);
    let (mut first, mut either) = (0, 0);
    for ((number, body), verdict) in cases.iter().zip(&verdicts) {
        first += usize::from(verdict.first == *number);
        either += usize::from(verdict.first == *number || verdict.second == *number);
        if verdict.first != *number {
            let Body::Chat(chat) = body else { unreachable!() };
            println!("{number} taken for {} or {}: {}", verdict.first, verdict.second, chat.messages[0].content);
        }
    }
    println!("first {first}, first or second {either} of {}", cases.len());
    assert!(first * 100 >= cases.len() * 90, "{first} of {}", cases.len());
    assert!(either * 100 >= cases.len() * 95, "{either} of {}", cases.len());
}

fn rows(name: &str) -> Option<Vec<Body>> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data")).join(name);
    if !path.exists() {
        println!("skipped: ../shared/data/{name} is absent");
        return None;
    }
    let data = loar_data::read(&[path], &loar_data::ReadOptions::default()).unwrap();
    Some(data.examples.into_iter().map(|e| e.body).collect())
}

fn share(name: &str, types: &[u16]) -> Option<f64> {
    let verdicts = classify(&rows(name)?);
    let mut counts = std::collections::BTreeMap::new();
    verdicts.iter().for_each(|v| *counts.entry(v.first).or_insert(0usize) += 1);
    println!("{name}: {counts:?}");
    Some(verdicts.iter().filter(|v| types.contains(&v.first)).count() as f64 / verdicts.len() as f64)
}

#[test]
fn real_rows_of_known_type_come_out_right() {
    // (file, types, least share)
    for (name, types, least) in [
        ("esft/train/intent.jsonl", &[19][..], 0.99),
        ("gsm8k/train.jsonl", &[69, 76], 0.95),
        ("gsm8k/test.jsonl", &[69, 76], 0.95),
        ("esft/train/law.jsonl", &[106], 0.95),
    ] {
        if let Some(share) = share(name, types) {
            println!("{name}: {:.2} % as {types:?}", 100.0 * share);
            assert!(share >= least, "{name}: {share}");
        }
    }
}

#[test]
fn what_nothing_speaks_for_is_unknown() {
    let verdicts = classify(&[chat("qwzx", "vbnm"), Body::Text(String::new()), chat("。。。", "")]);
    assert!(verdicts.iter().all(|v| *v == Verdict::default()), "{verdicts:?}");
}

#[test]
fn cues_of_the_user_decide_and_wrong_ones_have_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("own.toml");
    std::fs::write(&path, "[[type]]\nnumber = 105\ncues = [\"研判以下线索\"]\n").unwrap();
    let own = TaskTypes::new(Options { cues: Some(path.clone()), ..Options::default() }).unwrap();
    let verdict = own.classifier().batch(&batch(&[chat("研判以下线索：车辆多次夜间出入", "无")]))[0];
    assert_eq!(verdict.first, 105);
    std::fs::write(&path, "[[type]]\nnumber = 5\ncues = [\"a\"]\n\n[[type]]\nnumber = 200\ncues = [\"b\"]\n[[type]]\nnumber = 7\ncues = [\"\"]\n").unwrap();
    let faults = TaskTypes::new(Options { cues: Some(path), ..Options::default() }).err().unwrap();
    assert_eq!(faults.iter().map(|f| f.line).collect::<Vec<_>>(), [Some(6), Some(10)]);
    let faults = TaskTypes::new(Options { head: 0, types: 0, max_share: 2.0, ..Options::default() }).err().unwrap();
    assert_eq!(faults.len(), 3);
}

#[test]
fn tools_turns_and_columns() {
    let mut messages = vec![Message::user("查一下天气"), Message::assistant("")];
    messages.push(Message::new("tool", "{\"t\": 20}"));
    messages.push(Message::assistant("20 度"));
    let tool = Body::Chat(Conversation { messages, ..Conversation::default() });
    let turns =
        ["讲讲李白", "他哪年出生", "再短一点"].iter().flat_map(|q| [Message::user(*q), Message::assistant("好")]);
    let multi = Body::Chat(Conversation { messages: turns.collect(), ..Conversation::default() });
    let verdicts = classify(&[tool.clone(), multi.clone()]);
    assert_eq!(verdicts[0].first, 91);
    assert!(verdicts[1].first == 101 || verdicts[1].second == 101, "{:?}", verdicts[1]);
    let stage = TaskTypes::new(Options::default()).unwrap();
    let batch = batch(&[tool, multi]);
    let outcome = stage.apply(&batch);
    let batch = batch.with_columns(outcome.columns);
    let mut counts = Counts::default();
    counts.add(&batch);
    let report = counts.report(stage.classifier().taxonomy(), stage.classifier().options());
    assert_eq!((report.rows, report.unknown), (2, 0));
}

/// An embedding model that knows one thing: what speaks of whales is about spam.
struct Whales;

impl Embedder for Whales {
    fn embed(&self, texts: &[&str]) -> Vec<Vec<f32>> {
        let about = |t: &&str| if t.contains("whale") || t.contains("spam") { vec![1.0, 0.0] } else { vec![0.0, 2.0] };
        texts.iter().map(about).collect()
    }
}

#[test]
fn an_embedding_model_has_a_voice() {
    let body = chat("whale whale", "ok");
    assert_eq!(classify(std::slice::from_ref(&body))[0].first, 0);
    let stage = TaskTypes::with_embedder(Options::default(), Some(Arc::new(Whales))).unwrap();
    assert_eq!(stage.classifier().batch(&batch([&body]))[0].first, 30);
}

fn report(counts: &[(u16, u64)]) -> CoverageReport {
    let mut all = Counts::default();
    counts.iter().for_each(|(number, rows)| all.count(*number, *rows));
    all.report(&Taxonomy::builtin(), &Options::default())
}

#[test]
fn measures_of_an_even_a_single_and_an_empty_set() {
    let even = report(&(1..=112).map(|n| (n, 20)).collect::<Vec<_>>());
    assert!((even.normalised_entropy - 1.0).abs() < 1e-12 && (even.effective_types - 112.0).abs() < 1e-9);
    assert!(even.gini.abs() < 1e-12 && even.balanced && even.gaps.is_empty());
    assert_eq!((even.covered, even.coverage), (112, 1.0));
    let one = report(&[(107, 3)]);
    assert!((one.effective_types - 1.0).abs() < 1e-12 && !one.balanced);
    assert!((one.gini - 111.0 / 112.0).abs() < 1e-12);
    let gap = &one.gaps[0];
    assert_eq!((gap.number, gap.rows, gap.missing), (107, 3, 17));
    assert_eq!(gap.zh, "合同条款起草与审查");
    let none = report(&[(0, 5)]);
    assert_eq!((none.rows, none.unknown, none.effective_types, none.largest), (5, 5, 0.0, 0));
    assert_eq!(none.gaps.len(), 112);
}

proptest! {
    /// A row's type does not depend on the batch it stands in, and any text is taken.
    #[test]
    fn neighbours_do_not_matter(texts in prop::collection::vec("\\PC{0,80}", 1..6)) {
        let bodies: Vec<Body> = texts.iter().map(|t| chat(t, t)).collect();
        let together = classify(&bodies);
        for (body, verdict) in bodies.iter().zip(together) {
            prop_assert_eq!(classify(std::slice::from_ref(body))[0], verdict);
            prop_assert!(verdict.confidence >= 0.0 && verdict.confidence <= 1.0);
            prop_assert!(verdict.first != verdict.second || verdict.first == 0);
        }
    }

    /// Counts of parts add up to counts of the whole; the measures stay in their ranges.
    #[test]
    fn parts_add_up(a in prop::collection::vec((0u16..120, 0u64..50), 0..30), b in prop::collection::vec((0u16..120, 0u64..50), 0..30)) {
        let count = |parts: &[&Vec<(u16, u64)>]| {
            let mut counts = Counts::default();
            parts.iter().for_each(|p| p.iter().for_each(|(n, r)| counts.count(*n, *r)));
            counts
        };
        let mut merged = count(&[&a]);
        merged.merge(&count(&[&b]));
        prop_assert_eq!(&merged, &count(&[&a, &b]));
        let report = merged.report(&Taxonomy::builtin(), &Options::default());
        prop_assert!((0.0..=1.0 + 1e-9).contains(&report.normalised_entropy));
        prop_assert!((0.0..1.0).contains(&report.gini) && report.effective_types <= 112.0 + 1e-9);
        prop_assert_eq!(report.covered + report.gaps.len(), 112);
    }
}
