//! Mistakes planted in the decoder itself (where the reference's mistakes are planted in the reference) must fail the
//! very comparison `check` makes, on golden fixtures and on random models that need no file.
use super::*;
use crate::build::build;
use crate::random::stream_of;
use crate::{Attention, MlaQuery, Mlp, Moe};
use loar_formats::config::{ModelConfig, RopeScaling};
use loar_tape::op::{RopeLayout, Scoring};
use loar_tape::{Frozen, Precision};
use serde_json::json;

fn options() -> LoadOptions {
    LoadOptions { threads: 2, precision: Precision::F32, ..LoadOptions::default() }
}

/// A model with lively weights: norms off 1, biases off 0, a choice bias below zero.
fn lively(json: &serde_json::Value) -> Model {
    let config = ModelConfig::from_json(json).expect("a valid config").0;
    build(config, options().context(), &mut |name: &str, rows: usize, cols: usize| {
        let (mean, std) = match name {
            n if n.ends_with("norm.weight") => (1.0, 0.2),
            n if n.ends_with("e_score_correction_bias") => (-1.5, 0.3),
            n if n.ends_with(".bias") => (0.0, 0.3),
            n if n.ends_with("mlp.gate.weight") => (0.0, 0.4),
            _ => (0.0, 0.18),
        };
        let mut data = vec![0f32; rows * cols];
        stream_of(11, name).fill_normal(0, std, &mut data);
        data.iter_mut().for_each(|x| *x += mean);
        Ok(Frozen::from_f32(rows, cols, data))
    })
    .expect("builds")
}

fn v3_like() -> serde_json::Value {
    json!({
        "model_type": "deepseek_v3", "vocab_size": 61, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 4, "max_position_embeddings": 128, "rms_norm_eps": 1e-6, "kv_lora_rank": 16, "q_lora_rank": 20, "qk_nope_head_dim": 10,
        "qk_rope_head_dim": 6, "v_head_dim": 9, "n_routed_experts": 8, "num_experts_per_tok": 3, "n_shared_experts": 1, "moe_intermediate_size": 12,
        "first_k_dense_replace": 1, "n_group": 4, "topk_group": 2, "norm_topk_prob": true, "routed_scaling_factor": 2.5,
        "rope_theta": 10000.0, "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "mscale": 1.0, "mscale_all_dim": 1.0},
    })
}

fn dense(model_type: &str) -> serde_json::Value {
    json!({
        "model_type": model_type, "vocab_size": 61, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 128, "rms_norm_eps": 1e-6, "tie_word_embeddings": false,
        "rope_theta": 10000.0, "rope_scaling": {"rope_type": "linear", "factor": 4.0},
    })
}

/// Where a mistake is planted and what the right logits are.
struct Target {
    name: String,
    load: Box<dyn Fn() -> Model>,
    batch: PackedBatch,
    logits: Vec<f32>,
}

fn random_target(name: &str) -> Target {
    let json = if name == "deepseek_v3" { v3_like() } else { dense(name) };
    let load: Box<dyn Fn() -> Model> = Box::new(move || lively(&json));
    let docs: Vec<Vec<u32>> =
        [40usize, 17].iter().map(|n| (0..*n as u32).map(|i| (i * 29 + *n as u32) % 61).collect()).collect();
    let flags: Vec<Vec<bool>> = docs.iter().map(|d| vec![true; d.len()]).collect();
    let pairs: Vec<(&[u32], &[bool])> = docs.iter().zip(&flags).map(|(d, f)| (&d[..], &f[..])).collect();
    let batch = PackedBatch::pack(&pairs);
    let logits = load().logits(&batch).data.into_vec();
    Target { name: format!("random {name}"), load, batch, logits }
}

fn golden_target(name: &str) -> Option<Target> {
    let dir = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/fixtures")).join(name);
    if !dir.exists() {
        println!("skipped: ../shared/fixtures/{name} is absent");
        return None;
    }
    let golden = Golden::open(&dir).expect("a golden file");
    let rows = Rows::read(&golden, &golden).expect("rows");
    let load: Box<dyn Fn() -> Model> = Box::new(move || Model::load(&dir, &options()).expect("loads"));
    let vocab = load().config.vocab_size;
    let logits = rows.real(&golden.file.to_f32("base.logits").expect("base.logits"), vocab);
    Some(Target { name: name.to_owned(), load, batch: rows.batch(), logits })
}

fn each_moe(model: &mut Model, change: impl Fn(&mut Moe)) {
    let mut found = false;
    for layer in &mut model.layers {
        if let Mlp::Moe(m) = &mut layer.mlp {
            change(m);
            found = true;
        }
    }
    assert!(found, "the target has a mixture");
}

type Mistake = (&'static str, fn(&mut Model), &'static [&'static str]);

const V3: &[&str] = &["deepseek_v3"];
const MISTAKES: &[Mistake] = &[
    (
        "rope layout swapped",
        |m| {
            m.rope.layout =
                if m.rope.layout == RopeLayout::Halves { RopeLayout::Interleaved } else { RopeLayout::Halves }
        },
        &["deepseek_v3", "llama", "qwen3"],
    ),
    (
        "rope scaling dropped",
        |m| {
            let (theta, n) = (m.config.rope.theta, m.rope.inv_freq.len());
            m.rope.inv_freq = (0..n).map(|i| theta.powf(-(i as f64) / n as f64) as f32).collect();
        },
        &["deepseek_v3", "llama"],
    ),
    ("rope factor 1.01", |m| m.rope.factor = 1.01, &["deepseek_v3", "llama"]),
    (
        "softmax without mscale²",
        |m| match &mut m.config.rope.scaling {
            RopeScaling::Yarn { mscale_all_dim, .. } => *mscale_all_dim = None,
            other => panic!("expected yarn, found {other:?}"),
        },
        V3,
    ),
    ("rms_norm_eps 1e-4", |m| m.config.rms_norm_eps = 1e-4, &["deepseek_v3", "llama", "qwen3"]),
    ("biases dropped", |m| m.each_linear_mut(&mut |l| l.bias = None), &["qwen2"]),
    (
        "q_norm and k_norm dropped",
        |m| {
            for layer in &mut m.layers {
                if let Attention::Gqa(a) = &mut layer.attention {
                    (a.q_norm, a.k_norm) = (None, None);
                }
            }
        },
        &["qwen3"],
    ),
    (
        "latent norms swapped for ones",
        |m| {
            for layer in &mut m.layers {
                if let Attention::Mla(a) = &mut layer.attention {
                    let ones = |w: &mut loar_tape::Weight| {
                        let n = w.shape(&loar_tape::ParamStore::default()).0;
                        *w = loar_tape::Weight::Frozen(Frozen::from_f32(n, 1, vec![1.0; n]));
                    };
                    ones(&mut a.kv_a_layernorm);
                    if let MlaQuery::LowRank { q_a_layernorm, .. } = &mut a.query {
                        ones(q_a_layernorm);
                    }
                }
            }
        },
        V3,
    ),
    ("group rule of V2", |m| each_moe(m, |m| m.rule.noaux_tc = false), V3),
    ("no group limit", |m| each_moe(m, |m| m.rule.n_group = 1), V3),
    ("one group fewer", |m| each_moe(m, |m| m.rule.topk_group = 1), V3),
    ("choice bias dropped", |m| each_moe(m, |m| m.rule.bias = None), V3),
    ("weights not normalised", |m| each_moe(m, |m| m.rule.norm_topk_prob = false), V3),
    ("routed scaling dropped", |m| each_moe(m, |m| m.rule.routed_scaling_factor = 1.0), V3),
    ("softmax scores", |m| each_moe(m, |m| m.rule.scoring = Scoring::Softmax), V3),
    ("one expert fewer", |m| each_moe(m, |m| m.rule.num_experts_per_tok -= 1), V3),
    ("experts in another order", |m| each_moe(m, |m| m.experts.rotate_left(1)), V3),
    ("shared experts dropped", |m| each_moe(m, |m| m.shared_experts = None), V3),
    (
        "gate and up swapped",
        |m| {
            for layer in &mut m.layers {
                if let Mlp::Dense(d) = &mut layer.mlp {
                    std::mem::swap(&mut d.gate_proj, &mut d.up_proj);
                }
            }
        },
        &["deepseek_v3", "llama", "qwen2", "qwen3"],
    ),
    ("head of the embedding", |m| m.lm_head.weight = m.embed_tokens.clone(), &["deepseek_v3", "llama", "qwen2"]),
    ("layers in another order", |m| m.layers[0..2].reverse(), &["llama", "qwen2", "qwen3"]),
];

fn verdict(target: &Target, plant: impl FnOnce(&mut Model)) -> Comparison {
    let mut model = (target.load)();
    plant(&mut model);
    let mut report = GoldenReport { dir: PathBuf::new(), comparisons: Vec::new() };
    report.compare("base.logits", &model.logits(&target.batch).data, &target.logits, LOGITS, false);
    assert_eq!(report.passed(), report.comparisons[0].ok);
    report.comparisons.remove(0)
}

fn run(targets: &dyn Fn(&str) -> Option<Target>) {
    let mut missed = Vec::new();
    for (what, plant, names) in MISTAKES {
        for name in *names {
            let Some(target) = targets(name) else { return };
            let right = verdict(&target, |_| {});
            assert!(right.ok, "{}: differs by {:e} without a mistake", target.name, right.max_abs);
            let c = verdict(&target, plant);
            println!("{what:<32}{:<22}{:>10.1e}", target.name, c.max_abs);
            if c.ok {
                missed.push(format!("{what} on {}: Δlogit {:.1e}", target.name, c.max_abs));
            }
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:#?}");
}

#[test]
fn mistakes_in_the_decoder_are_caught_on_random_models() {
    run(&|name| Some(random_target(name)));
}

#[test]
fn mistakes_in_the_decoder_are_caught_on_golden_fixtures() {
    run(&golden_target);
}

#[test]
fn a_comparison_fails_on_nan_on_length_and_on_one_wrong_entry() {
    let compare = |ours: &[f32], golden: &[f32], relative| {
        let mut report = GoldenReport { dir: PathBuf::new(), comparisons: Vec::new() };
        report.compare("x", ours, golden, 1e-4, relative);
        report.passed()
    };
    for relative in [false, true] {
        assert!(compare(&[1.0, 2.0], &[1.0, 2.0], relative));
        assert!(!compare(&[f32::NAN, 2.0], &[1.0, 2.0], relative));
        assert!(!compare(&[1.0, 2.0], &[1.0, f32::NAN], relative));
        assert!(!compare(&[f32::NAN, 2.0], &[f32::NAN, 2.0], relative), "NaN equals nothing");
        // A NaN that is not the last entry.
        assert!(!compare(&[f32::NAN, 2.0, 3.0], &[1.0, 2.0, 3.0], relative));
        assert!(!compare(&[1.0], &[1.0, 2.0], relative));
        assert!(!compare(&[1.0, 2.001], &[1.0, 2.0], relative));
    }
    // Relative to the largest entry, and an absolute bound that grows with entries above one.
    assert!(compare(&[1e-6, 1.0], &[5e-5, 1.0], true));
    assert!(!compare(&[1e-6, 1e-3], &[5e-5, 1e-3], true));
    assert!(compare(&[10.0005], &[10.0], false) && !compare(&[0.5002], &[0.5], false));
    assert!(!GoldenReport { dir: PathBuf::new(), comparisons: Vec::new() }.passed(), "nothing compared is not a pass");
}
