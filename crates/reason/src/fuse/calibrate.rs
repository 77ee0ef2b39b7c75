//! Fits a [`Calibration`] on questions with known answers.
//!
//! Everything that needs a held-out question gets one: thresholds and the choice between forms come from
//! folds, split by question, that the fit did not see.

use super::calibration::{Calibration, Keys, VERSION};
use super::confidence::{Confidence, Curve};
use super::folds::by_group;
use super::pattern::{Pattern, witnesses};
use super::ratio::{Judged, Ratio};
use super::score::Outcome;
use super::{Ballot, Fused, Groups, Method, fit};
use std::collections::{BTreeMap, BTreeSet};

/// A question with a known answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Labelled {
    /// Its paths.
    pub ballot: Ballot,
    /// The class that is right; none when no path has it.
    pub truth: Option<usize>,
    /// What the question is: rows of one question stay in one fold.
    pub group: String,
}

impl Labelled {
    /// How the question came out.
    pub fn outcome(&self, fused: &Fused) -> Outcome {
        let right = self.truth.is_some() && fused.top().map(|c| c.class) == self.truth;
        let p_truth = self.truth.map_or(fused.p_none, |t| fused.p_of(t));
        Outcome { p: fused.p(), right, p_truth, paths: fused.paths }
    }
}

/// How to fit.
#[derive(Debug, Clone, PartialEq)]
pub struct FitOptions {
    /// The method; none: whichever of posterior and pattern makes the truth likelier on held-out folds.
    pub method: Option<Method>,
    /// Features to use; none: all that occur.
    pub features: Option<Vec<String>>,
    /// Curve of path confidence.
    pub curve: Curve,
    /// Folds of the inner split.
    pub folds: usize,
    /// Seed of the inner split.
    pub seed: u64,
}

impl Default for FitOptions {
    fn default() -> Self {
        Self { method: None, features: None, curve: Curve::default(), folds: 5, seed: 0 }
    }
}

const TEMPERATURES: [f64; 6] = [0.05, 0.1, 0.2, 0.5, 1.0, 2.0];

/// Fits all parameters; `outcomes` stay empty and the method is the one asked for, or posterior.
pub fn parameters(questions: &[&Labelled], options: &FitOptions) -> Calibration {
    let method = options.method.unwrap_or_default();
    let mut calibration = Calibration::uncalibrated(method);
    calibration.questions = questions.len();
    let counts: Vec<_> = questions.iter().map(|q| (&q.ballot.classes[..], q.truth, q.ballot.options)).collect();
    let plain: Vec<_> = questions.iter().map(|q| (&q.ballot.classes[..], q.truth)).collect();
    if method == Method::Vote || questions.is_empty() {
        return calibration;
    }
    calibration.correlated = fit::correlated(&counts);
    calibration.witnesses = witnesses(&plain);
    calibration.pattern = Pattern::fit(&plain);
    let verifiers: BTreeSet<&String> = questions.iter().flat_map(|q| q.ballot.verdicts.keys()).collect();
    for name in verifiers {
        let judged: Vec<Judged> = (questions.iter())
            .filter_map(|q| Some((&q.ballot.classes[..], &q.ballot.verdicts.get(name)?[..], q.truth)))
            .collect();
        calibration.ratios.insert(name.clone(), Ratio::fit(&judged));
    }
    let features = options.features.clone().unwrap_or_else(|| {
        let all: BTreeSet<&String> = questions.iter().flat_map(|q| q.ballot.features.keys()).collect();
        all.into_iter().cloned().collect()
    });
    let ballots: Vec<_> = questions.iter().map(|q| (&q.ballot, q.truth)).collect();
    if let Some(mut confidence) = Confidence::fit(&ballots, &features, options.curve) {
        confidence.weight = weight(questions, &calibration, &confidence);
        calibration.confidence = Some(confidence);
        calibration.temperature = temperature(questions, &calibration);
    }
    calibration
}

/// λ of the confidence term: the most likely of 0, .05, …, 1 on top of everything else, or 0 when that gains
/// less than 1.92 in log-likelihood.
fn weight(questions: &[&Labelled], calibration: &Calibration, confidence: &Confidence) -> f64 {
    // Scores without the term, and the term, once a question.
    let prepared: Vec<_> = (questions.iter())
        .map(|q| {
            let fused = calibration.fuse(&q.ballot);
            let groups = Groups::of(&q.ballot.classes);
            let evidence = confidence.evidence(&q.ballot, &groups);
            let each: Vec<(f64, f64, bool)> = (groups.classes.iter().zip(evidence))
                .map(|((class, _), e)| (fused.p_of(*class), e, Some(*class) == q.truth))
                .collect();
            (each, fused.p_none)
        })
        .collect();
    let likelihood = |weight: f64| {
        let each = prepared.iter().map(|(each, none)| {
            let all: f64 = each.iter().map(|(p, e, _)| p * (weight * e).clamp(-50.0, 50.0).exp()).sum::<f64>() + none;
            let truth = each.iter().find(|(.., right)| *right);
            let truth = truth.map_or(*none, |(p, e, _)| p * (weight * e).clamp(-50.0, 50.0).exp());
            (truth / all).max(1e-12).ln()
        });
        each.sum::<f64>()
    };
    let nothing = likelihood(0.0);
    let mut best = (nothing, 0.0);
    for step in 1..=20 {
        let weight = f64::from(step) / 20.0;
        let value = likelihood(weight);
        if value > best.0 {
            best = (value, weight);
        }
    }
    if best.0 - nothing < 1.92 { 0.0 } else { best.1 }
}

/// The temperature with the most right answers; the hotter on a tie, none for the plain vote.
fn temperature(questions: &[&Labelled], calibration: &Calibration) -> Option<f64> {
    let mut trial = calibration.clone();
    let mut best: (usize, Option<f64>) = (0, None);
    for temperature in TEMPERATURES.into_iter().map(Some).chain([None]) {
        trial.temperature = temperature;
        let right = questions.iter().filter(|q| q.outcome(&trial.fuse_by(Method::Weighted, &q.ballot)).right).count();
        if right >= best.0 {
            best = (right, temperature);
        }
    }
    best.1
}

/// The whole calibration: parameters on all questions, and outcomes and the choice of form from folds.
pub fn calibrate(questions: &[&Labelled], options: &FitOptions, keys: Keys) -> Calibration {
    let mut whole = parameters(questions, options);
    let mut methods = vec![whole.method];
    if options.method.is_none() && whole.pattern.is_some() {
        methods.push(Method::Pattern);
    }
    let groups: Vec<&str> = questions.iter().map(|q| q.group.as_str()).collect();
    let fold = by_group(&groups, options.folds, options.seed);
    let mut outcomes: BTreeMap<usize, Vec<Outcome>> = BTreeMap::new();
    for f in 0..options.folds {
        let (held, rest): (Vec<usize>, Vec<usize>) = (0..questions.len()).partition(|&i| fold[i] == f);
        let rest: Vec<&Labelled> = rest.into_iter().map(|i| questions[i]).collect();
        let fitted = parameters(&rest, options);
        for i in held {
            let each = methods.iter().map(|&m| questions[i].outcome(&fitted.fuse_by(m, &questions[i].ballot)));
            outcomes.insert(i, each.collect());
        }
    }
    let loss = |m: usize| outcomes.values().map(|o| -o[m].p_truth.max(1e-6).ln()).sum::<f64>();
    let chosen = (0..methods.len()).min_by(|&a, &b| loss(a).total_cmp(&loss(b))).unwrap_or(0);
    whole.method = methods[chosen];
    whole.outcomes = outcomes.into_values().map(|o| o[chosen]).collect();
    whole.version = VERSION;
    whole.keys = keys;
    whole
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuse::folds::Draw;

    /// 300 questions of 4 paths; a feature that tells right from wrong by `signal` standard widths.
    fn questions(signal: f64) -> Vec<Labelled> {
        let mut draw = Draw::new(11, 0);
        (0..300)
            .map(|i| {
                let easy = draw.unit();
                let classes: Vec<_> =
                    (0..4).map(|_| Some(if draw.unit() < easy { 0 } else { 1 + draw.below(3) })).collect();
                let value = |c: &Option<usize>| Some(draw.unit() + if *c == Some(0) { signal } else { 0.0 });
                let feature: Vec<_> = classes.iter().map(value).collect();
                let mut ballot = Ballot::of(&classes);
                ballot.features.insert("f".into(), feature);
                let truth = classes.contains(&Some(0)).then_some(0);
                Labelled { ballot, truth, group: i.to_string() }
            })
            .collect()
    }

    fn right(questions: &[Labelled], calibration: &Calibration, method: Method) -> usize {
        questions.iter().filter(|q| q.outcome(&calibration.fuse_by(method, &q.ballot)).right).count()
    }

    #[test]
    fn a_worthless_feature_weighs_nothing_and_a_good_one_helps() {
        let noise = questions(0.0);
        let fitted = parameters(&noise.iter().collect::<Vec<_>>(), &FitOptions::default());
        assert_eq!(fitted.confidence.as_ref().unwrap().weight, 0.0);
        let good = questions(0.6);
        let fitted = parameters(&good.iter().collect::<Vec<_>>(), &FitOptions::default());
        assert!(fitted.confidence.as_ref().unwrap().weight > 0.3);
        assert!(fitted.temperature.is_some());
        let vote = right(&good, &fitted, Method::Vote);
        for method in [Method::Weighted, Method::Posterior] {
            assert!(right(&good, &fitted, method) > vote + 20, "{method:?}");
        }
    }

    #[test]
    fn platt_and_isotonic_agree_where_both_fit() {
        let good = questions(0.6);
        let all: Vec<&Labelled> = good.iter().collect();
        let options = FitOptions { curve: Curve::Platt, ..FitOptions::default() };
        let (a, b) = (parameters(&all, &FitOptions::default()), parameters(&all, &options));
        assert!(b.confidence.as_ref().unwrap().curve.is_none());
        assert!(right(&good, &a, Method::Posterior).abs_diff(right(&good, &b, Method::Posterior)) < 12);
    }

    #[test]
    fn every_question_is_scored_once_by_a_fit_that_did_not_see_it() {
        let data = questions(0.3);
        let all: Vec<&Labelled> = data.iter().collect();
        let options = FitOptions { method: Some(Method::Posterior), ..FitOptions::default() };
        let calibration = calibrate(&all, &options, Keys::default());
        assert_eq!((calibration.outcomes.len(), calibration.questions), (300, 300));
        assert_eq!(calibration, calibrate(&all, &options, Keys::default()));
        assert!(matches!(calibration.threshold(0.2), super::super::conformal::Threshold::At { .. }));
    }
}
