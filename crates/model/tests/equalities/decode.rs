//! Token steps with bf16 products (streamed weights, paged caches, absorbed latents) against the tape's forward pass,
//! and what a row of them may depend on.
use crate::common::{Docs, KINDS, Tiny, gap};
use crate::{adapted, adapted_by};
use loar_model::{AdapterSpec, BaseDtype, CacheDtype, KvCache, LoadOptions, Model, Preset, Targets};
use loar_tape::Precision;

fn load(tiny: &Tiny, precision: Precision, threads: usize, base: BaseDtype) -> Model {
    Model::load(tiny.path(), &LoadOptions { threads, precision, base }).expect("a tiny checkpoint loads")
}

/// Logits after every token of a document fed in these pieces (the last piece repeated until its end).
fn stepped(model: &Model, ids: &[u32], pieces: &[usize], mut cache: KvCache) -> Vec<(usize, Vec<f32>)> {
    let (mut out, mut at, mut turn) = (Vec::new(), 0, 0);
    while at < ids.len() {
        let n = pieces[turn.min(pieces.len() - 1)].min(ids.len() - at);
        turn += 1;
        let logits = model.step(&mut [(&ids[at..at + n], &mut cache)]);
        at += n;
        assert_eq!(cache.len(), at);
        out.push((at, logits.row(0).to_vec()));
    }
    out
}

/// Root mean square of the difference over that of the reference: single logits of a tiny model may move by several
/// roundings, their mean may not.
fn distance(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let square = |x: f64| x * x;
    let difference: f64 = got.iter().zip(want).map(|(g, w)| square(f64::from(*g) - f64::from(*w))).sum();
    (difference / want.iter().map(|w| square(f64::from(*w))).sum::<f64>()).sqrt()
}

/// How an adapter is put on.
type Attach = fn(&mut Model);
const ADAPTERS: [(&str, Attach); 3] = [
    ("bare", |_| {}),
    ("lora", |m| adapted(m)),
    ("dora", |m| {
        adapted_by(m, &AdapterSpec { use_dora: true, ..AdapterSpec::new(3, 6.0, Targets::Preset(Preset::AllLinear)) })
    }),
];

#[test]
fn token_steps_are_as_near_to_f32_as_the_tape_in_bf16() {
    let docs = Docs::new(&[75], 3);
    let ids = &docs.ids[0];
    for kind in KINDS {
        let tiny = Tiny::new(kind, 2);
        for (adapter, attach) in ADAPTERS {
            let mut wide = load(&tiny, Precision::F32, 2, BaseDtype::AsStored);
            let mut model = load(&tiny, Precision::Bf16, 2, BaseDtype::AsStored);
            attach(&mut wide);
            attach(&mut model);
            let (exact, tape) = (wide.logits(&docs.batch()), model.logits(&docs.batch()));
            let tape = distance(&tape.data, &exact.data);
            for pieces in [&[1][..], &[40, 1], &[7, 33, 1, 20], &[75], &[64, 3]] {
                let got = stepped(&model, ids, pieces, model.new_cache());
                let (rows, want): (Vec<f32>, Vec<f32>) =
                    got.iter().flat_map(|(at, row)| row.iter().zip(exact.row(at - 1))).unzip();
                let steps = distance(&rows, &want);
                // Few rows are a small sample of the tape's error; a wrong factor anywhere gives 0.3 and more.
                assert!(
                    steps > 0.0 && steps < 2.0 * tape + 0.005,
                    "{kind} {adapter} {pieces:?}: {steps} against {tape}"
                );
            }
        }
    }
}

#[test]
fn quantised_bases_decode_as_the_tape_computes_them() {
    let docs = Docs::new(&[40], 3);
    for kind in ["qwen2", "deepseek", "deepseek_v2"] {
        let tiny = Tiny::new(kind, 2);
        for base in [BaseDtype::Bf16, BaseDtype::Int8, BaseDtype::Int4, BaseDtype::Fp8Block] {
            let mut wide = load(&tiny, Precision::F32, 2, base);
            let mut model = load(&tiny, Precision::Bf16, 2, base);
            adapted(&mut wide);
            adapted(&mut model);
            let (exact, tape) = (wide.logits(&docs.batch()), model.logits(&docs.batch()));
            let tape = distance(&tape.data, &exact.data);
            let got = stepped(&model, &docs.ids[0], &[1], model.new_cache());
            let rows: Vec<f32> = got.into_iter().flat_map(|(_, row)| row).collect();
            let steps = distance(&rows, &exact.data);
            assert!(steps > 0.0 && steps < 2.0 * tape + 0.005, "{kind} {base}: {steps} against {tape}");
        }
    }
}

#[test]
fn a_row_depends_on_its_own_sequence_alone() {
    for kind in KINDS {
        let tiny = Tiny::new(kind, 2);
        let docs = Docs::new(&[60, 3, 41, 70, 9], 5);
        // A long piece, then tokens: alone with one thread.
        let cut = |ids: &[u32]| ids.len() * 2 / 3;
        let load = |threads| {
            let mut model = load(&tiny, Precision::Bf16, threads, BaseDtype::AsStored);
            adapted(&mut model);
            model
        };
        let one = load(1);
        let alone: Vec<Vec<Vec<f32>>> = docs
            .ids
            .iter()
            .map(|ids| stepped(&one, ids, &[cut(ids), 1], one.new_cache()).into_iter().map(|(_, r)| r).collect())
            .collect();
        // Together with two threads, every sequence joining one step later than the one before.
        let two = load(2);
        let mut caches: Vec<KvCache> = docs.ids.iter().map(|_| two.new_cache()).collect();
        let mut seen: Vec<Vec<Vec<f32>>> = vec![Vec::new(); docs.ids.len()];
        for step in 0.. {
            let mut who = Vec::new();
            let mut sequences: Vec<(&[u32], &mut KvCache)> = Vec::new();
            for (i, (ids, cache)) in docs.ids.iter().zip(&mut caches).enumerate() {
                let at = cache.len();
                if step >= i && at < ids.len() {
                    let n = if at == 0 { cut(ids) } else { 1 };
                    sequences.push((&ids[at..at + n], cache));
                    who.push(i);
                }
            }
            if who.is_empty() && step > docs.ids.len() {
                break;
            }
            let logits = two.step(&mut sequences);
            for (row, i) in who.into_iter().enumerate() {
                seen[i].push(logits.row(row).to_vec());
            }
        }
        assert!(seen == alone, "{kind}");
    }
}

#[test]
fn cloned_caches_share_their_pages_and_go_their_own_ways() {
    for kind in ["qwen2", "deepseek_v2_lite"] {
        let tiny = Tiny::new(kind, 2);
        let model = load(&tiny, Precision::Bf16, 2, BaseDtype::AsStored);
        let docs = Docs::new(&[100, 30, 30], 8);
        let mut prompt = model.new_cache();
        model.step(&mut [(&docs.ids[0], &mut prompt)]);
        let page = prompt.bytes() / 2;
        let mut paths: Vec<KvCache> = vec![prompt.clone(); 2];
        assert_eq!(KvCache::bytes_together(paths.iter().chain([&prompt])), prompt.bytes(), "{kind}: all is shared");
        let shared: Vec<Vec<f32>> = (0..2)
            .map(|p| {
                let ids = &docs.ids[1 + p];
                ids.iter().map(|id| model.step(&mut [(&[*id], &mut paths[p])]).row(0).to_vec()).collect::<Vec<_>>()
            })
            .map(|rows| rows.concat())
            .collect();
        // One full page is held once, the partial one by each of the three, the paths' new ones by each of the two.
        assert_eq!(KvCache::bytes_together(paths.iter().chain([&prompt])), page * (1 + 3 + 2), "{kind}");
        assert_eq!(prompt.len(), 100);
        for (p, shared) in shared.iter().enumerate() {
            let mut own = model.new_cache();
            model.step(&mut [(&docs.ids[0], &mut own)]);
            let rows: Vec<f32> =
                docs.ids[1 + p].iter().flat_map(|id| model.step(&mut [(&[*id], &mut own)]).row(0).to_vec()).collect();
            assert!(rows == *shared, "{kind}: path {p}");
        }
    }
}

#[test]
fn an_int8_cache_is_half_as_large_and_nearly_the_same() {
    for kind in ["qwen2", "deepseek_v3"] {
        let tiny = Tiny::new(kind, 2);
        let model = load(&tiny, Precision::Bf16, 2, BaseDtype::AsStored);
        let docs = Docs::new(&[70], 8);
        let run = |cache: KvCache| -> Vec<f32> {
            stepped(&model, &docs.ids[0], &[33, 34, 1], cache).into_iter().flat_map(|(_, r)| r).collect()
        };
        let (half, full) = (run(model.new_paged_cache(CacheDtype::Int8)), run(model.new_cache()));
        let apart = distance(&half, &full);
        assert!(apart > 0.0 && apart < 0.03, "{kind}: {apart}");
        let mut caches = [model.new_paged_cache(CacheDtype::Int8), model.new_cache()];
        for cache in &mut caches {
            model.step(&mut [(&docs.ids[0], cache)]);
        }
        // Codes are half of bf16; scales of these narrow rows weigh more than those of real ones.
        assert!(caches[0].bytes() < caches[1].bytes(), "{kind}");
        assert!(gap(&half, &full).0.is_finite());
    }
}
