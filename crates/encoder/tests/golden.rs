//! Vectors against those of sentence-transformers (`make_golden.py`), the laws of the crate (a vector depends on its
//! text alone), and what a folder that is no encoder is told.

use std::fs;
use std::path::{Path, PathBuf};

use loar_encoder::{Encoder, Options, Precision};
use serde_json::{Value, json};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn open(name: &str, threads: usize) -> Encoder {
    Encoder::open(&golden(name), &Options { threads, ..Options::default() }).unwrap()
}

fn expected(name: &str) -> Vec<(String, Vec<f32>)> {
    let text = fs::read_to_string(golden(name).join("expected.json")).unwrap();
    let rows: Vec<Value> = serde_json::from_str(&text).unwrap();
    let numbers = |row: &Value| row["vector"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect();
    rows.iter().map(|row| (row["text"].as_str().unwrap().to_owned(), numbers(row))).collect()
}

fn farthest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn vectors_are_those_of_sentence_transformers() {
    for name in ["bert", "cls", "e5"] {
        let (rows, encoder) = (expected(name), open(name, 2));
        let texts: Vec<&str> = rows.iter().map(|(text, _)| text.as_str()).collect();
        let vectors = encoder.encode(&texts);
        for ((text, want), got) in rows.iter().zip(&vectors) {
            assert_eq!(got.len(), encoder.dimensions());
            // not normalised values reach 3: the tolerance is relative to the vector's length then
            let size = want.iter().map(|v| v * v).sum::<f32>().sqrt().max(1.0);
            let error = farthest(got, want) / size;
            assert!(error <= 1e-5, "{name}, {text:?}: {error:e}");
        }
        // texts that differ have vectors that do: an encoder that ignored its input would fail here
        assert!(farthest(&vectors[0], &vectors[2]) > 0.05, "{name}");
    }
}

#[test]
fn a_vector_depends_on_its_text_alone() {
    for name in ["bert", "cls", "e5"] {
        let rows = expected(name);
        // more tokens than one batch takes
        let texts: Vec<&str> = rows.iter().map(|(text, _)| text.as_str()).cycle().take(200).collect();
        let (one, three) = (open(name, 1), open(name, 3));
        let together = three.encode(&texts);
        assert_eq!(one.encode(&texts), together, "{name}");
        for (text, vector) in texts.iter().zip(&together).take(8) {
            assert_eq!(&one.encode(&[text])[0], vector, "{name}: {text:?}");
        }
        assert_eq!(one.id(), three.id());
    }
    assert!(open("bert", 1).encode(&[]).is_empty());
}

#[test]
fn prompts_stand_before_the_text() {
    let with = |prompt: Option<&str>| {
        let prompt = prompt.map(str::to_owned);
        Encoder::open(&golden("e5"), &Options { prompt, threads: 1, ..Options::default() }).unwrap()
    };
    let (query, passage, none) = (with(None), with(Some("passage")), with(Some("")));
    assert_eq!((query.prompt(), passage.prompt(), none.prompt()), ("query: ", "passage: ", ""));
    let text = ["the rate of a loan"];
    assert_eq!(query.encode(&text), none.encode(&["query: the rate of a loan"]));
    assert_eq!(passage.encode(&text), query.encode_as(query.named_prompt("passage").unwrap(), &text));
    assert_ne!(passage.encode(&text), query.encode(&text));
    assert_ne!(passage.id(), query.id());
}

#[test]
fn rounded_products_keep_the_direction() {
    let options = Options { precision: Precision::Bf16, threads: 1, ..Options::default() };
    let rough = Encoder::open(&golden("bert"), &options).unwrap();
    assert_ne!(rough.id(), open("bert", 1).id());
    for (text, want) in expected("bert") {
        let got = &rough.encode(&[&text])[0];
        let cosine: f32 = got.iter().zip(&want).map(|(a, b)| a * b).sum();
        assert!(cosine > 0.999, "{text:?}: {cosine}");
    }
}

#[test]
fn fewer_tokens_may_be_asked_for_and_more_may_not() {
    let long = "the rain is a risk of the loan";
    let open =
        |max| Encoder::open(&golden("bert"), &Options { max_tokens: Some(max), threads: 1, ..Options::default() });
    assert_eq!(open(5).unwrap().encode(&[long]), open(24).unwrap().encode(&["the rain is"]));
    assert_ne!(open(24).unwrap().encode(&[long]), open(24).unwrap().encode(&["the rain is"]));
    assert!(open(25).unwrap_err().to_string().contains("3 to 24 are possible"));
}

/// A copy of a golden folder with some of its files changed.
fn changed(change: impl Fn(&Path)) -> String {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("1_Pooling")).unwrap();
    for file in [
        "config.json",
        "modules.json",
        "1_Pooling/config.json",
        "model.safetensors",
        "tokenizer.json",
        "sentence_bert_config.json",
    ] {
        fs::copy(golden("bert").join(file), dir.path().join(file)).unwrap();
    }
    change(dir.path());
    match Encoder::open(dir.path(), &Options { threads: 1, ..Options::default() }) {
        Ok(encoder) => format!("opened {encoder:?}"),
        Err(error) => error.to_string(),
    }
}

fn edit(dir: &Path, file: &str, set: &[(&str, Value)]) {
    let path = dir.join(file);
    let mut map: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    for (key, value) in set {
        map[*key] = value.clone();
    }
    fs::write(path, map.to_string()).unwrap();
}

#[test]
fn a_folder_that_is_no_encoder_is_told_everything() {
    assert!(changed(|_| {}).starts_with("opened"), "{}", changed(|_| {}));
    let told = |change: &dyn Fn(&Path), words: &[&str]| {
        let error = changed(change);
        for word in words {
            assert!(error.contains(word), "`{word}` is not in\n{error}");
        }
    };
    told(
        &|dir| {
            let wrong = [
                ("model_type", json!("mpnet")),
                ("hidden_act", json!("relu")),
                ("num_attention_heads", json!(3)),
                ("num_hidden_layers", json!("two")),
            ];
            edit(dir, "config.json", &wrong);
            edit(dir, "1_Pooling/config.json", &[("pooling_mode_lasttoken", json!(true))]);
        },
        &["5 faults", "mpnet", "bert, roberta, xlm-roberta", "relu", "no multiple of 3", "\"two\"", "`lasttoken`"],
    );
    told(
        &|dir| edit(dir, "config.json", &[("intermediate_size", json!(41)), ("num_hidden_layers", json!(3))]),
        &["tensor `encoder.layer.2.attention.self.query.weight` is missing", "is [40, 16], expected [41, 16]"],
    );
    told(&|dir| edit(dir, "config.json", &[("num_hidden_layers", json!(1))]), &["belongs to no layer"]);
    told(&|dir| edit(dir, "config.json", &[("vocab_size", json!(20))]), &["tokenizer.json", "`vocab_size` 20"]);
    let modules = json!([
        { "path": "", "type": "sentence_transformers.models.Transformer" },
        { "path": "1_Pooling", "type": "sentence_transformers.models.Pooling" },
        { "path": "2_Dense", "type": "sentence_transformers.models.Dense" },
    ]);
    told(&|dir| fs::write(dir.join("modules.json"), modules.to_string()).unwrap(), &["Dense"]);
    told(&|dir| fs::remove_file(dir.join("config.json")).unwrap(), &["config.json cannot be read"]);
    told(&|dir| fs::remove_file(dir.join("model.safetensors")).unwrap(), &["model.safetensors"]);
    told(&|dir| fs::write(dir.join("tokenizer.json"), "{}").unwrap(), &["tokenizer.json"]);
    let bytes = fs::read(golden("bert").join("model.safetensors")).unwrap();
    told(&|dir| fs::write(dir.join("model.safetensors"), &bytes[..bytes.len() - 4]).unwrap(), &["model.safetensors"]);
}
