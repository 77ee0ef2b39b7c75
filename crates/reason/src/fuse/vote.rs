//! Votes: plain and weighted by path confidence.
//!
//! Self-consistency (Wang et al. 2023) counts; confidence-informed self-consistency (CISC, Taubenfeld et
//! al. 2025) gives path i the weight softmax(c_i / T) within the question. T → ∞ is the plain vote,
//! T → 0 the best single path. The share a class gets is **not** the probability that it is right.

use super::special::log_sum_exp;
use super::{Candidate, Fused, Groups, Method, Term, rank};

/// One path, one vote. `p` is the share of all paths, those without an answer included.
pub fn vote(classes: &[Option<usize>]) -> Fused {
    shares(Method::Vote, classes, &vec![0.0; classes.len()])
}

/// Votes with weight softmax(confidence / temperature). A path whose confidence is missing or not finite
/// counts as the mean of the others; when all are missing it is the plain vote.
///
/// # Panics
/// When `classes` and `confidence` differ in length, or the temperature is negative or not a number.
pub fn weighted(classes: &[Option<usize>], confidence: &[Option<f64>], temperature: f64) -> Fused {
    assert_eq!(classes.len(), confidence.len(), "one confidence a path");
    assert!(temperature >= 0.0, "a temperature is at least 0, not {temperature}");
    let method = if temperature == 0.0 { Method::Best } else { Method::Weighted };
    let known: Vec<f64> = confidence.iter().filter_map(|c| c.filter(|c| c.is_finite())).collect();
    if known.is_empty() || temperature.is_infinite() {
        return shares(method, classes, &vec![0.0; classes.len()]);
    }
    let mean = known.iter().sum::<f64>() / known.len() as f64;
    let filled: Vec<f64> = confidence.iter().map(|c| c.filter(|c| c.is_finite()).unwrap_or(mean)).collect();
    // The best path is the best path with an answer: one without cannot be the answer.
    let answered = |i: &usize| temperature > 0.0 || classes[*i].is_some();
    let top = (0..filled.len()).filter(answered).map(|i| filled[i]).fold(f64::NEG_INFINITY, f64::max);
    let log_weights: Vec<f64> = (0..filled.len())
        .map(|i| match temperature {
            0.0 if filled[i] == top && classes[i].is_some() => 0.0,
            0.0 => f64::NEG_INFINITY,
            t => (filled[i] - top) / t,
        })
        .collect();
    shares(method, classes, &log_weights)
}

/// Share of the weight that falls on each class. The score is the logarithm of its weight, which ranks
/// even where the share underflows.
fn shares(method: Method, classes: &[Option<usize>], log_weights: &[f64]) -> Fused {
    let groups = Groups::of(classes);
    let all = log_sum_exp(log_weights.iter().copied());
    let weight = |paths: &[usize]| log_sum_exp(paths.iter().map(|&i| log_weights[i]));
    let mut candidates: Vec<Candidate> = (groups.classes.into_iter())
        .map(|(class, paths)| {
            // No weight at all is held finite, so that records stay JSON.
            let score = weight(&paths).max(f64::MIN);
            Candidate { class, p: (score - all).exp(), score, terms: vec![Term::new("votes", score)], paths }
        })
        .collect();
    rank(&mut candidates);
    let p_none = if candidates.is_empty() { 1.0 } else { (weight(&groups.unanswered) - all).exp() };
    Fused { method, candidates, p_none, none_terms: Vec::new(), unanswered: groups.unanswered, paths: groups.paths }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLASSES: [Option<usize>; 6] = [Some(2), Some(7), None, Some(7), Some(2), Some(9)];

    #[test]
    fn a_tie_goes_to_the_earlier_path_and_silence_counts() {
        let fused = vote(&CLASSES);
        assert_eq!(fused.candidates.iter().map(|c| c.class).collect::<Vec<_>>(), [2, 7, 9]);
        assert!((fused.p() - 2.0 / 6.0).abs() < 1e-15 && (fused.p_none - 1.0 / 6.0).abs() < 1e-15);
    }

    #[test]
    fn hot_weights_are_the_vote_and_cold_ones_the_best_path() {
        let confidence = [0.1, 0.9, 5.0, 0.2, 0.3, 1.0].map(Some);
        let (plain, hot) = (vote(&CLASSES), weighted(&CLASSES, &confidence, 1e9));
        for candidate in &plain.candidates {
            assert!((candidate.p - hot.p_of(candidate.class)).abs() < 1e-8);
        }
        assert_eq!(weighted(&CLASSES, &confidence, f64::INFINITY).p(), plain.p());
        for cold in [0.0, 1e-3] {
            let best = weighted(&CLASSES, &confidence, cold);
            assert_eq!(best.top().unwrap().class, 9, "the best path that has an answer, at T = {cold}");
        }
        assert_eq!(weighted(&CLASSES, &confidence, 0.0).p(), 1.0);
    }

    #[test]
    fn confidence_moves_the_answer_and_missing_confidence_does_not() {
        let classes = [Some(0), Some(0), Some(1)];
        let weigh = |c: [Option<f64>; 3]| weighted(&classes, &c, 0.5).top().unwrap().class;
        assert_eq!(weigh([Some(-2.0), Some(-2.0), Some(-0.1)]), 1);
        assert_eq!(weigh([None, None, None]), 0);
        assert_eq!(weigh([Some(-1.0), None, Some(-1.0)]), 0);
    }
}
