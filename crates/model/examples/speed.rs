use loar_model::*;
use loar_tape::*;
use std::time::Instant;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let hidden: usize = a.get(1).map_or(192, |x| x.parse().unwrap());
    let layers: usize = a.get(2).map_or(4, |x| x.parse().unwrap());
    let precision = if a.get(3).map(|x| x.as_str()) == Some("bf16") { Precision::Bf16 } else { Precision::F32 };
    let json = serde_json::json!({"model_type":"deepseek_v3","architectures":["DeepseekV3ForCausalLM"],"hidden_size":hidden,"intermediate_size":hidden*3,"moe_intermediate_size":hidden,"num_hidden_layers":layers,"num_attention_heads":6,"num_key_value_heads":6,"vocab_size":2560,"rms_norm_eps":1e-6,"n_routed_experts":8,"n_shared_experts":1,"num_experts_per_tok":2,"first_k_dense_replace":1,"n_group":1,"topk_group":1,"norm_topk_prob":true,"routed_scaling_factor":1.0,"q_lora_rank":96,"kv_lora_rank":64,"qk_nope_head_dim":32,"qk_rope_head_dim":16,"v_head_dim":32,"max_position_embeddings":1024,"rope_theta":10000.0,"tie_word_embeddings":false,"initializer_range":0.02,"scoring_func":"sigmoid","topk_method":"noaux_tc"});
    let (config, _) = loar_formats::config::ModelConfig::from_json(&json).unwrap();
    let o = LoadOptions { threads: 0, precision };
    let mut rng = 1u64;
    let mut next = || { rng = rng.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407); (rng >> 33) as u32 % 2560 };
    let docs: Vec<Vec<u32>> = (0..20).map(|_| (0..200).map(|_| next()).collect()).collect();
    let flags = vec![true; 200];
    let refs: Vec<(&[u32], &[bool])> = docs.iter().map(|d| (&d[..], &flags[..])).collect();
    let batch = PackedBatch::pack(&refs);
    for full in [true, false] {
        let mut m = Model::random(config.clone(), 1, &o).unwrap();
        println!("params {}", m.count());
        if full { m.train_full().unwrap() } else { m.attach(&AdapterSpec::new(16, 32.0, Targets::Preset(Preset::AllLinear)), 1).unwrap() }
        println!("trainable {}", m.trainable_count());
        let mut opt = AdamW::new(AdamWConfig { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.0 }, &m.params);
        for _ in 0..3 {
            let t = Instant::now();
            let f = m.loss(&batch).sum;
            let tf = t.elapsed().as_secs_f64();
            let t = Instant::now();
            let mut g = Grads::new(&m.params);
            m.loss_and_grads(&batch, &mut g, 1.0 / batch.targets.len() as f32, &Pass::default());
            let tb = t.elapsed().as_secs_f64();
            let t = Instant::now();
            g.norm();
            let pool = m.context.pool.clone();
            opt.step(&pool, &mut m.params, &g, &|_| 1e-3, &|_| true);
            println!("loss {:.3} fwd {:.3}s fwd+bwd {:.3}s opt {:.3}s -> {:.0} tok/s", f / batch.targets.len() as f64, tf, tb, t.elapsed().as_secs_f64(), batch.tokens() as f64 / (tb + t.elapsed().as_secs_f64()));
        }
    }
    // decode: 32 sequences, 60 steps
    let m = Model::random(config.clone(), 1, &o).unwrap();
    let mut caches: Vec<KvCache> = (0..32).map(|_| m.new_cache()).collect();
    let t = Instant::now();
    { let mut s: Vec<(&[u32], &mut KvCache)> = caches.iter_mut().map(|c| (&docs[0][..100], c)).collect(); m.step(&mut s); }
    println!("prefill 32x100: {:.3}s", t.elapsed().as_secs_f64());
    let t = Instant::now();
    for i in 0..60 { let tok = [docs[1][i]]; let mut s: Vec<(&[u32], &mut KvCache)> = caches.iter_mut().map(|c| (&tok[..], c)).collect(); m.step(&mut s); }
    println!("decode 32 x 60: {:.3}s = {:.0} tok/s", t.elapsed().as_secs_f64(), 32.0 * 60.0 / t.elapsed().as_secs_f64());
}
