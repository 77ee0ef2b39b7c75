//! `loar quantize`, and what reads its folders.

mod common;

use std::path::Path;

use common::{checkpoint, expect, run, v3_config, write};
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
