//! Equalities of generation on tiny random models: cached = recomputed, batched = single, same seed
//! = same bytes, streamed = whole; and every way in which a sequence ends.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};

use common::{END, models, models_in, tokenizer};
use loar_decode::{Completion, DecodeError, FinishReason, Generator, Request, Sampling};
use loar_model::{Model, PackedBatch};

fn request(prompt: &[u32], key: u32, sampling: Sampling) -> Request {
    Request { prompt_ids: prompt.to_vec(), sampling, key, ..Request::default() }
}

fn sampled(seed: u64, max_new_tokens: usize) -> Sampling {
    Sampling { temperature: 1.0, top_p: 0.95, top_k: 50, min_p: 0.001, seed, max_new_tokens, ..Sampling::default() }
}

/// Prompts of uneven length, two of them beyond one prefill piece.
fn prompts() -> Vec<Vec<u32>> {
    [1usize, 7, 600, 3, 40, 513, 2]
        .iter()
        .enumerate()
        .map(|(i, n)| (0..*n).map(|t| ((t * 37 + i * 11) % 250) as u32).collect())
        .collect()
}

/// Logits after the last token of `ids`, without a cache.
fn recomputed(model: &Model, ids: &[u32]) -> Vec<f32> {
    let train = vec![false; ids.len()];
    let logits = model.logits(&PackedBatch::pack(&[(ids, &train)]));
    logits.row(ids.len() - 1).to_vec()
}

#[test]
fn cached_is_recomputed() {
    let tokenizer = tokenizer();
    for (name, model) in models() {
        let greedy = Sampling { max_new_tokens: 12, ..Sampling::default() };
        let generator = Generator::new(&model, &tokenizer, []);
        for prompt in prompts() {
            let run = &generator.generate(&[request(&prompt, 0, greedy.clone())], |_| {}).unwrap()[0];
            let mut ids = prompt.clone();
            for (id, logprob) in run.ids.iter().zip(&run.logprobs) {
                let logits = recomputed(&model, &ids);
                let max = logits.iter().copied().fold(f32::MIN, f32::max);
                let z: f64 = logits.iter().map(|l| f64::from(l - max).exp()).sum();
                let best = logits.iter().position(|l| *l == max).unwrap();
                assert_eq!(*id as usize, best, "{name}, prompt of {}", prompt.len());
                assert!((f64::from(*logprob) + z.ln()).abs() < 1e-4, "{name}: {logprob}");
                ids.push(*id);
            }
        }
    }
}

#[test]
fn cached_logits_are_recomputed_logits_however_the_tokens_are_fed() {
    for (name, model) in models() {
        let ids: Vec<u32> = (0..70).map(|t| t * 13 % 250).collect();
        let want = recomputed(&model, &ids);
        for pieces in [vec![70], vec![1; 70], vec![33, 36, 1]] {
            let mut cache = model.new_cache();
            let mut at = 0;
            let mut last = Vec::new();
            for n in pieces {
                last = model.step(&mut [(&ids[at..at + n], &mut cache)]).row(0).to_vec();
                at += n;
            }
            let gap = want.iter().zip(&last).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(gap < 2e-5, "{name}: {gap}");
        }
    }
}

#[test]
fn batched_is_single_bit_for_bit() {
    let tokenizer = tokenizer();
    for (name, model) in models() {
        let requests: Vec<Request> = prompts()
            .iter()
            .enumerate()
            .map(|(i, p)| request(p, i as u32 % 3, sampled(i as u64 / 2, 5 + 9 * i)))
            .collect();
        let single: Vec<Completion> = requests
            .iter()
            .map(|r| {
                let generator = Generator::new(&model, &tokenizer, [END]);
                generator.generate(std::slice::from_ref(r), |_| {}).unwrap().remove(0)
            })
            .collect();
        for max_batch in [1, 2, 3, 7] {
            let generator = Generator::new(&model, &tokenizer, [END]).with_max_batch(max_batch);
            assert_eq!(generator.generate(&requests, |_| {}).unwrap(), single, "{name}, batch of {max_batch}");
        }
        let mut backwards = requests.clone();
        backwards.reverse();
        let mut reversed = Generator::new(&model, &tokenizer, [END]).generate(&backwards, |_| {}).unwrap();
        reversed.reverse();
        assert_eq!(reversed, single, "{name}, reversed");
    }
}

/// Streamed weights and paged caches: what a request gets is the same alone, beside seven others, with
/// others joining while it runs, behind a prompt it shares, and with one thread or two.
#[test]
fn a_request_gets_the_same_ids_and_logprobs_in_any_company() {
    let tokenizer = tokenizer();
    let precision = loar_tape::Precision::Bf16;
    for ((name, one), (_, two)) in models_in(precision, 1).into_iter().zip(models_in(precision, 2)) {
        let all = prompts();
        // Lengths chosen so that requests end and others join at different times; prompts 2 and 5 thrice.
        let requests: Vec<Request> = [0, 1, 2, 5, 2, 3, 4, 5, 2, 6, 5]
            .iter()
            .enumerate()
            .map(|(i, p)| request(&all[*p], i as u32, sampled(9, 4 + 5 * i)))
            .collect();
        let alone: Vec<Completion> = requests
            .iter()
            .map(|r| {
                Generator::new(&one, &tokenizer, [END]).generate(std::slice::from_ref(r), |_| {}).unwrap().remove(0)
            })
            .collect();
        assert!(alone.iter().map(|c| c.ids.len()).sum::<usize>() > 60, "{name}: the requests end too soon to meet");
        assert!(alone[2].ids != alone[4].ids && alone[3].ids != alone[7].ids, "{name}: paths of a prompt differ");
        for (threads, model) in [(1, &one), (2, &two)] {
            for max_batch in [1, 3, 8, 11] {
                let generator = Generator::new(model, &tokenizer, [END]).with_max_batch(max_batch);
                let together = generator.generate(&requests, |_| {}).unwrap();
                assert_eq!(together, alone, "{name}, {threads} threads, batch of {max_batch}");
            }
        }
        let int8 = |requests: &[Request]| {
            let generator = Generator::new(&two, &tokenizer, [END]).with_cache_dtype(loar_model::CacheDtype::Int8);
            generator.generate(requests, |_| {}).unwrap()
        };
        let together = int8(&requests);
        assert_ne!(together, alone, "{name}: an int8 cache rounds");
        assert_eq!(int8(&requests[2..3])[0], together[2], "{name}: alone with an int8 cache");
    }
}

#[test]
fn seed_and_key_choose_the_bytes() {
    let tokenizer = tokenizer();
    let (_, model) = models().remove(0);
    let generator = Generator::new(&model, &tokenizer, [END]);
    let run = |seed, key| generator.generate(&[request(&[1, 2, 3], key, sampled(seed, 30))], |_| {}).unwrap().remove(0);
    assert_eq!(run(1, 0), run(1, 0));
    assert_ne!(run(1, 0).ids, run(2, 0).ids);
    assert_ne!(run(1, 0).ids, run(1, 1).ids);
}

#[test]
fn streamed_is_whole() {
    let tokenizer = tokenizer();
    for (name, model) in models() {
        let mut stopping = sampled(3, 60);
        stopping.stop = vec!["ab".into(), "e".into()];
        let requests: Vec<Request> =
            (0..12).map(|k| request(&[9, 8], k, if k % 2 == 0 { sampled(4, 40) } else { stopping.clone() })).collect();
        let mut texts = vec![String::new(); requests.len()];
        let mut ids = vec![Vec::new(); requests.len()];
        let mut ends = vec![None; requests.len()];
        let done = Generator::new(&model, &tokenizer, [END])
            .generate(&requests, |e| {
                assert!(ends[e.request].is_none(), "a token after the last one");
                texts[e.request].push_str(e.text);
                ids[e.request].push((e.id, e.logprob));
                ends[e.request] = e.finish_reason;
            })
            .unwrap();
        for (i, c) in done.iter().enumerate() {
            assert_eq!(texts[i], c.text, "{name}");
            assert_eq!(ids[i], c.ids.iter().copied().zip(c.logprobs.iter().copied()).collect::<Vec<_>>());
            assert_eq!(ends[i], Some(c.finish_reason));
            let before_end = c.ids.len() - usize::from(c.finish_reason == FinishReason::Stop);
            if c.finish_reason == FinishReason::StopString {
                let all = tokenizer.decode(&c.ids, false);
                assert!(all.starts_with(&c.text) && all.len() > c.text.len());
                assert!(!c.text.contains("ab") && !c.text.contains('e'));
            } else {
                assert_eq!(c.text, tokenizer.decode(&c.ids[..before_end], false), "{name}");
            }
        }
    }
}

#[test]
fn a_stop_text_across_tokens_ends_before_it() {
    let tokenizer = tokenizer();
    let (_, model) = models().remove(0);
    let generator = Generator::new(&model, &tokenizer, []);
    let free = generator.generate(&[request(&[5], 0, sampled(8, 40))], |_| {}).unwrap().remove(0);
    // Every token is one byte: a stop text of two characters is always cut by a token boundary.
    let chars: Vec<(usize, char)> = free.text.char_indices().filter(|(_, c)| c.is_ascii()).collect();
    let pair = chars.windows(2).find(|w| w[1].0 == w[0].0 + 1).expect("two neighbouring ASCII characters");
    let stop: String = pair.iter().map(|(_, c)| c).collect();
    let first = free.text.find(&stop).unwrap();
    let mut s = sampled(8, 40);
    s.stop = vec![stop.clone()];
    let cut = generator.generate(&[request(&[5], 0, s)], |_| {}).unwrap().remove(0);
    assert_eq!(cut.finish_reason, FinishReason::StopString);
    assert_eq!(cut.text, free.text[..first]);
    assert_eq!(cut.ids, free.ids[..cut.ids.len()]);
    assert!(cut.ids.len() < free.ids.len());
}

#[test]
fn end_tokens_lengths_and_the_longest_sequence_end_a_sequence() {
    let tokenizer = tokenizer();
    let (_, mut model) = models().remove(0);
    let greedy = |n| Sampling { max_new_tokens: n, ..Sampling::default() };
    let free =
        Generator::new(&model, &tokenizer, []).generate(&[request(&[3], 0, greedy(10))], |_| {}).unwrap().remove(0);
    assert_eq!((free.ids.len(), free.finish_reason), (10, FinishReason::Length));
    let end = free.ids[4];
    let first = free.ids.iter().position(|id| *id == end).unwrap();
    let ended =
        Generator::new(&model, &tokenizer, [end]).generate(&[request(&[3], 0, greedy(10))], |_| {}).unwrap().remove(0);
    assert_eq!(ended.finish_reason, FinishReason::Stop);
    assert_eq!(ended.ids, free.ids[..=first]);
    assert_eq!(ended.text, tokenizer.decode(&free.ids[..first], false));
    let none =
        Generator::new(&model, &tokenizer, []).generate(&[request(&[3], 0, greedy(0))], |_| {}).unwrap().remove(0);
    assert_eq!((none.ids.len(), none.finish_reason), (0, FinishReason::Length));
    model.config.max_position_embeddings = 6;
    let short =
        Generator::new(&model, &tokenizer, []).generate(&[request(&[3, 4], 0, greedy(10))], |_| {}).unwrap().remove(0);
    assert_eq!((short.ids.len(), short.finish_reason), (4, FinishReason::Length));
}

#[test]
fn a_raised_flag_ends_everything() {
    let tokenizer = tokenizer();
    let (_, model) = models().remove(0);
    let flag = AtomicBool::new(false);
    let requests: Vec<Request> = (0..4).map(|k| request(&[3], k, sampled(1, 50))).collect();
    let mut seen = 0;
    let done = Generator::new(&model, &tokenizer, [])
        .with_max_batch(2)
        .with_cancel(&flag)
        .generate(&requests, |_| {
            seen += 1;
            flag.store(seen >= 6, Ordering::Relaxed);
        })
        .unwrap();
    assert!(done.iter().all(|c| c.finish_reason == FinishReason::Cancelled));
    assert_eq!(done.iter().map(|c| c.ids.len()).collect::<Vec<_>>(), [3, 3, 0, 0]);
}

#[test]
fn all_faulty_requests_are_named_before_anything_runs() {
    let tokenizer = tokenizer();
    let (_, model) = models().remove(0);
    let bad = Sampling { top_p: 1.5, ..Sampling::default() };
    let requests = [
        request(&[], 0, Sampling::default()),
        request(&[9999], 0, bad),
        request(&vec![1; 3000], 0, Sampling::default()),
    ];
    let Err(DecodeError::Requests(faults)) =
        Generator::new(&model, &tokenizer, []).generate(&requests, |_| panic!("ran"))
    else {
        panic!("accepted");
    };
    assert_eq!(faults.0.len(), 4, "{faults}");
}

#[test]
fn greedy_tokens_are_those_of_the_reference() {
    let tokenizer = tokenizer();
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/fixtures");
    for name in ["llama", "llama_linear_rope", "qwen2", "qwen3", "deepseek_v2_lite", "deepseek_v2", "deepseek_v3"] {
        let dir = std::path::Path::new(root).join(name);
        if !dir.is_dir() {
            println!("skipped: ../shared/fixtures/{name} is absent");
            return;
        }
        let options = loar_model::LoadOptions {
            threads: 2,
            precision: loar_tape::Precision::F32,
            ..loar_model::LoadOptions::default()
        };
        let model = Model::load(&dir, &options).unwrap();
        let golden = loar_formats::safetensors::Checkpoint::open_file(&dir.join("golden.safetensors")).unwrap();
        let dtype = golden.info("base.greedy").unwrap().dtype;
        let ids: Vec<u32> = golden
            .bytes("base.greedy")
            .unwrap()
            .chunks_exact(dtype.size())
            .map(|b| u32::from_le_bytes(b[..4].try_into().unwrap()))
            .collect();
        assert_eq!(ids.len(), 36, "{name}: 12 prompt tokens and 24 greedy ones");
        let greedy = Sampling { max_new_tokens: 24, ..Sampling::default() };
        let run =
            &Generator::new(&model, &tokenizer, []).generate(&[request(&ids[..12], 0, greedy)], |_| {}).unwrap()[0];
        assert_eq!(run.ids, ids[12..], "{name}");
    }
}

/// Runs a session to its end.
fn finish(session: &mut loar_decode::Session<'_, '_>) {
    while session.step(&mut |_: &loar_decode::TokenEvent<'_>| {}).unwrap() {}
}

#[test]
fn sequences_join_and_leave_a_session_without_touching_others() {
    let tokenizer = tokenizer();
    for (name, model) in models_in(loar_tape::Precision::Bf16, 2) {
        let generator = Generator::new(&model, &tokenizer, []).with_max_batch(3);
        let requests: Vec<Request> = (0..5).map(|k| request(&[7, 8, 9], k, sampled(2, 20))).collect();
        let alone = generator.generate(&requests, |_| {}).unwrap();
        let mut session = generator.session().keeping_prompts();
        let first: Vec<usize> = requests[..3].iter().map(|r| session.add(r.clone()).unwrap()).collect();
        for _ in 0..6 {
            session.step(&mut |_: &loar_decode::TokenEvent<'_>| {}).unwrap();
        }
        let held = session.cache_bytes();
        let cut = session.cancel(first[1]).unwrap();
        assert_eq!(cut.finish_reason, FinishReason::Cancelled);
        assert_eq!(cut.ids, alone[1].ids[..6], "{name}: what it had chosen");
        assert!(session.cache_bytes() < held, "{name}: its pages are free at once");
        assert!(session.cancel(first[1]).is_none() && session.release(first[1]).is_none());
        let late: Vec<usize> = requests[3..].iter().map(|r| session.add(r.clone()).unwrap()).collect();
        finish(&mut session);
        assert_eq!(session.prefilled(), 3, "{name}: a kept prompt is fed once");
        for (sequence, at) in [(first[0], 0), (first[2], 2), (late[0], 3), (late[1], 4)] {
            assert_eq!(session.completion(sequence), Some(&alone[at]), "{name}, path {at}");
        }
    }
}

#[test]
fn a_continuation_feeds_its_suffix_only_and_scores_as_the_whole() {
    let tokenizer = tokenizer();
    for (name, model) in models() {
        let generator = Generator::new(&model, &tokenizer, []);
        let mut session = generator.session();
        let path = session.add(request(&[5, 6, 7], 0, sampled(3, 12))).unwrap();
        let missing = session.continue_from(path, &[1], Sampling::default(), 0);
        assert_eq!(missing, Err(DecodeError::Gone { sequence: path }), "it is still running");
        finish(&mut session);
        let first = session.completion(path).unwrap().clone();
        let mut whole = [&[5, 6, 7], first.ids.as_slice(), &[40, 41]].concat();
        let fed = session.prefilled();
        let scores = session.score(path, &[40, 41], &[3, 99]).unwrap();
        let logits = recomputed(&model, &whole);
        let z: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
        for (id, score) in [3usize, 99].into_iter().zip(&scores) {
            assert!((f64::from(*score) - (f64::from(logits[id]) - z.ln())).abs() < 1e-4, "{name}");
        }
        assert_eq!(session.prefilled() - fed, 3, "{name}: the last token and the suffix");
        let greedy = Sampling { max_new_tokens: 5, ..Sampling::default() };
        let more = session.continue_from(path, &[40, 41], greedy.clone(), 0).unwrap();
        let twin = session.continue_from(path, &[40, 41], greedy, 0).unwrap();
        finish(&mut session);
        assert_eq!(session.prefilled() - fed, 6, "{name}: two continuations alike are fed once");
        assert_eq!(session.completion(more), session.completion(twin));
        for id in &session.release(more).unwrap().ids {
            let logits = recomputed(&model, &whole);
            let max = logits.iter().copied().fold(f32::MIN, f32::max);
            assert_eq!(logits.iter().position(|l| *l == max), Some(*id as usize), "{name}");
            whole.push(*id);
        }
        assert_eq!(session.score(more, &[1], &[2]), Err(DecodeError::Gone { sequence: more }));
    }
}

/// Puts 100, 101 where 3 would have been drawn, once.
struct Steered {
    at: usize,
    seen: Vec<u32>,
}

impl loar_decode::Watch for Steered {
    fn instead(&mut self, _: usize, _: u32) -> Option<Vec<u32>> {
        (self.seen.len() == self.at).then(|| vec![100, 101])
    }
    fn token(&mut self, event: &loar_decode::TokenEvent<'_>) {
        assert!(event.confidence.is_some_and(|c| c > 0.0));
        self.seen.push(event.id);
    }
}

#[test]
fn tokens_are_put_in_the_place_of_drawn_ones() {
    let tokenizer = tokenizer();
    let (_, model) = models().remove(0);
    let generator = Generator::new(&model, &tokenizer, []);
    let mut session = generator.session();
    let free = generator.generate(&[request(&[5], 0, sampled(8, 10))], |_| {}).unwrap().remove(0);
    let asked = Request { confidence_over: 4, ..request(&[5], 0, sampled(8, 10)) };
    let path = session.add(asked).unwrap();
    let mut watch = Steered { at: 4, seen: Vec::new() };
    while session.step(&mut watch).unwrap() {
        if watch.seen.len() == 7 {
            assert!(session.force(path, &[102]));
        }
    }
    let done = session.release(path).unwrap();
    assert_eq!(done.ids, watch.seen);
    assert_eq!(done.ids[..4], free.ids[..4]);
    assert_eq!((&done.ids[4..6], done.ids[7], done.ids.len()), (&[100, 101][..], 102, 10));
    assert_eq!(done.confidences.len(), 10);
    let logits = recomputed(&model, &[&[5], &done.ids[..5]].concat());
    let z: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
    assert!((f64::from(done.logprobs[5]) - (f64::from(logits[101]) - z.ln())).abs() < 1e-4, "the model's own");
    assert!(!session.force(path, &[1]));
}
