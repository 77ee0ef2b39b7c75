//! `loar quantize`, and what reads its folders.

mod common;

use std::path::Path;

use common::{checkpoint, expect, run, v3_config, write, write_data, write_run};
use loar_model::StoredDtype;
use serde_json::Value;

fn path(dir: &Path) -> &str {
    dir.to_str().unwrap()
}

#[test]
fn a_quantised_folder_generates_what_quantising_while_loading_does() {
    let model = checkpoint(&v3_config(), StoredDtype::Bf16);
    write(&model.path().join("LICENSE"), "MIT");
    let out = tempfile::tempdir().unwrap();
    let generate = |dir: &str, base: &str| {
        run(["generate", dir, "--prompt", "2+2?", "--seed", "3", "--max-new-tokens", "24", "--base-dtype", base]).stdout
    };
    let plain = generate(path(model.path()), "as-stored");
    for dtype in ["int8", "int4", "fp8-block"] {
        let to = out.path().join(dtype);
        let (json, _) = expect(0, ["quantize", path(model.path()), "--dtype", dtype, "--out", path(&to), "--json"]);
        let json: Value = serde_json::from_str(&json).unwrap();
        let q = &json["quantization"];
        let size = |v: &Value| v.as_u64().unwrap();
        assert!(size(&q["bytes_after"]) < size(&q["bytes_before"]) && size(&q["matrices"]) > 10, "{json}");
        for k in q["kinds"].as_array().unwrap() {
            let (mean, worst) = (k["mean"].as_f64().unwrap(), k["worst"].as_f64().unwrap());
            assert!(0.0 < mean && mean <= worst && worst < 0.2, "{k}");
        }
        for name in ["tokenizer.json", "LICENSE", "manifest.json", "config.json", "model.safetensors"] {
            assert!(to.join(name).is_file(), "{name}");
        }
        let manifest = loar_artifact::Manifest::read(&to).unwrap();
        assert!(manifest.verify(&to).is_empty());
        assert_eq!(
            (manifest.parents[0].role.as_str(), manifest.facts["quantization"]["dtype"].as_str()),
            ("base", Some(dtype))
        );
        // The folder is the base quantised while loading, and says what it is.
        let made = generate(path(&to), "as-stored");
        assert_eq!(made, generate(path(model.path()), dtype), "{dtype}");
        assert!(!plain.is_empty() && !made.is_empty());
        let (text, _) = expect(0, ["inspect", path(&to)]);
        assert!(
            text.contains("quantised") && text.contains(&format!("{dtype}: ")) && text.contains("bits a number"),
            "{text}"
        );
        let (json, _) = expect(0, ["inspect", path(&to), "--json"]);
        let json: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["quantization"]["dtype"], dtype);
        let (of_model, _) = expect(0, ["inspect", path(model.path()), "--json"]);
        let of_model: Value = serde_json::from_str(&of_model).unwrap();
        assert!(of_model["quantization"].is_null());
        assert_eq!(json["parameters"], of_model["parameters"]);
        for (a, b) in json["components"].as_array().unwrap().iter().zip(of_model["components"].as_array().unwrap()) {
            assert_eq!((&a["tensors"], &a["parameters"]), (&b["tensors"], &b["parameters"]), "{dtype}: {a}");
        }
    }
    let leftovers = std::fs::read_dir(out.path()).unwrap().count();
    assert_eq!(leftovers, 3, "no partial folder stays");
}

#[test]
fn what_cannot_be_quantised_is_refused_and_leaves_nothing() {
    let model = checkpoint(&v3_config(), StoredDtype::Bf16);
    let out = tempfile::tempdir().unwrap();
    let taken = out.path().join("taken");
    std::fs::create_dir(&taken).unwrap();
    // An empty folder is as good as none.
    let (text, _) = expect(0, ["quantize", path(model.path()), "--dtype", "int4", "--out", path(&taken)]);
    assert!(text.contains("before") && text.contains("worst error"), "{text}");
    let (_, stderr) = expect(2, ["quantize", path(model.path()), "--dtype", "int8", "--out", path(&taken)]);
    assert!(stderr.contains("is not empty"), "{stderr}");
    let other = out.path().join("other");
    let (_, stderr) = expect(2, ["quantize", path(&taken), "--dtype", "int4", "--out", path(&other)]);
    assert!(stderr.contains("int4 already"), "{stderr}");
    let (_, stderr) = expect(2, ["quantize", path(&taken), "--dtype", "int8", "--out", path(&other)]);
    assert!(stderr.contains("stored as int4"), "{stderr}");
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 1);
}

/// An adapter trained on a quantised base is merged into that base; asked for, into the original; said in either case.
#[test]
fn an_export_says_which_base_it_merged_into() {
    const SETTINGS: &str = "[base]\ndtype = \"int4\"\n[adapter]\nrank = 4\n[train]\nsteps = 6\nbatch_rows = 4\n\
        learning_rate = 2e-2\n";
    let base = checkpoint(&v3_config(), StoredDtype::Bf16);
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    write_data(Path::new(&at("rows.jsonl")), 40);
    write_run(Path::new(&at("run.toml")), base.path(), Path::new(&at("rows.jsonl")), Path::new(&at("out")), SETTINGS);
    let (plan, _) = expect(0, ["plan", &at("run.toml"), "--json"]);
    let planned = |text: &str| {
        let plan: Value = serde_json::from_str(text).unwrap();
        let items = plan["plan"]["memory"].as_array().unwrap().clone();
        items.iter().find(|m| m["component"] == "base weights").unwrap()["bytes"].as_u64().unwrap()
    };
    let (wide, _) = expect(0, ["plan", &at("run.toml"), "--json", "--set", "base.dtype=as-stored"]);
    assert!(planned(&plan) < planned(&wide), "the plan counts codes");
    expect(0, ["train", &at("run.toml")]);
    let model = path(base.path());
    let adapter = at("out/adapter");
    let export = |out: &str, more: &[&str]| {
        let out = at(out);
        let args = ["export", model, "--adapter", &adapter, "--out", &out, "--dtype", "f32", "--json"];
        let (text, _) = expect(0, args.iter().chain(more).copied());
        serde_json::from_str::<Value>(&text).unwrap()["certificate"].clone()
    };
    let logits = |v: &Value| v["max_logit_gap"].as_f64().unwrap();
    let (trained, original) = (export("trained", &[]), export("original", &["--onto", "original"]));
    for (c, onto) in [(&trained, "trained"), (&original, "original")] {
        assert_eq!((c["base"]["onto"].as_str(), c["base"]["trained_on"].as_str()), (Some(onto), Some("int4")), "{c}");
        assert_eq!(c["base"]["stored"], "bf16");
        // Either file is what it says, and the two are apart by what was measured.
        assert!(logits(&c["merged"]) < 1e-3 && logits(&c["base"]["between"]) > 1e-2, "{c}");
    }
    assert_eq!(trained["base"]["between"], original["base"]["between"]);
    assert!(trained["weights"]["dequantized_tensors"].as_u64() > Some(0), "the head is int4 and not adapted");
    assert_eq!(original["weights"]["dequantized_tensors"], 0);
    let manifest = loar_artifact::Manifest::read(Path::new(&at("trained"))).unwrap();
    assert_eq!(manifest.facts["base"]["onto"], "trained");
    // What is served of the merged files is what was trained.
    let generate = |args: &[&str]| {
        let fixed = ["--prompt", "2+3?", "--temperature", "0", "--json", "--dtype", "f32", "--max-new-tokens", "12"];
        let (out, _) = expect(0, ["generate"].iter().chain(args).chain(&fixed).copied());
        serde_json::from_str::<Value>(&out).unwrap()["ids"].clone()
    };
    assert_eq!(generate(&[&at("trained")]), generate(&[model, "--adapter", &adapter, "--base-dtype", "int4"]));
    assert_eq!(generate(&[&at("original")]), generate(&[model, "--adapter", &adapter]));
    // The quantised folder is the base of training too, and the original is not in it.
    expect(0, ["quantize", model, "--dtype", "int4", "--out", &at("four")]);
    let (text, _) = expect(0, ["export", &at("four"), "--adapter", &adapter, "--out", &at("again"), "--dtype", "f32"]);
    assert!(text.contains("merged into the base the adapter was trained on"), "{text}");
    let bytes = |name: &str| std::fs::read(at(&format!("{name}/model.safetensors"))).unwrap();
    assert!(bytes("again") == bytes("trained"));
    for (from, more, said) in [
        ("four", ["--onto", "original"], "name the original checkpoint as MODEL"),
        ("four", ["--base-dtype", "int8"], "manifest says it was trained on int4"),
    ] {
        let args = ["export", &at(from), "--adapter", &adapter, "--out", &at("never")];
        let (_, stderr) = expect(2, args.into_iter().chain(more));
        assert!(stderr.contains(said), "{stderr}");
    }
    expect(0, ["quantize", model, "--dtype", "int8", "--out", &at("eight")]);
    let (_, stderr) = expect(2, ["export", &at("eight"), "--adapter", &adapter, "--out", &at("never")]);
    assert!(stderr.contains("trained on a base in int4, and this checkpoint holds int8"), "{stderr}");
    // Overruled, and said so.
    let (text, _) = expect(
        0,
        [
            "export",
            model,
            "--adapter",
            &adapter,
            "--out",
            &at("forced"),
            "--base-dtype",
            "as-stored",
            "--dtype",
            "f32",
            "--json",
        ],
    );
    let forced: Value = serde_json::from_str(&text).unwrap();
    assert!(forced["certificate"]["base"]["between"].is_null());
    assert!(bytes("forced") == bytes("original"));
}
