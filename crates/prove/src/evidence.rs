//! What fusion makes of the first n paths: votes, the posterior, the posterior with the step checker,
//! and how true the probabilities are. Whatever is estimated is estimated on the other half of the
//! questions, by the code behind `loar fuse`.

use loar_reason::fuse::Method;
use loar_reason::fuse::calibrate::{FitOptions, Labelled};
use loar_reason::stop::Rule;
use loar_reason::trial::{Plan, Report, trial};
use serde::{Deserialize, Serialize};

/// Numbers of paths that are looked at.
const COUNTS: [usize; 5] = [1, 3, 5, 8, 16];

/// The paths of a question, and the tokens of each.
pub(crate) struct Case {
    /// Answers, verdicts and the true class.
    pub labelled: Labelled,
    /// Tokens of each path.
    pub tokens: Vec<usize>,
}

/// One way to fuse.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fusion {
    /// Share of questions answered rightly.
    pub accuracy: f64,
    /// Expected calibration error of its probability; for a vote, of the share of votes.
    pub ece: f64,
    /// Brier score of the same.
    pub brier: f64,
}

/// What n paths of a question come to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// Paths.
    pub paths: usize,
    /// Mean tokens of a question.
    pub tokens: f64,
    /// The most frequent answer.
    pub vote: Fusion,
    /// The answer of the highest posterior.
    pub posterior: Fusion,
    /// The same with the step checker's verdicts as likelihood ratios.
    pub checked: Fusion,
    /// Some path is right: no choice among them can do better.
    pub oracle: f64,
}

/// Measures with the first 1, 3, 5, … paths of each case.
pub(crate) fn measure(cases: &[Case]) -> Vec<Evidence> {
    let most = cases.iter().map(|c| c.tokens.len()).min().unwrap_or(0);
    let checked: Vec<Labelled> = cases.iter().map(|c| c.labelled.clone()).collect();
    let mut plain = checked.clone();
    for question in &mut plain {
        question.ballot.verdicts.clear();
    }
    let at = |n: usize| {
        let by = |questions: &[Labelled], method: Method| {
            let fit = FitOptions { method: Some(method), ..FitOptions::default() };
            let plan = Plan {
                fit,
                paths: Some(n),
                stop: Rule::Never,
                keep: None,
                folds: 2,
                orders: 1,
                risks: Vec::new(),
                calibration: None,
            };
            trial(questions, &plan)
        };
        let figures = |report: &Report| {
            let score = &report.score;
            Fusion { accuracy: score.accuracy, ece: score.ece, brier: score.brier }
        };
        let votes = by(&plain, Method::Vote);
        Evidence {
            paths: n,
            tokens: cases.iter().flat_map(|c| &c.tokens[..n]).sum::<usize>() as f64 / cases.len().max(1) as f64,
            vote: figures(&votes),
            posterior: figures(&by(&plain, Method::Posterior)),
            checked: figures(&by(&checked, Method::Posterior)),
            oracle: votes.oracle,
        }
    };
    COUNTS.into_iter().filter(|n| *n <= most).map(at).collect()
}
