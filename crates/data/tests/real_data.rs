//! Released data sets read as they are.

mod common;

use std::path::PathBuf;

use common::*;
use loar_data::{EvalSize, Format, ReadOptions, read, split};
use loar_text::Body;

fn file(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data")).join(name);
    if !path.exists() {
        println!("skipped: ../shared/data/{name} is absent");
        return None;
    }
    Some(path)
}

#[test]
fn esft_training_sets() {
    for (name, rows, duplicates) in [("intent", 7280, 7), ("law", 927, 0)] {
        let Some(path) = file(&format!("esft/train/{name}.jsonl")) else {
            return;
        };
        let data = read(&[path], &ReadOptions::default()).unwrap();
        assert_eq!((data.examples.len(), data.rows_read()), (rows, rows));
        assert_eq!(data.files[0].format, Format::Messages);
        // Counted independently of this code: see the notes on the data set.
        assert_eq!(data.exact_duplicates(), duplicates);
        let ignored: Vec<&str> = data.files[0].ignored_fields.keys().map(String::as_str).collect();
        assert_eq!(ignored, ["dataset", "id", "length"]);
        assert!(chat(&data, 0).messages[1].content.ends_with("。\n\n"), "content stays as it is");
    }
}

#[test]
fn esft_evaluation_sets() {
    for (name, rows) in [("intent", 500), ("law", 100)] {
        let Some(path) = file(&format!("esft/eval/{name}.jsonl")) else {
            return;
        };
        let options = ReadOptions { keep: vec!["raw_answers".into()], ..ReadOptions::default() };
        let data = read(&[path], &options).unwrap();
        assert_eq!(data.examples.len(), rows);
        for example in &data.examples {
            let Body::Completion { prompt, completion } = &example.body else { panic!("not a pair") };
            assert!(prompt.starts_with("User: ") && prompt.ends_with("\n\nAssistant:"));
            assert_eq!(example.kept["raw_answers"][0], completion.as_str());
        }
        assert_eq!(data.files[0].ignored_fields.keys().collect::<Vec<_>>(), ["idx"]);
    }
}

#[test]
fn gsm8k_and_a_split_without_leaks() {
    for (name, rows) in [("train", 7473), ("test", 1319)] {
        let Some(path) = file(&format!("gsm8k/{name}.jsonl")) else {
            return;
        };
        let data = read(&[path], &ReadOptions::default()).unwrap();
        assert_eq!(data.examples.len(), rows);
        assert_eq!(data.files[0].format_why, "`question` and `answer` in 16 of the first 16 rows");
        assert!(chat(&data, 0).messages[1].content.contains("\n#### "));
        let parts = split(&data, EvalSize::Fraction(0.05), 1).unwrap();
        assert_eq!(parts.eval.len(), (rows as f64 * 0.05).round() as usize);
        assert_eq!(parts.train.len() + parts.eval.len(), rows);
    }
}
