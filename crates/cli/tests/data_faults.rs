//! `loar data` where the world fails it: a full disk, torn archives, bytes that are no text, a line of
//! a hundred megabytes. A row is counted or the run refused by name; nothing is lost, and once the
//! fault is mended the same command ends in the bytes of an undisturbed run.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{checkpoint, expect, text, v3_config, write};
use loar_model::StoredDtype;
use serde_json::Value;

/// Rows that differ, mixed Chinese and English.
fn rows(n: u64) -> String {
    (0..n)
        .map(|at| {
            let mixed = at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
            format!(
                "{{\"question\": \"第{mixed}号申请的风险是什么？ case {mixed:x}\", \"answer\": \"第{mixed}号的风险等级为{}，编号{mixed:x}。\"}}\n",
                if at % 2 == 0 { "低" } else { "高" }
            )
        })
        .collect()
}

/// A config over the files of `raw`.
fn config(dir: &Path, more: &str) -> String {
    let path = dir.join("data.toml");
    let text = "out = \"set\"\nshard_mib = 1\n[[source]]\nname = \"raw\"\npaths = [\"raw\"]\n[rules]\npresets = []\n[split]\neval = 0.0\n";
    write(&path, &format!("{text}{more}"));
    path.display().to_string()
}

fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut out, mut open) = (BTreeMap::new(), vec![dir.to_path_buf()]);
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if !path.ends_with("dataset.json") {
                out.insert(path.strip_prefix(dir).unwrap().to_path_buf(), fs::read(&path).unwrap());
            }
        }
    }
    out
}

fn gzip(text: &str) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(text.as_bytes()).unwrap();
    packed.finish().unwrap()
}

/// The system refuses every file beyond a bound (`ulimit -f`), as a full disk or a quota does: the run
/// ends with the file's name, keeps what is finished, and goes on once there is room.
#[test]
#[cfg(unix)]
fn a_full_disk_is_named_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("raw")).unwrap();
    write(&dir.path().join("raw/small.jsonl"), &rows(40));
    write(&dir.path().join("raw/large.jsonl"), &rows(6000));
    let config = config(dir.path(), "");
    let out = |name: &str| dir.path().join(name).display().to_string();
    expect(0, ["data", &config, "--threads", "1", "--out", &out("whole")]);
    // blocks of 512 bytes; the signal is ignored, so that the write itself fails
    for blocks in [0, 64, 400] {
        let name = format!("full{blocks}");
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
        let mut limited = Command::new("sh");
        limited.args([
            "-c",
            &script,
            env!("CARGO_BIN_EXE_loar"),
            "data",
            &config,
            "--threads",
            "1",
            "--out",
            &out(&name),
        ]);
        let ended = limited.output().unwrap();
        let said = text(&ended.stderr);
        assert_eq!(ended.status.code(), Some(3), "{blocks}: {said}");
        assert!(said.contains("no space left to write") && said.contains("no partial file is"), "{blocks}: {said}");
        assert!(!dir.path().join(&name).join("dataset.json").exists());
        expect(0, ["data", &config, "--threads", "1", "--out", &out(&name)]);
        assert!(contents(&dir.path().join(&name)) == contents(&dir.path().join("whole")), "{blocks}");
    }
}

#[test]
fn torn_archives_are_refused_by_name_and_the_mended_run_goes_on() {
    for (name, packed) in
        [("b.jsonl.gz", gzip(&rows(3000))), ("b.jsonl.zst", zstd::encode_all(rows(3000).as_bytes(), 1).unwrap())]
    {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("raw")).unwrap();
        write(&dir.path().join("raw/a.jsonl"), &rows(50));
        let path = dir.path().join("raw").join(name);
        fs::write(&path, &packed[..packed.len() / 2]).unwrap();
        let config = config(dir.path(), "");
        let (_, said) = expect(2, ["data", &config]);
        assert!(said.contains(name) && said.contains("compressed stream is damaged"), "{said}");
        assert!(said.contains("finished shards are kept"), "{said}");
        fs::write(&path, &packed).unwrap();
        let (_, said) = expect(2, ["data", &config]);
        assert!(said.contains("input files differ or were changed"), "{said}");
        fs::remove_dir_all(dir.path().join("set/work")).unwrap();
        let (json, _) = expect(0, ["data", &config, "--json"]);
        let set: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(set["rows"], 3050, "{name}");
    }
}

/// Malformed rows, bytes that are no UTF-8 and a line of 100 MB are dropped, counted and kept.
#[test]
fn bad_rows_are_counted_and_kept_beside_the_set() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("raw")).unwrap();
    let mut bytes = rows(20).into_bytes();
    bytes.extend_from_slice(b"{\"question\": \"cut off\n");
    bytes.extend_from_slice(b"{\"question\": \"\xff\xfe\", \"answer\": \"b\"}\n");
    bytes.extend_from_slice(b"{\"question\": \"\", \"answer\": 7}\n");
    bytes.extend_from_slice(b"{\"question\": \"");
    bytes.resize(bytes.len() + 100_000_000, b'x');
    bytes.extend_from_slice(b"\", \"answer\": \"b\"}\n");
    bytes.extend_from_slice(rows(60).split_at(rows(20).len()).1.as_bytes());
    fs::write(dir.path().join("raw/a.jsonl"), bytes).unwrap();
    let config = config(dir.path(), "");
    let (json, _) = expect(0, ["data", &config, "--json"]);
    let set: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&set["rows"], &set["dropped"], &set["parts"]["train"]), (&64.into(), &4.into(), &60.into()), "{set}");
    let read = &set["stages"][0];
    assert_eq!((&read["name"], &read["dropped"]), (&"read".into(), &4.into()));
    for rule in ["truncated-json", "invalid-utf8", "row-too-long"] {
        assert_eq!(read["rules"][rule]["drop"], 1, "{rule} in {read}");
    }
    let mut kept = String::new();
    for entry in fs::read_dir(dir.path().join("set/dropped")).unwrap() {
        kept += &text(&zstd::decode_all(fs::File::open(entry.unwrap().path()).unwrap()).unwrap());
    }
    assert_eq!(kept.lines().count(), 4);
    assert!(kept.contains("a.jsonl:21") && kept.contains("cut off") && kept.contains("a.jsonl:24"), "{kept}");
}

/// A local model's losses order the rows and measure the links; the command says what it did.
#[test]
fn a_local_model_scores_rows() {
    let mut model = v3_config();
    model["max_position_embeddings"] = 4096.into();
    let model = checkpoint(&model, StoredDtype::F32);
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("raw")).unwrap();
    write(&dir.path().join("raw/a.jsonl"), &rows(24));
    write(&dir.path().join("eval.jsonl"), rows(1).as_str());
    let more = format!(
        "[decontaminate]\nagainst = [\"eval.jsonl\"]\nmodes = [\"exact\"]\n[curriculum]\nstages = 2\n[augment]\nshare = 0.0\n[augment.dialogues]\nleast = -100.0\n\
         [scorer]\nmodel = {:?}\nmax_tokens = 256\n",
        model.path()
    );
    let config = config(dir.path(), &more);
    let (shown, _) = expect(0, ["data", &config]);
    assert!(shown.contains("1 rows leak 1 of 1 evaluation items") && shown.contains("loss difference"), "{shown}");
    let first = contents(&dir.path().join("set"));
    let again = dir.path().join("again").display().to_string();
    let (json, _) = expect(0, ["data", &config, "--json", "--threads", "1", "--out", &again]);
    assert!(contents(&dir.path().join("again")) == first);
    let set: Value = serde_json::from_str(&json).unwrap();
    let measures = set["curriculum"]["measures"].to_string();
    assert!(measures.contains("IFD of 23 of 23 rows"), "{measures}");
    let (shown, _) = expect(0, ["data", &config, "--preview"]);
    for part in ["exact", "evaluation items leaked", "eval.jsonl:1", "dialogues of"] {
        assert!(shown.contains(part), "{part} in\n{shown}");
    }
    write(Path::new(&config), &fs::read_to_string(&config).unwrap().replace("[scorer]\nmodel", "[scorer]\nmodle"));
    let (_, said) = expect(2, ["data", &config]);
    assert!(said.contains("modle") && said.contains("data.toml:"), "{said}");
}
