//! What measurements on a path are worth: calibrated path confidence.
//!
//! Features (mean log-probability, P(True), length, …) are joined by logistic regression into one score,
//! and the score is made a probability of the path being right by isotonic regression (or left to the
//! regression itself, which for one feature is Platt's scaling). A class gains
//! λ · Σ_{i says a} [logit c_i − logit c̄], c̄ the share of right paths. λ in 0..=1 is fitted on
//! calibration questions, because features of paths of one question repeat each other; it is exactly 0
//! when it does not raise the likelihood of the truth by 1.92 (the 95 % point of χ²₁/2).

use super::isotonic::Isotonic;
use super::logistic::Logistic;
use super::special::logit;
use super::{Ballot, Groups};
use serde::{Deserialize, Serialize};

/// Which curve makes a score a probability.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Curve {
    /// Isotonic regression of the joint score.
    #[default]
    Isotonic,
    /// The logistic regression itself.
    Platt,
}

/// A fitted path confidence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Confidence {
    /// Names of the features, in order.
    pub features: Vec<String>,
    /// Joins them.
    pub joint: Logistic,
    /// Makes the score a probability; none for Platt.
    pub curve: Option<Isotonic>,
    /// Share of right paths.
    pub base: f64,
    /// λ: what of the evidence counts.
    pub weight: f64,
}

impl Confidence {
    /// Fits on ballots with the class that is right; λ is set to 1 for the caller to fit. None when there
    /// is no feature or all paths are alike.
    pub fn fit(questions: &[(&Ballot, Option<usize>)], features: &[String], curve: Curve) -> Option<Self> {
        if features.is_empty() {
            return None;
        }
        let mut rows = Vec::new();
        for (ballot, truth) in questions {
            for (i, class) in ballot.classes.iter().enumerate().filter(|(_, class)| class.is_some()) {
                rows.push((row(ballot, features, i), class == truth));
            }
        }
        let right = rows.iter().filter(|(_, right)| *right).count();
        if right == 0 || right == rows.len() {
            return None;
        }
        let joint = Logistic::fit(&rows);
        let scored: Vec<(f64, bool)> = rows.iter().map(|(row, right)| (joint.log_odds(row), *right)).collect();
        let curve = (curve == Curve::Isotonic).then(|| Isotonic::fit(&scored));
        let base = right as f64 / rows.len() as f64;
        Some(Self { features: features.to_vec(), joint, curve, base, weight: 1.0 })
    }

    /// Log-odds of each path being right, by its features alone.
    pub fn log_odds(&self, ballot: &Ballot) -> Vec<f64> {
        let one = |i: usize| {
            let score = self.joint.log_odds(&row(ballot, &self.features, i));
            self.curve.as_ref().and_then(|c| c.at(score)).map_or(score, logit)
        };
        (0..ballot.classes.len()).map(one).collect()
    }

    /// Evidence for each class before λ, in the order of `groups`.
    pub fn evidence(&self, ballot: &Ballot, groups: &Groups) -> Vec<f64> {
        let (each, base) = (self.log_odds(ballot), logit(self.base));
        groups.classes.iter().map(|(_, paths)| paths.iter().map(|&i| each[i] - base).sum()).collect()
    }
}

fn row(ballot: &Ballot, features: &[String], path: usize) -> Vec<Option<f64>> {
    features.iter().map(|f| ballot.features.get(f).and_then(|values| values.get(path).copied().flatten())).collect()
}
