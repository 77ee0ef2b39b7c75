//! `loar data` killed with SIGKILL while it works: the same command again goes on from the finished
//! shards and ends in the bytes of an undisturbed run.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn loar(config: &Path, out: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loar"));
    command.args(["data", "--threads", "2", "--json", "--out"]).arg(out).arg(config);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Files by relative name; `dataset.json` names the folder it was written to and is left out.
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

/// Finished pieces of work: summaries of shards of the first and the third pass.
fn pieces(out: &Path) -> usize {
    let Ok(entries) = fs::read_dir(out.join("work")) else { return 0 };
    entries.flatten().filter(|entry| entry.path().extension().is_some_and(|end| end == "json")).count()
}

#[test]
fn a_killed_run_goes_on_and_ends_in_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let mut rows = String::new();
    for at in 0..16_000_u64 {
        let mixed = at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        let shown = if at % 40 == 39 { mixed.wrapping_sub(1) } else { mixed };
        rows.push_str(&format!(
            "{{\"question\": \"第{at}号申请：客户{shown}的收入为{}元，负债为{}元，请判断风险。\", \"answer\": \"客户{shown}的负债收入比为{}，风险{}。 {}\"}}\n",
            mixed % 90_000,
            mixed % 70_000,
            mixed % 97,
            if mixed % 2 == 0 { "低" } else { "高" },
            format!("note {mixed:x} ").repeat(8)
        ));
    }
    fs::write(dir.path().join("rows.jsonl"), rows).unwrap();
    let config = dir.path().join("data.toml");
    fs::write(&config, "out = \"set\"\nshard_mib = 1\n[[source]]\nname = \"rows\"\npaths = [\"rows.jsonl\"]\n[pii]\n")
        .unwrap();

    let whole = dir.path().join("whole");
    assert!(loar(&config, &whole).status().unwrap().success());
    let expected = contents(&whole);
    assert!(expected.len() > 8, "{:?}", expected.keys());

    for after in [1, 3, 6, 8] {
        let out = dir.path().join(format!("killed{after}"));
        let mut child = loar(&config, &out).spawn().unwrap();
        // `run.json` is one of them.
        while pieces(&out) <= after && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        let _ = child.kill();
        child.wait().unwrap();
        if !out.join("dataset.json").exists() {
            assert!(loar(&config, &out).status().unwrap().success(), "after {after} pieces");
        }
        assert!(!out.join("work").exists());
        let found = contents(&out);
        assert_eq!(
            found.keys().collect::<Vec<_>>(),
            expected.keys().collect::<Vec<_>>(),
            "killed after {after} pieces"
        );
        let differs: Vec<_> =
            found.iter().filter(|(name, bytes)| expected[*name] != **bytes).map(|(name, _)| name).collect();
        assert!(differs.is_empty(), "killed after {after} pieces: {differs:?} differ");
    }
}
