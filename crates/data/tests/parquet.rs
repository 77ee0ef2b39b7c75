//! Parquet: nested messages, flat columns, row numbers, damaged files. The files are written with
//! the low-level column writers, levels by hand, as pyarrow lays them out.

mod common;

use std::sync::Arc;

use bytes::Bytes;
use common::*;
use loar_data::{Container, FaultKind, ReadOptions, read, read_bytes};
use loar_text::Body;
use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use proptest::prelude::*;

/// One column of texts: values, definition levels, repetition levels.
struct Column<'a>(Vec<&'a str>, Vec<i16>, Vec<i16>);

fn write(schema: &str, columns: &[Column<'_>], compression: Compression) -> Vec<u8> {
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = Arc::new(WriterProperties::builder().set_compression(compression).build());
    let mut out = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut out, schema, properties).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for Column(values, definition, repetition) in columns {
        let mut column = group.next_column().unwrap().unwrap();
        let values: Vec<ByteArray> =
            values.iter().map(|v| ByteArray::from(Bytes::copy_from_slice(v.as_bytes()))).collect();
        column.typed::<ByteArrayType>().write_batch(&values, Some(definition), Some(repetition)).unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
    out
}

const MESSAGES: &str = "message schema {
    optional group messages (LIST) {
        repeated group list {
            optional group element {
                optional binary role (UTF8);
                optional binary content (UTF8);
                optional binary reasoning_content (UTF8);
            }
        }
    }
}";

/// Two rows: (user, assistant with reasoning) and (user, assistant).
fn nested(compression: Compression) -> Vec<u8> {
    let repetition = vec![0, 1, 0, 1];
    let full = vec![4; 4];
    write(
        MESSAGES,
        &[
            Column(vec!["user", "assistant", "user", "assistant"], full.clone(), repetition.clone()),
            Column(vec!["q1", "a1", "问", "答"], full, repetition.clone()),
            Column(vec!["r1"], vec![3, 4, 3, 3], repetition),
        ],
        compression,
    )
}

#[test]
fn nested_messages_in_every_codec() {
    for compression in [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::ZSTD(Default::default()),
        Compression::GZIP(Default::default()),
    ] {
        let bytes = nested(compression);
        let data = ok("a.parquet", &bytes);
        assert_eq!(turns(&data, 0), [("user", "q1"), ("assistant", "a1")]);
        assert_eq!(turns(&data, 1), [("user", "问"), ("assistant", "答")]);
        assert_eq!(chat(&data, 0).messages[1].reasoning_content.as_deref(), Some("r1"));
        assert_eq!(chat(&data, 1).messages[1].reasoning_content, None);
        assert_eq!(ids(&data), ["a.parquet:1", "a.parquet:2"]);
        assert_eq!(data.files[0].container, Container::Parquet);

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b.parquet");
        std::fs::write(&path, &bytes).unwrap();
        let from_disk = read(&[path], &ReadOptions::default()).unwrap();
        assert_eq!(from_disk.examples_id(), data.examples_id());
        assert_eq!(from_disk.content_id(), data.content_id());
    }
}

#[test]
fn flat_columns_and_nulls() {
    let schema = "message schema {
        optional binary prompt (UTF8);
        optional binary completion;
    }";
    let columns = [Column(vec!["p1", "p2"], vec![1, 1], vec![0, 0]), Column(vec!["c1"], vec![1, 0], vec![0, 0])];
    let bytes = write(schema, &columns, Compression::SNAPPY);
    let found = faults("a.parquet", &bytes);
    assert_eq!(kinds(&found), [(FaultKind::MissingField, "completion")]);
    assert_eq!(found.first[0].line, Some(2));
    let data = with("a.parquet", &bytes, &drop_bad());
    let expected = Body::Completion { prompt: "p1".into(), completion: "c1".into() };
    assert_eq!(data.examples[0].body, expected);
    assert_eq!(data.dropped[0].id, "a.parquet:2");
}

#[test]
fn a_cut_file_and_a_bound() {
    let bytes = nested(Compression::SNAPPY);
    let found = faults("a.parquet", &bytes[..bytes.len() - 20]);
    assert_eq!(kinds(&found), [(FaultKind::BrokenParquet, "")]);
    let options = ReadOptions { max_unpacked_bytes: 10, ..ReadOptions::default() };
    assert_eq!(kinds(&faults_with("a.parquet", &bytes, &options)), [(FaultKind::TooLarge, "")]);
    let options = ReadOptions { max_row_bytes: 20, ..ReadOptions::default() };
    assert_eq!(faults_with("a.parquet", &bytes, &options).first[0].kind, FaultKind::RowTooLong);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// A flipped or cut file gives rows or faults, never a panic that escapes.
    #[test]
    fn damage_never_escapes(at in any::<prop::sample::Index>(), bit in 0..8, cut in any::<bool>()) {
        let mut bytes = nested(Compression::UNCOMPRESSED);
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] ^= 1_u8 << bit }
        let _ = read_bytes("a.parquet", &bytes, &ReadOptions::default());
    }
}
