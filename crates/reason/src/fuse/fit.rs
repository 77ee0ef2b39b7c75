//! Estimates α, β, g and K of [`super::posterior`] from questions with known answers.
//!
//! First by marginal likelihood of the counts. It falls into two parts: n_right is beta-binomial and
//! gives α, β; the wrong counts are Dirichlet-multinomial over K unnamed alternatives, K!/(K − k)! ways to
//! name the k that came, and give g for each K of a grid; the likeliest K wins, the smaller on a tie.
//!
//! The marginal fits how counts look, not what they say of the truth: wrong paths agree more in some
//! questions than in others, which the model does not know. So α, β and g then move to where the truth is
//! likeliest **given** the counts, held near their marginal values by a log-normal prior (spread e). Weak
//! log-normal priors (spread e²) keep both finite when all calibration paths are right.

use super::Groups;
use super::posterior::Correlated;
use super::special::{ln_beta_binomial, ln_dirichlet_multinomial, ln_factorial, log_sum_exp, maximise};
use std::collections::BTreeMap;

const GRID: [f64; 8] = [1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 100.0];
/// ln of α, β and g stay within ±7.
const LIMIT: f64 = 7.0;

/// What matters of one question: right paths, sizes of wrong classes (descending), silent paths, options.
type Counts = (usize, Vec<usize>, usize, Option<usize>);

/// A question: classes of its paths, the class that is right, options it offers.
pub type Question<'a> = (&'a [Option<usize>], Option<usize>, Option<usize>);

/// Questions with the same counts are one entry.
fn counted(questions: &[Question<'_>]) -> BTreeMap<Counts, f64> {
    let mut all = BTreeMap::new();
    for (classes, truth, options) in questions.iter().filter(|(classes, ..)| !classes.is_empty()) {
        let groups = Groups::of(classes);
        let mut right = 0;
        let mut wrong = Vec::new();
        for (class, paths) in &groups.classes {
            if Some(*class) == *truth {
                right = paths.len();
            } else {
                wrong.push(paths.len());
            }
        }
        wrong.sort_unstable_by(|a, b| b.cmp(a));
        *all.entry((right, wrong, groups.unanswered.len(), *options)).or_insert(0.0) += 1.0;
    }
    all
}

/// Fits on (classes, class that is right, options of the question). Without a question it is
/// [`Correlated::UNCALIBRATED`].
pub fn correlated(questions: &[Question<'_>]) -> Correlated {
    let counts = counted(questions);
    if counts.is_empty() {
        return Correlated::UNCALIBRATED;
    }
    let marginal = marginal(&counts);
    truthful(&counts, &marginal)
}

fn marginal(counts: &BTreeMap<Counts, f64>) -> Correlated {
    let prior = |x: &[f64]| -x.iter().map(|x| x * x).sum::<f64>() / 8.0;
    let agreement = |x: &[f64]| {
        let (alpha, beta) = (x[0].exp(), x[1].exp());
        let each = counts.iter().map(|((right, wrong, silent, _), times)| {
            times * ln_beta_binomial(alpha, beta, *right, wrong.iter().sum::<usize>() + silent)
        });
        each.sum::<f64>() + prior(x)
    };
    let ab = maximise(&[0.0, 0.0], -LIMIT, LIMIT, agreement);
    // Only open questions say how many alternatives there are; with options K is known.
    let most = counts.keys().map(|(_, wrong, silent, _)| wrong.len() + usize::from(*silent > 0)).max().unwrap_or(0);
    let spread = |k: f64, g: f64| {
        let each = counts.iter().map(|((_, wrong, silent, options), times)| {
            let k = options.map_or(k, |m| (m as f64 - 1.0).max(wrong.len() as f64)).max(1.0);
            let kinds = wrong.len() + usize::from(*silent > 0);
            let k = k.max(kinds as f64);
            let names = ln_factorial(k as usize) - ln_factorial(k as usize - kinds);
            times * (ln_dirichlet_multinomial(wrong.iter().copied().chain([*silent]), g, k) + names)
        });
        each.sum::<f64>()
    };
    let mut best: Option<(f64, f64, f64)> = None;
    for k in GRID.into_iter().filter(|&k| k >= most as f64 || k == GRID[GRID.len() - 1]) {
        let g = maximise(&[(1.0 / k).ln()], -LIMIT, LIMIT, |x| spread(k, x[0].exp()) + prior(&[x[0] + k.ln()]))[0];
        let value = spread(k, g.exp()) + prior(&[g + k.ln()]);
        if best.is_none_or(|(b, ..)| value > b + 1e-9) {
            best = Some((value, g.exp(), k));
        }
    }
    let (_, g, k) = best.unwrap_or((0.0, 0.1, 10.0));
    Correlated { alpha: ab[0].exp(), beta: ab[1].exp(), g, k }
}

/// Moves α, β, g to where the truth is likeliest given the counts.
fn truthful(counts: &BTreeMap<Counts, f64>, start: &Correlated) -> Correlated {
    let from = [start.alpha.ln(), start.beta.ln(), start.g.ln()];
    let at = |x: &[f64]| Correlated { alpha: x[0].exp(), beta: x[1].exp(), g: x[2].exp(), k: start.k };
    let value = |x: &[f64]| {
        let model = at(x);
        let each = counts.iter().map(|((right, wrong, silent, options), times)| {
            let all: Vec<usize> = [*right].into_iter().filter(|&n| n > 0).chain(wrong.iter().copied()).collect();
            let scores = model.scores(&all, *silent, *options);
            let each: Vec<f64> = scores.each.iter().map(|(a, b)| a + b).collect();
            let none = scores.none.map(|(a, b, c)| a + b + c);
            let truth = if *right > 0 { each[0] } else { none.unwrap_or(f64::NEG_INFINITY) };
            // A truth outside of all options that came (a gold that no option matches) says nothing.
            let z = log_sum_exp(each.iter().copied().chain(none));
            if truth.is_finite() { times * (truth - z) } else { 0.0 }
        });
        each.sum::<f64>() - x.iter().zip(&from).map(|(x, f)| (x - f).powi(2)).sum::<f64>() / 2.0
    };
    at(&maximise(&from, -LIMIT, LIMIT, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuse::folds::Draw;

    /// Draws questions of `n` paths from the model itself, by urns: a beta urn for right or wrong and a
    /// Dirichlet urn for which wrong answer.
    fn draw(model: &Correlated, questions: usize, n: usize, seed: u64) -> Vec<Vec<Option<usize>>> {
        let mut draw = Draw::new(seed, 9);
        (0..questions)
            .map(|_| {
                let (mut right, mut wrong) = (0.0, vec![0.0; model.k as usize]);
                (0..n)
                    .map(|_| {
                        let seen: f64 = wrong.iter().sum();
                        if draw.unit() < (model.alpha + right) / (model.alpha + model.beta + right + seen) {
                            right += 1.0;
                            return Some(0);
                        }
                        let mut u = draw.unit() * (model.k * model.g + seen);
                        let mut at = wrong.iter().position(|w| {
                            u -= w + model.g;
                            u < 0.0
                        });
                        let at = *at.get_or_insert(0);
                        wrong[at] += 1.0;
                        Some(at + 1)
                    })
                    .collect()
            })
            .collect()
    }

    #[test]
    fn known_numbers_are_recovered() {
        let truth = Correlated { alpha: 1.2, beta: 0.6, g: 0.05, k: 10.0 };
        let data = draw(&truth, 3000, 10, 1);
        let questions: Vec<_> = data.iter().map(|c| (&c[..], Some(0), None)).collect();
        let fit = marginal(&counted(&questions));
        for (name, got, want) in [
            ("alpha", fit.alpha, truth.alpha),
            ("beta", fit.beta, truth.beta),
            ("Kg", fit.k * fit.g, truth.k * truth.g),
        ] {
            assert!((got / want).ln().abs() < 0.25, "{name}: {got} for {want} ({fit:?})");
        }
        assert!((5.0..=20.0).contains(&fit.k), "K {}", fit.k);
    }

    #[test]
    fn the_fitted_posterior_is_calibrated_on_fresh_questions() {
        use crate::fuse::posterior::correlated as fuse;
        use crate::fuse::score::{Outcome, Score};
        let truth = Correlated { alpha: 0.8, beta: 0.5, g: 0.05, k: 10.0 };
        let (train, test) = (draw(&truth, 1000, 6, 2), draw(&truth, 4000, 6, 3));
        let fit = correlated(&train.iter().map(|c| (&c[..], Some(0), None)).collect::<Vec<_>>());
        let outcomes: Vec<Outcome> = (test.iter())
            .map(|classes| {
                let fused = fuse(classes, &fit, None);
                let right = fused.top().unwrap().class == 0;
                let p_truth = if classes.contains(&Some(0)) { fused.p_of(0) } else { fused.p_none };
                Outcome { p: fused.p(), right, p_truth, paths: 6 }
            })
            .collect();
        let score = Score::of(&outcomes, &[]);
        assert!(score.ece < 0.025, "{score:?}");
    }

    #[test]
    fn one_sided_data_stay_finite() {
        let all = [Some(0); 5];
        let fit = correlated(&vec![(&all[..], Some(0), None); 50]);
        assert!(fit.alpha.is_finite() && fit.beta > 0.0 && fit.alpha > fit.beta);
        let none = correlated(&vec![(&[None, None][..], None, Some(4)); 10]);
        assert!(none.alpha > 0.0 && none.g > 0.0);
        assert_eq!(correlated(&[]), Correlated::UNCALIBRATED);
    }
}
