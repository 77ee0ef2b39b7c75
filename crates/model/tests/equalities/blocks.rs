//! Block-wise FFN: each block of an MLP's width has its own low-rank update, and what is trained, exported and reloaded is
//! exactly that.
use super::*;
use crate::common::{Docs, Tiny, config, logits_agree};
use loar_formats::safetensors::{TensorOut, write_file};
use loar_model::{ExpertsLayout, Pass};
use loar_tape::{AdamW, AdamWConfig, BlockMask};

const RANK: usize = 2;

fn spec(blocks: usize, preset: Preset) -> AdapterSpec {
    AdapterSpec { ffn_blocks: Some(blocks), ..AdapterSpec::new(RANK, 3.0, Targets::Preset(preset)) }
}

/// The base's checkpoint with every block of every adapted MLP updated by that block's own small product, computed from
/// the block's slices of A and B alone.
fn block_by_block(tiny: &Tiny, model: &Model, blocks: usize) -> tempfile::TempDir {
    let source = open(tiny.path());
    let dir = tempfile::tempdir().expect("a scratch folder");
    let scaling = 3.0 / RANK as f64;
    let mut changed = 0;
    let tensors: Vec<TensorOut<'static>> = source
        .tensors()
        .map(|info| {
            let mut w = source.to_f32(&info.name).expect("f32");
            let module = info.name.strip_suffix(".weight").unwrap_or(&info.name);
            if let (Some(a), Some(b)) =
                (model.params.find(&format!("{module}.lora_A")), model.params.find(&format!("{module}.lora_B")))
            {
                let (a, b) = (&model.params.get(a).value, &model.params.get(b).value);
                assert_eq!(a.rows, RANK * blocks);
                let (rows, cols) = (info.shape[0], info.shape[1]);
                let down = module.ends_with("down_proj");
                let bands = BlockMask { blocks };
                for block in 0..blocks {
                    // gate and up: a band of rows; down: a band of columns.
                    let (from, to) = bands.band(if down { cols } else { rows }, block);
                    let (rs, cs) = if down { (0..rows, from..to) } else { (from..to, 0..cols) };
                    for r in rs {
                        for c in cs.clone() {
                            let delta: f64 = (block * RANK..(block + 1) * RANK)
                                .map(|j| f64::from(b.row(r)[j]) * f64::from(a.row(j)[c]))
                                .sum();
                            w[r * cols + c] = (f64::from(w[r * cols + c]) + scaling * delta) as f32;
                        }
                    }
                }
                changed += 1;
            }
            TensorOut::f32(info.name.clone(), info.shape.clone(), &w)
        })
        .collect();
    assert!(changed > 0, "some MLP is adapted");
    write_file(&dir.path().join("model.safetensors"), &tensors, &Default::default()).expect("writable");
    std::fs::copy(tiny.path().join("config.json"), dir.path().join("config.json")).expect("writable");
    dir
}

#[test]
fn the_adapter_is_one_small_product_a_block() {
    // 40 and 24 divide by 4; 40, 24 and 12 do not divide by 5: bands differ by one.
    for (kind, preset, blocks) in [
        ("llama", Preset::Mlp, 4),
        ("llama", Preset::Mlp, 7),
        ("deepseek_v3", Preset::Mlp, 5),
        ("deepseek_v3", Preset::Experts, 5),
        ("deepseek", Preset::AllLinear, 1),
    ] {
        let tiny = Tiny::new(kind, 2);
        let batch = Docs::new(&[13, 20], 3).batch();
        let mut model = tiny.load();
        adapted_by(
            &mut model,
            &AdapterSpec {
                exclude: ["q_proj", "k_proj", "v_proj", "o_proj"].map(str::to_owned).to_vec(),
                ..spec(blocks, preset)
            },
        );
        let dir = block_by_block(&tiny, &model, blocks);
        let want = Model::load(dir.path(), &common::options(2)).expect("loads").logits(&batch);
        let got = model.logits(&batch);
        let (ok, d) = logits_agree(&got.data, &want.data);
        assert!(ok, "{kind}, {blocks} blocks: differs by {d:e}");
        assert!(!logits_agree(&got.data, &tiny.load().logits(&batch).data).0, "{kind}: the adapter does something");
        // The exported adapter is plain LoRA of the same product, in both layouts.
        for layout in [ExpertsLayout::PerExpert, ExpertsLayout::Fused] {
            let out = tempfile::tempdir().expect("a scratch folder");
            model.save_adapter(out.path(), layout, "base").expect("saves");
            let mut loaded = tiny.load();
            loaded.load_adapter(out.path()).expect("loads");
            let (ok, d) = logits_agree(&loaded.logits(&batch).data, &got.data);
            assert!(ok, "{kind}, {blocks} blocks, {layout:?}: reloaded differs by {d:e}");
        }
    }
}

#[test]
fn training_never_leaves_the_blocks_and_learns_in_all_of_them() {
    for (kind, preset, blocks) in [("llama", Preset::Mlp, 3), ("deepseek_v3", Preset::AllLinear, 5)] {
        let tiny = Tiny::new(kind, 2);
        let mut model = tiny.load();
        model.attach(&spec(blocks, preset), 7).expect("fits");
        let batch = Docs::new(&[40, 40], 3).batch();
        let mut adam =
            AdamW::new(AdamWConfig { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 }, &model.params);
        let mut losses = Vec::new();
        for _ in 0..4 {
            let mut grads = Grads::new(&model.params);
            losses.push(
                model
                    .loss_and_grads(
                        &batch,
                        &mut grads,
                        1.0 / batch.targets.len() as f32,
                        &Pass { dropout: None, checkpoint: usize::MAX },
                    )
                    .sum,
            );
            grads.apply_masks(&model.params);
            let pool = model.context.pool.clone();
            adam.step(&pool, &mut model.params, &grads, &|_| 2e-3, &|_| true);
        }
        assert!(losses[3] < losses[0], "{kind}: {losses:?}");
        let mut masked = 0;
        for (_, p) in model.params.iter().filter(|(_, p)| p.mask.is_some()) {
            let mask = p.mask.expect("filtered");
            let mut kept = p.value.clone();
            mask.apply(&mut kept);
            assert!(
                kept.data.iter().zip(&p.value.data).all(|(a, b)| a.to_bits() == b.to_bits()),
                "{kind}, `{}`: an entry outside its block moved",
                p.name
            );
            assert_eq!(p.count(), mask.count(p.value.rows, p.value.cols));
            masked += 1;
            // Dense and shared MLPs see every token: each of their blocks has learnt.
            if !p.name.contains(".experts.") {
                for b in 0..blocks {
                    let ((r0, r1), (c0, c1)) = (mask.band(p.value.rows, b), mask.band(p.value.cols, b));
                    assert!(
                        (r0..r1).any(|r| p.value.row(r)[c0..c1].iter().any(|x| *x != 0.0)),
                        "{kind}, `{}`: block {b} is dead",
                        p.name
                    );
                }
            }
        }
        assert!(masked > 0);
    }
}

#[test]
fn trainable_numbers_of_a_block_wise_mlp_are_those_of_its_blocks() {
    let c = config("llama");
    let tiny = Tiny::of(&c, 2);
    let (d, width, layers) = (c.hidden_size, c.intermediate_size, c.num_hidden_layers);
    for blocks in [1, 2, 5, 8] {
        let mut model = tiny.load();
        model.attach(&spec(blocks, Preset::Mlp), 7).expect("fits");
        // A block's gate and up: r(d + width/blocks) each; its down the same: width is cut once over all blocks.
        let expected = layers * 3 * RANK * (blocks * d + width);
        assert_eq!(model.trainable_count(), expected, "{blocks} blocks");
    }
}
