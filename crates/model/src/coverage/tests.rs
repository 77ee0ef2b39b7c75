//! Adapter sizes on the real shapes of released models, against closed forms and against totals other tools print. The
//! models are built without weights: sizes need names and shapes only.
use crate::build::build;
use crate::{AdapterSpec, Coverage, LoadOptions, Model, Targets};
use loar_formats::config::ModelConfig;
use loar_formats::names::expected_tensors;
use loar_tape::{Frozen, Storage};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

fn base(model_type: &str, layers: usize, hidden: usize, inter: usize, heads: usize, kv: usize, vocab: usize) -> Value {
    json!({
        "model_type": model_type, "num_hidden_layers": layers, "hidden_size": hidden, "intermediate_size": inter, "num_attention_heads": heads,
        "num_key_value_heads": kv, "vocab_size": vocab, "max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "tie_word_embeddings": false,
    })
}

fn with(mut c: Value, extra: Value) -> Value {
    for (k, v) in extra.as_object().expect("an object") {
        c[k] = v.clone();
    }
    c
}

fn v2_lite() -> Value {
    with(
        base("deepseek_v2", 27, 2048, 10944, 16, 16, 102_400),
        json!({"q_lora_rank": null, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "n_routed_experts": 64,
               "n_shared_experts": 2, "num_experts_per_tok": 6, "moe_intermediate_size": 1408, "first_k_dense_replace": 1, "topk_method": "greedy"}),
    )
}

fn v3() -> Value {
    with(
        base("deepseek_v3", 61, 7168, 18432, 128, 128, 129_280),
        json!({"q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "n_routed_experts": 256,
               "n_shared_experts": 1, "num_experts_per_tok": 8, "moe_intermediate_size": 2048, "first_k_dense_replace": 3, "n_group": 8, "topk_group": 4,
               "num_nextn_predict_layers": 1}),
    )
}

fn llama_3_2_3b() -> Value {
    with(base("llama", 28, 3072, 8192, 24, 8, 128_256), json!({"head_dim": 128, "tie_word_embeddings": true}))
}

fn config(json: &Value) -> ModelConfig {
    ModelConfig::from_json(json).expect("a valid config").0
}

/// A model of this shape whose matrices hold no numbers, or zeros shared by all of one shape.
fn hollow(json: &Value, zeros: bool) -> Model {
    let mut shared: BTreeMap<(usize, usize), Arc<Vec<u16>>> = BTreeMap::new();
    let options = LoadOptions { threads: 1, ..LoadOptions::default() };
    build(config(json), options.context(), &mut |_: &str, rows: usize, cols: usize| {
        let len = if zeros || cols == 1 { rows * cols } else { 0 };
        let data = shared.entry((rows, cols)).or_insert_with(|| Arc::new(vec![0; len])).clone();
        Ok(Frozen { rows, cols, storage: Storage::Bf16(data) })
    })
    .expect("builds")
}

fn attach(json: &Value, spec: &AdapterSpec, zeros: bool) -> Model {
    let mut model = hollow(json, zeros);
    model.attach(spec, 1).expect("fits");
    model
}

fn regex(pattern: &str, rank: usize) -> AdapterSpec {
    AdapterSpec::new(rank, 16.0, Targets::Regex(pattern.into()))
}

fn names(names: &[&str], rank: usize) -> AdapterSpec {
    AdapterSpec::new(rank, 16.0, Targets::Modules(names.iter().map(|n| (*n).to_owned()).collect()))
}

const ALL_BUT_ROUTED: &str = r".*\.self_attn\..*|.*\.mlp\.(shared_experts\.)?(gate|up|down)_proj";
const ALL_LINEAR: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

fn trainable(c: &Coverage, components: &[&str]) -> usize {
    c.rows.iter().filter(|r| components.contains(&r.component.as_str())).map(|r| r.trainable).sum()
}

fn trainable_of(model: &Model, leaf: &str) -> usize {
    model.params.iter().filter(|(_, p)| p.name.contains(&format!(".{leaf}."))).map(|(_, p)| p.count()).sum()
}

const ATTENTION: [&str; 3] = ["mla q", "mla kv", "attention o"];

#[test]
fn v2_lite_at_rank_8() {
    let model = attach(&v2_lite(), &regex(ALL_BUT_ROUTED, 8), false);
    let c = model.coverage();
    assert_eq!(trainable(&c, &ATTENTION), 3_552_768);
    assert_eq!(trainable(&c, &["mla q"]), 1_105_920);
    assert_eq!(trainable_of(&model, "kv_a_proj_with_mqa"), 566_784);
    assert_eq!(trainable_of(&model, "kv_b_proj"), 995_328);
    assert_eq!(trainable(&c, &["mla kv"]), 566_784 + 995_328);
    assert_eq!(trainable(&c, &["attention o"]), 884_736);
    assert_eq!(trainable(&c, &["dense"]), 311_808);
    assert_eq!(trainable(&c, &["shared"]), 3_035_136);
    assert_eq!(c.trainable(), 6_899_712);
    assert_eq!(model.trainable_count(), 6_899_712);
    // Routed experts at rank 1: every matrix counts r·(in + out), so rank 8 is eight times that.
    let routed = attach(&v2_lite(), &regex(r".*\.experts\..*", 1), false);
    assert_eq!(8 * trainable(&routed.coverage(), &["routed"]), 138_018_816);
    assert_eq!(6_899_712 + 138_018_816, 144_918_528);
    // 15.7 B parameters in all.
    assert_eq!(c.parameters(), model.count());
    assert!((15.6e9..15.8e9).contains(&(model.count() as f64)), "{}", model.count());
}

#[test]
fn v3_at_rank_8() {
    let model = attach(&v3(), &regex(ALL_BUT_ROUTED, 1), false);
    let c = model.coverage();
    assert_eq!(8 * trainable(&c, &ATTENTION), 48_503_296);
    assert_eq!(8 * trainable(&c, &["dense"]), 1_843_200);
    assert_eq!(8 * trainable(&c, &["shared"]), 12_828_672);
    // 3.3 billion numbers are counted, not made.
    assert_eq!(lora_size(&v3(), 8, |n| n.contains(".experts.")), 3_284_140_032);
    // 671 B without the prediction layer; of the attention weights `o_proj` is 63 %.
    assert!((670e9..672e9).contains(&(model.count() as f64)), "{}", model.count());
    let rows: BTreeMap<&str, usize> = c.rows.iter().map(|r| (r.component.as_str(), r.parameters)).collect();
    let all: usize = ATTENTION.iter().map(|n| rows[n]).sum();
    assert_eq!((100.0 * rows["attention o"] as f64 / all as f64).round(), 63.0);
    assert!(c.rows.iter().filter(|r| r.component.starts_with("router")).all(|r| r.trainable == 0 && r.adapted == 0));
}

#[test]
fn distils_at_rank_8_on_all_linear() {
    let models = [
        (base("qwen2", 28, 1536, 8960, 12, 2, 151_936), 9_232_384, 1.77e9..1.79e9),
        (base("qwen2", 28, 3584, 18944, 28, 4, 152_064), 20_185_088, 7.6e9..7.63e9),
        (base("llama", 32, 4096, 14336, 32, 8, 128_256), 20_971_520, 8.02e9..8.04e9),
    ];
    for (json, expected, size) in models {
        let model = attach(&json, &names(&ALL_LINEAR, 8), false);
        assert_eq!(model.trainable_count(), expected);
        assert_eq!(model.coverage().trainable(), expected);
        assert_eq!(lora_size(&json, 8, |_| true), expected);
        assert!(size.contains(&(model.count() as f64)), "{}", model.count());
        let preset = attach(&json, &AdapterSpec::new(8, 16.0, Targets::Preset(crate::Preset::AllLinear)), false);
        assert_eq!(preset.trainable_count(), expected);
    }
    // Distill-Qwen-1.5B at rank 16.
    assert_eq!(
        attach(&base("qwen2", 28, 1536, 8960, 12, 2, 151_936), &names(&ALL_LINEAR, 16), false).trainable_count(),
        18_464_768
    );
}

#[test]
fn llama_3_2_3b_as_peft_counts_it() {
    let json = llama_3_2_3b();
    assert_eq!(attach(&json, &names(&["q_proj", "v_proj"], 32), false).trainable_count(), 9_175_040);
    let rslora = AdapterSpec { use_rslora: true, ..names(&["q_proj", "v_proj"], 64) };
    assert_eq!(attach(&json, &rslora, false).trainable_count(), 18_350_080);
    let dora = AdapterSpec { use_dora: true, ..names(&["q_proj", "v_proj"], 32) };
    assert_eq!(attach(&json, &dora, true).trainable_count(), 9_289_728);
    assert_eq!(attach(&json, &names(&["gate_proj", "up_proj", "down_proj"], 10), false).trainable_count(), 9_461_760);
}

/// r·(in + out) over the linears of the body that `wanted` keeps, from names and shapes alone.
fn lora_size(json: &Value, rank: usize, wanted: impl Fn(&str) -> bool) -> usize {
    expected_tensors(&config(json))
        .into_iter()
        .filter(|(n, s, _)| s.len() == 2 && n.starts_with("model.layers.") && !n.contains(".mlp.gate.") && wanted(n))
        .map(|(_, s, _)| rank * (s[0] + s[1]))
        .sum()
}

#[test]
fn the_list_for_plain_attention_misses_44_percent_of_an_mla_adapter() {
    let mut model = hollow(&v2_lite(), false);
    let error = model.attach(&names(&ALL_LINEAR, 8), 1).expect_err("k_proj and v_proj do not exist here").to_string();
    assert!(error.contains("`k_proj`") && error.contains("`v_proj`"), "{error}");
    let kv = lora_size(&v2_lite(), 8, |n| n.contains(".kv_"));
    let attention = lora_size(&v2_lite(), 8, |n| n.contains(".self_attn."));
    assert_eq!((attention, (100.0 * kv as f64 / attention as f64).round()), (3_552_768, 44.0));
}
