//! Quantised bases: a quantised linear layer is the linear layer of its dequantised numbers, forward and backward, to
//! the last bit; adapters learn on it; what cannot be had is refused.
use super::*;
use crate::common::{Docs, KINDS, Tiny, config, options};
use loar_formats::names::expected_tensors;
use loar_formats::safetensors::{DType, TensorOut, write_file};
use loar_model::{BaseDtype, LoadOptions, Pass, quantize};
use loar_tape::{AdamW, AdamWConfig, Precision, Storage, Weight};
use std::collections::BTreeMap;
use std::path::Path;

const QUANTIZED: [BaseDtype; 3] = [BaseDtype::Int8, BaseDtype::Int4, BaseDtype::Fp8Block];

fn on(base: BaseDtype, precision: Precision) -> LoadOptions {
    LoadOptions { threads: 2, precision, base }
}

/// The checkpoint in `dir` with each matrix of `model` as the f32 numbers its codes stand for. A tied head that is apart
/// from its embedding becomes a head of its own.
fn dequantized(dir: &Path, model: &Model) -> tempfile::TempDir {
    let mut values: BTreeMap<String, Vec<f32>> = BTreeMap::new();
    for l in model.linears() {
        values.insert(format!("{}.weight", l.name), l.weight.to_f32(&model.params));
    }
    let mut config = model.config.clone();
    config.tie_word_embeddings &= model.head_is_embedding();
    config.quantization = None;
    let source = open(dir);
    let tensors: Vec<TensorOut<'static>> = expected_tensors(&config)
        .into_iter()
        .map(|(name, shape, _)| {
            let v = values.remove(&name).unwrap_or_else(|| source.to_f32(&name).expect("a float"));
            TensorOut::f32(name, shape, &v)
        })
        .collect();
    let out = tempfile::tempdir().expect("a scratch folder");
    write_file(&out.path().join("model.safetensors"), &tensors, &BTreeMap::new()).expect("writes");
    std::fs::write(out.path().join("config.json"), config.to_json().to_string()).expect("writes");
    out
}

#[test]
fn a_quantised_linear_is_the_linear_of_its_numbers_forward_and_backward() {
    let batch = Docs::new(&[13, 20], 3).batch();
    for kind in KINDS {
        let tiny = Tiny::new(kind, 2);
        for base in QUANTIZED {
            for precision in [Precision::F32, Precision::Bf16] {
                let mut model = Model::load(tiny.path(), &on(base, precision)).expect("loads");
                assert_eq!(model.base_dtype(), base.word(), "{kind}");
                let plain = dequantized(tiny.path(), &model);
                let mut plain = Model::load(plain.path(), &on(BaseDtype::AsStored, precision)).expect("loads");
                let what = format!("{kind}, {base}, {precision:?}");
                assert!(model.logits(&batch).data == plain.logits(&batch).data, "{what}: logits");
                adapted(&mut model);
                adapted(&mut plain);
                let (mut g, mut h) = (Grads::new(&model.params), Grads::new(&plain.params));
                let a = model.loss_and_grads(&batch, &mut g, 0.05, &Pass::default());
                let b = plain.loss_and_grads(&batch, &mut h, 0.05, &Pass::default());
                assert!(a.per_token == b.per_token, "{what}: losses");
                // The gradient of the first layer's adapter has passed through every dx = dy · W of the layers above.
                assert!(grads_gap(&g, &h) == 0.0 && g.norm() > 0.0, "{what}: gradients");
            }
        }
    }
}

#[test]
fn quantisation_moves_a_model_a_little_and_by_as_much_as_the_bits_say() {
    let batch = Docs::new(&[13, 20], 3).batch();
    for kind in ["qwen2", "deepseek_v3"] {
        let tiny = Tiny::new(kind, 2);
        let want = tiny.load().logits(&batch);
        let gap = |base| {
            let model = Model::load(tiny.path(), &on(base, Precision::F32)).expect("loads");
            let got = model.logits(&batch);
            (got.data.iter().zip(&want.data).map(|(a, b)| f64::from((a - b).abs())).sum::<f64>())
                / got.data.len() as f64
        };
        let size = want.data.iter().map(|x| f64::from(x.abs())).sum::<f64>() / want.data.len() as f64;
        let (bf16, eight, fp8, four) =
            (gap(BaseDtype::Bf16), gap(BaseDtype::Int8), gap(BaseDtype::Fp8Block), gap(BaseDtype::Int4));
        assert!(
            0.0 < bf16 && bf16 < eight && eight < fp8 && fp8 < four && four < 0.7 * size,
            "{kind}: {bf16} {eight} {fp8} {four} of {size}"
        );
    }
}

#[test]
fn what_is_quantised_and_what_stays() {
    let tiny = Tiny::new("deepseek_v3", 2);
    let full = tiny.load();
    for base in QUANTIZED {
        let model = Model::load(tiny.path(), &on(base, Precision::Bf16)).expect("loads");
        for (l, plain) in model.linears().into_iter().zip(full.linears()) {
            let Weight::Frozen(w) = &l.weight else { panic!("nothing trains yet") };
            let codes = !matches!(w.storage, Storage::MappedF32(_) | Storage::F32(_));
            let head = l.name == "lm_head";
            assert_eq!(codes, !(head && base == BaseDtype::Fp8Block), "{} as {base}", l.name);
            assert_eq!((w.rows, w.cols), (plain.out_features, plain.in_features));
        }
        assert!(model.base_bytes() < full.base_bytes() / 2, "{base}");
    }
    // A tied head becomes a copy beside the embedding, and both are counted; FP8 leaves them one.
    let tied = Tiny::new("qwen2", 2);
    let bytes = |base| {
        let m = Model::load(tied.path(), &on(base, Precision::F32)).expect("loads");
        let head = &m.linears()[m.linears().len() - 1].weight;
        let Weight::Frozen(head) = head else { panic!("frozen") };
        (m.head_is_embedding(), m.base_bytes(), head.bytes() as u64)
    };
    let (one, wide, embedding) = bytes(BaseDtype::AsStored);
    let (apart, narrow, head) = bytes(BaseDtype::Int8);
    assert!(one && !apart && bytes(BaseDtype::Fp8Block).0);
    assert!(head < embedding / 3 && narrow < wide && narrow > embedding + head);
}

#[test]
fn threads_change_no_code_and_random_bases_are_those_of_their_files() {
    let batch = Docs::new(&[9], 3).batch();
    for kind in ["qwen2", "deepseek_v3"] {
        let out = tempfile::tempdir().expect("a scratch folder");
        loar_model::write_random(&config(kind), 5, out.path(), loar_model::StoredDtype::F32, u64::MAX).expect("writes");
        for base in BaseDtype::ALL {
            let with = |threads| LoadOptions { threads, base, ..options(1) };
            let want = Model::random(config(kind), 5, &with(1)).expect("builds").logits(&batch).data;
            for threads in [1, 3] {
                assert!(
                    Model::load(out.path(), &with(threads)).expect("loads").logits(&batch).data == want,
                    "{kind}, {base}, {threads} threads"
                );
            }
        }
    }
}

#[test]
fn adapters_learn_on_quantised_bases() {
    let batch = Docs::new(&[24, 31], 3).batch();
    for kind in ["qwen2", "deepseek_v3"] {
        let tiny = Tiny::new(kind, 2);
        for base in QUANTIZED {
            let mut model = Model::load(tiny.path(), &on(base, Precision::Bf16)).expect("loads");
            model.attach(&AdapterSpec::new(4, 16.0, Targets::Preset(Preset::AllLinear)), 7).expect("fits");
            let mut adamw =
                AdamW::new(AdamWConfig { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 }, &model.params);
            let weight = 1.0 / batch.targets.len() as f32;
            let before: Vec<Vec<f32>> = model.linears().iter().map(|l| l.weight.to_f32(&model.params)).collect();
            let mut losses = Vec::new();
            for _ in 0..12 {
                let mut grads = Grads::new(&model.params);
                losses.push(model.loss_and_grads(&batch, &mut grads, weight, &Pass::default()).sum);
                let pool = model.context.pool.clone();
                adamw.step(&pool, &mut model.params, &grads, &|_| 5e-3, &|_| false);
            }
            assert!(losses[11] < 0.8 * losses[0], "{kind}, {base}: {losses:?}");
            assert!(losses.windows(2).filter(|w| w[1] < w[0]).count() >= 10, "{kind}, {base}: {losses:?}");
            let after: Vec<Vec<f32>> = model.linears().iter().map(|l| l.weight.to_f32(&model.params)).collect();
            assert!(before == after, "{kind}, {base}: the base moved");
        }
    }
}

/// `deepseek_v3` with its matrices in FP8 blocks of `block`, codes and scales drawn at random.
fn fp8_checkpoint(block: [usize; 2]) -> Tiny {
    let tiny = Tiny::new("deepseek_v3", 2);
    let mut config = config("deepseek_v3");
    config.quantization = Some(loar_formats::config::Quantization::Fp8 { weight_block_size: block, scale_fmt: None });
    let source = open(tiny.path());
    let mut tensors = Vec::new();
    for (i, (name, shape, component)) in expected_tensors(&config).into_iter().enumerate() {
        if !loar_formats::names::is_linear_weight(&name, component) || name == "lm_head.weight" {
            tensors.push(TensorOut::f32(name.clone(), shape, &source.to_f32(&name).expect("a float")));
            continue;
        }
        let noise = Stream::new(3, i as u32, 0xf8);
        let code = |j: usize| match noise.below(j as u64, 256) as u8 {
            nan if nan & 0x7f == 0x7f => 0,
            code => code,
        };
        let data: Vec<u8> = (0..shape.iter().product()).map(code).collect();
        let scales = [shape[0].div_ceil(block[0]), shape[1].div_ceil(block[1])];
        let values: Vec<f32> = (0..scales[0] * scales[1]).map(|j| 1e-3 * (1.0 + j as f32)).collect();
        tensors.push(TensorOut::f32(format!("{name}_scale_inv"), scales.to_vec(), &values));
        tensors.push(TensorOut { name, dtype: DType::F8E4M3, shape, data: data.into() });
    }
    write_file(&tiny.path().join("model.safetensors"), &tensors, &BTreeMap::new()).expect("writes");
    std::fs::write(tiny.path().join("config.json"), config.to_json().to_string()).expect("writes");
    tiny
}

#[test]
fn stored_fp8_blocks_stay_as_they_are_and_give_the_numbers_they_gave_dequantised() {
    let batch = Docs::new(&[13, 20], 3).batch();
    for (block, stays) in [([128, 128], true), ([8, 16], false)] {
        let tiny = fp8_checkpoint(block);
        for precision in [Precision::F32, Precision::Bf16] {
            let model = Model::load(tiny.path(), &on(BaseDtype::AsStored, precision)).expect("loads");
            assert_eq!(model.base_dtype() == "fp8-block", stays, "{block:?}");
            let plain = dequantized(tiny.path(), &model);
            let source = open(tiny.path());
            for l in model.linears() {
                let stored = source.to_f32(&format!("{}.weight", l.name)).expect("a float");
                let exact = l.weight.to_f32(&model.params) == stored;
                assert!(exact || (!stays && precision == Precision::Bf16), "{}", l.name);
            }
            let plain = Model::load(plain.path(), &on(BaseDtype::AsStored, precision)).expect("loads");
            assert!(model.logits(&batch).data == plain.logits(&batch).data, "{block:?} {precision:?}");
        }
        // Narrower and other forms are made by dequantising; the same form again only where products have it.
        for base in [BaseDtype::Bf16, BaseDtype::Int8, BaseDtype::Int4] {
            let model = Model::load(tiny.path(), &on(base, Precision::F32)).expect("loads");
            assert_eq!(model.base_dtype(), base.word());
        }
        let again = Model::load(tiny.path(), &on(BaseDtype::Fp8Block, Precision::F32));
        match stays {
            true => assert!(again.expect("loads").base_dtype() == "fp8-block"),
            false => {
                let text = again.err().expect("refused").to_string();
                assert!(text.contains("8 x 16") && text.contains("as-stored"), "{text}");
            }
        }
    }
}

#[test]
fn values_that_are_no_numbers_are_refused_by_name() {
    let tiny = Tiny::new("llama", 2);
    let source = open(tiny.path());
    let bad = "model.layers.1.mlp.up_proj.weight";
    let tensors: Vec<TensorOut<'static>> = source
        .tensors()
        .map(|t| {
            let mut v = source.to_f32(&t.name).expect("a float");
            if t.name == bad {
                v[77] = f32::NAN;
            }
            TensorOut::f32(t.name.clone(), t.shape.clone(), &v)
        })
        .collect();
    drop(source);
    write_file(&tiny.path().join("model.safetensors"), &tensors, &BTreeMap::new()).expect("writes");
    for base in QUANTIZED {
        let text = Model::load(tiny.path(), &on(base, Precision::F32)).err().expect("refused").to_string();
        assert!(text.contains(bad) && text.contains("not finite"), "{base}: {text}");
    }
    // As the file has it, it loads: the training loop names a loss that is no number.
    assert!(Model::load(tiny.path(), &on(BaseDtype::AsStored, Precision::F32)).is_ok());
}

/// The quantised checkpoint of `tiny` in a folder of its own.
fn file_of(
    tiny: &Tiny,
    base: BaseDtype,
    threads: usize,
    shard: u64,
) -> (tempfile::TempDir, loar_model::QuantizeReport) {
    let out = tempfile::tempdir().expect("a scratch folder");
    let mut heard = Vec::new();
    let report = quantize(tiny.path(), out.path(), base, threads, shard, &mut |done, all| heard.push((done, all)))
        .expect("quantises");
    assert_eq!(heard.last().copied(), Some((report.bytes_after, report.bytes_after)));
    assert!(heard.windows(2).all(|w| w[0].0 <= w[1].0));
    (out, report)
}

#[test]
fn a_quantised_file_is_what_loading_would_have_made_bit_for_bit() {
    let batch = Docs::new(&[13, 20], 3).batch();
    for kind in KINDS {
        let tiny = Tiny::new(kind, 2);
        for base in QUANTIZED {
            let (out, report) = file_of(&tiny, base, 3, 8_000);
            let (whole, _) = file_of(&tiny, base, 1, u64::MAX);
            assert!(out.path().join("model.safetensors.index.json").exists(), "{kind}: shards");
            let want = Model::load(tiny.path(), &on(base, Precision::Bf16)).expect("loads");
            for dir in [out.path(), whole.path()] {
                for (asked, threads) in [(BaseDtype::AsStored, 1), (base, 2)] {
                    let options = LoadOptions { threads, ..on(asked, Precision::Bf16) };
                    let got = Model::load(dir, &options).expect("loads");
                    assert_eq!(got.base_dtype(), base.word(), "{kind}");
                    assert_eq!(got.base_bytes(), want.base_bytes(), "{kind}, {base}");
                    for (a, b) in got.linears().into_iter().zip(want.linears()) {
                        assert!(
                            a.weight.to_f32(&got.params) == b.weight.to_f32(&want.params),
                            "{kind}, {base}: {}",
                            a.name
                        );
                    }
                    assert!(got.logits(&batch).data == want.logits(&batch).data, "{kind}, {base}");
                }
            }
            // Everything is counted, and the errors are those of the formats.
            let codes = want.linears().len() - usize::from(base == BaseDtype::Fp8Block);
            assert_eq!(report.matrices, codes, "{kind}, {base}");
            assert!(report.bytes_after < report.bytes_before, "{kind}, {base}");
            assert_eq!(report.tied_head_bytes > 0, kind == "qwen2" && base != BaseDtype::Fp8Block);
            let (low, high) = match base {
                BaseDtype::Int8 => (1e-3, 1e-2),
                BaseDtype::Fp8Block => (1e-2, 4e-2),
                _ => (4e-2, 0.15),
            };
            for k in &report.kinds {
                assert!(low < k.mean && k.mean <= k.worst && k.worst < high, "{kind}, {base}: {k:?}");
            }
        }
    }
}

#[test]
fn quantised_files_can_be_had_in_other_forms_where_that_makes_sense() {
    let tiny = Tiny::new("qwen2", 2);
    let plain = tiny.load();
    for base in QUANTIZED {
        let (out, _) = file_of(&tiny, base, 2, u64::MAX);
        // bf16 is what the codes stand for, and then head and embedding are one again.
        let wide = Model::load(out.path(), &on(BaseDtype::Bf16, Precision::F32)).expect("loads");
        assert!(wide.head_is_embedding() && wide.base_dtype() == "bf16");
        assert_eq!(
            wide.base_bytes(),
            Model::load(tiny.path(), &on(BaseDtype::Bf16, Precision::F32)).expect("loads").base_bytes()
        );
        for other in QUANTIZED.into_iter().filter(|o| *o != base) {
            let got = Model::load(out.path(), &on(other, Precision::F32));
            let again = tempfile::tempdir().expect("a scratch folder");
            let file = quantize(out.path(), again.path(), other, 1, u64::MAX, &mut |_, _| {});
            if base == BaseDtype::Int4 {
                for text in [got.err().expect("refused").to_string(), file.expect_err("refused").to_string()] {
                    assert!(text.contains("stored as int4"), "{text}");
                }
                continue;
            }
            assert_eq!(got.expect("loads").base_dtype(), other.word());
            file.expect("quantises");
            let got = Model::load(again.path(), &on(BaseDtype::AsStored, Precision::F32)).expect("loads");
            assert_eq!((got.base_dtype(), got.count()), (other.word().to_owned(), plain.count()));
        }
        let again = tempfile::tempdir().expect("a scratch folder");
        for (asked, said) in
            [(base, "already"), (BaseDtype::Bf16, "no quantisation"), (BaseDtype::AsStored, "no quantisation")]
        {
            let text = quantize(out.path(), again.path(), asked, 1, u64::MAX, &mut |_, _| {})
                .expect_err("refused")
                .to_string();
            assert!(text.contains(said), "{text}");
        }
        assert!(std::fs::read_dir(again.path()).expect("readable").next().is_none(), "a refusal writes nothing");
    }
}

#[test]
fn multi_token_prediction_and_fp8_sources_go_through() {
    let tiny = fp8_checkpoint([128, 128]);
    // A layer after the last, which is neither run nor trained.
    let path = tiny.path().join("model.safetensors");
    let source = open(tiny.path());
    let mut tensors: Vec<TensorOut<'static>> = source
        .tensors()
        .map(|t| TensorOut {
            name: t.name.clone(),
            dtype: t.dtype,
            shape: t.shape.clone(),
            data: source.bytes(&t.name).expect("there").to_vec().into(),
        })
        .collect();
    let mtp = "model.layers.3.eh_proj.weight";
    tensors.push(TensorOut::bf16(mtp, vec![4, 8], &[0.5; 32]));
    drop(source);
    write_file(&path, &tensors, &BTreeMap::new()).expect("writes");
    let (out, report) = file_of(&tiny, BaseDtype::Int8, 2, u64::MAX);
    let (before, after) = (open(tiny.path()), open(out.path()));
    assert!(before.bytes(mtp).expect("there")[..] == after.bytes(mtp).expect("passed on")[..]);
    assert!(after.names().all(|n| !n.ends_with("_scale_inv")) && report.unchanged_tensors > 0);
    let want = Model::load(tiny.path(), &on(BaseDtype::Int8, Precision::F32)).expect("loads");
    let got = Model::load(out.path(), &on(BaseDtype::AsStored, Precision::F32)).expect("loads");
    let batch = Docs::new(&[9], 3).batch();
    assert!(got.logits(&batch).data == want.logits(&batch).data);
}

#[test]
fn every_fault_of_a_quantised_folder_comes_at_once() {
    for base in [BaseDtype::Int8, BaseDtype::Int4] {
        let tiny = Tiny::new("qwen2", 2);
        let (out, _) = file_of(&tiny, base, 2, u64::MAX);
        let (missing, short, wrong, surplus, nan) = (
            "model.layers.0.mlp.up_proj.weight_scale",
            "model.layers.0.self_attn.q_proj.weight_scale",
            "model.layers.1.mlp.down_proj.weight",
            "model.layers.1.mlp.down_proj.weight_zero",
            "model.layers.1.self_attn.o_proj.weight_scale",
        );
        let write = |hurt: bool, bad_scale: bool| {
            let source = open(out.path());
            let mut tensors: Vec<TensorOut<'static>> = Vec::new();
            for t in source.tensors().filter(|t| !hurt || t.name != missing) {
                let mut data = source.bytes(&t.name).expect("there").to_vec();
                let mut shape = t.shape.clone();
                let dtype = t.dtype;
                if hurt && t.name == short {
                    data.truncate(data.len() / shape[0] * (shape[0] - 1));
                    shape[0] -= 1;
                }
                if hurt && t.name == wrong {
                    data.truncate(data.len() / shape[0] * (shape[0] - 2));
                    shape[0] -= 2;
                }
                if bad_scale && t.name == nan {
                    let n = dtype.size();
                    data[n..2 * n].fill(0xff);
                }
                tensors.push(TensorOut { name: t.name.clone(), dtype, shape, data: data.into() });
            }
            if hurt {
                tensors.push(TensorOut::f32(surplus, vec![2], &[0.0; 2]));
            }
            let bad = tempfile::tempdir().expect("a scratch folder");
            std::fs::copy(out.path().join("config.json"), bad.path().join("config.json")).expect("copies");
            write_file(&bad.path().join("model.safetensors"), &tensors, &BTreeMap::new()).expect("writes");
            bad
        };
        let load = |dir: &Path| Model::load(dir, &on(BaseDtype::AsStored, Precision::F32)).err();
        assert!(load(write(false, false).path()).is_none());
        let text = load(write(true, false).path()).expect("refused").to_string();
        for name in [missing, short, wrong, surplus] {
            assert!(text.contains(&format!("`{name}`")), "{base}: {name} in\n{text}");
        }
        assert!(text.contains("4 of 4 faults"), "{text}");
        let text = load(write(false, true).path()).expect("refused").to_string();
        assert!(text.contains(nan) && text.contains("scale 1 is NaN"), "{text}");
        // The config is what says how codes are read.
        let whole = write(false, false);
        let config = |edit: &dyn Fn(&mut serde_json::Value)| {
            let path = whole.path().join("config.json");
            let mut json: serde_json::Value =
                serde_json::from_slice(&std::fs::read(out.path().join("config.json")).expect("readable"))
                    .expect("JSON");
            edit(&mut json["quantization_config"]);
            std::fs::write(path, json.to_string()).expect("writes");
            load(whole.path()).expect("refused").to_string()
        };
        let text = config(&|q| *q = serde_json::Value::Null);
        assert!(text.contains("its codes need the `quantization_config`"), "{text}");
        let text = config(&|q| {
            q["version"] = 2.into();
            q["scales"] = "column".into();
        });
        assert!(
            text.contains("`quantization_config.version` is 2") && text.contains("scales` is \"column\""),
            "{text}"
        );
        let text = config(&|q| q["bits"] = 3.into());
        assert!(text.contains("`quantization_config.bits` is 3"), "{text}");
    }
    // A config that promises codes over a file of plain numbers.
    let tiny = Tiny::new("llama", 2);
    let mut config = config("llama");
    config.quantization = Some(loar_formats::config::Quantization::Int8);
    std::fs::write(tiny.path().join("config.json"), config.to_json().to_string()).expect("writes");
    let text = Model::load(tiny.path(), &on(BaseDtype::AsStored, Precision::F32)).err().expect("refused").to_string();
    assert!(text.contains("says int8, but no matrix is stored so"), "{text}");
}

#[test]
fn merging_goes_into_the_base_the_model_computes_with() {
    let batch = Docs::new(&[13, 20], 3).batch();
    let merged_of = |model: &Model, source: &Path| {
        let out = tempfile::tempdir().expect("a scratch folder");
        let report = model.save_merged(&open(source), out.path(), loar_model::StoredDtype::F32).expect("merges");
        let again = Model::load(out.path(), &on(BaseDtype::AsStored, Precision::F32)).expect("loads");
        assert!(again.config.quantization.is_none() && again.base_dtype() == "f32");
        (again.logits(&batch), again.config.tie_word_embeddings, report)
    };
    for kind in ["llama", "qwen2", "deepseek_v3"] {
        let tiny = Tiny::new(kind, 2);
        for base in QUANTIZED {
            let (file, _) = file_of(&tiny, base, 2, u64::MAX);
            for (dir, asked) in [(tiny.path(), base), (file.path(), BaseDtype::AsStored)] {
                let mut model = Model::load(dir, &on(asked, Precision::F32)).expect("loads");
                let codes = model.linears().len() - usize::from(base == BaseDtype::Fp8Block);
                adapted_by(&mut model, &AdapterSpec::new(3, 6.0, Targets::Preset(Preset::Attention)));
                let adapted = model.linears().iter().filter(|l| l.lora.is_some()).count();
                let want = model.logits(&batch);
                let (got, tied, report) = merged_of(&model, dir);
                let (ok, gap) = crate::common::logits_agree(&got.data, &want.data);
                assert!(ok, "{kind}, {base}: merged differs by {gap}");
                assert_eq!(
                    (report.merged_tensors, report.dequantized_tensors),
                    (adapted, codes - adapted),
                    "{kind}, {base}"
                );
                assert!(report.lost.is_empty());
                // A tied head that was quantised is a matrix of its own now.
                assert_eq!(tied, kind == "qwen2" && base == BaseDtype::Fp8Block, "{kind}, {base}");
                // The same adapter on the original is another model, by far more than merging rounds.
                let mut original = tiny.load();
                adapted_by(&mut original, &AdapterSpec::new(3, 6.0, Targets::Preset(Preset::Attention)));
                assert!(!crate::common::logits_agree(&got.data, &original.logits(&batch).data).0, "{kind}, {base}");
                // Writing the model's own weights says the same.
                let out = tempfile::tempdir().expect("a scratch folder");
                model.save_base(out.path(), loar_model::StoredDtype::F32).expect("saves");
                let saved = Model::load(out.path(), &on(BaseDtype::AsStored, Precision::F32)).expect("loads");
                assert!(saved.logits(&batch).data == got.data, "{kind}, {base}");
            }
        }
    }
}

#[test]
fn full_training_of_a_quantised_file_starts_from_its_numbers() {
    let batch = Docs::new(&[13], 3).batch();
    let tiny = Tiny::new("qwen2", 2);
    let (file, _) = file_of(&tiny, BaseDtype::Int8, 2, u64::MAX);
    let mut model = Model::load(file.path(), &on(BaseDtype::AsStored, Precision::F32)).expect("loads");
    model.train_full().expect("fresh");
    // The head is trained as the embedding it is tied to; everything else starts from its codes.
    assert!(model.head_is_embedding());
    let mut grads = Grads::new(&model.params);
    let loss = model.loss_and_grads(&batch, &mut grads, 0.1, &Pass::default());
    assert!(loss.sum.is_finite() && grads.norm() > 0.0);
    let out = tempfile::tempdir().expect("a scratch folder");
    model.save_base(out.path(), loar_model::StoredDtype::F32).expect("saves");
    let again = Model::load(out.path(), &on(BaseDtype::AsStored, Precision::F32)).expect("loads");
    assert!(again.config.tie_word_embeddings && again.logits(&batch).data == model.logits(&batch).data);
}
