//! Bayes with errors that go together.
//!
//! Paths of one model on one question are not independent witnesses: an easy question gets most of them
//! right, and wrong ones repeat the same mistake. With θ ~ Beta(α, β) the chance of a right path on this
//! question and φ ~ Dirichlet(g, …, g) the spread of wrong ones over K alternatives, both integrated out,
//!
//! ln P(counts | y = a) = ln B(α + n_a, β + n − n_a) − ln B(α, β) + ln DM(other counts; g, K),
//! DM(n; g, K) = Γ(Kg) / Γ(N + Kg) · Π Γ(n_j + g) / Γ(g),
//!
//! and "none of these" is n_a = 0 times the number of answers that nobody gave, K + 1 − |A| (at least
//! one when the question is open). The prior over answers is uniform. α, β → 0 with α/(α + β) = p and
//! g → 0 is full correlation: a repeated path says nothing new. α, β → ∞ and g → ∞ is
//! [`super::independent`].

use super::independent::Alternatives;
use super::special::{ln_beta_binomial, ln_dirichlet_multinomial};
use super::{Fused, Groups, Method, Term};
use serde::{Deserialize, Serialize};

/// The numbers of the model.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Correlated {
    /// α/(α + β) is the share of right paths; small α + β: questions differ much.
    pub alpha: f64,
    /// See `alpha`.
    pub beta: f64,
    /// Concentration of wrong answers on each alternative; small: wrong paths agree with each other.
    pub g: f64,
    /// Alternatives to the right answer of an open question.
    pub k: f64,
}

impl Correlated {
    /// What is assumed before anything was measured: Jeffreys' prior for the share of right paths and
    /// Kg = 1 over ten alternatives. Whatever comes of it is not calibrated.
    pub const UNCALIBRATED: Self = Self { alpha: 0.5, beta: 0.5, g: 0.1, k: 10.0 };

    /// Alternatives of a question with so many options, or of an open one.
    pub fn alternatives(&self, options: Option<usize>) -> Alternatives {
        options.map_or(Alternatives::Open(self.k), Alternatives::Closed)
    }

    /// Log scores from counts alone: (agreement, alternatives) for each class and for "none of these",
    /// the last with the number of unseen answers.
    pub(crate) fn scores(&self, counts: &[usize], silent: usize, options: Option<usize>) -> Scores {
        let (k, unseen) = self.alternatives(options).resolve(counts.len(), silent > 0);
        let n: usize = counts.iter().sum::<usize>() + silent;
        let wrong = |but: usize| {
            let others = counts.iter().enumerate().filter(move |(j, _)| *j != but).map(|(_, &c)| c);
            ln_dirichlet_multinomial(others.chain([silent]), self.g, k)
        };
        let agreement = |right: usize| ln_beta_binomial(self.alpha, self.beta, right, n - right);
        let each = counts.iter().enumerate().map(|(j, &c)| (agreement(c), wrong(j))).collect();
        Scores { each, none: (unseen > 0.0).then(|| (agreement(0), wrong(usize::MAX), unseen.ln())) }
    }

    /// Probability that the next path gives each class, silence and something new, were the truth `truth`
    /// (an index into `counts`, or none of them): (classes, silence, new).
    pub(crate) fn predictive(
        &self,
        counts: &[usize],
        silent: usize,
        options: Option<usize>,
        truth: Option<usize>,
    ) -> (Vec<f64>, f64, f64) {
        let (k, _) = self.alternatives(options).resolve(counts.len(), silent > 0);
        let n = (counts.iter().sum::<usize>() + silent) as f64;
        let right = truth.map_or(0, |t| counts[t]) as f64;
        let p_right = (self.alpha + right) / (self.alpha + self.beta + n);
        let wrong = |c: usize| (1.0 - p_right) * (self.g + c as f64) / (k * self.g + n - right);
        let each: Vec<f64> =
            counts.iter().enumerate().map(|(j, &c)| if Some(j) == truth { p_right } else { wrong(c) }).collect();
        let silence = if silent > 0 { wrong(silent) } else { 0.0 };
        let new = (1.0 - each.iter().sum::<f64>() - silence).max(0.0);
        (each, silence, new)
    }
}

/// Log scores of counts.
pub(crate) struct Scores {
    /// (agreement, alternatives) of each class.
    pub each: Vec<(f64, f64)>,
    /// (agreement, alternatives, ln of unseen answers) of "none of these", unless impossible.
    pub none: Option<(f64, f64, f64)>,
}

/// The terms of each class, in the order of `groups`, and of "none of these".
pub(crate) fn terms(
    groups: &Groups,
    model: &Correlated,
    options: Option<usize>,
) -> (Vec<Vec<Term>>, Option<Vec<Term>>) {
    let scores = model.scores(&groups.counts(), groups.unanswered.len(), options);
    let pair = |(agreement, wrong)| vec![Term::new("agreement", agreement), Term::new("alternatives", wrong)];
    let none = scores.none.map(|(agreement, wrong, unseen)| {
        let mut terms = pair((agreement, wrong));
        terms.push(Term::new("unseen answers", unseen));
        terms
    });
    (scores.each.into_iter().map(pair).collect(), none)
}

/// The posterior of the answers of one question.
pub fn correlated(classes: &[Option<usize>], model: &Correlated, options: Option<usize>) -> Fused {
    let groups = Groups::of(classes);
    let (each, none) = terms(&groups, model, options);
    Fused::normalise(Method::Posterior, groups, each, none)
}

/// What one more path is expected to add to the probability of the best answer (0 or more: the
/// expectation of the later maximum less the maximum now), from counts alone. Myopic: a question that
/// needs two more paths to turn may promise nothing for one.
pub fn expected_gain(classes: &[Option<usize>], model: &Correlated, options: Option<usize>) -> f64 {
    let now = correlated(classes, model, options);
    let groups = Groups::of(classes);
    let (counts, silent) = (groups.counts(), groups.unanswered.len());
    // The next answer's chance under each possible truth, mixed by the posterior.
    let (mut each, mut silence, mut new) = (vec![0.0; counts.len()], 0.0, 0.0);
    let truths = (0..counts.len()).map(|t| (Some(t), now.p_of(groups.classes[t].0))).chain([(None, now.p_none)]);
    for (truth, p) in truths {
        let (e, s, n) = model.predictive(&counts, silent, options, truth);
        each.iter_mut().zip(e).for_each(|(sum, e)| *sum += p * e);
        silence += p * s;
        new += p * n;
    }
    let after = |class: Option<usize>| {
        let mut more = classes.to_vec();
        more.push(class);
        correlated(&more, model, options).p()
    };
    let fresh = groups.classes.iter().map(|(c, _)| c + 1).max().unwrap_or(0);
    let mut later: f64 = groups.classes.iter().zip(each).map(|((c, _), p)| p * after(Some(*c))).sum();
    if silence > 0.0 {
        later += silence * after(None);
    }
    if new > 0.0 {
        later += new * after(Some(fresh));
    }
    (later - now.p()).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuse::independent::independent;

    const MODEL: Correlated = Correlated { alpha: 0.5, beta: 0.3, g: 0.03, k: 30.0 };

    #[test]
    fn one_path_has_the_share_of_right_paths() {
        for options in [None, Some(4)] {
            let fused = correlated(&[Some(0)], &MODEL, options);
            assert!((fused.p() - 0.5 / 0.8).abs() < 1e-9 && (fused.p() + fused.p_none - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn a_repeated_path_says_nothing_when_paths_are_copies() {
        let copies = Correlated { alpha: 0.7e-7, beta: 0.3e-7, g: 1e-9, k: 10.0 };
        let one = correlated(&[Some(0)], &copies, None);
        assert!((one.p() - 0.7).abs() < 1e-6);
        for n in [2, 5, 40] {
            let many = correlated(&vec![Some(0); n], &copies, None);
            assert!((many.p() - one.p()).abs() < 1e-5, "{n} copies: {} and {}", many.p(), one.p());
        }
        let independent = independent(&[Some(0); 5], &[0.7; 5], Alternatives::Open(10.0));
        assert!(independent.p() > 0.9999, "independence takes copies for witnesses");
    }

    #[test]
    fn without_correlation_it_is_the_independent_form() {
        let (p, k) = (0.6, 8.0);
        let model = Correlated { alpha: p * 1e7, beta: (1.0 - p) * 1e7, g: 1e6, k };
        let classes = [Some(0), Some(1), Some(0), None, Some(2)];
        let (a, b) = (correlated(&classes, &model, None), independent(&classes, &[p; 5], Alternatives::Open(k)));
        for class in 0..3 {
            assert!((a.p_of(class) - b.p_of(class)).abs() < 1e-4, "{} {}", a.p_of(class), b.p_of(class));
        }
        assert!((a.p_none - b.p_none).abs() < 1e-4);
    }

    #[test]
    fn order_of_paths_changes_nothing_and_silence_lowers_trust() {
        let there = correlated(&[Some(0), Some(1), Some(0), None], &MODEL, None);
        let back = correlated(&[None, Some(0), Some(1), Some(0)], &MODEL, None);
        assert!((there.p_of(0) - back.p_of(0)).abs() < 1e-12);
        let sure = correlated(&[Some(0), Some(0)], &MODEL, None);
        let silent = correlated(&[Some(0), Some(0), None], &MODEL, None);
        assert!(silent.p() < sure.p() && silent.unanswered == [2]);
    }

    #[test]
    fn all_options_named_leave_no_room_for_none_of_these() {
        let fused = correlated(&[Some(0), Some(1), Some(2)], &MODEL, Some(3));
        assert_eq!(fused.p_none, 0.0);
        assert!((fused.candidates.iter().map(|c| c.p).sum::<f64>() - 1.0).abs() < 1e-12);
        assert!(correlated(&[Some(0), Some(1), Some(2)], &MODEL, None).p_none > 0.0);
    }

    #[test]
    fn scores_are_the_sum_of_their_terms() {
        let fused = correlated(&[Some(0), Some(1), Some(0), None], &MODEL, None);
        for candidate in &fused.candidates {
            assert_eq!(candidate.score, candidate.terms.iter().map(|t| t.value).sum::<f64>());
        }
        let odds = fused.candidates[0].score - fused.none_terms.iter().map(|t| t.value).sum::<f64>();
        assert!(((fused.p() / fused.p_none).ln() - odds).abs() < 1e-12);
    }

    #[test]
    fn the_next_path_is_predicted_coherently() {
        // Mixing the posterior after each possible next answer gives back the posterior now.
        let classes = [Some(0), Some(1), Some(0)];
        let now = correlated(&classes, &MODEL, None);
        let mut mixed = 0.0;
        for (truth, p) in [(Some(0), now.p_of(0)), (Some(1), now.p_of(1)), (None, now.p_none)] {
            let (each, _, new) = MODEL.predictive(&[2, 1], 0, None, truth);
            assert!((each.iter().sum::<f64>() + new - 1.0).abs() < 1e-12);
            for (next, q) in [(0, each[0]), (1, each[1]), (2, new)] {
                mixed += p * q * correlated(&[Some(0), Some(1), Some(0), Some(next)], &MODEL, None).p_of(0);
            }
        }
        assert!((mixed - now.p_of(0)).abs() < 1e-9, "{mixed} {}", now.p_of(0));
        let gain = |c: &[Option<usize>]| expected_gain(c, &MODEL, None);
        assert!(gain(&[Some(0), Some(1)]) > gain(&[Some(0); 8]) && gain(&[Some(0); 8]) >= 0.0);
    }
}
