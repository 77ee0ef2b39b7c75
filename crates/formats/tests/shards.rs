//! Sharded checkpoints: names and index as released, missing and damaged shards, an index that lies.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use loar_formats::safetensors::{Checkpoint, DType, ShardWriter, TensorOut, TensorSpec, parse_index, write_file};
use loar_formats::{FormatError, Severity};

fn text(error: FormatError) -> String {
    error.to_string()
}

fn specs(sizes: &[usize]) -> Vec<TensorSpec> {
    let one = |(i, n): (usize, &usize)| TensorSpec { name: format!("t{i:02}"), dtype: DType::U8, shape: vec![*n] };
    sizes.iter().enumerate().map(one).collect()
}

fn write_shards(dir: &Path, sizes: &[usize], limit: u64) -> Vec<String> {
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let writer = ShardWriter::new(dir, specs(sizes), limit, metadata).unwrap();
    let index = |s: &TensorSpec| s.name[1..].parse::<u8>().unwrap();
    writer.write(|s| Ok(Cow::Owned(vec![index(s); s.shape[0]]))).unwrap();
    writer.files().map(str::to_owned).collect()
}

#[test]
fn shards_are_named_and_indexed_as_released() {
    let dir = tempfile::tempdir().unwrap();
    let files = write_shards(dir.path(), &[6, 4, 3, 20, 1], 10);
    assert_eq!(files, [1, 2, 3, 4].map(|i| format!("model-{i:05}-of-00004.safetensors")));
    let index = std::fs::read(dir.path().join("model.safetensors.index.json")).unwrap();
    let index = parse_index(&index, Path::new("index")).unwrap();
    assert_eq!(index.total_size, Some(34));
    assert_eq!(index.weight_map["t03"], "model-00003-of-00004.safetensors");
    let (checkpoint, issues) = Checkpoint::open_dir(dir.path()).unwrap();
    assert!(issues.is_empty(), "{issues:?}");
    assert_eq!(checkpoint.len(), 5);
    assert_eq!(&*checkpoint.bytes("t02").unwrap(), [2, 2, 2]);
    assert_eq!(checkpoint.metadata()["format"], "pt");
    // one file alone has no index
    let single = tempfile::tempdir().unwrap();
    assert_eq!(write_shards(single.path(), &[6, 4], 10), ["model.safetensors"]);
    assert_eq!(Checkpoint::open_dir(single.path()).unwrap().0.len(), 2);
    // and does not go beside a sharded export
    let error = ShardWriter::new(dir.path(), specs(&[1]), 10, BTreeMap::new()).unwrap_err();
    let FormatError::Checkpoint { faults, .. } = error else { panic!("{error}") };
    assert_eq!(faults.0.len(), 5, "{faults}");
}

#[test]
fn a_failing_source_leaves_no_partial_shard() {
    let dir = tempfile::tempdir().unwrap();
    let writer = ShardWriter::new(dir.path(), specs(&[4, 4]), 100, BTreeMap::new()).unwrap();
    let error = writer
        .write(|s| if s.name == "t00" { Ok(Cow::Owned(vec![0; 4])) } else { Ok(Cow::Owned(vec![0; 3])) })
        .unwrap_err();
    assert!(text(error).contains("expected 4 bytes, found 3 bytes"));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn missing_and_damaged_shards_are_all_listed() {
    let dir = tempfile::tempdir().unwrap();
    let files = write_shards(dir.path(), &[6, 6, 6, 6], 10);
    std::fs::remove_file(dir.path().join(&files[0])).unwrap();
    std::fs::remove_file(dir.path().join(&files[2])).unwrap();
    std::fs::write(dir.path().join(&files[3]), b"version https://git-lfs.github.com/spec/v1").unwrap();
    let error = Checkpoint::open_dir(dir.path()).unwrap_err();
    let FormatError::Checkpoint { faults, .. } = error else { panic!("{error}") };
    assert_eq!(faults.0.len(), 3, "{faults}");
    assert!(faults.0[0].contains(&files[0]) && faults.0[0].contains("missing"));
    assert!(faults.0[1].contains(&files[2]) && faults.0[2].contains("git lfs pull"));
    let (partial, issues) = Checkpoint::inspect_dir(dir.path()).unwrap();
    assert_eq!(partial.len(), 1);
    assert_eq!(issues.iter().filter(|i| i.severity == Severity::Error).count(), 3);
}

#[test]
fn an_index_that_lies_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let files = write_shards(dir.path(), &[6, 6], 10);
    let index = |map: serde_json::Value| {
        let text = serde_json::json!({"metadata": {"total_size": 99}, "weight_map": map}).to_string();
        std::fs::write(dir.path().join("model.safetensors.index.json"), text).unwrap();
    };
    index(serde_json::json!({"t00": files[1], "t01": files[1], "t09": files[0]}));
    let found = text(Checkpoint::open_dir(dir.path()).unwrap_err());
    assert!(found.contains("tensor `t00` is in `model-00001-of-00002.safetensors`, but"), "{found}");
    assert!(found.contains("tensor `t09` of the index is missing"), "{found}");
    index(serde_json::json!({"t00": files[0]}));
    let (_, issues) = Checkpoint::open_dir(dir.path()).unwrap();
    assert!(issues.iter().any(|i| i.text.contains("`total_size` 99")), "{issues:?}");
    for name in ["../x.safetensors", "/etc/passwd", "a/b.safetensors", "", "..", "c:x", "a\\b"] {
        index(serde_json::json!({"t00": name}));
        let found = text(Checkpoint::open_dir(dir.path()).unwrap_err());
        assert!(found.contains("not a plain file name"), "{name}: {found}");
    }
    let twice = br#"{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}"#;
    assert!(text(parse_index(twice, Path::new("i")).unwrap_err()).contains("stands twice"));
}

#[test]
fn the_same_tensor_in_two_shards_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let a = [TensorOut::f32("a", vec![1], &[1.0])];
    write_file(&dir.path().join("x.safetensors"), &a, &BTreeMap::new()).unwrap();
    let both = [TensorOut::f32("a", vec![1], &[2.0]), TensorOut::f32("b", vec![1], &[2.0])];
    write_file(&dir.path().join("y.safetensors"), &both, &BTreeMap::new()).unwrap();
    let index = r#"{"weight_map": {"a": "x.safetensors", "b": "y.safetensors"}}"#;
    std::fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
    let found = text(Checkpoint::open_dir(dir.path()).unwrap_err());
    assert!(found.contains("tensor `a` is also in `x.safetensors`"), "{found}");
}

#[test]
fn a_folder_without_weights_says_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    for (name, part) in [
        ("adapter_model.safetensors", "an adapter folder"),
        ("m.gguf", "GGUF"),
        ("pytorch_model.bin", "PyTorch pickles"),
    ] {
        std::fs::write(dir.path().join(name), b"").unwrap();
        let found = text(Checkpoint::open_dir(dir.path()).unwrap_err());
        assert!(found.contains(part), "{found}");
    }
    let found = text(Checkpoint::open_dir(&dir.path().join("no")).unwrap_err());
    assert!(found.contains("no such folder"), "{found}");
}
