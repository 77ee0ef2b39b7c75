//! Cut and flipped files of every kind: an error or a result, never a panic.

mod common;

use std::path::Path;

use loar_formats::config::ModelConfig;
use loar_formats::generation::GenerationConfig;
use loar_formats::names::expected_tensors;
use loar_formats::peft::{AdapterConfig, parse_keys};
use loar_formats::safetensors::{Checkpoint, DType, TensorOut, encode, parse_header, parse_index};
use proptest::prelude::*;

/// A flip of bits in one byte, at a position relative to the length.
fn flips() -> impl Strategy<Value = Vec<(f64, u8)>> {
    prop::collection::vec((0.0..1.0f64, 1..=255u8), 0..6)
}

fn damage(mut bytes: Vec<u8>, cut: f64, flips: &[(f64, u8)]) -> Vec<u8> {
    let at = |share: f64, len: usize| ((share * len as f64) as usize).min(len.saturating_sub(1));
    bytes.truncate((cut * (bytes.len() + 1) as f64) as usize);
    for (share, bits) in flips {
        let index = at(*share, bytes.len());
        if let Some(byte) = bytes.get_mut(index) {
            *byte ^= bits;
        }
    }
    bytes
}

/// Half of the cases keep the whole file, so that flips reach all of it.
fn cuts() -> impl Strategy<Value = f64> {
    prop_oneof![Just(1.0), 0.0..1.0f64]
}

fn small_file() -> Vec<u8> {
    let tensors = [
        TensorOut::f32("model.embed_tokens.weight", vec![3, 4], &[0.5; 12]),
        TensorOut::bf16("model.norm.weight", vec![4], &[1.0; 4]),
        TensorOut { name: "w".into(), dtype: DType::F8E4M3, shape: vec![3, 5], data: vec![0x38; 15].into() },
        TensorOut::f32("w_scale_inv", vec![1, 1], &[2.0]),
    ];
    encode(&tensors, &[("format".to_owned(), "pt".to_owned())].into()).unwrap()
}

const CONFIG: &str = r#"{"model_type":"deepseek_v3","hidden_size":32,"intermediate_size":64,
"num_hidden_layers":3,"num_attention_heads":4,"num_key_value_heads":4,"vocab_size":256,
"max_position_embeddings":128,"q_lora_rank":24,"kv_lora_rank":16,"qk_nope_head_dim":16,
"qk_rope_head_dim":8,"v_head_dim":16,"n_routed_experts":8,"n_shared_experts":1,
"num_experts_per_tok":3,"moe_intermediate_size":16,"first_k_dense_replace":1,"n_group":4,
"topk_group":2,"routed_scaling_factor":2.5,"eos_token_id":[1,2],"rope_parameters":
{"rope_type":"yarn","factor":4.0,"rope_theta":10000.0,"original_max_position_embeddings":32,
"beta_fast":32,"beta_slow":1,"mscale":1.0,"mscale_all_dim":1.0}}"#;

const ADAPTER: &str = r#"{"peft_type":"LORA","r":4,"lora_alpha":8,"target_modules":"(.*\\.)?q_proj",
"rank_pattern":{"layers\\.[01]\\..*":2},"alpha_pattern":{"q_proj":16},"exclude_modules":["a"],
"layers_to_transform":null,"modules_to_save":["norm"],"target_parameters":["experts.down_proj"],
"use_dora":false,"lora_dropout":0.0,"bias":"none","init_lora_weights":true}"#;

const KEYS: [&str; 4] = [
    "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
    "base_model.model.model.layers.0.mlp.experts.base_layer.lora_B.weight",
    "base_model.model.model.norm.weight",
    "base_model.model.model.embed_tokens.lora_embedding_A",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn safetensors(cut in cuts(), flips in flips()) {
        let bytes = damage(small_file(), cut, &flips);
        if let Ok(header) = parse_header(&bytes) {
            // accepted: every byte of the file belongs to exactly one tensor or to the header
            let data: usize = header.tensors.iter().map(|t| t.byte_len()).sum();
            let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            prop_assert_eq!(8 + length + data, bytes.len());
            for tensor in &header.tensors {
                prop_assert_eq!(tensor.numel(), tensor.shape.iter().product::<usize>());
            }
        }
    }

    #[test]
    fn config(cut in cuts(), flips in flips()) {
        let bytes = damage(CONFIG.as_bytes().to_vec(), cut, &flips);
        if let Ok((config, _)) = ModelConfig::from_bytes(&bytes, Path::new("c")) {
            let (again, _) = ModelConfig::from_json(&config.to_json()).unwrap();
            prop_assert_eq!(again.rope, config.rope.clone());
            if config.num_hidden_layers * config.moe.as_ref().map_or(1, |m| m.n_routed_experts) < 1000 {
                prop_assert!(!expected_tensors(&config).is_empty());
            }
        }
    }

    #[test]
    fn adapter(cut in cuts(), flips in flips()) {
        let bytes = damage(ADAPTER.as_bytes().to_vec(), cut, &flips);
        if let Ok(config) = AdapterConfig::from_bytes(&bytes, Path::new("a")) {
            let matcher = config.matcher().unwrap();
            let _ = parse_keys(&config, KEYS.into_iter());
            prop_assert!(matcher.scaling_for("model.layers.0.self_attn.q_proj") > 0.0);
            let text = config.to_json().to_string();
            let again = AdapterConfig::from_bytes(text.as_bytes(), Path::new("a")).unwrap();
            prop_assert_eq!(again, config);
        }
    }

    #[test]
    fn index_and_generation(cut in cuts(), flips in flips(), noise in prop::collection::vec(any::<u8>(), 0..200)) {
        let index = br#"{"metadata":{"total_size":12},"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}}"#;
        if let Ok(index) = parse_index(&damage(index.to_vec(), cut, &flips), Path::new("i")) {
            for file in index.weight_map.values() {
                prop_assert!(Path::new(file).file_name().is_some_and(|n| n == file.as_str()));
            }
        }
        let generation = br#"{"eos_token_id":[1,2],"temperature":0.6,"top_p":0.95,"top_k":50}"#;
        let _ = GenerationConfig::from_bytes(&damage(generation.to_vec(), cut, &flips), Path::new("g"));
        let _ = parse_header(&noise);
        let _ = parse_index(&noise, Path::new("i"));
        let _ = ModelConfig::from_bytes(&noise, Path::new("c"));
        let _ = AdapterConfig::from_bytes(&noise, Path::new("a"));
    }

    #[test]
    fn any_name_is_parsed_or_refused(name in "(base_model\\.model\\.)?[a-z_.]{0,30}(\\.base_layer|\\.experts)?(\\.lora_[AB]\\.weight|\\.weight|\\.lora_embedding_[AB])?") {
        let config = AdapterConfig::from_bytes(ADAPTER.as_bytes(), Path::new("a")).unwrap();
        let matcher = config.matcher().unwrap();
        if let Ok(key) = loar_formats::peft::parse_key(&matcher, &name) {
            prop_assert_eq!(loar_formats::peft::format_key(&matcher, &key), name);
        }
    }

    #[test]
    fn written_tensors_are_read_back(values in prop::collection::vec(any::<f32>(), 0..40), name in "\\PC{1,20}") {
        prop_assume!(name != "__metadata__");
        let tensor = TensorOut::f32(name.clone(), vec![values.len()], &values);
        let bytes = encode(&[tensor], &Default::default()).unwrap();
        let header = parse_header(&bytes).unwrap();
        prop_assert_eq!(&header.tensors[0].name, &name);
        prop_assert_eq!(bytes.len() % 4, 0);
        let stored: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        prop_assert!(bytes.ends_with(&stored));
    }
}

#[test]
fn every_cut_of_a_file_is_refused() {
    let whole = small_file();
    assert!(parse_header(&whole).is_ok());
    for length in 0..whole.len() {
        assert!(parse_header(&whole[..length]).is_err(), "{length} bytes");
    }
}

#[test]
fn damaged_fixtures_on_disk_never_panic() {
    let Some(path) = common::fixture("llama/adapter/adapter_model.safetensors") else {
        return;
    };
    let whole = std::fs::read(path).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("x.safetensors");
    for step in 0..200usize {
        let mut bytes = whole.clone();
        // spread over the header, where the structure is
        let at = 8 + step * 17 % 3000;
        bytes[at] ^= 1 << (step % 8);
        std::fs::write(&copy, &bytes).unwrap();
        if let Ok(checkpoint) = Checkpoint::open_file(&copy) {
            for name in checkpoint.names() {
                let _ = checkpoint.to_f32(name);
            }
        }
    }
}
