//! A trial of fusion and early stopping on recorded samples.
//!
//! Every figure is held out: questions are split into folds, parameters, thresholds and the choice of form
//! come from the other folds. With several orders the paths of each question are shuffled by the seed and
//! the figures are means over orders.

use crate::fuse::calibrate::{FitOptions, Labelled, calibrate, parameters};
use crate::fuse::calibration::{Calibration, Keys};
use crate::fuse::conformal::Threshold;
use crate::fuse::folds::{Draw, by_group};
use crate::fuse::score::{Outcome, Score};
use crate::fuse::{Ballot, Fused, Method};
use crate::stop::confidence::most_confident;
use crate::stop::{Rule, Stop};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What is tried.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// How to fit and fuse.
    pub fit: FitOptions,
    /// Paths to use, the first so many of each question; none: all.
    pub paths: Option<usize>,
    /// When a question has enough of them.
    pub stop: Rule,
    /// Keep this share of paths by this feature before fusing.
    pub keep: Option<(String, f64)>,
    /// Folds.
    pub folds: usize,
    /// Orders of paths: 1 is the recorded one, more are shuffles.
    pub orders: usize,
    /// Risks that coverage is stated at.
    pub risks: Vec<f64>,
    /// A calibration from elsewhere, in place of folds.
    pub calibration: Option<Calibration>,
}

/// What answering at a threshold from calibration folds gave on the held-out ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Controlled {
    /// The stated risk.
    pub risk: f64,
    /// The threshold of each fold.
    pub thresholds: Vec<Threshold>,
    /// Share of questions answered; none when a fold had too few calibration questions.
    pub coverage: Option<f64>,
    /// Share of them that are wrong; none when none was answered.
    pub wrong: Option<f64>,
}

/// Figures of one plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Questions.
    pub questions: usize,
    /// The most paths a question used.
    pub paths: usize,
    /// How often each method was used over folds and orders.
    pub methods: BTreeMap<Method, usize>,
    /// The figures.
    pub score: Score,
    /// Answering at a stated risk.
    pub controlled: Vec<Controlled>,
    /// Share of questions of which some path is right: no fusion can do better.
    pub oracle: f64,
    /// What was fitted on all questions in their first order, or the calibration that was given.
    pub calibration: Calibration,
    /// How each question of the first order was answered.
    #[serde(skip)]
    pub fused: Vec<Fused>,
}

/// Tries a plan.
pub fn trial(samples: &[Labelled], plan: &Plan) -> Report {
    let groups: Vec<&str> = samples.iter().map(|s| s.group.as_str()).collect();
    let folds = if plan.calibration.is_some() { 1 } else { plan.folds.max(2) };
    let fold = by_group(&groups, folds, plan.fit.seed);
    let mut outcomes: Vec<Outcome> = Vec::new();
    let mut methods = BTreeMap::new();
    let mut controlled: Vec<Controlled> = (plan.risks.iter())
        .map(|&risk| Controlled { risk, thresholds: Vec::new(), coverage: Some(0.0), wrong: Some(0.0) })
        .collect();
    let (mut fused, mut oracle, mut all) = (vec![None; samples.len()], 0, Vec::new());
    for order in 0..plan.orders.max(1) {
        let shown: Vec<Labelled> = samples.iter().enumerate().map(|(i, s)| in_order(s, i, order, plan)).collect();
        oracle += shown.iter().filter(|s| s.truth.is_some()).count();
        for f in 0..folds {
            let rest: Vec<&Labelled> = (0..shown.len()).filter(|&i| fold[i] != f).map(|i| &shown[i]).collect();
            let fitted = match &plan.calibration {
                Some(given) => given.clone(),
                None => calibrate(&rest, &plan.fit, Keys::default()),
            };
            *methods.entry(fitted.method).or_insert(0) += 1;
            let thresholds: Vec<Threshold> = plan.risks.iter().map(|&r| fitted.threshold(r)).collect();
            for i in (0..shown.len()).filter(|&i| fold[i] == f) {
                let answer = run(&shown[i].ballot, &fitted, plan);
                let outcome = shown[i].outcome(&answer);
                for (control, threshold) in controlled.iter_mut().zip(&thresholds) {
                    if threshold.answers(outcome.p) {
                        control.coverage = control.coverage.map(|c| c + 1.0);
                        control.wrong = control.wrong.map(|w| w + f64::from(u8::from(!outcome.right)));
                    }
                }
                outcomes.push(outcome);
                if order == 0 {
                    fused[i] = Some(answer);
                }
            }
            controlled.iter_mut().zip(thresholds).for_each(|(c, t)| c.thresholds.push(t));
        }
        if order == 0 {
            all = shown;
        }
    }
    for control in &mut controlled {
        let answered = control.coverage.unwrap_or(0.0);
        let claimed = !control.thresholds.iter().any(|t| matches!(t, Threshold::TooFew { .. }));
        control.wrong = control.wrong.filter(|_| claimed && answered > 0.0).map(|w| w / answered);
        control.coverage = claimed.then(|| answered / outcomes.len().max(1) as f64);
    }
    let mut score = Score::of(&outcomes, &plan.risks);
    score.questions = samples.len();
    Report {
        questions: samples.len(),
        paths: all.iter().map(|s| s.ballot.classes.len()).max().unwrap_or(0),
        methods,
        score,
        controlled,
        oracle: oracle as f64 / outcomes.len().max(1) as f64,
        calibration: plan.calibration.clone().unwrap_or_else(|| parameters(&all.iter().collect::<Vec<_>>(), &plan.fit)),
        fused: fused.into_iter().flatten().collect(),
    }
}

/// The question with its paths in an order, cut to the plan's number; the truth is what those paths have.
fn in_order(sample: &Labelled, index: usize, order: usize, plan: &Plan) -> Labelled {
    let n = sample.ballot.classes.len();
    let ballot = match plan.orders {
        0 | 1 => sample.ballot.clone(),
        _ => {
            let stream = (order as u64) << 32 | index as u64;
            sample.ballot.reordered(&Draw::new(plan.fit.seed, stream).order(n))
        }
    };
    let mut ballot = ballot.first(plan.paths.unwrap_or(n));
    if let Some((feature, share)) = &plan.keep {
        let missing = || vec![None; ballot.classes.len()];
        let confidence = ballot.features.get(feature).cloned().unwrap_or_else(missing);
        ballot = ballot.reordered(&most_confident(&confidence, *share));
    }
    let truth = sample.truth.filter(|t| ballot.classes.contains(&Some(*t)));
    Labelled { ballot, truth, group: sample.group.clone() }
}

/// Fuses the paths that the stop rule lets come.
fn run(ballot: &Ballot, fitted: &Calibration, plan: &Plan) -> Fused {
    let mut stop = Stop::new(plan.stop, fitted.correlated, ballot.options);
    for (i, &class) in ballot.classes.iter().enumerate() {
        if stop.observe(class, || fitted.fuse(&ballot.first(i + 1)).p()).is_some() {
            return fitted.fuse(&ballot.first(i + 1));
        }
    }
    fitted.fuse(ballot)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Questions of unequal difficulty whose wrong paths repeat one mistake.
    fn samples(n: usize) -> Vec<Labelled> {
        let mut draw = Draw::new(5, 5);
        (0..n)
            .map(|i| {
                let easy = draw.unit().sqrt();
                let classes: Vec<_> = (0..20)
                    .map(|_| match draw.unit() < easy {
                        true => Some(0),
                        false => Some(1 + usize::from(draw.unit() < 0.2)),
                    })
                    .collect();
                let truth = classes.contains(&Some(0)).then_some(0);
                Labelled { ballot: Ballot::of(&classes), truth, group: i.to_string() }
            })
            .collect()
    }

    fn plan() -> Plan {
        Plan {
            fit: FitOptions::default(),
            paths: Some(8),
            stop: Rule::Never,
            keep: None,
            folds: 4,
            orders: 1,
            risks: vec![0.1],
            calibration: None,
        }
    }

    #[test]
    fn the_posterior_is_calibrated_where_the_vote_is_not() {
        let samples = samples(400);
        let posterior = trial(&samples, &plan());
        let fit = FitOptions { method: Some(Method::Vote), ..FitOptions::default() };
        let vote = trial(&samples, &Plan { fit, ..plan() });
        assert_eq!(posterior.fused.len(), 400);
        assert!(posterior.score.ece < 0.06, "{:?}", posterior.score);
        assert!(posterior.score.nll < vote.score.nll, "{} {}", posterior.score.nll, vote.score.nll);
        assert!(posterior.oracle >= posterior.score.accuracy);
        assert_eq!(posterior, trial(&samples, &plan()), "the same figures every time");
    }

    #[test]
    fn early_stop_saves_paths_and_says_how_many() {
        let samples = samples(200);
        let fit = FitOptions { method: Some(Method::Vote), ..FitOptions::default() };
        let all = trial(&samples, &Plan { paths: None, fit: fit.clone(), ..plan() });
        let stop = Rule::Consistency { threshold: 0.95 };
        let early = trial(&samples, &Plan { paths: None, fit, stop, orders: 3, ..plan() });
        assert_eq!((all.score.mean_paths, all.paths), (20.0, 20));
        assert!(early.score.mean_paths < 12.0 && (early.score.accuracy - all.score.accuracy).abs() < 0.03);
    }

    #[test]
    fn too_few_questions_claim_no_threshold() {
        let report = trial(&samples(60), &plan());
        assert_eq!((report.controlled[0].coverage, report.controlled[0].wrong), (None, None));
        let given = Plan { calibration: Some(Calibration::uncalibrated(Method::Posterior)), ..plan() };
        assert_eq!(trial(&samples(60), &given).calibration.questions, 0);
    }
}
