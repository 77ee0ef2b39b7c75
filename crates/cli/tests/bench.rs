//! `loar bench` on tiny shapes: what its JSON holds, that runs repeat bit for bit, and what it refuses.

mod common;

use common::expect;
use serde_json::Value;

fn json(args: &[&str]) -> Value {
    let (stdout, _) = expect(0, [&["bench"], args, &["--json"]].concat());
    assert_eq!(stdout.lines().count(), 1, "{stdout}");
    serde_json::from_str(&stdout).expect("one JSON object")
}

fn positive(record: &Value, fields: &[&str]) {
    for field in fields {
        assert!(record[field].as_f64().is_some_and(|x| x > 0.0 && x.is_finite()), "{field} in {record}");
    }
}

/// Every record says where and how it was measured.
fn complete(record: &Value, name: &str) {
    assert_eq!(record["bench"], name);
    let peaks = &record["machine"]["peaks"];
    positive(peaks, &["f32_gflops", "bf16_gflops", "read_bytes_per_s"]);
    positive(record, &["peak_rss_bytes"]);
    assert!(record["machine"]["cpu"].is_string() && record["machine"]["isa"].is_string());
    assert_eq!(record["machine"]["threads"], 1);
    assert_eq!(record["version"], env!("CARGO_PKG_VERSION"));
    assert!(record["commit"].as_str().is_some_and(|c| !c.is_empty()));
    assert_eq!(record["options"]["seed"], 0);
}

#[test]
fn a_training_step_is_measured_and_repeats() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().to_str().unwrap();
    let args = ["train", "--shape", "tiny", "--dir", dir, "--threads", "1", "--rank", "4", "--steps", "2"];
    let plain = json(&[&args[..], &["--lengths", "9,14,3", "--batch", "2"]].concat());
    complete(&plain, "train");
    positive(&plain, &["useful_tokens_per_s", "tokens_per_s", "gflops", "share_of_peak", "median_step_seconds"]);
    assert_eq!(plain["step_tokens"], serde_json::json!([12, 17]));
    assert_eq!(plain["losses"].as_array().unwrap().len(), 3);
    assert_eq!(plain["options"]["lengths"], serde_json::json!([9, 14, 3]));
    // recomputed layers and a second thread change no bit
    let args = [&args[..], &["--lengths", "9,14,3", "--batch", "2", "--checkpointing"]].concat();
    let two: Vec<&str> = args.iter().map(|a| if *a == "1" { "2" } else { *a }).collect();
    for again in [json(&args), json(&two)] {
        assert_eq!(again["result"], plain["result"]);
    }
    let (unfinished, kept): (Vec<_>, Vec<_>) = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .partition(|name| name.starts_with('.'));
    assert!(unfinished.is_empty() && kept == ["tiny-2-layers-bf16"], "{unfinished:?} {kept:?}");
}

#[test]
fn experts_masked_prompts_and_packs() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().to_str().unwrap();
    let base = ["--shape", "tiny-moe", "--dir", dir, "--threads", "1", "--dtype", "f32"];
    let train = ["train", "--tokens", "40", "--document", "16", "--masked", "0.5", "--steps", "1"];
    let record = json(&[&train[..], &base].concat());
    complete(&record, "train");
    assert_eq!(record["step_tokens"], serde_json::json!([40]));
    let labelled = record["labelled_tokens_per_s"].as_f64().unwrap() / record["tokens_per_s"].as_f64().unwrap();
    assert!((labelled - 0.5).abs() < 1e-9, "{labelled}");
    let record = json(&[&["growth", "--tokens", "16,48", "--document", "16", "--steps", "1"][..], &base].concat());
    complete(&record, "growth");
    assert_eq!(record["points"][1]["tokens"], 48);
    assert!(record["exponent"].as_f64().is_some_and(f64::is_finite));
}

#[test]
fn generation_is_measured() {
    let dir = tempfile::tempdir().unwrap();
    let base = ["--shape", "tiny", "--dir", dir.path().to_str().unwrap(), "--threads", "1", "--prompt", "20"];
    let record = json(&[&["prefill", "--steps", "2"][..], &base].concat());
    complete(&record, "prefill");
    positive(&record, &["tokens_per_s", "gflops", "share_of_peak"]);
    let record = json(&[&["decode", "--new", "5", "--steps", "1", "--base-dtype", "int8"][..], &base].concat());
    complete(&record, "decode");
    assert_eq!(record["options"]["base_dtype"], "int8");
    positive(&record, &["tokens_per_s", "share_of_bandwidth", "weight_bytes_per_token"]);
    let record = json(&[&["paths", "--new", "5", "--paths", "3", "--steps", "1"][..], &base].concat());
    complete(&record, "paths");
    positive(&record, &["tokens_per_s", "ratio"]);
    assert_eq!(record["identical"], true);
}

#[test]
fn people_get_a_table() {
    let args = ["bench", "gemm", "--shape", "tiny", "--tokens", "8", "--threads", "1", "--isa", "scalar"];
    let (stdout, stderr) = expect(0, args);
    for part in ["share_of_peak", "GFLOP/s", "x·Wᵀ", "dY·W", "isa scalar"] {
        assert!(stdout.contains(part), "{part} in\n{stdout}");
    }
    assert!(stderr.contains("6/6"), "{stderr}");
}

#[test]
fn what_cannot_be_measured_is_refused() {
    for (args, part) in [
        (&["gemm", "--isa", "mmx"][..], "mmx"),
        (&["train", "--shape", "tiny", "--masked", "1.5"], "1.5"),
        (&["train", "--shape", "tiny", "--lengths", "4,0"], "lengths"),
        (&["decode", "--shape", "tiny", "--layers", "0"], "layers"),
        (&["decode", "--shape", "gpt-5"], "qwen2-0.5b"),
        (&["decode", "--shape", "tiny", "--base-dtype", "int3"], "int4"),
    ] {
        let (stdout, stderr) = expect(2, [&["bench"], args].concat());
        assert!(stdout.is_empty() && stderr.contains(part), "{args:?}: {stderr}");
    }
    // a file where the folder should be
    let (_, stderr) = expect(3, ["bench", "decode", "--shape", "tiny", "--dir", env!("CARGO_BIN_EXE_loar")]);
    assert!(!stderr.is_empty());
}
