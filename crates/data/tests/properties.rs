//! Whatever is done to a valid file, reading does not panic and every row is accounted for.

mod common;

use std::io::Write;

use common::drop_bad;
use loar_data::{DataError, ReadOptions, read_bytes};
use proptest::prelude::*;

/// Valid files of every text container, some compressed.
fn files() -> Vec<(&'static str, Vec<u8>)> {
    let row = |i: usize| {
        format!(
            "{{\"messages\":[{{\"role\":\"user\",\"content\":\"q{i} \\\"x\\\" 问\"}},{{\"role\":\"assistant\",\
             \"content\":\"<think>\\nr\\n</think>\\n\\na{i}\",\"weight\":1}}]}}"
        )
    };
    let rows: Vec<String> = (0..6).map(row).collect();
    let lines = rows.join("\n") + "\n";
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(lines.as_bytes()).unwrap();
    let alpaca = "instruction,input,output\n\"a, b\",x,1\nb,,\"2\n3\"\nc,\"d \"\"e\"\"\",4\n";
    vec![
        ("a.jsonl", lines.clone().into_bytes()),
        ("a.json", format!("[\n{}\n]", rows.join(",\n")).into_bytes()),
        ("b.json", format!("{{\"n\": 6, \"rows\": [{}]}}", rows.join(",")).into_bytes()),
        ("a.jsonl.gz", gz.finish().unwrap()),
        ("a.jsonl.zst", zstd::encode_all(lines.as_bytes(), 1).unwrap()),
        ("a.csv", alpaca.into()),
        ("a.txt", b"one\n\ntwo 2\n".to_vec()),
    ]
}

/// Reads in both modes and checks that the two accounts agree.
fn account(name: &str, bytes: &[u8]) -> Result<(), TestCaseError> {
    let stop = read_bytes(name, bytes, &ReadOptions::default());
    let dropped = read_bytes(name, bytes, &drop_bad());
    match (stop, dropped) {
        (Ok(a), Ok(b)) => {
            prop_assert_eq!(&a.examples, &b.examples);
            prop_assert_eq!(a.examples.len(), a.rows_read());
            prop_assert!(a.dropped.is_empty() && b.dropped.is_empty());
        }
        (Err(DataError::Rows(f)), other) => {
            prop_assert_eq!(f.rows_read, f.good_rows + f.bad_rows);
            prop_assert!(f.total >= f.bad_rows + f.bad_files);
            prop_assert!(!f.to_string().is_empty());
            match other {
                Ok(b) => {
                    prop_assert_eq!(f.bad_files, 0);
                    prop_assert_eq!(b.examples.len(), f.good_rows);
                    prop_assert_eq!(b.dropped.len(), f.bad_rows);
                    prop_assert_eq!(b.rows_read(), f.rows_read);
                }
                Err(DataError::Rows(g)) => {
                    prop_assert_eq!(g.bad_files, f.bad_files);
                    prop_assert_eq!(g.total, g.bad_files);
                    prop_assert_eq!((g.rows_read, g.good_rows), (f.rows_read, f.good_rows));
                }
                Err(DataError::NothingLeft { rows, .. }) => {
                    prop_assert_eq!((f.good_rows, f.bad_rows), (0, rows));
                }
                Err(other) => prop_assert!(false, "{}", other),
            }
        }
        (a, b) => prop_assert!(false, "{:?} but {:?}", a.map(|d| d.files), b.map(|d| d.files)),
    }
    Ok(())
}

#[test]
fn whole_files_are_read_whole() {
    for (name, bytes) in files() {
        let data = read_bytes(name, &bytes, &ReadOptions::default()).unwrap();
        let rows = match name {
            "a.csv" => 3,
            "a.txt" => 1,
            _ => 6,
        };
        assert_eq!((data.examples.len(), data.rows_read()), (rows, rows), "{name}");
    }
}

/// Every cut of every file, one by one.
#[test]
fn every_truncation_is_accounted_for() {
    for (name, bytes) in files() {
        for end in 0..bytes.len() {
            account(name, &bytes[..end]).unwrap_or_else(|e| panic!("{name} cut at {end}: {e}"));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn damaged_files_are_accounted_for(
        which in 0..7_usize,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3), 1..5),
    ) {
        let (name, mut bytes) = files().swap_remove(which);
        for (at, byte, edit) in edits {
            let at = at.index(bytes.len());
            match edit {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ if bytes.len() > 1 => { bytes.remove(at); }
                _ => {}
            }
        }
        account(name, &bytes)?;
    }

    #[test]
    fn any_bytes_under_any_name(
        name in prop::sample::select(vec!["a.jsonl", "a.json", "a.csv", "a.txt", "a.gz", "a", "a.parquet"]),
        bytes in prop::collection::vec(
            prop_oneof![any::<u8>(), prop::sample::select(b"{}[]\",:\n\\ ".to_vec())], 0..200),
    ) {
        account(name, &bytes)?;
    }
}
