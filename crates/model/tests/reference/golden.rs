//! The golden logits of `../shared/fixtures`, against the reference.
use crate::common::{logits_agree, shared};
use crate::forward::Reference;
use crate::mutation::Mutation;
use loar_formats::safetensors::Checkpoint;

const NAMES: [&str; 9] = [
    "llama",
    "llama_linear_rope",
    "qwen2",
    "qwen3",
    "deepseek_v2_lite",
    "deepseek_v2",
    "deepseek_v3",
    "deepseek_v3_experts",
    "deepseek_v3_all",
];

/// One fixture: its rows without padding, and the base logits of transformers at their tokens.
pub struct Fixture {
    reference: Reference,
    docs: Vec<Vec<u32>>,
    logits: Vec<f32>,
}

fn integers(file: &Checkpoint, name: &str) -> Vec<i64> {
    let bytes = file.bytes(name).expect("a tensor of the fixture");
    let bytes: &[u8] = bytes.as_ref();
    match file.info(name).expect("a tensor of the fixture").dtype.name() {
        "I64" => bytes.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().expect("eight bytes"))).collect(),
        "I32" => {
            bytes.chunks_exact(4).map(|b| i64::from(i32::from_le_bytes(b.try_into().expect("four bytes")))).collect()
        }
        other => panic!("`{name}` is {other}"),
    }
}

impl Fixture {
    pub fn open(name: &str) -> Option<Fixture> {
        let dir = shared(&format!("fixtures/{name}"))?;
        let file = Checkpoint::open_file(&dir.join("golden.safetensors")).expect("a golden file");
        let reference = Reference::open(&dir);
        let width = file.info("input_ids").expect("input_ids").shape[1];
        let vocab = reference.config.vocab_size;
        let (ids, mask) = (integers(&file, "input_ids"), integers(&file, "attention_mask"));
        let padded = file.to_f32("base.logits").expect("base.logits");
        let (mut docs, mut logits) = (Vec::new(), Vec::new());
        for (r, row) in ids.chunks_exact(width).enumerate() {
            let len = mask[r * width..(r + 1) * width].iter().filter(|m| **m != 0).count();
            docs.push(row[..len].iter().map(|i| *i as u32).collect());
            logits.extend_from_slice(&padded[r * width * vocab..(r * width + len) * vocab]);
        }
        Some(Fixture { reference, docs, logits })
    }

    /// Whether the reference with this mistake agrees, and the largest difference.
    pub fn compare(&self, mutation: Mutation) -> (bool, f64) {
        logits_agree(&self.reference.logits(&self.docs, mutation), &self.logits)
    }
}

#[test]
fn the_reference_equals_transformers_on_all_nine_fixtures() {
    for name in NAMES {
        let Some(fixture) = Fixture::open(name) else { return };
        let (ok, gap) = fixture.compare(Mutation::None);
        println!("{name:<20} largest difference {gap:.1e}");
        assert!(ok, "{name}: logits differ from transformers by {gap:e}");
    }
}

#[test]
fn the_decoder_passes_every_golden_comparison() {
    let options = crate::common::options(2);
    for name in NAMES {
        let Some(dir) = shared(&format!("fixtures/{name}")) else { return };
        let report = loar_model::golden::check(&dir, None, &options).unwrap_or_else(|e| panic!("{name}: {e}"));
        let wrong: Vec<_> = report.comparisons.iter().filter(|c| !c.ok).collect();
        assert!(report.passed(), "{name}: {wrong:#?}");
        let has = |n: &str| report.comparisons.iter().any(|c| c.name.starts_with(n));
        for part in [
            "base.logits",
            "base_loss",
            "base.greedy",
            "adapter.logits",
            "adapter_loss",
            "grad.",
            "train_loss step 9",
            "grad_norm step 9",
            "trained.",
        ] {
            assert!(has(part), "{name}: nothing named `{part}` was compared");
        }
    }
}

#[test]
fn every_variant_of_peft_computes_what_peft_computes() {
    let (Some(base), Some(variants)) = (shared("fixtures/llama"), shared("fixtures/peft_variants")) else { return };
    let mut names: Vec<_> =
        std::fs::read_dir(variants).expect("a folder").map(|e| e.expect("an entry").path()).collect();
    names.sort();
    assert!(names.len() >= 9, "{names:?}");
    for dir in names {
        let report = loar_model::golden::check(&dir, Some(&base), &crate::common::options(2))
            .unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        assert!(report.passed(), "{}: {:#?}", dir.display(), report.comparisons);
        for part in ["adapter.logits", "merged.logits"] {
            assert!(report.comparisons.iter().any(|c| c.name == part), "{}: `{part}`", dir.display());
        }
    }
}
