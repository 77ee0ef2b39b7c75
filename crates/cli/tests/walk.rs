//! The walk of a user: tokens, plan, train, generate, inspect, export.

mod common;

use std::path::Path;

use common::{checkpoint, expect, v3_config, write_data, write_run};
use loar_artifact::Manifest;
use loar_model::StoredDtype;
use serde_json::Value;

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

const SETTINGS: &str = "[adapter]\nrank = 4\ntargets = \"all-linear\"\n\n[train]\nsteps = 12\nbatch_rows = 4\nlearning_rate = 2e-2\n\n[eval]\nevery_steps = 6\n\n[checkpoint]\nevery_steps = 6\n";

#[test]
fn from_a_checkpoint_and_rows_to_what_others_load() {
    let base = checkpoint(&v3_config(), StoredDtype::Bf16);
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let (model, run, data) = (base.path().to_str().unwrap(), at("run.toml"), at("rows.jsonl"));
    write_data(Path::new(&data), 40);
    write_run(Path::new(&run), base.path(), Path::new(&data), Path::new(&at("out")), SETTINGS);

    let (shown, _) = expect(0, ["tokens", model, &data, "--rows", "2"]);
    assert!(shown.contains("⟦") && shown.contains("rows.jsonl:1"), "{shown}");
    let (rows, _) = expect(0, ["tokens", model, &data, "--json", "--id", &format!("{data}:2")]);
    assert_eq!(rows.lines().count(), 1);

    let (plan, _) = expect(0, ["plan", &run, "--json"]);
    let plan: Value = serde_json::from_str(&plan).unwrap();
    assert_eq!(plan["plan"]["steps"], 12);
    assert!(!Path::new(&at("out")).exists(), "a plan writes nothing");

    let (summary, progress) = expect(0, ["train", &run]);
    for part in ["token ledger", "coverage", "plan", "step 12/12", "checkpoint"] {
        assert!(progress.contains(part), "{part} in\n{progress}");
    }
    let adapter = at("out/adapter");
    assert!(
        summary.contains(&adapter) && summary.contains("report.html") && summary.contains("manifest.json"),
        "{summary}"
    );
    assert!(Path::new(&at("out/report.html")).exists());
    let faults = Manifest::read(Path::new(&at("out"))).unwrap().verify(Path::new(&at("out")));
    assert!(faults.is_empty(), "{faults:?}");

    let (_, stderr) = expect(2, ["train", &run]);
    assert!(stderr.contains("--resume"), "{stderr}");

    let generate = |more: &[&str]| {
        let args = ["generate", model, "--prompt", "2+3?", "--temperature", "0", "--json", "--dtype", "f32"];
        let (out, _) = expect(0, args.iter().chain(more).copied());
        serde_json::from_str::<Value>(&out).unwrap()
    };
    let (bare, tuned) = (generate(&[]), generate(&["--adapter", &adapter]));
    assert_ne!(bare["ids"], tuned["ids"]);

    let (found, _) = expect(0, ["inspect", &adapter, "--json"]);
    let found: Value = serde_json::from_str(&found).unwrap();
    assert_eq!(found["r"], 4);
    assert!(found["compatibility"].as_array().unwrap().iter().any(|r| r["verdict"] == "partial"));

    let (out, _) = expect(
        0,
        ["export", model, "--adapter", &adapter, "--out", &at("merged"), "--format", "ollama", "--dtype", "f32"],
    );
    assert!(out.contains("merged") && out.contains("DROPS A PART"), "{out}");
    let certificate = json(Path::new(&at("merged/certificate.json")));
    assert!(certificate["adapter_effect"]["mean_kl"].as_f64() > Some(1e-3), "{certificate}");
    assert!(certificate["merged"]["max_logit_gap"].as_f64() < Some(1e-3), "{certificate}");
    assert_eq!(certificate["merged"]["same_best_token"], 1.0);
    let modelfile = std::fs::read_to_string(at("merged/Modelfile")).unwrap();
    assert!(modelfile.contains("<｜User｜>") && modelfile.contains("PARAMETER temperature 0.6"), "{modelfile}");
    assert!(std::fs::read_to_string(at("merged/compatibility.md")).unwrap().contains("| vLLM |"));
    assert!(Path::new(&at("merged/LICENSE")).exists() && Path::new(&at("merged/tokenizer.json")).exists());
    let manifest = Manifest::read(Path::new(&at("merged"))).unwrap();
    assert!(manifest.verify(Path::new(&at("merged"))).is_empty());
    assert_eq!(manifest.parents.iter().map(|p| p.role.as_str()).collect::<Vec<_>>(), ["base", "adapter"]);

    // merged = adapter, in what a user sees
    let args = ["generate", &at("merged"), "--prompt", "2+3?", "--temperature", "0", "--json", "--dtype", "f32"];
    let (merged, _) = expect(0, args);
    assert_eq!(serde_json::from_str::<Value>(&merged).unwrap()["ids"], tuned["ids"]);

    // and so does the other layout of the same adapter
    expect(
        0,
        [
            "export",
            model,
            "--adapter",
            &adapter,
            "--out",
            &at("fused"),
            "--format",
            "peft",
            "--experts-layout",
            "fused",
        ],
    );
    assert_eq!(generate(&["--adapter", &at("fused")])["ids"], tuned["ids"]);
    let (_, stderr) = expect(2, ["export", model, "--adapter", &adapter, "--out", &at("fused")]);
    assert!(stderr.contains("exists already"), "{stderr}");
}

/// An update below half a unit in the last place of bfloat16 is gone after merging.
#[test]
fn a_merge_that_loses_the_update_is_refused_and_leaves_nothing() {
    let base = checkpoint(&v3_config(), StoredDtype::Bf16);
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    write_data(Path::new(&at("rows.jsonl")), 40);
    let faint = SETTINGS.replace("2e-2", "1e-7");
    write_run(Path::new(&at("run.toml")), base.path(), Path::new(&at("rows.jsonl")), Path::new(&at("out")), &faint);
    expect(0, ["train", &at("run.toml")]);
    let (out, _) =
        expect(1, ["export", base.path().to_str().unwrap(), "--adapter", &at("out/adapter"), "--out", &at("merged")]);
    assert!(out.contains("refused") && out.contains("--dtype f32"), "{out}");
    let left: Vec<String> =
        std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert!(left.iter().all(|n| !n.starts_with("merged")), "{left:?}");
}
