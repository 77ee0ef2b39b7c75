//! One row of logits to one token.
//!
//! Takes logits, sampling settings and the place of the draw; gives a token id and its
//! log-probability under the unmodified distribution. The random number is a function of
//! (seed, request, position) alone, and equal logits are ordered by id, so a draw depends on
//! nothing else: not on batch mates, threads or earlier draws. Filters act in the order of
//! transformers' `_get_logits_processor`: temperature, top-k, top-p, min-p.

use std::cmp::Ordering;

use loar_formats::generation::GenerationConfig;
use loar_kernels::Pool;
use loar_kernels::elementwise::cross_entropy;
use loar_kernels::rng::Stream;
use serde::{Deserialize, Serialize};

/// Keeps draws of tokens apart from every other use of a seed.
const PURPOSE: u32 = 0x746f_6b6e;
/// Candidates sorted first when top-p cuts the whole vocabulary; grows until the mass is reached.
const FIRST_HEAD: usize = 256;

/// How the tokens of one request are chosen. The default is greedy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// Divides the logits; 0: always the best token.
    pub temperature: f64,
    /// Smallest set of best tokens whose probabilities reach this mass, in (0, 1]; 1: off.
    pub top_p: f64,
    /// This many best tokens; 0: off.
    pub top_k: usize,
    /// Tokens with at least this share of the best token's probability, in [0, 1]; 0: off.
    pub min_p: f64,
    /// Seed of the draws.
    pub seed: u64,
    /// Tokens generated at most, an end token included.
    pub max_new_tokens: usize,
    /// Texts that end the generation; they are not part of the result.
    pub stop: Vec<String>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.0, top_p: 1.0, top_k: 0, min_p: 0.0, seed: 0, max_new_tokens: 512, stop: Vec::new() }
    }
}

impl Sampling {
    /// The checkpoint's own defaults: its temperature and filters unless it says
    /// `do_sample: false`; greedy when it names no temperature and does not ask to sample.
    pub fn of_checkpoint(config: &GenerationConfig) -> Self {
        let samples = config.do_sample.unwrap_or(config.temperature.is_some() || config.top_p.is_some());
        if !samples {
            return Self::default();
        }
        Self {
            temperature: config.temperature.unwrap_or(1.0),
            top_p: config.top_p.unwrap_or(1.0),
            top_k: config.top_k.unwrap_or(0),
            min_p: config.min_p.unwrap_or(0.0),
            ..Self::default()
        }
    }

    /// Everything out of range, one sentence each; empty when all is well.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            faults.push(format!("temperature `{}` must be 0 (greedy) or above", self.temperature));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            faults.push(format!("top_p `{}` must lie above 0 and at most at 1 (1: off)", self.top_p));
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            faults.push(format!("min_p `{}` must lie between 0 and 1 (0: off)", self.min_p));
        }
        if self.stop.iter().any(String::is_empty) {
            faults.push("an empty stop text would end every answer at once; leave it out".into());
        }
        faults
    }
}

/// A chosen token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// Token id.
    pub id: u32,
    /// Its natural log-probability under the model's own distribution: temperature 1, no filter.
    pub logprob: f32,
}

/// A token that may be drawn, with its unnormalised probability (best token: 1).
#[derive(Debug, Clone, Copy)]
struct Candidate {
    id: u32,
    weight: f64,
}

/// Best first; equal weights by id.
fn best_first(a: &Candidate, b: &Candidate) -> Ordering {
    b.weight.total_cmp(&a.weight).then(a.id.cmp(&b.id))
}

/// Chooses tokens for one request.
#[derive(Debug, Clone)]
pub struct Sampler {
    temperature: f64,
    top_p: f64,
    top_k: usize,
    min_p: f64,
    stream: Stream,
}

impl Sampler {
    /// `request` tells apart requests that share a seed (several answers to one prompt).
    /// The settings must have no [`Sampling::faults`].
    pub fn new(sampling: &Sampling, request: u32) -> Self {
        Self {
            temperature: sampling.temperature,
            top_p: sampling.top_p,
            top_k: sampling.top_k,
            min_p: sampling.min_p,
            stream: Stream::new(sampling.seed, PURPOSE, request),
        }
    }

    /// The token at `position` (prompt tokens before it included), given `logits [vocab]`.
    ///
    /// # Errors
    /// The index of the first logit that is NaN or plus infinity, or of the first one when all are
    /// minus infinity. An empty row is a bug of the caller and panics.
    pub fn choose(&self, logits: &[f32], position: usize) -> Result<Choice, usize> {
        assert!(!logits.is_empty(), "a row of logits is empty");
        let bad = |l: &f32| l.is_nan() || *l == f32::INFINITY;
        // A search that may not stop early runs over whole vectors.
        if logits.iter().fold(false, |any, l| any | bad(l)) {
            return Err(logits.iter().position(bad).unwrap_or(0));
        }
        let best = argmax(logits);
        let max = f64::from(logits[best]);
        if max == f64::NEG_INFINITY {
            return Err(0);
        }
        let id = if self.temperature == 0.0 {
            best as u32
        } else {
            let kept = self.candidates(logits, max);
            draw(&kept, self.uniform(position))
        };
        // One row is one task: this thread's.
        let mut loss = [0f32];
        cross_entropy(&Pool::new(1), logits, logits.len(), &[id], &mut loss);
        Ok(Choice { id, logprob: -loss[0] })
    }

    /// Uniform in [0, 1) with 53 bits.
    fn uniform(&self, position: usize) -> f64 {
        let bits = self.stream.u64_at(position as u64);
        (bits >> 11) as f64 / (1u64 << 53) as f64
    }

    /// What may be drawn after all filters; never empty. Order is by id without filters that rank,
    /// best first otherwise: a function of the row alone.
    fn candidates(&self, logits: &[f32], max: f64) -> Vec<Candidate> {
        let mut kept: Vec<Candidate> = (0u32..)
            .zip(logits)
            .map(|(id, l)| Candidate { id, weight: ((f64::from(*l) - max) / self.temperature).exp() })
            .collect();
        if self.top_k > 0 && self.top_k < kept.len() {
            kept.select_nth_unstable_by(self.top_k - 1, best_first);
            kept.truncate(self.top_k);
            kept.sort_unstable_by(best_first);
        }
        if self.top_p < 1.0 {
            keep_mass(&mut kept, self.top_p);
        }
        if self.min_p > 0.0 {
            kept.retain(|c| c.weight >= self.min_p);
        }
        kept
    }
}

/// Natural log-probability of one token under the unmodified distribution of `logits [vocab]`.
///
/// # Errors
/// The index of the first logit that is NaN or plus infinity.
pub(crate) fn log_softmax_at(logits: &[f32], id: u32) -> Result<f32, usize> {
    if let Some(bad) = logits.iter().position(|l| l.is_nan() || *l == f32::INFINITY) {
        return Err(bad);
    }
    let mut loss = [0f32];
    cross_entropy(&Pool::new(1), logits, logits.len(), &[id], &mut loss);
    Ok(-loss[0])
}

/// Minus the mean log-probability of the `over` best tokens (DeepConf's token confidence): high where
/// the distribution is peaked, as all but the best are then improbable.
pub(crate) fn confidence(logits: &[f32], over: usize) -> f32 {
    let over = over.min(logits.len());
    let mut best = logits.to_vec();
    best.select_nth_unstable_by(over - 1, |a, b| b.total_cmp(a));
    let max = f64::from(logits[argmax(logits)]);
    let log_z = max + logits.iter().map(|l| (f64::from(*l) - max).exp()).sum::<f64>().ln();
    // Sorted, so that the order of the sum depends on the values alone.
    let best = &mut best[..over];
    best.sort_unstable_by(|a, b| b.total_cmp(a));
    let mean = best.iter().map(|l| f64::from(*l) - log_z).sum::<f64>() / over as f64;
    -mean as f32
}

/// Position of the largest logit, the first of equals.
fn argmax(logits: &[f32]) -> usize {
    let mut best = 0;
    for (i, l) in logits.iter().enumerate() {
        if *l > logits[best] {
            best = i;
        }
    }
    best
}

/// Cuts to the smallest set of best candidates whose share of the total reaches `top_p`; at least
/// one. Only the head that is needed gets sorted: the vocabulary has some 10^5 entries, the nucleus
/// rarely more than some hundred.
fn keep_mass(kept: &mut Vec<Candidate>, top_p: f64) {
    let goal = top_p * kept.iter().map(|c| c.weight).sum::<f64>();
    let mut head = FIRST_HEAD;
    loop {
        if head < kept.len() {
            kept.select_nth_unstable_by(head - 1, best_first);
        }
        let sorted = head.min(kept.len());
        kept[..sorted].sort_unstable_by(best_first);
        let mut mass = 0.0;
        for i in 0..sorted {
            mass += kept[i].weight;
            if mass >= goal {
                kept.truncate(i + 1);
                return;
            }
        }
        if sorted == kept.len() {
            return; // rounding: the sum in another order may miss the goal by an ulp
        }
        head *= 8;
    }
}

/// The candidate whose interval of the cumulated weights holds `uniform`.
fn draw(kept: &[Candidate], uniform: f64) -> u32 {
    let goal = uniform * kept.iter().map(|c| c.weight).sum::<f64>();
    let mut mass = 0.0;
    for c in kept {
        mass += c.weight;
        if mass > goal {
            return c.id;
        }
    }
    // Only rounding of the sum leads here: the last candidate with any weight.
    kept.iter().rev().find(|c| c.weight > 0.0).map_or(0, |c| c.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logits(n: usize, seed: u64) -> Vec<f32> {
        let s = Stream::new(seed, 1, 0);
        (0..n as u64).map(|i| 2.0 * s.normal(i)).collect()
    }

    /// Exact distribution by the definitions, written apart from the sampler: full sorts, no heads.
    fn exact(logits: &[f32], s: &Sampling) -> Vec<f64> {
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
        let p = |keep: &[usize]| -> Vec<f64> {
            let w: Vec<f64> = keep.iter().map(|i| (f64::from(logits[*i]) / s.temperature).exp()).collect();
            let z: f64 = w.iter().sum();
            w.iter().map(|w| w / z).collect()
        };
        let mut keep = order;
        if s.top_k > 0 {
            keep.truncate(s.top_k);
        }
        let mut mass = 0.0;
        let cut = p(&keep).iter().position(|q| {
            mass += q;
            mass >= s.top_p
        });
        keep.truncate(cut.map_or(keep.len(), |c| c + 1));
        let q = p(&keep);
        let keep: Vec<usize> =
            keep.iter().zip(&q).filter(|(_, q)| **q >= s.min_p * q_max(&p(&keep))).map(|(i, _)| *i).collect();
        let mut out = vec![0.0; logits.len()];
        for (i, q) in keep.iter().zip(p(&keep)) {
            out[*i] = q;
        }
        out
    }

    fn q_max(q: &[f64]) -> f64 {
        q.iter().copied().fold(0.0, f64::max)
    }

    #[test]
    fn draws_follow_the_exact_distribution() {
        let l = logits(40, 3);
        let cases = [
            (1.0, 0, 1.0, 0.0),
            (0.7, 0, 1.0, 0.0),
            (1.3, 5, 1.0, 0.0),
            (1.0, 0, 0.8, 0.0),
            (1.0, 0, 1.0, 0.2),
            (0.9, 12, 0.7, 0.05),
        ];
        for (temperature, top_k, top_p, min_p) in cases {
            let s = Sampling { temperature, top_k, top_p, min_p, seed: 11, ..Sampling::default() };
            let want = exact(&l, &s);
            let sampler = Sampler::new(&s, 0);
            let n = 40_000;
            let mut counts = vec![0u32; l.len()];
            for position in 0..n {
                counts[sampler.choose(&l, position).unwrap().id as usize] += 1;
            }
            // Pearson's statistic against its mean (df) and deviation (√2df): 5 sigma.
            let mut chi2 = 0.0;
            let mut df = -1.0;
            for (c, p) in counts.iter().zip(&want) {
                if *p == 0.0 {
                    assert_eq!(*c, 0, "a filtered token was drawn: {s:?}");
                } else if n as f64 * p >= 5.0 {
                    let e = n as f64 * p;
                    chi2 += (f64::from(*c) - e).powi(2) / e;
                    df += 1.0;
                }
            }
            assert!(chi2 < df + 5.0 * (2.0f64 * df).sqrt() + 1.0, "{s:?}: chi2 {chi2} of {df}");
        }
    }

    #[test]
    fn the_sorted_head_is_the_full_sort() {
        // flat logits force the head to grow past its first size
        let l: Vec<f32> = logits(5000, 9).iter().map(|x| x * 0.05).collect();
        for top_p in [0.01, 0.3, 0.9, 0.999] {
            let s = Sampling { temperature: 1.0, top_p, ..Sampling::default() };
            let kept = Sampler::new(&s, 0).candidates(&l, f64::from(l[argmax(&l)]));
            let want = exact(&l, &s).iter().filter(|p| **p > 0.0).count();
            assert!(kept.len().abs_diff(want) <= 1, "{top_p}: {} of {want}", kept.len());
            assert!(kept.windows(2).all(|w| best_first(&w[0], &w[1]).is_lt()));
        }
    }

    #[test]
    fn greedy_and_ties_are_the_lowest_id() {
        let l = [0.5, 2.0, 2.0, -1.0];
        let greedy = Sampler::new(&Sampling::default(), 0);
        assert_eq!(greedy.choose(&l, 0).unwrap().id, 1);
        let s = Sampling { temperature: 1.0, top_k: 1, ..Sampling::default() };
        for position in 0..100 {
            assert_eq!(Sampler::new(&s, 7).choose(&l, position).unwrap().id, 1);
        }
    }

    #[test]
    fn a_draw_depends_on_seed_request_and_position_only() {
        let l = logits(1000, 4);
        let s = |seed| Sampling { temperature: 1.0, seed, ..Sampling::default() };
        let run = |seed, request| -> Vec<u32> {
            let sampler = Sampler::new(&s(seed), request);
            (0..50).map(|p| sampler.choose(&l, p).unwrap().id).collect()
        };
        let backwards: Vec<u32> = (0..50).rev().map(|p| Sampler::new(&s(1), 0).choose(&l, p).unwrap().id).collect();
        let mut forwards = run(1, 0);
        assert_ne!(forwards, run(2, 0));
        assert_ne!(forwards, run(1, 1));
        forwards.reverse();
        assert_eq!(forwards, backwards);
    }

    #[test]
    fn logprob_is_of_the_unmodified_distribution() {
        let l = logits(30, 5);
        let z: f64 = l.iter().map(|x| f64::from(*x).exp()).sum();
        let s = Sampling { temperature: 0.3, top_k: 3, ..Sampling::default() };
        let c = Sampler::new(&s, 0).choose(&l, 0).unwrap();
        let want = (f64::from(l[c.id as usize]).exp() / z).ln();
        assert!((f64::from(c.logprob) - want).abs() < 1e-6);
    }

    #[test]
    fn confidence_is_the_mean_over_the_best() {
        let l = [0.0f32, 1.0, 3.0, -2.0];
        let z: f64 = l.iter().map(|x| f64::from(*x).exp()).sum::<f64>().ln();
        assert!((f64::from(confidence(&l, 2)) - (z - 2.0)).abs() < 1e-6);
        assert!((f64::from(confidence(&l, 20)) - (z - 0.5)).abs() < 1e-6, "all there are");
        assert!(confidence(&[9.0, 0.0, 0.0], 3) > confidence(&[1.0, 0.0, 0.0], 3), "peaked is higher");
        assert!((f64::from(log_softmax_at(&l, 2).unwrap()) - (3.0 - z)).abs() < 1e-6);
    }

    #[test]
    fn broken_logits_and_settings_are_named() {
        let sampler = Sampler::new(&Sampling::default(), 0);
        assert_eq!(sampler.choose(&[0.0, f32::NAN], 0), Err(1));
        assert_eq!(sampler.choose(&[f32::INFINITY, 0.0], 0), Err(0));
        assert_eq!(sampler.choose(&[f32::NEG_INFINITY; 2], 0), Err(0));
        assert_eq!(sampler.choose(&[f32::NEG_INFINITY, -3.0], 0).unwrap().id, 1);
        let bad =
            Sampling { temperature: -1.0, top_p: 0.0, min_p: 2.0, stop: vec![String::new()], ..Sampling::default() };
        assert_eq!(bad.faults().len(), 4);
        assert!(Sampling::default().faults().is_empty());
    }

    #[test]
    fn checkpoint_defaults() {
        let c = GenerationConfig {
            do_sample: Some(true),
            temperature: Some(0.6),
            top_p: Some(0.95),
            ..GenerationConfig::default()
        };
        let s = Sampling::of_checkpoint(&c);
        assert_eq!((s.temperature, s.top_p), (0.6, 0.95));
        let greedy = GenerationConfig { do_sample: Some(false), ..c };
        assert_eq!(Sampling::of_checkpoint(&greedy), Sampling::default());
        assert_eq!(Sampling::of_checkpoint(&GenerationConfig::default()), Sampling::default());
    }
}
