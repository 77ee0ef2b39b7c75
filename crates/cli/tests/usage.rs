//! Exit codes, where output goes, and how faults are drawn.

mod common;

use common::{checkpoint, expect, v3_config, write, write_data};
use loar_model::StoredDtype;

#[test]
fn usage_faults_exit_with_2() {
    for args in [&["frobnicate"][..], &["inspect"], &["generate", "x", "--temperature", "hot"], &["train"], &[]] {
        let (stdout, stderr) = expect(2, args);
        assert!(stdout.is_empty() && !stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn missing_files_exit_with_3() {
    let dir = tempfile::tempdir().unwrap();
    let absent = dir.path().join("absent");
    let absent = absent.to_str().unwrap();
    for args in [&["inspect", absent][..], &["train", absent], &["generate", absent, "--prompt", "x"]] {
        let (stdout, stderr) = expect(3, args);
        assert!(stdout.is_empty() && stderr.contains("absent"), "{args:?}: {stderr}");
    }
}

#[test]
fn help_names_every_command() {
    let (stdout, _) = expect(0, ["--help"]);
    for command in [
        "train", "plan", "inspect", "tokens", "check", "generate", "chat", "export", "quantize", "config", "annotate",
        "demo", "bench", "selftest",
    ] {
        assert!(stdout.contains(&format!("\n  {command} ")), "{command} in\n{stdout}");
    }
}

#[test]
fn every_fault_of_a_run_file_is_underlined_at_once() {
    let model = checkpoint(&v3_config(), StoredDtype::F32);
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run.toml");
    let path = model.path().display();
    write(&run, &format!("[model]\npath = \"{path}\"\n\n[train]\nlearning_rat = 1e-4\nsteps = \"many\"\n"));
    let (stdout, stderr) = expect(2, ["train", run.to_str().unwrap(), "--set", "adapter.rank=none"]);
    assert!(stdout.is_empty());
    for part in ["run.toml:5", "learning_rat", "steps = \"many\"", "adapter.rank"] {
        assert!(stderr.contains(part), "{part} in\n{stderr}");
    }
}

#[test]
fn the_manual_and_the_resolved_values_come_from_the_program() {
    let (manual, _) = expect(0, ["config", "reference"]);
    assert!(manual.starts_with("# ") && manual.contains("`learning_rate`"));
    let model = checkpoint(&v3_config(), StoredDtype::F32);
    let dir = tempfile::tempdir().unwrap();
    let (run, data) = (dir.path().join("run.toml"), dir.path().join("rows.jsonl"));
    write_data(&data, 4);
    common::write_run(&run, model.path(), &data, &dir.path().join("out"), "");
    let (shown, _) = expect(0, ["config", "show", run.to_str().unwrap(), "--set", "adapter.rank=4", "--json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["adapter.rank"]["toml"], "4");
    assert_eq!(shown["adapter.rank"]["source"], "--set");
    assert_eq!(shown["model.dtype"]["source"], "run file, line 3");
    assert_eq!(shown["data.max_seq_len"]["source"], "base model");
}

#[test]
fn prose_comes_in_chinese_too() {
    let model = checkpoint(&v3_config(), StoredDtype::F32);
    let (stdout, _) = expect(0, ["--lang", "zh", "inspect", model.path().to_str().unwrap()]);
    assert!(stdout.contains("注意力") && stdout.contains("deepseek_v3"), "{stdout}");
}

#[test]
fn every_kernel_passes_from_the_shipped_binary() {
    let (stdout, _) = expect(0, ["selftest", "--json"]);
    let found: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(found["ok"], true);
    assert!(found["results"].as_array().unwrap().len() >= 17);
}

#[test]
fn every_command_runs_on_a_chosen_instruction_set() {
    for set in loar_kernels::Isa::available() {
        let (stdout, _) = expect(0, ["--isa", set.name(), "selftest", "--json"]);
        let found: serde_json::Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!(found["used"], set.name());
    }
    for args in [&["selftest", "--isa", "abacus"][..], &["--isa", "abacus", "generate", "x"]] {
        let (stdout, stderr) = expect(2, args);
        assert!(stdout.is_empty() && stderr.contains("abacus") && stderr.contains("scalar"), "{stderr}");
    }
}
