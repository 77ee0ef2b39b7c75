//! Reference counts on GSM8K, planted leaks in Chinese, phrases that are no leak, and properties.

use std::path::PathBuf;

use loar_text::{Body, Conversation, Message};
use proptest::prelude::*;
use serde_json::Map;

use super::*;
use crate::batch::BatchBuilder;

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

fn index(options: Options, evals: &[&str]) -> Index {
    let bodies: Vec<(String, Body)> =
        evals.iter().enumerate().map(|(at, text)| (format!("eval.jsonl:{}", at + 1), chat(text, "x"))).collect();
    Index::new(options, bodies.iter().map(|(id, body)| (id.as_str(), body)))
}

fn gsm8k(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data/gsm8k")).join(name);
    if !path.exists() {
        println!("skipped: ../shared/data/gsm8k/{name} is absent");
        return None;
    }
    Some(path)
}

fn read(path: PathBuf) -> Vec<Body> {
    let data = loar_data::read(&[path], &ReadOptions::default()).unwrap();
    data.examples.into_iter().map(|e| e.body).collect()
}

/// Counts that a Python script of ten lines gives (lower case, `string.punctuation` out, `split`).
#[test]
fn gsm8k_train_against_test_gives_the_reference_counts() {
    let (Some(train), Some(test)) = (gsm8k("train.jsonl"), gsm8k("test.jsonl")) else { return };
    let options = Options { against: vec![test], train: Side::Requests, ..Options::default() };
    let stage = Decontaminate::new(options).unwrap();
    let mut comparison = Comparison::default();
    let batch = batch(&read(train));
    comparison.add(stage.index(), &batch);
    println!("{comparison}");
    assert_eq!(stage.index().items(), 1319);
    let all = |mode| {
        let count = comparison.modes().into_iter().find(|c| c.mode == mode).unwrap();
        (count.train_rows, count.eval_items, count.half_covered)
    };
    assert_eq!(all(Mode::Words8), (90, 77, Some(3)));
    assert_eq!(all(Mode::DeepSeek), (11, 9, Some(2)));
    assert_eq!(all(Mode::Gpt3), (4, 3, Some(1)));
    assert_eq!(all(Mode::Exact), (0, 0, None));
    assert_eq!(all(Mode::Characters), (0, 0, None));
    // 3 items are half covered by all rows together, 2 of them by one row alone
    assert_eq!(all(Mode::Tulu3), (3, 2, None));
    // what is dropped says where from
    let found = stage.apply(&batch).findings;
    let rows: std::collections::BTreeSet<usize> = found.iter().map(|f| f.row).collect();
    assert_eq!(rows.len(), 11);
    for finding in &found {
        assert!(finding.note.contains("test.jsonl:") && finding.at.is_some(), "{finding:?}");
    }
}

const LAW: &str = "根据《中华人民共和国道路交通安全法》，机动车驾驶人李某在夜间会车时未关闭远光灯，应当给予何种处罚？";

#[test]
fn a_leaked_chinese_question_is_found_and_a_statute_name_is_not() {
    let evals = [
        LAW,
        "依照中华人民共和国道路交通安全法的规定，醉酒驾驶营运机动车的，多少年内不得重新取得驾驶证？",
        "《中华人民共和国民法典》中，居住权自何时设立，可否转让或者继承？",
        "光合作用的场所是什么？",
    ];
    let index = index(Options { modes: vec![Mode::Exact, Mode::Characters], ..Options::default() }, &evals);
    let leak = LAW.replace("《", "").replace("》", "").replace("机动车驾驶人李某", "驾驶员王某");
    let rows = [
        chat(&leak, "处警告或者二百元以下罚款。"),
        chat("请概括《中华人民共和国道路交通安全法》的立法目的。", "维护道路交通秩序，预防和减少交通事故。"),
        chat("简述中华人民共和国民法典中的居住权制度。", "居住权人有权按照合同约定占有、使用他人的住宅。"),
        chat("光合作用的场所，是什么", "叶绿体"),
        chat("光合作用的场所是叶绿体吗？", "是的。"),
        chat("请看这道题", &format!("题目是：{LAW}答案是警告。")),
    ];
    let batch = batch(&rows);
    let found: Vec<Vec<(Mode, usize)>> = batch
        .rows()
        .map(|row| index.scan(&row, &[Mode::Exact, Mode::Characters]).iter().map(|m| (m.mode, m.item)).collect())
        .collect();
    assert_eq!(found[0], [(Mode::Characters, 0)]);
    assert!(found[1].is_empty(), "the name of a law is no leak: {:?}", found[1]);
    assert!(found[2].is_empty());
    assert_eq!(found[3], [(Mode::Exact, 3)], "texts too short for n-grams are compared whole");
    assert!(found[4].is_empty());
    assert_eq!(found[5], [(Mode::Characters, 0)], "also inside an answer");
    let m = &index.scan(&batch.row(0), &[Mode::Characters])[0];
    let span = &leak[m.train.start..m.train.end];
    assert!(span.contains("夜间会车时未关闭远光灯") || m.text.contains("夜间会车时未关闭远光灯"));
    assert_eq!(m.eval, "eval.jsonl:1");
    // words separated by spaces see nothing of it
    assert!(index.scan(&batch.row(0), &[Mode::Gpt3, Mode::DeepSeek, Mode::Tulu3]).is_empty());
}

#[test]
fn the_prompt_template_of_an_evaluation_set_is_no_leak() {
    let evals: Vec<String> = (0..40)
        .map(|k| format!("Answer the following multiple choice question by giving the letter of the option only : item {k} asks {}", k * 7919))
        .collect();
    let evals: Vec<&str> = evals.iter().map(String::as_str).collect();
    let row = batch(&[chat(
        "Answer the following multiple choice question by giving the letter of the option only : which planet is red",
        "B",
    )]);
    assert!(index(Options::default(), &evals).scan(&row.row(0), &Mode::ALL).is_empty());
    let strict = Options { template_share: 1.0, ..Options::default() };
    assert!(!index(strict, &evals).scan(&row.row(0), &[Mode::Words8]).is_empty());
}

#[test]
fn short_english_texts_match_as_whole_turns_only() {
    let index = index(Options::default(), &["Who wrote Hamlet?", "ok then"]);
    let rows = batch(&[
        chat("who wrote hamlet", "Shakespeare"),
        chat("Tell me who wrote Hamlet, please", "S"),
        chat("OK then", ""),
    ]);
    let of = |at: usize| index.scan(&rows.row(at), &[Mode::DeepSeek]).len();
    assert_eq!((of(0), of(1), of(2)), (1, 0, 0));
}

#[test]
fn every_wrong_option_is_named() {
    let options = Options { coverage: 0.0, characters: 2, shown: 0, modes: vec![], ..Options::default() };
    let keys: Vec<String> = Decontaminate::new(options).err().unwrap().into_iter().map(|f| f.key).collect();
    assert_eq!(keys, ["against", "modes", "characters", "coverage", "shown"]);
    let missing = Options { against: vec!["no/such/file.jsonl".into()], ..Options::default() };
    assert!(Decontaminate::new(missing).err().unwrap()[0].found.contains("no/such/file.jsonl"));
}

proptest! {
    /// A row that holds n words of an evaluation text in a row is found whatever stands around it,
    /// and the two shown sides say the same words.
    #[test]
    fn a_planted_run_is_always_found(
        words in prop::collection::vec("[a-z]{1,8}", 20..40),
        at in 0usize..7,
        before in prop::collection::vec("[A-Z0-9]{1,6}", 0..12),
        after in prop::collection::vec("[A-Z0-9]{1,6}", 0..12),
    ) {
        let eval = words.join(" ");
        let planted = words[at..at + 13].join(", ");
        let row = format!("{} {} {}", before.join(" "), planted, after.join(" "));
        let index = index(Options::default(), &[&eval]);
        let batch = batch(&[chat(&row, "x")]);
        for mode in [Mode::Gpt3, Mode::DeepSeek, Mode::Words8] {
            let found = index.scan(&batch.row(0), &[mode]);
            prop_assert_eq!(found.len(), 1);
            let plain = |t: &str| t.to_lowercase().replace(',', "").split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            prop_assert_eq!(plain(&row[found[0].train.start..found[0].train.end]), plain(&found[0].text));
            prop_assert!(found[0].value >= 13.0);
        }
    }

    /// Disjoint vocabularies share nothing.
    #[test]
    fn foreign_text_is_never_found(eval in "([a-m]{2,6} ){10,30}", row in "([n-z]{2,6} ){10,60}") {
        let index = index(Options::default(), &[&eval]);
        prop_assert!(index.scan(&batch(&[chat(&row, "1")]).row(0), &Mode::ALL).is_empty());
    }
}
