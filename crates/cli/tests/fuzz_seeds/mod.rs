//! Seeds that are not text: safetensors files, Parquet, compressed data, a training checkpoint.
//!
//! Gives for each the target, the file name and the bytes. Writes nothing.

use std::io::Write;
use std::sync::Arc;

use loar_artifact::ContentId;
use loar_formats::safetensors::{DType, TensorOut, encode};
use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::json;

pub fn all() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let good = b"{\"prompt\": \"p\", \"completion\": \"c\"}\n".as_slice();
    let bad = [good, b"{\"text\": 1}\n"].concat();
    vec![
        ("safetensors", "ok_file.safetensors", tensors()),
        ("data_parquet", "ok_messages.parquet", messages(Compression::UNCOMPRESSED)),
        ("data_parquet", "ok_snappy.parquet", messages(Compression::SNAPPY)),
        ("data_parquet", "ok_zstd.parquet", messages(Compression::ZSTD(Default::default()))),
        ("data_parquet", "ok_pairs.parquet", pairs()),
        ("data_packed", "ok_pairs.jsonl.gz", gzip(good)),
        ("data_packed", "ok_pairs.jsonl.zst", zstd::encode_all(good, 1).unwrap()),
        ("data_packed", "bad_row.jsonl.gz", gzip(&bad)),
        ("data_packed", "bad_bomb.jsonl.gz", gzip(&vec![b' '; 256 << 10])),
        ("checkpoint", "ok_state.loar", checkpoint()),
    ]
}

fn tensors() -> Vec<u8> {
    let tensors = [
        TensorOut::f32("model.embed_tokens.weight", vec![3, 4], &[0.5; 12]),
        TensorOut::bf16("model.norm.weight", vec![4], &[1.0; 4]),
        TensorOut { name: "w".into(), dtype: DType::F8E4M3, shape: vec![3, 5], data: vec![0x38; 15].into() },
        TensorOut::f32("w_scale_inv", vec![1, 1], &[2.0]),
    ];
    encode(&tensors, &[("format".to_owned(), "pt".to_owned())].into()).unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

/// A column of texts: values, definition levels, repetition levels.
type Column<'a> = (&'a [&'a str], &'a [i16], Option<&'a [i16]>);

fn write(schema: &str, columns: &[Column<'_>], compression: Compression) -> Vec<u8> {
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = WriterProperties::builder().set_compression(compression).build();
    let mut out = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut out, schema, Arc::new(properties)).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for (values, definition, repetition) in columns {
        let mut column = group.next_column().unwrap().unwrap();
        let values: Vec<ByteArray> = values.iter().map(|v| ByteArray::from(*v)).collect();
        column.typed::<ByteArrayType>().write_batch(&values, Some(definition), *repetition).unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
    out
}

/// Two conversations of two turns; the first answer has reasoning.
fn messages(compression: Compression) -> Vec<u8> {
    let schema = "message schema { optional group messages (LIST) { repeated group list { optional group element {
        optional binary role (UTF8); optional binary content (UTF8); optional binary reasoning_content (UTF8); } } } }";
    let starts = Some(&[0i16, 1, 0, 1][..]);
    let columns: [Column<'_>; 3] = [
        (&["user", "assistant", "user", "assistant"], &[4; 4], starts),
        (&["q1", "a1", "问", "答"], &[4; 4], starts),
        (&["r1"], &[3, 4, 3, 3], starts),
    ];
    write(schema, &columns, compression)
}

fn pairs() -> Vec<u8> {
    let schema = "message schema { optional binary prompt (UTF8); optional binary completion (UTF8); }";
    let columns: [Column<'_>; 2] = [(&["p", "p"], &[1; 2], None), (&["c", "d"], &[1; 2], None)];
    write(schema, &columns, Compression::UNCOMPRESSED)
}

/// Written out by hand: the layout is a promise to runs that are to be resumed.
fn checkpoint() -> Vec<u8> {
    let id = |text: &str| ContentId::of_bytes(text.as_bytes()).to_string();
    let head = json!({
        "state": {"step": 2, "micro_step": 8, "cursor": 32, "adamw_step": 2, "best": {"step": 1, "value": 1.5},
            "evals_since_best": 0, "finished": false, "tokens": 100, "labels": 10, "expert_load": [[], [1, 2]],
            "gradients": [["o", 2]], "offsets": {"metrics": 3, "timing": 4, "tensorboard": 5}, "seconds": 0.125,
            "training_id": id("t"), "base_id": id("b"), "rows_id": id("r")},
        "tensors": [{"name": "a.lora_A", "rows": 2, "cols": 3}, {"name": "a.lora_B", "rows": 1, "cols": 2}],
    })
    .to_string();
    let mut bytes = b"LOARCKP1".to_vec();
    bytes.extend((head.len() as u64).to_le_bytes());
    bytes.extend(head.as_bytes());
    bytes.extend((0..3 * (6 + 2)).flat_map(|i| (i as f32).to_le_bytes()));
    bytes.extend(ContentId::of_bytes(&bytes.clone()).to_string().as_bytes());
    bytes
}
