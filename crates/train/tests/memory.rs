//! The planned activations against what the process takes; alone in its process, so that nothing
//! else allocates meanwhile.

mod common;

use loar_formats::config::ModelConfig;
use loar_model::{AdapterSpec, LoadOptions, Model, PackedBatch, Pass, Preset, Targets};
use loar_tape::Grads;
use loar_train::{activation_bytes, memory};

const TOKENS: usize = 1024;

#[test]
fn planned_activations_are_near_the_measured_ones() {
    let config = serde_json::json!({
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu", "hidden_size": 256,
        "intermediate_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 2,
        "vocab_size": 512, "rms_norm_eps": 1e-6, "tie_word_embeddings": false, "max_position_embeddings": 4096,
        "initializer_range": 0.02, "rope_theta": 10000.0, "bos_token_id": 0, "eos_token_id": 1, "dtype": "bfloat16"
    });
    let (config, _) = ModelConfig::from_json(&config).unwrap();
    let mut model = Model::random(config, 1, &LoadOptions { threads: 1, ..LoadOptions::default() }).unwrap();
    model.attach(&AdapterSpec::new(8, 16.0, Targets::Preset(Preset::AllLinear)), 1).unwrap();
    let docs: Vec<(Vec<u32>, Vec<bool>)> = (0..4)
        .map(|d| ((0..TOKENS / 4).map(|i| ((d * 97 + i * 31) % 512) as u32).collect(), vec![true; TOKENS / 4]))
        .collect();
    let docs: Vec<(&[u32], &[bool])> = docs.iter().map(|(a, b)| (a.as_slice(), b.as_slice())).collect();
    let batch = PackedBatch::pack(&docs);
    // the smaller case first: an allocator keeps what was freed, so that the second peak holds the first
    let Some(before) = memory::resident_bytes() else {
        println!("skipped: this system does not tell the resident size");
        return;
    };
    for checkpoint in [true, false] {
        let pass = Pass { dropout: None, checkpoint };
        model.loss_and_grads(&batch, &mut Grads::new(&model.params), 1e-3, &pass);
        let measured = memory::peak_bytes().unwrap().saturating_sub(before);
        let planned = activation_bytes(&model.config, TOKENS as u64, checkpoint);
        let ratio = planned as f64 / measured.max(1) as f64;
        let line = format!(
            "checkpointing {checkpoint}: planned {}, measured {}, ratio {ratio:.2}",
            memory::human(planned),
            memory::human(measured)
        );
        println!("{line}");
        assert!((0.6..1.7).contains(&ratio), "{line}");
    }
}
